//! What is wrong with bytes that should be a block.

/// The bytes are not a block; says what of it is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadWire(pub &'static str);

impl BadWire {
    /// It is not even a message.
    pub const FORMAT: Self = Self("bytes that are not of the format of protocol buffers");
}

impl std::fmt::Display for BadWire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it is not a block of the type `sf.ethereum.type.v2.Block`: it has {}", self.0)
    }
}

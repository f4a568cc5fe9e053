//! A call of a contract that changes nothing, and what comes of it.

use alloy_primitives::{Address, Bytes};

/// A call as `eth_call` makes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContractCall {
    /// Who seems to call; none: the zero address.
    pub from: Option<Address>,
    /// The contract.
    pub to: Address,
    /// The selector and the encoded arguments; none: no bytes.
    pub input: Option<Bytes>,
    /// The state that it is made on.
    pub block: CallBlock,
}

/// The state that a call is made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallBlock {
    /// That after the block of this number.
    Number(u64),
    /// That of a block that nodes have a name for.
    Tag(&'static str),
}

/// The names of blocks, as the execution API has them.
const TAGS: [&str; 5] = ["latest", "finalized", "safe", "earliest", "pending"];

impl CallBlock {
    /// A tag or a number, decimal or with `0x`; `None` where it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(tag) = TAGS.into_iter().find(|tag| *tag == text) {
            return Some(Self::Tag(tag));
        }
        let is_number = |digits: &str| digits.starts_with(|digit: char| digit.is_ascii_hexdigit());
        match text.strip_prefix("0x") {
            Some(digits) if is_number(digits) => u64::from_str_radix(digits, 16).ok(),
            None if is_number(text) => text.parse().ok(),
            _ => None,
        }
        .map(Self::Number)
    }
}

impl std::fmt::Display for CallBlock {
    /// As the execution API has it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number:#x}"),
            Self::Tag(tag) => f.write_str(tag),
        }
    }
}

/// What has come of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallOutcome {
    /// What the contract has returned.
    Returned(Bytes),
    /// The call did not come to its end.
    Failed {
        /// What the contract says by itself, where it says anything.
        data: Option<Bytes>,
        /// The node's words.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_number_or_a_tag() {
        let shown = |text| CallBlock::parse(text).map(|block| block.to_string());
        assert_eq!(shown("17").as_deref(), Some("0x11"));
        assert_eq!(shown("0x11").as_deref(), Some("0x11"));
        assert_eq!(shown("finalized").as_deref(), Some("finalized"));
        for neither in ["", "0x", "-1", "+1", "0x+1", "newest", "0x1ffffffffffffffff", "1.5"] {
            assert_eq!(shown(neither), None, "{neither}");
        }
    }
}

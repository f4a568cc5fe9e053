//! Block numbers, hashes and the two together.

use serde::{Deserialize, Serialize};

/// A block number; for the consensus layer, a slot.
pub type BlockNum = u64;

/// The 32-byte hash (for the consensus layer: root) that identifies a block.
pub type BlockHash = alloy_primitives::B256;

/// A block, named by its number and its hash: the number says where, the hash which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockId {
    /// The block's number.
    pub number: BlockNum,
    /// The block's hash.
    pub hash: BlockHash,
}

impl std::fmt::Display for BlockId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.number, self.hash)
    }
}

/// A block and the parent that it names: what two neighbours are linked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockLink {
    /// The block's number.
    pub number: BlockNum,
    /// The block's hash.
    pub hash: BlockHash,
    /// The hash of the block before it on the same chain.
    pub parent_hash: BlockHash,
}

/// Where a source's stream goes on behind a block. What it says means something to the source alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceCursor(String);

impl SourceCursor {
    /// The most bytes of a cursor. Those of Firehose and Substreams have some two hundred.
    const MAX_BYTES: usize = 4096;

    /// A cursor as a source gives it. `None` for text that is empty, or that not every database can keep:
    /// too long, or with control characters.
    pub fn new(text: String) -> Option<Self> {
        let is_kept =
            !text.is_empty() && text.len() <= Self::MAX_BYTES && !text.chars().any(char::is_control);
        is_kept.then_some(Self(text))
    }

    /// As the source has given it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SourceCursor {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text).ok_or("text that is no cursor")
    }
}

impl From<SourceCursor> for String {
    fn from(cursor: SourceCursor) -> Self {
        cursor.0
    }
}

impl BlockLink {
    /// The block without its parent.
    pub fn id(&self) -> BlockId {
        BlockId { number: self.number, hash: self.hash }
    }
}

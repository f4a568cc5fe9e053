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

impl BlockLink {
    /// The block without its parent.
    pub fn id(&self) -> BlockId {
        BlockId { number: self.number, hash: self.hash }
    }
}

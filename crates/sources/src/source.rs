//! The contract of a source, and what it gives.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use nozzle_core::{
    BlockHash, BlockId, BlockNum, BlockRange, SourceCursor, SourceRevisions, TableDef, block::BlockLink,
};

use crate::error::SourceError;

/// Where blocks come from. Object-safe; wrappers that retry or limit are sources themselves.
#[async_trait]
pub trait BlockSource: Send + Sync + std::fmt::Debug {
    /// Whom it asks, for messages: the provider's name. Of several, all names, so that they read well
    /// between two backticks.
    fn provider(&self) -> &str;

    /// The tables that [`BlockRows::tables`] are for, in the same order.
    fn tables(&self) -> &[TableDef];

    /// The chain that it says it is at; `None` where it does not say.
    async fn chain(&self) -> Result<Option<Chain>, SourceError> {
        Ok(None)
    }

    /// The newest block and the newest final block, read now.
    async fn head(&self) -> Result<Head, SourceError>;

    /// The block that the source has at `number` now; `None` where it has none, because it is above
    /// the head. A number that the chain skipped has the hash of the nearest block before it.
    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError>;

    /// Whether its head and final block are the chain's own, and not those of what is stored of it.
    fn is_of_chain(&self) -> bool {
        true
    }

    /// What its rows are computed from, read now; `None` where they come from a chain itself.
    async fn made_of(&self) -> Result<Option<MadeOf>, SourceError> {
        Ok(None)
    }

    /// Waits until the source says by itself that the head may have moved; one that cannot never
    /// returns. A hint: callers poll as well.
    async fn head_moved(&self) {
        std::future::pending().await
    }

    /// Whether its rows come with cursors, so that it is worth keeping them.
    fn has_cursors(&self) -> bool {
        false
    }

    /// The rows of `range` in block order, without gaps between the items, each block linked to
    /// the one before it. Numbers count as skipped only where a later block shows that they were. The
    /// caller has made sure that the head is not below the range. After an error the stream is over: call
    /// again from the block after the last one received.
    ///
    /// `behind` is the place right before the range, where the caller knows it: from there the source tells
    /// whether the block is still part of the chain. A help and no more: a source that cannot go on from it
    /// begins at the range's first number.
    fn blocks_behind(
        &self,
        range: BlockRange,
        behind: Option<Place>,
    ) -> BoxStream<'static, Result<BlockRows, SourceError>>;

    /// As [`Self::blocks_behind`], behind nothing that is known.
    fn blocks(&self, range: BlockRange) -> BoxStream<'static, Result<BlockRows, SourceError>> {
        self.blocks_behind(range, None)
    }
}

/// A place in the stream of a source: a block that it has given, and how to go on behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The block. Where numbers behind it were skipped, the last of those, with the block's hash.
    pub block: BlockId,
    /// What came with it.
    pub cursor: SourceCursor,
}

/// A shared source.
pub type SharedSource = Arc<dyn BlockSource>;

/// A chain, as a source tells which it is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chain {
    /// Its id, of EIP-155.
    Id(u64),
    /// Its names, as those who serve it call it.
    Named(Vec<String>),
}

/// What is stored already and rows are computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeOf {
    /// The storage revisions, down to those of raw datasets.
    pub revisions: SourceRevisions,
    /// Whether all that is read is of these. It is not while something between still has what it was computed
    /// from a revision that is not read any more.
    pub is_settled: bool,
}

/// How far a source has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The newest block.
    pub latest: BlockId,
    /// The newest block that the chain calls final; `None` where it does not say.
    pub finalized: Option<BlockId>,
}

/// The rows of one or more consecutive blocks.
#[derive(Debug, Clone)]
pub struct BlockRows {
    /// The numbers covered; those that the chain skipped are among them.
    pub range: BlockRange,
    /// The blocks, ascending; fewer than numbers where the chain skipped some. Where it skipped all of
    /// them, a stand-in without rows: the last number, with the hash of the nearest block before it as
    /// its hash and as its parent's, so that what comes before and after links to it.
    pub blocks: Vec<BlockLink>,
    /// The rows for each of the source's tables, in the source's order.
    pub tables: Vec<TableRows>,
    /// How many bytes the source sent for these blocks.
    pub source_bytes: u64,
    /// Where the source's stream goes on behind the last of them; `None` where it does not say.
    pub cursor: Option<SourceCursor>,
}

impl BlockRows {
    /// The place behind the rows.
    pub fn place(&self) -> Option<Place> {
        let block = BlockId { number: self.range.end(), hash: self.blocks.last()?.hash };
        Some(Place { block, cursor: self.cursor.clone()? })
    }
}

/// One table's rows of a [`BlockRows`].
#[derive(Debug, Clone)]
pub struct TableRows {
    /// The rows, with the table's schema.
    pub batch: RecordBatch,
    /// For each of the blocks, the number of rows up to its end: block `i` has the rows
    /// `ends[i - 1]..ends[i]`. Ascending; the last is the number of rows.
    pub ends: Vec<usize>,
}

/// What became of blocks that were to be decoded.
#[derive(Debug)]
pub struct Decoded {
    /// The rows of the blocks before the first bad one; absent where there is none.
    pub rows: Option<BlockRows>,
    /// What is wrong with the first bad block.
    pub error: Option<SourceError>,
}

/// Checks that a block follows another one.
pub(crate) fn check_link(previous: &BlockLink, block: &BlockLink) -> Result<(), SourceError> {
    check_parent(previous.hash, block)
}

/// Checks that a block follows the one with this hash.
pub(crate) fn check_parent(expected: BlockHash, block: &BlockLink) -> Result<(), SourceError> {
    let found = block.parent_hash;
    if expected == found {
        Ok(())
    } else {
        Err(SourceError::NotLinked { block: block.number, expected, found })
    }
}

//! What of a range is still to come, while one stream after another gives a part of it.

use nozzle_core::{BlockRange, block::BlockLink};

use crate::{
    error::SourceError,
    source::{BlockRows, check_link},
};

/// The rest of a range, and the block that it must follow.
#[derive(Debug)]
pub(crate) struct Remaining {
    range: Option<BlockRange>,
    previous: Option<BlockLink>,
}

impl Remaining {
    /// All of `range`, after any block.
    pub fn new(range: BlockRange) -> Self {
        Self { range: Some(range), previous: None }
    }

    /// What is still to come; `None` once all is over.
    pub fn range(&self) -> Option<BlockRange> {
        self.range
    }

    /// Nothing comes any more.
    pub fn end(&mut self) {
        self.range = None;
    }

    /// Takes note of rows; those of another chain than the rows before them end it.
    pub fn received(&mut self, rows: BlockRows) -> Result<BlockRows, SourceError> {
        if let (Some(previous), Some(first)) = (&self.previous, rows.blocks.first())
            && let Err(error) = check_link(previous, first)
        {
            self.end();
            return Err(error);
        }
        self.previous = rows.blocks.last().copied().or(self.previous);
        let end = self.range.map(|range| range.end());
        self.range = end.and_then(|end| BlockRange::new(rows.range.end().saturating_add(1), end));
        Ok(rows)
    }
}

//! What of a range is still to come, while one stream after another gives a part of it.

use nozzle_core::{BlockHash, BlockRange};

use crate::{
    error::SourceError,
    source::{BlockRows, Place, check_parent},
};

/// The rest of a range, the block that it must follow, and how to go on behind that.
#[derive(Debug)]
pub(crate) struct Remaining {
    range: Option<BlockRange>,
    previous: Option<BlockHash>,
    place: Option<Place>,
}

impl Remaining {
    /// All of `range`, behind a block that is known, or after any.
    pub fn new(range: BlockRange, behind: Option<Place>) -> Self {
        let previous = behind.as_ref().map(|place| place.block.hash);
        Self { range: Some(range), previous, place: behind }
    }

    /// The place behind which the rest comes, where it is known.
    pub fn place(&self) -> Option<Place> {
        self.place.clone()
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
        if let (Some(previous), Some(first)) = (self.previous, rows.blocks.first())
            && let Err(error) = check_parent(previous, first)
        {
            self.end();
            return Err(error);
        }
        self.previous = rows.blocks.last().map(|last| last.hash).or(self.previous);
        self.place = rows.place();
        let end = self.range.map(|range| range.end());
        self.range = end.and_then(|end| BlockRange::new(rows.range.end().saturating_add(1), end));
        Ok(rows)
    }
}

//! Numbers that a chain has skipped, such as slots that nobody has proposed a block for.
//!
//! That a provider has no block at a number says little: it may be late, or have lost it. So numbers
//! without a block are kept back until the next block shows by its parent that there was none, and are
//! given together with it: they lead the range of its rows.

use arrow::array::RecordBatch;
use nozzle_core::{BlockHash, BlockRange, TableDef, block::BlockLink};

use crate::source::{BlockRows, TableRows};

/// Rows that begin, but do not end, with skipped numbers.
#[derive(Debug)]
pub(crate) struct Taken {
    pub rows: BlockRows,
    /// The numbers before the first block.
    pub leading: Option<BlockRange>,
}

/// Puts the numbers kept back in front of the rows that follow them, and keeps back those behind the
/// rows' last block; `None` where there is no block among them.
pub(crate) fn take(
    before: Option<BlockRange>,
    mut rows: BlockRows,
    kept: &mut Option<BlockRange>,
) -> Option<Taken> {
    let start = before.map_or(rows.range.start(), |before| before.start());
    let end = rows.range.end();
    let (Some(first), Some(last)) = (rows.blocks.first(), rows.blocks.last()) else {
        *kept = BlockRange::new(start, end);
        return None;
    };
    *kept = last.number.checked_add(1).and_then(|behind| BlockRange::new(behind, end));
    let leading = first.number.checked_sub(1).and_then(|before| BlockRange::new(start, before));
    // A block lies within the range of its rows, so there is always one.
    rows.range = BlockRange::new(start, last.number).unwrap_or(rows.range);
    Some(Taken { rows, leading })
}

/// What is given for numbers all of which were skipped: no row, and the block before them in the place
/// of the last one, linked to itself.
pub(crate) fn stand_in(skipped: BlockRange, hash: BlockHash, tables: &[TableDef]) -> BlockRows {
    let table =
        |table: &TableDef| TableRows { batch: RecordBatch::new_empty(table.schema.clone()), ends: vec![0] };
    BlockRows {
        range: skipped,
        blocks: vec![BlockLink { number: skipped.end(), hash, parent_hash: hash }],
        tables: tables.iter().map(table).collect(),
        source_bytes: 0,
        cursor: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hash, range};

    fn rows(start: u64, end: u64, blocks: &[u64]) -> BlockRows {
        let link =
            |number: &u64| BlockLink { number: *number, hash: hash(0, *number), parent_hash: hash(0, 0) };
        let blocks = blocks.iter().map(link).collect();
        BlockRows { range: range(start, end), blocks, tables: vec![], source_bytes: 0, cursor: None }
    }

    #[test]
    fn skipped_numbers_are_given_with_the_block_behind_them() {
        // Kept back before; range and blocks; then: range given, the numbers before its first block, and
        // kept back.
        let cases = [
            (None, (5, 9, &[5, 6, 9][..]), Some((range(5, 9), None)), None),
            (None, (5, 9, &[7]), Some((range(5, 7), Some(range(5, 6)))), Some(range(8, 9))),
            (Some(range(2, 4)), (5, 9, &[5, 9]), Some((range(2, 9), Some(range(2, 4)))), None),
            (Some(range(2, 4)), (5, 9, &[9]), Some((range(2, 9), Some(range(2, 8)))), None),
            (Some(range(2, 4)), (5, 9, &[]), None, Some(range(2, 9))),
            (None, (0, 0, &[0]), Some((range(0, 0), None)), None),
            (None, (0, 1, &[]), None, Some(range(0, 1))),
        ];
        for (before, (start, end, blocks), given, expected) in cases {
            let mut kept = None;
            let taken = take(before, rows(start, end, blocks), &mut kept);
            let taken = taken.map(|taken| (taken.rows.range, taken.leading));
            assert_eq!((taken, kept), (given, expected), "{before:?}, {blocks:?} of {start} to {end}");
        }
    }
}

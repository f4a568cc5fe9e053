//! Checks of stored rows, from the files alone and later than they were written.

use std::{fmt::Debug, ops::Range};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::UInt64Type,
};
use nozzle_core::{BlockHash, BlockNum, BlockRange, TableDef, manifest::Verify};

/// Something wrong with a stored block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadBlock {
    /// The block.
    pub block: BlockNum,
    /// The table that is wrong, as its place among the tables; `None` where no single one is to blame.
    pub table: Option<usize>,
    /// What is wrong with it.
    pub why: String,
}

/// What was found of some consecutive blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// The bad blocks, ascending.
    pub bad: Vec<BadBlock>,
    /// The parent hash of the first block, where the first block was good.
    pub first_parent: Option<BlockHash>,
    /// The hash of the last block, where the last block was good.
    pub last_hash: Option<BlockHash>,
    /// Whether the chain has skipped all of these numbers: what follows links to what is before them.
    pub is_skipped: bool,
}

/// What checks the stored rows of a kind of dataset, at one level.
pub trait StoredCheck: Debug + Send + Sync {
    /// The tables, in the order in which [`Self::check`] takes their rows.
    fn tables(&self) -> &[TableDef];

    /// The level that is reached; `None` where no level sees more than another.
    fn level(&self) -> Option<Verify>;

    /// Checks the blocks of `range`. `rows` has for each table its rows of these blocks, with the
    /// table's schema.
    fn check(&self, range: BlockRange, rows: &[RecordBatch]) -> Checked;
}

/// The check of rows whose blocks cannot be put together again: they lie in their blocks, in order.
#[derive(Debug)]
pub struct OrderCheck(Vec<TableDef>);

impl OrderCheck {
    /// A check of these tables.
    pub fn new(tables: Vec<TableDef>) -> Self {
        Self(tables)
    }
}

impl StoredCheck for OrderCheck {
    fn tables(&self) -> &[TableDef] {
        &self.0
    }

    fn level(&self) -> Option<Verify> {
        None
    }

    fn check(&self, range: BlockRange, rows: &[RecordBatch]) -> Checked {
        Checked::of_order(range, rows)
    }
}

impl Checked {
    /// The tables whose rows do not lie in the blocks of `range`, in order.
    pub(crate) fn of_order(range: BlockRange, rows: &[RecordBatch]) -> Self {
        let bad = rows.iter().enumerate().filter_map(|(table, batch)| {
            let why = misplaced(range, batch)?;
            Some(BadBlock { block: range.start(), table: Some(table), why })
        });
        Self { bad: bad.collect(), ..Self::default() }
    }
}

/// The block of each row.
pub(crate) fn block_numbers(batch: &RecordBatch) -> &[u64] {
    batch.column(0).as_primitive::<UInt64Type>().values()
}

/// What is wrong with the order of rows that should be those of `range`.
fn misplaced(range: BlockRange, batch: &RecordBatch) -> Option<String> {
    let numbers = block_numbers(batch);
    if !numbers.is_sorted() {
        return Some("the rows are not in the order of their blocks".into());
    }
    let ends = [numbers.first()?, numbers.last()?];
    ends.into_iter().find(|end| !range.contains(**end)).map(|end| format!("it has rows of the block {end}"))
}

/// The rows of a block.
pub(crate) fn rows_of(batch: &RecordBatch, number: BlockNum) -> Range<usize> {
    let numbers = block_numbers(batch);
    let start = numbers.partition_point(|found| *found < number);
    start..start + numbers[start..].partition_point(|found| *found == number)
}

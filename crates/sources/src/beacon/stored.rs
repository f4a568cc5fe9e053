//! Stored rows of a beacon chain, checked again from the files alone.
//!
//! ```text
//!  links    each block names the one before it as its parent; items are of their slot's block
//!  header   the columns of `blocks` that make up the header hash to the root
//! ```
//!
//! What a body root is made of is not all stored, such as transactions, so more cannot be seen.

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{TimestampMicrosecondType, UInt64Type},
};
use nozzle_core::{BlockHash, BlockRange, TableDef, manifest::Verify};

use super::{
    json::Header,
    rows,
    values::{Fixed, Num, Root},
    verify::root_of,
};
use crate::{
    evm::needs::TooFewColumns,
    stored::{BadBlock, Checked, StoredCheck, block_numbers, rows_of},
};

/// The columns of `blocks` that tell which block follows which.
const LINKS: [&str; 2] = ["root", "parent_root"];
/// Those that the header is made of beside them and the slot.
const HEADER: [&str; 3] = ["proposer_index", "state_root", "body_root"];

/// Checks stored rows at one level.
#[derive(Debug)]
pub struct RowCheck {
    tables: Vec<TableDef>,
    level: Verify,
    /// The place of `blocks` among the tables.
    blocks: usize,
}

/// Why stored rows cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum Unchecked {
    /// The level is none that a beacon chain has.
    #[error("{0}")]
    Level(String),
    /// Columns are missing.
    #[error(transparent)]
    Columns(#[from] TooFewColumns),
}

impl RowCheck {
    /// A check of these tables; refused where they have fewer columns than the level needs.
    pub fn new(tables: Vec<TableDef>, level: Verify) -> Result<Self, Unchecked> {
        rows::check_level(level).map_err(Unchecked::Level)?;
        // No level sees more than this one.
        let level = level.min(Verify::Header);
        let lacking = missing(&tables, level);
        let blocks = tables.iter().position(|table| table.name.as_str() == "blocks");
        let (Some(blocks), true) = (blocks, lacking.is_empty()) else {
            let highest = missing(&tables, Verify::Links).is_empty().then_some(Verify::Links);
            return Err(TooFewColumns { level, missing: lacking.join(", "), highest }.into());
        };
        Ok(Self { tables, level, blocks })
    }

    /// Checks the rows of `blocks`: each is the next one of the chain.
    fn check_blocks(&self, blocks: &Blocks<'_>, checked: &mut Checked) {
        for row in 0..blocks.slots.len() {
            let why = self.wrong_block(blocks, row);
            let table = Some(self.blocks);
            checked.bad.extend(why.map(|why| BadBlock { block: blocks.slots[row], table, why }));
        }
    }

    fn wrong_block(&self, blocks: &Blocks<'_>, row: usize) -> Option<String> {
        let (slot, root) = (blocks.slots[row], blocks.root(row));
        let before = row.checked_sub(1);
        if before.is_some_and(|before| blocks.slots[before] == slot) {
            return Some("it is there twice".into());
        }
        let parent = blocks.parent_root(row);
        if let Some(expected) = before.map(|before| blocks.root(before)).filter(|root| *root != parent) {
            return Some(format!("its parent is {parent}, but the block before it is {expected}"));
        }
        if self.level >= Verify::Header {
            let Some(header) = blocks.header(row) else { return Some("it has no `body_root`".into()) };
            let computed = BlockHash::from(root_of(&header));
            if computed != root {
                return Some(format!("its columns hash to {computed}, not to its root {root}"));
            }
        }
        if !blocks.is_in_time(row) {
            return Some("`timestamp` is not that of its slot".into());
        }
        of_slot(blocks.batch, row, slot)
    }

    /// Checks the rows of another table: they are items of their slot's block.
    fn check_items(&self, table: usize, items: &RecordBatch, blocks: &Blocks<'_>, checked: &mut Checked) {
        let slots = block_numbers(items);
        let roots = items.column_by_name("block_root").map(|column| column.as_fixed_size_binary());
        for (row, slot) in slots.iter().enumerate() {
            let why = match rows_of(blocks.batch, *slot).next() {
                None => Some("its slot has no block".into()),
                Some(block)
                    if roots.is_some_and(|roots| roots.value(row) != blocks.root(block).as_slice()) =>
                {
                    Some("`block_root` is not the root of its slot's block".into())
                }
                Some(block) => {
                    let ours = timestamps(items).map(|ours| ours[row]);
                    let theirs = blocks.timestamps.map(|theirs| theirs[block]);
                    let is_other = ours.zip(theirs).is_some_and(|(ours, theirs)| ours != theirs);
                    let other = || "`timestamp` is not that of its slot's block".to_owned();
                    is_other.then(other).or_else(|| of_slot(items, row, *slot))
                }
            };
            if let Some(why) = why {
                // Of each slot one is enough.
                let is_news =
                    checked.bad.last().is_none_or(|last| (last.block, last.table) != (*slot, Some(table)));
                if is_news {
                    checked.bad.push(BadBlock { block: *slot, table: Some(table), why });
                }
            }
        }
    }
}

impl StoredCheck for RowCheck {
    fn tables(&self) -> &[TableDef] {
        &self.tables
    }

    fn level(&self) -> Option<Verify> {
        Some(self.level)
    }

    fn check(&self, range: BlockRange, rows: &[RecordBatch]) -> Checked {
        let mut checked = Checked::of_order(range, rows);
        let Some(blocks) = Blocks::of(&rows[self.blocks]).filter(|_| checked.bad.is_empty()) else {
            return checked;
        };
        self.check_blocks(&blocks, &mut checked);
        let is_good =
            |slot: Option<&u64>| slot.is_some_and(|slot| checked.bad.iter().all(|bad| bad.block != *slot));
        let last = blocks.slots.len().saturating_sub(1);
        let first_parent = is_good(blocks.slots.first()).then(|| blocks.parent_root(0));
        let last_hash = is_good(blocks.slots.last()).then(|| blocks.root(last));
        (checked.first_parent, checked.last_hash) = (first_parent, last_hash);
        checked.is_skipped = blocks.slots.is_empty();
        for (table, items) in rows.iter().enumerate().filter(|(table, _)| *table != self.blocks) {
            self.check_items(table, items, &blocks, &mut checked);
        }
        checked.bad.sort_by_key(|bad| bad.block);
        checked
    }
}

/// The columns that a level needs and that are not stored, as `table.column`.
fn missing(tables: &[TableDef], level: Verify) -> Vec<String> {
    let of_header = HEADER.iter().filter(|_| level >= Verify::Header);
    let blocks = tables.iter().find(|table| table.name.as_str() == "blocks");
    let lacks = |column: &&&str| blocks.is_none_or(|table| table.schema.index_of(column).is_err());
    LINKS.iter().chain(of_header).filter(lacks).map(|column| format!("blocks.{column}")).collect()
}

/// What is wrong with a row's `block_num`, where that is stored.
fn of_slot(batch: &RecordBatch, row: usize, slot: u64) -> Option<String> {
    let number = batch.column_by_name("block_num")?.as_primitive::<UInt64Type>().value(row);
    (number != slot).then(|| format!("`block_num` is {number}"))
}

fn timestamps(batch: &RecordBatch) -> Option<&[i64]> {
    let column = batch.column_by_name("timestamp")?;
    Some(column.as_primitive::<TimestampMicrosecondType>().values())
}

/// The rows of `blocks`.
struct Blocks<'a> {
    batch: &'a RecordBatch,
    slots: &'a [u64],
    roots: &'a arrow::array::FixedSizeBinaryArray,
    parent_roots: &'a arrow::array::FixedSizeBinaryArray,
    timestamps: Option<&'a [i64]>,
}

impl<'a> Blocks<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Self> {
        let roots = |name| batch.column_by_name(name).map(|column| column.as_fixed_size_binary());
        let (slots, timestamps) = (block_numbers(batch), timestamps(batch));
        Some(Self { batch, slots, roots: roots("root")?, parent_roots: roots("parent_root")?, timestamps })
    }

    fn root(&self, row: usize) -> BlockHash {
        bytes(self.roots.value(row)).into()
    }

    fn parent_root(&self, row: usize) -> BlockHash {
        bytes(self.parent_roots.value(row)).into()
    }

    /// `None` where a part of it is null, or not stored.
    fn header(&self, row: usize) -> Option<Header> {
        let root = |name: &str| -> Option<Root> {
            let column = self.batch.column_by_name(name)?.as_fixed_size_binary();
            column.is_valid(row).then(|| Fixed(bytes(column.value(row))))
        };
        let proposers = self.batch.column_by_name("proposer_index")?.as_primitive::<UInt64Type>();
        Some(Header {
            slot: Num(self.slots[row]),
            proposer_index: Num(proposers.value(row)),
            parent_root: Fixed(bytes(self.parent_roots.value(row))),
            state_root: root("state_root")?,
            body_root: root("body_root")?,
        })
    }

    /// Whether time goes by as slots do: a row's time lies on the line through the first and the last one.
    fn is_in_time(&self, row: usize) -> bool {
        let Some(times) = self.timestamps else { return true };
        let last = times.len() - 1;
        let (micros, slots) = (
            |at: usize| i128::from(times[at]) - i128::from(times[0]),
            |at: usize| i128::from(self.slots[at]) - i128::from(self.slots[0]),
        );
        micros(row) * slots(last) == micros(last) * slots(row)
    }
}

/// The bytes of a value whose column has 32 of them in each.
fn bytes(value: &[u8]) -> [u8; 32] {
    value.try_into().unwrap_or_default()
}

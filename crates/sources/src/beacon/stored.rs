//! Stored rows of a beacon chain, checked again from the files alone.
//!
//! ```text
//!  links    each block names the one before it as its parent; items are of their slot's block
//!  header   the columns of `blocks` that make up the header hash to the root
//! ```
//!
//! What a body root is made of is not all stored, such as transactions, so more cannot be seen.

use std::collections::BTreeMap;

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

/// A slot of nearly every chain: 12 seconds.
const SLOT_MICROS: i128 = 12_000_000;

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
    clock: Option<Clock>,
}

impl<'a> Blocks<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Self> {
        let roots = |name| batch.column_by_name(name).map(|column| column.as_fixed_size_binary());
        let (slots, timestamps) = (block_numbers(batch), timestamps(batch));
        let (roots, parent_roots) = (roots("root")?, roots("parent_root")?);
        let clock = timestamps.and_then(|times| Clock::of(slots, times));
        Some(Self { batch, slots, roots, parent_roots, timestamps, clock })
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

    /// Whether a row's time is that of its slot, where that can be told.
    fn is_in_time(&self, row: usize) -> bool {
        let Some((times, clock)) = self.timestamps.zip(self.clock) else { return true };
        clock.micros_at(self.slots[row]) == i128::from(times[row])
    }
}

/// How the time of a chain goes by, which the rows alone have to tell: there is no node to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Clock {
    genesis_micros: i128,
    slot_micros: i128,
}

impl Clock {
    /// The one that most neighbours agree on, whichever of them is wrong; `None` for fewer than two rows.
    fn of(slots: &[u64], times: &[i64]) -> Option<Self> {
        let rows = || slots.iter().copied().zip(times.iter().copied());
        let neighbours = rows().zip(rows().skip(1)).chain(rows().zip(rows().skip(2)));
        let mut votes: BTreeMap<Self, usize> = BTreeMap::new();
        for clock in neighbours.filter_map(|(one, other)| Self::through(one, other)) {
            *votes.entry(clock).or_default() += 1;
        }
        let most = votes.into_iter().max_by_key(|(clock, votes)| (*votes, clock.slot_micros == SLOT_MICROS));
        // Where no two fit together, the time of most chains.
        let any = || {
            let (slot, time) = rows().next().filter(|_| slots.len() > 1)?;
            let genesis_micros = i128::from(time) - SLOT_MICROS * i128::from(slot);
            Some(Self { genesis_micros, slot_micros: SLOT_MICROS })
        };
        most.map(|(clock, _)| clock).or_else(any)
    }

    /// That of two rows; `None` where no chain has it. The genesis is at a second, and a slot takes
    /// milliseconds.
    fn through(one: (u64, i64), other: (u64, i64)) -> Option<Self> {
        let slots = i128::from(other.0) - i128::from(one.0);
        let micros = i128::from(other.1) - i128::from(one.1);
        if slots <= 0 || micros <= 0 || micros % (slots * 1000) != 0 {
            return None;
        }
        let slot_micros = micros / slots;
        let genesis_micros = i128::from(one.1) - slot_micros * i128::from(one.0);
        (genesis_micros % 1_000_000 == 0).then_some(Self { genesis_micros, slot_micros })
    }

    fn micros_at(&self, slot: u64) -> i128 {
        self.genesis_micros + self.slot_micros * i128::from(slot)
    }
}

/// The bytes of a value whose column has 32 of them in each.
fn bytes(value: &[u8]) -> [u8; 32] {
    value.try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_that_is_wrong_is_told_from_its_neighbours() {
        let time = |slot: u64| 1_606_824_023_000_000 + 12_000_000 * slot as i64;
        for (slots, wrong, by) in [
            (&[10, 11, 13, 14, 20][..], 0, 1),
            (&[10, 11, 13, 14, 20], 0, 12_000_000),
            (&[10, 11, 13, 14, 20], 2, -1_000_000),
            (&[10, 11, 13, 14, 20], 4, 5_000_000),
            (&[10, 11, 12], 1, 12_000_000),
            (&[10, 11, 12], 1, 3_000_000),
            (&[10, 12], 1, 1),
        ] {
            let mut times: Vec<i64> = slots.iter().map(|slot| time(*slot)).collect();
            let clock = Clock { genesis_micros: i128::from(time(0)), slot_micros: SLOT_MICROS };
            assert_eq!(Clock::of(slots, &times), Some(clock));
            times[wrong] += by;
            let found = Clock::of(slots, &times).expect("a clock");
            let bad: Vec<usize> = (0..slots.len())
                .filter(|row| found.micros_at(slots[*row]) != i128::from(times[*row]))
                .collect();
            assert_eq!(bad, [wrong], "{slots:?}, row {wrong} by {by}");
        }
        let fast: Vec<i64> = [4, 5, 7].iter().map(|slot| 1_000_000 + 500_000 * slot).collect();
        let expected = Clock { genesis_micros: 1_000_000, slot_micros: 500_000 };
        assert_eq!(Clock::of(&[4, 5, 7], &fast), Some(expected));
        assert_eq!((Clock::of(&[4], &[1]), Clock::of(&[], &[])), (None, None));
        assert!(Clock::of(&[u64::MAX, 0, u64::MAX], &[i64::MAX, i64::MIN, i64::MIN]).is_some());
    }
}

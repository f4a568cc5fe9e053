//! The tables of a beacon chain: one row a block, or an item of one.
//!
//! Columns have the names of the consensus specification; what lies within another value has that
//! value's name in front where its own would not do. Each table's columns are listed where they are
//! filled, in the files beside this one.

mod attestations;
mod blocks;
mod execution;
mod operations;
mod slashings;

use arrow::error::ArrowError;
use nozzle_core::TableDef;

use super::json::SignedBlock;
use crate::{
    evm::{
        columns::{self as column, Builder, Column, Selection, Table},
        hex::Bad,
    },
    source::TableRows,
};

/// What every row of a block knows of it.
#[derive(Debug)]
pub(crate) struct BlockRow<'a> {
    pub slot: u64,
    pub root: [u8; 32],
    pub body_root: [u8; 32],
    /// When the slot begins, in microseconds; `None` where that is out of range.
    pub timestamp_micros: Option<i64>,
    /// The name of the fork.
    pub version: &'a str,
    pub signed: &'a SignedBlock,
}

/// An item of a block's body, and the block.
#[derive(Debug)]
pub(crate) struct Item<'a, T> {
    pub block: &'a BlockRow<'a>,
    pub item: &'a T,
}

/// A row that knows its block.
pub(crate) trait InBlock {
    /// The block.
    fn block(&self) -> &BlockRow<'_>;
}

impl InBlock for &BlockRow<'_> {
    fn block(&self) -> &BlockRow<'_> {
        self
    }
}

impl<T> InBlock for Item<'_, T> {
    fn block(&self) -> &BlockRow<'_> {
        self.block
    }
}

/// A table of this chain.
pub(crate) trait BeaconTable: Table {
    /// Its rows of a block.
    fn rows<'a>(block: &'a BlockRow<'a>) -> Vec<Self::Row<'a>>;
}

/// The rows of the items of a list, which may be absent.
fn items<'a, T>(block: &'a BlockRow<'a>, list: Option<&'a Vec<T>>) -> Vec<Item<'a, T>> {
    list.into_iter().flatten().map(|item| Item { block, item }).collect()
}

fn block_num<T: Table>() -> Column<T>
where
    for<'a> T::Row<'a>: InBlock,
{
    column::u64("block_num", |row: &T::Row<'_>| Ok(row.block().slot))
}

fn timestamp<T: Table>() -> Column<T>
where
    for<'a> T::Row<'a>: InBlock,
{
    column::timestamp("timestamp", |row: &T::Row<'_>| row.block().timestamp_micros.ok_or(Bad::TooLarge))
}

/// The columns that all tables but `blocks` begin with.
fn of_block<T: Table>(columns: Vec<Column<T>>) -> Vec<Column<T>>
where
    for<'a> T::Row<'a>: InBlock,
{
    let root = column::fixed("block_root", |row: &T::Row<'_>| Ok(row.block().root));
    [root, block_num(), timestamp()].into_iter().chain(columns).collect()
}

/// What is known of a table before any of it is stored.
struct Known {
    definition: fn() -> TableDef,
    store: fn(&TableDef) -> Result<Box<dyn Stored>, String>,
}

fn known<T: BeaconTable>() -> Known {
    Known {
        definition: || {
            let name = T::NAME.parse().expect("the names of these tables are valid");
            TableDef::new(name, T::columns().into_iter().map(|column| column.field).collect())
        },
        store: |table| Ok(Box::new(Selection::<T>::new(table)?)),
    }
}

/// Every table, in the order of the documentation.
fn all() -> Vec<Known> {
    vec![
        known::<blocks::Blocks>(),
        known::<attestations::Attestations>(),
        known::<operations::Deposits>(),
        known::<execution::Withdrawals>(),
        known::<operations::VoluntaryExits>(),
        known::<slashings::ProposerSlashings>(),
        known::<slashings::AttesterSlashings>(),
        known::<operations::BlsToExecutionChanges>(),
        known::<execution::ExecutionRequests>(),
    ]
}

/// Every table with every column.
pub fn tables() -> Vec<TableDef> {
    all().iter().map(|known| (known.definition)()).collect()
}

/// A table that is stored, with the columns that are.
pub(crate) trait Stored: Send + Sync {
    /// No rows yet, with room for those of about so many blocks of one row each.
    fn start(&self, blocks: usize) -> Box<dyn Filling>;
}

/// The rows of a table while they are collected.
pub(crate) trait Filling: Send {
    /// Appends the rows of the next block. After an error it is of no more use.
    fn push(&mut self, block: &BlockRow<'_>) -> Result<(), String>;
    /// The rows of all blocks.
    fn finish(self: Box<Self>) -> Result<TableRows, ArrowError>;
}

impl<T: BeaconTable> Stored for Selection<T> {
    fn start(&self, blocks: usize) -> Box<dyn Filling> {
        Box::new(Selection::start(self, blocks))
    }
}

impl<T: BeaconTable> Filling for Builder<T> {
    fn push(&mut self, block: &BlockRow<'_>) -> Result<(), String> {
        self.push_block(&T::rows(block))
    }

    fn finish(self: Box<Self>) -> Result<TableRows, ArrowError> {
        Builder::finish(*self)
    }
}

/// What stores a table, with all or fewer of its columns; the error names what there is not.
pub(crate) fn store(table: &TableDef) -> Result<Box<dyn Stored>, String> {
    let named = all().into_iter().find(|known| (known.definition)().name == table.name);
    let known = named.ok_or_else(|| format!("it has no table `{}`", table.name))?;
    (known.store)(table)
}

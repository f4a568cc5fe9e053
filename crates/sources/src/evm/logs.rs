//! The table `logs`: one row a log, from the receipts.

use super::{
    blocks::BlockRow,
    columns::{self as column, Column, Table},
    hex::{self, required},
    json::Log,
};

/// A log and where it belongs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogRow<'a> {
    /// The block.
    pub block: &'a BlockRow<'a>,
    /// The place of the transaction in the block.
    pub tx_index: u32,
    /// The transaction's hash.
    pub tx_hash: Option<&'a str>,
    /// The node's answer.
    pub log: &'a Log<'a>,
}

/// The table `logs`.
pub(crate) struct Logs;

impl Table for Logs {
    const NAME: &'static str = "logs";
    type Row<'a> = LogRow<'a>;

    fn block_num(row: &LogRow<'_>) -> u64 {
        row.block.number
    }

    fn columns() -> Vec<Column<Self>> {
        vec![
            column::fixed("block_hash", |row: &LogRow<'_>| Ok(row.block.hash)),
            column::u64("block_num", |row: &LogRow<'_>| Ok(row.block.number)),
            column::timestamp("timestamp", |row: &LogRow<'_>| row.block.timestamp),
            column::fixed("tx_hash", |row: &LogRow<'_>| hex::fixed::<32>(required(row.tx_hash)?)),
            column::u32("tx_index", |row: &LogRow<'_>| Ok(row.tx_index)),
            column::u32("log_index", |row: &LogRow<'_>| hex::quantity_u32(required(row.log.log_index)?)),
            column::fixed("address", |row: &LogRow<'_>| hex::fixed::<20>(required(row.log.address)?)),
            column::fixed_or_null("topic0", |row: &LogRow<'_>| topic(row, 0)),
            column::fixed_or_null("topic1", |row: &LogRow<'_>| topic(row, 1)),
            column::fixed_or_null("topic2", |row: &LogRow<'_>| topic(row, 2)),
            column::fixed_or_null("topic3", |row: &LogRow<'_>| topic(row, 3)),
            column::data("data", |row: &LogRow<'_>| required(row.log.data)),
        ]
    }
}

fn topic(row: &LogRow<'_>, index: usize) -> Result<Option<[u8; 32]>, hex::Bad> {
    hex::fixed_or_null(row.log.topics.0[index])
}

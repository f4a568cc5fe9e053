//! The table `blocks`: one row a block.

use super::{
    columns::{self as column, Column, Table},
    hex::{self, Bad, required},
    json::Block,
};

/// What every row of a block knows of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockRow<'a> {
    /// The block's number.
    pub number: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// Its time in microseconds.
    pub timestamp: Result<i64, Bad>,
    /// The node's answer.
    pub block: &'a Block<'a>,
}

/// The time of a block in microseconds.
pub(crate) fn timestamp_micros(block: &Block<'_>) -> Result<i64, Bad> {
    let seconds = hex::quantity_u64(required(block.timestamp)?)?;
    let seconds = i64::try_from(seconds).map_err(|_| Bad::TooLarge)?;
    seconds.checked_mul(1_000_000).ok_or(Bad::TooLarge)
}

/// The table `blocks`.
pub(crate) struct Blocks;

impl Table for Blocks {
    const NAME: &'static str = "blocks";
    type Row<'a> = BlockRow<'a>;

    fn block_num(row: &BlockRow<'_>) -> u64 {
        row.number
    }

    fn columns() -> Vec<Column<Self>> {
        vec![
            column::u64("block_num", |row: &BlockRow<'_>| Ok(row.number)),
            column::timestamp("timestamp", |row: &BlockRow<'_>| row.timestamp),
            column::fixed("hash", |row: &BlockRow<'_>| Ok(row.hash)),
            hash("parent_hash", |block| block.parent_hash),
            hash("ommers_hash", |block| block.ommers_hash),
            column::fixed("miner", |row: &BlockRow<'_>| hex::fixed::<20>(required(row.block.miner)?)),
            hash("state_root", |block| block.state_root),
            hash("transactions_root", |block| block.transactions_root),
            hash("receipt_root", |block| block.receipts_root),
            column::data_or_null("logs_bloom", |row: &BlockRow<'_>| Ok(row.block.logs_bloom)),
            column::decimal("difficulty", |row: &BlockRow<'_>| hex::decimal(required(row.block.difficulty)?)),
            decimal_or_null("total_difficulty", |block| block.total_difficulty),
            number("gas_limit", |block| block.gas_limit),
            number("gas_used", |block| block.gas_used),
            column::data("extra_data", |row: &BlockRow<'_>| required(row.block.extra_data)),
            hash_or_null("mix_hash", |block| block.mix_hash),
            number_or_null("nonce", |block| block.nonce),
            decimal_or_null("base_fee_per_gas", |block| block.base_fee_per_gas),
            hash_or_null("withdrawals_root", |block| block.withdrawals_root),
            number_or_null("blob_gas_used", |block| block.blob_gas_used),
            number_or_null("excess_blob_gas", |block| block.excess_blob_gas),
            hash_or_null("parent_beacon_root", |block| block.parent_beacon_block_root),
            hash_or_null("requests_hash", |block| block.requests_hash),
        ]
    }
}

/// Which field of the block a column holds.
type FieldOf = for<'r, 'a> fn(&'r Block<'a>) -> Option<&'r str>;

fn hash(name: &str, field: FieldOf) -> Column<Blocks> {
    column::fixed(name, move |row: &BlockRow<'_>| hex::fixed::<32>(required(field(row.block))?))
}

fn hash_or_null(name: &str, field: FieldOf) -> Column<Blocks> {
    column::fixed_or_null(name, move |row: &BlockRow<'_>| hex::fixed_or_null::<32>(field(row.block)))
}

fn number(name: &str, field: FieldOf) -> Column<Blocks> {
    column::u64(name, move |row: &BlockRow<'_>| hex::quantity_u64(required(field(row.block))?))
}

fn number_or_null(name: &str, field: FieldOf) -> Column<Blocks> {
    column::u64_or_null(name, move |row: &BlockRow<'_>| field(row.block).map(hex::quantity_u64).transpose())
}

fn decimal_or_null(name: &str, field: FieldOf) -> Column<Blocks> {
    column::decimal_or_null(name, move |row: &BlockRow<'_>| hex::decimal_or_null(field(row.block)))
}

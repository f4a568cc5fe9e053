//! The table `withdrawals`: one row a withdrawal, since Shanghai.

use super::{
    blocks::BlockRow,
    columns::{self as column, Column, Table},
    hex::{self, required},
    json::Withdrawal,
};

/// A withdrawal and its block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WithdrawalRow<'a> {
    /// The block.
    pub block: &'a BlockRow<'a>,
    /// The node's answer.
    pub withdrawal: &'a Withdrawal<'a>,
}

/// The table `withdrawals`.
pub(crate) struct Withdrawals;

impl Table for Withdrawals {
    const NAME: &'static str = "withdrawals";
    type Row<'a> = WithdrawalRow<'a>;

    fn block_num(row: &WithdrawalRow<'_>) -> u64 {
        row.block.number
    }

    fn columns() -> Vec<Column<Self>> {
        vec![
            column::fixed("block_hash", |row: &WithdrawalRow<'_>| Ok(row.block.hash)),
            column::u64("block_num", |row: &WithdrawalRow<'_>| Ok(row.block.number)),
            column::timestamp("timestamp", |row: &WithdrawalRow<'_>| row.block.timestamp),
            number("index", |withdrawal| withdrawal.index),
            number("validator_index", |withdrawal| withdrawal.validator_index),
            column::fixed("address", |row: &WithdrawalRow<'_>| {
                hex::fixed::<20>(required(row.withdrawal.address)?)
            }),
            number("amount_gwei", |withdrawal| withdrawal.amount),
        ]
    }
}

fn number(name: &str, field: for<'r, 'a> fn(&'r Withdrawal<'a>) -> Option<&'r str>) -> Column<Withdrawals> {
    column::u64(name, move |row: &WithdrawalRow<'_>| hex::quantity_u64(required(field(row.withdrawal))?))
}

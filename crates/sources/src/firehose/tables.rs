//! The tables of an EVM chain as Firehose gives them: those of its JSON-RPC, with more columns of
//! `transactions`, and `calls`.

use nozzle_core::TableDef;

use super::{
    block::{Block, Call, Log, Trace, Withdrawal},
    values::{self, decimal_or_null, fixed, fixed_or_null, kind, small},
};
use crate::evm::{
    blocks::Blocks as RpcBlocks,
    columns::{self as column, Column, Table},
    hex::Bad,
    logs::Logs as RpcLogs,
    transactions::Transactions as RpcTransactions,
    withdrawals::Withdrawals as RpcWithdrawals,
};

/// Every table with every column: `blocks`, `transactions`, `logs`, `calls`, `withdrawals`.
pub fn tables() -> Vec<TableDef> {
    vec![
        table::<Blocks>(),
        table::<Transactions>(),
        table::<Logs>(),
        table::<Calls>(),
        table::<Withdrawals>(),
    ]
}

fn table<T: Table>() -> TableDef {
    let name = T::NAME.parse().expect("the names of these tables are valid");
    TableDef::new(name, T::columns().into_iter().map(|column| column.field).collect())
}

/// What every row of a block knows of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockRow<'a> {
    /// The block's number.
    pub number: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// Its time in microseconds.
    pub timestamp: i64,
    /// What was sent.
    pub block: &'a Block<'a>,
}

/// The table `blocks`.
pub(crate) struct Blocks;

impl Table for Blocks {
    const NAME: &'static str = RpcBlocks::NAME;
    type Row<'a> = BlockRow<'a>;

    fn block_num(row: &BlockRow<'_>) -> u64 {
        row.number
    }

    fn columns() -> Vec<Column<Self>> {
        vec![
            column::u64("block_num", |row: &BlockRow<'_>| Ok(row.number)),
            column::timestamp("timestamp", |row: &BlockRow<'_>| Ok(row.timestamp)),
            column::fixed("hash", |row: &BlockRow<'_>| Ok(row.hash)),
            hash("parent_hash", |block| block.header.parent_hash),
            hash("ommers_hash", |block| block.header.ommers_hash),
            column::fixed("miner", |row: &BlockRow<'_>| fixed::<20>(row.block.header.miner)),
            hash("state_root", |block| block.header.state_root),
            hash("transactions_root", |block| block.header.transactions_root),
            hash("receipt_root", |block| block.header.receipt_root),
            column::bytes_or_null("logs_bloom", |row: &BlockRow<'_>| {
                Some(row.block.header.logs_bloom).filter(|bloom| !bloom.is_empty())
            }),
            column::decimal("difficulty", |row: &BlockRow<'_>| {
                values::decimal(row.block.header.difficulty.unwrap_or_default())
            }),
            column::decimal_or_null("total_difficulty", |row: &BlockRow<'_>| {
                Ok(decimal_or_null(row.block.header.total_difficulty))
            }),
            column::u64("gas_limit", |row: &BlockRow<'_>| Ok(row.block.header.gas_limit)),
            column::u64("gas_used", |row: &BlockRow<'_>| Ok(row.block.header.gas_used)),
            column::bytes("extra_data", |row: &BlockRow<'_>| row.block.header.extra_data),
            hash_or_null("mix_hash", |block| block.header.mix_hash),
            column::u64_or_null("nonce", |row: &BlockRow<'_>| Ok(Some(row.block.header.nonce))),
            column::decimal_or_null("base_fee_per_gas", |row: &BlockRow<'_>| {
                Ok(decimal_or_null(row.block.header.base_fee_per_gas))
            }),
            hash_or_null("withdrawals_root", |block| block.header.withdrawals_root),
            column::u64_or_null("blob_gas_used", |row: &BlockRow<'_>| Ok(row.block.header.blob_gas_used)),
            column::u64_or_null("excess_blob_gas", |row: &BlockRow<'_>| Ok(row.block.header.excess_blob_gas)),
            hash_or_null("parent_beacon_root", |block| block.header.parent_beacon_root),
            hash_or_null("requests_hash", |block| block.header.requests_hash),
        ]
    }
}

/// Which field of a block a column holds.
type BlockField = for<'r, 'a> fn(&'r Block<'a>) -> &'a [u8];

fn hash(name: &str, field: BlockField) -> Column<Blocks> {
    column::fixed(name, move |row: &BlockRow<'_>| fixed::<32>(field(row.block)))
}

fn hash_or_null(name: &str, field: BlockField) -> Column<Blocks> {
    column::fixed_or_null(name, move |row: &BlockRow<'_>| fixed_or_null::<32>(field(row.block)))
}

/// A transaction and its block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TxRow<'a> {
    /// The block.
    pub block: &'a BlockRow<'a>,
    /// The place in the block.
    pub index: u32,
    /// What was sent.
    pub tx: &'a Trace<'a>,
    /// The id of the chain, where it is known. No typed transaction is for another chain.
    pub chain_id: Option<u64>,
}

/// The table `transactions`.
pub(crate) struct Transactions;

impl Table for Transactions {
    const NAME: &'static str = RpcTransactions::NAME;
    type Row<'a> = TxRow<'a>;

    fn block_num(row: &TxRow<'_>) -> u64 {
        row.block.number
    }

    fn columns() -> Vec<Column<Self>> {
        super::transactions::columns()
    }
}

/// A log and where it belongs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogRow<'a> {
    /// The block.
    pub block: &'a BlockRow<'a>,
    /// The place of the transaction in the block.
    pub tx_index: u32,
    /// The transaction.
    pub tx: &'a Trace<'a>,
    /// What was sent.
    pub log: &'a Log<'a>,
}

/// The table `logs`.
pub(crate) struct Logs;

impl Table for Logs {
    const NAME: &'static str = RpcLogs::NAME;
    type Row<'a> = LogRow<'a>;

    fn block_num(row: &LogRow<'_>) -> u64 {
        row.block.number
    }

    fn columns() -> Vec<Column<Self>> {
        vec![
            column::fixed("block_hash", |row: &LogRow<'_>| Ok(row.block.hash)),
            column::u64("block_num", |row: &LogRow<'_>| Ok(row.block.number)),
            column::timestamp("timestamp", |row: &LogRow<'_>| Ok(row.block.timestamp)),
            column::fixed("tx_hash", |row: &LogRow<'_>| fixed::<32>(row.tx.hash)),
            column::u32("tx_index", |row: &LogRow<'_>| Ok(row.tx_index)),
            column::u32("log_index", |row: &LogRow<'_>| small(row.log.block_index)),
            column::fixed("address", |row: &LogRow<'_>| fixed::<20>(row.log.address)),
            column::fixed_or_null("topic0", |row: &LogRow<'_>| topic(row, 0)),
            column::fixed_or_null("topic1", |row: &LogRow<'_>| topic(row, 1)),
            column::fixed_or_null("topic2", |row: &LogRow<'_>| topic(row, 2)),
            column::fixed_or_null("topic3", |row: &LogRow<'_>| topic(row, 3)),
            column::bytes("data", |row: &LogRow<'_>| row.log.data),
        ]
    }
}

fn topic(row: &LogRow<'_>, index: usize) -> Result<Option<[u8; 32]>, Bad> {
    if row.log.has_too_many_topics {
        return Err(Bad::NotAllowed);
    }
    row.log.topics[index].map(fixed::<32>).transpose()
}

/// A call and where it belongs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallRow<'a> {
    /// The block.
    pub block: &'a BlockRow<'a>,
    /// The place of the transaction in the block.
    pub tx_index: u32,
    /// The transaction.
    pub tx: &'a Trace<'a>,
    /// What was sent.
    pub call: &'a Call<'a>,
}

/// The table `calls`.
pub(crate) struct Calls;

impl Table for Calls {
    const NAME: &'static str = "calls";
    type Row<'a> = CallRow<'a>;

    fn block_num(row: &CallRow<'_>) -> u64 {
        row.block.number
    }

    fn columns() -> Vec<Column<Self>> {
        vec![
            column::fixed("block_hash", |row: &CallRow<'_>| Ok(row.block.hash)),
            column::u64("block_num", |row: &CallRow<'_>| Ok(row.block.number)),
            column::timestamp("timestamp", |row: &CallRow<'_>| Ok(row.block.timestamp)),
            column::u32("tx_index", |row: &CallRow<'_>| Ok(row.tx_index)),
            column::fixed("tx_hash", |row: &CallRow<'_>| fixed::<32>(row.tx.hash)),
            column::u32("index", |row: &CallRow<'_>| small(row.call.index)),
            column::u32("parent_index", |row: &CallRow<'_>| small(row.call.parent_index)),
            column::u32("depth", |row: &CallRow<'_>| small(row.call.depth)),
            column::i32("call_type", |row: &CallRow<'_>| kind(row.call.call_type)),
            column::fixed("caller", |row: &CallRow<'_>| fixed::<20>(row.call.caller)),
            column::fixed("address", |row: &CallRow<'_>| fixed::<20>(row.call.address)),
            column::decimal_or_null("value", |row: &CallRow<'_>| Ok(decimal_or_null(row.call.value))),
            column::fixed_or_null("value_overflow", |row: &CallRow<'_>| {
                values::decimal_overflow(row.call.value)
            }),
            column::u64("gas_limit", |row: &CallRow<'_>| Ok(row.call.gas_limit)),
            column::u64("gas_consumed", |row: &CallRow<'_>| Ok(row.call.gas_consumed)),
            column::bytes("return_data", |row: &CallRow<'_>| row.call.return_data),
            column::bytes("input", |row: &CallRow<'_>| row.call.input),
            column::flag("selfdestruct", |row: &CallRow<'_>| row.call.selfdestruct),
            column::flag("executed_code", |row: &CallRow<'_>| row.call.executed_code),
            column::flag("state_reverted", |row: &CallRow<'_>| row.call.state_reverted),
            column::u64("begin_ordinal", |row: &CallRow<'_>| Ok(row.call.begin_ordinal)),
            column::u64("end_ordinal", |row: &CallRow<'_>| Ok(row.call.end_ordinal)),
        ]
    }
}

/// A withdrawal and its block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WithdrawalRow<'a> {
    /// The block.
    pub block: &'a BlockRow<'a>,
    /// What was sent.
    pub withdrawal: &'a Withdrawal<'a>,
}

/// The table `withdrawals`.
pub(crate) struct Withdrawals;

impl Table for Withdrawals {
    const NAME: &'static str = RpcWithdrawals::NAME;
    type Row<'a> = WithdrawalRow<'a>;

    fn block_num(row: &WithdrawalRow<'_>) -> u64 {
        row.block.number
    }

    fn columns() -> Vec<Column<Self>> {
        vec![
            column::fixed("block_hash", |row: &WithdrawalRow<'_>| Ok(row.block.hash)),
            column::u64("block_num", |row: &WithdrawalRow<'_>| Ok(row.block.number)),
            column::timestamp("timestamp", |row: &WithdrawalRow<'_>| Ok(row.block.timestamp)),
            column::u64("index", |row: &WithdrawalRow<'_>| Ok(row.withdrawal.index)),
            column::u64("validator_index", |row: &WithdrawalRow<'_>| Ok(row.withdrawal.validator_index)),
            column::fixed("address", |row: &WithdrawalRow<'_>| fixed::<20>(row.withdrawal.address)),
            column::u64("amount_gwei", |row: &WithdrawalRow<'_>| Ok(row.withdrawal.amount_gwei)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_have_what_those_of_json_rpc_have() {
        let (ours, theirs) = (tables(), crate::evm::tables());
        let of = |name: &str| ours.iter().find(|table| table.name.as_str() == name).expect("a table");
        for table in &theirs {
            let shared = &of(table.name.as_str()).schema.fields()[..table.schema.fields().len()];
            assert_eq!(shared, &table.schema.fields()[..], "{}", table.name);
        }
        let names = |name: &str, from: usize| {
            let fields = &of(name).schema.fields()[from..];
            fields.iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect::<Vec<_>>()
        };
        let more = ["return_data Binary", "begin_ordinal UInt64", "end_ordinal UInt64"];
        assert_eq!(names("transactions", theirs[1].schema.fields().len()), more);
        assert_eq!(of("calls").schema.fields().len(), 23);
    }
}

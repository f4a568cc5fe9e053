//! Which stored columns each level needs to be checked again.

use nozzle_core::{TableDef, manifest::Verify};
use thiserror::Error;

use super::transactions::RECEIPT_COLUMNS;

/// The columns of `blocks` that tell which block follows which.
const LINKS: &[&str] = &["hash", "parent_hash"];

/// The columns of `blocks` that the header is made of.
const HEADER: &[&str] = &[
    "timestamp",
    "hash",
    "parent_hash",
    "ommers_hash",
    "miner",
    "state_root",
    "transactions_root",
    "receipt_root",
    "logs_bloom",
    "difficulty",
    "gas_limit",
    "gas_used",
    "extra_data",
    "mix_hash",
    "nonce",
    "base_fee_per_gas",
    "withdrawals_root",
    "blob_gas_used",
    "excess_blob_gas",
    "parent_beacon_root",
    "requests_hash",
];

/// The columns of `transactions` that their hashes are made of, and `from`, whom contracts are created
/// by.
const TRANSACTIONS: &[&str] = &[
    "tx_hash",
    "to",
    "nonce",
    "gas_price",
    "gas_limit",
    "value",
    "value_overflow",
    "input",
    "r",
    "s",
    "y_parity",
    "chain_id",
    "type",
    "max_fee_per_gas",
    "max_priority_fee_per_gas",
    "max_fee_per_blob_gas",
    "from",
    "access_list",
    "blob_versioned_hashes",
    "authorization_list",
];

/// The columns of `logs` that receipts are made of.
const LOGS: &[&str] = &["tx_index", "log_index", "address", "topic0", "topic1", "topic2", "topic3", "data"];

const WITHDRAWALS: &[&str] = &["index", "validator_index", "address", "amount_gwei"];

/// What is stored is too little for a level.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("what is stored cannot be checked at the level `{level}`: these columns are not stored: {missing}. {}", advice(.highest))]
pub struct TooFewColumns {
    /// The level.
    pub level: Verify,
    /// The columns, as `table.column`.
    pub missing: String,
    /// The highest level that works.
    pub highest: Option<Verify>,
}

fn advice(highest: &Option<Verify>) -> String {
    match highest {
        Some(level) => format!("The highest level that works is --verify {level}"),
        None => "No level works without them".into(),
    }
}

/// Refuses a level for which columns are missing.
pub(crate) fn check(tables: &[TableDef], level: Verify) -> Result<(), TooFewColumns> {
    let lacking = missing(tables, level);
    if lacking.is_empty() {
        return Ok(());
    }
    let works = |level: &Verify| *level >= Verify::Links && missing(tables, *level).is_empty();
    let highest = Verify::ALL.into_iter().rev().find(works);
    Err(TooFewColumns { level, missing: lacking.join(", "), highest })
}

fn missing(tables: &[TableDef], level: Verify) -> Vec<String> {
    let mut needed: Vec<(&str, &[&str])> =
        vec![("blocks", if level >= Verify::Header { HEADER } else { LINKS })];
    if level >= Verify::Full {
        needed.push(("transactions", TRANSACTIONS));
        // As at extraction: receipts are checked where something of them is stored.
        if has_receipts(tables) {
            needed.extend([("transactions", &RECEIPT_COLUMNS[..]), ("logs", LOGS)]);
        }
        if find(tables, "withdrawals").is_some() {
            needed.push(("withdrawals", WITHDRAWALS));
        }
    }
    let lacks = |table: &str, column: &str| !find(tables, table).is_some_and(|table| has(table, column));
    let of_table = |(table, columns): (&str, &[&str])| {
        let names = columns.iter().filter(|column| lacks(table, column));
        names.map(|column| format!("{table}.{column}")).collect::<Vec<_>>()
    };
    needed.into_iter().flat_map(of_table).collect()
}

fn has_receipts(tables: &[TableDef]) -> bool {
    let of_transactions = |table: &TableDef| RECEIPT_COLUMNS.iter().any(|column| has(table, column));
    find(tables, "logs").is_some() || find(tables, "transactions").is_some_and(of_transactions)
}

/// Whether the rows of a table can be put where they belong in the answers.
pub(crate) fn takes_part(tables: &[TableDef], table: &TableDef) -> bool {
    let has_hashes = find(tables, "transactions").is_some_and(|table| has(table, "tx_hash"));
    match table.name.as_str() {
        "transactions" => has_hashes,
        "logs" => has_hashes && has(table, "tx_index") && has(table, "log_index"),
        _ => true,
    }
}

fn find<'a>(tables: &'a [TableDef], name: &str) -> Option<&'a TableDef> {
    tables.iter().find(|table| table.name.as_str() == name)
}

fn has(table: &TableDef, column: &str) -> bool {
    table.schema.index_of(column).is_ok()
}

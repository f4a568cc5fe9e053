//! The table `transactions`: one row a transaction, joined with its receipt.

use super::{
    blocks::BlockRow,
    columns::{self as column, Column, Table},
    hex::{self, Bad, required},
    json::{Receipt, Tx},
    lists,
};

/// A transaction, its receipt and its block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TxRow<'a> {
    /// The block.
    pub block: &'a BlockRow<'a>,
    /// The place in the block.
    pub index: u32,
    /// The node's answer.
    pub tx: &'a Tx<'a>,
    /// The receipt, where receipts were asked for.
    pub receipt: Option<&'a Receipt<'a>>,
}

/// The columns that only receipts can fill.
pub(crate) const RECEIPT_COLUMNS: [&str; 8] = [
    "gas_used",
    "cumulative_gas_used",
    "effective_gas_price",
    "status",
    "contract_address",
    "state_root",
    "blob_gas_used",
    "blob_gas_price",
];

/// The last transaction type whose fields are known here.
const LAST_KNOWN_TYPE: i32 = 4;

/// The table `transactions`.
pub(crate) struct Transactions;

impl Table for Transactions {
    const NAME: &'static str = "transactions";
    type Row<'a> = TxRow<'a>;

    fn block_num(row: &TxRow<'_>) -> u64 {
        row.block.number
    }

    fn columns() -> Vec<Column<Self>> {
        vec![
            column::fixed("block_hash", |row: &TxRow<'_>| Ok(row.block.hash)),
            column::u64("block_num", |row: &TxRow<'_>| Ok(row.block.number)),
            column::timestamp("timestamp", |row: &TxRow<'_>| row.block.timestamp),
            column::u32("tx_index", |row: &TxRow<'_>| Ok(row.index)),
            column::fixed("tx_hash", |row: &TxRow<'_>| hex::fixed::<32>(required(row.tx.hash)?)),
            column::fixed_or_null("to", |row: &TxRow<'_>| hex::fixed_or_null::<20>(row.tx.to)),
            column::u64("nonce", |row: &TxRow<'_>| hex::quantity_u64(required(row.tx.nonce)?)),
            decimal_or_null("gas_price", |tx| tx.gas_price),
            column::u64("gas_limit", |row: &TxRow<'_>| hex::quantity_u64(required(row.tx.gas)?)),
            column::decimal_or_null("value", |row: &TxRow<'_>| hex::decimal_or_null(value(row.tx)?)),
            column::fixed_or_null("value_overflow", |row: &TxRow<'_>| hex::decimal_overflow(value(row.tx)?)),
            column::data("input", |row: &TxRow<'_>| input(row.tx)),
            word_or_null("r", |tx| tx.r),
            word_or_null("s", |tx| tx.s),
            column::flag_or_null("y_parity", |row: &TxRow<'_>| y_parity(row.tx)),
            column::u64_or_null("chain_id", |row: &TxRow<'_>| chain_id(row.tx)),
            column::u64("gas_used", |row: &TxRow<'_>| receipt_number(row, |receipt| receipt.gas_used)),
            column::u64("cumulative_gas_used", |row: &TxRow<'_>| {
                receipt_number(row, |receipt| receipt.cumulative_gas_used)
            }),
            column::i32("type", |row: &TxRow<'_>| tx_type(row.tx)),
            decimal_or_null("max_fee_per_gas", |tx| tx.max_fee_per_gas),
            decimal_or_null("max_priority_fee_per_gas", |tx| tx.max_priority_fee_per_gas),
            decimal_or_null("max_fee_per_blob_gas", |tx| tx.max_fee_per_blob_gas),
            column::decimal_or_null("effective_gas_price", |row: &TxRow<'_>| {
                hex::decimal_or_null(required_receipt(row)?.effective_gas_price)
            }),
            column::fixed("from", |row: &TxRow<'_>| hex::fixed::<20>(required(row.tx.from)?)),
            column::flag_or_null("status", |row: &TxRow<'_>| status(required_receipt(row)?)),
            column::fixed_or_null("contract_address", |row: &TxRow<'_>| {
                hex::fixed_or_null::<20>(required_receipt(row)?.contract_address)
            }),
            column::fixed_or_null("state_root", |row: &TxRow<'_>| state_root(required_receipt(row)?)),
            column::u64_or_null("blob_gas_used", |row: &TxRow<'_>| {
                number_or_null(required_receipt(row)?.blob_gas_used)
            }),
            column::decimal_or_null("blob_gas_price", |row: &TxRow<'_>| {
                hex::decimal_or_null(required_receipt(row)?.blob_gas_price)
            }),
            lists::access_list(),
            lists::blob_versioned_hashes(),
            lists::authorization_list(),
        ]
    }
}

fn decimal_or_null(name: &str, field: for<'r, 'a> fn(&'r Tx<'a>) -> Option<&'r str>) -> Column<Transactions> {
    column::decimal_or_null(name, move |row: &TxRow<'_>| hex::decimal_or_null(field(row.tx)))
}

fn word_or_null(name: &str, field: for<'r, 'a> fn(&'r Tx<'a>) -> Option<&'r str>) -> Column<Transactions> {
    column::fixed_or_null(name, move |row: &TxRow<'_>| field(row.tx).map(hex::quantity_word).transpose())
}

fn number_or_null(text: Option<&str>) -> Result<Option<u64>, Bad> {
    text.map(hex::quantity_u64).transpose()
}

fn required_receipt<'a>(row: &TxRow<'a>) -> Result<&'a Receipt<'a>, Bad> {
    row.receipt.ok_or(Bad::Missing)
}

fn receipt_number(
    row: &TxRow<'_>,
    field: for<'r, 'a> fn(&'r Receipt<'a>) -> Option<&'r str>,
) -> Result<u64, Bad> {
    hex::quantity_u64(required(field(required_receipt(row)?))?)
}

/// The type; nodes older than typed transactions do not name it.
pub(crate) fn tx_type(tx: &Tx<'_>) -> Result<i32, Bad> {
    let number = tx.tx_type.map_or(Ok(0), hex::quantity_u64)?;
    i32::try_from(number).map_err(|_| Bad::TooLarge)
}

/// The amount. A type that is not Ethereum's may have none at all.
fn value<'a>(tx: &Tx<'a>) -> Result<Option<&'a str>, Bad> {
    match tx.value {
        None if tx_type(tx)? <= LAST_KNOWN_TYPE => Err(Bad::Missing),
        value => Ok(value),
    }
}

/// The chain that the transaction is for. The oldest ones say it in `v` or not at all, whatever a
/// node puts beside it.
fn chain_id(tx: &Tx<'_>) -> Result<Option<u64>, Bad> {
    match tx.v {
        Some("0x1b" | "0x1c") if tx_type(tx)? == 0 => Ok(None),
        Some(v) if tx_type(tx)? == 0 && eip155_chain_id(v).is_some() => {
            eip155_chain_id(v).map(u64::try_from).transpose().map_err(|_| Bad::TooLarge)
        }
        _ => number_or_null(tx.chain_id),
    }
}

/// The chain id in the `v` of a transaction without a type (EIP-155).
pub(crate) fn eip155_chain_id(v: &str) -> Option<u128> {
    hex::quantity_u128(v).ok()?.checked_sub(35).map(|v| v / 2)
}

/// The calldata. A type that is not Ethereum's may have none at all.
fn input<'a>(tx: &Tx<'a>) -> Result<&'a str, Bad> {
    match tx.input {
        Some(input) => Ok(input),
        None if tx_type(tx)? > LAST_KNOWN_TYPE => Ok("0x"),
        None => Err(Bad::Missing),
    }
}

/// The parity of the signature's y, from `yParity` or else from `v`: 0 or 1 for typed
/// transactions, 27 or 28 for the oldest, and 35 or more (EIP-155) for those that name a chain.
pub(crate) fn y_parity(tx: &Tx<'_>) -> Result<Option<bool>, Bad> {
    let Some(text) = tx.y_parity.or(tx.v) else { return Ok(None) };
    Ok(match hex::quantity_u128(text)? {
        even @ (0 | 1) => Some(even == 1),
        old @ (27 | 28) => Some(old == 28),
        eip155 @ 35.. => Some((eip155 - 35) % 2 == 1),
        _ => None,
    })
}

/// Whether the transaction succeeded; null before Byzantium, where some nodes fill it in.
fn status(receipt: &Receipt<'_>) -> Result<Option<bool>, Bad> {
    if post_state(receipt).is_some() {
        return Ok(None);
    }
    match receipt.status.map(hex::quantity_u64).transpose()? {
        None => Ok(None),
        Some(0) => Ok(Some(false)),
        Some(1) => Ok(Some(true)),
        Some(_) => Err(Bad::NotAllowed),
    }
}

/// The state root after the transaction.
fn state_root(receipt: &Receipt<'_>) -> Result<Option<[u8; 32]>, Bad> {
    hex::fixed_or_null(post_state(receipt))
}

/// The state root after the transaction, which receipts had before Byzantium; since then some
/// nodes send it empty.
pub(crate) fn post_state<'a>(receipt: &Receipt<'a>) -> Option<&'a str> {
    receipt.root.filter(|root| *root != "0x")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parity_comes_from_y_parity_or_from_v() {
        let parity = |y_parity, v| super::y_parity(&Tx { y_parity, v, ..Tx::default() });
        let cases = [
            (None, None, Ok(None)),
            (Some("0x1"), None, Ok(Some(true))),
            (Some("0x0"), Some("0x1c"), Ok(Some(false))),
            (None, Some("0x0"), Ok(Some(false))),
            (None, Some("0x1"), Ok(Some(true))),
            (None, Some("0x1b"), Ok(Some(false))),
            (None, Some("0x1c"), Ok(Some(true))),
            (None, Some("0x23"), Ok(Some(false))),
            (None, Some("0x25"), Ok(Some(false))),
            (None, Some("0x26"), Ok(Some(true))),
            (None, Some("0x2"), Ok(None)),
            (None, Some("0x22"), Ok(None)),
            (None, Some("v"), Err(Bad::NotHex)),
        ];
        for (y, v, expected) in cases {
            assert_eq!(parity(y, v), expected, "yParity {y:?}, v {v:?}");
        }
    }

    #[test]
    fn the_chain_of_a_legacy_transaction_is_the_one_that_it_signs() {
        let chain = |v, chain_id| super::chain_id(&Tx { v, chain_id, ..Tx::default() });
        for (v, given, expected) in [
            (Some("0x25"), None, Ok(Some(1))),
            (Some("0x26"), Some("0x1"), Ok(Some(1))),
            (Some("0x1b"), Some("0x1"), Ok(None)),
            (Some("0x1c"), None, Ok(None)),
            (Some("0x0"), Some("0xa"), Ok(Some(10))),
            (None, Some("0x1"), Ok(Some(1))),
            (None, None, Ok(None)),
            (Some("0xffffffffffffffffffffffffffffffff"), None, Err(Bad::TooLarge)),
        ] {
            assert_eq!(chain(v, given), expected, "v {v:?}, chainId {given:?}");
        }
        let typed = Tx { tx_type: Some("0x2"), v: Some("0x1b"), chain_id: Some("0x5"), ..Tx::default() };
        assert_eq!(super::chain_id(&typed), Ok(Some(5)));
    }

    #[test]
    fn the_state_of_a_receipt_is_status_or_root() {
        let receipt = |status, root| Receipt { status, root, ..Receipt::default() };
        let root = format!("0x{}", "ab".repeat(32));
        assert_eq!(super::status(&receipt(None, Some(&root))), Ok(None));
        assert_eq!(super::status(&receipt(Some("0x1"), None)), Ok(Some(true)));
        assert_eq!(super::status(&receipt(Some("0x0"), None)), Ok(Some(false)));
        assert_eq!(super::status(&receipt(Some("0x2"), None)), Err(Bad::NotAllowed));
        assert_eq!(super::status(&receipt(Some("0x1"), Some(&root))), Ok(None));
        assert_eq!(super::status(&receipt(Some("0x1"), Some("0x"))), Ok(Some(true)));
        assert_eq!(state_root(&receipt(None, Some(&root))), Ok(Some([0xab; 32])));
        assert_eq!(state_root(&receipt(None, Some("0x"))), Ok(None));
        assert_eq!(state_root(&receipt(None, Some("0x12"))), Err(Bad::Length(32)));
    }
}

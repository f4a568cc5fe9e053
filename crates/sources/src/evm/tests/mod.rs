//! Tests of the way from answers to rows.
#![allow(clippy::unwrap_used)]

mod archived;
mod broken;
mod corrupted;
mod foreign;
mod literals;
mod naive;
pub(crate) mod real;
mod sealed;
mod stored;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{Decimal128Type, UInt64Type},
};
use nozzle_core::{TableDef, manifest::Verify};
use serde_json::{Value, json};

use super::{Decoder, RawBlock, rows::Problem, tables};
use crate::source::{BlockRows, Decoded};

/// The answer of a node.
fn answer(result: &Value) -> bytes::Bytes {
    json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string().into()
}

/// A block as a node would send it.
fn raw(block: &Value, receipts: &Value) -> RawBlock {
    let number = u64::from_str_radix(&block["number"].as_str().unwrap()[2..], 16).unwrap();
    RawBlock { number, block: answer(block), receipts: Some(answer(receipts)) }
}

fn decoder(verify: Verify) -> Decoder {
    Decoder::new("node", tables(), verify).unwrap()
}

/// The tables with the given columns: `("blocks", "hash,nonce")`.
fn select(wanted: &[(&str, &str)]) -> Vec<TableDef> {
    let pick = |(name, columns): &(&str, &str)| {
        let table = tables().into_iter().find(|table| table.name.as_str() == *name).unwrap();
        table.select(&columns.split(',').map(str::to_owned).collect::<Vec<_>>()).unwrap()
    };
    wanted.iter().map(pick).collect()
}

fn good(decoded: Decoded) -> BlockRows {
    assert!(decoded.error.is_none(), "{:?}", decoded.error);
    decoded.rows.unwrap()
}

/// The error of a single block, as text.
fn error_of(decoder: &Decoder, block: &RawBlock) -> String {
    let decoded = decoder.decode(std::slice::from_ref(block));
    assert!(decoded.rows.is_none());
    decoded.error.expect("an error").to_string()
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"))
}

/// The value of a cell as text: numbers in digits, bytes in hex, null as `null`.
fn cell(batch: &RecordBatch, name: &str, row: usize) -> String {
    let array = column(batch, name);
    if array.is_null(row) {
        return "null".into();
    }
    if let Some(decimals) = array.as_primitive_opt::<Decimal128Type>() {
        return decimals.value(row).to_string();
    }
    if let Some(flags) = array.as_boolean_opt() {
        return flags.value(row).to_string();
    }
    if let Some(bytes) = array.as_fixed_size_binary_opt() {
        return const_hex::encode_prefixed(bytes.value(row));
    }
    if let Some(bytes) = array.as_binary_opt::<i32>() {
        return const_hex::encode_prefixed(bytes.value(row));
    }
    arrow::util::display::array_value_to_string(array, row).unwrap()
}

fn sum(batch: &RecordBatch, name: &str) -> u64 {
    column(batch, name).as_primitive::<UInt64Type>().values().iter().sum()
}

fn word(byte: u8) -> String {
    format!("0x{}", const_hex::encode([byte; 32]))
}

fn address(byte: u8) -> String {
    format!("0x{}", const_hex::encode([byte; 20]))
}

/// A block with the given number and nothing in it; its hash is right.
fn empty_block(number: u64) -> Value {
    let mut block = json!({
        "number": format!("{number:#x}"), "parentHash": word(1), "sha3Uncles": word(2),
        "miner": address(3), "stateRoot": word(4), "transactionsRoot": word(5),
        "receiptsRoot": word(6), "logsBloom": format!("0x{}", "00".repeat(256)),
        "difficulty": "0x0", "gasLimit": "0x1c9c380", "gasUsed": "0x5208", "timestamp": "0x64b03683",
        "extraData": "0x6e6f7a7a6c65", "mixHash": word(7), "nonce": "0x00000000000000ff",
        "transactions": [], "uncles": [],
    });
    seal(&mut block);
    block
}

/// Gives a block the hash of its header.
fn seal(block: &mut Value) {
    block["hash"] = json!(word(0));
    let text = block.to_string();
    let parsed: super::json::Block<'_> = serde_json::from_str(&text).unwrap();
    block["hash"] = json!(super::header::hash(&parsed).unwrap().to_string());
}

/// A legacy transaction; what is given replaces or adds fields.
fn tx(index: usize, fields: &Value) -> Value {
    let mut tx = json!({
        "hash": word(100 + index as u8), "transactionIndex": format!("{index:#x}"), "type": "0x0",
        "from": address(10), "to": address(11), "nonce": "0x7", "gas": "0x5208", "gasPrice": "0x3b9aca00",
        "value": "0xde0b6b3a7640000", "input": "0x", "v": "0x25", "r": "0x1", "s": "0x2", "chainId": "0x1",
    });
    for (name, value) in fields.as_object().unwrap() {
        tx[name] = value.clone();
    }
    tx
}

/// The receipt of [`tx`] in `block`.
fn receipt(block: &Value, index: usize, fields: &Value) -> Value {
    let mut receipt = json!({
        "transactionHash": word(100 + index as u8), "transactionIndex": format!("{index:#x}"),
        "blockHash": block["hash"], "status": "0x1", "cumulativeGasUsed": "0xa410", "gasUsed": "0x5208",
        "effectiveGasPrice": "0x3b9aca00", "contractAddress": null, "logs": [],
    });
    for (name, value) in fields.as_object().unwrap() {
        receipt[name] = value.clone();
    }
    receipt
}

/// A block of the given transactions with plain receipts.
fn block_of(transactions: &[Value]) -> (Value, Value) {
    let mut block = empty_block(5);
    block["transactions"] = transactions.to_vec().into();
    let receipts: Vec<_> = (0..transactions.len()).map(|index| receipt(&block, index, &json!({}))).collect();
    (block, receipts.into())
}

/// The rows of `transactions` of a block of the given transactions.
fn tx_rows(transactions: &[Value]) -> RecordBatch {
    let (block, receipts) = block_of(transactions);
    good(decoder(Verify::Header).decode(&[raw(&block, &receipts)])).tables[1].batch.clone()
}

#[test]
fn a_problem_reads_as_a_sentence() {
    let missing = Problem::Missing("the receipts").of_block("node", 7).to_string();
    assert_eq!(missing, "the provider `node` does not have the receipts of block 7");
}

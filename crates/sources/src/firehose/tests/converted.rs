//! Blocks as an endpoint sends them, made of the answers of a node, or made poorer as some endpoints do.

use nozzle_testkit::firehose::pb::{google::protobuf::Timestamp, sf::ethereum::r#type::v2 as eth};
use prost::Message;
use serde_json::Value;

use super::*;
use crate::evm::RawBlock;

/// What is sent of a block.
pub(crate) fn sent(block: &eth::Block) -> Payload {
    Payload { number: block.number, block: block.encode_to_vec().into() }
}

/// A block of the detail level without calls, which endpoints make of the answers of nodes: `RpcToEthBlock` in
/// `block/converter.go` of firehose-ethereum leaves out what is cleared here, and of a number that is not there it
/// makes one without bytes.
pub(crate) fn base(mut block: eth::Block) -> eth::Block {
    block.detail_level = eth::block::DetailLevel::DetaillevelBase as i32;
    block.balance_changes.clear();
    block.code_changes.clear();
    block.system_calls.clear();
    block.withdrawals.clear();
    if let Some(header) = &mut block.header {
        header.requests_hash.clear();
        header.total_difficulty.get_or_insert_default();
        header.base_fee_per_gas.get_or_insert_default();
    }
    for trace in &mut block.transaction_traces {
        trace.max_fee_per_gas = None;
        trace.max_priority_fee_per_gas = None;
        trace.return_data.clear();
        trace.public_key.clear();
        trace.calls.clear();
        trace.blob_gas = None;
        trace.blob_gas_fee_cap = None;
        trace.blob_hashes.clear();
        trace.set_code_authorizations.clear();
        if let Some(receipt) = &mut trace.receipt {
            receipt.blob_gas_used = None;
            receipt.blob_gas_price = None;
        }
    }
    block
}

/// The block of a node's answers, with all that they say.
pub(crate) fn of_answers(answers: &RawBlock) -> eth::Block {
    let result = |answer: &[u8]| serde_json::from_slice::<Value>(answer).unwrap()["result"].take();
    let block = result(&answers.block);
    let receipts = result(answers.receipts.as_ref().unwrap());
    let header = eth::BlockHeader {
        parent_hash: data(&block["parentHash"]),
        uncle_hash: data(&block["sha3Uncles"]),
        coinbase: data(&block["miner"]),
        state_root: data(&block["stateRoot"]),
        transactions_root: data(&block["transactionsRoot"]),
        receipt_root: data(&block["receiptsRoot"]),
        logs_bloom: data(&block["logsBloom"]),
        difficulty: big(&block["difficulty"]),
        number: number(&block["number"]),
        gas_limit: number(&block["gasLimit"]),
        gas_used: number(&block["gasUsed"]),
        timestamp: Some(Timestamp { seconds: number(&block["timestamp"]) as i64, nanos: 0 }),
        extra_data: data(&block["extraData"]),
        mix_hash: data(&block["mixHash"]),
        nonce: number(&block["nonce"]),
        hash: data(&block["hash"]),
        base_fee_per_gas: big(&block["baseFeePerGas"]),
        withdrawals_root: data(&block["withdrawalsRoot"]),
        blob_gas_used: number_or_none(&block["blobGasUsed"]),
        excess_blob_gas: number_or_none(&block["excessBlobGas"]),
        parent_beacon_root: data(&block["parentBeaconBlockRoot"]),
        requests_hash: data(&block["requestsHash"]),
        ..Default::default()
    };
    let traces = items(&block["transactions"]).zip(items(&receipts));
    let withdrawals = items(&block["withdrawals"]).map(|item| eth::Withdrawal {
        index: number(&item["index"]),
        validator_index: number(&item["validatorIndex"]),
        address: data(&item["address"]),
        amount: number(&item["amount"]),
    });
    eth::Block {
        ver: 4,
        hash: header.hash.clone(),
        number: header.number,
        transaction_traces: traces.map(|(tx, receipt)| trace(tx, receipt)).collect(),
        withdrawals: withdrawals.collect(),
        header: Some(header),
        ..Default::default()
    }
}

fn trace(tx: &Value, of_receipt: &Value) -> eth::TransactionTrace {
    let is_typed = number(&tx["type"]) != 0;
    let to = if tx["to"].is_null() { &of_receipt["contractAddress"] } else { &tx["to"] };
    let status = match number_or_none(&of_receipt["status"]) {
        None => eth::TransactionTraceStatus::Unknown,
        Some(0) => eth::TransactionTraceStatus::Failed,
        Some(_) => eth::TransactionTraceStatus::Succeeded,
    };
    let access_list = items(&tx["accessList"]).map(|item| eth::AccessTuple {
        address: data(&item["address"]),
        storage_keys: items(&item["storageKeys"]).map(data).collect(),
    });
    let authorizations = items(&tx["authorizationList"]).map(|item| eth::SetCodeAuthorization {
        chain_id: bytes(&item["chainId"]),
        nonce: number(&item["nonce"]),
        v: number(&item["yParity"]) as u32,
        r: bytes(&item["r"]),
        s: bytes(&item["s"]),
        address: data(&item["address"]),
        ..Default::default()
    });
    eth::TransactionTrace {
        to: data(to),
        nonce: number(&tx["nonce"]),
        gas_price: big(&of_receipt["effectiveGasPrice"]),
        gas_limit: number(&tx["gas"]),
        value: big(&tx["value"]),
        input: data(&tx["input"]),
        v: bytes(if is_typed { &tx["yParity"] } else { &tx["v"] }),
        r: bytes(&tx["r"]),
        s: bytes(&tx["s"]),
        gas_used: number(&of_receipt["gasUsed"]),
        max_fee_per_gas: big(&tx["maxFeePerGas"]),
        max_priority_fee_per_gas: big(&tx["maxPriorityFeePerGas"]),
        r#type: number(&tx["type"]) as i32,
        access_list: access_list.collect(),
        index: number(&tx["transactionIndex"]) as u32,
        hash: data(&tx["hash"]),
        from: data(&tx["from"]),
        status: status as i32,
        receipt: Some(receipt(of_receipt)),
        blob_gas: number_or_none(&of_receipt["blobGasUsed"]),
        blob_gas_fee_cap: big(&tx["maxFeePerBlobGas"]),
        blob_hashes: items(&tx["blobVersionedHashes"]).map(data).collect(),
        set_code_authorizations: authorizations.collect(),
        ..Default::default()
    }
}

fn receipt(receipt: &Value) -> eth::TransactionReceipt {
    let logs = items(&receipt["logs"]).map(|log| eth::Log {
        address: data(&log["address"]),
        topics: items(&log["topics"]).map(data).collect(),
        data: data(&log["data"]),
        block_index: number(&log["logIndex"]) as u32,
        ..Default::default()
    });
    eth::TransactionReceipt {
        state_root: data(&receipt["root"]),
        cumulative_gas_used: number(&receipt["cumulativeGasUsed"]),
        logs_bloom: data(&receipt["logsBloom"]),
        logs: logs.collect(),
        blob_gas_used: number_or_none(&receipt["blobGasUsed"]),
        blob_gas_price: big(&receipt["blobGasPrice"]),
    }
}

/// The parts of a list; none of one that is not there.
fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn digits(value: &Value) -> Option<&str> {
    value.as_str().map(|text| text.strip_prefix("0x").unwrap())
}

/// None of what is not there.
fn data(value: &Value) -> Vec<u8> {
    const_hex::decode(digits(value).unwrap_or_default()).unwrap()
}

fn number_or_none(value: &Value) -> Option<u64> {
    digits(value).map(|digits| u64::from_str_radix(digits, 16).unwrap())
}

fn number(value: &Value) -> u64 {
    number_or_none(value).unwrap()
}

/// A number's bytes without leading zeros.
fn bytes(value: &Value) -> Vec<u8> {
    let digits = digits(value).unwrap_or_default().trim_start_matches('0');
    let digits = format!("{}{digits}", if digits.len().is_multiple_of(2) { "" } else { "0" });
    const_hex::decode(digits).unwrap()
}

fn big(value: &Value) -> Option<eth::BigInt> {
    (!value.is_null()).then(|| eth::BigInt { bytes: bytes(value) })
}

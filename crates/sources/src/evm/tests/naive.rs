//! The rows of real blocks, against values read slowly and in another way.

use alloy_primitives::U256;

use super::*;

/// The number in a field, in digits; `null` where there is none.
fn number(value: &Value) -> String {
    value.as_str().map_or("null".into(), |text| text.parse::<U256>().unwrap().to_string())
}

/// The bytes in a field; `null` where there is none.
fn bytes(value: &Value) -> String {
    value.as_str().map_or("null".into(), str::to_lowercase)
}

/// A number as 32 bytes.
fn padded(value: &Value) -> String {
    value.as_str().map_or("null".into(), |text| format!("0x{:0>64}", text[2..].trim_start_matches('0')))
}

fn time(block: &Value) -> String {
    let seconds = i64::from_str_radix(&block["timestamp"].as_str().unwrap()[2..], 16).unwrap();
    let time = arrow::temporal_conversions::timestamp_s_to_datetime(seconds).unwrap();
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn expect(batch: &RecordBatch, row: usize, cells: &[(&str, String)]) {
    assert_eq!(batch.num_columns(), cells.len(), "every column is compared");
    for (name, value) in cells {
        assert_eq!(&cell(batch, name, row), value, "`{name}` of row {row}");
    }
}

fn check_block(batch: &RecordBatch, block: &Value) {
    let hash = |name: &str| bytes(&block[name]);
    let digits = |name: &str| number(&block[name]);
    expect(
        batch,
        0,
        &[
            ("_block_num", digits("number")),
            ("block_num", digits("number")),
            ("timestamp", time(block)),
            ("hash", hash("hash")),
            ("parent_hash", hash("parentHash")),
            ("ommers_hash", hash("sha3Uncles")),
            ("miner", hash("miner")),
            ("state_root", hash("stateRoot")),
            ("transactions_root", hash("transactionsRoot")),
            ("receipt_root", hash("receiptsRoot")),
            ("logs_bloom", hash("logsBloom")),
            ("difficulty", digits("difficulty")),
            ("total_difficulty", digits("totalDifficulty")),
            ("gas_limit", digits("gasLimit")),
            ("gas_used", digits("gasUsed")),
            ("extra_data", hash("extraData")),
            ("mix_hash", hash("mixHash")),
            ("nonce", digits("nonce")),
            ("base_fee_per_gas", digits("baseFeePerGas")),
            ("withdrawals_root", hash("withdrawalsRoot")),
            ("blob_gas_used", digits("blobGasUsed")),
            ("excess_blob_gas", digits("excessBlobGas")),
            ("parent_beacon_root", hash("parentBeaconBlockRoot")),
            ("requests_hash", hash("requestsHash")),
        ],
    );
}

/// `v` as mainnet has it.
fn parity(tx: &Value) -> String {
    match number(&tx["v"]).parse::<u64>().unwrap() {
        0 | 27 | 37 => "false".into(),
        1 | 28 | 38 => "true".into(),
        odd => panic!("v is {odd}"),
    }
}

/// A list as Arrow shows it.
fn list(value: &Value, item: &dyn Fn(&Value) -> String) -> String {
    let items = |items: &Vec<Value>| format!("[{}]", items.iter().map(item).collect::<Vec<_>>().join(", "));
    value.as_array().map_or("null".into(), items)
}

fn plain_hex(value: &Value) -> String {
    value.as_str().unwrap()[2..].to_owned()
}

fn access(value: &Value) -> String {
    let keys = list(&value["storageKeys"], &plain_hex);
    format!("{{address: {}, storage_keys: {keys}}}", plain_hex(&value["address"]))
}

fn authorization(value: &Value) -> String {
    let word = |name: &str| padded(&value[name])[2..].to_owned();
    let digits = |name: &str| number(&value[name]);
    format!(
        "{{chain_id: {}, address: {}, nonce: {}, y_parity: {}, r: {}, s: {}}}",
        digits("chainId"),
        plain_hex(&value["address"]),
        digits("nonce"),
        digits("yParity"),
        word("r"),
        word("s")
    )
}

fn check_tx(batch: &RecordBatch, row: usize, block: &Value, receipt: &Value) {
    let tx = &block["transactions"][row];
    let status = receipt["status"].as_str().map(|status| (status == "0x1").to_string());
    expect(
        batch,
        row,
        &[
            ("_block_num", number(&block["number"])),
            ("block_hash", bytes(&block["hash"])),
            ("block_num", number(&tx["blockNumber"])),
            ("timestamp", time(block)),
            ("tx_index", number(&tx["transactionIndex"])),
            ("tx_hash", bytes(&tx["hash"])),
            ("to", bytes(&tx["to"])),
            ("nonce", number(&tx["nonce"])),
            ("gas_price", number(&tx["gasPrice"])),
            ("gas_limit", number(&tx["gas"])),
            ("value", number(&tx["value"])),
            ("value_overflow", "null".into()),
            ("input", bytes(&tx["input"])),
            ("r", padded(&tx["r"])),
            ("s", padded(&tx["s"])),
            ("y_parity", parity(tx)),
            ("chain_id", number(&tx["chainId"])),
            ("gas_used", number(&receipt["gasUsed"])),
            ("cumulative_gas_used", number(&receipt["cumulativeGasUsed"])),
            ("type", number(&receipt["type"])),
            ("max_fee_per_gas", number(&tx["maxFeePerGas"])),
            ("max_priority_fee_per_gas", number(&tx["maxPriorityFeePerGas"])),
            ("max_fee_per_blob_gas", number(&tx["maxFeePerBlobGas"])),
            ("effective_gas_price", number(&receipt["effectiveGasPrice"])),
            ("from", bytes(&tx["from"])),
            ("status", status.unwrap_or_else(|| "null".into())),
            ("contract_address", bytes(&receipt["contractAddress"])),
            ("state_root", bytes(&receipt["root"])),
            ("blob_gas_used", number(&receipt["blobGasUsed"])),
            ("blob_gas_price", number(&receipt["blobGasPrice"])),
            ("access_list", list(&tx["accessList"], &access)),
            ("blob_versioned_hashes", list(&tx["blobVersionedHashes"], &plain_hex)),
            ("authorization_list", list(&tx["authorizationList"], &authorization)),
        ],
    );
}

fn check_log(batch: &RecordBatch, row: usize, block: &Value, log: &Value) {
    expect(
        batch,
        row,
        &[
            ("_block_num", number(&block["number"])),
            ("block_hash", bytes(&log["blockHash"])),
            ("block_num", number(&log["blockNumber"])),
            ("timestamp", time(block)),
            ("tx_hash", bytes(&log["transactionHash"])),
            ("tx_index", number(&log["transactionIndex"])),
            ("log_index", number(&log["logIndex"])),
            ("address", bytes(&log["address"])),
            ("topic0", bytes(&log["topics"][0])),
            ("topic1", bytes(&log["topics"][1])),
            ("topic2", bytes(&log["topics"][2])),
            ("topic3", bytes(&log["topics"][3])),
            ("data", bytes(&log["data"])),
        ],
    );
}

fn check_withdrawal(batch: &RecordBatch, row: usize, block: &Value) {
    let withdrawal = &block["withdrawals"][row];
    expect(
        batch,
        row,
        &[
            ("_block_num", number(&block["number"])),
            ("block_hash", bytes(&block["hash"])),
            ("block_num", number(&block["number"])),
            ("timestamp", time(block)),
            ("index", number(&withdrawal["index"])),
            ("validator_index", number(&withdrawal["validatorIndex"])),
            ("address", bytes(&withdrawal["address"])),
            ("amount_gwei", number(&withdrawal["amount"])),
        ],
    );
}

fn check(raw: &RawBlock) {
    let rows = good(decoder(Verify::Header).decode(std::slice::from_ref(raw)));
    let read = |answer: &[u8]| serde_json::from_slice::<Value>(answer).unwrap()["result"].clone();
    let (block, receipts) = (read(&raw.block), read(raw.receipts.as_ref().unwrap()));
    let batch = |table: usize| &rows.tables[table].batch;
    check_block(batch(0), &block);
    let receipts = receipts.as_array().unwrap();
    assert_eq!(batch(1).num_rows(), receipts.len());
    for (row, receipt) in receipts.iter().enumerate() {
        check_tx(batch(1), row, &block, receipt);
    }
    let logs: Vec<_> = receipts.iter().flat_map(|receipt| receipt["logs"].as_array().unwrap()).collect();
    assert_eq!(batch(2).num_rows(), logs.len());
    for (row, log) in logs.into_iter().enumerate() {
        check_log(batch(2), row, &block, log);
    }
    let withdrawals = block["withdrawals"].as_array().map_or(0, Vec::len);
    assert_eq!(batch(3).num_rows(), withdrawals);
    (0..withdrawals).for_each(|row| check_withdrawal(batch(3), row, &block));
}

#[test]
fn every_cell_of_real_blocks_is_what_the_answer_says() {
    let Some(data) = super::real::data() else { return };
    let mainnet = data.join("rpc-mainnet-17686110-17686132/blocks_receipts.jsonl.zst");
    super::real::lines(mainnet).take(2).for_each(|block| check(&block));
    let forks = data.join("rpc-mainnet-fork-boundaries/blocks_receipts.jsonl.zst");
    let forks: Vec<_> = super::real::lines(forks).collect();
    // Before the Merge; with blobs and withdrawals; with all five types.
    for number in [14_764_013, 22_431_084, 22_869_878] {
        check(forks.iter().find(|block| block.number == number).unwrap());
    }
}

//! Every rule of the rows, on blocks written here.

use arrow::array::{Array, AsArray};
use serde_json::json;

use super::*;
use crate::error::SourceError;

#[test]
fn a_block_is_a_row_with_what_the_node_gives() {
    let mut block = empty_block(5);
    let rows = good(decoder(Verify::Header).decode(&[raw(&block, &json!([]))]));
    let batch = &rows.tables[0].batch;
    for (name, value) in [
        ("_block_num", "5".to_owned()),
        ("block_num", "5".to_owned()),
        ("timestamp", "2023-07-13T17:38:11Z".to_owned()),
        ("hash", block["hash"].as_str().unwrap().to_owned()),
        ("parent_hash", word(1)),
        ("miner", address(3)),
        ("receipt_root", word(6)),
        ("difficulty", "0".to_owned()),
        ("total_difficulty", "null".to_owned()),
        ("gas_limit", "30000000".to_owned()),
        ("extra_data", "0x6e6f7a7a6c65".to_owned()),
        ("nonce", "255".to_owned()),
        ("base_fee_per_gas", "null".to_owned()),
        ("withdrawals_root", "null".to_owned()),
        ("requests_hash", "null".to_owned()),
    ] {
        assert_eq!(cell(batch, name, 0), value, "{name}");
    }
    for name in ["nonce", "mixHash", "logsBloom"] {
        block.as_object_mut().unwrap().remove(name);
    }
    block["totalDifficulty"] = json!("0x10000000000000000000000000000000000");
    block["baseFeePerGas"] = json!(null);
    let rows = good(decoder(Verify::Links).decode(&[raw(&block, &json!([]))]));
    for name in ["nonce", "mix_hash", "logs_bloom", "total_difficulty", "base_fee_per_gas"] {
        assert_eq!(cell(&rows.tables[0].batch, name, 0), "null", "{name}");
    }
}

#[test]
fn later_header_fields_are_columns_and_part_of_the_hash() {
    let mut block = empty_block(5);
    let plain_hash = block["hash"].clone();
    for (name, value) in [
        ("baseFeePerGas", json!("0x0")),
        ("withdrawalsRoot", json!(word(8))),
        ("blobGasUsed", json!("0x20000")),
        ("excessBlobGas", json!("0x1")),
        ("parentBeaconBlockRoot", json!(word(9))),
        ("requestsHash", json!(word(10))),
    ] {
        block[name] = value;
    }
    assert!(error_of(&decoder(Verify::Header), &raw(&block, &json!([]))).contains("hashes to"));
    seal(&mut block);
    assert_ne!(block["hash"], plain_hash);
    let rows = good(decoder(Verify::Header).decode(&[raw(&block, &json!([]))]));
    let batch = &rows.tables[0].batch;
    assert_eq!(cell(batch, "base_fee_per_gas", 0), "0");
    assert_eq!(cell(batch, "blob_gas_used", 0), "131072");
    assert_eq!(cell(batch, "excess_blob_gas", 0), "1");
    assert_eq!(cell(batch, "parent_beacon_root", 0), word(9));
    assert_eq!(cell(batch, "requests_hash", 0), word(10));
}

#[test]
fn each_type_of_transaction_is_a_row() {
    let typed = |number: &str, v: &str| json!({"type": number, "v": v, "maxFeePerGas": "0x5", "maxPriorityFeePerGas": "0x1"});
    let mut access = typed("0x1", "0x1");
    access["accessList"] = json!([{"address": address(1), "storageKeys": [word(2), word(3)]}, {"address": address(4), "storageKeys": []}]);
    let mut blob = typed("0x3", "0x0");
    blob["blobVersionedHashes"] = json!([word(5)]);
    blob["maxFeePerBlobGas"] = json!("0x9");
    let mut set_code = typed("0x4", "0x0");
    set_code["accessList"] = json!([]);
    set_code["authorizationList"] = json!([{
        "chainId": "0x100000000000000000000000000000000", "address": address(6), "nonce": "0x2",
        "yParity": "0x1", "r": "0xabc", "s": word(7),
    }]);
    let unknown = json!({"type": "0x7e", "input": null, "value": null, "gasPrice": null, "r": null, "s": null,
        "v": null, "chainId": null, "mint": "0x1", "sourceHash": word(1), "isSystemTx": true});
    let txs = [json!({}), access, typed("0x2", "0x1"), blob, set_code, unknown]
        .into_iter()
        .enumerate()
        .map(|(i, fields)| tx(i, &fields));
    let batch = tx_rows(&txs.collect::<Vec<_>>());
    let all = |name: &str| (0..6).map(|row| cell(&batch, name, row)).collect::<Vec<_>>();
    assert_eq!(all("type"), ["0", "1", "2", "3", "4", "126"]);
    assert_eq!(all("tx_index"), ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(all("y_parity"), ["false", "true", "true", "false", "false", "null"]);
    assert_eq!(all("max_fee_per_gas"), ["null", "5", "5", "5", "5", "null"]);
    assert_eq!(all("max_fee_per_blob_gas"), ["null", "null", "null", "9", "null", "null"]);
    assert_eq!(all("value")[4..], ["1000000000000000000", "null"]);
    assert_eq!(all("value_overflow"), ["null"; 6]);
    assert_eq!(all("input")[5], "0x");
    assert_eq!(all("r")[0], format!("0x{}1", "0".repeat(63)));
    assert_eq!(all("r")[5], "null");
    let lists = |name: &str| column(&batch, name).as_list::<i32>().clone();
    let lengths = |name: &str| lists(name).iter().map(|list| list.map(|l| l.len())).collect::<Vec<_>>();
    assert_eq!(lengths("access_list"), [None, Some(2), None, None, Some(0), None]);
    assert_eq!(lengths("blob_versioned_hashes"), [None, None, None, Some(1), None, None]);
    assert_eq!(lengths("authorization_list"), [None, None, None, None, Some(1), None]);
    let access = lists("access_list").value(1);
    let keys = access.as_struct().column(1).as_list::<i32>();
    assert_eq!(keys.iter().map(|list| list.unwrap().len()).collect::<Vec<_>>(), [2, 0]);
    assert_eq!(keys.value(0).as_binary::<i32>().value(1), [3; 32]);
    assert_eq!(access.as_struct().column(0).as_binary::<i32>().value(1), [4; 20]);
    let list = lists("authorization_list").value(4);
    let item = list.as_struct();
    assert_eq!(item.column(0).as_string::<i32>().value(0), "340282366920938463463374607431768211456");
    assert_eq!(item.column(2).as_primitive::<UInt64Type>().value(0), 2);
    let mut padded = [0; 32];
    padded[30..].copy_from_slice(&[0x0a, 0xbc]);
    assert_eq!(item.column(4).as_binary::<i32>().value(0), padded);
    assert_eq!(item.column(5).as_binary::<i32>().value(0), [7; 32]);
}

#[test]
fn a_legacy_transaction_may_come_without_type_chain_and_signature() {
    let bare =
        json!({"type": null, "chainId": null, "v": null, "r": null, "s": null, "to": null, "extra": [{}]});
    let batch = tx_rows(&[tx(0, &bare)]);
    assert_eq!(cell(&batch, "type", 0), "0");
    for name in ["chain_id", "y_parity", "r", "s", "to"] {
        assert_eq!(cell(&batch, name, 0), "null", "{name}");
    }
    assert_eq!(cell(&batch, "gas_price", 0), "1000000000");
}

#[test]
fn an_amount_of_more_than_38_digits_is_kept_whole() {
    let max = u128::MAX;
    let fits = format!("{:#x}", super::super::hex::MAX_DECIMAL);
    let amounts = [fits, format!("{max:#x}"), word(0xff)];
    let txs: Vec<_> = amounts
        .iter()
        .enumerate()
        .map(|(i, value)| tx(i, &json!({"value": value, "gasPrice": value})))
        .collect();
    let batch = tx_rows(&txs);
    let all = |name: &str| (0..3).map(|row| cell(&batch, name, row)).collect::<Vec<_>>();
    assert_eq!(all("value"), ["9".repeat(38), "null".into(), "null".into()]);
    assert_eq!(all("gas_price"), ["9".repeat(38), "null".into(), "null".into()]);
    let low_half = format!("0x{}{max:x}", "0".repeat(32));
    assert_eq!(all("value_overflow"), ["null".to_owned(), low_half, word(0xff)]);
    let (block, receipts) = block_of(&[tx(0, &json!({"value": format!("0x1{}", "0".repeat(64))}))]);
    assert!(error_of(&decoder(Verify::Links), &raw(&block, &receipts)).contains("`value_overflow`"));
}

#[test]
fn receipts_before_byzantium_have_a_root_and_no_status() {
    let (block, _) = block_of(&[tx(0, &json!({})), tx(1, &json!({}))]);
    let old =
        json!({"status": null, "root": word(9), "effectiveGasPrice": null, "contractAddress": address(8)});
    let failed = json!({"status": "0x0", "blobGasUsed": "0x20000", "blobGasPrice": "0x1"});
    let receipts = json!([receipt(&block, 0, &old), receipt(&block, 1, &failed)]);
    let rows = good(decoder(Verify::Header).decode(&[raw(&block, &receipts)]));
    let batch = &rows.tables[1].batch;
    let both = |name: &str| [cell(batch, name, 0), cell(batch, name, 1)];
    assert_eq!(both("status"), ["null", "false"]);
    assert_eq!(both("state_root"), [word(9), "null".into()]);
    assert_eq!(both("contract_address"), [address(8), "null".into()]);
    assert_eq!(both("effective_gas_price"), ["null", "1000000000"]);
    assert_eq!(both("gas_used"), ["21000", "21000"]);
    assert_eq!(both("cumulative_gas_used"), ["42000", "42000"]);
    assert_eq!(both("blob_gas_used"), ["null", "131072"]);
    assert_eq!(both("blob_gas_price"), ["null", "1"]);
}

#[test]
fn logs_and_withdrawals_are_rows_of_their_block() {
    let log = |index: u64, topics: usize| {
        json!({"address": address(1), "data": "0x0102", "logIndex": format!("{index:#x}"),
        "topics": (0..topics).map(|n| word(n as u8)).collect::<Vec<_>>(), "transactionHash": null})
    };
    let (mut block, _) = block_of(&[tx(0, &json!({})), tx(1, &json!({}))]);
    block["withdrawals"] =
        json!([{"index": "0xa", "validatorIndex": "0xb", "address": address(2), "amount": "0xfbe66a"}]);
    let receipts = json!([
        receipt(&block, 0, &json!({"logs": [log(0, 0), log(1, 4)]})),
        receipt(&block, 1, &json!({"logs": [log(5, 2)]})),
    ]);
    let mut next = empty_block(6);
    next["parentHash"] = block["hash"].clone();
    seal(&mut next);
    let rows = good(decoder(Verify::Header).decode(&[raw(&block, &receipts), raw(&next, &json!([]))]));
    assert_eq!(
        rows.tables.iter().map(|table| table.ends.clone()).collect::<Vec<_>>(),
        [vec![1, 2], vec![2, 2], vec![3, 3], vec![1, 1],]
    );
    assert_eq!((rows.range.start(), rows.range.end(), rows.blocks.len()), (5, 6, 2));
    assert_eq!(rows.blocks[1].parent_hash, rows.blocks[0].hash);
    let logs = &rows.tables[2].batch;
    let all = |name: &str| (0..3).map(|row| cell(logs, name, row)).collect::<Vec<_>>();
    assert_eq!(all("log_index"), ["0", "1", "5"]);
    assert_eq!(all("tx_index"), ["0", "0", "1"]);
    assert_eq!(all("tx_hash"), [word(100), word(100), word(101)]);
    assert_eq!(all("topic0"), ["null".into(), word(0), word(0)]);
    assert_eq!(all("topic1"), ["null".into(), word(1), word(1)]);
    assert_eq!(all("topic3"), ["null".into(), word(3), "null".to_owned()]);
    assert_eq!(all("data"), ["0x0102"; 3]);
    let withdrawals = &rows.tables[3].batch;
    assert_eq!(cell(withdrawals, "index", 0), "10");
    assert_eq!(cell(withdrawals, "validator_index", 0), "11");
    assert_eq!(cell(withdrawals, "address", 0), address(2));
    assert_eq!(cell(withdrawals, "amount_gwei", 0), "16508522");
    assert_eq!(cell(withdrawals, "_block_num", 0), "5");
}

#[test]
fn only_selected_tables_and_columns_are_built_in_the_order_given() {
    let (block, receipts) = block_of(&[tx(0, &json!({"value": "no number"}))]);
    let tables = select(&[("transactions", "tx_hash,nonce"), ("blocks", "hash")]);
    let decoder = Decoder::new("node", tables.clone(), Verify::Header).unwrap();
    assert!(!decoder.needs_receipts());
    let without = RawBlock { receipts: None, ..raw(&block, &receipts) };
    let rows = good(decoder.decode(&[without]));
    let schemas: Vec<_> = rows.tables.iter().map(|table| table.batch.schema()).collect();
    assert_eq!(schemas, tables.iter().map(|table| table.schema.clone()).collect::<Vec<_>>());
    assert_eq!(cell(&rows.tables[0].batch, "nonce", 0), "7");
    assert_eq!(rows.tables[1].ends, [1]);
}

#[test]
fn receipts_are_needed_for_logs_and_for_receipt_columns_only() {
    let needs = |wanted: &[(&str, &str)]| {
        Decoder::new("node", select(wanted), Verify::Links).unwrap().needs_receipts()
    };
    assert!(needs(&[("logs", "address")]));
    for name in super::super::transactions::RECEIPT_COLUMNS {
        assert!(needs(&[("transactions", name)]), "{name}");
    }
    assert!(!needs(&[("blocks", "gas_used"), ("withdrawals", "index")]));
    let others: Vec<_> = tables()[1].schema.fields().iter().map(|field| field.name().clone()).collect();
    let others: Vec<_> = others
        .into_iter()
        .filter(|name| !super::super::transactions::RECEIPT_COLUMNS.contains(&name.as_str()))
        .collect();
    assert!(!needs(&[("transactions", &others.join(","))]));
    let decoder = decoder(Verify::Links);
    let (block, receipts) = block_of(&[]);
    let without = RawBlock { receipts: None, ..raw(&block, &receipts) };
    assert!(error_of(&decoder, &without).contains("does not have the receipts of block 5"));
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    let refused = |tables: Vec<TableDef>, verify| match Decoder::new("node", tables, verify) {
        Err(SourceError::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused([tables(), tables()].concat(), Verify::Links).contains("twice"));
    let calls = TableDef::new("calls".parse().unwrap(), vec![]);
    assert!(refused(vec![calls], Verify::Links).contains("`calls`"));
    let odd = arrow::datatypes::Field::new("hash", arrow::datatypes::DataType::Utf8, false);
    let blocks = TableDef::new("blocks".parse().unwrap(), vec![odd]);
    assert!(refused(vec![blocks], Verify::Links).contains("no such column"));
}

#[test]
fn a_missing_or_bad_value_names_its_column() {
    let decoder = decoder(Verify::Links);
    let with = |change: &dyn Fn(&mut Value, &mut Value)| {
        let (mut block, mut receipts) = block_of(&[tx(0, &json!({}))]);
        change(&mut block, &mut receipts);
        error_of(&decoder, &raw(&block, &receipts))
    };
    let text = with(&|block, _| block["transactions"][0]["nonce"] = json!(null));
    assert_eq!(text, "the provider `node` sent a bad block 5: `nonce` of row 0 of `transactions` is missing");
    assert!(with(&|block, _| block["transactions"][0]["input"] = json!(null)).contains("`input`"));
    assert!(with(&|block, _| block["transactions"][0]["value"] = json!(null)).contains("`value`"));
    assert!(
        with(&|block, _| block["transactions"][0]["to"] = json!("0x12")).contains("is not 20 bytes long")
    );
    assert!(with(&|block, _| block["timestamp"] = json!("0xffffffffffff")).contains("is too large"));
    assert!(with(&|block, _| block["gasUsed"] = json!("12")).contains("`gas_used` of row 0 of `blocks`"));
    assert!(with(&|block, _| block["blobGasUsed"] = json!(word(1))).contains("`blob_gas_used`"));
    assert!(with(&|block, _| block["difficulty"] = json!(word(1))).contains("`difficulty`"));
    assert!(with(&|block, _| block["hash"] = json!(null)).contains("`hash` is missing"));
    assert!(with(&|block, _| block["transactions"] = json!(null)).contains("`transactions` is missing"));
    assert!(with(&|block, _| block["transactions"][0] = json!(word(100))).contains("`nonce`"));
    assert!(with(&|_, receipts| receipts[0]["gasUsed"] = json!(null)).contains("`gas_used`"));
    assert!(with(&|_, receipts| receipts[0]["logs"] = json!(null)).contains("`logs` of receipt 0"));
    assert!(with(&|_, receipts| receipts[0]["status"] = json!("0x2")).contains("`status`"));
    assert!(with(&|_, receipts| receipts[0]["status"] = json!(1)).contains("the receipts cannot be read"));
}

#[test]
fn receipts_must_be_those_of_the_block_and_its_transactions() {
    let with = |verify, change: &dyn Fn(&mut Value, &mut Value)| {
        let (mut block, mut receipts) = block_of(&[tx(0, &json!({})), tx(1, &json!({}))]);
        change(&mut block, &mut receipts);
        decoder(verify).decode(&[raw(&block, &receipts)]).error.map(|error| error.to_string())
    };
    let links = |change: &dyn Fn(&mut Value, &mut Value)| with(Verify::Links, change).expect("an error");
    assert_eq!(with(Verify::Header, &|_, _| ()), None);
    let fork = |_: &mut Value, receipts: &mut Value| receipts[1]["blockHash"] = json!(word(9));
    assert!(links(&fork).contains("does not have receipts that match the hash of block 5"));
    assert_eq!(with(Verify::None, &fork), None);
    assert!(
        links(&|_, receipts| receipts[1]["transactionHash"] = json!(word(9))).contains("another transaction")
    );
    assert!(links(&|_, receipts| receipts[1]["transactionIndex"] = json!("0x0")).contains("another index"));
    assert!(
        links(&|block, _| block["transactions"][1]["transactionIndex"] = json!("0x2"))
            .contains("another index")
    );
    let swapped = |_: &mut Value, receipts: &mut Value| receipts.as_array_mut().unwrap().reverse();
    assert!(links(&swapped).contains("another transaction"));
    let fewer = |_: &mut Value, receipts: &mut Value| drop(receipts.as_array_mut().unwrap().pop());
    assert!(links(&fewer).contains("2 transactions but 1 receipts"));
    assert!(with(Verify::None, &fewer).is_some());
    let log = json!({"address": address(1), "data": "0x", "topics": [], "logIndex": "0x3", "transactionHash": word(100)});
    let twice = |_: &mut Value, receipts: &mut Value| receipts[0]["logs"] = json!([log, log]);
    assert!(links(&twice).contains("out of order"));
    // Queries rely on the order, whatever is checked.
    assert!(with(Verify::None, &twice).expect("an error").contains("out of order"));
    let elsewhere = |_: &mut Value, receipts: &mut Value| receipts[1]["logs"] = json!([log]);
    assert!(links(&elsewhere).contains("a log at receipt 1"));
}

#[test]
fn a_header_that_hashes_in_another_way_names_the_setting() {
    let mut block = empty_block(5);
    block["hash"] = json!(word(0xaa));
    let block = raw(&block, &json!([]));
    let text = error_of(&decoder(Verify::Header), &block);
    assert!(text.contains(r#"say "verify": "links" in the manifest"#), "{text}");
    assert!(text.contains(&word(0xaa)), "{text}");
    good(decoder(Verify::Links).decode(std::slice::from_ref(&block)));
    // The hash is checked whatever is stored.
    let only = Decoder::new("node", select(&[("withdrawals", "index")]), Verify::Header).unwrap();
    assert!(error_of(&only, &block).contains("hashes to"));
    let mut bare = empty_block(5);
    bare.as_object_mut().unwrap().remove("mixHash");
    let text = error_of(&decoder(Verify::Header), &raw(&bare, &json!([])));
    assert!(text.contains("`mixHash` is missing") && text.contains(r#""verify": "links""#), "{text}");
}

#[test]
fn the_good_blocks_before_a_bad_one_are_given() {
    let mut blocks = vec![empty_block(5)];
    for number in 6..9 {
        let mut block = empty_block(number);
        block["parentHash"] = blocks.last().unwrap()["hash"].clone();
        seal(&mut block);
        blocks.push(block);
    }
    let raws: Vec<_> = blocks.iter().map(|block| raw(block, &json!([]))).collect();
    assert_eq!(good(decoder(Verify::Header).decode(&raws)).blocks.len(), 4);
    let mut bad = raws.clone();
    bad[2].number = 70;
    let decoded = decoder(Verify::None).decode(&bad);
    assert_eq!(decoded.rows.unwrap().tables[0].ends, [1, 2]);
    assert!(decoded.error.unwrap().to_string().contains("bad block 70: it is the block 7"));
    let mut fork = blocks.clone();
    fork[2]["parentHash"] = json!(word(0xee));
    let raws: Vec<_> = fork.iter().map(|block| raw(block, &json!([]))).collect();
    let decoded = decoder(Verify::None).decode(&raws);
    assert_eq!(decoded.rows.unwrap().blocks.len(), 2);
    match decoded.error {
        Some(SourceError::NotLinked { block: 7, expected, found }) => {
            assert_eq!(expected.to_string(), blocks[1]["hash"].as_str().unwrap());
            assert_eq!(found.0, [0xee; 32]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_that_are_no_block_say_why() {
    let decoder = decoder(Verify::Header);
    let given = |block: &str, receipts: &str| {
        let raw = RawBlock {
            number: 5,
            block: block.to_owned().into(),
            receipts: Some(receipts.to_owned().into()),
        };
        decoder.decode(&[raw]).error.expect("an error")
    };
    let block = String::from_utf8(answer(&empty_block(5)).to_vec()).unwrap();
    assert!(matches!(given(r#"{"result":null}"#, "{}"), SourceError::Missing { what: "the block", .. }));
    assert!(matches!(given(&block, r#"{"result":null}"#), SourceError::Missing { what: "the receipts", .. }));
    assert!(matches!(given(&block[..400], "{}"), SourceError::Unavailable { .. }));
    assert!(matches!(given("", "{}"), SourceError::Unavailable { .. }));
    assert!(matches!(given(r#"{"error":{"code":1,"message":"x"}}"#, "{}"), SourceError::Unavailable { .. }));
    let none = r#"{"result":[]}"#;
    assert!(matches!(given(none, none), SourceError::Malformed { .. }));
    assert!(matches!(given(r#"{"result":"0x1"}"#, none), SourceError::Malformed { .. }));
    assert!(matches!(given(r#"{"result":{"number":5}}"#, none), SourceError::Malformed { .. }));
}

//! What each cell must hold, found by another way through the answer: JSON pointers and `serde_json`.

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, TimestampMicrosecondType, UInt64Type},
};
use serde_json::Value;

use super::*;

/// A table: where in a block's body its items lie, and where in an item the columns do, behind those
/// that name the block.
type Mapping = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const TABLES: [Mapping; 8] = [
    (
        "attestations",
        &["/attestations"],
        &[
            ("aggregation_bits", "/aggregation_bits"),
            ("committee_bits", "/committee_bits"),
            ("slot", "/data/slot"),
            ("index", "/data/index"),
            ("beacon_block_root", "/data/beacon_block_root"),
            ("source_epoch", "/data/source/epoch"),
            ("source_root", "/data/source/root"),
            ("target_epoch", "/data/target/epoch"),
            ("target_root", "/data/target/root"),
            ("signature", "/signature"),
        ],
    ),
    (
        "deposits",
        &["/deposits"],
        &[
            ("proof", "/proof"),
            ("pubkey", "/data/pubkey"),
            ("withdrawal_credentials", "/data/withdrawal_credentials"),
            ("amount", "/data/amount"),
            ("signature", "/data/signature"),
        ],
    ),
    (
        "withdrawals",
        &["/execution_payload/withdrawals"],
        &[
            ("index", "/index"),
            ("validator_index", "/validator_index"),
            ("address", "/address"),
            ("amount", "/amount"),
        ],
    ),
    (
        "voluntary_exits",
        &["/voluntary_exits"],
        &[
            ("epoch", "/message/epoch"),
            ("validator_index", "/message/validator_index"),
            ("signature", "/signature"),
        ],
    ),
    (
        "proposer_slashings",
        &["/proposer_slashings"],
        &[
            ("signed_header_1_slot", "/signed_header_1/message/slot"),
            ("signed_header_1_proposer_index", "/signed_header_1/message/proposer_index"),
            ("signed_header_1_parent_root", "/signed_header_1/message/parent_root"),
            ("signed_header_1_state_root", "/signed_header_1/message/state_root"),
            ("signed_header_1_body_root", "/signed_header_1/message/body_root"),
            ("signed_header_1_signature", "/signed_header_1/signature"),
            ("signed_header_2_slot", "/signed_header_2/message/slot"),
            ("signed_header_2_proposer_index", "/signed_header_2/message/proposer_index"),
            ("signed_header_2_parent_root", "/signed_header_2/message/parent_root"),
            ("signed_header_2_state_root", "/signed_header_2/message/state_root"),
            ("signed_header_2_body_root", "/signed_header_2/message/body_root"),
            ("signed_header_2_signature", "/signed_header_2/signature"),
        ],
    ),
    (
        "attester_slashings",
        &["/attester_slashings"],
        &[
            ("attestation_1_attesting_indices", "/attestation_1/attesting_indices"),
            ("attestation_1_slot", "/attestation_1/data/slot"),
            ("attestation_1_index", "/attestation_1/data/index"),
            ("attestation_1_beacon_block_root", "/attestation_1/data/beacon_block_root"),
            ("attestation_1_source_epoch", "/attestation_1/data/source/epoch"),
            ("attestation_1_source_root", "/attestation_1/data/source/root"),
            ("attestation_1_target_epoch", "/attestation_1/data/target/epoch"),
            ("attestation_1_target_root", "/attestation_1/data/target/root"),
            ("attestation_1_signature", "/attestation_1/signature"),
            ("attestation_2_attesting_indices", "/attestation_2/attesting_indices"),
            ("attestation_2_slot", "/attestation_2/data/slot"),
            ("attestation_2_index", "/attestation_2/data/index"),
            ("attestation_2_beacon_block_root", "/attestation_2/data/beacon_block_root"),
            ("attestation_2_source_epoch", "/attestation_2/data/source/epoch"),
            ("attestation_2_source_root", "/attestation_2/data/source/root"),
            ("attestation_2_target_epoch", "/attestation_2/data/target/epoch"),
            ("attestation_2_target_root", "/attestation_2/data/target/root"),
            ("attestation_2_signature", "/attestation_2/signature"),
        ],
    ),
    (
        "bls_to_execution_changes",
        &["/bls_to_execution_changes"],
        &[
            ("validator_index", "/message/validator_index"),
            ("from_bls_pubkey", "/message/from_bls_pubkey"),
            ("to_execution_address", "/message/to_execution_address"),
            ("signature", "/signature"),
        ],
    ),
    (
        "execution_requests",
        &[
            "/execution_requests/deposits",
            "/execution_requests/withdrawals",
            "/execution_requests/consolidations",
        ],
        &[
            ("index", "/index"),
            ("pubkey", "/pubkey"),
            ("withdrawal_credentials", "/withdrawal_credentials"),
            ("amount", "/amount"),
            ("signature", "/signature"),
            ("source_address", "/source_address"),
            ("validator_pubkey", "/validator_pubkey"),
            ("source_pubkey", "/source_pubkey"),
            ("target_pubkey", "/target_pubkey"),
        ],
    ),
];

/// A cell as the API would write it.
fn cell(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    let hex = |bytes: &[u8]| const_hex::encode_prefixed(bytes).into();
    match array.data_type() {
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).to_string().into(),
        DataType::Timestamp(..) => array.as_primitive::<TimestampMicrosecondType>().value(row).into(),
        DataType::FixedSizeBinary(_) => hex(array.as_fixed_size_binary().value(row)),
        DataType::Binary => hex(array.as_binary::<i32>().value(row)),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::List(_) => {
            let list = array.as_list::<i32>().value(row);
            (0..list.len()).map(|item| cell(&list, item)).collect()
        }
        other => panic!("no column is of the type {other}"),
    }
}

pub(super) fn column(batch: &RecordBatch, name: &str, row: usize) -> Value {
    cell(batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}")), row)
}

/// Checks every cell of the rows of one block, and gives the number of rows for each table.
pub(super) fn check(rows: &BlockRows, header: &Value, block: &Value, timestamp_micros: i64) -> Vec<usize> {
    let message = &block["data"]["message"];
    let root = &header["data"]["root"];
    check_block(&rows.tables[0].batch, header, block, timestamp_micros);
    let mut counts = vec![1];
    for table in tables().iter().skip(1) {
        let place = tables().iter().position(|known| known.name == table.name).unwrap();
        let batch = &rows.tables[place].batch;
        let (_, lists, columns) =
            TABLES.iter().find(|(name, ..)| *name == table.name.as_str()).expect("each table is known");
        let expected: Vec<&Value> = lists
            .iter()
            .filter_map(|list| message["body"].pointer(list))
            .flat_map(|list| list.as_array().unwrap())
            .collect();
        assert_eq!(batch.num_rows(), expected.len(), "{}", table.name);
        for (row, item) in expected.iter().enumerate() {
            assert_eq!(column(batch, "_block_num", row), message["slot"], "{}", table.name);
            assert_eq!(column(batch, "block_num", row), message["slot"], "{}", table.name);
            assert_eq!(column(batch, "block_root", row), *root, "{}", table.name);
            assert_eq!(column(batch, "timestamp", row), timestamp_micros, "{}", table.name);
            for (name, pointer) in *columns {
                // Addresses may be written with the sum of their digits, in large and small letters.
                let expected = match item.pointer(pointer).unwrap_or(&Value::Null) {
                    Value::String(text) => text.to_ascii_lowercase().into(),
                    other => other.clone(),
                };
                assert_eq!(column(batch, name, row), expected, "{name} of row {row} of {}", table.name);
            }
        }
        // None is left unlooked at; `type` says what kind of request it is.
        let others = 4 + usize::from(table.name.as_str() == "execution_requests");
        assert_eq!(batch.num_columns(), columns.len() + others, "{}", table.name);
        counts.push(expected.len());
    }
    counts
}

fn check_block(batch: &RecordBatch, header: &Value, block: &Value, timestamp_micros: i64) {
    let message = &block["data"]["message"];
    let body = &message["body"];
    let of_body = |pointer: &str| body.pointer(pointer).cloned().unwrap_or(Value::Null);
    let is_merged = body.pointer("/execution_payload/block_hash").is_some_and(|hash| {
        hash.as_str().unwrap().trim_start_matches("0x").bytes().any(|digit| digit != b'0')
    });
    let of_payload = |pointer: &str| if is_merged { of_body(pointer) } else { Value::Null };
    let expected = [
        ("_block_num", message["slot"].clone()),
        ("block_num", message["slot"].clone()),
        ("timestamp", timestamp_micros.into()),
        ("root", header["data"]["root"].clone()),
        ("parent_root", message["parent_root"].clone()),
        ("state_root", message["state_root"].clone()),
        ("body_root", header["data"]["header"]["message"]["body_root"].clone()),
        ("version", block["version"].clone()),
        ("proposer_index", message["proposer_index"].clone()),
        ("signature", block["data"]["signature"].clone()),
        ("randao_reveal", of_body("/randao_reveal")),
        ("eth1_data_deposit_root", of_body("/eth1_data/deposit_root")),
        ("eth1_data_deposit_count", of_body("/eth1_data/deposit_count")),
        ("eth1_data_block_hash", of_body("/eth1_data/block_hash")),
        ("graffiti", of_body("/graffiti")),
        ("sync_committee_bits", of_body("/sync_aggregate/sync_committee_bits")),
        ("sync_committee_signature", of_body("/sync_aggregate/sync_committee_signature")),
        ("execution_block_hash", of_payload("/execution_payload/block_hash")),
        ("execution_block_number", of_payload("/execution_payload/block_number")),
        ("blob_kzg_commitments", of_body("/blob_kzg_commitments")),
    ];
    assert_eq!((batch.num_rows(), batch.num_columns()), (1, expected.len()));
    for (name, value) in expected {
        assert_eq!(column(batch, name, 0), value, "{name}");
    }
}

/// A body of electra with an item of every kind, each with values of its own.
fn full_body() -> Value {
    let hex = |byte: u8, length: usize| const_hex::encode_prefixed(vec![byte; length]);
    let header = |byte: u8| {
        json!({
            "message": {
                "slot": byte.to_string(), "proposer_index": "40", "parent_root": hex(byte, 32),
                "state_root": hex(byte + 1, 32), "body_root": hex(byte + 2, 32),
            },
            "signature": hex(byte, 96),
        })
    };
    let attestation = |byte: u8| {
        json!({
            "attesting_indices": ["1", "18446744073709551615", byte.to_string()],
            "data": {
                "slot": byte.to_string(), "index": "9", "beacon_block_root": hex(byte, 32),
                "source": {"epoch": "1", "root": hex(byte + 1, 32)},
                "target": {"epoch": "2", "root": hex(byte + 2, 32)},
            },
            "signature": hex(byte, 96),
        })
    };
    let proof: Vec<String> = (0..33).map(|byte| hex(byte, 32)).collect();
    let deposit = json!({
        "proof": proof,
        "data": {
            "pubkey": hex(60, 48), "withdrawal_credentials": hex(61, 32), "amount": "32000000000",
            "signature": hex(62, 96),
        },
    });
    let exit = json!({"message": {"epoch": "5", "validator_index": "6"}, "signature": hex(63, 96)});
    let change = json!({
        "message": {"validator_index": "7", "from_bls_pubkey": hex(64, 48), "to_execution_address": hex(65, 20)},
        "signature": hex(66, 96),
    });
    let mut body = nozzle_testkit::beacon::body(9, 1);
    body["proposer_slashings"] = json!([{"signed_header_1": header(10), "signed_header_2": header(20)}]);
    body["attester_slashings"] =
        json!([{"attestation_1": attestation(30), "attestation_2": attestation(40)}]);
    body["deposits"] = json!([deposit, deposit]);
    body["voluntary_exits"] = json!([exit]);
    body["bls_to_execution_changes"] = json!([change, change, change]);
    body
}

#[test]
fn every_kind_of_item_is_a_row_and_part_of_the_root() {
    let body = full_body();
    // By remerkleable 0.1.28, another implementation.
    let body_root = const_hex::decode_to_array(BODY_ROOT).unwrap();
    let parent = const_hex::encode_prefixed([3; 32]);
    let block = nozzle_testkit::beacon::BeaconBlock::new(9, &parent, "electra", &body, body_root, 1);
    let raw = raw(&mainnet(), &block.header, &block.block);
    let rows = good(decoder(Verify::Full).decode(&[raw]));
    let counts = check(&rows, &block.header, &block.block, 1_606_824_023_000_000 + 9 * 12_000_000);
    assert_eq!(counts, [1, 2, 2, 1, 1, 1, 1, 3, 3]);
    let types: Vec<_> = (0..3).map(|row| column(&rows.tables[8].batch, "type", row)).collect();
    assert_eq!(types, ["deposit", "withdrawal", "consolidation"]);
}

const BODY_ROOT: &str = "0xa9c20512157b9e89587ac8192496b550ed879622c904ccec3ad1a2f7fa8789c9";

#[test]
fn tables_and_columns_are_chosen() {
    let of = |name: &str, column: &str| {
        let table = tables().into_iter().find(|table| table.name.as_str() == name).unwrap();
        table.select(&[column.to_owned()]).unwrap()
    };
    let chosen = vec![of("blocks", "root"), of("withdrawals", "amount")];
    let decoder = Decoder::new("node", chosen, Verify::Header).unwrap();
    let chain = nozzle_testkit::beacon::BeaconChain::build(1, &[]);
    let block = chain.at(1).unwrap();
    let rows = good(decoder.decode(&[raw(&mainnet(), &block.header, &block.block)]));
    let names = |index: usize| {
        rows.tables[index]
            .batch
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(0), names(1)),
        (vec!["_block_num".into(), "root".into()], vec!["_block_num".into(), "amount".into()])
    );
    for bad in
        [vec![tables()[0].clone(), tables()[0].clone()], vec![TableDef::new("logs".parse().unwrap(), vec![])]]
    {
        assert!(matches!(Decoder::new("node", bad, Verify::None), Err(SourceError::Refused { .. })));
    }
    assert!(matches!(Decoder::new("node", tables(), Verify::Senders), Err(SourceError::Refused { .. })));
}

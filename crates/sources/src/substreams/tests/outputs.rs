//! The recorded outputs of four real modules, beside what another implementation reads in them.

use std::{collections::BTreeMap, process::Command};

use base64::Engine;
use serde_json::{Map, Value};

use super::*;

#[derive(serde::Deserialize)]
struct Recorded {
    number: u64,
    id: String,
    #[serde(rename = "type")]
    message: String,
    output_b64: String,
}

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

/// The recorded outputs of a module, as an endpoint would give them.
pub(super) fn recorded(file: &str) -> Option<Vec<ModuleOutput>> {
    let text = unpacked(&data("substreams-outputs")?.join(file));
    let hash = |id: &str| id.parse().unwrap();
    let mut parent_hash = BlockHash::ZERO;
    let outputs = text.lines().map(|line| {
        let line: Recorded = serde_json::from_str(line).unwrap();
        let block = BlockLink { number: line.number, hash: hash(&line.id), parent_hash };
        parent_hash = block.hash;
        ModuleOutput {
            block,
            timestamp_micros: 1_689_269_900_000_000 + line.number as i64,
            type_url: line.message.replace("proto:", "type.googleapis.com/"),
            output: BASE64.decode(&line.output_b64).unwrap().into(),
        }
    });
    Some(outputs.collect())
}

/// For each table its rows, as JSON, with their blocks.
type Tables = BTreeMap<String, Vec<(u64, Value)>>;

/// The Python of the tests, which has Google's protobuf.
fn python() -> PathBuf {
    std::env::var_os("NOZZLE_TEST_PYTHON").map(PathBuf::from).unwrap_or_else(|| {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/venv/bin/python");
        assert!(python.exists(), "Python with protobuf is missing; run `scripts/test --setup`");
        python
    })
}

/// What Google's protobuf reads in the outputs: for each table its rows, with their blocks.
fn independently(spkg: &str, message: &str, file: &str) -> Tables {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("outputs.jsonl");
    std::fs::write(&lines, unpacked(&data("substreams-outputs").unwrap().join(file))).unwrap();
    let mut command = Command::new(python());
    command.arg("-c").arg(include_str!("decode.py"));
    let output = command.arg(data("spkg").unwrap().join(spkg)).arg(message).arg(&lines).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut tables = Tables::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let mut line: Map<String, Value> = serde_json::from_str(line).unwrap();
        let table = line["table"].as_str().unwrap().to_owned();
        let block = line["block"].as_u64().unwrap();
        tables.entry(table).or_default().push((block, line.remove("row").unwrap()));
    }
    tables
}

/// The decoded rows of all tables, each with its block; each table's ends fit the blocks.
fn decoded(spkg: &str, module: &str, file: &str) -> Option<Tables> {
    let outputs = recorded(file)?;
    let decoder = decoder(&real(spkg)?, module);
    let decoded = decoder.decode(range_of(&outputs), &outputs, 7);
    assert!(decoded.error.is_none(), "{:?}", decoded.error);
    let rows = decoded.rows.unwrap();
    assert_eq!((rows.blocks.len(), rows.source_bytes), (23, 7));
    let mut tables = Tables::new();
    for (table, rows) in decoder.tables().iter().zip(&rows.tables) {
        assert_eq!(rows.batch.schema(), table.schema);
        assert_eq!((rows.ends.len(), *rows.ends.last().unwrap()), (23, rows.batch.num_rows()));
        let block_of =
            |row: usize| outputs[rows.ends.iter().position(|end| row < *end).unwrap()].block.number;
        let json = rows_as_json(&rows.batch).into_iter().enumerate();
        let json: Vec<_> = json.map(|(i, row)| (block_of(i), row)).collect();
        if !json.is_empty() {
            tables.insert(table.name.to_string(), json);
        }
    }
    Some(tables)
}

#[test]
fn transfers_are_what_another_implementation_reads() {
    for (spkg, message, rows) in [
        ("erc20-transfers-v0.4.0", "erc20.transfers.v1.Events", 2510),
        ("evm-native-transfers-v0.2.0", "native.transfers.v1.Events", 2365),
    ] {
        let (file, spkg) = (format!("{spkg}.map_events.jsonl.zst"), format!("{spkg}.spkg"));
        let Some(tables) = decoded(&spkg, "map_events", &file) else { return };
        assert_eq!(tables["transactions"].len(), rows);
        let expected = independently(&spkg, message, &file);
        assert_eq!(tables.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, rows) in tables {
            assert_eq!(rows.len(), expected[&name].len());
            for (i, (row, expected)) in rows.iter().zip(&expected[&name]).enumerate() {
                assert_eq!(row, expected, "row {i} of {name} of {spkg}");
            }
        }
    }
}

/// A value as the module sent it: text.
fn as_sent(value: &Value) -> String {
    match value {
        Value::String(text) if text.ends_with('Z') && text.contains('T') => {
            let time = chrono::DateTime::parse_from_rfc3339(text).unwrap();
            time.timestamp().to_string()
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn table_changes_are_what_another_implementation_reads() {
    let message = "sf.substreams.sink.database.v1.DatabaseChanges";
    let (spkg, file) =
        ("evm-clickhouse-contracts-v0.4.0.spkg", "evm-clickhouse-contracts-v0.4.0.db_out.jsonl.zst");
    let Some(tables) = decoded(spkg, "db_out", file) else { return };
    assert_eq!(tables.values().map(Vec::len).sum::<usize>(), 19);
    let empty = recorded(file).unwrap().iter().filter(|output| output.output.is_empty()).count();
    assert_eq!(empty, 16);
    let expected = independently(spkg, message, file);
    assert_eq!(tables.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, rows) in tables {
        for ((block, row), (expected_block, expected)) in rows.iter().zip(&expected[&name]) {
            let row = row.as_object().unwrap().iter();
            let sent: BTreeMap<_, _> =
                row.map(|(name, value)| (name.trim_start_matches("module_"), as_sent(value))).collect();
            let expected = expected.as_object().unwrap().iter();
            let expected: BTreeMap<_, _> =
                expected.map(|(name, value)| (name.as_str(), as_sent(value))).collect();
            assert_eq!((block, sent), (expected_block, expected), "{name}");
        }
    }
    // The same changes from a package without a schema.
    let file = "evm-contracts-v0.4.0.db_out.jsonl.zst";
    let tables = decoded("evm-contracts-v0.4.0.spkg", "db_out", file).unwrap();
    assert_eq!(tables["table_changes"].len(), 19);
    assert!(tables["table_changes"].iter().all(|(_, row)| row["operation"] == "OPERATION_CREATE"));
}

#[test]
fn entities_are_changes_as_they_are() {
    let file = "graph-node-substreams-test-v1.0.1.graph_out.jsonl.zst";
    let Some(tables) = decoded("graph-node-substreams-test-v1.0.1.spkg", "graph_out", file) else {
        return;
    };
    let expected =
        independently("graph-node-substreams-test-v1.0.1.spkg", "substreams.entity.v1.EntityChanges", file);
    let (rows, expected) = (&tables["entity_changes"], &expected["entity_changes"]);
    assert_eq!(rows.len(), expected.len());
    for ((block, row), (expected_block, expected)) in rows.iter().zip(expected) {
        let names = |row: &Value| -> Vec<String> {
            row["fields"].as_array().unwrap().iter().map(|field| field["name"].to_string()).collect()
        };
        assert_eq!(
            (block, &row["id"], &row["operation"]),
            (expected_block, &expected["id"], &expected["operation"])
        );
        assert_eq!(names(row), names(expected));
        let values = row["fields"].as_array().unwrap().iter().zip(expected["fields"].as_array().unwrap());
        for (field, expected) in values {
            let value = expected["new_value"].as_object().unwrap().values().next().unwrap();
            assert_eq!(field["new_value"].as_str().unwrap(), as_sent(value));
        }
    }
}

#[test]
fn an_output_of_another_module_is_refused() {
    let file = "evm-native-transfers-v0.2.0.map_events.jsonl.zst";
    let (Some(outputs), Some(package)) = (recorded(file), real("erc20-transfers-v0.4.0.spkg")) else {
        return;
    };
    let decoded = decoder(&package, "map_events").decode(range_of(&outputs), &outputs, 0);
    let error = decoded.error.unwrap().to_string();
    assert!(error.contains("block 17686110"), "{error}");
    assert!(
        error.contains("it is a `native.transfers.v1.Events`, not a `erc20.transfers.v1.Events`"),
        "{error}"
    );
    assert!(decoded.rows.is_none());
}

#[test]
fn of_some_columns_only_those_are_given() {
    let file = "erc20-transfers-v0.4.0.map_events.jsonl.zst";
    let (Some(outputs), Some(package)) = (recorded(file), real("erc20-transfers-v0.4.0.spkg")) else {
        return;
    };
    let all = tables(&package, "map_events").unwrap();
    let some = all[0].select(&["hash".to_owned(), "block_hash".to_owned()]).unwrap();
    let decoder = Decoder::new("p", &package, "map_events", vec![some.clone()]).unwrap();
    let rows = decoder.decode(range_of(&outputs), &outputs, 0).rows.unwrap();
    assert_eq!((rows.tables[0].batch.schema(), rows.tables[0].batch.num_rows()), (some.schema, 2510));
}

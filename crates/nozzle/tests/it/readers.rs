//! The Parquet files are everybody's: DuckDB, Polars and pyarrow open them as they are, with equal
//! counts and sums.

use nozzle_testkit::replay::{Recording, ReplayOptions, ReplayServer};

use crate::harness::{Place, python, workspace};

const SCRIPT: &str = include_str!("readers.py");

#[test]
fn duckdb_polars_and_pyarrow_agree_with_nozzle() {
    let asset = workspace().join("crates/testkit/assets/demo-chain.jsonl.zst");
    let node = ReplayServer::start(Recording::load(&asset).unwrap(), ReplayOptions::default()).unwrap();
    let place = Place::empty();
    // Several files a table, so that lists of files are read too.
    for end in ["100", "200", "latest"] {
        place.ok(&["dump", "--rpc-url", node.url(), "-e", end]);
    }
    assert_readers_agree(&place, "anvil", &["blocks", "transactions", "logs"], 3);
}

#[test]
fn every_table_with_every_kind_of_transaction_opens_in_all_readers() {
    // Transactions of types 0 to 4, access and authorization lists, blob hashes and withdrawals.
    let node = ReplayServer::start(Recording::mainnet_like(12, 1), ReplayOptions::default()).unwrap();
    let place = Place::empty();
    place.ok(&["dump", "--rpc-url", node.url()]);
    let types = place.query("SELECT DISTINCT type FROM eth_mainnet.transactions ORDER BY type");
    assert!(types.len() >= 4, "{types:?}");
    assert!(place.number("SELECT count(*) FROM eth_mainnet.withdrawals") > 100);
    assert!(place.number("SELECT count(access_list) FROM eth_mainnet.transactions") > 0);
    assert_readers_agree(&place, "eth_mainnet", &["blocks", "transactions", "logs", "withdrawals"], 1);
}

/// Counts and sums of the tables, each of so many files, are the same by every reader and by us.
fn assert_readers_agree(place: &Place, dataset: &str, tables: &[&str], files_each: usize) {
    let mut args = vec![];
    for table in tables {
        let files = place.ok(&["files", "--dataset", dataset, "--table", table]).stdout;
        let files: Vec<&str> = files.lines().collect();
        assert_eq!(files.len(), files_each, "{files:?}");
        args.push(format!("{table}={}", files.join(",")));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said: serde_json::Value = serde_json::from_str(&python(SCRIPT, &args)).unwrap();
    for (what, sql) in [
        ("blocks", "SELECT count(*) FROM anvil.blocks"),
        ("transactions", "SELECT count(*) FROM anvil.transactions"),
        ("logs", "SELECT count(*) FROM anvil.logs"),
        ("gas_used", "SELECT sum(gas_used) FROM anvil.transactions"),
        ("value", "SELECT sum(value) FROM anvil.transactions"),
        ("log_index", "SELECT sum(log_index) FROM anvil.logs"),
    ] {
        let ours = place.query(&sql.replace("anvil.", &format!("{dataset}.")))[0]
            .as_object()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .clone();
        let ours = ours.as_str().map_or(ours.to_string(), str::to_owned);
        for reader in ["duckdb", "polars", "pyarrow"] {
            let theirs = said[reader][what].as_str().unwrap();
            assert_eq!(theirs, ours, "{what} by {reader}");
        }
        assert_ne!(ours, "0", "{what}");
    }
    assert_eq!(said["pandas"], serde_json::json!(tables));
}

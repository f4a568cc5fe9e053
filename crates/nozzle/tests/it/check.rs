//! What is stored can be checked again, and mended.

use std::path::PathBuf;

use crate::harness::{Db, NOT_MERGED, Place, python, synthetic};
use nozzle_testkit::replay::{Recording, ReplayServer};

const TABLES: [&str; 4] = ["blocks", "transactions", "logs", "withdrawals"];

pub fn node(seed: u64) -> ReplayServer {
    synthetic(Recording::small_mainnet_like(60, 8, seed), 0)
}

/// A dataset of three segments of 20 blocks.
pub fn dumped(node: &ReplayServer) -> Place {
    let place = Place::configured(Db::Sqlite, NOT_MERGED);
    place.define("eth", "chain-1337", node.url());
    for end in ["19", "39", "59"] {
        place.ok(&["dump", "--dataset", "eth", "-e", end, "--verify", "full"]);
    }
    place
}

/// The rows of all tables, in an order of their own.
fn rows(place: &Place) -> Vec<String> {
    let rows = TABLES.iter().flat_map(|table| place.query(&format!("SELECT * FROM eth.{table}")));
    let mut rows: Vec<String> = rows.map(|row| row.to_string()).collect();
    rows.sort_unstable();
    rows
}

/// The files of a table, in block order.
pub async fn files(place: &Place, table: &str) -> Vec<PathBuf> {
    let stored = place.stored("eth").await;
    let (_, folder, segments) = stored.tables.iter().find(|(name, ..)| name == table).unwrap();
    segments.iter().map(|segment| folder.join(&segment.file.as_ref().unwrap().name)).collect()
}

pub fn change(place: &Place, file: &std::path::Path, kind: &str) {
    let database = place.path(".nozzle/metadata.db");
    let database = if database.exists() { database } else { place.path("metadata.db") };
    python(include_str!("check.py"), &[database.to_str().unwrap(), file.to_str().unwrap(), kind]);
}

#[test]
fn what_a_dump_has_written_has_no_finding_at_any_level() {
    let node = node(7);
    let place = dumped(&node);
    drop(node);
    for level in ["links", "header", "full", "senders"] {
        let said = place.ok(&["check", "--dataset", "eth", "--verify", level]);
        assert_eq!(said.stdout, "");
        assert!(said.stderr.contains(&format!("eth: checked 60 blocks at `{level}`")), "{}", said.stderr);
        assert!(said.stderr.contains("nothing wrong"), "{}", said.stderr);
    }
    let said = place.ok(&["check", "--dataset", "eth", "--start-block", "5", "--end-block", "24"]);
    assert!(said.stderr.contains("checked 20 blocks at `full`"), "{}", said.stderr);
    let said = place.run(&["check", "--dataset", "eth", "--start-block", "5", "--end-block", "4"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("no blocks from 5 to 4"), "{}", said.stderr);
    assert_eq!(place.run(&["check", "--dataset", "eth", "--verify", "none"]).code, Some(2));
}

/// Finds what was done to a file of the middle segment, and mends it.
async fn is_found_and_mended(place: &Place, right: &[String], table: &str, finding: &str) {
    let before = files(place, table).await;
    let said = place.run(&["check", "--dataset", "eth"]);
    assert_eq!(said.code, Some(1), "{table}: {}", said.stderr);
    assert!(said.stdout.contains(finding) && said.stderr.contains("--repair"), "{table}: {}", said.stdout);
    // The parts beside it are good.
    place.ok(&["check", "--dataset", "eth", "--end-block", "19"]);
    place.ok(&["check", "--dataset", "eth", "--start-block", "40"]);
    let said = place.run(&["check", "--dataset", "eth", "--repair"]);
    assert_eq!(said.code, Some(0), "{table}: {}{}", said.stdout, said.stderr);
    assert!(said.stderr.contains("replaced blocks 20 to 39"), "{}", said.stderr);
    assert!(rows(place) == right, "the rows of {table} are not those from before");
    let after = files(place, table).await;
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]), "{table}: only the bad file is replaced");
    assert_ne!(after[1], before[1], "{table}");
    place.stored("eth").await.assert_sound(0, 59);
    place.ok(&["check", "--dataset", "eth", "--verify", "senders"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_mended() {
    let node = node(8);
    let place = dumped(&node);
    let right = rows(&place);
    change(&place, &files(&place, "logs").await[1], "a changed value");
    is_found_and_mended(&place, &right, "logs", "its receipts have the root").await;
    change(&place, &files(&place, "withdrawals").await[1], "a missing row");
    is_found_and_mended(&place, &right, "withdrawals", "its withdrawals have the root").await;
    let file = files(&place, "transactions").await.remove(1);
    std::fs::remove_file(&file).unwrap();
    is_found_and_mended(&place, &right, "transactions", file.to_str().unwrap()).await;
    let file = files(&place, "blocks").await.remove(1);
    let length = std::fs::metadata(&file).unwrap().len();
    std::fs::File::options().write(true).open(&file).unwrap().set_len(length / 2).unwrap();
    is_found_and_mended(&place, &right, "blocks", file.to_str().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_says_of_a_file_is_compared_with_it() {
    let node = node(12);
    let place = dumped(&node);
    let right = rows(&place);
    let of_middle = "segment_id IN (SELECT id FROM segments WHERE start_block = 20)";
    for (statement, finding) in [
        (
            "UPDATE segments SET row_count = row_count + 1 WHERE start_block = 20".to_owned(),
            "rows, and the metadata",
        ),
        (format!("UPDATE footers SET footer = zeroblob(99) WHERE {of_middle}"), "its footer is not the one"),
        ("UPDATE segments SET prev_hash = zeroblob(32) WHERE start_block = 20".to_owned(), "as the child of"),
    ] {
        let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as database:\n    database.execute(sys.argv[2])";
        python(script, &[place.path("metadata.db").to_str().unwrap(), &statement]);
        let said = place.run(&["check", "--dataset", "eth"]);
        assert!(said.code == Some(1) && said.stdout.contains(finding), "{finding}: {}", said.stdout);
        let said = place.run(&["check", "--dataset", "eth", "--repair"]);
        assert_eq!(said.code, Some(0), "{finding}: {}{}", said.stdout, said.stderr);
        assert!(rows(&place) == right, "{finding}");
        place.ok(&["check", "--dataset", "eth"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_database_does_not_name_is_told() {
    let node = node(14);
    let place = dumped(&node);
    let known = files(&place, "logs").await.remove(0);
    let stray = known.with_file_name("000000000-0123456789abcdef.parquet");
    std::fs::copy(&known, &stray).unwrap();
    std::fs::write(known.with_file_name("notes.txt"), "mine").unwrap();
    let said = place.run(&["check", "--dataset", "eth"]);
    assert!(said.code == Some(1) && said.stdout.contains("0123456789abcdef"), "{}", said.stdout);
    assert!(
        said.stderr.contains("1 files are not named") && !said.stdout.contains("notes"),
        "{}",
        said.stderr
    );
    place.ok(&["check", "--dataset", "eth", "--start-block", "0"]);
    std::fs::remove_file(stray).unwrap();
    // What was replaced and waits for its time is no stray.
    assert!(place.ok(&["compact"]).stdout.contains("3 segments are 1 now"));
    place.ok(&["check", "--dataset", "eth"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_cannot_be_leaves_all_as_it_was() {
    let first = node(9);
    let place = dumped(&first);
    drop(first);
    let file = files(&place, "logs").await.remove(1);
    std::fs::remove_file(&file).unwrap();
    let before = place.stored("eth").await.tables;
    // The node is away.
    let said = place.run(&["check", "--dataset", "eth", "--repair"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("repairing `eth` failed"), "{}", said.stderr);
    assert_eq!(format!("{before:?}"), format!("{:?}", place.stored("eth").await.tables));
    // Another chain is behind its name.
    let other = node(10);
    place.define("eth", "chain-1337", other.url());
    let said = place.run(&["check", "--dataset", "eth", "--repair"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("run `nozzle dump`"), "{}", said.stderr);
    assert_eq!(format!("{before:?}"), format!("{:?}", place.stored("eth").await.tables));
}

#[test]
fn a_level_that_the_columns_are_too_few_for_is_refused() {
    let node = node(11);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    place.write(
        "datasets/eth.json",
        r#"{"name":"eth","kind":"evm-rpc","network":"chain-1337","schema":{"blocks":["hash","parent_hash"]}}"#,
    );
    place.ok(&["dump", "--dataset", "eth"]);
    let said = place.run(&["check", "--dataset", "eth"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("blocks.timestamp"), "{}", said.stderr);
    assert!(said.stderr.contains("The highest level that works is --verify links"), "{}", said.stderr);
    place.ok(&["check", "--dataset", "eth", "--verify", "links"]);
}

//! Each command and flag does what the product page says.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use nozzle_metadata::RevisionState;
use nozzle_testkit::replay::{Recording, ReplayServer};
use parquet::file::metadata::ParquetMetaDataReader;

use crate::harness::{
    Db, NOT_MERGED, Place, Said, Stored, gate, python_program, synthetic, until, until_stored, until_sync,
};

fn node(blocks: u64, delay_ms: u64) -> ReplayServer {
    synthetic(Recording::synthetic(blocks, 3, 2, 31), delay_ms)
}

fn defined(node: &ReplayServer, db: Db, lines: &str) -> Place {
    let place = Place::configured(db, lines);
    place.define("eth", "chain-1337", node.url());
    place
}

#[test]
fn a_url_is_all_that_a_first_dump_needs() {
    let node = node(30, 0);
    let place = Place::empty();
    let said = place.ok(&["dump", "--rpc-url", node.url()]);
    assert!(
        said.stderr.contains("wrote the manifest") && said.stderr.contains("chain_1337.json"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("wrote the provider") && said.stderr.contains("chain-1337.toml"),
        "{}",
        said.stderr
    );
    for part in ["30 blocks", "87 rows", "174 rows", "blocks/s", "in 1 file"] {
        assert!(said.stderr.contains(part), "`{part}` is not in {}", said.stderr);
    }
    assert!(said.stdout.is_empty());
    // What was written is what generate-manifest writes, and the next dump needs no URL.
    let manifest = std::fs::read_to_string(place.path(".nozzle/datasets/chain_1337.json")).unwrap();
    let generated = place.ok(&[
        "generate-manifest",
        "--kind",
        "evm-rpc",
        "--network",
        "chain-1337",
        "--name",
        "chain_1337",
    ]);
    assert_eq!(manifest, generated.stdout);
    assert!(place.ok(&["dump", "--dataset", "chain_1337"]).stderr.contains("nothing new"));
}

#[test]
fn the_end_block_is_a_number_a_distance_or_the_head_as_it_is() {
    let node = node(100, 0);
    node.set_head(80);
    let place = defined(&node, Db::Sqlite, "poll_interval_secs = 0.05");
    let highest = || place.number("SELECT max(block_num) FROM eth.blocks");
    place.ok(&["dump", "--dataset", "eth", "-e", "9"]);
    assert_eq!(highest(), 9);
    place.ok(&["dump", "--dataset", "eth", "--end-block=-30"]);
    assert_eq!(highest(), 50);
    place.ok(&["dump", "--dataset", "eth", "-e", "latest"]);
    assert_eq!(highest(), 80);
    // Lower than what is there: nothing to do, nothing lost.
    place.ok(&["dump", "--dataset", "eth", "-e", "5"]);
    assert_eq!(highest(), 80);
    node.set_head(85);
    let asked = || node.requests()["eth_getBlockByNumber"];
    let before = asked();
    let mut waiting = place.start(&["dump", "--dataset", "eth", "-e", "90"]);
    // Two for each look at the head, the blocks up to it, and a few to compare hashes.
    until_sync("several looks at the head", || (asked() > before + 40).then_some(()));
    assert!(waiting.is_running(), "an end above the head is waited for");
    node.set_head(95);
    let said = waiting.wait();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("waiting for block 90; the head is 85"), "{}", said.stderr);
    assert_eq!(highest(), 90);
}

#[test]
fn only_finalized_blocks_stops_at_the_finalized_block() {
    let node = node(100, 0);
    node.set_finalized(Some(40));
    let place = defined(&node, Db::Sqlite, "");
    place.ok(&["dump", "--dataset", "eth", "--only-finalized-blocks"]);
    assert_eq!(place.number("SELECT max(block_num) FROM eth.blocks"), 40);
    // Without finality of its own, what lies deep enough counts as final.
    node.set_finalized(None);
    let place = defined(&node, Db::Sqlite, "chain = { reorg_depth = 10 }");
    place.ok(&["dump", "--dataset", "eth", "--only-finalized-blocks"]);
    assert_eq!(place.number("SELECT max(block_num) FROM eth.blocks"), 89);
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_jobs_give_the_same_rows_and_a_linked_chain() {
    let node = node(1_000, 0);
    let rows = |place: &Place| {
        place.query("SELECT count(*) AS n, sum(gas_used) AS gas, count(DISTINCT tx_hash) AS txs FROM eth.transactions")
    };
    let one = defined(&node, Db::Sqlite, NOT_MERGED);
    one.ok(&["dump", "--dataset", "eth"]);
    for db in [Db::Sqlite, Db::Postgres] {
        let four = defined(&node, db, NOT_MERGED);
        four.ok(&["dump", "--dataset", "eth", "-j", "8"]);
        assert_eq!(rows(&one), rows(&four));
        let stored = four.stored("eth").await;
        stored.assert_sound(0, 999);
        assert!(stored.spans().len() >= 4, "the work was shared: {:?}", stored.spans());
        // Sharing the memory of the writers does not cut so few rows into several row groups.
        let files =
            stored.tables.iter().flat_map(|(_, _, segments)| segments.iter().map(|segment| segment.id));
        let footers = four.metadata().await.footers(&files.collect::<Vec<_>>()).await.unwrap();
        assert!(footers.len() > 8);
        for (file, footer) in footers {
            let groups = ParquetMetaDataReader::decode_metadata(&footer).unwrap().num_row_groups();
            assert_eq!(groups, 1, "row groups of file {file}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tables_are_cut_at_the_same_block_when_one_reaches_the_size() {
    let node = synthetic(Recording::synthetic(1_500, 20, 4, 33), 0);
    let place = defined(&node, Db::Sqlite, NOT_MERGED);
    place.ok(&["dump", "--dataset", "eth", "--partition-size-mb", "1"]);
    let stored = place.stored("eth").await;
    stored.assert_sound(0, 1_499);
    assert!(stored.spans().len() > 2, "{:?}", stored.spans());
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_builds_beside_what_is_read_and_goes_on_after_a_crash() {
    let node = node(800, 0);
    let place = defined(&node, Db::Sqlite, "writer = { segment_flush_interval_secs = 0.1 }");
    place.ok(&["dump", "--dataset", "eth"]);
    // So late that it is not at its end before it is killed.
    node.set_delay(Duration::from_millis(400));
    let old = place.stored("eth").await;
    let mut fresh = place.start(&["dump", "--dataset", "eth", "--fresh"]);
    let store = place.metadata().await;
    let building = async || {
        let dataset = store.dataset(&"eth".parse().unwrap()).await.unwrap().unwrap();
        let revisions = store.revisions(dataset.id).await.unwrap();
        revisions.into_iter().find(|revision| revision.state == RevisionState::Building)
    };
    let before = store.sequence().await.unwrap();
    until("a commit of the new revision", async || (store.sequence().await.ok()? > before).then_some(()))
        .await;
    let first = building().await.expect("a building revision");
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 800, "readers see the old revision");
    assert_eq!(place.stored("eth").await.revision.id, old.revision.id);
    assert!(fresh.is_running());
    fresh.kill();
    node.set_delay(Duration::ZERO);
    let said = place.ok(&["dump", "--dataset", "eth", "--fresh"]);
    assert!(said.stderr.contains("now read"), "{}", said.stderr);
    let new = place.stored("eth").await;
    assert_eq!(new.revision.id, first.id, "the building revision was gone on with");
    new.assert_sound(0, 799);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 800);
    assert!(building().await.is_none());
    let dataset = store.dataset(&"eth".parse().unwrap()).await.unwrap().unwrap();
    let retired = store.revisions(dataset.id).await.unwrap();
    assert!(retired.iter().any(|r| r.id == old.revision.id && r.state == RevisionState::Retired));
}

#[test]
fn a_location_is_where_a_new_revision_goes() {
    let node = node(20, 0);
    let place = defined(&node, Db::Sqlite, "");
    place.ok(&["dump", "--dataset", "eth", "--location", "elsewhere"]);
    let files = place.ok(&["files", "--dataset", "eth", "--table", "blocks"]).stdout;
    assert!(
        files.starts_with(
            place.path("").canonicalize().unwrap().join("elsewhere/eth/blocks").to_str().unwrap()
        ),
        "{files}"
    );
    // Without the flag the dataset stays where it is; elsewhere is refused, unless it is built anew.
    place.ok(&["dump", "--dataset", "eth"]);
    let said = place.run(&["dump", "--dataset", "eth", "--location", "third"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("elsewhere") && said.stderr.contains("--fresh"), "{}", said.stderr);
    place.ok(&["dump", "--dataset", "eth", "--location", "third", "--fresh"]);
    assert!(place.ok(&["files", "--dataset", "eth"]).stdout.contains("/third/eth/"));
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 20);
}

#[test]
fn a_failed_run_of_a_schedule_is_said_and_the_next_one_is_waited_for() {
    let node = node(20, 0);
    let place = defined(&node, Db::Sqlite, "");
    let every = ["dump", "--dataset", "eth", "--run-every-mins", "1"];
    let (good_log, bad_log) = (place.path("good.log"), place.path("bad.log"));
    let mut good = place.start_with_log(&every, &good_log);
    let mut bad =
        place.start_with_log(&[&every[..], &["--rpc-url", "http://127.0.0.1:1"]].concat(), &bad_log);
    for (log, outcome) in [(&good_log, "20 blocks"), (&bad_log, "this run failed")] {
        let said = until_sync("the next run to be told of", || {
            let said = std::fs::read_to_string(log).unwrap();
            said.contains("the next run starts in").then_some(said)
        });
        assert!(said.contains(outcome), "{said}");
    }
    assert!(good.is_running() && bad.is_running());
    good.signal("TERM");
    bad.signal("INT");
    assert_eq!((good.wait().code, bad.wait().code), (Some(0), Some(0)));
}

#[test]
fn a_manifest_selects_tables_and_columns_and_nothing_else_is_asked_for() {
    let node = node(20, 0);
    let place = defined(&node, Db::Sqlite, "");
    place.write(
        "headers.json",
        r#"{"name":"headers","version":"1.2.0","kind":"evm-rpc","network":"chain-1337","start_block":5,
            "schema":{"blocks":["hash","timestamp"]}}"#,
    );
    place.ok(&["dump", "--dataset", "./headers.json"]);
    place.ok(&["dump", "--dataset", "./headers.json"]);
    let rows = place.query("SELECT * FROM headers__1_2_0.blocks ORDER BY _block_num");
    assert_eq!(rows.len(), 15);
    assert_eq!(rows[0].as_object().unwrap().keys().collect::<Vec<_>>(), ["_block_num", "hash", "timestamp"]);
    assert_eq!(rows[0]["_block_num"], 5);
    assert!(!node.requests().contains_key("eth_getBlockReceipts"), "{:?}", node.requests());
    let said = place.run(&["query", "SELECT * FROM headers.logs"]);
    assert!(said.stderr.contains("its tables are blocks"), "{}", said.stderr);
}

#[test]
fn several_datasets_and_lists_of_manifests() {
    let node = node(20, 0);
    let place = defined(&node, Db::Sqlite, "");
    place.write(
        "two.json",
        r#"[{"name":"one","kind":"evm-rpc","network":"chain-1337","schema":{"blocks":"*"}},
            {"name":"two","kind":"evm-rpc","network":"chain-1337","schema":{"logs":["address"]}}]"#,
    );
    place.write("three.toml", "name = \"three\"\nkind = \"evm-rpc\"\nnetwork = \"chain-1337\"\n");
    place.ok(&["dump", "--dataset", "eth,two.json,three.toml"]);
    for sql in ["eth.blocks", "one.blocks", "three.blocks"] {
        assert_eq!(place.number(&format!("SELECT count(*) FROM {sql}")), 20);
    }
    assert_eq!(place.number("SELECT count(*) FROM two.logs"), 19 * 6);
    let list = place.ok(&["dataset", "list"]).stdout;
    for name in ["eth", "one", "two", "three"] {
        assert!(list.lines().any(|line| line.starts_with(name)), "{list}");
    }
}

#[test]
fn a_dataset_is_shown_and_removed() {
    let node = node(20, 0);
    let place = defined(&node, Db::Sqlite, "");
    place.ok(&["dump", "--dataset", "eth", "-e", "9"]);
    let shown = place.ok(&["dataset", "show", "eth"]).stdout;
    for part in ["evm-rpc", "chain-1337", "active", "0 to 9", "transactions", "holes"] {
        assert!(shown.contains(part), "`{part}` is not in {shown}");
    }
    let said = place.run(&["dataset", "rm", "eth"]);
    assert_eq!(said.code, Some(1), "without a yes nothing is removed");
    assert!(said.stderr.contains("--yes"), "{}", said.stderr);
    let files = place.ok(&["files", "--dataset", "eth"]).stdout;
    place.ok(&["dataset", "rm", "eth", "--yes"]);
    assert_eq!(place.run(&["query", "SELECT count(*) FROM eth.blocks"]).code, Some(1));
    assert!(files.lines().all(|file| std::path::Path::new(file).exists()), "only the collector deletes");
    place.ok(&["dump", "--dataset", "eth"]);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 20);
}

#[test]
fn manifests_are_generated_to_standard_output_a_file_or_a_folder() {
    let place = Place::empty();
    let args = ["generate-manifest", "--kind", "evm-rpc", "--network", "mainnet", "--name", "eth_mainnet"];
    let printed = place.ok(&args).stdout;
    let manifest: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(manifest["name"], "eth_mainnet");
    assert_eq!(manifest["schema"].as_object().unwrap().len(), 4);
    place.ok(&[&args[..], &["--out", "m.json", "--start-block", "7"]].concat());
    let written: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(place.path("m.json")).unwrap()).unwrap();
    assert_eq!(written["start_block"], 7);
    place.ok(&[&args[..], &["-o", "."]].concat());
    assert_eq!(std::fs::read_to_string(place.path("evm-rpc.json")).unwrap(), printed);
    assert!(!place.path(".nozzle").exists(), "it needs no database");
    // The ending tells the form.
    place.ok(&[&args[..], &["-o", "eth.toml"]].concat());
    assert!(std::fs::read_to_string(place.path("eth.toml")).unwrap().contains("kind = \"evm-rpc\""));
    let said = place.run(&["generate-manifest", "--kind", "manifest", "--network", "mainnet", "--name", "x"]);
    assert_eq!(said.code, Some(1));
}

#[test]
fn flags_can_be_given_by_variables() {
    let node = node(30, 0);
    let place = defined(&node, Db::Sqlite, "");
    let run = |variables: &[(&str, &str)]| {
        let mut command = place.command(&["dump"]);
        command.env("DUMP_DATASET", "eth").envs(variables.iter().copied());
        Said::of(command.output().unwrap())
    };
    assert_eq!(run(&[("DUMP_END_BLOCK", "9"), ("DUMP_FRESH", ""), ("DUMP_FOLLOW", "0")]).code, Some(0));
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 10);
    let said = run(&[("DUMP_FRESH", "1"), ("DUMP_N_JOBS", "2")]);
    assert!(said.stderr.contains("now read"), "{}", said.stderr);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 30);
    assert_eq!(run(&[("DUMP_END_BLOCK", "soon")]).code, Some(2));
}

#[test]
fn fresh_never_replaces_what_is_there_by_nothing() {
    let node = node(30, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    place.write(
        "datasets/eth.json",
        r#"{"name":"eth","kind":"evm-rpc","network":"chain-1337","start_block":10}"#,
    );
    place.ok(&["dump", "--dataset", "eth"]);
    let said = place.run(&["dump", "--dataset", "eth", "--fresh", "-e", "3"]);
    assert!(said.code == Some(1) && said.stderr.contains("first block 10"), "{}", said.stderr);
    node.set_head(5);
    // Further below the head than the chain is long, there is nothing.
    for end in ["latest", "-2", "-2000"] {
        place.ok(&["dump", "--dataset", "eth", "--fresh", &format!("--end-block={end}")]);
        assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 20);
    }
}

#[test]
fn a_link_or_a_pipe_is_written_to_and_stays_what_it_is() {
    let node = node(5, 0);
    let place = defined(&node, Db::Sqlite, "");
    place.ok(&["dump", "--dataset", "eth"]);
    place.write("target.csv", "old");
    std::os::unix::fs::symlink("target.csv", place.path("link.csv")).unwrap();
    place.ok(&["query", "SELECT 7 AS n", "-o", "link.csv"]);
    assert!(place.path("link.csv").is_symlink());
    assert!(std::fs::read_to_string(place.path("target.csv")).unwrap().starts_with("n\n7\n"));
    place.ok(&["query", "SELECT 7 AS n", "--format", "csv", "-o", "/dev/null"]);
    use std::os::unix::fs::FileTypeExt;
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_datasets_are_followed_side_by_side() {
    let node = node(30, 0);
    node.set_head(10);
    let place = defined(&node, Db::Sqlite, "poll_interval_secs = 0.05");
    place.write("datasets/two.json", r#"{"name":"two","kind":"evm-rpc","network":"chain-1337"}"#);
    let _follow = place.start(&["dump", "--dataset", "eth,two", "--follow"]);
    let store = place.metadata_when_there().await;
    for head in [10, 20] {
        node.set_head(head);
        for name in ["eth", "two"] {
            until_stored(store.as_ref(), name, head).await;
        }
    }
}

#[test]
fn a_start_above_the_head_is_said() {
    let node = node(30, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    place.write(
        "datasets/eth.json",
        r#"{"name":"eth","kind":"evm-rpc","network":"chain-1337","start_block":900}"#,
    );
    let said = place.ok(&["dump", "--dataset", "eth"]);
    assert!(said.stderr.contains("the head is 29, and the dataset starts at block 900"), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn following_outlasts_a_node_that_is_away() {
    let recording = || Recording::synthetic(60, 3, 2, 31);
    let node = synthetic(recording(), 0);
    node.set_head(20);
    let (gate, url) = gate(node.url());
    let place = Place::configured(Db::Sqlite, "poll_interval_secs = 0.05");
    place.define("eth", "chain-1337", &url);
    let log = place.path("log");
    let said = || std::fs::read_to_string(&log).unwrap();
    let mut follow = place.start_with_log(&["dump", "--dataset", "eth", "--follow"], &log);
    let store = place.metadata_when_there().await;
    until_stored(store.as_ref(), "eth", 20).await;
    gate.shut();
    // That comes after the retries with which a dump that has an end would fail.
    until("the node to be waited for", async || said().contains("trying again in").then_some(())).await;
    assert!(follow.is_running(), "{}", said());
    node.set_head(59);
    gate.open();
    until_stored(store.as_ref(), "eth", 59).await;
    follow.signal("TERM");
    assert_eq!(follow.wait().code, Some(0), "{}", said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_but_an_echo_of_the_first_does_not() {
    let node = node(2_000, 200);
    let place = defined(&node, Db::Sqlite, "writer = { segment_flush_interval_secs = 0.2 }");
    let log = place.path("log");
    let said = || std::fs::read_to_string(&log).unwrap();
    let mut dump = place.start_with_log(&["dump", "--dataset", "eth"], &log);
    let store = place.metadata_when_there().await;
    until("a commit", async || (store.sequence().await.ok()?.0 > 0).then_some(())).await;
    // Ending at a whole block means a commit, for which the database now has no time.
    let mut lock = Command::new(python_program())
        .args(["-c", LOCK])
        .arg(place.path("metadata.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(lock.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "locked\n");
    // One shell, so that nothing comes between the two.
    let twice = ["-c", "kill -TERM $0; kill -TERM $0", &dump.id().to_string()];
    assert!(Command::new("bash").args(twice).status().unwrap().success());
    until("the first signal to be heeded", async || said().contains(STOPPING).then_some(())).await;
    // The time of an echo is over after that.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(dump.is_running(), "the echo ended it");
    dump.signal("TERM");
    let code = dump.wait().code;
    drop(lock.stdin.take());
    lock.wait().unwrap();
    assert_eq!(code, Some(143), "{}", said());
    assert_eq!(said().matches(STOPPING).count(), 1, "{}", said());
    assert!(!said().contains("stopped:"), "it ended as if it had been left its time: {}", said());
}

const STOPPING: &str = "stopping at the next whole block";

/// Holds SQLite's one write lock until standard input is closed.
const LOCK: &str = "
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute('BEGIN IMMEDIATE')
print('locked', flush=True)
sys.stdin.read()
";

#[test]
fn migrating_twice_does_nothing_the_second_time() {
    for db in [Db::Sqlite, Db::Postgres] {
        let place = Place::configured(db, "");
        assert!(place.ok(&["migrate"]).stderr.contains("applied"));
        assert!(place.ok(&["migrate"]).stderr.contains("up to date"));
    }
}

#[test]
fn a_postgres_database_is_not_migrated_unless_asked() {
    let node = node(5, 0);
    let place = defined(&node, Db::Postgres, "");
    let config =
        std::fs::read_to_string(place.path("nozzle.toml")).unwrap().replace("auto_migrate = true\n", "");
    place.write("nozzle.toml", &config);
    let said = place.run(&["dump", "--dataset", "eth"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("nozzle migrate"), "{}", said.stderr);
    place.ok(&["migrate"]);
    place.ok(&["dump", "--dataset", "eth"]);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 5);
}

#[test]
fn answers_come_in_four_formats_and_pipe() {
    let node = node(20, 0);
    let place = defined(&node, Db::Sqlite, "");
    place.ok(&["dump", "--dataset", "eth"]);
    let sql = "SELECT block_num, hash FROM eth.blocks WHERE block_num < 2 ORDER BY block_num";
    let table = place.ok(&["query", sql]).stdout;
    assert!(table.contains("block_num") && table.contains("0x"), "{table}");
    let csv = place.ok(&["query", sql, "--format", "csv"]).stdout;
    assert!(csv.starts_with("block_num,hash\n0,0x"), "{csv}");
    assert_eq!(place.ok(&["query", sql, "--format", "jsonl"]).stdout.lines().count(), 2);
    place.ok(&["query", sql, "-o", "out.csv"]);
    assert_eq!(std::fs::read_to_string(place.path("out.csv")).unwrap(), csv, "the name tells the format");
    let said = place.run(&["query", sql, "-o", "out.dat"]);
    assert!(said.code == Some(1) && said.stderr.contains("--format"), "{}", said.stderr);
    place.ok(&["query", sql, "--format", "parquet", "-o", "out.parquet"]);
    let bytes = std::fs::read(place.path("out.parquet")).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    // A bad query leaves an existing file alone.
    place.run(&["query", "SELECT nothing FROM eth.blocks", "-o", "out.parquet"]);
    assert_eq!(std::fs::read(place.path("out.parquet")).unwrap(), bytes);
    let shell = format!(
        "'{}' query 'SELECT * FROM eth.logs' --format jsonl | head -n 1",
        env!("CARGO_BIN_EXE_nozzle")
    );
    let piped = std::process::Command::new("bash")
        .args(["-o", "pipefail", "-c", &shell])
        .current_dir(place.path(""))
        .output();
    let piped = piped.unwrap();
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    assert_eq!(String::from_utf8_lossy(&piped.stdout).lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_lists_only_the_segments_of_its_block_range() {
    let node = node(1_200, 0);
    let place = defined(&node, Db::Sqlite, NOT_MERGED);
    for end in (99..1_200).step_by(100) {
        place.ok(&["dump", "--dataset", "eth", "-e", &end.to_string()]);
    }
    let files = Stored::read(place.metadata().await, "eth").await.spans().len();
    assert_eq!(files, 12);
    let plan = |filter: &str| {
        let rows = place.query(&format!("EXPLAIN SELECT tx_hash FROM eth.logs WHERE {filter}"));
        rows.iter().map(|row| row["plan"].as_str().unwrap().to_owned()).collect::<String>()
    };
    let listed = |filter: &str| plan(filter).matches(".parquet").count();
    assert_eq!(listed("_block_num = 250"), 1);
    assert_eq!(listed("block_num BETWEEN 250 AND 420"), 3);
    assert_eq!(listed("_block_num > 5000"), 0);
    assert!(
        plan("log_index >= 0 ORDER BY _block_num LIMIT 1").contains("output_ordering=[_block_num"),
        "{}",
        plan("log_index >= 0 ORDER BY _block_num LIMIT 1")
    );
    // In the tables' own order nothing is sorted, and against it the last file is read first.
    for (order, expected) in [
        ("block_num, log_index LIMIT 5", "output_ordering=[block_num"),
        ("_block_num DESC, log_index DESC LIMIT 5", "reverse_row_groups=true"),
    ] {
        let plan = plan(&format!("true ORDER BY {order}"));
        assert!(plan.contains(expected), "{plan}");
    }
    let reversed = plan("true ORDER BY block_num DESC, log_index DESC LIMIT 5");
    let place_of = |block: &str| reversed.find(&format!("/{block}-")).unwrap_or(usize::MAX);
    assert!(place_of("000001100") < place_of("000000700"), "{reversed}");
    assert_eq!(place.number("SELECT count(*) FROM eth.logs WHERE block_num BETWEEN 250 AND 420"), 171 * 6);
    for (direction, first) in [("", 0), ("DESC", 5)] {
        let sql = format!(
            "SELECT block_num, log_index FROM eth.logs WHERE block_num BETWEEN 95 AND 105
             ORDER BY block_num {direction}, log_index {direction} LIMIT 50"
        );
        let rows = place.query(&sql);
        let key = |row: &serde_json::Value| (row["block_num"].as_u64(), row["log_index"].as_u64());
        assert_eq!(rows[0]["log_index"], first);
        let is_sorted = |a, b| if direction.is_empty() { a < b } else { a > b };
        assert!(rows.windows(2).all(|pair| is_sorted(key(&pair[0]), key(&pair[1]))), "{rows:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_that_is_written_down_is_the_chains_also_where_only_final_blocks_are_taken() {
    let node = node(100, 0);
    node.set_finalized(Some(40));
    let place = defined(&node, Db::Sqlite, "");
    place.ok(&["dump", "--dataset", "eth", "--only-finalized-blocks"]);
    let finality = place.metadata().await.finality(&"chain-1337".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((finality.head.number, finality.finalized.unwrap().number), (99, 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_revision_is_read_once_it_has_reached_a_head_that_never_rests() {
    let node = node(60_000, 0);
    node.set_head(50);
    let place = defined(&node, Db::Sqlite, "poll_interval_secs = 0.05");
    place.ok(&["dump", "--dataset", "eth"]);
    let store = place.metadata().await;
    let dataset = store.dataset(&"eth".parse().unwrap()).await.unwrap().unwrap();
    let before = place.stored("eth").await.revision.id;
    let _follow = place.start(&["dump", "--dataset", "eth", "--fresh", "--follow"]);
    let active = async || {
        node.set_head(node.head() + 1);
        let revisions = store.revisions(dataset.id).await.ok()?;
        revisions.into_iter().find(|r| r.state == RevisionState::Active && r.id != before)
    };
    until("the new revision to be read", active).await;
    assert!(node.head() < 59_000, "the head came to rest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_falls_during_a_dump_ends_it_there() {
    let node = node(2_000, 20);
    let place = defined(&node, Db::Sqlite, "writer = { segment_flush_interval_secs = 0.1 }");
    let dump = place.start(&["dump", "--dataset", "eth"]);
    let store = place.metadata_when_there().await;
    until("a commit", async || (store.sequence().await.ok()?.0 > 0).then_some(())).await;
    node.set_head(1_000);
    let said = tokio::task::spawn_blocking(|| dump.wait()).await.unwrap();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(place.number("SELECT max(block_num) FROM eth.blocks") >= 1_000);
}

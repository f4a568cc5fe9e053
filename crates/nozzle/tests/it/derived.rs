//! Derived datasets and streams, on nodes whose chains are reorganised.

mod costs;
mod story;

use std::{process::Command, time::Duration};

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
    replay::{Recording, ReplayOptions, ReplayServer},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, FLUSH},
    harness::{Db, NOT_MERGED, Place, python, until, until_stored, workspace},
    servers::Server,
    streams::Client,
};

const TRANSFER: &str = "Transfer(address indexed from, address indexed to, uint256 value)";

/// Transfers, decoded, and what two blocks ago nobody had; `chain` is the raw dataset.
pub fn erc20(chain: &str) -> Value {
    let transfers = format!(
        "SELECT block_num, tx_hash, log_index, address AS token, t['from'] AS sender, t['to'] AS receiver, t['value'] AS value \
         FROM (SELECT *, evm_decode_log(topic1, topic2, topic3, data, '{TRANSFER}') AS t FROM chain.logs \
               WHERE topic0 = evm_topic('{TRANSFER}'))"
    );
    json!({
        "name": "erc20", "version": "1.2.0", "kind": "manifest",
        "dependencies": {"chain": {"owner": "me", "name": chain, "version": "*"}},
        "tables": {
            "transfers": {"input": {"sql": transfers}},
            // A column of that name tells no block's hash here.
            "counts": {"input": {"sql":
                "SELECT block_num, count(*) AS n, min(sender) AS block_hash FROM self.transfers GROUP BY block_num"}},
            "spenders": {"input": {"sql":
                "SELECT t.tx_hash, t.\"from\" FROM chain.transactions AS t WHERE t.\"to\" IN (SELECT token FROM self.transfers)"}},
        },
    })
}

/// On top of that: transfers with their blocks, and with what their receivers were sent in other blocks.
pub fn story() -> Value {
    json!({
        "name": "story", "version": "1.0.0", "kind": "manifest",
        "dependencies": {"erc20": {"name": "erc20", "version": "^1.1"}, "chain": {"name": "eth"}},
        "tables": {
            "stamped": {"input": {"sql":
                "SELECT t.block_num, t.log_index, t.value, b.timestamp, b.hash FROM erc20.transfers AS t \
                 JOIN chain.blocks AS b ON t.block_num = b.block_num"}},
            // The blocks of a derived table are its own too.
            "busy": {"input": {"sql":
                "SELECT block_num, count(*) AS n FROM erc20.transfers GROUP BY block_num"}},
            "answered": {"input": {"sql":
                "SELECT a.tx_hash, b.tx_hash AS by_tx FROM erc20.transfers AS a \
                 JOIN erc20.transfers AS b ON a.receiver = b.sender AND a.token = b.token"}},
        },
    })
}

/// The same by SQL at once, over the raw dataset `eth`.
fn truths() -> Vec<(&'static str, String)> {
    let transfers = format!(
        "(SELECT *, t['from'] AS sender, t['to'] AS receiver, t['value'] AS value, address AS token FROM (SELECT *, \
          evm_decode_log(topic1, topic2, topic3, data, '{TRANSFER}') AS t FROM eth.logs WHERE topic0 = evm_topic('{TRANSFER}')))"
    );
    vec![
        (
            "SELECT block_num, tx_hash, log_index, token, sender, receiver, value FROM erc20.transfers",
            format!(
                "SELECT block_num, tx_hash, log_index, token, sender, receiver, value FROM {transfers} AS x"
            ),
        ),
        (
            "SELECT block_num, n FROM erc20.counts",
            format!("SELECT block_num, count(*) AS n FROM {transfers} AS x GROUP BY block_num"),
        ),
        (
            "SELECT tx_hash, \"from\" FROM erc20.spenders",
            format!(
                "SELECT tx_hash, \"from\" FROM eth.transactions WHERE \"to\" IN (SELECT token FROM {transfers} AS x)"
            ),
        ),
        (
            "SELECT block_num, log_index, value, timestamp, hash FROM story.stamped",
            format!(
                "SELECT t.block_num, t.log_index, t.value, b.timestamp, b.hash FROM {transfers} AS t \
                 JOIN eth.blocks AS b ON t.block_num = b.block_num"
            ),
        ),
        (
            "SELECT block_num, n FROM story.busy",
            format!("SELECT block_num, count(*) AS n FROM {transfers} AS x GROUP BY block_num"),
        ),
        (
            "SELECT tx_hash, by_tx FROM story.answered",
            format!(
                "SELECT a.tx_hash, b.tx_hash AS by_tx FROM {transfers} AS a \
                 JOIN {transfers} AS b ON a.receiver = b.sender AND a.token = b.token"
            ),
        ),
    ]
}

fn sorted(place: &Place, sql: &str) -> Vec<String> {
    let mut rows: Vec<String> = place.query(sql).iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

pub fn assert_derived_is_the_truth(place: &Place) {
    for (derived, truth) in truths() {
        let (derived_rows, true_rows) = (sorted(place, derived), sorted(place, &truth));
        assert!(!true_rows.is_empty(), "{truth}");
        assert!(derived_rows == true_rows, "{derived}: {} rows, not {}", derived_rows.len(), true_rows.len());
    }
}

pub fn write_json(place: &Place, name: &str, manifest: &Value) {
    place.write(&format!("datasets/{name}.json"), &manifest.to_string());
}

pub fn demo_chain() -> ReplayServer {
    demo_chain_late(0)
}

fn demo_chain_late(delay_ms: u64) -> ReplayServer {
    let demo = workspace().join("crates/testkit/assets/demo-chain.jsonl.zst");
    let options = ReplayOptions { delay: Duration::from_millis(delay_ms), ..ReplayOptions::default() };
    ReplayServer::start(Recording::load(&demo).unwrap(), options).unwrap()
}

#[test]
fn a_dump_brings_along_what_a_dataset_is_made_of() {
    let node = demo_chain();
    for db in [Db::Sqlite, Db::Postgres] {
        let place = Place::configured(db, "microbatch_max_interval = 37");
        place.define("eth", "anvil", node.url());
        write_json(&place, "erc20", &erc20("eth"));
        write_json(&place, "story", &story());
        place.ok(&["dump", "--dataset", "story", "-e", "60"]);
        let said = place.ok(&["dump", "--dataset", "story"]);
        let order: Vec<_> =
            ["eth: done", "erc20: done", "story: done"].iter().map(|name| said.stderr.find(name)).collect();
        assert!(order.is_sorted() && order[0].is_some(), "{}", said.stderr);
        assert_derived_is_the_truth(&place);
        let blocks =
            place.query("SELECT _block_num, block_num FROM erc20.transfers ORDER BY _block_num LIMIT 3");
        assert!(blocks.iter().all(|row| row["_block_num"] == row["block_num"]), "{blocks:?}");
        // Nothing of the raw dataset where only the listed ones are asked for.
        let said = place.ok(&["dump", "--dataset", "erc20", "--ignore-deps"]);
        assert!(!said.stderr.contains("eth: done") && said.stderr.contains("nothing new"), "{}", said.stderr);
        place.ok(&["check", "--dataset", "erc20"]);
    }
}

/// An end so far below the head is that of the chain for all, not lower for each level.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_below_the_head_is_the_same_for_all_levels() {
    let node = demo_chain();
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "anvil", node.url());
    write_json(&place, "erc20", &erc20("eth"));
    write_json(&place, "story", &story());
    place.ok(&["dump", "--dataset", "story", "-e", "-40"]);
    assert_end_alike(&place, node.head() - 40).await;
    // One that has its blocks already ends there too.
    place.ok(&["dump", "--dataset", "eth", "-e", "-10"]);
    place.ok(&["dump", "--dataset", "story", "-e", "-20"]);
    for dataset in ["erc20", "story"] {
        place.stored(dataset).await.assert_sound(0, node.head() - 20);
    }
}

async fn assert_end_alike(place: &Place, end: u64) {
    for dataset in ["eth", "erc20", "story"] {
        place.stored(dataset).await.assert_sound(0, end);
    }
}

/// Files that are listed before what they are made of.
#[test]
fn listed_manifests_are_brought_in_in_the_order_that_they_need() {
    let node = demo_chain();
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "anvil", node.url());
    let raw = std::fs::read_to_string(place.path("datasets/eth.json")).unwrap();
    std::fs::remove_file(place.path("datasets/eth.json")).unwrap();
    place.write("both.json", &format!("[{},{raw}]", erc20("eth")));
    place.write("story.json", &story().to_string());
    place.ok(&["dump", "--dataset", "story.json,both.json", "-e", "40"]);
    assert_derived_is_the_truth(&place);
    let alone = json!({"name": "alone", "kind": "manifest", "tables": {"t": {"input": {"sql": "SELECT address FROM nothing.logs"}}}});
    place.write("alone.json", &alone.to_string());
    let said = place.run(&["dump", "--dataset", "alone.json,story.json"]);
    let told = "the table `t` reads the dataset `nothing`";
    assert!(said.code == Some(1) && said.stderr.contains(told), "{}", said.stderr);
}

/// What is read may be reorganised by others while a plain dump of what is made of it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_dump_outlives_reorgs_of_what_it_reads() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 21).await.unwrap();
    chain.extend(40).await.unwrap();
    let lines = format!("poll_interval_secs = 0.05\nmicrobatch_max_interval = 1\n{NOT_MERGED}");
    let place = Place::configured(Db::Sqlite, &lines);
    place.define("eth", "anvil", anvil.url());
    write_json(&place, "erc20", &erc20("eth"));
    write_json(&place, "story", &story());
    let follower = place.start(&["dump", "--dataset", "eth", "--follow"]);
    let store = place.metadata_when_there().await;
    until_stored(store.as_ref(), "eth", 30).await;
    for _ in 0..4 {
        let mut dump = place.start(&["dump", "--dataset", "erc20", "--ignore-deps"]);
        while dump.is_running() {
            // A shorter chain, and then another one of its length.
            anvil.rollback(8).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            anvil.mine(8).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let said = dump.wait();
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    }
    follower.kill();
}

/// Nobody waits for what it is not made of.
#[test]
fn independent_datasets_are_dumped_side_by_side() {
    let (node, late) = (demo_chain(), demo_chain_late(1_500));
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "anvil", node.url());
    place.define("late", "mars", late.url());
    write_json(&place, "erc20", &erc20("eth"));
    let said = place.ok(&["dump", "--dataset", "late,erc20", "-e", "60"]);
    let order: Vec<_> =
        ["eth: done", "erc20: done", "late: done"].iter().map(|name| said.stderr.find(name)).collect();
    assert!(order.is_sorted() && order[0].is_some(), "{}", said.stderr);
}

#[test]
fn a_manifest_is_checked_whole_when_it_is_registered() {
    let node = demo_chain();
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "anvil", node.url());
    place.define("other", "mainnet", node.url());
    place.ok(&["dump", "--dataset", "eth", "-e", "20"]);
    let table = |sql: &str| json!({"t": {"input": {"sql": sql}}});
    let chain = || json!({"chain": {"name": "eth"}});
    for (name, manifest, says) in [
        (
            "a",
            json!({"dependencies": {"chain": {"name": "nothing"}}, "tables": table("SELECT * FROM chain.logs")}),
            "not registered",
        ),
        (
            "b",
            json!({"dependencies": {"chain": {"name": "eth", "version": "^2"}}, "tables": table("SELECT * FROM chain.logs")}),
            "only 0.0.0",
        ),
        (
            "c",
            json!({"dependencies": chain(), "tables": table("SELECT address,\nk FROM chain.logs")}),
            "the table `t`: line 2: ",
        ),
        (
            "d",
            json!({"dependencies": chain(), "tables": table("SELECT address\nFROM chain.logs\nLIMIT 5")}),
            "line 3: LIMIT",
        ),
        (
            "e",
            json!({"dependencies": chain(), "tables": table("SELECT * FROM chain.nothing")}),
            "has no table `nothing`",
        ),
        (
            "f",
            json!({"dependencies": chain(), "tables": table("SELECT * FROM self.t")}),
            "made of each other",
        ),
        (
            "g",
            json!({"dependencies": {"chain": {"name": "eth"}, "o": {"name": "other"}}, "tables": table("SELECT * FROM chain.logs")}),
            "one network",
        ),
        (
            "h",
            json!({"dependencies": chain(), "functions": {"f": {}}, "tables": table("SELECT * FROM chain.logs")}),
            "JavaScript",
        ),
        (
            "i",
            json!({"dependencies": chain(), "tables": {"t": {"input": {"sql": "SELECT address FROM chain.logs"},
            "schema": {"arrow": {"fields": [{"name": "address", "type": "Utf8", "nullable": false}]}}}}}),
            "declared as Utf8",
        ),
        (
            "j",
            json!({"dependencies": chain(), "tables": table("SELEC address FROM chain.logs")}),
            "not valid SQL",
        ),
        ("k", json!({"dependencies": chain(), "tables": {}}), "no `tables`"),
        ("l", json!({"tables": table("SELECT 1 AS a")}), "its tables read no other dataset"),
        (
            "m",
            json!({"dependencies": chain(), "tables": table("SELECT address FROM unheard.logs")}),
            "the table `t` reads the dataset `unheard`",
        ),
    ] {
        let mut manifest = manifest;
        manifest["name"] = json!(name);
        manifest["kind"] = json!("manifest");
        place.write(&format!("{name}.json"), &manifest.to_string());
        let said = place.run(&["dump", "--dataset", &format!("{name}.json")]);
        assert!(
            said.code == Some(1) && said.stderr.contains(says),
            "{name}: {:?} {}",
            said.code,
            said.stderr
        );
    }
    for (name, other) in [("loop_a", "loop_b"), ("loop_b", "loop_a")] {
        let tables = table(&format!("SELECT block_num FROM {other}.t"));
        write_json(&place, name, &json!({"name": name, "kind": "manifest", "tables": tables}));
    }
    let said = place.run(&["dump", "--dataset", "loop_a"]);
    let told = "made of each other: `loop_a` of `loop_b`, `loop_b` of `loop_a`";
    assert!(said.code == Some(1) && said.stderr.contains(told), "{}", said.stderr);
    // With its columns declared as they are, and in the older form.
    let declared = json!({"name": "fits", "kind": "manifest", "dependencies": chain(), "tables": {"t": {
        "input": {"sql": "SELECT block_num, address FROM chain.logs"}, "network": "anvil",
        "schema": {"arrow": {"fields": [{"name": "block_num", "type": "UInt64", "nullable": false},
                                        {"name": "address", "type": {"FixedSizeBinary": 20}, "nullable": true}]}}}}});
    write_json(&place, "fits", &declared);
    place.write("datasets/older.toml", "name = \"older\"\nkind = \"sql\"\nnetwork = \"anvil\"\n");
    place.write(
        "datasets/older/busy.sql",
        "SELECT block_num, count(*) AS n\nFROM eth.transactions\nGROUP BY block_num",
    );
    place.write("elsewhere.toml", "name = \"elsewhere\"\nkind = \"sql\"\nnetwork = \"mainnet\"\n");
    place.write("elsewhere/busy.sql", "SELECT block_num FROM eth.blocks");
    let said = place.run(&["dump", "--dataset", "elsewhere.toml"]);
    let told = "the table `busy` is to be of the network `mainnet`";
    assert!(said.code == Some(1) && said.stderr.contains(told), "{}", said.stderr);
    let said = place.ok(&["dump", "--dataset", "fits,older", "-e", "20"]);
    assert!(said.stderr.contains("older: done: 21 blocks"), "{}", said.stderr);
    assert_eq!(
        place.number("SELECT count(*) FROM fits.t"),
        place.number("SELECT count(*) FROM eth.logs WHERE block_num <= 20")
    );
    assert_eq!(
        place.number("SELECT sum(n) FROM older.busy"),
        place.number("SELECT count(*) FROM eth.transactions WHERE block_num <= 20")
    );
    let said = place.run(&["dataset", "rm", "eth", "--yes"]);
    assert!(said.code == Some(1) && said.stderr.contains("is made of `eth`"), "{}", said.stderr);
    // The same again is no error; another text under the same version is.
    place.ok(&["dump", "--dataset", "fits", "-e", "20"]);
    place.write("changed.json", &declared.to_string().replace("address FROM", "address AS address FROM"));
    let said = place.run(&["dump", "--dataset", "changed.json"]);
    assert!(said.code == Some(1) && said.stderr.contains("needs a new `version`"), "{}", said.stderr);
}

/// What is refused is not begun by what it is made of.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_refused_schedules_nothing() {
    let node = demo_chain();
    let cluster = Cluster::on(Place::configured(Db::Postgres, ""), &[], &[]);
    for manifest in [json!({"name": "eth", "kind": "evm-rpc", "network": "anvil"}), erc20("eth")] {
        let (status, said) = cluster.api.send(Method::POST, "/datasets", &manifest).await;
        assert_eq!(status, 201, "{said}");
    }
    drop(node);
    cluster.api.dump("erc20", json!({"end_block": 20})).await;
    let of_eth = "SELECT id FROM jobs WHERE dataset_id = (SELECT id FROM datasets WHERE name = 'eth')";
    let stop = format!("/jobs/{}/stop", cluster.ask(of_eth));
    let (status, said) = cluster.api.send(Method::PUT, &stop, &Value::Null).await;
    assert!(status < 300, "{said}");
    let refused = cluster.api.refused(Method::POST, "/datasets/erc20/dump", &json!({"end_block": 10})).await;
    assert_eq!(refused, (409, "ACTIVE_JOB_CONFLICT".into()));
    assert_eq!(cluster.ask("SELECT count(*) FROM jobs"), "2");
}

/// A job for the last of three datasets brings those below it along; a worker that dies in the middle of it all
/// changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn workers_do_jobs_of_derived_datasets_and_take_them_over() {
    let node = demo_chain_late(30);
    let place = Place::configured(Db::Postgres, &format!("microbatch_max_interval = 9\n{FLUSH}"));
    let mut cluster = Cluster::on(place, &["worker-0", "worker-1"], &["--max-tasks", "4"]);
    let provider = json!({"name": "node", "kind": "evm-rpc", "network": "anvil", "url": node.url()});
    assert_eq!(cluster.api.send(Method::POST, "/providers", &provider).await.0, 201);
    let raw = json!({"name": "eth", "kind": "evm-rpc", "network": "anvil"});
    for manifest in [raw, erc20("eth"), story()] {
        let (status, said) = cluster.api.send(Method::POST, "/datasets", &manifest).await;
        assert_eq!(status, 201, "{manifest}: {said}");
    }
    let nothing = Value::Null;
    let (status, said) = cluster.api.send(Method::DELETE, "/datasets/eth", &nothing).await;
    assert_eq!((status, said["error_code"].as_str()), (409, Some("DATASET_IN_USE")), "{said}");
    let job = cluster.api.dump("story", json!({"end_block": "latest"})).await;
    let jobs = || cluster.ask("SELECT count(*) FROM jobs");
    assert_eq!(jobs(), "3", "one for each dataset");
    let written = || {
        let of_it = "FROM segments JOIN locations ON locations.id = location_id WHERE table_name = 'stamped'";
        cluster.ask(&format!("SELECT count(*) {of_it}"))
    };
    until("some blocks of the last dataset", async || (written() != "0").then_some(())).await;
    let held = |name: &str| cluster.held_by(name);
    let at_it = if held("worker-0").is_empty() { 1 } else { 0 };
    cluster.workers[at_it].kill();
    until("all to be stored", async || {
        let done = cluster.ask("SELECT count(*) FROM jobs WHERE status = 'COMPLETED'");
        let failed = cluster.ask("SELECT count(*) FROM jobs WHERE status = 'FAILED'");
        assert_eq!(failed, "0");
        (done == "3").then_some(())
    })
    .await;
    assert_eq!(cluster.api.job(job).await["status"], "COMPLETED");
    assert_derived_is_the_truth(&cluster.place);
    let last = cluster.place.number("SELECT max(_block_num) FROM eth.blocks");
    cluster.place.stored("story").await.assert_sound(0, last);
}

const FLIGHT_STREAM: &str = r#"
import json, sys
from pyarrow import flight
client = flight.connect(sys.argv[1])
options = flight.FlightCallOptions(headers=[(b"nozzle-stream", b"true")])
reader = client.do_get(flight.Ticket("SELECT block_num, address FROM eth.logs"), options)
assert reader.schema.names == ["block_num", "address"], reader.schema
rows, ends, quiet = 0, [], 0
while quiet < 2:
    chunk = reader.read_chunk()
    told = json.loads(chunk.app_metadata.to_pybytes())
    if not told["ranges"]:
        assert chunk.data.num_rows == 0
        quiet += 1
        continue
    [range] = told["ranges"]
    assert range["network"] == "anvil" and len(range["hash"]) == 66 and len(range["prev_hash"]) == 66
    rows += chunk.data.num_rows
    if told["ranges_complete"]:
        assert chunk.data.num_rows == 0
        ends.append(range["numbers"]["end"])
reader.cancel()
print(json.dumps([rows, ends]))
"#;

#[test]
fn a_stream_tells_its_ranges_and_that_it_lives() {
    let node = demo_chain();
    let lines = "server_microbatch_max_interval = 25\nkeep_alive_interval_secs = 0.3";
    let place = Place::configured(Db::Sqlite, lines);
    place.define("eth", "anvil", node.url());
    place.ok(&["dump", "--dataset", "eth", "-e", "99"]);
    let server = Server::start(&place, &["--flight-server", "--jsonl-server"]);
    let said: Value = serde_json::from_str(&python(FLIGHT_STREAM, &[server.flight()])).unwrap();
    let logs = place.number("SELECT count(*) FROM eth.logs");
    assert_eq!(said, json!([logs, [24, 49, 74, 99]]));
    for (sql, header, says) in [
        ("SELECT count(*) AS n FROM eth.logs", "nozzle-stream: true", "block by block"),
        ("SELECT 1 AS n", "nozzle-stream: true", "reads no blocks"),
        ("SELECT block_num FROM eth.logs", "nozzle-stream: maybe", "neither true nor false"),
        ("SELECT block_num FROM eth.logs SETTINGS stream = true", "nozzle-resume: {", "nozzle-resume"),
        ("SELECT block_num FROM eth.logs SETTINGS stream = true", "nozzle-resume: {\"mars\":[]}", "mars"),
        ("SELECT block_num FROM eth.logs SETTINGS fast = true", "x: y", "SETTINGS"),
        ("SELECT block_num FROM (SELECT block_num FROM eth.logs SETTINGS stream = true)", "x: y", "SETTINGS"),
    ] {
        let output = Command::new("curl")
            .args(["-sS", "-m", "10", "-w", "%{http_code}", "-H", header, "--data", sql, server.jsonl()])
            .output()
            .unwrap();
        let body = String::from_utf8(output.stdout).unwrap();
        assert!(body.ends_with("400") && body.contains(says), "{sql} {header}: {body}");
    }
    // A stream keeps no server from its end.
    let _client = Client::start(server.jsonl(), "SELECT block_num FROM eth.logs SETTINGS stream = true", &[]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.stop(), 0);
}

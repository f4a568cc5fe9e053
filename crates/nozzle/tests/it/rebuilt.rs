//! Derived datasets whose sources are built anew: what differs is replaced, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use nozzle_core::{BlockRange, SourceRevisions};
use nozzle_metadata::SegmentId;
use nozzle_testkit::replay::{Recording, ReplayOptions, ReplayServer};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Worker},
    derived::{assert_derived_is_the_truth, demo_chain, erc20, story, write_json},
    harness::{Db, NOT_MERGED, Place, Stored, until, workspace},
};

/// A block with transfers.
const WRONG_BLOCK: u64 = 35;

/// The demo chain as a provider serves it that gets the values of one block's transfers wrong.
fn wrong_chain() -> ReplayServer {
    let demo = workspace().join("crates/testkit/assets/demo-chain.jsonl.zst");
    let mut lines = vec![];
    Recording::load(&demo).unwrap().write_jsonl(&mut lines).unwrap();
    let wrong = String::from_utf8(lines).unwrap().lines().map(with_wrong_values).collect::<Vec<_>>();
    let recording = Recording::from_jsonl(wrong.join("\n").as_bytes()).unwrap();
    ReplayServer::start(recording, ReplayOptions::default()).unwrap()
}

fn with_wrong_values(line: &str) -> String {
    let mut line: Value = serde_json::from_str(line).unwrap();
    if line["block"]["number"] != format!("{WRONG_BLOCK:#x}") {
        return line.to_string();
    }
    let mut changed = 0;
    for receipt in line["receipts"].as_array_mut().unwrap() {
        for log in receipt["logs"].as_array_mut().unwrap() {
            let data = log["data"].as_str().unwrap();
            if data.len() == 66 {
                log["data"] = format!("{}7", &data[..65]).into();
                changed += 1;
            }
        }
    }
    assert!(changed > 0);
    line.to_string()
}

/// The segments of all tables, and their blocks.
fn segments(stored: &Stored) -> BTreeMap<SegmentId, BlockRange> {
    let all = stored.tables.iter().flat_map(|(_, _, segments)| segments);
    all.map(|segment| (segment.id, segment.span.range)).collect()
}

/// The blocks of the segments that are not there any more.
fn replaced(before: &Stored, after: &Stored) -> BTreeSet<BlockRange> {
    let after = segments(after);
    segments(before).into_iter().filter(|(id, _)| !after.contains_key(id)).map(|(_, blocks)| blocks).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_built_anew_replaces_only_what_differs() {
    let (wrong, right) = (wrong_chain(), demo_chain());
    let place = Place::configured(Db::Sqlite, NOT_MERGED);
    place.define("eth", "anvil", wrong.url());
    write_json(&place, "erc20", &erc20("eth"));
    write_json(&place, "story", &story());
    for end in ["19", "39", "59", "99"] {
        place.ok(&["dump", "--dataset", "story", "-e", end]);
    }
    let before = [place.stored("erc20").await, place.stored("story").await];
    place.define("eth", "anvil", right.url());
    place.ok(&["dump", "--dataset", "eth", "-e", "99", "--fresh"]);

    // What lies between is not of the new revision yet: what is made of it waits.
    let said = place.ok(&["dump", "--dataset", "story", "-e", "99", "--ignore-deps"]);
    assert!(!said.stderr.contains("built anew"), "{}", said.stderr);
    let said = place.ok(&["dump", "--dataset", "story", "-e", "99"]);
    for dataset in ["erc20", "story"] {
        let told = format!(
            "{dataset}: what it is made of was built anew: computed blocks 0 to 99 again, and replaced 1 of 4 segments"
        );
        assert!(said.stderr.contains(&told), "{}", said.stderr);
    }
    assert_derived_is_the_truth(&place);
    let after = [place.stored("erc20").await, place.stored("story").await];
    for (before, after) in before.iter().zip(&after) {
        after.assert_sound(0, 99);
        assert_eq!(replaced(before, after), BTreeSet::from([BlockRange::new(20, 39).unwrap()]));
    }
    let said = place.ok(&["dump", "--dataset", "story", "-e", "99"]);
    assert!(!said.stderr.contains("built anew"), "{}", said.stderr);

    // Only what is listed is built anew, and what is the same in all rows replaces nothing.
    let chain = place.stored("eth").await.revision.id;
    place.ok(&["dump", "--dataset", "erc20", "-e", "99", "--fresh"]);
    assert_eq!(place.stored("eth").await.revision.id, chain);
    let said = place.ok(&["dump", "--dataset", "story", "-e", "99"]);
    assert!(said.stderr.contains("blocks 0 to 99 again, and replaced 0 of 4 segments"), "{}", said.stderr);
    assert_eq!(segments(&place.stored("story").await), segments(&after[1]));
}

/// Nobody knows what rows were computed from that an earlier version has written. What is computed from them is looked
/// at again once that is known.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_computed_from_rows_of_unknown_sources_is_compared_later() {
    let node = demo_chain();
    let place = Place::configured(Db::Sqlite, NOT_MERGED);
    place.define("eth", "anvil", node.url());
    write_json(&place, "erc20", &erc20("eth"));
    write_json(&place, "story", &story());
    for end in ["19", "39"] {
        place.ok(&["dump", "--dataset", "erc20", "-e", end]);
    }
    let of_first: Vec<SegmentId> =
        place.stored("erc20").await.tables.iter().map(|(_, _, segments)| segments[0].id).collect();
    place.metadata().await.confirm_sources(&of_first, &SourceRevisions::default()).await.unwrap();
    place.ok(&["dump", "--dataset", "story", "-e", "39", "--ignore-deps"]);
    let said = place.ok(&["dump", "--dataset", "story", "-e", "39"]);
    for (dataset, blocks) in [("erc20", "0 to 19"), ("story", "0 to 39")] {
        let told = format!(
            "{dataset}: what it is made of was built anew: computed blocks {blocks} again, and replaced 0 of 1 segments"
        );
        assert!(said.stderr.contains(&told), "{}", said.stderr);
    }
    let said = place.ok(&["dump", "--dataset", "story", "-e", "39"]);
    assert!(!said.stderr.contains("built anew"), "{}", said.stderr);
}

/// A segment is repaired only as far as what it is made of reaches.
#[tokio::test(flavor = "multi_thread")]
async fn no_segment_is_repaired_above_what_it_is_made_of() {
    let node = demo_chain();
    let place = Place::configured(Db::Sqlite, NOT_MERGED);
    place.define("eth", "anvil", node.url());
    write_json(&place, "erc20", &erc20("eth"));
    for end in ["19", "39"] {
        place.ok(&["dump", "--dataset", "erc20", "-e", end]);
    }
    place.ok(&["dump", "--dataset", "eth", "-e", "29", "--fresh"]);
    let damage = async |segment: usize| {
        let stored = place.stored("erc20").await;
        let (_, folder, segments) = stored.tables.iter().find(|(table, ..)| table == "transfers").unwrap();
        let file = folder.join(&segments[segment].file.as_ref().unwrap().name);
        std::fs::write(file, "nothing").unwrap();
    };
    damage(0).await;
    let said = place.run(&["check", "--dataset", "erc20", "--repair"]);
    assert!(said.code == Some(0) && said.stderr.contains("replaced blocks 0 to 19"), "{}", said.stderr);
    damage(1).await;
    let said = place.run(&["check", "--dataset", "erc20", "--repair"]);
    let told = "reaches to block 29 only, and blocks 20 to 39";
    assert!(said.code == Some(1) && said.stderr.contains(told), "{}", said.stderr);
}

/// A job cuts what is to be compared into tasks, as it does with what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn workers_compare_what_was_derived_before() {
    let (wrong, right) = (wrong_chain(), demo_chain());
    let place = Place::configured(Db::Postgres, NOT_MERGED);
    let cluster = Cluster::on(place, &["worker-0", "worker-1"], &["--max-tasks", "2"]);
    let provider = |url: &str| json!({"name": "node", "kind": "evm-rpc", "network": "anvil", "url": url});
    assert_eq!(cluster.api.send(Method::POST, "/providers", &provider(wrong.url())).await.0, 201);
    for manifest in [json!({"name": "eth", "kind": "evm-rpc", "network": "anvil"}), erc20("eth"), story()] {
        assert_eq!(cluster.api.send(Method::POST, "/datasets", &manifest).await.0, 201);
    }
    let done = async |dataset: &str, request: Value| {
        let job = cluster.api.dump(dataset, request).await;
        cluster.api.until_job(job, "COMPLETED").await;
    };
    done("story", json!({"end_block": -30})).await;
    for name in ["eth", "erc20", "story"] {
        cluster.place.stored(name).await.assert_sound(0, right.head() - 30);
    }
    done("story", json!({"end_block": "latest"})).await;
    assert_eq!(cluster.api.send(Method::PUT, "/providers/node", &provider(right.url())).await.0, 200);
    done("eth", json!({"end_block": "latest", "fresh": true})).await;
    done("story", json!({"end_block": "latest"})).await;
    assert_derived_is_the_truth(&cluster.place);
    // Whoever is at the head may have folded segments meanwhile: only the workers know what they have replaced.
    let logs: Vec<String> = cluster.workers.iter().map(Worker::log).collect();
    for name in ["erc20", "story"] {
        cluster.place.stored(name).await.assert_sound(0, right.head());
        let job = format!("({name})");
        let told = logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains(&job));
        let replaced =
            told.filter_map(|line| line.split_once("replaced ")?.1.split(' ').next()?.parse::<u32>().ok());
        assert_eq!(replaced.sum::<u32>(), 1, "{name}: {logs:?}");
    }
}

/// The files tell what they were computed from too, and whoever follows the head notices by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_is_noticed_after_a_restore_and_while_the_head_is_followed() {
    let (wrong, right) = (wrong_chain(), demo_chain());
    let place = Place::configured(Db::Sqlite, &format!("poll_interval_secs = 0.1\n{NOT_MERGED}"));
    place.define("eth", "anvil", wrong.url());
    write_json(&place, "erc20", &erc20("eth"));
    place.ok(&["dump", "--dataset", "erc20", "-e", "39"]);
    place.ok(&["dump", "--dataset", "erc20", "-e", "59"]);
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(place.path(name)).ok();
    }
    place.ok(&["restore", "--dataset", "eth"]);
    place.ok(&["restore", "--dataset", "erc20"]);
    // Of the revisions that were restored with it.
    let said = place.ok(&["dump", "--dataset", "erc20", "-e", "59"]);
    assert!(!said.stderr.contains("built anew"), "{}", said.stderr);
    let before = place.stored("erc20").await;
    let follower = place.start(&["dump", "--dataset", "erc20", "--follow", "--ignore-deps"]);
    place.define("eth", "anvil", right.url());
    place.ok(&["dump", "--dataset", "eth", "-e", "59", "--fresh"]);
    let metadata = place.metadata().await;
    until("the segment with the wrong block to be replaced", async || {
        let after = Stored::read(metadata.clone(), "erc20").await;
        let replaced = replaced(&before, &after);
        assert!(replaced.iter().all(|blocks| blocks.contains(WRONG_BLOCK)), "{replaced:?}");
        (!replaced.is_empty()).then_some(())
    })
    .await;
    follower.kill();
    let values = |sql: &str| place.query(sql);
    let sql = "SELECT value FROM erc20.transfers WHERE block_num = 35 ORDER BY log_index";
    let truth = "SELECT u256_to_decimal(data) AS value FROM eth.logs WHERE block_num = 35 AND \
                 topic0 = evm_topic('Transfer(address,address,uint256)') ORDER BY log_index";
    assert_eq!(values(sql), values(truth));
}

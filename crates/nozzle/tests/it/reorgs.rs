//! Reorgs between and during dumps: afterwards the tables equal the node's chain.

use std::time::{Duration, Instant};

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
};
use serde_json::json;

use crate::harness::{Db, Place, until};

/// Every block of the node, with the counts of what is in it, equals the stored ones.
pub async fn assert_equals_node(place: &Place, anvil: &Anvil) {
    let (head, _) = anvil.head().await.unwrap();
    let rows = place.query(
        "SELECT b.block_num, b.hash, b.parent_hash,
                (SELECT count(*) FROM anvil.transactions t WHERE t.block_hash = b.hash) AS txs,
                (SELECT count(*) FROM anvil.logs l WHERE l.block_hash = b.hash) AS logs
         FROM anvil.blocks b ORDER BY b.block_num",
    );
    assert_eq!(rows.len() as u64, head + 1, "the node has {} blocks", head + 1);
    let mut totals = (0, 0);
    for (number, row) in rows.iter().enumerate() {
        let at = format!("0x{number:x}");
        let block = anvil.rpc().call("eth_getBlockByNumber", json!([at, false])).await.unwrap();
        let receipts = anvil.rpc().call("eth_getBlockReceipts", json!([at])).await.unwrap();
        let logs: usize =
            receipts.as_array().unwrap().iter().map(|r| r["logs"].as_array().unwrap().len()).sum();
        let txs = block["transactions"].as_array().unwrap().len();
        assert_eq!(row["hash"], block["hash"], "block {number}");
        assert_eq!(row["parent_hash"], block["parentHash"], "block {number}");
        assert_eq!(row["txs"].as_u64().unwrap_or(0), txs as u64, "transactions of block {number}");
        assert_eq!(row["logs"].as_u64().unwrap_or(0), logs as u64, "logs of block {number}");
        totals = (totals.0 + txs as u64, totals.1 + logs as u64);
    }
    // Rows of orphaned blocks would not have been counted above.
    assert_eq!(place.number("SELECT count(*) FROM anvil.transactions"), totals.0);
    assert_eq!(place.number("SELECT count(*) FROM anvil.logs"), totals.1);
    place.stored("anvil").await.assert_sound(0, head);
}

#[tokio::test(flavor = "multi_thread")]
async fn reorgs_between_dumps_are_repaired_whatever_their_depth_and_height() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 1).await.unwrap();
    let place = Place::empty();
    let dump = ["dump", "--rpc-url", anvil.url()];
    chain.extend(20).await.unwrap();
    place.ok(&dump);
    for depth in 1..=5u64 {
        // A segment of two blocks, so that forks deeper than two reach below the last segment.
        chain.extend(2).await.unwrap();
        place.ok(&dump);
        let before = anvil.head().await.unwrap();
        anvil.reorg(depth).await.unwrap();
        let after = anvil.head().await.unwrap();
        assert_eq!(before.0, after.0, "the reorg keeps the height");
        assert_ne!(before.1, after.1, "the reorg changes the head");
        if depth % 2 == 0 {
            chain.extend(3).await.unwrap();
        }
        let said = place.ok(&dump);
        assert!(said.stderr.contains("the chain was reorganised"), "{}", said.stderr);
        assert_equals_node(&place, &anvil).await;
    }
    // What no reorg has touched is still the first file.
    let stored = place.stored("anvil").await;
    assert_eq!(stored.spans()[0].range.start(), 0);
    assert!(stored.spans()[0].range.len() >= 17, "{:?}", stored.spans());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_below_the_last_chunk_of_a_parallel_dump_is_repaired() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 11).await.unwrap();
    // Three chunks of some 44 blocks.
    chain.extend(129).await.unwrap();
    let place = Place::empty();
    place.ok(&["dump", "--rpc-url", anvil.url(), "-j", "3"]);
    let (head, _) = anvil.head().await.unwrap();
    for depth in [50, 45] {
        let starts: Vec<u64> = place.stored("anvil").await.spans().iter().map(|s| s.range.start()).collect();
        assert!(
            starts.iter().any(|start| *start > head - depth + 1),
            "a boundary above the fork: {starts:?}"
        );
        anvil.reorg(depth).await.unwrap();
        place.ok(&["dump", "--dataset", "anvil", "-j", "3"]);
        assert_equals_node(&place, &anvil).await;
        chain.extend(2).await.unwrap();
        place.ok(&["dump", "--dataset", "anvil", "-j", "3"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_below_a_big_segment_keeps_what_lies_under_it() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 2).await.unwrap();
    let place = Place::empty();
    chain.extend(120).await.unwrap();
    place.ok(&["dump", "--rpc-url", anvil.url()]);
    anvil.reorg(40).await.unwrap();
    place.ok(&["dump", "--dataset", "anvil"]);
    assert_equals_node(&place, &anvil).await;
    let (head, _) = anvil.head().await.unwrap();
    let spans = place.stored("anvil").await.spans();
    assert_eq!(spans.len(), 2, "the kept part and the new one: {spans:?}");
    assert_eq!(spans[0].range.end(), head - 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_only_got_shorter_loses_nothing_until_it_differs() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 3).await.unwrap();
    let place = Place::empty();
    let dump = ["dump", "--rpc-url", anvil.url()];
    chain.extend(20).await.unwrap();
    place.ok(&dump);
    let (head, _) = anvil.head().await.unwrap();
    anvil.rollback(4).await.unwrap();
    place.ok(&dump);
    assert_eq!(
        place.number("SELECT max(block_num) FROM anvil.blocks"),
        head,
        "a node that is behind proves nothing"
    );
    anvil.mine(2).await.unwrap();
    place.ok(&dump);
    assert_equals_node(&place, &anvil).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dataset_of_a_network_is_repaired_also_without_stored_hashes() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 6).await.unwrap();
    chain.extend(100).await.unwrap();
    let place = Place::configured(Db::Sqlite, "");
    place.define("anvil", "anvil", anvil.url());
    let only = |name: &str, schema: &str| {
        let manifest = format!(r#"{{"name":"{name}","kind":"evm-rpc","network":"anvil","schema":{schema}}}"#);
        place.write(&format!("datasets/{name}.json"), &manifest);
    };
    only("second", r#"{"blocks":"*"}"#);
    only("third", r#"{"logs":["address"]}"#);
    let datasets = "anvil,second,third";
    place.ok(&["dump", "--dataset", datasets]);
    anvil.reorg(2).await.unwrap();
    chain.extend(140).await.unwrap();
    place.ok(&["dump", "--dataset", datasets]);
    assert_equals_node(&place, &anvil).await;
    let (head, _) = anvil.head().await.unwrap();
    place.stored("second").await.assert_sound(0, head);
    place.stored("third").await.assert_sound(0, head);
    let logs = |dataset: &str| place.number(&format!("SELECT count(*) FROM {dataset}.logs"));
    assert_eq!(logs("third"), logs("anvil"));
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_above_the_head_that_no_longer_follow_it_are_replaced() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 8).await.unwrap();
    chain.extend(110).await.unwrap();
    let place = Place::configured(Db::Sqlite, "");
    place.define("anvil", "anvil", anvil.url());
    place.ok(&["dump", "--dataset", "anvil", "-e", "90"]);
    place.ok(&["dump", "--dataset", "anvil", "-e", "108"]);
    // Shorter than what is stored, with other blocks below it.
    let (head, _) = anvil.head().await.unwrap();
    anvil.rollback(head - 88).await.unwrap();
    chain.extend(2).await.unwrap();
    place.ok(&["dump", "--dataset", "anvil"]);
    assert_equals_node(&place, &anvil).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reorgs_during_parallel_dumps_leave_the_nodes_chain() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 4).await.unwrap();
    chain.extend(300).await.unwrap();
    let place = Place::configured(Db::Sqlite, "writer = { segment_flush_interval_secs = 0.02 }");
    place.define("anvil", "anvil", anvil.url());
    let mut met = 0;
    for round in 0..6u64 {
        let jobs = (1 + (round + 2) % 3).to_string();
        let mut dump = place.start(&["dump", "--dataset", "anvil", "-j", &jobs]);
        let (depth, started) = (1 + round % 5, Instant::now());
        while dump.is_running() {
            // A chain that never rests is given up in the end, and a slow dump never sees it rest.
            if started.elapsed() < Duration::from_secs(2) {
                anvil.reorg(depth).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20 + 15 * round)).await;
        }
        let said = dump.wait();
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        met += ["was reorganised", "looking again"]
            .iter()
            .map(|s| said.stderr.matches(s).count())
            .sum::<usize>();
        chain.extend(70).await.unwrap();
    }
    assert!(met > 0, "no dump has met a reorg");
    place.ok(&["dump", "--dataset", "anvil"]);
    assert_equals_node(&place, &anvil).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn following_the_head_commits_each_block_and_follows_reorgs() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 5).await.unwrap();
    chain.extend(10).await.unwrap();
    let place = Place::configured(Db::Sqlite, "poll_interval_secs = 0.05");
    place.define("anvil", "anvil", anvil.url());
    let mut follow = place.start(&["dump", "--dataset", "anvil", "--follow"]);
    let store = place.metadata_when_there().await;
    let caught_up = async || {
        let (head, hash) = anvil.head().await.unwrap();
        until("the head to be committed", async || {
            let dataset = store.dataset(&"anvil".parse().unwrap()).await.ok()??;
            let revision = store.revisions(dataset.id).await.ok()?.into_iter().next()?;
            let scan = nozzle_metadata::Scan {
                location: revision.locations[0].id,
                sequence: store.sequence().await.ok()?,
                range: nozzle_core::BlockRange::from(0),
            };
            let tip = nozzle_core::chain::watermark(0, &store.spans(&scan).await.ok()?)?;
            (tip.number == head && tip.hash == hash).then_some(())
        })
        .await;
    };
    for depth in 1..=3 {
        caught_up().await;
        anvil.mine(1).await.unwrap();
        caught_up().await;
        anvil.reorg(depth).await.unwrap();
    }
    chain.extend(2).await.unwrap();
    caught_up().await;
    follow.signal("TERM");
    let said = follow.wait();
    assert_eq!(said.code, Some(0), "following ends well when it is told to end: {}", said.stderr);
    assert_equals_node(&place, &anvil).await;
}

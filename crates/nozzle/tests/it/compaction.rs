//! Compaction and collection: few files, the same rows, nothing left behind.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use nozzle_metadata::Segment;
use nozzle_testkit::replay::Recording;

use crate::{
    cluster::{NETWORK, assert_equal},
    harness::{Db, Place, Stored, synthetic, until, until_stored},
};

const BLOCKS: u64 = 600;

/// Many small segments, which nobody merges by himself, and a short grace period.
const SMALL: &str = "writer = { segment_flush_interval_secs = 0.05 }\n\
                     compaction = { compactor_enabled = false, file_lock_duration_secs = 0.5 }";

/// A place with the dataset `eth` in many segments, and the same blocks as `truth`.
fn many_segments(db: Db) -> Place {
    let node = synthetic(Recording::synthetic(BLOCKS, 3, 2, 91), 0);
    let place = Place::configured(db, SMALL);
    place.define("eth", NETWORK, node.url());
    place.write(
        "datasets/truth.json",
        &format!(r#"{{"name":"truth","kind":"evm-rpc","network":"{NETWORK}"}}"#),
    );
    place.ok(&["dump", "--dataset", "truth", "-j", "2"]);
    // Two requests a block, four at a time: some three seconds, in which a segment is closed every twentieth.
    node.set_delay(Duration::from_millis(10));
    let provider = std::fs::read_to_string(place.path(&format!("providers/{NETWORK}.toml"))).unwrap();
    place.write(&format!("providers/{NETWORK}.toml"), &(provider + "concurrent_request_limit = 4\n"));
    place.ok(&["dump", "--dataset", "eth"]);
    place
}

/// All files below a folder.
pub fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.extend([path]) }
    }
    found
}

/// The files that count.
pub fn live_files(stored: &Stored) -> BTreeSet<PathBuf> {
    let of_table = |(_, folder, segments): &(String, PathBuf, Vec<Segment>)| {
        let files = segments.iter().filter_map(|segment| segment.file.as_ref());
        files.map(|file| folder.join(&file.name)).collect::<Vec<_>>()
    };
    stored.tables.iter().flat_map(of_table).collect()
}

/// Every file that is there is one that counts, and the other way round.
async fn assert_nothing_left(place: &Place, dataset: &str) {
    let stored = place.stored(dataset).await;
    assert_eq!(files_below(&place.path("data").join(dataset)), live_files(&stored));
}

#[tokio::test(flavor = "multi_thread")]
async fn compacted_files_have_the_same_rows_and_the_old_ones_go() {
    for db in [Db::Sqlite, Db::Postgres] {
        let place = many_segments(db);
        let before = place.stored("eth").await.spans().len();
        assert!(before >= 30, "only {before} segments");
        let said = place.ok(&["compact", "--dataset", "eth"]);
        assert!(said.stdout.contains(&format!("eth: {before} segments are 1 now")), "{}", said.stdout);
        assert_eq!(place.ok(&["compact", "--dataset", "eth"]).stdout, "nothing to compact\n");
        let stored = place.stored("eth").await;
        assert_eq!(stored.spans().len(), 1);
        stored.assert_sound(0, BLOCKS - 1);
        assert_equal(&place, "eth", "truth", BLOCKS);
        place.ok(&["check", "--dataset", "eth", "--verify", "links"]);

        tokio::time::sleep(Duration::from_millis(600)).await;
        let said = place.ok(&["gc", "--dry-run"]);
        assert!(
            said.stdout.starts_with("would delete ") && !said.stdout.contains("delete 0"),
            "{}",
            said.stdout
        );
        let all = files_below(&place.path("data/eth")).len();
        let said = place.ok(&["gc"]);
        let stored = place.stored("eth").await;
        let gone = all - live_files(&stored).len();
        assert!(said.stdout.starts_with(&format!("deleted {gone} files")), "{gone}: {}", said.stdout);
        assert_nothing_left(&place, "eth").await;
        assert_equal(&place, "eth", "truth", BLOCKS);
        assert!(place.ok(&["gc"]).stdout.starts_with("deleted 0 files"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_compaction_loses_nothing_and_leaves_nothing() {
    let place = many_segments(Db::Sqlite);
    for wait_ms in [20, 60, 120, 200] {
        let mut compaction = place.start(&["compact", "--dataset", "eth"]);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        compaction.is_running();
        compaction.kill();
        place.stored("eth").await.assert_sound(0, BLOCKS - 1);
        assert_equal(&place, "eth", "truth", BLOCKS);
    }
    // A killed one's lease is silent after five seconds.
    until("the compaction", async || {
        place.ok(&["compact", "--dataset", "eth"]);
        (place.stored("eth").await.spans().len() == 1).then_some(())
    })
    .await;
    until("the collection", async || {
        place.ok(&["gc"]);
        let stored = place.stored("eth").await;
        (files_below(&place.path("data/eth")) == live_files(&stored)).then_some(())
    })
    .await;
    assert_nothing_left(&place, "eth").await;
    assert_equal(&place, "eth", "truth", BLOCKS);
}

/// Followed in steps of three blocks, each a segment.
const HEADS: u64 = 240;
const LAST: u64 = HEADS - 1;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_folds_its_small_files_and_restore_finds_what_counts() {
    let node = synthetic(Recording::synthetic(HEADS, 3, 2, 92), 0);
    node.set_head(0);
    node.set_finalized(Some(0));
    let config = "poll_interval_secs = 0.02\n\
                  compaction = { compactor_interval_secs = 0.2, collector_interval_secs = 0.5, file_lock_duration_secs = 0.5 }";
    let place = Place::configured(Db::Sqlite, config);
    place.define("eth", NETWORK, node.url());
    let mut dump = place.start(&["dump", "--dataset", "eth", "--follow"]);
    let metadata = place.metadata_when_there().await;
    for head in (1..HEADS).step_by(3) {
        node.set_head(head);
        node.set_finalized(Some(head.saturating_sub(20)));
        until_stored(metadata.as_ref(), "eth", head).await;
    }
    node.set_head(LAST);
    node.set_finalized(Some(LAST));
    until_stored(metadata.as_ref(), "eth", LAST).await;
    until("the files to be few", async || {
        (Stored::read(metadata.clone(), "eth").await.spans().len() < 30).then_some(())
    })
    .await;
    dump.signal("INT");
    dump.wait();
    place.stored("eth").await.assert_sound(0, LAST);
    assert_eq!(place.number("SELECT count(DISTINCT tx_hash) FROM eth.transactions"), LAST * 3);
    assert_eq!(place.number("SELECT count(*) FROM eth.transactions"), LAST * 3);

    // What was replaced lies beside it for a while; the files alone tell what counts.
    drop(metadata);
    let spans = place.stored("eth").await.spans();
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(place.path(name)).ok();
    }
    place.ok(&["restore", "--dataset", "eth"]);
    assert_eq!(place.stored("eth").await.spans(), spans);
    assert_eq!(place.number("SELECT count(*) FROM eth.transactions"), LAST * 3);
}

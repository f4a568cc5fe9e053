//! A lost database: everything comes back from the files alone.

use std::time::Duration;

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
    replay::Recording,
};
use serde_json::Value;

use crate::harness::{Db, Place, synthetic, until};

/// What the tables hold, in questions whose answers any lost, doubled or changed row would change.
fn answers(place: &Place) -> Vec<Vec<Value>> {
    ["blocks", "transactions", "logs", "withdrawals"]
        .iter()
        .map(|table| {
            let (hash, order) = match *table {
                "blocks" => ("hash", "block_num"),
                "transactions" => ("tx_hash", "block_num, tx_index"),
                "logs" => ("tx_hash", "block_num, log_index"),
                _ => ("block_hash", "block_num, \"index\""),
            };
            place.query(&format!("SELECT block_num, {hash} FROM anvil.{table} ORDER BY {order}"))
        })
        .collect()
}

/// The database as if its disk were gone.
fn lose_database(place: &Place) {
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(place.path(".nozzle").join(name)).ok();
    }
    assert!(!place.path(".nozzle/metadata.db").exists());
}

/// A dataset with reorgs and a fresh revision behind it.
async fn with_a_past(anvil: &Anvil, chain: &mut ChainBuilder, place: &Place) {
    let dump = ["dump", "--rpc-url", anvil.url()];
    chain.extend(20).await.unwrap();
    place.ok(&dump);
    for depth in [1, 4] {
        chain.extend(3).await.unwrap();
        place.ok(&dump);
        anvil.reorg(depth).await.unwrap();
        place.ok(&dump);
    }
    place.ok(&["dump", "--rpc-url", anvil.url(), "--fresh", "-j", "2"]);
    for depth in [2, 5] {
        chain.extend(3).await.unwrap();
        place.ok(&dump);
        anvil.reorg(depth).await.unwrap();
        chain.extend(1).await.unwrap();
        place.ok(&dump);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_is_rebuilt_from_the_files() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 5).await.unwrap();
    let place = Place::empty();
    with_a_past(&anvil, &mut chain, &place).await;
    let (before, files) = (answers(&place), place.ok(&["files", "--dataset", "anvil"]).stdout);
    lose_database(&place);

    // What is stored is neither overlooked nor extracted again.
    let said = place.run(&["dump", "--dataset", "anvil"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("2 revisions of `anvil`")
            && said.stderr.contains("nozzle restore --dataset anvil")
            && said.stderr.contains("--fresh"),
        "{}",
        said.stderr
    );
    lose_database(&place);

    let said = place.ok(&["restore", "--dataset", "anvil"]);
    assert!(said.stderr.contains("is read again") && said.stderr.contains("was replaced"), "{}", said.stderr);
    assert_eq!(answers(&place), before);
    assert_eq!(place.ok(&["files", "--dataset", "anvil"]).stdout, files);
    let said = place.ok(&["restore", "--dataset", "anvil"]);
    assert!(said.stderr.contains("knows all that is stored"), "{}", said.stderr);

    // The next dump goes on, over a reorg too, and the next loss is as harmless.
    chain.extend(3).await.unwrap();
    anvil.reorg(2).await.unwrap();
    place.ok(&["dump", "--dataset", "anvil"]);
    let (head, _) = anvil.head().await.unwrap();
    place.stored("anvil").await.assert_sound(0, head);
    let before = answers(&place);
    lose_database(&place);
    place.ok(&["restore", "--dataset", "anvil"]);
    assert_eq!(answers(&place), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_was_being_built_goes_on_being_built() {
    let node = synthetic(Recording::synthetic(800, 2, 1, 3), 0);
    let place = Place::configured(Db::Sqlite, "writer = { segment_flush_interval_secs = 0.05 }");
    place.define("eth", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth", "-e", "100"]);
    // So late that it is not at its end before it is killed.
    node.set_delay(Duration::from_millis(400));
    let mut fresh = place.start(&["dump", "--dataset", "eth", "--fresh"]);
    let store = place.metadata_when_there().await;
    let before = store.sequence().await.unwrap();
    until("some commits", async || (store.sequence().await.ok()?.0 > before.0 + 3).then_some(())).await;
    assert!(fresh.is_running());
    fresh.kill();
    node.set_delay(Duration::ZERO);
    drop(store);
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(place.path(name)).ok();
    }

    let said = place.ok(&["restore", "--dataset", "eth"]);
    assert!(said.stderr.contains("is still being built"), "{}", said.stderr);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 101);
    let said = place.ok(&["dump", "--dataset", "eth", "--fresh"]);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 800);
    place.stored("eth").await.assert_sound(0, 799);
    // What the killed dump had committed was not extracted again.
    assert!(!said.stderr.contains("800 blocks in"), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_is_gone_on_with_by_the_same_command() {
    let node = synthetic(Recording::synthetic(1_500, 2, 1, 3), 0);
    let place = Place::configured(Db::Postgres, "writer = { segment_flush_interval_secs = 0.005 }");
    place.define("eth", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth", "-j", "4"]);
    let cuts = place.stored("eth").await.spans().len();
    let store = place.metadata().await;
    let dataset = store.dataset(&"eth".parse().unwrap()).await.unwrap().unwrap();
    let known = store.revisions(dataset.id).await.unwrap();
    // Another database over the same files.
    let other = Place::configured(Db::Postgres, "");
    other.define("eth", "chain-1337", node.url());
    std::fs::remove_dir_all(other.path("data")).ok();
    std::os::unix::fs::symlink(place.path("data"), other.path("data")).unwrap();
    let mut restore = other.start(&["restore", "--dataset", "eth"]);
    let store = other.metadata().await;
    until("its first commit", async || {
        (store.sequence().await.ok()?.0 > 0 || !restore.is_running()).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    restore.kill();
    other.ok(&["restore", "--dataset", "eth"]);
    let stored = other.stored("eth").await;
    assert_eq!((stored.revision.id, stored.spans().len()), (known[0].id, cuts));
    stored.assert_sound(0, 1_499);
    assert_eq!(other.number("SELECT count(DISTINCT tx_hash) FROM eth.transactions"), 1_499 * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_only_file_is_lost_is_not_taken_for_one_without_rows() {
    let node = synthetic(Recording::synthetic(50, 2, 1, 3), 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth"]);
    let files = place.ok(&["files", "--dataset", "eth", "--table", "transactions"]).stdout;
    assert_eq!(files.lines().count(), 1);
    std::fs::remove_file(files.trim()).unwrap();
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(place.path(name)).ok();
    }
    place.run(&["restore", "--dataset", "eth"]);
    // Whether restore has taken up an empty revision or none: nothing is missing after the next dump.
    if place.run(&["dump", "--dataset", "eth"]).code != Some(0) {
        place.ok(&["dump", "--dataset", "eth", "--fresh"]);
    }
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 50);
    assert_eq!(place.number("SELECT count(*) FROM eth.transactions"), 98);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_whose_manifest_cannot_be_read_does_not_keep_the_others_back() {
    let node = synthetic(Recording::synthetic(50, 2, 1, 3), 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth"]);
    place.ok(&["dump", "--dataset", "eth", "--fresh"]);
    // As a later version would write it: a footer is not compressed, and this one stays as long.
    let files = place.ok(&["files", "--dataset", "eth"]).stdout;
    let mut changed = 0;
    for file in files.lines() {
        let mut bytes = std::fs::read(file).unwrap();
        let kind = br#"\"kind\":\"evm-rpc\""#.as_slice();
        let kind =
            if bytes.windows(kind.len()).any(|part| part == kind) { kind } else { b"\"kind\":\"evm-rpc\"" };
        while let Some(at) = bytes.windows(kind.len()).position(|part| part == kind) {
            let end = at + kind.windows(7).position(|part| part == b"evm-rpc").unwrap() + 6;
            bytes[end] = b'X';
            changed += 1;
        }
        std::fs::write(file, bytes).unwrap();
    }
    assert!(changed > 0);
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(place.path(name)).ok();
    }
    let said = place.ok(&["restore", "--dataset", "eth"]);
    assert!(said.stderr.contains("is left out: the manifest in its files is not valid"), "{}", said.stderr);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_foreign_files_are_named_and_left_out() {
    let node = synthetic(Recording::synthetic(300, 2, 1, 3), 0);
    let place = Place::configured(Db::Sqlite, "writer = { segment_flush_interval_secs = 0.01 }");
    place.define("eth", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth", "-j", "2"]);
    let stored = place.stored("eth").await;
    let (_, folder, segments) = &stored.tables[1];
    let name = segments.iter().find_map(|segment| segment.file.as_ref()).unwrap().name.clone();
    let path = folder.join(&name);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    place.write("data/eth/notes.txt", "not ours");
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(place.path(name)).ok();
    }
    let said = place.ok(&["restore", "--dataset", "eth"]);
    assert!(
        said.stderr.contains(&name) && said.stderr.contains("will be extracted again"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("1 objects beside them"), "{}", said.stderr);
    place.ok(&["dump", "--dataset", "eth"]);
    place.stored("eth").await.assert_sound(0, 299);
    assert_eq!(place.number("SELECT count(*) FROM eth.transactions"), 299 * 2);

    let said = place.run(&["restore", "--dataset", "nothing_here"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("holds no files of the dataset `nothing_here`"), "{}", said.stderr);
}

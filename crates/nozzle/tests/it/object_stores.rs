//! Object stores that are real servers: dump, resume, kill, query, restore, through a proxy that breaks
//! what passes.

use std::time::{Duration, Instant};

use nozzle_testkit::{
    replay::Recording,
    store::{BUCKET, StoreProxy, StoreProxyOptions, StoreServer},
};
use serde_json::json;

use crate::harness::{Db, NOT_MERGED, Place, Said, seed, synthetic, until};

const BLOCKS: u64 = 600;
const FLUSH: &str = "writer = { segment_flush_interval_secs = 0.2 }";

/// Servers take seconds to start, and wait for themselves.
async fn started(start: fn() -> anyhow::Result<StoreServer>) -> StoreServer {
    tokio::task::spawn_blocking(start).await.unwrap().unwrap()
}

/// A place whose three folders are in a store.
fn place_in(store: &StoreServer, folder: &str, lines: &str, through: Option<&str>) -> Place {
    let folders: String =
        [("data_dir", "data"), ("providers_dir", "providers"), ("dataset_defs_dir", "datasets")]
            .iter()
            .map(|(key, name)| format!("{key} = \"{}\"\n", store.url(&format!("{folder}/{name}"))))
            .collect();
    let mut place = Place::configured(Db::Sqlite, &format!("{folders}{lines}"));
    place.set_variables(store.variables(through));
    place
}

fn assert_whole(place: &Place, blocks: u64) {
    let transactions = (blocks - 1) * 3;
    let expected = json!({
        "blocks": blocks, "block_numbers": blocks, "transactions": transactions, "tx_hashes": transactions,
        "logs": transactions * 2,
    });
    let sql = "SELECT (SELECT count(*) FROM eth.blocks) AS blocks,
                      (SELECT count(DISTINCT block_num) FROM eth.blocks) AS block_numbers,
                      (SELECT count(*) FROM eth.transactions) AS transactions,
                      (SELECT count(DISTINCT tx_hash) FROM eth.transactions) AS tx_hashes,
                      (SELECT count(*) FROM eth.logs) AS logs";
    assert_eq!(place.query(sql), [expected]);
}

fn lose_database(place: &Place) {
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(place.path(name)).ok();
    }
}

/// The whole story on one store: an ad-hoc dump that writes its definitions there, resume, kill, query,
/// a lost database, and the next dump.
async fn story(store: &StoreServer, through: Option<&str>) {
    let node = synthetic(Recording::synthetic(BLOCKS, 3, 2, 7), 20);
    let place = place_in(store, "story", FLUSH, through);
    let said = place.ok(&["dump", "--rpc-url", node.url(), "--dataset", "eth", "-e", "99"]);
    let provider = store.url("story/providers/chain-1337.toml");
    assert!(said.stderr.contains(&provider), "{}", said.stderr);
    let mut dump = place.start(&["dump", "--dataset", "eth", "-j", "3"]);
    let metadata = place.metadata().await;
    let before = metadata.sequence().await.unwrap();
    until("some commits", async || (metadata.sequence().await.ok()?.0 > before.0 + 2).then_some(())).await;
    dump.signal("KILL");
    dump.wait();
    drop(metadata);
    place.ok(&["dump", "--dataset", "eth"]);
    assert_whole(&place, BLOCKS);
    let files = place.ok(&["files", "--dataset", "eth", "--table", "logs"]).stdout;
    assert!(files.lines().all(|url| url.starts_with(&store.url("story/data/eth/logs/"))), "{files}");

    lose_database(&place);
    let said = place.run(&["dump", "--dataset", "eth"]);
    assert!(said.code == Some(1) && said.stderr.contains("nozzle restore --dataset eth"), "{}", said.stderr);
    place.ok(&["restore", "--dataset", "eth"]);
    assert_whole(&place, BLOCKS);
    place.ok(&["dump", "--dataset", "eth"]);
    assert_whole(&place, BLOCKS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_loses_and_doubles_nothing() {
    let store = started(StoreServer::seaweedfs).await;
    let seed = seed("NOZZLE_FAULT_SCHEDULES");
    let options = StoreProxyOptions { faults_per_1000: 200, seed, ..StoreProxyOptions::default() };
    let proxy = StoreProxy::start(store.address(), options).unwrap();
    story(&store, Some(proxy.url())).await;
    let passed = proxy.take_passed();
    println!("{passed:?}");
    assert!(passed.faults.values().sum::<u64>() > 8, "{passed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_holds_on_moto() {
    story(&started(StoreServer::moto).await, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_holds_on_azurite() {
    story(&started(StoreServer::azurite).await, None).await;
}

/// The uploads in parts that the store knows of.
async fn uploads(store: &StoreServer) -> usize {
    let url = format!("http://{}/{BUCKET}?uploads", store.address());
    let answer = reqwest::get(url).await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    answer.text().await.unwrap().matches("<UploadId>").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_upload_is_left_behind_after_the_grace_period() {
    let store = started(StoreServer::seaweedfs).await;
    let node = synthetic(Recording::mainnet_like(220, 3), 0);
    // Some 70 KB of files a block, in parts of 8 MiB.
    let place = place_in(&store, "parts", "compaction = { file_lock_duration_secs = 1 }", None);
    place.ok(&["dump", "--rpc-url", node.url(), "--dataset", "eth", "-e", "0"]);
    let dump = place.start(&["dump", "--dataset", "eth"]);
    let metadata = place.metadata().await;
    // From then on parts are sent.
    until("an upload in parts", async || {
        let recorded = metadata.recorded_objects().await.ok()?;
        recorded.iter().any(|object| object.upload.is_some()).then_some(())
    })
    .await;
    dump.kill();
    assert!(uploads(&store).await > 0);

    place.ok(&["dump", "--dataset", "eth"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    place.ok(&["dump", "--dataset", "eth"]);
    assert_eq!(uploads(&store).await, 0);
    assert_eq!(metadata.recorded_objects().await.unwrap(), []);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 220);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_may_only_be_read_answers_queries() {
    let store = started(StoreServer::seaweedfs).await;
    let node = synthetic(Recording::synthetic(50, 3, 2, 7), 0);
    let mut place = place_in(&store, "read", "", None);
    place.ok(&["dump", "--rpc-url", node.url(), "--dataset", "eth"]);
    let doctor = place.ok(&["doctor"]).stdout;
    for works in ["list, write, read", "conditional write", "upload in parts", "delete"] {
        assert!(doctor.contains(works), "{doctor}");
    }

    // A bucket that is not there is another thing than one that is empty.
    let said = place.run(&["restore", "--dataset", "eth", "--location", "s3://no-such-bucket/data"]);
    assert!(said.code == Some(1) && said.stderr.contains("NoSuchBucket"), "{}", said.stderr);

    place.set_variables(store.read_only_variables());
    assert_whole(&place, 50);
    let said = place.run(&["dump", "--dataset", "eth"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("cannot be written") && said.stderr.contains("nozzle doctor"),
        "{}",
        said.stderr
    );
    let Said { code, stdout, .. } = place.run(&["doctor"]);
    assert!(code == Some(0) && stdout.contains("it can only be read"), "{stdout}");

    let mut wrong = store.variables(None);
    wrong
        .iter_mut()
        .filter(|(name, _)| *name == "AWS_SECRET_ACCESS_KEY")
        .for_each(|(_, v)| *v = "wrong".into());
    place.set_variables(wrong);
    let Said { code, stdout, .. } = place.run(&["doctor"]);
    assert!(code == Some(1) && stdout.contains("FAILED") && !stdout.contains("wrong"), "{stdout}");
}

/// What was read once is not asked for again, but a check reads what the store has.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_answers_queries_and_is_not_what_a_check_reads() {
    let store = started(StoreServer::seaweedfs).await;
    let node = synthetic(Recording::synthetic(50, 3, 2, 7), 0);
    let mut place = place_in(&store, "cache", "cache = { dir = \"kept\", size_mb = 64 }", None);
    place.ok(&["dump", "--rpc-url", node.url(), "--dataset", "eth"]);
    let proxy = StoreProxy::start(store.address(), StoreProxyOptions::default()).unwrap();
    place.set_variables(store.variables(Some(proxy.url())));
    let ask = || {
        assert_whole(&place, 50);
        proxy.take_passed().bytes
    };
    let (cold, warm) = (ask(), ask());
    assert!(cold > 10_000 && warm == 0, "{cold} bytes, then {warm}");

    let check = ["check", "--dataset", "eth", "--verify", "links"];
    place.ok(&check);
    assert!(proxy.take_passed().bytes > 10_000);
    let files = place.ok(&["files", "--dataset", "eth", "--table", "logs"]).stdout;
    let (_, object) = files.trim().split_once(BUCKET).unwrap();
    let url = format!("http://{}/{BUCKET}{object}", store.address());
    let client = reqwest::Client::new();
    let mut bytes = client.get(&url).send().await.unwrap().bytes().await.unwrap().to_vec();
    // The magic, and the first bytes of the first page.
    bytes[4..40].fill(0);
    assert!(client.put(&url).body(bytes).send().await.unwrap().status().is_success());
    assert_eq!(ask(), 0, "it is kept");
    let said = place.run(&check);
    assert!(said.code == Some(1) && said.stdout.contains("logs"), "{} {}", said.stdout, said.stderr);
}

/// Where each of many files could hold the one transaction, only their bloom filters tell which does.
/// `NOZZLE_COLD_BLOCKS` says how many blocks, of which a file has a few, and `NOZZLE_COLD_LATENCY_MS` how late
/// the store answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_look_up_by_hash_asks_each_file_once() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |number| number.parse().expect("a number"))
    };
    let (blocks, latency_ms) = (number("NOZZLE_COLD_BLOCKS", 100), number("NOZZLE_COLD_LATENCY_MS", 5));
    let store = started(StoreServer::seaweedfs).await;
    let node = synthetic(Recording::synthetic(blocks, 20, 1, 7), 0);
    // Block by block, each committed as it comes.
    let lines = format!(
        "data_dir = \"{}\"\nwriter = {{ segment_flush_interval_secs = 0.0001 }}\n{NOT_MERGED}",
        store.url("cold")
    );
    let mut place = Place::configured(Db::Sqlite, &lines);
    place.define("eth", "chain-1337", node.url());
    place.write(
        "providers/chain-1337.toml",
        &format!(
            "kind = \"evm-rpc\"\nnetwork = \"chain-1337\"\nurl = \"{}\"\nconcurrent_request_limit = 1\n",
            node.url()
        ),
    );
    place.set_variables(store.variables(None));
    place.ok(&["dump", "--dataset", "eth", "-j", "4"]);
    let sql = format!("SELECT tx_hash FROM eth.transactions WHERE block_num = {} LIMIT 1", blocks / 2);
    let hash = place.query(&sql)[0]["tx_hash"].as_str().unwrap().to_owned();
    let listed = place.ok(&["files", "--dataset", "eth", "--table", "transactions"]).stdout;
    let files = listed.lines().count() as u64;

    let latency = Duration::from_millis(latency_ms);
    let options = StoreProxyOptions { latency, ..StoreProxyOptions::default() };
    let proxy = StoreProxy::start(store.address(), options).unwrap();
    place.set_variables(store.variables(Some(proxy.url())));
    let digits = hash.strip_prefix("0x").unwrap();
    let started = Instant::now();
    let found = place.query(&format!("SELECT * FROM eth.transactions WHERE tx_hash = '0x{digits}'"));
    let elapsed = started.elapsed();
    assert_eq!(found.len(), 1);
    let passed = proxy.take_passed();
    println!("{files} files, {latency_ms} ms late: {passed:?} in {elapsed:?}");
    // Each file's bloom filter, then page index, filter and columns of the one that has it.
    let requests: u64 = passed.requests.values().sum();
    assert!(files > blocks / 10 && requests <= files + 8, "{requests} requests for {files} files");
}

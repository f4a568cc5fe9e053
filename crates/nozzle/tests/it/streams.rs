//! Many clients of one stream: what they cost together, and that each gets every block.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nozzle_testkit::{
    replay::Recording,
    store::{StoreProxy, StoreProxyOptions, StoreServer},
};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    harness::{Db, NOT_MERGED, Place, memory_kib, processor_ticks, synthetic, until},
    servers::Server,
};

const STORED: u64 = 10;
const LOGS_PER_BLOCK: u64 = 6;

/// How many clients; more by `just streams`.
fn clients() -> u64 {
    std::env::var("NOZZLE_STREAM_CLIENTS").map_or(60, |count| count.parse().expect("a number"))
}

/// What a client has: the last block of a whole range, and rows.
#[derive(Default)]
struct Had {
    end: AtomicU64,
    rows: AtomicU64,
}

async fn follow(http: reqwest::Client, url: String, sql: &'static str, had: Arc<Had>) {
    let mut answer = http.post(url).header("nozzle-control", "true").body(sql).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut rest = vec![];
    while let Ok(Some(part)) = answer.chunk().await {
        rest.extend_from_slice(&part);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line: Value = serde_json::from_slice(&line).unwrap();
            let Some(told) = line.get("_nozzle") else {
                had.rows.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if told["ranges_complete"] == true {
                let numbers = &told["ranges"][0]["numbers"];
                let (start, end) = (numbers["start"].as_u64().unwrap(), numbers["end"].as_u64().unwrap());
                let before = had.end.swap(end + 1, Ordering::Relaxed);
                assert_eq!(start, before, "the ranges of a client do not follow each other");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_one_query_are_served_by_one_scan_of_each_block() {
    let (clients, blocks) = (clients(), 8);
    let store = tokio::task::spawn_blocking(StoreServer::seaweedfs).await.unwrap().unwrap();
    let node = synthetic(Recording::synthetic(STORED + 2 * blocks, 3, 2, 7), 0);
    let lines = format!("data_dir = \"{}\"\n{NOT_MERGED}", store.url("streams"));
    let mut place = Place::configured(Db::Sqlite, &lines);
    place.define("eth", "chain-1337", node.url());
    place.set_variables(store.variables(None));
    let dump_until = |place: &Place, end: u64| {
        place.ok(&["dump", "--dataset", "eth", "-e", &end.to_string()]);
    };
    dump_until(&place, STORED - 1);
    let proxy = StoreProxy::start(store.address(), StoreProxyOptions::default()).unwrap();
    // The server reads through the proxy, the dumps write past it.
    place.set_variables(store.variables(Some(proxy.url())));
    let server = Server::start(&place, &["--jsonl-server"]);
    place.set_variables(store.variables(None));
    let http = reqwest::Client::new();
    let sql = "SELECT block_num, address, data FROM eth.logs SETTINGS stream = true";
    let mut following = JoinSet::new();
    let mut have: Vec<Arc<Had>> = vec![];
    let mut add = |have: &mut Vec<Arc<Had>>, count: u64| {
        for _ in 0..count {
            let had = Arc::new(Had::default());
            following.spawn(follow(http.clone(), server.jsonl().to_owned(), sql, Arc::clone(&had)));
            have.push(had);
        }
    };
    let all_have = async |have: &[Arc<Had>], end: u64| {
        until("every client to have the block", async || {
            have.iter().all(|had| had.end.load(Ordering::Relaxed) == end + 1).then_some(())
        })
        .await;
    };
    // One client first: what each block costs by itself.
    add(&mut have, 1);
    all_have(&have, STORED - 1).await;
    proxy.take_passed();
    for end in STORED..STORED + blocks {
        dump_until(&place, end);
        all_have(&have, end).await;
    }
    let requests = |passed: &nozzle_testkit::store::Passed| passed.requests.values().sum::<u64>();
    let of_one = requests(&proxy.take_passed());
    let memory_before = memory_kib(server.id());
    add(&mut have, clients - 1);
    all_have(&have, STORED + blocks - 1).await;
    // Each has read what was stored, and found by now that it is where the others are.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let memory = memory_kib(server.id()).saturating_sub(memory_before) / clients;
    proxy.take_passed();
    let ticks = processor_ticks(server.id());
    for end in STORED + blocks..STORED + 2 * blocks {
        dump_until(&place, end);
        all_have(&have, end).await;
    }
    let ticks = processor_ticks(server.id()) - ticks;
    let of_all = requests(&proxy.take_passed());
    println!(
        "{clients} clients: {of_all} requests for {blocks} blocks, one client {of_one}; {memory} KiB of memory \
         and {:.2} ms of processor time per client and block",
        ticks as f64 * 10.0 / (clients * blocks) as f64
    );
    // Each by itself would ask as often as one.
    assert!(of_all <= of_one + of_one / 2, "{of_all} requests for {clients} clients, {of_one} for one");
    assert!(memory <= 1024, "{memory} KiB for each client");
    let rows = (STORED + 2 * blocks - 1) * LOGS_PER_BLOCK;
    assert!(have.iter().all(|had| had.rows.load(Ordering::Relaxed) == rows));
    following.abort_all();
    assert_eq!(server.stop(), 0);
}

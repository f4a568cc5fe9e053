//! Clients of streams that are slow, many, or come over Arrow Flight.

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    process::OwnedProcess,
    replay::{Recording, ReplayServer},
    store::{Passed, StoreProxy, StoreProxyOptions, StoreServer},
};
use serde_json::{Value, json};

use crate::{
    harness::{Db, NOT_MERGED, Place, memory_kib, python, python_program, synthetic, until},
    servers::Server,
    streams::{Had, begin, read},
};

/// A stream whose rows take 2 MiB a block.
const LARGE: &str =
    "SELECT block_num, repeat('0123456789', 300) AS text FROM eth.logs SETTINGS stream = true";
const LOGS_PER_BLOCK: u64 = 700;

/// A client over Arrow Flight; see the script.
struct FlightClient {
    _python: OwnedProcess,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl FlightClient {
    /// One that has blocks, newest first, and reads nothing yet.
    fn start(url: &str, sql: &str, network: &str, has: &Value) -> Self {
        let mut command = Command::new(python_program());
        command.args(["-c", include_str!("streams.py"), url, sql, network, &has.to_string()]);
        let mut python = OwnedProcess::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
        let asks = python.child().stdin.take().unwrap();
        let answers = BufReader::new(python.child().stdout.take().unwrap());
        let mut client = Self { _python: python, asks, answers };
        assert_eq!(client.line(), "there");
        client
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Reads up to the range that a block ends, and gives what it has; or the error.
    fn until(&mut self, (number, hash): &(u64, String)) -> Value {
        writeln!(self.asks, "{number} {hash}").unwrap();
        serde_json::from_str(&self.line()).unwrap()
    }
}

/// A chain whose blocks are large, in an object store behind a proxy that counts, and a server that reads there.
struct Large {
    place: Place,
    proxy: StoreProxy,
    server: Server,
    _node: ReplayServer,
    _store: StoreServer,
}

impl Large {
    async fn start(blocks: u64) -> Self {
        let store = tokio::task::spawn_blocking(StoreServer::seaweedfs).await.unwrap().unwrap();
        let node = synthetic(Recording::synthetic(blocks, 100, LOGS_PER_BLOCK / 100, 7), 0);
        let lines = format!("data_dir = \"{}\"\n{NOT_MERGED}", store.url("streams"));
        let mut place = Place::configured(Db::Sqlite, &lines);
        place.define("eth", "chain-1337", node.url());
        place.set_variables(store.variables(None));
        place.ok(&["dump", "--dataset", "eth", "-e", "1"]);
        let proxy = StoreProxy::start(store.address(), StoreProxyOptions::default()).unwrap();
        place.set_variables(store.variables(Some(proxy.url())));
        let server = Server::start(&place, &["--jsonl-server", "--flight-server"]);
        place.set_variables(store.variables(None));
        Self { place, proxy, server, _node: node, _store: store }
    }

    fn dump_until(&self, end: u64) {
        self.place.ok(&["dump", "--dataset", "eth", "-e", &end.to_string()]);
    }

    /// How often the server has asked the store since the last time.
    fn asked(&self) -> u64 {
        let Passed { requests, .. } = self.proxy.take_passed();
        requests.values().sum()
    }
}

async fn all_have(clients: &[Arc<Had>], end: u64) {
    until("every client to have the block", async || {
        clients.iter().all(|had| had.end.load(Relaxed) == end + 1).then_some(())
    })
    .await;
    assert!(clients.iter().all(|had| had.rows.load(Relaxed) == end * LOGS_PER_BLOCK));
}

/// Large ranges too: of one block, and of so many that they are handed out in parts.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_range_is_read_once_for_all_clients() {
    const CLIENTS: u64 = 6;
    let large = Large::start(17).await;
    let http = reqwest::Client::new();
    let mut have: Vec<Arc<Had>> = vec![];
    let add = async |have: &mut Vec<Arc<Had>>| {
        let had = Arc::new(Had::default());
        let answer = begin(&http, large.server.jsonl(), LARGE).await;
        tokio::spawn(read(answer, Arc::clone(&had)));
        have.push(had);
    };
    add(&mut have).await;
    all_have(&have, 1).await;
    let mut of_one = vec![];
    for end in [2, 8] {
        large.asked();
        large.dump_until(end);
        all_have(&have, end).await;
        of_one.push(large.asked());
    }
    while (have.len() as u64) < CLIENTS {
        add(&mut have).await;
    }
    all_have(&have, 8).await;
    // Streams that have caught up meet at the next block.
    large.dump_until(9);
    all_have(&have, 9).await;
    let mut of_all = vec![];
    for end in [10, 16] {
        large.asked();
        large.dump_until(end);
        all_have(&have, end).await;
        of_all.push(large.asked());
    }
    println!("requests for 2 and for 12 MiB: {of_all:?} for {CLIENTS} clients, {of_one:?} for one");
    for (all, one) in of_all.iter().zip(&of_one) {
        assert!(*all <= one + one / 2, "{of_all:?} requests for {CLIENTS} clients, {of_one:?} for one");
    }
}

/// Clients that do not read, over both interfaces: the others get each block, the server keeps no more and more for
/// the silent ones, and these have lost nothing when they read on.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_hold_up_nobody() {
    const BLOCKS: u64 = 40;
    let large = Large::start(BLOCKS).await;
    let http = reqwest::Client::new();
    let silent = begin(&http, large.server.jsonl(), LARGE).await;
    let mut over_flight = FlightClient::start(large.server.flight(), LARGE, "chain-1337", &json!([]));
    let had = Arc::new(Had::default());
    tokio::spawn(read(begin(&http, large.server.jsonl(), LARGE).await, Arc::clone(&had)));
    let had = [had];
    let mut memory = vec![];
    for end in 2..BLOCKS {
        large.dump_until(end);
        all_have(&had, end).await;
        memory.push(memory_kib(large.server.id()) >> 10);
    }
    println!("MiB after each block of 2 MiB: {memory:?}");
    // By then sockets are full, and what a feed keeps for those who are behind; that takes some 20 MiB.
    let (few, many) = (memory[17], memory[37]);
    // The two would have 40 MiB more to be given by now, each or together.
    assert!(many < few + 30, "{memory:?} MiB after each block");
    let has_had = Arc::new(Had::default());
    tokio::spawn(read(silent, Arc::clone(&has_had)));
    all_have(&[has_had], BLOCKS - 1).await;
    let last = format!("SELECT hash FROM eth.blocks WHERE block_num = {}", BLOCKS - 1);
    let [hash] = &large.place.query(&last)[..] else { panic!("the block is there") };
    let got = over_flight.until(&(BLOCKS - 1, hash["hash"].as_str().unwrap().to_owned()));
    assert_eq!(
        got["rows"].as_array().map(Vec::len),
        Some(((BLOCKS - 1) * LOGS_PER_BLOCK) as usize),
        "{:.300}",
        got.to_string()
    );
    assert_eq!(got["reorgs"], 0);
}

/// Two servers at once: reorgs are told over Arrow Flight, and what a client had from one it goes on from with the
/// other.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_flight_goes_on_with_another_server() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let place = Place::configured(Db::Postgres, NOT_MERGED);
    place.define("eth", "anvil", anvil.url());
    let [one, other] = [(); 2].map(|()| Server::start(&place, &["--flight-server"]));
    anvil.mine(20).await.unwrap();
    let stored = async || {
        place.ok(&["dump", "--dataset", "eth"]);
        let (number, hash) = anvil.head().await.unwrap();
        (number, format!("{hash:#x}"))
    };
    let blocks = || {
        let rows = place.query("SELECT block_num, hash FROM eth.blocks ORDER BY block_num");
        Value::from_iter(rows.iter().map(|row| json!([row["block_num"], row["hash"]])))
    };
    let sql = "SELECT block_num, hash FROM eth.blocks";
    let mut at = stored().await;
    let mut there = FlightClient::start(one.flight(), sql, "anvil", &json!([]));
    let mut away = FlightClient::start(one.flight(), sql, "anvil", &json!([]));
    for client in [&mut there, &mut away] {
        assert_eq!(client.until(&at)["rows"], blocks());
    }
    let mut had = Value::Null;
    for _ in 0..3 {
        anvil.mine(1).await.unwrap();
        at = stored().await;
        had = away.until(&at);
    }
    drop(away);
    // The client that is there sees two reorgs, the one that comes back sees both as one.
    for (depth, more) in [(2, 1), (4, 0)] {
        there.until(&at);
        anvil.reorg(depth).await.unwrap();
        anvil.mine(more).await.unwrap();
        at = stored().await;
    }
    let seen = there.until(&at);
    assert_eq!((&seen["rows"], &seen["reorgs"]), (&blocks(), &json!(2)), "{seen}");
    let newest_first: Vec<Value> = had["cursors"].as_array().unwrap().iter().rev().cloned().collect();
    let mut back = FlightClient::start(other.flight(), sql, "anvil", &json!(newest_first));
    let new = back.until(&at);
    assert_eq!(new["reorgs"], 1, "{new}");
    // What it had below the first of the new rows is still so.
    let first = new["rows"][0][0].as_u64().unwrap();
    let kept = had["rows"].as_array().unwrap().iter().filter(|row| row[0].as_u64() < Some(first));
    let rows = kept.chain(new["rows"].as_array().unwrap()).cloned();
    assert_eq!(Value::from_iter(rows), blocks());
    assert!(first > 15, "{first}: it was told too much");
    // Both go on as one.
    anvil.mine(2).await.unwrap();
    at = stored().await;
    for client in [&mut there, &mut back] {
        assert_eq!(client.until(&at)["cursors"].as_array().unwrap().last().unwrap(), &json!([at.0, at.1]));
    }
    assert_eq!(python(REFUSED, &[other.flight()]).trim(), "ok");
    // An error of a stream that has begun.
    place.ok(&["dataset", "rm", "eth__0_0_0", "--yes"]);
    let ended = back.until(&(at.0 + 1, at.1.clone()));
    assert_eq!(ended["error"], "ArrowKeyError", "{ended}");
}

const REFUSED: &str = r#"
import sys
import pyarrow as pa
from pyarrow import flight
client = flight.connect(sys.argv[1])
blocks = "SELECT block_num FROM eth.blocks"
known = '{"anvil": {"number": 1, "hash": "0x' + 64 * "0" + '"}}'
for headers, sql, error, why in [
    ({"nozzle-resume": "{"}, blocks, pa.ArrowInvalid, "nozzle-resume"),
    ({"nozzle-resume": '{"anvil": {"number": 1}}'}, blocks, pa.ArrowInvalid, "hash"),
    ({"nozzle-resume": known.replace("anvil", "nowhere")}, blocks, pa.ArrowInvalid, "nowhere"),
    ({"nozzle-stream": "perhaps"}, blocks, pa.ArrowInvalid, "nozzle-stream"),
    ({}, blocks + " ORDER BY 1", pa.ArrowInvalid, "ORDER BY"),
    ({}, "SELECT count(*) AS n FROM eth.blocks", pa.ArrowInvalid, "block by block"),
    ({}, "SELECT 1 AS n", pa.ArrowInvalid, "no blocks"),
    ({}, "SELECT nothing FROM eth.blocks", pa.ArrowInvalid, "nothing"),
    ({}, "SELECT 1 AS n FROM eth.nothing", KeyError, "nothing"),
]:
    headers = {"nozzle-stream": "true"} | headers
    options = flight.FlightCallOptions(headers=[(name.encode(), value.encode()) for name, value in headers.items()], timeout=30)
    try:
        client.do_get(flight.Ticket(sql), options).read_chunk()
    except error as raised:
        assert why in str(raised), raised
        continue
    raise SystemExit(f"{headers} with {sql} was answered")
print("ok")
"#;

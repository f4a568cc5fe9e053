//! Streams: what clients are told and get, and what that costs.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
    replay::Recording,
    rng::Rng,
    store::{StoreProxy, StoreProxyOptions, StoreServer},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    clients,
    harness::{Db, NOT_MERGED, Place, memory_kib, processor_ticks, synthetic, until},
    servers::Server,
};

/// The network of the chains that a [`Client`] follows.
const NETWORK: &str = "anvil";

const STORED: u64 = 10;
const LOGS_PER_BLOCK: u64 = 6;

/// How many clients; more by `just streams`.
fn clients() -> u64 {
    std::env::var("NOZZLE_STREAM_CLIENTS").map_or(60, |count| count.parse().expect("a number"))
}

/// What a client has: the last block of a whole range, and rows.
#[derive(Default)]
pub struct Had {
    pub end: AtomicU64,
    pub rows: AtomicU64,
}

async fn follow(http: reqwest::Client, url: String, sql: &'static str, had: Arc<Had>) {
    read(begin(&http, &url, sql).await, had).await;
}

/// A stream that was begun, of which nothing is read.
pub async fn begin(http: &reqwest::Client, url: &str, sql: &'static str) -> reqwest::Response {
    let answer = http.post(url).header("nozzle-control", "true").body(sql).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer
}

/// Reads a stream for ever.
pub async fn read(mut answer: reqwest::Response, had: Arc<Had>) {
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
    let node = synthetic(Recording::synthetic(STORED + 2 * blocks + 1, 3, 2, 7), 0);
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
    // Each has read what was stored by itself; all meet at the next block.
    let first = STORED + blocks;
    dump_until(&place, first);
    all_have(&have, first).await;
    let memory = memory_kib(server.id()).saturating_sub(memory_before) / clients;
    proxy.take_passed();
    let ticks = processor_ticks(server.id());
    for end in first + 1..=first + blocks {
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
    let rows = (first + blocks) * LOGS_PER_BLOCK;
    assert!(have.iter().all(|had| had.rows.load(Ordering::Relaxed) == rows));
    following.abort_all();
    assert_eq!(server.stop(), 0);
}

/// A client of a stream, that does as it is told.
pub struct Client {
    curl: Child,
    lines: std::sync::mpsc::Receiver<String>,
    pub rows: Vec<(u64, String)>,
    /// The last block of each complete range, oldest first.
    pub cursors: Vec<(u64, String)>,
    /// The first block of the range that is not complete yet.
    pub open_from: Option<u64>,
    pub reorgs: usize,
}

impl Client {
    pub fn start(url: &str, sql: &str, resume: &[(u64, String)]) -> Self {
        let mut command = Command::new("curl");
        command.args(["-sS", "-N", "-H", "nozzle-control: true", "--data", sql, url]);
        if !resume.is_empty() {
            let cursors: Vec<_> = resume
                .iter()
                .rev()
                .take(20)
                .map(|(number, hash)| json!({"number": number, "hash": hash}))
                .collect();
            command.args(["-H", &format!("nozzle-resume: {}", json!({ NETWORK: cursors }))]);
        }
        let mut curl = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(curl.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { curl, lines, rows: vec![], cursors: vec![], open_from: None, reorgs: 0 }
    }

    /// Goes on with another server from what it has.
    pub fn resume(mut self, url: &str, sql: &str) -> Self {
        self.curl.kill().ok();
        self.curl.wait().ok();
        // What was not complete it does not have.
        if let Some(from) = self.open_from.take() {
            self.rows.retain(|(block, _)| *block < from);
        }
        let mut next = Self::start(url, sql, &self.cursors);
        (next.rows, next.cursors) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.cursors));
        next.reorgs = self.reorgs;
        next
    }

    /// Takes in what has come.
    pub fn take(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let Some(told) = value.get("_nozzle") else {
                self.rows.push((value["block_num"].as_u64().unwrap(), line));
                continue;
            };
            assert!(told.get("error").is_none(), "{told}");
            let Some(range) = told["ranges"].get(0) else { continue };
            assert_eq!(range["network"], NETWORK);
            let (start, end) =
                (range["numbers"]["start"].as_u64().unwrap(), range["numbers"]["end"].as_u64().unwrap());
            if self.open_from.is_none() {
                if let Some((last, hash)) = self.cursors.last() {
                    assert!(start <= last + 1, "a gap between {last} and {start}");
                    if start == last + 1 {
                        assert_eq!(range["prev_hash"], hash.as_str(), "the ranges do not link at {start}");
                    } else {
                        self.reorgs += 1;
                    }
                }
                self.rows.retain(|(block, _)| *block < start);
                self.cursors.retain(|(block, _)| *block < start);
                self.open_from = Some(start);
            }
            if told["ranges_complete"] == true {
                self.cursors.push((end, range["hash"].as_str().unwrap().to_owned()));
                self.open_from = None;
            }
        }
    }

    pub fn sorted(&self) -> Vec<String> {
        let mut rows: Vec<String> = self
            .rows
            .iter()
            .map(|(_, line)| serde_json::from_str::<Value>(line).unwrap().to_string())
            .collect();
        rows.sort();
        rows
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.curl.kill().ok();
        self.curl.wait().ok();
    }
}

/// Whether a client has a block as the last one of a whole range.
pub fn has(client: &mut Client, block: &(u64, String)) -> Option<()> {
    client.take();
    (client.open_from.is_none() && client.cursors.last() == Some(block)).then_some(())
}

/// Every reorg that a stream's table goes through is told to its clients, also to one that was away meanwhile and
/// to one that has nothing of the chain any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_is_told_to_every_client() {
    let mut dice = Rng::new(7);
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 7).await.unwrap();
    let place = Place::configured(Db::Sqlite, NOT_MERGED);
    place.define("eth", "anvil", anvil.url());
    chain.extend(20).await.unwrap();
    place.ok(&["dump", "--dataset", "eth"]);
    let server = Server::start(&place, &["--jsonl-server"]);
    let sql = "SELECT block_num, hash FROM eth.blocks SETTINGS stream = true";
    let (mut there, mut away) =
        (Client::start(server.jsonl(), sql, &[]), Client::start(server.jsonl(), sql, &[]));
    let head = async || {
        let (number, hash) = anvil.head().await.unwrap();
        (number, format!("{hash:#x}"))
    };
    let mut at = head().await;
    for client in [&mut there, &mut away] {
        until("the client to have what is stored", async || has(client, &at)).await;
    }
    // One cursor alone is known to have gone, and it lies at a number that is final by now.
    let mut stranger = Client::start(server.jsonl(), sql, &[(6, format!("0x{:064x}", 6))]);
    stranger.cursors = vec![(6, "gone".to_owned())];
    let [first] = &place.query("SELECT block_num, hash FROM eth.blocks WHERE block_num = 0")[..] else {
        panic!("the first block is there")
    };
    stranger.rows = vec![(0, first.to_string()), (6, "gone".to_owned())];
    until("the reorg to be told", async || has(&mut stranger, &at)).await;
    let stored = sorted_blocks(&place);
    assert_eq!((stranger.reorgs, stranger.sorted()), (1, stored));
    for round in 1..=12 {
        if dice.below(3) > 0 {
            chain.extend(1 + dice.below(2)).await.unwrap();
            place.ok(&["dump", "--dataset", "eth"]);
            at = head().await;
            until("the client to have the block", async || has(&mut there, &at)).await;
        }
        anvil.reorg(1 + dice.below(5)).await.unwrap();
        chain.extend(dice.below(3)).await.unwrap();
        place.ok(&["dump", "--dataset", "eth"]);
        at = head().await;
        until("the client to have the new block", async || has(&mut there, &at)).await;
        assert_eq!(there.reorgs, round);
    }
    let stored = sorted_blocks(&place);
    assert_eq!(there.sorted(), stored);
    // It has seen none of that.
    away = away.resume(server.jsonl(), sql);
    until("the client to have caught up", async || has(&mut away, &at)).await;
    assert_eq!((away.reorgs, away.sorted()), (1, stored));
}

/// A client whose blocks are all gone is sent back behind the newest block that was final for it, and not further.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_nothing_of_the_chain_goes_on_behind_the_final_block() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    anvil.mine(90).await.unwrap();
    let place = Place::configured(Db::Sqlite, NOT_MERGED);
    place.define("eth", "anvil", anvil.url());
    place.ok(&["dump", "--dataset", "eth"]);
    let finality = place.metadata().await.finality(&NETWORK.parse().unwrap()).await.unwrap().unwrap();
    let finalized = finality.finalized.unwrap().number;
    let head = (finality.head.number, format!("{:#x}", finality.head.hash));
    assert!(head.0 == 90 && (1..90).contains(&finalized), "{finality:?}");
    let server = Server::start(&place, &["--jsonl-server"]);
    let sql = "SELECT block_num, hash FROM eth.blocks SETTINGS stream = true";
    let gone = |number: u64| (number, format!("0x{:064x}", 6));
    // Of several the newest is where it was.
    for (knows, first) in [
        (vec![gone(90)], finalized + 1),
        (vec![gone(88), gone(90)], finalized - 1),
        (vec![gone(finalized)], 1),
    ] {
        let mut client = Client::start(server.jsonl(), sql, &knows);
        client.cursors = knows.clone();
        until("the client to have what is stored", async || has(&mut client, &head)).await;
        let firsts = client.rows.iter().map(|(number, _)| *number).min();
        assert_eq!((firsts, client.reorgs), (Some(first), 1), "{knows:?}");
    }
}

/// A store that answers late does not keep a stream silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_lives_while_its_store_is_slow() {
    const LATE: Duration = Duration::from_secs(2);
    let store = tokio::task::spawn_blocking(StoreServer::seaweedfs).await.unwrap().unwrap();
    let node = synthetic(Recording::synthetic(STORED, 3, 2, 7), 0);
    let lines = format!("data_dir = \"{}\"\n{NOT_MERGED}\nkeep_alive_interval_secs = 0.2", store.url("slow"));
    let mut place = Place::configured(Db::Sqlite, &lines);
    place.define("eth", "chain-1337", node.url());
    place.set_variables(store.variables(None));
    place.ok(&["dump", "--dataset", "eth"]);
    let late = StoreProxyOptions { latency: LATE, ..StoreProxyOptions::default() };
    let proxy = StoreProxy::start(store.address(), late).unwrap();
    place.set_variables(store.variables(Some(proxy.url())));
    let server = Server::start(&place, &["--jsonl-server"]);
    let sql = "SELECT block_num FROM eth.blocks SETTINGS stream = true";
    let mut answer = begin(&reqwest::Client::new(), server.jsonl(), sql).await;
    let mut quiet = Duration::ZERO;
    loop {
        let asked = Instant::now();
        let part = answer.chunk().await.unwrap().unwrap();
        quiet = quiet.max(asked.elapsed());
        if part.windows(9).any(|word| word == b"block_num") {
            break;
        }
    }
    // What comes before the first row asks the store more than once.
    assert!(quiet < LATE, "nothing came for {quiet:?}");
}

fn sorted_blocks(place: &Place) -> Vec<String> {
    let mut rows: Vec<String> =
        place.query("SELECT block_num, hash FROM eth.blocks").iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

/// Blocks may be stored above a hole, where several extract at once: a stream waits for the first ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_with_the_first_block_of_its_dataset() {
    let node = synthetic(Recording::synthetic(30, 3, 2, 7), 0);
    let place = Place::configured(Db::Sqlite, &format!("{NOT_MERGED}\nkeep_alive_interval_secs = 0.3"));
    place.define("eth", "chain-1337", node.url());
    for end in ["9", "19"] {
        place.ok(&["dump", "--dataset", "eth", "-e", end]);
    }
    let metadata = place.metadata().await;
    clients::take_out(metadata.as_ref(), "eth", 0).await;
    let server = Server::start(&place, &["--jsonl-server"]);
    let had = Arc::new(Had::default());
    let sql = "SELECT block_num FROM eth.blocks SETTINGS stream = true";
    let following =
        tokio::spawn(follow(reqwest::Client::new(), server.jsonl().to_owned(), sql, Arc::clone(&had)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(had.rows.load(Ordering::Relaxed), 0, "there are blocks before these");
    place.ok(&["dump", "--dataset", "eth", "-e", "25"]);
    until("the client to have all", async || (had.end.load(Ordering::Relaxed) == 26).then_some(())).await;
    assert_eq!(had.rows.load(Ordering::Relaxed), 26);
    following.abort();
}

/// What a block costs does not depend on how many there were before, but for a join by other columns than the
/// block, which has to look for its partners: in the bloom filters of hashes, and hardly ever in the hashes.
#[tokio::test(flavor = "multi_thread")]
async fn new_blocks_cost_what_they_are_and_not_what_was_before() {
    let queries = [
        ("plain", 1, "SELECT block_num, address, data FROM eth.logs SETTINGS stream = true"),
        (
            "counted",
            1,
            "SELECT block_num, count(*) AS n FROM eth.logs GROUP BY block_num SETTINGS stream = true",
        ),
        (
            "stamped",
            1,
            "SELECT l.block_num, l.address, b.gas_used FROM eth.logs AS l JOIN eth.blocks AS b \
             ON l.block_num = b.block_num SETTINGS stream = true",
        ),
        (
            "by hash",
            1,
            "SELECT t.block_num, t.tx_hash, b.gas_used FROM eth.transactions AS t JOIN eth.blocks AS b \
             ON t.block_hash = b.hash SETTINGS stream = true",
        ),
        // Enough keys for filters that are wrong for one of twenty to be wrong for one of them.
        (
            "by hash",
            20,
            "SELECT l.block_num, l.log_index, t.tx_index FROM eth.logs AS l JOIN eth.transactions AS t \
             ON l.tx_hash = t.tx_hash SETTINGS stream = true",
        ),
    ];
    let mut costs = vec![];
    for stored in [100, 1_000] {
        let store = tokio::task::spawn_blocking(StoreServer::seaweedfs).await.unwrap().unwrap();
        let node = synthetic(Recording::synthetic(stored + 28, 3, 2, 7), 0);
        let lines = format!("data_dir = \"{}\"\n{NOT_MERGED}", store.url("streams"));
        let mut place = Place::configured(Db::Sqlite, &lines);
        place.define("eth", "chain-1337", node.url());
        place.set_variables(store.variables(None));
        let mut end = stored - 1;
        place.ok(&["dump", "--dataset", "eth", "-e", &end.to_string()]);
        let proxy = StoreProxy::start(store.address(), StoreProxyOptions::default()).unwrap();
        place.set_variables(store.variables(Some(proxy.url())));
        let server = Server::start(&place, &["--jsonl-server"]);
        place.set_variables(store.variables(None));
        let mut bytes = vec![];
        for (name, new, sql) in queries {
            let had = Arc::new(Had::default());
            let url = server.jsonl().to_owned();
            let following = tokio::spawn(follow(reqwest::Client::new(), url, sql, Arc::clone(&had)));
            let caught_up = async |end: u64| {
                until("the client to have the block", async || {
                    (had.end.load(Ordering::Relaxed) == end + 1).then_some(())
                })
                .await;
            };
            caught_up(end).await;
            proxy.take_passed();
            end += new;
            place.ok(&["dump", "--dataset", "eth", "-e", &end.to_string()]);
            caught_up(end).await;
            bytes.push((name, proxy.take_passed().bytes));
            following.abort();
        }
        assert_eq!(server.stop(), 0);
        costs.push(bytes);
    }
    println!("bytes that a block costs behind 100 blocks, and behind 1000: {costs:?}");
    for ((name, few), (_, many)) in costs[0].iter().zip(&costs[1]) {
        assert!(*few > 0, "{name}");
        // Of 2,700 transactions on each side the filters have less than 3 bytes, the column itself has 32.
        let filters = if *name == "by hash" { 2 * 2_700 * 3 } else { 0 };
        assert!(
            *many <= few + few / 5 + filters,
            "{name}: {many} bytes behind 1000 blocks, {few} behind 100"
        );
    }
}

#[test]
fn a_stream_needs_what_blocks_are_told_by() {
    let node = synthetic(Recording::synthetic(5, 3, 2, 7), 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    for (name, schema, lacks) in [
        ("logs", r#"{"logs":["block_hash","address"]}"#, None),
        ("bare", r#"{"logs":["address"]}"#, Some("`block_hash` of its table `logs`")),
        ("half", r#"{"logs":["block_hash"],"blocks":["miner"]}"#, Some("`hash` of its table `blocks`")),
    ] {
        let manifest =
            format!(r#"{{"name":"{name}","kind":"evm-rpc","network":"chain-1337","schema":{schema}}}"#);
        place.write(&format!("datasets/{name}.json"), &manifest);
        place.ok(&["dump", "--dataset", name]);
        let server = Server::start(&place, &["--jsonl-server"]);
        let sql = format!("SELECT _block_num FROM {name}.logs SETTINGS stream = true");
        match lacks {
            Some(lacks) => {
                let (status, body) = server.post(&sql);
                assert!(status == 400 && body.contains(lacks), "{status} {body}");
            }
            None => {
                let rows_within = |seconds: &str| {
                    let args = ["-sS", "-m", seconds, "--data", &sql, server.jsonl()];
                    let output = Command::new("curl").args(args).output().unwrap();
                    String::from_utf8(output.stdout).unwrap()
                };
                // The stream has no end. A busy machine gets more time.
                let count = |rows: &String| rows.lines().count() as u64;
                let mut tries = ["2", "10", "60"].into_iter().map(rows_within);
                let rows =
                    tries.find(|rows| count(rows) >= 4 * LOGS_PER_BLOCK).expect("all rows within a minute");
                assert_eq!(count(&rows), 4 * LOGS_PER_BLOCK, "{rows}");
            }
        }
    }
}

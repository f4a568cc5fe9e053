//! A dump that follows a chain full of reorgs, a server, and many who ask it at once: every answer is
//! one moment of a linked, undoubled chain, and nothing grows.

use std::{
    io::Write,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arrow_flight::{FlightClient, Ticket};
use futures::TryStreamExt;
use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{
    harness::{Db, Place, asked, memory_kib, until_sync},
    servers::Server,
};

const HTTP_CLIENTS: u64 = 15;
const FLIGHT_CLIENTS: u64 = 5;
const SILENT_CLIENTS: usize = 4;

/// What the server and the dump may still grow by once both are warm. A silent client's rows, if they
/// were kept, would be gigabytes.
const SLACK_KIB: u64 = 64 << 10;

/// What each new block may add: a file a table, which twenty queries over all blocks hold twice each. It
/// is compaction that will keep this small.
const SLACK_PER_BLOCK_KIB: u64 = 512;

/// Half a minute, or what `NOZZLE_CONCURRENCY_SECS` says.
fn duration() -> Duration {
    Duration::from_secs(asked("NOZZLE_CONCURRENCY_SECS", 30))
}

/// After so long caches are full, and buffers as large as they will be.
const WARM: Duration = Duration::from_secs(15);

/// One row without a non-zero number behind the first column, if the answer is a chain at one moment.
/// `n` is how many blocks it has.
pub const QUESTIONS: [&str; 3] = [
    "SELECT count(*) AS n,
            count(*) - count(DISTINCT block_num) AS doubled,
            max(block_num) + 1 - count(*) AS missing,
            count(*) FILTER (WHERE before <> parent_hash) AS unlinked
     FROM (SELECT block_num, parent_hash, lag(hash) OVER (ORDER BY block_num) AS before FROM anvil.blocks)",
    "SELECT (SELECT count(*) FROM anvil.blocks) AS n,
            (SELECT count(*) FROM anvil.transactions t LEFT ANTI JOIN anvil.blocks b ON t.block_hash = b.hash)
              AS of_no_block,
            (SELECT count(*) - count(DISTINCT tx_hash) FROM anvil.transactions) AS doubled",
    "SELECT (SELECT count(*) FROM anvil.blocks) AS n,
            (SELECT count(*) FROM anvil.logs l LEFT ANTI JOIN anvil.transactions t ON l.tx_hash = t.tx_hash)
              AS of_no_transaction",
];

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_while_blocks_come_and_go_see_whole_chains() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 21).await.unwrap();
    chain.extend(20).await.unwrap();
    // A small cache of footers is full early: what grows after that has no reason to.
    let place = Place::configured(Db::Sqlite, "poll_interval_secs = 0.05\nparquet = { cache_size_mb = 4 }");
    place.define("anvil", "anvil", anvil.url());
    place.ok(&["dump", "--dataset", "anvil"]);
    let mut dump = place.start(&["dump", "--dataset", "anvil", "--follow"]);
    let server = Server::start(&place, &["--flight-server", "--jsonl-server"]);
    let silent: Vec<TcpStream> = (0..SILENT_CLIENTS).map(|_| never_reads(&server)).collect();

    let until = Instant::now() + duration();
    let answers = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..HTTP_CLIENTS {
        clients.spawn(ask_over_http(server.jsonl().to_owned(), client, until, Arc::clone(&answers)));
    }
    for client in 0..FLIGHT_CLIENTS {
        clients.spawn(ask_over_flight(server.flight().to_owned(), client, until, Arc::clone(&answers)));
    }
    let warm = Instant::now() + WARM.max(duration() / 4);
    let (mut blocks, mut reorgs, mut before) = (0, 0, None);
    // Further where the machine is so busy that it has not got round to something yet.
    while Instant::now() < until || before.is_none() || reorgs == 0 {
        chain.extend(1).await.unwrap();
        blocks += 1;
        if blocks % 5 == 0 {
            anvil.reorg(1 + blocks % 3).await.unwrap();
            reorgs += 1;
        }
        if before.is_none() && Instant::now() >= warm {
            before = Some((blocks, [memory_kib(server.id()), memory_kib(dump.id())]));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let after = [memory_kib(server.id()), memory_kib(dump.id())];
    let (warm_blocks, before) = before.expect("it was warm once");
    let (answers, slack) =
        (answers.load(Ordering::Relaxed), SLACK_KIB + SLACK_PER_BLOCK_KIB * (blocks - warm_blocks));
    println!(
        "{blocks} blocks, {reorgs} reorgs, {answers} answers; memory of server and dump in KiB: {before:?}, {after:?}"
    );
    assert!(reorgs > 0 && answers >= HTTP_CLIENTS + FLIGHT_CLIENTS);
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + slack, "memory grew from {before} to {after} KiB");
    }
    let (head, _) = anvil.head().await.unwrap();
    until_sync("the head to be stored", || {
        (place.number("SELECT max(block_num) FROM anvil.blocks") == head).then_some(())
    });
    drop(silent);
    assert_eq!(server.stop(), 0);
    dump.signal("TERM");
    assert_eq!(dump.wait().code, Some(0));
    place.stored("anvil").await.assert_sound(0, head);
}

/// Asks for more than fits into any buffer, and never reads.
fn never_reads(server: &Server) -> TcpStream {
    let address = server.jsonl().strip_prefix("http://").unwrap();
    let sql = "SELECT * FROM generate_series(1, 1000000000)";
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "POST / HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{sql}", sql.len())
        .unwrap();
    stream
}

async fn ask_over_http(url: String, client: u64, until: Instant, answers: Arc<AtomicU64>) {
    let http = reqwest::Client::new();
    let mut asked = client as usize;
    while Instant::now() < until {
        let sql = QUESTIONS[asked % QUESTIONS.len()];
        let answer = http.post(&url).body(sql).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{text}");
        assert_line_is_whole(sql, &text);
        answers.fetch_add(1, Ordering::Relaxed);
        asked += 1;
    }
}

async fn ask_over_flight(url: String, client: u64, until: Instant, answers: Arc<AtomicU64>) {
    let url = url.replace("grpc://", "http://");
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let mut flight = FlightClient::new(channel);
    let mut asked = client as usize;
    while Instant::now() < until {
        let sql = QUESTIONS[asked % QUESTIONS.len()];
        let rows = flight.do_get(Ticket::new(sql)).await.unwrap();
        let batches: Vec<_> = rows.try_collect().await.unwrap();
        let row = batches.iter().find(|batch| batch.num_rows() > 0).expect("a row");
        let schema = row.schema();
        let numbers = schema.fields().iter().zip(row.columns()).map(|(field, column)| {
            let number = arrow::util::display::array_value_to_string(column, 0).unwrap();
            (field.name().clone(), number.parse().unwrap())
        });
        assert_is_whole(sql, numbers.collect());
        answers.fetch_add(1, Ordering::Relaxed);
        asked += 1;
    }
}

/// Checks the JSON line that answers one of [`QUESTIONS`].
pub fn assert_line_is_whole(sql: &str, line: &str) {
    assert_is_whole(sql, numbers_of(line));
}

/// As [`assert_line_is_whole`], of a chain in which blocks may still be missing.
pub fn assert_line_is_undoubled(sql: &str, line: &str) {
    let numbers = numbers_of(line).into_iter().filter(|(name, _)| name != "missing" && name != "unlinked");
    assert_is_whole(sql, numbers.collect());
}

fn numbers_of(line: &str) -> Vec<(String, i64)> {
    let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
    // Wide numbers are text.
    let number = |value: &serde_json::Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    row.iter().map(|(name, value)| (name.clone(), number(value).expect("a number"))).collect()
}

/// Checks one of [`QUESTIONS`].
fn assert_is_whole(sql: &str, row: Vec<(String, i64)>) {
    for (name, number) in &row {
        let is_right = if name == "n" { *number > 20 } else { *number == 0 };
        assert!(is_right, "{sql}\ngave {row:?}");
    }
}

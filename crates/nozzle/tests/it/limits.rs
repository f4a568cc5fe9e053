//! What queries may take, and that they take no more: memory, time, turns, and nothing once nobody waits for them.

use std::{
    io::Write,
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    harness::{Db, Place, processor_ticks, python, until_sync},
    servers::{Server, extracted},
};

/// Queries that never pause, and whose clients have gone, hold up neither the others nor the end.
#[test]
fn abandoned_queries_do_not_keep_the_server_from_answering() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &["--jsonl-server"]);
    // More rows than can be counted before the test gives up.
    let heavy = "SELECT count(DISTINCT a.tx_hash) FROM eth.logs a CROSS JOIN eth.logs b CROSS JOIN eth.logs c \
                 CROSS JOIN eth.logs d";
    for _ in 0..3 {
        let output = Command::new("curl").args(["-sS", "-m", "1", "--data", heavy, server.jsonl()]).output();
        assert_eq!(output.unwrap().status.code(), Some(28), "it was to take longer than a second");
    }
    let asked = Instant::now();
    assert_eq!(server.post("SELECT count(*) AS n FROM eth.blocks"), (200, "{\"n\":60}\n".into()));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    // Nobody wants their answers: they compute no more.
    let (id, left) = (server.id(), Instant::now());
    until_sync("the processors to be free", || {
        let before = processor_ticks(id);
        std::thread::sleep(Duration::from_millis(500));
        assert!(left.elapsed() < Duration::from_secs(20), "they compute on");
        (processor_ticks(id) - before <= 5).then_some(())
    });
    let told = Instant::now();
    assert_eq!(server.stop(), 0);
    assert!(told.elapsed() < Duration::from_secs(20), "{:?}", told.elapsed());
}

/// Clients that do not read, and queries that are too large or too long, leave the others their turn.
#[test]
fn a_query_takes_no_more_than_it_may() {
    let place = extracted(Db::Sqlite);
    let lines = "query_max_mem_mb = 16\nquery_timeout_secs = 2\nmax_concurrent_queries = 2\n";
    let config = std::fs::read_to_string(place.path("nozzle.toml")).unwrap();
    place.write("nozzle.toml", &format!("{lines}{config}"));
    let server = Server::start(&place, &["--jsonl-server", "--flight-server"]);
    let code = |sql: &str| {
        let (status, body) = server.post(sql);
        let body: Value = serde_json::from_str(&body).unwrap();
        (status, body["error_code"].as_str().unwrap().to_owned())
    };
    let large = "SELECT array_length(array_agg(value)) AS n FROM generate_series(1, 5000000)";
    assert_eq!(code(large), (503, "RESOURCES_EXHAUSTED".into()));
    let long = "SELECT count(DISTINCT a.tx_hash) FROM eth.logs a CROSS JOIN eth.logs b CROSS JOIN eth.logs c";
    assert_eq!(code(long), (504, "QUERY_TIMEOUT".into()));
    let late = "import sys\nfrom pyarrow import flight\n\
                try: flight.connect(sys.argv[1]).do_get(flight.Ticket(sys.argv[2])).read_all()\n\
                except flight.FlightTimedOutError: print('late')";
    assert_eq!(python(late, &[server.flight(), long]).trim(), "late");

    let address = server.jsonl().strip_prefix("http://").unwrap().to_owned();
    let endless = "SELECT value FROM generate_series(1, 1000000000)";
    let _silent = [0, 1].map(|_| {
        let mut stream = TcpStream::connect(&address).unwrap();
        let length = endless.len();
        write!(stream, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{endless}").unwrap();
        stream
    });
    std::thread::sleep(Duration::from_millis(500));
    // They have both turns, until their time is over.
    let asked = Instant::now();
    let answers: Vec<_> = (0..4)
        .map(|_| server.post("SELECT count(*) AS n FROM eth.blocks"))
        .filter(|answer| *answer == (200, "{\"n\":60}\n".into()))
        .collect();
    assert!(answers.len() >= 3, "{answers:?}");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}

const GONE: &str = r#"
import sys, time
from pyarrow import flight
url, process, *heavy = sys.argv[1:]
def ticks():
    fields = open(f"/proc/{process}/stat").read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])
def until_idle():
    until = time.monotonic() + 20
    while time.monotonic() < until:
        before = ticks()
        time.sleep(0.5)
        if ticks() - before <= 5:
            return
    raise SystemExit("they compute on")
client = flight.connect(url)
for sql in heavy:
    before = ticks()
    # On a machine that has other work too, a second may go by without a beginning.
    while ticks() - before <= 10:
        try:
            client.do_get(flight.Ticket(sql), flight.FlightCallOptions(timeout=1)).read_all()
            raise SystemExit(f"it was to take longer than a second: {sql}")
        except (flight.FlightTimedOutError, flight.FlightCancelledError):
            pass
    until_idle()
    # One row comes at once, the other never.
    before = ticks()
    reader = client.do_get(flight.Ticket(f"SELECT 1 AS a UNION ALL SELECT count(*) AS a FROM ({sql})"))
    assert reader.read_chunk().data.num_rows == 1
    while ticks() - before <= 10:
        time.sleep(0.1)
    reader.cancel()
    until_idle()
assert client.do_get(flight.Ticket("SELECT 1 AS n")).read_all().to_pylist() == [{"n": 1}]
print("ok")
"#;

/// Over Flight a client goes by saying so, and its connection stays.
#[test]
fn queries_that_are_cancelled_over_flight_compute_no_more() {
    let place = Place::configured(Db::Sqlite, "query_max_mem_mb = 64\nspill_location = [\"spill\"]");
    std::fs::create_dir(place.path("spill")).unwrap();
    place.ok(&["migrate"]);
    let server = Server::start(&place, &["--flight-server"]);
    let numbers = "generate_series(1, 1000000000000)";
    let aggregate = format!("SELECT value % 7 AS k, sum(value * 1.5) AS s FROM {numbers} GROUP BY value % 7");
    let first = format!("SELECT value FROM {numbers} ORDER BY value % 1000003, value LIMIT 10");
    let sorted =
        format!("SELECT value, repeat('x', 200) AS pad FROM {numbers} ORDER BY value % 1000003, value");
    let join = format!(
        "SELECT b.value FROM generate_series(1, 10) AS a JOIN {numbers} AS b ON a.value = b.value % 11"
    );
    let id = server.id().to_string();
    assert_eq!(python(GONE, &[server.flight(), &id, &aggregate, &first, &sorted, &join]).trim(), "ok");
    let folders = std::fs::read_dir(place.path("spill")).unwrap().map(|folder| folder.unwrap().path());
    for folder in folders {
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "{} has files", folder.display());
    }
}

/// What does not fit into a query's memory goes through the disk, and comes in the right order.
#[test]
fn a_sort_that_is_larger_than_its_memory_spills() {
    let place = Place::configured(Db::Sqlite, "query_max_mem_mb = 24\nspill_location = [\"spill\"]");
    std::fs::create_dir(place.path("spill")).unwrap();
    place.ok(&["migrate"]);
    let server = Server::start(&place, &["--jsonl-server"]);
    // 60 MB. The two factors have no divisor in common: each number comes once, far from where its row was.
    let count = 300_007_u64;
    let sql = format!(
        "SELECT value, repeat('x', 200) AS pad FROM generate_series(1, {}) ORDER BY (value * 7919) % {count}",
        count - 1
    );
    let (status, explained) = server.post(&format!("EXPLAIN ANALYZE {sql}"));
    assert_eq!(status, 200, "{explained}");
    let spills = explained.split("spill_count=").skip(1).map(|text| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().unwrap()
    });
    assert!(spills.sum::<u64>() > 0, "{explained}");
    let (status, body) = server.post(&sql);
    assert_eq!(status, 200, "{:.300}", body);
    let mut lines = body.lines();
    for expected in 1..count {
        let line: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        assert_eq!(line["value"].as_u64().unwrap() * 7919 % count, expected);
    }
    assert_eq!(lines.next(), None);
}

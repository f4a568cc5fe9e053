//! Clients that mean harm, or do it: the server stays up, within its memory, and answers the others.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use nozzle_testkit::replay::Recording;

use crate::{
    harness::{Db, Place, memory_kib, python, synthetic},
    servers::Server,
};

/// How many clients ask at a time.
const CLIENTS: usize = 200;

/// What the server may use in all, in MiB: its own memory beside that of its queries, which is limited.
const MEMORY_MIB: u64 = 1024;

/// A place with 16,000 logs, where a query may take so long.
fn extracted(seconds: u32) -> Place {
    let node = synthetic(Recording::synthetic(400, 10, 4, 43), 0);
    let limits = "max_mem_mb = 256\nquery_max_mem_mb = 128\nmax_concurrent_queries = 8";
    let place = Place::configured(Db::Sqlite, &format!("query_timeout_secs = {seconds}\n{limits}"));
    place.define("eth", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth"]);
    place
}

/// Sends a request and reads nothing of its answer.
fn silent(address: &str, sql: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{sql}", sql.len()).unwrap();
    stream
}

/// The status and the body of an answer that is read to its end.
fn asked(address: &str, sql: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{sql}",
        sql.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

#[test]
fn two_hundred_clients_are_answered_beside_some_that_never_read() {
    let place = extracted(60);
    let server = Server::start(&place, &["--jsonl-server", "--flight-server"]);
    let address = server.jsonl().strip_prefix("http://").unwrap().to_owned();
    let endless = "SELECT * FROM eth.logs a CROSS JOIN (SELECT block_num AS b FROM eth.blocks) ORDER BY data";
    let _never_read: Vec<_> = (0..3).map(|_| silent(&address, endless)).collect();
    let _half_open: Vec<_> = (0..20).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let began = Instant::now();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = |client: usize| {
            let sql = format!("SELECT count(*) AS n FROM eth.logs WHERE block_num <= {client}");
            asked(&address, &sql)
        };
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || ask(client))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for (client, (status, body)) in answers.iter().enumerate() {
        assert_eq!(status, "200", "{body}");
        assert!(body.contains(&format!("{{\"n\":{}}}", client * 40)), "{client}: {body}");
    }
    let used = memory_kib(server.id()) >> 10;
    assert!(used < MEMORY_MIB, "{used} MiB after {:?}", began.elapsed());
    assert_eq!(server.post("SELECT 1 AS n"), (200, "{\"n\":1}\n".into()));
}

const FORGED: &str = r#"
import os, random, sys
from pyarrow import flight
import pyarrow as pa
client = flight.connect(sys.argv[1])
real = client.get_flight_info(flight.FlightDescriptor.for_command("SELECT 1 AS n")).endpoints[0].ticket.ticket
dice = random.Random(7)
sql = b"type.googleapis.com/arrow.flight.protocol.sql."
names = [b"TicketStatementQuery", b"CommandPreparedStatementQuery", b"CommandGetTables", b"CommandStatementUpdate", b"Nothing"]
def any_of(name, value):
    url = sql + name
    return b"\x0a" + bytes([len(url)]) + url + b"\x12" + bytes([len(value)]) + value
tickets = [b"", b"\x00", b"\xff" * 100, real[:-1], real + b"\x00", b"DROP TABLE eth.blocks"]
tickets += [any_of(name, dice.randbytes(dice.randrange(0, 100))) for name in names for _ in range(20)]
tickets += [dice.randbytes(dice.randrange(1, 200)) for _ in range(50)]
refused = 0
for ticket in tickets:
    try:
        client.do_get(flight.Ticket(ticket)).read_all()
    except (pa.ArrowInvalid, KeyError, NotImplementedError):
        refused += 1
    except pa.ArrowException as error:
        raise SystemExit(f"{ticket!r}: {error}")
assert refused > 50, refused
assert client.do_get(flight.Ticket("SELECT 1 AS n")).read_all().to_pylist() == [{"n": 1}]
print("ok")
"#;

#[test]
fn statements_and_tickets_that_mean_harm_do_none() {
    let place = extracted(4);
    let server = Server::start(&place, &["--jsonl-server", "--flight-server"]);
    let address = server.jsonl().strip_prefix("http://").unwrap().to_owned();
    assert_eq!(python(FORGED, &[server.flight()]).trim(), "ok");
    // Five megabytes are more than a body may have.
    let long = format!("SELECT '{}'", "x".repeat(5 << 20));
    assert_eq!(server.post(&long).0, 413);
    let over_flight = "import sys\nfrom pyarrow import flight\n\
                       try: flight.connect(sys.argv[1]).do_get(flight.Ticket(\"SELECT '\" + 'x' * (5 << 20) + \"'\")).read_all()\n\
                       except Exception as error: print(type(error).__name__)";
    assert!(!python(over_flight, &[server.flight()]).trim().is_empty());
    // Each query has the one before it twice.
    let each = (1..40).map(|at| format!(", q{at} AS (SELECT a.x FROM q{0} a, q{0} b)", at - 1));
    let doubled =
        format!("WITH RECURSIVE q0 AS (SELECT 1 AS x){} SELECT x FROM q39", each.collect::<String>());
    let each = (1..40).map(|at| format!(", q{at} AS (SELECT x + x AS x FROM q{})", at - 1));
    let below_a_filter =
        format!("WITH q0 AS (SELECT 1 AS x){} SELECT x FROM q39 WHERE x > 1", each.collect::<String>());
    let columns = (0..500).map(|at| format!("repeat('x', {}) AS c{at}", 30_000_000 + at));
    let constants = format!("SELECT {}", columns.collect::<Vec<_>>().join(", "));
    for (sql, status) in [
        (format!("SELECT {}1{}", "abs(".repeat(1_000), ")".repeat(1_000)), "400"),
        (format!("SELECT {}1{} AS n", "(SELECT ".repeat(1_000), ")".repeat(1_000)), "400"),
        (
            "SELECT count(*) FROM eth.logs a, eth.logs b, eth.logs c, eth.logs d WHERE a.data < d.data"
                .into(),
            "504",
        ),
        (
            "SELECT a.data FROM eth.logs a, eth.logs b, eth.logs c ORDER BY b.data, c.data, a.data".into(),
            "503 504",
        ),
        (doubled, "400"),
        (below_a_filter, "400"),
        (constants, "400 504"),
        ("SELECT levenshtein(repeat('a', 300000), repeat('b', 300000)) AS n".into(), "500"),
        ("SELECT array_repeat(repeat('x', 300000), 30000000) AS n".into(), "500"),
        ("SELECT length(repeat('x', 2000000000)) AS n".into(), "500"),
        ("SELECT max(lpad(CAST(block_num AS text), 1000000)) AS n FROM eth.logs".into(), "500"),
        ("SELECT cardinality(range(0, 9000000000)) AS n".into(), "500"),
        ("SELECT array_repeat(block_num, 100000000) AS n FROM eth.logs".into(), "500"),
        (
            "SELECT max(length(CASE WHEN value % 2 = 0 THEN repeat('x', 3000000) ELSE 'y' END)) AS n \
             FROM generate_series(1, 8192)"
                .into(),
            "200 504",
        ),
        (
            "SELECT length(max(arrow_cast(repeat('x', 3000000), 'LargeUtf8'))) AS n FROM generate_series(1, 8192)"
                .into(),
            "200 504",
        ),
        (
            "SELECT count(w) AS n FROM (SELECT string_agg(encode(data, 'hex'), ',') \
             OVER (ORDER BY block_num, log_index) AS w FROM eth.logs)"
                .into(),
            "503",
        ),
        ("SELECT array_agg(data) OVER () AS w FROM eth.logs".into(), "503"),
        ("SELECT a.data, count(*) OVER () AS w FROM eth.logs a, eth.logs b".into(), "503"),
        (
            "SELECT max(cardinality(t)) AS n FROM eth.logs, \
             (SELECT range(0, value) AS t FROM generate_series(1000000, 1000000))"
                .into(),
            "500",
        ),
        (
            "SELECT max(length(t)) AS n FROM (SELECT first_value(t) OVER () AS t FROM \
             (SELECT CASE WHEN value = 1 THEN repeat('x', value + 300000) END AS t FROM generate_series(1, 8192)))"
                .into(),
            "503",
        ),
        ("SELECT regexp_replace(repeat('a', 3000000), 'a*?b|a', 'x', 'g') AS n".into(), "400 500"),
        ("SELECT block_num FROM eth.logs WHERE CAST(log_index AS text) ~ '(a{1000}){1000}'".into(), "400 500"),
        (
            "SELECT count(*) AS n FROM eth.logs WHERE 'b' ~ concat('(a{1000}){3}', block_num % 200)".into(),
            "200 500 504",
        ),
        ("SELECT pg_sleep(1000)".into(), "400"),
        ("SELECT * FROM read_parquet('/etc/passwd')".into(), "400 404"),
        ("COPY eth.blocks TO '/tmp/stolen.csv'".into(), "400"),
    ] {
        let (code, body) = asked(&address, &sql);
        assert!(status.contains(&code), "{:.60}: {code} {:.200}", sql, body);
    }
    let used = memory_kib(server.id()) >> 10;
    assert!(used < MEMORY_MIB, "{used} MiB");
    assert_eq!(server.post("SELECT 1 AS n"), (200, "{\"n\":1}\n".into()));
    assert_eq!(server.stop(), 0);
}

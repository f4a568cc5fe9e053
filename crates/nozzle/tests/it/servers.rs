//! The query servers as their clients see them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nozzle_testkit::replay::Recording;
use serde_json::{Value, json};

use crate::harness::{Db, Place, python, synthetic};

/// A running server and where it listens.
pub struct Server {
    child: Child,
    pub flight: Option<String>,
    pub jsonl: Option<String>,
    pub admin: Option<String>,
}

impl Server {
    /// Starts the selected servers on free ports.
    pub fn start(place: &Place, flags: &[&str]) -> Self {
        Self::started(Self::command(place, flags), flags)
    }

    /// The command of a server on free ports.
    pub fn command(place: &Place, flags: &[&str]) -> Command {
        let mut command = place.command(&[&["server"], flags].concat());
        for address in ["FLIGHT_ADDR", "JSONL_ADDR", "ADMIN_API_ADDR"] {
            command.env(format!("NOZZLE_CONFIG_{address}"), "127.0.0.1:0");
        }
        command
    }

    /// A server that this command starts, with the flags that select some of the three.
    pub fn started(mut command: Command, flags: &[&str]) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { flight: None, jsonl: None, admin: None, child };
        let selected = flags.iter().filter(|flag| flag.ends_with("-server")).count();
        let expected = if selected == 0 { 3 } else { selected };
        for _ in 0..expected {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            let (name, url) = line.trim().split_once(" listens on ").unwrap_or_else(|| panic!("{line}"));
            match name {
                "Arrow Flight" => server.flight = Some(url.to_owned()),
                "JSON Lines" => server.jsonl = Some(url.to_owned()),
                "Admin API" => server.admin = Some(url.to_owned()),
                other => panic!("{other} listens"),
            }
        }
        server
    }

    /// Posts a body with further arguments of curl; the status and the answer.
    pub fn post_with(&self, body: &str, arguments: &[&str]) -> (u16, String) {
        let mut curl = Command::new("curl")
            .args([
                "-sS",
                "-X",
                "POST",
                "--data-binary",
                "@-",
                "-w",
                "%{http_code}",
                self.jsonl.as_ref().unwrap(),
            ])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        curl.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        let said = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
        let (answer, status) = said.split_at(said.len() - 3);
        (status.parse().unwrap(), answer.to_owned())
    }

    pub fn post(&self, sql: &str) -> (u16, String) {
        self.post_with(sql, &[])
    }

    /// Where JSON Lines listens.
    pub fn jsonl(&self) -> &str {
        self.jsonl.as_ref().unwrap()
    }

    /// Where Arrow Flight listens.
    pub fn flight(&self) -> &str {
        self.flight.as_ref().unwrap()
    }

    /// Where the Admin API listens.
    pub fn admin(&self) -> &str {
        self.admin.as_ref().unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to end, and gives its exit code.
    pub fn stop(mut self) -> i32 {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        let code = self.child.wait().unwrap().code();
        code.unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A place with 60 blocks of three transactions with two logs each, but for the first.
pub fn extracted(db: Db) -> Place {
    let node = synthetic(Recording::synthetic(60, 3, 2, 41), 0);
    let place = Place::configured(db, "");
    place.define("eth", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth"]);
    place
}

#[test]
fn json_lines_are_what_the_query_command_answers() {
    for db in [Db::Sqlite, Db::Postgres] {
        let place = extracted(db);
        let server = Server::start(&place, &[]);
        for sql in [
            "SELECT count(*) AS n, sum(value) AS v FROM eth.transactions",
            "SELECT * FROM eth.blocks ORDER BY block_num LIMIT 7",
            "SELECT * FROM eth.logs WHERE false",
        ] {
            let (status, body) = server.post(sql);
            assert_eq!((status, body), (200, place.ok(&["query", sql, "--format", "jsonl"]).stdout), "{sql}");
        }
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn errors_have_their_codes() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &["--jsonl-server"]);
    for (sql, status, code) in [
        ("SELEC 1", 400, "SQL_PARSE_ERROR"),
        ("SELECT nothing FROM eth.blocks", 400, "INVALID_PLAN"),
        ("DROP TABLE eth.blocks", 400, "INVALID_PLAN"),
        ("SELECT * FROM eth.nothing", 404, "TABLE_NOT_FOUND_ERROR"),
        ("SELECT * FROM nothing.blocks", 404, "TABLE_NOT_FOUND_ERROR"),
        ("SELECT 1 FROM information_schema.nothing", 404, "TABLE_NOT_FOUND_ERROR"),
        ("SELECT CAST('x' AS INT)", 400, "INVALID_PLAN"),
        ("SELECT * FROM eth.blocks WHERE block_num = 'x'", 400, "INVALID_PLAN"),
        ("SELECT $1", 400, "INVALID_PLAN"),
        ("SELECT count(*) FROM eth.blocks PREWHERE block_num < 5", 400, "INVALID_PLAN"),
        ("SELECT 1 AS a, 2 AS a", 400, "INVALID_PLAN"),
        ("SELECT a FROM (SELECT 1 AS _a, 2 AS a)", 400, "INVALID_PLAN"),
        ("SELECT * FROM eth.blocks WHERE hash = '0x12'", 400, "INVALID_PLAN"),
        // The engine panics.
        ("SELECT arrow_cast(-9223372036854775808, 'Date64')", 500, "EXECUTION_ERROR"),
    ] {
        let (said, body) = server.post(sql);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["error_code"] == code && said == status, "{sql}: {said} {body}");
        assert!(body["error_message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    }
    let (status, body) = server.post(&format!("SELECT '{}'", "x".repeat(1 << 20)));
    assert_eq!(status, 413, "{body}");
    let health = format!("{}/health", server.jsonl());
    let output = Command::new("curl").args(["-sS", &health]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), json!({"status": "ok"}));
    for (method, path, status) in [("GET", "/", 405), ("POST", "/x", 404)] {
        let url = format!("{}{path}", server.jsonl());
        let output =
            Command::new("curl").args(["-sS", "-X", method, "-w", "%{http_code}", &url]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let (body, code) = said.split_at(said.len() - 3);
        assert_eq!(code, status.to_string());
        assert!(serde_json::from_str::<Value>(body).unwrap()["error_message"].is_string(), "{body}");
    }
    // There a cut answer could not be told from a whole one.
    let (status, body) = server.post_with("SELECT 1", &["--http1.0"]);
    assert!(status == 505 && body.contains("HTTP/1.1"), "{status} {body}");
    let sum = "SELECT sum(value) AS v FROM eth.transactions";
    let number = |format: &str| {
        let (_, line) = server.post_with(sum, &["-H", &format!("nozzle-decimals: {format}")]);
        serde_json::from_str::<Value>(&line).unwrap()["v"].is_number()
    };
    assert!(number("number") && !number("string"));
}

#[test]
fn what_a_query_asks_in_vain_is_no_error_of_the_server() {
    let place = extracted(Db::Sqlite);
    let log = place.path("log");
    let mut command = Server::command(&place, &["--jsonl-server"]);
    command.stderr(std::fs::File::create(&log).unwrap());
    let server = Server::started(command, &["--jsonl-server"]);
    for sql in [
        "SELECT 1 / (5 - CAST(block_num AS BIGINT)) AS x FROM eth.blocks",
        "SELECT CAST(concat('x', block_num) AS BIGINT) AS x FROM eth.blocks",
        "SELECT evm_encode_hex(concat('0x', block_num, 'g')) AS x FROM eth.blocks",
    ] {
        let (status, body) = server.post(sql);
        assert!(status == 500 && body.contains("EXECUTION_ERROR"), "{status} {body}");
    }
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(!said.contains("ERROR"), "{said}");
}

#[test]
fn an_error_in_the_middle_is_a_last_line_and_a_broken_connection() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &["--jsonl-server"]);
    // Many rows first, so that the answer has begun when the division fails.
    let sql = "SELECT 1 / (100000 - v.value) AS x FROM generate_series(0, 200000) AS v(value)";
    let address = server.jsonl().strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(stream, "POST / HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{sql}", sql.len())
        .unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).ok();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 200"), "{}", &text[..200.min(text.len())]);
    assert!(text.contains(r#"{"_nozzle":{"error":{"error_code":"EXECUTION_ERROR""#), "no error line");
    assert!(!text.ends_with("0\r\n\r\n"), "the answer must not end as a whole one does");
}

#[test]
fn answers_are_packed_where_the_client_takes_it() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &["--jsonl-server"]);
    let curl = |flags: &[&str]| {
        let url = server.jsonl();
        let sql = "SELECT * FROM eth.logs ORDER BY _block_num, log_index";
        let output =
            Command::new("curl").args(["-sS", "-X", "POST", url, "--data", sql]).args(flags).output();
        output.unwrap().stdout
    };
    let plain = curl(&[]);
    assert_eq!(plain.iter().filter(|byte| **byte == b'\n').count(), 59 * 6);
    assert_eq!(curl(&["--compressed"]), plain);
    for name in ["gzip", "deflate", "br", "zstd"] {
        let header = format!("Accept-Encoding: {name}");
        assert_eq!(curl(&["-H", &header, "--compressed"]), plain, "{name}");
        let packed = curl(&["-H", &header]);
        assert!(packed.len() < plain.len() / 2, "{name}: {} bytes", packed.len());
    }
}

const ARROW: &str = r#"
import sys, urllib.request
import pyarrow as pa
def rows(sql):
    headers = {"Accept": "application/vnd.apache.arrow.stream", "Accept-Encoding": "identity"}
    request = urllib.request.Request(sys.argv[1], sql.encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return pa.ipc.open_stream(answer).read_all()
table = rows("SELECT * FROM eth.logs ORDER BY _block_num, log_index")
assert table.num_rows == 354 and table.schema.field("address").type == pa.binary(20), table.schema
assert rows("SELECT hash FROM eth.blocks WHERE false").schema.names == ["hash"]
try:
    rows("SELECT 1 / (100000 - value) AS x FROM generate_series(0, 200000)")
    raise SystemExit("a cut answer looked whole")
except Exception as error:
    print("ok")
"#;

#[test]
fn rows_come_in_the_form_that_the_client_asks_for() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &["--jsonl-server"]);
    let sql = "SELECT * FROM eth.blocks ORDER BY block_num";
    let csv = place.ok(&["query", sql, "--format", "csv"]).stdout;
    assert_eq!(server.post_with(sql, &["-H", "Accept: text/csv"]), (200, csv.clone()));
    assert_eq!(server.post_with(sql, &["-H", "Accept: text/csv", "--compressed"]), (200, csv));
    let (status, body) = server.post_with(sql, &["-H", "Accept: text/html"]);
    assert!(status == 406 && body.contains("text/csv"), "{status} {body}");
    assert_eq!(python(ARROW, &[server.jsonl()]).trim(), "ok");
    // Without a line that could tell it, only the connection tells that an answer is not whole.
    let fails = "SELECT 1 / (100000 - value) AS x FROM generate_series(0, 200000)";
    let curl = Command::new("curl")
        .args(["-sS", "-H", "Accept: text/csv", "--data", fails, server.jsonl()])
        .output();
    let output = curl.unwrap();
    assert!(!output.status.success() && output.stdout.starts_with(b"x\n0\n"), "{:?}", output.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_of_grpc_is_told_to_everybody() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    let tokens = "auth = { tokens = [{ name = \"ana\", token = \"topsecret\", role = \"query\" }] }";
    let place = Place::configured(Db::Sqlite, tokens);
    let server = Server::start(&place, &["--flight-server"]);
    let url = server.flight().replace("grpc://", "http://");
    let channel = tonic::transport::Channel::from_shared(url).unwrap().connect().await.unwrap();
    let mut client = HealthClient::new(channel);
    for service in ["", "arrow.flight.protocol.FlightService"] {
        let request = HealthCheckRequest { service: service.into() };
        let status = client.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
}

#[test]
fn commits_of_another_process_are_seen_at_once() {
    for db in [Db::Sqlite, Db::Postgres] {
        let node = synthetic(Recording::synthetic(60, 3, 2, 41), 0);
        let place = Place::configured(db, "");
        place.define("eth", "chain-1337", node.url());
        place.ok(&["dump", "--dataset", "eth", "-e", "9"]);
        let server = Server::start(&place, &["--jsonl-server"]);
        let count = || server.post("SELECT count(*) AS n FROM eth.blocks").1;
        assert_eq!(count(), "{\"n\":10}\n");
        place.ok(&["dump", "--dataset", "eth", "-e", "29"]);
        let committed = Instant::now();
        assert_eq!(count(), "{\"n\":30}\n");
        assert!(committed.elapsed() < Duration::from_secs(20), "one answer took that long");
    }
}

#[test]
fn a_server_that_is_told_to_end_finishes_what_it_has_begun() {
    let place = extracted(Db::Sqlite);
    let mut server = Server::start(&place, &[]);
    let url = server.jsonl.clone().unwrap();
    let rows = 3_000_000;
    let sql = format!("SELECT value FROM generate_series(1, {rows})");
    let mut curl = Command::new("curl")
        .args(["-sS", "-X", "POST", &url, "--data", &sql])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().is_ok());
    let id = server.child.id().to_string();
    Command::new("kill").args(["-TERM", &id]).status().unwrap();
    assert_eq!(lines.count(), rows - 1, "the answer was cut");
    assert!(curl.wait().unwrap().success());
    // A second signal would end it at once.
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(TcpStream::connect(url.strip_prefix("http://").unwrap()).is_err(), "it still listens");
}

/// Statements that a stack of the usual size is not enough for.
#[test]
fn deep_statements_are_answered_or_refused_and_harm_nobody() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &["--jsonl-server"]);
    let addresses = vec!["address = X'0000000000000000000000000000000000000000'"; 1_500].join(" OR ");
    let parts = (1..300).map(|n| format!(", t{n} AS (SELECT * FROM t{})", n - 1));
    let chained: String = std::iter::once("WITH t0 AS (SELECT 1 AS a)".to_owned()).chain(parts).collect();
    for (sql, expected) in [
        (format!("SELECT 1{} AS n", "+1".repeat(700)), 200),
        (format!("SELECT 1{} AS n", "+1".repeat(7_000)), 400),
        (format!("SELECT count(*) AS n FROM eth.logs WHERE {addresses}"), 200),
        (format!("{}SELECT 1", "EXPLAIN ".repeat(2_000)), 400),
        (format!("SELECT {}'1 day'", "INTERVAL ".repeat(2_000)), 400),
        (format!("SELECT CAST(NULL AS {}INT{})", "ARRAY<".repeat(1_500), ">".repeat(1_500)), 400),
        (format!("{chained} SELECT * FROM t299"), 200),
        (format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)), 400),
    ] {
        let (status, body) = server.post(&sql);
        assert_eq!(status, expected, "{:.60}…: {:.300}", sql, body);
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn connections_on_which_nothing_was_begun_do_not_keep_the_server_from_ending() {
    let place = extracted(Db::Sqlite);
    let server = Server::start(&place, &[]);
    let connect = |url: &str| {
        let (_, address) = url.split_once("://").unwrap();
        TcpStream::connect(address).unwrap()
    };
    let _silent = [connect(server.flight()), connect(server.jsonl()), connect(server.admin())];
    let mut half = connect(server.jsonl());
    write!(half, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nSELECT").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let told = Instant::now();
    assert_eq!(server.stop(), 0);
    // They are closed by themselves after more than a minute.
    assert!(told.elapsed() < Duration::from_secs(60), "{:?}", told.elapsed());
}

#[test]
fn an_address_that_is_taken_is_named_with_its_key() {
    let place = extracted(Db::Sqlite);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output =
        place.command(&["server", "--jsonl-server"]).env("NOZZLE_CONFIG_JSONL_ADDR", &address).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&address) && said.contains("jsonl_addr"), "{said}");
}

/// What a query has read, as `EXPLAIN ANALYZE` says: a look-up opens only the files and row groups that can hold it.
#[test]
fn a_look_up_reads_little_and_says_so() {
    let node = synthetic(Recording::small_mainnet_like(400, 24, 47), 0);
    let place = Place::configured(Db::Sqlite, crate::harness::NOT_MERGED);
    place.define("eth", "chain-1337", node.url());
    for end in ["99", "199", "299", "399"] {
        place.ok(&["dump", "--dataset", "eth", "-e", end]);
    }
    let server = Server::start(&place, &["--jsonl-server"]);
    let rows = |sql: &str| {
        let (status, body) = server.post(sql);
        assert_eq!(status, 200, "{body}");
        body.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let explained =
        |sql: &str| rows(&format!("EXPLAIN ANALYZE {sql}")).iter().map(Value::to_string).collect::<String>();
    let read = |sql: &str| bytes_scanned(&explained(sql));
    for (table, column) in [("transactions", "tx_hash"), ("logs", "address"), ("logs", "topic0")] {
        // One that is in the third of the four files only, as most are not that have been seen before.
        let one = format!(
            "SELECT {column} AS value, count(*) AS n FROM eth.{table} WHERE {column} IS NOT NULL \
             GROUP BY {column} HAVING min(block_num) >= 200 AND max(block_num) < 300 ORDER BY {column} LIMIT 1"
        );
        let [one] = &rows(&one)[..] else { panic!("there is no {column} in one file only") };
        let value = one["value"].as_str().unwrap();
        let all = read(&format!("SELECT * FROM eth.{table}"));
        let look_up = format!("SELECT * FROM eth.{table} WHERE {column} = '{value}'");
        assert_eq!(rows(&look_up).len() as u64, one["n"].as_u64().unwrap());
        let said = explained(&look_up);
        // Those of a hash are chosen before the scan, by what is read for that.
        assert!(column != "tx_hash" || said.contains("files_without_the_hash=3"), "{said}");
        let found = bytes_scanned(&said);
        let nowhere = format!("0x{}", "ab".repeat(value.len() / 2 - 1));
        let none = read(&format!("SELECT * FROM eth.{table} WHERE {column} = '{nowhere}'"));
        println!("{column}: {found} of {all} bytes, {none} for what is nowhere");
        // A bloom filter may take a value for one that it has.
        assert!(none <= all / 20, "{column}: {none} of {all} bytes for what is nowhere");
        // A quarter is the file's. What a value is found by is read beside the rows, once more where it is selected.
        assert!(found > 0 && found <= all / 3, "{column}: {found} of {all} bytes");
    }
}

/// The sum of what scans have read.
fn bytes_scanned(explained: &str) -> u64 {
    let metrics = explained.split("bytes_scanned=").skip(1);
    let numbers = metrics.map(|text| {
        let text: String = text.chars().take_while(|c| c.is_ascii_digit() || " .KMGB".contains(*c)).collect();
        let (number, unit) = text.trim().split_once(' ').unwrap_or((text.trim(), "B"));
        let scale = match unit.trim() {
            "" | "B" => 1.0,
            "K" | "KB" => 1024.0,
            "M" | "MB" => 1024.0 * 1024.0,
            other => panic!("{other}"),
        };
        (number.parse::<f64>().unwrap() * scale) as u64
    });
    numbers.sum()
}

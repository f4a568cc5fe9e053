//! Servers with a certificate, and with clients that need one.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nozzle_testkit::firehose::{FirehoseServer, Options, made};

use crate::{
    harness::{Db, Place, python, until_sync},
    servers::Server,
};

/// Runs openssl in a folder.
fn openssl(folder: &Path, args: &[&str]) {
    let output = Command::new("openssl").current_dir(folder).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes an authority, `ca.pem` and `ca.key`.
fn authority(folder: &Path) {
    let args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=authority \
                -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE";
    openssl(folder, &args.split_whitespace().collect::<Vec<_>>());
}

/// Makes a certificate of the authority for this machine, `NAME.pem` and `NAME.key`.
fn certificate(folder: &Path, name: &str) {
    let (key, request, out) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
    let subject = format!("/CN={name}");
    let args = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    let args: Vec<_> =
        args.split_whitespace().chain(["-subj", &subject, "-keyout", &key, "-out", &request]).collect();
    openssl(folder, &args);
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let args = "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names";
    let args: Vec<_> = args.split_whitespace().chain(["-in", &request, "-out", &out]).collect();
    openssl(folder, &args);
}

fn with_certificates(lines: &str) -> (Place, PathBuf) {
    let place = Place::configured(Db::Sqlite, "");
    let folder = place.path("tls");
    std::fs::create_dir(&folder).unwrap();
    authority(&folder);
    certificate(&folder, "server");
    certificate(&folder, "client");
    let config = std::fs::read_to_string(place.path("nozzle.toml")).unwrap();
    place.write(
        "nozzle.toml",
        &format!("{config}\n[tls]\ncert = \"tls/server.pem\"\nkey = \"tls/server.key\"\n{lines}"),
    );
    (place, folder)
}

fn curl(folder: &Path, args: &[&str]) -> Output {
    Command::new("curl").current_dir(folder).args(["-sS", "--max-time", "20"]).args(args).output().unwrap()
}

fn answer(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

const FLIGHT: &str = r#"
import sys
from pyarrow import flight
import adbc_driver_flightsql.dbapi as dbapi
from adbc_driver_flightsql import DatabaseOptions
url, folder, needs = sys.argv[1:]
read = lambda name: open(f"{folder}/{name}", "rb").read()
own = {"cert_chain": read("client.pem"), "private_key": read("client.key")}
sql = flight.Ticket("SELECT 1 AS n")
with flight.connect(url, tls_root_certs=read("ca.pem"), **own) as client:
    assert client.do_get(sql).read_all().to_pylist() == [{"n": 1}]
options = {DatabaseOptions.TLS_ROOT_CERTS.value: read("ca.pem").decode(),
           DatabaseOptions.MTLS_CERT_CHAIN.value: read("client.pem").decode(),
           DatabaseOptions.MTLS_PRIVATE_KEY.value: read("client.key").decode()}
with dbapi.connect(url, db_kwargs=options, autocommit=True) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT 1 AS n")
    assert cursor.fetchall() == [(1,)]
refused = [{}] + ([{"tls_root_certs": read("ca.pem")}] if needs == "yes" else [])
for options in refused:
    try:
        with flight.connect(url, **options) as client:
            client.do_get(sql, flight.FlightCallOptions(timeout=10)).read_all()
    except (flight.FlightUnavailableError, flight.FlightTimedOutError):
        continue
    raise SystemExit(f"{list(options)} was enough")
print("ok")
"#;

#[test]
fn all_servers_have_tls_where_there_is_a_certificate() {
    let (place, folder) = with_certificates("");
    let server = Server::start(&place, &[]);
    assert!(server.flight().starts_with("grpc+tls://") && server.jsonl().starts_with("https://"));
    for http in ["--http1.1", "--http2"] {
        let said = curl(&folder, &["--cacert", "ca.pem", http, "--data", "SELECT 1 AS n", server.jsonl()]);
        assert_eq!(answer(&said), "{\"n\":1}\n", "{said:?}");
    }
    let health = format!("{}/health", server.admin());
    assert!(answer(&curl(&folder, &["--cacert", "ca.pem", &health])).contains("ok"));
    assert!(!curl(&folder, &["--data", "SELECT 1", server.jsonl()]).status.success(), "an unknown authority");
    let plain = server.jsonl().replace("https", "http");
    assert!(!curl(&folder, &["--data", "SELECT 1", &plain]).status.success(), "without TLS");
    assert_eq!(python(FLIGHT, &[server.flight(), &folder.display().to_string(), "no"]).trim(), "ok");
    // One that connects and says nothing keeps nobody waiting, and not the server from its end.
    let _silent = std::net::TcpStream::connect(server.jsonl().strip_prefix("https://").unwrap()).unwrap();
    let said = curl(&folder, &["--cacert", "ca.pem", "--data", "SELECT 2 AS n", server.jsonl()]);
    assert_eq!(answer(&said), "{\"n\":2}\n");
    assert_eq!(server.stop(), 0);
}

#[test]
fn clients_need_a_certificate_where_an_authority_is_named() {
    let (place, folder) = with_certificates("client_ca = \"tls/ca.pem\"\n");
    let server = Server::start(&place, &["--flight-server", "--jsonl-server"]);
    let ask = ["--cacert", "ca.pem", "--data", "SELECT 1 AS n", server.jsonl()];
    let own = [&ask[..], &["--cert", "client.pem", "--key", "client.key"]].concat();
    assert_eq!(answer(&curl(&folder, &own)), "{\"n\":1}\n");
    let said = curl(&folder, &ask);
    assert!(!said.status.success() && said.stdout.is_empty(), "{said:?}");
    // A certificate of another authority is none.
    let other = place.path("other");
    std::fs::create_dir(&other).unwrap();
    authority(&other);
    certificate(&other, "client");
    let foreign = [&ask[..], &["--cert", "../other/client.pem", "--key", "../other/client.key"]].concat();
    let said = curl(&folder, &foreign);
    assert!(!said.status.success() && said.stdout.is_empty(), "{said:?}");
    assert_eq!(python(FLIGHT, &[server.flight(), &folder.display().to_string(), "yes"]).trim(), "ok");
}

#[test]
fn a_renewed_certificate_is_taken_up_and_a_bad_one_is_not() {
    let (place, folder) = with_certificates("");
    let log = place.path("log");
    let mut command = Server::command(&place, &["--jsonl-server"]);
    command.stderr(std::fs::File::create(&log).unwrap());
    let server = Server::started(command, &["--jsonl-server"]);
    let ask = |authority: &str| {
        let said = curl(&folder, &["--cacert", authority, "--data", "SELECT 1 AS n", server.jsonl()]);
        said.status.success().then_some(())
    };
    assert!(ask("ca.pem").is_some());
    std::fs::copy(folder.join("ca.pem"), folder.join("first.pem")).unwrap();
    authority(&folder);
    certificate(&folder, "server");
    until_sync("the renewed certificate to be used", || ask("ca.pem"));
    assert!(ask("first.pem").is_none());
    std::fs::write(folder.join("server.pem"), "no certificate").unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    until_sync("the bad one to be told of", || said().contains("cannot be used").then_some(()));
    assert!(ask("ca.pem").is_some(), "the last good one is still used");
}

#[test]
fn what_is_wrong_with_a_certificate_is_said() {
    let (place, folder) = with_certificates("");
    std::fs::copy(folder.join("client.key"), folder.join("server.key")).unwrap();
    let said = place.run(&["server", "--jsonl-server"]);
    assert!(said.code == Some(1) && said.stderr.contains("tls.key"), "{}", said.stderr);
    std::fs::remove_file(folder.join("server.pem")).unwrap();
    let said = place.run(&["server", "--jsonl-server"]);
    assert!(said.code == Some(1) && said.stderr.contains("server.pem"), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_firehose_has_a_certificate_that_this_machine_trusts() {
    let mut place = Place::configured(Db::Sqlite, "");
    let folder = place.path("tls");
    std::fs::create_dir(&folder).unwrap();
    authority(&folder);
    certificate(&folder, "server");
    let pem = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let identity = Some((pem("server.pem"), pem("server.key")));
    let options = Options { identity, ..Options::default() };
    let server = FirehoseServer::start(made(0, 20, 0), options).await.unwrap();
    place.write(
        "datasets/fh.json",
        r#"{"name":"fh","kind":"firehose","network":"chain-1337","verify":"links"}"#,
    );
    let keys = |url: &str| format!("kind = \"firehose\"\nnetwork = \"chain-1337\"\nurl = \"{url}\"\n");
    place.write("providers/endpoint.toml", &keys(&server.url()));
    let dump = ["dump", "--dataset", "fh", "--end-block", "20"];
    let said = tokio::task::block_in_place(|| place.run(&dump));
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("certificate"), "{}", said.stderr);
    place.set_variables(vec![("SSL_CERT_FILE", folder.join("ca.pem").display().to_string())]);
    tokio::task::block_in_place(|| place.ok(&dump));
    place.stored("fh").await.assert_sound(0, 20);
    // Without a scheme it is TLS too.
    place.write("providers/endpoint.toml", &keys(server.url().strip_prefix("https://").unwrap()));
    tokio::task::block_in_place(|| place.ok(&["dump", "--dataset", "fh", "--end-block", "20", "--fresh"]));
}

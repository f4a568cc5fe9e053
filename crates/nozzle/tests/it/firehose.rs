//! Datasets of the kind `firehose`, from an endpoint that forks, breaks off and repeats itself.

use nozzle_testkit::firehose::{FirehoseServer, Options, made, made_on};

use crate::harness::{Db, Place, until_stored};

/// A place with the dataset `fh` and a provider that has a token and a key.
fn place(server: &FirehoseServer) -> Place {
    let place = Place::configured(Db::Sqlite, "writer = { segment_flush_interval_secs = 0.3 }");
    place.write(
        "datasets/fh.json",
        r#"{"name":"fh","kind":"firehose","network":"chain-1337","verify":"links"}"#,
    );
    let keys = format!(
        "kind = \"firehose\"\nnetwork = \"chain-1337\"\nurl = \"{}\"\ntoken = \"tok-en\"\napi_key = \"a-key\"\n",
        server.url()
    );
    place.write("providers/endpoint.toml", &keys);
    place
}

fn options(seed: u64) -> Options {
    Options { token: Some("tok-en".into()), api_key: Some("a-key".into()), seed, ..Options::default() }
}

fn assert_chain(place: &Place, last: u64, fork_from: u64) {
    for table in ["blocks", "transactions", "logs", "calls"] {
        assert_eq!(place.number(&format!("SELECT count(*) FROM fh.{table}")), last + 1, "{table}");
    }
    let forked = "SELECT count(*) FROM fh.logs WHERE encode(data, 'hex') = '01'";
    assert_eq!(place.number(forked), (last + 1).saturating_sub(fork_from));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_ends_whole_whatever_the_endpoint_does() {
    let options = Options { disconnects: 3, repeats: 10, ..options(7) };
    let server = FirehoseServer::start(made(0, 300, 0), options).await.unwrap();
    let place = place(&server);
    place.ok(&["dump", "--dataset", "fh", "--end-block", "120"]);
    place.stored("fh").await.assert_sound(0, 120);
    place.ok(&["dump", "--dataset", "fh", "--end-block", "300", "-j", "2"]);
    place.stored("fh").await.assert_sound(0, 300);
    assert_chain(&place, 300, u64::MAX);
    assert_eq!(place.number("SELECT count(*) FROM fh.calls WHERE call_type = 1 AND \"index\" = 1"), 301);
    place.ok(&["check", "--dataset", "fh", "--verify", "links"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_replaces_what_it_has_undone() {
    let server = FirehoseServer::start(made(0, 50, 0), options(1)).await.unwrap();
    let place = place(&server);
    place.ok(&["dump", "--dataset", "fh"]);
    assert_chain(&place, 50, u64::MAX);
    server.push(made(45, 60, 1));
    place.ok(&["dump", "--dataset", "fh"]);
    place.stored("fh").await.assert_sound(0, 60);
    assert_chain(&place, 60, 45);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_follows_sees_forks_and_survives_a_kill() {
    let server = FirehoseServer::start(made(0, 30, 0), options(2)).await.unwrap();
    let place = place(&server);
    let follow = ["dump", "--dataset", "fh", "--follow"];
    let mut running = place.start(&follow);
    until_stored(place.metadata_when_there().await.as_ref(), "fh", 30).await;
    server.push(made(28, 40, 1));
    until_stored(place.metadata().await.as_ref(), "fh", 40).await;
    running.kill();
    server.push(made_on(41, 45, 1, 1));
    running = place.start(&follow);
    until_stored(place.metadata().await.as_ref(), "fh", 45).await;
    running.signal("TERM");
    running.wait();
    place.ok(&["dump", "--dataset", "fh"]);
    place.stored("fh").await.assert_sound(0, 45);
    assert_eq!(place.number("SELECT count(*) FROM fh.blocks"), 46);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_chain_and_a_stranger_are_refused() {
    let server = FirehoseServer::start(made(0, 5, 0), Options { chain_name: "mainnet".into(), ..options(3) })
        .await
        .unwrap();
    let place = place(&server);
    place.write("datasets/fh.json", r#"{"name":"fh","kind":"firehose","network":"sepolia"}"#);
    let keys = |token: &str| {
        let url = server.url();
        format!(
            "kind = \"firehose\"\nnetwork = \"sepolia\"\nurl = \"{url}\"\ntoken = \"{token}\"\napi_key = \"a-key\"\n"
        )
    };
    place.write("providers/endpoint.toml", &keys("tok-en"));
    let said = place.run(&["dump", "--dataset", "fh"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("it serves `mainnet`, and not `sepolia`"), "{}", said.stderr);
    place.write("providers/endpoint.toml", &keys("wro-ng"));
    let said = place.run(&["dump", "--dataset", "fh"]);
    assert!(said.stderr.contains("check its `token`") && !said.stderr.contains("wro-ng"), "{}", said.stderr);
}

#[test]
fn a_manifest_of_the_kind_is_generated() {
    let place = Place::empty();
    let args = ["generate-manifest", "--kind", "firehose", "--network", "mainnet", "--name", "fh"];
    let manifest: serde_json::Value = serde_json::from_str(&place.ok(&args).stdout).unwrap();
    let tables: Vec<_> = manifest["schema"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(tables, ["blocks", "calls", "logs", "transactions", "withdrawals"]);
}

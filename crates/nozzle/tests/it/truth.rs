//! The rows equal what the node answers, field by field, read by code that shares nothing with the
//! decoder: the node's JSON and the Parquet files meet in Python.

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
    replay::{Recording, ReplayOptions, ReplayServer},
};

use crate::harness::{Place, python};

const SCRIPT: &str = include_str!("truth.py");

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_every_row_equals_what_the_node_answers() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 7).await.unwrap();
    let counts = chain.extend(2_000).await.unwrap();
    assert!(counts.transactions > 4_000 && counts.failed > 100 && counts.creations > 10, "{counts:?}");
    let place = Place::empty();
    place.ok(&["dump", "--rpc-url", anvil.url(), "-j", "2"]);
    let (head, _) = anvil.head().await.unwrap();
    assert_equals_node(&place, "anvil", anvil.url(), head);
    place.stored("anvil").await.assert_sound(0, head);
}

#[test]
fn blob_and_set_code_transactions_and_withdrawals_equal_the_answers_too() {
    let node = ReplayServer::start(Recording::mainnet_like(40, 2), ReplayOptions::default()).unwrap();
    let place = Place::empty();
    place.ok(&["dump", "--rpc-url", node.url()]);
    assert!(place.number("SELECT count(authorization_list) FROM eth_mainnet.transactions") > 0);
    assert!(place.number("SELECT count(blob_versioned_hashes) FROM eth_mainnet.transactions") > 0);
    assert!(place.number("SELECT count(*) FROM eth_mainnet.withdrawals") > 500);
    assert_equals_node(&place, "eth_mainnet", node.url(), 39);
}

fn assert_equals_node(place: &Place, dataset: &str, url: &str, head: u64) {
    let mut args = vec![url.to_owned()];
    for table in ["blocks", "transactions", "logs", "withdrawals"] {
        let files = place.ok(&["files", "--dataset", dataset, "--table", table]).stdout;
        args.push(format!("{table}={}", files.lines().collect::<Vec<_>>().join(",")));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = python(SCRIPT, &args);
    assert!(said.contains(&format!("{} blocks equal", head + 1)), "{said}");
}

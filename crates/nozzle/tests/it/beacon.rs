//! Datasets of kind `eth-beacon`: slots that were skipped, reorgs, kills, finality, and joins with the
//! execution layer.

use nozzle_testkit::{
    beacon::{BeaconChain, BeaconFault, BeaconNode, body},
    replay::Recording,
};
use serde_json::{Value, json};

use crate::harness::{Db, Place, synthetic, until_stored};

const TABLES: [&str; 9] = [
    "blocks",
    "attestations",
    "deposits",
    "withdrawals",
    "voluntary_exits",
    "proposer_slashings",
    "attester_slashings",
    "bls_to_execution_changes",
    "execution_requests",
];

/// A place with the dataset `beacon` and a provider of its network for each node.
fn place(db: Db, lines: &str, nodes: &[&BeaconNode]) -> Place {
    let place = Place::configured(db, lines);
    place.write("datasets/beacon.json", r#"{"name":"beacon","kind":"eth-beacon","network":"chain-31337"}"#);
    for (index, node) in nodes.iter().enumerate() {
        let keys = format!("kind = \"eth-beacon\"\nnetwork = \"chain-31337\"\nurl = \"{}\"\n", node.url());
        place.write(&format!("providers/beacon{index}.toml"), &keys);
    }
    place
}

fn dump(place: &Place, end: &str) {
    place.ok(&["dump", "--dataset", "beacon", "--end-block", end]);
}

/// The slots and roots that are stored, with `0x` before the roots as nodes have them.
fn stored_roots(place: &Place) -> Vec<(u64, String)> {
    let rows = place.query("SELECT block_num, root FROM beacon.blocks ORDER BY block_num");
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap();
    let root = |value: &Value| format!("0x{}", value.as_str().unwrap().trim_start_matches("0x"));
    rows.iter().map(|row| (number(&row["block_num"]), root(&row["root"]))).collect()
}

fn roots_of(chain: &BeaconChain, end: u64) -> Vec<(u64, String)> {
    let blocks = chain.blocks().filter(|block| block.slot <= end);
    blocks.map(|block| (block.slot, block.root.clone())).collect()
}

#[tokio::test]
async fn a_chain_with_skipped_slots_is_stored_whole() {
    let skipped = [1, 2, 33, 34, 35, 64, 99, 100];
    let chain = BeaconChain::build(110, &skipped);
    let node = BeaconNode::start(chain.clone()).unwrap();
    let place = place(Db::Sqlite, "", &[&node]);
    dump(&place, "34");
    place.stored("beacon").await.assert_sound(0, 34);
    // The end is a skipped slot, and so is what follows: a range of its own without a block.
    dump(&place, "35");
    dump(&place, "100");
    place.stored("beacon").await.assert_sound(0, 100);
    assert_eq!(stored_roots(&place), roots_of(&chain, 100));
    let blocks = roots_of(&chain, 100).len() as u64;
    for (table, each) in TABLES.iter().zip([1, 2, 0, 1, 0, 0, 0, 0, 3]) {
        assert_eq!(place.number(&format!("SELECT count(*) FROM beacon.{table}")), each * blocks, "{table}");
    }
    let asked = node.asked().len();
    dump(&place, "100");
    assert!(
        node.asked().iter().skip(asked).all(|path| !path.contains("v2/beacon/blocks")),
        "nothing is left"
    );
    let first = place.query("SELECT timestamp FROM beacon.blocks WHERE block_num = 3");
    assert!(first[0]["timestamp"].as_str().unwrap().starts_with("2023-11-14T22:13:56"), "{first:?}");
}

#[tokio::test]
async fn a_reorg_replaces_what_it_has_changed() {
    let old = BeaconChain::build(60, &[30, 55]);
    let node = BeaconNode::start(old.clone()).unwrap();
    let place = place(Db::Sqlite, "", &[&node]);
    dump(&place, "latest");
    assert_eq!(stored_roots(&place), roots_of(&old, 60));
    // What was a block is skipped now, and the other way round, up to another head.
    let mut new = old.up_to(50);
    new.extend(51..=63, &[54, 60, 62], 1);
    node.set_chain(new.clone());
    dump(&place, "latest");
    place.stored("beacon").await.assert_sound(0, 63);
    assert_eq!(stored_roots(&place), roots_of(&new, 63));
    // To the same height.
    let mut third = new.up_to(53);
    third.extend(55..=63, &[61], 2);
    node.set_chain(third.clone());
    dump(&place, "latest");
    place.stored("beacon").await.assert_sound(0, 63);
    assert_eq!(stored_roots(&place), roots_of(&third, 63));
}

#[tokio::test]
async fn only_final_blocks_are_stored_where_that_is_wanted() {
    let mut chain = BeaconChain::build(60, &[32]);
    chain.finalized = Some(32);
    let node = BeaconNode::start(chain.clone()).unwrap();
    let place = place(Db::Sqlite, "", &[&node]);
    place.ok(&["dump", "--dataset", "beacon", "--only-finalized-blocks"]);
    assert_eq!(stored_roots(&place), roots_of(&chain, 31));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_followed_comes_by_events() {
    let mut chain = BeaconChain::build(5, &[]);
    let node = BeaconNode::start(chain.clone()).unwrap();
    // Without the events the head would be read once in a minute.
    let place = place(Db::Sqlite, "poll_interval_secs = 60.0", &[&node]);
    let running = place.start(&["dump", "--dataset", "beacon", "--follow"]);
    let metadata = place.metadata_when_there().await;
    until_stored(metadata.as_ref(), "beacon", 5).await;
    for head in [6, 8, 9] {
        while node.listeners() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        chain.extend(head..=head, &[], 0);
        node.set_chain(chain.clone());
        until_stored(metadata.as_ref(), "beacon", head).await;
    }
    running.kill();
    assert_eq!(stored_roots(&place), roots_of(&chain, 9));
}

#[tokio::test]
async fn a_dump_that_is_killed_goes_on() {
    let skipped: Vec<u64> = (0..600).filter(|slot| slot % 7 == 3).collect();
    let chain = BeaconChain::build(600, &skipped);
    let node = BeaconNode::start(chain.clone()).unwrap();
    let place = place(Db::Sqlite, "writer = { segment_flush_interval_secs = 0.05 }", &[&node]);
    for pause_ms in [150, 250, 350] {
        let running = place.start(&["dump", "--dataset", "beacon", "--end-block", "600"]);
        tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
        running.kill();
    }
    dump(&place, "600");
    place.stored("beacon").await.assert_sound(0, 600);
    assert_eq!(stored_roots(&place), roots_of(&chain, 600));
}

#[tokio::test]
async fn where_one_node_fails_another_goes_on() {
    let chain = BeaconChain::build(80, &[40, 41]);
    let (bad, good) = (BeaconNode::start(chain.clone()).unwrap(), BeaconNode::start(chain.clone()).unwrap());
    bad.fail("headers/25", BeaconFault::WrongRoot, 1000);
    let place = place(Db::Sqlite, "", &[&bad, &good]);
    let said = place.ok(&["dump", "--dataset", "beacon", "--end-block", "80"]);
    assert!(said.stderr.contains("`beacon0` is left to rest"), "{}", said.stderr);
    assert_eq!(stored_roots(&place), roots_of(&chain, 80));
}

#[tokio::test]
async fn a_node_of_another_network_is_refused() {
    let mut chain = BeaconChain::build(5, &[]);
    chain.network.spec["DEPOSIT_CHAIN_ID"] = "1".into();
    let node = BeaconNode::start(chain).unwrap();
    let said = place(Db::Sqlite, "", &[&node]).run(&["dump", "--dataset", "beacon"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("another chain") && said.stderr.contains("mainnet"), "{}", said.stderr);
}

#[tokio::test]
async fn both_layers_join_by_the_execution_blocks_hash() {
    const BLOCKS: u64 = 20;
    let execution = synthetic(Recording::synthetic(BLOCKS, 3, 2, 21), 0);
    let place = place(Db::Sqlite, "", &[]);
    place.write("datasets/eth.json", r#"{"name":"eth","kind":"evm-rpc","network":"chain-1337"}"#);
    let keys = format!("kind = \"evm-rpc\"\nnetwork = \"chain-1337\"\nurl = \"{}\"\n", execution.url());
    place.write("providers/eth.toml", &keys);
    place.ok(&["dump", "--dataset", "eth", "--end-block", "19"]);
    let mut chain = BeaconChain::default();
    chain.push_body(0, "electra", &body(0, 0), 0);
    for row in place.query("SELECT block_num, hash FROM eth.blocks ORDER BY block_num") {
        let number: u64 =
            row["block_num"].as_u64().or_else(|| row["block_num"].as_str()?.parse().ok()).unwrap();
        // Every other slot is skipped.
        let mut body = body(2 * number + 1, 0);
        let hash = format!("0x{}", row["hash"].as_str().unwrap().trim_start_matches("0x"));
        body["execution_payload"]["block_hash"] = json!(hash);
        body["execution_payload"]["block_number"] = json!(number.to_string());
        chain.push_body(2 * number + 1, "electra", &body, 0);
    }
    let node = BeaconNode::start(chain).unwrap();
    let keys = format!("kind = \"eth-beacon\"\nnetwork = \"chain-31337\"\nurl = \"{}\"\n", node.url());
    place.write("providers/beacon.toml", &keys);
    dump(&place, "39");
    let joined = place.number(
        "SELECT count(*) FROM beacon.blocks b JOIN eth.blocks e ON b.execution_block_hash = e.hash \
         WHERE b.execution_block_number = e.block_num AND b.block_num = 2 * e.block_num + 1",
    );
    assert_eq!(joined, BLOCKS);
}

#[test]
fn a_manifest_names_every_table_and_column() {
    let place = Place::empty();
    let said =
        place.ok(&["generate-manifest", "--kind", "eth-beacon", "--network", "mainnet", "--name", "b"]);
    let manifest: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(manifest["kind"], "eth-beacon");
    let schema = manifest["schema"].as_object().unwrap();
    assert!(TABLES.iter().all(|table| schema.contains_key(*table)) && schema.len() == TABLES.len());
    assert!(schema["blocks"].as_array().unwrap().contains(&json!("execution_block_hash")));
}

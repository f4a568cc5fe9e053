//! Datasets of kind `eth-beacon`: slots that were skipped, reorgs, kills, finality, and joins with the
//! execution layer.

use futures::{StreamExt, stream};
use nozzle_testkit::{
    beacon::{BeaconChain, BeaconFault, BeaconNode, body},
    replay::Recording,
    rng::Rng,
};
use serde_json::{Value, json};

use crate::{
    check::change,
    faults,
    harness::{Db, NOT_MERGED, Place, python, synthetic, until, until_stored, workspace},
};

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

/// A fault that asking again helps against.
fn passing_fault(rng: &mut Rng) -> BeaconFault {
    match rng.below(7) {
        0 => BeaconFault::Status(500, None),
        1 => BeaconFault::Status(503, None),
        2 => BeaconFault::Status(429, Some(0)),
        3 => BeaconFault::Truncated,
        4 => BeaconFault::Page,
        5 => BeaconFault::NotFound,
        // Only another node, or another answer, helps.
        _ => BeaconFault::WrongRoot,
    }
}

/// The chain grows, and what lies behind its last final block is another one now.
fn next_chain(chain: &BeaconChain, rng: &mut Rng, fork: u8) -> BeaconChain {
    let head = chain.blocks().last().unwrap().slot;
    let (final_slot, last) = (chain.finalized.unwrap(), head + 1 + rng.below(30));
    let seam = (head - rng.below(8)).max(final_slot);
    let skipped: Vec<u64> = (seam + 1..last).filter(|_| rng.below(4) == 0).collect();
    let mut next = chain.up_to(seam);
    next.extend(seam + 1..=last, &skipped, fork);
    next.finalized = Some((last - 20).max(final_slot));
    next
}

/// Faults, reorgs and kills as a seed has them, of two nodes; at the end all is as they have it.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_nodes_do_the_rows_are_those_of_their_chain() {
    let (seed, count) = faults::schedules(4);
    let on_thread = |index| tokio::task::spawn_blocking(move || a_faulty_day(seed, index));
    let days = stream::iter(0..count).map(on_thread).buffer_unordered(faults::AT_A_TIME);
    days.for_each(|ended| async { ended.unwrap() }).await;
}

fn a_faulty_day(seed: u64, index: u64) {
    let mut rng = Rng::nth(seed, index);
    let seed = format!("seed {seed}, schedule {index}");
    let mut chain = BeaconChain::build(100, &[1, 40, 41, 99]);
    chain.finalized = Some(80);
    let nodes = [BeaconNode::start(chain.clone()).unwrap(), BeaconNode::start(chain.clone()).unwrap()];
    let lines = "poll_interval_secs = 0.05\nwriter = { segment_flush_interval_secs = 0.02 }";
    let place = place(Db::Sqlite, lines, &[&nodes[0], &nodes[1]]);
    for fork in 1..5 {
        let head = chain.blocks().last().unwrap().slot;
        for _ in 0..8 {
            let part = if rng.below(2) == 0 { "headers" } else { "blocks" };
            let path = format!("{part}/{}", rng.below(head));
            nodes[rng.below(2) as usize].fail(&path, passing_fault(&mut rng), 1);
        }
        let running = place.start(&["dump", "--dataset", "beacon"]);
        std::thread::sleep(std::time::Duration::from_millis(rng.below(400)));
        if rng.below(2) == 0 {
            running.kill();
        } else {
            // Whatever has become of it, it says so in words.
            chain = next_chain(&chain, &mut rng, fork);
            nodes.iter().for_each(|node| node.set_chain(chain.clone()));
            let said = running.wait();
            assert!(!said.stderr.contains("panicked"), "{seed}: {}", said.stderr);
            // A reorg may be told by its block alone.
            let names = ["`beacon0`", "`beacon1`", "block "];
            let named = said.code == Some(0) || names.iter().any(|name| said.stderr.contains(name));
            assert!(named, "{seed}: {}", said.stderr);
        }
        chain = next_chain(&chain, &mut rng, 10 + fork);
        nodes.iter().for_each(|node| node.set_chain(chain.clone()));
    }
    let head = chain.blocks().last().unwrap().slot;
    nodes.iter().for_each(BeaconNode::heal);
    dump(&place, "latest");
    assert_eq!(stored_roots(&place), roots_of(&chain, head), "{seed}");
    place.ok(&["check", "--dataset", "beacon"]);
    let sound = async { place.stored("beacon").await.assert_sound(0, head) };
    tokio::runtime::Handle::current().block_on(sound);
}

#[tokio::test]
async fn a_dump_that_is_killed_goes_on() {
    let skipped: Vec<u64> = (0..600).filter(|slot| slot % 7 == 3).collect();
    let chain = BeaconChain::build(600, &skipped);
    let node = BeaconNode::start(chain.clone()).unwrap();
    let place = place(Db::Sqlite, "writer = { segment_flush_interval_secs = 0.02 }", &[&node]);
    // Between its first commit and its end.
    let mut running = place.start(&["dump", "--dataset", "beacon", "--end-block", "600"]);
    let metadata = place.metadata_when_there().await;
    until("the first commit", async || (metadata.sequence().await.ok()?.0 > 0).then_some(())).await;
    let was_running = running.is_running();
    running.kill();
    let stored = stored_roots(&place).len();
    println!("killed while running: {was_running}, with {stored} blocks");
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
async fn a_node_that_wants_a_long_rest_is_left_at_once_beside_another() {
    let chain = BeaconChain::build(80, &[40, 41]);
    let (busy, good) = (BeaconNode::start(chain.clone()).unwrap(), BeaconNode::start(chain.clone()).unwrap());
    busy.fail("eth/", BeaconFault::Status(429, Some(60)), 1000);
    let place = place(Db::Sqlite, "", &[&busy, &good]);
    let started = std::time::Instant::now();
    let said = place.ok(&["dump", "--dataset", "beacon", "--end-block", "80"]);
    assert!(said.stderr.contains("`beacon0` is left to rest"), "{}", said.stderr);
    assert!(started.elapsed().as_secs() < 30, "it was waited for {:?}", started.elapsed());
    assert_eq!(busy.asked().len(), 1, "nothing is asked of it while it rests");
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

/// A dataset of three segments, the middle one of which ends with skipped slots, and its node.
fn three_segments() -> (Place, BeaconNode) {
    let skipped: Vec<u64> = [3, 30].into_iter().chain(44..=80).collect();
    let node = BeaconNode::start(BeaconChain::build(110, &skipped)).unwrap();
    let place = place(Db::Sqlite, NOT_MERGED, &[&node]);
    for end in ["19", "79", "110"] {
        dump(&place, end);
    }
    (place, node)
}

/// The middle file of a table.
async fn middle_file(place: &Place, table: &str) -> std::path::PathBuf {
    let stored = place.stored("beacon").await;
    let (_, folder, segments) = stored.tables.iter().find(|(name, ..)| name == table).unwrap();
    folder.join(&segments[1].file.as_ref().unwrap().name)
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_rows_are_checked_by_their_roots() {
    let (place, node) = three_segments();
    for (level, words) in [
        ("links", "checked 111 blocks at `links` in"),
        ("header", "checked 111 blocks at `header` in"),
        ("full", "at `header`, the most that rows of kind `eth-beacon` allow"),
    ] {
        let said = place.ok(&["check", "--dataset", "beacon", "--verify", level]);
        assert!(said.stderr.contains(words) && said.stderr.contains("nothing wrong"), "{}", said.stderr);
    }
    let said = place.run(&["check", "--dataset", "beacon", "--verify", "senders"]);
    assert!(said.code == Some(1) && said.stderr.contains("no senders to check"), "{}", said.stderr);
    let right = stored_roots(&place);
    for (table, column, finding, links_too) in [
        ("blocks", "state_root", "its columns hash to", false),
        ("blocks", "proposer_index", "its columns hash to", false),
        ("blocks", "parent_root", "its parent is", true),
        ("blocks", "root", "its parent is", true),
        ("blocks", "timestamp", "`timestamp` is not that of its slot", true),
        ("blocks", "a missing row", "its slot has no block", true),
        ("attestations", "block_root", "`block_root` is not the root of its slot", true),
        ("withdrawals", "timestamp", "`timestamp` is not that of its slot's block", true),
        ("execution_requests", "block_num", "`block_num` is", true),
    ] {
        let kind = if column.contains(' ') { column.to_owned() } else { format!("changed: {column}") };
        change(&place, &middle_file(&place, table).await, &kind);
        let said = place.run(&["check", "--dataset", "beacon", "--verify", "links"]);
        let found = said.code == Some(1) && said.stdout.contains(finding);
        assert_eq!(found, links_too, "{table}.{column} at links: {}{}", said.stdout, said.stderr);
        let said = place.run(&["check", "--dataset", "beacon"]);
        assert!(said.code == Some(1) && said.stdout.contains(finding), "{table}.{column}: {}", said.stdout);
        // The segments beside it are good, and it is mended.
        place.ok(&["check", "--dataset", "beacon", "--end-block", "19"]);
        place.ok(&["check", "--dataset", "beacon", "--start-block", "80"]);
        let said = place.run(&["check", "--dataset", "beacon", "--repair", "--verify", "header"]);
        assert_eq!(said.code, Some(0), "{table}.{column}: {}{}", said.stdout, said.stderr);
    }
    assert_eq!(stored_roots(&place), right);
    drop(node);
}

#[test]
fn too_few_columns_to_check_are_named() {
    let node = BeaconNode::start(BeaconChain::build(10, &[])).unwrap();
    let place = place(Db::Sqlite, "", &[&node]);
    let manifest = |columns: &str| {
        let text = format!(
            r#"{{"name":"beacon","kind":"eth-beacon","network":"chain-31337","schema":{{"blocks":{columns}}}}}"#
        );
        place.write("datasets/beacon.json", &text);
    };
    manifest(r#"["root","parent_root"]"#);
    dump(&place, "10");
    let said = place.run(&["check", "--dataset", "beacon"]);
    let words = ["blocks.state_root", "The highest level that works is --verify links"];
    assert!(words.iter().all(|words| said.stderr.contains(words)), "{}", said.stderr);
    place.ok(&["check", "--dataset", "beacon", "--verify", "links"]);
}

#[test]
fn a_newer_fork_is_stored_and_told_once() {
    let mut chain = BeaconChain::build(20, &[]);
    for slot in 21..=60 {
        let mut newer = body(slot, 0);
        let fields = newer.as_object_mut().unwrap();
        fields.remove("execution_payload");
        fields.remove("eth1_data");
        fields.insert("signed_execution_payload_bid".into(), json!({"message": {"value": "1"}}));
        chain.push_body(slot, "gloas", &newer, 0);
    }
    let node = BeaconNode::start(chain.clone()).unwrap();
    let place = place(Db::Sqlite, "", &[&node]);
    let said = place.ok(&["dump", "--dataset", "beacon", "--end-block", "60", "-j", "2"]);
    for once in
        ["`gloas` is newer than this program", "are not what they were: `eth1_data`, `execution_payload`"]
    {
        assert_eq!(said.stderr.matches(once).count(), 1, "{}", said.stderr);
    }
    assert_eq!(stored_roots(&place), roots_of(&chain, 60));
    assert_eq!(place.number("SELECT count(*) FROM beacon.attestations"), 2 * 61);
    assert_eq!(place.number("SELECT count(*) FROM beacon.withdrawals"), 21);
    let unknown =
        "SELECT count(*) FROM beacon.blocks WHERE version = 'gloas' AND execution_block_hash IS NULL";
    assert_eq!(place.number(unknown), 40);
}

#[test]
fn an_old_block_that_the_node_has_lost_is_told() {
    let mut chain = BeaconChain::default();
    chain.extend(50_000..=50_100, &[], 0);
    let node = BeaconNode::start(chain).unwrap();
    let place = place(Db::Sqlite, "", &[&node]);
    let said = place.run(&["dump", "--dataset", "beacon"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("begin with slot 50000,") && said.stderr.contains("`start_block`"),
        "{}",
        said.stderr
    );
    let asked = node.asked().len();
    assert!(asked < 10_000, "{asked} questions");
}

#[test]
fn a_block_that_the_node_has_lost_in_the_middle_is_told() {
    let chain = BeaconChain::build(100, &[51]);
    let mut lost = BeaconChain::default();
    chain.blocks().filter(|block| block.slot != 50).for_each(|block| lost.insert(block.clone()));
    let (bad, good) = (BeaconNode::start(lost.clone()).unwrap(), BeaconNode::start(chain.clone()).unwrap());
    // Whether what follows is final, and so is not waited for.
    for (finalized, words) in [
        (Some(90), "`beacon0` cannot be used: it has lost a block between the slots 49 and 52"),
        (
            None,
            "`beacon0` does not have the block, nor one that shows that its slot was skipped, of block 50",
        ),
    ] {
        lost.finalized = finalized;
        bad.set_chain(lost.clone());
        let both = place(Db::Sqlite, "", &[&bad, &good]);
        let said = both.ok(&["dump", "--dataset", "beacon"]);
        let is_told = said.stderr.contains(words) && said.stderr.contains("`beacon0` is left to rest");
        assert!(is_told && !said.stderr.contains("does not follow"), "{}", said.stderr);
        assert_eq!(stored_roots(&both), roots_of(&chain, 100));
    }
    lost.finalized = Some(90);
    bad.set_chain(lost);
    let alone = place(Db::Sqlite, "", &[&bad]);
    let said = alone.run(&["dump", "--dataset", "beacon"]);
    assert!(said.code == Some(1) && said.stderr.contains("between the slots 49 and 52"), "{}", said.stderr);
    assert_eq!(stored_roots(&alone), roots_of(&chain, 49));
}

/// The folder of what the tests of the source have.
fn of_source() -> std::path::PathBuf {
    workspace().join("crates/sources/src/beacon/tests")
}

#[tokio::test]
async fn a_recorded_chain_with_missed_slots_is_stored_whole() {
    let chain = BeaconChain::load(&of_source().join("lodestar-1.5.1-slots-0-100.jsonl.zst")).unwrap();
    let head = chain.blocks().last().unwrap().slot;
    let node = BeaconNode::start(chain.clone()).unwrap();
    let place = Place::configured(Db::Sqlite, "");
    place.write("datasets/beacon.json", r#"{"name":"beacon","kind":"eth-beacon","network":"chain-5"}"#);
    let keys = format!("kind = \"eth-beacon\"\nnetwork = \"chain-5\"\nurl = \"{}\"\n", node.url());
    place.write("providers/beacon.toml", &keys);
    place.ok(&["dump", "--dataset", "beacon", "--verify", "full"]);
    place.stored("beacon").await.assert_sound(0, head);
    assert_eq!(stored_roots(&place), roots_of(&chain, head));
    let missed = head + 1 - chain.blocks().count() as u64;
    assert!(missed > 10, "{missed} were missed");
    assert_eq!(place.number("SELECT max(block_num) + 1 - count(*) FROM beacon.blocks"), missed);
    let items = |pointer: &str| {
        let body = chain.blocks().map(|block| &block.block["data"]["message"]["body"]);
        body.filter_map(|body| body.pointer(pointer)?.as_array()).map(Vec::len).sum::<usize>() as u64
    };
    for (table, pointer) in [
        ("attestations", "/attestations"),
        ("deposits", "/deposits"),
        ("withdrawals", "/execution_payload/withdrawals"),
        ("voluntary_exits", "/voluntary_exits"),
        ("proposer_slashings", "/proposer_slashings"),
        ("attester_slashings", "/attester_slashings"),
        ("bls_to_execution_changes", "/bls_to_execution_changes"),
        ("execution_requests", "/execution_requests/deposits"),
    ] {
        let counted = place.number(&format!("SELECT count(*) FROM beacon.{table}"));
        assert_eq!(counted, items(pointer), "{table}");
    }
    assert!(items("/attestations") > 50);
    assert_eq!(place.number("SELECT count(DISTINCT version) FROM beacon.blocks"), 4);
    place.ok(&["check", "--dataset", "beacon"]);
}

#[test]
fn a_second_reader_hashes_the_blocks_of_every_fork_alike() {
    let script = std::fs::read_to_string(of_source().join("second_reader.py")).unwrap();
    let kept = of_source().join("every-fork.jsonl.zst");
    let read = python(&script, &["kept", kept.to_str().unwrap()]);
    let forks = ["phase0", "altair", "bellatrix", "capella", "deneb", "electra", "fulu"];
    assert_eq!(read.lines().collect::<Vec<_>>(), forks);
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

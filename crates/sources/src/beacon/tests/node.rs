//! The source against a node of testkit: skipped slots, heads, reorgs.

use std::time::Duration;

use futures::StreamExt;
use nozzle_testkit::beacon::{BeaconChain, BeaconNode};

use super::*;

/// Longer than any test waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn range(start: u64, end: u64) -> BlockRange {
    BlockRange::new(start, end).unwrap()
}

pub(super) fn config(node: &BeaconNode) -> BeaconConfig {
    BeaconConfig { pushback_patience: PATIENCE, ..BeaconConfig::new("node", node.url().parse().unwrap()) }
}

pub(super) fn source(node: &BeaconNode) -> Beacon {
    connect(config(node))
}

pub(super) fn connect(config: BeaconConfig) -> Beacon {
    // The tests of one binary share a process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Beacon::connect(config, tables(), Verify::Header).unwrap()
}

pub(super) fn hash(root: &str) -> BlockHash {
    root.parse().unwrap()
}

/// All that a stream gives: the numbers of its blocks, and the error at its end.
pub(super) async fn collect(source: &dyn BlockSource, wanted: BlockRange) -> (Vec<u64>, Option<SourceError>) {
    let (mut numbers, mut next, mut last) = (vec![], wanted.start(), None::<BlockLink>);
    let mut stream = source.blocks(wanted);
    while let Some(item) = stream.next().await {
        let rows = match item {
            Ok(rows) => rows,
            Err(error) => return (numbers, Some(error)),
        };
        assert_eq!(rows.range.start(), next, "without gaps");
        next = rows.range.end() + 1;
        let (first, end) = (rows.blocks.first().unwrap(), rows.blocks.last().unwrap());
        assert!(rows.blocks.iter().all(|block| rows.range.contains(block.number)));
        assert!(last.is_none_or(|last| last.hash == first.parent_hash), "linked");
        last = Some(*end);
        let stored = rows.tables[0].batch.num_rows();
        if stored > 0 {
            assert_eq!(stored, rows.blocks.len());
            numbers.extend(rows.blocks.iter().map(|block| block.number));
        }
        assert!(rows.tables.iter().all(|table| table.ends.len() == rows.blocks.len()));
    }
    assert_eq!(next, wanted.end() + 1, "all of it");
    (numbers, None)
}

/// The rows of a range in as many items as they come.
async fn items(source: &dyn BlockSource, wanted: BlockRange) -> Vec<BlockRows> {
    source.blocks(wanted).map(Result::unwrap).collect().await
}

#[tokio::test]
async fn skipped_slots_are_no_rows() {
    let skipped = [1, 2, 7, 30, 31, 32, 33, 60, 99];
    let chain = BeaconChain::build(100, &skipped);
    let node = BeaconNode::start(chain).unwrap();
    let source = source(&node);
    for (start, end) in [(0, 100), (0, 99), (1, 7), (30, 34), (30, 60), (5, 5), (7, 8), (6, 7), (31, 100)] {
        let (numbers, error) = collect(&source, range(start, end)).await;
        assert!(error.is_none(), "{error:?}");
        let expected: Vec<u64> = (start..=end).filter(|slot| !skipped.contains(slot)).collect();
        assert_eq!(numbers, expected, "{start} to {end}");
    }
}

#[tokio::test]
async fn a_range_of_skipped_slots_is_the_block_before_them() {
    let chain = BeaconChain::build(40, &[30, 31, 32, 33]);
    let root = hash(&chain.at(29).unwrap().root);
    let node = BeaconNode::start(chain).unwrap();
    let source = source(&node);
    for (start, end) in [(30, 33), (31, 31), (30, 31), (33, 33)] {
        let items = items(&source, range(start, end)).await;
        assert_eq!(items.len(), 1);
        let stand_in = BlockLink { number: end, hash: root, parent_hash: root };
        assert_eq!((items[0].range, &items[0].blocks), (range(start, end), &vec![stand_in]));
        assert!(items[0].tables.iter().all(|table| table.batch.num_rows() == 0));
    }
    for slot in 29..=33 {
        assert_eq!(
            source.block_id(slot).await.unwrap(),
            Some(BlockId { number: slot, hash: root }),
            "{slot}"
        );
    }
    let last = items(&source, range(29, 31)).await.last().unwrap().blocks.last().copied().unwrap();
    assert_eq!((last.number, last.hash), (31, root), "the end of a range has the hash that `block_id` gives");
    assert_eq!(source.block_id(41).await.unwrap(), None);
}

/// That the node's blocks begin with this slot.
fn assert_begins_with(error: &SourceError, slot: u64) {
    assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&format!("begin with slot {slot}, ")) && text.contains("`start_block`"), "{text}");
}

#[tokio::test]
async fn slots_that_a_node_has_lost_are_not_skipped() {
    let chain = BeaconChain::build(40, &[]);
    let mut pruned = BeaconChain::default();
    chain.blocks().filter(|block| block.slot >= 20).for_each(|block| pruned.insert(block.clone()));
    let node = BeaconNode::start(pruned.clone()).unwrap();
    let source = source(&node);
    for (start, end) in [(0, 30), (10, 19), (19, 20)] {
        let (numbers, error) = collect(&source, range(start, end)).await;
        assert!(numbers.is_empty(), "{numbers:?}");
        assert_begins_with(&error.unwrap(), 20);
    }
    assert_begins_with(&source.block_id(19).await.unwrap_err(), 20);
    // Where the block behind them is not final, they may still come.
    let mut young = BeaconChain::default();
    pruned.blocks().filter(|block| block.slot != 30).for_each(|block| young.insert(block.clone()));
    young.finalized = Some(29);
    node.set_chain(young);
    let (_, error) = collect(&source, range(30, 31)).await;
    assert!(error.as_ref().unwrap().is_missing(), "{error:?}");
    // It has them, but not yet at the slots that it is asked for.
    node.set_chain(chain);
    node.fail("headers/5", nozzle_testkit::beacon::BeaconFault::NotFound, 1);
    node.fail("blocks/5", nozzle_testkit::beacon::BeaconFault::NotFound, 1);
    let (_, error) = collect(&source, range(5, 9)).await;
    assert!(error.as_ref().unwrap().is_missing(), "{error:?}");
    assert_eq!(collect(&source, range(5, 9)).await.0, [5, 6, 7, 8, 9]);
}

/// A chain of which the node has lost the block of one slot.
fn without_slot(chain: &BeaconChain, slot: u64) -> BeaconChain {
    let mut lost = BeaconChain::default();
    chain.blocks().filter(|block| block.slot != slot).for_each(|block| lost.insert(block.clone()));
    lost
}

#[tokio::test]
async fn a_block_that_is_lost_in_the_middle_is_no_reorg() {
    // The block of slot 20 is before two skipped slots, and behind one.
    let chain = BeaconChain::build(40, &[19, 21, 22]);
    let node = BeaconNode::start(without_slot(&chain, 20)).unwrap();
    let source = source(&node);
    for (start, end) in [(0, 40), (10, 23), (18, 40), (19, 40), (20, 22)] {
        let (numbers, error) = collect(&source, range(start, end)).await;
        let given = (start..19).collect::<Vec<_>>();
        assert_eq!(numbers, given, "{start} to {end}");
        let error = error.unwrap();
        assert!(matches!(&error, SourceError::Missing { block: 19 | 20, .. }), "{error:?}");
        assert!(error.to_string().contains("`node` does not have the block"), "{error}");
    }
    // Once what follows is final, waiting does not help.
    let mut lost = without_slot(&chain, 20);
    lost.finalized = Some(30);
    node.set_chain(lost);
    for start in [0, 19] {
        let error = collect(&source, range(start, 40)).await.1.unwrap();
        assert!(matches!(&error, SourceError::Refused { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("`node`") && text.contains("between the slots 18 and 23"), "{text}");
    }
    // It has the block, but not at its slot when it was asked.
    node.set_chain(chain);
    for part in ["headers/20", "blocks/20"] {
        node.fail(part, nozzle_testkit::beacon::BeaconFault::NotFound, 1);
    }
    let error = collect(&source, range(0, 40)).await.1.unwrap();
    assert!(matches!(error, SourceError::Missing { block: 20, what: "the block", .. }), "{error:?}");
    assert_eq!(collect(&source, range(0, 40)).await.0.len(), 38);
}

#[tokio::test]
async fn a_reorg_around_skipped_slots_is_still_one() {
    let old = BeaconChain::build(20, &[12]);
    let mut new = old.up_to(8);
    new.extend(9..=20, &[12, 13], 1);
    let node = BeaconNode::start(new.clone()).unwrap();
    let source = source(&node);
    // Slots 9 to 11 were read of the old chain, and what follows of the new one.
    let next = new.at(14).unwrap();
    let parent = hash(&new.at(11).unwrap().root);
    assert_eq!(next.header["data"]["header"]["message"]["parent_root"], parent.to_string());
    assert!(source.node.lost_before(14, parent, range(12, 13)).await.is_none());
    // The first block read of the new chain, the empty slots of the old one: it has a block in one of them.
    let parent = hash(&new.at(11).unwrap().root);
    let error = source.node.lost_before(14, parent, range(10, 13)).await.unwrap();
    assert!(matches!(error, SourceError::Missing { block: 11, .. }), "{error:?}");
}

#[tokio::test]
async fn requests_are_spread_over_the_minute() {
    let node = BeaconNode::start(BeaconChain::build(20, &[5])).unwrap();
    // 10 milliseconds for each.
    let source = connect(BeaconConfig { rate_limit_per_minute: 6000, ..config(&node) });
    let started = std::time::Instant::now();
    let (numbers, error) = collect(&source, range(0, 20)).await;
    assert!(error.is_none() && numbers.len() == 20, "{error:?}");
    let (asked, took) = (node.asked().len() as u32, started.elapsed());
    assert!(asked >= 43, "two for each block, one or two for the skipped slot, two for the network: {asked}");
    // The last one waits for all before it.
    assert!(took >= (asked - 1) * Duration::from_millis(10), "{asked} requests in {took:?}");
}

#[tokio::test]
async fn a_node_that_has_lost_very_many_slots_is_not_asked_for_all_of_them() {
    let mut chain = BeaconChain::default();
    chain.extend(100_000..=100_040, &[100_003], 0);
    let node = BeaconNode::start(chain).unwrap();
    let source = source(&node);
    let (_, error) = collect(&source, range(0, 100_040)).await;
    assert_begins_with(&error.unwrap(), 100_000);
    let asked = node.asked().len();
    assert!(asked < 3000, "{asked} questions");
}

#[tokio::test]
async fn a_long_gap_with_a_lonely_block_is_skipped_slots() {
    let mut chain = BeaconChain::build(10, &[]);
    chain.extend([1800], &[], 0);
    chain.extend(3000..=3010, &[3001], 0);
    let node = BeaconNode::start(chain.clone()).unwrap();
    let source = source(&node);
    let (numbers, error) = collect(&source, range(5, 3010)).await;
    assert!(error.is_none(), "{error:?}");
    let expected: Vec<u64> = chain.blocks().map(|block| block.slot).filter(|slot| *slot >= 5).collect();
    assert_eq!(numbers, expected);
    let asked = node.asked().len();
    for (slot, before) in [(20, 10), (1799, 10), (1801, 1800), (2999, 1800)] {
        let found = source.block_id(slot).await.unwrap().unwrap();
        assert_eq!(found.hash, hash(&chain.at(before).unwrap().root), "{slot}");
    }
    let asked = node.asked().len() - asked;
    assert!(asked < 1000, "{asked} questions");
}

#[tokio::test]
async fn the_head_is_the_newest_and_the_finalized_block() {
    let mut chain = BeaconChain::build(40, &[39]);
    chain.finalized = Some(39);
    let id = |chain: &BeaconChain, slot| BlockId { number: slot, hash: hash(&chain.at(slot).unwrap().root) };
    let node = BeaconNode::start(chain.clone()).unwrap();
    let source = source(&node);
    let head = source.head().await.unwrap();
    assert_eq!(head, Head { latest: id(&chain, 40), finalized: Some(id(&chain, 38)) });
    assert_eq!(source.chain().await.unwrap(), Some(Chain::Id(31337)));
    assert_eq!(node.asked().iter().filter(|path| path.contains("config/spec")).count(), 1, "asked once");
}

#[tokio::test]
async fn events_tell_of_a_new_head() {
    let chain = BeaconChain::build(10, &[]);
    let node = BeaconNode::start(chain.clone()).unwrap();
    let source = Arc::new(source(&node));
    let waiting = |source: &Arc<Beacon>| {
        let source = source.clone();
        tokio::spawn(async move { source.head_moved().await })
    };
    let (one, other) = (waiting(&source), waiting(&source));
    while node.listeners() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut longer = chain;
    longer.extend(11..=11, &[], 0);
    node.set_chain(longer);
    tokio::time::timeout(PATIENCE, async { (one.await.unwrap(), other.await.unwrap()) }).await.unwrap();
    let events: Vec<_> = node.asked().into_iter().filter(|path| path.contains("events")).collect();
    assert_eq!(events, ["eth/v1/events?topics=head&topics=finalized_checkpoint"], "one for all who wait");
}

#[tokio::test]
async fn a_node_without_events_is_polled() {
    let node = BeaconNode::start(BeaconChain::build(1, &[])).unwrap();
    node.without_events();
    let source = source(&node);
    let told = tokio::time::timeout(Duration::from_secs(3), source.head_moved()).await;
    assert!(told.is_err(), "nothing is told");
    assert_eq!(node.asked().len(), 1, "and it is asked once only: {:?}", node.asked());
}

#[tokio::test]
async fn a_reorg_is_found_by_the_links() {
    let old = BeaconChain::build(20, &[15]);
    let mut new = old.up_to(12);
    new.extend(13..=20, &[16], 1);
    let node = BeaconNode::start(old.clone()).unwrap();
    let source = source(&node);
    let before = items(&source, range(0, 14)).await;
    node.set_chain(new.clone());
    // At the same height another block, and another slot that is skipped.
    let ids = |slot| [&old, &new].map(|chain| chain.at(slot).map(|block| hash(&block.root)));
    let [was, is] = ids(14);
    assert_eq!(before.last().unwrap().blocks.last().unwrap().hash, was.unwrap());
    assert_ne!(source.block_id(14).await.unwrap().unwrap().hash, was.unwrap());
    let after = items(&source, range(15, 20)).await;
    assert_eq!(after[0].blocks[0].parent_hash, is.unwrap());
    assert_eq!(source.block_id(12).await.unwrap().unwrap().hash, ids(12)[0].unwrap());
}

/// The answers of a Lodestar 1.5.1 with the sizes of the minimal preset, two of whose eight validators did
/// nothing, about the slots 0 to 100, from phase0 to capella.
const RECORDED: &[u8] = include_bytes!("lodestar-1.5.1-slots-0-100.jsonl.zst");

/// The chain of those answers.
pub(super) fn recorded_chain() -> BeaconChain {
    let text = String::from_utf8(zstd::decode_all(RECORDED).unwrap()).unwrap();
    BeaconChain::recorded(&text).unwrap()
}

#[tokio::test]
async fn a_recorded_chain_with_missed_slots_comes_whole() {
    let chain = recorded_chain();
    let slots: Vec<u64> = chain.blocks().map(|block| block.slot).collect();
    assert!(slots.len() < 95 && slots[0] == 0, "some were missed: {slots:?}");
    let node = BeaconNode::start(chain.clone()).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let source = Beacon::connect(config(&node), tables(), Verify::Full).unwrap();
    let end = *slots.last().unwrap();
    let (numbers, error) = collect(&source, range(0, end)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(numbers, slots);
    let items = items(&source, range(0, end)).await;
    let count = |table: usize| items.iter().map(|rows| rows.tables[table].batch.num_rows()).sum::<usize>();
    let attestations =
        |block: &Value| block["data"]["message"]["body"]["attestations"].as_array().unwrap().len();
    assert_eq!(count(1), chain.blocks().map(|block| attestations(&block.block)).sum::<usize>());
    assert!(count(1) > 50);
    let mut versions: Vec<&str> =
        chain.blocks().map(|block| block.block["version"].as_str().unwrap()).collect();
    versions.dedup();
    assert_eq!(versions, ["phase0", "altair", "bellatrix", "capella"]);
}

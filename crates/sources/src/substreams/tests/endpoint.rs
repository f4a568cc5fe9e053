//! A module at an endpoint that does what endpoints do: undo, break off, fail, leave out.

use std::time::Duration;

use futures::StreamExt;
use nozzle_core::{BlockId, manifest::Verify};
use nozzle_testkit::substreams::{Fault, SubstreamsBlock, SubstreamsOptions, SubstreamsServer};

use super::*;
use crate::{
    error::SourceError,
    retry::{Retry, RetryPolicy},
    source::{BlockSource, Place},
};

pub(super) fn hash(fork: u8, number: u64) -> BlockHash {
    let mut hash = BlockHash::left_padding_from(&number.to_be_bytes());
    hash[0] = fork;
    hash
}

/// A block with one row, which holds the number, or with none where the number ends with 7.
fn block(fork: u8, number: u64) -> SubstreamsBlock {
    let output = if number % 10 == 7 {
        vec![]
    } else {
        row(&[(1, Raw::Varint(number)), (2, Raw::Varint(fork.into()))])
    };
    SubstreamsBlock {
        number,
        id: const_hex::encode(hash(fork, number)),
        seconds: 1_700_000_000 + number as i64 * 12,
        message: "t.Out".into(),
        output,
    }
}

pub(super) fn blocks(fork: u8, numbers: std::ops::RangeInclusive<u64>) -> Vec<SubstreamsBlock> {
    numbers.map(|number| block(fork, number)).collect()
}

pub(super) fn small_package() -> Package {
    let row = message("Row", vec![field("n", 1, Type::Uint64), field("fork", 2, Type::Uint32)]);
    Package::parse(&package(&[file(vec![out(), row])])).unwrap()
}

fn serve(options: SubstreamsOptions) -> (SubstreamsServer, Substreams) {
    let server = SubstreamsServer::start(options).unwrap();
    let source = connect(&server);
    (server, source)
}

fn connect(server: &SubstreamsServer) -> Substreams {
    let package = small_package();
    let config = SubstreamsConfig::new("p", &server.url(), "mainnet");
    Substreams::connect(config, &package, "out", tables(&package, "out").unwrap(), Verify::Header).unwrap()
}

/// The canonical blocks 0 to 99, final up to 80.
pub(super) fn hundred() -> SubstreamsOptions {
    SubstreamsOptions { blocks: blocks(0, 0..=99), final_depth: 19, ..SubstreamsOptions::default() }
}

pub(super) fn range(start: u64, end: u64) -> BlockRange {
    BlockRange::new(start, end).unwrap()
}

/// All rows of a range, as the numbers in them, and the error at the end. Ranges follow each other, and blocks link.
pub(super) async fn collect(
    source: &impl BlockSource,
    wanted: BlockRange,
) -> (Vec<BlockLink>, Vec<u64>, Option<SourceError>) {
    let (links, numbers, _, error) = collect_behind(source, wanted, None).await;
    (links, numbers, error)
}

/// As [`collect`], from a place on, and with the place at the end.
async fn collect_behind(
    source: &impl BlockSource,
    wanted: BlockRange,
    behind: Option<Place>,
) -> (Vec<BlockLink>, Vec<u64>, Option<Place>, Option<SourceError>) {
    let mut place = None;
    let (mut links, mut numbers): (Vec<BlockLink>, Vec<u64>) = Default::default();
    let mut next = wanted.start();
    let mut stream = source.blocks_behind(wanted, behind);
    while let Some(rows) = stream.next().await {
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return (links, numbers, place, Some(error)),
        };
        place = rows.place();
        assert_eq!(rows.range.start(), next);
        next = rows.range.end() + 1;
        for link in &rows.blocks {
            assert!(rows.range.start() <= link.number && link.number <= rows.range.end());
            assert!(links.last().is_none_or(|last| last.hash == link.parent_hash), "{link:?}");
            links.push(*link);
        }
        numbers.extend(rows_as_json(&rows.tables[0].batch).iter().map(|row| row["n"].as_u64().unwrap()));
    }
    assert_eq!(next, wanted.end() + 1);
    (links, numbers, place, None)
}

fn rows_between(start: u64, end: u64) -> Vec<u64> {
    (start..=end).filter(|number| number % 10 != 7).collect()
}

#[tokio::test]
async fn ranges_are_read_whole_and_go_on_by_cursor() {
    let (server, source) = serve(hundred());
    let (links, rows, place, error) = collect_behind(&source, range(10, 59), None).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!((links.len(), rows), (50, rows_between(10, 59)));
    assert_eq!(links[0].parent_hash, hash(0, 9), "the block before the range is asked for");
    let asked = server.requests();
    assert_eq!(
        asked.iter().map(|request| (request.start_block, request.stop_block)).collect::<Vec<_>>(),
        [(9, 10), (10, 60)]
    );
    assert!(
        asked
            .iter()
            .all(|request| request.production_mode && request.module == "out" && !request.modules.is_empty())
    );
    let (links, rows, _, error) = collect_behind(&source, range(60, 99), place.clone()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!((links[0].parent_hash, rows), (hash(0, 59), rows_between(60, 99)));
    let asked = server.requests();
    assert_eq!((asked.len(), asked[0].stop_block), (1, 100));
    assert_eq!(asked[0].cursor.as_deref(), place.as_ref().map(|place| place.cursor.as_str()));
    // Refused, it is asked for by its number.
    server.fail_next([Fault::Refuse("that cursor is none of ours".into())]);
    let (links, rows, _, error) = collect_behind(&source, range(60, 99), place).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!((links[0].parent_hash, rows), (hash(0, 59), rows_between(60, 99)));
    let cursors: Vec<_> = server.requests().iter().map(|request| request.cursor.is_some()).collect();
    assert_eq!(cursors, [true, false, false], "the block before, and those from it on");
    // From the very first block on there is nothing before.
    let (links, ..) = collect(&source, range(0, 3)).await;
    assert_eq!((links.len(), links[0].parent_hash), (4, BlockHash::ZERO));
}

#[tokio::test]
async fn blocks_that_are_left_out_count_as_skipped() {
    let (_server, source) = serve(SubstreamsOptions { omit_empty: true, ..hundred() });
    // 28 is the first behind one without output; 97 is the last, without output.
    let (links, rows, error) = collect(&source, range(28, 97)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!((links[0].parent_hash, rows), (hash(0, 26), rows_between(28, 97)));
    // Of 28 to 96 those that were sent, and the one that stands for 97.
    assert_eq!(links.len(), 64);
    // The block before stands for those that were skipped, so that what is stored links.
    let (links, rows, error) = collect(&source, range(37, 37)).await;
    assert!(error.is_none() && rows.is_empty(), "{error:?}");
    let stand_in = BlockLink { number: 37, hash: hash(0, 36), parent_hash: hash(0, 36) };
    assert_eq!(links, [stand_in]);
}

#[tokio::test]
async fn an_endpoint_that_goes_on_behind_the_range_is_left() {
    let mut skipped = hundred();
    skipped.blocks.retain(|block| !(60..=65).contains(&block.number));
    let (server, source) = serve(skipped);
    let (_, _, place, error) = collect_behind(&source, range(50, 59), None).await;
    assert!(error.is_none(), "{error:?}");
    // Behind the place the first block that comes is beyond the end; from a number on the second one is.
    for behind in [place, None] {
        let faults = [Fault::None, Fault::NoEnd];
        server.fail_next(faults.into_iter().skip(usize::from(behind.is_some())));
        let (links, rows, _, error) = collect_behind(&source, range(60, 65), behind).await;
        assert!(error.is_none() && rows.is_empty(), "{error:?}");
        let stand_in = BlockLink { number: 65, hash: hash(0, 59), parent_hash: hash(0, 59) };
        assert_eq!(links, [stand_in]);
    }
}

#[tokio::test]
async fn an_undo_to_a_block_that_is_left_out_does_not_say_that_it_is_there() {
    let (server, source) = serve(SubstreamsOptions { omit_empty: true, ..hundred() });
    assert_eq!(source.head().await.unwrap().latest.hash, hash(0, 99));
    // Of 97, to which all is undone, nothing was ever sent, and nothing is of the new 98.
    let moved = source.head_moved();
    server.extend(vec![SubstreamsBlock { output: vec![], ..block(1, 98) }]);
    tokio::time::timeout(Duration::from_secs(10), moved).await.unwrap();
    assert_eq!(source.head().await.unwrap().latest, BlockId { number: 97, hash: hash(0, 97) });
    let (links, rows, error) = collect(&source, range(90, 97)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!((links.last().unwrap().hash, rows), (hash(0, 96), rows_between(90, 97)));
    // Where the blocks below are known the last one of them is the head.
    let moved = source.head_moved();
    server.extend(blocks(2, 98..=98));
    tokio::time::timeout(Duration::from_secs(10), moved).await.unwrap();
    assert_eq!(source.head().await.unwrap().latest.hash, hash(2, 98));
    server.extend(vec![SubstreamsBlock { output: vec![], ..block(2, 99) }]);
    server.extend(blocks(2, 100..=100));
    let moved = source.head_moved();
    tokio::time::timeout(Duration::from_secs(10), moved).await.unwrap();
    let moved = source.head_moved();
    server.extend(vec![SubstreamsBlock { output: vec![], ..block(3, 100) }]);
    tokio::time::timeout(Duration::from_secs(10), moved).await.unwrap();
    assert_eq!(source.head().await.unwrap().latest, BlockId { number: 98, hash: hash(2, 98) });
    let (_, rows, error) = collect(&source, range(98, 99)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(rows, [98]);
}

#[tokio::test]
async fn the_head_is_followed_with_its_final_block() {
    let (server, source) = serve(hundred());
    let id = |fork, number| BlockId { number, hash: hash(fork, number) };
    let head = source.head().await.unwrap();
    assert_eq!((head.latest, head.finalized), (id(0, 99), Some(id(0, 80))));
    let moved = source.head_moved();
    server.extend(blocks(0, 100..=100));
    tokio::time::timeout(Duration::from_secs(10), moved).await.unwrap();
    let head = source.head().await.unwrap();
    assert_eq!((head.latest, head.finalized), (id(0, 100), Some(id(0, 81))));
    // A fork of five blocks.
    let moved = source.head_moved();
    server.extend(blocks(1, 96..=101));
    tokio::time::timeout(Duration::from_secs(10), moved).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while source.head().await.unwrap().latest != id(1, 101) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(source.block_id(97).await.unwrap(), Some(id(1, 97)));
    assert_eq!(source.block_id(95).await.unwrap(), Some(id(0, 95)));
    assert_eq!(source.block_id(50).await.unwrap(), Some(id(0, 50)));
    assert_eq!(source.block_id(102).await.unwrap(), None);
}

#[tokio::test]
async fn an_undo_of_five_blocks_ends_the_stream_and_the_fork_is_read_again() {
    let (server, source) = serve(hundred());
    let mut stream = source.blocks(range(90, 105));
    let mut given = 0;
    while given < 99 {
        given = stream.next().await.unwrap().unwrap().range.end();
    }
    server.extend(blocks(1, 95..=105));
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(
        matches!(&error, SourceError::NotLinked { block: 100, expected, found }
            if *expected == hash(0, 99) && *found == hash(0, 94)),
        "{error:?}"
    );
    assert!(stream.next().await.is_none());
    // Whoever asks from the fork on gets the new blocks, which link to what is below.
    let (links, rows, error) = collect(&source, range(95, 105)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(
        (links[0].parent_hash, links[10].hash, rows),
        (hash(0, 94), hash(1, 105), rows_between(95, 105))
    );
    // Also by a cursor in a block that is gone.
    let (_, _, place, error) = collect_behind(&source, range(103, 105), None).await;
    assert!(error.is_none(), "{error:?}");
    server.extend(blocks(2, 101..=110));
    let (links, _, _, error) = collect_behind(&source, range(106, 110), place).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(
        links[0].parent_hash,
        hash(2, 105),
        "it follows the chain that counts, and not what was given before"
    );
}

#[tokio::test]
async fn broken_streams_go_on_without_a_row_twice() {
    let (server, source) = serve(hundred());
    // The first request is for the block before.
    server.fail_next([
        Fault::None,
        Fault::Disconnect(5),
        Fault::Disconnect(20),
        Fault::EndEarly(7),
        Fault::Repeat,
    ]);
    let policy = RetryPolicy { attempts: 4, base: Duration::from_millis(1), cap: Duration::from_millis(2) };
    let (links, rows, error) = collect(&Retry::new(std::sync::Arc::new(source), policy), range(10, 99)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!((links.len(), rows), (90, rows_between(10, 99)));
    assert!(server.requests().len() >= 5);
}

#[tokio::test]
async fn what_the_endpoint_says_reaches_the_user() {
    let (server, source) = serve(SubstreamsOptions { token: Some("s3cret".into()), ..hundred() });
    let error = source.head().await.unwrap_err();
    assert!(
        matches!(error, SourceError::Refused { .. }) && error.to_string().contains("who are you?"),
        "{error}"
    );
    let package = small_package();
    let mut config = SubstreamsConfig::new("p", &server.url(), "mainnet");
    config.grpc.token = Some("s3cret".into());
    let all = tables(&package, "out").unwrap();
    let source = Substreams::connect(config.clone(), &package, "out", all.clone(), Verify::Links).unwrap();
    server.fail_next([Fault::None, Fault::Fail(3, "panicked at src/lib.rs:7".into())]);
    let (links, _, error) = collect(&source, range(10, 20)).await;
    let error = error.unwrap();
    assert!(links.len() == 3 && !error.may_pass(), "{} {}", links.len(), error.with_causes());
    let expected = "the module `out` failed at the endpoint: panicked at src/lib.rs:7; its last words: a log";
    assert!(error.to_string().contains(expected), "{error}");
    server.fail_next([Fault::Refuse("module `out` is too expensive".into())]);
    let (_, _, error) = collect(&source, range(30, 31)).await;
    assert!(error.unwrap().to_string().contains("module `out` is too expensive"));
    let refused = Substreams::connect(config, &package, "out", all, Verify::Full).unwrap_err();
    assert!(refused.to_string().contains("use `--verify links`"), "{refused}");
}

#[tokio::test]
async fn a_message_that_does_not_fit_ends_the_stream_behind_the_good_blocks() {
    let mut bad = hundred();
    bad.blocks[42].output = row(&[(1, Raw::Bytes(b"x"))]);
    let (_server, source) = serve(bad);
    let (links, rows, error) = collect(&source, range(0, 99)).await;
    assert_eq!((links.len(), rows), (42, rows_between(0, 41)));
    let error = error.unwrap().to_string();
    let expected = "the provider `p` sent a bad block 42: the module's output does not fit its tables: table `rows`, \
                    field `n`: it should be a number";
    assert!(error.contains(expected), "{error}");
}

#[tokio::test]
async fn real_outputs_come_through_an_endpoint() {
    let file = "erc20-transfers-v0.4.0.map_events.jsonl.zst";
    let (Some(recorded), Some(package)) = (outputs::recorded(file), real("erc20-transfers-v0.4.0.spkg"))
    else {
        return;
    };
    let blocks = recorded.iter().map(|output| SubstreamsBlock {
        number: output.block.number,
        id: const_hex::encode(output.block.hash),
        seconds: output.timestamp_micros / 1_000_000,
        message: "erc20.transfers.v1.Events".into(),
        output: output.output.to_vec(),
    });
    let options = SubstreamsOptions { blocks: blocks.collect(), ..SubstreamsOptions::default() };
    let server = SubstreamsServer::start(options).unwrap();
    let config = SubstreamsConfig::new("p", &server.url(), "mainnet");
    let all = tables(&package, "map_events").unwrap();
    let source = Substreams::connect(config, &package, "map_events", all, Verify::Header).unwrap();
    let mut stream = source.blocks(range(17_686_111, 17_686_132));
    let mut rows = 0;
    while let Some(next) = stream.next().await {
        rows += next.unwrap().tables[0].batch.num_rows();
    }
    let first = decoder(&package, "map_events").decode(range_of(&recorded[..1]), &recorded[..1], 0);
    assert_eq!(rows + first.rows.unwrap().tables[0].batch.num_rows(), 2510);
}

#[tokio::test]
async fn the_example_that_other_tests_begin_with_gives_its_rows() {
    use nozzle_testkit::substreams::example;
    let package = Package::parse(&example::package(&["n", "fork"], 5)).unwrap();
    let options = SubstreamsOptions { blocks: example::blocks(3, 5..=60), ..SubstreamsOptions::default() };
    let server = SubstreamsServer::start(options).unwrap();
    let all = tables(&package, example::MODULE).unwrap();
    assert_eq!(
        (all[0].name.as_str(), columns(&all[0])),
        ("rows", vec!["n UInt64".into(), "fork UInt64".into()])
    );
    let config = SubstreamsConfig::new("p", &server.url(), "mainnet");
    let source = Substreams::connect(config, &package, example::MODULE, all, Verify::None).unwrap();
    let (links, rows, error) = collect(&source, range(0, 60)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!((links.len(), links[0].number, links[0].parent_hash), (56, 5, BlockHash::ZERO));
    assert_eq!(rows, (5..=60).filter(|number| number % 10 != 0).collect::<Vec<_>>());
}

//! An endpoint and all that can come between.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use nozzle_core::{BlockId, BlockRange, block::BlockLink};
use nozzle_testkit::{
    firehose::{FirehoseServer, Options, made, made_on, pb::sf::ethereum::r#type::v2 as eth},
    rng::Rng,
};
use prost::Message;
use tonic::Status;

use super::*;
use crate::{
    Retry, RetryPolicy, SourceError,
    firehose::{Firehose, FirehoseConfig},
    source::{BlockSource, Chain, Place},
};

fn range(start: u64, end: u64) -> BlockRange {
    BlockRange::new(start, end).unwrap()
}

fn source_with(server: &FirehoseServer, change: impl FnOnce(&mut FirehoseConfig)) -> Arc<Firehose> {
    let mut config = FirehoseConfig::new("p", &server.url());
    config.grpc.timeout = Duration::from_secs(10);
    change(&mut config);
    Arc::new(Firehose::connect(config, tables(), Verify::Links).unwrap())
}

fn source(server: &FirehoseServer) -> Arc<Firehose> {
    source_with(server, |_| {})
}

async fn collect(source: &dyn BlockSource, range: BlockRange) -> (Vec<BlockRows>, Option<SourceError>) {
    collect_behind(source, range, None).await
}

async fn collect_behind(
    source: &dyn BlockSource,
    range: BlockRange,
    behind: Option<Place>,
) -> (Vec<BlockRows>, Option<SourceError>) {
    let mut stream = source.blocks_behind(range, behind);
    let mut rows = vec![];
    while let Some(item) = stream.next().await {
        match item {
            Ok(item) => rows.push(item),
            Err(error) => return (rows, Some(error)),
        }
    }
    (rows, None)
}

/// The rows of some tables as one batch each.
fn joined(rows: &[BlockRows]) -> Vec<RecordBatch> {
    let of = |table: usize| {
        let batches: Vec<_> = rows.iter().map(|rows| rows.tables[table].batch.clone()).collect();
        arrow::compute::concat_batches(batches[0].schema_ref(), &batches).unwrap()
    };
    (0..rows[0].tables.len()).map(of).collect()
}

fn truth(blocks: &[Served]) -> Vec<RecordBatch> {
    joined(&[good(decoder_without_chain().decode(&payloads(blocks)))])
}

fn decoder_without_chain() -> Decoder {
    Decoder::new("endpoint", tables(), Verify::Links, None).unwrap()
}

#[tokio::test]
async fn the_blocks_of_a_range_come_in_order_whatever_happens() {
    let blocks = made(0, 80, 0);
    let policy = RetryPolicy { attempts: 20, base: Duration::from_millis(1), cap: Duration::from_millis(2) };
    for seed in 0..12 {
        let options = Options { disconnects: 8, repeats: 15, seed, ..Options::default() };
        let server = FirehoseServer::start(blocks.clone(), options).await.unwrap();
        let source = Retry::new(source(&server), policy);
        let (rows, error) = collect(&source, range(3, 77)).await;
        assert!(error.is_none(), "seed {seed}: {error:?}");
        assert_eq!(joined(&rows), truth(&blocks[3..=77]), "seed {seed}");
    }
}

#[tokio::test]
async fn a_stream_goes_on_behind_its_cursor_and_without_it_at_the_number() {
    let blocks = made(0, 30, 0);
    let server = FirehoseServer::start(blocks.clone(), Options::default()).await.unwrap();
    let source = source(&server);
    let asked_at = |from: usize| -> Vec<_> {
        let asked = server.requests().split_off(from);
        asked.iter().map(|request| server.place_of(&request.cursor)).collect()
    };
    let (rows, _) = collect(&*source, range(0, 9)).await;
    let place_of = |rows: &[BlockRows]| rows.last().and_then(BlockRows::place).expect("a place");
    let tenth = place_of(&rows);
    assert_eq!((tenth.block.number, server.place_of(tenth.cursor.as_str())), (9, Some(9)));
    let (rows, error) = collect_behind(&*source, range(10, 19), Some(tenth.clone())).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(joined(&rows), truth(&blocks[10..=19]));
    assert_eq!(asked_at(0), [None, Some(9)]);
    // One that goes on further down or up than it should.
    let twentieth = place_of(&rows);
    for (cursor, asked) in [(&tenth.cursor, vec![Some(9)]), (&twentieth.cursor, vec![Some(19), None])] {
        let behind = Place { block: BlockId { number: 14, ..tenth.block }, cursor: cursor.clone() };
        let before = server.requests().len();
        let (rows, error) = collect_behind(&*source, range(15, 29), Some(behind)).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!((joined(&rows), asked_at(before)), (truth(&blocks[15..=29]), asked));
    }
    // One that the endpoint does not know.
    server.forget_cursors();
    let before = server.requests().len();
    let (rows, error) = collect_behind(&*source, range(20, 29), Some(twentieth)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(joined(&rows), truth(&blocks[20..=29]));
    let cursors: Vec<_> = server.requests()[before..].iter().map(|asked| asked.cursor.is_empty()).collect();
    assert_eq!(cursors, [false, true]);
}

#[tokio::test]
async fn only_what_may_be_of_the_cursor_drops_it() {
    let blocks = made(0, 20, 0);
    let server = FirehoseServer::start(blocks.clone(), Options::default()).await.unwrap();
    let source = source_with(&server, |config| config.grpc.pushback_patience = Duration::ZERO);
    let place = collect(&*source, range(0, 9)).await.0.last().and_then(BlockRows::place);
    for (refusal, may_be_of_cursor) in [
        (Status::invalid_argument("invalid start cursor"), true),
        (Status::internal("unexpected stream termination"), true),
        (Status::unknown("what?"), true),
        (Status::not_found("no such block"), true),
        (Status::unavailable("rate limit exceeded"), false),
        (Status::resource_exhausted("slower"), false),
        (Status::unauthenticated("who are you?"), false),
        (Status::permission_denied("not you"), false),
        (Status::deadline_exceeded("too late"), false),
    ] {
        let before = server.requests().len();
        server.refuse([refusal.clone()]);
        let (rows, error) = collect_behind(&*source, range(10, 20), place.clone()).await;
        let cursors: Vec<_> =
            server.requests()[before..].iter().map(|asked| !asked.cursor.is_empty()).collect();
        if may_be_of_cursor {
            assert!(error.is_none(), "{error:?}");
            assert_eq!((joined(&rows), cursors), (truth(&blocks[10..]), vec![true, false]), "{refusal}");
        } else {
            let error = error.expect("it was refused").with_causes();
            assert!(error.contains(refusal.message()), "{error}");
            assert_eq!(cursors, [true], "{refusal}");
        }
    }
    // A second time it goes on from there.
    let (rows, error) = collect_behind(&*source, range(10, 20), place).await;
    assert!(error.is_none() && server.place_of(&server.requests().pop().unwrap().cursor) == Some(9));
    assert_eq!(joined(&rows), truth(&blocks[10..]));
}

#[tokio::test]
async fn what_is_said_in_the_place_of_the_first_message_is_the_answer_to_the_call() {
    let blocks = made(0, 20, 0);
    let server = FirehoseServer::start(blocks.clone(), Options { has_no_fetch: true, ..Options::default() });
    let server = server.await.unwrap();
    let source = source(&server);
    // Pushed back twice, it is asked again after rests of 250 and 500 ms.
    server.refuse([Status::unavailable("rate limit exceeded"), Status::unavailable("rate limit exceeded")]);
    let asked = std::time::Instant::now();
    let (rows, error) = collect(&*source, range(0, 20)).await;
    assert!(error.is_none() && asked.elapsed() >= Duration::from_millis(750), "{error:?}");
    assert_eq!((joined(&rows), server.requests().len()), (truth(&blocks), 3));
    server.refuse([Status::not_found("no such block")]);
    assert_eq!(source.block_id(7).await.unwrap(), None);
    // One that is undone is not the one that is asked for.
    server.undo_first(made(7, 7, 1).remove(0));
    assert_eq!(
        source.block_id(7).await.unwrap().map(|block| block.hash.to_string()[2..].to_owned()),
        Some(blocks[7].id.clone())
    );
    assert_eq!(source.block_id(7).await.unwrap().map(|block| block.number), Some(7));
}

#[tokio::test]
async fn a_start_below_the_first_block_is_refused_by_name() {
    let options = Options { first_block: 10, chain_name: "mainnet".into(), ..Options::default() };
    let server = FirehoseServer::start(made(10, 20, 0), options).await.unwrap();
    let source = source(&server);
    let error = collect(&*source, range(5, 20)).await.1.expect("it has none").to_string();
    assert!(error.contains("its blocks begin at 10, and block 5 was asked for"), "{error}");
    assert!(collect(&*source, range(10, 20)).await.1.is_none());
}

#[tokio::test]
async fn all_who_wait_for_the_head_hear_why_there_is_none() {
    let options = Options { token: Some("tok-en".into()), ..Options::default() };
    let server = FirehoseServer::start(made(0, 3, 0), options).await.unwrap();
    let source = source(&server);
    for _ in 0..3 {
        let heads = futures::future::join_all((0..8).map(|_| source.head())).await;
        for error in heads {
            let error = error.expect_err("a stranger");
            assert!(
                matches!(&error, SourceError::Refused { why, .. } if why.contains("`token`")),
                "{error:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_place_that_was_undone_does_not_link() {
    let server = FirehoseServer::start(made(0, 20, 0), Options::default()).await.unwrap();
    let source = source(&server);
    let place = collect(&*source, range(0, 20)).await.0.last().and_then(BlockRows::place).unwrap();
    server.push(made(15, 40, 1));
    let (rows, error) = collect_behind(&*source, range(21, 40), Some(place.clone())).await;
    assert!(rows.is_empty());
    assert!(
        matches!(error, Some(SourceError::NotLinked { block: 21, expected, .. }) if expected == place.block.hash),
        "{error:?}"
    );
    assert_eq!(server.undone()[..1], [20]);
}

#[tokio::test]
async fn the_head_is_followed_and_final_blocks_are_asked_for_as_such() {
    for has_no_fetch in [false, true] {
        let options = Options { has_no_fetch, chain_name: "mainnet".into(), ..Options::default() };
        let server = FirehoseServer::start(made(0, 40, 0), options).await.unwrap();
        let source = source(&server);
        assert_eq!(source.chain().await.unwrap(), Some(Chain::Named(vec!["mainnet".into()])));
        let head = source.head().await.unwrap();
        assert_eq!((head.latest.number, head.finalized.map(|block| block.number)), (40, Some(32)));
        assert_eq!(source.block_id(40).await.unwrap(), Some(head.latest));
        assert_eq!(source.block_id(7).await.unwrap().map(|block| block.number), Some(7));
        let asked = server.requests().len();
        // The newest block came with the head.
        assert_eq!(joined(&collect(&*source, range(40, 40)).await.0), truth(&made(40, 40, 0)));
        assert_eq!(server.requests().len(), asked);
        collect(&*source, range(0, 32)).await;
        collect(&*source, range(0, 33)).await;
        let only_final: Vec<_> =
            server.requests()[asked..].iter().map(|request| request.final_blocks_only).collect();
        assert_eq!(only_final, [true, false]);
        let moved = tokio::spawn({
            let source = Arc::clone(&source);
            async move { source.head_moved().await }
        });
        tokio::task::yield_now().await;
        server.push(made(38, 45, 1));
        tokio::time::timeout(Duration::from_secs(5), moved).await.expect("the head moves").unwrap();
        while source.head().await.unwrap().latest.number < 45 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let forked = source.block_id(38).await.unwrap().unwrap();
        assert_eq!(forked.hash.to_string()[2..], made(38, 38, 1)[0].id);
    }
}

#[tokio::test]
async fn a_number_above_the_head_has_no_block() {
    let server = FirehoseServer::start(made(0, 3, 0), Options::default()).await.unwrap();
    assert_eq!(source(&server).block_id(4).await.unwrap(), None);
}

#[tokio::test]
async fn what_was_passed_on_and_is_undone_does_not_link() {
    let server = FirehoseServer::start(made(0, 20, 0), Options::default()).await.unwrap();
    let source = source(&server);
    let mut stream = source.blocks(range(0, 40));
    let mut last = None;
    while last != Some(20) {
        last = Some(stream.next().await.unwrap().unwrap().range.end());
    }
    server.push(made(15, 40, 1));
    let error = stream.next().await.unwrap().expect_err("it does not link");
    assert!(matches!(error, SourceError::NotLinked { block: 21, .. }), "{error:?}");
    let (rows, error) = collect(&*source, range(15, 40)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(joined(&rows), truth(&made(15, 40, 1)));
}

#[tokio::test]
async fn secrets_are_sent_and_a_stranger_is_refused() {
    let options =
        Options { token: Some("tok-en".into()), api_key: Some("a-key".into()), ..Options::default() };
    let server = FirehoseServer::start(made(0, 3, 0), options).await.unwrap();
    let with = |token: &str, key: &str| {
        source_with(&server, |config| {
            config.grpc.token = Some(token.into());
            config.grpc.api_key = Some(key.into());
        })
    };
    assert_eq!(with("tok-en", "a-key").head().await.unwrap().latest.number, 3);
    for stranger in [with("tok-en", "b-key"), with("token", "a-key"), source(&server)] {
        let error = stranger.head().await.expect_err("a stranger");
        assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");
        let error = collect(&*stranger, range(0, 1)).await.1.expect("a stranger");
        assert!(error.to_string().contains("check its `token`"), "{error}");
    }
}

#[tokio::test]
async fn blocks_may_be_large() {
    let mut blocks = made(0, 2, 0);
    let mut block = eth::Block::decode(blocks[1].payload.clone()).unwrap();
    // More than what gRPC takes where nothing else is said, also when it is packed.
    block.transaction_traces[0].input = (0..3_u64 << 18).flat_map(|n| Rng::new(n).bytes::<8>()).collect();
    blocks[1].payload = block.encode_to_vec().into();
    assert!(blocks[1].payload.len() > 5 << 20);
    let server = FirehoseServer::start(blocks.clone(), Options::default()).await.unwrap();
    let (rows, error) = collect(&*source(&server), range(0, 2)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(joined(&rows), truth(&blocks));
    // What is larger than is taken is said to be so.
    let small = source_with(&server, |config| config.grpc.max_message_bytes = 1 << 20);
    let error = collect(&*small, range(0, 2)).await.1.expect("it is too large").to_string();
    assert!(error.contains("too large"), "{error}");
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_may_come_back() {
    let server = FirehoseServer::start(made(0, 3, 0), Options::default()).await.unwrap();
    let source = source(&server);
    drop(server);
    let asked = std::time::Instant::now();
    let error = source.head().await.expect_err("nobody listens");
    assert!(error.may_pass(), "{error:?}");
    // It does not push back: whoever asks for it decides about asking again.
    assert!(asked.elapsed() < Duration::from_secs(10));
}

/// What a dump does, without files: it looks for the last block that it has in common with the chain, and goes
/// on from there.
async fn one_round(source: &Firehose, stored: &mut Vec<BlockLink>) -> Result<(), SourceError> {
    let head = source.head().await?.latest;
    while let Some(last) = stored.last() {
        if source.block_id(last.number).await?.is_some_and(|block| block.hash == last.hash) {
            break;
        }
        stored.pop();
    }
    let next = stored.last().map_or(0, |last| last.number + 1);
    let Some(range) = BlockRange::new(next, head.number) else { return Ok(()) };
    let mut stream = source.blocks(range);
    while let Some(rows) = stream.next().await {
        let rows = rows?;
        assert_eq!(
            rows.range.start(),
            stored.last().map_or(0, |last| last.number + 1),
            "no hole, nothing twice"
        );
        if stored.last().is_some_and(|last| last.hash != rows.blocks[0].parent_hash) {
            return Ok(());
        }
        stored.extend(rows.blocks);
    }
    Ok(())
}

#[tokio::test]
async fn schedules_of_forks_and_disconnects_end_on_the_chain() {
    // Most of the time each waits for what is the head.
    futures::future::join_all((0..6).map(schedule)).await;
}

async fn schedule(seed: u64) {
    let mut rng = Rng::new(seed);
    let options = Options { disconnects: 5, repeats: 10, seed, ..Options::default() };
    let server = FirehoseServer::start(made(0, 20, 0), options).await.unwrap();
    let source = source(&server);
    let (mut forks, mut stored) = (vec![0_u8; 21], vec![]);
    for fork in 1..=12 {
        one_round(&source, &mut stored).await.ok();
        let first = forks.len() - rng.below(6) as usize;
        let end = first + 2 + rng.below(8) as usize;
        server.push(made_on(first as u64, end as u64, fork, forks[first - 1]));
        forks.truncate(first);
        forks.resize(end + 1, fork);
    }
    let expected: Vec<_> = forks.iter().zip(0..).map(|(fork, n)| made(n, n, *fork)[0].id.clone()).collect();
    for round in 0.. {
        one_round(&source, &mut stored).await.ok();
        let found: Vec<_> = stored.iter().map(|link| link.hash.to_string()[2..].to_owned()).collect();
        if found == expected {
            break;
        }
        assert!(round < 500, "seed {seed}: {found:?}, and not {expected:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

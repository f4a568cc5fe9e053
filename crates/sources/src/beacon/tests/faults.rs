//! The source of a node that fails, that mixes its answers up, and of several nodes.

use std::time::Duration;

use futures::StreamExt;
use nozzle_testkit::{
    beacon::{BeaconChain, BeaconFault, BeaconNode},
    rng::Rng,
};

use super::{
    node::{PATIENCE, collect, config, connect, range, source},
    *,
};
use crate::{
    failover::{Failover, FailoverPolicy},
    retry::{Retry, RetryPolicy},
    source::SharedSource,
};

const QUICK: RetryPolicy =
    RetryPolicy { attempts: 50, base: Duration::from_millis(1), cap: Duration::from_millis(5) };

/// What goes wrong, and whether asking again helps.
fn each_fault() -> Vec<(BeaconFault, bool)> {
    vec![
        (BeaconFault::Status(500, None), true),
        (BeaconFault::Status(503, None), true),
        (BeaconFault::Status(502, None), true),
        (BeaconFault::Truncated, true),
        (BeaconFault::Page, true),
        (BeaconFault::NotFound, true),
        (BeaconFault::Silence, true),
        (BeaconFault::Status(401, None), false),
        (BeaconFault::Status(302, None), false),
        (BeaconFault::WrongRoot, false),
        (
            BeaconFault::Changed(
                "/data/header/message/state_root",
                json!(const_hex::encode_prefixed([9; 32])),
            ),
            false,
        ),
    ]
}

#[tokio::test]
async fn each_failure_is_one_that_may_pass_or_not() {
    let node = BeaconNode::start(BeaconChain::build(20, &[3])).unwrap();
    let impatient = connect(BeaconConfig { timeout: Duration::from_millis(300), ..config(&node) });
    let source = source(&node);
    source.chain_id().await.unwrap();
    for (fault, may_pass) in each_fault() {
        let source = if fault == BeaconFault::Silence { &impatient } else { &source };
        node.fail("headers/10", fault.clone(), 1);
        let (numbers, error) = collect(source, range(8, 12)).await;
        let error = error.unwrap_or_else(|| panic!("{fault:?}"));
        assert_eq!(
            error.may_pass(),
            may_pass || matches!(fault, BeaconFault::NotFound),
            "{fault:?}: {error:?}"
        );
        assert!(numbers.iter().all(|number| *number < 10), "{fault:?}: {numbers:?}");
        assert!(
            error.to_string().contains("`node`") || matches!(error, SourceError::NotLinked { .. }),
            "{error}"
        );
    }
    let (numbers, error) = collect(&source, range(0, 20)).await;
    assert!(error.is_none() && numbers.len() == 20);
}

#[tokio::test]
async fn a_provider_that_pushes_back_is_asked_more_slowly() {
    let node = BeaconNode::start(BeaconChain::build(40, &[])).unwrap();
    let source = connect(BeaconConfig { concurrent_request_limit: 4, ..config(&node) });
    node.fail("blocks/", BeaconFault::Status(429, None), 2);
    node.fail("headers/", BeaconFault::Status(503, Some(0)), 1);
    let (numbers, error) = collect(&source, range(0, 40)).await;
    assert!(error.is_none() && numbers.len() == 41, "{error:?}");
    let impatient = connect(BeaconConfig { pushback_patience: Duration::ZERO, ..config(&node) });
    node.fail("headers/7", BeaconFault::Status(429, None), 1);
    let (_, error) = collect(&impatient, range(7, 7)).await;
    assert!(error.unwrap().with_causes().contains("429"));
}

#[tokio::test]
async fn an_address_that_is_no_beacon_api_is_refused() {
    let node = BeaconNode::start(BeaconChain::build(1, &[])).unwrap();
    for (fault, words) in [
        (BeaconFault::Page, "does not answer with JSON"),
        (BeaconFault::NotFound, "HTTP 404"),
        (BeaconFault::Status(403, None), "auth_token"),
    ] {
        node.fail("config/spec", fault, 1);
        let error = source(&node).head().await.unwrap_err();
        assert!(matches!(&error, SourceError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let url = "ws://127.0.0.1:1".parse().unwrap();
    let refused = Beacon::connect(BeaconConfig::new("node", url), tables(), Verify::Header).unwrap_err();
    assert!(refused.to_string().contains("http or https"), "{refused}");
}

#[tokio::test]
async fn secrets_are_never_told() {
    let node = BeaconNode::start(BeaconChain::build(1, &[])).unwrap();
    let mut config = config(&node);
    config.url.set_path("/0123456789abcdef/");
    config.url.set_query(Some("key=s3cret-key"));
    config.auth_token = Some("t0ken-of-mine".into());
    assert!(!format!("{config:?}").contains("s3cret"));
    let source = connect(config);
    let error = source.head().await.unwrap_err().with_causes();
    for secret in ["0123456789abcdef", "s3cret-key", "t0ken-of-mine"] {
        assert!(!error.contains(secret) && !format!("{source:?}").contains(secret), "{error}");
    }
    assert_eq!(node.asked(), ["0123456789abcdef/eth/v1/config/spec?key=s3cret-key"]);
}

#[tokio::test]
async fn what_fails_on_its_way_comes_whole_in_the_end() {
    // Side by side: they wait more than they work.
    futures::future::join_all((0..6).map(a_faulty_day)).await;
}

async fn a_faulty_day(seed: u64) {
    const LAST: u64 = 80;
    let mut rng = Rng::new(seed);
    let skipped: Vec<u64> = (1..LAST).filter(|_| rng.below(5) == 0).collect();
    let node = BeaconNode::start(BeaconChain::build(LAST, &skipped)).unwrap();
    for index in 0..30 {
        let slot = rng.below(LAST + 1);
        let path = if rng.below(2) == 0 { format!("headers/{slot}") } else { format!("blocks/{slot}") };
        let fault = match rng.below(6) {
            // A rest after each would be most of the time.
            _ if index == 0 => BeaconFault::Status(429, Some(0)),
            0 => BeaconFault::Status(500, None),
            1 => BeaconFault::NotFound,
            2 => BeaconFault::Truncated,
            3 => BeaconFault::Page,
            4 => BeaconFault::Silence,
            _ => BeaconFault::Status(503, None),
        };
        node.fail(&path, fault, 1 + rng.below(2));
    }
    let impatient = BeaconConfig { timeout: Duration::from_millis(300), ..config(&node) };
    let source = Retry::new(Arc::new(connect(impatient)), QUICK);
    let (numbers, error) = collect(&source, range(0, LAST)).await;
    assert!(error.is_none(), "seed {seed}: {error:?}");
    let expected: Vec<u64> = (0..=LAST).filter(|slot| !skipped.contains(slot)).collect();
    assert_eq!(numbers, expected, "seed {seed}");
}

#[tokio::test]
async fn a_stream_that_is_dropped_ends_its_requests_and_can_be_begun_anew() {
    let node = BeaconNode::start(BeaconChain::build(60, &[20, 21])).unwrap();
    let source = source(&node);
    for end in [1, 5, 20, 40] {
        let mut stream = source.blocks(range(0, 60));
        let mut next = 0;
        while next < end {
            next = stream.next().await.unwrap().unwrap().range.end() + 1;
        }
        drop(stream);
        let (numbers, error) = collect(&source, range(next.min(60), 60)).await;
        assert!(error.is_none(), "{error:?}");
        assert!(numbers.iter().all(|number| *number >= next.min(60)) && numbers.last() == Some(&60));
    }
}

#[tokio::test]
async fn where_one_node_fails_the_next_goes_on() {
    let chain = BeaconChain::build(60, &[30]);
    let (first, second) = (BeaconNode::start(chain.clone()).unwrap(), BeaconNode::start(chain).unwrap());
    first.fail("headers/25", BeaconFault::WrongRoot, 1000);
    first.fail("blocks/40", BeaconFault::Status(500, None), 1000);
    let of = |name: &str, node: &BeaconNode| {
        let few = RetryPolicy { attempts: 2, ..QUICK };
        (name.to_owned(), Arc::new(Retry::new(Arc::new(source(node)), few)) as SharedSource)
    };
    let both = Failover::new(vec![of("a", &first), of("b", &second)], FailoverPolicy::default()).unwrap();
    let (numbers, error) = collect(&both, range(0, 60)).await;
    assert!(error.is_none() && numbers.len() == 60, "{error:?}");
    assert!(second.asked().iter().any(|path| path.contains("headers/25")));
}

#[tokio::test]
async fn a_chain_that_is_reorganised_while_it_is_read_stops_linking_or_is_one_of_the_two() {
    for at in [1, 3, 6, 10, 15] {
        let old = BeaconChain::build(40, &[7, 8, 21]);
        let mut new = old.up_to(5);
        new.extend(6..=41, &[9, 20], 1);
        let node = BeaconNode::start(old.clone()).unwrap();
        let source = connect(BeaconConfig { concurrent_request_limit: 1, ..config(&node) });
        let mut stream = source.blocks(range(0, 40));
        let (mut blocks, mut is_new) = (vec![], false);
        let ended = tokio::time::timeout(PATIENCE, async {
            while let Some(item) = stream.next().await {
                match item {
                    Ok(rows) => blocks.extend(rows.blocks),
                    Err(error) => return Some(error),
                }
                if !is_new && blocks.len() >= at {
                    is_new = true;
                    node.set_chain(new.clone());
                }
            }
            None
        });
        let error = ended.await.unwrap();
        if let Some(error) = &error {
            assert!(matches!(error, SourceError::NotLinked { .. }) || error.is_missing(), "{error:?}");
        }
        assert!(blocks.windows(2).all(|two| two[0].hash == two[1].parent_hash), "what was given links");
        // What follows links to what was given only where that is on the chain that is served now.
        let after = source.block_id(blocks.last().unwrap().number).await.unwrap();
        if error.is_none() && blocks.len() > 6 {
            let last = blocks.last().unwrap();
            let known = [&old, &new].map(|chain| chain.at(last.number).map(|block| block.root.clone()));
            assert!(known.iter().flatten().any(|root| *root == last.hash.to_string()), "{after:?}");
        }
    }
}

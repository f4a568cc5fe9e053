//! How many streams an endpoint is asked for at a time, and what the log tells of one that is slow.

use std::{
    fmt::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt;
use nozzle_core::manifest::Verify;
use nozzle_testkit::substreams::{Fault, SubstreamsServer};
use tracing::{Event, Metadata, field::Field, span};

use super::{
    endpoint::{collect, hundred, range, small_package},
    *,
};
use crate::source::BlockSource;

fn connect(server: &SubstreamsServer, change: impl FnOnce(&mut SubstreamsConfig)) -> Substreams {
    let package = small_package();
    let mut config = SubstreamsConfig::new("p", &server.url(), "mainnet");
    change(&mut config);
    Substreams::connect(config, &package, "out", tables(&package, "out").unwrap(), Verify::Header).unwrap()
}

#[tokio::test]
async fn a_stream_has_its_turn_as_long_as_it_is_open_and_there_are_fewer_once_the_endpoint_pushes_back() {
    let server = SubstreamsServer::start(hundred()).unwrap();
    let mut throttle = None;
    let source = connect(&server, |config| {
        config.grpc.concurrent_request_limit = 8;
        throttle = Some(config.grpc.own_throttle());
        config.grpc.throttle = throttle.clone();
    });
    let throttle = throttle.unwrap();
    let free = || throttle.limiter().further_turns(100).len();
    assert_eq!(free(), 8);
    // It waits for block 100.
    let mut open = source.blocks(range(90, 100));
    open.next().await.unwrap().unwrap();
    assert_eq!(free(), 7);
    server.fail_next([Fault::Busy]);
    let (_, rows, error) = collect(&source, range(10, 12)).await;
    assert!(error.is_none() && rows.len() == 3, "{error:?}");
    assert_eq!(free(), 3, "a half of 8, and one is open");
    // Whoever comes next waits for a turn, and asks nothing until then.
    let held = throttle.limiter().further_turns(100);
    server.requests();
    let mut waits = source.blocks(range(20, 22));
    let next = waits.next();
    tokio::pin!(next);
    for _ in 0..100 {
        assert!(futures::poll!(&mut next).is_pending());
        tokio::task::yield_now().await;
    }
    assert!(server.requests().is_empty());
    drop(open);
    next.await.unwrap().unwrap();
    drop((waits, held));
    assert_eq!(free(), 4);
}

/// Keeps what is logged in the place of writing it.
struct Log(Arc<Mutex<Vec<String>>>);

struct Line<'a>(&'a mut String);

impl tracing::field::Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = format!("{} ", event.metadata().level());
        event.record(&mut Line(&mut line));
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_long_preparation_is_told_of_and_a_short_one_is_not() {
    let log = Arc::<Mutex<Vec<String>>>::default();
    let _logs = tracing::subscriber::set_default(Log(log.clone()));
    let server = SubstreamsServer::start(hundred()).unwrap();
    // The endpoint tells of a job at the begin of each stream, of which there are two.
    for (every, count) in [(Duration::from_secs(3600), 0), (Duration::ZERO, 2)] {
        let source = connect(&server, |config| config.progress_every = every);
        let (_, rows, error) = collect(&source, range(10, 12)).await;
        assert!(error.is_none() && rows.len() == 3, "{error:?}");
        let lines = std::mem::take(&mut *log.lock().unwrap());
        assert_eq!(lines.len(), count, "{lines:?}");
        for line in lines {
            let expected = "INFO message=the endpoint prepares the module's output provider=\"p\" module=\"out\" jobs=1 \
                            blocks_of_jobs=1 read_mb=0 ";
            assert_eq!(line, expected);
        }
    }
    assert_eq!(SubstreamsConfig::new("p", "http://h", "mainnet").progress_every, Duration::from_secs(10));
}

//! The stream of events by which a node tells that its head has moved.
//!
//! Only that something has happened is taken from it: what the head is now is asked for as ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::{Mutex, Notify},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::client::Client;

/// Each topic by its own parameter: nodes differ in whether they take several in one.
const PATH: &str = "eth/v1/events?topics=head&topics=finalized_checkpoint";
/// Before the node is dialled again.
const REDIAL_PAUSE: Duration = Duration::from_secs(1);
/// A stream that says nothing for so long has been lost.
const SILENCE: Duration = Duration::from_secs(300);
/// The longest line that is read: an event has some hundreds of bytes.
const MAX_LINE_BYTES: usize = 64 << 10;

/// What a node tells, once it is listened to.
///
/// Whoever waits may give up at any moment and begin again, as those do who poll as well: neither a stream
/// that is being opened nor the time since it last said something is lost by that.
#[derive(Debug)]
pub(crate) struct Events {
    /// Whoever listens holds the lock, and tells the others.
    listening: Mutex<Listening>,
    told: Notify,
    /// Whether the node has no such stream.
    is_unsupported: AtomicBool,
    /// How long a stream may tell of no event.
    silence: Duration,
}

/// How far it has come.
#[derive(Debug, Default)]
struct Listening {
    /// The request for a stream, while it is under way.
    opening: JoinSet<Result<Option<reqwest::Response>, String>>,
    /// The stream, while there is one.
    open: Option<Stream>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            listening: Mutex::default(),
            told: Notify::new(),
            is_unsupported: AtomicBool::new(false),
            silence: SILENCE,
        }
    }
}

impl Events {
    /// Waits until the node tells of a new head; where it cannot, for ever.
    pub async fn head_moved(&self, client: &Arc<Client>) {
        tokio::select! {
            () = self.told.notified() => {}
            () = self.listen(client) => self.told.notify_waiters(),
        }
    }

    async fn listen(&self, client: &Arc<Client>) {
        let mut listening = self.listening.lock().await;
        while !self.is_unsupported.load(Ordering::Relaxed) {
            if listening.open.is_none() {
                listening.open = self.open(client, &mut listening.opening).await;
            }
            if let Some(stream) = listening.open.as_mut() {
                if let Ok(true) = timeout_at(stream.last_event + self.silence, stream.event()).await {
                    // What has come meanwhile is about the same head.
                    while stream.event().now_or_never() == Some(true) {}
                    stream.last_event = Instant::now();
                    return;
                }
                listening.open = None;
            }
            tokio::time::sleep(REDIAL_PAUSE).await;
        }
        drop(listening);
        std::future::pending().await
    }

    async fn open(
        &self,
        client: &Arc<Client>,
        opening: &mut JoinSet<Result<Option<reqwest::Response>, String>>,
    ) -> Option<Stream> {
        let provider = client.provider();
        if opening.is_empty() {
            let client = Arc::clone(client);
            opening.spawn(async move { client.open_events(PATH).await });
        }
        match opening.join_next().await?.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(Some(response)) => {
                return Some(Stream { response, lines: Lines::default(), last_event: Instant::now() });
            }
            Ok(None) => {
                self.is_unsupported.store(true, Ordering::Relaxed);
                tracing::debug!(provider, "the node does not tell of events; its head is polled");
            }
            Err(why) => tracing::debug!(provider, why, "the node's events cannot be listened to now"),
        }
        None
    }
}

#[derive(Debug)]
struct Stream {
    response: reqwest::Response,
    lines: Lines,
    /// When it was opened, or told of the last event.
    last_event: Instant,
}

impl Stream {
    /// Waits for the next event; false once the stream is over.
    async fn event(&mut self) -> bool {
        loop {
            if self.lines.take_event() {
                return true;
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.lines.push(&chunk),
                Ok(None) | Err(_) => return false,
            }
        }
    }
}

/// The lines of a stream of events, as far as they have come.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    events: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                self.events += usize::from(self.line.starts_with(b"event:"));
                self.line.clear();
            } else if self.line.len() < MAX_LINE_BYTES {
                self.line.push(*byte);
            }
        }
    }

    fn take_event(&mut self) -> bool {
        let is_one = self.events > 0;
        self.events = self.events.saturating_sub(1);
        is_one
    }
}

#[cfg(test)]
mod tests {
    use nozzle_testkit::beacon::{BeaconChain, BeaconFault, BeaconNode};

    use super::{super::BeaconConfig, *};

    fn listened_to(node: &BeaconNode) -> Arc<Client> {
        // The tests of one binary share a process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = BeaconConfig::new("node", node.url().parse().expect("a URL"));
        Arc::new(Client::new(&config).expect("a client"))
    }

    fn openings(node: &BeaconNode) -> usize {
        node.asked().iter().filter(|path| path.contains("events")).count()
    }

    /// Waits for a head as one does who polls too; whether it has moved.
    async fn poll(events: &Events, client: &Arc<Client>) -> bool {
        tokio::time::timeout(Duration::from_millis(10), events.head_moved(client)).await.is_ok()
    }

    #[tokio::test]
    async fn a_stream_that_is_lost_is_found_by_those_who_poll_too() {
        let node = BeaconNode::start(BeaconChain::build(3, &[])).expect("a node");
        let (client, silence) = (listened_to(&node), Duration::from_millis(100));
        let events = Events { silence, ..Events::default() };
        let found = async {
            while openings(&node) < 3 {
                assert!(!poll(&events, &client).await, "it says nothing");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), found).await.expect("it is dialled anew");
    }

    #[tokio::test]
    async fn a_stream_that_opens_slowly_is_not_begun_anew_at_each_poll() {
        let node = BeaconNode::start(BeaconChain::build(3, &[])).expect("a node");
        node.fail("events", BeaconFault::Silence, 1);
        let (client, events) = (listened_to(&node), Events::default());
        while openings(&node) == 0 {
            assert!(!poll(&events, &client).await);
        }
        for _ in 0..10 {
            assert!(!poll(&events, &client).await);
        }
        assert_eq!(openings(&node), 1);
    }

    #[test]
    fn events_are_found_however_the_bytes_are_cut() {
        let text = ":\n\nevent: head\ndata: {\"slot\":\"1\"}\n\n: keep-alive\r\n\r\nevent:finalized_checkpoint\r\ndata: event: x\r\n\r\n";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            for part in text.as_bytes().chunks(size) {
                lines.push(part);
            }
            assert!(lines.take_event() && lines.take_event() && !lines.take_event(), "parts of {size}");
        }
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; 2 * MAX_LINE_BYTES]);
        assert_eq!(lines.line.len(), MAX_LINE_BYTES);
    }
}

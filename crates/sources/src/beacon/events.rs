//! The stream of events by which a node tells that its head has moved.
//!
//! Only that something has happened is taken from it: what the head is now is asked for as ever.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::FutureExt;
use tokio::sync::{Mutex, Notify};

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
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The stream, while there is one. Whoever listens to it holds the lock, and tells the others.
    open: Mutex<Option<Stream>>,
    told: Notify,
    /// Whether the node has no such stream.
    is_unsupported: AtomicBool,
}

impl Events {
    /// Waits until the node tells of a new head; where it cannot, for ever.
    pub async fn head_moved(&self, client: &Client) {
        tokio::select! {
            () = self.told.notified() => {}
            () = self.listen(client) => self.told.notify_waiters(),
        }
    }

    async fn listen(&self, client: &Client) {
        let mut open = self.open.lock().await;
        while !self.is_unsupported.load(Ordering::Relaxed) {
            if open.is_none() {
                *open = self.open(client).await;
            }
            if let Some(stream) = open.as_mut() {
                if let Ok(true) = tokio::time::timeout(SILENCE, stream.event()).await {
                    // What has come meanwhile is about the same head.
                    while stream.event().now_or_never() == Some(true) {}
                    return;
                }
                *open = None;
            }
            tokio::time::sleep(REDIAL_PAUSE).await;
        }
        drop(open);
        std::future::pending().await
    }

    async fn open(&self, client: &Client) -> Option<Stream> {
        let provider = client.provider();
        match client.open_events(PATH).await {
            Ok(Some(response)) => return Some(Stream { response, lines: Lines::default() }),
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
    use super::*;

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

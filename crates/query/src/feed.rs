//! Streams of the same query, at the same block: one of them reads, the others get what it found.
//!
//! A stream that has given all that is stored joins the feed of its query, or begins it. The feed goes on as a
//! stream would, and hands each range out whole. Who joins or leaves it does so between two ranges, so that no
//! range is given in part: a client that reads too slowly to keep pace, or a range too large to be kept, sends
//! its streams back to reading for themselves, from where each of them is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use arrow::array::RecordBatch;
use nozzle_core::BlockId;
use tokio::sync::broadcast;

use crate::{
    error::QueryError,
    stream::{QueryStream, StreamItem, StreamRange},
};

/// Ranges that a stream may be behind the feed.
const RANGES_BEHIND: usize = 4;

/// What the rows of a range may take to be handed out whole.
const MOST_BYTES: usize = 1 << 20;

/// A range and all of its rows.
#[derive(Debug)]
pub(crate) struct Microbatch {
    pub range: StreamRange,
    pub rows: Vec<RecordBatch>,
}

/// What a stream gets from its feed.
#[derive(Debug)]
pub(crate) struct Subscription {
    ranges: broadcast::Receiver<Arc<Microbatch>>,
    /// Whether the feed was where the stream is: from then on, all that it gives is the stream's too.
    has_met: bool,
}

/// Whether a range of a feed is what a stream gives next.
pub(crate) enum Follows {
    Yes,
    /// The stream has had it by itself.
    NotYet,
    /// They have gone other ways.
    No,
}

impl Subscription {
    /// The next range. Fails where the feed has ended or is too far ahead, for whatever reason.
    pub async fn recv(&mut self) -> Result<Arc<Microbatch>, broadcast::error::RecvError> {
        self.ranges.recv().await
    }

    /// Whether a range is the next one of a stream that is behind a block.
    pub fn follows(&mut self, range: &StreamRange, at: Option<BlockId>) -> Follows {
        if self.has_met {
            return Follows::Yes;
        }
        let Some(at) = at else { return Follows::No };
        if (range.numbers.end(), range.hash) == (at.number, at.hash) {
            self.has_met = true;
            return Follows::NotYet;
        }
        let is_next = range.numbers.start().checked_sub(1) == Some(at.number) && range.prev_hash == at.hash;
        self.has_met = is_next;
        match is_next {
            true => Follows::Yes,
            false if range.numbers.end() < at.number => Follows::NotYet,
            false => Follows::No,
        }
    }
}

/// The feeds of an engine, by their queries' texts.
#[derive(Debug, Default)]
pub(crate) struct Feeds(Mutex<HashMap<String, Weak<Feed>>>);

#[derive(Debug)]
struct Feed {
    /// The last block that was handed out, and to whom. Both change at once.
    at: Mutex<(BlockId, broadcast::Sender<Arc<Microbatch>>)>,
}

impl Feeds {
    /// Joins the feed of a stream's query, which may have to catch up with the stream; without any, begins one.
    /// `None` where it is ahead.
    pub fn join(self: &Arc<Self>, stream: &QueryStream) -> Option<Subscription> {
        let at = stream.at()?;
        let mut feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = feeds.get(stream.sql()).and_then(Weak::upgrade) {
            let feed = feed.at.lock().unwrap_or_else(PoisonError::into_inner);
            let is_behind = feed.0 == at || feed.0.number < at.number;
            return is_behind.then(|| Subscription { ranges: feed.1.subscribe(), has_met: feed.0 == at });
        }
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let (sender, ranges) = broadcast::channel(RANGES_BEHIND);
        let feed = Arc::new(Feed { at: Mutex::new((at, sender.clone())) });
        feeds.insert(stream.sql().to_owned(), Arc::downgrade(&feed));
        drop(feeds);
        let mut reads = stream.another();
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = microbatch(&mut reads) => next,
                    () = sender.closed() => return,
                };
                // Whoever follows it meets the same error, or reads the range that is too large, and tells of it.
                let Ok(Some(microbatch)) = next else { return };
                let mut at = feed.at.lock().unwrap_or_else(PoisonError::into_inner);
                at.0 = BlockId { number: microbatch.range.numbers.end(), hash: microbatch.range.hash };
                if at.1.send(Arc::new(microbatch)).is_err() {
                    return;
                }
            }
        });
        Some(Subscription { ranges, has_met: true })
    }
}

/// The next range with all of its rows; `None` where they are too many.
async fn microbatch(reads: &mut QueryStream) -> Result<Option<Microbatch>, QueryError> {
    let (mut rows, mut bytes) = (vec![], 0_usize);
    loop {
        match reads.next().await? {
            StreamItem::Rows(batch, _) => {
                bytes = bytes.saturating_add(batch.get_array_memory_size());
                if bytes > MOST_BYTES {
                    return Ok(None);
                }
                rows.push(batch);
            }
            StreamItem::Complete(range) => return Ok(Some(Microbatch { range, rows })),
            StreamItem::KeepAlive => {}
        }
    }
}

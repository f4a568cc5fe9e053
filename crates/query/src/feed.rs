//! Streams of the same query, at the same block: one of them reads, the others get what it found.
//!
//! A stream that has given all that is stored joins the feed of its query, or begins it. The feed goes on as a
//! stream would, at the pace of the fastest client, and hands each range out whole. Who joins or leaves it does so
//! between two ranges, so that no range is given in part: a client that reads too slowly to keep pace goes back to
//! reading for itself, from where it is.
//!
//! A range whose rows are too many is read again in halves. Where a single block has too many, the feed ends, and
//! each of its streams reads that block for itself.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use arrow::{
    array::{Array, ArrayData, RecordBatch},
    buffer::Buffer,
};
use futures::{Stream, StreamExt, stream};
use nozzle_core::BlockId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

use crate::{
    error::QueryError,
    stream::{Reader, StreamItem, StreamRange},
};

/// Ranges that a stream may be behind the feed.
const RANGES_BEHIND: usize = 4;

/// What the rows of a range may take at most.
const MOST_BYTES: usize = 8 << 20;

/// What they may take without a share of [`MOST_BYTES_IN_ALL`].
const FREE_BYTES: usize = 1 << 20;

/// What the rows of all larger ranges may take that anybody still holds.
const MOST_BYTES_IN_ALL: usize = 64 << 20;

/// A range and all of its rows.
#[derive(Debug)]
pub(crate) struct Microbatch {
    pub range: StreamRange,
    pub rows: Vec<RecordBatch>,
    _share: Share,
}

/// What a stream gets from its feed.
#[derive(Debug)]
pub(crate) struct Subscription {
    ranges: broadcast::Receiver<(u64, Arc<Microbatch>)>,
    /// As [`Feed::taken`].
    taken: Arc<watch::Sender<u64>>,
    /// Whether the feed was where the stream is: from then on, all that it gives is the stream's too.
    has_met: bool,
}

/// Whether a range of a feed is what a stream gives next.
#[derive(Debug, PartialEq, Eq)]
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
        let (count, microbatch) = self.ranges.recv().await?;
        self.taken.send_if_modified(|taken| {
            let is_first = count > *taken;
            *taken = count.max(*taken);
            is_first
        });
        Ok(microbatch)
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
#[derive(Debug)]
pub(crate) struct Feeds {
    feeds: Mutex<HashMap<String, Weak<Feed>>>,
    /// Bytes that rows may still take.
    room: Arc<Semaphore>,
}

impl Default for Feeds {
    fn default() -> Self {
        Self { feeds: Mutex::default(), room: Arc::new(Semaphore::new(MOST_BYTES_IN_ALL)) }
    }
}

#[derive(Debug)]
struct Feed {
    given: Mutex<Given>,
    /// How many ranges the stream has had that has had most.
    taken: Arc<watch::Sender<u64>>,
}

/// What was handed out, and to whom. All of it changes at once.
#[derive(Debug)]
struct Given {
    /// The last block.
    at: BlockId,
    /// How many ranges.
    count: u64,
    streams: broadcast::Sender<(u64, Arc<Microbatch>)>,
}

impl Feeds {
    /// Joins the feed of a stream's query, which may have to catch up with the stream; without any, begins one.
    /// `None` where it is ahead.
    pub fn join(self: &Arc<Self>, stream: &Reader) -> Option<Subscription> {
        let at = stream.at()?;
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = feeds.get(stream.sql()).and_then(Weak::upgrade) {
            return feed.join(at);
        }
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let feed = Arc::new(Feed::new(at));
        let joined = feed.join(at);
        feeds.insert(stream.sql().to_owned(), Arc::downgrade(&feed));
        drop(feeds);
        let (reads, room) = (Ranges::of(stream.another()), Arc::clone(&self.room));
        let ranges = stream::unfold((reads, room), |(mut reads, room)| async {
            // Whoever follows it meets the same error, or reads the block that is too large, and tells of it.
            let next = reads.next(&room).await.ok().flatten()?;
            Some((next, (reads, room)))
        });
        tokio::spawn(async move { feed.hand_out(ranges).await });
        joined
    }
}

impl Feed {
    fn new(at: BlockId) -> Self {
        let (streams, _) = broadcast::channel(RANGES_BEHIND);
        let (taken, _) = watch::channel(0);
        Self { given: Mutex::new(Given { at, count: 0, streams }), taken: Arc::new(taken) }
    }

    fn join(&self, at: BlockId) -> Option<Subscription> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let has_met = given.at == at;
        if !has_met && given.at.number >= at.number {
            return None;
        }
        // It waits for what comes now, whatever the others do.
        self.taken.send_replace(given.count);
        Some(Subscription { ranges: given.streams.subscribe(), taken: Arc::clone(&self.taken), has_met })
    }

    /// Hands out what is read, until there is no more or nobody to take it.
    async fn hand_out(&self, ranges: impl Stream<Item = Microbatch>) {
        let mut ranges = pin!(ranges);
        let streams = self.given.lock().unwrap_or_else(PoisonError::into_inner).streams.clone();
        let mut taken = self.taken.subscribe();
        let mut count = 0;
        loop {
            let next = async {
                // The fastest has had all so far. Nobody waits for those who are behind.
                taken.wait_for(|taken| *taken >= count).await.ok()?;
                ranges.next().await
            };
            let next = tokio::select! {
                next = next => next,
                () = streams.closed() => return,
            };
            let Some(microbatch) = next else { return };
            count += 1;
            let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
            given.at = BlockId { number: microbatch.range.numbers.end(), hash: microbatch.range.hash };
            given.count = count;
            if given.streams.send((count, Arc::new(microbatch))).is_err() {
                return;
            }
        }
    }
}

/// The ranges of a feed.
struct Ranges {
    reads: Reader,
    /// How many blocks one may have, whatever their rows take.
    most_blocks: u64,
}

impl Ranges {
    fn of(reads: Reader) -> Self {
        Self { most_blocks: reads.most_blocks(), reads }
    }

    /// The next range with all of its rows; `None` where a single block has too many.
    async fn next(&mut self, room: &Arc<Semaphore>) -> Result<Option<Microbatch>, QueryError> {
        let (mut rows, mut kept, mut share) = (vec![], Kept::default(), Share::default());
        loop {
            match self.reads.next().await? {
                StreamItem::Rows(batch, range) => {
                    kept.add(&batch);
                    if share.covers(kept.bytes, room) {
                        rows.push(batch);
                        continue;
                    }
                    let blocks = range.numbers.end() - range.numbers.start() + 1;
                    if blocks == 1 {
                        return Ok(None);
                    }
                    self.reads.begin_again(blocks / 2);
                    (rows, kept, share) = (vec![], Kept::default(), Share::default());
                }
                StreamItem::Complete(range) => {
                    if kept.bytes <= MOST_BYTES / 4 {
                        self.reads
                            .begin_again(self.reads.most_blocks().saturating_mul(2).min(self.most_blocks));
                    }
                    return Ok(Some(Microbatch { range, rows, _share: share }));
                }
                StreamItem::KeepAlive => {}
            }
        }
    }
}

/// The memory that rows keep, which several batches may have parts of.
#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    /// Where it is.
    seen: HashSet<usize>,
}

impl Kept {
    fn add(&mut self, batch: &RecordBatch) {
        batch.columns().iter().for_each(|column| self.add_data(&column.to_data()));
    }

    fn add_data(&mut self, data: &ArrayData) {
        data.buffers().iter().for_each(|buffer| self.add_buffer(buffer));
        data.nulls().into_iter().for_each(|nulls| self.add_buffer(nulls.buffer()));
        data.child_data().iter().for_each(|child| self.add_data(child));
    }

    fn add_buffer(&mut self, buffer: &Buffer) {
        if self.seen.insert(buffer.data_ptr().addr().get()) {
            self.bytes = self.bytes.saturating_add(buffer.capacity());
        }
    }
}

/// A share of the memory of all feeds.
#[derive(Debug, Default)]
struct Share(Option<OwnedSemaphorePermit>);

impl Share {
    /// Grows to so many bytes; `false` where these are too many, or there is no room for them.
    fn covers(&mut self, bytes: usize, room: &Arc<Semaphore>) -> bool {
        let has = self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if bytes <= FREE_BYTES.max(has) {
            return true;
        }
        let lacks = u32::try_from(bytes - has).ok().filter(|_| bytes <= MOST_BYTES);
        let Some(Ok(more)) = lacks.map(|lacks| Arc::clone(room).try_acquire_many_owned(lacks)) else {
            return false;
        };
        match &mut self.0 {
            Some(has) => has.merge(more),
            none => *none = Some(more),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use arrow::array::{ArrayRef, StringArray};
    use nozzle_core::{BlockHash, BlockNum, BlockRange};

    use super::*;

    fn block(number: BlockNum) -> BlockId {
        BlockId { number, hash: BlockHash::repeat_byte(number as u8) }
    }

    fn range(first: BlockNum, last: BlockNum) -> StreamRange {
        StreamRange {
            numbers: BlockRange::new(first, last).expect("a range"),
            network: "anvil".parse().expect("a network"),
            hash: block(last).hash,
            prev_hash: block(first - 1).hash,
        }
    }

    fn microbatch(number: BlockNum) -> Microbatch {
        Microbatch { range: range(number, number), rows: vec![], _share: Share::default() }
    }

    #[tokio::test]
    async fn a_stream_that_does_not_read_falls_off_and_holds_up_nobody() {
        let feed = Feed::new(block(10));
        let (mut silent, mut reads) =
            (feed.join(block(10)).expect("met"), feed.join(block(10)).expect("met"));
        let read = AtomicU64::new(10);
        let ranges = stream::repeat_with(|| microbatch(read.fetch_add(1, Relaxed) + 1));
        let follow = async {
            for number in 11..=30 {
                let microbatch = reads.recv().await.expect("a range");
                assert_eq!(microbatch.range, range(number, number));
                // Whoever is fastest sets the pace.
                assert!(read.load(Relaxed) <= number + 1);
            }
        };
        tokio::select! {
            () = feed.hand_out(ranges) => panic!("it ends"),
            () = follow => {}
        }
        let lagged = silent.recv().await.expect_err("it has fallen off");
        assert!(matches!(lagged, broadcast::error::RecvError::Lagged(_)), "{lagged}");
        assert!(feed.join(block(20)).is_none(), "the feed is ahead");
    }

    #[tokio::test]
    async fn a_stream_that_joins_is_given_what_comes_though_the_others_do_not_read() {
        let feed = Feed::new(block(10));
        let _silent = feed.join(block(10)).expect("met");
        let join = async {
            // The first range was handed out by now, and nobody has taken it.
            tokio::task::yield_now().await;
            let mut joined = feed.join(block(11)).expect("met");
            assert_eq!(joined.recv().await.expect("a range").range, range(12, 12));
        };
        tokio::select! {
            biased;
            () = feed.hand_out(stream::iter(11..).map(microbatch)) => panic!("it ends"),
            () = join => {}
        }
    }

    #[test]
    fn a_stream_meets_a_feed_where_both_have_the_same_block() {
        let feed = Feed::new(block(10));
        let cases = [
            (range(11, 15), 15, Follows::NotYet, true),
            (range(16, 20), 15, Follows::Yes, true),
            (range(11, 14), 15, Follows::NotYet, false),
            (range(11, 16), 15, Follows::No, false),
            (StreamRange { hash: BlockHash::ZERO, ..range(11, 15) }, 15, Follows::No, false),
            (StreamRange { prev_hash: BlockHash::ZERO, ..range(16, 20) }, 15, Follows::No, false),
        ];
        for (range, at, follows, has_met) in cases {
            let mut joined = feed.join(block(at)).expect("behind");
            assert_eq!(joined.follows(&range, Some(block(at))), follows, "{range:?}");
            assert_eq!(joined.has_met, has_met, "{range:?}");
        }
    }

    #[test]
    fn parts_of_the_same_memory_count_once() {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..1_000).map(|_| "x".repeat(1_000))));
        let batch = RecordBatch::try_from_iter([("text", texts)]).expect("a batch");
        let mut kept = Kept::default();
        (0..10).for_each(|part| kept.add(&batch.slice(100 * part, 100)));
        assert!((1_000_000..1_300_000).contains(&kept.bytes), "{}", kept.bytes);
    }

    #[test]
    fn large_ranges_share_what_all_may_take() {
        let room = Arc::new(Semaphore::new(10 << 20));
        let (mut first, mut second) = (Share::default(), Share::default());
        assert!(first.covers(FREE_BYTES, &room) && first.0.is_none());
        assert!(first.covers(3 << 20, &room) && first.covers(7 << 20, &room));
        assert!(!second.covers(4 << 20, &room) && second.covers(3 << 20, &room));
        drop(first);
        assert!(second.covers(MOST_BYTES, &room) && !second.covers(MOST_BYTES + 1, &room));
        drop(second);
        assert_eq!(room.available_permits(), 10 << 20);
    }
}

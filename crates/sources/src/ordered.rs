//! The stream of a range: many blocks under way, rows in order, memory bounded.

use std::{ops::Deref, sync::Arc};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use nozzle_core::{BlockHash, BlockNum, BlockRange, TableDef, block::BlockLink};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::{JoinError, JoinHandle, JoinSet},
};

use crate::{
    budget::{ByteBudget, Hold},
    error::SourceError,
    limit::Turn,
    skips,
    source::{BlockRows, Decoded, check_link},
};

/// The most blocks that are decoded in one go.
const GROUP_BLOCKS: usize = 64;
/// With so many bytes a group is full.
const GROUP_BYTES: u64 = 4 << 20;
/// For each request that may be under way, how many blocks may wait behind a slow one.
const LOOKAHEAD_PER_REQUEST: usize = 4;
/// So many numbers in a row may be without a block before it is made sure that the chain has skipped them. Of a
/// provider that has lost its old blocks all of them would be asked for first.
const UNPROVEN_NUMBERS: u64 = 512;

/// A provider that is asked for blocks one by one, or in batches.
#[async_trait]
pub(crate) trait Blocks: Send + Sync + 'static {
    /// A block as the provider sends it.
    type Raw: Send + Sync + 'static;

    /// The provider's name.
    fn provider(&self) -> &str;

    /// The tables that rows are for, in their order.
    fn tables(&self) -> &[TableDef];

    /// The most requests at a time.
    fn request_limit(&self) -> usize;

    /// How many blocks are asked for together; at least one.
    fn batch_size(&self) -> usize;

    /// Waits until one more request may be under way. Requests get their turn in this order.
    async fn turn(&self) -> Turn;

    /// The blocks in the order of the numbers, one for each; the caller has waited for its turn.
    async fn fetch(&self, numbers: &[BlockNum]) -> Vec<Result<Self::Raw, SourceError>>;

    /// How many bytes the provider sent.
    fn size_bytes(raw: &Self::Raw) -> u64;

    /// The rows of blocks whose numbers follow each other; takes its time.
    fn decode(&self, blocks: &[Self::Raw]) -> Decoded;

    /// The hash of the block before numbers that have none, once it is sure that the chain has skipped
    /// them; `next` is the block right behind them, where it is known. Only for chains that skip.
    async fn before_skipped(
        &self,
        skipped: BlockRange,
        next: Option<&BlockLink>,
    ) -> Result<BlockHash, SourceError> {
        let _ = next;
        Err(lost(self, &format!("the blocks {skipped} are missing")))
    }

    /// Why a block with this parent does not follow the one before the `empty` numbers, which have none: the
    /// provider lacks a block there. `None` where that is not so, and the chain was reorganised. Only for
    /// chains that skip.
    async fn lost_before(
        &self,
        block: BlockNum,
        parent: BlockHash,
        empty: BlockRange,
    ) -> Option<SourceError> {
        let _ = (block, parent, empty);
        None
    }
}

/// The error of a task that did not end as it should.
fn lost<B: Blocks + ?Sized>(blocks: &B, why: &dyn std::fmt::Display) -> SourceError {
    SourceError::Unavailable {
        provider: blocks.provider().to_owned(),
        source: format!("reading was broken off: {why}").into(),
    }
}

/// A provider, and what all streams of it together hold in memory.
#[derive(Debug)]
pub(crate) struct Source<B> {
    blocks: Arc<B>,
    budget: Arc<ByteBudget>,
}

impl<B> Clone for Source<B> {
    fn clone(&self) -> Self {
        Self { blocks: self.blocks.clone(), budget: self.budget.clone() }
    }
}

impl<B> Deref for Source<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.blocks
    }
}

impl<B: Blocks> Source<B> {
    /// A source of the provider's blocks.
    pub fn new(blocks: B) -> Self {
        Self { blocks: Arc::new(blocks), budget: Arc::default() }
    }

    /// The rows of `range`; nothing is asked for before the stream is polled, and dropping it ends
    /// all that is under way.
    pub fn blocks(&self, range: BlockRange) -> BoxStream<'static, Result<BlockRows, SourceError>> {
        let own = self.clone();
        let running = async move { Running::start(own, range) };
        let items = |running| {
            stream::unfold(running, |mut run: Running<B>| async { run.next().await.map(|item| (item, run)) })
        };
        stream::once(running).flat_map(items).boxed()
    }
}

/// A task that ends when it is no longer wanted.
struct Task<T>(JoinHandle<T>);

impl<T> Task<T> {
    async fn join(mut self) -> Result<T, JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A block that has arrived, and the memory it was allowed to take.
struct Fetched<R> {
    raw: R,
    hold: Hold,
}

/// A block that is being fetched, alone or with others.
struct Coming<R> {
    block: oneshot::Receiver<Result<Fetched<R>, SourceError>>,
    /// Ends when none of its blocks is wanted any more.
    task: Arc<Task<()>>,
}

impl<R> Coming<R> {
    async fn arrive<B: Blocks<Raw = R>>(self, source: &B) -> Result<Fetched<R>, SourceError> {
        let arrived = self.block.await.unwrap_or_else(|_| Err(lost(source, &"a request ended too early")));
        drop(self.task);
        arrived
    }

    fn is_ready(&self) -> bool {
        !self.block.is_empty()
    }
}

type DecodeTask = Task<Decoded>;

/// A stream under way.
struct Running<B> {
    source: Source<B>,
    decoded: mpsc::Receiver<Result<DecodeTask, SourceError>>,
    previous: Option<BlockLink>,
    /// Numbers without a block that were not given yet: the next block shows whether they were skipped.
    skipped: Option<BlockRange>,
    /// How many of them there may be until it is made sure that they were.
    unproven: u64,
    /// The error behind the rows given last.
    error: Option<SourceError>,
    /// The numbers still to come; `None` once the stream is over.
    left: Option<BlockRange>,
    /// Dropped with the stream, and with them all that they have started.
    tasks: JoinSet<()>,
}

impl<B: Blocks> Running<B> {
    fn start(source: Source<B>, range: BlockRange) -> Self {
        let batch = source.batch_size();
        let lookahead = source.request_limit().saturating_mul(LOOKAHEAD_PER_REQUEST).saturating_mul(batch);
        // Room for what is under way at the least.
        let lookahead = lookahead.clamp(batch, 4096.max(batch));
        let (fetched_in, fetched) = mpsc::channel(lookahead);
        let (decoded_in, decoded) = mpsc::channel(parallel_decodes());
        let mut tasks = JoinSet::new();
        tasks.spawn(start_fetches(source.clone(), range, fetched_in));
        tasks.spawn(start_decodes(source.clone(), fetched, decoded_in));
        let (skipped, unproven) = (None, UNPROVEN_NUMBERS);
        Self { source, decoded, previous: None, skipped, unproven, error: None, left: Some(range), tasks }
    }

    async fn next(&mut self) -> Option<Result<BlockRows, SourceError>> {
        let left = self.left?;
        let item = match self.next_rows(left).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(self.cause(error).await),
        };
        self.left = item.as_ref().ok().and_then(|rows| BlockRange::new(rows.range.end() + 1, left.end()));
        if item.is_err() {
            self.stop();
        }
        Some(item)
    }

    async fn next_rows(&mut self, left: BlockRange) -> Result<BlockRows, SourceError> {
        loop {
            // What is skipped at the end is only known to be so by the blocks behind it.
            if let Some(skipped) = self.skipped.take_if(|skipped| skipped.end() == left.end()) {
                let hash = self.source.before_skipped(skipped, None).await?;
                return self.accept(skips::stand_in(skipped, hash, self.source.tables()));
            }
            let rows = self.receive().await?;
            let Some(taken) = skips::take(self.skipped.take(), rows, &mut self.skipped) else {
                self.prove_skipped().await?;
                continue;
            };
            if let (None, Some(skipped), Some(first)) =
                (&self.previous, taken.leading, taken.rows.blocks.first())
            {
                self.source.before_skipped(skipped, Some(first)).await?;
            }
            return self.accept(taken.rows);
        }
    }

    /// What is behind a block that does not link: a reorg, or a block before it that the provider lacks.
    async fn cause(&self, error: SourceError) -> SourceError {
        let (SourceError::NotLinked { block, found, .. }, Some(previous)) = (&error, self.previous) else {
            return error;
        };
        let empty = previous.number.checked_add(1).zip(block.checked_sub(1));
        match empty.and_then(|(first, last)| BlockRange::new(first, last)) {
            Some(empty) => self.source.lost_before(*block, *found, empty).await.unwrap_or(error),
            None => error,
        }
    }

    /// Makes sure of many skipped numbers while the block behind them has not come.
    async fn prove_skipped(&mut self) -> Result<(), SourceError> {
        if let Some(skipped) = self.skipped.filter(|skipped| skipped.len() >= self.unproven) {
            self.source.before_skipped(skipped, None).await?;
            self.unproven = skipped.len().saturating_mul(2);
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<BlockRows, SourceError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let task =
            self.decoded.recv().await.ok_or_else(|| lost(&*self.source, &"a task ended too early"))??;
        let decoded = task.join().await.map_err(|error| lost(&*self.source, &error))?;
        self.error = decoded.error;
        match decoded.rows {
            Some(rows) => Ok(rows),
            None => {
                Err(self.error.take().unwrap_or_else(|| lost(&*self.source, &"there was nothing to decode")))
            }
        }
    }

    /// Groups are decoded side by side, so only here is the link between them checked.
    fn accept(&mut self, rows: BlockRows) -> Result<BlockRows, SourceError> {
        if let (Some(previous), Some(first)) = (&self.previous, rows.blocks.first()) {
            check_link(previous, first)?;
        }
        self.previous = rows.blocks.last().copied();
        self.unproven = UNPROVEN_NUMBERS;
        Ok(rows)
    }

    fn stop(&mut self) {
        self.tasks.abort_all();
        self.decoded.close();
    }
}

/// How many groups are decoded at a time.
fn parallel_decodes() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

/// Starts to fetch one block or batch after the other, as fast as the limits allow.
async fn start_fetches<B: Blocks>(
    source: Source<B>,
    range: BlockRange,
    fetched: mpsc::Sender<Coming<B::Raw>>,
) {
    let own = Arc::new(Semaphore::new(1));
    let mut left = Some(range);
    while let Some(range) = left {
        let wanted = usize::try_from(range.len()).unwrap_or(usize::MAX).min(source.batch_size());
        let Ok(places) = fetched.reserve_many(wanted).await else { return };
        let holds = source.budget.hold(&own, wanted).await;
        let turn = source.turn().await;
        let last = range.start() + (holds.len() as u64 - 1);
        let (arrived, coming): (Vec<_>, Vec<_>) = holds.iter().map(|_| oneshot::channel()).unzip();
        let numbers = (range.start()..=last).collect();
        let task = fetch_some(source.clone(), numbers, holds, turn, arrived);
        let task = Arc::new(Task(tokio::spawn(task)));
        for (place, block) in places.zip(coming) {
            place.send(Coming { block, task: task.clone() });
        }
        left = last.checked_add(1).and_then(|next| BlockRange::new(next, range.end()));
    }
}

async fn fetch_some<B: Blocks>(
    source: Source<B>,
    numbers: Vec<BlockNum>,
    holds: Vec<Hold>,
    turn: Turn,
    arrived: Vec<oneshot::Sender<Result<Fetched<B::Raw>, SourceError>>>,
) {
    let blocks = source.fetch(&numbers).await;
    drop(turn);
    for ((block, mut hold), arrived) in blocks.into_iter().zip(holds).zip(arrived) {
        let fetched = block.map(|raw| {
            source.budget.settle(&mut hold, B::size_bytes(&raw));
            Fetched { raw, hold }
        });
        // Whoever wanted it may be gone.
        arrived.send(fetched).ok();
    }
}

/// Takes blocks as they become ready, in order, and decodes them in groups.
async fn start_decodes<B: Blocks>(
    source: Source<B>,
    fetched: mpsc::Receiver<Coming<B::Raw>>,
    decoded: mpsc::Sender<Result<DecodeTask, SourceError>>,
) {
    let mut groups = Groups { fetched, next: None };
    // While all decoders are busy, the next group grows.
    while let Ok(place) = decoded.reserve().await {
        let Some((group, error)) = groups.take(&*source).await else { return };
        if !group.is_empty() {
            let source = source.clone();
            let task = Task(tokio::task::spawn_blocking(move || decode(&*source, group)));
            place.send(Ok(task));
        } else if let Some(error) = error {
            place.send(Err(error));
            return;
        }
        if let Some(error) = error {
            // The receiver is gone only if the stream is.
            decoded.send(Err(error)).await.ok();
            return;
        }
    }
}

fn decode<B: Blocks>(source: &B, group: Vec<Fetched<B::Raw>>) -> Decoded {
    let (blocks, holds): (Vec<B::Raw>, Vec<Hold>) =
        group.into_iter().map(|fetched| (fetched.raw, fetched.hold)).unzip();
    let decoded = source.decode(&blocks);
    drop(blocks);
    drop(holds);
    decoded
}

/// Cuts the blocks that are ready into groups.
struct Groups<R> {
    fetched: mpsc::Receiver<Coming<R>>,
    /// A block that was not ready when the last group was taken.
    next: Option<Coming<R>>,
}

impl<R> Groups<R> {
    /// Waits for the next block and takes those behind it that are ready too; the error is that of
    /// the block behind the group.
    async fn take<B: Blocks<Raw = R>>(
        &mut self,
        source: &B,
    ) -> Option<(Vec<Fetched<R>>, Option<SourceError>)> {
        let mut coming = match self.next.take() {
            Some(coming) => coming,
            None => self.fetched.recv().await?,
        };
        let mut group = Vec::new();
        let mut size_bytes = 0;
        loop {
            match coming.arrive(source).await {
                Ok(fetched) => {
                    size_bytes += B::size_bytes(&fetched.raw);
                    group.push(fetched);
                }
                Err(error) => return Some((group, Some(error))),
            }
            if group.len() == GROUP_BLOCKS || size_bytes >= GROUP_BYTES {
                return Some((group, None));
            }
            match self.fetched.try_recv() {
                Ok(ready) if ready.is_ready() => coming = ready,
                not_ready => {
                    self.next = not_ready.ok();
                    return Some((group, None));
                }
            }
        }
    }
}

//! The stream of a range: one stream of the endpoint, decoded on threads of their own, in order, memory bounded.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use futures::stream::{self, BoxStream, StreamExt};
use nozzle_core::{BlockNum, BlockRange, block::BlockLink};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tonic::Streaming;

use super::{
    Shared,
    client::Step,
    decode::Payload,
    order::{Gap, Order, Received},
};
use crate::{
    error::SourceError,
    limit::Turn,
    pb::sf::firehose::v2::{Request, Response},
    source::{BlockRows, Decoded, check_link},
};

/// How many places in streams are remembered.
const MAX_CURSORS: usize = 64;

/// Where streams go on: the cursors of the blocks passed on last. Opaque, and only a help: without one, or with
/// one that the endpoint does not know any more, a stream begins at a block's number.
#[derive(Debug, Default)]
pub(crate) struct Cursors(Mutex<VecDeque<(BlockNum, String)>>);

impl Cursors {
    fn locked(&self) -> std::sync::MutexGuard<'_, VecDeque<(BlockNum, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, (number, cursor): (BlockNum, String)) {
        let mut cursors = self.locked();
        cursors.retain(|(other, _)| *other != number);
        if !cursor.is_empty() {
            cursors.push_back((number, cursor));
        }
        if cursors.len() > MAX_CURSORS {
            cursors.pop_front();
        }
    }

    /// Takes the cursor behind which the block `next` comes: whoever needs it again has passed it on again.
    fn take(&self, next: BlockNum) -> Option<String> {
        let mut cursors = self.locked();
        let place = cursors.iter().position(|(number, _)| number.checked_add(1) == Some(next))?;
        cursors.remove(place).map(|(_, cursor)| cursor)
    }
}

/// The rows of `range`; nothing is asked for before the stream is polled, and dropping it ends all that is
/// under way.
pub(crate) fn blocks(
    shared: Arc<Shared>,
    range: BlockRange,
) -> BoxStream<'static, Result<BlockRows, SourceError>> {
    let running = async move { Running::start(shared, range) };
    let items = |running| {
        stream::unfold(running, |mut run: Running| async { run.next().await.map(|item| (item, run)) })
    };
    stream::once(running).flat_map(items).boxed()
}

/// Blocks that are being decoded, and where a stream goes on behind them.
struct Decoding {
    task: JoinHandle<Decoded>,
    cursor: (BlockNum, String),
}

/// A stream under way.
struct Running {
    shared: Arc<Shared>,
    decoding: mpsc::Receiver<Result<Decoding, SourceError>>,
    previous: Option<BlockLink>,
    /// The error behind the rows given last.
    error: Option<SourceError>,
    /// The numbers still to come; `None` once the stream is over.
    left: Option<BlockRange>,
    /// Dropped with the stream, and with it what it has begun.
    _tasks: JoinSet<()>,
}

impl Running {
    fn start(shared: Arc<Shared>, range: BlockRange) -> Self {
        let (out, decoding) = mpsc::channel(parallel_decodes());
        let mut tasks = JoinSet::new();
        tasks.spawn(read(Arc::clone(&shared), range, out));
        Self { shared, decoding, previous: None, error: None, left: Some(range), _tasks: tasks }
    }

    async fn next(&mut self) -> Option<Result<BlockRows, SourceError>> {
        let left = self.left?;
        let item = self.receive().await.and_then(|rows| self.accept(rows));
        self.left = item.as_ref().ok().and_then(|rows| BlockRange::new(rows.range.end() + 1, left.end()));
        Some(item)
    }

    async fn receive(&mut self) -> Result<BlockRows, SourceError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let lost = |why: &dyn std::fmt::Display| {
            self.shared.client.unavailable(format!("reading was broken off: {why}"))
        };
        let Decoding { task, cursor } =
            self.decoding.recv().await.ok_or_else(|| lost(&"a task ended too early"))??;
        let decoded = task.await.map_err(|error| lost(&error))?;
        self.error = decoded.error;
        match decoded.rows {
            Some(rows) => {
                if rows.range.end() == cursor.0 {
                    self.shared.cursors.remember(cursor);
                }
                Ok(rows)
            }
            None => Err(self.error.take().unwrap_or_else(|| lost(&"there was nothing to decode"))),
        }
    }

    /// Groups are decoded side by side, so only here is the link between them checked.
    fn accept(&mut self, rows: BlockRows) -> Result<BlockRows, SourceError> {
        if let (Some(previous), Some(first)) = (&self.previous, rows.blocks.first()) {
            check_link(previous, first)?;
        }
        self.previous = rows.blocks.last().copied();
        Ok(rows)
    }
}

/// How many groups are decoded at a time.
fn parallel_decodes() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

/// Reads the blocks of a range, and has them decoded group by group; an error comes behind what was read
/// before it. That the other side is gone means that nobody wants them any more.
async fn read(shared: Arc<Shared>, range: BlockRange, out: mpsc::Sender<Result<Decoding, SourceError>>) {
    let mut order = Order::new(range);
    let mut source = Source::of(&shared, range);
    while !order.is_over() {
        let step = tokio::select! {
            biased;
            place = out.reserve(), if order.has_some() => {
                let Ok(place) = place else { return };
                place.send(Ok(decode(&shared, order.pass())));
                continue;
            }
            step = source.next(&shared, order.next()), if !order.is_full() => step,
        };
        let taken = step.and_then(|step| match step {
            Step::New(block) => order.take(block).map_err(|Gap(block)| SourceError::Missing {
                provider: shared.client.provider().to_owned(),
                block,
                what: "the block",
            }),
            Step::Undo(number) => {
                order.undo(number);
                Ok(())
            }
        });
        if let Err(error) = taken {
            if order.has_some() && out.send(Ok(decode(&shared, order.pass()))).await.is_err() {
                return;
            }
            // The receiver is gone only if the stream is.
            out.send(Err(error)).await.ok();
            return;
        }
    }
}

fn decode(shared: &Arc<Shared>, group: Vec<Received>) -> Decoding {
    let cursor = group.last().map(|last| (last.link.number, last.cursor.clone())).unwrap_or_default();
    let payloads: Vec<_> =
        group.into_iter().map(|block| Payload { number: block.link.number, block: block.payload }).collect();
    let shared = Arc::clone(shared);
    Decoding { task: tokio::task::spawn_blocking(move || shared.decoder.decode(&payloads)), cursor }
}

/// Where the blocks of a range come from.
enum Source {
    /// They have come with the head.
    Here(VecDeque<Received>),
    /// A stream that is yet to be opened.
    Asked(Request),
    /// A stream that is open, and its turn among those that may be.
    Open { stream: Box<Streaming<Response>>, _turn: Turn },
}

impl Source {
    fn of(shared: &Shared, range: BlockRange) -> Self {
        if let Some(blocks) = shared.follow.all_of(range) {
            return Self::Here(blocks.into());
        }
        Self::Asked(Request {
            start_block_num: i64::try_from(range.start()).unwrap_or(i64::MAX),
            cursor: shared.cursors.take(range.start()).unwrap_or_default(),
            stop_block_num: range.end(),
            // Of blocks that cannot be undone the endpoint need not tell when they are.
            final_blocks_only: shared.follow.final_num().is_some_and(|number| range.end() <= number),
            transforms: vec![],
        })
    }

    /// The next step. An endpoint that ends before the range is at its end may go on when it is asked again.
    async fn next(&mut self, shared: &Shared, expected: BlockNum) -> Result<Step, SourceError> {
        loop {
            match self {
                Self::Here(blocks) => {
                    let block = blocks.pop_front().map(Step::New);
                    return block.ok_or_else(|| ended(shared, expected));
                }
                Self::Asked(request) => {
                    let turn = shared.throttle.limiter().turn().await;
                    match shared.client.stream(request.clone()).await {
                        Ok(stream) => *self = Self::Open { stream: Box::new(stream), _turn: turn },
                        Err(error) => return Err(without_cursor(shared, request, error)),
                    }
                }
                Self::Open { stream, .. } => {
                    let step = shared.client.next(stream, expected).await?;
                    return step.ok_or_else(|| ended(shared, expected));
                }
            }
        }
    }
}

fn ended(shared: &Shared, expected: BlockNum) -> SourceError {
    shared.client.unavailable(format!("the stream has ended before block {expected}"))
}

/// A cursor that is refused is not used again: asked again, it begins at the number.
fn without_cursor(shared: &Shared, request: &Request, error: SourceError) -> SourceError {
    match error {
        SourceError::Refused { why, .. } if !request.cursor.is_empty() => shared
            .client
            .unavailable(format!("the cursor of a block was refused, and is not used again: {why}")),
        error => error,
    }
}

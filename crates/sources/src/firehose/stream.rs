//! The stream of a range: one stream of the endpoint, decoded on threads of their own, in order, memory bounded.

use std::{collections::VecDeque, sync::Arc};

use futures::stream::{self, BoxStream, StreamExt};
use nozzle_core::{BlockNum, BlockRange, SourceCursor, block::BlockLink};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use super::{
    Shared,
    client::Step,
    decode::Payload,
    order::{Gap, Order, Received},
};
use crate::{
    error::SourceError,
    grpc::Messages,
    limit::Turn,
    pb::sf::firehose::v2::{Request, Response},
    source::{BlockRows, Decoded, Place, check_link},
};

/// The rows of `range`; nothing is asked for before the stream is polled, and dropping it ends all that is
/// under way.
pub(crate) fn blocks(
    shared: Arc<Shared>,
    range: BlockRange,
    behind: Option<Place>,
) -> BoxStream<'static, Result<BlockRows, SourceError>> {
    let running = async move { Running::start(shared, range, behind) };
    let items = |running| {
        stream::unfold(running, |mut run: Running| async { run.next().await.map(|item| (item, run)) })
    };
    stream::once(running).flat_map(items).boxed()
}

/// Blocks that are being decoded, the number of the last one, and where a stream goes on behind it.
struct Decoding {
    task: JoinHandle<Decoded>,
    last: BlockNum,
    cursor: Option<SourceCursor>,
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
    fn start(shared: Arc<Shared>, range: BlockRange, behind: Option<Place>) -> Self {
        let (out, decoding) = mpsc::channel(parallel_decodes());
        let mut tasks = JoinSet::new();
        tasks.spawn(read(Arc::clone(&shared), range, behind, out));
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
        let Decoding { task, last, cursor } =
            self.decoding.recv().await.ok_or_else(|| lost(&"a task ended too early"))??;
        let decoded = task.await.map_err(|error| lost(&error))?;
        self.error = decoded.error;
        match decoded.rows {
            // Before a bad block it is another one's.
            Some(rows) => Ok(BlockRows { cursor: cursor.filter(|_| rows.range.end() == last), ..rows }),
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
async fn read(
    shared: Arc<Shared>,
    range: BlockRange,
    behind: Option<Place>,
    out: mpsc::Sender<Result<Decoding, SourceError>>,
) {
    let mut order = Order::new(range, behind.as_ref().map(|place| place.block.hash));
    let mut source = Source::of(&shared, range, behind);
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
            Step::New(block) => order.take(block).map_err(|Gap(block)| missing(&shared, block)),
            Step::Undo(block) => order.undo(&block),
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
    let (last, cursor) = group.last().map(|last| (last.link.number, last.cursor.clone())).unwrap_or_default();
    let payloads: Vec<_> =
        group.into_iter().map(|block| Payload { number: block.link.number, block: block.payload }).collect();
    let shared = Arc::clone(shared);
    Decoding { task: tokio::task::spawn_blocking(move || shared.decoder.decode(&payloads)), last, cursor }
}

/// Where the blocks of a range come from.
enum Source {
    /// They have come with the head.
    Here(VecDeque<Received>),
    /// A stream that is yet to be opened.
    Asked(Asked),
    /// A stream that is open, and its turn among those that may be.
    Open { stream: Box<Messages<Response>>, asked: Asked, _turn: Turn },
}

/// How a stream is asked for.
struct Asked {
    request: Box<Request>,
    /// Why it did not go on from its cursor, where it did not.
    was_refused: Option<SourceError>,
    /// Whether nothing has come yet that fits.
    is_new: bool,
}

impl Source {
    fn of(shared: &Shared, range: BlockRange, behind: Option<Place>) -> Self {
        if let Some(blocks) = shared.follow.all_of(range) {
            return Self::Here(blocks.into());
        }
        let cursor: String = behind.map(|place| place.cursor.into()).unwrap_or_default();
        let is_final = shared.follow.final_num().is_some_and(|number| range.end() <= number);
        let request = Request {
            start_block_num: i64::try_from(range.start()).unwrap_or(i64::MAX),
            // Of blocks that cannot be undone the endpoint need not tell when they are. Behind the cursor of a block
            // that was not final, it may have to tell of that one.
            final_blocks_only: is_final && cursor.is_empty(),
            cursor,
            stop_block_num: range.end(),
            transforms: vec![],
        };
        Self::Asked(Asked { request: Box::new(request), was_refused: None, is_new: true })
    }

    /// The next step. A cursor may be one that the endpoint does not know, or has been given by another one: what
    /// gives no stream that begins as it should is asked for by its number.
    async fn next(&mut self, shared: &Shared, expected: BlockNum) -> Result<Step, SourceError> {
        loop {
            let step = self.try_next(shared, expected).await;
            let asked = match self {
                Self::Asked(asked) | Self::Open { asked, .. } if asked.is_new => asked,
                _ => return step.map_err(Failure::error),
            };
            match step {
                Ok(step) => {
                    asked.is_new = false;
                    if let Some(why) = asked.was_refused.take() {
                        let (provider, why) = (shared.client.provider(), why.with_causes());
                        tracing::warn!(
                            provider,
                            why,
                            "the stream could not go on from its cursor; it begins at block {expected}"
                        );
                    }
                    return Ok(step);
                }
                Err(Failure::OfPlace(error)) if !asked.request.cursor.is_empty() => {
                    let mut request = std::mem::take(&mut asked.request);
                    request.cursor.clear();
                    *self = Self::Asked(Asked { request, was_refused: Some(error), is_new: true });
                }
                Err(failure) => return Err(failure.error()),
            }
        }
    }

    /// As [`Self::next`], without a second try. An endpoint that ends before the range is at its end may go on
    /// when it is asked again.
    async fn try_next(&mut self, shared: &Shared, expected: BlockNum) -> Result<Step, Failure> {
        if let Self::Asked(asked) = self {
            let turn = shared.client.limiter().turn().await;
            let stream = shared.client.stream(&asked.request).await?.map_err(Failure::OfPlace)?;
            let Asked { request, was_refused, is_new } = asked;
            let asked =
                Asked { request: std::mem::take(request), was_refused: was_refused.take(), is_new: *is_new };
            *self = Self::Open { stream: Box::new(stream), asked, _turn: turn };
        }
        let ended = || shared.client.unavailable(format!("the stream has ended before block {expected}"));
        match self {
            Self::Here(blocks) => Ok(blocks.pop_front().map(Step::New).ok_or_else(ended)?),
            Self::Asked(_) => Err(ended().into()),
            Self::Open { stream, asked, .. } => match shared.client.next(stream, expected).await? {
                Some(Step::New(block)) if asked.is_new && block.link.number > expected => {
                    Err(Failure::OfPlace(not_there(shared, expected).await))
                }
                Some(step) => Ok(step),
                None if asked.is_new => Err(Failure::OfPlace(ended())),
                None => Err(ended().into()),
            },
        }
    }
}

/// Why there is no step.
enum Failure {
    /// The stream does not begin where it should.
    OfPlace(SourceError),
    /// Where it should begin has nothing to do with it.
    Other(SourceError),
}

impl Failure {
    fn error(self) -> SourceError {
        match self {
            Self::OfPlace(error) | Self::Other(error) => error,
        }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::Other(error)
    }
}

/// Why a stream begins above a block: the endpoint does not have it now, or has none that are so old.
async fn not_there(shared: &Shared, block: BlockNum) -> SourceError {
    match shared.client.first_block().await {
        Ok(first) if block < first => shared.client.refused(format!(
            "its blocks begin at {first}, and block {block} was asked for; use an endpoint that has it, or set \
             `start_block` of the dataset to {first}"
        )),
        _ => missing(shared, block),
    }
}

fn missing(shared: &Shared, block: BlockNum) -> SourceError {
    SourceError::Missing { provider: shared.client.provider().to_owned(), block, what: "the block" }
}

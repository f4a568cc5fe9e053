//! The rows of a range: one stream, blocks decoded in groups.

use std::sync::Arc;

use futures::{
    FutureExt,
    stream::{self, BoxStream, StreamExt},
};
use nozzle_core::{BlockHash, BlockId, BlockNum, BlockRange, SourceCursor, block::BlockLink};

use super::{
    client::{From, Said, Stream},
    decode::ModuleOutput,
    order::Order,
    source::Module,
};
use crate::{
    error::SourceError,
    limit::Turn,
    source::{BlockRows, Place},
};

/// How far below a range its predecessor is looked for, step by step: chains skip numbers, and endpoints leave out
/// blocks of which a module gives nothing. The last step goes down to the module's first block.
const LOOKBACK: [BlockNum; 5] = [1, 32, 1024, 32_768, BlockNum::MAX];

/// The rows of `range`; nothing is asked for before the stream is polled.
pub(crate) fn blocks(
    module: Arc<Module>,
    range: BlockRange,
    behind: Option<Place>,
) -> BoxStream<'static, Result<BlockRows, SourceError>> {
    let running = Running { module, left: Some(range), behind, state: None, error: None };
    stream::unfold(running, |mut running| async { running.next().await.map(|item| (item, running)) }).boxed()
}

struct Running {
    module: Arc<Module>,
    /// The numbers still to come; `None` once the stream is over.
    left: Option<BlockRange>,
    /// The place before the first of them, where it is known; taken when the stream begins.
    behind: Option<Place>,
    /// The stream that is open, and its turn among those that may be.
    state: Option<(State, Turn)>,
    /// The error behind the rows given last.
    error: Option<SourceError>,
}

struct State {
    stream: Stream,
    /// Blocks that have come and were not decoded yet.
    order: Order,
    /// What came with the last block that was given on, if there was one.
    cursor: Option<SourceCursor>,
    /// Whether the endpoint has said all.
    ended: bool,
    /// What has ended the stream behind what waits.
    failed: Option<SourceError>,
}

impl Running {
    async fn next(&mut self) -> Option<Result<BlockRows, SourceError>> {
        let left = self.left?;
        let item = match self.error.take() {
            Some(error) => Err(error),
            None => self.receive(left).await,
        };
        self.left = match &item {
            Ok(rows) => BlockRange::new(rows.range.end().saturating_add(1), left.end()),
            Err(_) => None,
        };
        if self.left.is_none() {
            self.state = None;
        }
        Some(item)
    }

    async fn receive(&mut self, left: BlockRange) -> Result<BlockRows, SourceError> {
        let module = self.module.clone();
        if left.end() < module.client.initial_block {
            // Nothing is there yet; for the module these blocks are none.
            let decoded = module.decode(left, Vec::new(), 0).await;
            let rows = decoded.rows.map(|rows| with_stand_in(rows, None));
            return rows.ok_or_else(|| module.client.grpc.unavailable("decoding failed".into()));
        }
        if self.state.is_none() {
            let turn = module.client.grpc.limiter().turn().await;
            self.state = Some((State::begin(&module, left, self.behind.take()).await?, turn));
        }
        let Some((state, _)) = &mut self.state else {
            return Err(module.client.grpc.unavailable("the stream was lost".into()));
        };
        state.fill(left).await?;
        let group = state.order.pass();
        let (range, bytes) = match group.last() {
            None => {
                state.check_end(&module, left).await?;
                (left, 0)
            }
            Some((last, _)) => {
                let range = BlockRange::new(left.start(), last.id.number).unwrap_or(left);
                (range, group.iter().map(|(block, _)| block.output.len() as u64).sum())
            }
        };
        let before = group.first().map_or(state.order.previous(), |(_, before)| *before);
        let outputs: Vec<ModuleOutput> = group
            .iter()
            .map(|(block, before)| block.behind(before.map_or(BlockHash::ZERO, |block| block.hash)))
            .collect();
        let decoded = module.decode(range, outputs, bytes).await;
        if let (Some((last, _)), None) = (group.last(), &decoded.error) {
            state.cursor = SourceCursor::new(last.cursor.clone());
        }
        // Numbers behind the last block that were skipped do not change where the stream goes on; before a
        // bad block it is another one's.
        let cursor = state.cursor.clone().filter(|_| decoded.error.is_none());
        self.error = decoded.error;
        match decoded.rows {
            Some(rows) => Ok(with_stand_in(BlockRows { cursor, ..rows }, before)),
            None => Err(self.error.take().unwrap_or_else(|| {
                module.client.grpc.unavailable("the module's output: there was nothing to decode".into())
            })),
        }
    }
}

impl State {
    /// Begins behind the place before the range, where that is known and still stands; else at the range's
    /// first block. A cursor may be one that the endpoint does not know, or has been given by another one.
    async fn begin(module: &Module, range: BlockRange, behind: Option<Place>) -> Result<Self, SourceError> {
        let refused = match behind {
            Some(place) => match Self::begin_behind(module, range, place).await {
                Ok(Some(state)) => return Ok(state),
                Ok(None) => None,
                Err(error) => Some(error),
            },
            None => None,
        };
        let first = range.start().max(module.client.initial_block);
        let previous = last_before(module, first).await?;
        let stream = module.client.open(From::Block(first), stop_of(range)).await?;
        if let Some(error) = refused {
            let (provider, why) = (module.client.grpc.provider(), error.with_causes());
            tracing::warn!(
                provider,
                why,
                "the stream could not go on from its cursor; it begins at block {first}"
            );
        }
        Ok(Self::new(stream, previous))
    }

    /// `None` where the place was undone in the meantime: from here on it is as if it had never been.
    async fn begin_behind(
        module: &Module,
        range: BlockRange,
        place: Place,
    ) -> Result<Option<Self>, SourceError> {
        let Place { block, cursor } = place;
        let mut stream = module.client.open(From::Cursor(cursor.clone().into()), stop_of(range)).await?;
        let said = stream.next().await?;
        let mut state = Self { cursor: Some(cursor), ..Self::new(stream, Some(block)) };
        match said {
            Some(Said::Block(block)) if block.id.number > range.end() => state.ended = true,
            Some(Said::Block(block)) => state.order.take(block, range)?,
            Some(Said::Undo(_)) => return Ok(None),
            None => state.ended = true,
        }
        Ok(Some(state))
    }

    fn new(stream: Stream, previous: Option<BlockId>) -> Self {
        let order = Order::new(stream.provider(), previous);
        Self { stream, order, cursor: None, ended: false, failed: None }
    }

    /// Waits for a block, and takes those that are there already, up to a group.
    async fn fill(&mut self, range: BlockRange) -> Result<(), SourceError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        while !self.ended && !self.order.is_full() {
            let next = if self.order.is_empty() {
                self.stream.next().await
            } else {
                match self.stream.next().now_or_never() {
                    Some(next) => next,
                    None => break,
                }
            };
            match next {
                Ok(Some(Said::Block(block))) if block.id.number > range.end() => self.ended = true,
                Ok(Some(Said::Block(block))) => self.order.take(block, range)?,
                Ok(Some(Said::Undo(last))) => self.order.undo(last)?,
                Ok(None) => self.ended = true,
                // What has come before is good.
                Err(error) if !self.order.is_empty() => {
                    self.failed = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the numbers up to the end of the range have no blocks: a stream that ends too early is not
    /// told from one that has nothing more to say.
    async fn check_end(&self, module: &Module, left: BlockRange) -> Result<(), SourceError> {
        let unavailable = |why: String| module.client.grpc.unavailable(why);
        if !self.ended {
            return Err(unavailable("the module's output: the stream was broken off".into()));
        }
        match module.head.block(left.end()).await? {
            Some(_) => Err(unavailable(format!(
                "the module's output: the stream ended before block {}, which is there",
                left.end()
            ))),
            None => Ok(()),
        }
    }
}

/// Rows of numbers that were all skipped have a stand-in for their blocks: the one before them.
fn with_stand_in(mut rows: BlockRows, before: Option<BlockId>) -> BlockRows {
    if rows.blocks.is_empty() {
        let hash = before.map_or(BlockHash::ZERO, |block| block.hash);
        rows.blocks.push(BlockLink { number: rows.range.end(), hash, parent_hash: hash });
        rows.tables.iter_mut().for_each(|table| table.ends.push(0));
    }
    rows
}

/// Where the endpoint ends: the first block that is not wanted.
fn stop_of(range: BlockRange) -> Option<BlockNum> {
    Some(range.end().saturating_add(1))
}

/// The last block before `first`; `None` where the module begins there, or the chain.
pub(super) async fn last_before(module: &Module, first: BlockNum) -> Result<Option<BlockId>, SourceError> {
    let lowest = module.client.initial_block;
    for back in LOOKBACK {
        if first <= lowest {
            return Ok(None);
        }
        let from = first.saturating_sub(back).max(lowest);
        let mut stream = module.client.open(From::Block(from), Some(first)).await?;
        let mut last = None;
        while let Some(said) = stream.next().await? {
            last = match said {
                Said::Block(block) if block.id.number < first => Some(block.id),
                Said::Block(_) => break,
                Said::Undo(valid) => Some(valid).filter(|valid| valid.number < first),
            };
        }
        if last.is_some() || from == lowest {
            return Ok(last);
        }
    }
    Ok(None)
}

//! The head of the chain, as a stream at the head tells it.
//!
//! Substreams has no question for the head, so a stream that begins there is kept open while somebody asks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use nozzle_core::{BlockId, BlockNum};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    task::JoinHandle,
    time::Instant,
};

use super::client::{Client, From, Said, Stream};
use crate::{error::SourceError, source::Head};

/// How long a stream is kept of which nobody wants to know.
const IDLE: Duration = Duration::from_secs(120);
/// A stream begins a little below the head: what is above comes at once.
const SETTLE: Duration = Duration::from_millis(200);
/// How many blocks below the head are remembered.
const REMEMBERED: usize = 4096;

/// What is known of the head.
#[derive(Debug)]
pub(crate) struct HeadWatch {
    client: Arc<Client>,
    /// Held while a stream is begun, so that it is begun once.
    task: AsyncMutex<Option<JoinHandle<()>>>,
    seen: Arc<Mutex<Seen>>,
    moved: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Seen {
    blocks: BTreeMap<BlockNum, BlockId>,
    final_height: BlockNum,
    /// The last valid block of an undo, until another one comes. Whether it was ever sent is not known: of one of which
    /// the module gives nothing an endpoint may say nothing.
    undone_to: Option<BlockId>,
    /// When somebody last asked.
    asked: Option<Instant>,
    finalized: Option<BlockId>,
}

impl Seen {
    fn take(&mut self, said: Said) {
        match said {
            Said::Block(block) => {
                // A chain that was reorganised without an undo.
                self.blocks.split_off(&block.id.number);
                self.blocks.insert(block.id.number, block.id);
                self.undone_to = None;
                self.final_height = self.final_height.max(block.final_height);
                while self.blocks.len() > REMEMBERED {
                    self.blocks.pop_first();
                }
            }
            Said::Undo(last) => {
                let is_known = self.blocks.get(&last.number) == Some(&last);
                self.blocks.split_off(&last.number.saturating_add(is_known.into()));
                self.undone_to = Some(last);
            }
        }
    }

    /// The height of the final block, and the block where it was seen.
    fn final_block(&self) -> (BlockNum, Option<BlockId>) {
        let known = self.finalized.filter(|block| block.number == self.final_height);
        (self.final_height, known.or_else(|| self.blocks.get(&self.final_height).copied()))
    }

    fn latest(&self) -> Option<BlockId> {
        self.blocks.last_key_value().map(|(_, block)| *block).or(self.undone_to)
    }
}

impl HeadWatch {
    pub fn new(client: Arc<Client>) -> Self {
        Self { client, task: AsyncMutex::default(), seen: Arc::default(), moved: Arc::default() }
    }

    /// The newest block, and the newest final one.
    pub async fn head(&self) -> Result<Head, SourceError> {
        let latest = self.latest().await?;
        let (height, known) = locked(&self.seen).final_block();
        if height == 0 || height > latest.number {
            return Ok(Head { latest, finalized: None });
        }
        let finalized = match known {
            Some(block) => Some(block),
            None => self.read(height).await?,
        };
        locked(&self.seen).finalized = finalized;
        Ok(Head { latest, finalized })
    }

    /// The block at a number that is not above the head; `None` where there is none.
    pub async fn block(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        let known = locked(&self.seen).blocks.get(&number).copied();
        match known {
            Some(block) => Ok(Some(block)),
            None => self.read(number).await,
        }
    }

    /// Waits until the head has moved, as long as the stream is open.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    async fn read(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        if number < self.client.initial_block {
            return Ok(None);
        }
        let mut stream = self.client.open(From::Block(number), Some(number.saturating_add(1))).await?;
        let mut found = None;
        while let Some(said) = stream.next().await? {
            found = match said {
                Said::Block(block) if block.id.number == number => return Ok(Some(block.id)),
                Said::Block(_) => break,
                Said::Undo(_) => found,
            };
        }
        Ok(found)
    }

    /// The newest block.
    pub async fn latest(&self) -> Result<BlockId, SourceError> {
        let mut task = self.task.lock().await;
        locked(&self.seen).asked = Some(Instant::now());
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            *locked(&self.seen) = Seen { asked: Some(Instant::now()), ..Seen::default() };
            let mut stream = self.client.open(From::BelowHead(1), None).await?;
            self.settle(&mut stream).await?;
            let (seen, moved) = (Arc::downgrade(&self.seen), Arc::downgrade(&self.moved));
            *task = Some(tokio::spawn(watch(stream, seen, moved)));
        }
        drop(task);
        let latest = locked(&self.seen).latest();
        latest.ok_or_else(|| self.client.grpc.unavailable("the head: the endpoint sent no block".into()))
    }

    /// Reads the first block, and those that are there already.
    async fn settle(&self, stream: &mut Stream) -> Result<(), SourceError> {
        let mut said = stream.next().await?;
        while let Some(next) = said {
            locked(&self.seen).take(next);
            match tokio::time::timeout(SETTLE, stream.next()).await {
                Ok(next) => said = next?,
                Err(_) => break,
            }
        }
        Ok(())
    }
}

impl Drop for HeadWatch {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

/// Takes note of new blocks until the stream ends or nobody wants to know.
async fn watch(mut stream: Stream, seen: Weak<Mutex<Seen>>, moved: Weak<Notify>) {
    while let Ok(Some(said)) = stream.next().await {
        let (Some(seen), Some(moved)) = (seen.upgrade(), moved.upgrade()) else { return };
        let mut seen = locked(&seen);
        seen.take(said);
        moved.notify_waiters();
        if seen.asked.is_none_or(|asked| asked.elapsed() > IDLE) {
            return;
        }
    }
}

fn locked(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

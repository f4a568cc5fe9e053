//! The head of the chain, as the endpoint tells it: one stream of the newest blocks, kept while somebody asks.
//! Blocks near the head come with it, so that they are not asked for twice.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nozzle_core::{BlockNum, BlockRange, block::BlockLink};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    client::{Client, Step},
    order::{Received, Tail},
};
use crate::{error::SourceError, pb::sf::firehose::v2::Request};

/// A stream that nobody has asked about for so long ends.
const IDLE: Duration = Duration::from_secs(120);
/// When the stream has begun, the newest blocks come one after the other: the last is the one behind which
/// nothing comes for so long.
const SETTLED: Duration = Duration::from_millis(100);
/// How long that is waited for.
const SETTLING: Duration = Duration::from_secs(2);

/// Follows the head.
#[derive(Debug)]
pub(crate) struct Follow {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    asked: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct State {
    tail: Tail,
    final_num: Option<BlockNum>,
    /// Why the stream ended before its first block. All who wait for that hear of it.
    error: Option<Arc<SourceError>>,
    /// Whether it has ended.
    is_over: bool,
}

/// How far the chain is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// The newest block.
    pub latest: BlockLink,
    /// The number of the last final block.
    pub final_num: Option<BlockNum>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Follow {
    fn default() -> Self {
        let shared = Shared { state: watch::Sender::default(), asked: Mutex::new(Instant::now()) };
        Self { shared: Arc::new(shared), task: Mutex::default() }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        if let Some(task) = locked(&self.task).take() {
            task.abort();
        }
    }
}

impl Follow {
    /// How far the chain is now.
    pub async fn now(&self, client: &Arc<Client>) -> Result<Now, SourceError> {
        *locked(&self.shared.asked) = Instant::now();
        let is_fresh = self.start(client);
        let mut state = self.shared.state.subscribe();
        let mut now = self.told(client, &mut state).await?;
        let settling = Instant::now();
        while is_fresh && settling.elapsed() < SETTLING {
            if tokio::time::timeout(SETTLED, state.changed()).await.is_err() {
                break;
            }
            now = self.told(client, &mut state).await?;
        }
        Ok(now)
    }

    /// Waits for a block or the end of the stream, which comes at the latest when it was silent for too long.
    async fn told(&self, client: &Client, state: &mut watch::Receiver<State>) -> Result<Now, SourceError> {
        let is_told = |state: &State| state.tail.head().is_some() || state.is_over;
        loop {
            // The sender lives as long as this.
            state.wait_for(is_told).await.ok();
            let state = state.borrow_and_update();
            if let Some(head) = state.tail.head() {
                return Ok(Now { latest: head.link, final_num: state.final_num });
            }
            if state.is_over {
                return Err(state.error.as_ref().map_or_else(|| ended(client), |error| again(client, error)));
            }
        }
    }

    /// Whether a stream had to be begun.
    fn start(&self, client: &Arc<Client>) -> bool {
        let mut task = locked(&self.task);
        // One that has said that it is over does nothing more, though it may not have ended yet.
        let is_over = self.shared.state.borrow().is_over;
        if !is_over && task.as_ref().is_some_and(|task| !task.is_finished()) {
            return false;
        }
        self.shared.state.send_replace(State::default());
        *task = Some(tokio::spawn(follow(Arc::clone(client), Arc::clone(&self.shared))));
        true
    }

    /// Waits until the head moves.
    pub async fn moved(&self) {
        if self.shared.state.subscribe().changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// The block at a height near the head.
    pub fn at(&self, number: BlockNum) -> Option<BlockLink> {
        self.shared.state.borrow().tail.at(number).map(|block| block.link)
    }

    /// The blocks of a range near the head.
    pub fn all_of(&self, range: BlockRange) -> Option<Vec<Received>> {
        self.shared.state.borrow().tail.all_of(range)
    }

    /// The number of the last final block, if it is known.
    pub fn final_num(&self) -> Option<BlockNum> {
        self.shared.state.borrow().final_num
    }
}

async fn follow(client: Arc<Client>, shared: Arc<Shared>) {
    let error = read(&client, &shared).await.err();
    shared.state.send_modify(|state| {
        let was_told = state.tail.head().is_some();
        // Who asks next begins anew, and hears of it if that fails too.
        *state =
            State { error: error.filter(|_| !was_told).map(Arc::new), is_over: true, ..State::default() };
    });
}

async fn read(client: &Client, shared: &Shared) -> Result<(), SourceError> {
    // The block before the head, and from there on.
    let mut stream = client.stream(&Request { start_block_num: -1, ..Request::default() }).await??;
    let mut next = 0;
    while let Some(step) = client.next(&mut stream, next).await? {
        if let Step::New(block) = &step {
            next = block.link.number + 1;
        }
        shared.state.send_modify(|state| match step {
            Step::New(block) => {
                state.final_num =
                    block.final_num.filter(|number| *number <= block.link.number).or(state.final_num);
                state.tail.take(block);
            }
            Step::Undo(block) => state.tail.undo(&block),
        });
        if locked(&shared.asked).elapsed() > IDLE {
            return Ok(());
        }
    }
    Err(ended(client))
}

/// The error once more, for one more who has waited.
fn again(client: &Client, error: &SourceError) -> SourceError {
    match error {
        SourceError::Refused { provider, why } => {
            SourceError::Refused { provider: provider.clone(), why: why.clone() }
        }
        SourceError::Malformed { provider, block, why } => {
            SourceError::Malformed { provider: provider.clone(), block: *block, why: why.clone() }
        }
        SourceError::Unavailable { source, .. } => client.unavailable(source.to_string()),
        SourceError::PushedBack { provider, why } => {
            SourceError::PushedBack { provider: provider.clone(), why: why.clone() }
        }
        error => client.unavailable(error.with_causes()),
    }
}

fn ended(client: &Client) -> SourceError {
    client.unavailable("the stream of the newest blocks has ended".into())
}

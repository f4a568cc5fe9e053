//! A worker: claims tasks of jobs, does them, and says every second that it lives.
//!
//! ```text
//!  every second, or told of work ─► heartbeat ─► tasks lost or to end: stop them at a whole block
//!                                       │
//!                                       └─► room and work: claim ─► task (a dump of its blocks) ─► finish
//! ```
//!
//! What is done is what is committed: a task that another worker takes over goes on after its last
//! commit, and the leases of the dump keep a late commit of the former worker out.

mod report;
mod supervisor;
mod task;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures::FutureExt;
use nozzle_metadata::{
    HEARTBEAT, MetadataError, NewWorker, Pulse, Registration, Task, TaskClaim, TaskEnd, WORKER_TIMEOUT,
    WorkerHold,
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    context::{Context, holder},
    throttles::Throttles,
    upkeep::Upkeep,
};
pub use supervisor::supervise;

/// Tasks that only wait for the next block take no room, up to so many.
const MAX_TASKS: usize = 1024;

/// How long a heartbeat may take before the database counts as away.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// Between heartbeats at least: many may tell of work at once.
const MIN_PAUSE: Duration = Duration::from_millis(25);

/// Between looks at jobs and tasks that nobody has told of.
const RECONCILE: Duration = Duration::from_secs(60);

/// How long a task's end is tried to be written down while the worker is told to stop.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a worker is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name.
    pub node_id: String,
    /// The region whose providers it is near to.
    pub region: Option<String>,
    /// How many tasks it extracts at a time.
    pub max_tasks: usize,
}

impl Options {
    /// As many tasks as there are cores; with fewer than two, one that is slow would keep all others
    /// waiting.
    pub fn default_max_tasks() -> usize {
        std::thread::available_parallelism().map_or(2, usize::from).max(2)
    }
}

/// A process that has a worker's name.
pub struct Worker {
    context: Arc<Context>,
    options: Options,
    hold: WorkerHold,
    throttles: Arc<Throttles>,
}

/// A task that is being done.
struct Running {
    cancel: CancellationToken,
    /// Whether it only waits for the next block.
    is_light: Arc<AtomicBool>,
}

impl Worker {
    /// Takes the name; waits for a process that has it and has gone silent, and is refused while that
    /// lives.
    pub async fn register(
        context: Arc<Context>,
        options: Options,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        let worker = NewWorker {
            node_id: options.node_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            region: options.region.clone(),
        };
        let started = Instant::now();
        let mut has_said = false;
        loop {
            let registered = context.metadata.register_worker(&worker).await;
            let silent_for = match registered.context("registering the worker failed")? {
                Registration::Granted(hold) => {
                    let throttles = Arc::clone(&context.throttles);
                    return Ok(Some(Self { context, options, hold, throttles }));
                }
                Registration::Held { silent_for } => silent_for,
            };
            // One that lives has been heard of within two heartbeats.
            if started.elapsed() >= HEARTBEAT * 2 && silent_for < HEARTBEAT * 2 {
                bail!(
                    "another process is the worker `{}` and lives; stop it first, or choose another --node-id",
                    options.node_id
                );
            }
            if !has_said && silent_for >= HEARTBEAT * 2 {
                has_said = true;
                tracing::info!(
                    "the worker `{}` was heard of {} s ago; waiting whether it still lives",
                    options.node_id,
                    silent_for.as_secs()
                );
            }
            let pause = tokio::time::sleep(Duration::from_millis(250));
            if stop.run_until_cancelled(pause).await.is_none() {
                return Ok(None);
            }
        }
    }

    /// The name and the process that has it.
    pub fn hold(&self) -> &WorkerHold {
        &self.hold
    }

    /// Works until `stop`, then ends its tasks at whole blocks and gives the name back.
    pub async fn run(self, stop: &CancellationToken) -> anyhow::Result<()> {
        let worker = Arc::new(self);
        let holder = holder(&format!("worker --node-id {}", worker.options.node_id));
        let keeping = stop.child_token();
        let upkeep = Upkeep::new(Arc::clone(&worker.context), holder, None);
        let working = async {
            let ended = Loop::new(Arc::clone(&worker)).run(stop).await;
            keeping.cancel();
            ended
        };
        let (ended, ()) = tokio::join!(working, upkeep.run(&keeping));
        let retired = timeout(LAST_WORDS, worker.context.metadata.retire_worker(&worker.hold)).await;
        if !matches!(retired, Ok(Ok(()))) {
            tracing::warn!("the end of the worker could not be written down; others notice within seconds");
        }
        ended
    }

    /// Does a task and writes down how it ended.
    async fn work(
        self: Arc<Self>,
        task: Task,
        cancel: CancellationToken,
        is_light: Arc<AtomicBool>,
    ) -> TaskClaim {
        let claim = task.claim;
        // A defect in one task is no reason to end the others.
        let run = AssertUnwindSafe(task::run(&self, &task, &cancel, is_light)).catch_unwind().await;
        let end = run.unwrap_or_else(|_| TaskEnd::Failed {
            why: "a defect of the program ended it; the worker's log says where".into(),
        });
        report::ended(&task, &end);
        let mut cancelled_at = None;
        loop {
            match timeout(HEARTBEAT_TIMEOUT, self.context.metadata.finish_task(claim, &end)).await {
                Ok(Ok(is_ours)) => {
                    if !is_ours {
                        tracing::info!("{claim} of job {} has gone to another worker", task.job.id);
                    }
                    return claim;
                }
                Ok(Err(error)) if !matches!(error, MetadataError::Unavailable { .. }) => {
                    tracing::error!(%error, "the end of {claim} cannot be written down");
                    // As if it had died: the task is claimed again.
                    return claim;
                }
                Ok(Err(_)) | Err(_) => {}
            }
            if cancel.is_cancelled() && cancelled_at.get_or_insert_with(Instant::now).elapsed() > LAST_WORDS {
                return claim;
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }
}

/// What the loop of a worker remembers.
struct Loop {
    worker: Arc<Worker>,
    running: HashMap<TaskClaim, Running>,
    tasks: JoinSet<TaskClaim>,
    /// Since when the database has answered; `None` while it is away.
    up_since: Option<Instant>,
    /// When a heartbeat was last answered.
    last_beat: Instant,
    has_said_down: bool,
}

impl Loop {
    fn new(worker: Arc<Worker>) -> Self {
        let now = Instant::now();
        let (running, tasks) = (HashMap::new(), JoinSet::new());
        Self { worker, running, tasks, up_since: Some(now), last_beat: now, has_said_down: false }
    }

    async fn run(mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let metadata = Arc::clone(&self.worker.context.metadata);
        let mut work = metadata.work();
        let mut ticks = tokio::time::interval(HEARTBEAT);
        let mut reconcile = tokio::time::interval(RECONCILE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_stopping = false;
        loop {
            let is_told = tokio::select! {
                Some(ended) = self.tasks.join_next() => {
                    let claim = ended.context("a task ended by a defect of the program")?;
                    self.running.remove(&claim);
                    !is_stopping
                }
                _ = ticks.tick() => true,
                told = work.changed(), if !is_stopping => {
                    tokio::time::sleep(MIN_PAUSE).await;
                    work.borrow_and_update();
                    told.is_ok()
                }
                _ = reconcile.tick() => {
                    if !matches!(timeout(HEARTBEAT_TIMEOUT, metadata.settle_jobs()).await, Ok(Ok(()))) {
                        tracing::debug!("jobs could not be settled");
                    }
                    false
                }
                () = stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    self.running.values().for_each(|task| task.cancel.cancel());
                    false
                }
            };
            if is_stopping && self.running.is_empty() {
                return Ok(());
            }
            if is_told {
                self.beat(is_stopping).await?;
            }
        }
    }

    /// One heartbeat, and what follows from it.
    async fn beat(&mut self, is_stopping: bool) -> anyhow::Result<()> {
        let hold = &self.worker.hold;
        // After the database was away all workers have been silent, and none of them is dead for it. The
        // same where this one was: it does not know what has happened.
        if self.last_beat.elapsed() > HEARTBEAT_TIMEOUT {
            self.up_since = self.up_since.map(|_| Instant::now());
        }
        let may_take_over = self.up_since.is_some_and(|since| since.elapsed() >= WORKER_TIMEOUT);
        let beat = self.worker.context.metadata.heartbeat(hold, may_take_over);
        let pulse = match timeout(HEARTBEAT_TIMEOUT, beat).await {
            Ok(Ok(Some(pulse))) => pulse,
            Ok(Ok(None)) => {
                self.running.values().for_each(|task| task.cancel.cancel());
                bail!("another process has become the worker `{}` while this one was silent", hold.node_id);
            }
            Ok(Err(error @ (MetadataError::Schema(_) | MetadataError::Corrupt { .. }))) => {
                return Err(error).context("the worker cannot say that it lives");
            }
            away => {
                self.away(away.ok().and_then(Result::err));
                return Ok(());
            }
        };
        if self.up_since.is_none() {
            tracing::info!("the metadata database is back");
            self.has_said_down = false;
        }
        self.up_since.get_or_insert_with(Instant::now);
        self.last_beat = Instant::now();
        self.heed(&pulse).await;
        if pulse.has_work && !is_stopping {
            self.claim(may_take_over).await;
        }
        Ok(())
    }

    fn away(&mut self, error: Option<MetadataError>) {
        self.up_since = None;
        if !self.has_said_down {
            self.has_said_down = true;
            let why = error.map_or("it does not answer".to_owned(), |error| error.to_string());
            tracing::warn!("the metadata database is away, trying again: {why}");
        }
    }

    /// Ends what is lost or to end, and keeps to its share of the providers' limits.
    async fn heed(&mut self, pulse: &Pulse) {
        for (claim, task) in &self.running {
            let held = pulse.held.iter().find(|(held, _)| held == claim);
            if held.is_none_or(|(_, is_to_end)| *is_to_end) {
                task.cancel.cancel();
            }
        }
        // A claim whose answer was lost on the way: nobody does that task.
        for (claim, _) in pulse.held.iter().filter(|(held, _)| !self.running.contains_key(held)) {
            let released = self.worker.context.metadata.finish_task(*claim, &TaskEnd::Released);
            if !matches!(timeout(HEARTBEAT_TIMEOUT, released).await, Ok(Ok(_))) {
                tracing::debug!("{claim} could not be given back");
            }
        }
        self.worker.throttles.share(&pulse.sharing);
    }

    async fn claim(&mut self, may_take_over: bool) {
        let busy = self.running.values().filter(|task| !task.is_light.load(Ordering::Relaxed)).count();
        let room = self.worker.options.max_tasks.saturating_sub(busy);
        let room = room.min(MAX_TASKS.saturating_sub(self.running.len()));
        if room == 0 {
            return;
        }
        let limit = u32::try_from(room).unwrap_or(u32::MAX);
        let claim = self.worker.context.metadata.claim_tasks(&self.worker.hold, limit, may_take_over);
        let tasks = match timeout(HEARTBEAT_TIMEOUT, claim).await {
            Ok(Ok(tasks)) => tasks,
            // What was claimed nevertheless is given back at the next heartbeat.
            Ok(Err(error)) => return tracing::debug!(%error, "no task could be claimed"),
            Err(_) => return tracing::debug!("no task could be claimed in time"),
        };
        for task in tasks {
            let running = Running { cancel: CancellationToken::new(), is_light: Arc::default() };
            let work =
                Arc::clone(&self.worker).work(task.clone(), running.cancel.clone(), running.is_light.clone());
            self.tasks.spawn(work);
            self.running.insert(task.claim, running);
        }
    }
}

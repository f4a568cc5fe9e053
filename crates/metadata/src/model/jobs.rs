//! Jobs, their tasks, and the workers that do them, as values.

use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use nozzle_core::{BlockNum, BlockRange, DatasetKind, Network, RevisionId};

use super::{Dataset, DatasetId, Fence, JobId, TaskId};

/// How long a worker may be silent before it counts as dead, by the database's clock.
pub const WORKER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobStatus {
    /// No worker has taken it yet.
    Scheduled,
    /// A worker has taken it.
    Running,
    /// All that it was asked for is stored.
    Completed,
    /// It failed for a reason that does not pass.
    Failed,
    /// It was asked to stop; its workers do not know yet.
    StopRequested,
    /// Its workers end at the next whole block.
    Stopping,
    /// It was stopped. What was committed stays.
    Stopped,
}

impl JobStatus {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Scheduled,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::StopRequested,
        Self::Stopping,
        Self::Stopped,
    ];

    /// The states that a job does not leave any more.
    pub const TERMINAL: [Self; 3] = [Self::Completed, Self::Failed, Self::Stopped];

    /// Its name, as it is stored and told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "SCHEDULED",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::StopRequested => "STOP_REQUESTED",
            Self::Stopping => "STOPPING",
            Self::Stopped => "STOPPED",
        }
    }

    /// Whether the job has ended.
    pub fn is_terminal(self) -> bool {
        Self::TERMINAL.contains(&self)
    }

    /// Whether the job is to end without being complete.
    pub fn is_stopping(self) -> bool {
        matches!(self, Self::StopRequested | Self::Stopping)
    }
}

impl FromStr for JobStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|status| status.as_str() == text);
        found.ok_or_else(|| format!("`{text}`, which is not the status of a job"))
    }
}

/// A job to be scheduled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// The dataset.
    pub dataset: DatasetId,
    /// What is asked for, in canonical JSON: the same text means the same request.
    pub descriptor: String,
}

/// What became of a request for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheduled {
    /// It is a new one.
    New(JobId),
    /// The same request is live already.
    Same(JobId),
    /// Another request for the dataset is live: this job.
    Conflict(JobId),
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The dataset.
    pub dataset: Dataset,
    /// What is asked for, in canonical JSON.
    pub descriptor: String,
    /// Where it is.
    pub status: JobStatus,
    /// The newest failure: why it failed, or what is being waited out.
    pub error: Option<String>,
    /// The revision that it writes, once that is settled.
    pub revision: Option<RevisionId>,
    /// Its last block, once that is settled; `None` also where it follows the head.
    pub end_block: Option<BlockNum>,
    /// The worker that has its head task, or had it last.
    pub node_id: Option<String>,
    /// When it was scheduled.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// Which jobs are wanted, newest first.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Of these states; empty: of all.
    pub statuses: Vec<JobStatus>,
    /// Of this dataset.
    pub dataset: Option<DatasetId>,
    /// Older than this one.
    pub before: Option<JobId>,
    /// So many at most.
    pub limit: u32,
}

/// What became of the wish to change a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobChange {
    /// It is done; the job's status now.
    Done(JobStatus),
    /// The job's status does not allow it.
    Conflict(JobStatus),
    /// There is no such job.
    Missing,
}

/// What a task has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// Plans the job, does what lies above the final blocks, and decides when the job is complete. Each
    /// job has one.
    Head,
    /// Extracts these blocks, which were final when they were planned.
    Range(BlockRange),
}

/// A claimed task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The claim.
    pub claim: TaskClaim,
    /// What is to be done.
    pub kind: TaskKind,
    /// How often it has failed in a way that may pass.
    pub attempts: u32,
    /// The job that it is a part of.
    pub job: Job,
}

/// A task and the claim on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskClaim {
    /// The task.
    pub task: TaskId,
    /// The claim's number.
    pub fence: Fence,
}

/// How a job is cut, as its head task has found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPlan {
    /// The revision that it writes.
    pub revision: RevisionId,
    /// Its last block; `None` where it follows the head.
    pub end_block: Option<BlockNum>,
    /// What others may extract meanwhile: a task each.
    pub ranges: Vec<BlockRange>,
}

/// How a worker leaves a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEnd {
    /// A range is stored; or, of a head task, the job is complete. A revision that the job was building is
    /// then the one that is read.
    Done,
    /// The head task waits until the job's ranges are stored, and is then claimed again.
    Waiting,
    /// It was not finished, and anybody may go on with it at once: the worker was told to stop.
    Released,
    /// It failed in a way that may pass: to be claimed again after a while.
    Retry {
        /// What failed.
        why: String,
        /// How long to wait.
        after: Duration,
    },
    /// It failed in a way that does not pass; the whole job has failed.
    Failed {
        /// Why.
        why: String,
    },
}

/// A process that wants to be a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWorker {
    /// Its name.
    pub node_id: String,
    /// The program's version.
    pub version: String,
    /// Where it runs.
    pub region: Option<String>,
}

/// A process that is a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerHold {
    /// Its name.
    pub node_id: String,
    /// The process among those that have had the name.
    pub fence: Fence,
}

/// Whether a process may be the worker of the name it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    /// It is.
    Granted(WorkerHold),
    /// Another process has the name and was last heard of so long ago.
    Held {
        /// How long ago.
        silent_for: Duration,
    },
}

/// A worker, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Its name.
    pub node_id: String,
    /// When its process started.
    pub started_at: DateTime<Utc>,
    /// When it was last heard of.
    pub last_heartbeat: DateTime<Utc>,
    /// Whether it lives: it has not ended and was heard of within [`WORKER_TIMEOUT`].
    pub is_alive: bool,
    /// The program's version.
    pub version: String,
    /// Where it runs.
    pub region: Option<String>,
    /// The tasks that it holds.
    pub running_tasks: u64,
}

/// What a worker is told when it says that it lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulse {
    /// The tasks that it holds, and whether each is to end.
    pub held: Vec<(TaskClaim, bool)>,
    /// Whether there is a task to claim.
    pub has_work: bool,
    /// For the chains of its tasks: how many live workers have tasks of each. They share the limits of
    /// its providers.
    pub sharing: Vec<(DatasetKind, Network, u64)>,
}

impl fmt::Display for TaskClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} (claim {})", self.task, self.fence)
    }
}

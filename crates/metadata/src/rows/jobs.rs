//! Rows of jobs, tasks and workers.

use chrono::{DateTime, Utc};
use nozzle_core::RevisionId;
use sqlx::FromRow;
use uuid::Uuid;

use super::{DatasetRow, Read, corrupt, parse, range, unsigned};
use crate::model::*;

/// A status as it is stored.
pub(crate) fn status(text: &str) -> Read<JobStatus> {
    parse("status", text)
}

#[derive(Debug, FromRow)]
pub(crate) struct JobRow {
    job_id: i64,
    descriptor: String,
    job_status: String,
    job_error: Option<String>,
    job_revision: Option<Uuid>,
    job_end: Option<i64>,
    job_node: Option<String>,
    job_created_at: DateTime<Utc>,
    job_updated_at: DateTime<Utc>,
    #[sqlx(flatten)]
    dataset: DatasetRow,
}

impl JobRow {
    pub(crate) fn read(self) -> Read<Job> {
        Ok(Job {
            id: JobId(self.job_id),
            dataset: self.dataset.read()?,
            descriptor: self.descriptor,
            status: status(&self.job_status)?,
            error: self.job_error,
            revision: self.job_revision.map(RevisionId),
            end_block: self.job_end.map(|end| unsigned("end_block", end)).transpose()?,
            node_id: self.job_node,
            created_at: self.job_created_at,
            updated_at: self.job_updated_at,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct TaskRow {
    task_id: i64,
    task_fence: i64,
    task_kind: String,
    start_block: Option<i64>,
    end_block: Option<i64>,
    attempts: i64,
    #[sqlx(flatten)]
    job: JobRow,
}

impl TaskRow {
    pub(crate) fn read(self) -> Read<Task> {
        let kind = match (self.task_kind.as_str(), self.start_block.zip(self.end_block)) {
            ("head", None) => TaskKind::Head,
            ("range", Some((start, end))) => TaskKind::Range(range(start, end)?),
            (other, _) => return corrupt(format!("a task's kind is `{other}`")),
        };
        Ok(Task {
            claim: TaskClaim { task: TaskId(self.task_id), fence: Fence(self.task_fence) },
            kind,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            job: self.job.read()?,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct WorkerRow {
    node_id: String,
    started_at: DateTime<Utc>,
    heartbeat_at: DateTime<Utc>,
    version: String,
    region: Option<String>,
    is_alive: bool,
    running_tasks: i64,
}

impl WorkerRow {
    pub(crate) fn read(self) -> Read<Worker> {
        Ok(Worker {
            node_id: self.node_id,
            started_at: self.started_at,
            last_heartbeat: self.heartbeat_at,
            is_alive: self.is_alive,
            version: self.version,
            region: self.region,
            running_tasks: unsigned("running_tasks", self.running_tasks)?,
        })
    }
}

/// What a heartbeat gives: lists as JSON, so that all of it is one row of one statement.
#[derive(Debug, FromRow)]
pub(crate) struct PulseRow {
    held: Option<String>,
    has_work: bool,
    sharing: Option<String>,
}

impl PulseRow {
    pub(crate) fn read(self) -> Read<Pulse> {
        let held: Vec<(i64, i64, String)> = list("held", self.held)?;
        let sharing: Vec<(String, String, u64)> = list("sharing", self.sharing)?;
        let task = |(task, fence, job): (i64, i64, String)| {
            let is_to_end = !matches!(status(&job)?, JobStatus::Scheduled | JobStatus::Running);
            Ok((TaskClaim { task: TaskId(task), fence: Fence(fence) }, is_to_end))
        };
        let chain = |(kind, network, workers): (String, String, u64)| {
            Ok((parse("kind", &kind)?, parse("network", &network)?, workers))
        };
        Ok(Pulse {
            held: held.into_iter().map(task).collect::<Read<_>>()?,
            has_work: self.has_work,
            sharing: sharing.into_iter().map(chain).collect::<Read<_>>()?,
        })
    }
}

fn list<T: serde::de::DeserializeOwned>(what: &str, json: Option<String>) -> Read<Vec<T>> {
    let Some(json) = json else { return Ok(vec![]) };
    serde_json::from_str(&json).or_else(|error| corrupt(format!("{what} does not read: {error}")))
}

//! `/jobs`: what workers do.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use nozzle_core::RevisionId;
use nozzle_metadata::{Coverage, HEARTBEAT, Job, JobChange, JobFilter, JobId, JobStatus, WORKER_TIMEOUT};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    Admin,
    error::{AdminError, Code},
    request::{InPath, Limit, Params, cut, id},
};
use crate::definitions;

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobAnswer {
    id: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// The worker that has its head task, or had it last; null where none has had it.
    node_id: Option<String>,
    #[schema(value_type = String, example = "RUNNING")]
    status: &'static str,
    /// What was asked for, with the dataset.
    #[schema(value_type = Object)]
    descriptor: Value,
    progress: Progress,
    /// Why it failed, or what is being waited out.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How far a job is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Progress {
    tables: BTreeMap<String, TableProgress>,
}

/// How far a table of a job is.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableProgress {
    start_block: u64,
    /// The last block of the linked run that is stored; null where nothing is.
    current_block: Option<u64>,
    /// Null where the head is followed, or it is not settled yet.
    end_block: Option<u64>,
    rows: u64,
    bytes: u64,
    files: u64,
}

/// A page of jobs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobList {
    jobs: Vec<JobAnswer>,
    /// Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<i64>,
}

/// Which jobs are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WhichJobs {
    /// A status such as `running`, or `terminal` for all that have ended, or `active` for the others.
    status: Option<String>,
    /// The `next_cursor` of the page before.
    last_job_id: Option<i64>,
    /// How many at most, from 1 to 1000; 50 where it is absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Which jobs are to be deleted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EndedJobs {
    /// `terminal`, `completed`, `stopped` or `failed`.
    status: Option<String>,
}

fn statuses(word: &str) -> Result<Vec<JobStatus>, AdminError> {
    let word = word.to_ascii_uppercase();
    match word.as_str() {
        "TERMINAL" => return Ok(JobStatus::TERMINAL.to_vec()),
        "ACTIVE" => return Ok(JobStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect()),
        "ERROR" => return Ok(vec![JobStatus::Failed]),
        _ => {}
    }
    word.parse().map(|status| vec![status]).map_err(|_| {
        let known = JobStatus::ALL.map(JobStatus::as_str).join(", ");
        AdminError::new(Code::InvalidRequest, format!("`status` must be one of {known}, TERMINAL, ACTIVE"))
    })
}

impl Admin {
    /// Jobs as answers, with how far they are.
    pub async fn job_answers(&self, jobs: Vec<Job>) -> Result<Vec<JobAnswer>, AdminError> {
        let revisions: Vec<RevisionId> = jobs.iter().filter_map(|job| job.revision).collect();
        let stored =
            if revisions.is_empty() { vec![] } else { self.context.metadata.coverage(&revisions).await? };
        let mut by_revision: BTreeMap<RevisionId, Vec<&Coverage>> = BTreeMap::new();
        for covered in &stored {
            by_revision.entry(covered.revision).or_default().push(covered);
        }
        let answer = |job: Job| {
            let tables = job.revision.and_then(|revision| by_revision.get(&revision));
            answer(job, tables.map_or(&[][..], Vec::as_slice))
        };
        Ok(jobs.into_iter().map(answer).collect())
    }

    /// Should the worker have died a moment ago, nobody else would stop the job before another one looks.
    fn settle_later(&self) {
        let context = std::sync::Arc::clone(&self.context);
        tokio::spawn(async move {
            tokio::time::sleep(WORKER_TIMEOUT + HEARTBEAT).await;
            if let Err(error) = context.metadata.settle_jobs().await {
                tracing::debug!(%error, "jobs could not be settled");
            }
        });
    }

    async fn job(&self, text: &str) -> Result<JobAnswer, AdminError> {
        let job = JobId(id(text, Code::InvalidJobId)?);
        let found = self.context.metadata.job(job).await?.ok_or_else(|| not_found(job))?;
        self.job_answers(vec![found]).await?.pop().ok_or_else(|| not_found(job))
    }
}

fn not_found(job: JobId) -> AdminError {
    AdminError::new(Code::JobNotFound, format!("there is no job {job}"))
}

fn answer(job: Job, stored: &[&Coverage]) -> JobAnswer {
    let start_block = definitions::of_dataset(&job.dataset).map_or(0, |manifest| manifest.start_block());
    let table = |covered: &&Coverage| {
        let progress = TableProgress {
            start_block,
            current_block: covered.linked_from(start_block),
            end_block: job.end_block,
            rows: covered.totals.rows,
            bytes: covered.totals.bytes,
            files: covered.totals.files,
        };
        (covered.table.to_string(), progress)
    };
    let tables = stored.iter().map(table).collect();
    let mut descriptor: Value = serde_json::from_str(&job.descriptor).unwrap_or_default();
    if let Some(keys) = descriptor.as_object_mut() {
        keys.insert("dataset".into(), job.dataset.name.to_string().into());
        keys.insert("dataset_version".into(), job.dataset.version.to_string().into());
    }
    JobAnswer {
        id: job.id.0,
        created_at: job.created_at,
        updated_at: job.updated_at,
        node_id: job.node_id,
        status: job.status.as_str(),
        descriptor,
        progress: Progress { tables },
        error: job.error,
    }
}

/// Lists jobs, newest first.
#[utoipa::path(get, path = "/jobs", tag = "jobs", params(WhichJobs), responses(
    (status = 200, body = JobList), (status = "default", description = "an error", body = AdminError)))]
pub async fn list(
    State(admin): State<Admin>,
    Params(which): Params<WhichJobs>,
) -> Result<Json<JobList>, AdminError> {
    let limit = Limit { limit: which.limit }.get()?;
    let filter = JobFilter {
        statuses: which.status.as_deref().map(statuses).transpose()?.unwrap_or_default(),
        before: which.last_job_id.map(JobId),
        limit: limit + 1,
        ..JobFilter::default()
    };
    let mut jobs = admin.context.metadata.jobs(&filter).await?;
    let next_cursor = cut(&mut jobs, limit, |job| job.id.0);
    Ok(Json(JobList { jobs: admin.job_answers(jobs).await?, next_cursor }))
}

/// Shows a job.
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", params(("id" = i64, Path)), responses(
    (status = 200, body = JobAnswer), (status = "default", description = "an error", body = AdminError)))]
pub async fn show(
    State(admin): State<Admin>,
    InPath(id): InPath<String>,
) -> Result<Json<JobAnswer>, AdminError> {
    Ok(Json(admin.job(&id).await?))
}

/// Asks a job to stop: its workers end at the next whole block, and what they have committed stays.
#[utoipa::path(put, path = "/jobs/{id}/stop", tag = "jobs", params(("id" = i64, Path)), responses(
    (status = 200, body = JobAnswer), (status = "default", description = "an error", body = AdminError)))]
pub async fn stop(
    State(admin): State<Admin>,
    InPath(text): InPath<String>,
) -> Result<Json<JobAnswer>, AdminError> {
    let job = JobId(id(&text, Code::InvalidJobId)?);
    match admin.context.metadata.stop_job(job).await? {
        JobChange::Done(status) => {
            if !status.is_terminal() {
                admin.settle_later();
            }
            Ok(Json(admin.job(&text).await?))
        }
        JobChange::Missing => Err(not_found(job)),
        JobChange::Conflict(status) => Err(AdminError::new(
            Code::JobConflict,
            format!("the job {job} has ended: it is {}", status.as_str()),
        )),
    }
}

/// Deletes a job that has ended. What it has stored stays.
#[utoipa::path(delete, path = "/jobs/{id}", tag = "jobs", params(("id" = i64, Path)), responses(
    (status = 204), (status = "default", description = "an error", body = AdminError)))]
pub async fn delete(
    State(admin): State<Admin>,
    InPath(text): InPath<String>,
) -> Result<StatusCode, AdminError> {
    let job = JobId(id(&text, Code::InvalidJobId)?);
    match admin.context.metadata.delete_job(job).await? {
        JobChange::Done(_) => Ok(StatusCode::NO_CONTENT),
        JobChange::Missing => Err(not_found(job)),
        JobChange::Conflict(status) => Err(AdminError::new(
            Code::JobConflict,
            format!("the job {job} is {}; stop it first", status.as_str()),
        )),
    }
}

/// Deletes the jobs that have ended in one way, or in any.
#[utoipa::path(delete, path = "/jobs", tag = "jobs", params(EndedJobs), responses(
    (status = 204), (status = "default", description = "an error", body = AdminError)))]
pub async fn delete_ended(
    State(admin): State<Admin>,
    Params(which): Params<EndedJobs>,
) -> Result<StatusCode, AdminError> {
    let unsaid =
        || AdminError::new(Code::InvalidRequest, "`status` must be terminal, completed, stopped or failed");
    let wanted = statuses(which.status.as_deref().ok_or_else(unsaid)?)?;
    if wanted.iter().any(|status| !status.is_terminal()) {
        return Err(unsaid());
    }
    admin.context.metadata.delete_jobs(&wanted).await?;
    Ok(StatusCode::NO_CONTENT)
}

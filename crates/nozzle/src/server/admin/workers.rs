//! `/workers`: who does the jobs.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use nozzle_metadata::Worker;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Admin,
    error::{AdminError, Code},
    request::{InPath, Limit, Params, page},
};

/// A worker.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Worker)]
pub struct WorkerAnswer {
    node_id: String,
    started_at: DateTime<Utc>,
    last_heartbeat: DateTime<Utc>,
    /// Whether it was heard of within five seconds, and has not ended.
    alive: bool,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    running_tasks: u64,
}

impl From<Worker> for WorkerAnswer {
    fn from(worker: Worker) -> Self {
        let Worker { node_id, started_at, last_heartbeat, is_alive, version, region, running_tasks } = worker;
        Self { node_id, started_at, last_heartbeat, alive: is_alive, version, region, running_tasks }
    }
}

/// A page of workers, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerList {
    workers: Vec<WorkerAnswer>,
    /// Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// The cursor of a list of workers.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AfterWorker {
    /// The `next_cursor` of the page before.
    last_node_id: Option<String>,
    /// How many at most, from 1 to 1000; 50 where it is absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Lists the workers that ever were.
#[utoipa::path(get, path = "/workers", tag = "workers", params(AfterWorker), responses(
    (status = 200, body = WorkerList), (status = "default", description = "an error", body = AdminError)))]
pub async fn list(
    State(admin): State<Admin>,
    Params(after): Params<AfterWorker>,
) -> Result<Json<WorkerList>, AdminError> {
    let limit = Limit { limit: after.limit }.get()?;
    let all = admin.context.metadata.workers().await?;
    let (workers, next_cursor) =
        page(all, after.last_node_id.as_ref(), limit, |worker| worker.node_id.clone());
    Ok(Json(WorkerList { workers: workers.into_iter().map(Into::into).collect(), next_cursor }))
}

/// Shows a worker.
#[utoipa::path(get, path = "/workers/{node_id}", tag = "workers", params(("node_id" = String, Path)), responses(
    (status = 200, body = WorkerAnswer), (status = "default", description = "an error", body = AdminError)))]
pub async fn show(
    State(admin): State<Admin>,
    InPath(node_id): InPath<String>,
) -> Result<Json<WorkerAnswer>, AdminError> {
    let all = admin.context.metadata.workers().await?;
    let found = all.into_iter().find(|worker| worker.node_id == node_id);
    found.map(|worker| Json(worker.into())).ok_or_else(|| {
        AdminError::new(
            Code::WorkerNotFound,
            "there is no worker of that name; GET /workers lists those that there are",
        )
    })
}

//! `/health`, `/ready` and `/metrics`.

use std::fmt::Write as _;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use nozzle_metadata::JobStatus;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Admin,
    error::{AdminError, Code},
};

/// That all is well.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    #[schema(value_type = String, example = "ok")]
    status: &'static str,
}

/// Whether the process lives and answers.
#[utoipa::path(get, path = "/health", tag = "health", responses(
    (status = 200, body = Health), (status = "default", description = "an error", body = AdminError)))]
pub async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether the metadata database and the store of the data can be reached.
#[utoipa::path(get, path = "/ready", tag = "health", responses(
    (status = 200, body = Health), (status = "default", description = "an error", body = AdminError)))]
pub async fn ready(State(admin): State<Admin>) -> Result<Json<Health>, AdminError> {
    admin.context.metadata.sequence().await?;
    if let Err(error) = admin.context.reach_store().await {
        return Err(AdminError::new(Code::Unavailable, format!("the store of the data is away: {error:#}")));
    }
    Ok(health().await)
}

/// Numbers of this deployment, as Prometheus reads them.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, content_type = "text/plain", body = String),
    (status = "default", description = "an error", body = AdminError)))]
pub async fn metrics(State(admin): State<Admin>) -> Result<Response, AdminError> {
    let metadata = admin.context.metadata.as_ref();
    let mut text = String::new();
    gauge(&mut text, "nozzle_commit_sequence", "The number of the newest commit.");
    let _ = writeln!(text, "nozzle_commit_sequence {}", metadata.sequence().await?);
    gauge(&mut text, "nozzle_jobs", "Jobs by their status.");
    let counts = metadata.count_jobs().await?;
    for status in JobStatus::ALL {
        let count = counts.iter().find(|(counted, _)| *counted == status).map_or(0, |(_, count)| *count);
        let _ = writeln!(text, "nozzle_jobs{{status=\"{}\"}} {count}", status.as_str());
    }
    let workers = metadata.workers().await?;
    gauge(&mut text, "nozzle_workers_alive", "Workers that were heard of within five seconds.");
    let alive = workers.iter().filter(|worker| worker.is_alive).count();
    let _ = writeln!(text, "nozzle_workers_alive {alive}");
    gauge(&mut text, "nozzle_worker_tasks", "Tasks that a worker holds.");
    for worker in workers.iter().filter(|worker| worker.is_alive) {
        let _ =
            writeln!(text, "nozzle_worker_tasks{{node_id=\"{}\"}} {}", worker.node_id, worker.running_tasks);
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, text).into_response())
}

fn gauge(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

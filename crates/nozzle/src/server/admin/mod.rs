//! The Admin API: datasets, jobs, workers, stored files and providers over HTTP.
//!
//! One module a resource; what a route takes and gives is described where it is written, and the
//! OpenAPI document is made from that.

mod datasets;
mod docs;
mod error;
mod health;
mod jobs;
mod locations;
mod providers;
mod request;
mod schema;
mod workers;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{Method, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use nozzle_metadata::{CommitSeq, MetadataError};
use serde_json::Value;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use health::health;

use self::error::{AdminError, Code};
use super::{auth::Gate, query::Queries};
use crate::{config::Role, context::Context, stores};

/// For how long it is believed whether the store can be written.
const STORE_MEMORY: Duration = Duration::from_secs(60);

/// How long the store may take to say so.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the routes work on.
#[derive(Debug, Clone)]
pub struct Admin {
    context: Arc<Context>,
    queries: Arc<Queries>,
    /// Whether this process also does jobs.
    has_worker: bool,
    /// Whether the store can only be read, and when that was found out.
    store: Arc<Mutex<Option<(Instant, bool)>>>,
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Nozzle Admin API",
    description = "Datasets, jobs, workers, stored files and providers. Times are RFC 3339 in UTC."
))]
struct Document;

impl Admin {
    /// The routes' state.
    pub fn new(context: Arc<Context>, queries: Arc<Queries>, has_worker: bool) -> Self {
        Self { context, queries, has_worker, store: Arc::default() }
    }

    /// Refuses where nothing can be written: that a request would fail for another reason too does not
    /// matter then.
    async fn check_writable(&self) -> Result<(), AdminError> {
        let tried = self.context.metadata.skip_sequence(CommitSeq(-1)).await;
        // What else is wrong shows where it matters.
        if let Err(error @ MetadataError::ReadOnly { .. }) = tried {
            return Err(error.into());
        }
        let known = *self.store.lock().await;
        let is_read_only = match known {
            Some((at, is_read_only)) if at.elapsed() < STORE_MEMORY => is_read_only,
            _ => {
                let config = &self.context.config;
                let asked = stores::is_read_only(&config.data_dir, &config.base, &self.context.stores);
                // A store that is away is no reason to refuse: what needs it says so.
                let found = timeout(STORE_TIMEOUT, asked).await.unwrap_or(false);
                *self.store.lock().await = Some((Instant::now(), found));
                found
            }
        };
        if is_read_only {
            let why = "the store of the data can only be read here";
            return Err(AdminError::new(Code::ReadOnly, why));
        }
        Ok(())
    }
}

/// The routes with their description.
fn described() -> (Router<Admin>, Value) {
    let (routes, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(datasets::list, datasets::register))
        .routes(routes!(datasets::show, datasets::delete))
        .routes(routes!(datasets::versions))
        .routes(routes!(datasets::show_version, datasets::delete_version))
        .routes(routes!(datasets::dump))
        .routes(routes!(datasets::dump_version))
        .routes(routes!(jobs::list, jobs::delete_ended))
        .routes(routes!(jobs::show, jobs::delete))
        .routes(routes!(jobs::stop))
        .routes(routes!(workers::list))
        .routes(routes!(workers::show))
        .routes(routes!(locations::list))
        .routes(routes!(locations::show, locations::delete))
        .routes(routes!(locations::files))
        .routes(routes!(locations::files_of_dataset))
        .routes(routes!(locations::file))
        .routes(routes!(providers::list, providers::create))
        .routes(routes!(providers::show, providers::replace, providers::delete))
        .routes(routes!(schema::schema))
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .split_for_parts();
    let mut document = serde_json::to_value(document).unwrap_or_default();
    name_errors(&mut document);
    (routes, document)
}

/// Puts the statuses of the errors that a route can have in the place of `default`, where it is described.
fn name_errors(document: &mut Value) {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            let is_open = is_open(path);
            let writes = method != "get" && path != "/schema";
            let takes = operation["parameters"].is_array() || operation["requestBody"].is_object();
            let names_something = path.contains('{') || path == "/files" || path == "/schema";
            let Some(responses) = operation["responses"].as_object_mut() else { continue };
            let Some(error) = responses.remove("default") else { continue };
            let statuses = [
                ("400", takes),
                ("401", !is_open),
                ("403", !is_open),
                ("404", names_something),
                ("408", method != "get"),
                ("409", writes),
                ("413", method != "get"),
                ("500", true),
                ("503", path != "/health"),
                ("504", path == "/schema"),
            ];
            for (status, _) in statuses.into_iter().filter(|(_, can_be)| *can_be) {
                responses.insert(status.to_owned(), error.clone());
            }
        }
    }
}

/// Whether a route needs no token.
fn is_open(path: &str) -> bool {
    matches!(path, "/health" | "/ready" | "/docs" | "/openapi.json")
}

/// The routes.
pub fn router(admin: Admin, gate: Gate) -> Router {
    let (routes, document) = described();
    let page = docs::page(&document);
    let document: Arc<Value> = Arc::new(document);
    routes
        .route("/openapi.json", get(async move || Json(Value::clone(&document))))
        .route("/docs", get(async move || Html(page)))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state((admin.clone(), gate), guard))
        .with_state(admin)
}

/// Who may ask, and whether anything can be written.
async fn guard(State((admin, gate)): State<(Admin, Gate)>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !is_open(path)
        && let Err(error) = gate.check(request.headers(), Role::Admin)
    {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (challenge, AdminError::from(error)).into_response();
    }
    let writes = [Method::POST, Method::PUT, Method::DELETE].contains(request.method()) && path != "/schema";
    if writes && let Err(error) = admin.check_writable().await {
        return error.into_response();
    }
    next.run(request).await
}

async fn no_route() -> AdminError {
    AdminError::new(Code::NotFound, "there is no such route; GET /docs lists them")
}

async fn wrong_method() -> AdminError {
    AdminError::new(Code::MethodNotAllowed, "the route is not for this method; GET /docs lists them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_once_with_its_errors() {
        let (_, document) = described();
        let paths = document["paths"].as_object().expect("paths");
        let operations = paths.values().flat_map(|methods| methods.as_object().expect("methods").values());
        let mut count = 0;
        for operation in operations {
            let responses = &operation["responses"];
            assert!(responses["500"].is_object() && responses["default"].is_null(), "{operation}");
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{operation}");
            count += 1;
        }
        assert_eq!(count, 31);
        let page = docs::page(&document);
        assert!(paths.keys().all(|path| page.contains(path.as_str())));
    }
}

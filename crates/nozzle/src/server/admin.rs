//! The Admin API: today only whether the process lives.

use axum::{Json, Router, routing::get};
use serde_json::{Value, json};

/// The routes.
pub fn router() -> Router {
    Router::new().route("/health", get(health))
}

/// The process lives and answers.
pub async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

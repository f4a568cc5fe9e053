//! `/schema`: the columns of a query, without running it.

use axum::{Json, extract::State};
use nozzle_core::schema::schema_to_json;
use nozzle_query::{LogicalPlan, Session};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Admin, error::AdminError, request::Payload};

/// A query.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// One statement that reads.
    sql_query: String,
}

/// The columns of a query's answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct SchemaAnswer {
    /// `{"arrow": {"fields": [{"name", "type", "nullable"}]}}`
    #[schema(value_type = Object)]
    schema: Value,
    /// The networks of the tables that it reads.
    networks: Vec<String>,
}

/// Plans a query and tells its columns.
#[utoipa::path(post, path = "/schema", tag = "queries", request_body = Query, responses(
    (status = 200, body = SchemaAnswer), (status = "default", description = "an error", body = AdminError)))]
pub async fn schema(
    State(admin): State<Admin>,
    Payload(query): Payload<Query>,
) -> Result<Json<SchemaAnswer>, AdminError> {
    let look = |session: &Session, plan: &LogicalPlan| {
        let networks = session.networks(plan)?.into_iter().map(|network| network.to_string()).collect();
        Ok((Session::schema(plan), networks))
    };
    let (schema, networks) = admin.queries.planned(query.sql_query.into(), look).await?;
    Ok(Json(SchemaAnswer { schema: json!({ "arrow": schema_to_json(&schema) }), networks }))
}

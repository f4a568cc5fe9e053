//! `/providers`: where blocks can be asked for. Secrets go in and never come out.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use nozzle_core::ProviderName;
use nozzle_metadata::{Provider, ProviderOrigin};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::{
    Admin,
    error::{AdminError, Code},
    request::{InPath, Limit, Params, Payload, page},
};
use crate::providers;

/// A provider.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Provider)]
pub struct ProviderAnswer {
    name: String,
    kind: String,
    network: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// `file` or `api`.
    #[schema(value_type = String)]
    origin: &'static str,
    /// Its other keys, without secrets: of an address the host alone, unless all that follows is `${VAR}`.
    #[schema(value_type = Object)]
    config: Map<String, Value>,
}

/// A page of providers, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProviderList {
    providers: Vec<ProviderAnswer>,
    /// Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A provider to be made: `name`, `kind`, `network`, perhaps `region`, and the keys of its kind. A secret is
/// written as `${VAR}`, a variable of the machines that use it.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "read by hand; this is its description")]
pub struct NewProvider {
    /// Absent where the path names it.
    name: Option<String>,
    kind: String,
    network: String,
    region: Option<String>,
    url: String,
}

/// The cursor of a list of providers.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AfterProvider {
    /// The `next_cursor` of the page before.
    last_provider: Option<String>,
    /// How many at most, from 1 to 1000; 50 where it is absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

impl From<Provider> for ProviderAnswer {
    fn from(provider: Provider) -> Self {
        let config = providers::without_secrets(&provider);
        Self {
            name: provider.name.to_string(),
            kind: provider.kind.as_str().to_owned(),
            network: provider.network.to_string(),
            region: provider.region,
            origin: match provider.origin {
                ProviderOrigin::File => "file",
                ProviderOrigin::Api => "api",
            },
            config,
        }
    }
}

impl Admin {
    async fn provider(&self, name: &str) -> Result<Option<Provider>, AdminError> {
        let all = self.context.metadata.providers().await?;
        Ok(all.into_iter().find(|provider| provider.name.as_str() == name))
    }

    async fn own_provider(&self, name: &str) -> Result<Provider, AdminError> {
        match self.provider(name).await? {
            None => Err(not_found()),
            Some(provider) if provider.origin == ProviderOrigin::File => Err(AdminError::new(
                Code::ProviderConflict,
                format!("a file defines the provider `{name}`, and wins at the next start; change that file"),
            )),
            Some(provider) => Ok(provider),
        }
    }
}

fn not_found() -> AdminError {
    let why = "there is no provider of that name; GET /providers lists those that there are";
    AdminError::new(Code::ProviderNotFound, why)
}

fn read(name: Option<&str>, mut keys: Map<String, Value>) -> Result<Provider, AdminError> {
    let invalid = |why: String| AdminError::new(Code::InvalidProvider, why);
    let named = match (keys.remove("name"), name) {
        (Some(Value::String(own)), Some(name)) if own != name => {
            return Err(invalid(format!("`name` is `{own}`, and the path says `{name}`")));
        }
        (Some(Value::String(own)), _) => own,
        (None, Some(name)) => name.to_owned(),
        _ => return Err(invalid("`name` is missing".into())),
    };
    let name: ProviderName = named.parse().map_err(|error| invalid(format!("{error}")))?;
    providers::of_api(name, keys).map_err(|error| invalid(format!("{error:#}")))
}

/// Lists the providers.
#[utoipa::path(get, path = "/providers", tag = "providers", params(AfterProvider), responses(
    (status = 200, body = ProviderList), (status = "default", description = "an error", body = AdminError)))]
pub async fn list(
    State(admin): State<Admin>,
    Params(after): Params<AfterProvider>,
) -> Result<Json<ProviderList>, AdminError> {
    let limit = Limit { limit: after.limit }.get()?;
    let all = admin.context.metadata.providers().await?;
    let (found, next_cursor) =
        page(all, after.last_provider.as_ref(), limit, |provider| provider.name.to_string());
    Ok(Json(ProviderList { providers: found.into_iter().map(Into::into).collect(), next_cursor }))
}

/// Makes a provider.
#[utoipa::path(post, path = "/providers", tag = "providers", request_body = NewProvider, responses(
    (status = 201, body = ProviderAnswer), (status = "default", description = "an error", body = AdminError)))]
pub async fn create(
    State(admin): State<Admin>,
    Payload(keys): Payload<Map<String, Value>>,
) -> Result<Response, AdminError> {
    let provider = read(None, keys)?;
    if admin.provider(provider.name.as_str()).await?.is_some() {
        let why = format!("there is a provider `{}` already; PUT replaces it", provider.name);
        return Err(AdminError::new(Code::ProviderExists, why));
    }
    admin.context.metadata.put_provider(&provider).await?;
    Ok((StatusCode::CREATED, Json(ProviderAnswer::from(provider))).into_response())
}

/// Shows a provider.
#[utoipa::path(get, path = "/providers/{name}", tag = "providers", params(("name" = String, Path)), responses(
    (status = 200, body = ProviderAnswer), (status = "default", description = "an error", body = AdminError)))]
pub async fn show(
    State(admin): State<Admin>,
    InPath(name): InPath<String>,
) -> Result<Json<ProviderAnswer>, AdminError> {
    admin.provider(&name).await?.map(|provider| Json(provider.into())).ok_or_else(not_found)
}

/// Replaces a provider.
#[utoipa::path(put, path = "/providers/{name}", tag = "providers", params(("name" = String, Path)),
    request_body = NewProvider, responses(
    (status = 200, body = ProviderAnswer), (status = "default", description = "an error", body = AdminError)))]
pub async fn replace(
    State(admin): State<Admin>,
    InPath(name): InPath<String>,
    Payload(keys): Payload<Map<String, Value>>,
) -> Result<Json<ProviderAnswer>, AdminError> {
    let provider = read(Some(&name), keys)?;
    admin.own_provider(&name).await?;
    admin.context.metadata.put_provider(&provider).await?;
    Ok(Json(provider.into()))
}

/// Removes a provider.
#[utoipa::path(delete, path = "/providers/{name}", tag = "providers", params(("name" = String, Path)), responses(
    (status = 204), (status = "default", description = "an error", body = AdminError)))]
pub async fn delete(
    State(admin): State<Admin>,
    InPath(name): InPath<String>,
) -> Result<StatusCode, AdminError> {
    let provider = admin.own_provider(&name).await?;
    admin.context.metadata.remove_provider(&provider.name).await?;
    Ok(StatusCode::NO_CONTENT)
}

//! What the kinds over gRPC have in common: the keys of their providers.

use std::time::Duration;

use anyhow::Context;
use nozzle_sources::grpc::{self, GrpcConfig};
use serde::Deserialize;

use super::{Endpoint, Keys, check_common, read};

/// The keys of a provider, beside `kind` and `network`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
struct Provider {
    /// The endpoint.
    url: String,
    /// A token for the `Authorization` header.
    token: Option<String>,
    /// A key for the `x-api-key` header.
    api_key: Option<String>,
    /// Streams of ranges at most.
    concurrent_request_limit: u16,
    /// How long one answer may take, and a stream be silent.
    timeout_secs: f64,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            url: String::new(),
            token: None,
            api_key: None,
            concurrent_request_limit: 16,
            timeout_secs: 60.0,
        }
    }
}

/// Refuses keys that a kind does not have, `known` being all that it has, and values that cannot be used.
pub fn check(keys: &Keys, known: &[&str]) -> anyhow::Result<()> {
    let provider: Provider = read(keys, known)?;
    check_common(&provider.url, provider.timeout_secs, provider.concurrent_request_limit)?;
    // One that is still to be filled in cannot be looked at yet.
    if provider.url.contains("${") {
        return Ok(());
    }
    grpc::check_url(&provider.url).map_err(anyhow::Error::msg)
}

/// How to reach an endpoint.
pub fn config(endpoint: &Endpoint, known: &[&str]) -> anyhow::Result<GrpcConfig> {
    let provider: Provider = read(&endpoint.keys, known)?;
    grpc::check_url(&provider.url)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("the URL of the provider `{}` is not valid", endpoint.name))?;
    Ok(GrpcConfig {
        token: provider.token,
        api_key: provider.api_key,
        timeout: Duration::from_secs_f64(provider.timeout_secs),
        concurrent_request_limit: usize::from(provider.concurrent_request_limit),
        throttle: endpoint.throttle.clone(),
        ..GrpcConfig::new(&endpoint.name, &provider.url)
    })
}

//! The kind `firehose`.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use nozzle_core::{
    Network, TableDef,
    manifest::{RawManifest, Verify},
};
use nozzle_sources::{
    SharedSource, Throttle,
    evm::stored::StoredCheck,
    firehose::{Firehose, FirehoseConfig, tables},
    grpc,
};
use serde::Deserialize;

use super::{Endpoint, Keys, Kind, check_common, read};
use crate::networks;

/// The keys of a `firehose` provider, beside `kind` and `network`.
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

const KEYS: [&str; 5] = ["url", "token", "api_key", "concurrent_request_limit", "timeout_secs"];

/// Firehose.
pub struct FirehoseKind;

impl Kind for FirehoseKind {
    fn check(&self, keys: &Keys) -> anyhow::Result<()> {
        let provider: Provider = read(keys, &KEYS)?;
        check_common(&provider.url, provider.timeout_secs)?;
        if provider.concurrent_request_limit == 0 {
            bail!("`concurrent_request_limit` must be at least 1");
        }
        Ok(())
    }

    fn tables(&self, _manifest: &RawManifest) -> anyhow::Result<Vec<TableDef>> {
        Ok(tables())
    }

    fn stored_check(&self, tables: Vec<TableDef>, level: Verify) -> anyhow::Result<StoredCheck> {
        Ok(StoredCheck::new(tables, level)?)
    }

    fn throttle(&self, endpoint: &Endpoint) -> anyhow::Result<Throttle> {
        Ok(config(endpoint, None)?.own_throttle())
    }

    fn connect(
        &self,
        endpoint: &Endpoint,
        manifest: &RawManifest,
        tables: Vec<TableDef>,
        verify: Verify,
    ) -> anyhow::Result<SharedSource> {
        let config = config(endpoint, Some(&manifest.network))?;
        Ok(Arc::new(Firehose::connect(config, tables, verify)?))
    }
}

fn config(endpoint: &Endpoint, network: Option<&Network>) -> anyhow::Result<FirehoseConfig> {
    let provider: Provider = read(&endpoint.keys, &KEYS)?;
    grpc::check_url(&provider.url)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("the URL of the provider `{}` is not valid", endpoint.name))?;
    let mut config = FirehoseConfig::new(&endpoint.name, &provider.url);
    config.grpc.token = provider.token;
    config.grpc.api_key = provider.api_key;
    config.grpc.timeout = Duration::from_secs_f64(provider.timeout_secs);
    config.chain_id = network.and_then(networks::chain_id_of);
    config.concurrent_request_limit = usize::from(provider.concurrent_request_limit);
    config.throttle = endpoint.throttle.clone();
    Ok(config)
}

//! The kind `eth-beacon`.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use nozzle_core::{
    Network, TableDef,
    manifest::{RawManifest, Verify},
};
use nozzle_sources::{
    SharedSource, Throttle,
    beacon::{self, Beacon, BeaconConfig, RowCheck},
    stored::StoredCheck,
};
use serde::Deserialize;
use url::Url;

use super::{Endpoint, Keys, Kind, check_common, check_scheme, read};

/// The keys of an `eth-beacon` provider, beside `kind` and `network`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
struct Provider {
    /// The address below which the Beacon API lies.
    url: String,
    /// Requests in flight at most.
    concurrent_request_limit: u16,
    /// Requests in a minute at most; 0: no limit.
    rate_limit_per_minute: u32,
    /// A token for the `Authorization` header.
    auth_token: Option<String>,
    /// How long one request may take.
    timeout_secs: f64,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            url: String::new(),
            concurrent_request_limit: 64,
            rate_limit_per_minute: 0,
            auth_token: None,
            timeout_secs: 30.0,
        }
    }
}

const KEYS: [&str; 5] =
    ["url", "concurrent_request_limit", "rate_limit_per_minute", "auth_token", "timeout_secs"];

/// Ethereum's consensus layer.
pub struct EthBeaconKind;

impl Kind for EthBeaconKind {
    fn check(&self, keys: &Keys) -> anyhow::Result<()> {
        let provider: Provider = read(keys, &KEYS)?;
        check_common(&provider.url, provider.timeout_secs, provider.concurrent_request_limit)?;
        check_scheme(&provider.url).context("`url` is not valid")
    }

    fn tables(&self, _manifest: &RawManifest) -> anyhow::Result<Vec<TableDef>> {
        Ok(beacon::tables())
    }

    fn stored_check(&self, tables: Vec<TableDef>, level: Verify) -> anyhow::Result<Arc<dyn StoredCheck>> {
        Ok(Arc::new(RowCheck::new(tables, level)?))
    }

    fn throttle(&self, endpoint: &Endpoint) -> anyhow::Result<Throttle> {
        Ok(Throttle::new(&config(endpoint)?.limits()))
    }

    fn connect(
        &self,
        endpoint: &Endpoint,
        _manifest: &RawManifest,
        tables: Vec<TableDef>,
        verify: Verify,
    ) -> anyhow::Result<SharedSource> {
        Ok(Arc::new(Beacon::connect(config(endpoint)?, tables, verify)?))
    }

    fn probe(
        &self,
        endpoint: &Endpoint,
        _network: &Network,
        _defined: &[&RawManifest],
    ) -> anyhow::Result<Option<SharedSource>> {
        Ok(Some(Arc::new(Beacon::connect(config(endpoint)?, vec![], Verify::Header)?)))
    }
}

fn config(endpoint: &Endpoint) -> anyhow::Result<BeaconConfig> {
    let provider: Provider = read(&endpoint.keys, &KEYS)?;
    check_scheme(&provider.url)
        .with_context(|| format!("the URL of the provider `{}` is not valid", endpoint.name))?;
    // The URL may hold a secret, so a bad one is not repeated, nor the error that may show it.
    let url = Url::parse(&provider.url).ok().with_context(|| {
        format!(
            "the URL of the provider `{}` is not valid; it should look like http://localhost:5052",
            endpoint.name
        )
    })?;
    Ok(BeaconConfig {
        concurrent_request_limit: usize::from(provider.concurrent_request_limit),
        rate_limit_per_minute: provider.rate_limit_per_minute,
        timeout: Duration::from_secs_f64(provider.timeout_secs),
        auth_token: provider.auth_token,
        throttle: endpoint.throttle.clone(),
        ..BeaconConfig::new(&endpoint.name, url)
    })
}

//! The kind `evm-rpc`.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use nozzle_core::{
    Network, TableDef,
    manifest::{RawManifest, Verify},
};
use nozzle_sources::{
    SharedSource, Throttle,
    evm::{stored::BlockCheck, tables},
    evm_rpc::{self, EvmRpc, EvmRpcConfig},
    stored::StoredCheck,
};
use serde::Deserialize;

use super::{Endpoint, Keys, Kind, check_common, check_scheme, read};

/// The keys of an `evm-rpc` provider, beside `kind` and `network`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
struct Provider {
    /// The endpoint.
    url: String,
    /// Requests in flight at most.
    concurrent_request_limit: u16,
    /// Calls in a minute at most; 0: no limit.
    rate_limit_per_minute: u32,
    /// Calls of a JSON-RPC batch at most; 0: no batches.
    rpc_batch_size: u16,
    /// Whether receipts are asked for transaction by transaction, also where a block's can be had.
    fetch_receipts_per_tx: bool,
    /// A token for the `Authorization` header, or for `auth_header`.
    auth_token: Option<String>,
    /// The header that carries the token instead.
    auth_header: Option<String>,
    /// How long one request may take.
    timeout_secs: f64,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            url: String::new(),
            concurrent_request_limit: 64,
            rate_limit_per_minute: 0,
            rpc_batch_size: 0,
            fetch_receipts_per_tx: false,
            auth_token: None,
            auth_header: None,
            timeout_secs: 30.0,
        }
    }
}

/// More calls make no request cheaper, and every node refuses them.
const MAX_BATCH_SIZE: u16 = 1000;

const KEYS: [&str; 8] = [
    "url",
    "concurrent_request_limit",
    "rate_limit_per_minute",
    "rpc_batch_size",
    "fetch_receipts_per_tx",
    "auth_token",
    "auth_header",
    "timeout_secs",
];

/// EVM JSON-RPC.
pub struct EvmRpcKind;

impl Kind for EvmRpcKind {
    fn check(&self, keys: &Keys) -> anyhow::Result<()> {
        let provider: Provider = read(keys, &KEYS)?;
        check_common(&provider.url, provider.timeout_secs, provider.concurrent_request_limit)?;
        check_scheme(&provider.url).context("`url` is not valid")?;
        if provider.rpc_batch_size > MAX_BATCH_SIZE {
            bail!("`rpc_batch_size` must be at most {MAX_BATCH_SIZE}");
        }
        Ok(())
    }

    fn tables(&self, _manifest: &RawManifest) -> anyhow::Result<Vec<TableDef>> {
        Ok(tables::tables())
    }

    fn stored_check(&self, tables: Vec<TableDef>, level: Verify) -> anyhow::Result<Arc<dyn StoredCheck>> {
        Ok(Arc::new(BlockCheck::new(tables, level)?))
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
        Ok(Arc::new(EvmRpc::connect(config(endpoint)?, tables, verify)?))
    }

    fn probe(
        &self,
        endpoint: &Endpoint,
        _network: &Network,
        _defined: &[&RawManifest],
    ) -> anyhow::Result<Option<SharedSource>> {
        Ok(Some(Arc::new(node(endpoint)?)))
    }
}

/// The node of an endpoint, for questions that are not about blocks. Nothing is sent yet.
pub fn node(endpoint: &Endpoint) -> anyhow::Result<EvmRpc> {
    Ok(EvmRpc::connect(config(endpoint)?, vec![], Verify::None)?)
}

fn config(endpoint: &Endpoint) -> anyhow::Result<EvmRpcConfig> {
    let provider: Provider = read(&endpoint.keys, &KEYS)?;
    check_scheme(&provider.url)
        .with_context(|| format!("the URL of the provider `{}` is not valid", endpoint.name))?;
    // The URL may hold a secret, so a bad one is not repeated.
    let url = evm_rpc::parse_url(&provider.url).with_context(|| {
        format!(
            "the URL of the provider `{}` is not valid; it should look like http://localhost:8545, ws://localhost:8546 or /path/to/geth.ipc",
            endpoint.name
        )
    })?;
    Ok(EvmRpcConfig {
        concurrent_request_limit: usize::from(provider.concurrent_request_limit),
        rate_limit_per_minute: provider.rate_limit_per_minute,
        batch_size: usize::from(provider.rpc_batch_size),
        receipts_per_tx: provider.fetch_receipts_per_tx,
        timeout: Duration::from_secs_f64(provider.timeout_secs),
        auth_token: provider.auth_token,
        auth_header: provider.auth_header,
        throttle: endpoint.throttle.clone(),
        ..EvmRpcConfig::new(&endpoint.name, url)
    })
}

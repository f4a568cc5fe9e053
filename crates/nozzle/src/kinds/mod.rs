//! The kinds of raw datasets: what Nozzle knows of a source beside the source itself. One file a kind, and
//! one arm of [`of`].

mod eth_beacon;
mod evm_rpc;
mod firehose;
mod grpc;
mod package;
mod substreams;

use std::sync::Arc;

use anyhow::bail;
use nozzle_core::{
    DatasetKind, Network, TableDef,
    manifest::{RawManifest, ResolvedPackage, Verify},
};
use nozzle_query::nearest::suggestion;
use nozzle_sources::{
    SharedSource, Throttle,
    stored::{OrderCheck, StoredCheck},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config;
pub use evm_rpc::node;
pub use package::{PackageChanged, Unread};
pub use substreams::first_block;

/// The keys of a provider, beside `kind` and `network`.
pub type Keys = Map<String, Value>;

/// Where a dataset's blocks come from: a provider, or what a command names.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The name for messages.
    pub name: String,
    /// The kind of source that is there.
    pub kind: DatasetKind,
    /// Its keys, with variables filled in.
    pub keys: Keys,
    /// What keeps it to its limits together with others; absent: it does so alone.
    pub throttle: Option<Throttle>,
}

impl Endpoint {
    /// Whether it is the endpoint that another one was.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.name, self.kind, &self.keys) == (&other.name, other.kind, &other.keys)
    }

    /// What keeps the endpoint, alone, to its limits.
    pub fn own_throttle(&self) -> anyhow::Result<Throttle> {
        of(self.kind)?.throttle(self)
    }
}

/// A kind of source.
pub trait Kind: Send + Sync {
    /// Refuses keys of a provider that this kind does not have, or values that it cannot use. They may be
    /// secrets, and are not repeated.
    fn check(&self, keys: &Keys) -> anyhow::Result<()>;

    /// All tables that such a dataset may store.
    fn tables(&self, manifest: &RawManifest) -> anyhow::Result<Vec<TableDef>>;

    /// What a manifest is pinned to when it is registered; `None` where its tables are those of its kind.
    fn resolve(&self, _manifest: &RawManifest) -> anyhow::Result<Option<ResolvedPackage>> {
        Ok(None)
    }

    /// Refuses a manifest for which something would be read that only this machine's own people may name.
    fn check_from_afar(&self, _manifest: &RawManifest) -> anyhow::Result<()> {
        Ok(())
    }

    /// What stored rows are checked by. The hashes of most kinds hold more than the tables, which cannot be put
    /// together to blocks again: whatever the level, their rows have to lie in their blocks, in order.
    fn stored_check(&self, tables: Vec<TableDef>, _level: Verify) -> anyhow::Result<Arc<dyn StoredCheck>> {
        Ok(Arc::new(OrderCheck::new(tables)))
    }

    /// What keeps an endpoint, alone, to its limits.
    fn throttle(&self, endpoint: &Endpoint) -> anyhow::Result<Throttle>;

    /// The source at an endpoint, for these of its tables. Nothing is sent yet.
    fn connect(
        &self,
        endpoint: &Endpoint,
        manifest: &RawManifest,
        tables: Vec<TableDef>,
        verify: Verify,
    ) -> anyhow::Result<SharedSource>;

    /// The source at an endpoint of a network, to ask it for its chain and its head; `None` where it can only
    /// be asked for a dataset and none is `defined`. Nothing is sent yet.
    fn probe(
        &self,
        endpoint: &Endpoint,
        network: &Network,
        defined: &[&RawManifest],
    ) -> anyhow::Result<Option<SharedSource>>;
}

/// What is known of a kind; refused are those whose rows come from no source.
pub fn of(kind: DatasetKind) -> anyhow::Result<&'static dyn Kind> {
    match kind {
        DatasetKind::EvmRpc => Ok(&evm_rpc::EvmRpcKind),
        DatasetKind::Firehose => Ok(&firehose::FirehoseKind),
        DatasetKind::EthBeacon => Ok(&eth_beacon::EthBeaconKind),
        DatasetKind::Substreams => Ok(&substreams::SubstreamsKind),
        DatasetKind::Manifest | DatasetKind::Sql => {
            bail!("datasets of kind `{kind}` are made of other datasets, and have no source")
        }
    }
}

/// Refuses the kinds of datasets that this version cannot make.
pub fn supported(kind: DatasetKind) -> anyhow::Result<()> {
    match kind {
        DatasetKind::Manifest | DatasetKind::Sql => Ok(()),
        kind => of(kind).map(drop),
    }
}

/// The tables that a raw dataset stores.
pub fn stored_tables(manifest: &RawManifest) -> anyhow::Result<Vec<TableDef>> {
    manifest.select_tables(&of(manifest.kind)?.tables(manifest)?).map_err(anyhow::Error::msg)
}

/// A provider's keys as their kind has them; `known` are all that it has.
fn read<T: DeserializeOwned>(keys: &Keys, known: &[&str]) -> anyhow::Result<T> {
    if let Some(unknown) = keys.keys().find(|key| !known.contains(&key.as_str())) {
        bail!("there is no key `{unknown}`{}", suggestion(unknown, known.iter().copied()));
    }
    for (key, value) in keys {
        let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
        // The value may be a secret, so it is not repeated.
        if serde_json::from_value::<T>(alone).is_err() {
            bail!("`{key}` has a value of the wrong type; see docs/config.md");
        }
    }
    Ok(serde_json::from_value(Value::Object(keys.clone()))?)
}

/// Refuses an address of HTTP that is a host and a port alone, and says what was meant. What follows the port may
/// be a secret, and is not repeated.
fn check_scheme(url: &str) -> anyhow::Result<()> {
    let authority = url.split('/').next().unwrap_or_default();
    let Some((host, port)) = authority.rsplit_once(':') else { return Ok(()) };
    let is_name = |host: &str| host.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char));
    let is_host = is_name(host) || host.starts_with('[') && host.ends_with(']');
    if !host.is_empty() && is_host && port.parse::<u16>().is_ok() {
        bail!(
            "it does not say how to speak to `{authority}`: write `http://{authority}`, or `https://` before it"
        );
    }
    Ok(())
}

/// Refuses an endpoint without an address, or one that may never be asked or answer.
fn check_common(url: &str, timeout_secs: f64, concurrent_request_limit: u16) -> anyhow::Result<()> {
    if url.is_empty() {
        bail!("the key `url` is missing");
    }
    if !config::is_interval(timeout_secs) {
        bail!("`timeout_secs` must be greater than 0 and at most a year");
    }
    if concurrent_request_limit == 0 {
        bail!("`concurrent_request_limit` must be at least 1");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_port_without_a_scheme_is_told_what_it_lacks() {
        for (url, meant) in [
            ("localhost:8545", "`http://localhost:8545`"),
            ("127.0.0.1:8545", "`http://127.0.0.1:8545`"),
            ("[::1]:8545", "`http://[::1]:8545`"),
            ("rpc.example.org:443/v2/secret", "`http://rpc.example.org:443`"),
        ] {
            let error = check_scheme(url).expect_err(url).to_string();
            assert!(error.contains(meant) && !error.contains("secret"), "{error}");
        }
        for url in [
            "http://localhost:8545",
            "/run/geth.ipc",
            "ipc:/run/geth.ipc",
            "localhost",
            "user:word@h:8545",
            "${HOST}:8545",
            "",
        ] {
            assert!(check_scheme(url).is_ok(), "{url}");
        }
    }
}

//! The kind `substreams`.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use nozzle_core::{
    BlockNum, TableDef,
    manifest::{RawManifest, ResolvedPackage, Verify},
};
use nozzle_sources::{
    LimitOptions, SharedSource, Throttle, grpc,
    substreams::{self, Substreams, SubstreamsConfig},
};
use serde::Deserialize;

use super::{Endpoint, Keys, Kind, check_common, package, read};

/// The keys of a `substreams` provider, beside `kind` and `network`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
struct Provider {
    /// The endpoint.
    url: String,
    /// A token for the `Authorization` header.
    token: Option<String>,
    /// A key for the `x-api-key` header.
    api_key: Option<String>,
    /// How long an endpoint may be silent.
    timeout_secs: f64,
}

impl Default for Provider {
    fn default() -> Self {
        Self { url: String::new(), token: None, api_key: None, timeout_secs: 60.0 }
    }
}

const KEYS: [&str; 4] = ["url", "token", "api_key", "timeout_secs"];

/// The output of a module of a package, at a Substreams endpoint.
pub struct SubstreamsKind;

impl Kind for SubstreamsKind {
    fn check(&self, keys: &Keys) -> anyhow::Result<()> {
        let provider: Provider = read(keys, &KEYS)?;
        check_common(&provider.url, provider.timeout_secs)?;
        // One that is still to be filled in cannot be looked at yet.
        if provider.url.contains("${") {
            return Ok(());
        }
        grpc::check_url(&provider.url).map_err(anyhow::Error::msg)
    }

    fn tables(&self, manifest: &RawManifest) -> anyhow::Result<Vec<TableDef>> {
        if let Some(resolved) = &manifest.resolved {
            return resolved.table_defs().map_err(anyhow::Error::msg);
        }
        let (place, module) = place(manifest)?;
        Ok(substreams::tables(&package::load(place)?, module)?)
    }

    fn resolve(&self, manifest: &RawManifest) -> anyhow::Result<Option<ResolvedPackage>> {
        let (place, module) = place(manifest)?;
        let package = package::load(place)?;
        let tables = substreams::tables(&package, module)?;
        // So that a parameter that nobody takes is not found out by the first dump.
        package.modules_for(manifest.network.as_str(), &manifest.params)?;
        let (name, hash) = (package.name().to_owned(), package.sha256().to_owned());
        Ok(Some(ResolvedPackage::new(name, hash, &tables)))
    }

    fn check_from_afar(&self, manifest: &RawManifest) -> anyhow::Result<()> {
        package::check_from_afar(place(manifest)?.0)
    }

    /// Endpoints have no limits that are to be kept: a stream is one request, however long.
    fn throttle(&self, _endpoint: &Endpoint) -> anyhow::Result<Throttle> {
        Ok(Throttle::new(&LimitOptions {
            requests: 64,
            is_near: false,
            calls_per_minute: 0,
            patience: Duration::from_secs(30),
        }))
    }

    fn connect(
        &self,
        endpoint: &Endpoint,
        manifest: &RawManifest,
        tables: Vec<TableDef>,
        verify: Verify,
    ) -> anyhow::Result<SharedSource> {
        let provider: Provider = read(&endpoint.keys, &KEYS)?;
        let (place, module) = place(manifest)?;
        let package = match &manifest.resolved {
            Some(pinned) => package::load_pinned(place, module, pinned)?,
            None => Arc::new(package::load(place)?),
        };
        let mut config = SubstreamsConfig::new(&endpoint.name, &provider.url, manifest.network.as_str());
        config.grpc.token = provider.token;
        config.grpc.api_key = provider.api_key;
        config.grpc.timeout = Duration::from_secs_f64(provider.timeout_secs);
        config.params = manifest.params.clone();
        Ok(Arc::new(Substreams::connect(config, &package, module, tables, verify)?))
    }
}

/// The first block for which a manifest's module gives anything.
pub fn first_block(manifest: &RawManifest) -> anyhow::Result<BlockNum> {
    let (place, module) = place(manifest)?;
    let package = package::load(place)?;
    Ok(package.initial_block(package.map_module(module)?, manifest.network.as_str()))
}

/// Where the package is, and which of its modules is meant.
fn place(manifest: &RawManifest) -> anyhow::Result<(&str, &str)> {
    let needed =
        "a dataset of kind `substreams` needs `manifest`, the path or URL of a package, and `module`";
    manifest.manifest.as_deref().zip(manifest.module.as_deref()).context(needed)
}

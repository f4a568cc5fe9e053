//! The kind `substreams`.

use std::sync::Arc;

use anyhow::Context;
use nozzle_core::{
    BlockNum, Network, TableDef,
    manifest::{RawManifest, ResolvedPackage, Verify},
};
use nozzle_sources::{
    SharedSource, Throttle,
    substreams::{self, Substreams, SubstreamsConfig},
};

use super::{Endpoint, Keys, Kind, grpc, package};

const KEYS: [&str; 5] = ["url", "token", "api_key", "concurrent_request_limit", "timeout_secs"];

/// The output of a module of a package, at a Substreams endpoint.
pub struct SubstreamsKind;

impl Kind for SubstreamsKind {
    fn check(&self, keys: &Keys) -> anyhow::Result<()> {
        grpc::check(keys, &KEYS)
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

    /// A stream is one request, however long: only what an endpoint says counts.
    fn throttle(&self, endpoint: &Endpoint) -> anyhow::Result<Throttle> {
        Ok(grpc::config(endpoint, &KEYS)?.own_throttle())
    }

    fn connect(
        &self,
        endpoint: &Endpoint,
        manifest: &RawManifest,
        tables: Vec<TableDef>,
        verify: Verify,
    ) -> anyhow::Result<SharedSource> {
        let (place, module) = place(manifest)?;
        let package = match &manifest.resolved {
            Some(pinned) => package::load_pinned(place, module, pinned)?,
            None => Arc::new(package::load(place)?),
        };
        let config = SubstreamsConfig {
            grpc: grpc::config(endpoint, &KEYS)?,
            params: manifest.params.clone(),
            ..SubstreamsConfig::new(&endpoint.name, "", manifest.network.as_str())
        };
        Ok(Arc::new(Substreams::connect(config, &package, module, tables, verify)?))
    }

    fn probe(
        &self,
        endpoint: &Endpoint,
        _network: &Network,
        defined: &[&RawManifest],
    ) -> anyhow::Result<Option<SharedSource>> {
        let Some(manifest) = defined.first() else { return Ok(None) };
        let tables = super::stored_tables(manifest)?;
        self.connect(endpoint, manifest, tables, Verify::Links).map(Some)
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

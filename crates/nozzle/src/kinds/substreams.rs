//! The kind `substreams`.

use std::sync::Arc;

use anyhow::Context;
use nozzle_core::{
    BlockNum, Network, TableDef,
    manifest::{RawManifest, ResolvedPackage, Verify},
};
use nozzle_sources::{
    SharedSource, Throttle,
    grpc::Grpc,
    substreams::{self, Substreams, SubstreamsConfig},
};

use super::{Endpoint, Keys, Kind, Unread, grpc, package};

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

    /// With the first dataset whose package can be read. Fails with [`Unread`] where there are some and none is.
    fn probe(
        &self,
        endpoint: &Endpoint,
        _network: &Network,
        defined: &[&RawManifest],
    ) -> anyhow::Result<Option<SharedSource>> {
        // What is wrong with the provider itself is not the packages' fault.
        Grpc::connect(&grpc::config(endpoint, &KEYS)?)?;
        let mut unread = None;
        for manifest in defined {
            let tables = super::stored_tables(manifest);
            match tables.and_then(|tables| self.connect(endpoint, manifest, tables, Verify::Links)) {
                Ok(source) => return Ok(Some(source)),
                Err(error) => _ = unread.get_or_insert(error.context(Unread(manifest.name.to_string()))),
            }
        }
        unread.map_or(Ok(None), Err)
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

#[cfg(test)]
mod tests {
    use nozzle_core::DatasetKind;
    use nozzle_testkit::substreams::example;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn an_endpoint_is_asked_with_the_first_package_that_can_be_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
        std::fs::write(path("good.spkg"), example::package(&["n"], 5)).expect("a file");
        let defined = |name: &str, package: &str| -> RawManifest {
            let manifest = json!({"name": name, "kind": "substreams", "network": "mainnet", "manifest": path(package),
                "module": example::MODULE});
            serde_json::from_value(manifest).expect("a manifest")
        };
        let (gone, good) = (defined("gone", "gone.spkg"), defined("good", "good.spkg"));
        let endpoint = |keys: serde_json::Value| Endpoint {
            name: "p".into(),
            kind: DatasetKind::Substreams,
            keys: keys.as_object().expect("keys").clone(),
            throttle: None,
        };
        let network: Network = "mainnet".parse().expect("a network");
        let local = endpoint(json!({"url": "http://127.0.0.1:1"}));
        let probe = |endpoint: &Endpoint, defined: &[&RawManifest]| {
            SubstreamsKind.probe(endpoint, &network, defined).map(|source| source.is_some())
        };
        assert!(probe(&local, &[&gone, &good]).expect("the second one"));
        assert!(!probe(&local, &[]).expect("none"));
        let error = probe(&local, &[&gone, &gone]).expect_err("there is none");
        assert!(error.downcast_ref::<Unread>().is_some(), "{error:#}");
        assert!(
            format!("{error:#}").contains("`gone`") && format!("{error:#}").contains("gone.spkg"),
            "{error:#}"
        );
        // That is the provider's own fault, whatever packages there are.
        let bad = endpoint(json!({"url": "http://127.0.0.1:1", "token": "a\nb"}));
        for defined in [&[&gone][..], &[&good]] {
            let error = probe(&bad, defined).expect_err("a bad token");
            assert!(error.downcast_ref::<Unread>().is_none(), "{error:#}");
        }
    }
}

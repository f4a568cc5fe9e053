//! The kind `firehose`.

use std::sync::Arc;

use nozzle_core::{
    Network, TableDef,
    manifest::{RawManifest, Verify},
};
use nozzle_sources::{
    SharedSource, Throttle,
    evm::stored::BlockCheck,
    firehose::{Firehose, FirehoseConfig, tables},
    stored::StoredCheck,
};

use super::{Endpoint, Keys, Kind, grpc};
use crate::networks;

const KEYS: [&str; 5] = ["url", "token", "api_key", "concurrent_request_limit", "timeout_secs"];

/// Firehose.
pub struct FirehoseKind;

impl Kind for FirehoseKind {
    fn check(&self, keys: &Keys) -> anyhow::Result<()> {
        grpc::check(keys, &KEYS)
    }

    fn tables(&self, _manifest: &RawManifest) -> anyhow::Result<Vec<TableDef>> {
        Ok(tables())
    }

    fn stored_check(&self, tables: Vec<TableDef>, level: Verify) -> anyhow::Result<Arc<dyn StoredCheck>> {
        Ok(Arc::new(BlockCheck::new(tables, level)?))
    }

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
        Ok(Arc::new(Firehose::connect(config(endpoint, &manifest.network)?, tables, verify)?))
    }

    fn probe(
        &self,
        endpoint: &Endpoint,
        network: &Network,
        _defined: &[&RawManifest],
    ) -> anyhow::Result<Option<SharedSource>> {
        // Whether this chain hashes its headers as Ethereum does, only a dataset says.
        Ok(Some(Arc::new(Firehose::connect(config(endpoint, network)?, vec![], Verify::Links)?)))
    }
}

fn config(endpoint: &Endpoint, network: &Network) -> anyhow::Result<FirehoseConfig> {
    let chain_id = networks::chain_id_of(network);
    Ok(FirehoseConfig { grpc: grpc::config(endpoint, &KEYS)?, chain_id })
}

//! Opening a dataset's source: provider, tables, verification, and the check that the chain behind
//! the provider is the right one.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use nozzle_core::{DatasetKind, Network, manifest::RawManifest, manifest::Verify};
use nozzle_sources::{
    SharedSource,
    evm::tables,
    evm_rpc::{EvmRpc, EvmRpcConfig},
    retry::{Retry, RetryPolicy},
};
use url::Url;

use crate::{
    context::Context,
    networks,
    providers::{self, EvmRpcProvider},
};

/// Where a dataset's blocks come from, as a command names it.
#[derive(Debug)]
pub struct Endpoint {
    /// The name for messages.
    pub name: String,
    /// Its keys.
    pub keys: EvmRpcProvider,
}

impl Endpoint {
    /// An endpoint given by its URL alone.
    pub fn of_url(url: &str) -> Self {
        Self { name: "--rpc-url".into(), keys: EvmRpcProvider { url: url.to_owned(), ..Default::default() } }
    }

    /// The first provider for the manifest's network.
    pub async fn of_manifest(manifest: &RawManifest, context: &Context) -> anyhow::Result<Self> {
        let found =
            providers::find(context.metadata.as_ref(), DatasetKind::EvmRpc, &manifest.network).await?;
        let Some(provider) = found.first() else {
            bail!(
                "there is no evm-rpc provider for the network `{}`: put a file with kind, network and url into {}, or give --rpc-url",
                manifest.network,
                context.config.path(&context.config.providers_dir).display()
            );
        };
        Ok(Self { name: provider.name.to_string(), keys: providers::evm_rpc(provider)? })
    }

    fn config(&self) -> anyhow::Result<EvmRpcConfig> {
        // The URL may hold a secret, so a bad one is not repeated.
        let url = Url::parse(&self.keys.url).with_context(|| {
            format!(
                "the URL of the provider `{}` is not valid; it should look like http://localhost:8545",
                self.name
            )
        })?;
        Ok(EvmRpcConfig {
            provider: self.name.clone(),
            url,
            concurrent_request_limit: usize::from(self.keys.concurrent_request_limit),
            timeout: self.keys.timeout(),
            auth_token: self.keys.auth_token.clone(),
            auth_header: self.keys.auth_header.clone(),
        })
    }

    /// The chain id that the endpoint answers with.
    pub async fn chain_id(&self) -> anyhow::Result<u64> {
        Ok(EvmRpc::connect(self.config()?, tables::tables(), Verify::None)?.chain_id().await?)
    }
}

/// Opens the source of a dataset and makes sure that it serves the manifest's network.
pub async fn open(
    endpoint: &Endpoint,
    manifest: &RawManifest,
    verify: Option<Verify>,
) -> anyhow::Result<SharedSource> {
    let tables = manifest.select_tables(&tables::tables()).map_err(anyhow::Error::msg)?;
    let verify = verify.or(manifest.verify).unwrap_or(Verify::Header);
    let source = EvmRpc::connect(endpoint.config()?, tables, verify)?;
    check_chain(&endpoint.name, &manifest.network, source.chain_id().await?)?;
    Ok(Arc::new(Retry::new(Arc::new(source), RetryPolicy::default())))
}

fn check_chain(provider: &str, network: &Network, found: u64) -> anyhow::Result<()> {
    match networks::chain_id_of(network) {
        Some(expected) if expected != found => bail!(
            "the provider `{provider}` serves another chain: `{network}` has the chain id {expected}, and it answers {found} (`{}`). Check its URL, or the network in the manifest",
            networks::network_of(found)
        ),
        _ => Ok(()),
    }
}

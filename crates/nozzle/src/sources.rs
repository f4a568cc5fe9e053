//! Opening a dataset's source: providers, tables, verification, and the check that the chain behind
//! each provider is the right one.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use nozzle_core::{
    BlockId, BlockNum, BlockRange, DatasetKind, Network, TableDef,
    derived::DerivedManifest,
    manifest::{Manifest, RawManifest, Verify},
};
use nozzle_dump::derived::DerivedSource;
use nozzle_metadata::{MetadataStore, Provider};
use nozzle_sources::{
    BlockRows, BlockSource, Head, SharedSource, SourceError, Throttle,
    evm::tables,
    evm_rpc::{self, EvmRpc, EvmRpcConfig},
    failover::{Failover, FailoverPolicy},
    retry::{Retry, RetryPolicy},
};
use tokio::sync::OnceCell;

use crate::{
    context::Context,
    definitions, networks,
    providers::{self, EvmRpcProvider},
    threads,
};

/// Where a dataset's blocks come from, as a command names it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The name for messages.
    pub name: String,
    /// Its keys.
    pub keys: EvmRpcProvider,
    /// What keeps it to its limits together with others; absent: it does so alone.
    pub throttle: Option<Throttle>,
}

impl Endpoint {
    /// An endpoint given by its URL alone.
    pub fn of_url(url: &str) -> Self {
        let keys = EvmRpcProvider { url: url.to_owned(), ..Default::default() };
        Self { name: "--rpc-url".into(), keys, throttle: None }
    }

    /// The providers for a network, in the order in which they are tried; maybe none.
    pub async fn of_network(network: &Network, metadata: &dyn MetadataStore) -> anyhow::Result<Vec<Self>> {
        let found = providers::find(metadata, DatasetKind::EvmRpc, network).await?;
        let endpoint = |provider: &Provider| {
            Ok(Self { name: provider.name.to_string(), keys: providers::evm_rpc(provider)?, throttle: None })
        };
        found.iter().map(endpoint).collect()
    }

    /// The providers for the manifest's network, in the order in which they are tried; at least one.
    ///
    /// None for a derived dataset, whose blocks are those of others.
    pub async fn of_manifest(manifest: &Manifest, context: &Context) -> anyhow::Result<Vec<Self>> {
        let Manifest::Raw(manifest) = manifest else { return Ok(vec![]) };
        let found = Self::of_network(&manifest.network, context.metadata.as_ref()).await?;
        if found.is_empty() {
            bail!(
                "there is no evm-rpc provider for the network `{}`: put a file with kind, network and url into {}, or give --rpc-url",
                manifest.network,
                context.config.path(&context.config.providers_dir).display()
            );
        }
        Ok(found)
    }

    /// Whether it is the endpoint that another one was.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.name, &self.keys) == (&other.name, &other.keys)
    }

    fn config(&self) -> anyhow::Result<EvmRpcConfig> {
        // The URL may hold a secret, so a bad one is not repeated.
        let url = evm_rpc::parse_url(&self.keys.url).with_context(|| {
            format!(
                "the URL of the provider `{}` is not valid; it should look like http://localhost:8545, ws://localhost:8546 or /path/to/geth.ipc",
                self.name
            )
        })?;
        Ok(EvmRpcConfig {
            concurrent_request_limit: usize::from(self.keys.concurrent_request_limit),
            rate_limit_per_minute: self.keys.rate_limit_per_minute,
            batch_size: usize::from(self.keys.rpc_batch_size),
            receipts_per_tx: self.keys.fetch_receipts_per_tx,
            timeout: self.keys.timeout(),
            auth_token: self.keys.auth_token.clone(),
            auth_header: self.keys.auth_header.clone(),
            throttle: self.throttle.clone(),
            ..EvmRpcConfig::new(&self.name, url)
        })
    }

    /// What keeps the endpoint, alone, to its limits.
    pub fn own_throttle(&self) -> anyhow::Result<Throttle> {
        Ok(Throttle::new(&self.config()?.limits()))
    }

    /// The chain id that the endpoint answers with.
    pub async fn chain_id(&self) -> anyhow::Result<u64> {
        Ok(EvmRpc::connect(self.config()?, tables::tables(), Verify::None)?.chain_id().await?)
    }
}

/// Opens the source of a dataset: its endpoints, tried in their order, each of which must serve the
/// manifest's network; or what a derived one is made of. Nothing is sent yet.
pub fn open(
    endpoints: &[Endpoint],
    manifest: &Manifest,
    verify: Option<Verify>,
    context: &Context,
) -> anyhow::Result<SharedSource> {
    match manifest {
        Manifest::Raw(manifest) => of_nodes(endpoints, manifest, verify),
        Manifest::Derived(manifest) => of_datasets(manifest, context),
    }
}

fn of_datasets(manifest: &DerivedManifest, context: &Context) -> anyhow::Result<SharedSource> {
    let resolved = manifest.resolved.as_ref().context("the dataset is not registered")?;
    let source = DerivedSource::new(
        manifest.name.to_string(),
        Arc::new(context.engine()?),
        Arc::clone(&context.metadata),
        threads::shared().context("starting the threads for queries")?.clone(),
        definitions::derived::queries(manifest),
        resolved,
        context.config.microbatch_max_interval,
    );
    let source = source.map_err(anyhow::Error::msg)?;
    Ok(Arc::new(Retry::new(Arc::new(source), RetryPolicy::default())))
}

fn of_nodes(
    endpoints: &[Endpoint],
    manifest: &RawManifest,
    verify: Option<Verify>,
) -> anyhow::Result<SharedSource> {
    let tables = manifest.select_tables(&tables::tables()).map_err(anyhow::Error::msg)?;
    let verify = verify.or(manifest.verify).unwrap_or(Verify::Header);
    let policy = if endpoints.len() > 1 { RetryPolicy::among_several() } else { RetryPolicy::default() };
    let mut providers: Vec<(String, SharedSource)> = vec![];
    for endpoint in endpoints {
        let source = EvmRpc::connect(endpoint.config()?, tables.clone(), verify)?;
        let source = OnNetwork::new(endpoint.name.clone(), manifest.network.clone(), source);
        providers.push((endpoint.name.clone(), Arc::new(Retry::new(Arc::new(source), policy))));
    }
    let source = Failover::new(providers, FailoverPolicy::default()).context("no provider was given")?;
    Ok(Arc::new(source))
}

/// A node that is asked for its chain's id once, before anything else, and refused where that is
/// not the network's.
#[derive(Debug, Clone)]
pub struct OnNetwork {
    provider: String,
    network: Network,
    node: Arc<EvmRpc>,
    /// The chain's id, once the node has told it.
    chain_id: Arc<OnceCell<u64>>,
}

impl OnNetwork {
    fn new(provider: String, network: Network, node: EvmRpc) -> Self {
        Self { provider, network, node: Arc::new(node), chain_id: Arc::default() }
    }

    /// The node of an endpoint, for questions that are not about blocks. Nothing is sent yet.
    pub fn of(endpoint: &Endpoint, network: &Network) -> anyhow::Result<Self> {
        let node = EvmRpc::connect(endpoint.config()?, vec![], Verify::None)?;
        Ok(Self::new(endpoint.name.clone(), network.clone(), node))
    }

    /// The node, if it is one of the network.
    pub async fn checked(&self) -> Result<&EvmRpc, SourceError> {
        let found = *self.chain_id.get_or_try_init(|| self.node.chain_id()).await?;
        match other_chain(&self.network, found) {
            Some(why) => Err(SourceError::OtherChain { provider: self.provider.clone(), why }),
            None => Ok(&self.node),
        }
    }
}

#[async_trait]
impl BlockSource for OnNetwork {
    fn provider(&self) -> &str {
        &self.provider
    }

    fn tables(&self) -> &[TableDef] {
        self.node.tables()
    }

    async fn head(&self) -> Result<Head, SourceError> {
        self.checked().await?.head().await
    }

    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        self.checked().await?.block_id(number).await
    }

    async fn head_moved(&self) {
        self.node.head_moved().await;
    }

    fn blocks(&self, range: BlockRange) -> BoxStream<'static, Result<BlockRows, SourceError>> {
        let own = self.clone();
        let blocks = async move { Ok(own.checked().await?.blocks(range)) };
        stream::once(blocks).try_flatten().boxed()
    }
}

/// What is wrong with a chain id, where the network is known to have another.
fn other_chain(network: &Network, found: u64) -> Option<String> {
    let expected = networks::chain_id_of(network).filter(|expected| *expected != found)?;
    Some(format!(
        "`{network}` has the chain id {expected}, and it answers {found} (`{}`). Check its URL, or the network in the manifest",
        networks::network_of(found)
    ))
}

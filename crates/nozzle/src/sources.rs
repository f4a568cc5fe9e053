//! Opening a dataset's source: providers, verification, and the check that the chain behind each provider is
//! the right one.

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
use nozzle_metadata::MetadataStore;
use nozzle_sources::{
    BlockRows, BlockSource, Chain, Head, Place, SharedSource, SourceError,
    failover::{Failover, FailoverPolicy},
    retry::{Retry, RetryPolicy},
};
use tokio::sync::OnceCell;

use crate::{
    context::Context,
    definitions,
    kinds::{self, Endpoint, Keys},
    networks, providers, threads,
};

/// An EVM node given by its URL alone.
pub fn endpoint_of_url(url: &str) -> Endpoint {
    let keys = Keys::from_iter([("url".to_owned(), url.into())]);
    Endpoint { name: "--rpc-url".into(), kind: DatasetKind::EvmRpc, keys, throttle: None }
}

/// The endpoints of a kind and network, in the order in which they are tried; maybe none.
pub async fn endpoints_of_network(
    kind: DatasetKind,
    network: &Network,
    metadata: &dyn MetadataStore,
) -> anyhow::Result<Vec<Endpoint>> {
    providers::find(metadata, kind, network).await?.iter().map(providers::endpoint).collect()
}

/// The endpoints for a manifest's network, in the order in which they are tried; at least one.
///
/// None for a derived dataset, whose blocks are those of others.
pub async fn endpoints_of_manifest(manifest: &Manifest, context: &Context) -> anyhow::Result<Vec<Endpoint>> {
    let Manifest::Raw(manifest) = manifest else { return Ok(vec![]) };
    let found = endpoints_of_network(manifest.kind, &manifest.network, context.metadata.as_ref()).await?;
    if found.is_empty() {
        bail!(
            "there is no {} provider for the network `{}`: put a file with kind, network and url into {}{}",
            manifest.kind,
            manifest.network,
            context.config.path(&context.config.providers_dir).display(),
            if manifest.kind == DatasetKind::EvmRpc { ", or give --rpc-url" } else { "" }
        );
    }
    Ok(found)
}

/// Opens the source of a dataset: its endpoints, tried in their order, each of which must serve the
/// manifest's network; or what a derived one is made of. Nothing is sent yet.
pub async fn open(
    endpoints: &[Endpoint],
    manifest: &Manifest,
    verify: Option<Verify>,
    context: &Context,
) -> anyhow::Result<SharedSource> {
    match manifest {
        Manifest::Raw(manifest) => of_nodes(endpoints.to_vec(), manifest.clone(), verify).await,
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

/// A package may have to come from far away, for which no task is held up.
async fn of_nodes(
    endpoints: Vec<Endpoint>,
    manifest: RawManifest,
    verify: Option<Verify>,
) -> anyhow::Result<SharedSource> {
    let connecting = tokio::task::spawn_blocking(move || connect(&endpoints, &manifest, verify));
    connecting.await.context("opening it was broken off")?
}

fn connect(
    endpoints: &[Endpoint],
    manifest: &RawManifest,
    verify: Option<Verify>,
) -> anyhow::Result<SharedSource> {
    let kind = kinds::of(manifest.kind)?;
    let tables = kinds::stored_tables(manifest)?;
    let verify = verify.or(manifest.verify).unwrap_or(Verify::Header);
    let mut providers: Vec<(String, SharedSource)> = vec![];
    for endpoint in endpoints {
        let source = kind.connect(endpoint, manifest, tables.clone(), verify)?;
        let source = OnNetwork::new(endpoint.name.clone(), manifest.network.clone(), source);
        let source = Arc::new(source);
        let source = if endpoints.len() > 1 {
            Retry::new(source, RetryPolicy::among_several()).beside_others()
        } else {
            Retry::new(source, RetryPolicy::default())
        };
        providers.push((endpoint.name.clone(), Arc::new(source)));
    }
    let source = Failover::new(providers, FailoverPolicy::default()).context("no provider was given")?;
    Ok(Arc::new(source))
}

/// A source that is asked for its chain once, before anything else, and refused where that is not the
/// network's.
#[derive(Debug)]
pub struct OnNetwork<S: ?Sized> {
    provider: String,
    network: Network,
    source: Arc<S>,
    /// Set once the source has told its chain, and it is the right one.
    is_checked: Arc<OnceCell<()>>,
}

impl<S: ?Sized> Clone for OnNetwork<S> {
    fn clone(&self) -> Self {
        let Self { provider, network, source, is_checked } = self;
        Self {
            provider: provider.clone(),
            network: network.clone(),
            source: Arc::clone(source),
            is_checked: Arc::clone(is_checked),
        }
    }
}

impl<S: BlockSource + ?Sized> OnNetwork<S> {
    /// A source that should be at the network; `provider` is its name for messages.
    pub fn new(provider: String, network: Network, source: Arc<S>) -> Self {
        Self { provider, network, source, is_checked: Arc::default() }
    }

    /// The source, if it is one of the network.
    pub async fn checked(&self) -> Result<&S, SourceError> {
        let check = || async {
            let chain = self.told().await?;
            if let Some(calls) = chain.and_then(|chain| named_otherwise(&self.network, &chain)) {
                let provider = self.provider.as_str();
                tracing::warn!(provider, "{calls}");
            }
            Ok(())
        };
        self.is_checked.get_or_try_init(check).await?;
        Ok(&self.source)
    }

    /// The chain that the source tells now, if it is the network's.
    pub async fn told(&self) -> Result<Option<Chain>, SourceError> {
        let chain = self.source.chain().await?;
        match chain.as_ref().and_then(|found| other_chain(&self.network, found)) {
            Some(why) => Err(SourceError::OtherChain { provider: self.provider.clone(), why }),
            None => Ok(chain),
        }
    }
}

#[async_trait]
impl BlockSource for OnNetwork<dyn BlockSource> {
    fn provider(&self) -> &str {
        &self.provider
    }

    fn tables(&self) -> &[TableDef] {
        self.source.tables()
    }

    async fn head(&self) -> Result<Head, SourceError> {
        self.checked().await?.head().await
    }

    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        self.checked().await?.block_id(number).await
    }

    async fn head_moved(&self) {
        self.source.head_moved().await;
    }

    fn has_cursors(&self) -> bool {
        self.source.has_cursors()
    }

    fn blocks_behind(
        &self,
        range: BlockRange,
        behind: Option<Place>,
    ) -> BoxStream<'static, Result<BlockRows, SourceError>> {
        let own = self.clone();
        let blocks = async move { Ok(own.checked().await?.blocks_behind(range, behind)) };
        stream::once(blocks).try_flatten().boxed()
    }
}

/// What to look at where an endpoint has a name for its chain that can be compared with nothing.
pub fn named_otherwise(network: &Network, found: &Chain) -> Option<String> {
    let Chain::Named(names) = found else { return None };
    let is_other = !names.is_empty() && names.iter().all(|name| name != network.as_str());
    is_other.then(|| {
        let names = names.join("`, `");
        format!("it calls its chain `{names}`, a name that cannot be compared: see that it is `{network}`")
    })
}

/// What is wrong with a chain, where the network is known to be another.
fn other_chain(network: &Network, found: &Chain) -> Option<String> {
    let advice = "Check its URL, or the network in the manifest";
    match found {
        Chain::Id(found) => {
            let expected = networks::chain_id_of(network).filter(|expected| expected != found)?;
            let name = networks::network_of(*found);
            Some(format!(
                "`{network}` has the chain id {expected}, and it answers {found} (`{name}`). {advice}"
            ))
        }
        // Endpoints have names of their own for chains that are not widely known.
        Chain::Named(names) => {
            networks::chain_id_of(network)?;
            let is_known =
                |name: &String| name.parse().is_ok_and(|name| networks::chain_id_of(&name).is_some());
            let is_other = names.iter().all(|name| name != network.as_str() && is_known(name));
            let is_other = is_other && !names.is_empty();
            is_other.then(|| format!("it serves `{}`, and not `{network}`. {advice}", names.join("`, `")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_package_that_does_not_come_holds_up_nobody_else() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let package = format!("http://{}/x.spkg", listener.local_addr().expect("an address"));
        let manifest = json!({"name": "d", "kind": "substreams", "network": "mainnet", "manifest": package,
            "module": "m"});
        let manifest: RawManifest = serde_json::from_value(manifest).expect("a manifest");
        let keys = Keys::from_iter([("url".to_owned(), "http://127.0.0.1:1".into())]);
        let endpoint = Endpoint { name: "p".into(), kind: DatasetKind::Substreams, keys, throttle: None };
        // All of this is one thread's: were it held up, the package would be waited for in vain.
        let refuse = async {
            let (asking, _) = listener.accept().await.expect("a connection");
            drop((asking, listener));
        };
        let (opened, ()) = tokio::join!(of_nodes(vec![endpoint], manifest, None), refuse);
        let error = format!("{:#}", opened.expect_err("there is no package"));
        assert!(error.contains("reading the package") && !error.contains("has not come within"), "{error}");
    }
}

//! Whether the endpoints of the providers answer, and for the right chain, and what to change where not.

use std::time::Duration;

use anyhow::Context;
use futures::future::join_all;
use nozzle_core::manifest::{Manifest, RawManifest};
use nozzle_metadata::{MetadataStore, Provider};
use nozzle_query::Stores;
use nozzle_sources::{BlockSource, Chain, Head, SharedSource, SourceError, grpc};

use super::Examined;
use crate::{
    config::Config,
    definitions,
    folder::Folder,
    kinds::{self, Unread},
    networks, providers,
    report::one_line,
    sources::{OnNetwork, named_otherwise},
};

/// For how long an endpoint may think: somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tries out the endpoint of every provider, side by side.
pub(super) async fn examine(
    config: &Config,
    metadata: Option<&dyn MetadataStore>,
    stores: &Stores,
) -> Vec<Examined> {
    match providers(config, metadata, stores).await {
        Ok(providers) => {
            let defined = defined(config, metadata, stores).await;
            join_all(providers.iter().map(|provider| endpoint(provider, &defined))).await
        }
        Err(error) => {
            let mut examined = Examined::new("providers".to_owned());
            examined.faults.push(one_line(&error));
            vec![examined]
        }
    }
}

async fn providers(
    config: &Config,
    metadata: Option<&dyn MetadataStore>,
    stores: &Stores,
) -> anyhow::Result<Vec<Provider>> {
    let folder = Folder::at(&config.providers_dir, &config.base, stores)?;
    providers::all(&folder, metadata).await
}

/// The raw datasets that are defined, as far as that can be found out.
async fn defined(config: &Config, metadata: Option<&dyn MetadataStore>, stores: &Stores) -> Vec<RawManifest> {
    let mut manifests = vec![];
    if let Some(metadata) = metadata {
        let datasets = metadata.datasets().await.unwrap_or_default();
        manifests.extend(datasets.iter().filter_map(|dataset| definitions::of_dataset(dataset).ok()));
    }
    if let Ok(folder) = Folder::at(&config.dataset_defs_dir, &config.base, stores) {
        manifests.extend(definitions::defined(&folder).await.unwrap_or_default());
    }
    let raw = manifests.into_iter().filter_map(|manifest| match manifest {
        Manifest::Raw(raw) => Some(raw),
        Manifest::Derived(_) => None,
    });
    raw.collect()
}

async fn endpoint(provider: &Provider, defined: &[RawManifest]) -> Examined {
    let Provider { name, kind, network, .. } = provider;
    let mut examined = Examined::new(format!("provider {name} ({kind}, network {network})"));
    match source(provider, defined).await {
        Ok(Some(source)) => {
            let source = OnNetwork::new(name.to_string(), network.clone(), source);
            ask(&source, provider, &mut examined).await;
        }
        Ok(None) => {
            let why = format!(
                "that takes the package of a dataset of the kind {kind} and the network {network}, and none is defined"
            );
            reach(provider, &why, &mut examined).await;
        }
        Err(error) if error.downcast_ref::<Unread>().is_some() => {
            reach(provider, &one_line(&error), &mut examined).await;
        }
        Err(error) => examined.faults.push(one_line(&error)),
    }
    examined
}

/// What the endpoint is asked by. A package may have to come from far away, for which no task is held up.
async fn source(provider: &Provider, defined: &[RawManifest]) -> anyhow::Result<Option<SharedSource>> {
    let (kind, network) = (provider.kind, provider.network.clone());
    let mut endpoint = providers::endpoint(provider)?;
    // One that pushes back is to be told by its own words, which come before it is asked again.
    endpoint.throttle = Some(endpoint.own_throttle()?.without_patience());
    let fits = |raw: &&RawManifest| raw.kind == kind && raw.network == network;
    let defined: Vec<RawManifest> = defined.iter().filter(fits).cloned().collect();
    let probing = tokio::task::spawn_blocking(move || {
        kinds::of(kind)?.probe(&endpoint, &network, &defined.iter().collect::<Vec<_>>())
    });
    probing.await.context("looking at it was broken off")?
}

/// Whether anything is there at an endpoint over gRPC that cannot be asked, and why it cannot.
async fn reach(provider: &Provider, why: &str, examined: &mut Examined) {
    let endpoint = providers::endpoint(provider);
    let url = endpoint.ok().and_then(|endpoint| Some(endpoint.keys.get("url")?.as_str()?.to_owned()));
    match grpc::reach(&url.unwrap_or_default()).await {
        Ok(()) => {
            examined.works.push("reachable".to_owned());
            examined.notes.push(format!("it was not asked: {why}"));
        }
        Err(fault) => examined.faults.push(fault),
    }
}

async fn ask(source: &OnNetwork<dyn BlockSource>, provider: &Provider, examined: &mut Examined) {
    let chain = match within(source.told()).await {
        Ok(chain) => chain,
        Err(fault) => return examined.faults.push(fault),
    };
    let head = within(source.head()).await;
    // A kind whose endpoints do not tell their chain was not asked for it.
    if chain.is_some() || head.is_ok() {
        examined.works.push("reachable".to_owned());
        tell_chain(chain, provider, examined);
    }
    match head {
        Ok(Head { latest, finalized }) => {
            examined.works.push(format!("head {}", latest.number));
            match finalized {
                Some(block) => examined.works.push(format!("finalized {}", block.number)),
                None => examined.notes.push(
                    "it tells of no final block: `reorg_depth` of [chain] says how many blocks below the head count as final"
                        .to_owned(),
                ),
            }
        }
        Err(fault) => examined.faults.push(fault),
    }
}

fn tell_chain(chain: Option<Chain>, provider: &Provider, examined: &mut Examined) {
    let network = &provider.network;
    examined.notes.extend(chain.as_ref().and_then(|chain| named_otherwise(network, chain)));
    match chain {
        Some(Chain::Id(id)) => examined.works.push(format!("chain id {id} (`{}`)", networks::network_of(id))),
        Some(Chain::Named(names)) => examined.works.push(format!("chain `{}`", names.join("`, `"))),
        None => {
            examined.notes.push(format!("it does not say whose chain it serves: see that it is `{network}`"))
        }
    }
    if networks::chain_id_of(network).is_none() {
        examined.notes.push(format!(
            "`{network}` is no network that is known by name: see that the endpoint's chain is the one you mean"
        ));
    }
}

/// What a source answers, or what is wrong and what to do.
async fn within<T>(answer: impl Future<Output = Result<T, SourceError>>) -> Result<T, String> {
    let Ok(answer) = tokio::time::timeout(PATIENCE, answer).await else {
        let seconds = PATIENCE.as_secs();
        return Err(format!(
            "it has not answered within {seconds} s; check `url`, and that the endpoint runs and lets this machine in"
        ));
    };
    answer.map_err(|error| {
        let text = error.with_causes();
        match error {
            SourceError::Unavailable { .. } if !text.contains("check ") => {
                format!("{text}; check `url`, and that the endpoint runs and lets this machine in")
            }
            // What can be done is in their words.
            _ => text,
        }
    })
}

//! Calls of contracts for queries: the providers of the network, in their order, within their limits.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use nozzle_core::{CallOutcome, ContractCall, DatasetKind, Network};
use nozzle_metadata::MetadataStore;
use nozzle_query::ContractCaller;
use nozzle_sources::{SourceError, evm_rpc::EvmRpc};

use crate::{
    kinds::{self, Endpoint},
    sources::{self, OnNetwork},
    throttles::Throttles,
};

/// How long it takes until all providers are asked again that have failed, before the last time.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];

/// The nodes of all networks that queries have called.
#[derive(Debug)]
pub struct Nodes {
    metadata: Arc<dyn MetadataStore>,
    throttles: Arc<Throttles>,
    /// Those that were asked before, with what they were opened by.
    opened: Mutex<HashMap<Network, Vec<Opened>>>,
}

#[derive(Debug, Clone)]
struct Opened {
    endpoint: Endpoint,
    node: OnNetwork<EvmRpc>,
}

impl Nodes {
    /// Nodes by the providers of the database, which share the throttles with all else that asks them.
    pub fn new(metadata: Arc<dyn MetadataStore>, throttles: Arc<Throttles>) -> Self {
        Self { metadata, throttles, opened: Mutex::default() }
    }

    /// The nodes of a network, in the order in which they are asked, connected as before where nothing of them
    /// has changed.
    async fn of(&self, network: &Network) -> anyhow::Result<Vec<OnNetwork<EvmRpc>>> {
        let mut endpoints =
            sources::endpoints_of_network(DatasetKind::EvmRpc, network, self.metadata.as_ref()).await?;
        anyhow::ensure!(
            !endpoints.is_empty(),
            "there is no evm-rpc provider for the network `{network}`, and contracts are called through one"
        );
        self.throttles.hold(&mut endpoints, network)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let before = opened.remove(network).unwrap_or_default();
        let mut now = vec![];
        for endpoint in endpoints {
            let same = before.iter().find(|one| one.endpoint.is_same(&endpoint));
            now.push(match same {
                Some(same) => same.clone(),
                None => {
                    let node = Arc::new(kinds::node(&endpoint)?);
                    let node = OnNetwork::new(endpoint.name.clone(), network.clone(), node);
                    Opened { node, endpoint }
                }
            });
        }
        let nodes = now.iter().map(|one| one.node.clone()).collect();
        opened.insert(network.clone(), now);
        Ok(nodes)
    }
}

#[async_trait]
impl ContractCaller for Nodes {
    async fn call(
        &self,
        network: &Network,
        calls: Vec<ContractCall>,
    ) -> Result<Vec<CallOutcome>, Box<dyn Error + Send + Sync>> {
        let nodes = self.of(network).await?;
        let mut asking = Asking { outcomes: calls.iter().map(|_| None).collect(), calls, failures: vec![] };
        let mut pauses = PAUSES.into_iter();
        loop {
            asking.failures.clear();
            for node in &nodes {
                asking.ask(node).await;
                if let Some(outcomes) = asking.all() {
                    return Ok(outcomes);
                }
            }
            match pauses.next().filter(|_| asking.failures.iter().any(SourceError::may_pass)) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(SourceError::AllFailed { failures: asking.failures }.into()),
            }
        }
    }
}

/// Calls, and what has come of them so far.
struct Asking {
    calls: Vec<ContractCall>,
    outcomes: Vec<Option<CallOutcome>>,
    /// Why the last round left some without an outcome, by provider.
    failures: Vec<SourceError>,
}

impl Asking {
    /// Asks a node for what is still missing.
    async fn ask(&mut self, node: &OnNetwork<EvmRpc>) {
        let node = match node.checked().await {
            Ok(node) => node,
            Err(error) => return self.failures.push(error),
        };
        let places: Vec<usize> = (0..self.calls.len()).filter(|at| self.outcomes[*at].is_none()).collect();
        let calls: Vec<_> = places.iter().map(|at| self.calls[*at].clone()).collect();
        let mut failure = None;
        for (at, outcome) in places.into_iter().zip(node.contract_calls(&calls).await) {
            match outcome {
                Ok(outcome) => self.outcomes[at] = Some(outcome),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        self.failures.extend(failure);
    }

    /// The outcomes, once there is one of each call.
    fn all(&mut self) -> Option<Vec<CallOutcome>> {
        if self.outcomes.iter().any(Option::is_none) {
            return None;
        }
        std::mem::take(&mut self.outcomes).into_iter().collect()
    }
}

//! The limits of providers, which all datasets of this process keep together, and all workers too.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use nozzle_core::{DatasetKind, Network};
use nozzle_sources::Throttle;

use crate::kinds::{Endpoint, Keys};

/// One throttle for each provider.
#[derive(Debug, Default)]
pub struct Throttles {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_provider: HashMap<String, Provider>,
    /// How many workers have tasks of each chain.
    sharing: Vec<(DatasetKind, Network, u64)>,
}

#[derive(Debug)]
struct Provider {
    kind: DatasetKind,
    network: Network,
    keys: Keys,
    throttle: Throttle,
}

impl Throttles {
    /// Keeps endpoints of one network to their limits together with all others of the process. They are all that
    /// can be asked: one of several that only pushes back is left soon.
    pub fn hold(&self, endpoints: &mut [Endpoint], network: &Network) -> anyhow::Result<()> {
        let has_others = endpoints.len() > 1;
        for endpoint in endpoints {
            let throttle = self.of(endpoint, network)?;
            throttle.beside_others(has_others);
            endpoint.throttle = Some(throttle);
        }
        Ok(())
    }

    /// The throttle of a provider; a new one where its keys have changed.
    fn of(&self, endpoint: &Endpoint, network: &Network) -> anyhow::Result<Throttle> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.by_provider.get(&endpoint.name)
            && known.keys == endpoint.keys
        {
            return Ok(known.throttle.clone());
        }
        let throttle = endpoint.own_throttle()?;
        throttle.share(sharers(&kept.sharing, endpoint.kind, network));
        let provider = Provider {
            kind: endpoint.kind,
            network: network.clone(),
            keys: endpoint.keys.clone(),
            throttle: throttle.clone(),
        };
        kept.by_provider.insert(endpoint.name.clone(), provider);
        Ok(throttle)
    }

    /// So many workers have tasks of each chain now.
    pub fn share(&self, sharing: &[(DatasetKind, Network, u64)]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.sharing = sharing.to_vec();
        for provider in kept.by_provider.values() {
            provider.throttle.share(sharers(sharing, provider.kind, &provider.network));
        }
    }
}

fn sharers(sharing: &[(DatasetKind, Network, u64)], kind: DatasetKind, network: &Network) -> u32 {
    let of_chain = sharing.iter().find(|(of_kind, chain, _)| *of_kind == kind && chain == network);
    of_chain.map_or(1, |(.., workers)| u32::try_from(*workers).unwrap_or(u32::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn one_of_several_providers_that_only_pushes_back_is_left_sooner_than_one_alone() {
        let endpoint = |name: &str| Endpoint {
            name: name.into(),
            kind: DatasetKind::EvmRpc,
            keys: Keys::from_iter([("url".to_owned(), json!("https://h.example"))]),
            throttle: None,
        };
        let throttles = Throttles::default();
        let network = "mainnet".parse().expect("a network");
        let patience = |names: &[&str]| {
            let mut endpoints: Vec<_> = names.iter().map(|name| endpoint(name)).collect();
            throttles.hold(&mut endpoints, &network).expect("good keys");
            let of = |endpoint: &Endpoint| endpoint.throttle.as_ref().expect("a throttle").patience();
            endpoints.iter().map(of).collect::<Vec<_>>()
        };
        let (alone, among_several) = (Duration::from_secs(60), Duration::from_secs(10));
        assert_eq!(patience(&["a"]), [alone]);
        assert_eq!(patience(&["a", "b"]), [among_several; 2]);
        assert_eq!(patience(&["a"]), [alone], "the other one is gone again");
    }
}

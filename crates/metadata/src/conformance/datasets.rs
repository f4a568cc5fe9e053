//! Rules of datasets, providers and finality.

use nozzle_core::{BlockId, DatasetKind};

use super::{Database, world::*};
use crate::*;

pub(super) async fn registering_the_same_manifest_again_is_no_error(database: Database) {
    let store = database.open().await;
    let new = new_dataset("chain", "1.0.0", r#"{"a":1}"#);
    let first = store.register_dataset(&new).await.unwrap();
    assert!(matches!(first, Registered::New(_)));
    assert_eq!(store.register_dataset(&new).await.unwrap(), Registered::Same(first.id()));

    let stored = store.dataset(&"chain__1_0_0".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((stored.id, &stored.name, stored.version), (first.id(), &new.name, new.version));
    assert_eq!((stored.kind, &stored.network, &stored.manifest), (new.kind, &new.network, &new.manifest));
    let age = chrono::Utc::now() - stored.created_at;
    assert!(age.num_seconds().abs() < 60, "{age}");
}

pub(super) async fn another_manifest_under_the_same_version_is_refused(database: Database) {
    let store = database.open().await;
    store.register_dataset(&new_dataset("chain", "1.0.0", "{}")).await.unwrap();
    let other = new_dataset("chain", "1.0.0", r#"{"a":1}"#);
    assert_refused(store.register_dataset(&other).await, "another manifest");
    let other = NewDataset { kind: DatasetKind::Firehose, ..new_dataset("chain", "1.0.0", "{}") };
    assert_refused(store.register_dataset(&other).await, "another manifest");
    assert_eq!(store.datasets().await.unwrap().len(), 1);
}

pub(super) async fn registering_at_once_makes_one_dataset(database: Database) {
    let stores = [database.open().await, database.open().await];
    let new = new_dataset("chain", "1.0.0", "{}");
    let register = |n: usize| {
        let (store, new) = (stores[n % 2].clone(), new.clone());
        tokio::spawn(async move { store.register_dataset(&new).await.unwrap() })
    };
    let tasks: Vec<_> = (0..8).map(register).collect();
    let mut answers = vec![];
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Registered::New(_))).count(), 1);
    assert!(answers.iter().all(|answer| answer.id() == answers[0].id()));
}

pub(super) async fn a_reference_without_a_version_is_the_greatest(database: Database) {
    let store = database.open().await;
    for (name, version) in [("b", "1.2.0"), ("b", "1.10.0"), ("b", "0.9.0"), ("a", "3.0.0")] {
        store.register_dataset(&new_dataset(name, version, "{}")).await.unwrap();
    }
    let version = async |reference: &str| {
        let found = store.dataset(&reference.parse().unwrap()).await.unwrap();
        found.map(|dataset| dataset.version.to_string())
    };
    assert_eq!(version("b").await.as_deref(), Some("1.10.0"));
    assert_eq!(version("b__0_9_0").await.as_deref(), Some("0.9.0"));
    assert_eq!(version("b__2_0_0").await, None);
    assert_eq!(version("c").await, None);
    let all = store.datasets().await.unwrap();
    let listed: Vec<_> = all.iter().map(|dataset| format!("{} {}", dataset.name, dataset.version)).collect();
    assert_eq!(listed, ["a 3.0.0", "b 0.9.0", "b 1.2.0", "b 1.10.0"]);
}

pub(super) async fn a_removed_dataset_may_be_registered_again_as_a_new_one(database: Database) {
    let world = World::new(database).await;
    let building = new_revision(world.dataset, RevisionState::Building);
    world.create_revision(&building).await.unwrap();
    let before = world.sequence().await.unwrap();
    world.remove_datasets(&[world.dataset]).await.unwrap();

    assert_eq!(world.datasets().await.unwrap(), []);
    assert_eq!(world.snapshot().await.unwrap().datasets, []);
    assert!(world.sequence().await.unwrap() > before);
    let revisions = world.revisions(world.dataset).await.unwrap();
    assert_eq!(revisions.len(), 2);
    assert!(revisions.iter().all(|r| r.state == RevisionState::Retired && r.retired_at.is_some()));
    assert_refused(world.remove_datasets(&[world.dataset]).await, "no dataset");
    let late = new_revision(world.dataset, RevisionState::Active);
    assert_refused(world.create_revision(&late).await, "no dataset");

    let again = world.register_dataset(&new_dataset("chain", "0.0.0", r#"{"b":2}"#)).await.unwrap();
    assert!(matches!(again, Registered::New(id) if id != world.dataset));
}

pub(super) async fn a_dataset_that_is_written_is_not_removed(database: Database) {
    let world = World::new(database).await;
    let claim = world.claim(world.revision.id, &[range(0, 9)], "job 7 on node a").await.unwrap();
    assert_refused(world.remove_datasets(&[world.dataset]).await, "job 7 on node a");
    // All or none.
    let other = world.register_dataset(&new_dataset("chain", "2.0.0", "{}")).await.unwrap().id();
    assert_refused(world.remove_datasets(&[other, world.dataset]).await, "job 7 on node a");
    assert_eq!(world.datasets().await.unwrap().len(), 2);
    world.remove_datasets(&[other]).await.unwrap();

    world.database.silence(claim.granted[0].id).await;
    world.remove_datasets(&[world.dataset]).await.unwrap();
    assert_eq!(world.renew(&[claim.granted[0].id]).await.unwrap(), []);
}

/// A derived dataset that was pinned to `chain` 1.0.0.
fn made_of_chain(name: &str) -> NewDataset {
    let manifest = serde_json::json!({
        "name": name, "version": "1.0.0", "kind": "manifest", "tables": {},
        "resolved": {"names": {"c": "chain__1_0_0"}, "chain": "chain__1_0_0", "network": "anvil",
                     "start_block": 0, "schemas": {}},
    });
    NewDataset { kind: DatasetKind::Manifest, ..new_dataset(name, "1.0.0", &manifest.to_string()) }
}

#[track_caller]
fn assert_dependency<T: std::fmt::Debug>(result: Result<T>, words: &str) {
    match result {
        Err(MetadataError::Dependency(why)) => assert!(why.contains(words), "`{why}` does not say `{words}`"),
        other => panic!("{other:?} should be refused because of `{words}`"),
    }
}

pub(super) async fn what_a_dataset_is_made_of_is_not_removed(database: Database) {
    let store = database.open().await;
    assert_dependency(store.register_dataset(&made_of_chain("own")).await, "`chain__1_0_0`");
    let other = store.register_dataset(&new_dataset("chain", "2.0.0", "{}")).await.unwrap().id();
    assert_dependency(store.register_dataset(&made_of_chain("own")).await, "`chain__1_0_0`");
    let chain = store.register_dataset(&new_dataset("chain", "1.0.0", "{}")).await.unwrap().id();
    let own = store.register_dataset(&made_of_chain("own")).await.unwrap().id();
    // All or none.
    assert_dependency(store.remove_datasets(&[other, chain]).await, "`own` 1.0.0 is made of `chain`");
    assert_eq!(store.datasets().await.unwrap().len(), 3);
    store.remove_datasets(&[other]).await.unwrap();
    store.remove_datasets(&[chain, own]).await.unwrap();
    assert_eq!(store.datasets().await.unwrap(), []);
}

pub(super) async fn a_dataset_is_never_made_of_one_that_goes_meanwhile(database: Database) {
    let stores = [database.open().await, database.open().await];
    for round in 0..12 {
        let chain = stores[0].register_dataset(&new_dataset("chain", "1.0.0", "{}")).await.unwrap().id();
        let (registering, removing) = (stores[0].clone(), stores[1].clone());
        let own = made_of_chain(&format!("own{round}"));
        let registering = tokio::spawn(async move { registering.register_dataset(&own).await });
        let removing = tokio::spawn(async move { removing.remove_datasets(&[chain]).await });
        match (registering.await.unwrap(), removing.await.unwrap()) {
            (Ok(own), Err(MetadataError::Dependency(_))) => {
                stores[0].remove_datasets(&[own.id(), chain]).await.unwrap();
            }
            (Err(MetadataError::Dependency(_)), Ok(())) => {}
            other => panic!("round {round}: {other:?}"),
        }
        assert_eq!(stores[0].datasets().await.unwrap(), []);
    }
}

pub(super) async fn providers_are_put_replaced_listed_and_removed(database: Database) {
    let store = database.open().await;
    let provider = |name: &str, config: &str, origin| Provider {
        name: name.parse().unwrap(),
        kind: DatasetKind::EvmRpc,
        network: "arbitrum-one".parse().unwrap(),
        region: None,
        config: config.into(),
        origin,
    };
    let z = provider("z", r#"{"url":"${RPC}"}"#, ProviderOrigin::File);
    let upper = provider("Z", "{}", ProviderOrigin::File);
    store.put_provider(&z).await.unwrap();
    store.put_provider(&upper).await.unwrap();
    store.put_provider(&provider("a", "{}", ProviderOrigin::File)).await.unwrap();
    let a = provider("a", r#"{"url":"http://b"}"#, ProviderOrigin::Api);
    store.put_provider(&a).await.unwrap();
    assert_eq!(store.providers().await.unwrap(), [upper.clone(), a.clone(), z]);

    assert!(store.remove_provider(&"z".parse().unwrap()).await.unwrap());
    assert!(!store.remove_provider(&"z".parse().unwrap()).await.unwrap());
    assert_eq!(store.providers().await.unwrap(), [upper, a]);
}

pub(super) async fn finality_is_kept_for_each_network(database: Database) {
    let store = database.open().await;
    let (anvil, other) = ("anvil".parse().unwrap(), "other".parse().unwrap());
    assert_eq!(store.finality(&anvil).await.unwrap(), None);
    let block = |number| BlockId { number, hash: hash_on(1, number) };
    let first = Finality { head: block(9), finalized: None };
    let second = Finality { head: block(20), finalized: Some(block(12)) };
    store.set_finality(&anvil, &first).await.unwrap();
    store.set_finality(&other, &second).await.unwrap();
    assert_eq!(store.finality(&anvil).await.unwrap(), Some(first));
    store.set_finality(&anvil, &second).await.unwrap();
    store.set_finality(&other, &first).await.unwrap();
    assert_eq!(store.finality(&anvil).await.unwrap(), Some(second));
    assert_eq!(store.finality(&other).await.unwrap(), Some(first));
    let beyond = Finality { head: block(u64::MAX), finalized: None };
    assert_refused(store.set_finality(&anvil, &beyond).await, "block number");
}

pub(super) async fn a_row_that_does_not_read_is_corrupt(database: Database) {
    let store = database.open().await;
    store.register_dataset(&new_dataset("chain", "1.0.0", "{}")).await.unwrap();
    database.execute("UPDATE datasets SET version = 'newest'").await;
    let Err(MetadataError::Corrupt { what, .. }) = store.datasets().await else {
        panic!("a version that is none was read")
    };
    assert!(what.contains("newest"), "{what}");
}

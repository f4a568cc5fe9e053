//! Rules of revisions and snapshots.

use super::{Database, world::*};
use crate::*;

pub(super) async fn a_revision_keeps_its_tables_in_their_order(database: Database) {
    let world = World::new(database).await;
    let new = new_revision(world.dataset, RevisionState::Building);
    let made = world.create_revision(&new).await.unwrap();
    assert_eq!(
        (made.id, made.dataset, made.state, made.retired_at),
        (new.id, world.dataset, new.state, None)
    );
    let kept =
        made.locations.iter().cloned().map(|l| NewLocation { table: l.table, url: l.url, schema: l.schema });
    assert_eq!(kept.collect::<Vec<_>>(), new.tables);
    assert_eq!(world.revisions(world.dataset).await.unwrap(), [world.revision.clone(), made]);
    assert_eq!(world.revisions(DatasetId(99)).await.unwrap(), []);
}

pub(super) async fn malformed_revisions_are_refused(database: Database) {
    let world = World::new(database).await;
    let good = || new_revision(world.dataset, RevisionState::Building);
    let refused = async |new: NewRevision, words| assert_refused(world.create_revision(&new).await, words);
    refused(NewRevision { state: RevisionState::Retired, ..good() }, "building or active").await;
    refused(NewRevision { tables: vec![], ..good() }, "at least one table").await;
    refused(NewRevision { dataset: DatasetId(99), ..good() }, "no dataset").await;
    refused(NewRevision { id: world.revision.id, ..good() }, "already").await;
    let mut open = good();
    open.tables[1].url = "file:///data".into();
    refused(open, "does not end in `/`").await;
    let mut twice = good();
    twice.tables[1].table = twice.tables[0].table.clone();
    refused(twice, "twice").await;
    assert_eq!(world.revisions(world.dataset).await.unwrap().len(), 1);
}

pub(super) async fn a_dataset_has_one_building_and_one_active_revision(database: Database) {
    let world = World::new(database).await;
    let active = new_revision(world.dataset, RevisionState::Active);
    assert_refused(world.create_revision(&active).await, "active revision already");
    world.create_revision(&new_revision(world.dataset, RevisionState::Building)).await.unwrap();
    let building = new_revision(world.dataset, RevisionState::Building);
    assert_refused(world.create_revision(&building).await, "building revision already");
}

pub(super) async fn activating_switches_all_tables_at_once(database: Database) {
    let world = World::new(database).await;
    let old_lease = world.claim_one(range(0, 9)).await;
    let new = world.create_revision(&new_revision(world.dataset, RevisionState::Building)).await.unwrap();
    let before = world.snapshot().await.unwrap();
    assert_eq!(before.datasets[0].1.as_ref(), Some(&world.revision));

    let switched = world.activate_revision(new.id).await.unwrap();
    assert_eq!(switched, CommitSeq(before.sequence.0 + 1));
    let after = world.snapshot().await.unwrap();
    assert_eq!(after.sequence, switched);
    let active = Revision { state: RevisionState::Active, ..new };
    assert_eq!(after.datasets[0].1.as_ref(), Some(&active));
    let old = &world.revisions(world.dataset).await.unwrap()[0];
    assert_eq!((old.id, old.state), (world.revision.id, RevisionState::Retired));
    // Whoever wrote the old one stops.
    assert_eq!(world.renew(&[old_lease.id]).await.unwrap(), []);
    assert!(matches!(world.add(old_lease.id, &[span(0, 9)]).await, Err(CommitError::LeaseLost(_))));
}

pub(super) async fn only_a_building_revision_is_activated(database: Database) {
    let world = World::new(database).await;
    assert_refused(world.activate_revision(world.revision.id).await, "active already");
    world.retire_revision(world.revision.id).await.unwrap();
    assert_refused(world.activate_revision(world.revision.id).await, "is retired");
    let unknown = new_revision(world.dataset, RevisionState::Building);
    assert_refused(world.activate_revision(unknown.id).await, "no revision");

    // Where none is active, a building one is all the same.
    world.create_revision(&unknown).await.unwrap();
    world.activate_revision(unknown.id).await.unwrap();
    assert_eq!(world.snapshot().await.unwrap().datasets[0].1.as_ref().unwrap().id, unknown.id);
}

pub(super) async fn retiring_ends_the_leases_and_shows_in_the_next_snapshot(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 9)).await;
    let before = world.sequence().await.unwrap();
    world.retire_revision(world.revision.id).await.unwrap();

    let snapshot = world.snapshot().await.unwrap();
    assert!(snapshot.sequence > before);
    assert_eq!(snapshot.datasets[0].1, None);
    assert_eq!(world.leases(world.revision.id).await.unwrap(), []);
    assert!(matches!(world.add(lease.id, &[span(0, 9)]).await, Err(CommitError::LeaseLost(_))));
    assert_refused(world.claim(world.revision.id, &[range(0, 9)], "late").await, "retired");
    assert_refused(world.retire_revision(world.revision.id).await, "retired");
}

pub(super) async fn a_snapshot_lists_datasets_with_and_without_revisions(database: Database) {
    let world = World::new(database).await;
    for (name, version) in [("zoo", "1.0.0"), ("chain", "0.10.0"), ("chain", "0.9.0"), ("abc", "1.0.0")] {
        world.register_dataset(&new_dataset(name, version, name)).await.unwrap();
    }
    let snapshot = world.snapshot().await.unwrap();
    let listed: Vec<_> = snapshot
        .datasets
        .iter()
        .map(|(dataset, revision)| format!("{} {} {}", dataset.name, dataset.version, revision.is_some()))
        .collect();
    let expected =
        ["abc 1.0.0 false", "chain 0.0.0 true", "chain 0.9.0 false", "chain 0.10.0 false", "zoo 1.0.0 false"];
    assert_eq!(listed, expected);
    let datasets: Vec<_> = snapshot.datasets.iter().map(|(dataset, _)| dataset.clone()).collect();
    assert_eq!(datasets, world.datasets().await.unwrap());
    assert_eq!(snapshot.datasets[1].1.as_ref(), Some(&world.revision));
}

pub(super) async fn revisions_stay_known_whatever_becomes_of_them(database: Database) {
    let world = World::new(database).await;
    let unknown = nozzle_core::RevisionId::generate();
    let known = async || world.known_revisions(&[unknown, world.revision.id]).await.unwrap();
    assert_eq!(known().await, [world.revision.id]);
    world.remove_datasets(&[world.dataset]).await.unwrap();
    assert_eq!(known().await, [world.revision.id]);
    assert_eq!(world.known_revisions(&[]).await.unwrap(), []);
}

pub(super) async fn sequence_numbers_can_be_skipped_but_not_given_again(database: Database) {
    let world = World::new(database).await;
    world.skip_sequence(CommitSeq(1000)).await.unwrap();
    world.skip_sequence(CommitSeq(10)).await.unwrap();
    let claim = world.claim(world.revision.id, &[range(0, 9)], "a test").await.unwrap();
    assert_eq!(claim.sequence, CommitSeq(1000));
    let committed = world.add(claim.granted[0].id, &[span(0, 9)]).await.unwrap();
    assert!(committed > CommitSeq(1000), "{committed}");
    assert_eq!(world.seen(0).await.len(), 1);
    // A claim sees what was committed on its blocks before.
    world.release(&[claim.granted[0].id]).await.unwrap();
    let again = world.claim(world.revision.id, &[range(0, 9)], "a test").await.unwrap();
    assert_eq!(again.sequence, committed);
}

//! Rules of leases.

use std::time::Duration;

use nozzle_core::{BlockRange, RevisionId};

use super::{Database, world::*};
use crate::*;

pub(super) async fn a_claim_grants_what_nobody_holds_and_names_the_holders(database: Database) {
    let world = World::new(database).await;
    let revision = world.revision.id;
    let first = world.claim(revision, &[range(10, 19), range(30, 39)], "first").await.unwrap();
    assert_eq!(
        first.granted.iter().map(|lease| lease.range).collect::<Vec<_>>(),
        [range(10, 19), range(30, 39)]
    );
    assert!(first.granted.iter().all(|lease| lease.revision == revision));

    let second = world.claim(revision, &[range(0, 34)], "second").await.unwrap();
    assert_eq!(
        second.granted.iter().map(|lease| lease.range).collect::<Vec<_>>(),
        [range(0, 9), range(20, 29)]
    );
    assert_eq!(second.held.iter().map(|held| held.lease).collect::<Vec<_>>(), first.granted);
    for held in &second.held {
        assert_eq!(held.holder, "first");
        assert!(held.silent_for < Duration::from_secs(5), "{held:?}");
    }
    assert_eq!(world.leases(revision).await.unwrap().len(), 4);
    let nothing = world.claim(revision, &[range(12, 15)], "third").await.unwrap();
    assert_eq!((nothing.granted.len(), nothing.held.len()), (0, 1));
    let of_nothing = world.claim(revision, &[], "fourth").await.unwrap();
    assert_eq!((of_nothing.granted.len(), of_nothing.held.len()), (0, 0));

    // The other revision of the dataset has leases of its own.
    let other = world.create_revision(&new_revision(world.dataset, RevisionState::Building)).await.unwrap();
    let other = world.claim(other.id, &[range(10, 19)], "other").await.unwrap();
    assert_eq!((other.granted.len(), other.held.len()), (1, 0));
}

pub(super) async fn claims_at_once_never_grant_the_same_block(database: Database) {
    let world = std::sync::Arc::new(World::new(database).await);
    let second_store = world.database.open().await;
    let mut claims = tokio::task::JoinSet::new();
    for n in 0..24_u64 {
        let world = world.clone();
        let store = if n % 2 == 0 { world.store.clone() } else { second_store.clone() };
        claims.spawn(async move {
            let start = n * 37 % 101;
            let wanted =
                [range(start, start + 20), range(start + 40, start + 45), range(start + 60, start + 90)];
            store.claim(world.revision.id, &wanted, &format!("task {n}")).await.unwrap()
        });
    }
    let granted: Vec<_> = claims.join_all().await.into_iter().flat_map(|claim| claim.granted).collect();
    for (n, one) in granted.iter().enumerate() {
        for other in &granted[n + 1..] {
            assert!(!one.range.overlaps(other.range), "{one:?} {other:?}");
        }
    }
    // What anybody wanted, somebody got.
    let all = nozzle_core::range::merge(granted.iter().map(|lease| lease.range).collect());
    let wanted = (0..24_u64).map(|n| n * 37 % 101).flat_map(|start| {
        [range(start, start + 20), range(start + 40, start + 45), range(start + 60, start + 90)]
    });
    assert_eq!(all, nozzle_core::range::merge(wanted.collect()));
}

pub(super) async fn a_silent_lease_is_taken_and_its_late_commit_refused(database: Database) {
    let world = World::new(database).await;
    let silent = world.claim_one(range(0, 99)).await;
    world.database.silence(silent.id).await;
    assert_eq!(world.leases(world.revision.id).await.unwrap(), []);

    let taker = world.claim_one(range(50, 59)).await;
    assert_eq!(taker.range, range(50, 59));
    let late = world.add(silent.id, &[span(0, 9)]).await;
    assert!(matches!(late, Err(CommitError::LeaseLost(id)) if id == silent.id), "{late:?}");
    assert_eq!(world.renew(&[silent.id, taker.id]).await.unwrap(), [taker.id]);
    world.add(taker.id, &[span(50, 59)]).await.unwrap();
}

pub(super) async fn a_silent_lease_that_nobody_took_lives_on(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    world.database.silence(lease.id).await;
    assert_eq!(world.renew(&[lease.id]).await.unwrap(), [lease.id]);
    let claim = world.claim(world.revision.id, &[range(0, 9)], "other").await.unwrap();
    assert_eq!((claim.granted.len(), claim.held.len()), (0, 1));
    // A commit is as good a sign of life as a renewal.
    world.database.silence(lease.id).await;
    world.add(lease.id, &[span(0, 9)]).await.unwrap();
    assert_eq!(world.leases(world.revision.id).await.unwrap().len(), 1);
}

pub(super) async fn a_silent_lease_elsewhere_is_left_alone(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 9)).await;
    world.database.silence(lease.id).await;
    world.claim_one(range(10, 19)).await;
    assert_eq!(world.renew(&[lease.id]).await.unwrap(), [lease.id]);
}

pub(super) async fn a_released_lease_is_free_again(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    world.release(&[lease.id]).await.unwrap();
    world.release(&[lease.id, LeaseId(9999)]).await.unwrap();
    world.release(&[]).await.unwrap();
    assert_eq!(world.renew(&[lease.id]).await.unwrap(), []);
    assert_eq!(world.renew(&[]).await.unwrap(), []);
    assert_eq!(world.claim_one(range(0, 99)).await.range, range(0, 99));
}

pub(super) async fn lease_ids_only_grow(database: Database) {
    let world = World::new(database).await;
    let mut last = LeaseId(0);
    for _ in 0..5 {
        let lease = world.claim_one(range(0, 9)).await;
        assert!(lease.id > last);
        last = lease.id;
        world.release(&[lease.id]).await.unwrap();
    }
}

pub(super) async fn claims_on_what_is_not_there_are_refused(database: Database) {
    let world = World::new(database).await;
    let unknown = RevisionId::generate();
    assert_refused(world.claim(unknown, &[range(0, 9)], "a test").await, "no revision");
    assert_eq!(world.leases(unknown).await.unwrap(), []);
}

pub(super) async fn a_lease_is_widened_where_nobody_is_in_the_way(database: Database) {
    let world = World::new(database).await;
    let below = world.claim_one(range(0, 49)).await;
    let head = world.claim_one(BlockRange::from(100)).await;
    let widened = world.widen(head.id, BlockRange::from(50)).await.unwrap().unwrap();
    assert_eq!(widened, Lease { range: BlockRange::from(50), ..head });
    world.add(head.id, &[span(50, 59)]).await.unwrap();
    let held = world.claim(world.revision.id, &[range(60, 60)], "other").await.unwrap().held;
    assert_eq!(held.iter().map(|held| held.lease).collect::<Vec<_>>(), [widened]);
    assert_eq!(world.renew(&[below.id]).await.unwrap(), [below.id]);
}

pub(super) async fn a_live_lease_in_the_way_stops_widening(database: Database) {
    let world = World::new(database).await;
    let claim = world.claim(world.revision.id, &[range(0, 49)], "backfill").await.unwrap();
    let head = world.claim_one(BlockRange::from(100)).await;
    let held = world.widen(head.id, BlockRange::from(49)).await.unwrap().unwrap_err();
    assert_eq!((held.len(), held[0].lease, held[0].holder.as_str()), (1, claim.granted[0], "backfill"));
    assert_invalid(world.add(head.id, &[span(60, 69)]).await, "outside the lease");

    world.release(&[claim.granted[0].id]).await.unwrap();
    world.widen(head.id, BlockRange::from(49)).await.unwrap().unwrap();
    world.release(&[head.id]).await.unwrap();
    assert_refused(world.widen(head.id, BlockRange::from(0)).await, "has ended");
}

pub(super) async fn a_silent_lease_in_the_way_is_ended_by_widening(database: Database) {
    let world = World::new(database).await;
    let silent = world.claim_one(range(0, 49)).await;
    let head = world.claim_one(BlockRange::from(100)).await;
    world.database.silence(silent.id).await;
    world.database.silence(head.id).await;
    world.widen(head.id, BlockRange::from(40)).await.unwrap().unwrap();
    assert_eq!(world.renew(&[silent.id]).await.unwrap(), []);
    assert_eq!(world.leases(world.revision.id).await.unwrap().len(), 1);
}

/// Locks are taken in one order everywhere: nothing that is done at once ends in a deadlock.
pub(super) async fn whatever_is_done_at_once_fails_nobody(database: Database) {
    let world = std::sync::Arc::new(World::new(database).await);
    let building =
        world.create_revision(&new_revision(world.dataset, RevisionState::Building)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8_u64 {
        let world = world.clone();
        let revisions = [world.revision.id, building.id];
        tasks.spawn(async move {
            let mut held = vec![];
            for step in 0..12_u64 {
                let start = (n * 7 + step * 13) % 60;
                let wanted = [range(start, start + 5), range(start + 20, start + 29)];
                let revision = revisions[(step % 2) as usize];
                held.extend(match world.claim(revision, &wanted, "a task").await {
                    Err(MetadataError::Refused(_)) => vec![],
                    claimed => claimed.unwrap().granted,
                });
                // The other way round than they were claimed.
                held.reverse();
                let ids: Vec<_> = held.iter().map(|lease| lease.id).collect();
                world.renew(&ids).await.unwrap();
                if let Some(lease) = held.first() {
                    let done = world.add(lease.id, &[span(lease.range.start(), lease.range.end())]).await;
                    assert!(!matches!(done, Err(CommitError::Store(_))), "{done:?}");
                    match world.widen(lease.id, range(start, start + 9)).await {
                        Ok(_) | Err(MetadataError::Refused(_) | MetadataError::LeaseEnded(_)) => {}
                        failed => panic!("{failed:?}"),
                    }
                }
                if step % 3 == 2 {
                    world.release(&ids).await.unwrap();
                    held.clear();
                }
                if n == 0 && step == 8 {
                    world.activate_revision(building.id).await.unwrap();
                }
            }
        });
    }
    tasks.join_all().await;
    let snapshot = world.snapshot().await.unwrap();
    assert_eq!(snapshot.datasets[0].1.as_ref().unwrap().id, building.id);
}

//! Rules of merging and collecting.

use std::time::Duration;

use super::{Database, world::*};
use crate::*;

const NOW: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(3600);

async fn to_merge(world: &World, start: u64, end: u64) -> Lease {
    let claimed = world.claim_to_merge(world.revision.id, range(start, end), "a compaction").await.unwrap();
    claimed.expect("nobody holds it").0
}

pub(super) async fn a_merge_changes_nothing_but_the_cuts(database: Database) {
    let world = World::new(database).await;
    let writer = world.claim_one(range(0, 39)).await;
    world.add(writer.id, &[span(0, 9), span(10, 19), span(20, 29), span(30, 39)]).await.unwrap();
    world.release(&[writer.id]).await.unwrap();
    let lease = to_merge(&world, 0, 29).await;
    assert!(lease.yields && lease.range == range(0, 29));
    let (first, second, third) = (world.at(0).await, world.at(10).await, world.at(20).await);
    let both = [first.clone(), second.clone()].concat();
    assert_invalid(world.add(lease.id, &[span(40, 49)]).await, "outside the lease");
    for (replaced, new) in [
        (&both, span(0, 29)),
        (&both, span(0, 9)),
        (&first, span(0, 19)),
        (&both, span_on(2, 0, 19)),
        (&[first.clone(), third.clone()].concat(), span(0, 29)),
    ] {
        assert_invalid(world.replace(lease.id, replaced, &[new]).await, "merge");
    }
    assert_invalid(world.replace(lease.id, &both, &[]).await, "by nothing");
    world.replace(lease.id, &both, &[span(0, 19)]).await.unwrap();
    let spans = |segments: Vec<Segment>| segments.iter().map(|segment| segment.span).collect::<Vec<_>>();
    assert_eq!(spans(world.seen(0).await), [span(0, 19), span(20, 29), span(30, 39)]);
    assert_eq!(spans(world.seen(0).await), spans(world.seen(1).await));
    // Somebody else was faster.
    let late = world.replace(lease.id, &both, &[span(0, 19)]).await;
    assert!(matches!(late, Err(CommitError::NotLive(_))), "{late:?}");
}

pub(super) async fn a_merge_gives_way_to_writers_and_to_nobody_else(database: Database) {
    let world = World::new(database).await;
    let revision = world.revision.id;
    let writer = world.claim_one(range(0, 39)).await;
    world.add(writer.id, &[span(0, 9), span(10, 19), span(20, 29), span(30, 39)]).await.unwrap();
    assert_eq!(world.claim_to_merge(revision, range(0, 9), "a compaction").await.unwrap(), None);
    world.release(&[writer.id]).await.unwrap();

    let lower = to_merge(&world, 0, 19).await;
    let upper = to_merge(&world, 20, 39).await;
    assert_eq!(world.claim_to_merge(revision, range(10, 29), "another").await.unwrap(), None);
    assert_eq!(world.leases(revision).await.unwrap(), [], "they keep nobody from removing the dataset");
    let writer = world.claim_one(range(15, 19)).await;
    assert_eq!(world.renew(&[lower.id, upper.id]).await.unwrap(), [upper.id]);
    let both = [world.at(0).await, world.at(10).await].concat();
    let late = world.replace(lower.id, &both, &[span(0, 19)]).await;
    assert!(matches!(late, Err(CommitError::LeaseLost(_))), "{late:?}");
    world.widen(writer.id, range(15, 39)).await.unwrap().unwrap();
    assert_eq!(world.renew(&[upper.id]).await.unwrap(), []);
    // A silent one is nobody's.
    world.release(&[writer.id]).await.unwrap();
    let silent = to_merge(&world, 0, 19).await;
    world.database.silence(silent.id).await;
    to_merge(&world, 0, 9).await;
}

pub(super) async fn replaced_segments_are_collected_after_the_grace_period(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    world.add(lease.id, &[span(0, 9), span(10, 19)]).await.unwrap();
    let before = world.sequence().await.unwrap();
    let names: Vec<String> = world.seen(0).await.into_iter().map(|s| s.file.unwrap().name).collect();
    let both = [world.at(0).await, world.at(10).await].concat();
    assert_eq!(world.collect(NOW, 100).await.unwrap(), 0, "live segments stay");
    let after = world.replace(lease.id, &both, &[span(0, 19)]).await.unwrap();

    assert_eq!(world.collect(LATER, 100).await.unwrap(), 0);
    assert_eq!(world.collectable(LATER).await.unwrap(), Collectable::default());
    assert_eq!(world.segments(&world.scan(0, before)).await.unwrap().len(), 2);
    let due = Collectable { segments: 4, files: 4, bytes: 4 * 1000 };
    assert_eq!(world.collectable(NOW).await.unwrap(), due);
    assert_eq!(world.collect(NOW, 3).await.unwrap(), 3);
    assert_eq!(world.collect(NOW, 3).await.unwrap(), 1);
    assert_eq!(world.collect(NOW, 3).await.unwrap(), 0);
    // An older moment is told that something is missing; the present one misses nothing.
    for range in [range(0, 5), range(50, 60)] {
        let old = world.segments(&Scan { range, ..world.scan(0, before) }).await;
        assert!(matches!(old, Err(MetadataError::Expired)), "{old:?}");
    }
    assert_eq!(world.segments(&world.scan(0, after)).await.unwrap().len(), 1);
    assert!(world.footers(&both).await.unwrap().is_empty());

    world.record_object(lease.id, world.table(0), "begun").await.unwrap();
    let named = world.named_objects(world.table(0)).await.unwrap();
    let live = world.seen(0).await[0].file.clone().unwrap().name;
    assert!(named.len() == 4 && names.iter().chain([&live]).all(|name| named.contains(name)), "{named:?}");

    let doomed = world.doomed_objects(None, 100).await.unwrap();
    let of_first: Vec<&String> =
        doomed.iter().filter(|(location, _)| location.id == world.table(0)).map(|(_, name)| name).collect();
    assert_eq!(of_first, names.iter().collect::<Vec<_>>());
    assert_eq!(doomed.len(), 4);
    let first = world.doomed_objects(None, 3).await.unwrap();
    let last = first.last().map(|(location, name)| (location.id, name.clone()));
    let rest = world.doomed_objects(last.as_ref(), 3).await.unwrap();
    assert_eq!([first, rest].concat(), doomed);
    world.forget_doomed(world.table(0), &names).await.unwrap();
    world.forget_doomed(world.table(0), &names).await.unwrap();
    let left = world.doomed_objects(None, 100).await.unwrap();
    assert!(left.len() == 2 && left.iter().all(|(location, _)| location.id == world.table(1)));
}

pub(super) async fn a_retired_revision_is_collected_whole(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    world.add(lease.id, &[span(0, 9), span(10, 19)]).await.unwrap();
    world.replace(lease.id, &world.at(10).await, &[span(10, 29)]).await.unwrap();
    let before = world.sequence().await.unwrap();
    world.retire_revision(world.revision.id).await.unwrap();
    assert_eq!(world.collect(LATER, 100).await.unwrap(), 0);
    assert_eq!(world.collect(NOW, 100).await.unwrap(), 6);
    let old = world.segments(&world.scan(1, before)).await;
    assert!(matches!(old, Err(MetadataError::Expired)), "{old:?}");
    assert_eq!(world.known_revisions(&[world.revision.id]).await.unwrap(), [world.revision.id]);
    assert_eq!(world.doomed_objects(None, 100).await.unwrap().len(), 6);
}

pub(super) async fn ended_leases_are_forgotten_but_for_those_of_objects(database: Database) {
    let world = World::new(database).await;
    let [ended, recorded, live] = [
        world.claim_one(range(0, 9)).await,
        world.claim_one(range(10, 19)).await,
        world.claim_one(range(20, 29)).await,
    ];
    world.record_object(recorded.id, world.table(0), "left").await.unwrap();
    world.release(&[ended.id, recorded.id]).await.unwrap();
    assert_eq!(world.forget_leases(LATER, 100).await.unwrap(), 0);
    assert_eq!(world.forget_leases(NOW, 100).await.unwrap(), 1);
    assert_eq!(world.recorded_objects().await.unwrap()[0].lease, recorded.id);
    world.forget_object(world.table(0), "left").await.unwrap();
    assert_eq!(world.forget_leases(NOW, 100).await.unwrap(), 1);
    assert_eq!(world.renew(&[live.id]).await.unwrap(), [live.id]);
    assert!(world.claim_one(range(0, 9)).await.id > live.id, "an id is never given again");
}

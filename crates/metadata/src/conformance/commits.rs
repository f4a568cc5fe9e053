//! Rules of commits.

use nozzle_core::{BlockHash, BlockRange, range::MAX_BLOCK};

use super::{Database, world::*};
use crate::*;

pub(super) async fn a_commit_adds_all_tables_under_one_number(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let commit = world.commit_of(lease.id, &[span(0, 9), span(10, 19)]);
    let sequence = world.store.commit(&commit).await.unwrap();
    assert_eq!(sequence, CommitSeq(1));
    assert_eq!(world.sequence().await.unwrap(), sequence);
    for n in [0, 1] {
        let seen = world.seen(n).await;
        let expected: Vec<_> = commit.added.iter().filter(|new| new.location == world.table(n)).collect();
        assert_eq!(seen.len(), expected.len());
        for (segment, new) in seen.iter().zip(expected) {
            assert_eq!((segment.span, segment.added_seq, segment.replaced_seq), (new.span, sequence, None));
            assert_eq!(segment.file, new.file.as_ref().map(|new| new.file.clone()));
        }
    }
    assert_eq!(world.add(lease.id, &[span(20, 29)]).await.unwrap(), CommitSeq(2));
}

pub(super) async fn a_revision_tells_its_newest_commit(database: Database) {
    let world = World::new(database).await;
    let changed = async || world.revisions(world.dataset).await.unwrap()[0].changed;
    assert_eq!(changed().await, CommitSeq(0));
    let lease = world.claim_one(range(0, 99)).await;
    for span in [span(0, 9), span(10, 19)] {
        let sequence = world.add(lease.id, &[span]).await.unwrap();
        assert_eq!(changed().await, sequence);
    }
    let snapshot = world.snapshot().await.unwrap();
    assert_eq!(snapshot.datasets[0].1.as_ref().unwrap().changed, snapshot.sequence);
    world.renew(&[lease.id]).await.unwrap();
    assert_eq!(changed().await, snapshot.sequence);
}

pub(super) async fn an_empty_range_is_a_segment_without_a_file(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let mut commit = world.commit_of(lease.id, &[span(0, 9)]);
    commit.added.iter_mut().for_each(|new| new.file = None);
    world.store.commit(&commit).await.unwrap();
    let seen = world.seen(0).await;
    assert_eq!((seen[0].span, &seen[0].file), (span(0, 9), &None));
    // Its neighbours must fit to it all the same.
    let stale = world.add(lease.id, &[span_on(2, 10, 19)]).await;
    assert!(matches!(stale, Err(CommitError::NotLinked { .. })), "{stale:?}");
    world.add(lease.id, &[span(10, 19)]).await.unwrap();
}

pub(super) async fn tables_cut_at_different_blocks_are_refused(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let commit = async |added| world.store.commit(&Commit { lease: lease.id, added, replaced: vec![] }).await;
    let (a, b) = (world.table(0), world.table(1));
    assert_invalid(commit(vec![segment(a, span(0, 9))]).await, "not cut at the same blocks");
    let uneven = vec![segment(a, span(0, 9)), segment(b, span(0, 4)), segment(b, span(5, 9))];
    assert_invalid(commit(uneven).await, "not cut at the same blocks");
    let two_chains = vec![segment(a, span(0, 9)), segment(b, span_on(2, 0, 9))];
    assert_invalid(commit(two_chains).await, "not cut at the same blocks");
    // The order does not matter.
    let mixed =
        vec![segment(b, span(5, 9)), segment(a, span(0, 4)), segment(b, span(0, 4)), segment(a, span(5, 9))];
    commit(mixed).await.unwrap();
}

pub(super) async fn spans_outside_of_the_lease_are_refused(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(10, 19)).await;
    for outside in [span(5, 9), span(9, 12), span(15, 20), span(20, 29), span(0, 99)] {
        assert_invalid(world.add(lease.id, &[outside]).await, "outside the lease");
    }
    world.add(lease.id, &[span(10, 19)]).await.unwrap();
}

pub(super) async fn malformed_commits_are_refused(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let good = || world.commit_of(lease.id, &[span(0, 9)]);
    let refused = async |commit: Commit, words| assert_invalid(world.store.commit(&commit).await, words);
    refused(Commit { added: vec![], ..good() }, "neither adds nor replaces").await;
    refused(Commit { replaced: vec![SegmentId(1), SegmentId(1)], ..good() }, "twice").await;
    refused(Commit { replaced: vec![SegmentId(9999)], ..good() }, "no segment 9999").await;
    let named = |name: &str| {
        let mut commit = good();
        commit.added[0].file.as_mut().unwrap().file.name = name.into();
        commit
    };
    refused(named(""), "not the name of an object").await;
    refused(named("../x.parquet"), "not the name of an object").await;
    let mut huge = good();
    huge.added[0].file.as_mut().unwrap().file.size_bytes = u64::MAX;
    refused(huge, "larger than can be stored").await;
    let mut elsewhere = good();
    elsewhere.added[0].location = LocationId(9999);
    refused(elsewhere, "not one of the lease's revision").await;
    let mut same_file = world.commit_of(lease.id, &[span(0, 9), span(10, 19)]);
    same_file.added[1].file = same_file.added[0].file.clone();
    refused(same_file, "twice").await;
    refused(world.commit_of(lease.id, &[span(0, 9), span(5, 14)]), "overlap").await;
    refused(world.commit_of(lease.id, &[span(0, 9), span(0, 9)]), "overlap").await;
}

/// Blocks 10 to 19 are stored; gives the lease on the blocks around them.
async fn with_the_middle(world: &World) -> LeaseId {
    let lease = world.claim_one(range(0, 99)).await;
    world.add(lease.id, &[span(10, 19)]).await.unwrap();
    lease.id
}

pub(super) async fn a_stale_neighbour_below_is_not_linked(database: Database) {
    let world = World::new(database).await;
    let lease = with_the_middle(&world).await;
    match world.add(lease, &[span_on(2, 20, 29)]).await {
        Err(CommitError::NotLinked { table, below, hash_below, parent_hash_above }) => {
            assert_eq!((table.as_str(), below), ("transactions", 19));
            assert_eq!((hash_below, parent_hash_above), (hash_on(1, 19), hash_on(2, 19)));
        }
        other => panic!("{other:?}"),
    }
    // Behind a hole nothing can be compared.
    world.add(lease, &[span_on(2, 21, 29)]).await.unwrap();
}

pub(super) async fn a_stale_neighbour_above_is_not_linked(database: Database) {
    let world = World::new(database).await;
    let lease = with_the_middle(&world).await;
    match world.add(lease, &[span_on(2, 0, 9)]).await {
        Err(CommitError::NotLinked { below, hash_below, parent_hash_above, .. }) => {
            assert_eq!(below, 9);
            assert_eq!((hash_below, parent_hash_above), (hash_on(2, 9), hash_on(1, 9)));
        }
        other => panic!("{other:?}"),
    }
    world.add(lease, &[span_on(2, 0, 8)]).await.unwrap();
}

pub(super) async fn new_segments_must_link_to_each_other(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let parted = world.add(lease.id, &[span(0, 9), span_on(2, 10, 19)]).await;
    assert!(matches!(parted, Err(CommitError::NotLinked { below: 9, .. })), "{parted:?}");
    // A range in which every number was skipped carries its predecessor's hash on.
    let skipped = nozzle_core::Span { range: range(10, 19), prev_hash: hash_on(1, 9), hash: hash_on(1, 9) };
    let behind = nozzle_core::Span { prev_hash: hash_on(1, 9), ..span(20, 29) };
    world.add(lease.id, &[span(0, 9), skipped, behind]).await.unwrap();
}

pub(super) async fn a_replaced_neighbour_need_not_link(database: Database) {
    let world = World::new(database).await;
    let lease = with_the_middle(&world).await;
    let stale = world.at(10).await;
    world.replace(lease, &stale, &[span_on(2, 10, 19), span_on(2, 20, 29)]).await.unwrap();
    assert_eq!(
        world.seen(1).await.iter().map(|s| s.span).collect::<Vec<_>>(),
        [span_on(2, 10, 19), span_on(2, 20, 29)]
    );
}

pub(super) async fn blocks_that_are_stored_are_not_added_again(database: Database) {
    let world = World::new(database).await;
    let lease = with_the_middle(&world).await;
    for again in [span(10, 19), span(12, 13), span(0, 10), span(19, 25), span(5, 50)] {
        match world.add(lease, &[again]).await {
            Err(CommitError::AlreadyStored { table, range: stored }) => {
                assert_eq!((table.as_str(), stored), ("transactions", range(10, 19)));
            }
            other => panic!("{again:?}: {other:?}"),
        }
    }
    // Also where one segment of several is in the way, far below the last.
    let several = world.add(lease, &[span(0, 9), span(15, 20), span(60, 69)]).await;
    assert!(matches!(several, Err(CommitError::AlreadyStored { .. })), "{several:?}");
}

pub(super) async fn a_segment_is_replaced_only_once(database: Database) {
    let world = World::new(database).await;
    let lease = with_the_middle(&world).await;
    let stale = world.at(10).await;
    world.replace(lease, &stale, &[span_on(2, 10, 19)]).await.unwrap();
    let again = world.replace(lease, &stale, &[span_on(3, 10, 19)]).await;
    assert!(matches!(again, Err(CommitError::NotLive(id)) if stale.contains(&id)), "{again:?}");
}

pub(super) async fn only_segments_within_the_lease_are_replaced(database: Database) {
    let world = World::new(database).await;
    let all = with_the_middle(&world).await;
    world.release(&[all]).await.unwrap();
    let lease = world.claim_one(range(15, 40)).await;
    let stale = world.at(10).await;
    assert_invalid(world.replace(lease.id, &stale, &[span(20, 29)]).await, "reaches out of the lease");

    // Nor those of another revision.
    let other = new_revision(world.dataset, RevisionState::Building);
    world.create_revision(&other).await.unwrap();
    let foreign = world.claim(other.id, &[range(0, 99)], "other").await.unwrap().granted[0];
    let commit = Commit { lease: foreign.id, added: vec![], replaced: stale };
    assert_invalid(world.store.commit(&commit).await, "not one of the lease's revision");
}

pub(super) async fn segments_are_replaced_in_all_tables_alike(database: Database) {
    let world = World::new(database).await;
    let lease = with_the_middle(&world).await;
    let one = &world.at(10).await[..1];
    assert_invalid(world.replace(lease, one, &[]).await, "the replaced segments differ");
}

pub(super) async fn segments_may_be_replaced_by_nothing(database: Database) {
    let world = World::new(database).await;
    let lease = with_the_middle(&world).await;
    let stale = world.at(10).await;
    let sequence = world.replace(lease, &stale, &[]).await.unwrap();
    assert_eq!(world.seen(0).await, []);
    assert_eq!(world.segments(&world.scan(0, CommitSeq(sequence.0 - 1))).await.unwrap().len(), 1);
}

pub(super) async fn a_lost_lease_cannot_commit(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    world.release(&[lease.id]).await.unwrap();
    for lost in [lease.id, LeaseId(9999)] {
        let late = world.add(lost, &[span(0, 9)]).await;
        assert!(matches!(late, Err(CommitError::LeaseLost(id)) if id == lost), "{late:?}");
    }
}

pub(super) async fn an_open_lease_takes_every_block_above_its_start(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(BlockRange::from(100)).await;
    assert!(lease.range.is_open());
    world.add(lease.id, &[span(100, 100)]).await.unwrap();
    world.add(lease.id, &[span(MAX_BLOCK - 5, MAX_BLOCK)]).await.unwrap();
    assert_invalid(world.add(lease.id, &[span(99, 99)]).await, "outside the lease");
}

pub(super) async fn a_refused_commit_leaves_nothing(database: Database) {
    let world = World::new(database).await;
    let lease = with_the_middle(&world).await;
    let (before, seen) = (world.sequence().await.unwrap(), world.seen(0).await);
    let stale = world.at(10).await;
    let unlinked = nozzle_core::Span { prev_hash: BlockHash::ZERO, ..span(20, 29) };
    assert!(world.replace(lease, &stale, &[span(10, 19), unlinked]).await.is_err());
    assert_eq!(world.sequence().await.unwrap(), before);
    assert_eq!(world.seen(0).await, seen);
}

pub(super) async fn concurrent_commits_count_without_gaps_and_are_read_whole(database: Database) {
    const WRITERS: u64 = 6;
    const COMMITS: u64 = 8;
    let world = std::sync::Arc::new(World::new(database).await);
    let second_store = world.database.open().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let world = world.clone();
        let store = if writer % 2 == 0 { world.store.clone() } else { second_store.clone() };
        writers.spawn(async move {
            let first = writer * COMMITS;
            let wanted = [range(first, first + COMMITS - 1)];
            let lease = store.claim(world.revision.id, &wanted, "a writer").await.unwrap().granted[0];
            let mut numbers = vec![];
            for block in first..first + COMMITS {
                let commit = world.commit_of(lease.id, &[span(block, block)]);
                numbers.push(store.commit(&commit).await.unwrap().0);
            }
            assert!(numbers.is_sorted(), "{numbers:?}");
            numbers
        });
    }
    // Each commit adds one segment to each table: at the moment S there are S of them.
    let reader = tokio::spawn({
        let world = world.clone();
        async move {
            loop {
                let sequence = world.snapshot().await.unwrap().sequence;
                for n in [0, 1] {
                    let seen = world.totals(&world.scan(n, sequence)).await.unwrap().segments;
                    assert_eq!(seen, sequence.0 as u64);
                }
                if sequence.0 as u64 == WRITERS * COMMITS {
                    return;
                }
            }
        }
    });
    let mut numbers: Vec<_> = writers.join_all().await.concat();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=(WRITERS * COMMITS) as i64).collect::<Vec<_>>());
    reader.await.unwrap();
}

//! Rules of reading segments.

use nozzle_core::{BlockId, RevisionId, SourceCursor, SourceRevisions, Span};

use super::{Database, world::*};
use crate::{model::*, postgres, sql, sqlite};

pub(super) async fn a_snapshot_before_a_commit_does_not_see_it(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let empty = world.snapshot().await.unwrap().sequence;
    let first = world.add(lease.id, &[span(0, 9)]).await.unwrap();
    let second = world.add(lease.id, &[span(10, 19)]).await.unwrap();
    assert_eq!(world.snapshot().await.unwrap().sequence, second);
    for (sequence, expected) in [(empty, 0), (first, 1), (second, 2)] {
        for n in [0, 1] {
            assert_eq!(world.segments(&world.scan(n, sequence)).await.unwrap().len(), expected);
        }
    }
}

pub(super) async fn a_replaced_segment_is_seen_by_older_snapshots(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let first = world.add(lease.id, &[span(0, 9), span(10, 19)]).await.unwrap();
    let old = world.segments(&world.scan(0, first)).await.unwrap();
    let replaced = [world.at(0).await, world.at(10).await].concat();
    let second = world.replace(lease.id, &replaced, &[span(0, 19)]).await.unwrap();

    let new = world.segments(&world.scan(0, second)).await.unwrap();
    assert_eq!(new.len(), 1);
    assert_eq!((new[0].span, new[0].added_seq, new[0].replaced_seq), (span(0, 19), second, None));
    let seen = world.segments(&world.scan(0, first)).await.unwrap();
    assert!(seen.iter().all(|segment| segment.replaced_seq == Some(second)));
    assert_eq!(seen.iter().map(|s| s.id).collect::<Vec<_>>(), old.iter().map(|s| s.id).collect::<Vec<_>>());
    assert_eq!(world.spans(&world.scan(0, first)).await.unwrap(), [span(0, 9), span(10, 19)]);
}

pub(super) async fn a_scan_that_was_written_down_lists_the_same_later(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let sequence = world.add(lease.id, &[span(0, 9), span(10, 19), span(20, 29)]).await.unwrap();
    let scan = Scan { range: range(9, 15), ..world.scan(1, sequence) };
    let listed = world.spans(&scan).await.unwrap();
    assert_eq!(listed, [span(0, 9), span(10, 19)]);
    let written = serde_json::to_string(&scan).unwrap();

    let replaced = [world.at(0).await, world.at(10).await].concat();
    world.replace(lease.id, &replaced, &[span(0, 19)]).await.unwrap();
    world.add(lease.id, &[span(30, 39)]).await.unwrap();
    let read_back: Scan = serde_json::from_str(&written).unwrap();
    assert_eq!(world.database.open().await.spans(&read_back).await.unwrap(), listed);
}

/// 20,000 segments of eight blocks and two of a hole; every third one was added by commit 2 only;
/// every fifth one was replaced by commit 3, by one that begins at the same block and is shorter.
async fn many_segments(world: &World) {
    let hash = world.database.zero_hash();
    let table = world.table(0);
    let insert = |length: u64, which: &str, added: &str, replaced: &str| {
        format!(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19999)
             INSERT INTO segments (location_id, start_block, end_block, prev_hash, hash, added_seq, replaced_seq)
             SELECT {table}, i * 10, i * 10 + {length} - 1, {hash}, {hash}, {added}, {replaced} FROM n WHERE {which};"
        )
    };
    let added = "CASE WHEN i % 3 = 0 THEN 2 ELSE 1 END";
    let statements = insert(8, "1 = 1", added, "CASE WHEN i % 5 = 0 THEN 3 END")
        + &insert(5, "i % 5 = 0", "3", "NULL")
        + "UPDATE commit_counter SET sequence = 3; ANALYZE segments;";
    world.database.execute(&statements).await;
}

/// The same, by looking at every segment.
fn brute_force(scan: &Scan) -> Vec<nozzle_core::BlockRange> {
    let sequence = scan.sequence.0;
    let length = |i: u64| match (i.is_multiple_of(5), i.is_multiple_of(3)) {
        (true, _) if sequence >= 3 => Some(5),
        (_, true) if sequence >= 2 => Some(8),
        (_, false) if sequence >= 1 => Some(8),
        _ => None,
    };
    let segments = (0..20_000).filter_map(|i| Some(range(i * 10, i * 10 + length(i)? - 1)));
    segments.filter(|range| range.overlaps(scan.range)).collect()
}

pub(super) async fn scans_find_what_looking_at_every_segment_finds(database: Database) {
    let world = World::new(database).await;
    many_segments(&world).await;
    // A simple generator: the same ranges in every run.
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    for n in 0..60 {
        let start = random(200_010);
        let wide = if n % 10 == 0 { 100_000 } else { 40 };
        let wanted = range(start, start + random(wide));
        let scan = Scan { range: wanted, ..world.scan(0, CommitSeq(n % 4)) };
        let spans = world.spans(&scan).await.unwrap();
        let found: Vec<_> = spans.iter().map(|span| span.range).collect();
        assert_eq!(found, brute_force(&scan), "{scan:?}");
        let totals = world.totals(&scan).await.unwrap();
        assert_eq!(totals.segments, found.len() as u64);
        let ends = found.first().zip(found.last()).map(|(a, b)| range(a.start(), b.end()));
        assert_eq!(totals.blocks, ends);
    }
}

pub(super) async fn a_scan_goes_by_the_index(database: Database) {
    let world = World::new(database).await;
    many_segments(&world).await;
    let table = world.table(0);
    let revision = format!("(SELECT revision_id FROM locations WHERE id = {table})");
    let (live, first, last) = match world.database {
        Database::Sqlite(_) => (sqlite::LIVE_SEGMENTS, "100000", "100050"),
        Database::Postgres(_) => (postgres::LIVE_SEGMENTS, "ARRAY[100000]", "ARRAY[100050]"),
    };
    for (statement, parameters, indexes) in [
        (sql::SEGMENTS, [&table.to_string(), "100000", "100050", "3"], 2),
        (sql::SPANS, [&table.to_string(), "100000", "100050", "3"], 2),
        (sql::TOTALS, [&table.to_string(), "100000", "100050", "3"], 2),
        (live, [&revision, first, last, ""], 1),
    ] {
        let named = ["$1", "$2", "$3", "$4"].into_iter().zip(parameters);
        let filled = named.fold(statement.to_owned(), |text, (name, value)| text.replace(name, value));
        let plan = world.database.plan(&filled).await;
        assert!(plan.contains("live_segments"), "{plan}");
        assert_eq!(plan.contains("replaced_segments"), indexes == 2, "{plan}");
        let goes_over_all =
            |line: &str| ["SCAN s", "SCAN b"].contains(&line) || line.contains("Seq Scan on segments");
        assert!(!plan.lines().any(goes_over_all), "{plan}");
    }
}

pub(super) async fn totals_count_what_is_seen(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let none = world.totals(&world.scan(0, CommitSeq(0))).await.unwrap();
    assert_eq!(none, LocationTotals::default());
    let first = world.add(lease.id, &[span(0, 9), span(20, 24)]).await.unwrap();
    let mut commit = world.commit_of(lease.id, &[span(25, 29)]);
    commit.added[0].file = None;
    world.store.commit(&commit).await.unwrap();

    let expected =
        LocationTotals { segments: 2, files: 2, rows: 15, bytes: 1500, blocks: Some(range(0, 24)) };
    assert_eq!(world.totals(&world.scan(0, first)).await.unwrap(), expected);
    let later = world.scan(0, CommitSeq(first.0 + 1));
    let expected = LocationTotals { segments: 3, blocks: Some(range(0, 29)), ..expected };
    assert_eq!(world.totals(&later).await.unwrap(), expected);
    let part = world.totals(&Scan { range: range(9, 21), ..later }).await.unwrap();
    assert_eq!((part.segments, part.blocks), (2, Some(range(0, 24))));
}

pub(super) async fn footers_are_given_for_segments_with_files(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let mut commit = world.commit_of(lease.id, &[span(0, 9), span(10, 19)]);
    commit.added[1].file = None;
    let footer = commit.added[0].file.as_ref().unwrap().footer.clone();
    world.store.commit(&commit).await.unwrap();
    let ids: Vec<_> = world.seen(0).await.iter().map(|segment| segment.id).collect();
    assert_eq!(world.footers(&ids).await.unwrap(), [(ids[0], footer)]);
    assert_eq!(world.footers(&[]).await.unwrap(), []);
    assert_eq!(world.footers(&[SegmentId(9999)]).await.unwrap(), []);
}

pub(super) async fn what_live_segments_were_computed_from_is_told(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let ids: Vec<_> = std::iter::repeat_with(RevisionId::generate).take(3).collect();
    let [old, new] = [SourceRevisions([ids[0]].into()), SourceRevisions([ids[1], ids[2]].into())];
    let bounds = async || world.source_bounds(world.table(0)).await.unwrap();
    world.add(lease.id, &[span(0, 9)]).await.unwrap();
    assert_eq!(bounds().await, None);
    let computed = |spans: &[Span], sources: &SourceRevisions| {
        let mut commit = world.commit_of(lease.id, spans);
        commit.added.iter_mut().for_each(|added| added.sources = Some(sources.clone()));
        commit
    };
    world.store.commit(&computed(&[span(10, 19), span(20, 29)], &old)).await.unwrap();
    world.store.commit(&computed(&[span(30, 39)], &SourceRevisions::default())).await.unwrap();
    assert_eq!(bounds().await, Some([SourceRevisions::default(), old.clone()]));
    let (first, second, third) = (world.at(10).await, world.at(20).await, world.at(30).await);
    world.confirm_sources(&[third.clone(), world.at(0).await].concat(), &new).await.unwrap();
    let told = async |segments: &[SegmentId]| {
        let mut told = world.sources(segments).await.unwrap();
        told.sort_by_key(|(id, _)| *id);
        told
    };
    let all = [world.at(0).await, first.clone(), third.clone()].concat();
    let expected = [first.clone(), third].concat().into_iter().zip([&old, &old, &new, &new]);
    assert_eq!(told(&all).await, expected.map(|(id, of)| (id, of.clone())).collect::<Vec<_>>());
    // What takes their place is told instead, and what is replaced is not confirmed any more.
    let replacing = Commit { replaced: [first.clone(), second].concat(), ..computed(&[span(10, 29)], &new) };
    world.store.commit(&replacing).await.unwrap();
    world.confirm_sources(&first, &old).await.unwrap();
    assert_eq!(told(&first).await, []);
    assert_eq!(bounds().await, Some([new.clone(), new]));
}

pub(super) async fn what_was_computed_from_other_revisions_is_found(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let mut ids: Vec<_> = std::iter::repeat_with(RevisionId::generate).take(3).collect();
    ids.sort_unstable();
    // One that is less than the new one as text, and one that is greater.
    let [less, new, greater] = [0, 1, 2].map(|place: usize| SourceRevisions([ids[place]].into()));
    world.add(lease.id, &[span(0, 9)]).await.unwrap();
    let starts = async |begins_in, limit| -> Vec<u64> {
        let found = world.stale_segments(world.table(0), &new, begins_in, limit).await.unwrap();
        found.iter().map(|segment| segment.span.range.start()).collect()
    };
    let all = range(0, 99);
    assert!(starts(all, 9).await.is_empty(), "what is not computed is never stale");
    let of = [&greater, &new, &SourceRevisions::default(), &less, &greater];
    for (n, of) in (1..).zip(of) {
        let mut commit = world.commit_of(lease.id, &[span(10 * n, 10 * n + 9)]);
        commit.added.iter_mut().for_each(|added| added.sources = Some(of.clone()));
        world.store.commit(&commit).await.unwrap();
    }
    assert_eq!(starts(all, 9).await, [10, 30, 40, 50]);
    assert_eq!(starts(all, 2).await, [10, 30]);
    assert_eq!(starts(range(30, 40), 9).await, [30, 40]);
    assert_eq!(starts(range(31, 49), 9).await, [40], "it begins in the range");
    let found = world.stale_segments(world.table(1), &new, range(50, 50), 9).await.unwrap();
    assert_eq!(found, [world.seen(1).await.pop().unwrap()]);
    // What is replaced is not to be computed again.
    let replaced = world.at(10).await;
    world.replace(lease.id, &replaced, &[span(10, 19)]).await.unwrap();
    world.confirm_sources(&world.at(40).await, &new).await.unwrap();
    assert_eq!(starts(all, 9).await, [30, 50]);
}

pub(super) async fn no_segment_is_read_where_none_is_stale(database: Database) {
    let world = World::new(database).await;
    many_segments(&world).await;
    let written = "INSERT INTO segment_sources (segment_id, location_id, sources)
                   SELECT id, location_id, 'these' FROM segments WHERE replaced_seq IS NULL;
                   ANALYZE segment_sources;";
    world.database.execute(written).await;
    let table = world.table(0).to_string();
    let parameters = [("$1", table.as_str()), ("$2", "'these'"), ("$3", "0"), ("$4", "200000"), ("$5", "64")];
    let filled =
        parameters.iter().fold(sql::STALE.to_owned(), |text, (name, value)| text.replace(name, value));
    let plan = world.database.plan(&filled).await;
    assert_eq!(plan.matches("sources_by_location").count(), 2, "{plan}");
    let goes_over_all = |line: &str| line.starts_with("SCAN ") || line.contains("Seq Scan");
    assert!(!plan.lines().any(goes_over_all), "{plan}");
}

pub(super) async fn a_file_is_found_by_its_id_also_when_replaced(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    world.add(lease.id, &[span(0, 9)]).await.unwrap();
    let segment = world.seen(1).await.remove(0);
    let found = world.file(segment.id).await.unwrap().unwrap();
    assert_eq!(found.segment, segment);
    assert_eq!((found.revision, found.dataset.id), (world.revision.id, world.dataset));
    assert_eq!(found.location, world.revision.locations[1]);

    let replaced = world.at(0).await;
    let second = world.replace(lease.id, &replaced, &[span(0, 9)]).await.unwrap();
    assert_eq!(world.file(segment.id).await.unwrap().unwrap().segment.replaced_seq, Some(second));
    assert_eq!(world.file(SegmentId(9999)).await.unwrap(), None);
}

pub(super) async fn a_cursor_is_that_of_the_block_that_ends_a_live_segment(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(range(0, 99)).await;
    let cursor = |text: &str| SourceCursor::new(text.to_owned());
    let mut commit = world.commit_of(lease.id, &[span(0, 9), span(10, 19), span(20, 29)]);
    let table = world.table(0);
    for new in commit.added.iter_mut().filter(|new| new.location == table && new.span != span(0, 9)) {
        new.cursor = cursor(&format!("behind {}", new.span.range.end()));
    }
    world.store.commit(&commit).await.unwrap();
    let at = async |location, chain, number| {
        world.cursor(location, BlockId { number, hash: hash_on(chain, number) }).await.unwrap()
    };
    assert_eq!(at(table, 1, 19).await, cursor("behind 19"));
    assert_eq!(at(table, 1, 29).await, cursor("behind 29"));
    // Without one, of another table, within a segment, of another chain, and of no segment.
    assert_eq!(at(table, 1, 9).await, None);
    assert_eq!(at(world.table(1), 1, 19).await, None);
    for (chain, number) in [(1, 15), (2, 19), (1, 20), (1, 39)] {
        assert_eq!(at(table, chain, number).await, None, "{number} of {chain}");
    }
    // What takes its place may have none.
    let replaced = world.at(20).await;
    world.replace(lease.id, &replaced, &[span(20, 24), span(25, 29)]).await.unwrap();
    assert_eq!((at(table, 1, 29).await, at(table, 1, 19).await), (None, cursor("behind 19")));
}

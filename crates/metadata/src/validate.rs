//! What may be stored, decided from values alone: the databases only fetch and store.

use std::collections::{BTreeSet, HashMap, HashSet};

use nozzle_core::{
    BlockNum, BlockRange, DatasetKind, DatasetRef, RevisionId, Span, TableName,
    derived::DerivedManifest,
    range::{MAX_BLOCK, merge, subtract},
};

use crate::{
    error::CommitError,
    fault::{Fault, refused},
    model::*,
    rows::Stored,
};

/// The dataset that a reference names, of those of its name.
pub(crate) fn choose_dataset(reference: &DatasetRef, datasets: Vec<Dataset>) -> Option<Dataset> {
    let named = |dataset: &Dataset| reference.version.is_none_or(|version| version == dataset.version);
    datasets.into_iter().filter(named).max_by_key(|dataset| dataset.version)
}

/// A dataset that is there already under the name and version of a new one.
pub(crate) fn check_same(new: &NewDataset, there: &Dataset) -> Result<Registered, Fault> {
    let same = new.manifest == there.manifest && new.kind == there.kind && new.network == there.network;
    if same {
        return Ok(Registered::Same(there.id));
    }
    refused(format!(
        "the dataset `{}` is already registered in version {} with another manifest: give the new one another version",
        new.name, new.version
    ))
}

/// The datasets that a derived one was pinned to when it was registered, in the order in which they are locked.
pub(crate) fn reads(kind: DatasetKind, manifest: &str) -> BTreeSet<DatasetRef> {
    if !matches!(kind, DatasetKind::Manifest | DatasetKind::Sql) {
        return BTreeSet::new();
    }
    let resolved =
        serde_json::from_str(manifest).ok().and_then(|manifest: DerivedManifest| manifest.resolved);
    resolved.map(|pinned| pinned.names.into_values().chain([pinned.chain]).collect()).unwrap_or_default()
}

/// A dataset that is to be read by a new one, and that must be there.
pub(crate) fn check_readable(new: &NewDataset, read: &DatasetRef, is_there: bool) -> Result<(), Fault> {
    if is_there {
        return Ok(());
    }
    let name = &new.name;
    Err(Fault::Dependency(format!(
        "`{name}` is made of the dataset `{read}`, which is not registered: register or restore that first"
    )))
}

/// Datasets that are to be removed, beside all that are registered: none that stays may be made of one that goes.
pub(crate) fn check_unread(removed: &[DatasetId], all: &[Dataset]) -> Result<(), Fault> {
    let (gone, staying): (Vec<_>, Vec<_>) = all.iter().partition(|dataset| removed.contains(&dataset.id));
    for dataset in staying {
        let reads = reads(dataset.kind, &dataset.manifest);
        let is_read = |gone: &&&Dataset| {
            reads.contains(&DatasetRef { name: gone.name.clone(), version: Some(gone.version) })
        };
        if let Some(read) = gone.iter().find(is_read) {
            let (name, version) = (&dataset.name, dataset.version);
            let why = format!("the dataset `{name}` {version} is made of `{}`: remove it first", read.name);
            return Err(Fault::Dependency(why));
        }
    }
    Ok(())
}

/// A new revision, beside those that its dataset has.
pub(crate) fn check_new_revision(new: &NewRevision, there: &[Revision]) -> Result<(), Fault> {
    if new.state == RevisionState::Retired {
        return refused("a new revision is building or active");
    }
    if new.tables.is_empty() {
        return refused("a revision has at least one table");
    }
    if let Some(open) = new.tables.iter().find(|location| !location.url.ends_with('/')) {
        return refused(format!(
            "the folder `{}` of the table `{}` does not end in `/`",
            open.url, open.table
        ));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = new.tables.iter().find(|location| !seen.insert(&location.table)) {
        return refused(format!("the revision has the table `{}` twice", twice.table));
    }
    match there.iter().find(|revision| revision.state == new.state) {
        Some(other) if new.state == RevisionState::Active => {
            refused(format!("the dataset has an active revision already: {}", other.id))
        }
        Some(other) => refused(format!("the dataset has a building revision already: {}", other.id)),
        None => Ok(()),
    }
}

/// A revision that is to be activated.
pub(crate) fn check_activation(id: RevisionId, state: Option<RevisionState>) -> Result<(), Fault> {
    match state {
        Some(RevisionState::Building) => Ok(()),
        Some(RevisionState::Active) => refused(format!("the revision {id} is active already")),
        Some(RevisionState::Retired) => refused(format!("the revision {id} is retired")),
        None => refused(format!("there is no revision {id}")),
    }
}

/// A revision that somebody wants to write.
pub(crate) fn check_writable(id: RevisionId, state: Option<RevisionState>) -> Result<(), Fault> {
    match state {
        Some(RevisionState::Building | RevisionState::Active) => Ok(()),
        Some(RevisionState::Retired) => refused(format!("the revision {id} is retired: nobody writes it")),
        None => refused(format!("there is no revision {id}")),
    }
}

/// A dataset on whose revisions nobody may hold a lease.
pub(crate) fn check_unheld(held: &[HeldLease]) -> Result<(), Fault> {
    match held.first() {
        None => Ok(()),
        Some(held) => refused(format!(
            "{} is writing blocks {} of the dataset: stop it first",
            held.holder, held.lease.range
        )),
    }
}

/// A dataset of which no job may be live.
pub(crate) fn check_no_job(live: Option<JobId>) -> Result<(), Fault> {
    match live {
        None => Ok(()),
        Some(job) => refused(format!("the job {job} is dumping the dataset: stop it first")),
    }
}

/// Who wants blocks that others may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taker {
    /// Somebody who writes them, and may have a lease already.
    Writer(Option<LeaseId>),
    /// A compaction, which takes over from nobody who lives.
    Merger,
}

/// Of leases that have not ended: which the taker may end, and which live on. Its own is neither.
pub(crate) fn taken_over(held: Vec<HeldLease>, taker: Taker) -> (Vec<HeldLease>, Vec<HeldLease>) {
    let is_own = |held: &HeldLease| taker == Taker::Writer(Some(held.lease.id));
    let may_end =
        |held: &HeldLease| held.silent_for >= LEASE_TIMEOUT || held.lease.yields && taker != Taker::Merger;
    held.into_iter().filter(|held| !is_own(held)).partition(may_end)
}

/// What of `wanted` is granted, and which of the live leases stand in the way of the rest.
pub(crate) fn plan_claim(wanted: &[BlockRange], live: Vec<HeldLease>) -> (Vec<BlockRange>, Vec<HeldLease>) {
    let covered = live.iter().map(|held| held.lease.range).collect();
    let granted = subtract(wanted.to_vec(), covered);
    (granted, overlapping(wanted, live))
}

/// The leases that share a block with one of the ranges.
pub(crate) fn overlapping(ranges: &[BlockRange], live: Vec<HeldLease>) -> Vec<HeldLease> {
    let overlaps = |held: &HeldLease| ranges.iter().any(|range| range.overlaps(held.lease.range));
    live.into_iter().filter(overlaps).collect()
}

fn invalid<T>(why: impl Into<String>) -> Result<T, CommitError> {
    Err(CommitError::Invalid(why.into()))
}

/// The commit in itself: under a lease on `lease`, for a revision of these tables.
pub(crate) fn check_form(commit: &Commit, lease: BlockRange, tables: &[Location]) -> Result<(), CommitError> {
    if commit.added.is_empty() && commit.replaced.is_empty() {
        return invalid("it neither adds nor replaces a segment");
    }
    let mut replaced = HashSet::new();
    if let Some(twice) = commit.replaced.iter().find(|id| !replaced.insert(**id)) {
        return invalid(format!("it replaces the segment {twice} twice"));
    }
    let mut names = HashSet::new();
    for segment in &commit.added {
        check_segment(segment, lease)?;
        if let Some(new) = &segment.file
            && !names.insert((segment.location, new.file.name.as_str()))
        {
            return invalid(format!("it adds the file `{}` twice", new.file.name));
        }
    }
    let added = commit.added.iter().map(|segment| (segment.location, segment.span));
    check_aligned("added", added, tables)
}

fn check_segment(segment: &NewSegment, lease: BlockRange) -> Result<(), CommitError> {
    let range = segment.span.range;
    if !lease.covers(range) {
        return invalid(format!("blocks {range} lie outside the lease, which is on {lease}"));
    }
    let Some(new) = &segment.file else { return Ok(()) };
    if new.file.name.is_empty() || new.file.name.contains('/') {
        return invalid(format!("`{}` is not the name of an object in a folder", new.file.name));
    }
    if new.file.size_bytes > i64::MAX as u64 || new.file.rows > i64::MAX as u64 {
        return invalid(format!("the file `{}` is larger than can be stored", new.file.name));
    }
    Ok(())
}

/// Every table must have the same spans: all tables are cut at the same blocks of the same chain.
fn check_aligned(
    what: &str,
    spans: impl Iterator<Item = (LocationId, Span)>,
    tables: &[Location],
) -> Result<(), CommitError> {
    let mut by_table: HashMap<LocationId, Vec<Span>> =
        tables.iter().map(|table| (table.id, vec![])).collect();
    for (location, span) in spans {
        match by_table.get_mut(&location) {
            Some(list) => list.push(span),
            None => return invalid(format!("the location {location} is not one of the lease's revision")),
        }
    }
    by_table.values_mut().for_each(|list| list.sort_by_key(|span| (span.range, span.prev_hash, span.hash)));
    let Some((first, others)) = tables.split_first() else { return Ok(()) };
    match others.iter().find(|other| by_table[&other.id] != by_table[&first.id]) {
        None => Ok(()),
        Some(other) => invalid(format!(
            "the tables `{}` and `{}` are not cut at the same blocks: the {what} segments differ",
            first.table, other.table
        )),
    }
}

/// The segments that the commit replaces, as they were found.
pub(crate) fn check_replaced(
    commit: &Commit,
    lease: BlockRange,
    tables: &[Location],
    found: &[Stored],
) -> Result<(), CommitError> {
    let by_id: HashMap<_, _> = found.iter().map(|stored| (stored.id, stored)).collect();
    for id in &commit.replaced {
        let Some(stored) = by_id.get(id) else {
            return invalid(format!("there is no segment {id}"));
        };
        if tables.iter().all(|table| table.id != stored.location) {
            return invalid(format!("the segment {id} is not one of the lease's revision"));
        }
        if !stored.is_live {
            return Err(CommitError::NotLive(*id));
        }
        if !lease.covers(stored.span.range) {
            return invalid(format!(
                "the replaced segment {id}, blocks {}, reaches out of the lease, which is on {lease}",
                stored.span.range
            ));
        }
    }
    check_aligned("replaced", found.iter().map(|stored| (stored.location, stored.span)), tables)
}

/// A merge changes nothing but the cuts: each new segment has exactly the blocks of replaced ones, from the
/// same parent to the same hash, and none is replaced by nothing.
pub(crate) fn check_merge(commit: &Commit, replaced: &[Stored]) -> Result<(), CommitError> {
    let mut by_table: HashMap<LocationId, Vec<Span>> = HashMap::new();
    for stored in replaced {
        by_table.entry(stored.location).or_default().push(stored.span);
    }
    by_table.values_mut().for_each(|spans| spans.sort_by_key(|span| span.range));
    let mut merged = 0;
    for new in &commit.added {
        let spans = by_table.get(&new.location).map(Vec::as_slice).unwrap_or_default();
        let parts: Vec<&Span> = spans.iter().filter(|span| new.span.range.covers(span.range)).collect();
        let links = parts.windows(2).all(|pair| pair[0].touches(pair[1]) && pair[0].links_to(pair[1]));
        let is_same = links
            && parts.first().is_some_and(|first| {
                first.range.start() == new.span.range.start() && first.prev_hash == new.span.prev_hash
            })
            && parts
                .last()
                .is_some_and(|last| last.range.end() == new.span.range.end() && last.hash == new.span.hash);
        if !is_same {
            return invalid(format!(
                "the segment on blocks {} merges others than it replaces",
                new.span.range
            ));
        }
        merged += parts.len();
    }
    if merged != replaced.len() {
        return invalid("a merge replaces segments by nothing");
    }
    Ok(())
}

/// The blocks that the new segments cover and the block on either side of them: what is live
/// there is what they must fit to. Sorted, and none overlaps another.
pub(crate) fn looked_at(commit: &Commit) -> Vec<BlockRange> {
    let widened = |segment: &NewSegment| {
        let range = segment.span.range;
        let end = range.end().saturating_add(1).min(MAX_BLOCK);
        BlockRange::new(range.start().saturating_sub(1), end)
    };
    merge(commit.added.iter().filter_map(widened).collect())
}

/// The new segments among the live ones that lie in or beside their blocks: they overlap none and
/// link to each that they touch, also among themselves.
pub(crate) fn check_neighbours(
    commit: &Commit,
    tables: &[Location],
    live: &[Stored],
) -> Result<(), CommitError> {
    let replaced: HashSet<_> = commit.replaced.iter().copied().collect();
    let mut by_table: HashMap<LocationId, Vec<Laid>> = HashMap::new();
    for segment in &commit.added {
        let laid = Laid { span: segment.span, is_new: true };
        by_table.entry(segment.location).or_default().push(laid);
    }
    for stored in live.iter().filter(|stored| !replaced.contains(&stored.id)) {
        let laid = Laid { span: stored.span, is_new: false };
        by_table.entry(stored.location).or_default().push(laid);
    }
    for table in tables {
        let Some(row) = by_table.get_mut(&table.id) else { continue };
        row.sort_by_key(|laid| laid.span.range);
        check_row(&table.table, row)?;
    }
    Ok(())
}

/// A segment in the row of one table's segments.
struct Laid {
    span: Span,
    is_new: bool,
}

/// In a row sorted by start, segments overlap only if two neighbours do.
fn check_row(table: &TableName, row: &[Laid]) -> Result<(), CommitError> {
    let pairs = || row.windows(2).map(|pair| (&pair[0], &pair[1]));
    if let Some((below, above)) = pairs().find(|(below, above)| below.span.range.overlaps(above.span.range)) {
        return match [below, above].into_iter().find(|laid| !laid.is_new) {
            Some(stored) => {
                Err(CommitError::AlreadyStored { table: table.clone(), range: stored.span.range })
            }
            None => invalid(format!(
                "the new segments on blocks {} and {} of the table `{table}` overlap",
                below.span.range, above.span.range
            )),
        };
    }
    let parted = pairs().find(|(below, above)| {
        let concerned = below.is_new || above.is_new;
        concerned && below.span.touches(&above.span) && !below.span.links_to(&above.span)
    });
    match parted {
        None => Ok(()),
        Some((below, above)) => Err(CommitError::NotLinked {
            table: table.clone(),
            below: below.span.range.end(),
            hash_below: below.span.hash,
            parent_hash_above: above.span.prev_hash,
        }),
    }
}

/// An object that is to be recorded under a lease.
pub(crate) fn check_object(
    lease: &Lease,
    tables: &[Location],
    location: LocationId,
    name: &str,
) -> Result<(), Fault> {
    if tables.iter().all(|table| table.id != location) {
        return refuse_location(lease.id, location);
    }
    check_object_name(name)
}

/// A location that the holder of the lease does not write.
pub(crate) fn refuse_location(lease: LeaseId, location: LocationId) -> Result<(), Fault> {
    refused(format!("the location {location} is not one of the revision of the lease {lease}"))
}

/// The name of an object that is to be recorded.
pub(crate) fn check_object_name(name: &str) -> Result<(), Fault> {
    if name.is_empty() || name.contains('/') {
        return refused(format!("`{name}` is not the name of an object in a folder"));
    }
    Ok(())
}

/// An object's name belongs to the lease that recorded it first.
pub(crate) fn check_recorded(lease: LeaseId, name: &str, recorded_under: LeaseId) -> Result<(), Fault> {
    if recorded_under == lease {
        return Ok(());
    }
    refused(format!("the object `{name}` is already recorded under the lease {recorded_under}"))
}

/// A range as it is stored. Its ends are below 2^63 by construction.
pub(crate) fn bounds(range: BlockRange) -> (i64, i64) {
    (range.start() as i64, range.end() as i64)
}

/// A block number as it is stored.
pub(crate) fn block_number(number: BlockNum) -> Result<i64, Fault> {
    i64::try_from(number).or_else(|_| refused(format!("the block number {number} is above {MAX_BLOCK}")))
}

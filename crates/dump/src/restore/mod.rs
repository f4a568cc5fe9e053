//! Rebuilding what the database knew of a dataset from its files alone.
//!
//! ```text
//!  list ─► footers ─► cuts that are whole ─► those that count ─► revisions: active, building, retired
//!                                                                        │
//!                                          claims and commits as a dump makes them
//! ```
//!
//! Everything goes through the same claims and commits as when it was extracted, so the database's own
//! checks hold for it, and a restore that was interrupted is gone on with by the same command.

mod choose;
mod files;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use futures::StreamExt;
use nozzle_core::{
    BlockNum, BlockRange, DatasetName, RevisionId, SourceRevisions, Span, TableDef, TableName, chain, layout,
    schema::schema_of_any_version,
};
use nozzle_metadata::{
    Commit, CommitSeq, Dataset, MetadataStore, NewFile, NewLocation, NewRevision, NewSegment, Revision,
    RevisionState, Scan, SegmentFile,
};
use nozzle_query::{Stores, catalog::is_raw};
use tokio_util::sync::CancellationToken;

use crate::{
    error::DumpError,
    lease::{self, Claimed, Leases},
    observe::{Event, Observer},
};
use choose::{Cut, Order};
pub use files::stored_revisions;
use files::{Object, Told};

/// Cuts of a commit: enough that commits are few, little enough that each is short.
const CUTS_PER_COMMIT: usize = 128;

/// What the footers that are kept from the first reading may hold; the others are read again when they
/// are written to the database.
const KEPT_FOOTER_BYTES: usize = 256 << 20;

/// What a manifest means.
#[derive(Debug, Clone)]
pub struct Defined {
    /// The dataset, registered.
    pub dataset: Dataset,
    /// Its tables.
    pub tables: Vec<TableDef>,
    /// Its first block.
    pub start_block: BlockNum,
}

/// The files of one revision that were found.
#[derive(Debug)]
pub struct Found {
    /// The revision.
    pub revision: RevisionId,
    /// The manifest that it was written for.
    pub manifest: serde_json::Value,
    cuts: Vec<Cut<Vec<File>>>,
    /// The tables that the cuts have files of, or say to be without rows.
    tables: HashSet<TableName>,
    /// Files of cuts that were never whole.
    pub incomplete_files: u64,
    newest: Order,
    building_until: Option<BlockNum>,
}

/// A file of a cut that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    object: Object,
    rows: u64,
    sources: Option<SourceRevisions>,
    footer: Option<Bytes>,
}

/// What the store holds of a dataset.
#[derive(Debug, Default)]
pub struct Survey {
    /// Its revisions, oldest first.
    pub found: Vec<Found>,
    /// Files that cannot be used, by URL, each with the reason.
    pub unreadable: Vec<(String, String)>,
    /// Objects that are no files of a dataset.
    pub foreign: u64,
}

/// What a revision is to be once it is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The index in [`Survey::found`].
    pub index: usize,
    /// Its state.
    pub state: RevisionState,
}

/// What was restored of one revision.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The revision.
    pub revision: RevisionId,
    /// What it is now.
    pub state: RevisionState,
    /// Files, rows and bytes of all tables that count.
    pub files: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// From the lowest to the highest block; there may be holes between. `None` where it has no block.
    pub blocks: Option<BlockRange>,
}

/// Restores datasets below one URL.
#[derive(Debug)]
pub struct Restore {
    /// The metadata.
    pub metadata: Arc<dyn MetadataStore>,
    /// The stores.
    pub stores: Arc<Stores>,
    /// The URL below which the revisions lie, ending in `/`.
    pub base_url: String,
    /// The dataset's name.
    pub name: DatasetName,
    /// Who restores, in words for a person.
    pub holder: String,
}

impl Restore {
    /// Reads what lies in the store. Tells how many files it reads, and each that it has read.
    pub async fn survey(
        &self,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Option<Survey>, DumpError> {
        let listing = files::list(&self.stores, &self.base_url, &self.name).await?;
        observer.event(Event::Planned { blocks: listing.revisions.values().map(|o| o.len() as u64).sum() });
        let mut survey = Survey { foreign: listing.foreign, ..Survey::default() };
        let mut kept_bytes = 0;
        for (revision, objects) in listing.revisions {
            let mut gathered = Gathered::default();
            let mut reads =
                std::pin::pin!(files::read(&self.stores, &self.base_url, &self.name, revision, objects));
            loop {
                let Some(read) = cancel.run_until_cancelled(reads.next()).await else { return Ok(None) };
                match read.transpose()? {
                    None => break,
                    Some(Ok(told)) => {
                        observer.event(Event::Checked { blocks: 1, rows: told.rows });
                        kept_bytes += told.footer.len();
                        gathered.add(told, kept_bytes <= KEPT_FOOTER_BYTES);
                    }
                    Some(Err(files::Unreadable { url, why })) => {
                        observer.event(Event::Checked { blocks: 1, rows: 0 });
                        survey.unreadable.push((url, why));
                    }
                }
            }
            survey.found.extend(gathered.found(revision));
        }
        Ok(Some(survey))
    }

    /// Puts what was found into the database and makes it what it was. `None` where it was stopped.
    pub async fn run(
        &self,
        found: &Found,
        defined: &Defined,
        state: RevisionState,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Option<Restored>, DumpError> {
        let mut live = found.live(&defined.tables);
        if !is_raw(defined.dataset.kind) {
            // An older version has not written it down.
            for file in live.iter_mut().flat_map(|cut| &mut cut.id) {
                file.sources.get_or_insert_default();
            }
        }
        let revision = self.revision(found.revision, defined).await?;
        let blocks = |cuts: &[Cut<Vec<File>>]| cuts.iter().map(|cut| cut.span.range.len()).sum();
        observer.event(Event::Planned { blocks: blocks(&live) });
        let wanted = [BlockRange::from(0)];
        let request = lease::Request {
            store: &self.metadata,
            revision: revision.id,
            wanted: &wanted,
            all_or_nothing: true,
            holder: &self.holder,
        };
        let leases = match lease::claim(request, observer, cancel).await? {
            Claimed::Some(leases, _) => leases,
            Claimed::None(held) => return Err(DumpError::Held(held)),
            Claimed::Stopped => return Ok(None),
        };
        let added = self.add(&revision, &live, &leases, observer, cancel).await;
        let released = leases.release().await;
        if !added? {
            return Ok(None);
        }
        released?;
        match state {
            RevisionState::Active => drop(self.metadata.activate_revision(revision.id).await?),
            RevisionState::Retired => self.metadata.retire_revision(revision.id).await?,
            RevisionState::Building => {}
        }
        let files = || live.iter().flat_map(|cut| &cut.id);
        let ends = live.first().zip(live.last());
        Ok(Some(Restored {
            revision: revision.id,
            state,
            files: files().count() as u64,
            rows: files().map(|file| file.rows).sum(),
            bytes: files().map(|file| file.object.size_bytes).sum(),
            blocks: ends
                .and_then(|(first, last)| BlockRange::new(first.span.range.start(), last.span.range.end())),
        }))
    }

    /// The revision in the database, which readers do not see yet.
    async fn revision(&self, id: RevisionId, defined: &Defined) -> Result<Revision, DumpError> {
        let known = self.metadata.revisions(defined.dataset.id).await?;
        if let Some(known) = known.into_iter().find(|revision| revision.id == id) {
            return Ok(known);
        }
        let location = |table: &TableDef| NewLocation {
            table: table.name.clone(),
            url: format!("{}{}/", self.base_url, layout::location_path(&self.name, &table.name, id)),
            schema: schema_of_any_version(&table.schema).to_string(),
        };
        let tables = defined.tables.iter().map(location).collect();
        let new = NewRevision { id, dataset: defined.dataset.id, state: RevisionState::Building, tables };
        Ok(self.metadata.create_revision(&new).await?)
    }

    /// Commits the cuts that the database does not have yet, in block order; `false` where it was
    /// stopped.
    async fn add(
        &self,
        revision: &Revision,
        live: &[Cut<Vec<File>>],
        leases: &Leases,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<bool, DumpError> {
        let stored: Vec<BlockRange> =
            self.stored_spans(revision).await?.into_iter().map(|span| span.range).collect();
        let is_there = |cut: &&Cut<_>| {
            let above = stored.partition_point(|range| range.end() < cut.span.range.start());
            stored.get(above).is_some_and(|range| range.overlaps(cut.span.range))
        };
        let (there, missing): (Vec<_>, Vec<_>) = live.iter().partition(is_there);
        let rows = |cut: &Cut<Vec<File>>| cut.id.iter().map(|file| file.rows).sum();
        let advance =
            |cut: &Cut<_>| observer.event(Event::Checked { blocks: cut.span.range.len(), rows: rows(cut) });
        there.into_iter().for_each(advance);
        for cuts in missing.chunks(CUTS_PER_COMMIT) {
            if cancel.is_cancelled() {
                return Ok(false);
            }
            let terms = leases.covering(BlockRange::from(0)).ok_or(DumpError::LeaseLost)?;
            let mut added = vec![];
            for cut in cuts {
                added.extend(self.segments(revision, cut).await?);
            }
            // Their names are not recorded first, as a dump does: what is recorded and not committed is
            // deleted in the end, and these files are all that there is.
            let commit = Commit { lease: terms.lease, added, replaced: vec![] };
            self.metadata.commit(&commit).await.map_err(DumpError::Commit)?;
            cuts.iter().copied().for_each(advance);
        }
        Ok(true)
    }

    async fn stored_spans(&self, revision: &Revision) -> Result<Vec<Span>, DumpError> {
        let Some(first) = revision.locations.first() else { return Ok(vec![]) };
        let sequence = self.metadata.sequence().await?;
        let scan = Scan { location: first.id, sequence, range: BlockRange::from(0) };
        Ok(self.metadata.spans(&scan).await?)
    }

    /// The segments of a cut, one for each table.
    async fn segments(
        &self,
        revision: &Revision,
        cut: &Cut<Vec<File>>,
    ) -> Result<Vec<NewSegment>, DumpError> {
        let mut segments = vec![];
        let sources = cut.id.first().and_then(|file| file.sources.clone());
        for location in &revision.locations {
            let file = match cut.id.iter().find(|file| file.object.table == location.table) {
                Some(file) => Some(NewFile {
                    file: SegmentFile {
                        name: file.object.name.clone(),
                        size_bytes: file.object.size_bytes,
                        rows: file.rows,
                        e_tag: None,
                        version: None,
                    },
                    footer: self.footer(file, &location.url).await?,
                }),
                None => None,
            };
            let sources = sources.clone();
            segments.push(NewSegment { location: location.id, span: cut.span, file, sources, cursor: None });
        }
        if let Some(first) = segments.first_mut() {
            first.cursor.clone_from(&cut.cursor);
        }
        Ok(segments)
    }

    async fn footer(&self, file: &File, folder: &str) -> Result<Bytes, DumpError> {
        if let Some(footer) = &file.footer {
            return Ok(footer.clone());
        }
        let url = format!("{folder}{}", file.object.name);
        let (store, path) = self.stores.resolve(&url)?;
        let footer = crate::files::read_footer(store.as_ref(), &path, file.object.size_bytes).await;
        let footer = footer.map_err(|error| DumpError::store(format!("reading {url}"), error))?;
        footer.ok_or_else(|| DumpError::Refused(format!("{url} has changed while it was restored")))
    }
}

/// What a dump's next commits must come after: the files' own numbers were given by a database that is
/// no more.
pub fn newest_commit(found: &[Found]) -> CommitSeq {
    let newest = found.iter().map(|found| found.newest.0).max().unwrap_or(0);
    CommitSeq(i64::try_from(newest.saturating_add(1)).unwrap_or(i64::MAX - 1))
}

/// What the revisions of one dataset are to be: the newest that was read, or could be, is active; a newer
/// one goes on being built; the others are retired. `found` gives each with its index.
pub fn plan<'a>(found: impl IntoIterator<Item = (usize, &'a Found)>, defined: &Defined) -> Vec<Planned> {
    let mut planned: Vec<Planned> = vec![];
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|(_, found)| std::cmp::Reverse(found.revision));
    let (mut has_active, mut has_building) = (false, false);
    for (index, found) in found {
        let state = if !has_active && found.is_complete(defined) {
            has_active = true;
            RevisionState::Active
        } else if !has_active && !has_building {
            has_building = true;
            RevisionState::Building
        } else {
            RevisionState::Retired
        };
        planned.push(Planned { index, state });
    }
    planned
}

impl Found {
    /// The cuts that count, of those that have all tables.
    fn live(&self, tables: &[TableDef]) -> Vec<Cut<Vec<File>>> {
        // A table that no file tells of was lost, or never committed: no range of it is one without rows.
        if tables.iter().any(|table| !self.tables.contains(&table.name)) {
            return vec![];
        }
        let known = |file: &File| tables.iter().any(|table| table.name == file.object.table);
        choose::live(self.cuts.iter().filter(|cut| cut.id.iter().all(known)).cloned().collect())
    }

    /// Whether readers had switched to it, or were to as soon as its last commit was there.
    fn is_complete(&self, defined: &Defined) -> bool {
        let Some(until) = self.building_until else { return true };
        let spans: Vec<Span> = self.live(&defined.tables).iter().map(|cut| cut.span).collect();
        chain::watermark(defined.start_block, &spans).is_some_and(|watermark| watermark.number >= until)
    }
}

/// A file of a cut.
struct Member {
    told: Told,
    /// The index of its manifest, where it has one.
    manifest: Option<usize>,
}

/// The files of a revision, by the name that those of one cut share.
#[derive(Default)]
struct Gathered {
    by_name: HashMap<String, Vec<Member>>,
    /// Each manifest once, however many files have it.
    manifests: Vec<serde_json::Value>,
    was_read: bool,
    newest: Order,
    building_until: Option<BlockNum>,
}

impl Gathered {
    fn add(&mut self, mut told: Told, keep_footer: bool) {
        if !keep_footer {
            told.footer = Bytes::new();
        }
        self.was_read |= told.building_until.is_none();
        if told.order >= self.newest {
            self.newest = told.order;
            self.building_until = told.building_until;
        }
        let manifest = told.manifest.take().map(|manifest| self.index_of(manifest));
        self.by_name.entry(told.object.name.clone()).or_default().push(Member { told, manifest });
    }

    fn index_of(&mut self, manifest: serde_json::Value) -> usize {
        self.manifests.iter().position(|known| *known == manifest).unwrap_or_else(|| {
            self.manifests.push(manifest);
            self.manifests.len() - 1
        })
    }

    /// `None` where no cut is whole: nothing is known of such a revision.
    fn found(mut self, revision: RevisionId) -> Option<Found> {
        let mut cuts = vec![];
        let mut newest_manifest: Option<(Order, usize)> = None;
        let mut incomplete_files = 0;
        let mut tables: HashSet<TableName> = HashSet::new();
        let groups: Vec<Vec<Member>> = self.by_name.into_values().collect();
        for Member { told, .. } in groups.iter().flatten() {
            tables.insert(told.object.table.clone());
            tables.extend(told.empty_tables.iter().cloned());
        }
        for group in groups {
            let count = group.len() as u64;
            match cut_of(group, &tables) {
                Some((cut, manifest)) => {
                    newest_manifest = newest_manifest.max(Some((cut.order, manifest)));
                    cuts.push(cut);
                }
                None => incomplete_files += count,
            }
        }
        let manifest = self.manifests.swap_remove(newest_manifest?.1);
        let building_until = self.building_until.filter(|_| !self.was_read);
        Some(Found {
            revision,
            manifest,
            cuts,
            tables,
            incomplete_files,
            newest: self.newest,
            building_until,
        })
    }
}

/// One cut of the files of one name; `None` where a table is missing: its commit never came.
fn cut_of(group: Vec<Member>, tables: &HashSet<TableName>) -> Option<(Cut<Vec<File>>, usize)> {
    let (first, manifest) = group.iter().find_map(|member| Some((&member.told, member.manifest?)))?;
    let (span, order) = (first.span, first.order);
    let is_empty = |table: &TableName| first.empty_tables.contains(table);
    let has_file = |table: &TableName| group.iter().any(|member| member.told.object.table == *table);
    let is_whole = tables.iter().all(|table| is_empty(table) != has_file(table))
        && group.iter().all(|member| member.told.span == span && member.told.order == order);
    let file = |member: Member| File {
        object: member.told.object,
        rows: member.told.rows,
        sources: member.told.sources,
        footer: Some(member.told.footer).filter(|footer| !footer.is_empty()),
    };
    let cursor = first.cursor.clone();
    is_whole.then(|| (Cut { span, order, cursor, id: group.into_iter().map(file).collect() }, manifest))
}

//! What the store remembers, as values.

mod jobs;

use std::{fmt, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use nozzle_core::{
    BlockId, BlockNum, BlockRange, DatasetKind, DatasetName, DatasetVersion, Network, ProviderName,
    RevisionId, SourceCursor, SourceRevisions, Span, TableName,
};
use serde::{Deserialize, Serialize};

pub use jobs::*;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

ids! {
    /// One version of a dataset.
    DatasetId,
    /// One table of one revision.
    LocationId,
    /// One segment, and the file that it may have.
    SegmentId,
    /// One lease. Ids only grow, so the id is also the fence: of two leases on a block the
    /// greater one is the later one.
    LeaseId,
    /// A commit's place in the one order of all commits. 0 is before the first.
    CommitSeq,
    /// One job: a dump that was asked for and that workers do.
    JobId,
    /// One part of a job.
    TaskId,
    /// A claim of a task, or a process that runs under a worker's name. Of two of the same task or name
    /// the greater one is the later one, and only that one holds it.
    Fence,
}

/// A dataset to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDataset {
    /// Its name.
    pub name: DatasetName,
    /// Its version.
    pub version: DatasetVersion,
    /// Its kind.
    pub kind: DatasetKind,
    /// The network of its blocks; `None` where it has none of its own.
    pub network: Option<Network>,
    /// Its manifest in canonical JSON: the same text means the same manifest.
    pub manifest: String,
}

/// Whether a registration found the dataset there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It is new.
    New(DatasetId),
    /// It was there, with the same manifest.
    Same(DatasetId),
}

impl Registered {
    /// The dataset's id either way.
    pub fn id(self) -> DatasetId {
        match self {
            Self::New(id) | Self::Same(id) => id,
        }
    }
}

/// A registered dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Its id.
    pub id: DatasetId,
    /// Its name.
    pub name: DatasetName,
    /// Its version.
    pub version: DatasetVersion,
    /// Its kind.
    pub kind: DatasetKind,
    /// The network of its blocks.
    pub network: Option<Network>,
    /// Its manifest in canonical JSON.
    pub manifest: String,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}

/// Where a provider's configuration came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderOrigin {
    /// A file of the providers' folder: the file's content wins at the next start.
    File,
    /// The Admin API.
    Api,
}

/// A provider: where a source's blocks can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its name; providers of one kind and network are tried in the order of their names.
    pub name: ProviderName,
    /// The kind of source.
    pub kind: DatasetKind,
    /// The network that it serves.
    pub network: Network,
    /// The region that its endpoint is near to: workers of that region are given its tasks first.
    pub region: Option<String>,
    /// The kind's own keys as a JSON object. May hold `${VAR}` where a secret goes.
    pub config: String,
    /// Where it came from.
    pub origin: ProviderOrigin,
}

/// The state of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RevisionState {
    /// Written, not yet read: readers switch to it when it is complete.
    Building,
    /// The one that is read.
    Active,
    /// No longer read; its files wait for the collector.
    Retired,
}

/// A revision to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRevision {
    /// Its id, which names its folders.
    pub id: RevisionId,
    /// The dataset.
    pub dataset: DatasetId,
    /// [`RevisionState::Building`] or [`RevisionState::Active`].
    pub state: RevisionState,
    /// The tables, in the dataset's order.
    pub tables: Vec<NewLocation>,
}

/// A table of a revision to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLocation {
    /// The table.
    pub table: TableName,
    /// The URL of the folder that its files lie in, ending in `/`.
    pub url: String,
    /// The table's columns as JSON text (`nozzle_core::schema`), so that a reader needs no source
    /// to know them. Stored and given back as it is.
    pub schema: String,
}

/// One storage revision of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its id.
    pub id: RevisionId,
    /// The dataset.
    pub dataset: DatasetId,
    /// Its state.
    pub state: RevisionState,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was retired, if it was.
    pub retired_at: Option<DateTime<Utc>>,
    /// The newest commit of its segments; 0 where there is none, or none since this is written down.
    pub changed: CommitSeq,
    /// Its tables, in the order in which they were given.
    pub locations: Vec<Location>,
}

/// One table of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Its id.
    pub id: LocationId,
    /// The table.
    pub table: TableName,
    /// The URL of the folder that its files lie in, ending in `/`.
    pub url: String,
    /// The table's columns as JSON text (`nozzle_core::schema`).
    pub schema: String,
}

/// What a query sees: one moment, read at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Everything committed up to here is seen, nothing after.
    pub sequence: CommitSeq,
    /// The datasets that are registered, by name and version, each with its active revision.
    pub datasets: Vec<(Dataset, Option<Revision>)>,
}

/// Which segments a reader wants. It can be written down and sent to another process: whoever
/// scans it lists the same segments, as long as the collector has not come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// One table of one revision.
    pub location: LocationId,
    /// The moment.
    pub sequence: CommitSeq,
    /// The blocks: a segment that shares one with the range is listed.
    pub range: BlockRange,
}

/// A committed segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its id.
    pub id: SegmentId,
    /// The blocks covered and how they link.
    pub span: Span,
    /// The file with its rows; `None` for a range without rows that has no object.
    pub file: Option<SegmentFile>,
    /// The commit that added it.
    pub added_seq: CommitSeq,
    /// The commit that replaced it, if one did.
    pub replaced_seq: Option<CommitSeq>,
}

/// The file of a segment. Its Parquet footer is kept apart: see `MetadataStore::footers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    /// The object's name within the location's folder.
    pub name: String,
    /// The object's size in bytes.
    pub size_bytes: u64,
    /// How many rows it holds.
    pub rows: u64,
    /// The store's ETag of the object, where it gives one.
    pub e_tag: Option<String>,
    /// The store's version of the object, where it keeps versions.
    pub version: Option<String>,
}

/// A file to be looked at by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// The dataset.
    pub dataset: Dataset,
    /// The revision.
    pub revision: RevisionId,
    /// The table of it.
    pub location: Location,
    /// The segment.
    pub segment: Segment,
}

/// A table of a revision with all that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocationRecord {
    /// The dataset.
    pub dataset: Dataset,
    /// The revision.
    pub revision: RevisionId,
    /// The revision's state.
    pub state: RevisionState,
    /// The table.
    pub location: Location,
}

/// What is stored of a location now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// The revision.
    pub revision: RevisionId,
    /// The table.
    pub table: TableName,
    /// The table of the revision.
    pub location: LocationId,
    /// Totals over its live segments.
    pub totals: LocationTotals,
    /// The last block of the linked run that the lowest live segment begins; `None` where nothing is
    /// stored.
    pub linked_until: Option<BlockNum>,
    /// The revision's newest commit: a snapshot whose [`Revision::changed`] is another sees something else.
    pub changed: CommitSeq,
}

impl Coverage {
    /// The last block of the linked run that begins at `start`; `None` where that block is not stored.
    pub fn linked_from(&self, start: BlockNum) -> Option<BlockNum> {
        let begins_below = self.totals.blocks.is_some_and(|blocks| blocks.start() <= start);
        self.linked_until.filter(|end| begins_below && *end >= start)
    }
}

/// Totals over the live segments of a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocationTotals {
    /// Live segments.
    pub segments: u64,
    /// Of those, how many have a file.
    pub files: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// From the lowest to the highest block covered; there may be holes between.
    pub blocks: Option<BlockRange>,
}

/// A claimed block range of a revision: nobody else may commit into it while it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its id and fence.
    pub id: LeaseId,
    /// The revision.
    pub revision: RevisionId,
    /// The blocks; the end of an open lease is `nozzle_core::range::MAX_BLOCK`.
    pub range: BlockRange,
    /// Whether it is a compaction's: it gives way to whoever wants to write its blocks, and under it
    /// segments are only merged.
    pub yields: bool,
}

/// A lease of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// The lease.
    pub lease: Lease,
    /// Who holds it, in words for a person.
    pub holder: String,
    /// How long ago it was last renewed, by the database's clock.
    pub silent_for: std::time::Duration,
}

/// The answer to a claim: what was granted of it, and who holds the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What nobody held, now the caller's: one lease for each part.
    pub granted: Vec<Lease>,
    /// The leases of others that overlap what was wanted.
    pub held: Vec<HeldLease>,
    /// The newest commit. Whatever was committed on the granted blocks came no later, and nothing will
    /// be committed on them but under the granted leases.
    pub sequence: CommitSeq,
}

/// How long a holder may be silent before its lease can be taken, by the database's clock.
pub const LEASE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// How often a holder renews its leases.
pub const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(1);

/// A segment to be added.
#[derive(Debug, Clone)]
pub struct NewSegment {
    /// One table of the lease's revision.
    pub location: LocationId,
    /// The blocks covered and how they link.
    pub span: Span,
    /// The file with its rows, whose name was recorded under the lease before the upload.
    pub file: Option<NewFile>,
    /// What its rows were computed from, where the dataset is derived.
    pub sources: Option<SourceRevisions>,
    /// Where the source's stream goes on behind the last block. One of the tables has it.
    pub cursor: Option<SourceCursor>,
}

/// A file that was written and closed.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// The file as it will be listed.
    pub file: SegmentFile,
    /// The Parquet footer: the bytes of the file's metadata, without the length and magic at the end.
    pub footer: Bytes,
}

/// What one transaction changes.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The lease under which the blocks were written.
    pub lease: LeaseId,
    /// The new segments: for each table of the revision the same spans. May be empty where
    /// segments are only replaced (by nothing: a reorg whose new blocks are not there yet).
    pub added: Vec<NewSegment>,
    /// The live segments that the new ones stand in for.
    pub replaced: Vec<SegmentId>,
}

/// An object whose name was recorded but that no commit has taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedObject {
    /// The lease under which it was recorded.
    pub lease: LeaseId,
    /// The table of the revision that it was meant for.
    pub location: Location,
    /// The object's name within the location's folder.
    pub name: String,
    /// The store's id of the upload in parts that was begun for it, if one was: it is to be ended too.
    pub upload: Option<String>,
    /// How long ago the lease ended, by the database's clock; `None` while it lives. A lease that has
    /// been silent for [`LEASE_TIMEOUT`] ended when it became so; as its holder may still come back,
    /// whoever deletes the object releases the lease first.
    pub ended_for: Option<Duration>,
}

/// What the collector would take out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collectable {
    /// Segments.
    pub segments: u64,
    /// Of those, how many have a file.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// How far a network has come, as its writers last saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finality {
    /// The newest block.
    pub head: BlockId,
    /// The newest block that will not be reorganised away; `None` where none is known.
    pub finalized: Option<BlockId>,
}

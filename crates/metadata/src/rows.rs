//! Rows as both databases give them, and the values that they are read into. A row that does not
//! read is a damaged database.

pub(crate) mod jobs;

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use nozzle_core::{BlockHash, BlockId, BlockRange, RevisionId, SourceRevisions, Span};
use sqlx::FromRow;
use uuid::Uuid;

use crate::{fault::Fault, model::*};

type Read<T> = Result<T, Fault>;

fn corrupt<T>(what: impl Into<String>) -> Read<T> {
    Err(Fault::Corrupt(what.into()))
}

fn parse<T: std::str::FromStr>(column: &str, text: &str) -> Read<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().or_else(|error| corrupt(format!("the column {column} holds {error}")))
}

pub(crate) fn range(start: i64, end: i64) -> Read<BlockRange> {
    let bounds = u64::try_from(start).ok().zip(u64::try_from(end).ok());
    match bounds.and_then(|(start, end)| BlockRange::new(start, end)) {
        Some(range) => Ok(range),
        None => corrupt(format!("{start} to {end} is not a block range")),
    }
}

fn hash(bytes: &[u8]) -> Read<BlockHash> {
    BlockHash::try_from(bytes).or_else(|_| corrupt(format!("a hash has {} bytes", bytes.len())))
}

fn unsigned(column: &str, number: i64) -> Read<u64> {
    u64::try_from(number).or_else(|_| corrupt(format!("the column {column} holds {number}")))
}

/// Reads each row.
pub(crate) fn read_all<R, T>(rows: Vec<R>, read: impl Fn(R) -> Read<T>) -> Read<Vec<T>> {
    rows.into_iter().map(read).collect()
}

#[derive(Debug, FromRow)]
pub(crate) struct DatasetRow {
    dataset_id: i64,
    name: String,
    version: String,
    kind: String,
    network: Option<String>,
    manifest: String,
    dataset_created_at: DateTime<Utc>,
}

impl DatasetRow {
    pub(crate) fn read(self) -> Read<Dataset> {
        Ok(Dataset {
            id: DatasetId(self.dataset_id),
            name: parse("name", &self.name)?,
            version: parse("version", &self.version)?,
            kind: parse("kind", &self.kind)?,
            network: self.network.map(|network| parse("network", &network)).transpose()?,
            manifest: self.manifest,
            created_at: self.dataset_created_at,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct ProviderRow {
    name: String,
    kind: String,
    network: String,
    region: Option<String>,
    config: String,
    origin: String,
}

impl ProviderRow {
    pub(crate) fn read(self) -> Read<Provider> {
        let origin = match self.origin.as_str() {
            "file" => ProviderOrigin::File,
            "api" => ProviderOrigin::Api,
            other => return corrupt(format!("a provider's origin is `{other}`")),
        };
        Ok(Provider {
            name: parse("name", &self.name)?,
            kind: parse("kind", &self.kind)?,
            network: parse("network", &self.network)?,
            region: self.region,
            config: self.config,
            origin,
        })
    }
}

/// How an origin is stored.
pub(crate) fn origin_text(origin: ProviderOrigin) -> &'static str {
    match origin {
        ProviderOrigin::File => "file",
        ProviderOrigin::Api => "api",
    }
}

/// How a state is stored.
pub(crate) fn state_text(state: RevisionState) -> &'static str {
    match state {
        RevisionState::Building => "building",
        RevisionState::Active => "active",
        RevisionState::Retired => "retired",
    }
}

/// A state as it is stored.
pub(crate) fn read_state(text: &str) -> Read<RevisionState> {
    match text {
        "building" => Ok(RevisionState::Building),
        "active" => Ok(RevisionState::Active),
        "retired" => Ok(RevisionState::Retired),
        other => corrupt(format!("a revision's state is `{other}`")),
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct RevisionRow {
    revision_id: Uuid,
    dataset_id: i64,
    state: String,
    revision_created_at: DateTime<Utc>,
    retired_at: Option<DateTime<Utc>>,
    changed_seq: i64,
}

impl RevisionRow {
    fn read(self) -> Read<Revision> {
        Ok(Revision {
            id: RevisionId(self.revision_id),
            dataset: DatasetId(self.dataset_id),
            state: read_state(&self.state)?,
            created_at: self.revision_created_at,
            retired_at: self.retired_at,
            changed: CommitSeq(self.changed_seq),
            locations: vec![],
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct LocationRow {
    revision_id: Uuid,
    location_id: i64,
    table_name: String,
    url: String,
    schema: String,
}

impl LocationRow {
    pub(crate) fn read(self) -> Read<Location> {
        let table = parse("table_name", &self.table_name)?;
        Ok(Location { id: LocationId(self.location_id), table, url: self.url, schema: self.schema })
    }
}

/// The revisions in their order, each with its locations in theirs.
pub(crate) fn read_revisions(rows: Vec<RevisionRow>, locations: Vec<LocationRow>) -> Read<Vec<Revision>> {
    let mut revisions = read_all(rows, RevisionRow::read)?;
    for row in locations {
        let owner = RevisionId(row.revision_id);
        let location = row.read()?;
        if let Some(revision) = revisions.iter_mut().find(|revision| revision.id == owner) {
            revision.locations.push(location);
        }
    }
    Ok(revisions)
}

/// A row of [`crate::sql::SNAPSHOT`].
#[derive(Debug, FromRow)]
pub(crate) struct SnapshotRow {
    sequence: i64,
    dataset_id: Option<i64>,
    name: Option<String>,
    version: Option<String>,
    kind: Option<String>,
    network: Option<String>,
    manifest: Option<String>,
    dataset_created_at: Option<DateTime<Utc>>,
    revision_id: Option<Uuid>,
    state: Option<String>,
    revision_created_at: Option<DateTime<Utc>>,
    changed_seq: Option<i64>,
    location_id: Option<i64>,
    table_name: Option<String>,
    url: Option<String>,
    schema: Option<String>,
}

impl SnapshotRow {
    /// The dataset, in the row in which it is named first.
    fn dataset(&mut self) -> Option<DatasetRow> {
        Some(DatasetRow {
            manifest: self.manifest.take()?,
            dataset_id: self.dataset_id?,
            name: self.name.take()?,
            version: self.version.take()?,
            kind: self.kind.take()?,
            network: self.network.take(),
            dataset_created_at: self.dataset_created_at?,
        })
    }

    fn revision(&mut self) -> Option<RevisionRow> {
        Some(RevisionRow {
            revision_id: self.revision_id?,
            dataset_id: self.dataset_id?,
            state: self.state.take()?,
            revision_created_at: self.revision_created_at?,
            retired_at: None,
            changed_seq: self.changed_seq?,
        })
    }

    fn location(self) -> Option<LocationRow> {
        Some(LocationRow {
            revision_id: self.revision_id?,
            location_id: self.location_id?,
            table_name: self.table_name?,
            url: self.url?,
            schema: self.schema?,
        })
    }
}

/// The snapshot that the rows of [`crate::sql::SNAPSHOT`] tell.
pub(crate) fn read_snapshot(rows: Vec<SnapshotRow>) -> Read<Snapshot> {
    let Some(first) = rows.first() else { return corrupt("the commit counter is missing") };
    let sequence = CommitSeq(first.sequence);
    let mut datasets: Vec<(Dataset, Option<Revision>)> = vec![];
    for mut row in rows {
        if let Some(dataset) = row.dataset() {
            let revision = row.revision().map(RevisionRow::read).transpose()?;
            datasets.push((dataset.read()?, revision));
        }
        let revision = datasets.last_mut().and_then(|(_, revision)| revision.as_mut());
        if let Some((location, revision)) = row.location().zip(revision) {
            revision.locations.push(location.read()?);
        }
    }
    datasets.sort_by(|(a, _), (b, _)| (&a.name, a.version).cmp(&(&b.name, b.version)));
    Ok(Snapshot { sequence, datasets })
}

#[derive(Debug, FromRow)]
pub(crate) struct SpanRow {
    start_block: i64,
    end_block: i64,
    prev_hash: Vec<u8>,
    hash: Vec<u8>,
}

impl SpanRow {
    pub(crate) fn read(self) -> Read<Span> {
        Ok(Span {
            range: range(self.start_block, self.end_block)?,
            prev_hash: hash(&self.prev_hash)?,
            hash: hash(&self.hash)?,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct SegmentRow {
    segment_id: i64,
    #[sqlx(flatten)]
    span: SpanRow,
    file_name: Option<String>,
    size_bytes: Option<i64>,
    row_count: Option<i64>,
    e_tag: Option<String>,
    object_version: Option<String>,
    added_seq: i64,
    replaced_seq: Option<i64>,
}

impl SegmentRow {
    pub(crate) fn read(self) -> Read<Segment> {
        let file = match (self.file_name, self.size_bytes, self.row_count) {
            (Some(name), Some(size), Some(rows)) => Some(SegmentFile {
                name,
                size_bytes: unsigned("size_bytes", size)?,
                rows: unsigned("row_count", rows)?,
                e_tag: self.e_tag,
                version: self.object_version,
            }),
            (None, None, None) => None,
            _ => return corrupt(format!("the segment {} has half a file", self.segment_id)),
        };
        Ok(Segment {
            id: SegmentId(self.segment_id),
            span: self.span.read()?,
            file,
            added_seq: CommitSeq(self.added_seq),
            replaced_seq: self.replaced_seq.map(CommitSeq),
        })
    }
}

/// A segment of a scan.
#[derive(Debug, FromRow)]
pub(crate) struct ScannedRow {
    pub(crate) collected_seq: i64,
    #[sqlx(flatten)]
    segment: SegmentRow,
}

impl ScannedRow {
    pub(crate) fn read(self) -> Read<Segment> {
        self.segment.read()
    }
}

/// A segment that nobody can need any more.
#[derive(Debug, FromRow)]
pub(crate) struct DueRow {
    pub(crate) segment_id: i64,
    pub(crate) location_id: i64,
    /// The first moment that does not see it; `None` in a revision that nobody ever saw.
    pub(crate) until_seq: Option<i64>,
}

#[derive(Debug, FromRow)]
pub(crate) struct CollectableRow {
    segments: i64,
    files: i64,
    bytes: i64,
}

impl CollectableRow {
    pub(crate) fn read(self) -> Read<Collectable> {
        Ok(Collectable {
            segments: unsigned("segments", self.segments)?,
            files: unsigned("files", self.files)?,
            bytes: unsigned("bytes", self.bytes)?,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct DoomedRow {
    object_name: String,
    #[sqlx(flatten)]
    location: LocationRow,
}

impl DoomedRow {
    pub(crate) fn read(self) -> Read<(Location, String)> {
        Ok((self.location.read()?, self.object_name))
    }
}

/// A segment and the location that it is of.
#[derive(Debug, FromRow)]
pub(crate) struct PlacedRow {
    location_id: i64,
    #[sqlx(flatten)]
    segment: SegmentRow,
}

impl PlacedRow {
    pub(crate) fn read(self) -> Read<(LocationId, Segment)> {
        Ok((LocationId(self.location_id), self.segment.read()?))
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct FileRow {
    #[sqlx(flatten)]
    dataset: DatasetRow,
    #[sqlx(flatten)]
    location: LocationRow,
    #[sqlx(flatten)]
    segment: SegmentRow,
}

impl FileRow {
    pub(crate) fn read(self) -> Read<FileRecord> {
        Ok(FileRecord {
            revision: RevisionId(self.location.revision_id),
            dataset: self.dataset.read()?,
            location: self.location.read()?,
            segment: self.segment.read()?,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct TotalsRow {
    segments: i64,
    files: i64,
    row_count: i64,
    size_bytes: i64,
    start_block: Option<i64>,
    end_block: Option<i64>,
}

impl TotalsRow {
    pub(crate) fn read(self) -> Read<LocationTotals> {
        let bounds = self.start_block.zip(self.end_block);
        Ok(LocationTotals {
            segments: unsigned("segments", self.segments)?,
            files: unsigned("files", self.files)?,
            rows: unsigned("row_count", self.row_count)?,
            bytes: unsigned("size_bytes", self.size_bytes)?,
            blocks: bounds.map(|(start, end)| range(start, end)).transpose()?,
        })
    }
}

/// A location with all that it belongs to.
#[derive(Debug, FromRow)]
pub(crate) struct LocationRecordRow {
    #[sqlx(flatten)]
    dataset: DatasetRow,
    #[sqlx(flatten)]
    location: LocationRow,
    state: String,
}

impl LocationRecordRow {
    pub(crate) fn read(self) -> Read<LocationRecord> {
        Ok(LocationRecord {
            dataset: self.dataset.read()?,
            revision: RevisionId(self.location.revision_id),
            state: read_state(&self.state)?,
            location: self.location.read()?,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct CoverageRow {
    revision_id: Uuid,
    table_name: String,
    location_id: i64,
    #[sqlx(flatten)]
    totals: TotalsRow,
    linked_until: Option<i64>,
    changed_seq: i64,
}

impl CoverageRow {
    pub(crate) fn read(self) -> Read<Coverage> {
        Ok(Coverage {
            revision: RevisionId(self.revision_id),
            table: parse("table_name", &self.table_name)?,
            location: LocationId(self.location_id),
            totals: self.totals.read()?,
            linked_until: self.linked_until.map(|end| unsigned("linked_until", end)).transpose()?,
            changed: CommitSeq(self.changed_seq),
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct FooterRow {
    segment_id: i64,
    footer: Vec<u8>,
}

impl FooterRow {
    pub(crate) fn read(self) -> Read<(SegmentId, Bytes)> {
        Ok((SegmentId(self.segment_id), Bytes::from(self.footer)))
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct SourcesRow {
    segment_id: i64,
    sources: String,
}

impl SourcesRow {
    pub(crate) fn read(self) -> Read<(SegmentId, SourceRevisions)> {
        Ok((SegmentId(self.segment_id), source_revisions(&self.sources)?))
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct SourceBoundsRow {
    least: Option<String>,
    greatest: Option<String>,
}

impl SourceBoundsRow {
    pub(crate) fn read(self) -> Read<Option<[SourceRevisions; 2]>> {
        let Some((least, greatest)) = self.least.zip(self.greatest) else { return Ok(None) };
        Ok(Some([source_revisions(&least)?, source_revisions(&greatest)?]))
    }
}

fn source_revisions(text: &str) -> Read<SourceRevisions> {
    parse("sources", text)
}

/// A segment as a commit looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) id: SegmentId,
    pub(crate) location: LocationId,
    pub(crate) span: Span,
    pub(crate) is_live: bool,
}

#[derive(Debug, FromRow)]
pub(crate) struct StoredRow {
    segment_id: i64,
    location_id: i64,
    #[sqlx(flatten)]
    span: SpanRow,
    replaced_seq: Option<i64>,
}

impl StoredRow {
    pub(crate) fn read(self) -> Read<Stored> {
        Ok(Stored {
            id: SegmentId(self.segment_id),
            location: LocationId(self.location_id),
            span: self.span.read()?,
            is_live: self.replaced_seq.is_none(),
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct LeaseRow {
    lease_id: i64,
    revision_id: Uuid,
    start_block: i64,
    end_block: i64,
    yields: bool,
    holder: String,
    silent_seconds: f64,
}

impl LeaseRow {
    pub(crate) fn read(self) -> Read<HeldLease> {
        let lease = Lease {
            id: LeaseId(self.lease_id),
            revision: RevisionId(self.revision_id),
            range: range(self.start_block, self.end_block)?,
            yields: self.yields,
        };
        // A clock that was set back gives a negative time.
        let silent_for = std::time::Duration::try_from_secs_f64(self.silent_seconds).unwrap_or_default();
        Ok(HeldLease { lease, holder: self.holder, silent_for })
    }
}

/// A lease with one of the tables of its revision.
#[derive(Debug, FromRow)]
pub(crate) struct HeldTableRow {
    lease_id: i64,
    start_block: i64,
    end_block: i64,
    yields: bool,
    #[sqlx(flatten)]
    table: LocationRow,
}

impl HeldTableRow {
    /// The lease and its tables; `None` where there are no rows.
    pub(crate) fn read_all(rows: Vec<Self>) -> Read<Option<(Lease, Vec<Location>)>> {
        let Some(first) = rows.first() else { return Ok(None) };
        let lease = Lease {
            id: LeaseId(first.lease_id),
            revision: RevisionId(first.table.revision_id),
            range: range(first.start_block, first.end_block)?,
            yields: first.yields,
        };
        Ok(Some((lease, read_all(rows, |row| row.table.read())?)))
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct ObjectRow {
    lease_id: i64,
    #[sqlx(flatten)]
    location: LocationRow,
    object_name: String,
    upload: Option<String>,
    ended_seconds: Option<f64>,
}

impl ObjectRow {
    pub(crate) fn read(self) -> Read<RecordedObject> {
        Ok(RecordedObject {
            lease: LeaseId(self.lease_id),
            location: self.location.read()?,
            name: self.object_name,
            upload: self.upload,
            ended_for: self.ended_seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0))),
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct FinalityRow {
    head_number: i64,
    head_hash: Vec<u8>,
    finalized_number: Option<i64>,
    finalized_hash: Option<Vec<u8>>,
}

impl FinalityRow {
    pub(crate) fn read(self) -> Read<Finality> {
        let block = |number: i64, bytes: &[u8]| -> Read<BlockId> {
            Ok(BlockId { number: unsigned("number", number)?, hash: hash(bytes)? })
        };
        let finalized = self.finalized_number.zip(self.finalized_hash);
        Ok(Finality {
            head: block(self.head_number, &self.head_hash)?,
            finalized: finalized.map(|(number, hash)| block(number, &hash)).transpose()?,
        })
    }
}

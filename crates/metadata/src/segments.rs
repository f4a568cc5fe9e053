//! Reading segments, for both databases: each compiles this file as a module of its own, as `jobs`.

use bytes::Bytes;
use nozzle_core::{BlockId, BlockRange, RevisionId, SourceCursor, SourceRevisions, Span};

use super::dialect::{Connection, ids, uuids};
use crate::{
    fault::Fault,
    model::*,
    rows::{
        CoverageRow, FileRow, FooterRow, LocationRecordRow, PlacedRow, ScannedRow, SegmentRow,
        SourceBoundsRow, SourcesRow, SpanRow, TotalsRow, read_all,
    },
    sql::{self, id_list},
    validate::bounds,
};

/// Binds a scan's parameters to a statement.
macro_rules! bind_scan {
    ($query:expr, $scan:expr) => {{
        let (start, end) = bounds($scan.range);
        $query.bind($scan.location.0).bind(start).bind(end).bind($scan.sequence.0)
    }};
}

pub(super) async fn list(connection: &mut Connection, scan: &Scan) -> Result<Vec<Segment>, Fault> {
    let rows: Vec<ScannedRow> =
        bind_scan!(sqlx::query_as(sql::SEGMENTS), scan).fetch_all(&mut *connection).await?;
    let collected = match rows.first() {
        Some(row) => Some(row.collected_seq),
        None => {
            let statement = sqlx::query_scalar(sql::COLLECTED).bind(scan.location.0);
            statement.fetch_optional(connection).await?
        }
    };
    if collected.is_some_and(|collected| scan.sequence.0 < collected) {
        return Err(Fault::Expired);
    }
    read_all(rows, ScannedRow::read)
}

pub(super) async fn spans(connection: &mut Connection, scan: &Scan) -> Result<Vec<Span>, Fault> {
    let rows: Vec<SpanRow> = bind_scan!(sqlx::query_as(sql::SPANS), scan).fetch_all(connection).await?;
    read_all(rows, SpanRow::read)
}

pub(super) async fn totals(connection: &mut Connection, scan: &Scan) -> Result<LocationTotals, Fault> {
    let row: TotalsRow = bind_scan!(sqlx::query_as(sql::TOTALS), scan).fetch_one(connection).await?;
    row.read()
}

pub(super) async fn coverage(
    connection: &mut Connection,
    revisions: &[RevisionId],
) -> Result<Vec<Coverage>, Fault> {
    let statement = sql::stored_at!(uuids!("$1"));
    let ids: Vec<_> = revisions.iter().map(|id| format!("\"{id}\"")).collect();
    let ids = format!("[{}]", ids.join(","));
    let rows: Vec<CoverageRow> = sqlx::query_as(statement).bind(ids).fetch_all(connection).await?;
    read_all(rows, CoverageRow::read)
}

pub(super) async fn live_files(
    connection: &mut Connection,
    locations: &[LocationId],
    after: Option<SegmentId>,
    limit: u32,
) -> Result<Vec<(LocationId, Segment)>, Fault> {
    let statement = sql::live_files!(ids!("$1"));
    let rows: Vec<PlacedRow> = sqlx::query_as(statement)
        .bind(id_list(locations.iter().map(|id| id.0)))
        .bind(after.map(|id| id.0))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    read_all(rows, PlacedRow::read)
}

pub(super) async fn locations(
    connection: &mut Connection,
    after: Option<LocationId>,
    only: Option<LocationId>,
    limit: u32,
) -> Result<Vec<LocationRecord>, Fault> {
    let rows: Vec<LocationRecordRow> = sqlx::query_as(sql::LOCATION_RECORDS)
        .bind(after.map(|id| id.0))
        .bind(only.map(|id| id.0))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    read_all(rows, LocationRecordRow::read)
}

pub(super) async fn footers(
    connection: &mut Connection,
    segments: &[SegmentId],
) -> Result<Vec<(SegmentId, Bytes)>, Fault> {
    let statement = concat!("SELECT segment_id, footer FROM footers WHERE segment_id IN ", ids!("$1"));
    let ids = id_list(segments.iter().map(|id| id.0));
    let rows: Vec<FooterRow> = sqlx::query_as(statement).bind(ids).fetch_all(connection).await?;
    read_all(rows, FooterRow::read)
}

pub(super) async fn sources(
    connection: &mut Connection,
    segments: &[SegmentId],
) -> Result<Vec<(SegmentId, SourceRevisions)>, Fault> {
    let statement =
        concat!("SELECT segment_id, sources FROM segment_sources WHERE segment_id IN ", ids!("$1"));
    let ids = id_list(segments.iter().map(|id| id.0));
    let rows: Vec<SourcesRow> = sqlx::query_as(statement).bind(ids).fetch_all(connection).await?;
    read_all(rows, SourcesRow::read)
}

pub(super) async fn source_bounds(
    connection: &mut Connection,
    location: LocationId,
) -> Result<Option<[SourceRevisions; 2]>, Fault> {
    let row: SourceBoundsRow =
        sqlx::query_as(sql::SOURCE_BOUNDS).bind(location.0).fetch_one(connection).await?;
    row.read()
}

pub(super) async fn stale(
    connection: &mut Connection,
    location: LocationId,
    sources: &SourceRevisions,
    begins_in: BlockRange,
    limit: u32,
) -> Result<Vec<Segment>, Fault> {
    let (first, last) = bounds(begins_in);
    let rows: Vec<SegmentRow> = sqlx::query_as(sql::STALE)
        .bind(location.0)
        .bind(sources.to_string())
        .bind(first)
        .bind(last)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    read_all(rows, SegmentRow::read)
}

pub(super) async fn confirm_sources(
    tx: &mut Connection,
    segments: &[SegmentId],
    sources: &SourceRevisions,
) -> Result<(), Fault> {
    let statement = concat!("UPDATE segment_sources SET sources = $2 WHERE segment_id IN ", ids!("$1"));
    let ids = id_list(segments.iter().map(|id| id.0));
    sqlx::query(statement).bind(ids).bind(sources.to_string()).execute(tx).await?;
    Ok(())
}

pub(super) async fn cursor(
    connection: &mut Connection,
    location: LocationId,
    block: BlockId,
) -> Result<Option<SourceCursor>, Fault> {
    let found: Option<Option<String>> = sqlx::query_scalar(sql::CURSOR)
        .bind(location.0)
        .bind(bounds(BlockRange::single(block.number)).0)
        .bind(block.hash.as_slice())
        .fetch_optional(connection)
        .await?;
    Ok(found.flatten().and_then(SourceCursor::new))
}

pub(super) async fn file(connection: &mut Connection, id: SegmentId) -> Result<Option<FileRecord>, Fault> {
    let row: Option<FileRow> = sqlx::query_as(sql::FILE).bind(id.0).fetch_optional(connection).await?;
    row.map(FileRow::read).transpose()
}

//! Reading segments.

use bytes::Bytes;
use nozzle_core::Span;
use sqlx::SqliteConnection;

use crate::{
    fault::Fault,
    model::*,
    rows::{FileRow, FooterRow, SegmentRow, SpanRow, TotalsRow, read_all},
    sql,
    validate::bounds,
};

/// Binds a scan's parameters to a statement.
macro_rules! bind_scan {
    ($query:expr, $scan:expr) => {{
        let (start, end) = bounds($scan.range);
        $query.bind($scan.location.0).bind(start).bind(end).bind($scan.sequence.0)
    }};
}

pub(super) async fn list(connection: &mut SqliteConnection, scan: &Scan) -> Result<Vec<Segment>, Fault> {
    let rows: Vec<SegmentRow> = bind_scan!(sqlx::query_as(sql::SEGMENTS), scan).fetch_all(connection).await?;
    read_all(rows, SegmentRow::read)
}

pub(super) async fn spans(connection: &mut SqliteConnection, scan: &Scan) -> Result<Vec<Span>, Fault> {
    let rows: Vec<SpanRow> = bind_scan!(sqlx::query_as(sql::SPANS), scan).fetch_all(connection).await?;
    read_all(rows, SpanRow::read)
}

pub(super) async fn totals(connection: &mut SqliteConnection, scan: &Scan) -> Result<LocationTotals, Fault> {
    let row: TotalsRow = bind_scan!(sqlx::query_as(sql::TOTALS), scan).fetch_one(connection).await?;
    row.read()
}

pub(super) async fn footers(
    connection: &mut SqliteConnection,
    segments: &[SegmentId],
) -> Result<Vec<(SegmentId, Bytes)>, Fault> {
    let rows: Vec<FooterRow> = sqlx::query_as(
        "SELECT segment_id, footer FROM footers WHERE segment_id IN (SELECT value FROM json_each($1))",
    )
    .bind(id_list(segments.iter().map(|id| id.0)))
    .fetch_all(connection)
    .await?;
    read_all(rows, FooterRow::read)
}

pub(super) async fn file(
    connection: &mut SqliteConnection,
    id: SegmentId,
) -> Result<Option<FileRecord>, Fault> {
    let row: Option<FileRow> = sqlx::query_as(sql::FILE).bind(id.0).fetch_optional(connection).await?;
    row.map(FileRow::read).transpose()
}

/// Ids as one parameter: a JSON array, which `json_each` takes apart.
pub(super) fn id_list(ids: impl Iterator<Item = i64>) -> String {
    let ids: Vec<_> = ids.map(|id| id.to_string()).collect();
    format!("[{}]", ids.join(","))
}

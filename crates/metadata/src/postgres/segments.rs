//! Reading segments.

use bytes::Bytes;
use nozzle_core::Span;
use sqlx::PgConnection;

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

pub(super) async fn list(connection: &mut PgConnection, scan: &Scan) -> Result<Vec<Segment>, Fault> {
    let rows: Vec<SegmentRow> = bind_scan!(sqlx::query_as(sql::SEGMENTS), scan).fetch_all(connection).await?;
    read_all(rows, SegmentRow::read)
}

pub(super) async fn spans(connection: &mut PgConnection, scan: &Scan) -> Result<Vec<Span>, Fault> {
    let rows: Vec<SpanRow> = bind_scan!(sqlx::query_as(sql::SPANS), scan).fetch_all(connection).await?;
    read_all(rows, SpanRow::read)
}

pub(super) async fn totals(connection: &mut PgConnection, scan: &Scan) -> Result<LocationTotals, Fault> {
    let row: TotalsRow = bind_scan!(sqlx::query_as(sql::TOTALS), scan).fetch_one(connection).await?;
    row.read()
}

pub(super) async fn footers(
    connection: &mut PgConnection,
    segments: &[SegmentId],
) -> Result<Vec<(SegmentId, Bytes)>, Fault> {
    let rows: Vec<FooterRow> =
        sqlx::query_as("SELECT segment_id, footer FROM footers WHERE segment_id = ANY($1)")
            .bind(segments.iter().map(|id| id.0).collect::<Vec<_>>())
            .fetch_all(connection)
            .await?;
    read_all(rows, FooterRow::read)
}

pub(super) async fn file(connection: &mut PgConnection, id: SegmentId) -> Result<Option<FileRecord>, Fault> {
    let row: Option<FileRow> = sqlx::query_as(sql::FILE).bind(id.0).fetch_optional(connection).await?;
    row.map(FileRow::read).transpose()
}

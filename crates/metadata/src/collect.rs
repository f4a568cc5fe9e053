//! Collecting what nobody can need any more, for both databases, as `jobs` is.
//!
//! Rows go first, and the names of their objects are kept until those are gone from the store: whoever
//! dies in between has lost nothing, and the next collector goes on.

use std::{collections::BTreeMap, time::Duration};

use super::dialect::{Connection, ago, ids, texts};
use crate::{
    fault::Fault,
    model::*,
    rows::{CollectableRow, DoomedRow, DueRow, read_all},
    sql::{collect as text, id_list},
};

/// The segments that were replaced, or whose revision was retired, `$1` seconds ago or longer.
macro_rules! due {
    ($columns:expr) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM segments s JOIN locations l ON l.id = s.location_id
              WHERE s.replaced_at <= ",
            ago!("$1"),
            " UNION SELECT ",
            $columns,
            " FROM revisions r JOIN locations l ON l.revision_id = r.id JOIN segments s ON s.location_id = l.id
              WHERE r.state = 'retired' AND r.retired_at <= ",
            ago!("$1")
        )
    };
}

/// Takes up to `limit` segments out, and says how many there were.
pub(super) async fn collect(tx: &mut Connection, grace: Duration, limit: u32) -> Result<u64, Fault> {
    let statement = concat!(
        "SELECT due.id AS segment_id, due.location_id,
                COALESCE(due.replaced_seq, r.retired_seq) AS until_seq
         FROM (",
        due!("s.id, s.location_id, s.replaced_seq, l.revision_id"),
        " LIMIT $2) due JOIN revisions r ON r.id = due.revision_id"
    );
    let due: Vec<DueRow> = sqlx::query_as(statement)
        .bind(grace.as_secs_f64())
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
    let segments = id_list(due.iter().map(|row| row.segment_id));
    let mut until: BTreeMap<i64, i64> = BTreeMap::new();
    for row in &due {
        let known = until.entry(row.location_id).or_default();
        *known = (*known).max(row.until_seq.unwrap_or_default());
    }
    for (location, sequence) in until {
        sqlx::query(text::RAISE_COLLECTED).bind(location).bind(sequence).execute(&mut *tx).await?;
    }
    let doom = concat!(
        "INSERT INTO doomed_objects (location_id, name)
         SELECT location_id, file_name FROM segments WHERE file_name IS NOT NULL AND id IN ",
        ids!("$1"),
        " ON CONFLICT DO NOTHING"
    );
    sqlx::query(doom).bind(&segments).execute(&mut *tx).await?;
    let delete = concat!("DELETE FROM segments WHERE id IN ", ids!("$1"));
    let deleted = sqlx::query(delete).bind(&segments).execute(&mut *tx).await?;
    Ok(deleted.rows_affected())
}

/// Forgets up to `limit` leases that ended so long ago, but for those of objects that wait for deletion.
pub(super) async fn forget_leases(tx: &mut Connection, grace: Duration, limit: u32) -> Result<u64, Fault> {
    let statement = concat!(
        "DELETE FROM leases WHERE id IN (
             SELECT e.id FROM leases e
             WHERE e.ended_at <= ",
        ago!("$1"),
        " AND NOT EXISTS (SELECT 1 FROM recorded_objects o WHERE o.lease_id = e.id)
             ORDER BY e.ended_at LIMIT $2)"
    );
    let deleted = sqlx::query(statement).bind(grace.as_secs_f64()).bind(i64::from(limit)).execute(tx).await?;
    Ok(deleted.rows_affected())
}

/// What [`collect`] would take out now.
pub(super) async fn collectable(connection: &mut Connection, grace: Duration) -> Result<Collectable, Fault> {
    let statement = concat!(
        "SELECT COUNT(*) AS segments, COUNT(size_bytes) AS files,
                CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) AS bytes
         FROM (",
        due!("s.id, s.size_bytes"),
        ") due"
    );
    let row: CollectableRow =
        sqlx::query_as(statement).bind(grace.as_secs_f64()).fetch_one(connection).await?;
    row.read()
}

pub(super) async fn doomed(
    connection: &mut Connection,
    after: Option<&(LocationId, String)>,
    limit: u32,
) -> Result<Vec<(Location, String)>, Fault> {
    let (location, name) = after.map_or((0, ""), |(location, name)| (location.0, name));
    let rows: Vec<DoomedRow> = sqlx::query_as(text::DOOMED)
        .bind(location)
        .bind(name)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    read_all(rows, DoomedRow::read)
}

pub(super) async fn named(connection: &mut Connection, location: LocationId) -> Result<Vec<String>, Fault> {
    Ok(sqlx::query_scalar(text::NAMED).bind(location.0).fetch_all(connection).await?)
}

pub(super) async fn forget_doomed(
    tx: &mut Connection,
    location: LocationId,
    names: &[String],
) -> Result<(), Fault> {
    let statement = concat!("DELETE FROM doomed_objects WHERE location_id = $1 AND name IN ", texts!("$2"));
    let names = serde_json::Value::from(names.to_vec()).to_string();
    sqlx::query(statement).bind(location.0).bind(names).execute(tx).await?;
    Ok(())
}

//! Making written segments visible.

use nozzle_core::SourceCursor;
use sqlx::SqliteConnection;

use super::{leases, now, revisions};
use crate::{
    error::CommitError,
    fault::{CommitFault, Fault},
    model::*,
    rows::{Stored, StoredRow, read_all},
    sql::id_list,
    validate::{self, bounds},
};

/// The live segments of all locations of the revision `$1` that share a block with `$2..=$3`.
pub(crate) const LIVE: &str = "
    SELECT s.id AS segment_id, s.location_id, s.start_block, s.end_block, s.prev_hash, s.hash, s.replaced_seq
    FROM locations l
    JOIN segments s ON s.location_id = l.id
    WHERE l.revision_id = $1 AND s.replaced_seq IS NULL
      AND s.start_block <= $3 AND s.end_block >= $2
      AND s.start_block >= COALESCE(
          (SELECT b.start_block FROM segments b
           WHERE b.location_id = l.id AND b.replaced_seq IS NULL AND b.start_block <= $2
           ORDER BY b.start_block DESC LIMIT 1), $2)";

pub(super) async fn commit(tx: &mut SqliteConnection, commit: &Commit) -> Result<CommitSeq, CommitFault> {
    let Some(lease) = leases::unended_one(tx, commit.lease).await? else {
        return Err(CommitError::LeaseLost(commit.lease).into());
    };
    let tables = revisions::locations(tx, lease.revision).await?;
    validate::check_form(commit, lease.range, &tables)?;
    let replaced = replaced(tx, commit).await?;
    validate::check_replaced(commit, lease.range, &tables, &replaced)?;
    if lease.yields {
        validate::check_merge(commit, &replaced)?;
    }
    validate::check_neighbours(commit, &tables, &live(tx, &lease, commit).await?)?;

    let sequence = revisions::next_sequence(tx).await?;
    // What is replaced goes first: what is added may begin at the same block.
    replace(tx, commit, sequence).await?;
    for segment in &commit.added {
        add(tx, segment, sequence).await?;
    }
    sqlx::query("UPDATE revisions SET changed_seq = $2 WHERE id = $1")
        .bind(lease.revision.0)
        .bind(sequence.0)
        .execute(&mut *tx)
        .await?;
    leases::renew(tx, &[lease.id]).await?;
    Ok(sequence)
}

async fn replaced(tx: &mut SqliteConnection, commit: &Commit) -> Result<Vec<Stored>, Fault> {
    let rows: Vec<StoredRow> = sqlx::query_as(
        "SELECT id AS segment_id, location_id, start_block, end_block, prev_hash, hash, replaced_seq
         FROM segments WHERE id IN (SELECT value FROM json_each($1))",
    )
    .bind(id_list(commit.replaced.iter().map(|id| id.0)))
    .fetch_all(tx)
    .await?;
    read_all(rows, StoredRow::read)
}

/// The live segments in and beside the blocks that are added.
async fn live(tx: &mut SqliteConnection, lease: &Lease, commit: &Commit) -> Result<Vec<Stored>, Fault> {
    let mut found = vec![];
    for range in validate::looked_at(commit) {
        let (start, end) = bounds(range);
        let rows: Vec<StoredRow> =
            sqlx::query_as(LIVE).bind(lease.revision.0).bind(start).bind(end).fetch_all(&mut *tx).await?;
        found.extend(read_all(rows, StoredRow::read)?);
    }
    Ok(found)
}

async fn replace(tx: &mut SqliteConnection, commit: &Commit, sequence: CommitSeq) -> Result<(), Fault> {
    let statement = concat!(
        "UPDATE segments SET replaced_seq = $2, replaced_at = ",
        now!(),
        " WHERE id IN (SELECT value FROM json_each($1))"
    );
    sqlx::query(statement)
        .bind(id_list(commit.replaced.iter().map(|id| id.0)))
        .bind(sequence.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM segment_sources WHERE segment_id IN (SELECT value FROM json_each($1))")
        .bind(id_list(commit.replaced.iter().map(|id| id.0)))
        .execute(tx)
        .await?;
    Ok(())
}

async fn add(tx: &mut SqliteConnection, segment: &NewSegment, sequence: CommitSeq) -> Result<(), Fault> {
    let (start, end) = bounds(segment.span.range);
    let file = segment.file.as_ref().map(|new| &new.file);
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO segments (location_id, start_block, end_block, prev_hash, hash,
                               file_name, size_bytes, row_count, e_tag, object_version, added_seq,
                               source_cursor)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING id",
    )
    .bind(segment.location.0)
    .bind(start)
    .bind(end)
    .bind(segment.span.prev_hash.as_slice())
    .bind(segment.span.hash.as_slice())
    .bind(file.map(|file| file.name.as_str()))
    .bind(file.map(|file| file.size_bytes as i64))
    .bind(file.map(|file| file.rows as i64))
    .bind(file.and_then(|file| file.e_tag.as_deref()))
    .bind(file.and_then(|file| file.version.as_deref()))
    .bind(sequence.0)
    .bind(segment.cursor.as_ref().map(SourceCursor::as_str))
    .fetch_one(&mut *tx)
    .await?;
    if let Some(sources) = &segment.sources {
        sqlx::query("INSERT INTO segment_sources (segment_id, location_id, sources) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(segment.location.0)
            .bind(sources.to_string())
            .execute(&mut *tx)
            .await?;
    }
    let Some(new) = &segment.file else { return Ok(()) };
    sqlx::query("INSERT INTO footers (segment_id, footer) VALUES ($1, $2)")
        .bind(id)
        .bind(&new.footer[..])
        .execute(&mut *tx)
        .await?;
    leases::forget_object(tx, segment.location, &new.file.name).await
}

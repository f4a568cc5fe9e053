//! Making written segments visible.
//!
//! The revision and then the lease are locked while the commit is looked at; the commit counter,
//! for which commits of all revisions wait, only while it is written.

use sqlx::PgConnection;

use super::{leases, revisions};
use crate::{
    error::CommitError,
    fault::{CommitFault, Fault},
    model::*,
    rows::{Stored, StoredRow, read_all},
    validate::{self, bounds},
};

/// The live segments of all locations of the revision `$1` that share a block with one of the
/// ranges `$2..=$3`. `OFFSET 0` has the planner go by each location and range: as a plain join it
/// expects half of a location below a block and half above another, and reads all of it.
pub(crate) const LIVE: &str = "
    SELECT live.*
    FROM locations l
    CROSS JOIN UNNEST($2::bigint[], $3::bigint[]) AS looked_at (first, last)
    CROSS JOIN LATERAL (
        SELECT s.id AS segment_id, s.location_id, s.start_block, s.end_block, s.prev_hash, s.hash, s.replaced_seq
        FROM segments s
        WHERE s.location_id = l.id AND s.replaced_seq IS NULL
          AND s.start_block <= looked_at.last AND s.end_block >= looked_at.first
          AND s.start_block >= COALESCE(
              (SELECT b.start_block FROM segments b
               WHERE b.location_id = l.id AND b.replaced_seq IS NULL AND b.start_block <= looked_at.first
               ORDER BY b.start_block DESC LIMIT 1), looked_at.first)
        OFFSET 0) AS live
    WHERE l.revision_id = $1";

pub(super) async fn commit(tx: &mut PgConnection, commit: &Commit) -> Result<CommitSeq, CommitFault> {
    let Some(lease) = leases::lock_with_revision(tx, commit.lease).await? else {
        return Err(CommitError::LeaseLost(commit.lease).into());
    };
    let tables = revisions::locations(tx, lease.revision).await?;
    validate::check_form(commit, lease.range, &tables)?;
    validate::check_replaced(commit, lease.range, &tables, &replaced(tx, commit).await?)?;
    validate::check_neighbours(commit, &tables, &live(tx, &lease, commit).await?)?;
    leases::renew(tx, &[lease.id]).await?;

    let sequence = revisions::next_sequence(tx).await?;
    // What is replaced goes first: what is added may begin at the same block.
    replace(tx, commit, sequence).await?;
    if !commit.added.is_empty() {
        add(tx, &commit.added, sequence).await?;
        add_files(tx, &commit.added).await?;
    }
    Ok(sequence)
}

async fn replaced(tx: &mut PgConnection, commit: &Commit) -> Result<Vec<Stored>, Fault> {
    if commit.replaced.is_empty() {
        return Ok(vec![]);
    }
    let rows: Vec<StoredRow> = sqlx::query_as(
        "SELECT id AS segment_id, location_id, start_block, end_block, prev_hash, hash, replaced_seq
         FROM segments WHERE id = ANY($1)",
    )
    .bind(replaced_ids(commit))
    .fetch_all(tx)
    .await?;
    read_all(rows, StoredRow::read)
}

fn replaced_ids(commit: &Commit) -> Vec<i64> {
    commit.replaced.iter().map(|id| id.0).collect()
}

/// The live segments in and beside the blocks that are added.
async fn live(tx: &mut PgConnection, lease: &Lease, commit: &Commit) -> Result<Vec<Stored>, Fault> {
    let ranges = validate::looked_at(commit);
    if ranges.is_empty() {
        return Ok(vec![]);
    }
    let rows: Vec<StoredRow> = sqlx::query_as(LIVE)
        .bind(lease.revision.0)
        .bind(column(ranges.iter().map(|range| bounds(*range).0)))
        .bind(column(ranges.iter().map(|range| bounds(*range).1)))
        .fetch_all(tx)
        .await?;
    read_all(rows, StoredRow::read)
}

async fn replace(tx: &mut PgConnection, commit: &Commit, sequence: CommitSeq) -> Result<(), Fault> {
    if commit.replaced.is_empty() {
        return Ok(());
    }
    sqlx::query("UPDATE segments SET replaced_seq = $2 WHERE id = ANY($1)")
        .bind(replaced_ids(commit))
        .bind(sequence.0)
        .execute(tx)
        .await?;
    Ok(())
}

/// One statement for all segments, a parameter for each column.
async fn add(tx: &mut PgConnection, added: &[NewSegment], sequence: CommitSeq) -> Result<(), Fault> {
    let ranges = || added.iter().map(|segment| bounds(segment.span.range));
    let files = || added.iter().map(|segment| segment.file.as_ref().map(|new| &new.file));
    let statement = "
        INSERT INTO segments (location_id, start_block, end_block, prev_hash, hash,
                              file_name, size_bytes, row_count, e_tag, object_version, added_seq)
        SELECT new.*, $11 FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[],
                                      $6::text[], $7::bigint[], $8::bigint[], $9::text[], $10::text[]) AS new";
    sqlx::query(statement)
        .bind(column(added.iter().map(|segment| segment.location.0)))
        .bind(column(ranges().map(|(start, _)| start)))
        .bind(column(ranges().map(|(_, end)| end)))
        .bind(column(added.iter().map(|segment| segment.span.prev_hash.as_slice())))
        .bind(column(added.iter().map(|segment| segment.span.hash.as_slice())))
        .bind(column(files().map(|file| file.map(|file| file.name.as_str()))))
        .bind(column(files().map(|file| file.map(|file| file.size_bytes as i64))))
        .bind(column(files().map(|file| file.map(|file| file.rows as i64))))
        .bind(column(files().map(|file| file.and_then(|file| file.e_tag.as_deref()))))
        .bind(column(files().map(|file| file.and_then(|file| file.version.as_deref()))))
        .bind(sequence.0)
        .execute(tx)
        .await?;
    Ok(())
}

/// The footers of the segments just added, found again as the live ones that begin where they do;
/// their objects are no longer recorded as not taken up.
async fn add_files(tx: &mut PgConnection, added: &[NewSegment]) -> Result<(), Fault> {
    let files = || added.iter().filter_map(|segment| Some((segment, segment.file.as_ref()?)));
    if files().next().is_none() {
        return Ok(());
    }
    let locations = column(files().map(|(segment, _)| segment.location.0));
    sqlx::query(
        "INSERT INTO footers (segment_id, footer)
         SELECT s.id, new.footer
         FROM UNNEST($1::bigint[], $2::bigint[], $3::bytea[]) AS new (location_id, start_block, footer)
         JOIN segments s ON s.location_id = new.location_id AND s.start_block = new.start_block
                        AND s.replaced_seq IS NULL",
    )
    .bind(&locations)
    .bind(column(files().map(|(segment, _)| bounds(segment.span.range).0)))
    .bind(column(files().map(|(_, new)| &new.footer[..])))
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "DELETE FROM recorded_objects
         WHERE (location_id, name) IN (SELECT * FROM UNNEST($1::bigint[], $2::text[]))",
    )
    .bind(&locations)
    .bind(column(files().map(|(_, new)| new.file.name.as_str())))
    .execute(tx)
    .await?;
    Ok(())
}

fn column<T>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.collect()
}

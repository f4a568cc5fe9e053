//! Making written segments visible.
//!
//! The revision and then the lease are locked while the commit is looked at; the commit counter,
//! for which commits of all revisions wait, only while it is written. The database may be far away: each
//! of the three is one statement.

use std::collections::HashSet;

use nozzle_core::SourceCursor;
use sqlx::PgConnection;

use super::{leases, now};
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
macro_rules! live {
    () => {
        "
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
    WHERE l.revision_id = $1"
    };
}
#[cfg(test)]
pub(crate) const LIVE: &str = live!();

/// With the replaced segments `$4`, live or not.
macro_rules! looked_at {
    ($live:expr) => {
        concat!(
            $live,
            " UNION SELECT id, location_id, start_block, end_block, prev_hash, hash, replaced_seq
                FROM segments WHERE id = ANY($4)"
        )
    };
}

pub(super) async fn commit(tx: &mut PgConnection, commit: &Commit) -> Result<CommitSeq, CommitFault> {
    let Some((lease, tables)) = leases::lock_with_tables(tx, commit.lease).await? else {
        return Err(CommitError::LeaseLost(commit.lease).into());
    };
    validate::check_form(commit, lease.range, &tables)?;
    let found = look(tx, &lease, commit).await?;
    let to_replace: HashSet<_> = commit.replaced.iter().collect();
    let (replaced, beside): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|stored| to_replace.contains(&stored.id));
    validate::check_replaced(commit, lease.range, &tables, &replaced)?;
    if lease.yields {
        validate::check_merge(commit, &replaced)?;
    }
    validate::check_neighbours(commit, &tables, &beside)?;
    Ok(write_down(tx, commit).await?)
}

/// The segments that the commit replaces, and the live ones in and beside the blocks that it adds.
async fn look(tx: &mut PgConnection, lease: &Lease, commit: &Commit) -> Result<Vec<Stored>, Fault> {
    let ranges = validate::looked_at(commit);
    let rows: Vec<StoredRow> = sqlx::query_as(looked_at!(live!()))
        .bind(lease.revision.0)
        .bind(column(ranges.iter().map(|range| bounds(*range).0)))
        .bind(column(ranges.iter().map(|range| bounds(*range).1)))
        .bind(column(commit.replaced.iter().map(|id| id.0)))
        .fetch_all(tx)
        .await?;
    read_all(rows, StoredRow::read)
}

/// Takes the next sequence number and writes all of the commit under it. Whoever wants a number waits for
/// this one until the transaction has ended. What is replaced goes first, as what is added may begin at
/// the same block: the insertion asks for the number of rows that were replaced. Objects that are taken up
/// are no longer recorded as left.
const WRITE_DOWN: &str = concat!(
    "WITH counter AS (UPDATE commit_counter SET sequence = sequence + 1 RETURNING sequence),
          renewed AS (UPDATE leases SET heartbeat_at = ",
    now!(),
    " WHERE id = $1),
          changed AS (UPDATE revisions SET changed_seq = (SELECT sequence FROM counter)
                      WHERE id = (SELECT revision_id FROM leases WHERE id = $1)),
          replaced AS (UPDATE segments SET replaced_seq = (SELECT sequence FROM counter), replaced_at = ",
    now!(),
    "
                       WHERE id = ANY($2) RETURNING id),
          new AS (SELECT * FROM UNNEST($3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[], $8::text[],
                                       $9::bigint[], $10::bigint[], $11::text[], $12::text[], $13::bytea[],
                                       $14::text[], $15::text[])
                  AS new (location_id, start_block, end_block, prev_hash, hash, file_name,
                          size_bytes, row_count, e_tag, object_version, footer, sources, source_cursor)),
          unsourced AS (DELETE FROM segment_sources WHERE segment_id = ANY($2)),
          added AS (INSERT INTO segments (location_id, start_block, end_block, prev_hash, hash, file_name,
                                          size_bytes, row_count, e_tag, object_version, added_seq,
                                          source_cursor)
                    SELECT location_id, start_block, end_block, prev_hash, hash, file_name,
                           size_bytes, row_count, e_tag, object_version, (SELECT sequence FROM counter),
                           source_cursor
                    FROM new WHERE (SELECT COUNT(*) FROM replaced) >= 0
                    RETURNING id, location_id, start_block),
          footed AS (INSERT INTO footers (segment_id, footer)
                     SELECT added.id, new.footer FROM added JOIN new USING (location_id, start_block)
                     WHERE new.footer IS NOT NULL),
          sourced AS (INSERT INTO segment_sources (segment_id, location_id, sources)
                      SELECT added.id, added.location_id, new.sources
                      FROM added JOIN new USING (location_id, start_block) WHERE new.sources IS NOT NULL),
          taken_up AS (DELETE FROM recorded_objects WHERE (location_id, name) IN (SELECT location_id, file_name FROM new))
     SELECT sequence FROM (SELECT sequence, pg_notify('nozzle_commits', sequence::text) FROM counter) told"
);

async fn write_down(tx: &mut PgConnection, commit: &Commit) -> Result<CommitSeq, Fault> {
    let added = || commit.added.iter();
    let ranges = || added().map(|segment| bounds(segment.span.range));
    let new = || added().map(|segment| segment.file.as_ref());
    let files = || new().map(|new| new.map(|new| &new.file));
    let sequence: i64 = sqlx::query_scalar(WRITE_DOWN)
        .bind(commit.lease.0)
        .bind(column(commit.replaced.iter().map(|id| id.0)))
        .bind(column(added().map(|segment| segment.location.0)))
        .bind(column(ranges().map(|(start, _)| start)))
        .bind(column(ranges().map(|(_, end)| end)))
        .bind(column(added().map(|segment| segment.span.prev_hash.as_slice())))
        .bind(column(added().map(|segment| segment.span.hash.as_slice())))
        .bind(column(files().map(|file| file.map(|file| file.name.as_str()))))
        .bind(column(files().map(|file| file.map(|file| file.size_bytes as i64))))
        .bind(column(files().map(|file| file.map(|file| file.rows as i64))))
        .bind(column(files().map(|file| file.and_then(|file| file.e_tag.as_deref()))))
        .bind(column(files().map(|file| file.and_then(|file| file.version.as_deref()))))
        .bind(column(new().map(|new| new.map(|new| &new.footer[..]))))
        .bind(column(added().map(|segment| segment.sources.as_ref().map(ToString::to_string))))
        .bind(column(added().map(|segment| segment.cursor.as_ref().map(SourceCursor::as_str))))
        .fetch_one(tx)
        .await?;
    Ok(CommitSeq(sequence))
}

fn column<T>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.collect()
}

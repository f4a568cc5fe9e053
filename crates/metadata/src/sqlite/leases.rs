//! Leases, and the objects that are recorded under them. All times are by the database's clock.

use chrono::{DateTime, Utc};
use nozzle_core::{BlockRange, RevisionId};
use sqlx::SqliteConnection;

use super::{now, revisions};
use crate::{
    fault::{Fault, refused},
    model::*,
    rows::{LeaseRow, ObjectRow, read_all},
    sql::{self, id_list},
    validate::{self, Taker, bounds},
};

/// For how long a lease has been silent.
macro_rules! silence {
    () => {
        "(unixepoch('now', 'subsec') - unixepoch(heartbeat_at, 'subsec'))"
    };
}

macro_rules! lease_columns {
    () => {
        concat!(
            "SELECT id AS lease_id, revision_id, start_block, end_block, yields, holder, ",
            silence!(),
            " AS silent_seconds FROM leases "
        )
    };
}

const TIMEOUT_SECONDS: f64 = LEASE_TIMEOUT.as_secs_f64();

pub(super) async fn claim(
    tx: &mut SqliteConnection,
    revision: RevisionId,
    wanted: &[BlockRange],
    holder: &str,
) -> Result<Claim, Fault> {
    validate::check_writable(revision, revisions::lock(tx, revision).await?)?;
    let (ranges, held) =
        validate::plan_claim(wanted, take_over(tx, revision, wanted, Taker::Writer(None)).await?);
    let mut granted = vec![];
    for range in ranges {
        granted.push(grant(tx, revision, range, holder, false).await?);
    }
    // Last: whoever committed on these blocks before had the revision locked, and is seen now.
    let sequence: i64 = sqlx::query_scalar(sql::SEQUENCE).fetch_one(tx).await?;
    Ok(Claim { granted, held, sequence: CommitSeq(sequence) })
}

async fn grant(
    tx: &mut SqliteConnection,
    revision: RevisionId,
    range: BlockRange,
    holder: &str,
    yields: bool,
) -> Result<Lease, Fault> {
    let (start, end) = bounds(range);
    let id: i64 = sqlx::query_scalar(sql::INSERT_LEASE)
        .bind(revision.0)
        .bind(start)
        .bind(end)
        .bind(holder)
        .bind(yields)
        .fetch_one(tx)
        .await?;
    Ok(Lease { id: LeaseId(id), revision, range, yields })
}

pub(super) async fn claim_to_merge(
    tx: &mut SqliteConnection,
    revision: RevisionId,
    range: BlockRange,
    holder: &str,
) -> Result<Option<(Lease, CommitSeq)>, Fault> {
    validate::check_writable(revision, revisions::lock(tx, revision).await?)?;
    let live = take_over(tx, revision, &[range], Taker::Merger).await?;
    if !validate::overlapping(&[range], live).is_empty() {
        return Ok(None);
    }
    let lease = grant(tx, revision, range, holder, true).await?;
    let sequence: i64 = sqlx::query_scalar(sql::SEQUENCE).fetch_one(tx).await?;
    Ok(Some((lease, CommitSeq(sequence))))
}

/// Ends the silent leases that overlap what is wanted, and those that give way to it, but for the caller's own, and gives the
/// others that have not ended.
async fn take_over(
    tx: &mut SqliteConnection,
    revision: RevisionId,
    wanted: &[BlockRange],
    taker: Taker,
) -> Result<Vec<HeldLease>, Fault> {
    let held = unended(tx, revision).await?;
    let (taken, live) = validate::taken_over(held, taker);
    let taken = validate::overlapping(wanted, taken);
    end(tx, taken.iter().map(|held| held.lease.id)).await?;
    Ok(live)
}

/// The leases on a revision that have not ended, silent or not, oldest first.
async fn unended(tx: &mut SqliteConnection, revision: RevisionId) -> Result<Vec<HeldLease>, Fault> {
    let statement = concat!(lease_columns!(), "WHERE revision_id = $1 AND ended_at IS NULL ORDER BY id");
    let rows: Vec<LeaseRow> = sqlx::query_as(statement).bind(revision.0).fetch_all(tx).await?;
    read_all(rows, LeaseRow::read)
}

pub(super) async fn live(
    connection: &mut SqliteConnection,
    revision: RevisionId,
) -> Result<Vec<HeldLease>, Fault> {
    let held = unended(connection, revision).await?;
    Ok(held.into_iter().filter(|held| held.silent_for < LEASE_TIMEOUT && !held.lease.yields).collect())
}

async fn end(tx: &mut SqliteConnection, leases: impl Iterator<Item = LeaseId>) -> Result<(), Fault> {
    let statement = concat!(
        "UPDATE leases SET ended_at = ",
        now!(),
        " WHERE id IN (SELECT value FROM json_each($1)) AND ended_at IS NULL"
    );
    sqlx::query(statement).bind(id_list(leases.map(|id| id.0))).execute(tx).await?;
    Ok(())
}

pub(super) async fn release(tx: &mut SqliteConnection, leases: &[LeaseId]) -> Result<(), Fault> {
    end(tx, leases.iter().copied()).await
}

pub(super) async fn renew(tx: &mut SqliteConnection, leases: &[LeaseId]) -> Result<Vec<LeaseId>, Fault> {
    let statement = concat!(
        "UPDATE leases SET heartbeat_at = ",
        now!(),
        " WHERE id IN (SELECT value FROM json_each($1)) AND ended_at IS NULL RETURNING id"
    );
    let ids: Vec<i64> =
        sqlx::query_scalar(statement).bind(id_list(leases.iter().map(|id| id.0))).fetch_all(tx).await?;
    Ok(ids.into_iter().map(LeaseId).collect())
}

/// A lease that has not ended; `None` where it has, or where there never was one.
pub(super) async fn unended_one(tx: &mut SqliteConnection, id: LeaseId) -> Result<Option<Lease>, Fault> {
    let statement = concat!(lease_columns!(), "WHERE id = $1 AND ended_at IS NULL");
    let row: Option<LeaseRow> = sqlx::query_as(statement).bind(id.0).fetch_optional(tx).await?;
    Ok(row.map(LeaseRow::read).transpose()?.map(|held| held.lease))
}

pub(super) async fn widen(
    tx: &mut SqliteConnection,
    id: LeaseId,
    range: BlockRange,
) -> Result<Result<Lease, Vec<HeldLease>>, Fault> {
    let Some(lease) = unended_one(tx, id).await? else { return Err(Fault::LeaseEnded(id)) };
    let live = take_over(tx, lease.revision, &[range], Taker::Writer(Some(id))).await?;
    let in_the_way = validate::overlapping(&[range], live);
    if !in_the_way.is_empty() {
        return Ok(Err(in_the_way));
    }
    let statement = concat!(
        "UPDATE leases SET start_block = $2, end_block = $3, heartbeat_at = ",
        now!(),
        " WHERE id = $1"
    );
    let (start, end) = bounds(range);
    sqlx::query(statement).bind(id.0).bind(start).bind(end).execute(tx).await?;
    Ok(Ok(Lease { range, ..lease }))
}

pub(super) async fn record_object(
    tx: &mut SqliteConnection,
    id: LeaseId,
    location: LocationId,
    name: &str,
) -> Result<(), Fault> {
    let Some(lease) = unended_one(tx, id).await? else { return Err(Fault::LeaseEnded(id)) };
    let tables = revisions::locations(tx, lease.revision).await?;
    validate::check_object(&lease, &tables, location, name)?;
    let recorded: i64 =
        sqlx::query_scalar(sql::RECORD_OBJECT).bind(location.0).bind(name).bind(id.0).fetch_one(tx).await?;
    validate::check_recorded(lease.id, name, LeaseId(recorded))
}

pub(super) async fn record_upload(
    tx: &mut SqliteConnection,
    location: LocationId,
    name: &str,
    upload: &str,
) -> Result<(), Fault> {
    let known = sqlx::query(sql::RECORD_UPLOAD).bind(location.0).bind(name).bind(upload).execute(tx).await?;
    match known.rows_affected() {
        0 => refused(format!("the object `{name}` is not recorded")),
        _ => Ok(()),
    }
}

pub(super) async fn recorded_objects(
    connection: &mut SqliteConnection,
) -> Result<Vec<RecordedObject>, Fault> {
    let statement = concat!(
        "SELECT o.lease_id, o.name AS object_name, o.upload, l.revision_id, l.id AS location_id, l.table_name, l.url, l.schema,
                CASE WHEN e.ended_at IS NOT NULL
                     THEN unixepoch('now', 'subsec') - unixepoch(e.ended_at, 'subsec')
                     WHEN ",
        silence!(),
        " >= $1 THEN ",
        silence!(),
        " - $1 END AS ended_seconds
         FROM recorded_objects o
         JOIN locations l ON l.id = o.location_id
         JOIN leases e ON e.id = o.lease_id
         ORDER BY o.location_id, o.name"
    );
    let rows: Vec<ObjectRow> = sqlx::query_as(statement).bind(TIMEOUT_SECONDS).fetch_all(connection).await?;
    read_all(rows, ObjectRow::read)
}

pub(super) async fn forget_object(
    tx: &mut SqliteConnection,
    location: LocationId,
    name: &str,
) -> Result<(), Fault> {
    sqlx::query(sql::FORGET_OBJECT).bind(location.0).bind(name).execute(tx).await?;
    Ok(())
}

pub(super) async fn clock(connection: &mut SqliteConnection) -> Result<DateTime<Utc>, Fault> {
    Ok(sqlx::query_scalar("SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')").fetch_one(connection).await?)
}

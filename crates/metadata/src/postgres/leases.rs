//! Leases, and the objects that are recorded under them. All times are by the database's clock.
//!
//! Whoever changes which blocks are held locks the revision first and then leases in the order of
//! their ids, so that two claims never cross.

use chrono::{DateTime, Utc};
use nozzle_core::{BlockRange, RevisionId};
use sqlx::PgConnection;

use super::{now, revisions};
use crate::{
    fault::{Fault, refused},
    model::*,
    rows::{HeldTableRow, LeaseRow, ObjectRow, read_all},
    sql,
    validate::{self, Taker, bounds},
};

/// For how long a lease has been silent.
macro_rules! silence {
    () => {
        "EXTRACT(EPOCH FROM clock_timestamp() - heartbeat_at)::float8"
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
    tx: &mut PgConnection,
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
    tx: &mut PgConnection,
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
    tx: &mut PgConnection,
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
/// others that have not ended. The leases are locked: one that is being renewed is waited for and
/// then is not silent.
async fn take_over(
    tx: &mut PgConnection,
    revision: RevisionId,
    wanted: &[BlockRange],
    taker: Taker,
) -> Result<Vec<HeldLease>, Fault> {
    let statement =
        concat!(lease_columns!(), "WHERE revision_id = $1 AND ended_at IS NULL ORDER BY id FOR UPDATE");
    let rows: Vec<LeaseRow> = sqlx::query_as(statement).bind(revision.0).fetch_all(&mut *tx).await?;
    let held = read_all(rows, LeaseRow::read)?;
    let (taken, live) = validate::taken_over(held, taker);
    let taken = validate::overlapping(wanted, taken);
    end(tx, taken.iter().map(|held| held.lease.id)).await?;
    Ok(live)
}

pub(super) async fn live(
    connection: &mut PgConnection,
    revision: RevisionId,
) -> Result<Vec<HeldLease>, Fault> {
    let statement = concat!(lease_columns!(), "WHERE revision_id = $1 AND ended_at IS NULL ORDER BY id");
    let rows: Vec<LeaseRow> = sqlx::query_as(statement).bind(revision.0).fetch_all(connection).await?;
    let held = read_all(rows, LeaseRow::read)?;
    Ok(held.into_iter().filter(|held| held.silent_for < LEASE_TIMEOUT && !held.lease.yields).collect())
}

async fn end(tx: &mut PgConnection, leases: impl Iterator<Item = LeaseId>) -> Result<(), Fault> {
    let statement = concat!(
        "WITH these AS (SELECT id FROM leases WHERE id = ANY($1) AND ended_at IS NULL ORDER BY id FOR UPDATE)
         UPDATE leases SET ended_at = ",
        now!(),
        " WHERE id IN (SELECT id FROM these)"
    );
    sqlx::query(statement).bind(leases.map(|id| id.0).collect::<Vec<_>>()).execute(tx).await?;
    Ok(())
}

pub(super) async fn release(tx: &mut PgConnection, leases: &[LeaseId]) -> Result<(), Fault> {
    end(tx, leases.iter().copied()).await
}

pub(super) async fn renew(tx: &mut PgConnection, leases: &[LeaseId]) -> Result<Vec<LeaseId>, Fault> {
    let statement = concat!(
        "WITH these AS (SELECT id FROM leases WHERE id = ANY($1) AND ended_at IS NULL ORDER BY id FOR UPDATE)
         UPDATE leases SET heartbeat_at = ",
        now!(),
        " WHERE id IN (SELECT id FROM these) RETURNING id"
    );
    let ids: Vec<_> = leases.iter().map(|id| id.0).collect();
    let renewed: Vec<i64> = sqlx::query_scalar(statement).bind(ids).fetch_all(tx).await?;
    Ok(renewed.into_iter().map(LeaseId).collect())
}

/// A lease that has not ended, which stays so until the transaction has ended; `None` where it
/// has, or where there never was one.
async fn lock_one(tx: &mut PgConnection, id: LeaseId) -> Result<Option<Lease>, Fault> {
    let statement = concat!(lease_columns!(), "WHERE id = $1 AND ended_at IS NULL FOR UPDATE");
    let row: Option<LeaseRow> = sqlx::query_as(statement).bind(id.0).fetch_optional(tx).await?;
    Ok(row.map(LeaseRow::read).transpose()?.map(|held| held.lease))
}

/// A lease that has not ended, with the tables of its revision. The revision is locked, and then the lease:
/// who holds both may change what is stored. Tables never change; the lease is looked at again once it is
/// locked.
pub(super) async fn lock_with_tables(
    tx: &mut PgConnection,
    id: LeaseId,
) -> Result<Option<(Lease, Vec<Location>)>, Fault> {
    let statement = "WITH revision AS MATERIALIZED (
             SELECT id FROM revisions WHERE id = (SELECT revision_id FROM leases WHERE id = $1) FOR UPDATE),
              lease AS MATERIALIZED (
             SELECT l.* FROM leases l JOIN revision r ON r.id = l.revision_id
             WHERE l.id = $1 AND l.ended_at IS NULL FOR UPDATE OF l)
         SELECT e.id AS lease_id, e.start_block, e.end_block, e.yields,
                t.revision_id, t.id AS location_id, t.table_name, t.url, t.schema
         FROM lease e JOIN locations t ON t.revision_id = e.revision_id ORDER BY t.ordinal";
    let rows: Vec<HeldTableRow> = sqlx::query_as(statement).bind(id.0).fetch_all(tx).await?;
    HeldTableRow::read_all(rows)
}

/// As [`lock_one`], after the lease's revision.
async fn lock_with_revision(tx: &mut PgConnection, id: LeaseId) -> Result<Option<Lease>, Fault> {
    let revision: Option<uuid::Uuid> = sqlx::query_scalar("SELECT revision_id FROM leases WHERE id = $1")
        .bind(id.0)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(revision) = revision else { return Ok(None) };
    revisions::lock(tx, RevisionId(revision)).await?;
    lock_one(tx, id).await
}

pub(super) async fn widen(
    tx: &mut PgConnection,
    id: LeaseId,
    range: BlockRange,
) -> Result<Result<Lease, Vec<HeldLease>>, Fault> {
    let Some(lease) = lock_with_revision(tx, id).await? else {
        return Err(Fault::LeaseEnded(id));
    };
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

/// One statement, as it comes before each upload. The lease is locked, so that it does not end meanwhile.
pub(super) async fn record_object(
    connection: &mut PgConnection,
    id: LeaseId,
    location: LocationId,
    name: &str,
) -> Result<(), Fault> {
    validate::check_object_name(name)?;
    let statement = "WITH lease AS MATERIALIZED (
             SELECT id, revision_id FROM leases WHERE id = $3 AND ended_at IS NULL FOR UPDATE),
              location AS MATERIALIZED (
             SELECT t.id FROM locations t JOIN lease l ON l.revision_id = t.revision_id WHERE t.id = $1),
              recorded AS (
             INSERT INTO recorded_objects (location_id, name, lease_id)
             SELECT location.id, $2, lease.id FROM location, lease
             ON CONFLICT (location_id, name) DO UPDATE SET lease_id = recorded_objects.lease_id
             RETURNING lease_id)
         SELECT EXISTS (SELECT 1 FROM lease), (SELECT lease_id FROM recorded)";
    let (is_held, recorded): (bool, Option<i64>) =
        sqlx::query_as(statement).bind(location.0).bind(name).bind(id.0).fetch_one(connection).await?;
    match recorded {
        Some(recorded) => validate::check_recorded(id, name, LeaseId(recorded)),
        None if is_held => validate::refuse_location(id, location),
        None => Err(Fault::LeaseEnded(id)),
    }
}

pub(super) async fn record_upload(
    tx: &mut PgConnection,
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

pub(super) async fn recorded_objects(connection: &mut PgConnection) -> Result<Vec<RecordedObject>, Fault> {
    let statement = concat!(
        "SELECT o.lease_id, o.name AS object_name, o.upload, l.revision_id, l.id AS location_id, l.table_name, l.url, l.schema,
                CASE WHEN e.ended_at IS NOT NULL
                     THEN EXTRACT(EPOCH FROM clock_timestamp() - e.ended_at)::float8
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
    tx: &mut PgConnection,
    location: LocationId,
    name: &str,
) -> Result<(), Fault> {
    sqlx::query(sql::FORGET_OBJECT).bind(location.0).bind(name).execute(tx).await?;
    Ok(())
}

pub(super) async fn clock(connection: &mut PgConnection) -> Result<DateTime<Utc>, Fault> {
    Ok(sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(connection).await?)
}

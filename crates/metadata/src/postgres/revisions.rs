//! Revisions, their tables, and the moment that a query sees.

use nozzle_core::RevisionId;
use sqlx::PgConnection;

use super::{datasets, now};
use crate::{
    fault::{Fault, refused},
    model::*,
    rows::{LocationRow, RevisionRow, SnapshotRow, read_revisions, read_snapshot, read_state, state_text},
    sql, validate,
};

pub(super) async fn create(tx: &mut PgConnection, new: &NewRevision) -> Result<Revision, Fault> {
    datasets::lock(tx, new.dataset).await?;
    validate::check_new_revision(new, &of_dataset(tx, new.dataset).await?)?;
    if lock(tx, new.id).await?.is_some() {
        return refused(format!("there is a revision {} already", new.id));
    }
    sqlx::query(sql::INSERT_REVISION)
        .bind(new.id.0)
        .bind(new.dataset.0)
        .bind(state_text(new.state))
        .execute(&mut *tx)
        .await?;
    for (ordinal, location) in (0_i64..).zip(&new.tables) {
        sqlx::query(sql::INSERT_LOCATION)
            .bind(new.id.0)
            .bind(ordinal)
            .bind(location.table.as_str())
            .bind(&location.url)
            .bind(&location.schema)
            .execute(&mut *tx)
            .await?;
    }
    let made = of_dataset(tx, new.dataset).await?.into_iter().find(|revision| revision.id == new.id);
    made.ok_or_else(|| Fault::Corrupt(format!("the revision {} vanished as it was made", new.id)))
}

/// The state of a revision, which nobody else changes until the transaction has ended.
pub(super) async fn lock(tx: &mut PgConnection, id: RevisionId) -> Result<Option<RevisionState>, Fault> {
    let state: Option<String> = sqlx::query_scalar("SELECT state FROM revisions WHERE id = $1 FOR UPDATE")
        .bind(id.0)
        .fetch_optional(tx)
        .await?;
    state.map(|text| read_state(&text)).transpose()
}

pub(super) async fn of_dataset(
    connection: &mut PgConnection,
    dataset: DatasetId,
) -> Result<Vec<Revision>, Fault> {
    let revisions: Vec<RevisionRow> =
        sqlx::query_as(sql::REVISIONS).bind(dataset.0).fetch_all(&mut *connection).await?;
    let locations: Vec<LocationRow> =
        sqlx::query_as(sql::LOCATIONS_OF_DATASET).bind(dataset.0).fetch_all(connection).await?;
    read_revisions(revisions, locations)
}

pub(super) async fn change_schema(
    tx: &mut PgConnection,
    location: LocationId,
    from: &str,
    to: &str,
) -> Result<bool, Fault> {
    let changed = sqlx::query(sql::CHANGE_SCHEMA).bind(location.0).bind(from).bind(to).execute(tx).await?;
    Ok(changed.rows_affected() > 0)
}

pub(super) async fn activate(tx: &mut PgConnection, id: RevisionId) -> Result<CommitSeq, Fault> {
    let Some(dataset) = dataset_of(tx, id).await? else {
        return refused(format!("there is no revision {id}"));
    };
    datasets::lock(tx, dataset).await?;
    let there = of_dataset(tx, dataset).await?;
    let active = there.iter().find(|revision| revision.state == RevisionState::Active).map(|old| old.id);
    validate::check_activation(id, lock(tx, id).await?)?;
    let sequence = match active {
        Some(old) => {
            lock(tx, old).await?;
            retire_all(tx, &[old]).await?
        }
        None => next_sequence(tx).await?,
    };
    sqlx::query("UPDATE revisions SET state = 'active', activated_seq = $2 WHERE id = $1")
        .bind(id.0)
        .bind(sequence.0)
        .execute(tx)
        .await?;
    Ok(sequence)
}

async fn dataset_of(tx: &mut PgConnection, id: RevisionId) -> Result<Option<DatasetId>, Fault> {
    let dataset = sqlx::query_scalar("SELECT dataset_id FROM revisions WHERE id = $1").bind(id.0);
    Ok(dataset.fetch_optional(tx).await?.map(DatasetId))
}

pub(super) async fn retire(tx: &mut PgConnection, id: RevisionId) -> Result<CommitSeq, Fault> {
    validate::check_writable(id, lock(tx, id).await?)?;
    retire_all(tx, &[id]).await
}

/// Retires revisions that are locked, and ends the leases on them: nobody writes them any more.
/// The sequence number is taken once nothing else is waited for.
pub(super) async fn retire_all(tx: &mut PgConnection, ids: &[RevisionId]) -> Result<CommitSeq, Fault> {
    let retire = concat!(
        "UPDATE revisions SET state = 'retired', retired_seq = $2, retired_at = ",
        now!(),
        " WHERE id = $1"
    );
    let end =
        concat!("UPDATE leases SET ended_at = ", now!(), " WHERE revision_id = $1 AND ended_at IS NULL");
    let sequence = next_sequence(tx).await?;
    for id in ids {
        sqlx::query(retire).bind(id.0).bind(sequence.0).execute(&mut *tx).await?;
        sqlx::query(end).bind(id.0).execute(&mut *tx).await?;
    }
    Ok(sequence)
}

pub(super) async fn sequence(connection: &mut PgConnection) -> Result<CommitSeq, Fault> {
    Ok(CommitSeq(sqlx::query_scalar(sql::SEQUENCE).fetch_one(connection).await?))
}

/// Takes the next sequence number and notifies. Whoever wants one after it waits until this
/// transaction has ended, so the order of the numbers is that in which commits become visible.
pub(super) async fn next_sequence(tx: &mut PgConnection) -> Result<CommitSeq, Fault> {
    let next = sqlx::query_scalar(
        "WITH next AS (UPDATE commit_counter SET sequence = sequence + 1 RETURNING sequence)
         SELECT sequence FROM (SELECT sequence, pg_notify('nozzle_commits', sequence::text) FROM next) told",
    );
    Ok(CommitSeq(next.fetch_one(tx).await?))
}

/// Which of these revisions there are.
pub(super) async fn known(
    connection: &mut PgConnection,
    ids: &[RevisionId],
) -> Result<Vec<RevisionId>, Fault> {
    let known: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM revisions WHERE id = ANY($1)")
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    Ok(known.into_iter().map(RevisionId).collect())
}

/// Makes the numbers up to `sequence` count as given.
pub(super) async fn skip_sequence(tx: &mut PgConnection, sequence: CommitSeq) -> Result<(), Fault> {
    let skip = "UPDATE commit_counter SET sequence = $1 WHERE sequence < $1";
    sqlx::query(skip).bind(sequence.0).execute(tx).await?;
    Ok(())
}

pub(super) async fn snapshot(connection: &mut PgConnection) -> Result<Snapshot, Fault> {
    let rows: Vec<SnapshotRow> = sqlx::query_as(sql::SNAPSHOT).fetch_all(connection).await?;
    read_snapshot(rows)
}

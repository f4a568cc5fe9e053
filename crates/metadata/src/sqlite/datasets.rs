//! Datasets, providers and the finality of networks.

use nozzle_core::{DatasetRef, Network, ProviderName};
use sqlx::SqliteConnection;

use super::{jobs, leases, now, revisions};
use crate::{
    fault::{Fault, refused},
    model::*,
    rows::{DatasetRow, FinalityRow, ProviderRow, origin_text, read_all},
    sql, validate,
};

pub(super) async fn register(tx: &mut SqliteConnection, new: &NewDataset) -> Result<Registered, Fault> {
    // What it reads stays until it is registered: whoever removes that sees it.
    for read in validate::reads(new.kind, &new.manifest) {
        let is_there = hold(tx, &read).await?;
        validate::check_readable(new, &read, is_there)?;
    }
    let inserted: Option<i64> = sqlx::query_scalar(sql::INSERT_DATASET)
        .bind(new.name.as_str())
        .bind(new.version.to_string())
        .bind(new.kind.as_str())
        .bind(new.network.as_ref().map(Network::as_str))
        .bind(&new.manifest)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(id) = inserted {
        return Ok(Registered::New(DatasetId(id)));
    }
    let reference = DatasetRef { name: new.name.clone(), version: Some(new.version) };
    match by_reference(tx, &reference).await? {
        Some(there) => validate::check_same(new, &there),
        None => refused(format!("the dataset `{reference}` is being removed: register it again")),
    }
}

/// Whether a version is registered; the transaction is alone with it.
async fn hold(tx: &mut SqliteConnection, reference: &DatasetRef) -> Result<bool, Fault> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT id FROM datasets WHERE name = $1 AND version = $2 AND removed_at IS NULL")
            .bind(reference.name.as_str())
            .bind(reference.version.unwrap_or_default().to_string())
            .fetch_optional(tx)
            .await?;
    Ok(found.is_some())
}

pub(super) async fn by_reference(
    connection: &mut SqliteConnection,
    reference: &DatasetRef,
) -> Result<Option<Dataset>, Fault> {
    let rows: Vec<DatasetRow> =
        sqlx::query_as(sql::DATASETS_BY_NAME).bind(reference.name.as_str()).fetch_all(connection).await?;
    Ok(validate::choose_dataset(reference, read_all(rows, DatasetRow::read)?))
}

pub(super) async fn all(connection: &mut SqliteConnection) -> Result<Vec<Dataset>, Fault> {
    let rows: Vec<DatasetRow> = sqlx::query_as(sql::DATASETS).fetch_all(connection).await?;
    let mut datasets = read_all(rows, DatasetRow::read)?;
    datasets.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
    Ok(datasets)
}

/// Gives the sequence number of the retirement of its revisions, if there was any to retire.
/// All of them or none. Whatever has to be locked is, before the commit counter is taken.
pub(super) async fn remove(
    tx: &mut SqliteConnection,
    datasets: &[DatasetId],
) -> Result<Option<CommitSeq>, Fault> {
    let mut datasets = datasets.to_vec();
    datasets.sort_unstable();
    for dataset in &datasets {
        lock(tx, *dataset).await?;
        validate::check_no_job(jobs::live(tx, *dataset).await?)?;
    }
    validate::check_unread(&datasets, &all(tx).await?)?;
    let mut in_use = vec![];
    for dataset in &datasets {
        for revision in revisions::of_dataset(tx, *dataset).await? {
            if revisions::lock(tx, revision.id).await? == Some(RevisionState::Retired) {
                continue;
            }
            validate::check_unheld(&leases::live(tx, revision.id).await?)?;
            in_use.push(revision.id);
        }
    }
    let retired = if in_use.is_empty() { None } else { Some(revisions::retire_all(tx, &in_use).await?) };
    for dataset in &datasets {
        sqlx::query(concat!("UPDATE datasets SET removed_at = ", now!(), " WHERE id = $1"))
            .bind(dataset.0)
            .execute(&mut *tx)
            .await?;
    }
    Ok(retired)
}

/// Refuses a dataset that is not registered; the transaction is alone with the one that is.
pub(super) async fn lock(tx: &mut SqliteConnection, dataset: DatasetId) -> Result<(), Fault> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT id FROM datasets WHERE id = $1 AND removed_at IS NULL")
            .bind(dataset.0)
            .fetch_optional(tx)
            .await?;
    match found {
        Some(_) => Ok(()),
        None => refused(format!("there is no dataset with the id {dataset}")),
    }
}

pub(super) async fn put_provider(tx: &mut SqliteConnection, provider: &Provider) -> Result<(), Fault> {
    sqlx::query(sql::PUT_PROVIDER)
        .bind(provider.name.as_str())
        .bind(provider.kind.as_str())
        .bind(provider.network.as_str())
        .bind(&provider.region)
        .bind(&provider.config)
        .bind(origin_text(provider.origin))
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn providers(connection: &mut SqliteConnection) -> Result<Vec<Provider>, Fault> {
    let rows: Vec<ProviderRow> = sqlx::query_as(sql::PROVIDERS).fetch_all(connection).await?;
    let mut providers = read_all(rows, ProviderRow::read)?;
    providers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(providers)
}

pub(super) async fn remove_provider(tx: &mut SqliteConnection, name: &ProviderName) -> Result<bool, Fault> {
    let done = sqlx::query(sql::DELETE_PROVIDER).bind(name.as_str()).execute(tx).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn set_finality(
    tx: &mut SqliteConnection,
    network: &Network,
    finality: &Finality,
) -> Result<(), Fault> {
    let statement = concat!(
        "INSERT INTO finality (network, head_number, head_hash, finalized_number, finalized_hash, updated_at)
         VALUES ($1, $2, $3, $4, $5, ",
        now!(),
        ") ON CONFLICT (network) DO UPDATE SET head_number = excluded.head_number,
             head_hash = excluded.head_hash, finalized_number = excluded.finalized_number,
             finalized_hash = excluded.finalized_hash, updated_at = excluded.updated_at"
    );
    let finalized = finality.finalized.map(|block| validate::block_number(block.number)).transpose()?;
    sqlx::query(statement)
        .bind(network.as_str())
        .bind(validate::block_number(finality.head.number)?)
        .bind(finality.head.hash.as_slice())
        .bind(finalized)
        .bind(finality.finalized.as_ref().map(|block| block.hash.as_slice()))
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn finality(
    connection: &mut SqliteConnection,
    network: &Network,
) -> Result<Option<Finality>, Fault> {
    let row: Option<FinalityRow> =
        sqlx::query_as(sql::FINALITY).bind(network.as_str()).fetch_optional(connection).await?;
    row.map(FinalityRow::read).transpose()
}

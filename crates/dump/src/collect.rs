//! Deleting what nobody can need any more: what was replaced or retired long enough ago, and what no commit
//! has taken up (objects of writers that ended before they could commit, uploads that were never completed).
//!
//! Nothing else deletes objects, and nothing is deleted that the database does not name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use nozzle_metadata::{LeaseId, LocationId, MetadataStore, RecordedObject};
use nozzle_query::{Stores, stores::persistently};
use object_store::{Error as StoreError, ObjectStoreExt};
use tokio_util::sync::CancellationToken;

use crate::{error::DumpError, files};

/// Rows that one transaction takes out.
const BATCH: u32 = 1000;

/// Objects that are being deleted at a time.
const DELETIONS: usize = 16;

/// What a collection has removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Segments, from the metadata.
    pub segments: u64,
    /// Objects of replaced and retired segments, from the store.
    pub objects: u64,
    /// Objects that were never committed, from the store.
    pub unregistered: u64,
}

/// Removes everything whose time has come `grace` ago or earlier. Stops between batches when cancelled; what
/// is left then is for the next one.
pub async fn all(
    metadata: &Arc<dyn MetadataStore>,
    stores: &Stores,
    grace: Duration,
    cancel: &CancellationToken,
) -> Result<Collected, DumpError> {
    let mut collected = Collected::default();
    while !cancel.is_cancelled() {
        let segments = metadata.collect(grace, BATCH).await?;
        if segments == 0 {
            break;
        }
        collected.segments += segments;
    }
    // A store that is away, or refuses, keeps nothing but its own objects.
    let doomed = doomed(metadata, stores, cancel).await;
    let unregistered = unregistered(metadata, stores, grace, cancel).await;
    while !cancel.is_cancelled() && metadata.forget_leases(grace, BATCH).await? == u64::from(BATCH) {}
    collected.objects = doomed?;
    collected.unregistered = unregistered?;
    Ok(collected)
}

/// Deletes the objects that nothing names any more, and gives their number.
async fn doomed(
    metadata: &Arc<dyn MetadataStore>,
    stores: &Stores,
    cancel: &CancellationToken,
) -> Result<u64, DumpError> {
    let (mut deleted, mut failure, mut after) = (0, None, None);
    while !cancel.is_cancelled() {
        let doomed = metadata.doomed_objects(after.as_ref(), BATCH).await?;
        let Some((location, name)) = doomed.last() else { break };
        after = Some((location.id, name.clone()));
        let deletions = doomed.into_iter().map(|(location, name)| async move {
            let object = files::object(stores, &location, &name)?;
            let gone = gone(persistently(|_| object.store.delete(&object.path)).await);
            gone.map_err(|error| DumpError::store(format!("deleting {}", object.url), error))?;
            Ok::<_, DumpError>((location.id, name))
        });
        let ends: Vec<_> = stream::iter(deletions).buffer_unordered(DELETIONS).collect().await;
        let mut by_location: BTreeMap<LocationId, Vec<String>> = BTreeMap::new();
        for end in ends {
            match end {
                Ok((location, name)) => by_location.entry(location).or_default().push(name),
                Err(error) => failure = Some(error),
            }
        }
        for (location, names) in by_location {
            deleted += names.len() as u64;
            metadata.forget_doomed(location, &names).await?;
        }
    }
    failure.map_or(Ok(deleted), Err)
}

/// Deletes the recorded objects whose writers' leases ended longer ago than `grace`, and gives their
/// number. Whoever held such a lease can no longer commit them.
async fn unregistered(
    metadata: &Arc<dyn MetadataStore>,
    stores: &Stores,
    grace: Duration,
    cancel: &CancellationToken,
) -> Result<u64, DumpError> {
    let is_due = |object: &RecordedObject| object.ended_for.is_some_and(|ended| ended >= grace);
    let due = |objects: Vec<RecordedObject>| objects.into_iter().filter(is_due).collect::<Vec<_>>();
    let silent = due(metadata.recorded_objects().await?);
    let mut leases: Vec<LeaseId> = silent.iter().map(|object| object.lease).collect();
    leases.sort_unstable();
    leases.dedup();
    if leases.is_empty() {
        return Ok(0);
    }
    // One that was only silent could come back and commit. What is listed after this it can not.
    metadata.release(&leases).await?;
    let (mut deleted, mut failure) = (0, None);
    for object in metadata.recorded_objects().await? {
        if cancel.is_cancelled() {
            break;
        }
        // Those that were released just now are due: they were so by their silence.
        if leases.contains(&object.lease) {
            match delete(metadata, stores, &object).await {
                Ok(()) => deleted += 1,
                Err(error) => failure = Some(error),
            }
        }
    }
    failure.map_or(Ok(deleted), Err)
}

async fn delete(
    metadata: &Arc<dyn MetadataStore>,
    stores: &Stores,
    recorded: &RecordedObject,
) -> Result<(), DumpError> {
    let object = files::object(stores, &recorded.location, &recorded.name)?;
    let failed = |error| DumpError::store(format!("deleting {}", object.url), error);
    if let (Some(upload), Some(parts)) = (&recorded.upload, &object.parts) {
        gone(persistently(|_| parts.abort_multipart(&object.path, upload)).await).map_err(failed)?;
    }
    gone(persistently(|_| object.store.delete(&object.path)).await).map_err(failed)?;
    if object.parts.is_none() {
        let staged = files::remove_staged(&recorded.location, &recorded.name).await;
        staged
            .map_err(|error| DumpError::store(format!("deleting what was begun of {}", object.url), error))?;
    }
    // Last: a name that is forgotten is never looked for again.
    Ok(metadata.forget_object(recorded.location.id, &recorded.name).await?)
}

/// Nothing to delete is as good as deleted.
fn gone(result: object_store::Result<()>) -> object_store::Result<()> {
    match result {
        Err(StoreError::NotFound { .. }) => Ok(()),
        result => result,
    }
}

//! Deleting what no commit has taken up: objects of writers that ended before they could commit, and
//! uploads that were never completed.

use std::{sync::Arc, time::Duration};

use nozzle_metadata::{LeaseId, MetadataStore, RecordedObject};
use nozzle_query::{Stores, stores::persistently};
use object_store::{Error as StoreError, ObjectStoreExt, path::Path};

use crate::{error::DumpError, files};

/// Deletes the recorded objects whose writers' leases ended longer ago than `grace`, and gives their
/// number. Whoever held such a lease can no longer commit them.
pub async fn unregistered(
    metadata: &Arc<dyn MetadataStore>,
    stores: &Stores,
    grace: Duration,
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
    let mut deleted = 0;
    for object in metadata.recorded_objects().await? {
        // Those that were released just now are due: they were so by their silence.
        if leases.contains(&object.lease) {
            delete(metadata, stores, &object).await?;
            deleted += 1;
        }
    }
    Ok(deleted)
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
        // How the local disk names a file that is not closed yet.
        if let Ok(staged) = Path::parse(format!("{}#1", object.path)) {
            gone(object.store.delete(&staged).await).map_err(failed)?;
        }
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

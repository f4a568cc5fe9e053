//! Files in a revision's folders that the database does not name: nobody reads them, and no collector finds
//! them.

use std::{collections::HashSet, sync::Arc};

use futures::TryStreamExt;
use nozzle_core::{BlockRange, layout};
use nozzle_metadata::{Location, MetadataStore};
use nozzle_query::{Stores, stores::persistently};
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, path::Path};

use crate::{check::Finding, error::DumpError};

/// The strays in the folders of these tables, by their first block.
pub async fn find(
    metadata: &Arc<dyn MetadataStore>,
    stores: &Stores,
    locations: &[Location],
) -> Result<Vec<Finding>, DumpError> {
    let mut found = vec![];
    for location in locations {
        let (store, folder) = stores.resolve(&location.url)?;
        let failed = |error| DumpError::store(format!("listing {}", location.url), error);
        // Listed first: a name is written down before its object appears.
        let listed = persistently(|_| list(store.as_ref(), &folder)).await.map_err(failed)?;
        let named: HashSet<String> = metadata.named_objects(location.id).await?.into_iter().collect();
        for name in listed.into_iter().filter(|name| !named.contains(name)) {
            // One that was collected meanwhile is none.
            let path = folder.clone().join(name.as_str());
            match persistently(|_| store.head(&path)).await {
                Err(StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(failed(error)),
                Ok(_) => {}
            }
            let range = BlockRange::single(layout::parse_file_name(&name).unwrap_or(0));
            let why = "the metadata database does not name it: nothing reads it, and you may delete it";
            found.push(Finding { range, file: Some(format!("{}{name}", location.url)), why: why.into() });
        }
    }
    found.sort_by(|a, b| (a.range, &a.file).cmp(&(b.range, &b.file)));
    Ok(found)
}

/// The names of the files that a folder holds, of those that a dump gives.
async fn list(store: &dyn ObjectStore, folder: &Path) -> object_store::Result<Vec<String>> {
    let mut objects = store.list(Some(folder));
    let mut names = vec![];
    loop {
        match objects.try_next().await {
            Ok(Some(meta)) => {
                let name = meta.location.filename().filter(|name| layout::parse_file_name(name).is_some());
                names.extend(name.map(str::to_owned));
            }
            Ok(None) | Err(StoreError::NotFound { .. }) => return Ok(names),
            Err(error) => return Err(error),
        }
    }
}

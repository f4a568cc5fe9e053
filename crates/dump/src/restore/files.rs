//! The files of a dataset, as the store lists them and as they tell of themselves.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use nozzle_core::{
    DatasetName, RevisionId, SourceCursor, SourceRevisions, Span, TableName, layout,
    segment::{FileMetadata, FileOrigin},
};
use nozzle_query::{Stores, stores::persistently};
use object_store::{ObjectMeta, ObjectStore, path::Path};
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};
use uuid::Uuid;

use super::choose::Order;
use crate::{error::DumpError, files::read_footer};

/// Reads that are under way at once: a store answers each late, and many side by side.
const READS_UNDER_WAY: usize = 64;

/// An object whose place and name are those of a file of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Object {
    pub table: TableName,
    pub name: String,
    pub size_bytes: u64,
}

/// What lies in the store of one dataset.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By revision, oldest first.
    pub revisions: BTreeMap<RevisionId, Vec<Object>>,
    /// Objects that are none of ours.
    pub foreign: u64,
}

/// The revisions that have a folder in the store.
pub async fn stored_revisions(
    stores: &Stores,
    base_url: &str,
    dataset: &DatasetName,
) -> Result<Vec<RevisionId>, DumpError> {
    let (store, folder) = dataset_folder(stores, base_url, dataset)?;
    let failed = |error| DumpError::store(format!("listing {base_url}{dataset}/"), error);
    let folders = async |folder: &Path| match persistently(|_| store.list_with_delimiter(Some(folder))).await
    {
        Ok(listed) => Ok(listed.common_prefixes),
        Err(error) if is_absent_folder(base_url, &error) => Ok(vec![]),
        Err(error) => Err(failed(error)),
    };
    let mut revisions = vec![];
    for table in folders(&folder).await? {
        let names = folders(&table).await?;
        revisions.extend(names.iter().filter_map(|name| revision(name.filename()?)));
    }
    revisions.sort_unstable();
    revisions.dedup();
    Ok(revisions)
}

fn dataset_folder(
    stores: &Stores,
    base_url: &str,
    dataset: &DatasetName,
) -> Result<(Arc<dyn ObjectStore>, Path), DumpError> {
    let (store, base) = stores.resolve(base_url)?;
    Ok((store, base.join(dataset.as_str())))
}

/// Whether the error is that of a folder of the local disk that was never made. Other stores have no
/// folders: what is not found there is the bucket, and that is another thing than an empty one.
fn is_absent_folder(base_url: &str, error: &object_store::Error) -> bool {
    base_url.starts_with("file:") && matches!(error, object_store::Error::NotFound { .. })
}

fn revision(name: &str) -> Option<RevisionId> {
    Uuid::try_parse(name).ok().filter(|uuid| uuid.get_version_num() == 7).map(RevisionId)
}

/// Lists the files of a dataset.
pub(super) async fn list(
    stores: &Stores,
    base_url: &str,
    dataset: &DatasetName,
) -> Result<Listing, DumpError> {
    let (store, folder) = dataset_folder(stores, base_url, dataset)?;
    match persistently(|_| list_once(store.as_ref(), &folder)).await {
        Err(error) if is_absent_folder(base_url, &error) => Ok(Listing::default()),
        listing => listing.map_err(|error| DumpError::store(format!("listing {base_url}{dataset}/"), error)),
    }
}

async fn list_once(store: &dyn ObjectStore, folder: &Path) -> object_store::Result<Listing> {
    let mut objects = store.list(Some(folder));
    let mut listing = Listing::default();
    while let Some(meta) = objects.try_next().await? {
        match object_of(&meta, folder) {
            Some((revision, object)) => listing.revisions.entry(revision).or_default().push(object),
            None => listing.foreign += 1,
        }
    }
    Ok(listing)
}

fn object_of(meta: &ObjectMeta, folder: &Path) -> Option<(RevisionId, Object)> {
    let parts: Vec<_> = meta.location.prefix_match(folder)?.collect();
    let [table, id, name] = parts.as_slice() else { return None };
    layout::parse_file_name(name.as_ref())?;
    let table = table.as_ref().parse().ok()?;
    Some((revision(id.as_ref())?, Object { table, name: name.as_ref().to_owned(), size_bytes: meta.size }))
}

/// What a file tells of itself.
#[derive(Debug)]
pub(super) struct Told {
    pub object: Object,
    pub rows: u64,
    pub span: Span,
    pub order: Order,
    pub building_until: Option<u64>,
    pub empty_tables: Vec<TableName>,
    /// What its rows were computed from, where the dataset is derived.
    pub sources: Option<SourceRevisions>,
    /// Only of the first file of a cut.
    pub manifest: Option<serde_json::Value>,
    /// In the same file, where the source has given one.
    pub cursor: Option<SourceCursor>,
    pub footer: Bytes,
}

/// A file that is none of ours after all, or is damaged.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub url: String,
    pub why: String,
}

/// Reads what the files of one table's folders tell, in any order.
pub(super) fn read<'a>(
    stores: &'a Stores,
    base_url: &'a str,
    dataset: &'a DatasetName,
    revision: RevisionId,
    objects: Vec<Object>,
) -> impl futures::Stream<Item = Result<Result<Told, Unreadable>, DumpError>> + 'a {
    let reads = objects.into_iter().map(move |object| async move {
        let folder = layout::location_path(dataset, &object.table, revision);
        let url = format!("{base_url}{folder}/{}", object.name);
        let (store, path) = stores.resolve(&url)?;
        let footer = match persistently(|_| read_footer(store.as_ref(), &path, object.size_bytes)).await {
            Ok(Some(footer)) => footer,
            Ok(None) => return Ok(Err(Unreadable { url, why: "it is not a Parquet file".into() })),
            // As of one that a collector has deleted since it was listed.
            Err(object_store::Error::NotFound { .. }) => {
                return Ok(Err(Unreadable { url, why: "it is gone".into() }));
            }
            Err(error) => return Err(DumpError::store(format!("reading {url}"), error)),
        };
        Ok(told(object, footer).map_err(|why| Unreadable { url, why }))
    });
    stream::iter(reads).buffer_unordered(READS_UNDER_WAY)
}

fn told(object: Object, footer: Bytes) -> Result<Told, String> {
    let metadata = ParquetMetaDataReader::decode_metadata(&footer).map_err(|error| error.to_string())?;
    let metadata = metadata.file_metadata();
    let entries = metadata.key_value_metadata().map(Vec::as_slice).unwrap_or_default();
    let own = entry(entries, FileMetadata::KEY)?;
    let own: FileMetadata = serde_json::from_str(own).map_err(damaged(FileMetadata::KEY))?;
    let origin = entry(entries, FileOrigin::KEY)?;
    let origin: FileOrigin = serde_json::from_str(origin).map_err(damaged(FileOrigin::KEY))?;
    if own.filename != object.name || own.table != object.table {
        return Err(format!("it was written as `{}` of the table `{}`", own.filename, own.table));
    }
    let [range] = own.ranges.as_slice() else { return Err("it tells no block range".into()) };
    let rows = u64::try_from(metadata.num_rows()).map_err(|_| "its number of rows is negative")?;
    let (span, order) = (range.span(), origin.order());
    let FileOrigin { building_until, sources, manifest, cursor, .. } = origin;
    let empty_tables = own.empty_tables;
    Ok(Told { object, rows, span, order, building_until, empty_tables, sources, manifest, cursor, footer })
}

fn entry<'a>(entries: &'a [KeyValue], key: &str) -> Result<&'a str, String> {
    let value = entries.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.as_deref());
    value.ok_or_else(|| format!("it has no `{key}`, so that nothing tells where it belongs"))
}

fn damaged(key: &'static str) -> impl Fn(serde_json::Error) -> String {
    move |error| format!("its `{key}` is damaged: {error}")
}

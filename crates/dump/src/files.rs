//! The files of a revision: new objects, and the rows of old ones.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{RecordBatch, new_null_array},
    datatypes::{FieldRef, SchemaRef},
    error::ArrowError,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use nozzle_core::TableDef;
use nozzle_metadata::{Location, SegmentFile};
use nozzle_query::Stores;
use object_store::{ObjectStore, ObjectStoreExt, multipart::MultipartStore, path::Path};
use parquet::{
    arrow::{
        ParquetRecordBatchStreamBuilder, ProjectionMask, arrow_reader::ArrowReaderOptions,
        async_reader::AsyncFileReader,
    },
    errors::{ParquetError, Result as ParquetResult},
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};
use url::Url;
use uuid::Uuid;

use crate::error::DumpError;

/// What is read of a file's end at first; most footers are smaller.
const TAIL_BYTES: u64 = 64 << 10;

/// The length of the footer and the magic behind it.
const END_BYTES: u64 = 8;

/// An object of a location.
#[derive(Clone)]
pub struct ObjectRef {
    /// The store that it lies in.
    pub store: Arc<dyn ObjectStore>,
    /// The same store's way to write an object in parts, where it has one.
    pub parts: Option<Arc<dyn MultipartStore>>,
    /// Its path in the store.
    pub path: Path,
    /// Its URL, for messages.
    pub url: String,
}

/// The object `name` of `location`.
pub fn object(stores: &Stores, location: &Location, name: &str) -> Result<ObjectRef, DumpError> {
    let (store, folder) = stores.resolve(&location.url)?;
    let parts = stores.parts(&location.url)?;
    Ok(ObjectRef { store, parts, path: folder.join(name), url: format!("{}{name}", location.url) })
}

/// A number for a name that no other cut has.
pub fn new_random() -> u64 {
    // A version 4 UUID has six bits that are the same in each, at different places of its halves:
    // together the halves are 64 random bits.
    let (high, low) = Uuid::new_v4().as_u64_pair();
    high ^ low
}

/// The rows of a file in its order, of the named columns or of all.
pub async fn read_rows(
    object: ObjectRef,
    file: &SegmentFile,
    columns: Option<&[&str]>,
) -> Result<BoxStream<'static, Result<RecordBatch, DumpError>>, DumpError> {
    let url = object.url.clone();
    let failed = move |error| DumpError::store(format!("reading {url}"), error);
    let reader = ObjectReader { object, size_bytes: file.size_bytes };
    let mut builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(&failed)?;
    if let Some(columns) = columns {
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        builder = builder.with_projection(mask);
    }
    let stream = builder.build().map_err(&failed)?;
    Ok(stream.map_err(failed).boxed())
}

/// The rows of a file in the columns of its table: what an older version has not written is null.
pub async fn read_table(
    object: ObjectRef,
    file: &SegmentFile,
    table: &TableDef,
) -> Result<BoxStream<'static, Result<RecordBatch, DumpError>>, DumpError> {
    let (schema, url) = (Arc::clone(&table.schema), object.url.clone());
    let rows = read_rows(object, file, None).await?;
    let conform = move |batch| {
        conform(batch, &schema).map_err(|error| DumpError::store(format!("reading {url}"), error))
    };
    Ok(rows.map(move |batch| batch.and_then(&conform)).boxed())
}

fn conform(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.schema_ref().fields() == schema.fields() {
        return Ok(batch);
    }
    if let Some(unknown) = batch.schema_ref().fields().iter().find(|f| schema.index_of(f.name()).is_err()) {
        return Err(ArrowError::SchemaError(format!("the table has no column `{}`", unknown.name())));
    }
    let column = |field: &FieldRef| match batch.column_by_name(field.name()) {
        Some(column) => Arc::clone(column),
        None => new_null_array(field.data_type(), batch.num_rows()),
    };
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// The Parquet footer of a file, without the length and the magic behind it, and the number of rows in it.
pub async fn footer(object: &ObjectRef, file: &SegmentFile) -> Result<(Bytes, u64), DumpError> {
    let url = &object.url;
    let read = read_footer(object.store.as_ref(), &object.path, file.size_bytes).await;
    let footer = read.map_err(|error| DumpError::store(format!("reading {url}"), error))?;
    let footer = footer.ok_or_else(|| DumpError::Refused(format!("{url} is not a Parquet file")))?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer);
    let metadata =
        metadata.map_err(|error| DumpError::store(format!("reading the footer of {url}"), error))?;
    Ok((footer, metadata.file_metadata().num_rows().unsigned_abs()))
}

/// The footer of a Parquet file; `None` where it has none.
pub(crate) async fn read_footer(
    store: &dyn ObjectStore,
    path: &Path,
    size_bytes: u64,
) -> object_store::Result<Option<Bytes>> {
    if size_bytes < END_BYTES {
        return Ok(None);
    }
    let start = size_bytes.saturating_sub(TAIL_BYTES);
    let tail = store.get_range(path, start..size_bytes).await?;
    let Some((body, end)) = tail.len().checked_sub(END_BYTES as usize).map(|at| tail.split_at(at)) else {
        return Ok(None);
    };
    let Some((length, b"PAR1")) = end.split_first_chunk::<4>() else { return Ok(None) };
    let length = u64::from(u32::from_le_bytes(*length));
    if length <= body.len() as u64 {
        return Ok(Some(tail.slice(body.len() - length as usize..body.len())));
    }
    match (size_bytes - END_BYTES).checked_sub(length) {
        Some(start) => store.get_range(path, start..size_bytes - END_BYTES).await.map(Some),
        None => Ok(None),
    }
}

/// Reads byte ranges of one object for the Parquet decoder.
struct ObjectReader {
    object: ObjectRef,
    size_bytes: u64,
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        let read = self.object.store.get_range(&self.object.path, range);
        read.map(|bytes| bytes.map_err(|error| ParquetError::External(error.into()))).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move {
            let bytes = self.object.store.get_ranges(&self.object.path, &ranges).await;
            bytes.map_err(|error| ParquetError::External(error.into()))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size_bytes;
            let metadata = ParquetMetaDataReader::new().load_and_finish(self, size).await?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}

/// Makes a local file survive a loss of power: its bytes, and its name in its folders. Stores other
/// than the local disk do that by themselves before they answer.
pub async fn make_durable(location: &Location, name: &str) -> Result<(), DumpError> {
    let Some(folder) = local_folder(&location.url) else { return Ok(()) };
    let name = name.to_owned();
    let path = folder.join(&name);
    let synced = tokio::task::spawn_blocking(move || {
        std::fs::File::open(folder.join(name))?.sync_all()?;
        // The folders of revision, table, dataset and data may be new too; where they are not, there
        // is nothing to do for them.
        folder.ancestors().take(4).try_for_each(|folder| std::fs::File::open(folder)?.sync_all())
    });
    let failed = |error| DumpError::store(format!("writing {} to disk", path.display()), error);
    synced.await.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)
}

/// Removes what the local disk has of a file that was never closed. The store itself refuses its name.
pub async fn remove_staged(location: &Location, name: &str) -> std::io::Result<()> {
    let Some(folder) = local_folder(&location.url) else { return Ok(()) };
    match tokio::fs::remove_file(folder.join(format!("{name}#1"))).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The folder of a location on the local disk.
pub(crate) fn local_folder(url: &str) -> Option<std::path::PathBuf> {
    Url::parse(url).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()
}

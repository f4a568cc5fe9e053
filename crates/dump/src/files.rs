//! The files of a revision: new objects, and the rows of old ones.

use std::{ops::Range, sync::Arc};

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
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

fn local_folder(url: &str) -> Option<std::path::PathBuf> {
    Url::parse(url).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()
}

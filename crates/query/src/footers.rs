//! Parquet footers from the metadata store instead of from the end of each file.
//!
//! A footer that is not cached is fetched together with those of the files behind it in the same
//! scan: one question to the database for many files instead of one read of each file's end. What
//! the database does not have is read from the file as usual.

use std::{collections::HashMap, ops::Range, sync::Arc};

use bytes::Bytes;
use datafusion::{
    common::Result as DataFusionResult,
    datasource::{
        listing::PartitionedFile,
        physical_plan::{
            ParquetFileReaderFactory,
            parquet::{CachedParquetFileReaderFactory, metadata::CachedParquetMetaData},
        },
    },
    execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache},
    physical_plan::metrics::ExecutionPlanMetricsSet,
};
use futures::{FutureExt, future::BoxFuture};
use nozzle_metadata::{MetadataStore, SegmentId};
use object_store::{ObjectMeta, ObjectStore};
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::{ParquetError, Result as ParquetResult},
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};

/// How many footers are asked for at once.
const READ_AHEAD: usize = 64;

/// Makes readers that find their footers in the metadata store. One for each scan.
#[derive(Debug)]
pub struct FooterReaderFactory {
    readers: CachedParquetFileReaderFactory,
    footers: Arc<ScanFooters>,
}

impl FooterReaderFactory {
    /// A factory for the given files, in the order of the scan.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        metadata: Arc<dyn MetadataStore>,
        cache: Arc<FileMetadataCache>,
        files: Vec<(SegmentId, ObjectMeta)>,
    ) -> Self {
        let index = files.iter().enumerate().map(|(at, (_, meta))| (meta.location.clone(), at)).collect();
        let readers = CachedParquetFileReaderFactory::new(store, Arc::clone(&cache));
        Self { readers, footers: Arc::new(ScanFooters { metadata, cache, files, index }) }
    }
}

impl FooterReaderFactory {
    /// Makes sure that all footers are cached that the database has.
    pub async fn prefetch(&self) -> DataFusionResult<()> {
        for at in (0..self.footers.files.len()).step_by(READ_AHEAD) {
            self.footers.prefetch(at).await?;
        }
        Ok(())
    }
}

impl ParquetFileReaderFactory for FooterReaderFactory {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> DataFusionResult<Box<dyn AsyncFileReader + Send>> {
        let at = self.footers.index.get(&file.object_meta.location).copied();
        let inner = self.readers.create_reader(partition_index, file, metadata_size_hint, metrics)?;
        Ok(match at {
            Some(at) => Box::new(FooterReader { inner, footers: Arc::clone(&self.footers), at }),
            None => inner,
        })
    }
}

#[derive(Debug)]
struct ScanFooters {
    metadata: Arc<dyn MetadataStore>,
    cache: Arc<FileMetadataCache>,
    files: Vec<(SegmentId, ObjectMeta)>,
    index: HashMap<object_store::path::Path, usize>,
}

impl ScanFooters {
    fn is_cached(&self, meta: &ObjectMeta) -> bool {
        self.cache.get(&meta.location).is_some_and(|entry| entry.is_valid_for(meta))
    }

    /// Makes sure that the footer of the file `at` is cached, if the database has it.
    async fn prefetch(&self, at: usize) -> ParquetResult<()> {
        if self.is_cached(&self.files[at].1) {
            return Ok(());
        }
        let wanted: HashMap<SegmentId, &ObjectMeta> = self.files[at..]
            .iter()
            .take(READ_AHEAD)
            .filter(|(_, meta)| !self.is_cached(meta))
            .map(|(id, meta)| (*id, meta))
            .collect();
        let ids: Vec<SegmentId> = wanted.keys().copied().collect();
        let footers =
            self.metadata.footers(&ids).await.map_err(|error| ParquetError::External(error.into()))?;
        for (id, footer) in footers {
            let metadata: ParquetMetaData = ParquetMetaDataReader::decode_metadata(&footer)?;
            let meta = wanted[&id];
            let cached = Arc::new(CachedParquetMetaData::new(Arc::new(metadata)));
            self.cache.put(&meta.location, CachedFileMetadataEntry::new(meta.clone(), cached));
        }
        Ok(())
    }
}

struct FooterReader {
    inner: Box<dyn AsyncFileReader + Send>,
    footers: Arc<ScanFooters>,
    at: usize,
}

impl AsyncFileReader for FooterReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.inner.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        self.inner.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            self.footers.prefetch(self.at).await?;
            self.inner.get_metadata(options).await
        }
        .boxed()
    }
}

//! A table of a snapshot: exactly the committed segments of one location at one moment.

use std::sync::Arc;

use arrow::{compute::SortOptions, datatypes::SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{ColumnStatistics, Result as DataFusionResult, ScalarValue, Statistics, stats::Precision},
    config::TableParquetOptions,
    datasource::{
        TableType,
        listing::PartitionedFile,
        memory::DataSourceExec,
        physical_plan::{
            FileGroup, FileScanConfigBuilder, FileSource, ParquetFileReaderFactory, ParquetSource,
        },
    },
    error::DataFusionError,
    execution::object_store::ObjectStoreUrl,
    logical_expr::{Expr, TableProviderFilterPushDown},
    physical_expr::{LexOrdering, PhysicalSortExpr, expressions::Column},
    physical_plan::{
        ExecutionPlan,
        empty::EmptyExec,
        metrics::{ExecutionPlanMetricsSet, MetricBuilder},
    },
};
use nozzle_core::{
    BlockRange, DatasetKind, TableName,
    derived::DerivedManifest,
    schema::{BLOCK_NUM, order_within_block},
};
use nozzle_metadata::{Dataset, Location, MetadataStore, Scan, Segment, SegmentFile};
use object_store::{ObjectMeta, path::Path};
use url::Url;

use crate::{
    bounds::block_range,
    equality::{EqualitySource, EqualitySourceParts},
    footers::FooterReaderFactory,
    prune,
    stores::{Stores, store_key},
};

/// One table of one revision as a snapshot sees it. Rows come sorted by `_block_num`.
#[derive(Debug)]
pub struct SegmentTable {
    metadata: Arc<dyn MetadataStore>,
    stores: Arc<Stores>,
    location: Location,
    scan: Scan,
    schema: SchemaRef,
    /// Whether every file has all columns.
    is_uniform: bool,
    block_columns: BlockColumns,
}

/// What [`SegmentTable::new`] takes.
#[derive(Debug)]
pub struct SegmentTableParts {
    /// Where the segments are listed.
    pub metadata: Arc<dyn MetadataStore>,
    /// Where the files lie.
    pub stores: Arc<Stores>,
    /// The table of the revision.
    pub location: Location,
    /// The moment and the blocks that are seen.
    pub scan: Scan,
    /// The table's columns.
    pub schema: SchemaRef,
    /// Whether every file has all of them; what an older version has not written is null.
    pub is_uniform: bool,
    /// Which of them tell of a row's block.
    pub block_columns: BlockColumns,
}

/// The columns of a table that tell of a row's block. Not each is there where only some are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockColumns {
    /// Those that hold its number, `_block_num` first.
    pub numbers: Vec<String>,
    /// The one that holds its hash.
    pub hash: Option<&'static str>,
    /// The one by which the rows of one block are sorted.
    pub order: Option<&'static str>,
}

impl BlockColumns {
    /// Those of a registered dataset's table; the error is what is damaged.
    pub fn of(dataset: &Dataset, table: &TableName) -> Result<Self, String> {
        let numbers = |others: Vec<String>| std::iter::once(BLOCK_NUM.to_owned()).chain(others).collect();
        let of_raw = || numbers(vec!["block_num".to_owned()]);
        Ok(match dataset.kind {
            DatasetKind::EvmRpc | DatasetKind::Firehose | DatasetKind::EthBeacon => Self {
                numbers: of_raw(),
                hash: Some(dataset.kind.hash_column(table)),
                order: order_within_block(table),
            },
            // The tables and columns of packages are named at will.
            DatasetKind::Substreams => Self { numbers: of_raw(), hash: None, order: None },
            DatasetKind::Manifest | DatasetKind::Sql => {
                let manifest: DerivedManifest = serde_json::from_str(&dataset.manifest).map_err(|error| {
                    format!("the stored manifest of `{}` is damaged: {error}", dataset.name)
                })?;
                let others = manifest.resolved.and_then(|mut found| found.block_columns.remove(table));
                Self { numbers: numbers(others.unwrap_or_default()), hash: None, order: None }
            }
        })
    }
}

impl SegmentTable {
    /// A table over the given scan.
    pub fn new(parts: SegmentTableParts) -> Self {
        let SegmentTableParts { metadata, stores, location, scan, schema, is_uniform, block_columns } = parts;
        Self { metadata, stores, location, scan, schema, is_uniform, block_columns }
    }

    /// The columns that tell of a row's block.
    pub fn block_columns(&self) -> &BlockColumns {
        &self.block_columns
    }

    async fn files(&self, range: BlockRange) -> DataFusionResult<Vec<(Segment, PartitionedFile)>> {
        let Some(range) = self.scan.range.intersect(range) else { return Ok(vec![]) };
        let scan = Scan { range, ..self.scan };
        let segments = self.metadata.segments(&scan).await.map_err(external)?;
        let (_, folder) = self.stores.resolve(&self.location.url).map_err(external)?;
        let with_file = |segment: Segment| {
            let file = segment.file.as_ref()?;
            let partitioned = self.partitioned_file(&segment, file, &folder);
            Some((segment, partitioned))
        };
        Ok(segments.into_iter().filter_map(with_file).collect())
    }

    /// The file with what is known of it without opening it. The bounds of the block number are not
    /// exact: the chain may have skipped the first or last numbers of the range.
    fn partitioned_file(&self, segment: &Segment, file: &SegmentFile, folder: &Path) -> PartitionedFile {
        let meta = ObjectMeta {
            location: folder.clone().join(file.name.as_str()),
            // Objects never change once written, so the time is of no use; it must only be the same
            // each time, for the footer cache.
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: file.size_bytes,
            e_tag: file.e_tag.clone(),
            version: file.version.clone(),
        };
        let statistics = Statistics {
            num_rows: Precision::Exact(usize_of(file.rows)),
            total_byte_size: Precision::Inexact(usize_of(file.size_bytes)),
            column_statistics: self.bounds_within(segment.span.range),
        };
        let file = PartitionedFile::new_from_meta(meta).with_statistics(Arc::new(statistics));
        // Saves the reader from working out the file's own.
        if self.is_uniform { file.with_arrow_schema(Arc::clone(&self.schema)) } else { file }
    }

    /// The bounds of the columns that the rows are sorted by, up to the last of them. Of those behind it
    /// nothing is known, and to say so for each would take 10 KB a file.
    fn bounds_within(&self, range: BlockRange) -> Vec<ColumnStatistics> {
        let bounds = |min, max| ColumnStatistics {
            null_count: Precision::Exact(0),
            min_value: Precision::Inexact(min),
            max_value: Precision::Inexact(max),
            ..ColumnStatistics::new_unknown()
        };
        let block = |number| ScalarValue::UInt64(Some(number));
        let mut columns = vec![];
        for (index, field) in self.schema.fields().iter().enumerate() {
            let name = field.name();
            let known = if self.block_columns.numbers.contains(name) {
                bounds(block(range.start()), block(range.end()))
            } else if self.block_columns.order == Some(name) {
                bounds(ScalarValue::UInt32(Some(0)), ScalarValue::UInt32(Some(u32::MAX)))
            } else {
                continue;
            };
            columns.resize_with(index, ColumnStatistics::new_unknown);
            columns.push(known);
        }
        columns
    }

    /// How the rows are sorted, once for each column that holds the block number. Without nulls, what SQL
    /// means by ascending is this order, and by descending its reverse: the end is then read first.
    fn orderings(&self) -> Vec<LexOrdering> {
        let sorted_by = |name: &str| {
            let index = self.schema.index_of(name).ok()?;
            let options = SortOptions { descending: false, nulls_first: false };
            Some(PhysicalSortExpr::new(Arc::new(Column::new(name, index)), options))
        };
        let within = self.block_columns.order.and_then(sorted_by);
        let of_block = |name: &String| LexOrdering::new(sorted_by(name).into_iter().chain(within.clone()));
        let numbers = self.block_columns.numbers.iter();
        numbers.filter(|name| self.schema.index_of(name).is_ok()).filter_map(of_block).collect()
    }
}

#[async_trait]
impl TableProvider for SegmentTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        // The segments listed are a superset of what passes; the Parquet scan filters rows when the
        // optimizer hands it the physical filter.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let numbers: Vec<&str> = self.block_columns.numbers.iter().map(String::as_str).collect();
        let range = block_range(filters, &numbers);
        let files = match range {
            Some(range) => self.files(range).await?,
            None => vec![],
        };
        let (store, _) = self.stores.resolve(&self.location.url).map_err(external)?;
        let readers = FooterReaderFactory::new(
            store,
            Arc::clone(&self.metadata),
            session.runtime_env().cache_manager.get_file_metadata_cache(),
            files.iter().map(|(segment, file)| (segment.id, file.object_meta.clone())).collect(),
        );
        let wanted = prune::wanted(filters, &self.schema);
        if !wanted.is_empty() {
            readers.prefetch().await?;
        }
        let looks = ExecutionPlanMetricsSet::new();
        let listed = files.len();
        let files =
            prune::keep(files, &wanted, |(_, file)| readers.create_reader(0, file.clone(), None, &looks))
                .await?;
        if files.is_empty() {
            let schema = match projection {
                Some(columns) => Arc::new(self.schema.project(columns)?),
                None => self.schema(),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let options = TableParquetOptions {
            global: session.config_options().execution.parquet.clone(),
            ..TableParquetOptions::default()
        };
        let readers: Arc<dyn ParquetFileReaderFactory> = Arc::new(readers);
        let source = ParquetSource::new(Arc::clone(&self.schema))
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::clone(&readers));
        tell_looks(&looks, listed - files.len(), source.metrics());
        let range = range.unwrap_or_else(|| BlockRange::from(0));
        let parts = EqualitySourceParts { readers, range, sorted_by: BLOCK_NUM };
        let source = EqualitySource::new(Arc::new(source), parts);
        let statistics = total_statistics(&files, &self.schema);
        let groups = contiguous_groups(files, session.config().target_partitions());
        let config = FileScanConfigBuilder::new(store_url(&self.location.url)?, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_output_ordering(self.orderings())
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// Counts among what a scan has read what was read to choose its files, and the files that were left out by it.
fn tell_looks(looks: &ExecutionPlanMetricsSet, left_out: usize, metrics: &ExecutionPlanMetricsSet) {
    const READ: &str = "bytes_scanned";
    if let Some(read) = looks.clone_inner().sum_by_name(READ) {
        MetricBuilder::new(metrics).global_counter(READ).add(read.as_usize());
        MetricBuilder::new(metrics).global_counter("files_without_the_hash").add(left_out);
    }
}

/// Cuts the files, which are in block order, into at most `parts` runs of similar size: each run
/// stays sorted, and merging the runs by block keeps the table's order.
fn contiguous_groups(files: Vec<(Segment, PartitionedFile)>, parts: usize) -> Vec<FileGroup> {
    let sizes: Vec<u64> = files.iter().map(|(_, file)| file.object_meta.size).collect();
    let mut groups: Vec<Vec<PartitionedFile>> = vec![];
    let mut last = None;
    for ((_, file), part) in files.into_iter().zip(parts_of(&sizes, parts)) {
        if last != Some(part) {
            groups.push(vec![]);
            last = Some(part);
        }
        if let Some(group) = groups.last_mut() {
            group.push(file);
        }
    }
    groups.into_iter().map(FileGroup::new).collect()
}

/// To which of `parts` equal parts of all bytes the middle of each file belongs.
fn parts_of(sizes: &[u64], parts: usize) -> Vec<u64> {
    let total = sizes.iter().map(|size| u128::from(*size)).sum::<u128>().max(1);
    let mut before = 0;
    let part = |size: &u64| {
        // Twice the middle, so that it is a whole number.
        let middle = 2 * before + u128::from(*size);
        before += u128::from(*size);
        (middle * parts as u128 / (2 * total)) as u64
    };
    sizes.iter().map(part).collect()
}

fn total_statistics(files: &[(Segment, PartitionedFile)], schema: &SchemaRef) -> Statistics {
    let (mut rows, mut bytes) = (0, 0);
    for file in files.iter().filter_map(|(segment, _)| segment.file.as_ref()) {
        rows += file.rows;
        bytes += file.size_bytes;
    }
    let mut statistics = Statistics::new_unknown(schema);
    statistics.num_rows = Precision::Exact(usize_of(rows));
    statistics.total_byte_size = Precision::Inexact(usize_of(bytes));
    statistics
}

fn store_url(url: &str) -> DataFusionResult<ObjectStoreUrl> {
    let url = Url::parse(url).map_err(external)?;
    ObjectStoreUrl::parse(store_key(&url))
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shared_out_in_order_by_their_bytes() {
        let cases: &[(&[u64], usize, &[u64])] = &[
            (&[43, 57], 2, &[0, 1]),
            (&[57, 43], 2, &[0, 1]),
            (&[90, 5, 5], 2, &[0, 1, 1]),
            (&[10, 10, 10, 10], 2, &[0, 0, 1, 1]),
            (&[10; 3], 8, &[1, 4, 6]),
            (&[7], 4, &[2]),
            (&[0, 0], 2, &[0, 0]),
            (&[u64::MAX, u64::MAX], 2, &[0, 1]),
        ];
        for (sizes, parts, expected) in cases {
            assert_eq!(parts_of(sizes, *parts), *expected, "{sizes:?} in {parts}");
        }
    }
}

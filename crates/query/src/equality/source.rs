//! The Parquet scan, with conditions on columns of fixed width taken out of its filter and answered before it.

use std::{fmt, sync::Arc};

use arrow::{array::RecordBatch, buffer::BooleanBuffer, datatypes::SchemaRef};
use datafusion::{
    common::{DataFusionError, Result, config::ConfigOptions, tree_node::TreeNodeRecursion},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{
            FileOpenFuture, FileOpener, FileScanConfig, FileSource, ParquetFileMetrics,
            ParquetFileReaderFactory,
            parquet::{ParquetAccessPlan, RowGroupAccess, RowGroupAccessPlanFilter},
        },
        table_schema::TableSchema,
    },
    physical_expr::{
        EquivalenceProperties, PhysicalSortExpr, expressions::DynamicFilterTracking,
        projection::ProjectionExprs, split_conjunction,
    },
    physical_optimizer::pruning::PruningPredicateBuilder,
    physical_plan::{
        DisplayFormatType, PhysicalExpr, SortOrderPushdownResult,
        filter_pushdown::{FilterPushdownPropagation, PushedDown},
        metrics::{Count, ExecutionPlanMetricsSet},
    },
};
use datafusion_datasource::morsel::{Morsel, MorselPlanner, Morselizer, PendingMorselPlanner};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream, stream::BoxStream};
use nozzle_core::BlockRange;
use object_store::ObjectStore;
use parquet::{
    arrow::{
        arrow_reader::{ArrowReaderOptions, RowSelection},
        async_reader::AsyncFileReader,
    },
    file::{
        metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, RowGroupMetaData},
        statistics::Statistics,
    },
};

use super::{Wanted, bloom, conditions, pages, rows::Rows};

/// A scan of Parquet files that looks for rows by the values of columns of fixed width first.
#[derive(Clone)]
pub(crate) struct EqualitySource {
    /// The scan with all of its filter, for what is better left to it.
    whole: Arc<dyn FileSource>,
    /// The scan without the conditions of `wanted`.
    rest: Arc<dyn FileSource>,
    pub(super) wanted: Vec<Wanted>,
    /// Whether the last row groups of a file are read first.
    is_reversed: bool,
    parts: EqualitySourceParts,
}

/// What an [`EqualitySource`] needs to know of its files.
#[derive(Clone)]
pub(crate) struct EqualitySourceParts {
    /// What opens files.
    pub(crate) readers: Arc<dyn ParquetFileReaderFactory>,
    /// The blocks that the query's filters leave.
    pub(crate) range: BlockRange,
    /// The column that sorts the rows, of block numbers.
    pub(crate) sorted_by: &'static str,
}

impl EqualitySource {
    /// In front of a scan of Parquet files without a filter.
    pub(crate) fn new(scan: Arc<dyn FileSource>, parts: EqualitySourceParts) -> Self {
        Self { whole: Arc::clone(&scan), rest: scan, wanted: vec![], is_reversed: false, parts }
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.whole.table_schema().table_schema()
    }

    /// Whether its filter changes while the query runs.
    pub(super) fn is_dynamic(&self) -> bool {
        let is_dynamic = |filter| DynamicFilterTracking::classify(&filter).contains_dynamic_filter();
        self.rest.filter().is_some_and(is_dynamic)
    }

    pub(super) fn of_batches(&self, rows: usize) -> Self {
        let (whole, rest) = (self.whole.with_batch_size(rows), self.rest.with_batch_size(rows));
        Self { whole, rest, ..self.clone() }
    }

    pub(super) fn scan(
        &self,
        store: &Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Scan> {
        let open =
            |source: &Arc<dyn FileSource>| source.create_morselizer(Arc::clone(store), config, partition);
        Ok(Scan {
            whole: open(&self.whole)?,
            rest: open(&self.rest)?,
            is_dynamic: self.is_dynamic(),
            filter: self.rest.filter(),
            schema: Arc::clone(self.schema()),
            metrics: self.whole.metrics().clone(),
            partition,
            source: self.clone(),
        })
    }
}

impl FileSource for EqualitySource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        Ok(Arc::new(Opener(Arc::new(self.scan(&store, config, partition)?))))
    }

    fn table_schema(&self) -> &TableSchema {
        self.whole.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(self.of_batches(batch_size))
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.whole.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.whole.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.whole.metrics()
    }

    fn file_type(&self) -> &str {
        self.whole.file_type()
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt_extra(format, f)?;
        if !self.wanted.is_empty() {
            let columns: Vec<&str> = self.wanted.iter().map(|wanted| wanted.column.as_str()).collect();
            let columns = columns.join(", ");
            match format {
                DisplayFormatType::TreeRender => writeln!(f, "by_value={columns}")?,
                DisplayFormatType::Default | DisplayFormatType::Verbose => {
                    write!(f, ", by_value=[{columns}]")?;
                }
            }
        }
        Ok(())
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn FileSource>>> {
        let whole = self.whole.try_pushdown_filters(filters.clone(), config)?;
        let Some(whole_source) = whole.updated_node else {
            return Ok(FilterPushdownPropagation { updated_node: None, ..whole });
        };
        let mut wanted = self.wanted.clone();
        let mut others = vec![];
        // What is refused here is applied above this scan, and there only.
        let taken =
            filters.iter().zip(&whole.filters).filter(|(_, pushed)| matches!(pushed, PushedDown::Yes));
        for part in taken.flat_map(|(filter, _)| split_conjunction(filter)) {
            match conditions::wanted(part, self.schema()) {
                Some(found) => wanted.push(found),
                None => others.push(Arc::clone(part)),
            }
        }
        // Each by itself: the scan takes or refuses a filter as a whole.
        let rest = match others.is_empty() {
            true => Some(Arc::clone(&self.rest)),
            false => {
                let pushed = self.rest.try_pushdown_filters(others, config)?;
                let has_all = pushed.filters.iter().all(|pushed| matches!(pushed, PushedDown::Yes));
                pushed.updated_node.filter(|_| has_all)
            }
        };
        // Without a scan that applies all the others, nothing is to be found by value.
        let (rest, wanted) = rest.map_or_else(|| (Arc::clone(&whole_source), vec![]), |rest| (rest, wanted));
        let updated: Arc<dyn FileSource> =
            Arc::new(Self { whole: whole_source, rest, wanted, ..self.clone() });
        Ok(FilterPushdownPropagation { filters: whole.filters, updated_node: Some(updated) })
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
        properties: &EquivalenceProperties,
    ) -> Result<SortOrderPushdownResult<Arc<dyn FileSource>>> {
        use SortOrderPushdownResult::{Exact, Inexact, Unsupported};
        let sorted = |whole, rest, is_reversed| {
            Arc::new(Self { whole, rest, is_reversed, ..self.clone() }) as Arc<dyn FileSource>
        };
        let results = (
            self.whole.try_pushdown_sort(order, properties)?,
            self.rest.try_pushdown_sort(order, properties)?,
        );
        Ok(match results {
            (Exact { inner: whole }, Exact { inner: rest }) => {
                Exact { inner: sorted(whole, rest, self.is_reversed) }
            }
            (Inexact { inner: whole }, Inexact { inner: rest }) => {
                let is_reversed = order.first().is_some_and(|first| first.options.descending);
                Inexact { inner: sorted(whole, rest, is_reversed) }
            }
            _ => Unsupported,
        })
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.whole.reorder_files(files)
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        let results =
            (self.whole.try_pushdown_projection(projection)?, self.rest.try_pushdown_projection(projection)?);
        Ok(match results {
            (Some(whole), Some(rest)) => Some(Arc::new(Self { whole, rest, ..self.clone() })),
            _ => None,
        })
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.whole.apply_expressions(f)
    }
}

/// The scan of one partition.
pub(super) struct Scan {
    whole: Box<dyn Morselizer>,
    rest: Box<dyn Morselizer>,
    /// What `rest` filters by.
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// Whether that changes while the query runs.
    is_dynamic: bool,
    schema: SchemaRef,
    metrics: ExecutionPlanMetricsSet,
    partition: usize,
    pub(super) source: EqualitySource,
}

struct Opener(Arc<Scan>);

impl FileOpener for Opener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let scan = Arc::clone(&self.0);
        if scan.source.wanted.is_empty() {
            let planner = scan.whole.plan_file(file)?;
            return Ok(async move { Ok(batches(planner).boxed()) }.boxed());
        }
        Ok(scan.open(file).boxed())
    }
}

impl Scan {
    async fn open(self: Arc<Self>, file: PartitionedFile) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let Some(file) = self.opened(&file, None).await? else { return Ok(self.whole(file)?.boxed()) };
        let mut groups = file.groups.clone();
        if self.source.is_reversed {
            groups.reverse();
        }
        // One after the other, so that a query that has enough reads no more.
        let open = move |(group, _)| {
            let (scan, file) = (Arc::clone(&self), Arc::clone(&file));
            async move { scan.open_group(&file, group).await }
        };
        Ok(stream::iter(groups)
            .then(open)
            .try_filter_map(|planner| async { Ok(planner) })
            .map_ok(batches)
            .try_flatten()
            .boxed())
    }

    /// All rows of a file.
    pub(super) fn whole(
        &self,
        file: PartitionedFile,
    ) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + 'static + use<>> {
        Ok(batches(self.whole.plan_file(file)?))
    }

    /// A file whose columns can be read by their pages; `key` is one more of them.
    pub(super) async fn opened(
        &self,
        file: &PartitionedFile,
        key: Option<(&str, usize)>,
    ) -> Result<Option<Arc<OpenFile>>> {
        let mut reader = self.reader(file)?;
        // The pages of what is selected are found by the index.
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = reader.get_metadata(Some(&options)).await?;
        let wanted = self.source.wanted.iter();
        let wanted = wanted.map(|wanted| (wanted.column.as_str(), wanted.values.first().map_or(0, Vec::len)));
        let columns = wanted.chain(key).map(|column| place(column, &metadata)).collect();
        let Some(columns) = columns else { return Ok(None) };
        let mut groups: Vec<usize> = (0..metadata.num_row_groups()).collect();
        if let Some(range) = &file.range {
            groups.retain(|group| {
                let first = metadata.row_group(*group).column(0);
                range.contains(first.dictionary_page_offset().unwrap_or_else(|| first.data_page_offset()))
            });
        }
        let groups = self.passing(&metadata, &groups);
        Ok(Some(Arc::new(OpenFile { file: file.clone(), metadata, columns, groups })))
    }

    /// What reads the rows of one row group, if it may have any.
    pub(super) async fn open_group(
        &self,
        file: &OpenFile,
        group: usize,
    ) -> Result<Option<Box<dyn MorselPlanner>>> {
        // What a sort above has found by now may leave nothing to look for here.
        if self.is_dynamic && self.passing(&file.metadata, &[group]).is_empty() {
            return Ok(None);
        }
        let only = |access| {
            let mut plan = ParquetAccessPlan::new_none(file.metadata.num_row_groups());
            plan.set(group, access);
            file.file.clone().with_extension(plan)
        };
        let rows = match self.is_within_range(file.metadata.row_group(group)) {
            true => self.matching(file, group).await?,
            // Most of it will be skipped: the scan knows how.
            false => None,
        };
        let Some(rows) = rows else { return self.whole.plan_file(only(RowGroupAccess::Scan)).map(Some) };
        let access = match rows.count() {
            0 => return Ok(None),
            all if all == rows.len() => RowGroupAccess::Scan,
            _ => RowGroupAccess::Selection(RowSelection::from_boolean_buffer(BooleanBuffer::from(rows))),
        };
        self.rest.plan_file(only(access)).map(Some)
    }

    /// The rows of a row group that have all that is wanted; `None` where its pages are left to the scan.
    pub(super) async fn matching(&self, file: &OpenFile, group: usize) -> Result<Option<Rows>> {
        let mut reader = self.reader(&file.file)?;
        let group = file.metadata.row_group(group);
        let rows =
            usize::try_from(group.num_rows()).map_err(|error| DataFusionError::External(error.into()))?;
        let mut columns: Vec<(&ColumnChunkMetaData, &Wanted)> =
            file.columns.iter().map(|column| group.column(*column)).zip(&self.source.wanted).collect();
        let none = || Ok(Some(Rows::none(rows)));
        for (chunk, wanted) in &columns {
            let within: Vec<&[u8]> =
                wanted.values.iter().map(Vec::as_slice).filter(|value| lies_within(value, chunk)).collect();
            if within.is_empty() || !bloom::may_hold(reader.as_mut(), chunk, &within).await? {
                return none();
            }
        }
        // What is small is read first: it may leave nothing to look for in the others.
        columns.sort_by_key(|(chunk, _)| chunk.compressed_size());
        let mut matching: Option<Rows> = None;
        for (chunk, wanted) in columns {
            let (start, length) = chunk.byte_range();
            let bytes = reader.get_bytes(start..start + length).await?;
            let Some(found) = pages::matching(bytes, chunk, rows, matching.as_ref(), &wanted.values)? else {
                return Ok(None);
            };
            match &mut matching {
                None => matching = Some(found),
                Some(matching) => matching.keep(&found),
            }
            if matching.as_ref().is_some_and(|rows| rows.count() == 0) {
                break;
            }
        }
        Ok(matching)
    }

    pub(super) fn reader(&self, file: &PartitionedFile) -> Result<Box<dyn AsyncFileReader + Send>> {
        self.source.parts.readers.create_reader(self.partition, file.clone(), None, &self.metrics)
    }

    /// Of row groups, in their order, those of which the rest of the filter, as it is now, may let rows through, with
    /// whether it lets all of them through.
    fn passing(&self, metadata: &ParquetMetaData, groups: &[usize]) -> Vec<(usize, bool)> {
        let Some(filter) = &self.filter else { return groups.iter().map(|group| (*group, true)).collect() };
        let predicate = PruningPredicateBuilder::new()
            .with_file_schema(Arc::clone(&self.schema))
            .with_error_counter(&Count::new())
            .build(Arc::clone(filter));
        let Some(predicate) = predicate else { return groups.iter().map(|group| (*group, false)).collect() };
        let mut plan = ParquetAccessPlan::new_none(metadata.num_row_groups());
        groups.iter().for_each(|group| plan.scan(*group));
        let mut kept = RowGroupAccessPlanFilter::new(plan);
        kept.prune_by_statistics(
            &self.schema,
            metadata.file_metadata().schema_descr(),
            metadata.row_groups(),
            &predicate,
            // The scan counts for itself what it leaves out.
            &ParquetFileMetrics::new(self.partition, "", &ExecutionPlanMetricsSet::new()),
        );
        let all = kept.is_fully_matched().clone();
        let kept = kept.build();
        let groups = groups.iter().copied().filter(|group| kept.should_scan(*group));
        groups.map(|group| (group, all.get(group).copied().unwrap_or(false))).collect()
    }

    fn is_within_range(&self, group: &RowGroupMetaData) -> bool {
        let EqualitySourceParts { range, sorted_by, .. } = &self.source.parts;
        let is_sorting = |chunk: &&ColumnChunkMetaData| chunk.column_path().parts() == [*sorted_by];
        let Some(Statistics::Int64(bounds)) =
            group.columns().iter().find(is_sorting).and_then(|chunk| chunk.statistics())
        else {
            return false;
        };
        let block = |number: Option<&i64>| number.and_then(|number| u64::try_from(*number).ok());
        let (Some(first), Some(last)) = (block(bounds.min_opt()), block(bounds.max_opt())) else {
            return false;
        };
        range.start() <= first && last <= range.end()
    }
}

/// A file whose columns have been found.
pub(super) struct OpenFile {
    pub(super) file: PartitionedFile,
    pub(super) metadata: Arc<ParquetMetaData>,
    /// The columns of `wanted`, in that order, and the one that was asked for with them.
    pub(super) columns: Vec<usize>,
    /// The row groups that may have rows, with whether the rest of the filter lets all of them through.
    pub(super) groups: Vec<(usize, bool)>,
}

/// Where a column of this name and width is in a file; `None` if it is not there in a form that is read here.
fn place((name, width): (&str, usize), metadata: &ParquetMetaData) -> Option<usize> {
    let columns = metadata.file_metadata().schema_descr().columns();
    let at = columns.iter().position(|column| column.path().parts() == [name])?;
    metadata.row_groups().iter().all(|group| pages::is_readable(group.column(at), width)).then_some(at)
}

/// Whether a value lies between the least and the greatest of a column chunk.
pub(crate) fn lies_within(value: &[u8], chunk: &ColumnChunkMetaData) -> bool {
    let Some(Statistics::FixedLenByteArray(bounds)) = chunk.statistics() else { return true };
    bounds.min_opt().is_none_or(|min| min.data() <= value)
        && bounds.max_opt().is_none_or(|max| value <= max.data())
}

enum Step {
    Plan(Box<dyn MorselPlanner>),
    Wait(PendingMorselPlanner),
    Begin(Box<dyn Morsel>),
    Read(BoxStream<'static, Result<RecordBatch>>),
}

/// All that a planner comes to, in its order.
pub(super) fn batches(
    planner: Box<dyn MorselPlanner>,
) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    // What is next lies on top.
    stream::try_unfold(vec![Step::Plan(planner)], |mut steps| async move {
        while let Some(step) = steps.pop() {
            match step {
                Step::Plan(planner) => {
                    let Some(mut plan) = planner.plan()? else { continue };
                    steps.extend(plan.take_pending_planner().map(Step::Wait));
                    steps.extend(plan.take_ready_planners().into_iter().rev().map(Step::Plan));
                    steps.extend(plan.take_morsels().into_iter().rev().map(Step::Begin));
                }
                Step::Wait(pending) => steps.push(Step::Plan(pending.await?)),
                Step::Begin(morsel) => steps.push(Step::Read(morsel.into_stream())),
                Step::Read(mut rows) => {
                    if let Some(batch) = rows.try_next().await? {
                        steps.push(Step::Read(rows));
                        return Ok(Some((batch, steps)));
                    }
                }
            }
        }
        Ok(None)
    })
}

//! Counts by a column of fixed width, of what the pages have for its values: rows are counted by their numbers in the
//! dictionary, and each value is looked at once for a row group.

use std::{fmt, sync::Arc};

use arrow::{
    array::{ArrayRef, FixedSizeBinaryArray, Int64Array, RecordBatch},
    buffer::{Buffer, NullBuffer},
    datatypes::{DataType, FieldRef, Schema, SchemaRef},
};
use datafusion::{
    common::{
        DataFusionError, Result,
        config::ConfigOptions,
        internal_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    datasource::{listing::PartitionedFile, memory::DataSourceExec, physical_plan::FileScanConfig},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{
        EquivalenceProperties,
        expressions::{Column, Literal},
    },
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr,
        PlanProperties,
        aggregates::{AggregateExec, AggregateMode},
        coop::cooperative,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{FutureExt, StreamExt, TryStreamExt, stream, stream::BoxStream};

use super::{
    EqualitySource,
    pages::{self, Counts},
    source::{OpenFile, Scan, batches},
};

/// Row groups whose columns are read while another is counted.
const READ_AHEAD: usize = 2;

/// Makes aggregates count by pages where they ask for nothing but such counts.
#[derive(Debug)]
pub(crate) struct CountByPages;

impl PhysicalOptimizerRule for CountByPages {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let counted = plan.transform_up(|step| {
            let counted = step.downcast_ref::<AggregateExec>().map(of_counts).transpose()?.flatten();
            Ok(counted.map_or_else(|| Transformed::no(step), Transformed::yes))
        });
        Ok(counted?.data)
    }

    fn name(&self) -> &str {
        "count_by_pages"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The same aggregate, over counts of values in the place of rows.
fn of_counts(step: &AggregateExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let mode = match step.mode() {
        AggregateMode::Partial => AggregateMode::PartialReduce,
        AggregateMode::Single => AggregateMode::Final,
        _ => return Ok(None),
    };
    let is_value = |arg: &Arc<dyn PhysicalExpr>| {
        arg.downcast_ref::<Literal>().is_some_and(|literal| !literal.value().is_null())
    };
    let counts_rows = step.aggr_expr().iter().all(|call| {
        call.fun().name() == "count" && !call.is_distinct() && call.expressions().iter().all(is_value)
    });
    let is_bare = step.filter_expr().iter().all(Option::is_none)
        && step.limit_options().is_none()
        && step.dynamic_expressions_produced().is_empty();
    let ([(key, name)], true, true, true) =
        (step.group_expr().expr(), step.group_expr().is_single(), counts_rows, is_bare)
    else {
        return Ok(None);
    };
    let mut states = vec![];
    for call in step.aggr_expr() {
        states.extend(call.state_fields()?);
    }
    let Some(counts) = CountExec::over(step.input(), (key, name), states) else { return Ok(None) };
    let group_by = step.group_expr().as_final();
    let (calls, filters) = (step.aggr_expr().to_vec(), step.filter_expr().to_vec());
    let counted =
        AggregateExec::try_new(mode, group_by, calls, filters, Arc::new(counts), step.input_schema())?;
    Ok(Some(Arc::new(counted)))
}

/// Gives each value of a column, and how many rows of a scan have it, once for each row group or oftener. The rows are
/// groups with the states of their counts, as an aggregate makes them of a part of its rows.
#[derive(Debug, Clone)]
struct CountExec {
    scan: Arc<dyn ExecutionPlan>,
    key: Arc<Key>,
    properties: Arc<PlanProperties>,
}

/// The column by which rows are counted.
#[derive(Debug)]
struct Key {
    /// In the files.
    name: String,
    /// Among the columns of the scan.
    at: usize,
    width: usize,
    /// The column, and the counts.
    schema: SchemaRef,
}

fn scan_of(plan: &dyn ExecutionPlan) -> Option<(&FileScanConfig, &EqualitySource)> {
    let config = plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()?;
    Some((config, config.file_source.downcast_ref::<EqualitySource>()?))
}

impl CountExec {
    /// `None` where the step below is no scan of such a column.
    fn over(
        scan: &Arc<dyn ExecutionPlan>,
        (key, called): (&Arc<dyn PhysicalExpr>, &str),
        states: Vec<FieldRef>,
    ) -> Option<Self> {
        let (config, source) = scan_of(scan.as_ref())?;
        if config.limit.is_some() || source.is_dynamic() {
            return None;
        }
        let at = key.downcast_ref::<Column>()?.index();
        let name = config.file_source.projection().map_or(Some(source.schema().field(at).name()), |exprs| {
            let column = exprs.as_ref().get(at)?.expr.downcast_ref::<Column>()?;
            Some(source.schema().field(column.index()).name())
        });
        let schema = scan.schema();
        let field = schema.fields().get(at)?;
        let DataType::FixedSizeBinary(width) = field.data_type() else { return None };
        let width = usize::try_from(*width).ok().filter(|width| *width > 0)?;
        let renamed = Arc::new(field.as_ref().clone().with_name(called));
        let fields: Vec<_> = std::iter::once(renamed).chain(states).collect();
        let schema = Arc::new(Schema::new(fields));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(scan.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let key = Arc::new(Key { name: name?.clone(), at, width, schema });
        Some(Self { scan: Arc::clone(scan), key, properties: Arc::new(properties) })
    }
}

impl DisplayAs for CountExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CountExec: by_value=[{}]", self.key.name)
    }
}

impl ExecutionPlan for CountExec {
    fn name(&self) -> &str {
        "CountExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.scan]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self { scan: children.swap_remove(0), ..(*self).clone() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some((config, source)) = scan_of(self.scan.as_ref()) else {
            return internal_err!("CountExec has no scan of files below it");
        };
        let store = context.runtime_env().object_store(&config.object_store_url)?;
        let source = source.of_batches(config.batch_size.unwrap_or(context.session_config().batch_size()));
        let scan = Arc::new(source.scan(&store, config, partition)?);
        let files: Vec<_> = config.file_groups.get(partition).map_or(vec![], |group| group.files().to_vec());
        let key = Arc::clone(&self.key);
        let counted = move |file| of_file(Arc::clone(&scan), file, Arc::clone(&key)).boxed();
        let counts = cooperative(RecordBatchStreamAdapter::new(
            self.schema(),
            stream::iter(files).then(counted).try_flatten(),
        ));
        Ok(Box::pin(counts))
    }
}

async fn of_file(
    scan: Arc<Scan>,
    file: PartitionedFile,
    key: Arc<Key>,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let Some(opened) = scan.opened(&file, Some((&key.name, key.width))).await? else {
        return Ok(scan.whole(file)?.map(move |rows| key.of_rows(&rows?)).boxed());
    };
    let groups = opened.groups.clone();
    let counted = move |(group, has_all)| {
        let (scan, opened, key) = (Arc::clone(&scan), Arc::clone(&opened), Arc::clone(&key));
        async move { of_group(&scan, &opened, group, has_all, key).await }
    };
    Ok(stream::iter(groups).map(counted).buffered(READ_AHEAD).try_flatten().boxed())
}

/// The counts of a row group; `has_all` tells whether the filter lets all rows through that have what is wanted.
async fn of_group(
    scan: &Scan,
    file: &OpenFile,
    group: usize,
    has_all: bool,
    key: Arc<Key>,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    if has_all && let Some(counts) = of_pages(scan, file, group, key.width).await? {
        return Ok(stream::iter([key.of_counts(counts)]).boxed());
    }
    let planner = scan.open_group(file, group).await?;
    let rows = planner.map(|planner| batches(planner).map(move |rows| key.of_rows(&rows?)).boxed());
    Ok(rows.unwrap_or_else(|| stream::empty().boxed()))
}

/// The counts by pages; `None` where pages have a form that is not read here.
async fn of_pages(scan: &Scan, file: &OpenFile, group: usize, width: usize) -> Result<Option<Counts>> {
    let mut among = None;
    if !scan.source.wanted.is_empty() {
        let Some(found) = scan.matching(file, group).await? else { return Ok(None) };
        if found.count() == 0 {
            return Ok(Some(Counts::default()));
        }
        among = Some(found);
    }
    let Some(column) = file.columns.last() else { return Ok(None) };
    let group = file.metadata.row_group(group);
    let chunk = group.column(*column);
    let rows = usize::try_from(group.num_rows()).map_err(|error| DataFusionError::External(error.into()))?;
    let (start, length) = chunk.byte_range();
    let bytes = scan.reader(&file.file)?.get_bytes(start..start + length).await?;
    Ok(pages::counted(bytes, chunk, rows, among.as_ref(), width)?)
}

impl Key {
    /// Counts one for each row of the scan.
    fn of_rows(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let ones = Int64Array::from_value(1, rows.num_rows());
        self.batch(Arc::clone(rows.column(self.at)), Arc::new(ones))
    }

    fn of_counts(&self, counts: Counts) -> Result<RecordBatch> {
        let Counts { mut values, mut times, nulls } = counts;
        let mut valid = None;
        if nulls > 0 {
            valid = Some(NullBuffer::from_iter((0..=times.len()).map(|row| row < times.len())));
            values.resize(values.len() + self.width, 0);
            times.push(nulls);
        }
        let DataType::FixedSizeBinary(width) = self.schema.field(0).data_type() else {
            return internal_err!("a column of {}", self.schema.field(0).data_type());
        };
        let values = FixedSizeBinaryArray::try_new(*width, Buffer::from_vec(values), valid)?;
        self.batch(Arc::new(values), Arc::new(Int64Array::from(times)))
    }

    fn batch(&self, values: ArrayRef, times: ArrayRef) -> Result<RecordBatch> {
        let states = std::iter::repeat_n(times, self.schema.fields().len() - 1);
        let columns = std::iter::once(values).chain(states).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

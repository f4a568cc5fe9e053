//! A step that passes rows on as they are, and looks at them.

use std::{
    fmt::{self, Debug},
    sync::Arc,
};

use arrow::array::RecordBatch;
use datafusion::{
    common::tree_node::TreeNodeRecursion,
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, stream::RecordBatchStreamAdapter,
    },
};
use futures::TryStreamExt;

/// What looks at the rows of one partition; its error ends the query.
pub(crate) type Look = Box<dyn FnMut(&RecordBatch) -> Result<()> + Send>;

/// What rows are looked at for.
pub(crate) trait Watch: Debug + Send + Sync {
    /// As `EXPLAIN` shows the step.
    fn name(&self) -> &'static str;

    /// Begins with a partition; `None` where nothing is to be seen.
    fn begin(&self) -> Option<Look>;

    /// How many rows the steps below make at a time; `None`: as many as the step above.
    fn rows(&self) -> Option<usize> {
        None
    }
}

/// The step.
#[derive(Debug)]
pub(crate) struct WatchedExec {
    input: Arc<dyn ExecutionPlan>,
    watch: Arc<dyn Watch>,
}

impl WatchedExec {
    /// Above the step whose rows are looked at.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, watch: Arc<dyn Watch>) -> Self {
        Self { input, watch }
    }
}

impl DisplayAs for WatchedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.watch.name())
    }
}

impl ExecutionPlan for WatchedExec {
    fn name(&self) -> &str {
        self.watch.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
        Ok(Arc::new(Self { input: children.swap_remove(0), watch: Arc::clone(&self.watch) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let context = self.watch.rows().map_or_else(|| Arc::clone(&context), |rows| of_rows(&context, rows));
        let rows = self.input.execute(partition, context)?;
        let Some(mut look) = self.watch.begin() else { return Ok(rows) };
        let rows = rows.and_then(move |batch| std::future::ready(look(&batch).map(|()| batch)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// The same context with so many rows at a time.
fn of_rows(context: &TaskContext, rows: usize) -> Arc<TaskContext> {
    Arc::new(TaskContext::new(
        context.task_id(),
        context.session_id(),
        context.session_config().clone().with_batch_size(rows),
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        context.runtime_env(),
    ))
}

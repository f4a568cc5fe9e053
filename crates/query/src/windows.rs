//! The memory of windows: the engine keeps all rows of a window that looks ahead to their end, without asking for
//! memory.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::{
    common::{
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext, memory_pool::MemoryReservation},
    physical_expr::PhysicalExpr,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
        execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions},
        stream::RecordBatchStreamAdapter,
        windows::WindowAggExec,
    },
};
use futures::TryStreamExt;

use crate::{
    memory::Kept,
    udf::{Bounds, total},
};

/// Puts a step below each such window that takes what it keeps from the query's memory.
#[derive(Debug)]
pub(crate) struct Windows(pub Bounds);

impl PhysicalOptimizerRule for Windows {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let accounted = plan.transform_up(|plan| {
            let Some(window) = plan.downcast_ref::<WindowAggExec>() else { return Ok(Transformed::no(plan)) };
            let recomputed = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            let rows = Arc::new(KeptExec { input: Arc::clone(window.input()), bounds: self.0.clone() });
            Ok(Transformed::yes(plan.replace_children(vec![rows], recomputed)?))
        });
        Ok(accounted?.data)
    }

    fn name(&self) -> &str {
        "windows"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Passes rows on that are kept.
#[derive(Debug)]
struct KeptExec {
    input: Arc<dyn ExecutionPlan>,
    bounds: Bounds,
}

impl DisplayAs for KeptExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeptExec")
    }
}

impl ExecutionPlan for KeptExec {
    fn name(&self) -> &str {
        "KeptExec"
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
        Ok(Arc::new(Self { input: children.swap_remove(0), bounds: self.bounds.clone() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let Some(reservation) = self.bounds.reservation("OVER") else { return Ok(rows) };
        let held = Held { reservation, kept: self.bounds.kept() };
        let rows = rows.and_then(move |batch| std::future::ready(held.take(&batch).map(|()| batch)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// What was passed on; it is still there when the last of it was.
struct Held {
    reservation: MemoryReservation,
    kept: Kept,
}

impl Held {
    /// Twice, as the engine puts the batches together to one.
    fn take(&self, batch: &RecordBatch) -> Result<()> {
        let bytes: u64 = batch.columns().iter().map(|column| total(column.as_ref())).sum();
        self.reservation.try_grow(usize::try_from(bytes).unwrap_or(usize::MAX).saturating_mul(2))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.kept.take(&mut self.reservation);
    }
}

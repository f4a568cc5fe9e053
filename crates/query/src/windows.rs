//! The memory of windows: the engine keeps all rows of a window that looks ahead to their end, without asking for
//! memory.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::{
    common::{
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    error::Result,
    execution::memory_pool::MemoryReservation,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan,
        execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions},
        windows::WindowAggExec,
    },
};

use crate::{
    memory::Kept,
    udf::{Bounds, total},
    watched::{Look, Watch, WatchedExec},
};

/// Puts a step below each such window that takes what it keeps from the query's memory.
#[derive(Debug)]
pub(crate) struct Windows(pub Bounds);

impl PhysicalOptimizerRule for Windows {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let accounted = plan.transform_up(|plan| {
            let Some(window) = plan.downcast_ref::<WindowAggExec>() else { return Ok(Transformed::no(plan)) };
            let recomputed = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            let kept = Arc::new(KeptRows(self.0.clone()));
            let rows = Arc::new(WatchedExec::new(Arc::clone(window.input()), kept));
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

/// Takes the memory of rows that are kept.
#[derive(Debug)]
struct KeptRows(Bounds);

impl Watch for KeptRows {
    fn name(&self) -> &'static str {
        "KeptExec"
    }

    fn begin(&self) -> Option<Look> {
        let reservation = self.0.reservation("OVER")?;
        let held = Held { reservation, kept: self.0.kept() };
        Some(Box::new(move |batch| held.take(batch)))
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

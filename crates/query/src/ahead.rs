//! Parts that are merged in their order work at the same time. The parts of a scan follow each other, so that a merge
//! of them takes all of the first before it takes more than one batch of the second: without room for what the others
//! make meanwhile, one processor does the work of all.

use std::sync::Arc;

use datafusion::{
    common::{Result, config::ConfigOptions},
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
        buffer::BufferExec, execution_plan::EmissionType, repartition::RepartitionExec,
        sorts::sort_preserving_merge::SortPreservingMergeExec,
    },
};

/// What a part may have ready, in bytes: some ten thousand rows of a log.
const ROOM: usize = 4 << 20;

/// Gives the parts of a merge room to work ahead, unless a limit above may leave what they make unused.
#[derive(Debug)]
pub(crate) struct Ahead;

impl PhysicalOptimizerRule for Ahead {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        with_room(plan, false)
    }

    fn name(&self) -> &str {
        "ahead"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn with_room(plan: Arc<dyn ExecutionPlan>, is_limited: bool) -> Result<Arc<dyn ExecutionPlan>> {
    // What gives nothing before it has all takes all, whatever is left of it.
    let takes_all = plan.pipeline_behavior() == EmissionType::Final;
    let is_limited = !takes_all && (is_limited || plan.fetch().is_some());
    let is_merge = plan.is::<SortPreservingMergeExec>()
        || plan.downcast_ref::<RepartitionExec>().is_some_and(RepartitionExec::preserve_order);
    let mut inputs = vec![];
    let mut is_changed = false;
    for input in plan.children() {
        let parts = input.output_partitioning().partition_count();
        let is_ahead = is_merge && !is_limited && parts > 1 && comes_in_pieces(input.as_ref());
        let mut changed = with_room(Arc::clone(input), is_limited)?;
        if is_ahead {
            changed = Arc::new(BufferExec::new(changed, ROOM));
        }
        is_changed |= !Arc::ptr_eq(input, &changed);
        inputs.push(changed);
    }
    match is_changed {
        true => plan.replace_children(inputs, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute)),
        false => Ok(plan),
    }
}

/// Whether each part gives rows while it works: what has all before it gives any has worked already.
fn comes_in_pieces(plan: &dyn ExecutionPlan) -> bool {
    plan.pipeline_behavior() == EmissionType::Incremental
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::{
        array::{Int64Array, RecordBatch},
        datatypes::{DataType, Field, Schema, SchemaRef},
    };
    use datafusion::{
        catalog::streaming::StreamingTable,
        execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext},
        physical_plan::{displayable, stream::RecordBatchStreamAdapter, streaming::PartitionStream},
        prelude::{SessionConfig, SessionContext, col},
    };
    use futures::{StreamExt, stream};
    use tokio::{sync::Semaphore, time::timeout};

    use super::*;
    use crate::{session, udf::rows_of};

    /// The batches of a part.
    const BATCHES: i64 = 9;

    /// A part whose rows are ascending. The first waits until the second has none left.
    #[derive(Debug)]
    struct Part {
        is_first: bool,
        schema: SchemaRef,
        second_is_done: Arc<Semaphore>,
    }

    impl PartitionStream for Part {
        fn schema(&self) -> &SchemaRef {
            &self.schema
        }

        fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
            let (is_first, done) = (self.is_first, Arc::clone(&self.second_is_done));
            let schema = Arc::clone(&self.schema);
            let batch = move |number| {
                let (done, schema) = (Arc::clone(&done), Arc::clone(&schema));
                async move {
                    if is_first {
                        drop(done.acquire().await.expect("it stays open"));
                    } else if number == BATCHES - 1 {
                        done.add_permits(1);
                    }
                    let first = if is_first { 0 } else { BATCHES };
                    let numbers = Int64Array::from_value(first + number, 1);
                    Ok(RecordBatch::try_new(schema, vec![Arc::new(numbers)])?)
                }
            };
            let batches = stream::iter(0..BATCHES).then(batch);
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
        }
    }

    fn two_parts() -> SessionContext {
        let config = SessionConfig::new().with_target_partitions(2);
        let context = session::context(SessionStateBuilder::new().with_config(config));
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let second_is_done = Arc::new(Semaphore::new(0));
        let part = |is_first| -> Arc<dyn PartitionStream> {
            let second_is_done = Arc::clone(&second_is_done);
            Arc::new(Part { is_first, schema: Arc::clone(&schema), second_is_done })
        };
        let table = StreamingTable::try_new(Arc::clone(&schema), vec![part(true), part(false)])
            .expect("a table")
            .with_sort_order(vec![col("n").sort(true, false)]);
        context.register_table("t", Arc::new(table)).expect("a table");
        context
    }

    #[tokio::test]
    async fn parts_that_follow_each_other_work_at_once() {
        for (sql, rows) in [
            ("SELECT n FROM t ORDER BY n", 2 * BATCHES),
            ("SELECT n / 2 AS h, count(*) FROM t GROUP BY h ORDER BY h", BATCHES),
            ("SELECT n, count(*) FROM t GROUP BY n", 2 * BATCHES),
        ] {
            let found =
                timeout(Duration::from_secs(20), async { rows_of(&two_parts(), sql).await.expect(sql) });
            let found = found.await.unwrap_or_else(|_| panic!("the second part waits for the first: {sql}"));
            // Beside three lines of the frame, and the names.
            assert_eq!(found.lines().count() as i64, rows + 4, "{sql}\n{found}");
        }
    }

    #[tokio::test]
    async fn what_a_limit_may_leave_unused_is_not_made_ahead() {
        let context = two_parts();
        for (sql, merges) in [
            ("SELECT n FROM t ORDER BY n", 1),
            ("SELECT n FROM t ORDER BY n LIMIT 3", 0),
            ("SELECT n, count(*) FROM t GROUP BY n LIMIT 3", 0),
            ("SELECT n, count(*) AS c FROM t GROUP BY n ORDER BY c LIMIT 3", 1),
            ("SELECT -n AS m FROM t ORDER BY m", 0),
            ("SELECT n FROM t", 0),
        ] {
            let plan = context.sql(sql).await.expect(sql).create_physical_plan().await.expect(sql);
            let plan = displayable(plan.as_ref()).indent(false).to_string();
            assert_eq!(plan.matches("BufferExec").count(), merges, "{sql}\n{plan}");
        }
    }
}

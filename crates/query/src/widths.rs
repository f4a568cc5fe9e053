//! How large a row may be that is repeated: a join and `unnest` write a row out as often as it is needed, for a whole
//! batch at once, without asking for memory.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Schema},
};
use datafusion::{
    common::{
        config::ConfigOptions,
        exec_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::Result,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions, scalar_subquery::ScalarSubqueryExec,
        unnest::UnnestExec,
    },
};

use crate::{
    pauses::makes_more,
    udf::{items_of, of_array, total},
    watched::{Look, Watch, WatchedExec},
};

/// The rows that are made at a time where large ones may be repeated.
pub(crate) const FEW_ROWS: usize = 32;

/// What a row may have that is repeated for rows of another table, in bytes: rows of a chain have less, and
/// [`FEW_ROWS`] of them are 128 MiB.
const MOST_OF_ROW: i128 = 4 << 20;

/// What may be written out beside the items of one row's lists, in bytes.
const MOST_BESIDE: i128 = 256 << 20;

/// Looks at the rows below each step that repeats them.
#[derive(Debug)]
pub(crate) struct Widths;

impl PhysicalOptimizerRule for Widths {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let watched = plan.transform_up(|step| {
            if !repeats(step.as_ref()) {
                return Ok(Transformed::no(step));
            }
            // The first input of a step with subqueries is what asks for their values.
            let first = usize::from(step.is::<ScalarSubqueryExec>());
            let lists = step.downcast_ref::<UnnestExec>().map(|unnest| {
                let lists = unnest.list_column_indices().iter();
                lists.map(|list| list.index_in_input_schema).collect::<Vec<_>>()
            });
            let watched = |(at, input): (usize, &Arc<dyn ExecutionPlan>)| {
                let watch: Arc<dyn Watch> = match &lists {
                    Some(lists) => Arc::new(Unnested(lists.clone())),
                    None if at >= first => Arc::new(Repeated(of_any_width(&input.schema()))),
                    None => return Arc::clone(input),
                };
                Arc::new(WatchedExec::new(Arc::clone(input), watch)) as Arc<dyn ExecutionPlan>
            };
            let inputs = step.children().into_iter().enumerate().map(watched).collect();
            let recomputed = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(step.replace_children(inputs, recomputed)?))
        });
        Ok(watched?.data)
    }

    fn name(&self) -> &str {
        "widths"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn repeats(step: &dyn ExecutionPlan) -> bool {
    makes_more(step) || step.is::<ScalarSubqueryExec>()
}

/// A plan whose steps make few rows at a time as large ones are repeated in it, but for those with so many that have
/// nothing to do with that: there is no join below them, and none of their rows has the value of a subquery.
pub(crate) fn paced(plan: Arc<dyn ExecutionPlan>, rows: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let paced = plan.transform_down(|step| {
        if step.is::<ScalarSubqueryExec>() {
            return Ok(Transformed::new(step, false, TreeNodeRecursion::Jump));
        }
        if step.exists(|below| Ok(repeats(below.as_ref())))? {
            return Ok(Transformed::no(step));
        }
        let paced = Arc::new(WatchedExec::new(step, Arc::new(Paced(rows)))) as Arc<dyn ExecutionPlan>;
        Ok(Transformed::new(paced, true, TreeNodeRecursion::Jump))
    });
    Ok(paced?.data)
}

/// Below it are so many rows at a time.
#[derive(Debug)]
struct Paced(usize);

impl Watch for Paced {
    fn name(&self) -> &'static str {
        "PaceExec"
    }

    fn begin(&self) -> Option<Look> {
        None
    }

    fn rows(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// The columns whose values are not all of one size.
fn of_any_width(schema: &Schema) -> Vec<usize> {
    let is_any =
        |ty: &DataType| !ty.is_primitive() && !matches!(ty, DataType::FixedSizeBinary(_) | DataType::Boolean);
    let fields = schema.fields().iter().enumerate();
    fields.filter(|(_, field)| is_any(field.data_type())).map(|(at, _)| at).collect()
}

/// Refuses rows that are too large to be repeated, by these columns.
#[derive(Debug)]
struct Repeated(Vec<usize>);

impl Watch for Repeated {
    fn name(&self) -> &'static str {
        "WidthExec"
    }

    fn begin(&self) -> Option<Look> {
        let columns = (!self.0.is_empty()).then(|| self.0.clone())?;
        Some(Box::new(move |batch| {
            let all: u64 = columns.iter().map(|at| total(batch.column(*at).as_ref())).sum();
            if i128::from(all) <= MOST_OF_ROW {
                return Ok(());
            }
            let largest = of_rows(batch, &columns).into_iter().max().unwrap_or(0);
            if largest <= MOST_OF_ROW {
                return Ok(());
            }
            exec_err!(
                "a row that is joined with others, or used by them, has {largest} bytes, and {MOST_OF_ROW} are the \
                 most: leave out large values there, or take parts of them"
            )
        }))
    }
}

/// Refuses lists that are too long for what is beside them; these columns are the lists.
#[derive(Debug)]
struct Unnested(Vec<usize>);

impl Watch for Unnested {
    fn name(&self) -> &'static str {
        "WidthExec"
    }

    fn begin(&self) -> Option<Look> {
        let lists = self.0.clone();
        Some(Box::new(move |batch| {
            let beside: Vec<usize> = (0..batch.num_columns()).filter(|at| !lists.contains(at)).collect();
            let mut most = vec![0; batch.num_rows()];
            for list in &lists {
                let items = items_of(batch.column(*list).as_ref());
                most.iter_mut().zip(items).for_each(|(most, items)| *most = items.max(*most));
            }
            let rows = of_rows(batch, &beside).into_iter().zip(most);
            let largest = rows.map(|(bytes, items)| bytes * items).max().unwrap_or(0);
            if largest <= MOST_BESIDE {
                return Ok(());
            }
            exec_err!(
                "`unnest` would write {largest} bytes beside the items of one row, and {MOST_BESIDE} are the most: \
                 ask for fewer columns beside it, or for parts of large values"
            )
        }))
    }
}

/// The bytes that each row has in some columns.
fn of_rows(batch: &RecordBatch, columns: &[usize]) -> Vec<i128> {
    let mut sums = vec![0; batch.num_rows()];
    for column in columns {
        let sizes = of_array(batch.column(*column).as_ref());
        sums.iter_mut().zip(sizes).for_each(|(sum, size)| *sum += size);
    }
    sums
}

#[cfg(test)]
mod tests {
    use datafusion::{
        execution::{SessionStateBuilder, TaskContext},
        physical_plan::displayable,
    };
    use futures::TryStreamExt;

    use super::*;
    use crate::{session::context, udf::rows_of};

    #[tokio::test]
    async fn rows_that_are_too_large_are_not_repeated() {
        let context = context(SessionStateBuilder::new());
        let one = |what: &str| format!("(SELECT 1 AS k, {what} AS t FROM generate_series(5000000, 5000000))");
        let many = "(SELECT 1 AS k, value FROM generate_series(1, 3000))";
        let text = one("arrow_cast(repeat('x', value), 'LargeUtf8')");
        let joined = "that is joined";
        for (sql, why) in [
            (format!("SELECT max(length(t)) FROM {text} a CROSS JOIN {many} b"), joined),
            (format!("SELECT max(length(t)) FROM {text} a JOIN {many} b ON a.k = b.k"), joined),
            (format!("SELECT max(length(t)) FROM {text} a JOIN {many} b ON length(a.t) > b.value"), joined),
            (format!("SELECT max(length(t)) FROM {many} a LEFT JOIN {text} b ON a.k = b.k"), joined),
            (
                format!("SELECT max(cardinality(t)) FROM {} a CROSS JOIN {many} b", one("range(0, value)")),
                joined,
            ),
            (format!("SELECT max(length((SELECT t FROM {text}) || value)) FROM {many}"), joined),
            (
                format!("SELECT max(length(t)) FROM (SELECT t, unnest(range(0, 1000)) AS u FROM {text})"),
                "`unnest`",
            ),
        ] {
            let error = rows_of(&context, &sql).await.expect_err(&sql).to_string();
            assert!(error.contains(why), "{sql}: {error}");
        }
        // What is repeated here is small, or what is large is not repeated.
        for (sql, answer) in [
            (
                format!(
                    "SELECT sum(length(t)) AS n FROM {} a CROSS JOIN {many} b",
                    one("repeat('x', value / 100)")
                ),
                150_000_000,
            ),
            (format!("SELECT max(length(t)) AS n FROM {text}"), 5_000_000),
            (
                format!(
                    "SELECT count(u) AS n FROM (SELECT unnest(t) AS u, k FROM {})",
                    one("range(0, value)")
                ),
                5_000_000,
            ),
        ] {
            let found = rows_of(&context, &sql).await.expect(&sql);
            assert!(found.contains(&format!("| {answer}")), "{sql}: {found}");
        }
    }

    #[tokio::test]
    async fn what_repeats_nothing_makes_as_many_rows_as_ever() {
        let context = context(SessionStateBuilder::new());
        let rows = "(SELECT value AS k FROM generate_series(1, 100) WHERE value % 2 = 0)";
        let plan = async |sql: &str| {
            let plan = context.sql(sql).await.expect(sql).create_physical_plan().await.expect(sql);
            paced(plan, 50).expect(sql)
        };
        for (sql, steps) in [
            (
                format!(
                    "SELECT * FROM {rows} a JOIN (SELECT k, array_agg(k) FROM {rows} GROUP BY k) b USING (k)"
                ),
                2,
            ),
            (format!("SELECT * FROM {rows} a JOIN {rows} b USING (k) CROSS JOIN {rows} c"), 3),
            (format!("SELECT unnest(range(0, k)) FROM {rows}"), 1),
            (format!("SELECT k || (SELECT string_agg(k || '', ',') FROM {rows}) FROM {rows}"), 0),
        ] {
            let plan = displayable(plan(&sql).await.as_ref()).indent(false).to_string();
            assert_eq!(plan.matches("PaceExec").count(), steps, "{sql}\n{plan}");
        }
        let task = |rows| {
            let state = context.state();
            let config = state.config().clone().with_batch_size(rows);
            Arc::new(TaskContext::from(&state).with_session_config(config))
        };
        let plan = plan("SELECT value AS k FROM generate_series(1, 100) ORDER BY k DESC").await;
        let batches: Vec<_> = plan.execute(0, task(10)).expect("rows").try_collect().await.expect("rows");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [50, 50]);
    }
}

//! How large filters become when the engine puts them below the columns that they name: it writes each column out as
//! what it is made of, so that a few queries within each other, each with the column below it twice, are an expression
//! without end.

use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    logical_expr::{Expr, LogicalPlan},
};

use crate::error::QueryError;

/// Parts of a filter that is written out, at most, beside as many values as stand in the plan.
const MAX_PARTS: u64 = 200_000;

/// Refuses a plan of which a filter would become too large.
pub(crate) fn check(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut values = 0_u64;
    plan.apply_with_subqueries(|step| {
        step.apply_expressions(|expr| {
            expr.apply(|part| {
                values += u64::from(matches!(part, Expr::Literal(..)));
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    sizes(plan, MAX_PARTS.saturating_add(values)).map(drop)
}

/// The parts that each column of a plan is made of.
fn sizes(plan: &LogicalPlan, most: u64) -> Result<Vec<u64>, QueryError> {
    let below: Vec<_> =
        plan.inputs().into_iter().map(|input| sizes(input, most)).collect::<Result<_, _>>()?;
    let mut within = Ok(());
    plan.apply_subqueries(|subquery| {
        within = sizes(subquery, most).map(drop);
        Ok(if within.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    within?;
    let of = |expr: &Expr| written_out(expr, plan, &below);
    let filter = match plan {
        LogicalPlan::Filter(filter) => Some(&filter.predicate),
        LogicalPlan::Join(join) => join.filter.as_ref(),
        _ => None,
    };
    if filter.is_some_and(|filter| of(filter) > most) {
        return Err(QueryError::Plan(format!(
            "a filter has more than {most} parts when its columns are written out as what they are made of: \
             name a column less often in each query within another"
        )));
    }
    let columns = plan.schema().fields().len();
    let mut sizes: Vec<u64> = match plan {
        LogicalPlan::Projection(projection) => projection.expr.iter().map(of).collect(),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.iter().map(of).collect(),
        LogicalPlan::Union(_) => (0..columns)
            .map(|column| below.iter().filter_map(|sizes| sizes.get(column)).copied().max().unwrap_or(1))
            .collect(),
        // Each column is one of those below, or new.
        LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Window(_) => below.into_iter().flatten().collect(),
        _ => vec![],
    };
    sizes.resize(columns, 1);
    Ok(sizes)
}

fn written_out(expr: &Expr, plan: &LogicalPlan, below: &[Vec<u64>]) -> u64 {
    let mut parts = 0_u64;
    let of_column = |column| {
        let inputs = plan.inputs().into_iter().zip(below);
        let found = inputs
            .filter_map(|(input, sizes)| sizes.get(input.schema().maybe_index_of_column(column)?).copied());
        found.max().unwrap_or(1)
    };
    let walked = expr.apply(|part| {
        parts = parts.saturating_add(match part {
            Expr::Column(column) => of_column(column),
            _ => 1,
        });
        Ok(TreeNodeRecursion::Continue)
    });
    // Nothing in it fails.
    walked.map_or(u64::MAX, |_| parts)
}

#[cfg(test)]
mod tests {
    use datafusion::execution::SessionStateBuilder;

    use crate::session;

    #[tokio::test]
    async fn a_filter_below_columns_that_double_is_refused() {
        let context = session::context(SessionStateBuilder::new());
        let planned = async |sql: &str| session::planned(&context.state(), session::parsed(sql)?).await;
        // Each query has the column of the one before it twice, or as often as is said.
        let doubled = |levels: usize, twice: &str, last: &str| {
            let each = (1..=levels).map(|at| format!(", q{at} AS (SELECT {twice} AS x FROM q{})", at - 1));
            format!(
                "WITH q0 AS (SELECT 1 AS x){}, q AS (SELECT x FROM q{levels}) {last}",
                each.collect::<String>()
            )
        };
        let filter = "SELECT x FROM q WHERE x > 1";
        for sql in [
            doubled(40, "x + x", filter),
            doubled(40, "x + x", "SELECT 1 WHERE 1 IN (SELECT x FROM q WHERE x > 1)"),
            doubled(40, "CASE WHEN x > 1 THEN x END", "SELECT * FROM q JOIN (SELECT 2 AS y) b ON x > y"),
            doubled(40, "x * x", "SELECT x FROM (SELECT x FROM q GROUP BY x UNION ALL SELECT 2) WHERE x > 1"),
        ] {
            let error = planned(&sql).await.expect_err("too large").to_string();
            assert!(error.contains("parts when its columns are written out"), "{error}");
        }
        for sql in [
            doubled(40, "x + x", "SELECT x FROM q"),
            doubled(12, "x + x", filter),
            doubled(40, "x + 1", filter),
        ] {
            planned(&sql).await.expect(&sql);
        }
        // Values count as often as they are written out, but for the first time.
        let found = |values: u64, twice: &str| {
            let values: Vec<_> = (0..values).map(|value| value.to_string()).collect();
            format!(
                "SELECT 1 FROM (SELECT {twice} AS c FROM (SELECT x IN ({}) AS b FROM (SELECT 1 AS x))) WHERE c",
                values.join(", ")
            )
        };
        planned(&found(250_000, "b")).await.expect("a long list");
        let error = planned(&found(20_000, &["b"; 20].join(" AND "))).await.expect_err("too large");
        assert!(error.to_string().contains("parts when its columns are written out"), "{error}");
    }
}

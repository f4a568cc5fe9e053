//! How many rows a query makes at a time. A constant is written out for each row wherever a step makes a column of it,
//! before any limit of memory hears of that: the larger a query's constants, the fewer rows it makes at a time.

use std::collections::BTreeSet;

use datafusion::{
    common::{
        ScalarValue, plan_err,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    error::Result,
    execution::SessionState,
    logical_expr::{
        BinaryExpr, Expr, LogicalPlan, Operator, Unnest,
        expr::{InList, Like},
    },
};

use crate::{
    udf::{self, total},
    widths::FEW_ROWS,
};

/// What the constants of a batch of rows may come to, in bytes.
const MOST_SPREAD: u64 = 16 << 20;

/// What the constants of one step of windows may have, in bytes: it writes them out for all rows that it looks at.
const MOST_OF_WINDOW: u64 = 4 << 10;

/// The state with which an optimized plan is to be run: that which it was optimized with, or one of fewer rows at a
/// time. With it comes how many rows steps may make that have nothing to do with rows that are repeated.
pub(crate) fn fitted(mut state: SessionState, plan: &LogicalPlan) -> Result<(SessionState, usize)> {
    let rows = MOST_SPREAD / width(plan)?.max(1);
    let rows = usize::try_from(rows).unwrap_or(usize::MAX).clamp(1, state.config().batch_size());
    let few = if repeats_large(plan)? { rows.min(FEW_ROWS) } else { rows };
    if few < state.config().batch_size() {
        let config = state.config().clone().with_batch_size(few);
        *state.config_mut() = config;
    }
    Ok((state, rows))
}

/// Whether a plan repeats rows with values that were made large.
fn repeats_large(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|step| {
        step.apply_subqueries(|subquery| {
            found |= makes_large(subquery)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        let is_repeated = matches!(step, LogicalPlan::Join(_) | LogicalPlan::Unnest(_));
        if is_repeated {
            for input in step.inputs() {
                found |= makes_large(input)?;
            }
        }
        Ok(match (found, is_repeated) {
            (true, _) => TreeNodeRecursion::Stop,
            // All that is below has been looked through.
            (false, true) => TreeNodeRecursion::Jump,
            (false, false) => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

fn makes_large(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|step| {
        step.apply_expressions(|expr| {
            expr.apply(|part| {
                found |= match part {
                    Expr::ScalarFunction(call) => udf::makes_large(call.name(), &call.args),
                    Expr::AggregateFunction(call) => udf::makes_large(call.func.name(), &call.params.args),
                    Expr::WindowFunction(call) => udf::makes_large(call.fun.name(), &call.params.args),
                    _ => false,
                };
                Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    Ok(found)
}

/// The bytes that the constants of a plan have in one row.
fn width(plan: &LogicalPlan) -> Result<u64> {
    let mut below = 0_u64;
    for input in plan.inputs() {
        let input = width(input)?;
        // A row comes from one of them.
        below = if matches!(plan, LogicalPlan::Union(_)) { below.max(input) } else { below + input };
    }
    plan.apply_subqueries(|subquery| {
        below += width(subquery)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    match plan {
        LogicalPlan::Values(values) => {
            let rows = values.values.iter().map(written);
            Ok(below + rows.collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0))
        }
        LogicalPlan::Window(window) => {
            let own = written(&window.window_expr)?;
            if own > MOST_OF_WINDOW {
                return plan_err!(
                    "the constants of a window have {own} bytes, and {MOST_OF_WINDOW} are the most"
                );
            }
            Ok(below)
        }
        LogicalPlan::Unnest(unnest) => Ok(below.saturating_sub(once(unnest)?)),
        plan => {
            let mut own = 0;
            plan.apply_expressions(|expr| {
                own += written([expr])?;
                Ok(TreeNodeRecursion::Continue)
            })?;
            Ok(below + own)
        }
    }
}

/// The bytes of constant lists that are written once, and of which rows are made.
fn once(unnest: &Unnest) -> Result<u64> {
    let LogicalPlan::Projection(lists) = unnest.input.as_ref() else { return Ok(0) };
    if !matches!(lists.input.as_ref(), LogicalPlan::EmptyRelation(_)) {
        return Ok(0);
    }
    let unnested: BTreeSet<_> = unnest.list_type_columns.iter().map(|(at, _)| *at).collect();
    written(unnested.into_iter().filter_map(|at| lists.expr.get(at)))
}

/// The bytes of the constants of some expressions, but for those that something is compared with as they are.
fn written<'e>(exprs: impl IntoIterator<Item = &'e Expr>) -> Result<u64> {
    let (mut all, mut compared) = (0, 0);
    for expr in exprs {
        expr.apply(|part| {
            match part {
                Expr::Literal(value, _) => all += bytes(value),
                Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(*op) => {
                    compared += text(left) + text(right);
                }
                Expr::BinaryExpr(BinaryExpr { op, right, .. }) if matches(*op) => compared += text(right),
                Expr::Like(Like { pattern, .. }) | Expr::SimilarTo(Like { pattern, .. }) => {
                    compared += text(pattern);
                }
                Expr::InList(InList { list, .. }) => compared += list.iter().map(constant).sum::<u64>(),
                // It looks the items up.
                Expr::ScalarFunction(call) if call.name() == "array_has_any" => {
                    compared += call.args.iter().map(constant).sum::<u64>();
                }
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(all.saturating_sub(compared))
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn matches(op: Operator) -> bool {
    use Operator::{RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch};
    matches!(op, RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch)
}

/// The bytes of a constant that is no list or the like.
fn text(expr: &Expr) -> u64 {
    if matches!(expr, Expr::Literal(value, _) if value.data_type().is_nested()) { 0 } else { constant(expr) }
}

fn constant(expr: &Expr) -> u64 {
    match expr {
        Expr::Literal(value, _) => bytes(value),
        _ => 0,
    }
}

fn bytes(value: &ScalarValue) -> u64 {
    match value {
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => {
            text.as_ref().map_or(0, String::len) as u64
        }
        ScalarValue::Binary(bytes)
        | ScalarValue::LargeBinary(bytes)
        | ScalarValue::BinaryView(bytes)
        | ScalarValue::FixedSizeBinary(_, bytes) => bytes.as_ref().map_or(0, Vec::len) as u64,
        ScalarValue::List(list) => total(list.as_ref()),
        ScalarValue::LargeList(list) => total(list.as_ref()),
        ScalarValue::FixedSizeList(list) => total(list.as_ref()),
        ScalarValue::Struct(fields) => total(fields.as_ref()),
        ScalarValue::Map(map) => total(map.as_ref()),
        ScalarValue::Union(Some((_, value)), ..)
        | ScalarValue::Dictionary(_, value)
        | ScalarValue::RunEndEncoded(_, _, value) => bytes(value),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{error::DataFusionError, execution::SessionStateBuilder, prelude::SessionContext};

    use super::*;
    use crate::{session::context, udf::rows_of};

    /// A constant that is kept small, as planning is slow where it is not optimized.
    const LARGE: &str = "repeat('x', 1000000)";

    async fn rows_at_a_time(sql: &str) -> usize {
        let context = context(SessionStateBuilder::new());
        let plan = context.sql(sql).await.expect(sql).into_unoptimized_plan();
        let state = context.state();
        let plan = state.optimize(&plan).expect(sql);
        fitted(state, &plan).expect(sql).0.config().batch_size()
    }

    #[tokio::test]
    async fn the_larger_the_constants_the_fewer_rows_are_made_at_a_time() {
        let series = "FROM generate_series(1, 8192) t";
        let texts = |count: usize| (0..count).map(|at| format!("'{at:0>64}'")).collect::<Vec<_>>().join(", ");
        for (sql, rows) in [
            (format!("SELECT CASE WHEN value % 2 = 0 THEN {LARGE} ELSE 'y' END {series}"), 16),
            (format!("SELECT (SELECT {LARGE}) {series}"), 16),
            (format!("SELECT max(arrow_cast({LARGE}, 'LargeUtf8')) {series}"), 16),
            (format!("SELECT upper({LARGE}) || value {series}"), 16),
            (format!("SELECT [{LARGE}], coalesce(NULLIF(CAST(value AS text), '1'), {LARGE}) {series}"), 8),
            (format!("SELECT * FROM (VALUES ({LARGE}), ('y')), (SELECT value {series})"), 16),
            (format!("SELECT {LARGE} {series} UNION ALL SELECT {LARGE} {series}"), 16),
            (format!("SELECT value, unnest([{}]) {series}", texts(2000)), 131),
            (format!("SELECT sum(value) FILTER (WHERE upper({LARGE}) > CAST(value AS text)) {series}"), 8192),
            // Large values that are repeated.
            (format!("SELECT * FROM (SELECT repeat('x', value) AS t {series}) CROSS JOIN (SELECT value {series})"), FEW_ROWS),
            (format!("SELECT (SELECT array_agg(value) {series}), value {series}"), FEW_ROWS),
            (format!("SELECT value, unnest(range(0, value)) {series}"), FEW_ROWS),
            (format!("SELECT * FROM (SELECT array_agg(value) OVER () AS t {series}) CROSS JOIN (SELECT value {series})"), FEW_ROWS),
            (format!("SELECT * FROM (SELECT lpad('x', value) AS t {series}) CROSS JOIN (SELECT value {series})"), FEW_ROWS),
            (format!("SELECT * FROM (SELECT lpad(value || '', 64, '0') AS t, replace(value || '', '1', '') {series}) CROSS JOIN (SELECT value {series})"), 8192),
            (format!("SELECT repeat('x', a.value) FROM (SELECT value {series}) a CROSS JOIN (SELECT value {series})"), 8192),
            // What is only compared with, or written once.
            (format!("SELECT CAST(value AS text) = {LARGE} {series}"), 8192),
            (format!("SELECT CAST(value AS text) LIKE {LARGE} {series}"), 8192),
            (format!("SELECT value {series} WHERE CAST(value AS text) IN ({})", texts(2000)), 8192),
            (format!("SELECT array_has([{}], CAST(value AS text)) {series}", texts(2000)), 8192),
            (format!("SELECT array_has_any([{}], [CAST(value AS text)]) {series}", texts(2000)), 8192),
            (format!("SELECT value {series}, unnest([{}]) u", texts(2000)), 8192),
            (format!("SELECT * FROM (VALUES ({})) v", texts(2000).replace(", ", "), (")), 8192),
            ("SELECT value + 1, 'a', CASE value WHEN 1 THEN 'one' ELSE 'more' END FROM generate_series(1, 9)".into(), 8192),
        ] {
            let found = rows_at_a_time(&sql).await;
            assert!(found.abs_diff(rows) <= rows / 50, "{sql:.100}: {found}, not {rows}");
        }
    }

    #[tokio::test]
    async fn few_rows_at_a_time_are_the_same_rows() {
        let (ours, engines) = (context(SessionStateBuilder::new()), SessionContext::new());
        let large = "repeat('x', 100000)";
        let rows = format!(
            "(SELECT value AS n, CASE WHEN value % 3 = 0 THEN {large} ELSE 'y' END AS t FROM generate_series(1, 2000))"
        );
        for sql in [
            format!("SELECT n, length(t) AS l FROM {rows} ORDER BY n DESC"),
            format!("SELECT n, length(t) AS l FROM {rows} ORDER BY l, n LIMIT 900 OFFSET 30"),
            format!(
                "SELECT n % 7 AS g, count(*), sum(length(t)), max(length(t)), count(DISTINCT t) FROM {rows} GROUP BY g ORDER BY g"
            ),
            format!(
                "SELECT a.n, length(b.t) AS l FROM {rows} a JOIN {rows} b ON a.n = b.n + 1 WHERE b.t <> 'y' ORDER BY a.n"
            ),
            format!("SELECT count(*), sum(length(t) + v) FROM {rows} CROSS JOIN generate_series(1, 3) s(v)"),
            format!(
                "SELECT n, length((SELECT {large} || 'z')) AS l FROM {rows} UNION ALL SELECT n, 1 FROM {rows} ORDER BY n, l"
            ),
            format!(
                "SELECT sum(u), count(*) FROM (SELECT unnest(range(0, n)) AS u, {large} AS t FROM {rows} WHERE n < 90) WHERE t LIKE 'x%'"
            ),
            format!(
                "SELECT n, sum(length(t)) OVER (ORDER BY n ROWS 5 PRECEDING) AS w FROM {rows} ORDER BY n"
            ),
        ] {
            let (ours, engines) = (rows_of(&ours, &sql).await, rows_of(&engines, &sql).await);
            assert_eq!(ours.expect(&sql), engines.expect(&sql), "{sql}");
        }
    }

    #[tokio::test]
    async fn a_window_has_no_large_constants() {
        for (sql, is_refused) in [
            (
                format!(
                    "SELECT lag(value || '', 1, {LARGE}) OVER (ORDER BY value) FROM generate_series(1, 9)"
                ),
                true,
            ),
            (
                format!(
                    "SELECT max(CASE WHEN value = 1 THEN {LARGE} END) OVER () FROM generate_series(1, 9)"
                ),
                true,
            ),
            (
                "SELECT lag(value || '', 1, 'none') OVER (ORDER BY value) FROM generate_series(1, 9)".into(),
                false,
            ),
        ] {
            let found = rows_of(&context(SessionStateBuilder::new()), &sql).await;
            let is_told = |error: DataFusionError| error.to_string().contains("constants of a window");
            assert_eq!(found.err().is_some_and(is_told), is_refused, "{sql}");
        }
    }
}

//! `0x` texts that are compared with bytes: they become bytes when the query is planned, so that they prune
//! files as such.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        DFSchema, ScalarValue,
        config::ConfigOptions,
        plan_err,
        tree_node::{Transformed, TreeNode},
    },
    error::{DataFusionError, Result},
    logical_expr::{
        Between, BinaryExpr, Case, Expr, ExprSchemable, LogicalPlan, Operator,
        expr::InList,
        expr_rewriter::NamePreserver,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr},
        utils::merge_schema,
    },
    optimizer::AnalyzerRule,
    sql::sqlparser::ast::BinaryOperator,
};

/// Takes `0x` texts on either side of a comparison.
#[derive(Debug)]
pub(crate) struct Comparisons;

impl ExprPlanner for Comparisons {
    fn plan_binary_op(&self, raw: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let op = match raw.op {
            BinaryOperator::Eq => Operator::Eq,
            BinaryOperator::NotEq => Operator::NotEq,
            BinaryOperator::Lt => Operator::Lt,
            BinaryOperator::LtEq => Operator::LtEq,
            BinaryOperator::Gt => Operator::Gt,
            BinaryOperator::GtEq => Operator::GtEq,
            _ => return Ok(PlannerResult::Original(raw)),
        };
        let left = bytes_beside(&raw.left, &raw.right, schema)?;
        let right = bytes_beside(&raw.right, &raw.left, schema)?;
        if left.is_none() && right.is_none() {
            return Ok(PlannerResult::Original(raw));
        }
        let (left, right) = (left.unwrap_or(raw.left), right.unwrap_or(raw.right));
        Ok(PlannerResult::Planned(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))))
    }
}

/// Takes `0x` texts where no planner is asked: in lists of `IN`, in `CASE`, `BETWEEN` and `IS DISTINCT FROM`, and
/// where a parameter was.
#[derive(Debug)]
pub(crate) struct Elsewhere;

impl AnalyzerRule for Elsewhere {
    fn name(&self) -> &str {
        "hexadecimal_texts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let in_node = |node: LogicalPlan| {
            let schema = merge_schema(&node.inputs());
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let changed = expr.transform_up(|expr| in_expr(expr, &schema))?;
                Ok(changed.update_data(|expr| name.restore(expr)))
            })
        };
        Ok(plan.transform_up_with_subqueries(in_node)?.data)
    }
}

fn in_expr(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let mut is_changed = false;
    let mut take = |literal: &mut Expr, other: &Expr| {
        if let Some(bytes) = bytes_beside(literal, other, schema)? {
            *literal = bytes;
            is_changed = true;
        }
        Ok::<_, DataFusionError>(())
    };
    match &mut expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(*op) => {
            take(left, right)?;
            take(right, left)?;
        }
        Expr::InList(InList { expr, list, .. }) => {
            list.iter_mut().try_for_each(|item| take(item, expr))?;
        }
        Expr::Between(Between { expr, low, high, .. }) => {
            take(low, expr)?;
            take(high, expr)?;
        }
        Expr::Case(Case { expr: Some(expr), when_then_expr, .. }) => {
            when_then_expr.iter_mut().try_for_each(|(when, _)| take(when, expr))?;
        }
        _ => {}
    }
    Ok(if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) })
}

fn compares(operator: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// The bytes of a literal that is compared with bytes; `None` where it is something else.
fn bytes_beside(literal: &Expr, other: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
    let Expr::Literal(value, metadata) = literal else { return Ok(None) };
    if hexadecimal(value).is_none() {
        return Ok(None);
    }
    let Ok(data_type) = other.get_type(schema) else { return Ok(None) };
    let bytes = as_bytes(value, &data_type, other)?;
    Ok(bytes.map(|bytes| Expr::Literal(bytes, metadata.clone())))
}

/// A `0x` text as bytes of a type, if it is one of bytes; `beside` is what has that type.
pub(crate) fn as_bytes(
    value: &ScalarValue,
    data_type: &DataType,
    beside: impl std::fmt::Display,
) -> Result<Option<ScalarValue>> {
    let Some((text, digits)) = hexadecimal(value) else { return Ok(None) };
    let size = match data_type {
        DataType::FixedSizeBinary(size) => Some(*size),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => None,
        _ => return Ok(None),
    };
    // The decoder would take the prefix a second time.
    let bytes = const_hex::decode(digits).ok().filter(|bytes| bytes.len() == digits.len() / 2);
    let Some(bytes) = bytes else {
        return plan_err!("`{text}` is not hexadecimal: two digits make a byte");
    };
    Ok(Some(match size {
        Some(size) if usize::try_from(size) != Ok(bytes.len()) => {
            return plan_err!("`{text}` has {} bytes, but {beside} has {size}", bytes.len());
        }
        Some(size) => ScalarValue::FixedSizeBinary(size, Some(bytes)),
        None => ScalarValue::Binary(Some(bytes)),
    }))
}

/// A text that begins with `0x`, and what comes behind that.
fn hexadecimal(value: &ScalarValue) -> Option<(&str, &str)> {
    let text = value.try_as_str()??;
    Some((text, text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?))
}

/// The planner of comparisons, to be asked before others.
pub(crate) fn planner() -> Arc<dyn ExprPlanner> {
    Arc::new(Comparisons)
}

/// The rule for what planners are not asked about, to be applied before types are made to fit.
pub(crate) fn rule() -> Arc<dyn AnalyzerRule + Send + Sync> {
    Arc::new(Elsewhere)
}

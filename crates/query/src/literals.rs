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
    error::Result,
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator,
        expr::InList,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr},
        utils::merge_schema,
    },
    optimizer::AnalyzerRule,
    sql::sqlparser::ast::BinaryOperator,
};

/// Takes `0x` texts on either side of `=` and `<>`.
#[derive(Debug)]
pub(crate) struct Comparisons;

impl ExprPlanner for Comparisons {
    fn plan_binary_op(&self, raw: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let operator = match raw.op {
            BinaryOperator::Eq => Operator::Eq,
            BinaryOperator::NotEq => Operator::NotEq,
            _ => return Ok(PlannerResult::Original(raw)),
        };
        let left = bytes_beside(&raw.left, &raw.right, schema)?;
        let right = bytes_beside(&raw.right, &raw.left, schema)?;
        Ok(match (left, right) {
            (Some(left), _) => planned(left, operator, raw.right),
            (_, Some(right)) => planned(raw.left, operator, right),
            (None, None) => PlannerResult::Original(raw),
        })
    }
}

fn planned(left: Expr, operator: Operator, right: Expr) -> PlannerResult<RawBinaryExpr> {
    PlannerResult::Planned(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), operator, Box::new(right))))
}

/// Takes `0x` texts in the lists of `IN`, which no planner is asked about.
#[derive(Debug)]
pub(crate) struct Lists;

impl AnalyzerRule for Lists {
    fn name(&self) -> &str {
        "hexadecimal_lists"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let in_node = |node: LogicalPlan| {
            let schema = merge_schema(&node.inputs());
            node.map_expressions(|expr| expr.transform_up(|expr| in_list(expr, &schema)))
        };
        Ok(plan.transform_up_with_subqueries(in_node)?.data)
    }
}

fn in_list(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::InList(InList { expr, list, negated }) = expr else { return Ok(Transformed::no(expr)) };
    let mut is_changed = false;
    let list = list
        .into_iter()
        .map(|item| {
            let bytes = bytes_beside(&item, &expr, schema)?;
            is_changed |= bytes.is_some();
            Ok(bytes.unwrap_or(item))
        })
        .collect::<Result<_>>()?;
    let list = Expr::InList(InList { expr, list, negated });
    Ok(if is_changed { Transformed::yes(list) } else { Transformed::no(list) })
}

/// The bytes of a literal that is compared with bytes; `None` where it is something else.
fn bytes_beside(literal: &Expr, other: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
    let Expr::Literal(value, metadata) = literal else { return Ok(None) };
    let Some(text) = value.try_as_str().flatten().filter(|text| text.starts_with("0x")) else {
        return Ok(None);
    };
    let Ok(data_type) = other.get_type(schema) else { return Ok(None) };
    let (size, shown) = match data_type {
        DataType::FixedSizeBinary(size) => (Some(size), format!("{other}")),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => (None, String::new()),
        _ => return Ok(None),
    };
    let Ok(bytes) = const_hex::decode(text) else {
        return plan_err!("`{text}` is not hexadecimal: two digits make a byte");
    };
    let value = match size {
        Some(size) if usize::try_from(size) != Ok(bytes.len()) => {
            return plan_err!("`{text}` has {} bytes, but {shown} has {size}", bytes.len());
        }
        Some(size) => ScalarValue::FixedSizeBinary(size, Some(bytes)),
        None => ScalarValue::Binary(Some(bytes)),
    };
    Ok(Some(Expr::Literal(value, metadata.clone())))
}

/// The planner of comparisons, to be asked before others.
pub(crate) fn planner() -> Arc<dyn ExprPlanner> {
    Arc::new(Comparisons)
}

/// The rule for lists, to be applied before types are made to fit.
pub(crate) fn rule() -> Arc<dyn AnalyzerRule + Send + Sync> {
    Arc::new(Lists)
}

//! `||` of texts and bytes, as a function: an operator of the engine could not be bounded. And what else the engine
//! plans as functions of its own, bounded.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Field, Schema},
};
use datafusion::{
    common::{DFSchema, exec_err},
    error::Result,
    functions::{core::planner::CoreFunctionPlanner, unicode::planner::UnicodeFunctionPlanner},
    functions_nested::planner::NestedFunctionPlanner,
    logical_expr::{
        ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, Volatility,
        binary::BinaryTypeCoercer,
        expr::ScalarFunction,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawWindowExpr},
    },
    physical_expr::expressions::{BinaryExpr, Column, Literal},
    physical_plan::PhysicalExpr,
    sql::sqlparser::ast::BinaryOperator,
};

use super::bounded::Bounds;

/// What the function is called by; nobody can write it.
pub(super) const NAME: &str = "||";

impl ExprPlanner for Bounds {
    fn plan_binary_op(&self, raw: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        match NestedFunctionPlanner.plan_binary_op(raw, schema)? {
            PlannerResult::Original(raw) if raw.op == BinaryOperator::StringConcat => {
                let (left, right) = (raw.left.get_type(schema)?, raw.right.get_type(schema)?);
                if coercer(&left, &right).get_result_type().is_err() {
                    return Ok(PlannerResult::Original(raw));
                }
                let function = Arc::new(ScalarUDF::new_from_impl(Joined::default()));
                let call = ScalarFunction::new_udf(self.of(function), vec![raw.left, raw.right]);
                Ok(PlannerResult::Planned(Expr::ScalarFunction(call)))
            }
            planned => Ok(self.planned(planned)),
        }
    }

    fn plan_window(&self, raw: RawWindowExpr) -> Result<PlannerResult<RawWindowExpr>> {
        Ok(PlannerResult::Original(self.windowed(raw)))
    }

    fn plan_array_literal(&self, items: Vec<Expr>, schema: &DFSchema) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(self.planned(NestedFunctionPlanner.plan_array_literal(items, schema)?))
    }

    fn plan_make_map(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(self.planned(NestedFunctionPlanner.plan_make_map(args)?))
    }

    fn plan_overlay(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(self.planned(CoreFunctionPlanner::default().plan_overlay(args)?))
    }

    fn plan_position(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(self.planned(UnicodeFunctionPlanner.plan_position(args)?))
    }
}

impl Bounds {
    fn planned<T>(&self, planned: PlannerResult<T>) -> PlannerResult<T> {
        match planned {
            PlannerResult::Planned(expr) => PlannerResult::Planned(self.bounded(expr)),
            original => original,
        }
    }

    /// A call with its function bounded, and those of its arguments: a map is made of two lists.
    fn bounded(&self, expr: Expr) -> Expr {
        let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return expr };
        let is_map = func.name() == "map";
        let args = if is_map { args.into_iter().map(|arg| self.bounded(arg)).collect() } else { args };
        Expr::ScalarFunction(ScalarFunction::new_udf(self.of(func), args))
    }
}

fn coercer<'a>(left: &'a DataType, right: &'a DataType) -> BinaryTypeCoercer<'a> {
    BinaryTypeCoercer::new(left, &Operator::StringConcat, right)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Joined {
    signature: Signature,
}

impl Default for Joined {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Joined {
    fn name(&self) -> &str {
        NAME
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let args: Vec<_> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(args.join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = types else { return exec_err!("`||` is between two values") };
        let (left, right) = coercer(left, right).get_input_types()?;
        Ok(vec![left, right])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [left, right] = types else { return exec_err!("`||` is between two values") };
        coercer(left, right).get_result_type()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        operated(Operator::StringConcat, args)
    }
}

/// What the engine's operator makes of two values.
pub(super) fn operated(op: Operator, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
    let (mut fields, mut columns) = (vec![], vec![]);
    let operands = args.args.into_iter().map(|arg| match arg {
        ColumnarValue::Scalar(scalar) => Arc::new(Literal::new(scalar)) as Arc<dyn PhysicalExpr>,
        ColumnarValue::Array(array) => {
            let name = columns.len().to_string();
            let column = Column::new(&name, columns.len());
            fields.push(Field::new(name, array.data_type().clone(), true));
            columns.push(array);
            Arc::new(column) as _
        }
    });
    let operands: Vec<_> = operands.collect();
    let [left, right] = operands.as_slice() else { return exec_err!("`{op}` is between two values") };
    let options = RecordBatchOptions::new().with_row_count(Some(args.number_rows));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
    BinaryExpr::new(Arc::clone(left), op, Arc::clone(right)).evaluate(&rows)
}

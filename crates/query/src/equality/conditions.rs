//! Which filters say that a column has one of some values.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::{
    common::ScalarValue,
    logical_expr::Operator,
    physical_expr::expressions::{BinaryExpr, CastExpr, Column, InListExpr, Literal},
    physical_plan::PhysicalExpr,
};

use super::Wanted;

/// A list of more values is left to the scan.
const MAX_VALUES: usize = 1_024;

/// What a filter says, if it says that a column of fixed width has one of some values and nothing else.
pub(crate) fn wanted(filter: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<Wanted> {
    let mut values = vec![];
    let (column, width) = collect(filter, schema, &mut values)?;
    // A value of another length is equal to none of the column.
    values.retain(|value| value.len() == width);
    values.sort();
    values.dedup();
    let wanted = Wanted { column: column.to_owned(), values };
    (!wanted.values.is_empty() && wanted.values.len() <= MAX_VALUES).then_some(wanted)
}

/// The column that a filter is about, and its width; adds the filter's values to `values`.
fn collect<'a>(
    filter: &'a Arc<dyn PhysicalExpr>,
    schema: &Schema,
    values: &mut Vec<Vec<u8>>,
) -> Option<(&'a str, usize)> {
    if let Some(binary) = filter.downcast_ref::<BinaryExpr>() {
        let (left, right) = (binary.left(), binary.right());
        return match binary.op() {
            Operator::Eq => {
                let sides = [(left, right), (right, left)];
                let (column, value) =
                    sides.into_iter().find_map(|(a, b)| Some((fixed_width(a, schema)?, bytes(b)?)))?;
                values.push(value);
                Some(column)
            }
            // A short list is written out by the optimizer.
            Operator::Or => {
                let column = collect(left, schema, values)?;
                (collect(right, schema, values)? == column).then_some(column)
            }
            _ => None,
        };
    }
    let list = filter.downcast_ref::<InListExpr>().filter(|list| !list.negated())?;
    let column = fixed_width(list.expr(), schema)?;
    for value in list.list() {
        values.push(bytes(value)?);
    }
    Some(column)
}

/// The name and width of a column of bytes of fixed width, also behind a cast to bytes of another type.
fn fixed_width<'a>(expr: &'a Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<(&'a str, usize)> {
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        return is_bytes(cast.cast_type()).then(|| fixed_width(cast.expr(), schema))?;
    }
    let column = expr.downcast_ref::<Column>()?;
    match schema.field_with_name(column.name()).ok()?.data_type() {
        DataType::FixedSizeBinary(width) => Some((column.name(), usize::try_from(*width).ok()?)),
        _ => None,
    }
}

fn is_bytes(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn bytes(expr: &Arc<dyn PhysicalExpr>) -> Option<Vec<u8>> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::Binary(bytes)
        | ScalarValue::LargeBinary(bytes)
        | ScalarValue::BinaryView(bytes)
        | ScalarValue::FixedSizeBinary(_, bytes) => bytes.clone(),
        _ => None,
    }
}

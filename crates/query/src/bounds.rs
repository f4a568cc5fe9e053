//! The block range that a query's filters leave, so that the metadata need not list more.

use datafusion::{
    common::ScalarValue,
    logical_expr::{Between, BinaryExpr, Expr, Operator, expr::InList},
};
use nozzle_core::{BlockNum, BlockRange, range::MAX_BLOCK};

/// A hull of the blocks that all of `filters` let through; `None` where they let through none.
/// `columns` are the names of the columns that hold the block number. Conservative: a filter that
/// is not understood lets everything through.
pub fn block_range(filters: &[Expr], columns: &[&str]) -> Option<BlockRange> {
    filters.iter().try_fold(BlockRange::from(0), |range, filter| range.intersect(hull(filter, columns)?))
}

/// The hull of the blocks that one filter lets through.
fn hull(filter: &Expr, columns: &[&str]) -> Option<BlockRange> {
    let everything = Some(BlockRange::from(0));
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            hull(left, columns)?.intersect(hull(right, columns)?)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            union(hull(left, columns), hull(right, columns))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if let (true, Some(value)) = (is_block(left, columns), number(right)) {
                comparison(*op, value)
            } else if let (Some(value), true, Some(op)) = (number(left), is_block(right, columns), op.swap())
            {
                comparison(op, value)
            } else {
                everything
            }
        }
        Expr::Between(Between { expr, negated: false, low, high }) if is_block(expr, columns) => {
            let from = number(low).map_or(everything, |low| comparison(Operator::GtEq, low));
            let to = number(high).map_or(everything, |high| comparison(Operator::LtEq, high));
            from?.intersect(to?)
        }
        Expr::InList(InList { expr, list, negated: false }) if is_block(expr, columns) => {
            let Some(values) = list.iter().map(number).collect::<Option<Vec<_>>>() else { return everything };
            values.into_iter().map(|value| comparison(Operator::Eq, value)).fold(None, union)
        }
        _ => everything,
    }
}

fn union(a: Option<BlockRange>, b: Option<BlockRange>) -> Option<BlockRange> {
    match (a, b) {
        (Some(a), Some(b)) => BlockRange::new(a.start().min(b.start()), a.end().max(b.end())),
        (one, other) => one.or(other),
    }
}

/// The blocks for which `block op value` holds.
fn comparison(op: Operator, value: i128) -> Option<BlockRange> {
    let max = i128::from(MAX_BLOCK);
    let (low, high) = match op {
        Operator::Eq | Operator::IsNotDistinctFrom => (value, value),
        Operator::Lt => (0, value - 1),
        Operator::LtEq => (0, value),
        Operator::Gt => (value + 1, max),
        Operator::GtEq => (value, max),
        _ => (0, max),
    };
    if low > high || high < 0 || low > max {
        return None;
    }
    let block = |number: i128| BlockNum::try_from(number.clamp(0, max)).unwrap_or(MAX_BLOCK);
    BlockRange::new(block(low), block(high))
}

/// Whether the expression is a column of block numbers, also behind a cast to another integer type,
/// which does not change the number.
fn is_block(expr: &Expr, columns: &[&str]) -> bool {
    match expr {
        Expr::Column(column) => columns.contains(&column.name.as_str()),
        Expr::Cast(cast) if cast.field.data_type().is_integer() => is_block(&cast.expr, columns),
        _ => false,
    }
}

fn number(expr: &Expr) -> Option<i128> {
    let Expr::Literal(value, _) = expr else { return None };
    Some(match value {
        ScalarValue::Int8(Some(n)) => i128::from(*n),
        ScalarValue::Int16(Some(n)) => i128::from(*n),
        ScalarValue::Int32(Some(n)) => i128::from(*n),
        ScalarValue::Int64(Some(n)) => i128::from(*n),
        ScalarValue::UInt8(Some(n)) => i128::from(*n),
        ScalarValue::UInt16(Some(n)) => i128::from(*n),
        ScalarValue::UInt32(Some(n)) => i128::from(*n),
        ScalarValue::UInt64(Some(n)) => i128::from(*n),
        ScalarValue::Decimal128(Some(n), _, 0) => *n,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;

    fn range(start: u64, end: u64) -> Option<BlockRange> {
        BlockRange::new(start, end)
    }

    #[test]
    fn filters_on_the_block_number_bound_the_range() {
        let block = || col("_block_num");
        let cases = vec![
            (vec![], range(0, MAX_BLOCK)),
            (vec![block().eq(lit(7u64))], range(7, 7)),
            (vec![lit(7i64).lt(block())], range(8, MAX_BLOCK)),
            (vec![block().gt_eq(lit(5i32)), block().lt(lit(9u64))], range(5, 8)),
            (vec![block().between(lit(5), lit(9))], range(5, 9)),
            (vec![block().in_list(vec![lit(3), lit(9), lit(4)], false)], range(3, 9)),
            (vec![block().in_list(vec![lit(3)], true)], range(0, MAX_BLOCK)),
            (vec![block().eq(lit(3)).or(block().eq(lit(8)))], range(3, 8)),
            (vec![block().eq(lit(3)).or(col("x").eq(lit(8)))], range(0, MAX_BLOCK)),
            (vec![block().eq(lit(3)).and(col("x").eq(lit(8)))], range(3, 3)),
            (vec![block().lt(lit(0u64))], None),
            (vec![block().gt(lit(9)), block().lt(lit(5))], None),
            (vec![block().eq(lit(-1))], None),
            (vec![block().gt(lit(-1))], range(0, MAX_BLOCK)),
            (vec![block().gt(lit(u64::MAX))], None),
            (vec![block().lt(lit(u64::MAX))], range(0, MAX_BLOCK)),
            (vec![block().not_eq(lit(5))], range(0, MAX_BLOCK)),
            (vec![col("x").eq(lit(5))], range(0, MAX_BLOCK)),
        ];
        for (filters, expected) in cases {
            assert_eq!(block_range(&filters, &["_block_num"]), expected, "{filters:?}");
        }
    }
}

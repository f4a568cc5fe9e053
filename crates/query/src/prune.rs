//! Leaving out files that cannot hold a hash that is asked for.
//!
//! A look-up by hash has to ask every file: nothing but its bloom filter tells. The Parquet scan would ask
//! one after the other, and for the page index of each before; in a store that answers late that takes
//! minutes. Here the filters alone are read, many at once, and the scan gets what is left.

use arrow::datatypes::{DataType, Schema};
use datafusion::{
    common::{Result as DataFusionResult, ScalarValue},
    logical_expr::{BinaryExpr, Expr, Operator, expr::InList},
};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::Result as ParquetResult,
    file::metadata::{ColumnChunkMetaData, PageIndexPolicy, RowGroupMetaData},
};

use crate::equality::{Wanted, bloom, lies_within};

/// Filters that are read at once.
const READS_UNDER_WAY: usize = 64;

/// Fewer files are as well left to the scan.
const MIN_FILES: usize = 4;

/// More values than this are no look-up.
const MAX_VALUES: usize = 64;

/// What the filters ask of columns whose values hardly ever repeat from file to file. Others, such as
/// addresses, may be in all of them, and their filters would be read twice.
pub(crate) fn wanted(filters: &[Expr], schema: &Schema) -> Vec<Wanted> {
    let mut found = vec![];
    filters.iter().for_each(|filter| collect(filter, schema, &mut found));
    found
}

fn collect(filter: &Expr, schema: &Schema, found: &mut Vec<Wanted>) {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            collect(left, schema, found);
            collect(right, schema, found);
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            let sides = [(left, right), (right, left)];
            let equal = sides
                .into_iter()
                .find_map(|(column, value)| Some((hash_column(column, schema)?, bytes(value)?)));
            found.extend(equal.map(|(column, value)| Wanted { column, values: vec![value] }));
        }
        Expr::InList(InList { expr, list, negated: false }) if list.len() <= MAX_VALUES => {
            let values: Option<Vec<_>> = list.iter().map(bytes).collect();
            found.extend(
                hash_column(expr, schema).zip(values).map(|(column, values)| Wanted { column, values }),
            );
        }
        _ => {}
    }
}

/// The name of a column of hashes, also behind a cast to bytes of another type.
fn hash_column(expr: &Expr, schema: &Schema) -> Option<String> {
    match expr {
        Expr::Column(column) => {
            let name = column.name.as_str();
            let is_hash = name == "hash" || name.ends_with("_hash");
            let field = schema.field_with_name(name).ok().filter(|_| is_hash)?;
            (*field.data_type() == DataType::FixedSizeBinary(32)).then(|| name.to_owned())
        }
        Expr::Cast(cast) if is_bytes(cast.field.data_type()) => hash_column(&cast.expr, schema),
        _ => None,
    }
}

fn is_bytes(kind: &DataType) -> bool {
    use DataType::{Binary, BinaryView, FixedSizeBinary, LargeBinary};
    matches!(kind, Binary | LargeBinary | BinaryView | FixedSizeBinary(_))
}

fn bytes(expr: &Expr) -> Option<Vec<u8>> {
    let Expr::Literal(value, _) = expr else { return None };
    match value {
        ScalarValue::Binary(bytes)
        | ScalarValue::LargeBinary(bytes)
        | ScalarValue::BinaryView(bytes)
        | ScalarValue::FixedSizeBinary(_, bytes) => bytes.clone(),
        _ => None,
    }
}

/// Of files, the ones that may hold a row with all that is wanted, in their order. `open` gives a file's
/// reader.
pub(crate) async fn keep<T>(
    files: Vec<T>,
    wanted: &[Wanted],
    open: impl Fn(&T) -> DataFusionResult<Box<dyn AsyncFileReader + Send>>,
) -> DataFusionResult<Vec<T>> {
    if wanted.is_empty() || files.len() < MIN_FILES {
        return Ok(files);
    }
    let mut looks: Vec<BoxFuture<'_, ParquetResult<bool>>> = vec![];
    for file in &files {
        looks.push(may_hold(open(file)?, wanted).boxed());
    }
    let may_hold: Vec<bool> = stream::iter(looks).buffered(READS_UNDER_WAY).try_collect().await?;
    Ok(files.into_iter().zip(may_hold).filter_map(|(file, may)| may.then_some(file)).collect())
}

async fn may_hold(mut reader: Box<dyn AsyncFileReader + Send>, wanted: &[Wanted]) -> ParquetResult<bool> {
    // The footer is known; the page index would be one more request.
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Skip);
    let metadata = reader.get_metadata(Some(&options)).await?;
    for group in metadata.row_groups() {
        if group_may_hold(reader.as_mut(), group, wanted).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn group_may_hold(
    reader: &mut (dyn AsyncFileReader + Send),
    group: &RowGroupMetaData,
    wanted: &[Wanted],
) -> ParquetResult<bool> {
    for Wanted { column, values } in wanted {
        let is_column = |chunk: &&ColumnChunkMetaData| chunk.column_path().parts() == [column.clone()];
        let Some(chunk) = group.columns().iter().find(is_column) else { continue };
        let within: Vec<&[u8]> =
            values.iter().map(Vec::as_slice).filter(|value| lies_within(value, chunk)).collect();
        if within.is_empty() {
            return Ok(false);
        }
        if !bloom::may_hold(reader, chunk, &within).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;
    use datafusion::logical_expr::{col, lit};

    use super::*;

    fn hash(byte: u8) -> Expr {
        lit(ScalarValue::FixedSizeBinary(32, Some(vec![byte; 32])))
    }

    #[test]
    fn only_equal_hashes_are_looked_up() {
        let field = |name, kind| Field::new(name, kind, false);
        let schema = Schema::new(vec![
            field("tx_hash", DataType::FixedSizeBinary(32)),
            field("address", DataType::FixedSizeBinary(20)),
        ]);
        let of = |filter: Expr| wanted(&[filter], &schema);
        let one = |bytes: &[u8]| {
            vec![Wanted { column: "tx_hash".into(), values: bytes.iter().map(|b| vec![*b; 32]).collect() }]
        };
        assert_eq!(of(col("tx_hash").eq(hash(1))), one(&[1]));
        assert_eq!(of(hash(1).eq(col("tx_hash")).and(col("address").is_not_null())), one(&[1]));
        assert_eq!(of(col("tx_hash").in_list(vec![hash(1), hash(2)], false)), one(&[1, 2]));
        for other in [
            col("tx_hash").not_eq(hash(1)),
            col("tx_hash").gt(hash(1)),
            col("tx_hash").eq(hash(1)).or(col("address").is_null()),
            col("tx_hash").in_list(vec![hash(1)], true),
            col("address").eq(lit(ScalarValue::FixedSizeBinary(20, Some(vec![1; 20])))),
        ] {
            assert_eq!(of(other.clone()), [], "{other}");
        }
    }
}

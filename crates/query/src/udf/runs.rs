//! Functions of times, called once for rows that share one.
//!
//! All rows of a block have its time, and rows come in the order of their blocks: a batch of logs has thousands of
//! rows and some dozen times.

use arrow::{
    array::{Array, ArrayRef, AsArray, UInt32Array},
    compute::{cast, take},
    datatypes::{DataType, Int64Type},
};
use datafusion::{
    error::Result,
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF},
    prelude::SessionContext,
};

use super::wrapped::{Around, wrap};

const FUNCTIONS: [&str; 4] = ["date_trunc", "date_part", "date_bin", "to_char"];

/// Runs shorter than this on average are not worth it.
const MIN_ROWS_OF_A_RUN: usize = 4;

/// Puts functions that are called once a run in the place of the engine's.
pub(super) fn register(context: &SessionContext) {
    FUNCTIONS.into_iter().for_each(|name| wrap(context, name, OncePerRun));
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OncePerRun;

impl Around for OncePerRun {
    fn call(&self, engine: &ScalarUDF, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some((at, Runs { firsts, of_row })) = runs_of(&args) else {
            return engine.invoke_with_args(args);
        };
        args.number_rows = firsts.len();
        args.args[at] = ColumnarValue::Array(firsts);
        Ok(match engine.invoke_with_args(args)? {
            ColumnarValue::Array(of_runs) => ColumnarValue::Array(take(&of_runs, &of_row, None)?),
            constant => constant,
        })
    }
}

/// Equal neighbours of a column.
struct Runs {
    /// The value of each run.
    firsts: ArrayRef,
    /// The run of each row.
    of_row: UInt32Array,
}

/// The runs of the only argument that is no constant, and which it is, if it is a column of times in long runs.
fn runs_of(args: &ScalarFunctionArgs) -> Option<(usize, Runs)> {
    let mut columns = args.args.iter().enumerate().filter_map(|(at, arg)| match arg {
        ColumnarValue::Array(array) => Some((at, array)),
        ColumnarValue::Scalar(_) => None,
    });
    let (Some((at, times)), None) = (columns.next(), columns.next()) else { return None };
    if !matches!(times.data_type(), DataType::Timestamp(..)) || times.null_count() > 0 {
        return None;
    }
    // Only the type changes.
    let numbers = cast(times, &DataType::Int64).ok()?;
    let numbers = numbers.as_primitive::<Int64Type>().values();
    let most = numbers.len() / MIN_ROWS_OF_A_RUN;
    let mut starts: Vec<u32> = vec![];
    let mut of_row: Vec<u32> = Vec::with_capacity(numbers.len());
    let mut last = None;
    for (row, number) in numbers.iter().enumerate() {
        if last != Some(*number) {
            last = Some(*number);
            if starts.len() >= most {
                return None;
            }
            starts.push(u32::try_from(row).ok()?);
        }
        of_row.push(u32::try_from(starts.len()).ok()? - 1);
    }
    let firsts = take(times, &UInt32Array::from(starts), None).ok()?;
    Some((at, Runs { firsts, of_row: UInt32Array::from(of_row) }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{RecordBatch, TimestampNanosecondArray},
        util::pretty::pretty_format_batches,
    };
    use proptest::prelude::*;

    use super::*;

    async fn answer(context: SessionContext, times: &[Option<i64>]) -> String {
        let times = TimestampNanosecondArray::from(times.to_vec()).with_timezone("+00:00");
        let batch = RecordBatch::try_from_iter_with_nullable([("t", Arc::new(times) as ArrayRef, true)]);
        context.register_batch("times", batch.expect("a batch")).expect("a table");
        let sql = "SELECT t, date_trunc('hour', t), date_trunc('week', t), date_part('minute', t),
            date_bin(INTERVAL '7 minutes', t), to_char(t, '%d %H:%M') FROM times";
        let batches = context.sql(sql).await.expect("it is planned").collect().await.expect("rows");
        pretty_format_batches(&batches).expect("text").to_string()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn what_is_called_once_a_run_answers_as_for_each_row(
            runs in proptest::collection::vec((0..2_000_000_000_i64, 1..40_usize), 1..30),
            has_nulls in proptest::bool::weighted(0.1),
        ) {
            let rows = runs.iter().flat_map(|(second, rows)| std::iter::repeat_n(Some(second * 1_000_000_000), *rows));
            let times: Vec<_> = rows.chain(has_nulls.then_some(None)).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let (ours, engines) = runtime.block_on(async {
                let wrapped = SessionContext::new();
                register(&wrapped);
                (answer(wrapped, &times).await, answer(SessionContext::new(), &times).await)
            });
            prop_assert_eq!(ours, engines);
        }
    }
}

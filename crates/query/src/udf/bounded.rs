//! Functions of the engine whose results can be as large as a number in the query says. No limit of memory knows
//! of them while they are made, so that one call could end the process: too large ones are refused before.

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use datafusion::{
    common::exec_err,
    error::{DataFusionError, Result},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF},
    prelude::SessionContext,
};

use super::wrapped::{Around, wrap};

/// What one call of a batch of rows may make, in bytes of text or in items of lists.
const MOST: i128 = 32 << 20;

/// How much a function makes of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Makes {
    /// So many times its first argument, a text.
    Repeated,
    /// As much as its second argument says.
    Filled,
    /// A step for each number from its first argument, or 0, to its second, or its only one.
    Steps,
}

const FUNCTIONS: [(&str, Makes); 7] = [
    ("repeat", Makes::Repeated),
    ("lpad", Makes::Filled),
    ("rpad", Makes::Filled),
    ("array_repeat", Makes::Filled),
    ("array_resize", Makes::Filled),
    ("range", Makes::Steps),
    ("generate_series", Makes::Steps),
];

/// Puts the bounded functions in the place of the engine's.
pub(super) fn register(context: &SessionContext) {
    FUNCTIONS.into_iter().for_each(|(name, makes)| wrap(context, name, makes));
}

impl Around for Makes {
    fn call(&self, engine: &ScalarUDF, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let made = self.made(&args)?;
        if made > MOST {
            return exec_err!(
                "`{}` would make {made} bytes or items at once, and {MOST} are the most",
                engine.name()
            );
        }
        engine.invoke_with_args(args)
    }
}

impl Makes {
    /// How much a call makes, of all its rows; 0 where it is not counted by numbers.
    fn made(&self, args: &ScalarFunctionArgs) -> Result<i128> {
        let Some(first) = args.args.first() else { return Ok(0) };
        let (first, second) = (first.to_array(args.number_rows)?, args.args.get(1));
        let second = second.map(|second| second.to_array(args.number_rows)).transpose()?;
        let sizes: Vec<i128> = match (self, &second) {
            (Self::Repeated, Some(times)) => {
                let lengths = lengths(&first)?;
                numbers(times)?
                    .into_iter()
                    .zip(lengths)
                    .map(|(times, length)| times.max(0) * length)
                    .collect()
            }
            (Self::Filled, Some(sizes)) => numbers(sizes)?,
            (Self::Steps, stop) if first.data_type().is_integer() => {
                let steps = args.args.get(2).map(|step| step.to_array(args.number_rows)).transpose()?;
                let steps = steps.as_ref().map(numbers).transpose()?.unwrap_or_else(|| vec![1; first.len()]);
                let ends: Vec<_> = match stop {
                    Some(stop) => numbers(&first)?.into_iter().zip(numbers(stop)?).collect(),
                    None => numbers(&first)?.into_iter().map(|stop| (0, stop)).collect(),
                };
                let count = |((start, stop), step): ((i128, i128), i128)| (stop - start).checked_div(step);
                ends.into_iter().zip(steps).map(|each| count(each).unwrap_or(0)).collect()
            }
            _ => vec![],
        };
        Ok(sizes.into_iter().map(|size| size.max(0)).sum())
    }
}

/// Integers; null ones are 0.
fn numbers(array: &ArrayRef) -> Result<Vec<i128>> {
    let numbers = cast(array, &DataType::Int64).map_err(DataFusionError::from)?;
    Ok(numbers.as_primitive::<Int64Type>().iter().map(|number| number.unwrap_or(0).into()).collect())
}

/// The lengths of texts in bytes.
fn lengths(array: &ArrayRef) -> Result<Vec<i128>> {
    let texts = cast(array, &DataType::LargeUtf8).map_err(DataFusionError::from)?;
    Ok(texts.as_string::<i64>().iter().map(|text| text.map_or(0, str::len) as i128).collect())
}

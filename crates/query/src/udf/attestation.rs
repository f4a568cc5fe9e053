//! A hash of a whole table.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray},
    datatypes::{DataType, Field, FieldRef},
    error::ArrowError,
    row::{RowConverter, SortField},
};
use datafusion::{
    common::{ScalarValue, plan_err},
    error::Result,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
    },
};
use twox_hash::XxHash3_128;

/// The function, to be registered.
pub(super) fn attestation_hash() -> AggregateUDF {
    AggregateUDF::new_from_impl(AttestationHash { signature: Signature::variadic_any(Volatility::Immutable) })
}

/// `attestation_hash(columns…)`: a hash of rows that does not depend on their order: the sum of the hashes of
/// each, so that a row that is there twice counts twice.
#[derive(Debug, PartialEq, Eq, Hash)]
struct AttestationHash {
    signature: Signature,
}

impl AggregateUDFImpl for AttestationHash {
    fn name(&self) -> &str {
        "attestation_hash"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("`attestation_hash` does not take DISTINCT");
        }
        let types = args.expr_fields.iter().map(|field| field.data_type());
        Ok(Box::new(Attesting(RowsHash::new(types)?)))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format!("{}[sum]", args.name), DataType::Binary, false))])
    }

    fn default_value(&self, _: &DataType) -> Result<ScalarValue> {
        Ok(ScalarValue::Binary(Some(0_u128.to_be_bytes().to_vec())))
    }
}

/// The type with the same values that all ways of storing them share.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, values) => plain(values),
        other => other.clone(),
    }
}

/// A hash of rows that does not depend on their order.
#[derive(Debug)]
pub struct RowsHash {
    rows: RowConverter,
    sum: u128,
}

impl RowsHash {
    /// That of no rows yet, whose columns have these types. Fails at a type whose values cannot be compared.
    pub fn new<'a>(types: impl IntoIterator<Item = &'a DataType>) -> Result<Self, ArrowError> {
        let fields = types.into_iter().map(|data_type| SortField::new(plain(data_type))).collect();
        Ok(Self { rows: RowConverter::new(fields)?, sum: 0 })
    }

    /// Adds the rows of some columns.
    pub fn add(&mut self, columns: &[ArrayRef]) -> Result<(), ArrowError> {
        let plain = |column: &ArrayRef| arrow::compute::cast(column, &plain(column.data_type()));
        let columns = columns.iter().map(plain).collect::<Result<Vec<_>, _>>()?;
        for row in &self.rows.convert_columns(&columns)? {
            self.sum = self.sum.wrapping_add(XxHash3_128::oneshot(row.as_ref()));
        }
        Ok(())
    }

    /// The hash of all rows that were added.
    pub fn value(&self) -> u128 {
        self.sum
    }
}

#[derive(Debug)]
struct Attesting(RowsHash);

impl Accumulator for Attesting {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        Ok(self.0.add(values)?)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Binary(Some(self.0.sum.to_be_bytes().to_vec())))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.rows.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for bytes in states[0].as_binary::<i32>().iter().flatten() {
            let sum = <[u8; 16]>::try_from(bytes).map_or(0, u128::from_be_bytes);
            self.0.sum = self.0.sum.wrapping_add(sum);
        }
        Ok(())
    }
}

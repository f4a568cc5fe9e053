//! Aggregates: exact sums of wide integers, and a hash of a whole table.

use std::sync::Arc;

use alloy_primitives::{U256, ruint::Uint};
use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{DataType, Field, FieldRef},
    row::{RowConverter, SortField},
};
use datafusion::{
    common::{ScalarValue, exec_err, plan_err},
    error::Result,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
    },
};
use twox_hash::XxHash3_128;

use super::{
    decode::rows_of_bytes,
    u256::{self, Number, is_number, numbers},
};

/// Wide enough for the sum of as many integers of 256 bits as can be counted.
type Sum = Uint<320, 5>;

const SUM_BYTES: usize = 40;

/// All of them, to be registered.
pub(super) fn all() -> [Arc<AggregateUDF>; 2] {
    let signature = || Signature::variadic_any(Volatility::Immutable);
    [
        Arc::new(AggregateUDF::new_from_impl(SumU256 { signature: signature() })),
        Arc::new(AggregateUDF::new_from_impl(AttestationHash { signature: signature() })),
    ]
}

/// `sum_u256(x)`: the exact sum of integers, as text.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SumU256 {
    signature: Signature,
}

impl AggregateUDFImpl for SumU256 {
    fn name(&self) -> &str {
        "sum_u256"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [one] if is_number(one) => Ok(DataType::Utf8),
            _ => plan_err!("`sum_u256` takes one argument: integers, or the text or the bytes of such ones"),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("`sum_u256` does not take DISTINCT");
        }
        Ok(Box::new(Summing::default()))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let field =
            |part: &str| Arc::new(Field::new(format!("{}[{part}]", args.name), DataType::Binary, true));
        Ok(vec![field("above"), field("below")])
    }
}

/// The sums of what is above zero and of what is below; neither can overflow. Absent without any number.
#[derive(Debug, Default)]
struct Summing(Option<[Sum; 2]>);

impl Summing {
    fn add(&mut self, side: usize, magnitude: Sum) {
        let sums = self.0.get_or_insert_default();
        sums[side] = sums[side].wrapping_add(magnitude);
    }
}

impl Accumulator for Summing {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for Number { is_negative, magnitude } in numbers(&values[0])?.into_iter().flatten() {
            self.add(usize::from(is_negative), Sum::from(magnitude));
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let Some([above, below]) = self.0 else { return Ok(ScalarValue::Utf8(None)) };
        let (is_negative, magnitude) =
            if above >= below { (false, above - below) } else { (true, below - above) };
        let Some(magnitude) = U256::checked_from_limbs_slice(magnitude.as_limbs()) else {
            return exec_err!("the sum has more than 256 bits");
        };
        let mut text = String::new();
        u256::write(is_negative, magnitude, &mut text);
        Ok(ScalarValue::Utf8(Some(text)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let bytes = |side: usize| self.0.map(|sums| sums[side].to_be_bytes::<SUM_BYTES>().to_vec());
        Ok(vec![ScalarValue::Binary(bytes(0)), ScalarValue::Binary(bytes(1))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for (side, state) in states.iter().enumerate() {
            for bytes in rows_of_bytes("a sum", state)?.into_iter().flatten() {
                self.add(side, Sum::from_be_slice(bytes));
            }
        }
        Ok(())
    }
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
        let fields = args.expr_fields.iter().map(|field| SortField::new(plain(field.data_type()))).collect();
        Ok(Box::new(Attesting { rows: RowConverter::new(fields)?, sum: 0 }))
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

#[derive(Debug)]
struct Attesting {
    rows: RowConverter,
    sum: u128,
}

impl Accumulator for Attesting {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let columns: Vec<ArrayRef> = values
            .iter()
            .map(|column| Ok(arrow::compute::cast(column, &plain(column.data_type()))?))
            .collect::<Result<_>>()?;
        let rows = self.rows.convert_columns(&columns)?;
        for row in &rows {
            self.sum = self.sum.wrapping_add(XxHash3_128::oneshot(row.as_ref()));
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Binary(Some(self.sum.to_be_bytes().to_vec())))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.rows.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for bytes in states[0].as_binary::<i32>().iter().flatten() {
            let sum = <[u8; 16]>::try_from(bytes).map_or(0, u128::from_be_bytes);
            self.sum = self.sum.wrapping_add(sum);
        }
        Ok(())
    }
}

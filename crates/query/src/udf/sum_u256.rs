//! Exact sums of wide integers.

use std::sync::Arc;

use alloy_primitives::{U256, ruint::Uint};
use arrow::{
    array::{Array, ArrayRef, BinaryBuilder, BooleanArray, StringBuilder},
    datatypes::{DataType, Field, FieldRef},
};
use datafusion::{
    common::{ScalarValue, exec_err, plan_err},
    error::Result,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
    },
};

use super::{
    decode::rows_of_bytes,
    u256::{self, Number, is_number, numbers},
};

/// Wide enough for the sum of as many integers of 256 bits as can be counted.
type Sum = Uint<320, 5>;

const SUM_BYTES: usize = 40;

/// The function, to be registered.
pub(super) fn sum_u256() -> AggregateUDF {
    AggregateUDF::new_from_impl(SumU256 { signature: Signature::variadic_any(Volatility::Immutable) })
}

/// `sum_u256(x)`: the exact sum of integers, as text.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SumU256 {
    signature: Signature,
}

fn refuse_distinct(args: &AccumulatorArgs<'_>) -> Result<()> {
    if args.is_distinct { plan_err!("`sum_u256` does not take DISTINCT") } else { Ok(()) }
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
        refuse_distinct(&args)?;
        Ok(Box::new(OfAll::default()))
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        refuse_distinct(&args)?;
        Ok(Box::new(OfGroups::default()))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let field =
            |part: &str| Arc::new(Field::new(format!("{}[{part}]", args.name), DataType::Binary, true));
        Ok(vec![field("above"), field("below")])
    }
}

/// The sums of what is above zero and of what is below; neither can overflow.
#[derive(Debug, Clone, Copy, Default)]
struct Sides([Sum; 2]);

impl Sides {
    fn add(&mut self, side: usize, magnitude: Sum) {
        self.0[side] = self.0[side].wrapping_add(magnitude);
    }

    fn add_number(&mut self, Number { is_negative, magnitude }: Number) {
        self.add(usize::from(is_negative), Sum::from(magnitude));
    }

    /// The sum as text.
    fn write(self, text: &mut String) -> Result<()> {
        let Self([above, below]) = self;
        let (is_negative, magnitude) =
            if above >= below { (false, above - below) } else { (true, below - above) };
        let Some(magnitude) = U256::checked_from_limbs_slice(magnitude.as_limbs()) else {
            return exec_err!("the sum has more than 256 bits");
        };
        u256::write(is_negative, magnitude, text);
        Ok(())
    }
}

/// The sum of all rows. Absent without any number.
#[derive(Debug, Default)]
struct OfAll(Option<Sides>);

impl Accumulator for OfAll {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for number in numbers(&values[0])?.into_iter().flatten() {
            self.0.get_or_insert_default().add_number(number);
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let Some(sides) = self.0 else { return Ok(ScalarValue::Utf8(None)) };
        let mut text = String::new();
        sides.write(&mut text)?;
        Ok(ScalarValue::Utf8(Some(text)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let bytes = |side: usize| self.0.map(|Sides(sums)| sums[side].to_be_bytes::<SUM_BYTES>().to_vec());
        Ok(vec![ScalarValue::Binary(bytes(0)), ScalarValue::Binary(bytes(1))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for (side, state) in states.iter().enumerate() {
            for bytes in rows_of_bytes("a sum", state)?.into_iter().flatten() {
                self.0.get_or_insert_default().add(side, Sum::from_be_slice(bytes));
            }
        }
        Ok(())
    }
}

/// The sums of groups, by their places. Absent without any number.
#[derive(Debug, Default)]
struct OfGroups(Vec<Option<Sides>>);

impl OfGroups {
    fn make_room(&mut self, groups: usize) {
        if self.0.len() < groups {
            self.0.resize(groups, None);
        }
    }
}

fn is_taken(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

impl GroupsAccumulator for OfGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.make_room(total);
        for (row, (number, group)) in numbers(&values[0])?.into_iter().zip(groups).enumerate() {
            if let Some(number) = number.filter(|_| is_taken(filter, row)) {
                self.0[*group].get_or_insert_default().add_number(number);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, which: EmitTo) -> Result<ArrayRef> {
        let sums = which.take_needed(&mut self.0);
        let (mut texts, mut text) =
            (StringBuilder::with_capacity(sums.len(), 24 * sums.len()), String::new());
        for sides in sums {
            let Some(sides) = sides else {
                texts.append_null();
                continue;
            };
            text.clear();
            sides.write(&mut text)?;
            texts.append_value(&text);
        }
        Ok(Arc::new(texts.finish()))
    }

    fn state(&mut self, which: EmitTo) -> Result<Vec<ArrayRef>> {
        let sums = which.take_needed(&mut self.0);
        let column = |side: usize| -> ArrayRef {
            let mut column = BinaryBuilder::with_capacity(sums.len(), SUM_BYTES * sums.len());
            for sides in &sums {
                column.append_option(sides.map(|Sides(sums)| sums[side].to_be_bytes::<SUM_BYTES>()));
            }
            Arc::new(column.finish())
        };
        Ok(vec![column(0), column(1)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.make_room(total);
        for (side, state) in states.iter().enumerate() {
            for (bytes, group) in rows_of_bytes("a sum", state)?.into_iter().zip(groups) {
                if let Some(bytes) = bytes {
                    self.0[*group].get_or_insert_default().add(side, Sum::from_be_slice(bytes));
                }
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = numbers(&values[0])?.into_iter().enumerate();
        let alone = |number| {
            let mut sides = Sides::default();
            sides.add_number(number);
            sides
        };
        let sums = rows.map(|(row, number)| number.filter(|_| is_taken(filter, row)).map(alone));
        Self(sums.collect()).state(EmitTo::All)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.capacity() * size_of::<Option<Sides>>()
    }
}

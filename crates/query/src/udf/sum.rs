//! `sum` as the engine has it, but for what it does where the sum does not fit: it would go on with other digits,
//! and here it is an error.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arrow::{
    array::{Array, ArrayRef, ArrowNativeTypeOp, AsArray, BooleanArray},
    datatypes::{
        ArrowPrimitiveType, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, FieldRef,
        Int64Type, UInt64Type,
    },
};
use datafusion::{
    common::{ScalarValue, exec_err, internal_err},
    error::Result,
    functions_aggregate::sum::sum_udaf,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
};
use datafusion_functions_aggregate_common::{
    aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator, utils::GenericDistinctBuffer,
};

/// The function, in the place of the engine's.
pub(super) fn checked() -> AggregateUDF {
    AggregateUDF::new_from_impl(CheckedSum { engine: sum_udaf() })
}

/// The engine's function, and its answers where a sum cannot overflow.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    engine: Arc<AggregateUDF>,
}

/// Runs `$make::<T>` for the type of a sum that can overflow without anybody noticing.
macro_rules! where_checked {
    ($args:ident, $make:ident, $otherwise:expr) => {
        match $args.return_field.data_type().clone() {
            ty @ DataType::Int64 => Ok($make::<Int64Type>(ty)),
            ty @ DataType::UInt64 => Ok($make::<UInt64Type>(ty)),
            ty @ DataType::Decimal32(..) => Ok($make::<Decimal32Type>(ty)),
            ty @ DataType::Decimal64(..) => Ok($make::<Decimal64Type>(ty)),
            ty @ DataType::Decimal128(..) => Ok($make::<Decimal128Type>(ty)),
            ty @ DataType::Decimal256(..) => Ok($make::<Decimal256Type>(ty)),
            _ => $otherwise,
        }
    };
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        self.engine.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.engine.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return where_checked!(args, of_distinct, self.engine.accumulator(args));
        }
        where_checked!(args, of_all, self.engine.accumulator(args))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            // The engine has no other type here.
            return match args.return_field.data_type() {
                DataType::Int64 => Ok(Box::new(DistinctInWindow::default())),
                _ => self.engine.create_sliding_accumulator(args),
            };
        }
        where_checked!(args, of_all, self.engine.create_sliding_accumulator(args))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.engine.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.engine.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        where_checked!(args, of_groups, self.engine.create_groups_accumulator(args))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.engine.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}

fn overflow<T>(data_type: &DataType) -> Result<T> {
    exec_err!("a sum does not fit into {data_type}: use sum_u256, or sum a wider type")
}

/// Decimals have fewer digits than their bits could hold.
fn check_digits(array: &ArrayRef) -> Result<()> {
    match array.data_type() {
        ty @ DataType::Decimal32(precision, _) => {
            array.as_primitive::<Decimal32Type>().validate_decimal_precision(*precision).or(overflow(ty))
        }
        ty @ DataType::Decimal64(precision, _) => {
            array.as_primitive::<Decimal64Type>().validate_decimal_precision(*precision).or(overflow(ty))
        }
        ty @ DataType::Decimal128(precision, _) => {
            array.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision).or(overflow(ty))
        }
        ty @ DataType::Decimal256(precision, _) => {
            array.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision).or(overflow(ty))
        }
        _ => Ok(()),
    }
}

/// The sum of all rows, or of those in a window.
#[derive(Debug)]
struct OfAll<T: ArrowPrimitiveType> {
    data_type: DataType,
    sum: T::Native,
    /// How many values are in it.
    count: u64,
}

fn of_all<T: ArrowPrimitiveType<Native: ArrowNativeTypeOp> + std::fmt::Debug>(
    data_type: DataType,
) -> Box<dyn Accumulator> {
    Box::new(OfAll::<T> { data_type, sum: T::Native::default(), count: 0 })
}

impl<T: ArrowPrimitiveType<Native: ArrowNativeTypeOp> + std::fmt::Debug> OfAll<T> {
    fn value(&self) -> Result<ScalarValue> {
        ScalarValue::new_primitive::<T>((self.count > 0).then_some(self.sum), &self.data_type)
    }
}

impl<T: ArrowPrimitiveType<Native: ArrowNativeTypeOp> + std::fmt::Debug> Accumulator for OfAll<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<T>().iter().flatten() {
            self.sum = self.sum.add_checked(value).or(overflow(&self.data_type))?;
            self.count += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<T>().iter().flatten() {
            self.sum = self.sum.sub_checked(value).or(overflow(&self.data_type))?;
            self.count -= 1;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let value = self.value()?;
        check_digits(&value.to_array()?)?;
        Ok(value)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

/// The sum of the values that differ from each other.
#[derive(Debug)]
struct OfDistinct<T: ArrowPrimitiveType> {
    data_type: DataType,
    values: GenericDistinctBuffer<T>,
}

fn of_distinct<T: ArrowPrimitiveType<Native: ArrowNativeTypeOp> + std::fmt::Debug>(
    data_type: DataType,
) -> Box<dyn Accumulator> {
    let values = GenericDistinctBuffer::new(data_type.clone());
    Box::new(OfDistinct::<T> { data_type, values })
}

impl<T: ArrowPrimitiveType<Native: ArrowNativeTypeOp> + std::fmt::Debug> Accumulator for OfDistinct<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let zero = T::Native::ZERO;
        let values = self.values.values.iter().map(|value| value.0);
        let (mut below, mut above): (Vec<_>, Vec<_>) = values.partition(|value| value.is_lt(zero));
        if below.is_empty() && above.is_empty() {
            return ScalarValue::new_primitive::<T>(None, &self.data_type);
        }
        let mut sum = zero;
        // They have no order, so no part of them is to be larger than the sum of all is.
        while let Some(value) = match sum.is_lt(zero) {
            true => above.pop().or_else(|| below.pop()),
            false => below.pop().or_else(|| above.pop()),
        } {
            sum = sum.add_checked(value).or(overflow(&self.data_type))?;
        }
        let sum = ScalarValue::new_primitive::<T>(Some(sum), &self.data_type)?;
        check_digits(&sum.to_array()?)?;
        Ok(sum)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.values.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.merge_batch(states)
    }
}

/// The sum of the values in a window that differ from each other.
#[derive(Debug, Default)]
struct DistinctInWindow {
    /// How often each is in it.
    counts: HashMap<i64, u64>,
    /// Wide enough for more values than there is memory for.
    sum: i128,
}

impl Accumulator for DistinctInWindow {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<Int64Type>().iter().flatten() {
            let count = self.counts.entry(value).or_default();
            if *count == 0 {
                self.sum += i128::from(value);
            }
            *count += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<Int64Type>().iter().flatten() {
            if let Entry::Occupied(mut entry) = self.counts.entry(value) {
                *entry.get_mut() -= 1;
                if *entry.get() == 0 {
                    entry.remove();
                    self.sum -= i128::from(value);
                }
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        match i64::try_from(self.sum) {
            Ok(sum) => Ok(ScalarValue::Int64((!self.counts.is_empty()).then_some(sum))),
            Err(_) => overflow(&DataType::Int64),
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * size_of::<(i64, u64)>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        internal_err!("the sum of a window has no part")
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        internal_err!("the sum of a window has no part")
    }
}

/// The sums of groups, by the engine's own means; what does not fit is only noticed.
struct OfGroups<G> {
    data_type: DataType,
    sums: G,
    has_overflown: Arc<AtomicBool>,
}

fn of_groups<T: ArrowPrimitiveType<Native: ArrowNativeTypeOp> + Send>(
    data_type: DataType,
) -> Box<dyn GroupsAccumulator> {
    let has_overflown = Arc::new(AtomicBool::new(false));
    let noticed = Arc::clone(&has_overflown);
    let add = move |sum: &mut T::Native, value: T::Native| match sum.add_checked(value) {
        Ok(larger) => *sum = larger,
        Err(_) => noticed.store(true, Ordering::Relaxed),
    };
    let sums = PrimitiveGroupsAccumulator::<T, _>::new(&data_type, add);
    Box::new(OfGroups { data_type, sums, has_overflown })
}

impl<G> OfGroups<G> {
    fn check(&self) -> Result<()> {
        if self.has_overflown.load(Ordering::Relaxed) { overflow(&self.data_type) } else { Ok(()) }
    }
}

impl<G: GroupsAccumulator> GroupsAccumulator for OfGroups<G> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.sums.update_batch(values, groups, filter, total)?;
        self.check()
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.sums.evaluate(emit_to)?;
        check_digits(&sums)?;
        Ok(sums)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.sums.state(emit_to)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.sums.merge_batch(states, groups, total)?;
        self.check()
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.sums.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.sums.size()
    }
}

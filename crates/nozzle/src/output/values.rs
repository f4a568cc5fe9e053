//! What a column holds, taken apart by type once per batch.

use std::ops::Range;

use anyhow::{Context, Result, bail};
use arrow::array::{
    Array, AsArray, BinaryArray, BinaryViewArray, BooleanArray, FixedSizeBinaryArray, LargeBinaryArray,
    LargeStringArray, MapArray, StringArray, StringViewArray, StructArray,
};
use arrow::datatypes::{
    ArrowNativeType, ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type,
    Decimal128Type, Decimal256Type, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalDayTime, IntervalDayTimeType, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
    IntervalYearMonthType, RunEndIndexType, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
};

use super::DecimalFormat;
use super::cells::{Cells, Member, name_prefix};

/// The values by the way they are written; slots that are null hold anything.
pub(super) enum Values<'a> {
    Null,
    Boolean(&'a BooleanArray),
    Int8(&'a [i8]),
    Int16(&'a [i16]),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    UInt8(&'a [u8]),
    UInt16(&'a [u16]),
    UInt32(&'a [u32]),
    UInt64(&'a [u64]),
    Float16(&'a [<Float16Type as ArrowPrimitiveType>::Native]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Decimal32(&'a [i32], i8, DecimalFormat),
    Decimal64(&'a [i64], i8, DecimalFormat),
    Decimal128(&'a [i128], i8, DecimalFormat),
    Decimal256(&'a [i256], i8, DecimalFormat),
    Timestamp(&'a [i64], TimeUnit),
    Date32(&'a [i32]),
    Date64(&'a [i64]),
    Time32(&'a [i32], TimeUnit),
    Time64(&'a [i64], TimeUnit),
    Duration(&'a [i64], TimeUnit),
    YearMonth(&'a [i32]),
    DayTime(&'a [IntervalDayTime]),
    MonthDayNano(&'a [IntervalMonthDayNano]),
    Binary(&'a BinaryArray),
    LargeBinary(&'a LargeBinaryArray),
    BinaryView(&'a BinaryViewArray),
    FixedSizeBinary(&'a FixedSizeBinaryArray),
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a StringViewArray),
    List(Slots<'a>, Box<Cells<'a>>),
    Struct(Vec<Member<'a>>),
    Map(Slots<'a>, Box<(Cells<'a>, Cells<'a>)>),
    /// Dictionary and run-end encoding: where each row's value is.
    Indexed(Vec<usize>, Box<Cells<'a>>),
}

/// Which child rows belong to a row.
pub(super) enum Slots<'a> {
    Offsets(&'a [i32]),
    LargeOffsets(&'a [i64]),
    Views(&'a [i32], &'a [i32]),
    LargeViews(&'a [i64], &'a [i64]),
    Fixed(usize),
}

impl Slots<'_> {
    /// The child rows of `row`.
    pub fn of(&self, row: usize) -> Range<usize> {
        match self {
            Self::Offsets(offsets) => offsets[row].as_usize()..offsets[row + 1].as_usize(),
            Self::LargeOffsets(offsets) => offsets[row].as_usize()..offsets[row + 1].as_usize(),
            Self::Views(starts, sizes) => span(starts[row].as_usize(), sizes[row].as_usize()),
            Self::LargeViews(starts, sizes) => span(starts[row].as_usize(), sizes[row].as_usize()),
            Self::Fixed(size) => span(row * size, *size),
        }
    }
}

fn span(start: usize, length: usize) -> Range<usize> {
    start..start + length
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array) -> &[T::Native] {
    array.as_primitive::<T>().values()
}

impl<'a> Values<'a> {
    /// Takes an array apart. The error names a type that has no text (unions).
    pub fn new(array: &'a dyn Array, decimals: DecimalFormat) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Boolean(array.as_boolean()),
            DataType::Int8 => Self::Int8(primitive::<Int8Type>(array)),
            DataType::Int16 => Self::Int16(primitive::<Int16Type>(array)),
            DataType::Int32 => Self::Int32(primitive::<Int32Type>(array)),
            DataType::Int64 => Self::Int64(primitive::<Int64Type>(array)),
            DataType::UInt8 => Self::UInt8(primitive::<UInt8Type>(array)),
            DataType::UInt16 => Self::UInt16(primitive::<UInt16Type>(array)),
            DataType::UInt32 => Self::UInt32(primitive::<UInt32Type>(array)),
            DataType::UInt64 => Self::UInt64(primitive::<UInt64Type>(array)),
            DataType::Float16 => Self::Float16(primitive::<Float16Type>(array)),
            DataType::Float32 => Self::Float32(primitive::<Float32Type>(array)),
            DataType::Float64 => Self::Float64(primitive::<Float64Type>(array)),
            DataType::Decimal32(_, scale) => {
                Self::Decimal32(primitive::<Decimal32Type>(array), *scale, decimals)
            }
            DataType::Decimal64(_, scale) => {
                Self::Decimal64(primitive::<Decimal64Type>(array), *scale, decimals)
            }
            DataType::Decimal128(_, scale) => {
                Self::Decimal128(primitive::<Decimal128Type>(array), *scale, decimals)
            }
            DataType::Decimal256(_, scale) => {
                Self::Decimal256(primitive::<Decimal256Type>(array), *scale, decimals)
            }
            // Without a zone too: all of this product's times are UTC.
            DataType::Timestamp(unit, _) => Self::Timestamp(timestamps(array, *unit), *unit),
            DataType::Date32 => Self::Date32(primitive::<Date32Type>(array)),
            DataType::Date64 => Self::Date64(primitive::<Date64Type>(array)),
            DataType::Time32(TimeUnit::Second) => {
                Self::Time32(primitive::<Time32SecondType>(array), TimeUnit::Second)
            }
            DataType::Time32(_) => {
                Self::Time32(primitive::<Time32MillisecondType>(array), TimeUnit::Millisecond)
            }
            DataType::Time64(TimeUnit::Microsecond) => {
                Self::Time64(primitive::<Time64MicrosecondType>(array), TimeUnit::Microsecond)
            }
            DataType::Time64(_) => {
                Self::Time64(primitive::<Time64NanosecondType>(array), TimeUnit::Nanosecond)
            }
            DataType::Duration(unit) => Self::Duration(durations(array, *unit), *unit),
            DataType::Interval(IntervalUnit::YearMonth) => {
                Self::YearMonth(primitive::<IntervalYearMonthType>(array))
            }
            DataType::Interval(IntervalUnit::DayTime) => {
                Self::DayTime(primitive::<IntervalDayTimeType>(array))
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                Self::MonthDayNano(primitive::<IntervalMonthDayNanoType>(array))
            }
            DataType::Binary => Self::Binary(array.as_binary()),
            DataType::LargeBinary => Self::LargeBinary(array.as_binary()),
            DataType::BinaryView => Self::BinaryView(array.as_binary_view()),
            DataType::FixedSizeBinary(_) => Self::FixedSizeBinary(array.as_fixed_size_binary()),
            DataType::Utf8 => Self::Utf8(array.as_string()),
            DataType::LargeUtf8 => Self::LargeUtf8(array.as_string()),
            DataType::Utf8View => Self::Utf8View(array.as_string_view()),
            DataType::Struct(_) => Self::Struct(members(array.as_struct(), decimals)?),
            DataType::Map(..) => map(array.as_map(), decimals)?,
            DataType::Dictionary(..) => dictionary(array, decimals)?,
            DataType::RunEndEncoded(ends, _) => match ends.data_type() {
                DataType::Int16 => runs::<Int16Type>(array, decimals)?,
                DataType::Int32 => runs::<Int32Type>(array, decimals)?,
                _ => runs::<Int64Type>(array, decimals)?,
            },
            DataType::Union(..) => bail!("a union cannot be written: select its parts as columns"),
            DataType::List(_)
            | DataType::LargeList(_)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::FixedSizeList(..) => list(array, decimals)?,
        })
    }
}

fn timestamps(array: &dyn Array, unit: TimeUnit) -> &[i64] {
    match unit {
        TimeUnit::Second => primitive::<TimestampSecondType>(array),
        TimeUnit::Millisecond => primitive::<TimestampMillisecondType>(array),
        TimeUnit::Microsecond => primitive::<TimestampMicrosecondType>(array),
        TimeUnit::Nanosecond => primitive::<TimestampNanosecondType>(array),
    }
}

fn durations(array: &dyn Array, unit: TimeUnit) -> &[i64] {
    match unit {
        TimeUnit::Second => primitive::<DurationSecondType>(array),
        TimeUnit::Millisecond => primitive::<DurationMillisecondType>(array),
        TimeUnit::Microsecond => primitive::<DurationMicrosecondType>(array),
        TimeUnit::Nanosecond => primitive::<DurationNanosecondType>(array),
    }
}

fn list(array: &dyn Array, decimals: DecimalFormat) -> Result<Values<'_>> {
    let (slots, items) = if let Some(list) = array.as_list_opt::<i32>() {
        (Slots::Offsets(list.value_offsets()), list.values())
    } else if let Some(list) = array.as_list_opt::<i64>() {
        (Slots::LargeOffsets(list.value_offsets()), list.values())
    } else if let Some(list) = array.as_list_view_opt::<i32>() {
        (Slots::Views(list.value_offsets(), list.value_sizes()), list.values())
    } else if let Some(list) = array.as_list_view_opt::<i64>() {
        (Slots::LargeViews(list.value_offsets(), list.value_sizes()), list.values())
    } else {
        let list = array.as_fixed_size_list_opt().context("a list of an unknown form")?;
        (Slots::Fixed(list.value_length().as_usize()), list.values())
    };
    Ok(Values::List(slots, Box::new(Cells::new(items, decimals)?)))
}

fn members(array: &StructArray, decimals: DecimalFormat) -> Result<Vec<Member<'_>>> {
    let fields = array.fields().iter().zip(array.columns());
    fields
        .map(|(field, column)| {
            let cells = Cells::new(column, decimals)?;
            Ok(Member { prefix: name_prefix(field.name()), cells })
        })
        .collect()
}

fn map(array: &MapArray, decimals: DecimalFormat) -> Result<Values<'_>> {
    let entries = (Cells::new(array.keys(), decimals)?, Cells::new(array.values(), decimals)?);
    Ok(Values::Map(Slots::Offsets(array.value_offsets()), Box::new(entries)))
}

fn dictionary(array: &dyn Array, decimals: DecimalFormat) -> Result<Values<'_>> {
    let array = array.as_any_dictionary_opt().context("a dictionary of an unknown form")?;
    // Without values every row is null and none is looked up.
    let positions = if array.values().is_empty() { Vec::new() } else { array.normalized_keys() };
    Ok(Values::Indexed(positions, Box::new(Cells::new(array.values(), decimals)?)))
}

fn runs<R: RunEndIndexType>(array: &dyn Array, decimals: DecimalFormat) -> Result<Values<'_>> {
    let array = array.as_run_opt::<R>().context("runs of an unknown form")?;
    let positions = (0..array.len()).map(|row| array.get_physical_index(row)).collect();
    Ok(Values::Indexed(positions, Box::new(Cells::new(array.values(), decimals)?)))
}

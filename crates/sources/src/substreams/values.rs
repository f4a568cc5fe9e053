//! Columns whose values are sent as text: those of a package's SQL or GraphQL schema.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, Date32Array, Decimal128Array, Float32Array, Float64Array,
        Int8Array, Int16Array, Int32Array, Int64Array, ListArray, StringBuilder, TimestampMicrosecondArray,
        UInt8Array, UInt16Array, UInt32Array, UInt64Array,
    },
    buffer::{NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Field},
    error::ArrowError,
};
use chrono::{DateTime, NaiveDate, NaiveDateTime};

use super::{
    entity_value::EntityValue,
    found::{Budget, Misfit},
    shape::timestamp_type,
};

/// A column of such a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ValueColumn {
    /// Its name in the schema.
    pub name: String,
    /// What it holds; always nullable, as changes need not name all columns.
    pub data_type: DataType,
}

/// The item of a list column.
pub(crate) fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

/// A value as it was sent.
#[derive(Debug, Clone)]
pub(crate) enum Sent<'a> {
    Text(&'a str),
    Entity(EntityValue<'a>),
}

/// The values of one column.
#[derive(Debug)]
pub(crate) enum Cells {
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Bool(BooleanBuilder),
    /// Whole numbers, decimals, days and points in time.
    Whole(DataType, Vec<Option<i128>>),
    Float(DataType, Vec<Option<f64>>),
    List {
        ends: Vec<i32>,
        valid: Vec<bool>,
        items: Box<Cells>,
        item: Arc<Field>,
    },
}

impl Cells {
    pub fn new(data_type: &DataType) -> Self {
        match data_type {
            DataType::Utf8 => Self::Text(StringBuilder::new()),
            DataType::Binary => Self::Bytes(BinaryBuilder::new()),
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Float32 | DataType::Float64 => Self::Float(data_type.clone(), Vec::new()),
            DataType::List(item) => Self::List {
                ends: vec![0],
                valid: Vec::new(),
                items: Box::new(Self::new(item.data_type())),
                item: item.clone(),
            },
            whole => Self::Whole(whole.clone(), Vec::new()),
        }
    }

    pub fn append_null(&mut self, budget: &mut Budget) -> Result<(), Misfit> {
        budget.take(16)?;
        match self {
            Self::Text(text) => text.append_null(),
            Self::Bytes(bytes) => bytes.append_null(),
            Self::Bool(flags) => flags.append_null(),
            Self::Whole(_, numbers) => numbers.push(None),
            Self::Float(_, numbers) => numbers.push(None),
            Self::List { ends, valid, .. } => {
                ends.push(ends.last().copied().unwrap_or(0));
                valid.push(false);
            }
        }
        Ok(())
    }

    /// Appends a value. Empty text is null where the column does not hold text.
    pub fn append(&mut self, value: &Sent<'_>, budget: &mut Budget) -> Result<(), Misfit> {
        match value {
            Sent::Text(text) => self.append_text(text, budget),
            Sent::Entity(EntityValue::Text(text)) => self.append_text(text, budget),
            Sent::Entity(EntityValue::Time(micros)) => self.append_micros(micros, budget),
            Sent::Entity(EntityValue::Int(number)) => self.append_text(&number.to_string(), budget),
            Sent::Entity(EntityValue::Bool(flag)) => {
                self.append_text(if *flag { "true" } else { "false" }, budget)
            }
            Sent::Entity(EntityValue::List(list)) => {
                let Self::List { ends, valid, items, .. } = self else {
                    return Err(Misfit::new("it should be one value, but it is a list"));
                };
                budget.take(8)?;
                for item in list {
                    items.append(&Sent::Entity(item.clone()), budget)?;
                }
                let last = ends.last().copied().unwrap_or(0);
                let end = i32::try_from(list.len()).ok().and_then(|added| last.checked_add(added));
                ends.push(end.ok_or_else(|| Misfit::new("a list is too long"))?);
                valid.push(true);
                Ok(())
            }
        }
    }

    /// Appends a point in time, in microseconds since 1970.
    fn append_micros(&mut self, micros: &str, budget: &mut Budget) -> Result<(), Misfit> {
        let number = micros.trim().parse::<i64>();
        match (self, number) {
            (Self::Whole(DataType::Timestamp(..), numbers), Ok(micros)) => {
                budget.take(16)?;
                numbers.push(Some(micros.into()));
                Ok(())
            }
            (other, _) => other.append_text(micros, budget),
        }
    }

    fn append_text(&mut self, text: &str, budget: &mut Budget) -> Result<(), Misfit> {
        if text.is_empty() && !matches!(self, Self::Text(_) | Self::Bytes(_)) {
            return self.append_null(budget);
        }
        budget.take(text.len() + 16)?;
        let misfit = |what: &str| Misfit::new(format!("`{}` is not {what}", shortened(text)));
        match self {
            Self::Text(builder) => builder.append_value(text),
            Self::Bytes(builder) => builder.append_value(bytes_of(text)),
            Self::Bool(builder) => {
                builder.append_value(bool_of(text).ok_or_else(|| misfit("true or false"))?);
            }
            Self::Whole(data_type, numbers) => {
                let number = whole_of(data_type, text).ok_or_else(|| misfit(&name_of(data_type)))?;
                numbers.push(Some(number));
            }
            Self::Float(_, numbers) => {
                numbers.push(Some(text.trim().parse().map_err(|_| misfit("a number"))?));
            }
            Self::List { .. } => return Err(Misfit::new("it should be a list, but it is one value")),
        }
        Ok(())
    }

    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Text(text) => Arc::new(text.finish()),
            Self::Bytes(bytes) => Arc::new(bytes.finish()),
            Self::Bool(flags) => Arc::new(flags.finish()),
            Self::Whole(data_type, numbers) => whole_array(data_type, std::mem::take(numbers))?,
            Self::Float(DataType::Float32, numbers) => {
                let numbers = std::mem::take(numbers).into_iter();
                Arc::new(numbers.map(|number| number.map(|n| n as f32)).collect::<Float32Array>())
            }
            Self::Float(_, numbers) => {
                Arc::new(std::mem::take(numbers).into_iter().collect::<Float64Array>())
            }
            Self::List { ends, valid, items, item } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(ends, vec![0])));
                let nulls = Some(NullBuffer::from(std::mem::take(valid)));
                Arc::new(ListArray::try_new(item.clone(), offsets, items.finish()?, nulls)?)
            }
        })
    }
}

/// Each number was checked to be within its type when it was read.
fn whole_array(data_type: &DataType, numbers: Vec<Option<i128>>) -> Result<ArrayRef, ArrowError> {
    macro_rules! array {
        ($array:ty, $native:ty) => {
            numbers.into_iter().map(|number| number.map(|n| n as $native)).collect::<$array>()
        };
    }
    Ok(match data_type {
        DataType::Int8 => Arc::new(array!(Int8Array, i8)),
        DataType::Int16 => Arc::new(array!(Int16Array, i16)),
        DataType::Int32 => Arc::new(array!(Int32Array, i32)),
        DataType::Int64 => Arc::new(array!(Int64Array, i64)),
        DataType::UInt8 => Arc::new(array!(UInt8Array, u8)),
        DataType::UInt16 => Arc::new(array!(UInt16Array, u16)),
        DataType::UInt32 => Arc::new(array!(UInt32Array, u32)),
        DataType::UInt64 => Arc::new(array!(UInt64Array, u64)),
        DataType::Date32 => Arc::new(array!(Date32Array, i32)),
        DataType::Decimal128(precision, scale) => {
            let numbers: Decimal128Array = numbers.into_iter().collect();
            Arc::new(numbers.with_precision_and_scale(*precision, *scale)?)
        }
        DataType::Timestamp(..) => Arc::new(array!(TimestampMicrosecondArray, i64).with_timezone("+00:00")),
        other => return Err(ArrowError::SchemaError(format!("no values are made of {other}"))),
    })
}

fn name_of(data_type: &DataType) -> String {
    match data_type {
        DataType::Timestamp(..) => "a point in time".into(),
        DataType::Date32 => "a day".into(),
        DataType::Decimal128(precision, scale) => {
            format!("a number of {precision} digits, {scale} of them behind the point")
        }
        other => format!("a number of the type {other}"),
    }
}

fn whole_of(data_type: &DataType, text: &str) -> Option<i128> {
    let text = text.trim();
    let within =
        |low: i128, high: i128| text.parse::<i128>().ok().filter(|number| (low..=high).contains(number));
    match data_type {
        DataType::Int8 => within(i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => within(i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => within(i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => within(i64::MIN.into(), i64::MAX.into()),
        DataType::UInt8 => within(0, u8::MAX.into()),
        DataType::UInt16 => within(0, u16::MAX.into()),
        DataType::UInt32 => within(0, u32::MAX.into()),
        DataType::UInt64 => within(0, u64::MAX.into()),
        DataType::Date32 => date_of(text).map(i128::from),
        DataType::Decimal128(precision, scale) => decimal_of(text, *precision, u8::try_from(*scale).ok()?),
        DataType::Timestamp(..) => micros_of(text).map(i128::from),
        _ => None,
    }
}

/// A decimal number as its digits; nothing is rounded.
fn decimal_of(text: &str, precision: u8, scale: u8) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let missing = usize::from(scale).checked_sub(fraction.len())?;
    let mut number: i128 = 0;
    let digits = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0');
    for digit in digits.chain(std::iter::repeat_n(0, missing)) {
        number = number.checked_mul(10)?.checked_add(i128::from(digit))?;
    }
    let fits = number < 10_i128.checked_pow(u32::from(precision))?;
    fits.then_some(if negative { -number } else { number })
}

/// Microseconds since 1970: of RFC 3339, of a time without a zone, which is taken for UTC, or of seconds.
fn micros_of(text: &str) -> Option<i64> {
    if let Some(seconds) = decimal_of(text, 20, 6) {
        return i64::try_from(seconds).ok();
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_micros());
    }
    for format in ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %z"] {
        if let Ok(time) = DateTime::parse_from_str(text, format) {
            return Some(time.timestamp_micros());
        }
    }
    let text = text.strip_suffix(" UTC").unwrap_or(text);
    for format in ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Some(time.and_utc().timestamp_micros());
        }
    }
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
}

/// Days since 1970.
fn date_of(text: &str) -> Option<i32> {
    let day = micros_of(text).filter(|_| text.contains('-')).map(|micros| micros.div_euclid(86_400_000_000));
    i32::try_from(day.or_else(|| text.parse().ok())?).ok()
}

fn bool_of(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" => Some(true),
        "false" | "f" | "0" | "no" => Some(false),
        _ => None,
    }
}

/// Bytes are sent as hex behind `0x` or `\x`; what is not is taken as it is.
fn bytes_of(text: &str) -> Vec<u8> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("\\x"));
    hex.and_then(|hex| const_hex::decode(hex).ok()).unwrap_or_else(|| text.as_bytes().to_vec())
}

/// For messages: not more of a foreign text than one wants to read.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The type of decimals with so many digits; text where they are more than a file's decimals have.
pub(crate) fn decimal_type(precision: Option<u64>, scale: u64) -> DataType {
    match (precision, u8::try_from(scale)) {
        (Some(precision @ 1..=38), Ok(scale)) if u64::from(scale) <= precision => {
            DataType::Decimal128(precision as u8, scale as i8)
        }
        _ => DataType::Utf8,
    }
}

/// The type of points in time.
pub(crate) fn time_type() -> DataType {
    timestamp_type()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_never_rounded() {
        for (text, precision, scale, expected) in [
            ("12.50", 4, 2, Some(1250)),
            ("-0.5", 3, 2, Some(-50)),
            ("12.345", 6, 2, None),
            ("123", 2, 0, None),
            ("1e5", 9, 0, None),
            (".5", 3, 1, Some(5)),
            (".", 3, 1, None),
            ("", 3, 1, None),
            ("99999999999999999999999999999999999999", 38, 0, Some(10_i128.pow(38) - 1)),
            ("100000000000000000000000000000000000000", 38, 0, None),
        ] {
            assert_eq!(decimal_of(text, precision, scale), expected, "{text}");
        }
    }

    #[test]
    fn points_in_time_are_read_in_the_forms_that_modules_send() {
        let expected = Some(1_689_269_903_000_000);
        for text in [
            "1689269903",
            "2023-07-13T17:38:23Z",
            "2023-07-13T19:38:23+02:00",
            "2023-07-13 17:38:23",
            "2023-07-13 17:38:23.000",
            "2023-07-13 17:38:23+00",
            "2023-07-13 17:38:23 +0000",
            "2023-07-13 17:38:23 UTC",
            "2023-07-13T17:38:23",
        ] {
            assert_eq!(micros_of(text), expected, "{text}");
        }
        assert_eq!(micros_of("1689269903.25"), Some(1_689_269_903_250_000));
        assert_eq!((micros_of("soon"), micros_of("99999999999999999999")), (None, None));
        assert_eq!((date_of("1970-01-02"), date_of("3"), date_of("x")), (Some(1), Some(3), None));
    }

    #[test]
    fn bytes_are_hex_or_themselves() {
        assert_eq!(bytes_of("0x0aFF"), [10, 255]);
        assert_eq!(bytes_of("\\x0a"), [10]);
        assert_eq!(bytes_of("0xzz"), b"0xzz");
    }
}

//! Integers of up to 256 bits: read from whatever columns have them, and written exactly.

use alloy_primitives::U256;
use arrow::{
    array::{
        Array, ArrayRef, AsArray, Decimal128Array, Decimal256Array, LargeStringArray, StringArray,
        StringViewArray,
    },
    datatypes::{
        DataType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
        i256,
    },
};
use datafusion::{
    common::exec_err,
    error::{DataFusionError, Result},
};

use super::decode::rows_of_bytes;

/// The largest power of ten whose digits go into a `u128`.
const PART: u64 = 10_000_000_000_000_000_000;

/// An integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    /// Never set for zero.
    pub is_negative: bool,
    pub magnitude: U256,
}

impl Number {
    fn new(is_negative: bool, magnitude: U256) -> Self {
        Self { is_negative: is_negative && !magnitude.is_zero(), magnitude }
    }

    /// Reads a decimal text, or a `0x` number.
    pub fn parse(text: &str) -> Option<Self> {
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (digits, radix) = match digits.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => (digits, 10),
        };
        // So few digits cannot overflow, and most numbers have no more.
        if radix == 10 && digits.len() <= 38 && digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Some(Self::new(is_negative, U256::from(digits.parse::<u128>().ok()?)));
        }
        let is_digits = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
        let magnitude = is_digits.then(|| U256::from_str_radix(digits, radix.into()).ok())??;
        Some(Self::new(is_negative, magnitude))
    }

    fn of_i128(number: i128) -> Self {
        Self::new(number < 0, U256::from(number.unsigned_abs()))
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        write(self.is_negative, self.magnitude, &mut text);
        f.write_str(&text)
    }
}

/// Appends the decimal digits of an integer.
pub(super) fn write(is_negative: bool, magnitude: U256, text: &mut String) {
    use std::fmt::Write;
    if is_negative {
        text.push('-');
    }
    if let Ok(small) = u128::try_from(magnitude) {
        text.push_str(itoa::Buffer::new().format(small));
        return;
    }
    // Writing to a text does not fail.
    let mut parts = [0_u64; 5];
    let (mut rest, mut count) = (magnitude, 0);
    while !rest.is_zero() {
        let (quotient, remainder) = rest.div_rem(U256::from(PART));
        parts[count] = remainder.to();
        (rest, count) = (quotient, count + 1);
    }
    let (last, below) = parts[..count].split_last().unwrap_or((&0, &[]));
    write!(text, "{last}").ok();
    below.iter().rev().for_each(|part| {
        write!(text, "{part:019}").ok();
    });
}

/// Whether [`numbers`] reads columns of this type.
pub(super) fn is_number(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Decimal128(..)
                | DataType::Decimal256(..)
                | DataType::Binary
                | DataType::BinaryView
                | DataType::LargeBinary
                | DataType::FixedSizeBinary(_)
                | DataType::Null
        )
}

/// The integers of a column: of text, decimals without a fraction, integers, or big-endian bytes.
pub(super) fn numbers(array: &ArrayRef) -> Result<Vec<Option<Number>>> {
    macro_rules! integers {
        ($type:ty) => {
            Ok(array
                .as_primitive::<$type>()
                .iter()
                .map(|value| value.map(|value| Number::of_i128(i128::from(value))))
                .collect())
        };
    }
    match array.data_type() {
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt8 => integers!(UInt8Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::UInt64 => integers!(UInt64Type),
        DataType::Utf8 => texts(array.as_any().downcast_ref::<StringArray>().into_iter().flatten()),
        DataType::LargeUtf8 => texts(array.as_any().downcast_ref::<LargeStringArray>().into_iter().flatten()),
        DataType::Utf8View => texts(array.as_any().downcast_ref::<StringViewArray>().into_iter().flatten()),
        DataType::Decimal128(..) => decimals128(array.as_primitive()),
        DataType::Decimal256(..) => decimals256(array.as_primitive()),
        _ => rows_of_bytes("the number", array)?
            .into_iter()
            .map(|bytes| bytes.map(of_bytes).transpose())
            .collect(),
    }
}

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> Result<Vec<Option<Number>>> {
    let read = |text: &str| {
        Number::parse(text).ok_or_else(|| {
            DataFusionError::Execution(format!("`{}` is not an integer of 256 bits", shortened(text)))
        })
    };
    values.map(|text| text.map(read).transpose()).collect()
}

fn of_bytes(bytes: &[u8]) -> Result<Number> {
    match U256::try_from_be_slice(bytes) {
        Some(magnitude) => Ok(Number::new(false, magnitude)),
        None => exec_err!("a number of {} bytes has more than 256 bits", bytes.len()),
    }
}

fn decimals128(array: &Decimal128Array) -> Result<Vec<Option<Number>>> {
    let (unit, zeros) = parts_of(array.scale());
    let unit = 10_i128.pow(unit.min(38));
    let read = |value: i128| match value % unit {
        0 => with_zeros(Number::of_i128(value / unit), zeros),
        _ => exec_err!("a number with a fraction is not an integer"),
    };
    array.iter().map(|value| value.map(read).transpose()).collect()
}

fn decimals256(array: &Decimal256Array) -> Result<Vec<Option<Number>>> {
    let (unit, zeros) = parts_of(array.scale());
    let unit = i256::from_i128(10).wrapping_pow(unit.min(76));
    let read = |value: i256| {
        if value % unit != i256::ZERO {
            return exec_err!("a number with a fraction is not an integer");
        }
        let magnitude = (value / unit).wrapping_abs();
        let magnitude = U256::from_be_bytes(magnitude.to_be_bytes());
        with_zeros(Number::new(value < i256::ZERO, magnitude), zeros)
    };
    array.iter().map(|value| value.map(read).transpose()).collect()
}

/// The digits behind the point, or with a negative scale the zeros that are left out before it.
fn parts_of(scale: i8) -> (u32, u32) {
    let digits = u32::from(scale.unsigned_abs());
    if scale < 0 { (0, digits) } else { (digits, 0) }
}

fn with_zeros(number: Number, zeros: u32) -> Result<Number> {
    let unit = U256::from(10).checked_pow(U256::from(zeros));
    match unit.and_then(|unit| number.magnitude.checked_mul(unit)) {
        Some(magnitude) => Ok(Number::new(number.is_negative, magnitude)),
        None if number.magnitude.is_zero() => Ok(number),
        None => exec_err!("a number of {zeros} zeros at its end has more than 256 bits"),
    }
}

/// A text that fits into a message.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_read() {
        let most = U256::MAX.to_string();
        let edge = (U256::from(u128::MAX) + U256::from(1)).to_string();
        let zeros = "1".to_owned() + &"0".repeat(77);
        for text in ["0", "1", "-1", "340282366920938463463374607431768211455", &edge, &most, &zeros] {
            assert_eq!(Number::parse(text).expect(text).to_string(), text);
        }
        let negative = format!("-{most}");
        assert_eq!(Number::parse(&negative).expect("a number").to_string(), negative);
        assert_eq!(Number::parse("-0").expect("a number"), Number::parse("0x0").expect("a number"));
        assert_eq!(Number::parse("0xff").expect("a number").to_string(), "255");
        for bad in ["", "-", "0x", "1.0", "1_000", "+1", " 1", "0xg", &format!("{most}0")] {
            assert_eq!(Number::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn columns_of_many_types_have_numbers() {
        let decimal = |value, scale| {
            let array = Decimal128Array::from(vec![Some(value)]);
            Arc::new(array.with_precision_and_scale(38, scale).expect("a decimal")) as ArrayRef
        };
        let wide = |value, scale| {
            let array = Decimal256Array::from(vec![i256::from_i128(value)]);
            Arc::new(array.with_precision_and_scale(76, scale).expect("a decimal")) as ArrayRef
        };
        let columns: [ArrayRef; 6] = [
            Arc::new(StringArray::from(vec!["-5"])),
            Arc::new(arrow::array::Int8Array::from(vec![-5])),
            decimal(-5, 0),
            decimal(-500, 2),
            wide(-5, 0),
            Arc::new(StringViewArray::from(vec!["-5"])),
        ];
        for column in columns {
            let read = numbers(&column).expect("numbers");
            assert_eq!(
                read[0].map(|number| number.to_string()).as_deref(),
                Some("-5"),
                "{}",
                column.data_type()
            );
        }
        let bytes: ArrayRef = Arc::new(arrow::array::BinaryArray::from(vec![Some(&[1_u8, 0][..]), None]));
        let read = numbers(&bytes).expect("numbers");
        assert_eq!((read[0].map(|number| number.to_string()).as_deref(), read[1]), (Some("256"), None));
        assert!(numbers(&decimal(150, 2)).is_err());
        for column in [decimal(-15, -2), wide(-15, -2)] {
            let read = numbers(&column).expect("numbers");
            let text = read[0].map(|number| number.to_string());
            assert_eq!(text.as_deref(), Some("-1500"), "{}", column.data_type());
        }
        // 10^77 is less than 2^256, and ten times that is more.
        assert!(numbers(&wide(1, -76)).is_ok() && numbers(&wide(100, -76)).is_err());
        assert!(numbers(&(Arc::new(StringArray::from(vec!["x"])) as ArrayRef)).is_err());
    }
}

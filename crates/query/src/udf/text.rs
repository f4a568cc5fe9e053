//! Functions between bytes, numbers and what people read.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, AsArray, BinaryBuilder, Decimal128Array, FixedSizeBinaryBuilder, Float64Array,
        StringBuilder,
    },
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use datafusion::{common::exec_err, error::Result};

use super::{
    decode::{is_bytes, rows_of_bytes},
    function::{Called, Function, Given},
    u256::{is_number, numbers, shortened},
};

/// `evm_encode_hex(text)`: the bytes of a `0x` text.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct EncodeHex;

impl Function for EncodeHex {
    const NAME: &'static str = "evm_encode_hex";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        given.expect_count(1)?;
        match given.types[0] {
            text if text.is_string() || text.is_null() => Ok(DataType::Binary),
            other => given.refuse(format!("its argument must be text, not {other}")),
        }
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let texts = cast(&called.array(0)?, &DataType::Utf8)?;
        let mut bytes = BinaryBuilder::new();
        for text in texts.as_string::<i32>() {
            let Some(text) = text else {
                bytes.append_null();
                continue;
            };
            // const-hex takes the prefix, or none.
            match const_hex::decode(text) {
                Ok(decoded) => bytes.append_value(decoded),
                Err(error) => return exec_err!("`{}` is not hexadecimal: {error}", shortened(text)),
            }
        }
        Ok(Arc::new(bytes.finish()))
    }
}

/// `evm_decode_hex(bytes)`: bytes as `0x` text.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct DecodeHex;

impl Function for DecodeHex {
    const NAME: &'static str = "evm_decode_hex";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        given.expect_count(1)?;
        match given.types[0] {
            bytes if is_bytes(bytes) => Ok(DataType::Utf8),
            other => given.refuse(format!("its argument must be bytes, not {other}")),
        }
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let array = called.array(0)?;
        let mut texts = StringBuilder::new();
        for bytes in rows_of_bytes("the argument", &array)? {
            texts.append_option(bytes.map(const_hex::encode_prefixed));
        }
        Ok(Arc::new(texts.finish()))
    }
}

/// The units that a number can be shifted by.
const MAX_UNITS: i64 = 32;

/// `shift_units(value, units)`: the value times ten to the power of `units`, exactly, as text.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ShiftUnits;

impl Function for ShiftUnits {
    const NAME: &'static str = "shift_units";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        given.expect_count(2)?;
        let value = given.types[0];
        if !is_number(value) || is_bytes(value) && !value.is_null() {
            return given.refuse(format!("the value must be a number or the text of one, not {value}"));
        }
        if !given.types[1].is_integer() && !given.types[1].is_null() {
            return given.refuse(format!("the units must be an integer, not {}", given.types[1]));
        }
        Ok(DataType::Utf8)
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let values = cast(&called.array(0)?, &DataType::Utf8)?;
        let units = cast(&called.array(1)?, &DataType::Int64)?;
        let mut shifted = StringBuilder::new();
        for (value, units) in values.as_string::<i32>().iter().zip(units.as_primitive::<Int64Type>()) {
            let (Some(value), Some(units)) = (value, units) else {
                shifted.append_null();
                continue;
            };
            if !(-MAX_UNITS..=MAX_UNITS).contains(&units) {
                return exec_err!(
                    "a number can be shifted by -{MAX_UNITS} to {MAX_UNITS} units, not by {units}"
                );
            }
            match shift(value, units) {
                Some(text) => shifted.append_value(text),
                None => return exec_err!("`{}` is not a decimal number", shortened(value)),
            }
        }
        Ok(Arc::new(shifted.finish()))
    }
}

/// Moves the point of a decimal number to the right.
fn shift(text: &str, units: i64) -> Option<String> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let mut digits = format!("{whole}{fraction}");
    let point = i64::try_from(whole.len()).ok()? + units;
    let before = usize::try_from(-point).unwrap_or(0);
    digits.insert_str(0, &"0".repeat(before));
    let point = usize::try_from(point).unwrap_or(0);
    digits.extend(std::iter::repeat_n('0', point.saturating_sub(digits.len())));
    let (whole, fraction) = digits.split_at(point);
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(match fraction {
        "" if whole == "0" => "0".to_owned(),
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    })
}

fn expect_number(given: &Given<'_>) -> Result<()> {
    given.expect_count(1)?;
    match given.types[0] {
        number if is_number(number) => Ok(()),
        other => given
            .refuse(format!("its argument must be an integer, the text or the bytes of one, not {other}")),
    }
}

/// `u256_to_decimal(x)`: an integer as a decimal of 38 digits.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ToDecimal;

/// The largest decimal of 38 digits.
const MAX_DECIMAL: u128 = 10_u128.pow(38) - 1;

impl Function for ToDecimal {
    const NAME: &'static str = "u256_to_decimal";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        expect_number(given)?;
        Ok(DataType::Decimal128(38, 0))
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let decimals = numbers(&called.array(0)?)?.into_iter().map(|number| {
            let Some(number) = number else { return Ok(None) };
            match u128::try_from(number.magnitude) {
                Ok(magnitude @ 0..=MAX_DECIMAL) => {
                    let magnitude = magnitude as i128;
                    Ok(Some(if number.is_negative { -magnitude } else { magnitude }))
                }
                _ => exec_err!("{number} has more than the 38 digits of a decimal"),
            }
        });
        let decimals = decimals.collect::<Result<Decimal128Array>>()?;
        Ok(Arc::new(decimals.with_precision_and_scale(38, 0)?))
    }
}

/// `u256_to_f64(x)`: the nearest floating point number.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ToF64;

impl Function for ToF64 {
    const NAME: &'static str = "u256_to_f64";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        expect_number(given)?;
        Ok(DataType::Float64)
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let numbers = numbers(&called.array(0)?)?.into_iter();
        // Reading the digits rounds once, to the nearest.
        let floats = numbers.map(|number| number.and_then(|number| number.to_string().parse().ok()));
        Ok(Arc::new(floats.collect::<Float64Array>()))
    }
}

/// `u256_to_binary(x)`: an integer as a word, big end first.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ToBinary;

impl Function for ToBinary {
    const NAME: &'static str = "u256_to_binary";

    fn returns(given: &Given<'_>) -> Result<DataType> {
        expect_number(given)?;
        Ok(DataType::FixedSizeBinary(32))
    }

    fn run(called: &Called) -> Result<ArrayRef> {
        let mut words = FixedSizeBinaryBuilder::with_capacity(called.rows, 32);
        for number in numbers(&called.array(0)?)? {
            match number {
                None => words.append_null(),
                Some(number) if number.is_negative => {
                    return exec_err!("{number} is negative, and has no word without a sign");
                }
                Some(number) => words.append_value(number.magnitude.to_be_bytes::<32>())?,
            }
        }
        Ok(Arc::new(words.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_point_of_a_number_is_moved() {
        let cases = [
            ("1500000000000000000", -18, "1.5"),
            ("1.5", 18, "1500000000000000000"),
            ("1", -18, "0.000000000000000001"),
            ("-1", -1, "-0.1"),
            ("100", -2, "1"),
            ("0", -18, "0"),
            ("-0.00", 5, "0"),
            ("007", 0, "7"),
            (".5", 0, "0.5"),
            ("1.25", 1, "12.5"),
            ("0.001", 2, "0.1"),
            (
                "115792089237316195423570985008687907853269984665640564039457584007913129639935",
                -32,
                "1157920892373161954235709850086879078532699846.65640564039457584007913129639935",
            ),
        ];
        for (text, units, expected) in cases {
            assert_eq!(shift(text, units).as_deref(), Some(expected), "{text} by {units}");
        }
        for bad in ["", "-", ".", "1e5", "0x1", "1.2.3", "+1"] {
            assert_eq!(shift(bad, 1), None, "{bad}");
        }
    }
}

//! Values as text, written straight into a byte buffer: what every format writes the same way.
//!
//! Nothing here allocates: numbers and digits go through buffers on the stack.

use arrow::datatypes::i256;
use serde::Serialize;

/// Ten to the nineteenth: the greatest power of ten in 64 bits.
const TEN_19: u64 = 10_000_000_000_000_000_000;

/// A whole number in decimal digits.
pub(super) fn integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Bytes as `0x` and two lowercase digits each; no bytes are `0x`.
pub(super) fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"0x");
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    const_hex::encode_to_slice(bytes, &mut out[start..]).expect("the room is two digits a byte");
}

/// The name of a number that JSON has none for: `NaN`, `Infinity`, `-Infinity`.
pub(super) fn not_finite(value: f64) -> Option<&'static str> {
    match value {
        _ if value.is_finite() => None,
        _ if value.is_nan() => Some("NaN"),
        _ if value > 0.0 => Some("Infinity"),
        _ => Some("-Infinity"),
    }
}

/// The shortest text that reads back as the same number (of the same width); always with a point
/// or an exponent.
pub(super) fn finite_float(value: impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &value).expect("a number always fits into a growing buffer");
}

/// `value` × 10^-`scale`, exactly: as many decimals as the scale says.
pub(super) fn decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let magnitude = value.unsigned_abs();
    match u64::try_from(magnitude) {
        Ok(small) => with_point(itoa::Buffer::new().format(small).as_bytes(), scale, out),
        Err(_) => with_point(itoa::Buffer::new().format(magnitude).as_bytes(), scale, out),
    }
}

/// [`decimal`] for 256 bits.
pub(super) fn decimal256(value: i256, scale: i8, out: &mut Vec<u8>) {
    if let Some(narrow) = value.to_i128() {
        return decimal(narrow, scale, out);
    }
    if value.is_negative() {
        out.push(b'-');
    }
    // The least value has no positive counterpart, but its bits read without a sign are right.
    let (low, high) = value.wrapping_abs().to_parts();
    let high = high as u128;
    let mut limbs = [(high >> 64) as u64, high as u64, (low >> 64) as u64, low as u64];
    let mut digits = [b'0'; 5 * 19];
    for group in digits.rchunks_exact_mut(19) {
        let mut rest = divide(&mut limbs, TEN_19);
        for digit in group.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    with_point(&digits[zeros..], scale, out);
}

/// Divides a number, most significant limb first, in place; the remainder.
fn divide(limbs: &mut [u64; 4], divisor: u64) -> u64 {
    let mut rest = 0;
    for limb in limbs {
        let part = (u128::from(rest) << 64) | u128::from(*limb);
        *limb = (part / u128::from(divisor)) as u64;
        rest = (part % u128::from(divisor)) as u64;
    }
    rest
}

/// Digits without a sign, with the decimal point moved `scale` places to the left.
fn with_point(digits: &[u8], scale: i8, out: &mut Vec<u8>) {
    let decimals = usize::from(scale.max(0).unsigned_abs());
    if digits.len() > decimals {
        let (whole, fraction) = digits.split_at(digits.len() - decimals);
        out.extend_from_slice(whole);
        if decimals > 0 {
            out.push(b'.');
            out.extend_from_slice(fraction);
        } else if whole != b"0" {
            out.extend(std::iter::repeat_n(b'0', usize::from(scale.unsigned_abs())));
        }
    } else {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', decimals - digits.len()));
        out.extend_from_slice(digits);
    }
}

/// What follows the backslash for each byte that may not stand in a JSON string, zero for the
/// others; `u` is the long form.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        table[control] = b'u';
        control += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// A JSON string with its quotes. Everything but quotes, backslashes and control characters
/// passes through as it is.
pub(super) fn json_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape = ESCAPES[usize::from(byte)];
        if escape == 0 {
            continue;
        }
        out.extend_from_slice(&bytes[written..at]);
        out.extend_from_slice(&[b'\\', escape]);
        if escape == b'u' {
            out.extend_from_slice(&[
                b'0',
                b'0',
                b'0' + (byte >> 4),
                b"0123456789abcdef"[usize::from(byte & 15)],
            ]);
        }
        written = at + 1;
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{Dice, text_of};
    use super::*;

    #[test]
    fn an_integer_is_written_as_the_standard_library_writes_it() {
        let mut dice = Dice::new(1);
        for _ in 0..2000 {
            let value = dice.i128();
            assert_eq!(text_of(|out| integer(value as i64, out)), (value as i64).to_string());
            assert_eq!(text_of(|out| integer(value as u64, out)), (value as u64).to_string());
            assert_eq!(text_of(|out| integer(value as i8, out)), (value as i8).to_string());
        }
        for edge in [i64::MIN, -1, 0, i64::MAX] {
            assert_eq!(text_of(|out| integer(edge, out)), edge.to_string());
        }
    }

    #[test]
    fn hex_is_lowercase_two_digits_a_byte() {
        assert_eq!(text_of(|out| hex(&[], out)), "0x");
        let all: Vec<u8> = (0..=255).collect();
        let expected: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text_of(|out| hex(&all, out)), format!("0x{expected}"));
    }

    /// The point set by hand, from `Display` alone.
    fn expected_decimal(digits: &str, scale: i8) -> String {
        let (sign, digits) = match digits.strip_prefix('-') {
            Some(rest) => ("-", rest),
            None => ("", digits),
        };
        match usize::try_from(scale) {
            Ok(0) => format!("{sign}{digits}"),
            Ok(decimals) => {
                let padded = format!("{digits:0>width$}", width = decimals + 1);
                let (whole, fraction) = padded.split_at(padded.len() - decimals);
                format!("{sign}{whole}.{fraction}")
            }
            Err(_) if digits == "0" => "0".into(),
            Err(_) => format!("{sign}{digits}{}", "0".repeat(usize::from(scale.unsigned_abs()))),
        }
    }

    #[test]
    fn a_decimal_has_its_exact_digits_and_scale() {
        let mut dice = Dice::new(2);
        let edges = [i128::MIN, i128::MAX, 0, 1, -1, 10, -10, u64::MAX as i128, u64::MAX as i128 + 1];
        let values = edges.into_iter().chain((0..5000).map(|_| dice.i128()));
        for (index, value) in values.enumerate() {
            for scale in [0, 1, 18, 38, 76, 127, -3, (index % 256) as u8 as i8] {
                let expected = expected_decimal(&value.to_string(), scale);
                assert_eq!(text_of(|out| decimal(value, scale, out)), expected, "{value} {scale}");
                let wide = i256::from_i128(value);
                assert_eq!(text_of(|out| decimal256(wide, scale, out)), expected, "{value} {scale}");
            }
        }
    }

    #[test]
    fn a_wide_decimal_has_its_exact_digits_and_scale() {
        let mut dice = Dice::new(3);
        let random = (0..3000).map(|_| i256::from_parts(dice.i128() as u128, dice.i128()));
        let ten_38 = i256::from_string("100000000000000000000000000000000000000").unwrap();
        let edges = [i256::MIN, i256::MAX, i256::ZERO, i256::MINUS_ONE, ten_38, ten_38.wrapping_mul(ten_38)];
        for value in edges.into_iter().chain(random) {
            for scale in [0, 9, 76, 100, -2] {
                let expected = expected_decimal(&value.to_string(), scale);
                assert_eq!(text_of(|out| decimal256(value, scale, out)), expected);
            }
        }
    }

    #[test]
    fn a_float_reads_back_as_the_same_bits() {
        let mut dice = Dice::new(4);
        for _ in 0..5000 {
            let (wide, narrow) = (f64::from_bits(dice.u64()), f32::from_bits(dice.u64() as u32));
            if wide.is_finite() {
                let text = text_of(|out| finite_float(wide, out));
                assert_eq!(text.parse::<f64>().unwrap().to_bits(), wide.to_bits());
            }
            if narrow.is_finite() {
                let text = text_of(|out| finite_float(narrow, out));
                assert_eq!(text.parse::<f32>().unwrap().to_bits(), narrow.to_bits());
            }
        }
        assert_eq!(text_of(|out| finite_float(0.1f32, out)), "0.1");
        assert_eq!(text_of(|out| finite_float(-0.0f64, out)), "-0.0");
    }

    #[test]
    fn a_string_is_escaped_as_json_wants_it_and_reads_back() {
        assert_eq!(
            text_of(|out| json_string("a\"b\\c/\n\u{1}\u{1f}\u{7f}é", out)),
            r#""a\"b\\c/\n\u0001\u001f"#.to_owned() + "\u{7f}é\""
        );
        let every: String =
            (0..0x300).chain(0x2000..0x2100).chain(0x1f600..0x1f650).filter_map(char::from_u32).collect();
        for text in ["", "plain", "\0", "\u{2028}\u{2029}", "日本語 🦀", every.as_str()] {
            let written = text_of(|out| json_string(text, out));
            assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
            assert!(!written.bytes().any(|byte| byte < 0x20));
        }
    }
}

//! Hex text to values: quantities (`0x1a`, no fixed length) and data (two digits a byte).
//!
//! Nothing here allocates, and no input is too strange to be answered with a [`Bad`].

/// The greatest value that fits a `Decimal128(38, 0)`.
pub(crate) const MAX_DECIMAL: u128 = 10_u128.pow(38) - 1;

/// Why a value cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    /// It is absent or null where the column needs one.
    Missing,
    /// It is not `0x` and hex digits.
    NotHex,
    /// It has more than the column holds.
    TooLarge,
    /// It is not of the length that it must have, in bytes.
    Length(usize),
    /// It is a number, but none of those that are allowed.
    NotAllowed,
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::NotHex => f.write_str("is not 0x and hex digits"),
            Self::TooLarge => f.write_str("is too large"),
            Self::Length(bytes) => write!(f, "is not {bytes} bytes long"),
            Self::NotAllowed => f.write_str("is not one of the numbers it may be"),
        }
    }
}

/// The value of a field that must be there.
pub(crate) fn required(text: Option<&str>) -> Result<&str, Bad> {
    text.ok_or(Bad::Missing)
}

fn digits(text: &str) -> Result<&[u8], Bad> {
    text.strip_prefix("0x").map(str::as_bytes).ok_or(Bad::NotHex)
}

fn nibble(digit: u8) -> Result<u8, Bad> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(Bad::NotHex),
    }
}

/// The digits of a quantity without leading zeros; at least one digit must be there.
fn significant(text: &str) -> Result<&[u8], Bad> {
    let all = digits(text)?;
    if all.is_empty() {
        return Err(Bad::NotHex);
    }
    let zeros = all.iter().take_while(|digit| **digit == b'0').count();
    Ok(&all[zeros..])
}

/// A quantity of up to 64 bits.
pub(crate) fn quantity_u64(text: &str) -> Result<u64, Bad> {
    let digits = significant(text)?;
    let mut value = 0_u64;
    for digit in digits {
        value = value << 4 | u64::from(nibble(*digit)?);
    }
    if digits.len() > 16 { Err(Bad::TooLarge) } else { Ok(value) }
}

/// A quantity of up to 32 bits.
pub(crate) fn quantity_u32(text: &str) -> Result<u32, Bad> {
    u32::try_from(quantity_u64(text)?).map_err(|_| Bad::TooLarge)
}

/// A quantity of up to 128 bits.
pub(crate) fn quantity_u128(text: &str) -> Result<u128, Bad> {
    let digits = significant(text)?;
    let mut value = 0_u128;
    for digit in digits {
        value = value << 4 | u128::from(nibble(*digit)?);
    }
    if digits.len() > 32 { Err(Bad::TooLarge) } else { Ok(value) }
}

/// A quantity of up to 256 bits, big-endian.
pub(crate) fn quantity_word(text: &str) -> Result<[u8; 32], Bad> {
    let digits = significant(text)?;
    let mut word = [0_u8; 32];
    for (place, digit) in digits.iter().rev().enumerate() {
        let value = nibble(*digit)?;
        // Places beyond the word are read all the same: what is not hex is not "too large".
        if let Some(byte) = 31_usize.checked_sub(place / 2).and_then(|at| word.get_mut(at)) {
            *byte |= if place % 2 == 0 { value } else { value << 4 };
        }
    }
    if digits.len() > 64 { Err(Bad::TooLarge) } else { Ok(word) }
}

/// A quantity of up to 256 bits, appended to `bytes` without leading zeros.
pub(crate) fn append_quantity(text: &str, bytes: &mut Vec<u8>) -> Result<(), Bad> {
    let digits = significant(text)?;
    let (odd, pairs) = digits.split_at(digits.len() % 2);
    let first = odd.first().map(|digit| nibble(*digit)).transpose()?;
    bytes.extend(first);
    let start = bytes.len();
    bytes.resize(start + pairs.len() / 2, 0);
    const_hex::decode_to_slice(pairs, &mut bytes[start..]).map_err(|_| Bad::NotHex)?;
    if digits.len() > 64 { Err(Bad::TooLarge) } else { Ok(()) }
}

/// A quantity as a decimal of 38 digits.
pub(crate) fn decimal(text: &str) -> Result<i128, Bad> {
    let value = quantity_u128(text)?;
    if value > MAX_DECIMAL {
        return Err(Bad::TooLarge);
    }
    i128::try_from(value).map_err(|_| Bad::TooLarge)
}

/// A quantity as a decimal of 38 digits; null where it is absent or has more digits.
pub(crate) fn decimal_or_null(text: Option<&str>) -> Result<Option<i128>, Bad> {
    match text.map(decimal) {
        None | Some(Err(Bad::TooLarge)) => Ok(None),
        Some(value) => value.map(Some),
    }
}

/// The whole of an amount that [`decimal_or_null`] makes null because it has too many digits.
pub(crate) fn decimal_overflow(text: Option<&str>) -> Result<Option<[u8; 32]>, Bad> {
    match text {
        Some(text) if decimal(text) == Err(Bad::TooLarge) => quantity_word(text).map(Some),
        _ => Ok(None),
    }
}

/// Data of exactly `N` bytes.
pub(crate) fn fixed<const N: usize>(text: &str) -> Result<[u8; N], Bad> {
    let digits = digits(text)?;
    if digits.len() != 2 * N {
        return Err(Bad::Length(N));
    }
    let mut bytes = [0; N];
    const_hex::decode_to_slice(digits, &mut bytes).map_err(|_| Bad::NotHex)?;
    Ok(bytes)
}

/// Data of exactly `N` bytes, or null where it is absent.
pub(crate) fn fixed_or_null<const N: usize>(text: Option<&str>) -> Result<Option<[u8; N]>, Bad> {
    text.map(fixed).transpose()
}

/// Data of any length, appended to `bytes`.
pub(crate) fn append_data(text: &str, bytes: &mut Vec<u8>) -> Result<(), Bad> {
    let digits = digits(text)?;
    if !digits.len().is_multiple_of(2) {
        return Err(Bad::NotHex);
    }
    let start = bytes.len();
    bytes.resize(start + digits.len() / 2, 0);
    const_hex::decode_to_slice(digits, &mut bytes[start..]).map_err(|_| Bad::NotHex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_may_have_leading_zeros_but_not_too_many_bits() {
        assert_eq!(quantity_u64("0x0"), Ok(0));
        assert_eq!(quantity_u64("0x00000000000000000000000000000000ff"), Ok(255));
        assert_eq!(quantity_u64("0xFfFfFfFfFfFfFfFf"), Ok(u64::MAX));
        assert_eq!(quantity_u64("0x10000000000000000"), Err(Bad::TooLarge));
        assert_eq!(quantity_u32("0xffffffff"), Ok(u32::MAX));
        assert_eq!(quantity_u32("0x100000000"), Err(Bad::TooLarge));
        assert_eq!(quantity_u128(&format!("0x{}", "f".repeat(32))), Ok(u128::MAX));
        assert_eq!(quantity_u128(&format!("0x1{}", "0".repeat(32))), Err(Bad::TooLarge));
        for bad in ["", "0x", "0", "12", "0xg", "0x-1", "0x 1", "x1", "0X1", "0xé", "0x1 "] {
            assert_eq!(quantity_u64(bad), Err(Bad::NotHex), "{bad:?}");
            assert_eq!(quantity_word(bad), Err(Bad::NotHex), "{bad:?}");
        }
        assert_eq!(quantity_u64(&format!("0x{}z", "f".repeat(99))), Err(Bad::NotHex));
    }

    #[test]
    fn words_are_padded_on_the_left() {
        let mut word = [0; 32];
        word[30..].copy_from_slice(&[0x1a, 0xbc]);
        assert_eq!(quantity_word("0x1abc"), Ok(word));
        word[30] = 0x0a;
        assert_eq!(quantity_word("0x0abc"), Ok(word));
        assert_eq!(quantity_word(&format!("0x{}", "f".repeat(64))), Ok([0xff; 32]));
        assert_eq!(quantity_word(&format!("0x1{}", "0".repeat(64))), Err(Bad::TooLarge));
    }

    #[test]
    fn a_decimal_ends_at_38_digits_and_the_rest_is_overflow() {
        let nines = format!("{MAX_DECIMAL:#x}");
        let above = format!("{:#x}", MAX_DECIMAL + 1);
        assert_eq!(decimal(&nines), Ok(99_999_999_999_999_999_999_999_999_999_999_999_999));
        assert_eq!(decimal(&above), Err(Bad::TooLarge));
        assert_eq!(decimal_or_null(Some(&above)), Ok(None));
        assert_eq!(decimal_or_null(None), Ok(None));
        assert_eq!(decimal_or_null(Some("zz")), Err(Bad::NotHex));
        assert_eq!(decimal_overflow(Some(&nines)), Ok(None));
        assert_eq!(decimal_overflow(None), Ok(None));
        let mut word = [0; 32];
        word[16..].copy_from_slice(&(MAX_DECIMAL + 1).to_be_bytes());
        assert_eq!(decimal_overflow(Some(&above)), Ok(Some(word)));
        assert_eq!(decimal_overflow(Some(&format!("0x{}", "f".repeat(65)))), Err(Bad::TooLarge));
    }

    #[test]
    fn data_has_two_digits_a_byte() {
        assert_eq!(fixed::<2>("0xaB01"), Ok([0xab, 0x01]));
        assert_eq!(fixed::<2>("0xab"), Err(Bad::Length(2)));
        assert_eq!(fixed::<2>("0x0xab"), Err(Bad::NotHex));
        assert_eq!(fixed::<2>("0xzz01"), Err(Bad::NotHex));
        let mut bytes = vec![1];
        assert_eq!(append_data("0x0203", &mut bytes), Ok(()));
        assert_eq!(append_data("0x", &mut bytes), Ok(()));
        assert_eq!(bytes, [1, 2, 3]);
        for bad in ["0x1", "0203", "0xzz", "0x0x01", ""] {
            assert_eq!(append_data(bad, &mut Vec::new()), Err(Bad::NotHex), "{bad:?}");
        }
    }
}

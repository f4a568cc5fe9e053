//! Bytes to values. Numbers of more than 64 bits are big-endian bytes of any number up to 32, without or with
//! leading zeros; no bytes are 0.

use crate::evm::hex::{Bad, MAX_DECIMAL};

/// Bytes of exactly `N`.
pub(crate) fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Bad> {
    bytes.try_into().map_err(|_| if bytes.is_empty() { Bad::Missing } else { Bad::Length(N) })
}

/// Bytes of exactly `N`; null where there are none.
pub(crate) fn fixed_or_null<const N: usize>(bytes: &[u8]) -> Result<Option<[u8; N]>, Bad> {
    if bytes.is_empty() { Ok(None) } else { fixed(bytes).map(Some) }
}

/// The bytes of a number without its leading zeros.
pub(crate) fn significant(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// A number of up to 256 bits, big-endian.
pub(crate) fn word(bytes: &[u8]) -> Result<[u8; 32], Bad> {
    let bytes = significant(bytes);
    let start = 32_usize.checked_sub(bytes.len()).ok_or(Bad::TooLarge)?;
    let mut word = [0; 32];
    word[start..].copy_from_slice(bytes);
    Ok(word)
}

/// A number of up to 128 bits.
pub(crate) fn number(bytes: &[u8]) -> Result<u128, Bad> {
    let bytes = significant(bytes);
    if bytes.len() > 16 {
        return Err(Bad::TooLarge);
    }
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)))
}

/// A number as a decimal of 38 digits.
pub(crate) fn decimal(bytes: &[u8]) -> Result<i128, Bad> {
    let number = number(bytes)?;
    if number > MAX_DECIMAL {
        return Err(Bad::TooLarge);
    }
    i128::try_from(number).map_err(|_| Bad::TooLarge)
}

/// A number as a decimal of 38 digits; null where it is absent or has more digits.
pub(crate) fn decimal_or_null(bytes: Option<&[u8]>) -> Option<i128> {
    bytes.and_then(|bytes| decimal(bytes).ok())
}

/// The whole of an amount that [`decimal_or_null`] makes null because it has too many digits.
pub(crate) fn decimal_overflow(bytes: Option<&[u8]>) -> Result<Option<[u8; 32]>, Bad> {
    match bytes {
        Some(bytes) if decimal(bytes).is_err() => word(bytes).map(Some),
        _ => Ok(None),
    }
}

/// A number of 32 bits.
pub(crate) fn small(number: u64) -> Result<u32, Bad> {
    u32::try_from(number).map_err(|_| Bad::TooLarge)
}

/// An enumeration's number.
pub(crate) fn kind(number: u64) -> Result<i32, Bad> {
    i32::try_from(number).map_err(|_| Bad::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_have_leading_zeros_but_not_too_many_bits() {
        assert_eq!((number(&[]), number(&[0, 0]), number(&[1, 0])), (Ok(0), Ok(0), Ok(256)));
        assert_eq!(number(&[0xff; 16]), Ok(u128::MAX));
        assert_eq!(number(&[[0; 16].as_slice(), &[7]].concat()), Ok(7));
        assert_eq!(number(&[1; 17]), Err(Bad::TooLarge));
        let most = MAX_DECIMAL.to_be_bytes();
        assert_eq!(decimal(&most), Ok(i128::try_from(MAX_DECIMAL).expect("it fits")));
        let more = (MAX_DECIMAL + 1).to_be_bytes();
        assert_eq!((decimal(&more), decimal_or_null(Some(&more))), (Err(Bad::TooLarge), None));
        let overflow = decimal_overflow(Some(&more)).expect("a number").expect("too large for a decimal");
        assert_eq!(&overflow[16..], more);
        assert_eq!((decimal_overflow(Some(&most)), decimal_overflow(None)), (Ok(None), Ok(None)));
        assert_eq!(decimal_overflow(Some(&[1; 33])), Err(Bad::TooLarge));
    }

    #[test]
    fn fixed_lengths_are_exact() {
        assert_eq!(fixed::<2>(&[1, 2]), Ok([1, 2]));
        assert_eq!(fixed::<2>(&[1]), Err(Bad::Length(2)));
        assert_eq!(fixed::<2>(&[]), Err(Bad::Missing));
        assert_eq!(fixed_or_null::<2>(&[]), Ok(None));
        assert_eq!(fixed_or_null::<2>(&[1, 2, 3]), Err(Bad::Length(2)));
        assert_eq!((small(7), small(1 << 32)), (Ok(7), Err(Bad::TooLarge)));
    }
}

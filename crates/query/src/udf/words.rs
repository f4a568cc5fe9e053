//! Columns of values that the contract ABI has in one word each, from words.

use std::sync::Arc;

use alloy_primitives::U256;
use arrow::{
    array::{ArrayRef, BooleanArray, FixedSizeBinaryArray, PrimitiveArray, StringArray},
    buffer::{BooleanBuffer, NullBuffer, OffsetBuffer},
    datatypes::{
        ArrowPrimitiveType, DataType, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    },
};

use super::{
    abi::{Type, WORD},
    u256,
};

/// 32 bytes, big-endian.
pub(super) type Word = [u8; WORD];

/// Which words a type has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check {
    /// The bits that no value sets; of a signed type, those that are as its sign.
    outside: Word,
    /// The byte that begins with the sign, of a signed type.
    sign: Option<usize>,
}

impl Check {
    /// `None` if the type is not one word.
    pub fn of(ty: &Type) -> Option<Self> {
        let mut sign = None;
        let outside = match ty {
            Type::Bool => {
                let mut outside = [0xff; WORD];
                outside[WORD - 1] = 0xfe;
                outside
            }
            Type::Uint(bits) => FIRST[WORD - bits / 8],
            Type::Int(bits) => {
                sign = Some(WORD - bits / 8);
                FIRST[WORD - bits / 8]
            }
            Type::Address => FIRST[12],
            Type::FixedBytes(size) => FIRST[*size].map(|byte| !byte),
            Type::Bytes | Type::String | Type::List(_) | Type::FixedList(..) | Type::Tuple(_) => return None,
        };
        Some(Self { outside, sign })
    }

    #[inline]
    pub fn holds(&self, word: &Word) -> bool {
        let is_negative = self.sign.is_some_and(|at| word[at] >= 0x80);
        let fill = if is_negative { u64::MAX } else { 0 };
        let (word, outside) = (word.as_chunks::<8>().0, self.outside.as_chunks::<8>().0);
        let set = word
            .iter()
            .zip(outside)
            .map(|(word, outside)| (u64::from_ne_bytes(*word) ^ fill) & u64::from_ne_bytes(*outside));
        set.fold(0, |all, set| all | set) == 0
    }
}

/// All bits of the first bytes, as many as the place says.
const FIRST: [Word; WORD + 1] = {
    let mut first = [[0; WORD]; WORD + 1];
    let mut count = 1;
    while count <= WORD {
        first[count] = first[count - 1];
        first[count][count - 1] = 0xff;
        count += 1;
    }
    first
};

/// The values of a type that is one word. Where there is no null, the word is one that the type has.
pub(super) fn column<'a>(
    ty: &Type,
    words: impl ExactSizeIterator<Item = &'a Word>,
    nulls: Option<NullBuffer>,
) -> ArrayRef {
    match (ty, ty.data_type()) {
        (Type::Bool, _) => {
            let values: BooleanBuffer = words.map(|word| word[WORD - 1] == 1).collect();
            Arc::new(BooleanArray::new(values, nulls))
        }
        (_, DataType::UInt8) => Arc::new(numbers::<UInt8Type>(words, nulls, |word| low_u64(word) as u8)),
        (_, DataType::UInt16) => Arc::new(numbers::<UInt16Type>(words, nulls, |word| low_u64(word) as u16)),
        (_, DataType::UInt32) => Arc::new(numbers::<UInt32Type>(words, nulls, |word| low_u64(word) as u32)),
        (_, DataType::UInt64) => Arc::new(numbers::<UInt64Type>(words, nulls, low_u64)),
        (_, DataType::Int8) => Arc::new(numbers::<Int8Type>(words, nulls, |word| low_u64(word) as i8)),
        (_, DataType::Int16) => Arc::new(numbers::<Int16Type>(words, nulls, |word| low_u64(word) as i16)),
        (_, DataType::Int32) => Arc::new(numbers::<Int32Type>(words, nulls, |word| low_u64(word) as i32)),
        (_, DataType::Int64) => Arc::new(numbers::<Int64Type>(words, nulls, |word| low_u64(word) as i64)),
        (_, DataType::Decimal128(precision, scale)) => {
            let values = numbers::<Decimal128Type>(words, nulls, low_i128);
            // The bits were looked at: 125 of them are less than 38 digits.
            Arc::new(values.with_precision_and_scale(precision, scale).expect("a decimal of 38 digits"))
        }
        (Type::Address, _) => last_bytes::<20>(words, nulls),
        (Type::FixedBytes(WORD), _) => last_bytes::<WORD>(words, nulls),
        (Type::FixedBytes(size), _) => {
            let mut bytes = Vec::with_capacity(words.len() * size);
            words.for_each(|word| bytes.extend_from_slice(&word[..*size]));
            Arc::new(FixedSizeBinaryArray::new(*size as i32, bytes.into(), nulls))
        }
        _ => texts(matches!(ty, Type::Int(_)), words, nulls),
    }
}

fn low_u64(word: &Word) -> u64 {
    word.last_chunk().map_or(0, |low| u64::from_be_bytes(*low))
}

fn low_i128(word: &Word) -> i128 {
    word.last_chunk().map_or(0, |low| i128::from_be_bytes(*low))
}

fn numbers<'a, T: ArrowPrimitiveType>(
    words: impl Iterator<Item = &'a Word>,
    nulls: Option<NullBuffer>,
    value: impl Fn(&Word) -> T::Native,
) -> PrimitiveArray<T> {
    PrimitiveArray::new(words.map(value).collect(), nulls)
}

/// Values of a size that is known when this is compiled, which is several times as fast.
fn last_bytes<'a, const SIZE: usize>(
    words: impl Iterator<Item = &'a Word>,
    nulls: Option<NullBuffer>,
) -> ArrayRef {
    let values: Vec<[u8; SIZE]> = words.map(|word| *word.last_chunk().unwrap_or(&[0; SIZE])).collect();
    Arc::new(FixedSizeBinaryArray::new(SIZE as i32, values.into_flattened().into(), nulls))
}

/// Integers that are text.
fn texts<'a>(
    is_signed: bool,
    words: impl ExactSizeIterator<Item = &'a Word>,
    nulls: Option<NullBuffer>,
) -> ArrayRef {
    let mut text = String::with_capacity(words.len() * 20);
    let mut lengths = Vec::with_capacity(words.len());
    for (row, word) in words.enumerate() {
        let before = text.len();
        if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
            let number = U256::from_be_bytes(*word);
            let is_negative = is_signed && word[0] >= 0x80;
            u256::write(is_negative, if is_negative { number.wrapping_neg() } else { number }, &mut text);
        }
        lengths.push(text.len() - before);
    }
    let offsets = OffsetBuffer::from_lengths(lengths);
    Arc::new(StringArray::new(offsets, text.into_bytes().into(), nulls))
}

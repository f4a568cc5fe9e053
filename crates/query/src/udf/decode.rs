//! Decoding of the contract ABI straight into Arrow arrays.
//!
//! Each value is looked at twice: first whether the whole encoding is one, row by row; then column by
//! column, where nothing can go wrong any more. What is not what an encoder would have written (bits above
//! a small integer, a boolean of 2, an offset that leads out) is no value.

use std::sync::Arc;

use alloy_primitives::U256;
use arrow::{
    array::{
        Array, ArrayRef, BinaryArray, BinaryBuilder, BinaryViewArray, BooleanArray, Decimal128Array,
        FixedSizeBinaryArray, FixedSizeBinaryBuilder, FixedSizeListArray, LargeBinaryArray, ListArray,
        PrimitiveArray, StringBuilder, StructArray, builder::NullBufferBuilder,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{
        ArrowPrimitiveType, DataType, Field, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    },
};
use datafusion::{common::plan_err, error::Result};

use super::{
    abi::{Named, Type, WORD, struct_fields},
    u256,
};

/// An encoding may lead to the same bytes again and again, so that little data has many values. No encoder
/// writes such ones: for each word of data this many words are looked at, and no more.
const LOOKS_PER_WORD: usize = 2;

/// Where a value lies: at a place of what its offsets count from.
#[derive(Debug, Clone, Copy)]
struct Slot<'a> {
    frame: &'a [u8],
    at: usize,
}

impl<'a> Slot<'a> {
    fn word(self) -> Option<&'a [u8; WORD]> {
        self.frame.get(self.at..)?.first_chunk()
    }

    /// The word as a place or a count.
    fn number(self) -> Option<usize> {
        let (high, low) = self.word()?.split_last_chunk::<8>()?;
        high.iter().all(|byte| *byte == 0).then(|| usize::try_from(u64::from_be_bytes(*low)).ok())?
    }

    /// What lies where the offset in this place leads.
    fn follow(self) -> Option<Self> {
        Some(Self { frame: self.frame.get(self.number()?..)?, at: 0 })
    }

    /// The bytes behind their length.
    fn bytes(self) -> Option<&'a [u8]> {
        let there = self.follow()?;
        there.frame.get(WORD..)?.get(..there.number()?)
    }

    /// The items of a list and their number.
    fn items(self, item: &Type) -> Option<(Self, usize)> {
        let there = self.follow()?;
        let (count, frame) = (there.number()?, there.frame.get(WORD..)?);
        (count <= frame.len() / item.head_bytes()).then_some((Self { frame, at: 0 }, count))
    }

    /// The place of the parts of a value that has a fixed number of them.
    fn parts(self, ty: &Type) -> Option<Self> {
        if ty.is_dynamic() { self.follow() } else { Some(self) }
    }

    fn behind(self, bytes: usize) -> Self {
        Self { at: self.at.saturating_add(bytes), ..self }
    }
}

/// Whether a value of the type lies there; `None` where none does.
fn fits(ty: &Type, slot: Slot<'_>, budget: &mut usize) -> Option<()> {
    if !matches!(ty, Type::FixedList(..) | Type::Tuple(_)) || ty.is_dynamic() {
        *budget = budget.checked_sub(1)?;
    }
    match ty {
        Type::Bytes | Type::String => {
            // They are copied, each time that they are led to.
            *budget = budget.checked_sub(slot.bytes()?.len().div_ceil(WORD))?;
            Some(())
        }
        Type::List(item) => {
            let (first, count) = slot.items(item)?;
            (0..count).try_for_each(|index| fits(item, first.behind(index * item.head_bytes()), budget))
        }
        Type::FixedList(item, count) => {
            let first = slot.parts(ty)?;
            (0..*count).try_for_each(|index| fits(item, first.behind(index * item.head_bytes()), budget))
        }
        Type::Tuple(fields) => fit(fields, slot.parts(ty)?, budget),
        word => is_word_of(word, slot.word()?).then_some(()),
    }
}

fn fit(fields: &[Named], first: Slot<'_>, budget: &mut usize) -> Option<()> {
    let mut slot = first;
    fields.iter().try_for_each(|field| {
        fits(&field.ty, slot, budget)?;
        slot = slot.behind(field.ty.head_bytes());
        Some(())
    })
}

/// Whether a word is one that the type has.
fn is_word_of(ty: &Type, word: &[u8; WORD]) -> bool {
    let is_filled = |bytes: &[u8], with: u8| bytes.iter().all(|byte| *byte == with);
    match ty {
        Type::Bool => is_filled(&word[..31], 0) && word[31] <= 1,
        Type::Uint(bits) => is_filled(&word[..WORD - bits / 8], 0),
        Type::Int(bits) => {
            let start = WORD - bits / 8;
            let sign = if word[start] >= 0x80 { 0xff } else { 0 };
            is_filled(&word[..start], sign)
        }
        Type::Address => is_filled(&word[..12], 0),
        Type::FixedBytes(size) => is_filled(&word[*size..], 0),
        _ => false,
    }
}

/// The values of the parameters in each row's data. A row whose data holds none, or does not fit, has null
/// in each column; `true` for those that fit.
pub(super) fn parameters(fields: &[Named], rows: &[Option<&[u8]>]) -> (Vec<ArrayRef>, Vec<bool>) {
    let slots = fitting(fields, rows);
    let fit = slots.iter().map(Option::is_some).collect();
    (columns(fields, &slots), fit)
}

/// The values of one of the parameters, as [`parameters`] gives those of all.
pub(super) fn parameter(fields: &[Named], index: usize, rows: &[Option<&[u8]>]) -> ArrayRef {
    let before: usize = fields[..index].iter().map(|field| field.ty.head_bytes()).sum();
    let mut slots = fitting(fields, rows);
    slots.iter_mut().flatten().for_each(|slot| *slot = slot.behind(before));
    column(&fields[index].ty, &slots)
}

/// Where the parameters lie in each row's data; `None` where they do not.
fn fitting<'a>(fields: &[Named], rows: &[Option<&'a [u8]>]) -> Vec<Option<Slot<'a>>> {
    let slot = |data: &Option<&'a [u8]>| {
        let slot = Slot { frame: (*data)?, at: 0 };
        let mut budget = LOOKS_PER_WORD * (slot.frame.len() / WORD);
        fit(fields, slot, &mut budget).map(|()| slot)
    };
    rows.iter().map(slot).collect()
}

/// The values of one type in each row's data.
pub(super) fn values(ty: &Type, rows: &[Option<&[u8]>]) -> ArrayRef {
    let field = [Named { name: String::new(), ty: ty.clone() }];
    parameters(&field, rows).0.swap_remove(0)
}

fn columns(fields: &[Named], slots: &[Option<Slot<'_>>]) -> Vec<ArrayRef> {
    let mut start = 0;
    let each = fields.iter().map(|field| {
        let own: Vec<_> = slots.iter().map(|slot| slot.map(|slot| slot.behind(start))).collect();
        start += field.ty.head_bytes();
        column(&field.ty, &own)
    });
    each.collect()
}

/// The values of a type at places where such ones were found to be.
fn column(ty: &Type, slots: &[Option<Slot<'_>>]) -> ArrayRef {
    match ty {
        Type::Bytes => {
            let mut values = BinaryBuilder::with_capacity(slots.len(), 0);
            slots.iter().for_each(|slot| values.append_option(slot.and_then(Slot::bytes)));
            Arc::new(values.finish())
        }
        Type::String => {
            let mut values = StringBuilder::with_capacity(slots.len(), 0);
            // Bytes that are no text are no value of this type, and no reason to leave out the others.
            let texts = slots.iter().map(|slot| std::str::from_utf8(slot.and_then(Slot::bytes)?).ok());
            texts.for_each(|text| values.append_option(text));
            Arc::new(values.finish())
        }
        Type::List(item) => list(item, slots),
        Type::FixedList(item, count) => fixed_list(ty, item, *count, slots),
        Type::Tuple(fields) => {
            let parts: Vec<_> = slots.iter().map(|slot| slot.and_then(|slot| slot.parts(ty))).collect();
            structs(fields, columns(fields, &parts), parts.iter().map(Option::is_some).collect())
        }
        Type::Bool | Type::Uint(_) | Type::Int(_) | Type::Address | Type::FixedBytes(_) => {
            of_words(ty, slots.iter().map(|slot| slot.and_then(Slot::word)))
        }
    }
}

/// The values of a type that is one word, from words that are such ones.
fn of_words<'a>(ty: &Type, words: impl ExactSizeIterator<Item = Option<&'a [u8; WORD]>>) -> ArrayRef {
    match (ty, ty.data_type()) {
        (Type::Bool, _) => Arc::new(words.map(|word| Some(word?[31] == 1)).collect::<BooleanArray>()),
        (_, DataType::UInt8) => primitive::<UInt8Type>(words, |word| word[31]),
        (_, DataType::UInt16) => primitive::<UInt16Type>(words, |word| low_u64(word) as u16),
        (_, DataType::UInt32) => primitive::<UInt32Type>(words, |word| low_u64(word) as u32),
        (_, DataType::UInt64) => primitive::<UInt64Type>(words, low_u64),
        (_, DataType::Int8) => primitive::<Int8Type>(words, |word| low_u64(word) as i8),
        (_, DataType::Int16) => primitive::<Int16Type>(words, |word| low_u64(word) as i16),
        (_, DataType::Int32) => primitive::<Int32Type>(words, |word| low_u64(word) as i32),
        (_, DataType::Int64) => primitive::<Int64Type>(words, |word| low_u64(word) as i64),
        (_, DataType::Decimal128(precision, scale)) => {
            let values = words.map(|word| Some(low_i128(word?))).collect::<Decimal128Array>();
            // The bits were looked at: 125 of them are less than 38 digits.
            Arc::new(values.with_precision_and_scale(precision, scale).expect("a decimal of 38 digits"))
        }
        (Type::Address, _) => fixed::<20>(words.map(|word| word?.last_chunk())),
        (Type::FixedBytes(WORD), _) => fixed::<WORD>(words),
        (Type::FixedBytes(size), _) => fixed_of(words.map(|word| Some(&word?[..*size])), *size),
        _ => wide(ty, words),
    }
}

fn low_u64(word: &[u8; WORD]) -> u64 {
    word.last_chunk().map_or(0, |low| u64::from_be_bytes(*low))
}

fn low_i128(word: &[u8; WORD]) -> i128 {
    word.last_chunk().map_or(0, |low| i128::from_be_bytes(*low))
}

fn primitive<'a, T: ArrowPrimitiveType>(
    words: impl Iterator<Item = Option<&'a [u8; WORD]>>,
    value: impl Fn(&[u8; WORD]) -> T::Native,
) -> ArrayRef {
    Arc::new(words.map(|word| word.map(&value)).collect::<PrimitiveArray<T>>())
}

/// Values of a size that is known when this is compiled, which is several times as fast.
fn fixed<'a, const SIZE: usize>(values: impl ExactSizeIterator<Item = Option<&'a [u8; SIZE]>>) -> ArrayRef {
    let mut bytes = Vec::with_capacity(values.len() * SIZE);
    let mut nulls = NullBufferBuilder::new(values.len());
    for value in values {
        bytes.extend_from_slice(value.unwrap_or(&[0; SIZE]));
        nulls.append(value.is_some());
    }
    Arc::new(FixedSizeBinaryArray::new(SIZE as i32, bytes.into(), nulls.finish()))
}

fn fixed_of<'a>(values: impl ExactSizeIterator<Item = Option<&'a [u8]>>, size: usize) -> ArrayRef {
    let mut array = FixedSizeBinaryBuilder::with_capacity(values.len(), size as i32);
    for value in values {
        match value {
            // It has the size that was cut out.
            Some(value) => array.append_value(value).expect("a value of this size"),
            None => array.append_null(),
        }
    }
    Arc::new(array.finish())
}

/// Integers that are text.
fn wide<'a>(ty: &Type, words: impl ExactSizeIterator<Item = Option<&'a [u8; WORD]>>) -> ArrayRef {
    let mut text = String::with_capacity(80);
    let mut values = StringBuilder::with_capacity(words.len(), words.len() * 20);
    for word in words {
        let Some(word) = word else {
            values.append_null();
            continue;
        };
        let number = U256::from_be_bytes(*word);
        let is_negative = matches!(ty, Type::Int(_)) && word[0] >= 0x80;
        text.clear();
        u256::write(is_negative, if is_negative { number.wrapping_neg() } else { number }, &mut text);
        values.append_value(&text);
    }
    Arc::new(values.finish())
}

fn list(item: &Type, slots: &[Option<Slot<'_>>]) -> ArrayRef {
    let (mut items, mut lengths, mut is_there) = (vec![], vec![], vec![]);
    for slot in slots {
        let found = slot.and_then(|slot| slot.items(item));
        let count = found.map_or(0, |(_, count)| count);
        if let Some((first, _)) = found {
            items.extend((0..count).map(|index| Some(first.behind(index * item.head_bytes()))));
        }
        lengths.push(count);
        is_there.push(found.is_some());
    }
    let field = Arc::new(Field::new("item", item.data_type(), true));
    let nulls = NullBuffer::from(is_there);
    Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), column(item, &items), Some(nulls)))
}

fn fixed_list(ty: &Type, item: &Type, count: usize, slots: &[Option<Slot<'_>>]) -> ArrayRef {
    let first: Vec<_> = slots.iter().map(|slot| slot.and_then(|slot| slot.parts(ty))).collect();
    let items: Vec<_> = first
        .iter()
        .flat_map(|first| {
            (0..count).map(move |index| first.map(|first| first.behind(index * item.head_bytes())))
        })
        .collect();
    let field = Arc::new(Field::new("item", item.data_type(), true));
    let nulls = NullBuffer::from(first.iter().map(Option::is_some).collect::<Vec<_>>());
    Arc::new(FixedSizeListArray::new(field, count as i32, column(item, &items), Some(nulls)))
}

/// A struct of columns; a row that is not there is null.
pub(super) fn structs(fields: &[Named], columns: Vec<ArrayRef>, is_there: Vec<bool>) -> ArrayRef {
    Arc::new(StructArray::new(struct_fields(fields), columns, Some(NullBuffer::from(is_there))))
}

/// The values of an indexed parameter: each topic is a word of its own.
pub(super) fn topic(ty: &Type, topics: &dyn Array) -> Result<ArrayRef> {
    if let Some(topics) = topics.as_any().downcast_ref::<FixedSizeBinaryArray>() {
        return Ok(of_words(ty, topics.iter().map(|topic| word_of(ty, topic?))));
    }
    let rows = rows_of_bytes("a topic", topics)?;
    Ok(of_words(ty, rows.into_iter().map(|topic| word_of(ty, topic?))))
}

fn word_of<'a>(ty: &Type, topic: &'a [u8]) -> Option<&'a [u8; WORD]> {
    let word: &[u8; WORD] = topic.try_into().ok()?;
    is_word_of(ty, word).then_some(word)
}

/// The rows of a column of bytes.
pub(super) fn rows_of_bytes<'a>(what: &str, array: &'a dyn Array) -> Result<Vec<Option<&'a [u8]>>> {
    let any = array.as_any();
    if let Some(array) = any.downcast_ref::<BinaryArray>() {
        return Ok(array.iter().collect());
    }
    if let Some(array) = any.downcast_ref::<BinaryViewArray>() {
        return Ok(array.iter().collect());
    }
    if let Some(array) = any.downcast_ref::<FixedSizeBinaryArray>() {
        return Ok(array.iter().collect());
    }
    if let Some(array) = any.downcast_ref::<LargeBinaryArray>() {
        return Ok(array.iter().collect());
    }
    match array.data_type() {
        DataType::Null => Ok(vec![None; array.len()]),
        other => plan_err!("{what} must be bytes, not {other}"),
    }
}

/// Whether [`rows_of_bytes`] takes columns of this type.
pub(super) fn is_bytes(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary
            | DataType::BinaryView
            | DataType::LargeBinary
            | DataType::FixedSizeBinary(_)
            | DataType::Null
    )
}

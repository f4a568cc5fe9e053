//! Decoding of the contract ABI straight into Arrow arrays.
//!
//! Each value is looked at twice: first whether the whole encoding is one, row by row; then column by
//! column, where nothing can go wrong any more. What is not what an encoder would have written (bits above
//! a small integer, a boolean of 2, an offset that leads out) is no value.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, BinaryArray, BinaryBuilder, BinaryViewArray, FixedSizeBinaryArray,
        FixedSizeListArray, LargeBinaryArray, ListArray, StringBuilder, StructArray,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field},
};
use datafusion::{
    common::{internal_err, plan_err},
    error::Result,
};

use super::{
    abi::{Named, Type, WORD, struct_fields},
    words::{self, Check, Word},
};

/// An encoding may lead to the same bytes again and again, so that little data has many values. No encoder
/// writes such ones: for each word of data this many words are looked at, and no more.
const LOOKS_PER_WORD: usize = 2;

/// What is read where there is no value.
const NO_WORD: Word = [0; WORD];

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
        word => Check::of(word)?.holds(slot.word()?).then_some(()),
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

/// The values of the parameters in each row's data. A row whose data holds none, or does not fit, has null
/// in each column; `true` for those that fit.
pub(super) fn parameters(fields: &[Named], rows: &[Option<&[u8]>]) -> (Vec<ArrayRef>, Vec<bool>) {
    if let Some(checks) = checks(fields) {
        let (heads, fit) = heads(&checks, rows);
        let nulls = nulls(fit.iter().copied());
        let column = |(index, field): (usize, &Named)| {
            words::column(&field.ty, heads.iter().map(|head| word_at(head, index)), nulls.clone())
        };
        return (fields.iter().enumerate().map(column).collect(), fit);
    }
    let slots = fitting(fields, rows);
    let fit = slots.iter().map(Option::is_some).collect();
    (columns(fields, &slots), fit)
}

/// The values of one of the parameters, as [`parameters`] gives those of all.
pub(super) fn parameter(fields: &[Named], index: usize, rows: &[Option<&[u8]>]) -> ArrayRef {
    let ty = &fields[index].ty;
    if let Some(checks) = checks(fields) {
        let (heads, fit) = heads(&checks, rows);
        return words::column(ty, heads.iter().map(|head| word_at(head, index)), nulls(fit.into_iter()));
    }
    let before: usize = fields[..index].iter().map(|field| field.ty.head_bytes()).sum();
    let mut slots = fitting(fields, rows);
    slots.iter_mut().flatten().for_each(|slot| *slot = slot.behind(before));
    column(ty, &slots)
}

/// What the words of parameters have to be, if each parameter is one word: then all lie at the same places in each row.
fn checks(fields: &[Named]) -> Option<Vec<Check>> {
    fields.iter().map(|field| Check::of(&field.ty)).collect()
}

/// The words of such parameters in each row's data, and whether they fit: there are none where they do not.
fn heads<'a>(checks: &[Check], rows: &[Option<&'a [u8]>]) -> (Vec<&'a [Word]>, Vec<bool>) {
    let head = |data: &Option<&'a [u8]>| {
        let head = (*data)?.as_chunks::<WORD>().0.get(..checks.len())?;
        head.iter().zip(checks).all(|(word, check)| check.holds(word)).then_some(head)
    };
    rows.iter().map(head).map(|head| (head.unwrap_or_default(), head.is_some())).unzip()
}

fn word_at(head: &[Word], index: usize) -> &Word {
    head.get(index).unwrap_or(&NO_WORD)
}

/// The nulls of rows, if there are any.
fn nulls(is_there: impl Iterator<Item = bool>) -> Option<NullBuffer> {
    Some(NullBuffer::from_iter(is_there)).filter(|nulls| nulls.null_count() > 0)
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
            let found = slots.iter().map(|slot| slot.and_then(Slot::word));
            words::column(
                ty,
                found.clone().map(|word| word.unwrap_or(&NO_WORD)),
                nulls(found.map(|word| word.is_some())),
            )
        }
    }
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
    let Some(check) = Check::of(ty) else { return internal_err!("{ty:?} is not one word") };
    let topics_of_words = topics.as_any().downcast_ref::<FixedSizeBinaryArray>();
    if let Some(topics) = topics_of_words.filter(|topics| topics.value_length() as usize == WORD) {
        let words = topics.value_data().as_chunks::<WORD>().0;
        let fit = NullBuffer::from_iter(words.iter().map(|word| check.holds(word)));
        let nulls = NullBuffer::union(topics.nulls(), Some(&fit)).filter(|nulls| nulls.null_count() > 0);
        return Ok(words::column(ty, words.iter(), nulls));
    }
    let rows = rows_of_bytes("a topic", topics)?;
    let found = rows.iter().map(|topic| <&Word>::try_from((*topic)?).ok().filter(|word| check.holds(word)));
    let nulls = nulls(found.clone().map(|word| word.is_some()));
    Ok(words::column(ty, found.map(|word| word.unwrap_or(&NO_WORD)), nulls))
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

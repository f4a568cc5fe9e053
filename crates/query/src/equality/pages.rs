//! The rows of a column chunk that have one of some values, from its pages.
//!
//! Shapes are those of the Parquet format: a data page of a flat column is its definition levels, if it may be
//! null, and then its values, either as they are (`PLAIN`) or as indices into the dictionary page, in runs that are
//! repeated or bit-packed (`RLE_DICTIONARY`).

use std::{io::Cursor, sync::Arc};

use bytes::Bytes;
use parquet::{
    basic::{Encoding, Type},
    column::page::{Page, PageReader},
    errors::{ParquetError, Result as ParquetResult},
    file::{
        metadata::ColumnChunkMetaData,
        reader::{ChunkReader, Length},
        serialized_reader::SerializedPageReader,
    },
};

use super::rows::Rows;

/// Whether the rows of a chunk can be told from its pages: a flat column of that width.
pub(crate) fn is_readable(chunk: &ColumnChunkMetaData, width: usize) -> bool {
    let column = chunk.column_descr();
    column.physical_type() == Type::FIXED_LEN_BYTE_ARRAY
        && usize::try_from(column.type_length()) == Ok(width)
        && column.max_rep_level() == 0
        && column.max_def_level() <= 1
}

/// The rows of a chunk that have one of the values, which all have the column's width; `None` where a page has an
/// encoding that is not read here. Pages without a row of `among` are not looked at, and have none.
pub(crate) fn matching(
    bytes: Bytes,
    chunk: &ColumnChunkMetaData,
    rows: usize,
    among: Option<&Rows>,
    values: &[Vec<u8>],
) -> ParquetResult<Option<Rows>> {
    let is_optional = chunk.column_descr().max_def_level() > 0;
    let width = values.first().map_or(0, Vec::len);
    let only_indices = chunk.page_encoding_stats_mask().is_some_and(|mask| {
        mask.is_only(Encoding::RLE_DICTIONARY) || mask.is_only(Encoding::PLAIN_DICTIONARY)
    });
    let bytes = Arc::new(Chunk { start: chunk.byte_range().0, bytes });
    let mut pages = SerializedPageReader::new(bytes, chunk, rows, None)?;
    let mut found = Rows::with_capacity(rows);
    let mut indices = Indices::None;
    while let Some(next) = pages.peek_next_page()? {
        let of_page = next.num_rows.or(next.num_levels).filter(|_| !next.is_dict);
        if let (Some(count), Some(among)) = (of_page, among)
            && !among.any(found.len(), count)
        {
            pages.skip_next_page()?;
            found.push_repeated(false, count);
            continue;
        }
        match pages.get_next_page()? {
            None => break,
            Some(Page::DictionaryPage { buf, encoding, .. }) => {
                if !matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY) {
                    return Ok(None);
                }
                indices = Indices::of(&buf, width, values);
                if only_indices && matches!(indices, Indices::None) {
                    return Ok(Some(Rows::none(rows)));
                }
            }
            Some(Page::DataPage { buf, num_values, encoding, def_level_encoding, .. }) => {
                let count = num_values as usize;
                let (valid, values_at) = if is_optional {
                    if def_level_encoding != Encoding::RLE {
                        return Ok(None);
                    }
                    let length = length_prefix(&buf)?;
                    (Some(levels(slice(&buf, 4, length)?, count)?), 4 + length)
                } else {
                    (None, 0)
                };
                let body = buf.slice(values_at..);
                let Some(page) = of_values(&body, encoding, valid.as_ref(), count, &indices, values)? else {
                    return Ok(None);
                };
                found.extend(&page);
            }
            Some(Page::DataPageV2 { buf, num_values, encoding, def_levels_byte_len, .. }) => {
                let (count, length) = (num_values as usize, def_levels_byte_len as usize);
                let valid = match is_optional {
                    true => Some(levels(slice(&buf, 0, length)?, count)?),
                    false => None,
                };
                let body = buf.slice(length.min(buf.len())..);
                let Some(page) = of_values(&body, encoding, valid.as_ref(), count, &indices, values)? else {
                    return Ok(None);
                };
                found.extend(&page);
            }
        }
    }
    if found.len() != rows {
        let column = chunk.column_path();
        let text = format!("the pages of `{column}` have {} rows of {rows}", found.len());
        return Err(ParquetError::General(text));
    }
    Ok(Some(found))
}

/// The rows of one page; `valid` are those that are not null, all if it is `None`.
fn of_values(
    body: &[u8],
    encoding: Encoding,
    valid: Option<&Rows>,
    count: usize,
    indices: &Indices,
    values: &[Vec<u8>],
) -> ParquetResult<Option<Rows>> {
    let present = valid.map_or(count, Rows::count);
    let found = match encoding {
        Encoding::PLAIN => {
            let width = values.first().map_or(0, Vec::len);
            plain(slice(body, 0, present * width)?, values)
        }
        Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => match body.split_first() {
            Some((width, runs)) => runs_of(runs, *width, present, indices)?,
            None if present == 0 => Rows::default(),
            None => return Err(short()),
        },
        _ => return Ok(None),
    };
    Ok(Some(match valid {
        Some(valid) if present < count => valid.spread(&found),
        _ => found,
    }))
}

/// Compares values as they are.
fn plain(body: &[u8], values: &[Vec<u8>]) -> Rows {
    let width = values.first().map_or(1, Vec::len).max(1);
    let mut found = Rows::with_capacity(body.len() / width);
    for rows in body.chunks(64 * width) {
        let word = match values {
            [value] => bits(rows, width, |bytes| bytes == value.as_slice()),
            _ => bits(rows, width, |bytes| {
                values.binary_search_by(|value| value.as_slice().cmp(bytes)).is_ok()
            }),
        };
        found.push(word, rows.len() / width);
    }
    found
}

fn bits(rows: &[u8], width: usize, mut is_wanted: impl FnMut(&[u8]) -> bool) -> u64 {
    let bit = |(row, bytes)| u64::from(is_wanted(bytes)) << row;
    rows.chunks_exact(width).enumerate().map(bit).fold(0, |word, bit| word | bit)
}

/// Which indices of a dictionary mean a value that is wanted.
enum Indices {
    None,
    One(u32),
    Many(Vec<bool>),
}

impl Indices {
    fn of(dictionary: &[u8], width: usize, values: &[Vec<u8>]) -> Self {
        let is_wanted = |bytes: &[u8]| values.binary_search_by(|value| value.as_slice().cmp(bytes)).is_ok();
        let wanted: Vec<bool> = dictionary.chunks_exact(width.max(1)).map(is_wanted).collect();
        let mut set = wanted.iter().enumerate().filter_map(|(index, is_set)| is_set.then_some(index));
        match (set.next().map(u32::try_from), set.next()) {
            (None, _) => Self::None,
            (Some(Ok(index)), None) => Self::One(index),
            _ => Self::Many(wanted),
        }
    }
}

/// Definition levels of at most one: set where there is a value.
fn levels(runs: &[u8], count: usize) -> ParquetResult<Rows> {
    runs_of(runs, 1, count, &Indices::One(1))
}

/// Reads `count` numbers of `width` bits, and tells which are wanted.
fn runs_of(mut runs: &[u8], width: u8, count: usize, wanted: &Indices) -> ParquetResult<Rows> {
    if width > 32 {
        return Err(ParquetError::General(format!("numbers of {width} bits in a page")));
    }
    if let Indices::None = wanted {
        return Ok(Rows::none(count));
    }
    let mut found = Rows::with_capacity(count);
    let is_wanted = |number: u32| match wanted {
        Indices::None => false,
        Indices::One(one) => *one == number,
        Indices::Many(many) => many.get(number as usize).copied().unwrap_or(false),
    };
    while found.len() < count {
        let header = varint(&mut runs)?;
        let left = count - found.len();
        if header & 1 == 0 {
            let bytes = take(&mut runs, usize::from(width).div_ceil(8))?;
            let number = bytes.iter().rev().fold(0, |number, byte| (number << 8) | u32::from(*byte));
            let times = usize::try_from(header >> 1).unwrap_or(usize::MAX).min(left);
            if times == 0 {
                return Err(ParquetError::General("a run without rows in a page".into()));
            }
            found.push_repeated(is_wanted(number), times);
        } else {
            let groups = usize::try_from(header >> 1).unwrap_or(usize::MAX);
            let length = groups.saturating_mul(usize::from(width));
            if groups == 0 {
                return Err(ParquetError::General("a run without rows in a page".into()));
            }
            let packed = take(&mut runs, length)?;
            let numbers = groups.saturating_mul(8).min(left);
            match wanted {
                Indices::One(one) => unpack(packed, width, numbers, &mut found, |number| number == *one),
                _ => unpack(packed, width, numbers, &mut found, is_wanted),
            }
        }
    }
    Ok(found)
}

/// Adds a bit for each of `count` numbers of `width` bits, from the lowest bit of the first byte on.
fn unpack(packed: &[u8], width: u8, count: usize, found: &mut Rows, is_wanted: impl Fn(u32) -> bool + Copy) {
    // Each width has its own shifts, known when it is compiled: this is the loop that all rows go through.
    macro_rules! by_width {
        ($($known:literal)*) => {
            match width {
                $($known => unpack_as(packed, $known, count, found, is_wanted),)*
                _ => unpack_as(packed, width, count, found, is_wanted),
            }
        };
    }
    by_width!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18)
}

#[inline(always)]
fn unpack_as(packed: &[u8], width: u8, count: usize, found: &mut Rows, is_wanted: impl Fn(u32) -> bool) {
    let width = usize::from(width);
    let mask = u64::MAX.checked_shr(64 - width as u32).unwrap_or(0);
    // The last number is read with the eight bytes from its first on.
    let mut padded = [0u8; 64 * 32 / 8 + 8];
    let mut bytes = packed;
    for done in (0..count).step_by(64) {
        let length = bytes.len().min(8 * width);
        let (now, rest) = bytes.split_at(length);
        padded[..length].copy_from_slice(now);
        padded[length..8 * width].fill(0);
        bytes = rest;
        let mut word = 0u64;
        for row in 0..64 {
            let bit = row * width;
            let mut eight = [0u8; 8];
            eight.copy_from_slice(&padded[bit / 8..bit / 8 + 8]);
            let number = (u64::from_le_bytes(eight) >> (bit % 8)) & mask;
            word |= u64::from(is_wanted(number as u32)) << row;
        }
        let left = (count - done).min(64);
        found.push(if left < 64 { word & ((1 << left) - 1) } else { word }, left);
    }
}

fn varint(bytes: &mut &[u8]) -> ParquetResult<u64> {
    let mut number = 0;
    for place in 0..10 {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f).checked_shl(7 * place).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(short())
}

fn length_prefix(bytes: &[u8]) -> ParquetResult<usize> {
    let prefix = bytes.first_chunk().ok_or_else(short)?;
    Ok(u32::from_le_bytes(*prefix) as usize)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> ParquetResult<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or_else(short)?;
    *bytes = rest;
    Ok(taken)
}

fn slice(bytes: &[u8], start: usize, length: usize) -> ParquetResult<&[u8]> {
    bytes.get(start..).and_then(|rest| rest.get(..length)).ok_or_else(short)
}

fn short() -> ParquetError {
    ParquetError::EOF("a page ends before its values".into())
}

/// A column chunk by the offsets of its file.
struct Chunk {
    start: u64,
    bytes: Bytes,
}

impl Chunk {
    fn from(&self, at: u64) -> ParquetResult<Bytes> {
        let within = at.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let within = within.filter(|at| *at <= self.bytes.len());
        within.map(|at| self.bytes.slice(at..)).ok_or_else(short)
    }
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Chunk {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(Cursor::new(self.from(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let rest = self.from(start)?;
        if length > rest.len() {
            return Err(short());
        }
        Ok(rest.slice(..length))
    }
}

//! The rows of a column chunk that have one of some values, and how often each value stands there, from its pages.
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
    let mut pages = of_chunk(bytes, chunk, rows)?;
    let mut found = Rows::with_capacity(rows);
    let mut indices = Indices::None;
    while let Some(next) = next_of(&mut pages, among, found.len())? {
        match next {
            Next::None(count) => found.push_repeated(false, count),
            Next::Page(page) => match Part::of(page, is_optional)? {
                None => return Ok(None),
                Some(Part::Dictionary(dictionary)) => {
                    indices = Indices::of(&dictionary, width, values);
                    if only_indices && matches!(indices, Indices::None) {
                        return Ok(Some(Rows::none(rows)));
                    }
                }
                Some(Part::Values(page)) => match of_values(&page, &indices, values)? {
                    Some(page) => found.extend(&page),
                    None => return Ok(None),
                },
            },
        }
    }
    check_rows(found.len(), rows, chunk)?;
    Ok(Some(found))
}

/// How often values stand in a chunk; one may come several times.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// The values, behind each other.
    pub(crate) values: Vec<u8>,
    /// How often each of them stands there.
    pub(crate) times: Vec<i64>,
    /// The rows that have no value.
    pub(crate) nulls: i64,
}

/// How often the values of this width stand in a chunk, or in its rows of `among`; `None` where a page has an encoding
/// that is not read here.
pub(crate) fn counted(
    bytes: Bytes,
    chunk: &ColumnChunkMetaData,
    rows: usize,
    among: Option<&Rows>,
    width: usize,
) -> ParquetResult<Option<Counts>> {
    let is_optional = chunk.column_descr().max_def_level() > 0;
    let mut pages = of_chunk(bytes, chunk, rows)?;
    let mut counts = Counts::default();
    let (mut dictionary, mut tally) = (Bytes::new(), vec![]);
    let mut done = 0;
    while let Some(next) = next_of(&mut pages, among, done)? {
        let page = match next {
            Next::None(count) => {
                done += count;
                continue;
            }
            Next::Page(page) => page,
        };
        let page = match Part::of(page, is_optional)? {
            None => return Ok(None),
            Some(Part::Dictionary(bytes)) => {
                tally = vec![0; bytes.len() / width.max(1)];
                dictionary = bytes;
                continue;
            }
            Some(Part::Values(page)) => page,
        };
        let asked = among.map(|among| among.slice(done, page.count));
        done += page.count;
        let present = page.present();
        let (all, asked) = match (&page.valid, asked) {
            (None, asked) => (page.count, asked),
            (Some(_), None) => (page.count, None),
            (Some(valid), Some(asked)) => (asked.count(), Some(asked.pack(valid))),
        };
        let with_value = asked.as_ref().map_or(present, Rows::count);
        if page.valid.is_some() {
            counts.nulls += (all - with_value) as i64;
        }
        match page.encoding {
            Encoding::PLAIN => {
                let values = slice(&page.body, 0, present * width)?.chunks_exact(width.max(1));
                let is_asked = |row: usize| asked.as_ref().is_none_or(|asked| asked.any(row, 1));
                for (_, value) in values.enumerate().filter(|(row, _)| is_asked(*row)) {
                    counts.values.extend_from_slice(value);
                }
                counts.times.resize(counts.times.len() + with_value, 1);
            }
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
                let Some((bits, runs)) = page.body.split_first() else {
                    if present == 0 { continue } else { return Err(short()) }
                };
                let mut numbers = Tally { times: &mut tally, among: asked.as_ref(), at: 0, is_beyond: false };
                read(runs, *bits, present, &mut numbers)?;
                if numbers.is_beyond {
                    return Err(ParquetError::General(
                        "a page names values that its dictionary lacks".into(),
                    ));
                }
            }
            _ => return Ok(None),
        }
    }
    check_rows(done, rows, chunk)?;
    for (value, times) in dictionary.chunks_exact(width.max(1)).zip(tally).filter(|(_, times)| *times > 0) {
        counts.values.extend_from_slice(value);
        counts.times.push(times);
    }
    Ok(Some(counts))
}

fn of_chunk(
    bytes: Bytes,
    chunk: &ColumnChunkMetaData,
    rows: usize,
) -> ParquetResult<SerializedPageReader<Chunk>> {
    let bytes = Arc::new(Chunk { start: chunk.byte_range().0, bytes });
    SerializedPageReader::new(bytes, chunk, rows, None)
}

enum Next {
    Page(Page),
    /// So many rows, none of which is asked for.
    None(usize),
}

/// The next page of a chunk, if any of its rows, from `at` on, is of `among`.
fn next_of(
    pages: &mut SerializedPageReader<Chunk>,
    among: Option<&Rows>,
    at: usize,
) -> ParquetResult<Option<Next>> {
    let Some(next) = pages.peek_next_page()? else { return Ok(None) };
    let of_page = next.num_rows.or(next.num_levels).filter(|_| !next.is_dict);
    if let (Some(count), Some(among)) = (of_page, among)
        && !among.any(at, count)
    {
        pages.skip_next_page()?;
        return Ok(Some(Next::None(count)));
    }
    Ok(pages.get_next_page()?.map(Next::Page))
}

fn check_rows(found: usize, rows: usize, chunk: &ColumnChunkMetaData) -> ParquetResult<()> {
    if found == rows {
        return Ok(());
    }
    let column = chunk.column_path();
    Err(ParquetError::General(format!("the pages of `{column}` have {found} rows of {rows}")))
}

/// What a page is.
enum Part {
    /// Values behind each other.
    Dictionary(Bytes),
    Values(Values),
}

struct Values {
    /// The rows of the page.
    count: usize,
    /// Those that are not null; all if it is `None`.
    valid: Option<Rows>,
    encoding: Encoding,
    body: Bytes,
}

impl Values {
    /// How many values there are.
    fn present(&self) -> usize {
        self.valid.as_ref().map_or(self.count, Rows::count)
    }
}

impl Part {
    /// `None` where the page has an encoding that is not read here.
    fn of(page: Page, is_optional: bool) -> ParquetResult<Option<Self>> {
        let (buf, count, encoding, levels_at) = match page {
            Page::DictionaryPage { buf, encoding, .. } => {
                let is_plain = matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY);
                return Ok(is_plain.then_some(Self::Dictionary(buf)));
            }
            Page::DataPage { buf, num_values, encoding, def_level_encoding, .. } => {
                let levels_at = match is_optional {
                    true if def_level_encoding != Encoding::RLE => return Ok(None),
                    true => 4..4 + length_prefix(&buf)?,
                    false => 0..0,
                };
                (buf, num_values, encoding, levels_at)
            }
            Page::DataPageV2 { buf, num_values, encoding, def_levels_byte_len, .. } => {
                (buf, num_values, encoding, 0..def_levels_byte_len as usize)
            }
        };
        let count = count as usize;
        let valid = match is_optional {
            true => Some(levels(slice(&buf, levels_at.start, levels_at.len())?, count)?),
            false => None,
        };
        let body = buf.slice(levels_at.end.min(buf.len())..);
        Ok(Some(Self::Values(Values { count, valid, encoding, body })))
    }
}

/// The rows of one page that have one of the values.
fn of_values(page: &Values, indices: &Indices, values: &[Vec<u8>]) -> ParquetResult<Option<Rows>> {
    let present = page.present();
    let found = match page.encoding {
        Encoding::PLAIN => {
            let width = values.first().map_or(0, Vec::len);
            plain(slice(&page.body, 0, present * width)?, values)
        }
        Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => match page.body.split_first() {
            Some((width, runs)) => runs_of(runs, *width, present, indices)?,
            None if present == 0 => Rows::default(),
            None => return Err(short()),
        },
        _ => return Ok(None),
    };
    Ok(Some(match &page.valid {
        Some(valid) if present < page.count => valid.spread(&found),
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
fn runs_of(runs: &[u8], width: u8, count: usize, wanted: &Indices) -> ParquetResult<Rows> {
    if let Indices::None = wanted {
        return Ok(Rows::none(count));
    }
    let mut sought = Sought { wanted, found: Rows::with_capacity(count) };
    read(runs, width, count, &mut sought)?;
    Ok(sought.found)
}

/// What takes the numbers of a page, in their order.
trait Numbers {
    fn repeated(&mut self, number: u32, times: usize);

    /// Takes `count` numbers of `width` bits, from the lowest bit of the first byte on.
    fn packed(&mut self, bytes: &[u8], width: u8, count: usize);
}

/// Finds rows by numbers.
struct Sought<'a> {
    wanted: &'a Indices,
    found: Rows,
}

impl Numbers for Sought<'_> {
    fn repeated(&mut self, number: u32, times: usize) {
        let is_wanted = match self.wanted {
            Indices::None => false,
            Indices::One(one) => *one == number,
            Indices::Many(many) => many.get(number as usize).copied().unwrap_or(false),
        };
        self.found.push_repeated(is_wanted, times);
    }

    fn packed(&mut self, bytes: &[u8], width: u8, count: usize) {
        let found = &mut self.found;
        match self.wanted {
            Indices::None => found.push_repeated(false, count),
            Indices::One(one) => unpack(bytes, width, count, |numbers, left| {
                found.push(word(numbers, left, |number| number == *one), left);
            }),
            Indices::Many(many) => unpack(bytes, width, count, |numbers, left| {
                let is_wanted = |number: u32| many.get(number as usize).copied().unwrap_or(false);
                found.push(word(numbers, left, is_wanted), left);
            }),
        }
    }
}

/// A bit for each of the first `left` numbers.
#[inline(always)]
fn word(numbers: &[u32; 64], left: usize, is_wanted: impl Fn(u32) -> bool) -> u64 {
    let mut word = 0u64;
    for (row, number) in numbers.iter().enumerate() {
        word |= u64::from(is_wanted(*number)) << row;
    }
    if left < 64 { word & ((1 << left) - 1) } else { word }
}

/// Counts numbers, those of the rows of `among` if there is such.
struct Tally<'a> {
    times: &'a mut [i64],
    among: Option<&'a Rows>,
    at: usize,
    is_beyond: bool,
}

impl Numbers for Tally<'_> {
    fn repeated(&mut self, number: u32, times: usize) {
        let asked = self.among.map_or(times, |among| among.count_in(self.at, times));
        self.at += times;
        match self.times.get_mut(number as usize) {
            Some(of_number) => *of_number += asked as i64,
            None => self.is_beyond = true,
        }
    }

    fn packed(&mut self, bytes: &[u8], width: u8, count: usize) {
        let Self { times, among, at, is_beyond } = self;
        let mut add = |number: u32| match times.get_mut(number as usize) {
            Some(of_number) => *of_number += 1,
            None => *is_beyond = true,
        };
        match among {
            None => unpack(bytes, width, count, |numbers, left| {
                numbers.iter().take(left).for_each(|number| add(*number));
            }),
            Some(among) => unpack(bytes, width, count, |numbers, left| {
                let mut asked = among.get(*at, left);
                while asked != 0 {
                    add(numbers[asked.trailing_zeros() as usize]);
                    asked &= asked - 1;
                }
                *at += left;
            }),
        }
    }
}

/// Reads `count` numbers of `width` bits: runs that are repeated or bit-packed.
fn read(mut runs: &[u8], width: u8, count: usize, numbers: &mut impl Numbers) -> ParquetResult<()> {
    if width > 32 {
        return Err(ParquetError::General(format!("numbers of {width} bits in a page")));
    }
    let mut left = count;
    while left > 0 {
        let header = varint(&mut runs)?;
        let length = usize::try_from(header >> 1).unwrap_or(usize::MAX);
        if length == 0 {
            return Err(ParquetError::General("a run without rows in a page".into()));
        }
        if header & 1 == 0 {
            let bytes = take(&mut runs, usize::from(width).div_ceil(8))?;
            let number = bytes.iter().rev().fold(0, |number, byte| (number << 8) | u32::from(*byte));
            let times = length.min(left);
            numbers.repeated(number, times);
            left -= times;
        } else {
            let packed = take(&mut runs, length.saturating_mul(usize::from(width)))?;
            let times = length.saturating_mul(8).min(left);
            numbers.packed(packed, width, times);
            left -= times;
        }
    }
    Ok(())
}

/// Gives `count` numbers of `width` bits, 64 at a time, with how many of these count.
fn unpack(packed: &[u8], width: u8, count: usize, each: impl FnMut(&[u32; 64], usize)) {
    // Each width has its own shifts, known when it is compiled: this is the loop that all rows go through.
    macro_rules! by_width {
        ($($known:literal)*) => {
            match width {
                $($known => unpack_as(packed, $known, count, each),)*
                _ => unpack_as(packed, width, count, each),
            }
        };
    }
    by_width!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18)
}

#[inline(always)]
fn unpack_as(packed: &[u8], width: u8, count: usize, mut each: impl FnMut(&[u32; 64], usize)) {
    let width = usize::from(width);
    let mask = u64::MAX.checked_shr(64 - width as u32).unwrap_or(0);
    // The last number is read with the eight bytes from its first on.
    let mut padded = [0u8; 64 * 32 / 8 + 8];
    let mut numbers = [0u32; 64];
    let mut bytes = packed;
    for done in (0..count).step_by(64) {
        let length = bytes.len().min(8 * width);
        let (now, rest) = bytes.split_at(length);
        padded[..length].copy_from_slice(now);
        padded[length..8 * width].fill(0);
        bytes = rest;
        for (row, number) in numbers.iter_mut().enumerate() {
            let bit = row * width;
            let mut eight = [0u8; 8];
            eight.copy_from_slice(&padded[bit / 8..bit / 8 + 8]);
            *number = ((u64::from_le_bytes(eight) >> (bit % 8)) & mask) as u32;
        }
        each(&numbers, (count - done).min(64));
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

//! The cells of one column of one batch, and how each is written.
//!
//! A column is taken apart once per batch (type, nulls, offsets); writing a cell is then one
//! branch on the type and no allocation. JSON and bare text come from the same code, so that a
//! cell reads the same in every format: bare text is the JSON without the outer quotes.

use std::ops::Range;

use anyhow::Result;
use arrow::array::Array;
use arrow::buffer::NullBuffer;
use arrow::datatypes::{IntervalDayTime, IntervalMonthDayNano, TimeUnit};

use super::DecimalFormat;
use super::text::{decimal, decimal256, finite_float, hex, integer, json_string, not_finite};
use super::time::{Span, date, date_millis, time_of_day, timestamp};
use super::values::Values;

/// A column's cells, ready to be written.
pub(super) struct Cells<'a> {
    nulls: Option<NullBuffer>,
    values: Values<'a>,
}

/// A column or a struct's field: its cells, and what a JSON object has in front of them.
pub(super) struct Member<'a> {
    /// `,"name":`, see [`name_prefix`].
    pub prefix: Vec<u8>,
    /// What follows it.
    pub cells: Cells<'a>,
}

/// `,"name":` with the name escaped.
pub(super) fn name_prefix(name: &str) -> Vec<u8> {
    let mut prefix = vec![b','];
    json_string(name, &mut prefix);
    prefix.push(b':');
    prefix
}

/// Writes a JSON object; members that are null are left out.
pub(super) fn write_object<'a, 'c: 'a>(
    members: impl Iterator<Item = (&'a [u8], &'a Cells<'c>)>,
    row: usize,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    for (prefix, cells) in members {
        if !cells.is_null(row) {
            out.extend_from_slice(prefix);
            cells.write_json(row, out);
        }
    }
    // The comma in front of the first member, whichever that is, becomes the opening brace.
    match out.get_mut(start) {
        Some(first) => *first = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

impl<'a> Cells<'a> {
    /// Takes a column apart. The error names a type that has no text (unions).
    pub fn new(array: &'a dyn Array, decimals: DecimalFormat) -> Result<Self> {
        Ok(Self { nulls: array.logical_nulls(), values: Values::new(array, decimals)? })
    }

    /// Whether the row has no value, also where it is its dictionary's value that is null.
    pub fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Whether a cell's bare text can hold any character, so that a format has to look for those
    /// that mean something to it.
    pub fn is_free_text(&self) -> bool {
        match &self.values {
            Values::Utf8(_) | Values::LargeUtf8(_) | Values::Utf8View(_) => true,
            Values::List(..) | Values::Struct(_) | Values::Map(..) => true,
            Values::Indexed(_, values) => values.is_free_text(),
            _ => false,
        }
    }

    /// Writes a row's value as JSON; `null` where it has none.
    pub fn write_json(&self, row: usize, out: &mut Vec<u8>) {
        self.write::<true>(row, out);
    }

    /// Writes a row's value as text without quotes and escapes; nothing where it has none.
    /// Lists, structs and maps are JSON.
    pub fn write_bare(&self, row: usize, out: &mut Vec<u8>) {
        self.write::<false>(row, out);
    }

    #[inline]
    fn write<const JSON: bool>(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            if JSON {
                out.extend_from_slice(b"null");
            }
            return;
        }
        match &self.values {
            Values::Null => {}
            Values::Boolean(array) => {
                out.extend_from_slice(if array.value(row) { b"true" } else { b"false" })
            }
            Values::Int8(values) => integer(values[row], out),
            Values::Int16(values) => integer(values[row], out),
            Values::Int32(values) => integer(values[row], out),
            Values::Int64(values) => integer(values[row], out),
            Values::UInt8(values) => integer(values[row], out),
            Values::UInt16(values) => integer(values[row], out),
            Values::UInt32(values) => integer(values[row], out),
            Values::UInt64(values) => integer(values[row], out),
            Values::Float16(values) => float::<JSON, _>(values[row].to_f32(), out),
            Values::Float32(values) => float::<JSON, _>(values[row], out),
            Values::Float64(values) => float::<JSON, _>(values[row], out),
            Values::Decimal32(values, scale, format) => {
                quoted(JSON && format.is_string(), out, |out| decimal(values[row].into(), *scale, out));
            }
            Values::Decimal64(values, scale, format) => {
                quoted(JSON && format.is_string(), out, |out| decimal(values[row].into(), *scale, out));
            }
            Values::Decimal128(values, scale, format) => {
                quoted(JSON && format.is_string(), out, |out| decimal(values[row], *scale, out));
            }
            Values::Decimal256(values, scale, format) => {
                quoted(JSON && format.is_string(), out, |out| decimal256(values[row], *scale, out));
            }
            Values::Timestamp(values, unit) => quoted(JSON, out, |out| timestamp(values[row], *unit, out)),
            Values::Date32(values) => quoted(JSON, out, |out| date(values[row].into(), out)),
            Values::Date64(values) => quoted(JSON, out, |out| date_millis(values[row], out)),
            Values::Time32(values, unit) => {
                quoted(JSON, out, |out| time_of_day(values[row].into(), *unit, out))
            }
            Values::Time64(values, unit) => quoted(JSON, out, |out| time_of_day(values[row], *unit, out)),
            Values::Duration(values, unit) => {
                quoted(JSON, out, |out| Span::exact(values[row], *unit).write(out))
            }
            Values::YearMonth(values) => quoted(JSON, out, |out| months(values[row]).write(out)),
            Values::DayTime(values) => quoted(JSON, out, |out| days_and_time(values[row]).write(out)),
            Values::MonthDayNano(values) => quoted(JSON, out, |out| mixed(values[row]).write(out)),
            Values::Binary(array) => quoted(JSON, out, |out| hex(array.value(row), out)),
            Values::LargeBinary(array) => quoted(JSON, out, |out| hex(array.value(row), out)),
            Values::BinaryView(array) => quoted(JSON, out, |out| hex(array.value(row), out)),
            Values::FixedSizeBinary(array) => quoted(JSON, out, |out| hex(array.value(row), out)),
            Values::Utf8(array) => string::<JSON>(array.value(row), out),
            Values::LargeUtf8(array) => string::<JSON>(array.value(row), out),
            Values::Utf8View(array) => string::<JSON>(array.value(row), out),
            Values::List(slots, items) => write_list(slots.of(row), items, out),
            Values::Struct(members) => {
                let members = members.iter().map(|member| (member.prefix.as_slice(), &member.cells));
                write_object(members, row, out);
            }
            Values::Map(slots, entries) => write_map(slots.of(row), &entries.0, &entries.1, out),
            Values::Indexed(positions, values) => values.write::<JSON>(positions[row], out),
        }
    }
}

fn quoted(quotes: bool, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    if quotes {
        out.push(b'"');
        write(out);
        out.push(b'"');
    } else {
        write(out);
    }
}

fn string<const JSON: bool>(text: &str, out: &mut Vec<u8>) {
    if JSON { json_string(text, out) } else { out.extend_from_slice(text.as_bytes()) }
}

fn float<const JSON: bool, F: Into<f64> + Copy + serde::Serialize>(value: F, out: &mut Vec<u8>) {
    match not_finite(value.into()) {
        None => finite_float(value, out),
        Some(name) => quoted(JSON, out, |out| out.extend_from_slice(name.as_bytes())),
    }
}

fn months(months: i32) -> Span {
    Span { months, ..Span::default() }
}

fn days_and_time(interval: IntervalDayTime) -> Span {
    let time = Span::exact(interval.milliseconds.into(), TimeUnit::Millisecond);
    Span { days: interval.days, ..time }
}

fn mixed(interval: IntervalMonthDayNano) -> Span {
    let time = Span::exact(interval.nanoseconds, TimeUnit::Nanosecond);
    Span { months: interval.months, days: interval.days, ..time }
}

fn write_list(slots: Range<usize>, items: &Cells<'_>, out: &mut Vec<u8>) {
    out.push(b'[');
    let first = slots.start;
    for slot in slots {
        if slot != first {
            out.push(b',');
        }
        items.write_json(slot, out);
    }
    out.push(b']');
}

/// A map as an object. An entry without a value stays, as `null`: its key says something.
fn write_map(slots: Range<usize>, keys: &Cells<'_>, values: &Cells<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    let first = slots.start;
    for slot in slots {
        if slot != first {
            out.push(b',');
        }
        write_key(keys, slot, out);
        out.push(b':');
        values.write_json(slot, out);
    }
    out.push(b'}');
}

/// A key has to be a string: what JSON would write otherwise is put between quotes.
fn write_key(keys: &Cells<'_>, slot: usize, out: &mut Vec<u8>) {
    let start = out.len();
    keys.write_json(slot, out);
    match out[start] {
        b'"' => {}
        b'[' | b'{' => {
            let nested = String::from_utf8_lossy(&out[start..]).into_owned();
            out.truncate(start);
            json_string(&nested, out);
        }
        _ => {
            out.insert(start, b'"');
            out.push(b'"');
        }
    }
}

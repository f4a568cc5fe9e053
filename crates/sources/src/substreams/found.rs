//! What is in a message, what it may take of memory, and why it does not fit.

use super::{
    shape::{Often, Shape},
    wire::{Fields, Raw},
};

/// How many bytes a block's rows may take in columns: what is left of it goes down with every value.
#[derive(Debug)]
pub(crate) struct Budget(u64);

impl Budget {
    pub fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Takes `bytes` and what the place of a value takes.
    pub fn take(&mut self, bytes: usize) -> Result<(), Misfit> {
        match self.0.checked_sub(bytes as u64 + 8) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(Misfit::new("the rows of the block take too much memory")),
        }
    }
}

/// Why a message does not fit, and which field of it, outermost first, with points between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misfit {
    pub field: String,
    pub why: String,
}

impl Misfit {
    pub fn new(why: impl ToString) -> Self {
        Self { field: String::new(), why: why.to_string() }
    }

    /// The same, in a field of that name.
    pub fn within(mut self, name: &str) -> Self {
        self.field = if self.field.is_empty() { name.to_owned() } else { format!("{name}.{}", self.field) };
        self
    }
}

/// A value that was found in a message, and which of the message's fields it is of.
pub(crate) type Found<'a> = (usize, Raw<'a>);

/// The values of a message that was written in one or several parts, by field, and within a field in order.
pub(crate) fn find<'a>(
    shape: &Shape,
    parts: &[Raw<'a>],
    budget: &mut Budget,
) -> Result<Vec<Found<'a>>, Misfit> {
    let mut found = Vec::new();
    for part in parts {
        let Raw::Bytes(bytes) = part else { return Err(wrong_kind("a message", part)) };
        for field in Fields::new(bytes) {
            let (number, value) = field.map_err(Misfit::new)?;
            if let Some(place) = shape.place(number) {
                budget.take(size_of::<Found<'_>>())?;
                found.push((place, value));
            }
        }
    }
    if shape.has_oneof {
        drop_overwritten(shape, &mut found);
    }
    found.sort_by_key(|(place, _)| *place);
    Ok(found)
}

/// Of a `oneof` only the member that was written last is there.
fn drop_overwritten(shape: &Shape, found: &mut Vec<Found<'_>>) {
    let oneof = |place: usize| match shape.fields[place].often {
        Often::One { oneof, .. } => oneof,
        _ => None,
    };
    // For each group the member that counts, and whether what is before it was overwritten.
    let mut last: Vec<(i32, usize, bool)> = Vec::new();
    let mut keep = vec![true; found.len()];
    for (keep, (place, _)) in keep.iter_mut().zip(found.iter()).rev() {
        let Some(group) = oneof(*place) else { continue };
        match last.iter_mut().find(|(known, ..)| *known == group) {
            Some((_, member, over)) => {
                *over |= member != place;
                *keep = !*over;
            }
            None => last.push((group, *place, false)),
        }
    }
    let mut keep = keep.into_iter();
    found.retain(|_| keep.next().unwrap_or(true));
}

pub(crate) fn wrong_kind(wanted: &str, found: &Raw<'_>) -> Misfit {
    Misfit::new(format!("it should be {wanted}, but it is {}", found.kind()))
}

pub(crate) fn as_text<'a>(value: &Raw<'a>) -> Result<&'a str, Misfit> {
    let Raw::Bytes(bytes) = value else { return Err(wrong_kind("text", value)) };
    std::str::from_utf8(bytes).map_err(|_| Misfit::new("it should be text, but it is not UTF-8"))
}

/// Microseconds since 1970 of a `google.protobuf.Timestamp`: seconds and nanoseconds.
pub(crate) fn micros(parts: &[Raw<'_>]) -> Result<i64, Misfit> {
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    for part in parts {
        let Raw::Bytes(bytes) = part else { return Err(wrong_kind("a timestamp", part)) };
        for field in Fields::new(bytes) {
            match field.map_err(Misfit::new)? {
                (1, Raw::Varint(value)) => seconds = value as i64,
                (2, Raw::Varint(value)) => nanos = i64::from(value as i32),
                (1 | 2, other) => return Err(wrong_kind("a number of variable length", &other)),
                _ => {}
            }
        }
    }
    seconds
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(nanos.div_euclid(1_000)))
        .ok_or_else(|| Misfit::new(format!("the time, {seconds} seconds since 1970, is too far away")))
}

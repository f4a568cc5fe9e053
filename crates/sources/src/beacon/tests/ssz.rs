//! The bytes of SSZ as the JSON that the API has for them.

use alloy_primitives::U256;
use serde_json::{Map, Value, json};

use crate::beacon::ssz::Type;

/// The size of a value all values of whose type have the same.
fn fixed_size(of: &Type) -> Option<usize> {
    match of {
        Type::Number(size) | Type::Bytes(size) => Some(*size),
        Type::Bits(count) => Some(count.div_ceil(8) as usize),
        Type::ByteList(_) | Type::BitList(_) | Type::List(..) => None,
        Type::Vector(item, count) => Some(fixed_size(item)? * *count as usize),
        Type::Container(fields) => fields.iter().map(|(_, field)| fixed_size(field)).sum(),
    }
}

fn offset(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The JSON of a value.
pub(super) fn decode(of: &Type, bytes: &[u8]) -> Value {
    match of {
        Type::Number(_) => U256::from_le_slice(bytes).to_string().into(),
        Type::Bytes(_) | Type::ByteList(_) | Type::Bits(_) | Type::BitList(_) => {
            const_hex::encode_prefixed(bytes).into()
        }
        Type::Vector(item, _) | Type::List(item, _) => decode_items(item, bytes),
        Type::Container(fields) => decode_fields(fields, bytes),
    }
}

fn decode_items(item: &Type, bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return json!([]);
    }
    if let Some(size) = fixed_size(item) {
        return bytes.chunks(size).map(|bytes| decode(item, bytes)).collect();
    }
    let count = offset(bytes, 0) / 4;
    let end = |index: usize| if index == count { bytes.len() } else { offset(bytes, 4 * index) };
    (0..count).map(|index| decode(item, &bytes[end(index)..end(index + 1)])).collect()
}

fn decode_fields(fields: &[(&'static str, Type)], bytes: &[u8]) -> Value {
    let (mut at, mut object, mut variable) = (0, Map::new(), vec![]);
    for (name, field) in fields {
        match fixed_size(field) {
            Some(size) => {
                object.insert((*name).to_owned(), decode(field, &bytes[at..at + size]));
                at += size;
            }
            None => {
                variable.push((name, field, offset(bytes, at)));
                at += 4;
            }
        }
    }
    let ends = variable.iter().skip(1).map(|(.., start)| *start).chain([bytes.len()]);
    for ((name, field, start), end) in variable.iter().zip(ends) {
        object.insert((**name).to_owned(), decode(field, &bytes[*start..end]));
    }
    object.into()
}

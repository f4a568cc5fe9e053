//! Values of entities' fields: `Value` of the messages `EntityChanges`, the same in all their versions
//! (<https://github.com/streamingfast/substreams-sink-entity-changes/blob/develop/proto/sf/substreams/sink/entity/v1/entity.proto>).

use super::{
    found::{Misfit, as_text},
    wire::{Fields, Raw},
};

/// How deep lists may be within each other.
const MAX_DEPTH: usize = 16;

/// A value of an entity's field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum EntityValue<'a> {
    Int(i32),
    /// Big numbers, text and bytes: all of them are sent as text.
    Text(&'a str),
    /// Microseconds since 1970.
    Time(&'a str),
    Bool(bool),
    List(Vec<EntityValue<'a>>),
}

/// The value that was written in these parts; `None` for an entity's null.
pub(crate) fn read<'a>(parts: &[Raw<'a>], depth: usize) -> Result<Option<EntityValue<'a>>, Misfit> {
    if depth > MAX_DEPTH {
        return Err(Misfit::new(format!("lists are more than {MAX_DEPTH} deep within each other")));
    }
    let mut value = None;
    for part in parts {
        let Raw::Bytes(bytes) = part else { return Err(Misfit::new("it should be an entity's value")) };
        for field in Fields::new(bytes) {
            value = match field.map_err(Misfit::new)? {
                (1, Raw::Varint(number)) => Some(EntityValue::Int(number as i32)),
                (2..=5, text) => Some(EntityValue::Text(as_text(&text)?)),
                (6, Raw::Varint(flag)) => Some(EntityValue::Bool(flag != 0)),
                (7, text) => Some(EntityValue::Time(as_text(&text)?)),
                (10, Raw::Bytes(list)) => Some(EntityValue::List(items(list, depth)?)),
                (1 | 6 | 10, other) => {
                    return Err(Misfit::new(format!("an entity's value is {}", other.kind())));
                }
                _ => value,
            };
        }
    }
    Ok(value)
}

fn items<'a>(list: &'a [u8], depth: usize) -> Result<Vec<EntityValue<'a>>, Misfit> {
    let mut items = Vec::new();
    for field in Fields::new(list) {
        if let (1, value) = field.map_err(Misfit::new)? {
            let item = read(&[value], depth + 1)?;
            items.push(item.ok_or_else(|| Misfit::new("a list has an item without a value"))?);
        }
    }
    Ok(items)
}

/// The value as text; a list as JSON, numbers in it without quotes.
pub(crate) fn text_of(parts: &[Raw<'_>]) -> Result<Option<String>, Misfit> {
    Ok(read(parts, 0)?.map(|value| match value {
        EntityValue::Text(text) | EntityValue::Time(text) => text.to_owned(),
        other => {
            let mut json = String::new();
            write_json(&other, &mut json);
            json
        }
    }))
}

fn write_json(value: &EntityValue<'_>, json: &mut String) {
    match value {
        EntityValue::Int(number) => json.push_str(&number.to_string()),
        EntityValue::Bool(flag) => json.push_str(if *flag { "true" } else { "false" }),
        EntityValue::Text(text) | EntityValue::Time(text) => quote(text, json),
        EntityValue::List(items) => {
            json.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    json.push(',');
                }
                write_json(item, json);
            }
            json.push(']');
        }
    }
}

fn quote(text: &str, json: &mut String) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if u32::from(c) < 0x20 => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
}

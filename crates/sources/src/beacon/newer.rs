//! Bodies of forks that are not known here. What they share with the newest known one is read; null, zero
//! or no row stands for the rest, so that no block, and no item of one, is lost.

use std::collections::{BTreeMap, BTreeSet};

use sonic_rs::LazyValue;

use super::{json::Body, ssz::Type, verify::Problem};

/// What could be read.
#[derive(Debug)]
pub(crate) struct Read {
    /// The body.
    pub body: Body,
    /// The fields that are missing, or not of the type that they had: paths without places in lists.
    pub other: BTreeSet<String>,
}

/// Reads a body as if it were one of the newest known fork, whose type is given.
pub(crate) fn read(value: &LazyValue<'_>, newest: &Type) -> Result<Read, Problem> {
    let mut like = Like::default();
    like.value(newest, value, "");
    let body = sonic_rs::from_str(&like.json);
    let unreadable = |error: sonic_rs::Error| Problem::Malformed(format!("its body cannot be read: {error}"));
    Ok(Read { body: body.map_err(unreadable)?, other: like.other })
}

/// Whether a field is of use here. Of the execution layer's block most is not stored.
fn is_read(path: &str) -> bool {
    const OF_PAYLOAD: [&str; 3] = ["block_number", "block_hash", "withdrawals"];
    path.strip_prefix("execution_payload.")
        .is_none_or(|rest| OF_PAYLOAD.contains(&rest.split('.').next().unwrap_or(rest)))
}

/// Whether [`Body`] does without a field; zeros stand for others.
fn may_be_absent(path: &str) -> bool {
    const NEEDED: [&str; 3] = ["randao_reveal", "eth1_data", "graffiti"];
    const WITHIN: [&str; 2] = ["execution_payload.withdrawals", "attestations.committee_bits"];
    if path.contains('.') { WITHIN.contains(&path) } else { !NEEDED.contains(&path) }
}

/// The JSON of a value as its type wants it.
#[derive(Debug, Default)]
struct Like {
    json: String,
    other: BTreeSet<String>,
}

impl Like {
    /// Appends a value that is like its type.
    fn value(&mut self, of: &Type, value: &LazyValue<'_>, path: &str) {
        match of {
            Type::Container(fields) => self.container(fields, value, path),
            Type::List(item, _) | Type::Vector(item, _) => self.list(item, value, path),
            _ => self.json.push_str(value.as_raw_str()),
        }
    }

    fn container(&mut self, fields: &[(&'static str, Type)], value: &LazyValue<'_>, path: &str) {
        let found = sonic_rs::to_object_iter(value.as_raw_str()).map_while(Result::ok);
        let found: BTreeMap<String, LazyValue<'_>> =
            found.map(|(name, value)| (name.to_string(), value)).collect();
        self.json.push('{');
        for (name, field) in fields {
            let path = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
            if !is_read(&path) {
                continue;
            }
            let value = found.get(*name).filter(|value| field.is_like(value));
            if value.is_none() && may_be_absent(&path) {
                self.other.insert(path);
                continue;
            }
            self.json.push_str(if self.json.ends_with('{') { "\"" } else { ",\"" });
            self.json.push_str(name);
            self.json.push_str("\":");
            self.value_or_zero(field, value, path);
        }
        self.json.push('}');
    }

    fn list(&mut self, item: &Type, value: &LazyValue<'_>, path: &str) {
        self.json.push('[');
        for value in sonic_rs::to_array_iter(value.as_raw_str()).map_while(Result::ok) {
            if !self.json.ends_with('[') {
                self.json.push(',');
            }
            self.value_or_zero(item, Some(&value).filter(|value| item.is_like(value)), path.to_owned());
        }
        self.json.push(']');
    }

    fn value_or_zero(&mut self, of: &Type, value: Option<&LazyValue<'_>>, path: String) {
        match value {
            Some(value) => self.value(of, value, &path),
            None => {
                self.other.insert(path);
                self.json.push_str(&zero(of));
            }
        }
    }
}

/// The JSON that stands for a value.
fn zero(of: &Type) -> String {
    match of {
        Type::Number(_) => "\"0\"".into(),
        Type::Bytes(length) => format!("\"0x{}\"", "00".repeat(*length)),
        Type::ByteList(_) | Type::Bits(_) | Type::BitList(_) => "\"0x\"".into(),
        Type::List(..) | Type::Vector(..) => "[]".into(),
        Type::Container(fields) => {
            let fields = fields.iter().map(|(name, field)| format!("\"{name}\":{}", zero(field)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
    }
}

//! Bodies of forks that are not known here. What they share with the newest known one is read; null, zero
//! or no row stands for the rest, so that no block, and no item of one, is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use sonic_rs::LazyValue;

use super::{json::Body, ssz::Type, verify::Problem};

/// Of so many forks of a provider that are not known here it is said.
const MAX_UNKNOWN_FORKS: usize = 16;

/// What this process has said. A worker has a new source for each of its tasks.
pub(crate) static SAID: Said = Said(Mutex::new(BTreeMap::new()));

/// For each provider the forks that are not known here, and their fields that are not what they were, as far
/// as that was said.
#[derive(Debug)]
pub(crate) struct Said(Mutex<BTreeMap<String, BTreeMap<String, BTreeSet<String>>>>);

/// What is to be said of a fork.
#[derive(Debug, PartialEq, Eq)]
struct News {
    is_new_fork: bool,
    fields: BTreeSet<String>,
}

impl Said {
    /// Says once of each fork that it is not known here, and of each of its fields that is not what it was.
    pub fn say(&self, provider: &str, slot: u64, version: &str, other: BTreeSet<String>) {
        let Some(News { is_new_fork, fields }) = self.news(provider, version, other) else { return };
        let version = version.chars().take(64).collect::<String>();
        if is_new_fork {
            tracing::warn!(
                provider,
                slot,
                "the fork `{version}` is newer than this program: what is known of its blocks is stored, and \
                 their bodies cannot be checked"
            );
        }
        if !fields.is_empty() {
            let fields = fields.into_iter().collect::<Vec<_>>().join("`, `");
            tracing::warn!(
                provider,
                slot,
                "in blocks of the fork `{version}` these fields are not what they were: `{fields}`; null, zero \
                 or no row stands for them"
            );
        }
    }

    /// What was not said before; `None` of a provider that makes names up, which must not fill the memory.
    fn news(&self, provider: &str, version: &str, mut other: BTreeSet<String>) -> Option<News> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let forks = said.entry(provider.to_owned()).or_default();
        let is_new_fork = !forks.contains_key(version);
        if is_new_fork && forks.len() == MAX_UNKNOWN_FORKS {
            return None;
        }
        let told = forks.entry(version.to_owned()).or_default();
        other.retain(|field| told.insert(field.clone()));
        Some(News { is_new_fork, fields: other })
    }
}

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

/// Whether [`Body`] does without a field, as its columns can be null or its rows be absent; zeros stand for
/// others.
fn may_be_absent(path: &str) -> bool {
    const NEEDED: [&str; 3] = ["randao_reveal", "eth1_data", "graffiti"];
    match path.split('.').collect::<Vec<_>>()[..] {
        [field] => !NEEDED.contains(&field),
        // The lists of requests are needed, but may be empty.
        ["execution_payload" | "sync_aggregate", _] | ["execution_requests", _, _] => true,
        ["attestations", field] => field == "committee_bits",
        _ => false,
    }
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
            let can_be_null = may_be_absent(&path);
            let value = found.get(*name).filter(|value| field.is_like(value));
            let value = value.filter(|value| !can_be_null || is_a_cell(field, value));
            if value.is_none() && can_be_null {
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
                self.json.push_str(&zero(of, &path));
                self.other.insert(path);
            }
        }
    }
}

/// Whether a value that is like its type can fill a cell: no null can stand for an item within.
fn is_a_cell(of: &Type, value: &LazyValue<'_>) -> bool {
    match of {
        Type::List(item, _) if !matches!(**item, Type::Container(_)) => {
            sonic_rs::to_array_iter(value.as_raw_str())
                .map_while(Result::ok)
                .all(|value| item.is_like(&value))
        }
        _ => true,
    }
}

/// The JSON that stands for a value.
fn zero(of: &Type, path: &str) -> String {
    match of {
        Type::Number(_) => "\"0\"".into(),
        Type::Bytes(length) => format!("\"0x{}\"", "00".repeat(*length)),
        Type::ByteList(_) | Type::Bits(_) | Type::BitList(_) => "\"0x\"".into(),
        Type::List(..) | Type::Vector(..) => "[]".into(),
        Type::Container(fields) => {
            let fields = fields.iter().map(|(name, field)| (name, field, format!("{path}.{name}")));
            let needed = fields.filter(|(.., path)| !may_be_absent(path));
            let zeros = needed.map(|(name, field, path)| format!("\"{name}\":{}", zero(field, &path)));
            format!("{{{}}}", zeros.collect::<Vec<_>>().join(","))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fork_of_a_provider_and_each_of_its_fields_is_news_once() {
        let said = Said(Mutex::default());
        let fields = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let news = |provider: &str, version: &str, names: &[&str]| {
            said.news(provider, version, fields(names)).map(|news| (news.is_new_fork, news.fields))
        };
        assert_eq!(news("a", "heze", &["x"]), Some((true, fields(&["x"]))));
        assert_eq!(news("a", "heze", &["x", "y"]), Some((false, fields(&["y"]))));
        assert_eq!(news("b", "heze", &["x"]), Some((true, fields(&["x"]))), "it may be of another chain");
        for fork in 1..MAX_UNKNOWN_FORKS {
            assert!(news("a", &fork.to_string(), &[]).is_some());
        }
        assert_eq!(news("a", "one more", &["x"]), None);
        assert_eq!(news("a", "heze", &["z"]), Some((false, fields(&["z"]))));
    }
}

//! Which keys there are, so that a mistyped one is refused with the right one named.

use anyhow::bail;
use figment2::{
    Figment, Provider,
    value::{Dict, Value},
};
use nozzle_query::nearest::suggestion;

use super::Config;

/// Every key that a configuration may have, with dots between the levels.
pub fn known() -> Vec<String> {
    let defaults = Value::serialize(Config::default()).ok().and_then(Value::into_dict).unwrap_or_default();
    let mut keys = vec![];
    collect(&defaults, "", &mut keys);
    keys
}

fn collect(dict: &Dict, prefix: &str, keys: &mut Vec<String>) {
    for (name, value) in dict {
        match value {
            Value::Dict(_, inner) => collect(inner, &format!("{prefix}{name}."), keys),
            _ => keys.push(format!("{prefix}{name}")),
        }
    }
}

/// Refuses keys that no part of Nozzle reads.
pub fn refuse_unknown(written: &Figment) -> anyhow::Result<()> {
    let data = written.data().map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut keys = vec![];
    for dict in data.values() {
        collect(dict, "", &mut keys);
    }
    let known = known();
    for key in keys {
        if !known.contains(&key) {
            bail!("there is no key `{key}`{}", suggestion(&key, known.iter().map(String::as_str)));
        }
    }
    Ok(())
}

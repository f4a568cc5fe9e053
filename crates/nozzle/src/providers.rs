//! Providers: files of the providers' folder, brought into the metadata database, and read from
//! there with `${VAR}` filled in on the machine that uses them.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use nozzle_core::{DatasetKind, Network, ProviderName};
use nozzle_metadata::{MetadataStore, Provider, ProviderOrigin};
use serde_json::{Map, Value};

use crate::{
    definitions,
    folder::{Folder, TextFile, Wanted},
    kinds::{self, Endpoint, Keys},
    new_file::Readers,
};

/// Reads every `*.toml` below the folder and puts it into the database, so that all machines see
/// it. A folder that does not exist has no providers.
pub async fn import(folder: &Folder, metadata: &dyn MetadataStore) -> anyhow::Result<()> {
    let known = metadata.providers().await?;
    let files = of_files(folder).await?;
    for provider in files.iter().filter(|provider| !known.contains(provider)) {
        metadata.put_provider(provider).await?;
    }
    if metadata.is_single_machine() {
        for provider in known.iter().filter(|provider| is_gone(provider, &files)) {
            metadata.remove_provider(&provider.name).await?;
        }
    }
    Ok(())
}

/// All providers as they are after [`import`], by name; nothing is written.
pub async fn all(folder: &Folder, metadata: Option<&dyn MetadataStore>) -> anyhow::Result<Vec<Provider>> {
    let mut all = of_files(folder).await?;
    if let Some(metadata) = metadata {
        let mut known = metadata.providers().await?;
        let is_single_machine = metadata.is_single_machine();
        known.retain(|provider| {
            all.iter().all(|file| file.name != provider.name)
                && !(is_single_machine && is_gone(provider, &all))
        });
        all.extend(known);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Whether a provider was one of a file that is not there any more. On one machine the folder is all there
/// is, and such a file takes its provider along; where several share the database, each has only some of the
/// files.
fn is_gone(provider: &Provider, files: &[Provider]) -> bool {
    provider.origin == ProviderOrigin::File && files.iter().all(|file| file.name != provider.name)
}

async fn of_files(folder: &Folder) -> anyhow::Result<Vec<Provider>> {
    let mut providers: Vec<Provider> = vec![];
    let mut seen: BTreeMap<ProviderName, String> = BTreeMap::new();
    for file in folder.files(Wanted { endings: &["toml"], nested: true }).await? {
        let provider = read(&file)?;
        if let Some(other) = seen.insert(provider.name.clone(), file.shown.clone()) {
            bail!(
                "two files define the provider `{}`: {other} and {}; rename one",
                provider.name,
                file.shown
            );
        }
        providers.push(provider);
    }
    Ok(providers)
}

fn read(file: &TextFile) -> anyhow::Result<Provider> {
    let context = || format!("the provider file {} is not valid", file.shown);
    let toml: toml::Value = definitions::parse_toml(&file.text).with_context(context)?;
    let json = serde_json::to_value(toml).with_context(context)?;
    parse(file.stem.parse()?, json, ProviderOrigin::File).with_context(context)
}

fn parse(name: ProviderName, json: Value, origin: ProviderOrigin) -> anyhow::Result<Provider> {
    let Value::Object(mut keys) = json else { bail!("it must be a table of keys") };
    let mut text = |key: &str| -> anyhow::Result<String> {
        match keys.remove(key) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => bail!("`{key}` must be text, not {other}"),
            None => bail!("the key `{key}` is missing"),
        }
    };
    let kind: DatasetKind = text("kind")?.parse().map_err(anyhow::Error::msg)?;
    let network: Network = text("network")?.parse()?;
    let region = match keys.remove("region") {
        None => None,
        Some(Value::String(region)) if is_region(&region) => Some(region),
        Some(_) => bail!("`region` must be text of letters, digits, `-`, `_` and `.`"),
    };
    kinds::of(kind)?.check(&keys)?;
    Ok(Provider { name, kind, network, region, config: Value::Object(keys).to_string(), origin })
}

fn is_region(text: &str) -> bool {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    !text.is_empty() && text.len() <= 128 && text.chars().all(is_plain)
}

/// The keys whose values are secrets.
const SECRETS: [&str; 3] = ["auth_token", "token", "api_key"];

/// A provider that comes through the API: it may hold secrets only as `${VAR}`, since it is kept in the
/// database for all machines.
pub fn of_api(name: ProviderName, keys: Map<String, Value>) -> anyhow::Result<Provider> {
    for key in SECRETS {
        if let Some(Value::String(text)) = keys.get(key)
            && !is_variable(text)
        {
            bail!("`{key}` is a secret: write it as ${{VAR}}, a variable of the machines that use it");
        }
    }
    if let Some(Value::String(url)) = keys.get("url")
        && may_hold_secret(url)
    {
        bail!(
            "`url` holds what may be a secret: write the user, the password, long parts of the path and the values of the query as ${{VAR}}"
        );
    }
    parse(name, Value::Object(keys), ProviderOrigin::Api)
}

/// Whether a text is `${VAR}` and nothing else.
fn is_variable(text: &str) -> bool {
    text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(|name| !name.contains('$'))
}

/// A part of a path that may be a key: a long one, or letters and digits that are no version.
fn may_be_key(part: &str) -> bool {
    let has = |is: fn(&u8) -> bool| part.bytes().any(|byte| is(&byte));
    let is_mixed = has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
    part.len() >= 16 || part.len() >= 8 && is_mixed
}

/// Whether an address has a user, a password, a value of a query or a part of its path like a key that is
/// not a variable.
fn may_hold_secret(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    if url.starts_with('/') || is_variable(url) {
        return false;
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let is_open = |part: &str| !part.is_empty() && !is_variable(part);
    user.split(':').any(is_open)
        || path.split('/').any(|part| is_open(part) && may_be_key(part))
        || query.split('&').any(|pair| is_open(pair.split_once('=').map_or(pair, |(_, value)| value)))
}

/// The longest part of a path that is shown: `v2`, `rpc`, but no key is so short.
const SHOWN_LENGTH: usize = 4;

/// Whether what follows the host holds no key, so that all of an address can be shown.
fn is_open_address(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('?').next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let is_shown = path.split('/').all(|part| part.len() <= SHOWN_LENGTH || is_variable(part));
    url.starts_with('/') || is_variable(url) || is_shown && !may_hold_secret(url)
}

/// A provider's keys without what may be a secret.
pub fn without_secrets(provider: &Provider) -> Map<String, Value> {
    let keys: Map<String, Value> = serde_json::from_str(&provider.config).unwrap_or_default();
    let shown = |(key, value): (String, Value)| {
        let value = match &value {
            Value::String(text) if SECRETS.contains(&key.as_str()) => {
                is_variable(text).then(|| value.clone())?
            }
            // A name; anything else may be a token that was put there by mistake.
            Value::String(text) if key == "auth_header" && !is_region(text) => return None,
            Value::String(text) if key == "url" && !is_open_address(text) => Value::String(host_of(text)),
            _ => value,
        };
        Some((key, value))
    };
    keys.into_iter().filter_map(shown).collect()
}

/// An address up to its host and port.
fn host_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

/// The providers of a kind and network, in the order in which they are tried.
pub async fn find(
    metadata: &dyn MetadataStore,
    kind: DatasetKind,
    network: &Network,
) -> anyhow::Result<Vec<Provider>> {
    let mut providers = metadata.providers().await?;
    providers.retain(|provider| provider.kind == kind && provider.network == *network);
    providers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(providers)
}

/// Where a provider is, with variables filled in.
pub fn endpoint(provider: &Provider) -> anyhow::Result<Endpoint> {
    let context = || format!("the provider `{}` cannot be used", provider.name);
    let mut keys: Keys = serde_json::from_str(&provider.config).with_context(context)?;
    keys.values_mut().try_for_each(substitute).with_context(context)?;
    Ok(Endpoint { name: provider.name.to_string(), kind: provider.kind, keys, throttle: None })
}

/// Replaces `${VAR}` in every string. The message of a missing variable names it, never its value.
fn substitute(json: &mut Value) -> anyhow::Result<()> {
    match json {
        Value::String(text) => *text = filled_in(text)?,
        Value::Array(items) => items.iter_mut().try_for_each(substitute)?,
        Value::Object(entries) => entries.values_mut().try_for_each(substitute)?,
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

/// Replaces `${VAR}` by the variable's value.
pub fn filled_in(text: &str) -> anyhow::Result<String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').context("a `${` without its `}`")?;
        filled.push_str(before);
        let value = std::env::var(name).ok();
        filled.push_str(&value.with_context(|| format!("the variable {name} is not set"))?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Writes a provider file for an endpoint that was given on the command line, and gives its place.
pub async fn write_file(
    folder: &Folder,
    name: &ProviderName,
    network: &Network,
    url: &str,
) -> anyhow::Result<String> {
    let table = BTreeMap::from([("kind", "evm-rpc"), ("network", network.as_str()), ("url", url)]);
    let text = toml::to_string(&table).context("writing the provider as TOML")?;
    // The URL may hold a key.
    folder.write_new(&format!("{name}.toml"), &text, Readers::Owner).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn provider(keys: Value) -> anyhow::Result<Provider> {
        parse("p".parse().expect("a name"), keys, ProviderOrigin::File)
    }

    fn refusal(keys: Value) -> String {
        format!("{:#}", provider(keys).expect_err("it is refused"))
    }

    #[test]
    fn a_provider_has_its_kinds_keys_and_no_others() {
        let keys = json!({"kind": "evm-rpc", "network": "mainnet", "url": "http://h", "timeout_secs": 5});
        let provider = provider(keys).expect("a provider");
        let endpoint = endpoint(&provider).expect("its keys");
        assert_eq!(Value::Object(endpoint.keys), json!({"url": "http://h", "timeout_secs": 5}));
        assert!(
            refusal(json!({"kind": "evm-rpc", "network": "m", "ulr": "x"})).contains("did you mean `url`")
        );
        assert!(refusal(json!({"kind": "evm-rpc", "network": "m"})).contains("`url` is missing"));
        assert!(refusal(json!({"network": "m", "url": "x"})).contains("`kind` is missing"));
        assert!(refusal(json!({"kind": "evm", "network": "m"})).contains("evm-rpc"));
        assert!(refusal(json!({"kind": "evm-rpc", "network": "a b", "url": "x"})).contains("network name"));
    }

    #[test]
    fn the_api_takes_secrets_only_as_variables_and_never_gives_any() {
        let made = |keys: Value| {
            let Value::Object(keys) = keys else { panic!("an object") };
            of_api("p".parse().expect("a name"), keys)
        };
        let keys = |url: &str| json!({"kind": "evm-rpc", "network": "m", "url": url});
        for good in [
            "http://h:8545",
            "https://h/v2/${KEY}",
            "https://${U}:${P}@h/rpc?k=${K}",
            "${RPC}",
            "/run/geth.ipc",
        ] {
            let provider = made(keys(good)).unwrap_or_else(|error| panic!("{good}: {error}"));
            assert_eq!(without_secrets(&provider)["url"], good);
        }
        let bad = [
            "https://u:p@h",
            "https://h/v2/0123456789abcdef0123",
            "https://h/?key=abc",
            "https://h/hunter2hunter2",
        ];
        for bad in bad.into_iter().chain(["https://h/ethereum"]) {
            // A word may be the name of a chain: it is taken, and not shown.
            assert!(made(keys(bad)).is_err() || bad.ends_with("ethereum"), "{bad}");
            let file = provider(keys(bad)).expect("a file may hold it");
            assert_eq!(without_secrets(&file)["url"], "https://h");
        }
        let mut with_token = keys("http://h");
        with_token["auth_token"] = "secret".into();
        assert!(made(with_token.clone()).is_err());
        assert!(!without_secrets(&provider(with_token.clone()).expect("a file")).contains_key("auth_token"));
        with_token["auth_token"] = "${TOKEN}".into();
        with_token["auth_header"] = "X-Api-Key".into();
        let shown = without_secrets(&made(with_token.clone()).expect("a provider"));
        assert_eq!((&shown["auth_token"], &shown["auth_header"]), (&"${TOKEN}".into(), &"X-Api-Key".into()));
        with_token["auth_header"] = "Authorization: secret".into();
        assert!(!without_secrets(&provider(with_token).expect("a file")).contains_key("auth_header"));
    }

    #[test]
    fn variables_are_filled_in_where_the_provider_is_used() {
        let path = std::env::var("PATH").expect("there is a PATH");
        assert_eq!(filled_in("a${PATH}b${PATH}").expect("it is filled in"), format!("a{path}b{path}"));
        assert_eq!(filled_in("plain $PATH").expect("it is filled in"), "plain $PATH");
        assert!(
            filled_in("${NOZZLE_NO_SUCH}")
                .expect_err("no such variable")
                .to_string()
                .contains("NOZZLE_NO_SUCH")
        );
        assert!(filled_in("${PATH").is_err());
    }
}

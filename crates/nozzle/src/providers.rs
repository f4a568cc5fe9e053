//! Providers: files of the providers' folder, brought into the metadata database, and read from
//! there with `${VAR}` filled in on the machine that uses them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, bail};
use nozzle_core::{DatasetKind, Network, ProviderName};
use nozzle_metadata::{MetadataStore, Provider, ProviderOrigin};
use nozzle_query::nearest::suggestion;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    config, definitions,
    folder::{Folder, TextFile, Wanted},
    new_file::Readers,
};

/// The keys of an `evm-rpc` provider, beside `kind` and `network`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct EvmRpcProvider {
    /// The endpoint.
    pub url: String,
    /// Requests in flight at most.
    pub concurrent_request_limit: u16,
    /// Calls in a minute at most; 0: no limit.
    pub rate_limit_per_minute: u32,
    /// Calls of a JSON-RPC batch at most; 0: no batches.
    pub rpc_batch_size: u16,
    /// Whether receipts are asked for transaction by transaction, also where a block's can be had.
    pub fetch_receipts_per_tx: bool,
    /// A token for the `Authorization` header, or for `auth_header`.
    pub auth_token: Option<String>,
    /// The header that carries the token instead.
    pub auth_header: Option<String>,
    /// How long one request may take.
    pub timeout_secs: f64,
}

impl Default for EvmRpcProvider {
    fn default() -> Self {
        Self {
            url: String::new(),
            concurrent_request_limit: 64,
            rate_limit_per_minute: 0,
            rpc_batch_size: 0,
            fetch_receipts_per_tx: false,
            auth_token: None,
            auth_header: None,
            timeout_secs: 30.0,
        }
    }
}

/// More calls make no request cheaper, and every node refuses them.
const MAX_BATCH_SIZE: u16 = 1000;

const EVM_RPC_KEYS: [&str; 8] = [
    "url",
    "concurrent_request_limit",
    "rate_limit_per_minute",
    "rpc_batch_size",
    "fetch_receipts_per_tx",
    "auth_token",
    "auth_header",
    "timeout_secs",
];

impl EvmRpcProvider {
    /// How long one request may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_secs)
    }
}

/// Reads every `*.toml` below the folder and puts it into the database, so that all machines see
/// it. A folder that does not exist has no providers.
pub async fn import(folder: &Folder, metadata: &dyn MetadataStore) -> anyhow::Result<()> {
    let known = metadata.providers().await?;
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
        if !known.contains(&provider) {
            metadata.put_provider(&provider).await?;
        }
    }
    // On one machine the folder is all there is: a file that is gone takes its provider along. Where
    // several machines share the database, each has only some of the files.
    let is_gone =
        |provider: &&Provider| provider.origin == ProviderOrigin::File && !seen.contains_key(&provider.name);
    if metadata.is_single_machine() {
        for provider in known.iter().filter(is_gone) {
            metadata.remove_provider(&provider.name).await?;
        }
    }
    Ok(())
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
    if kind == DatasetKind::EvmRpc {
        check_evm_rpc(&keys)?;
    }
    Ok(Provider { name, kind, network, config: Value::Object(keys).to_string(), origin })
}

fn check_evm_rpc(keys: &Map<String, Value>) -> anyhow::Result<()> {
    if let Some(unknown) = keys.keys().find(|key| !EVM_RPC_KEYS.contains(&key.as_str())) {
        bail!("there is no key `{unknown}`{}", suggestion(unknown, EVM_RPC_KEYS));
    }
    for (key, value) in keys {
        let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
        // The value may be a secret, so it is not repeated.
        if serde_json::from_value::<EvmRpcProvider>(alone).is_err() {
            bail!("`{key}` has a value of the wrong type; see docs/config.md");
        }
    }
    let provider: EvmRpcProvider = serde_json::from_value(Value::Object(keys.clone()))?;
    if provider.url.is_empty() {
        bail!("the key `url` is missing");
    }
    if provider.concurrent_request_limit == 0 {
        bail!("`concurrent_request_limit` must be at least 1");
    }
    if provider.rpc_batch_size > MAX_BATCH_SIZE {
        bail!("`rpc_batch_size` must be at most {MAX_BATCH_SIZE}");
    }
    if !config::is_interval(provider.timeout_secs) {
        bail!("`timeout_secs` must be greater than 0 and at most a year");
    }
    Ok(())
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

/// The keys of an `evm-rpc` provider, with variables filled in.
pub fn evm_rpc(provider: &Provider) -> anyhow::Result<EvmRpcProvider> {
    let context = || format!("the provider `{}` cannot be used", provider.name);
    let mut json: Value = serde_json::from_str(&provider.config).with_context(context)?;
    substitute(&mut json).with_context(context)?;
    serde_json::from_value(json).with_context(context)
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

fn filled_in(text: &str) -> anyhow::Result<String> {
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
        let evm = evm_rpc(&provider).expect("its keys");
        assert_eq!(evm, EvmRpcProvider { url: "http://h".into(), timeout_secs: 5.0, ..Default::default() });
        assert!(
            refusal(json!({"kind": "evm-rpc", "network": "m", "ulr": "x"})).contains("did you mean `url`")
        );
        assert!(refusal(json!({"kind": "evm-rpc", "network": "m"})).contains("`url` is missing"));
        assert!(refusal(json!({"network": "m", "url": "x"})).contains("`kind` is missing"));
        assert!(refusal(json!({"kind": "evm", "network": "m"})).contains("evm-rpc"));
        assert!(refusal(json!({"kind": "evm-rpc", "network": "a b", "url": "x"})).contains("network name"));
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

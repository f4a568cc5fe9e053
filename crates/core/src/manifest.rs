//! Manifests: of raw datasets, what to extract, from which network, into which tables; and of all kinds together.

use std::collections::BTreeMap;

use arrow_schema::Schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    block::BlockNum,
    dataset::DatasetKind,
    derived::DerivedManifest,
    name::{DatasetName, DatasetRef, DatasetVersion, MAX_NAME_LEN, Network, TableName},
    schema::{TableDef, schema_from_json, schema_to_json},
};

/// How much of a block is checked before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Nothing but the links that segments are made of.
    None,
    /// Parent hashes, transaction and receipt counts, hashes and indices.
    Links,
    /// Also the block hash, recomputed from the header.
    Header,
    /// Also the roots of transactions, receipts and withdrawals, and the logs bloom.
    Full,
    /// Also each transaction's sender, recovered from its signature.
    Senders,
}

impl Verify {
    /// Every level, weakest first.
    pub const ALL: [Verify; 5] = [Self::None, Self::Links, Self::Header, Self::Full, Self::Senders];

    /// The level as flags and manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Links => "links",
            Self::Header => "header",
            Self::Full => "full",
            Self::Senders => "senders",
        }
    }
}

impl std::fmt::Display for Verify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Verify {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|level| level.as_str() == text).ok_or_else(|| {
            format!("`{text}` is not a verification level; the levels are none, links, header, full, senders")
        })
    }
}

/// The columns of a table that a dataset stores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Columns {
    /// `"*"`: every column.
    All(AllColumns),
    /// The columns by name.
    Named(Vec<String>),
}

/// The text `"*"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllColumns {
    /// Every column.
    #[serde(rename = "*")]
    Star,
}

/// A raw dataset: one whose rows come from a source outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawManifest {
    /// The dataset's name.
    pub name: DatasetName,
    /// Its version, 0.0.0 where none is given.
    #[serde(default)]
    pub version: DatasetVersion,
    /// The kind of source.
    pub kind: DatasetKind,
    /// The network that the blocks are of.
    pub network: Network,
    /// The first block, 0 where none is given.
    #[serde(default)]
    pub start_block: BlockNum,
    /// Whether the head is always the chain's finalized block.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finalized_blocks_only: bool,
    /// How much is checked, where the command does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Of kind `substreams`: the package, a path or URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Of kind `substreams`: the module of the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Of kind `substreams`: parameters by module, where they are not those of the package.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
    /// The tables and columns to store; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<BTreeMap<TableName, Columns>>,
    /// Of kind `substreams`: what the package was when the dataset was registered. Nobody writes it by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<ResolvedPackage>,
}

/// What a dataset is pinned to whose tables come from a package: they are known where the package is not, and it is
/// noticed when the package is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedPackage {
    /// The package's name and version, as it says them; may be empty.
    pub package: String,
    /// The SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// All tables of the module, in its order.
    pub tables: Vec<ResolvedTable>,
}

/// A table of a package's module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedTable {
    /// Its name.
    pub name: TableName,
    /// Its columns, as [`crate::schema::schema_to_json`] writes them.
    pub schema: Value,
}

impl ResolvedPackage {
    /// The tables, as [`Self::table_defs`] reads them back.
    pub fn new(package: String, sha256: String, tables: &[TableDef]) -> Self {
        let table = |table: &TableDef| ResolvedTable {
            name: table.name.clone(),
            schema: schema_to_json(&table.schema),
        };
        Self { package, sha256, tables: tables.iter().map(table).collect() }
    }

    /// All tables of the module.
    pub fn table_defs(&self) -> Result<Vec<TableDef>, String> {
        let table = |table: &ResolvedTable| {
            let schema: Schema = schema_from_json(&table.schema)?;
            Ok(TableDef { name: table.name.clone(), schema: schema.into() })
        };
        self.tables.iter().map(table).collect()
    }
}

impl RawManifest {
    /// Refuses keys that its kind does not have.
    pub fn check_keys(&self) -> Result<(), String> {
        let of_package = [
            ("manifest", self.manifest.is_some()),
            ("module", self.module.is_some()),
            ("params", !self.params.is_empty()),
            ("resolved", self.resolved.is_some()),
        ];
        if self.kind == DatasetKind::Substreams {
            return match of_package
                .iter()
                .find(|(key, is_set)| !is_set && ["manifest", "module"].contains(key))
            {
                Some((key, _)) => Err(format!(
                    "a dataset of kind `substreams` needs `{key}`: `manifest` is the path or URL of a package, `module` \
                     one of its modules"
                )),
                None => Ok(()),
            };
        }
        match of_package.iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => Err(format!("`{key}` is for datasets of kind `substreams`")),
            None => Ok(()),
        }
    }

    /// The manifest as somebody wrote it.
    pub fn unresolved(&self) -> Self {
        Self { resolved: None, ..self.clone() }
    }

    /// The dataset and version that the manifest defines.
    pub fn reference(&self) -> DatasetRef {
        DatasetRef { name: self.name.clone(), version: Some(self.version) }
    }

    /// The network that its blocks are numbered by. The consensus layer of a network has numbers of its own, its
    /// slots: they are of `<network>-beacon`.
    pub fn numbered_by(&self) -> Network {
        const BEACON: &str = "-beacon";
        if self.kind != DatasetKind::EthBeacon {
            return self.network.clone();
        }
        let start: String = self.network.as_str().chars().take(MAX_NAME_LEN - BEACON.len()).collect();
        (start + BEACON).parse().unwrap_or_else(|_| self.network.clone())
    }

    /// What `schema` selects of the tables that the source has, in the source's order. The error
    /// names the table or column that the source does not have, and those that it has.
    pub fn select_tables(&self, available: &[TableDef]) -> Result<Vec<TableDef>, String> {
        let Some(schema) = &self.schema else { return Ok(available.to_vec()) };
        let list = |names: Vec<&str>| names.join(", ");
        if let Some(unknown) = schema.keys().find(|name| !available.iter().any(|t| t.name == **name)) {
            let known = available.iter().map(|t| t.name.as_str()).collect();
            return Err(format!("there is no table `{unknown}`; the tables are {}", list(known)));
        }
        let select = |table: &TableDef, columns: &Columns| match columns {
            Columns::All(_) => Ok(table.clone()),
            Columns::Named(names) => table.select(names).map_err(|unknown| {
                let known = table.schema.fields().iter().map(|f| f.name().as_str()).collect();
                format!(
                    "the table `{}` has no column `{unknown}`; its columns are {}",
                    table.name,
                    list(known)
                )
            }),
        };
        let selected: Vec<TableDef> = available
            .iter()
            .filter_map(|table| schema.get(&table.name).map(|columns| select(table, columns)))
            .collect::<Result<_, String>>()?;
        if selected.is_empty() {
            return Err("`schema` names no table; leave it out to store every table".into());
        }
        Ok(selected)
    }
}

/// A dataset's manifest, of whatever kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Manifest {
    /// Rows come from outside.
    Raw(RawManifest),
    /// Rows come from other datasets.
    Derived(DerivedManifest),
}

impl Manifest {
    /// The dataset and version that it defines.
    pub fn reference(&self) -> DatasetRef {
        match self {
            Self::Raw(raw) => raw.reference(),
            Self::Derived(derived) => derived.reference(),
        }
    }

    /// The manifest as somebody wrote it.
    pub fn unresolved(&self) -> Self {
        match self {
            Self::Raw(raw) => Self::Raw(raw.unresolved()),
            Self::Derived(derived) => Self::Derived(derived.unresolved()),
        }
    }

    /// Whether what was found out when it was registered is in it.
    pub fn is_resolved(&self) -> bool {
        match self {
            Self::Raw(raw) => raw.resolved.is_some(),
            Self::Derived(derived) => derived.resolved.is_some(),
        }
    }

    /// The dataset's name.
    pub fn name(&self) -> &DatasetName {
        match self {
            Self::Raw(raw) => &raw.name,
            Self::Derived(derived) => &derived.name,
        }
    }

    /// The dataset's version.
    pub fn version(&self) -> DatasetVersion {
        match self {
            Self::Raw(raw) => raw.version,
            Self::Derived(derived) => derived.version,
        }
    }

    /// The kind of dataset.
    pub fn kind(&self) -> DatasetKind {
        match self {
            Self::Raw(raw) => raw.kind,
            Self::Derived(derived) => derived.kind,
        }
    }

    /// The network that its blocks are numbered by, for which head and finality are kept; `None` before a
    /// derived one is registered.
    pub fn network(&self) -> Option<Network> {
        match self {
            Self::Raw(raw) => Some(raw.numbered_by()),
            Self::Derived(derived) => derived.resolved.as_ref().map(|resolved| resolved.network.clone()),
        }
    }

    /// Its first block.
    pub fn start_block(&self) -> BlockNum {
        match self {
            Self::Raw(raw) => raw.start_block,
            Self::Derived(derived) => derived.resolved.as_ref().map_or(0, |resolved| resolved.start_block),
        }
    }

    /// The raw dataset whose blocks its own are; `None` before a derived one is registered.
    pub fn chain(&self) -> Option<DatasetRef> {
        match self {
            Self::Raw(raw) => Some(raw.reference()),
            Self::Derived(derived) => derived.resolved.as_ref().map(|resolved| resolved.chain.clone()),
        }
    }

    /// Whether the head is always the chain's finalized block.
    pub fn is_finalized_only(&self) -> bool {
        match self {
            Self::Raw(raw) => raw.finalized_blocks_only,
            Self::Derived(_) => false,
        }
    }

    /// The datasets that it is made of, each once.
    pub fn dependencies(&self) -> Vec<&DatasetRef> {
        let Self::Derived(DerivedManifest { resolved: Some(resolved), .. }) = self else { return vec![] };
        let mut datasets: Vec<_> = resolved.names.values().collect();
        datasets.sort();
        datasets.dedup();
        datasets
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::{DataType, Field};

    use super::*;

    fn tables() -> Vec<TableDef> {
        let column = |name: &str| Field::new(name, DataType::UInt64, false);
        vec![
            TableDef::new("blocks".parse().expect("a name"), vec![column("a"), column("b")]),
            TableDef::new("logs".parse().expect("a name"), vec![column("c")]),
        ]
    }

    fn manifest(schema: &str) -> Result<RawManifest, serde_json::Error> {
        serde_json::from_str(&format!(
            r#"{{"name":"eth","kind":"evm-rpc","network":"mainnet","schema":{schema}}}"#
        ))
    }

    #[test]
    fn a_schema_selects_tables_and_columns() {
        let select = |schema: &str| manifest(schema).expect("a manifest").select_tables(&tables());
        let names = |tables: Vec<TableDef>| {
            tables.iter().map(|t| format!("{}/{}", t.name, t.schema.fields().len())).collect::<Vec<_>>()
        };
        assert_eq!(select("null").map(names), Ok(vec!["blocks/3".into(), "logs/2".into()]));
        assert_eq!(select(r#"{"logs":"*"}"#).map(names), Ok(vec!["logs/2".into()]));
        assert_eq!(
            select(r#"{"logs":["c"],"blocks":["b"]}"#).map(names),
            Ok(vec!["blocks/2".into(), "logs/2".into()])
        );
        assert!(select(r#"{"calls":"*"}"#).expect_err("no such table").contains("blocks, logs"));
        assert!(select(r#"{"logs":["x"]}"#).expect_err("no such column").contains("_block_num, c"));
        assert!(select("{}").expect_err("no table").contains("no table"));
    }

    #[test]
    fn a_package_and_its_module_are_for_substreams() {
        let check = |keys: &str| {
            let json = format!(r#"{{"name":"x","network":"mainnet",{keys}}}"#);
            serde_json::from_str::<RawManifest>(&json).expect("a manifest").check_keys()
        };
        assert_eq!(
            check(r#""kind":"substreams","manifest":"a.spkg","module":"m","params":{"m":"x"}"#),
            Ok(())
        );
        assert_eq!(check(r#""kind":"evm-rpc""#), Ok(()));
        assert!(
            check(r#""kind":"substreams","module":"m""#)
                .expect_err("no package")
                .contains("needs `manifest`")
        );
        assert!(
            check(r#""kind":"substreams","manifest":"a.spkg""#)
                .expect_err("no module")
                .contains("needs `module`")
        );
        assert!(
            check(r#""kind":"firehose","module":"m""#).expect_err("a module").contains("`module` is for")
        );
    }

    #[test]
    fn a_package_is_pinned_with_its_tables() {
        let resolved = ResolvedPackage::new("pools v1.0.0".into(), "00".repeat(32), &tables());
        let mut manifest = manifest("null").expect("a manifest");
        manifest.resolved = Some(resolved.clone());
        let json = serde_json::to_string(&manifest).expect("JSON");
        let read: RawManifest = serde_json::from_str(&json).expect("a manifest");
        let pinned = read.resolved.as_ref().expect("it is pinned");
        assert_eq!((pinned, pinned.table_defs()), (&resolved, Ok(tables())));
        assert!(read.check_keys().expect_err("it is for packages").contains("`resolved` is for"));
        assert_eq!(read.unresolved().resolved, None);
    }

    #[test]
    fn slots_are_not_numbered_as_blocks_are() {
        let of = |kind: &str, network: &str| {
            let json = format!(r#"{{"name":"x","kind":"{kind}","network":"{network}"}}"#);
            Manifest::Raw(serde_json::from_str(&json).expect("a manifest"))
                .network()
                .expect("one")
                .to_string()
        };
        assert_eq!(of("evm-rpc", "mainnet"), "mainnet");
        assert_eq!(of("firehose", "mainnet"), "mainnet");
        assert_eq!(of("eth-beacon", "mainnet"), "mainnet-beacon");
        assert_eq!(of("eth-beacon", &"n".repeat(63)).len(), 63);
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused() {
        assert!(manifest(r#"{"logs":"all"}"#).is_err());
        for bad in [
            r#"{"name":"eth","kind":"evm-rpc","network":"mainnet","strat_block":1}"#,
            r#"{"name":"Eth","kind":"evm-rpc","network":"mainnet"}"#,
            r#"{"name":"eth","kind":"evm","network":"mainnet"}"#,
            r#"{"name":"eth","kind":"evm-rpc","network":"mainnet","start_block":-1}"#,
        ] {
            assert!(serde_json::from_str::<RawManifest>(bad).is_err(), "{bad}");
        }
    }
}

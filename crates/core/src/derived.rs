//! Manifests of derived datasets: SQL over other datasets.

use std::collections::BTreeMap;

use arrow_schema::Schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    block::BlockNum,
    dataset::DatasetKind,
    name::{DatasetName, DatasetRef, DatasetVersion, Network, TableName},
    schema::{TableDef, schema_from_json},
};

/// A derived dataset: each of its tables is a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DerivedManifest {
    /// The dataset's name.
    pub name: DatasetName,
    /// Its version, 0.0.0 where none is given.
    #[serde(default)]
    pub version: DatasetVersion,
    /// `manifest`, or `sql` where the queries came in files of their own.
    pub kind: DatasetKind,
    /// The datasets that the queries read, by the names that these give them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dependencies: BTreeMap<String, Dependency>,
    /// The tables.
    pub tables: BTreeMap<TableName, DerivedTable>,
    /// Functions in JavaScript.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub functions: BTreeMap<String, Value>,
    /// What was found out when it was registered. Nobody writes it by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
}

/// A dataset that queries read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// Whose it is; taken, and of no meaning here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Its name.
    pub name: DatasetName,
    /// Which versions will do, as semver requires them; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A table and its query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DerivedTable {
    /// What gives its rows.
    pub input: Input,
    /// Its columns, where the manifest says them: `{"arrow":{"fields":[…]}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<DeclaredSchema>,
    /// The network of its blocks, where the manifest says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
}

/// What gives a table's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// A query.
    pub sql: String,
}

/// Columns as a manifest writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredSchema {
    /// `{"fields":[{"name","type","nullable"}]}`.
    pub arrow: Value,
}

/// What a derived dataset is pinned to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The versions that the names in the queries mean.
    pub names: BTreeMap<String, DatasetRef>,
    /// The raw dataset whose blocks are this one's.
    pub chain: DatasetRef,
    /// The network of these blocks.
    pub network: Network,
    /// The first block.
    pub start_block: BlockNum,
    /// The columns of each table, as [`crate::schema::schema_to_json`] writes them.
    pub schemas: BTreeMap<TableName, Value>,
    /// The columns of each table that hold the number of a row's block besides `_block_num`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub block_columns: BTreeMap<TableName, Vec<String>>,
}

impl DerivedManifest {
    /// The dataset and version that the manifest defines.
    pub fn reference(&self) -> DatasetRef {
        DatasetRef { name: self.name.clone(), version: Some(self.version) }
    }

    /// The manifest as somebody wrote it.
    pub fn unresolved(&self) -> Self {
        Self { resolved: None, ..self.clone() }
    }
}

impl Resolved {
    /// The tables, by name.
    pub fn tables(&self) -> Result<Vec<TableDef>, String> {
        let table = |(name, json): (&TableName, &Value)| {
            let schema: Schema = schema_from_json(json)?;
            Ok(TableDef { name: name.clone(), schema: schema.into() })
        };
        self.schemas.iter().map(table).collect()
    }
}

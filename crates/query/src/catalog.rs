//! The datasets of a snapshot as SQL schemas: `dataset.table` is the latest version,
//! `dataset__1_0_0.table` a certain one.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, SchemaProvider, TableProvider},
    error::{DataFusionError, Result as DataFusionResult},
};
use nozzle_core::{
    BlockRange, DatasetKind, DatasetRef,
    schema::{added_columns, schema_from_json},
};
use nozzle_metadata::{CommitSeq, Dataset, Location, MetadataStore, Revision, Scan, Snapshot};
use serde_json::Value;

use crate::{
    nearest::suggestion,
    stores::Stores,
    table::{BlockColumns, SegmentTable, SegmentTableParts},
};

/// The name of the one SQL catalog.
pub const CATALOG: &str = "nozzle";

/// The schemas of a snapshot.
#[derive(Debug)]
pub struct SnapshotCatalog {
    schemas: BTreeMap<String, Arc<DatasetSchema>>,
}

impl SnapshotCatalog {
    /// The catalog of `snapshot`.
    pub fn new(snapshot: &Snapshot, metadata: &Arc<dyn MetadataStore>, stores: &Arc<Stores>) -> Self {
        let mut schemas = BTreeMap::new();
        // Ascending versions: of the plain name the greatest one stays.
        let mut datasets: Vec<&(Dataset, Option<Revision>)> = snapshot.datasets.iter().collect();
        datasets.sort_by_key(|(dataset, _)| (&dataset.name, dataset.version));
        for (dataset, revision) in datasets {
            let schema = Arc::new(DatasetSchema {
                dataset: dataset.clone(),
                locations: revision.as_ref().map(|r| r.locations.clone()).unwrap_or_default(),
                sequence: snapshot.sequence,
                metadata: Arc::clone(metadata),
                stores: Arc::clone(stores),
            });
            let versioned = DatasetRef { name: dataset.name.clone(), version: Some(dataset.version) };
            schemas.insert(versioned.to_string(), Arc::clone(&schema));
            schemas.insert(dataset.name.to_string(), schema);
        }
        Self { schemas }
    }

    /// The names of the schemas, each with its tables and their columns, in order.
    #[allow(clippy::type_complexity, reason = "names with what they name")]
    pub fn list(&self) -> Result<Vec<(&str, Vec<(&str, SchemaRef)>)>, String> {
        self.schemas
            .iter()
            .map(|(name, schema)| {
                let mut tables = schema
                    .locations
                    .iter()
                    .map(|location| Ok((location.table.as_str(), location_schema(location)?.0)))
                    .collect::<Result<Vec<_>, String>>()?;
                tables.sort_by_key(|(table, _)| *table);
                Ok((name.as_str(), tables))
            })
            .collect()
    }

    /// Why `schema.table` is not there, in words that say what to do; `None` where it is.
    pub fn explain_missing(&self, schema: Option<&str>, table: &str) -> Option<String> {
        let Some(schema) = schema else {
            return Some(format!(
                "the table `{table}` is named without its dataset: write `dataset.{table}`"
            ));
        };
        let Some(dataset) = self.schemas.get(schema) else {
            let known = self.schemas.keys().map(String::as_str);
            return Some(format!("there is no dataset `{schema}`{}", suggestion(schema, known)));
        };
        if dataset.locations.is_empty() {
            return Some(format!(
                "the dataset `{schema}` has no data yet: run `nozzle dump --dataset {schema}`"
            ));
        }
        if dataset.location(table).is_some() {
            return None;
        }
        let known: Vec<&str> = dataset.locations.iter().map(|l| l.table.as_str()).collect();
        let suggestion = suggestion(table, known.iter().copied());
        Some(format!(
            "the dataset `{schema}` has no table `{table}`; its tables are {}{suggestion}",
            known.join(", ")
        ))
    }
}

impl CatalogProvider for SnapshotCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.schemas.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.schemas.get(name).map(|schema| Arc::clone(schema) as Arc<dyn SchemaProvider>)
    }
}

/// The tables of one version of a dataset, of its active revision.
#[derive(Debug)]
struct DatasetSchema {
    dataset: Dataset,
    locations: Vec<Location>,
    sequence: CommitSeq,
    metadata: Arc<dyn MetadataStore>,
    stores: Arc<Stores>,
}

impl DatasetSchema {
    fn location(&self, table: &str) -> Option<&Location> {
        self.locations.iter().find(|location| location.table.as_str() == table)
    }

    fn table_of(&self, location: &Location) -> DataFusionResult<SegmentTable> {
        let scan = Scan { location: location.id, sequence: self.sequence, range: BlockRange::from(0) };
        let (schema, is_uniform) = location_schema(location).map_err(DataFusionError::Internal)?;
        let block_columns =
            BlockColumns::of(&self.dataset, &location.table).map_err(DataFusionError::Internal)?;
        Ok(SegmentTable::new(SegmentTableParts {
            metadata: Arc::clone(&self.metadata),
            stores: Arc::clone(&self.stores),
            schema,
            is_uniform,
            location: location.clone(),
            scan,
            block_columns,
        }))
    }
}

#[async_trait]
impl SchemaProvider for DatasetSchema {
    fn table_names(&self) -> Vec<String> {
        self.locations.iter().map(|location| location.table.to_string()).collect()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        let table = self.location(name).map(|location| self.table_of(location)).transpose()?;
        Ok(table.map(|table| Arc::new(table) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.location(name).is_some()
    }
}

/// Whether the tables of such datasets have the block's number as `block_num` too.
pub fn is_raw(kind: DatasetKind) -> bool {
    match kind {
        DatasetKind::EvmRpc | DatasetKind::Firehose | DatasetKind::EthBeacon | DatasetKind::Substreams => {
            true
        }
        DatasetKind::Manifest | DatasetKind::Sql => false,
    }
}

/// The columns of a location, and whether every file has all of them.
pub fn location_schema(location: &Location) -> Result<(SchemaRef, bool), String> {
    let bad = |why: String| format!("the stored schema of table `{}` is damaged: {why}", location.table);
    let json: Value = serde_json::from_str(&location.schema).map_err(|error| bad(error.to_string()))?;
    let schema: Schema = schema_from_json(&json).map_err(bad)?;
    Ok((Arc::new(schema), added_columns(&json).is_empty()))
}

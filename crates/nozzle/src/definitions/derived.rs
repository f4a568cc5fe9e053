//! Manifests of derived datasets: checked whole when they are registered, and pinned to what they are made of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, anyhow, bail, ensure};
use nozzle_core::{
    BlockNum, DatasetName, DatasetRef, Network, TableName,
    dataset::ToldBy,
    derived::{Dependency, DerivedManifest, Resolved},
    manifest::Manifest,
    schema::{BLOCK_NUM, schema_from_json, schema_to_json},
};
use nozzle_metadata::{Dataset, MetadataStore};
use nozzle_query::{
    KnownTable, TableQuery,
    derive::{self, BlockColumns, SELF},
    plain::plain_schema,
};
use semver::{Version, VersionReq};

use super::{of_dataset, tables};
use crate::threads;

/// Refuses what no database has to be asked about.
pub fn check(manifest: &DerivedManifest) -> anyhow::Result<()> {
    ensure!(!manifest.tables.is_empty(), "it has no `tables`");
    if let Some(function) = manifest.functions.keys().next() {
        bail!(
            "it has the function `{function}` in JavaScript, which this version of Nozzle cannot run: leave `functions` out"
        );
    }
    for (alias, dependency) in &manifest.dependencies {
        ensure!(
            alias.parse::<TableName>().is_ok() && alias != SELF,
            "`{alias}` cannot be the name of a dependency: it must be lower-case letters, digits and `_`, and not `{SELF}`"
        );
        requirement(dependency).with_context(|| format!("the dependency `{alias}`"))?;
        ensure!(
            dependency.name != manifest.name,
            "it depends on itself: a table of its own is `{SELF}.table`"
        );
    }
    Ok(())
}

/// The queries of the tables, in their order.
pub fn queries(manifest: &DerivedManifest) -> Vec<TableQuery> {
    let query = |(table, of): (&TableName, &nozzle_core::derived::DerivedTable)| TableQuery {
        table: table.clone(),
        sql: of.input.sql.clone(),
    };
    manifest.tables.iter().map(query).collect()
}

fn requirement(dependency: &Dependency) -> anyhow::Result<VersionReq> {
    let text = dependency.version.as_deref().unwrap_or("*");
    text.parse().with_context(|| format!("`{text}` is no requirement of a version: write 1.0.0, ^1.2 or *"))
}

/// Which datasets the queries of derived ones read, by name.
pub fn reading(
    manifests: impl IntoIterator<Item = Manifest>,
) -> BTreeMap<DatasetName, BTreeSet<DatasetName>> {
    let mut reading = BTreeMap::new();
    for manifest in manifests {
        let Manifest::Derived(manifest) = manifest else { continue };
        let mut named: BTreeSet<DatasetName> =
            manifest.dependencies.values().map(|dependency| dependency.name.clone()).collect();
        let in_queries =
            queries(&manifest).into_iter().flat_map(|query| derive::schemas(&query).unwrap_or_default());
        let as_called = in_queries.filter(|name| name != SELF && !manifest.dependencies.contains_key(name));
        named.extend(as_called.filter_map(|name| Some(name.parse::<DatasetRef>().ok()?.name)));
        reading.entry(manifest.name).or_insert_with(BTreeSet::new).extend(named);
    }
    reading
}

/// The shortest way from a dataset to itself over what each reads, both ends included.
pub fn cycle(
    name: &DatasetName,
    reading: &BTreeMap<DatasetName, BTreeSet<DatasetName>>,
) -> Option<Vec<DatasetName>> {
    let (mut ways, mut seen) = (VecDeque::from([vec![name.clone()]]), BTreeSet::new());
    while let Some(way) = ways.pop_front() {
        for next in way.last().and_then(|last| reading.get(last)).into_iter().flatten() {
            let further: Vec<_> = way.iter().chain([next]).cloned().collect();
            if next == name {
                return Some(further);
            }
            if seen.insert(next.clone()) {
                ways.push_back(further);
            }
        }
    }
    None
}

/// A dataset that a derived one is made of.
struct Source {
    dataset: Dataset,
    manifest: Manifest,
}

/// Checks a manifest against what is registered, and pins it to that.
pub async fn resolve(
    manifest: &DerivedManifest,
    metadata: &dyn MetadataStore,
) -> anyhow::Result<DerivedManifest> {
    let all = metadata.datasets().await?;
    let manifest = manifest.clone();
    // Its queries may be nested deep.
    let threads = threads::shared().context("starting the threads for queries")?;
    let resolved = threads::spawn(threads, async move { pinned(&manifest, &all).await });
    resolved.await.context("planning its queries ended by a defect of the engine")?
}

/// Checks a manifest against all datasets, and pins it to those that it is made of.
async fn pinned(manifest: &DerivedManifest, all: &[Dataset]) -> anyhow::Result<DerivedManifest> {
    let queries = queries(manifest);
    let mut sources = BTreeMap::new();
    for (name, found) in named(manifest, &queries, all)? {
        let source = Source { manifest: of_dataset(found)?, dataset: found.clone() };
        sources.insert(name, source);
    }
    ensure!(!sources.is_empty(), "its tables read no other dataset: nothing would ever be in them");
    let network = one_network(manifest, &sources)?;
    let (chain, start_block) = chain(&sources, all)?;
    let mut known = BTreeMap::new();
    for (name, source) in &sources {
        let table = |table: nozzle_core::TableDef| {
            let block_columns = BlockColumns::of(&source.dataset, &table.name).map_err(anyhow::Error::msg)?;
            anyhow::Ok((table.name.to_string(), KnownTable { schema: table.schema, block_columns }))
        };
        let tables = tables(&source.manifest)?.into_iter().map(table).collect::<anyhow::Result<_>>()?;
        known.insert(name.clone(), tables);
    }
    let planned = derive::declared(&known, &queries).await?;
    let (mut schemas, mut block_columns) = (BTreeMap::new(), BTreeMap::new());
    for (query, incremental) in queries.iter().zip(&planned) {
        let schema = plain_schema(&incremental.schema());
        let json = schema_to_json(&schema);
        // What cannot be read back could not be read by the next process.
        schema_from_json(&json).map_err(|why| anyhow::anyhow!("the table `{}`: {why}", query.table))?;
        same_as_declared(manifest, &query.table, &schema)
            .with_context(|| format!("the table `{}`", query.table))?;
        schemas.insert(query.table.clone(), json);
        let others = incremental.block_columns();
        if !others.is_empty() {
            block_columns.insert(query.table.clone(), others);
        }
    }
    let reference = |source: &Source| DatasetRef {
        name: source.dataset.name.clone(),
        version: Some(source.dataset.version),
    };
    let names = sources.iter().map(|(name, source)| (name.clone(), reference(source))).collect();
    let resolved = Resolved { names, chain, network, start_block, schemas, block_columns };
    Ok(DerivedManifest { resolved: Some(resolved), ..manifest.clone() })
}

/// The registered datasets by the names that the queries give them: the dependencies, and what else is named as it
/// is called.
fn named<'a>(
    manifest: &DerivedManifest,
    queries: &[TableQuery],
    all: &'a [Dataset],
) -> anyhow::Result<BTreeMap<String, &'a Dataset>> {
    let mut named = BTreeMap::new();
    for (alias, dependency) in &manifest.dependencies {
        let required = requirement(dependency)?;
        let fits = |dataset: &&Dataset| {
            let nozzle_core::DatasetVersion { major, minor, patch } = dataset.version;
            dataset.name == dependency.name && required.matches(&Version::new(major, minor, patch))
        };
        let Some(found) = all.iter().filter(fits).max_by_key(|dataset| dataset.version) else {
            let versions = all.iter().filter(|dataset| dataset.name == dependency.name);
            let versions: Vec<_> = versions.map(|dataset| dataset.version.to_string()).collect();
            let name = &dependency.name;
            if versions.is_empty() {
                bail!("it depends on the dataset `{name}` (as `{alias}`), which is not registered");
            }
            bail!(
                "it depends on `{name}` {required} (as `{alias}`), and only {} are registered",
                versions.join(", ")
            );
        };
        named.insert(alias.clone(), found);
    }
    let mut in_queries = BTreeMap::new();
    for query in queries {
        for name in derive::schemas(query)? {
            in_queries.entry(name).or_insert(&query.table);
        }
    }
    for (name, table) in in_queries {
        if name == SELF || named.contains_key(&name) {
            continue;
        }
        let Ok(reference) = name.parse::<DatasetRef>() else { continue };
        let is_it = |dataset: &&Dataset| {
            dataset.name == reference.name
                && reference.version.is_none_or(|version| version == dataset.version)
        };
        let Some(found) = all.iter().filter(is_it).max_by_key(|dataset| dataset.version) else {
            bail!(
                "the table `{table}` reads the dataset `{name}`, which is neither a dependency nor registered"
            );
        };
        ensure!(
            found.name != manifest.name,
            "the table `{table}` reads its own dataset: a table of that is `{SELF}.table`"
        );
        named.insert(name, found);
    }
    Ok(named)
}

/// The network of all sources, which the tables' own must be.
fn one_network(manifest: &DerivedManifest, sources: &BTreeMap<String, Source>) -> anyhow::Result<Network> {
    let mut networks = sources.iter().filter_map(|(name, source)| Some((name, source.manifest.network()?)));
    let Some((first, network)) = networks.next() else { bail!("what it is made of has no network") };
    if let Some((other, of_other)) = networks.find(|(_, other)| *other != network) {
        bail!(
            "`{first}` is of the network `{network}`, and `{other}` of `{of_other}`: a dataset is of one network"
        );
    }
    for (table, of) in &manifest.tables {
        if let Some(declared) = of.network.as_ref().filter(|declared| **declared != network) {
            bail!(
                "the table `{table}` is to be of the network `{declared}`, and what it reads is of `{network}`"
            );
        }
    }
    Ok(network)
}

/// The raw dataset whose blocks are the derived one's, and the first of them: of several the one that begins first,
/// and of those one that stores all blocks.
fn chain(sources: &BTreeMap<String, Source>, all: &[Dataset]) -> anyhow::Result<(DatasetRef, BlockNum)> {
    let mut chains = vec![];
    for source in sources.values() {
        let Some(chain) = source.manifest.chain() else {
            bail!("`{}` is not registered as it has to be", source.manifest.name());
        };
        let dataset = all
            .iter()
            .find(|dataset| dataset.name == chain.name && Some(dataset.version) == chain.version)
            .with_context(|| format!("the dataset `{chain}` is not registered any more"))?;
        let manifest = of_dataset(dataset)?;
        let told_by = dataset.kind.told_by(&tables(&manifest)?).map_err(|(table, column)| {
            anyhow!(
                "the dataset `{chain}` does not store the column `{column}` of its table `{table}`, by which reorgs are told: add it to its `schema`"
            )
        })?;
        chains.push((manifest.start_block(), told_by == ToldBy::Rows, chain));
    }
    let (start_block, _, chain) = chains.into_iter().min().context("it is made of nothing")?;
    Ok((chain, start_block))
}

/// Compares the columns that a manifest declares with those that its query has.
fn same_as_declared(
    manifest: &DerivedManifest,
    table: &TableName,
    planned: &arrow::datatypes::Schema,
) -> anyhow::Result<()> {
    let Some(declared) = manifest.tables.get(table).and_then(|table| table.schema.as_ref()) else {
        return Ok(());
    };
    let declared = schema_from_json(&declared.arrow).map_err(|why| anyhow::anyhow!("its `schema`: {why}"))?;
    let declared: Vec<_> = declared.fields().iter().filter(|field| field.name() != BLOCK_NUM).collect();
    let planned: Vec<_> = planned.fields().iter().filter(|field| field.name() != BLOCK_NUM).collect();
    let names = |fields: &[&std::sync::Arc<arrow::datatypes::Field>]| {
        fields.iter().map(|field| field.name().clone()).collect::<Vec<_>>().join(", ")
    };
    ensure!(
        names(&declared) == names(&planned),
        "its `schema` has the columns {}, and its query gives {}",
        names(&declared),
        names(&planned)
    );
    for (declared, planned) in declared.iter().zip(&planned) {
        ensure!(
            declared.data_type() == planned.data_type(),
            "the column `{}` is declared as {}, and the query gives {}",
            declared.name(),
            declared.data_type(),
            planned.data_type()
        );
        ensure!(
            declared.is_nullable() || !planned.is_nullable(),
            "the column `{}` is declared as never null, and the query may give nulls: declare it nullable",
            declared.name()
        );
    }
    Ok(())
}

//! Dataset definitions: manifest files, and bringing them into the metadata database.

pub mod derived;

use std::path::Path;

use anyhow::{Context, bail};
use nozzle_core::{
    DatasetKind, DatasetRef, TableDef,
    derived::DerivedManifest,
    manifest::{Manifest, RawManifest},
    range::MAX_BLOCK,
};
use nozzle_metadata::{Dataset, MetadataError, MetadataStore, NewDataset};
use serde_json::{Value, json};

use crate::{
    folder::{Folder, TextFile, Wanted},
    kinds,
};

/// The files of a folder that are manifests, or queries in a folder of a manifest's name.
const MANIFESTS: Wanted = Wanted { endings: &["json", "toml", "sql"], nested: true };

/// A manifest file, with the queries that lie in the folder of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The file.
    pub file: TextFile,
    queries: Vec<TextFile>,
}

impl Definition {
    /// Reads a file of this machine.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = TextFile::read(path)?;
        let folder = path.with_extension("");
        let mut queries = vec![];
        if folder.is_dir() {
            for entry in
                std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?
            {
                let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
                if path.extension().is_some_and(|ending| ending == "sql") {
                    queries.push(TextFile::read(&path)?);
                }
            }
        }
        Ok(Self { file, queries })
    }

    /// The manifests of a folder.
    async fn all(folder: &Folder) -> anyhow::Result<Vec<Self>> {
        let files = folder.files(MANIFESTS).await?;
        let (queries, files): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| file.shown.ends_with(".sql"));
        let root = format!("{}/", folder.shown().trim_end_matches('/'));
        let is_top = |file: &TextFile| file.shown.strip_prefix(&root).is_some_and(|name| !name.contains('/'));
        let definition = |file: TextFile| {
            let within = format!("{root}{}/", file.stem);
            let own = queries.iter().filter(|query| query.shown.starts_with(&within));
            Self { queries: own.cloned().collect(), file }
        };
        Ok(files.into_iter().filter(is_top).map(definition).collect())
    }

    /// The manifests of the file: one, or a list of them; JSON, or TOML by its ending.
    pub fn manifests(&self) -> anyhow::Result<Vec<Manifest>> {
        let context = || format!("the manifest {} is not valid", self.file.shown);
        let value: Value = if self.file.is_toml {
            let table = parse_toml(&self.file.text).with_context(context)?;
            serde_json::to_value(table).with_context(context)?
        } else {
            serde_json::from_str(&self.file.text).with_context(context)?
        };
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        let whole = |value| self.with_queries(self.with_package(value)).and_then(manifest);
        values.into_iter().map(whole).collect::<anyhow::Result<_>>().with_context(context)
    }

    /// The path of a package is taken from the manifest's folder, in whichever folder somebody reads it.
    fn with_package(&self, mut value: Value) -> Value {
        let Some(folder) = Path::new(&self.file.shown).parent().filter(|_| !self.file.shown.contains("://"))
        else {
            return value;
        };
        if let Some(Value::String(package)) = value.get_mut("manifest")
            && !package.contains("://")
            && let Ok(path) = std::path::absolute(folder.join(&*package))
        {
            // One file is one path, by whichever way somebody has come to it.
            let path = path.canonicalize().unwrap_or(path);
            *package = path.to_string_lossy().into_owned();
        }
        value
    }

    /// Puts the queries of the folder into a manifest of kind `sql`.
    fn with_queries(&self, mut value: Value) -> anyhow::Result<Value> {
        let is_sql = value.get("kind").and_then(Value::as_str) == Some(DatasetKind::Sql.as_str());
        let Some(keys) = value.as_object_mut().filter(|keys| is_sql && !keys.contains_key("tables")) else {
            return Ok(value);
        };
        let network = keys.remove("network").unwrap_or(Value::Null);
        if self.queries.is_empty() {
            bail!(
                "there is no `{}/<table>.sql` beside it: each of its tables is such a file",
                self.file.stem
            );
        }
        let table = |query: &TextFile| {
            (query.stem.clone(), json!({ "input": { "sql": query.text }, "network": network }))
        };
        keys.insert("tables".into(), Value::Object(self.queries.iter().map(table).collect()));
        Ok(value)
    }

    /// Whether the file's name says that it defines `dataset`.
    fn is_named_for(&self, dataset: &DatasetRef) -> bool {
        stem_of(&self.file).is_ok_and(|stem| {
            stem.name == dataset.name && (dataset.version.is_none() || stem.version == dataset.version)
        })
    }
}

/// Reads TOML. An error tells the place and what is wrong, but not the text there, which may be a
/// secret.
pub fn parse_toml(text: &str) -> anyhow::Result<toml::Value> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
        let place = line.map(|line| format!(" in line {line}")).unwrap_or_default();
        anyhow::anyhow!("it is not TOML{place}: {}", error.message())
    })
}

/// A manifest as somebody wrote it, of a kind that can be extracted.
pub fn manifest(value: Value) -> anyhow::Result<Manifest> {
    let manifest = stored(value)?;
    if manifest.is_resolved() {
        bail!("`resolved` is written by Nozzle: leave it out");
    }
    Ok(manifest)
}

/// A manifest as it is stored.
pub fn stored(value: Value) -> anyhow::Result<Manifest> {
    let kind = value.get("kind").and_then(Value::as_str).context("it has no `kind`")?;
    let kind = kind.parse().map_err(anyhow::Error::msg)?;
    kinds::supported(kind)?;
    if matches!(kind, DatasetKind::Manifest | DatasetKind::Sql) {
        let manifest: DerivedManifest = serde_json::from_value(value)?;
        derived::check(&manifest)?;
        return Ok(Manifest::Derived(manifest));
    }
    let manifest: RawManifest = serde_json::from_value(value)?;
    manifest.check_keys().map_err(anyhow::Error::msg)?;
    if manifest.start_block > MAX_BLOCK {
        bail!("its `start_block` {} is no block number", manifest.start_block);
    }
    // The tables of a package are checked when it is registered, and known from then on.
    if manifest.kind != DatasetKind::Substreams || manifest.resolved.is_some() {
        kinds::stored_tables(&manifest)?;
    }
    Ok(Manifest::Raw(manifest))
}

/// The tables that a registered dataset stores.
pub fn tables(manifest: &Manifest) -> anyhow::Result<Vec<TableDef>> {
    match manifest {
        Manifest::Raw(raw) => kinds::stored_tables(raw),
        Manifest::Derived(derived) => {
            let resolved = derived.resolved.as_ref().context("the dataset is not registered")?;
            resolved.tables().map_err(anyhow::Error::msg)
        }
    }
}

/// Brings a manifest into the database. Running the same one again is no error.
pub async fn register(manifest: &Manifest, metadata: &dyn MetadataStore) -> anyhow::Result<Dataset> {
    // Read first: a database that may only be read still serves what is in it.
    match registered(manifest, metadata).await? {
        Some(known) => Ok(known),
        None => register_new(manifest, metadata).await,
    }
}

/// As [`register`], for somebody who may not name what this machine alone can read.
pub async fn register_from_afar(
    manifest: &Manifest,
    metadata: &dyn MetadataStore,
) -> anyhow::Result<Dataset> {
    if let Some(known) = registered(manifest, metadata).await? {
        return Ok(known);
    }
    if let Manifest::Raw(raw) = manifest {
        kinds::of(raw.kind)?.check_from_afar(raw)?;
    }
    register_new(manifest, metadata).await
}

/// The dataset, where it is registered with this very manifest.
async fn registered(manifest: &Manifest, metadata: &dyn MetadataStore) -> anyhow::Result<Option<Dataset>> {
    let known = metadata.dataset(&manifest.reference()).await?;
    Ok(known.filter(|known| is_same(known, manifest)))
}

/// As [`register`], of several of which some may be made of others, in whatever order they come. The datasets come in
/// that order.
pub async fn register_all(
    manifests: &[Manifest],
    metadata: &dyn MetadataStore,
) -> anyhow::Result<Vec<Dataset>> {
    let mut datasets: Vec<Option<Dataset>> = vec![None; manifests.len()];
    loop {
        let (mut has_registered, mut failures) = (false, vec![]);
        for (manifest, dataset) in
            manifests.iter().zip(&mut datasets).filter(|(_, dataset)| dataset.is_none())
        {
            match register(manifest, metadata).await {
                Ok(registered) => {
                    *dataset = Some(registered);
                    has_registered = true;
                }
                Err(error) => failures.push(error),
            }
        }
        if failures.is_empty() {
            return Ok(datasets.into_iter().flatten().collect());
        }
        // What was brought in may be what the others were waiting for.
        if !has_registered {
            return Err(match failures.pop() {
                Some(only) if failures.is_empty() => only,
                // Which of them keeps the others from being registered is seen by all of them.
                last => {
                    let all = failures.iter().chain(&last).map(|error| format!("{error:#}"));
                    anyhow::anyhow!("{}", all.collect::<Vec<_>>().join("; "))
                }
            });
        }
    }
}

async fn register_new(manifest: &Manifest, metadata: &dyn MetadataStore) -> anyhow::Result<Dataset> {
    let reference = manifest.reference();
    let resolved = match manifest {
        manifest if manifest.is_resolved() => manifest.clone(),
        Manifest::Derived(derived) => Manifest::Derived(derived::resolve(derived, metadata).await?),
        Manifest::Raw(raw) => Manifest::Raw(resolved(raw.clone()).await?),
    };
    let dataset = NewDataset {
        name: resolved.name().clone(),
        version: resolved.version(),
        kind: resolved.kind(),
        network: resolved.network(),
        manifest: serde_json::to_string(&resolved).context("writing the manifest as JSON")?,
    };
    metadata.register_dataset(&dataset).await.map_err(|error| match error {
        // What it is made of was removed while it was checked.
        MetadataError::Dependency(_) => error.into(),
        error => anyhow::Error::new(error)
            .context(format!("registering `{reference}` failed; a changed manifest needs a new `version`")),
    })?;
    let registered = metadata.dataset(&reference).await?;
    registered.with_context(|| format!("the dataset `{}` was removed while it was registered", dataset.name))
}

/// The manifest with what it is pinned to. A package may have to come from far away.
async fn resolved(manifest: RawManifest) -> anyhow::Result<RawManifest> {
    let resolving = tokio::task::spawn_blocking(move || -> anyhow::Result<RawManifest> {
        let resolved = kinds::of(manifest.kind)?.resolve(&manifest)?;
        let manifest = RawManifest { resolved, ..manifest };
        kinds::stored_tables(&manifest)?;
        Ok(manifest)
    });
    resolving.await.context("looking at what it names was broken off")?
}

/// Whether a registered dataset has this manifest.
fn is_same(known: &Dataset, manifest: &Manifest) -> bool {
    of_dataset(known).is_ok_and(|known| known.unresolved() == manifest.unresolved())
}

/// The manifest of a registered dataset.
pub fn of_dataset(dataset: &Dataset) -> anyhow::Result<Manifest> {
    let damaged = || format!("the stored manifest of `{}` is damaged", dataset.name);
    kinds::supported(dataset.kind)?;
    let value = serde_json::from_str(&dataset.manifest).with_context(damaged)?;
    stored(value).with_context(damaged)
}

/// A manifest file that could not be brought in.
#[derive(Debug)]
pub struct Rejected {
    /// The file.
    pub definition: Definition,
    /// Why.
    pub error: anyhow::Error,
}

impl Rejected {
    /// Whether the file's name says that it defines `dataset`.
    pub fn defines(&self, dataset: &DatasetRef) -> bool {
        self.definition.is_named_for(dataset)
    }
}

/// The files of the folder whose names say that they define `dataset`, by path or URL.
pub async fn files_defining(folder: &Folder, dataset: &DatasetRef) -> anyhow::Result<Vec<String>> {
    let files = Definition::all(folder).await?;
    let defining = files.into_iter().filter(|definition| definition.is_named_for(dataset));
    Ok(defining.map(|definition| definition.file.shown).collect())
}

/// Brings in every manifest of the folder, those of derived datasets after what they are made of. A bad file
/// keeps nobody from using the others: it is given back with the reason.
pub async fn import(folder: &Folder, metadata: &dyn MetadataStore) -> anyhow::Result<Vec<Rejected>> {
    let mut waiting = Definition::all(folder).await?;
    loop {
        let (count, mut rejected) = (waiting.len(), vec![]);
        for definition in waiting {
            if let Err(error) = import_file(&definition, metadata).await {
                rejected.push(Rejected { definition, error });
            }
        }
        // What was brought in may be what the others were waiting for.
        if rejected.is_empty() || rejected.len() == count {
            tell_cycles(&mut rejected);
            return Ok(rejected);
        }
        waiting = rejected.into_iter().map(|rejected| rejected.definition).collect();
    }
}

/// Says of those that are made of each other that they are: each by itself lacks the next one.
fn tell_cycles(rejected: &mut [Rejected]) {
    let manifests = rejected.iter().flat_map(|rejected| rejected.definition.manifests().unwrap_or_default());
    let graph = derived::reading(manifests);
    for rejected in rejected {
        let defined = rejected.definition.manifests().unwrap_or_default();
        let cycle = defined.iter().find_map(|manifest| derived::cycle(manifest.name(), &graph));
        if let Some(cycle) = cycle {
            let steps: Vec<_> =
                cycle.windows(2).map(|pair| format!("`{}` of `{}`", pair[0], pair[1])).collect();
            rejected.error = anyhow::anyhow!("datasets are made of each other: {}", steps.join(", "));
        }
    }
}

/// The manifests of the folder that are valid.
pub async fn defined(folder: &Folder) -> anyhow::Result<Vec<Manifest>> {
    let files = Definition::all(folder).await?;
    Ok(files.iter().filter_map(|definition| definition.manifests().ok()).flatten().collect())
}

/// As [`import`], and warns of each file that is left out.
pub async fn import_and_warn(folder: &Folder, metadata: &dyn MetadataStore) -> anyhow::Result<()> {
    for rejected in import(folder, metadata).await? {
        tracing::warn!("{} is left out: {:#}", rejected.definition.file.shown, rejected.error);
    }
    Ok(())
}

async fn import_file(definition: &Definition, metadata: &dyn MetadataStore) -> anyhow::Result<()> {
    let stem = stem_of(&definition.file)?;
    let manifests = definition.manifests()?;
    for manifest in &manifests {
        let (name, version) = (manifest.name(), manifest.version());
        let is_named = stem.name == *name && stem.version.is_none_or(|v| v == version);
        if manifests.len() == 1 && !is_named {
            bail!(
                "the file {} defines `{}`; name it {name}.json",
                definition.file.shown,
                manifest.reference()
            );
        }
    }
    register_all(&manifests, metadata).await.map(drop)
}

fn stem_of(file: &TextFile) -> anyhow::Result<DatasetRef> {
    file.stem.parse().with_context(|| format!("the file name of {} is not a dataset's", file.shown))
}

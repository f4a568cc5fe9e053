//! Dataset definitions: manifest files, and bringing them into the metadata database.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nozzle_core::{DatasetKind, DatasetRef, manifest::RawManifest, range::MAX_BLOCK};
use nozzle_metadata::{Dataset, MetadataStore, NewDataset};
use serde_json::Value;

/// Reads the manifests of a file: one, or a list of them; JSON, or TOML by its ending.
pub fn read_file(path: &Path) -> anyhow::Result<Vec<RawManifest>> {
    let context = || format!("the manifest {} is not valid", path.display());
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    let value: Value = if is_toml {
        let table = parse_toml(&text).with_context(context)?;
        serde_json::to_value(table).with_context(context)?
    } else {
        serde_json::from_str(&text).with_context(context)?
    };
    let values = match value {
        Value::Array(values) => values,
        one => vec![one],
    };
    values.into_iter().map(manifest).collect::<anyhow::Result<_>>().with_context(context)
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

fn manifest(value: Value) -> anyhow::Result<RawManifest> {
    let kind = value.get("kind").and_then(Value::as_str).context("it has no `kind`")?;
    supported(kind.parse().map_err(anyhow::Error::msg)?)?;
    let manifest: RawManifest = serde_json::from_value(value)?;
    if manifest.start_block > MAX_BLOCK {
        bail!("its `start_block` {} is no block number", manifest.start_block);
    }
    let available = nozzle_sources::evm::tables::tables();
    manifest.select_tables(&available).map_err(anyhow::Error::msg)?;
    Ok(manifest)
}

/// Refuses the kinds that this version cannot extract.
pub fn supported(kind: DatasetKind) -> anyhow::Result<()> {
    match kind {
        DatasetKind::EvmRpc => Ok(()),
        DatasetKind::Firehose
        | DatasetKind::Substreams
        | DatasetKind::EthBeacon
        | DatasetKind::Manifest
        | DatasetKind::Sql => {
            bail!("datasets of kind `{kind}` cannot be extracted by this version of Nozzle; evm-rpc can")
        }
    }
}

/// Brings a manifest into the database. Running the same one again is no error.
pub async fn register(manifest: &RawManifest, metadata: &dyn MetadataStore) -> anyhow::Result<Dataset> {
    let dataset = NewDataset {
        name: manifest.name.clone(),
        version: manifest.version,
        kind: manifest.kind,
        network: Some(manifest.network.clone()),
        manifest: serde_json::to_string(manifest).context("writing the manifest as JSON")?,
    };
    // Read first: a database that may only be read still serves what is in it.
    if let Some(known) = metadata.dataset(&manifest.reference()).await?
        && known.manifest == dataset.manifest
    {
        return Ok(known);
    }
    metadata.register_dataset(&dataset).await.with_context(|| {
        format!("registering `{}` failed; a changed manifest needs a new `version`", manifest.reference())
    })?;
    let registered = metadata.dataset(&manifest.reference()).await?;
    registered.with_context(|| format!("the dataset `{}` was removed while it was registered", manifest.name))
}

/// The manifest of a registered dataset.
pub fn of_dataset(dataset: &Dataset) -> anyhow::Result<RawManifest> {
    supported(dataset.kind)?;
    serde_json::from_str(&dataset.manifest)
        .with_context(|| format!("the stored manifest of `{}` is damaged", dataset.name))
}

/// A manifest file that could not be brought in.
#[derive(Debug)]
pub struct Rejected {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: anyhow::Error,
}

impl Rejected {
    /// Whether the file's name says that it defines `dataset`.
    pub fn defines(&self, dataset: &DatasetRef) -> bool {
        is_named_for(&self.path, dataset)
    }
}

/// The files of the folder whose names say that they define `dataset`.
pub fn files_defining(folder: &Path, dataset: &DatasetRef) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = manifest_files(folder)?;
    files.retain(|path| is_named_for(path, dataset));
    Ok(files)
}

fn is_named_for(path: &Path, dataset: &DatasetRef) -> bool {
    stem_of(path).is_ok_and(|stem| {
        stem.name == dataset.name && (dataset.version.is_none() || stem.version == dataset.version)
    })
}

/// Brings in every manifest of the folder. A bad file keeps nobody from using the others: it is
/// given back with the reason.
pub async fn import(folder: &Path, metadata: &dyn MetadataStore) -> anyhow::Result<Vec<Rejected>> {
    let mut rejected = vec![];
    for path in manifest_files(folder)? {
        if let Err(error) = import_file(&path, metadata).await {
            rejected.push(Rejected { path, error });
        }
    }
    Ok(rejected)
}

async fn import_file(path: &Path, metadata: &dyn MetadataStore) -> anyhow::Result<()> {
    let stem = stem_of(path)?;
    let manifests = read_file(path)?;
    for manifest in &manifests {
        let is_named = stem.name == manifest.name && stem.version.is_none_or(|v| v == manifest.version);
        if manifests.len() == 1 && !is_named {
            bail!(
                "the file {} defines `{}`; name it {}.json",
                path.display(),
                manifest.reference(),
                manifest.name
            );
        }
        register(manifest, metadata).await?;
    }
    Ok(())
}

fn stem_of(path: &Path) -> anyhow::Result<DatasetRef> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    stem.parse().with_context(|| format!("the file name of {} is not a dataset's", path.display()))
}

fn manifest_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
    };
    let mut files = vec![];
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        if path.is_file() && path.extension().is_some_and(|e| e == "json" || e == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

//! Dataset definitions: manifest files, and bringing them into the metadata database.

use anyhow::{Context, bail};
use nozzle_core::{DatasetKind, DatasetRef, manifest::RawManifest, range::MAX_BLOCK};
use nozzle_metadata::{Dataset, MetadataStore, NewDataset};
use serde_json::Value;

use crate::folder::{Folder, TextFile, Wanted};

/// The files of a folder that are manifests.
const MANIFESTS: Wanted = Wanted { endings: &["json", "toml"], nested: false };

/// The manifests of a file: one, or a list of them; JSON, or TOML by its ending.
pub fn read(file: &TextFile) -> anyhow::Result<Vec<RawManifest>> {
    let context = || format!("the manifest {} is not valid", file.shown);
    let value: Value = if file.is_toml {
        let table = parse_toml(&file.text).with_context(context)?;
        serde_json::to_value(table).with_context(context)?
    } else {
        serde_json::from_str(&file.text).with_context(context)?
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

/// A manifest of a kind that can be extracted.
pub fn manifest(value: Value) -> anyhow::Result<RawManifest> {
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
    pub file: TextFile,
    /// Why.
    pub error: anyhow::Error,
}

impl Rejected {
    /// Whether the file's name says that it defines `dataset`.
    pub fn defines(&self, dataset: &DatasetRef) -> bool {
        is_named_for(&self.file, dataset)
    }
}

/// The files of the folder whose names say that they define `dataset`, by path or URL.
pub async fn files_defining(folder: &Folder, dataset: &DatasetRef) -> anyhow::Result<Vec<String>> {
    let files = folder.files(MANIFESTS).await?;
    let defining = files.into_iter().filter(|file| is_named_for(file, dataset));
    Ok(defining.map(|file| file.shown).collect())
}

fn is_named_for(file: &TextFile, dataset: &DatasetRef) -> bool {
    stem_of(file).is_ok_and(|stem| {
        stem.name == dataset.name && (dataset.version.is_none() || stem.version == dataset.version)
    })
}

/// Brings in every manifest of the folder. A bad file keeps nobody from using the others: it is
/// given back with the reason.
pub async fn import(folder: &Folder, metadata: &dyn MetadataStore) -> anyhow::Result<Vec<Rejected>> {
    let mut rejected = vec![];
    for file in folder.files(MANIFESTS).await? {
        if let Err(error) = import_file(&file, metadata).await {
            rejected.push(Rejected { file, error });
        }
    }
    Ok(rejected)
}

/// The manifests of the folder that are valid.
pub async fn defined(folder: &Folder) -> anyhow::Result<Vec<RawManifest>> {
    let files = folder.files(MANIFESTS).await?;
    Ok(files.iter().filter_map(|file| read(file).ok()).flatten().collect())
}

/// As [`import`], and warns of each file that is left out.
pub async fn import_and_warn(folder: &Folder, metadata: &dyn MetadataStore) -> anyhow::Result<()> {
    for rejected in import(folder, metadata).await? {
        tracing::warn!("{} is left out: {:#}", rejected.file.shown, rejected.error);
    }
    Ok(())
}

async fn import_file(file: &TextFile, metadata: &dyn MetadataStore) -> anyhow::Result<()> {
    let stem = stem_of(file)?;
    let manifests = read(file)?;
    for manifest in &manifests {
        let is_named = stem.name == manifest.name && stem.version.is_none_or(|v| v == manifest.version);
        if manifests.len() == 1 && !is_named {
            bail!(
                "the file {} defines `{}`; name it {}.json",
                file.shown,
                manifest.reference(),
                manifest.name
            );
        }
        register(manifest, metadata).await?;
    }
    Ok(())
}

fn stem_of(file: &TextFile) -> anyhow::Result<DatasetRef> {
    file.stem.parse().with_context(|| format!("the file name of {} is not a dataset's", file.shown))
}

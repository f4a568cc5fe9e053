//! `nozzle generate-manifest`: the manifest of a raw dataset, ready to be edited. Needs neither a
//! configuration nor a database.

use std::{collections::BTreeMap, path::Path, process::ExitCode};

use anyhow::{Context, bail};
use nozzle_core::{
    BlockNum, DatasetKind, DatasetName, DatasetVersion, Network,
    manifest::{Columns, RawManifest},
    schema::BLOCK_NUM,
};

use crate::{cli::GenerateManifestArgs, folder::Folder, kinds, new_file::Readers, report};

/// Writes a manifest.
pub fn run(args: GenerateManifestArgs) -> anyhow::Result<ExitCode> {
    let is_substreams = args.kind == DatasetKind::Substreams;
    if !is_substreams && (args.manifest.is_some() || args.module.is_some()) {
        bail!("--manifest and --module are for --kind substreams");
    }
    if is_substreams && (args.manifest.is_none() || args.module.is_none()) {
        bail!(
            "--kind substreams needs --manifest, the path or URL of a package, and --module, one of its modules"
        );
    }
    let mut manifest = empty(args.kind, args.name, args.network);
    manifest.manifest = args.manifest.map(absolute);
    manifest.module = args.module;
    manifest.start_block = match args.start_block {
        Some(block) => block,
        None if is_substreams => kinds::first_block(&manifest)?,
        None => 0,
    };
    let manifest = with_schema(manifest)?;
    match args.out {
        None => report::answer(&to_text(&manifest)?)?,
        Some(out) => {
            let path = if out.is_dir() { out.join(format!("{}.json", args.kind)) } else { out };
            let is_toml = path.extension().is_some_and(|ending| ending == "toml");
            let text = if is_toml {
                toml::to_string_pretty(&manifest).context("writing the manifest as TOML")?
            } else {
                to_text(&manifest)?
            };
            write(&path, &text)?;
            eprintln!("wrote {}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A manifest that stores every table and column that a kind has, each named so that what is not wanted can
/// be deleted.
pub fn of_kind(
    kind: DatasetKind,
    name: DatasetName,
    network: Network,
    start_block: BlockNum,
) -> anyhow::Result<RawManifest> {
    with_schema(RawManifest { start_block, ..empty(kind, name, network) })
}

fn empty(kind: DatasetKind, name: DatasetName, network: Network) -> RawManifest {
    RawManifest {
        name,
        version: DatasetVersion::default(),
        kind,
        network,
        start_block: 0,
        finalized_blocks_only: false,
        verify: None,
        manifest: None,
        module: None,
        params: BTreeMap::new(),
        schema: None,
        resolved: None,
    }
}

/// The manifest is read in other folders and by other processes than this one.
fn absolute(place: String) -> String {
    if place.contains("://") {
        return place;
    }
    let path = std::path::absolute(&place).ok();
    path.and_then(|path| path.to_str().map(str::to_owned)).unwrap_or(place)
}

fn with_schema(mut manifest: RawManifest) -> anyhow::Result<RawManifest> {
    let named = kinds::stored_tables(&manifest)?.into_iter().map(|table| {
        let names = table.schema.fields().iter().map(|field| field.name().clone());
        (table.name, Columns::Named(names.filter(|name| name != BLOCK_NUM).collect()))
    });
    manifest.schema = Some(named.collect());
    Ok(manifest)
}

/// The manifest as a file has it.
pub fn to_text(manifest: &RawManifest) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(manifest).context("writing the manifest as JSON")? + "\n")
}

/// Writes a manifest into the folder of definitions, and gives its place.
pub async fn write_into(folder: &Folder, manifest: &RawManifest) -> anyhow::Result<String> {
    folder.write_new(&format!("{}.json", manifest.name), &to_text(manifest)?, Readers::All).await
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

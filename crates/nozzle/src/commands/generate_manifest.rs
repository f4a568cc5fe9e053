//! `nozzle generate-manifest`: the manifest of a raw dataset, ready to be edited. Needs neither a
//! configuration nor a database.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, bail};
use nozzle_core::{
    BlockNum, DatasetKind, DatasetName, DatasetVersion, Network,
    manifest::{Columns, RawManifest},
    schema::BLOCK_NUM,
};

use crate::{cli::GenerateManifestArgs, folder::Folder, kinds, new_file::Readers, report};

/// Writes a manifest.
pub fn run(args: GenerateManifestArgs) -> anyhow::Result<ExitCode> {
    if args.kind != DatasetKind::Substreams && (args.manifest.is_some() || args.module.is_some()) {
        bail!("--manifest and --module are for --kind substreams");
    }
    let manifest = of_kind(args.kind, args.name, args.network, args.start_block)?;
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
    let mut manifest = RawManifest {
        name,
        version: DatasetVersion::default(),
        kind,
        network,
        start_block,
        finalized_blocks_only: false,
        verify: None,
        schema: None,
    };
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

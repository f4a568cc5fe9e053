//! `nozzle generate-manifest`: the manifest of a raw dataset, ready to be edited. Needs neither a
//! configuration nor a database.

use std::{collections::BTreeMap, path::Path, process::ExitCode};

use anyhow::{Context, bail};
use nozzle_core::{
    BlockNum, DatasetKind, DatasetName, DatasetVersion, Network, TableDef,
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
    let tables = kinds::stored_tables(&manifest)?;
    if is_substreams {
        // Those of other kinds are the same for everybody.
        eprint!("{}", types(&tables));
    }
    let manifest = naming(manifest, &tables);
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
    let manifest = RawManifest { start_block, ..empty(kind, name, network) };
    let tables = kinds::stored_tables(&manifest)?;
    Ok(naming(manifest, &tables))
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

/// The manifest with these tables and all their columns by name.
fn naming(manifest: RawManifest, tables: &[TableDef]) -> RawManifest {
    let named = tables.iter().map(|table| {
        let names = table.schema.fields().iter().map(|field| field.name().clone());
        (table.name.clone(), Columns::Named(names.filter(|name| name != BLOCK_NUM).collect()))
    });
    RawManifest { schema: Some(named.collect()), ..manifest }
}

/// The tables with the types of their columns, a line each.
fn types(tables: &[TableDef]) -> String {
    let mut text = String::new();
    for table in tables {
        let fields = table.schema.fields();
        let width = fields.iter().map(|field| field.name().len()).max().unwrap_or(0);
        text += &format!("{}\n", table.name);
        for field in fields {
            let null = if field.is_nullable() { ", may be null" } else { "" };
            text += &format!("  {:width$}  {}{null}\n", field.name(), field.data_type());
        }
    }
    text
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

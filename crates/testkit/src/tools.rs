//! Finding the programs that tests start.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::bail;

/// The repository's root: this crate is two folders below it.
fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folders whose `node_modules` may hold a program: `NOZZLE_TEST_TOOLS`, `target/tools` and
/// the repository's root.
fn npm_prefixes() -> Vec<PathBuf> {
    let named = env::var_os("NOZZLE_TEST_TOOLS").map(PathBuf::from);
    named.into_iter().chain([workspace_root().join("target/tools"), workspace_root()]).collect()
}

/// Finds `name` on the `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// The anvil program: `NOZZLE_ANVIL`, else `anvil` on the `PATH`, else the npm package in one of
/// the places where tests keep their tools.
pub(crate) fn anvil() -> anyhow::Result<PathBuf> {
    if let Some(named) = env::var_os("NOZZLE_ANVIL") {
        return Ok(named.into());
    }
    let package = format!("@foundry-rs/anvil-{}-{}", npm_system(), npm_architecture());
    let in_package = Path::new("node_modules").join(&package).join("bin/anvil");
    let installed = npm_prefixes().into_iter().map(|prefix| prefix.join(&in_package));
    match on_path("anvil").or_else(|| installed.into_iter().find(|program| program.is_file())) {
        Some(program) => Ok(program),
        None => bail!("anvil is missing: npm install --prefix target/tools {package}@1.7.1"),
    }
}

/// A program of the Python that tests use: beside `NOZZLE_TEST_PYTHON`, else in the environment among
/// the tests' tools, else on the `PATH`.
pub(crate) fn in_python(name: &str) -> anyhow::Result<PathBuf> {
    let named = env::var_os("NOZZLE_TEST_PYTHON").map(PathBuf::from);
    let beside = named.and_then(|python| Some(python.parent()?.join(name)));
    let installed = npm_prefixes().into_iter().map(|prefix| prefix.join("venv/bin").join(name));
    let found = beside.into_iter().chain(installed).find(|program| program.is_file());
    match found.or_else(|| on_path(name)) {
        Some(program) => Ok(program),
        None => bail!("{name} is missing: run scripts/test --setup"),
    }
}

/// The folder that Azurite's npm package is installed in.
pub(crate) fn azurite() -> anyhow::Result<PathBuf> {
    let installed = npm_prefixes().into_iter().map(|prefix| prefix.join("azurite"));
    let is_there = |folder: &PathBuf| folder.join("node_modules/azurite").is_dir();
    match installed.into_iter().find(is_there) {
        Some(folder) => Ok(folder),
        None => bail!("azurite is missing: run scripts/test --setup"),
    }
}

fn npm_system() -> &'static str {
    match env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

fn npm_architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

//! Packages of Substreams, from a path or URL. What a process has read it keeps: a dataset's tables stay as they
//! are while it is extracted, whatever becomes of the file.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use nozzle_sources::substreams::{MAX_PACKAGE_BYTES, Package};
use object_store::ObjectStoreExt;

use crate::stores::{self, Place};

/// How long a package may take to come.
const TIMEOUT: Duration = Duration::from_secs(60);

static KNOWN: Mutex<Option<HashMap<String, Arc<Package>>>> = Mutex::new(None);

/// The package at a path, which is taken from the working directory, or at a URL: `https://`, `http://`, or of
/// any store.
pub fn load(place: &str) -> anyhow::Result<Arc<Package>> {
    let known = |packages: &Option<HashMap<String, Arc<Package>>>| packages.as_ref()?.get(place).cloned();
    if let Some(package) = known(&KNOWN.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(package);
    }
    let shown = stores::shown(place);
    let bytes = read(place).with_context(|| format!("reading the package {shown}"))?;
    let package = Package::parse(&bytes).with_context(|| format!("reading the package {shown}"))?;
    let mut packages = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    // Whoever was first has set what the others see too.
    Ok(packages.get_or_insert_default().entry(place.to_owned()).or_insert_with(|| Arc::new(package)).clone())
}

fn read(place: &str) -> anyhow::Result<Vec<u8>> {
    if place.starts_with("https://") || place.starts_with("http://") {
        return elsewhere(download(place));
    }
    match Place::parse(place, Path::new(""))? {
        Place::Local(path) => {
            let size = std::fs::metadata(&path)?.len();
            check_size(size)?;
            Ok(std::fs::read(&path)?)
        }
        Place::Remote(url) => elsewhere(object(url)),
    }
}

/// Waits on a thread of its own, which can be done from anywhere: manifests are checked within tasks and without.
fn elsewhere(read: impl Future<Output = anyhow::Result<Vec<u8>>> + Send) -> anyhow::Result<Vec<u8>> {
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let read = tokio::time::timeout(TIMEOUT, read).await;
                read.with_context(|| format!("it has not come within {} seconds", TIMEOUT.as_secs()))?
            })
        });
        reading.join().map_err(|_| anyhow::anyhow!("reading was broken off"))?
    })
}

async fn download(url: &str) -> anyhow::Result<Vec<u8>> {
    // A URL may hold a key: errors do without it.
    let plain = reqwest::Error::without_url;
    let answer = reqwest::get(url).await.map_err(plain)?;
    let mut answer = answer.error_for_status().map_err(plain)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(plain)? {
        bytes.extend_from_slice(&chunk);
        check_size(bytes.len() as u64)?;
    }
    Ok(bytes)
}

async fn object(url: String) -> anyhow::Result<Vec<u8>> {
    let (store, path) = stores::stores(None, TIMEOUT).resolve(&url)?;
    check_size(store.head(&path).await?.size)?;
    Ok(store.get(&path).await?.bytes().await?.to_vec())
}

fn check_size(bytes: u64) -> anyhow::Result<()> {
    if bytes > MAX_PACKAGE_BYTES as u64 {
        bail!("it has more than {} MB, which no package has", MAX_PACKAGE_BYTES >> 20);
    }
    Ok(())
}

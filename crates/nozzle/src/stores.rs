//! Opening object stores by URL. Today the local disk; the others have their arms to come.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use nozzle_query::Stores;
use object_store::{ObjectStore, local::LocalFileSystem};
use url::Url;

/// The stores of the process.
pub fn stores() -> Arc<Stores> {
    Arc::new(Stores::new(Box::new(open)))
}

fn open(url: &Url) -> Result<Arc<dyn ObjectStore>, String> {
    match url.scheme() {
        "file" => Ok(Arc::new(LocalFileSystem::new().with_automatic_cleanup(false))),
        scheme => Err(not_yet(scheme)),
    }
}

fn not_yet(scheme: &str) -> String {
    format!("`{scheme}://` is not a place that data can be kept in yet; use a path on this machine")
}

/// The URL of a folder, ending in `/`, that exists and can be written to. `place` is a path or a
/// URL.
pub fn writable_folder(place: &str, base: &Path) -> anyhow::Result<String> {
    let path = match Url::parse(place) {
        Ok(url) if url.scheme() == "file" => {
            url.to_file_path().map_err(|()| anyhow::anyhow!("`{place}` is not the URL of a local path"))?
        }
        Ok(url) if place.contains("://") => bail!(not_yet(url.scheme())),
        _ => base.join(place),
    };
    let cannot = || {
        format!(
            "the data folder {} cannot be written; choose another with --location or data_dir",
            path.display()
        )
    };
    std::fs::create_dir_all(&path).with_context(cannot)?;
    tempfile_in(&path).with_context(cannot)?;
    let path = path.canonicalize().with_context(cannot)?;
    let url = Url::from_directory_path(&path);
    Ok(url.map_err(|()| anyhow::anyhow!("{} is not an absolute path", path.display()))?.to_string())
}

/// Writes and removes a small file: rights on paper and a full disk are found out only by trying.
fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".nozzle-{}", uuid::Uuid::new_v4().simple()));
    let written = std::fs::write(&probe, b"nozzle").and_then(|()| std::fs::remove_file(&probe));
    if written.is_err() {
        // What is left of a write that failed half-way must not stay.
        std::fs::remove_file(&probe).ok();
    }
    written
}

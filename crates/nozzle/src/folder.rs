//! Folders of definitions: on this machine, or in an object store that several machines share.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use futures::TryStreamExt;
use nozzle_query::stores::persistently;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, path::Path as ObjectPath};

use crate::{
    new_file::{self, Readers},
    stores::{Place, Stores},
};

/// A folder of small text files.
pub struct Folder {
    place: Where,
    /// For messages.
    shown: String,
}

enum Where {
    Local(PathBuf),
    Store { store: Arc<dyn ObjectStore>, path: ObjectPath },
}

/// A file of such a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// Its path or URL, for messages.
    pub shown: String,
    /// Its name without the ending.
    pub stem: String,
    /// Whether it ends in `.toml`.
    pub is_toml: bool,
    /// What is in it.
    pub text: String,
}

impl TextFile {
    /// Reads one file of this machine.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let (stem, is_toml) = stem_and_kind(&path.file_name().unwrap_or_default().to_string_lossy());
        Ok(Self { shown: path.display().to_string(), stem, is_toml, text })
    }
}

fn stem_and_kind(name: &str) -> (String, bool) {
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    (stem.to_owned(), ending == "toml")
}

/// Which files of a folder are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The endings of their names, without the dot.
    pub endings: &'static [&'static str],
    /// Whether those of the folders in it are wanted too.
    pub nested: bool,
}

impl Wanted {
    fn has(self, name: &str) -> bool {
        name.rsplit_once('.').is_some_and(|(_, ending)| self.endings.contains(&ending))
    }
}

impl Folder {
    /// The folder at a place of the configuration.
    pub fn at(place: &str, base: &Path, stores: &Stores) -> anyhow::Result<Self> {
        Ok(match Place::parse(place, base)? {
            Place::Local(path) => Self { shown: path.display().to_string(), place: Where::Local(path) },
            Place::Remote(url) => {
                let (store, path) = stores.resolve(&url)?;
                Self { place: Where::Store { store, path }, shown: url.trim_end_matches('/').to_owned() }
            }
        })
    }

    /// The folder's path or URL.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The wanted files, by path. A folder that does not exist has none.
    pub async fn files(&self, wanted: Wanted) -> anyhow::Result<Vec<TextFile>> {
        match &self.place {
            Where::Local(folder) => {
                local_files(folder, wanted)?.iter().map(|path| TextFile::read(path)).collect()
            }
            Where::Store { store, path } => self
                .stored_files(store.as_ref(), path, wanted)
                .await
                .with_context(|| format!("reading {}", self.shown)),
        }
    }

    async fn stored_files(
        &self,
        store: &dyn ObjectStore,
        folder: &ObjectPath,
        wanted: Wanted,
    ) -> anyhow::Result<Vec<TextFile>> {
        let listed: Vec<_> = persistently(|_| store.list(Some(folder)).try_collect()).await?;
        let mut files = vec![];
        for meta in listed {
            let parts: Vec<_> = meta.location.prefix_match(folder).into_iter().flatten().collect();
            let Some(name) = parts.last().filter(|name| wanted.has(name.as_ref())) else { continue };
            if parts.len() > 1 && !wanted.nested {
                continue;
            }
            let path = &meta.location;
            let bytes = persistently(|_| async move { store.get(path).await?.bytes().await }).await?;
            let within: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
            let shown = format!("{}/{}", self.shown, within.join("/"));
            let (stem, is_toml) = stem_and_kind(name.as_ref());
            let text = String::from_utf8(bytes.to_vec()).with_context(|| format!("{shown} is not text"))?;
            files.push(TextFile { shown, stem, is_toml, text });
        }
        files.sort_by(|a, b| a.shown.cmp(&b.shown));
        Ok(files)
    }

    /// Writes a file that is not there yet, and gives its path or URL.
    pub async fn write_new(&self, name: &str, text: &str, readers: Readers) -> anyhow::Result<String> {
        let shown = format!("{}/{name}", self.shown);
        match &self.place {
            Where::Local(folder) => new_file::write(&folder.join(name), text, readers)?,
            Where::Store { store, path } => {
                let path = path.clone().join(name);
                put_new(store.as_ref(), &path, text).await.with_context(|| format!("writing {shown}"))?;
            }
        }
        Ok(shown)
    }
}

/// Puts an object that is not there yet, or only with the same text: the answer was lost, or another process
/// has written the same.
async fn put_new(store: &dyn ObjectStore, path: &ObjectPath, text: &str) -> anyhow::Result<()> {
    let put = persistently(|_| async move {
        let put = store.put_opts(path, text.to_owned().into(), PutMode::Create.into()).await;
        match put {
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. })
                if store.get(path).await?.bytes().await? == text =>
            {
                Ok(())
            }
            put => put.map(drop),
        }
    });
    match put.await {
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => bail!("it exists already"),
        put => Ok(put?),
    }
}

fn local_files(folder: &Path, wanted: Wanted) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = vec![];
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
        };
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            // How Kubernetes mounts what may change: the files behind it are linked beside it.
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("..")) {
                continue;
            }
            if path.is_dir() {
                folders.extend(Some(path).filter(|_| wanted.nested));
            } else if wanted.has(&path.to_string_lossy()) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

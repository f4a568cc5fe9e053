//! Packages of Substreams, from a path or URL, and whether one is still that which a dataset was registered with.
//!
//! A registered dataset knows its tables by itself. Its package is read to extract, and only then.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use nozzle_core::{TableDef, manifest::ResolvedPackage};
use nozzle_sources::substreams::{self, MAX_PACKAGE_BYTES, Package};
use object_store::ObjectStoreExt;

use crate::stores::{self, Place};

/// How long a package may take to come.
const TIMEOUT: Duration = Duration::from_secs(60);
/// For how long a store that fails is asked again: whoever waits is to be told why.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many differences are told of.
const SHOWN: usize = 4;

/// What was read and is what datasets are pinned to, by its SHA-256.
static KNOWN: Mutex<Option<HashMap<String, Arc<Package>>>> = Mutex::new(None);

/// A package that is not the one that a dataset was registered with.
#[derive(Debug)]
pub struct PackageChanged(String);

impl std::fmt::Display for PackageChanged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PackageChanged {}

/// That the package of the dataset of that name cannot be used here, where any other would do as well.
#[derive(Debug)]
pub struct Unread(pub String);

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the package of the dataset `{}` cannot be used here", self.0)
    }
}

impl std::error::Error for Unread {}

/// The package at a path, which is taken from the working directory, or at a URL: `https://`, `http://`, or of
/// any store.
pub fn load(place: &str) -> anyhow::Result<Package> {
    let context = || format!("reading the package {}", stores::shown(place));
    let bytes = read(place).with_context(context)?;
    Package::parse(&bytes).with_context(context)
}

/// The package that a dataset was registered with, as long as it is the one that is there. What a process has read
/// it keeps. Fails with [`PackageChanged`] where it is another.
pub fn load_pinned(place: &str, module: &str, pinned: &ResolvedPackage) -> anyhow::Result<Arc<Package>> {
    let known =
        |packages: &Option<HashMap<String, Arc<Package>>>| packages.as_ref()?.get(&pinned.sha256).cloned();
    if let Some(package) = known(&KNOWN.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(package);
    }
    let package = load(place)?;
    if package.sha256() != pinned.sha256 {
        return Err(PackageChanged(changed(place, module, pinned, &package)).into());
    }
    let mut packages = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = packages.get_or_insert_default().entry(pinned.sha256.clone());
    Ok(known.or_insert_with(|| Arc::new(package)).clone())
}

/// Refuses a package that would be read from this machine, for somebody who is elsewhere.
pub fn check_from_afar(place: &str) -> anyhow::Result<()> {
    let is_url = place.split_once("://").is_some_and(|(scheme, _)| !scheme.eq_ignore_ascii_case("file"));
    ensure!(
        is_url,
        "its package `{place}` is a path of one machine, which the Admin API does not read: put the package where all \
         machines find it, at a URL of https://, s3://, gs:// or az://, or register the manifest from its file with \
         `nozzle dump`"
    );
    Ok(())
}

/// What is to be said of another package in the place of the one that is pinned.
fn changed(place: &str, module: &str, pinned: &ResolvedPackage, found: &Package) -> String {
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    let named = |name: &str, hash: &str| match name {
        "" => format!("the one with the SHA-256 {}…", short(hash)),
        name => format!("`{name}` (SHA-256 {}…)", short(hash)),
    };
    let tables = pinned.table_defs().ok().zip(substreams::tables(found, module).ok());
    let differences = match tables {
        Some((was, is)) => differences(&was, &is),
        None => vec![format!("it has no tables for the module `{module}` any more")],
    };
    let what = match differences.as_slice() {
        [] => "its tables are the same, but what is in them may not be".to_owned(),
        few if few.len() <= SHOWN => few.join("; "),
        many => format!("{}; and {} more differences", many[..SHOWN].join("; "), many.len() - SHOWN),
    };
    format!(
        "the package {} is not the one that the dataset was registered with: it was {}, and is {}: {what}. Put the former \
         package back, or register the manifest with a new `version`",
        stores::shown(place),
        named(&pinned.package, &pinned.sha256),
        named(found.name(), found.sha256()),
    )
}

/// What tables have lost, got, or have otherwise.
fn differences(was: &[TableDef], is: &[TableDef]) -> Vec<String> {
    let mut differences = vec![];
    for table in was {
        let name = &table.name;
        let Some(now) = is.iter().find(|now| now.name == *name) else {
            differences.push(format!("it has no table `{name}` any more"));
            continue;
        };
        for field in table.schema.fields() {
            let column = field.name();
            match now.schema.field_with_name(column) {
                Err(_) => differences.push(format!("the table `{name}` has no column `{column}` any more")),
                Ok(now) if now.data_type() != field.data_type() => differences.push(format!(
                    "the column `{column}` of `{name}` is {}, and was {}",
                    now.data_type(),
                    field.data_type()
                )),
                Ok(now) if now.is_nullable() != field.is_nullable() => {
                    let may = if now.is_nullable() { "may be null" } else { "is never null" };
                    differences
                        .push(format!("the column `{column}` of `{name}` {may}, as it was not before"));
                }
                Ok(_) => {}
            }
        }
        let is_new = |column: &&str| table.schema.field_with_name(column).is_err();
        let new = now.schema.fields().iter().map(|field| field.name().as_str()).filter(is_new);
        differences.extend(new.map(|column| format!("the table `{name}` has a new column `{column}`")));
    }
    let new = is.iter().filter(|table| !was.iter().any(|was| was.name == table.name));
    differences.extend(new.map(|table| format!("it has a new table `{}`", table.name)));
    differences
}

fn read(place: &str) -> anyhow::Result<Vec<u8>> {
    let scheme = place.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("https" | "http") => return elsewhere(download(place)),
        None | Some("file") => {}
        Some(scheme) if stores::SCHEMES.contains(&scheme) => {}
        Some(scheme) => bail!(
            "packages are not read from `{scheme}://`; use a path on this machine, or a URL that begins with https://, \
             http://, s3://, gs:// or az://"
        ),
    }
    match Place::parse(place, Path::new(""))? {
        Place::Local(path) => {
            let found = std::fs::metadata(&path)?;
            ensure!(found.is_file(), "it is not a file");
            check_size(found.len())?;
            Ok(std::fs::read(&path)?)
        }
        Place::Remote(url) => elsewhere(object(url)),
    }
}

/// Waits on a thread of its own, as those who check manifests are not asynchronous. Whoever calls it within a task
/// does so by `spawn_blocking`: it may take as long as [`TIMEOUT`].
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
    check_size(answer.content_length().unwrap_or(0))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(plain)? {
        check_size((bytes.len() + chunk.len()) as u64)?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn object(url: String) -> anyhow::Result<Vec<u8>> {
    let (store, path) = stores::stores(None, PATIENCE).resolve(&url)?;
    check_size(store.head(&path).await?.size)?;
    Ok(store.get(&path).await?.bytes().await?.to_vec())
}

fn check_size(bytes: u64) -> anyhow::Result<()> {
    if bytes > MAX_PACKAGE_BYTES as u64 {
        bail!("it has more than {} MB, which no package has", MAX_PACKAGE_BYTES >> 20);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn what_has_changed_is_told() {
        let table = |name: &str, columns: &[(&str, DataType, bool)]| {
            let column = |(name, kind, null): &(&str, DataType, bool)| Field::new(*name, kind.clone(), *null);
            TableDef::new(name.parse().expect("a name"), columns.iter().map(column).collect())
        };
        let (text, number) = (DataType::Utf8, DataType::UInt64);
        let was = [
            table(
                "a",
                &[("x", text.clone(), false), ("y", text.clone(), false), ("z", number.clone(), false)],
            ),
            table("b", &[]),
        ];
        let is = [
            table("a", &[("x", number, false), ("y", text.clone(), true), ("new", text, false)]),
            table("c", &[]),
        ];
        assert!(differences(&was, &was).is_empty());
        assert_eq!(
            differences(&was, &is),
            [
                "the column `x` of `a` is UInt64, and was Utf8",
                "the column `y` of `a` may be null, as it was not before",
                "the table `a` has no column `z` any more",
                "the table `a` has a new column `new`",
                "it has no table `b` any more",
                "it has a new table `c`",
            ]
        );
    }

    #[test]
    fn only_urls_are_read_for_those_who_are_elsewhere() {
        for place in
            ["https://x.org/a.spkg", "http://x.org/a.spkg", "s3://bucket/a.spkg", "gs://b/a", "az://b/a"]
        {
            assert!(check_from_afar(place).is_ok(), "{place}");
        }
        for place in ["a.spkg", "/etc/passwd", "../a.spkg", "file:///etc/passwd", "FILE:///etc/passwd"] {
            assert!(check_from_afar(place).is_err(), "{place}");
        }
    }

    #[test]
    fn what_is_not_a_package_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
        std::fs::write(path("text"), "not a package").expect("a file");
        std::fs::write(path("empty"), "").expect("a file");
        let large = std::fs::File::create(path("large")).expect("a file");
        large.set_len(MAX_PACKAGE_BYTES as u64 + 1).expect("its length");
        for (name, says) in [
            ("text", "not a Substreams package"),
            ("empty", "it is empty"),
            ("large", "more than 256 MB"),
            ("nothing", "No such file"),
            (".", "it is not a file"),
        ] {
            let error = format!("{:#}", load(&path(name)).expect_err(name));
            assert!(error.contains(says) && error.contains("reading the package"), "{name}: {error}");
        }
        let error = format!("{:#}", load("ftp://x.org/a.spkg").expect_err("no such scheme"));
        let works = ["https://", "http://", "s3://", "gs://", "az://", "a path"];
        assert!(error.contains("`ftp://`") && works.iter().all(|works| error.contains(works)), "{error}");
    }
}

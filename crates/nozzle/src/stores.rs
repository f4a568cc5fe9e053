//! Opening object stores by URL: the local disk, Amazon S3 and what speaks its protocol, Google Cloud
//! Storage, Azure Blob Storage. How each is reached is read from the variables that its own tools read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
pub use nozzle_query::Stores;
use nozzle_query::{OpenedStore, ReadCache, stores::persistently};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig, aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder, gcp::GoogleCloudStorageBuilder, local::LocalFileSystem,
};
use url::Url;

/// How long one request may take; a part of 8 MiB must get through.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long a request of long work is tried again where it fails.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The schemes of stores other than the local disk.
pub const SCHEMES: [&str; 3] = ["s3", "gs", "az"];

/// The stores of the process. What is read of those that are not local goes through `cache`, if there is
/// one; a request that fails is tried again for `patience`.
pub fn stores(cache: Option<Arc<ReadCache>>, patience: Duration) -> Arc<Stores> {
    Arc::new(Stores::new(Box::new(move |url| {
        let store = open(url, patience)?;
        Ok(match &cache {
            Some(cache) if url.scheme() != "file" => cache.over(store, url),
            _ => store,
        })
    })))
}

fn open(url: &Url, patience: Duration) -> Result<OpenedStore, String> {
    // Time alone is the bound: ten retries, the default, are used up within seconds.
    let retry = RetryConfig { max_retries: usize::MAX, retry_timeout: patience, ..RetryConfig::default() };
    let failed = |error: object_store::Error| error.to_string();
    match url.scheme() {
        "file" => {
            let objects = Arc::new(LocalFileSystem::new().with_automatic_cleanup(false));
            Ok(OpenedStore { objects, parts: None })
        }
        "s3" => {
            let plain = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
            let builder = AmazonS3Builder::from_env()
                .with_url(url.as_str())
                .with_client_options(client(is_plain_http(&plain)))
                .with_retry(retry);
            Ok(opened(builder.build().map_err(failed)?))
        }
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env()
                .with_url(url.as_str())
                .with_client_options(client(is_plain_http(&["GOOGLE_BASE_URL"])))
                .with_retry(retry);
            Ok(opened(builder.build().map_err(failed)?))
        }
        "az" => {
            let plain = ["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"];
            let is_emulator = std::env::var("AZURE_STORAGE_USE_EMULATOR").is_ok_and(|value| value == "true");
            let builder = MicrosoftAzureBuilder::from_env()
                .with_url(url.as_str())
                .with_client_options(client(is_emulator || is_plain_http(&plain)))
                .with_retry(retry);
            Ok(opened(builder.build().map_err(failed)?))
        }
        scheme => Err(unknown_scheme(scheme)),
    }
}

fn opened<S: ObjectStore + object_store::multipart::MultipartStore>(store: S) -> OpenedStore {
    let store = Arc::new(store);
    OpenedStore { objects: Arc::clone(&store) as _, parts: Some(store) }
}

fn client(allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(allow_http)
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
}

/// Whether the endpoint that the variables name is one without TLS: whoever names it means it.
fn is_plain_http(variables: &[&str]) -> bool {
    let named = variables.iter().find_map(|name| std::env::var(name).ok());
    named.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

fn unknown_scheme(scheme: &str) -> String {
    format!(
        "`{scheme}://` is not a place that data can be kept in; use a path on this machine, or a URL that begins with s3://, gs:// or az://"
    )
}

/// A place of the configuration or the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Local(PathBuf),
    /// In an object store: a URL that ends in `/`.
    Remote(String),
}

/// A place for a message: without what may be a key in it.
pub fn shown(place: &str) -> String {
    let Some((scheme, rest)) = place.split_once("://") else { return place.to_owned() };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{rest}")
}

impl Place {
    /// A path, relative ones from `base`, or a URL.
    pub fn parse(place: &str, base: &Path) -> anyhow::Result<Self> {
        if !place.contains("://") {
            return Ok(Self::Local(base.join(place)));
        }
        let shown = shown(place);
        let mut url = Url::parse(place).with_context(|| format!("`{shown}` is not a URL"))?;
        if url.scheme() == "file" {
            let path = url.to_file_path();
            let path = path.map_err(|()| anyhow::anyhow!("`{shown}` is not the URL of a local path"))?;
            return Ok(Self::Local(path));
        }
        if !SCHEMES.contains(&url.scheme()) {
            bail!(unknown_scheme(url.scheme()));
        }
        if url.host_str().is_none_or(str::is_empty) {
            bail!("`{shown}` names no bucket; write it as {}://BUCKET/FOLDER", url.scheme());
        }
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
            bail!(
                "`{}://…` takes a bucket and a folder; credentials come from the environment",
                url.scheme()
            );
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(Self::Remote(url.into()))
    }
}

/// The URL of a data folder, ending in `/`, that exists and can be written to.
pub async fn writable_folder(place: &str, base: &Path, stores: &Stores) -> anyhow::Result<String> {
    let path = match Place::parse(place, base)? {
        Place::Local(path) => path,
        Place::Remote(url) => return writable_url(url, stores).await,
    };
    let cannot = || {
        format!(
            "the data folder {} cannot be written; choose another with --location or data_dir",
            path.display()
        )
    };
    std::fs::create_dir_all(&path).with_context(cannot)?;
    tempfile_in(&path).with_context(cannot)?;
    readable_folder(path.to_str().with_context(cannot)?, base)
}

/// The URL of a data folder, ending in `/`.
pub fn readable_folder(place: &str, base: &Path) -> anyhow::Result<String> {
    let path = match Place::parse(place, base)? {
        Place::Local(path) => path,
        Place::Remote(url) => return Ok(url),
    };
    let path = path.canonicalize().with_context(|| format!("there is no folder {}", path.display()))?;
    let url = Url::from_directory_path(&path);
    Ok(url.map_err(|()| anyhow::anyhow!("{} is not an absolute path", path.display()))?.to_string())
}

async fn writable_url(url: String, stores: &Stores) -> anyhow::Result<String> {
    let cannot = || {
        format!(
            "{url} cannot be written; `nozzle doctor` says more, or choose another place with --location or data_dir"
        )
    };
    let (store, folder) = stores.resolve(&url).with_context(cannot)?;
    let probe = folder.join(probe_name());
    store.put(&probe, b"nozzle".as_slice().into()).await.with_context(cannot)?;
    // Where it may be written but not deleted, the probe stays: the collector needs the right later.
    persistently(|_| store.delete(&probe)).await.with_context(cannot)?;
    Ok(url)
}

/// Whether a data folder can be read but not written. One that is not there, or is away, is neither.
pub async fn is_read_only(place: &str, base: &Path, stores: &Stores) -> bool {
    let denied = |error: &std::io::Error| {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
    };
    match Place::parse(place, base) {
        Ok(Place::Local(path)) => path.is_dir() && tempfile_in(&path).is_err_and(|error| denied(&error)),
        Ok(Place::Remote(url)) => {
            let Ok((store, folder)) = stores.resolve(&url) else { return false };
            let probe = folder.join(probe_name());
            match store.put(&probe, b"nozzle".as_slice().into()).await {
                Ok(_) => {
                    store.delete(&probe).await.ok();
                    false
                }
                Err(error) => matches!(
                    error,
                    object_store::Error::PermissionDenied { .. }
                        | object_store::Error::Unauthenticated { .. }
                ),
            }
        }
        Err(_) => false,
    }
}

/// How long a store that is asked whether it answers may take.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a data folder anything, to see whether it answers.
pub async fn reach(place: &str, base: &Path, stores: &Stores) -> anyhow::Result<()> {
    match Place::parse(place, base)? {
        Place::Local(path) if path.is_dir() || !path.exists() => Ok(()),
        Place::Local(path) => bail!("{} is not a folder", path.display()),
        Place::Remote(url) => {
            let (store, folder) = stores.resolve(&url)?;
            let listed = tokio::time::timeout(REACH_TIMEOUT, store.list_with_delimiter(Some(&folder)));
            listed.await.context("it does not answer")?.map(drop).with_context(|| format!("listing {url}"))
        }
    }
}

/// The name of an object or file that is written only to see whether that can be done.
pub fn probe_name() -> String {
    format!(".nozzle-{}", uuid::Uuid::new_v4().simple())
}

/// Writes and removes a small file: rights on paper and a full disk are found out only by trying.
fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(probe_name());
    let written = std::fs::write(&probe, b"nozzle").and_then(|()| std::fs::remove_file(&probe));
    if written.is_err() {
        // What is left of a write that failed half-way must not stay.
        std::fs::remove_file(&probe).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_path_or_the_url_of_a_store() {
        let base = Path::new("/base");
        let place = |text| Place::parse(text, base).expect("a place");
        assert_eq!(place("data"), Place::Local("/base/data".into()));
        assert_eq!(place("/data"), Place::Local("/data".into()));
        assert_eq!(place("file:///data"), Place::Local("/data".into()));
        assert_eq!(place("s3://bucket"), Place::Remote("s3://bucket/".into()));
        assert_eq!(place("gs://bucket/a/b"), Place::Remote("gs://bucket/a/b/".into()));
        assert_eq!(place("az://container/a/"), Place::Remote("az://container/a/".into()));
        for (bad, why) in [
            ("ftp://host/x", "`ftp://`"),
            ("s3:///x", "no bucket"),
            ("s3://key:secret@bucket/x", "credentials come from the environment"),
            ("az://container/x?sig=secret", "credentials come from the environment"),
        ] {
            let error = format!("{:#}", Place::parse(bad, base).expect_err("it is refused"));
            assert!(error.contains(why) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_may_be_a_key_of_a_place_is_not_shown() {
        let cases = [
            ("/data/a b", "/data/a b"),
            ("s3://bucket/x", "s3://bucket/x"),
            ("s3://key:secret@bucket/x", "s3://bucket/x"),
            ("az://container/x?sig=secret", "az://container/x"),
            ("az://container/x#secret", "az://container/x"),
            // One that is no URL is not shown either.
            ("s3://key:sec/ret@[bucket", "s3://[bucket"),
        ];
        for (place, expected) in cases {
            assert_eq!(shown(place), expected);
        }
    }
}

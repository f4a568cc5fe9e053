//! The object stores that files lie in, found by URL.

use std::{collections::HashMap, sync::Arc};

use datafusion::{
    error::{DataFusionError, Result as DataFusionResult},
    execution::object_store::ObjectStoreRegistry,
};
use object_store::{ObjectStore, path::Path};
use std::sync::Mutex;
use thiserror::Error;
use url::Url;

/// A URL that no store can be opened for.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It is not a URL.
    #[error("`{url}` is not a URL")]
    NotAUrl {
        /// The text.
        url: String,
        /// Why.
        source: url::ParseError,
    },
    /// The store of it cannot be opened.
    #[error("the store of {url} cannot be opened: {why}")]
    NotOpened {
        /// The URL.
        url: String,
        /// Why.
        why: String,
    },
}

/// Opens the store of a URL; called once for each scheme and authority.
pub type OpenStore = Box<dyn Fn(&Url) -> Result<Arc<dyn ObjectStore>, String> + Send + Sync>;

/// Object stores by URL, each opened once by the function that the program hands in.
pub struct Stores {
    open: OpenStore,
    opened: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

impl Stores {
    /// Stores that `open` opens.
    pub fn new(open: OpenStore) -> Self {
        Self { open, opened: Mutex::default() }
    }

    /// The store of a URL and the path of the URL within it.
    pub fn resolve(&self, url: &str) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
        let parsed = Url::parse(url).map_err(|source| StoreError::NotAUrl { url: url.to_owned(), source })?;
        let not_opened = |why: String| StoreError::NotOpened { url: url.to_owned(), why };
        let path = Path::from_url_path(parsed.path()).map_err(|error| not_opened(error.to_string()))?;
        Ok((self.get(&parsed).map_err(not_opened)?, path))
    }

    fn get(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, String> {
        let mut opened = self.opened.lock().map_err(|_| "a thread that opened a store panicked")?;
        let key = store_key(url);
        if let Some(store) = opened.get(&key) {
            return Ok(Arc::clone(store));
        }
        let store = (self.open)(url)?;
        opened.insert(key, Arc::clone(&store));
        Ok(store)
    }
}

/// What of a URL names the store: scheme and authority.
pub fn store_key(url: &Url) -> String {
    format!("{}://{}", url.scheme(), &url[url::Position::BeforeUsername..url::Position::AfterPort])
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.opened.lock().ok().and_then(|mut opened| opened.insert(store_key(url), store))
    }

    fn get_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        self.get(url).map_err(DataFusionError::Configuration)
    }
}

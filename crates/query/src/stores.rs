//! The object stores that files lie in, found by URL.

use std::{collections::HashMap, sync::Arc, time::Duration};

use datafusion::{
    error::{DataFusionError, Result as DataFusionResult},
    execution::object_store::ObjectStoreRegistry,
};
use object_store::{ObjectStore, multipart::MultipartStore, path::Path};
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

/// A store, and what else it can do.
#[derive(Clone)]
pub struct OpenedStore {
    /// Its objects.
    pub objects: Arc<dyn ObjectStore>,
    /// Its way to write an object in parts whose upload has an id; the local disk has none.
    pub parts: Option<Arc<dyn MultipartStore>>,
}

/// Opens the store of a URL; called once for each scheme and authority.
pub type OpenStore = Box<dyn Fn(&Url) -> Result<OpenedStore, String> + Send + Sync>;

/// Object stores by URL, each opened once by the function that the program hands in.
pub struct Stores {
    open: OpenStore,
    opened: Mutex<HashMap<String, OpenedStore>>,
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
        let parsed = parse(url)?;
        let not_opened = |why: String| StoreError::NotOpened { url: url.to_owned(), why };
        let path = Path::from_url_path(parsed.path()).map_err(|error| not_opened(error.to_string()))?;
        Ok((self.get(&parsed).map_err(not_opened)?.objects, path))
    }

    /// How the store of a URL writes objects in parts; `None` where it does not.
    pub fn parts(&self, url: &str) -> Result<Option<Arc<dyn MultipartStore>>, StoreError> {
        let not_opened = |why: String| StoreError::NotOpened { url: url.to_owned(), why };
        Ok(self.get(&parse(url)?).map_err(not_opened)?.parts)
    }

    fn get(&self, url: &Url) -> Result<OpenedStore, String> {
        let mut opened = self.opened.lock().map_err(|_| "a thread that opened a store panicked")?;
        let key = store_key(url);
        if let Some(store) = opened.get(&key) {
            return Ok(store.clone());
        }
        let store = (self.open)(url)?;
        opened.insert(key, store.clone());
        Ok(store)
    }
}

fn parse(url: &str) -> Result<Url, StoreError> {
    Url::parse(url).map_err(|source| StoreError::NotAUrl { url: url.to_owned(), source })
}

/// How often something is asked of a store that its client asks only once.
const ATTEMPTS: u32 = 6;

/// Asks again where a store has failed in another way than by refusing, with growing pauses. A store's
/// client does so by itself only where asking twice cannot matter to anybody: what is asked here knows
/// what it does. `ask` gets the number of the attempt, from 1 on.
pub async fn persistently<T, F>(mut ask: impl FnMut(u32) -> F) -> object_store::Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    let mut attempt = 1;
    loop {
        match ask(attempt).await {
            Err(object_store::Error::Generic { .. }) if attempt < ATTEMPTS => {
                tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
                attempt += 1;
            }
            answer => return answer,
        }
    }
}

/// What of a URL names the store: scheme and authority.
pub fn store_key(url: &Url) -> String {
    format!("{}://{}", url.scheme(), &url[url::Position::BeforeUsername..url::Position::AfterPort])
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        let store = OpenedStore { objects: store, parts: None };
        let mut opened = self.opened.lock().ok()?;
        opened.insert(store_key(url), store).map(|before| before.objects)
    }

    fn get_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        self.get(url).map(|store| store.objects).map_err(DataFusionError::Configuration)
    }
}

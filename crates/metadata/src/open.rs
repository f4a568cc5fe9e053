//! Opening a database by its URL, and bringing its schema up to date.

use std::sync::Arc;

use crate::{
    error::{MetadataError, Result},
    postgres, sqlite,
    store::MetadataStore,
};

/// Which database, and how.
#[derive(Clone)]
pub struct MetadataConfig {
    /// `sqlite:///path/to/metadata.db` or `postgres://…`. In a path `%`, `?` and `#` are written
    /// as `%25`, `%3F` and `%23`; `?mode=ro` behind it asks for a store that is only read.
    pub url: String,
    /// Where PostgreSQL is listened to; the same URL where a transaction pooler is not in the way.
    pub listen_url: Option<String>,
    /// Connections at most.
    pub pool_size: u32,
    /// Whether [`open`] migrates by itself; else it refuses an old schema.
    pub auto_migrate: bool,
}

/// Without the URLs, which may hold a password.
impl std::fmt::Debug for MetadataConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataConfig")
            .field("pool_size", &self.pool_size)
            .field("auto_migrate", &self.auto_migrate)
            .finish_non_exhaustive()
    }
}

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The migrations that ran, oldest first; none where the schema was current.
    pub applied: Vec<String>,
}

/// Opens the metadata database.
///
/// A SQLite file is made with its folders where there is none and `auto_migrate` is on; one that
/// cannot be written is opened to be read, and refuses what would change it. With `auto_migrate`
/// an old schema is migrated, else it is [`MetadataError::Schema`], as is one that is newer than
/// this program. Must be called on a tokio runtime, which then watches for commits.
pub async fn open(config: &MetadataConfig) -> Result<Arc<dyn MetadataStore>> {
    Ok(match database(&config.url)? {
        Database::Sqlite => Arc::new(sqlite::open(config).await?),
        Database::Postgres => Arc::new(postgres::open(config).await?),
    })
}

/// Brings the schema up to date, each migration once: of several processes that migrate at once,
/// the others wait for the first and find nothing to do. A schema that is newer than this program
/// is [`MetadataError::Schema`].
pub async fn migrate(config: &MetadataConfig) -> Result<Migrated> {
    match database(&config.url)? {
        Database::Sqlite => sqlite::migrate(config).await,
        Database::Postgres => postgres::migrate(config).await,
    }
}

enum Database {
    Sqlite,
    Postgres,
}

fn database(url: &str) -> Result<Database> {
    // The scheme only: what follows may hold a password.
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "sqlite" => Ok(Database::Sqlite),
        "postgres" | "postgresql" => Ok(Database::Postgres),
        other => Err(MetadataError::Refused(format!(
            "`{other}` is not a kind of metadata database: write sqlite:///path/to/metadata.db or postgres://user@host/database"
        ))),
    }
}

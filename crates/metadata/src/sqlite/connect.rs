//! Opening a SQLite file: to be written where that is possible, else to be read.

use std::{
    fs,
    io::ErrorKind,
    ops::{Deref, DerefMut},
    path::Path,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous},
};

use super::{SqliteStore, migrations};
use crate::{
    error::Result,
    fault::{Fault, refused},
    hints::Hints,
    open::{MetadataConfig, Migrated},
    schema,
};

/// What helps where a database cannot be made.
const TO_DO: &str = "give this user the right to write there, run in another folder, or set metadata_db.url";

/// How long a statement waits for another process's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a write waits for this process's other writes.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens the store, as [`crate::open`] says.
pub(crate) async fn open(config: &MetadataConfig) -> Result<SqliteStore> {
    let file = DatabaseFile::parse(&config.url).map_err(|fault| fault.of(&config.url))?;
    file.open(config).await.map_err(|fault| fault.of(&file.name))
}

/// Migrates the file, as [`crate::migrate`] says.
pub(crate) async fn migrate(config: &MetadataConfig) -> Result<Migrated> {
    let file = DatabaseFile::parse(&config.url).map_err(|fault| fault.of(&config.url))?;
    file.migrate().await.map_err(|fault| fault.of(&file.name))
}

struct DatabaseFile {
    options: SqliteConnectOptions,
    name: String,
    /// Whether the URL asks not to write (`?mode=ro`).
    only_read: bool,
}

impl DatabaseFile {
    fn parse(url: &str) -> Result<Self, Fault> {
        let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
        let options = match SqliteConnectOptions::from_str(url) {
            Ok(options) => options,
            Err(error) => return refused(format!("`{url}` is not the URL of a SQLite file: {error}")),
        };
        if url.contains(":memory:") || parameters.contains("mode=memory") {
            return refused(
                "a metadata database in memory would be lost: name a file, as in sqlite:///path/to/metadata.db",
            );
        }
        if options.get_filename().as_os_str().is_empty() {
            return refused(format!("`{url}` names no file: write sqlite:///path/to/metadata.db"));
        }
        let name = options.get_filename().display().to_string();
        let options = options
            .foreign_keys(true)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            // Whatever one long reader makes the log grow to is given back after it.
            .pragma("journal_size_limit", "67108864")
            .disable_statement_logging();
        let only_read = parameters.split('&').any(|parameter| parameter == "mode=ro");
        Ok(Self { options, name, only_read })
    }

    fn path(&self) -> &Path {
        self.options.get_filename()
    }

    async fn open(&self, config: &MetadataConfig) -> Result<SqliteStore, Fault> {
        let may_make = config.auto_migrate && !self.only_read;
        let is_there = self.is_there()?;
        if !is_there && !may_make {
            return Err(Fault::Schema(format!(
                "there is no metadata database {}: run `nozzle migrate`",
                self.name
            )));
        }
        if self.only_read || !self.can_be_written()? {
            return self.open_to_read().await;
        }
        let mut connection = match self.connect_to_write().await {
            Err(fault) if is_unwritable(&fault) => return self.open_to_read().await,
            connected => connected?,
        };
        let missing = migrations::missing(&mut connection, &self.name).await?;
        if !missing.is_empty() && !config.auto_migrate {
            let is_empty = migrations::is_empty(&mut connection).await?;
            return Err(schema::outdated(&self.name, &missing, is_empty));
        }
        if !missing.is_empty() {
            migrations::migrate(&mut connection, &self.name).await?;
        }
        let store = self.store(config.pool_size);
        connection.close().await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<Migrated, Fault> {
        if self.only_read || (self.is_there()? && !self.can_be_written()?) {
            return refused(format!("the metadata database {} cannot be written to", self.name));
        }
        let mut connection = self.connect_to_write().await?;
        let applied = migrations::migrate(&mut connection, &self.name).await?;
        connection.close().await?;
        Ok(Migrated { applied })
    }

    /// Whether there is a file; a folder in its place is refused.
    fn is_there(&self) -> Result<bool, Fault> {
        match fs::metadata(self.path()) {
            Ok(found) if found.is_file() => Ok(true),
            Ok(_) => refused(format!("the metadata database {} is not a file", self.name)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => refused(format!("the metadata database {} cannot be reached: {error}", self.name)),
        }
    }

    /// Whether the file, which may be missing, can be written. Its folder may still forbid the
    /// files that SQLite keeps beside it.
    fn can_be_written(&self) -> Result<bool, Fault> {
        match fs::OpenOptions::new().append(true).open(self.path()) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => self.make_folder().map(|()| true),
            Err(_) => Ok(false),
        }
    }

    fn make_folder(&self) -> Result<(), Fault> {
        let Some(folder) = self.path().parent().filter(|folder| !folder.as_os_str().is_empty()) else {
            return Ok(());
        };
        fs::create_dir_all(folder).or_else(|error| {
            refused(format!(
                "the folder {} of the metadata database cannot be made: {error}; {TO_DO}",
                folder.display()
            ))
        })
    }

    /// Makes the empty file, for its owner alone: it will hold the providers' keys. SQLite gives its
    /// log the rights of the file. Another process that makes it first does the same.
    fn make_private_file(&self) -> Result<(), Fault> {
        use std::os::unix::fs::OpenOptionsExt;
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path());
        match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                refused(format!("the metadata database {} cannot be made: {error}; {TO_DO}", self.name))
            }
            _ => Ok(()),
        }
    }

    async fn connect_to_write(&self) -> Result<SqliteConnection, Fault> {
        self.make_folder()?;
        let is_new = !self.is_there()?;
        if is_new {
            self.make_private_file()?;
        }
        let options = self.options.clone().create_if_missing(true);
        let mut connection = match options.connect().await {
            Err(error) if is_new => {
                return refused(format!(
                    "the metadata database {} cannot be made: {error}; {TO_DO}",
                    self.name
                ));
            }
            connected => connected?,
        };
        use_log(&mut connection, &self.name).await?;
        Ok(connection)
    }

    fn store(&self, pool_size: u32) -> SqliteStore {
        let writes = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(self.options.clone());
        let reads = SqlitePoolOptions::new()
            .max_connections(pool_size.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .max_lifetime(None)
            .connect_lazy_with(self.options.clone().pragma("query_only", "true"));
        let reads = Reads::Pool { pool: reads, options: self.options.clone() };
        SqliteStore {
            name: self.name.clone(),
            reads: Arc::new(reads),
            writes: Some(writes),
            hints: Hints::new(),
        }
    }

    async fn open_to_read(&self) -> Result<SqliteStore, Fault> {
        if let Err(error) = fs::File::open(self.path()) {
            return refused(format!("the metadata database {} cannot be read: {error}", self.name));
        }
        let reads = Reads::Fresh { options: self.options.clone().read_only(true) };
        let mut reader = reads.connection().await?;
        let missing = migrations::missing(&mut reader, &self.name).await?;
        if !missing.is_empty() {
            let is_empty = migrations::is_empty(&mut reader).await?;
            return Err(schema::outdated(&self.name, &missing, is_empty));
        }
        Ok(SqliteStore { name: self.name.clone(), reads: Arc::new(reads), writes: None, hints: Hints::new() })
    }
}

/// Turns the write-ahead log on, which lasts as long as the file. Of two processes that do so at
/// once SQLite tells one that the file is busy, without letting it wait.
async fn use_log(connection: &mut SqliteConnection, name: &str) -> Result<(), Fault> {
    let deadline = tokio::time::Instant::now() + BUSY_TIMEOUT;
    loop {
        let mode =
            sqlx::query_scalar::<_, String>("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await;
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return refused(format!(
                    "the file system of the metadata database {name} has no shared memory, which SQLite's log needs (its journal is `{mode}`): keep it on a local disk"
                ));
            }
            Err(error) if primary_code(&error) == Some(5) && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// SQLite's result code without what it adds to it.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?.parse::<u32>().ok()?;
    Some(code & 0xff)
}

/// Whether SQLite says that it may not write the file (8) or the ones beside it (14).
fn is_unwritable(fault: &Fault) -> bool {
    matches!(fault, Fault::Sql(error) if matches!(primary_code(error), Some(8 | 14)))
}

/// Where connections to read come from.
#[derive(Debug)]
pub(super) enum Reads {
    /// The file can be written.
    Pool { pool: SqlitePool, options: SqliteConnectOptions },
    /// It cannot: each read has a connection of its own, because how the file must be opened
    /// changes when a writer elsewhere comes or goes.
    Fresh { options: SqliteConnectOptions },
}

/// A connection to read with.
pub(super) enum Reader {
    Pooled(PoolConnection<Sqlite>),
    Own(SqliteConnection),
}

impl Deref for Reader {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        match self {
            Self::Pooled(connection) => connection,
            Self::Own(connection) => connection,
        }
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Pooled(connection) => connection,
            Self::Own(connection) => connection,
        }
    }
}

impl Reads {
    /// A connection for one read.
    pub(super) async fn connection(&self) -> Result<Reader, Fault> {
        match self {
            Self::Pool { pool, .. } => Ok(Reader::Pooled(pool.acquire().await?)),
            Self::Fresh { options } => Ok(Reader::Own(connect_to_read(options).await?)),
        }
    }

    /// A connection outside of the pool, to be kept; `None` where connections are not kept.
    pub(super) async fn lasting_connection(&self) -> Result<Option<SqliteConnection>, Fault> {
        match self {
            Self::Pool { options, .. } => {
                Ok(Some(options.clone().pragma("query_only", "true").connect().await?))
            }
            Self::Fresh { .. } => Ok(None),
        }
    }
}

/// Opens a file that cannot be written. While a writer has it open, the log lies beside it and is
/// read too. Without one there is no log, and where the folder forbids to make one the file is
/// read as what nobody changes.
async fn connect_to_read(options: &SqliteConnectOptions) -> Result<SqliteConnection, Fault> {
    match probe(options).await {
        Err(fault) if is_unwritable(&fault) && !has_log(options.get_filename()) => {
            probe(&options.clone().immutable(true)).await
        }
        probed => probed,
    }
}

/// Connects and reads once: SQLite opens its files no earlier.
async fn probe(options: &SqliteConnectOptions) -> Result<SqliteConnection, Fault> {
    let mut connection = options.connect().await?;
    sqlx::query("SELECT COUNT(*) FROM sqlite_schema").fetch_one(&mut connection).await?;
    Ok(connection)
}

/// Whether a log with something in it lies beside the file.
fn has_log(file: &Path) -> bool {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(log).is_ok_and(|found| found.len() > 0)
}

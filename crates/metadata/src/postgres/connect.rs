//! Opening a PostgreSQL database.

use std::{
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{PostgresStore, migrations, watch::Source};
use crate::{
    error::Result,
    fault::{Fault, refused},
    hints::Hints,
    open::{MetadataConfig, Migrated},
};

/// How long the server may take to answer a first connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a call waits for one of the pool's connections, or for the server to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection that nobody has used for so long is asked whether it still answers before it is used.
/// Before each use would cost as much as the use itself where the database is far away.
const LONG_IDLE: Duration = Duration::from_secs(1);

/// How long a connection that comes back may take to say that it is still good.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the store, as [`crate::open`] says.
pub(crate) async fn open(config: &MetadataConfig) -> Result<PostgresStore> {
    let server = Server::parse(config).map_err(|fault| fault.of("PostgreSQL"))?;
    server.open(config).await.map_err(|fault| fault.of(&server.name))
}

/// Migrates the database, as [`crate::migrate`] says.
pub(crate) async fn migrate(config: &MetadataConfig) -> Result<Migrated> {
    let server = Server::parse(config).map_err(|fault| fault.of("PostgreSQL"))?;
    server.migrate().await.map_err(|fault| fault.of(&server.name))
}

struct Server {
    options: PgConnectOptions,
    listen: PgConnectOptions,
    /// The database without its password.
    name: String,
}

impl Server {
    fn parse(config: &MetadataConfig) -> Result<Self, Fault> {
        let parse = |url: &str| match PgConnectOptions::from_str(url) {
            Ok(options) => Ok(options.application_name("nozzle").disable_statement_logging()),
            // What the parser says may quote the URL, and with it a password.
            Err(_) => {
                refused("the URL of the metadata database is malformed: write postgres://user@host/database")
            }
        };
        let mut options = parse(&config.url)?;
        let listen = parse(config.listen_url.as_ref().unwrap_or(&config.url))?;
        if config.listen_url.as_ref().is_some_and(|listen| *listen != config.url) {
            // A transaction pooler is in the way: prepared statements would be another session's.
            options = options.statement_cache_capacity(0);
        }
        let name = describe(&options);
        Ok(Self { options, listen, name })
    }

    /// One connection outside of any pool: a pool would go on trying, and not say why.
    async fn connect(&self) -> Result<PgConnection, Fault> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.options.connect()).await {
            Ok(connected) => Ok(connected?),
            Err(_) => {
                let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "the server does not answer");
                Err(sqlx::Error::Io(late).into())
            }
        }
    }

    async fn open(&self, config: &MetadataConfig) -> Result<PostgresStore, Fault> {
        let mut connection = self.connect().await?;
        let missing = migrations::missing(&mut connection, &self.name).await?;
        if !missing.is_empty() && !config.auto_migrate {
            migrations::refuse_outdated(&mut connection, &self.name, &missing).await?;
        }
        if !missing.is_empty() {
            migrations::migrate(&mut connection, &self.name).await?;
        }
        connection.close().await?;
        let doubt = Doubt::default();
        let pool = PgPoolOptions::new()
            .max_connections(config.pool_size.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire({
                let doubt = doubt.clone();
                move |connection, about| {
                    let is_trusted = about.idle_for < LONG_IDLE && !doubt.concerns(about.idle_for);
                    Box::pin(
                        async move { if is_trusted { Ok(true) } else { still_answers(connection).await } },
                    )
                }
            })
            .after_release(|connection, _| Box::pin(still_answers(connection)))
            .connect_lazy_with(self.options.clone());
        let source = Source { pool: pool.clone(), listen: self.listen.clone() };
        Ok(PostgresStore { name: self.name.clone(), pool, doubt, source, hints: Hints::new() })
    }

    async fn migrate(&self) -> Result<Migrated, Fault> {
        let mut connection = self.connect().await?;
        let applied = migrations::migrate(&mut connection, &self.name).await?;
        connection.close().await?;
        Ok(Migrated { applied })
    }
}

/// That a connection was found dead: whatever was idle at that time may be so too.
#[derive(Debug, Clone, Default)]
pub(super) struct Doubt(Arc<Mutex<Option<Instant>>>);

impl Doubt {
    /// A connection was found dead.
    pub(super) fn arise(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection that has been idle for so long is to be asked first.
    fn concerns(&self, idle_for: Duration) -> bool {
        let arose = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        arose.is_some_and(|at| at.elapsed() <= idle_for)
    }
}

fn describe(options: &PgConnectOptions) -> String {
    let user = options.get_username();
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    format!("postgres://{user}@{place}/{}", options.get_database().unwrap_or(user))
}

/// Asks a connection whether it still answers, and gives it up where it does not: one that was cut off in
/// the middle of something would take its place in the pool for minutes.
async fn still_answers(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let cut_off = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    tokio::time::timeout(RELEASE_TIMEOUT, connection.ping()).await.map_err(cut_off)??;
    Ok(true)
}

//! The schema of a PostgreSQL database.

use sqlx::{Connection, PgConnection, migrate::Migrator};

use crate::{
    fault::Fault,
    schema::{self, Applied},
};

/// Without sqlx's own lock, which is the session's and so breaks behind a transaction pooler.
fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("migrations/postgres");
    migrations.set_locking(false);
    migrations
}

/// The advisory lock that migrations of one database wait for: "nozzle" in ASCII.
const LOCK: i64 = 0x6e6f_7a7a_6c65;

async fn has_any(connection: &mut PgConnection) -> Result<bool, Fault> {
    let table = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL");
    Ok(table.fetch_one(connection).await?)
}

/// The migrations that the database has not had.
pub(super) async fn missing(connection: &mut PgConnection, name: &str) -> Result<Vec<String>, Fault> {
    let applied: Vec<Applied> = if has_any(connection).await? {
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations").fetch_all(connection).await?
    } else {
        vec![]
    };
    schema::missing(name, &migrations(), &applied)
}

/// Refuses a database that lacks migrations.
pub(super) async fn refuse_outdated(
    connection: &mut PgConnection,
    name: &str,
    missing: &[String],
) -> Result<(), Fault> {
    let is_empty = !has_any(connection).await?;
    Err(schema::outdated(name, missing, is_empty))
}

/// Runs the missing migrations in one transaction, for which other processes wait, and names them.
pub(super) async fn migrate(connection: &mut PgConnection, name: &str) -> Result<Vec<String>, Fault> {
    let mut tx = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
    let missing = missing(&mut tx, name).await?;
    if !missing.is_empty() {
        migrations().run_direct(None, &mut *tx, false).await.map_err(sqlx::Error::from)?;
    }
    tx.commit().await?;
    Ok(missing)
}

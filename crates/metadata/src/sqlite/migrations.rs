//! The schema of a SQLite file.

use sqlx::{Connection, SqliteConnection, migrate::Migrator};

use crate::{
    fault::Fault,
    schema::{self, Applied},
};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// The migrations that the file has not had.
pub(super) async fn missing(connection: &mut SqliteConnection, name: &str) -> Result<Vec<String>, Fault> {
    // In one statement: between two, another process may make the schema.
    let (has_any, is_empty): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations'),
                NOT EXISTS (SELECT 1 FROM sqlite_schema)",
    )
    .fetch_one(&mut *connection)
    .await?;
    let applied: Vec<Applied> = if has_any {
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations").fetch_all(connection).await?
    } else if is_empty {
        vec![]
    } else {
        return Err(Fault::Schema(format!("{name} is the SQLite database of another program")));
    };
    schema::missing(name, &MIGRATIONS, &applied)
}

/// Whether the file holds nothing.
pub(super) async fn is_empty(connection: &mut SqliteConnection) -> Result<bool, Fault> {
    let nothing = sqlx::query_scalar("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)").fetch_one(connection);
    Ok(nothing.await?)
}

/// Runs the missing migrations in one transaction, for which other processes wait, and names them.
pub(super) async fn migrate(connection: &mut SqliteConnection, name: &str) -> Result<Vec<String>, Fault> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let missing = missing(&mut tx, name).await?;
    if !missing.is_empty() {
        MIGRATIONS.run_direct(None, &mut *tx, false).await.map_err(sqlx::Error::from)?;
    }
    tx.commit().await?;
    Ok(missing)
}

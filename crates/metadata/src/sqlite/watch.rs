//! Noticing the commits of other processes.

use std::{sync::Arc, time::Duration};

use sqlx::SqliteConnection;

use super::{connect::Reads, revisions};
use crate::{fault::Fault, hints::Told};

/// A commit is to be noticed within 50 ms; looking costs some microseconds.
const INTERVAL: Duration = Duration::from_millis(20);

/// How long to wait where the file could not be looked at.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells of every commit that it notices, without end.
pub(super) async fn watch(reads: Arc<Reads>, told: Told) {
    loop {
        let Err(fault) = look(&reads, &told).await;
        tracing::debug!(?fault, "the metadata database could not be watched");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look(reads: &Reads, told: &Told) -> Result<std::convert::Infallible, Fault> {
    match reads.lasting_connection().await? {
        Some(connection) => look_with(connection, told).await,
        None => loop {
            told.tell(revisions::sequence(&mut *reads.connection().await?).await?);
            tokio::time::sleep(INTERVAL).await;
        },
    }
}

/// SQLite counts up a connection's data version when another connection has changed the file.
async fn look_with(mut connection: SqliteConnection, told: &Told) -> Result<std::convert::Infallible, Fault> {
    let mut seen = None;
    loop {
        let version: i64 = sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut connection).await?;
        if seen != Some(version) {
            seen = Some(version);
            told.tell(revisions::sequence(&mut connection).await?);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

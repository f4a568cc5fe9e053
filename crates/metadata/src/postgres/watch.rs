//! Noticing the commits of other processes, and the work that they make: by NOTIFY, and by looking now and then, since a
//! notification may be lost.

use std::{convert::Infallible, time::Duration};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use super::{dialect, revisions};
use crate::{fault::Fault, hints::Told, model::CommitSeq};

/// The channel that [`revisions::next_sequence`] notifies.
const CHANNEL: &str = "nozzle_commits";

/// How often to look even though nothing was heard.
const POLL: Duration = Duration::from_secs(5);

/// How long a connection that is listened to may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// How long to wait before listening again.
const PAUSE: Duration = Duration::from_secs(1);

/// Where commits are heard of.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) pool: PgPool,
    pub(super) listen: PgConnectOptions,
}

/// Tells of every commit that it notices, without end.
pub(super) async fn watch(source: Source, told: Told) {
    tokio::join!(keep_listening(&source, &told), keep_looking(&source, &told));
}

async fn keep_listening(source: &Source, told: &Told) {
    loop {
        if let Err(fault) = listen(source, told).await {
            tracing::debug!(?fault, "the metadata database cannot be listened to");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Listens until the connection is lost.
async fn listen(source: &Source, told: &Told) -> Result<(), Fault> {
    let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let pool = pool.connect_with(source.listen.clone()).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    // Whoever reconnects must look again: this loop does.
    listener.eager_reconnect(false);
    listener.listen_all([CHANNEL, dialect::CHANNEL]).await?;
    look(source, told).await?;
    told.tell_of_work();
    // A connection that was cut off gives no sign of it: after a silence it is made anew.
    while let Ok(heard) = tokio::time::timeout(SILENCE, listener.try_recv()).await {
        let Some(notification) = heard? else { break };
        if notification.channel() == dialect::CHANNEL {
            told.tell_of_work();
        } else if let Ok(sequence) = notification.payload().parse() {
            told.tell(CommitSeq(sequence));
        }
    }
    Ok(())
}

async fn keep_looking(source: &Source, told: &Told) -> Infallible {
    loop {
        tokio::time::sleep(POLL).await;
        if let Err(fault) = look(source, told).await {
            tracing::debug!(?fault, "the metadata database cannot be watched");
        }
    }
}

async fn look(source: &Source, told: &Told) -> Result<(), Fault> {
    let mut connection = source.pool.acquire().await?;
    told.tell(revisions::sequence(&mut connection).await?);
    Ok(())
}

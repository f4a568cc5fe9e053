//! One query on its way: planned, started, its batches coming.

use std::pin::Pin;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::{Stream, StreamExt, stream};
use nozzle_query::{Engine, QueryError, Session};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::error::ApiError;

/// Batches that wait between the scan and the encoder: enough that neither waits for the other,
/// few enough that a client that does not read costs little.
const BATCHES_AHEAD: usize = 4;

/// Rows as they are made. Dropping it ends the query.
pub type Batches = Pin<Box<dyn Stream<Item = Result<RecordBatch, ApiError>> + Send>>;

/// A query whose first batch is there, or that has none.
pub struct Running {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Batches,
}

/// The columns of a query, without running it.
pub async fn schema(engine: &Engine, sql: &str) -> Result<SchemaRef, ApiError> {
    let plan = engine.session().await?.plan(sql).await?;
    Ok(Session::schema(&plan))
}

/// Starts a query and waits for its first batch: most errors show by then, and can still be told
/// as what they are.
pub async fn start(engine: &Engine, sql: &str) -> Result<Running, ApiError> {
    let session = engine.session().await?;
    let plan = session.plan(sql).await?;
    let schema = Session::schema(&plan);
    let mut rows = session.execute(plan).await?;
    let (sender, mut receiver) = mpsc::channel(BATCHES_AHEAD);
    // A task of its own: the scan goes on while what it gave is encoded and sent.
    let scan = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(batch) = rows.next().await {
            if sender.send(batch.map_err(|error| QueryError::from(error).into())).await.is_err() {
                return;
            }
        }
    }));
    let first = receiver.recv().await.transpose()?;
    let rest = stream::unfold((receiver, scan), |(mut receiver, scan)| async move {
        let batch: Result<RecordBatch, ApiError> = receiver.recv().await?;
        Some((batch, (receiver, scan)))
    });
    let batches = stream::iter(first.map(Ok)).chain(rest);
    Ok(Running { schema, batches: Box::pin(batches) })
}

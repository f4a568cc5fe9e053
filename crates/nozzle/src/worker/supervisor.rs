//! The worker of a development server: one that dies is started again.

use std::{sync::Arc, time::Duration};

use nozzle_metadata::WorkerHold;
use tokio_util::sync::CancellationToken;

use super::{Options, Worker};
use crate::{context::Context, report::one_line};

/// The name of a development server's worker.
const NODE_ID: &str = "worker";

/// Between a death and the next start.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps a worker running until `stop`.
pub async fn supervise(context: Arc<Context>, stop: CancellationToken) -> anyhow::Result<()> {
    tracing::warn!(
        "a server with a worker in it (--dev) is for development: one that fails takes the other along"
    );
    let options = Options { node_id: NODE_ID.into(), region: None, max_tasks: Options::default_max_tasks() };
    while !stop.is_cancelled() {
        let (context, options, stopped) = (Arc::clone(&context), options.clone(), stop.clone());
        // A task of its own, so that a defect ends the worker alone.
        let life = tokio::spawn(async move { live(context, options, &stopped).await });
        let why = match life.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => one_line(&error),
            Err(defect) => format!("a defect of the program: {defect}"),
        };
        tracing::error!("the worker has died and is started again: {why}");
        stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
    }
    Ok(())
}

async fn live(context: Arc<Context>, options: Options, stop: &CancellationToken) -> anyhow::Result<()> {
    let Some(worker) = Worker::register(Arc::clone(&context), options, stop).await? else { return Ok(()) };
    let _guard = Retire { context, hold: worker.hold().clone() };
    worker.run(stop).await
}

/// Gives the name back also where the worker ends by a defect: nobody else has to wait for its silence.
struct Retire {
    context: Arc<Context>,
    hold: WorkerHold,
}

impl Drop for Retire {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (metadata, hold) = (Arc::clone(&self.context.metadata), self.hold.clone());
            tokio::spawn(async move { metadata.retire_worker(&hold).await.ok() });
        }
    }
}

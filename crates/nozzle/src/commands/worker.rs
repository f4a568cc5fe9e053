//! `nozzle worker`: does scheduled jobs until it is told to end.

use std::{process::ExitCode, sync::Arc};

use anyhow::bail;

use crate::{
    cli::WorkerArgs,
    config::Config,
    context::Context,
    definitions, providers,
    shutdown::Shutdown,
    worker::{Options, Worker},
};

/// Works until a signal, then ends its tasks at whole blocks.
pub async fn run(args: WorkerArgs, config: Config) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::watch("stopping at the next whole block; once more to stop at once")?;
    let context = Arc::new(Context::open(config).await?);
    if context.metadata.is_single_machine() {
        bail!(
            "workers coordinate by PostgreSQL, and the metadata database is {}: set metadata_db.url to postgres://…, or run `nozzle server --dev`, which has a worker of its own",
            context.metadata.describe()
        );
    }
    providers::import(&context.providers_folder()?, context.metadata.as_ref()).await?;
    definitions::import_and_warn(&context.definitions_folder()?, context.metadata.as_ref()).await?;
    let options = Options {
        node_id: args.node_id,
        region: args.region,
        max_tasks: args.max_tasks.map_or_else(Options::default_max_tasks, usize::from),
    };
    let stop = shutdown.token();
    let (name, max_tasks) = (options.node_id.clone(), options.max_tasks);
    let Some(worker) = Worker::register(context, options, stop).await? else {
        return Ok(shutdown.exit_code());
    };
    tracing::info!("the worker `{name}` is ready: up to {max_tasks} tasks at a time");
    worker.run(stop).await?;
    Ok(ExitCode::SUCCESS)
}

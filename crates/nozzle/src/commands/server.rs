//! `nozzle server`: queries over the network until the program is told to end.

use std::{process::ExitCode, sync::Arc};

use crate::{
    cli::ServerArgs,
    config::Config,
    context::Context,
    definitions, providers, report,
    server::{Bound, Selection},
    shutdown::Shutdown,
};

/// Serves until a signal, then finishes what was begun.
pub async fn run(args: ServerArgs, config: Config) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::watch("finishing what was begun; once more to stop at once")?;
    let context = Context::open(config).await?;
    let Context { config, metadata, .. } = &context;
    providers::import(&context.providers_folder()?, metadata.as_ref()).await?;
    for rejected in definitions::import(&context.definitions_folder()?, metadata.as_ref()).await? {
        tracing::warn!("{} is left out: {:#}", rejected.file.shown, rejected.error);
    }
    let selection = Selection::of_flags(args.flight_server, args.jsonl_server, args.admin_server);
    let bound = Bound::bind(selection, config, Arc::new(context.engine()?)).await?;
    let lines =
        bound.addresses()?.into_iter().map(|(name, address)| format!("{name} listens on {address}\n"));
    report::answer(&lines.collect::<String>())?;
    bound.serve(shutdown.token().clone()).await?;
    Ok(ExitCode::SUCCESS)
}

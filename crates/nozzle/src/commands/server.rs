//! `nozzle server`: queries over the network until the program is told to end.

use std::{process::ExitCode, sync::Arc};

use crate::{
    cli::ServerArgs,
    config::Config,
    context::Context,
    definitions, providers, report,
    server::{Bound, Selection},
    shutdown::Shutdown,
    worker,
};
use nozzle_metadata::MetadataError;

/// Serves until a signal, then finishes what was begun.
pub async fn run(args: ServerArgs, config: Config) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::watch("finishing what was begun; once more to stop at once")?;
    let context = Arc::new(Context::open(config).await?);
    import(&context).await?;
    let selection = Selection::of_flags(args.flight_server, args.jsonl_server, args.admin_server);
    let bound = Bound::bind(selection, Arc::clone(&context), args.dev).await?;
    let lines =
        bound.addresses()?.into_iter().map(|(name, address)| format!("{name} listens on {address}\n"));
    report::answer(&lines.collect::<String>())?;
    let stop = shutdown.token().clone();
    if args.dev {
        let worker = worker::supervise(context, stop.clone());
        tokio::try_join!(bound.serve(stop), worker)?;
    } else {
        bound.serve(stop).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Brings in what the two folders define. A server that may only read uses what is there.
async fn import(context: &Context) -> anyhow::Result<()> {
    let metadata = context.metadata.as_ref();
    match providers::import(&context.providers_folder()?, metadata).await {
        Err(error) if is_read_only(&error) => {
            tracing::info!("the metadata database can only be read here: providers are not brought in");
        }
        imported => imported?,
    }
    definitions::import_and_warn(&context.definitions_folder()?, metadata).await
}

fn is_read_only(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(MetadataError::ReadOnly { .. })))
}

//! `nozzle compact`: merges what can be merged, now.

use std::{process::ExitCode, sync::Arc};

use indicatif::HumanBytes;

use crate::{
    cli::CompactArgs,
    config::Config,
    context::{Context, holder},
    report,
    shutdown::Shutdown,
    upkeep::Upkeep,
};

/// Merges all final segments of the named datasets, or of all, up to the configured size.
pub async fn run(args: CompactArgs, config: Config) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::watch("stopping after nothing half done; once more to stop at once")?;
    let context = Arc::new(Context::open_existing(config).await?);
    let mut only = vec![];
    for reference in &args.dataset {
        only.push(context.dataset(reference).await?.id);
    }
    let only = (!only.is_empty()).then_some(only);
    let mut upkeep = Upkeep::new(context, holder("compact"), only);
    let passes = upkeep.compact(upkeep.policy().everything(), shutdown.token()).await?;
    let mut text = String::new();
    for (dataset, pass) in &passes {
        let (before, after) = pass.segments;
        text += &format!("{}: {before} segments are {after} now, {}\n", dataset.name, HumanBytes(pass.bytes));
        if pass.lost > 0 {
            text += &format!(
                "{}: {} merges were left to others who hold these blocks\n",
                dataset.name, pass.lost
            );
        }
    }
    report::answer(if text.is_empty() { "nothing to compact\n" } else { &text })?;
    Ok(if shutdown.token().is_cancelled() { shutdown.exit_code() } else { ExitCode::SUCCESS })
}

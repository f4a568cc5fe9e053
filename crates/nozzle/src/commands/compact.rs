//! `nozzle compact`: merges what can be merged, now.

use std::{process::ExitCode, sync::Arc};

use anyhow::bail;
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
    let (mut text, mut failed) = (String::new(), 0);
    for (dataset, pass) in &passes {
        let (name, (before, after)) = (&dataset.name, pass.segments);
        failed += pass.failed;
        if before > 0 {
            text += &format!("{name}: {before} segments are {after} now, {}\n", HumanBytes(pass.bytes));
        }
        if pass.lost > 0 {
            text += &format!("{name}: {} merges were left to others who hold these blocks\n", pass.lost);
        }
    }
    report::answer(if text.is_empty() { "nothing to compact\n" } else { &text })?;
    if failed > 0 {
        bail!("{failed} merges failed, see above; what they were to merge stays as it is");
    }
    Ok(if shutdown.token().is_cancelled() { shutdown.exit_code() } else { ExitCode::SUCCESS })
}

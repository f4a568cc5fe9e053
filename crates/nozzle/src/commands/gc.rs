//! `nozzle gc`: deletes what nobody can need any more, now.

use std::{process::ExitCode, time::Duration};

use indicatif::HumanCount;

use crate::{cli::GcArgs, config::Config, context::Context, report, shutdown::Shutdown, upkeep};

/// Deletes what was replaced, retired or never committed longer ago than the grace period, or tells how much
/// that is.
pub async fn run(args: GcArgs, config: Config) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::watch("stopping; what is left is for the next time")?;
    let context = Context::open_existing(config).await?;
    if args.dry_run {
        let grace = Duration::from_secs_f64(context.config.compaction.file_lock_duration_secs);
        let due = context.metadata.collectable(grace).await?;
        let is_due = |ended: &Option<Duration>| ended.is_some_and(|ended| ended >= grace);
        let recorded = context.metadata.recorded_objects().await?;
        let unregistered = recorded.iter().filter(|object| is_due(&object.ended_for)).count();
        // Those that an earlier collection could not delete.
        let doomed = context.metadata.doomed_objects(None, u32::MAX).await?.len() as u64;
        report::answer(&format!(
            "would delete {} files that were replaced, and {unregistered} that were never committed\n",
            HumanCount(due.files + doomed),
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let collected = upkeep::collect(&context, shutdown.token()).await?;
    report::answer(&format!(
        "deleted {} files that were replaced, and {} that were never committed\n",
        HumanCount(collected.objects),
        HumanCount(collected.unregistered),
    ))?;
    Ok(if shutdown.token().is_cancelled() { shutdown.exit_code() } else { ExitCode::SUCCESS })
}

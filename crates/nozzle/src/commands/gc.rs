//! `nozzle gc`: deletes what nobody can need any more, now.

use std::{process::ExitCode, sync::Arc, time::Duration};

use indicatif::{HumanBytes, HumanCount};

use crate::{
    cli::GcArgs,
    config::Config,
    context::{Context, holder},
    report,
    shutdown::Shutdown,
    upkeep::Upkeep,
};

/// Deletes what was replaced, retired or never committed longer ago than the grace period, or tells how much
/// that is.
pub async fn run(args: GcArgs, config: Config) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::watch("stopping; what is left is for the next time")?;
    let context = Arc::new(Context::open_existing(config).await?);
    if args.dry_run {
        let grace = Duration::from_secs_f64(context.config.compaction.file_lock_duration_secs);
        let due = context.metadata.collectable(grace).await?;
        let is_due = |ended: &Option<Duration>| ended.is_some_and(|ended| ended >= grace);
        let recorded = context.metadata.recorded_objects().await?;
        let unregistered = recorded.iter().filter(|object| is_due(&object.ended_for)).count();
        report::answer(&format!(
            "would delete {} files of {} that were replaced, and {unregistered} that were never committed\n",
            HumanCount(due.files),
            HumanBytes(due.bytes),
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let upkeep = Upkeep::new(context, holder("gc"), None);
    let collected = upkeep.collect(shutdown.token()).await?;
    report::answer(&format!(
        "deleted {} files that were replaced, and {} that were never committed\n",
        HumanCount(collected.objects),
        HumanCount(collected.unregistered),
    ))?;
    Ok(if shutdown.token().is_cancelled() { shutdown.exit_code() } else { ExitCode::SUCCESS })
}

//! `nozzle migrate`: the metadata database's schema, brought up to date.

use std::process::ExitCode;

use crate::{config::Config, context::metadata_config};

/// Runs the migrations that have not run yet.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let migrated = nozzle_metadata::migrate(&metadata_config(&config)).await?;
    if migrated.applied.is_empty() {
        eprintln!("the metadata database is up to date");
    }
    for migration in migrated.applied {
        eprintln!("applied {migration}");
    }
    Ok(ExitCode::SUCCESS)
}

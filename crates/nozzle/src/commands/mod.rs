//! What each command does, one module a command.

mod check;
mod compact;
mod dataset;
mod doctor;
mod dump;
mod files;
mod gc;
mod generate_manifest;
mod migrate;
mod query;
mod restore;
mod server;
mod status;
mod worker;

use std::process::ExitCode;

pub use dump::advice;

use crate::{
    cli::{Cli, Command},
    context::load_config,
};

/// Runs the command that was typed.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = || load_config(cli.config.as_deref());
    match cli.command {
        Command::Dump(args) => dump::run(args, config()?).await,
        Command::Query(args) => query::run(args, config()?).await,
        Command::Server(args) => server::run(args, config()?).await,
        Command::Worker(args) => worker::run(args, config()?).await,
        Command::Status => status::run(config()?).await,
        Command::Check(args) => check::run(args, config()?).await,
        Command::Files(args) => files::run(args, config()?).await,
        Command::Dataset(command) => dataset::run(command, config()?).await,
        Command::Compact(args) => compact::run(args, config()?).await,
        Command::Gc(args) => gc::run(args, config()?).await,
        Command::Restore(args) => restore::run(args, config()?).await,
        Command::Doctor => doctor::run(config()?).await,
        Command::Migrate => migrate::run(config()?).await,
        Command::GenerateManifest(args) => generate_manifest::run(args),
    }
}

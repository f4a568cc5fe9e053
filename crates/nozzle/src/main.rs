//! The program: commands, configuration and, in time, servers.
//!
//! `cli` says what can be typed, `commands` what happens then. This file turns the outcome into an
//! exit code: 0, 1 for a failure, 2 for wrong arguments, 128 + the signal where one ended the work.

mod calls;
mod cli;
mod commands;
mod config;
mod context;
mod definitions;
mod folder;
mod jobs;
mod kinds;
mod logging;
mod networks;
mod new_file;
mod output;
mod progress;
mod providers;
mod report;
mod server;
mod shutdown;
mod sources;
mod stores;
mod threads;
mod throttles;
mod upkeep;
mod worker;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    logging::init(cli.is_development());
    // One TLS provider for every client in the process; a second install would be a defect.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: a TLS provider was installed already");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failure(&anyhow::Error::new(error).context("starting the runtime")),
    };
    let outcome = runtime.block_on(commands::run(cli));
    // Work that was left behind on blocking threads must not keep the program from ending.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => report::failure(&error),
    }
}

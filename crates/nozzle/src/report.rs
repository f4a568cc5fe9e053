//! Telling a person: errors with their causes on standard error, answers on standard output.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;

use crate::{commands, progress};

/// Prints an error that ends the program.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    say(error);
    ExitCode::FAILURE
}

/// Prints an error with all its causes and what to do next.
pub fn say(error: &anyhow::Error) {
    let mut text = format!("error: {error}");
    for cause in further_causes(error) {
        text += &format!("\n  because: {cause}");
    }
    if let Some(advice) = commands::advice(error) {
        text += &format!("\n  {advice}");
    }
    progress::say(&text);
}

/// An error with all its causes in one line.
pub fn one_line(error: &anyhow::Error) -> String {
    further_causes(error).into_iter().fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The causes behind the error's own text, each said once.
fn further_causes(error: &anyhow::Error) -> Vec<String> {
    let mut said = error.to_string();
    let mut causes = vec![];
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !said.contains(&text) {
            said.clone_from(&text);
            causes.push(text);
        }
    }
    causes
}

/// Prints what was asked for. A reader that has had enough (`| head`) is no error.
pub fn answer(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to standard output"),
    }
}

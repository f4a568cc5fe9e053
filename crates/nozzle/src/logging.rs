//! Logs: to standard error, never to standard output, and without tearing a progress bar apart.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::progress;

/// Sets the process's log up. `RUST_LOG` chooses what is logged; by default what a person should
/// know of.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,nozzle=info"));
    let layer =
        fmt::layer().with_writer(|| AroundBars).with_target(false).with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry().with(filter).with(layer).init();
}

/// Standard error, with the progress bars taken away while a line is written.
struct AroundBars;

impl Write for AroundBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        progress::around_bars(|| io::stderr().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

//! Logs: to standard error, never to standard output, and without tearing a progress bar apart.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::progress;

/// What is logged where `RUST_LOG` does not choose: what a person should know of. The database's driver
/// would also warn of each connection that a restart of PostgreSQL ends; who uses them says so once.
const DEFAULT: &str = "warn,sqlx=error,nozzle=info";

/// Sets the process's log up; compact is for somebody who sits in front of it, with the seconds since the
/// start in place of date and time.
pub fn init(is_compact: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let layer =
        fmt::layer().with_writer(|| AroundBars).with_target(false).with_ansi(io::stderr().is_terminal());
    let layer =
        if is_compact { layer.compact().with_timer(fmt::time::uptime()).boxed() } else { layer.boxed() };
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

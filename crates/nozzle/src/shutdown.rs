//! Signals: the first ends the work at a whole block, the second ends the program at once.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::progress;

/// The same signal again so soon is one signal, delivered twice.
const ECHO: Duration = Duration::from_millis(100);

/// Watches for SIGINT and SIGTERM.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
    number: Arc<AtomicU8>,
}

impl Shutdown {
    /// Starts to watch; `notice` is what the first signal is answered with.
    pub fn watch(notice: &'static str) -> anyhow::Result<Self> {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let shutdown = Self { token: CancellationToken::new(), number: Arc::default() };
        let watcher = shutdown.clone();
        tokio::spawn(async move {
            let mut first: Option<(u8, Instant)> = None;
            loop {
                let number = tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt(),
                    _ = terminate.recv() => SignalKind::terminate(),
                };
                let number = u8::try_from(number.as_raw_value()).unwrap_or(0);
                match first {
                    // `timeout` and some shells send one signal twice: to the process and its group.
                    Some((same, at)) if same == number && at.elapsed() < ECHO => continue,
                    Some(_) => std::process::exit(128 + i32::from(number)),
                    None => first = Some((number, Instant::now())),
                }
                watcher.number.store(number, Ordering::Relaxed);
                progress::say(notice);
                watcher.token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Is cancelled by the first signal.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// The exit code of work that a signal has cut short: 128 and the signal's number, as shells do.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(128 + self.number.load(Ordering::Relaxed))
    }
}

//! What a person sees of a running dump: a bar for each dataset on a terminal, a line every ten
//! seconds elsewhere. All of it on standard error.

use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use indicatif::{
    HumanBytes, HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressState, ProgressStyle,
};
use nozzle_dump::{Event, Observer, Summary};
use tokio_util::task::AbortOnDropHandle;

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Short of the full width: what a person types, such as `^C`, must not wrap the line.
const TEMPLATE: &str = "{prefix} {bar:20} {human_pos}/{human_len}  {rate}  {msg}  {eta} left";

/// What most commands count.
const BLOCKS: &str = "blocks";

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Runs `write` with the bars taken off the screen.
pub fn around_bars<T>(write: impl FnOnce() -> T) -> T {
    BARS.suspend(write)
}

/// Tells the person at the terminal something, beside any bars.
pub fn say(text: &str) {
    around_bars(|| writeln!(std::io::stderr(), "{text}").ok());
}

/// The progress of one dataset's dump.
#[derive(Debug)]
pub struct Progress {
    state: Arc<State>,
    /// Writes the lines where there is no terminal, also while nothing comes.
    _lines: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct State {
    dataset: String,
    /// What is counted.
    unit: &'static str,
    bar: ProgressBar,
    is_terminal: bool,
    rows: AtomicU64,
    started: Instant,
    is_waiting: AtomicBool,
}

impl Progress {
    /// Starts to show a dataset's progress.
    pub fn start(dataset: &str) -> Self {
        Self::counting(dataset, BLOCKS)
    }

    /// Starts to show how far something is that is counted in other things than blocks.
    pub fn counting(dataset: &str, unit: &'static str) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = if is_terminal { BARS.add(ProgressBar::new(0)) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.with_key(
                "rate",
                move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    write!(out, "{} {unit}/s", HumanCount(state.per_sec() as u64)).ok();
                },
            ));
        }
        bar.set_prefix(dataset.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        let state = Arc::new(State {
            dataset: dataset.to_owned(),
            unit,
            bar,
            is_terminal,
            rows: AtomicU64::new(0),
            started: Instant::now(),
            is_waiting: AtomicBool::new(false),
        });
        let lines = (!is_terminal).then(|| tokio::spawn(write_lines(Arc::clone(&state))));
        Self { state, _lines: lines.map(AbortOnDropHandle::new) }
    }

    /// Takes the bar away and shows what was done.
    pub fn finish(self, summary: &Summary) {
        self.state.bar.finish_and_clear();
        say(&summary_text(&self.state.dataset, summary));
    }

    /// Takes the bar away.
    pub fn abandon(self) {
        self.state.bar.finish_and_clear();
    }
}

/// A line every ten seconds, as long as there is something under way.
async fn write_lines(state: Arc<State>) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + LINE_INTERVAL, LINE_INTERVAL);
    loop {
        ticks.tick().await;
        if state.bar.position() < state.bar.length().unwrap_or(0) {
            say(&state.line(state.rows.load(Relaxed), state.started.elapsed()));
        }
    }
}

impl State {
    fn extracted(&self, blocks: u64, rows: u64) {
        self.is_waiting.store(false, Relaxed);
        self.bar.inc(blocks);
        let rows = self.rows.fetch_add(rows, Relaxed) + rows;
        let elapsed = self.started.elapsed();
        if self.is_terminal {
            self.bar.set_message(format!("{} rows/s", HumanCount(per_second(rows, elapsed))));
        }
    }

    fn line(&self, rows: u64, elapsed: Duration) -> String {
        let (done, wanted, unit) = (self.bar.position(), self.bar.length().unwrap_or(0), self.unit);
        let rate = per_second(done, elapsed);
        let left = wanted.saturating_sub(done).checked_div(rate).map(Duration::from_secs);
        let left = left.map(|left| format!(", {} left", HumanDuration(left))).unwrap_or_default();
        format!(
            "{}: {} of {} {unit}, {} {unit}/s, {} rows/s{left}",
            self.dataset,
            HumanCount(done),
            HumanCount(wanted),
            HumanCount(rate),
            HumanCount(per_second(rows, elapsed)),
        )
    }

    fn waits(&self, text: &str) {
        if !self.is_waiting.swap(true, Relaxed) {
            say(&format!("{}: {text}", self.dataset));
        }
    }
}

impl Observer for Progress {
    fn event(&self, event: Event) {
        self.state.event(event);
    }
}

impl State {
    fn event(&self, event: Event) {
        match event {
            Event::Planned { blocks } => self.bar.set_length(self.bar.position() + blocks),
            Event::Extracted { blocks, rows } | Event::Checked { blocks, rows } => {
                self.extracted(blocks, rows)
            }
            Event::Committed { .. } => {}
            Event::WaitingForHead { head, end } => {
                self.waits(&format!("waiting for block {end}; the head is {head}"));
            }
            Event::UpToDate => {}
            Event::NothingYet { why } => say(&format!("{}: nothing to extract yet: {why}", self.dataset)),
            Event::Outlasting { why, wait } => {
                say(&format!("{}: {why}; trying again in {} s", self.dataset, wait.as_secs()));
            }
            Event::WaitingForWriter { holder } => {
                self.waits(&format!(
                    "{holder} has gone silent; waiting a few seconds to take over its blocks"
                ));
            }
            Event::Reorg { fork, orphaned } => say(&format!(
                "{}: the chain was reorganised: replacing blocks {orphaned}, the last one in common is {}",
                self.dataset,
                fork.map_or("below them".to_owned(), |fork| fork.number.to_string()),
            )),
            Event::Recomputed { range, segments, replaced } => say(&format!(
                "{}: what it is made of was built anew: computed blocks {range} again, and replaced {replaced} of {segments} segments",
                self.dataset
            )),
            Event::LeftToWriter { range, holder } => {
                say(&format!("{}: blocks {range} are left to {holder}", self.dataset));
            }
            Event::Activated => {
                say(&format!("{}: the new revision is complete and is now read", self.dataset))
            }
        }
    }
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    (count as f64 / elapsed.as_secs_f64().max(0.001)) as u64
}

fn summary_text(dataset: &str, summary: &Summary) -> String {
    let seconds = summary.elapsed.as_secs_f64();
    let outcome = if summary.stopped { "stopped" } else { "done" };
    let mut text = format!(
        "{dataset}: {outcome}: {} blocks in {seconds:.1} s ({} blocks/s)",
        HumanCount(summary.blocks),
        HumanCount(per_second(summary.blocks, summary.elapsed)),
    );
    if summary.blocks == 0 {
        return text + ", nothing new";
    }
    for (table, written) in &summary.tables {
        text += &format!(
            "\n  {:<14}{:>14} rows {:>12} in {} {}",
            table.as_str(),
            HumanCount(written.rows).to_string(),
            HumanBytes(written.bytes).to_string(),
            HumanCount(written.files),
            if written.files == 1 { "file" } else { "files" },
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use nozzle_dump::observe::TableSummary;

    use super::*;

    #[tokio::test]
    async fn without_a_terminal_a_line_says_how_far_it_is() {
        let progress = Progress::start("eth");
        progress.event(Event::Planned { blocks: 10_000 });
        progress.event(Event::Extracted { blocks: 2_500, rows: 50_000 });
        let line = progress.state.line(50_000, Duration::from_secs(5));
        assert_eq!(line, "eth: 2,500 of 10,000 blocks, 500 blocks/s, 10,000 rows/s, 15 seconds left");
    }

    #[test]
    fn the_summary_names_blocks_rows_bytes_files_time_and_rate() {
        let table = TableSummary { rows: 1_234_567, bytes: 5 << 20, files: 2 };
        let summary = Summary {
            blocks: 10_000,
            tables: [("logs".parse().expect("a name"), table)].into(),
            elapsed: Duration::from_secs(4),
            stopped: false,
        };
        let text = summary_text("eth", &summary);
        assert!(text.starts_with("eth: done: 10,000 blocks in 4.0 s (2,500 blocks/s)"), "{text}");
        assert!(text.contains("1,234,567 rows"), "{text}");
        assert!(text.contains("5.00 MiB in 2 files"), "{text}");
        assert!(summary_text("eth", &Summary::default()).ends_with("nothing new"));
    }
}

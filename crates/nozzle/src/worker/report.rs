//! What a worker logs of its tasks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use nozzle_dump::{Event, Observer, Summary};
use nozzle_metadata::{Task, TaskEnd, TaskKind};

/// So many new blocks at once are no more than following the head.
const FEW_BLOCKS: u64 = 64;

/// What a task is called in the log.
pub fn label(task: &Task) -> String {
    let (job, dataset) = (task.job.id, &task.job.dataset.name);
    match task.kind {
        TaskKind::Head => format!("job {job} ({dataset})"),
        TaskKind::Range(range) => format!("job {job} ({dataset}), blocks {range}"),
    }
}

/// Tells what happens in a task, and notices when it only waits for the next block.
#[derive(Debug)]
pub struct Log {
    /// The task.
    pub label: String,
    /// Whether it only waits.
    pub is_light: Arc<AtomicBool>,
}

impl Observer for Log {
    fn event(&self, event: Event) {
        let label = &self.label;
        match event {
            Event::UpToDate => self.is_light.store(true, Ordering::Relaxed),
            Event::Planned { blocks } if blocks > FEW_BLOCKS => self.is_light.store(false, Ordering::Relaxed),
            Event::Planned { .. }
            | Event::Extracted { .. }
            | Event::Checked { .. }
            | Event::Committed { .. } => {}
            Event::WaitingForHead { head, end } => {
                tracing::debug!("{label}: the head is at {head}, waiting for {end}");
            }
            Event::NothingYet { why } => {
                self.is_light.store(true, Ordering::Relaxed);
                tracing::info!("{label}: nothing to extract yet: {why}");
            }
            Event::Outlasting { why, wait } => {
                tracing::warn!("{label}: trying again in {} s: {why}", wait.as_secs());
            }
            Event::WaitingForWriter { holder } => {
                tracing::info!("{label}: waiting whether {holder} still lives");
            }
            Event::LeftToWriter { range, holder } => tracing::info!("{label}: {holder} has blocks {range}"),
            Event::Reorg { fork, orphaned } => {
                let fork =
                    fork.map_or("below all of them".to_owned(), |fork| format!("above {}", fork.number));
                tracing::info!("{label}: the chain has forked {fork}; replacing blocks {orphaned}");
            }
            Event::Recomputed { range, segments, replaced } => tracing::info!(
                "{label}: what it is made of was built anew: computed blocks {range} again, and replaced {replaced} of {segments} segments"
            ),
            Event::Activated => tracing::info!("{label}: the new revision is complete and read from now on"),
        }
    }
}

/// Logs what a dump has stored.
pub fn stored(label: &str, summary: &Summary) {
    if summary.blocks == 0 {
        return;
    }
    let rows: u64 = summary.tables.values().map(|table| table.rows).sum();
    let files: u64 = summary.tables.values().map(|table| table.files).sum();
    let seconds = summary.elapsed.as_secs_f64();
    tracing::info!("{label}: {} blocks, {rows} rows in {files} files, {seconds:.1} s", summary.blocks);
}

/// Logs how a task has ended.
pub fn ended(task: &Task, end: &TaskEnd) {
    let label = label(task);
    match end {
        TaskEnd::Done => tracing::info!("{label}: done"),
        TaskEnd::Waiting => tracing::debug!("{label}: waiting for the rest of the job"),
        TaskEnd::Released => tracing::info!("{label}: stopped at a whole block"),
        TaskEnd::Retry { why, after } => {
            tracing::warn!("{label}: trying again in {} s: {why}", after.as_secs());
        }
        TaskEnd::Failed { why } => tracing::error!("{label}: the job has failed: {why}"),
    }
}

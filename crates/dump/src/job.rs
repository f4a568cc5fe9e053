//! One job of a round: streams a block range from the source into segments and commits them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use nozzle_core::BlockRange;
use nozzle_metadata::CommitError;
use nozzle_sources::{BlockRows, Place, SharedSource, SourceError};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    commit::{Change, Refusal, commit},
    error::DumpError,
    lease::Terms,
    observe::{Event, Observer},
    writer::{SegmentWriter, Target},
};

/// Groups of rows that wait to be encoded: the source works ahead by this much and no more.
const GROUPS_AHEAD: usize = 2;

/// When all tables are cut: at the first of the two.
#[derive(Debug, Clone, Copy)]
pub struct CutPolicy {
    /// The size of a file.
    pub partition_bytes: u64,
    /// The age of a segment.
    pub flush_interval: Duration,
}

/// How a job ended.
#[derive(Debug)]
pub enum JobEnd {
    /// Its whole range is committed.
    Done,
    /// It was asked to stop; what it had received is committed.
    Stopped,
    /// The chain has changed below it: look again.
    Replan(ReplanReason),
}

/// Why a round must look again.
#[derive(Debug)]
pub enum ReplanReason {
    /// The source's blocks stopped linking.
    Source(SourceError),
    /// The commit was refused.
    Commit(CommitError),
}

impl std::fmt::Display for ReplanReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Source(error) => error.fmt(f),
            Self::Commit(error) => error.fmt(f),
        }
    }
}

/// A job's work.
#[derive(Debug)]
pub struct Job {
    /// What is shared with the other jobs.
    pub target: Arc<Target>,
    /// Where the blocks come from.
    pub source: SharedSource,
    /// When segments are cut.
    pub cut: CutPolicy,
    /// Under what the range is written.
    pub terms: Terms,
    /// The blocks.
    pub range: BlockRange,
    /// The place in the source's stream right before them, where it is known.
    pub behind: Option<Place>,
    /// What the job's first commit also changes: the repair of a reorg.
    pub first_change: Change,
}

impl Job {
    /// Runs to the end of the range, or until `cancel`.
    pub async fn run(
        mut self,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<JobEnd, DumpError> {
        let mut blocks = self.stream();
        let mut writer = self.new_writer();
        let mut last = None;
        loop {
            let flush_at = self.flush_at(&writer);
            let received = tokio::select! {
                biased;
                () = cancel.cancelled() => return self.finish(writer, observer, JobEnd::Stopped).await,
                received = blocks.recv() => received,
                // A source that stalls does not keep back what it has given before.
                () = at(flush_at) => {
                    let aged = std::mem::replace(&mut writer, self.new_writer());
                    if let Some(end) = self.commit(aged, observer).await? {
                        return Ok(end);
                    }
                    continue;
                }
            };
            match received {
                None if last == Some(self.range.end()) => {
                    return self.finish(writer, observer, JobEnd::Done).await;
                }
                None => {
                    self.finish(writer, observer, JobEnd::Stopped).await?;
                    return Err(DumpError::Refused("the source ended before its last block".into()));
                }
                Some(Ok(rows)) => {
                    last = Some(rows.range.end());
                    if let Err(error) = self.append(&mut writer, rows, observer).await {
                        writer.abort().await;
                        return replan_or(error);
                    }
                    if !self.is_full(&writer) {
                        continue;
                    }
                    let full = std::mem::replace(&mut writer, self.new_writer());
                    if let Some(end) = self.commit(full, observer).await? {
                        return Ok(end);
                    }
                }
                Some(Err(error @ SourceError::NotLinked { .. })) => {
                    writer.abort().await;
                    return replan_or(error.into());
                }
                Some(Err(error)) if error.is_missing() => {
                    // The head may have fallen below it: what came before it is good, and the next
                    // look tells how far the chain is now.
                    return self.finish(writer, observer, JobEnd::Replan(ReplanReason::Source(error))).await;
                }
                Some(Err(error)) => {
                    // What came before the error is good: keep it, the next run goes on from there.
                    let end = self.finish(writer, observer, JobEnd::Stopped).await?;
                    return if let JobEnd::Replan(_) = end { Ok(end) } else { Err(error.into()) };
                }
            }
        }
    }

    /// The source's stream, read by a task of its own so that the source goes on while rows are
    /// encoded.
    fn stream(&self) -> Received {
        let (sender, receiver) = mpsc::channel(GROUPS_AHEAD);
        let mut blocks = self.source.blocks_behind(self.range, self.behind.clone());
        let task = tokio::spawn(async move {
            while let Some(rows) = blocks.next().await {
                if sender.send(rows).await.is_err() {
                    return;
                }
            }
        });
        Received { receiver, _task: AbortOnDropHandle::new(task) }
    }

    fn new_writer(&self) -> SegmentWriter {
        SegmentWriter::new(Arc::clone(&self.target), self.terms.clone())
    }

    async fn append(
        &self,
        writer: &mut SegmentWriter,
        rows: BlockRows,
        observer: &dyn Observer,
    ) -> Result<(), DumpError> {
        let blocks = rows.range.len();
        let count = rows.tables.iter().map(|table| table.batch.num_rows() as u64).sum();
        writer.append(rows).await?;
        observer.event(Event::Extracted { blocks, rows: count });
        Ok(())
    }

    /// When the segment under way has to be committed; `None` where it is empty.
    fn flush_at(&self, writer: &SegmentWriter) -> Option<Instant> {
        writer.opened_at().and_then(|opened| opened.checked_add(self.cut.flush_interval))
    }

    fn is_full(&self, writer: &SegmentWriter) -> bool {
        let is_old = self.flush_at(writer).is_some_and(|at| at <= Instant::now());
        writer.largest_file_bytes() >= self.cut.partition_bytes || is_old
    }

    async fn finish(
        &mut self,
        writer: SegmentWriter,
        observer: &dyn Observer,
        end: JobEnd,
    ) -> Result<JobEnd, DumpError> {
        Ok(self.commit(writer, observer).await?.unwrap_or(end))
    }

    /// Commits what the writer holds; `Some` where the round must look again.
    async fn commit(
        &mut self,
        mut writer: SegmentWriter,
        observer: &dyn Observer,
    ) -> Result<Option<JobEnd>, DumpError> {
        if writer.is_empty() {
            return Ok(None);
        }
        let mut change = std::mem::take(&mut self.first_change);
        let started = Instant::now();
        // What it is made of may have become another while its rows were read.
        if let Some(made_of) = self.source.made_of().await? {
            writer.add_sources(made_of.revisions);
        }
        change.added.extend(writer.close().await?);
        let closed = Instant::now();
        match commit(&self.target, self.terms.lease, change, observer).await {
            Ok(()) => {
                let (files, metadata) = (closed - started, closed.elapsed());
                tracing::debug!(files_us = files.as_micros(), metadata_us = metadata.as_micros(), "written");
                Ok(None)
            }
            Err(Refusal::Replan(error)) => Ok(Some(JobEnd::Replan(ReplanReason::Commit(error)))),
            Err(Refusal::Failed(error)) => Err(error),
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// The receiving end of a source's task, which ends with it.
struct Received {
    receiver: mpsc::Receiver<Result<BlockRows, SourceError>>,
    _task: AbortOnDropHandle<()>,
}

impl Received {
    async fn recv(&mut self) -> Option<Result<BlockRows, SourceError>> {
        self.receiver.recv().await
    }
}

fn replan_or(error: DumpError) -> Result<JobEnd, DumpError> {
    match error {
        DumpError::Source(error @ SourceError::NotLinked { .. }) => {
            Ok(JobEnd::Replan(ReplanReason::Source(error)))
        }
        error => Err(error),
    }
}

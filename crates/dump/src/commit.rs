//! Making closed files visible.

use nozzle_core::BlockRange;
use nozzle_metadata::{Commit, CommitError, LeaseId, NewSegment, SegmentId};

use crate::{
    error::DumpError,
    observe::{Event, Observer},
    writer::Target,
};

/// What a round does about a refused commit.
#[derive(Debug)]
pub enum Refusal {
    /// The chain was reorganised, or another writer was faster: look again and plan anew.
    Replan(CommitError),
    /// The dump cannot go on.
    Failed(DumpError),
}

/// Segments and what they replace.
#[derive(Debug, Default)]
pub struct Change {
    /// New segments of blocks that were extracted: for each table the same spans.
    pub added: Vec<NewSegment>,
    /// New segments whose rows were copied from what they replace.
    pub kept: Vec<NewSegment>,
    /// What they stand in for.
    pub replaced: Vec<SegmentId>,
}

/// Commits and tells the observer.
pub async fn commit(
    target: &Target,
    lease: LeaseId,
    change: Change,
    observer: &dyn Observer,
) -> Result<(), Refusal> {
    let events = committed_events(target, &change.added);
    let added = change.kept.into_iter().chain(change.added).collect();
    let commit = Commit { lease, added, replaced: change.replaced };
    match target.metadata.commit(&commit).await {
        Ok(sequence) => {
            let last = commit.added.iter().map(|segment| segment.span.range.end()).max();
            tracing::debug!(%sequence, last, "committed");
            events.into_iter().for_each(|event| observer.event(event));
            Ok(())
        }
        Err(
            error @ (CommitError::NotLinked { .. }
            | CommitError::NotLive(_)
            | CommitError::AlreadyStored { .. }),
        ) => Err(Refusal::Replan(error)),
        Err(CommitError::LeaseLost(_)) => Err(Refusal::Failed(DumpError::LeaseLost)),
        Err(CommitError::Store(error)) => Err(Refusal::Failed(error.into())),
        Err(error @ CommitError::Invalid(_)) => Err(Refusal::Failed(DumpError::Commit(error))),
    }
}

/// One event for each range, in block order, with the files of all tables.
fn committed_events(target: &Target, added: &[NewSegment]) -> Vec<Event> {
    let mut ranges: Vec<BlockRange> = added.iter().map(|segment| segment.span.range).collect();
    ranges.sort();
    ranges.dedup();
    let files_of = |range: BlockRange| {
        let in_range = added.iter().filter(|segment| segment.span.range == range);
        in_range
            .filter_map(|segment| {
                let file = &segment.file.as_ref()?.file;
                let (table, _) =
                    target.tables.iter().find(|(_, location)| location.id == segment.location)?;
                Some((table.name.clone(), file.rows, file.size_bytes))
            })
            .collect()
    };
    ranges.into_iter().map(|range| Event::Committed { range, files: files_of(range) }).collect()
}

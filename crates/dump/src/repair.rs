//! Extracting bad segments again, and putting the new ones in their place.
//!
//! Each segment is replaced as a whole and in one commit: until then all is as it was, and readers
//! never see a hole.

use std::sync::Arc;

use futures::StreamExt;
use nozzle_core::{BlockNum, BlockRange, RevisionId};
use nozzle_metadata::CommitError;
use nozzle_sources::SharedSource;
use tokio_util::sync::CancellationToken;

use crate::{
    check::{Check, Piece},
    commit::{Change, Refusal, commit},
    error::DumpError,
    lease::{self, Claimed, Leases, Terms},
    observe::{Event, Observer},
    writer::{SegmentWriter, Target},
};

/// Replaces segments of one revision.
#[derive(Debug)]
pub struct Repair<'a> {
    /// What is stored.
    pub stored: &'a Check,
    /// Where the blocks come from.
    pub source: SharedSource,
    /// How new segments are written; its tables are those that are stored.
    pub target: Arc<Target>,
    /// The revision.
    pub revision: RevisionId,
    /// Who repairs, in words for a person.
    pub holder: &'a str,
}

/// How a repair ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairEnd {
    /// Every segment is replaced.
    Done,
    /// It was asked to stop; what was replaced before stays.
    Stopped,
}

impl Repair<'_> {
    /// Extracts the segments of exactly these ranges again.
    pub async fn run(
        &self,
        segments: &[BlockRange],
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<RepairEnd, DumpError> {
        let wanted = nozzle_core::range::merge(segments.to_vec());
        let request = lease::Request {
            store: &self.stored.metadata,
            revision: self.revision,
            wanted: &wanted,
            all_or_nothing: true,
            holder: self.holder,
        };
        let leases = match lease::claim(request, observer, cancel).await? {
            Claimed::Some(leases, _) => leases,
            Claimed::None(held) => return Err(DumpError::Held(held)),
            Claimed::Stopped => return Ok(RepairEnd::Stopped),
        };
        observer.event(Event::Planned { blocks: segments.iter().map(BlockRange::len).sum() });
        let end = self.replace_all(segments, &leases, observer, cancel).await;
        let released = leases.release().await;
        let end = end?;
        released.map(|()| end)
    }

    async fn replace_all(
        &self,
        segments: &[BlockRange],
        leases: &Leases,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<RepairEnd, DumpError> {
        for range in segments {
            let mut terms = leases.covering(*range).ok_or(DumpError::LeaseLost)?;
            if !self.source.is_of_chain() {
                // The limit is read before the sources, as in every round of a dump.
                self.refuse_above(self.source.head().await?.latest.number, *range)?;
            }
            terms.sources = self.source.made_of().await?.map(|made_of| made_of.revisions);
            // Read under the lease: nobody else changes it now.
            let pieces = self.stored.pieces(*range).await?;
            let piece = pieces.into_iter().find(|piece| piece.span.range == *range);
            let piece = piece.ok_or_else(changed_by_others)?;
            if self.replace(&piece, terms, observer, cancel).await? == RepairEnd::Stopped {
                return Ok(RepairEnd::Stopped);
            }
        }
        Ok(RepairEnd::Done)
    }

    fn refuse_above(&self, head: BlockNum, range: BlockRange) -> Result<(), DumpError> {
        if range.end() <= head {
            return Ok(());
        }
        Err(DumpError::Refused(format!(
            "what `{}` is made of reaches to block {head} only, and blocks {range} are to be replaced: run `nozzle dump` for that first",
            self.source.provider()
        )))
    }

    async fn replace(
        &self,
        piece: &Piece,
        terms: Terms,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<RepairEnd, DumpError> {
        let lease = terms.lease;
        let mut writer = SegmentWriter::new(Arc::clone(&self.target), terms);
        let extracting = self.extract(piece.span.range, &mut writer, observer);
        match cancel.run_until_cancelled(extracting).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                writer.abort().await;
                return Err(error);
            }
            None => {
                writer.abort().await;
                return Ok(RepairEnd::Stopped);
            }
        }
        let added = writer.close().await?;
        let replaced = piece.segments.iter().map(|segment| segment.id).collect();
        let change = Change { added, replaced, ..Change::default() };
        match commit(&self.target, lease, change, observer).await {
            Ok(()) => Ok(RepairEnd::Done),
            Err(Refusal::Replan(error @ CommitError::NotLinked { .. })) => Err(DumpError::Refused(format!(
                "the provider's chain is not the stored one at the border of blocks {}: {error}; run `nozzle dump`, which replaces what a reorg has changed",
                piece.span.range
            ))),
            Err(Refusal::Replan(_)) => Err(changed_by_others()),
            Err(Refusal::Failed(error)) => Err(error),
        }
    }

    /// All of the range, or an error.
    async fn extract(
        &self,
        range: BlockRange,
        writer: &mut SegmentWriter,
        observer: &dyn Observer,
    ) -> Result<(), DumpError> {
        let mut blocks = self.source.blocks(range);
        let mut last = None;
        while let Some(rows) = blocks.next().await {
            let rows = rows?;
            last = Some(rows.range.end());
            let blocks = rows.range.len();
            let count = rows.tables.iter().map(|table| table.batch.num_rows() as u64).sum();
            writer.append(rows).await?;
            observer.event(Event::Extracted { blocks, rows: count });
        }
        if last == Some(range.end()) {
            return Ok(());
        }
        Err(DumpError::Refused("the source ended before its last block".into()))
    }
}

fn changed_by_others() -> DumpError {
    DumpError::Refused("another writer has changed the stored blocks meanwhile; run the check again".into())
}

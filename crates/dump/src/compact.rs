//! Compaction: neighbouring segments become one, rows unchanged and in order.
//!
//! ```text
//!  final segments ─► runs that are worth it ─► lease that gives way ─► rows copied ─► one commit
//! ```
//!
//! Only blocks that are final are touched. A writer that wants the blocks all the same (a repair, a reorg
//! below the final block) ends the lease, and the commit is refused: what was copied is collected, and the
//! next pass plans anew.

use std::{collections::HashMap, ops::Range, sync::Arc};

use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use nozzle_core::{BlockNum, BlockRange, RevisionId, SourceRevisions, Span, range::MAX_BLOCK};
use nozzle_metadata::{Scan, Segment, SegmentFile};
use tokio_util::sync::CancellationToken;

use crate::{
    commit::{Change, Refusal, commit},
    error::DumpError,
    files,
    lease::{self, Terms},
    observe::Silent,
    rewrite,
    writer::{SegmentWriter, Target},
};

/// Files up to this size are read whole and ahead of their turn: what a far store costs is the waiting.
const SMALL_FILE_BYTES: u64 = 128 << 10;

/// So many files are read ahead.
const READ_AHEAD: usize = 16;

/// Which runs of segments are worth to be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The size that no table's file exceeds by merging, in bytes.
    pub target_bytes: u64,
    /// Segments of a run at least.
    pub min_segments: usize,
    /// A run has at least so many times the bytes of its largest segment. 1 merges whatever fits; with 4 a
    /// row is copied some four times on its way from a one-block file to one of 512 MiB, however slowly
    /// they come, and few files wait for their turn.
    pub growth: u64,
}

impl Policy {
    /// Whatever fits.
    pub fn everything(self) -> Self {
        Self { growth: 1, ..self }
    }
}

/// The segments of all tables for the same blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    span: Span,
    /// The bytes of each table's file.
    bytes: Vec<u64>,
    segments: Vec<Segment>,
    /// What their rows were computed from, where the dataset is derived.
    sources: Option<SourceRevisions>,
}

impl Piece {
    /// Whether `next` can become one segment with it.
    fn merges_with(&self, next: &Self) -> bool {
        self.span.links_to(&next.span) && self.sources == next.sources
    }
}

/// The runs of pieces that are worth to be merged, in block order; none shares a piece with another.
fn runs(pieces: &[Piece], policy: Policy) -> Vec<Range<usize>> {
    let mut runs = vec![];
    let mut start = 0;
    while start < pieces.len() {
        let end = start + fitting(&pieces[start..], policy.target_bytes);
        // Full: the next one links, and would not fit.
        let is_full = pieces.get(end).is_some_and(|next| pieces[end - 1].merges_with(next));
        if is_worth(&pieces[start..end], is_full, policy) {
            runs.push(start..end);
            start = end;
        } else {
            start += 1;
        }
    }
    runs
}

/// How many pieces from the first on link and fit into one together; at least the first.
fn fitting(pieces: &[Piece], target_bytes: u64) -> usize {
    let mut sums = vec![0_u64; pieces.first().map_or(0, |piece| piece.bytes.len())];
    let mut count = 0;
    for piece in pieces {
        let links = count == 0 || pieces[count - 1].merges_with(piece);
        sums.iter_mut().zip(&piece.bytes).for_each(|(sum, bytes)| *sum += bytes);
        if !links || (count > 0 && sums.iter().any(|sum| *sum > target_bytes)) {
            break;
        }
        count += 1;
    }
    count
}

/// A run that is full will not grow: it is merged unless nearly all of it is one segment.
fn is_worth(run: &[Piece], is_full: bool, policy: Policy) -> bool {
    let bytes = |piece: &Piece| piece.bytes.iter().sum::<u64>();
    let (whole, largest) = (run.iter().map(bytes).sum::<u64>(), run.iter().map(bytes).max().unwrap_or(0));
    let has_grown = largest.saturating_mul(policy.growth) <= whole;
    let is_last = is_full && largest.saturating_mul(4) <= whole.saturating_mul(3);
    run.len() >= policy.min_segments.max(2) && (has_grown || is_last)
}

/// The block from which on another pass has to look again, where this one has merged nothing: pieces below
/// it are too large to be merged with what is still to come.
fn next_floor(pieces: &[Piece], policy: Policy, from: BlockNum) -> BlockNum {
    // Where something is still missing, what comes may be the neighbour of any piece above.
    let linked = pieces.windows(2).take_while(|pair| pair[0].merges_with(&pair[1])).count() + 1;
    let pieces = &pieces[..linked.min(pieces.len())];
    let open = (0..pieces.len())
        .find(|start| fitting(&pieces[*start..], policy.target_bytes) == pieces.len() - start);
    open.map_or(from, |start| pieces[start].span.range.start())
}

/// Merges segments of one revision.
#[derive(Debug)]
pub struct Compaction {
    /// How files are written; its tables are those that are stored.
    pub target: Arc<Target>,
    /// The revision.
    pub revision: RevisionId,
    /// What is merged.
    pub policy: Policy,
    /// How many merges are under way at a time.
    pub concurrency: usize,
    /// Who compacts, in words for a person.
    pub holder: String,
}

/// What a pass has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pass {
    /// Segments of one table that are gone, and those that have taken their place.
    pub segments: (u64, u64),
    /// Bytes that were read of all tables.
    pub bytes: u64,
    /// Merges that somebody else was in the way of.
    pub lost: u64,
    /// Merges that failed, and why the last of them did.
    pub failed: u64,
    /// Why.
    pub why: Option<String>,
    /// From where the next pass has to look.
    pub floor: BlockNum,
}

/// How one merge ended.
enum Merge {
    Done { segments: u64, bytes: u64 },
    Lost,
    Stopped,
}

impl Compaction {
    /// One look at the segments from `floor` to the newest `finalized` block, and all merges that are worth
    /// while. Ends early, after nothing half done, with `cancel`.
    pub async fn pass(
        &self,
        floor: BlockNum,
        finalized: BlockNum,
        cancel: &CancellationToken,
    ) -> Result<Pass, DumpError> {
        let pieces = self.pieces(floor, finalized).await?;
        let runs = runs(&pieces, self.policy);
        if runs.is_empty() {
            return Ok(Pass { floor: next_floor(&pieces, self.policy, floor), ..Pass::default() });
        }
        let merges = runs.into_iter().map(|run| self.merge(&pieces[run], cancel));
        let mut merges = stream::iter(merges).buffer_unordered(self.concurrency.max(1));
        let mut pass = Pass { floor, ..Pass::default() };
        while let Some(merge) = merges.next().await {
            match merge {
                Ok(Merge::Done { segments, bytes }) => {
                    pass.segments.0 += segments;
                    pass.segments.1 += 1;
                    pass.bytes += bytes;
                }
                Ok(Merge::Lost) => pass.lost += 1,
                Ok(Merge::Stopped) => {}
                // The others have nothing to do with it.
                Err(error) => {
                    pass.failed += 1;
                    tracing::debug!("a merge failed: {}", error.with_causes());
                    pass.why = Some(error.with_causes());
                }
            }
        }
        Ok(pass)
    }

    /// Passes until nothing is left to be merged.
    pub async fn all(
        &self,
        floor: BlockNum,
        finalized: BlockNum,
        cancel: &CancellationToken,
    ) -> Result<Pass, DumpError> {
        let mut all = Pass { floor, ..Pass::default() };
        loop {
            let pass = self.pass(all.floor, finalized, cancel).await?;
            all.segments.0 += pass.segments.0;
            all.segments.1 += pass.segments.1;
            all.bytes += pass.bytes;
            // What is in the way, or fails, may be so in each pass.
            (all.lost, all.failed, all.why) = (pass.lost, pass.failed, pass.why);
            all.floor = pass.floor;
            if pass.segments.1 == 0 || cancel.is_cancelled() {
                return Ok(all);
            }
        }
    }

    /// The live segments that end at or below `last`, from the one on that reaches above `first`.
    async fn pieces(&self, first: BlockNum, last: BlockNum) -> Result<Vec<Piece>, DumpError> {
        let Some(range) = BlockRange::new(first, last.min(MAX_BLOCK)) else { return Ok(vec![]) };
        let sequence = self.target.metadata.sequence().await?;
        let mut tables = vec![];
        for (_, location) in &self.target.tables {
            let scan = Scan { location: location.id, sequence, range };
            let segments = self.target.metadata.segments(&scan).await?;
            if segments.len() < self.policy.min_segments {
                // As few in each table: nothing to merge, and nothing more to ask.
                return Ok(vec![]);
            }
            tables.push(segments.into_iter());
        }
        let mut pieces = vec![];
        loop {
            let segments: Vec<Segment> = tables.iter_mut().filter_map(Iterator::next).collect();
            let Some(span) = segments.first().map(|segment| segment.span) else {
                return self.with_sources(pieces).await;
            };
            if segments.len() != self.target.tables.len() || segments.iter().any(|s| s.span != span) {
                return Err(DumpError::Refused(format!(
                    "the tables are not cut alike at blocks {}",
                    span.range
                )));
            }
            if span.range.end() <= last {
                let bytes =
                    segments.iter().map(|s| s.file.as_ref().map_or(0, |file| file.size_bytes)).collect();
                pieces.push(Piece { span, bytes, segments, sources: None });
            }
        }
    }

    /// The pieces with what they were computed from.
    async fn with_sources(&self, mut pieces: Vec<Piece>) -> Result<Vec<Piece>, DumpError> {
        let Some((_, location)) = self.target.tables.first() else { return Ok(pieces) };
        let metadata = &self.target.metadata;
        let Some([least, greatest]) = metadata.source_bounds(location.id).await? else { return Ok(pieces) };
        if least == greatest {
            pieces.iter_mut().for_each(|piece| piece.sources = Some(least.clone()));
            return Ok(pieces);
        }
        let ids: Vec<_> = pieces.iter().filter_map(|piece| Some(piece.segments.first()?.id)).collect();
        let mut sources: HashMap<_, _> = metadata.sources(&ids).await?.into_iter().collect();
        for piece in &mut pieces {
            piece.sources = piece.segments.first().and_then(|segment| sources.remove(&segment.id));
        }
        Ok(pieces)
    }

    async fn merge(&self, run: &[Piece], cancel: &CancellationToken) -> Result<Merge, DumpError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(Merge::Lost) };
        if cancel.is_cancelled() {
            return Ok(Merge::Stopped);
        }
        let Some(range) = BlockRange::new(first.span.range.start(), last.span.range.end()) else {
            return Ok(Merge::Lost);
        };
        let span = Span { range, prev_hash: first.span.prev_hash, hash: last.span.hash };
        let metadata = &self.target.metadata;
        let Some(leases) = lease::claim_to_merge(metadata, self.revision, range, &self.holder).await? else {
            return Ok(Merge::Lost);
        };
        // Read again under the lease: another compaction may have been there, or a writer.
        let is_same = self.pieces(range.start(), range.end()).await.map(|pieces| pieces == run);
        let merge = match is_same {
            Ok(true) => self.merge_under(run, span, leases.covering(range), leases.lost(), cancel).await,
            Ok(false) => Ok(Merge::Lost),
            Err(error) => Err(error),
        };
        // Whatever failed may have failed because a writer has taken over.
        let is_lost = merge.is_err() && !leases.are_alive().await;
        let released = leases.release().await;
        if is_lost {
            return Ok(Merge::Lost);
        }
        let merge = merge?;
        released.map(|()| merge)
    }

    async fn merge_under(
        &self,
        run: &[Piece],
        span: Span,
        terms: Option<Terms>,
        lost: &CancellationToken,
        cancel: &CancellationToken,
    ) -> Result<Merge, DumpError> {
        let (Some(terms), Some(first)) = (terms, run.first()) else { return Ok(Merge::Lost) };
        let lease = terms.lease;
        let terms = Terms { sources: first.sources.clone(), ..terms };
        let cursor = self.target.cursor_behind(span.tip()).await?;
        let mut writer = SegmentWriter::of_span(Arc::clone(&self.target), terms, span, cursor);
        let copied = tokio::select! {
            copied = self.copy(run, &mut writer) => copied.map(|()| None),
            () = lost.cancelled() => Ok(Some(Merge::Lost)),
            () = cancel.cancelled() => Ok(Some(Merge::Stopped)),
        };
        match copied {
            Ok(None) => {}
            Ok(Some(end)) => {
                writer.abort().await;
                return Ok(end);
            }
            Err(error) => {
                writer.abort().await;
                return Err(error);
            }
        }
        let merged = writer.close().await?;
        let segments = || run.iter().flat_map(|piece| &piece.segments);
        for new in &merged {
            let (index, _) = self.table_of(new.location)?;
            let expected: u64 = run.iter().map(|piece| rows(&piece.segments[index].file)).sum();
            let found = new.file.as_ref().map_or(0, |new| new.file.rows);
            // The empty file that a range without rows has to have is none of the table's rows.
            if found != expected {
                return Err(DumpError::Refused(format!(
                    "the files of blocks {} have {found} rows, and {expected} were written down; run `nozzle check`",
                    span.range
                )));
            }
        }
        let replaced = segments().map(|segment| segment.id).collect();
        let change = Change { kept: merged, replaced, ..Change::default() };
        match commit(&self.target, lease, change, &Silent).await {
            Ok(()) => Ok(Merge::Done {
                segments: run.len() as u64,
                bytes: run.iter().flat_map(|piece| &piece.bytes).sum(),
            }),
            Err(Refusal::Replan(_) | Refusal::Failed(DumpError::LeaseLost)) => Ok(Merge::Lost),
            Err(Refusal::Failed(error)) => Err(error),
        }
    }

    fn table_of(
        &self,
        location: nozzle_metadata::LocationId,
    ) -> Result<(usize, &nozzle_core::TableDef), DumpError> {
        let found = self.target.tables.iter().enumerate().find(|(_, (_, own))| own.id == location);
        found
            .map(|(index, (table, _))| (index, table))
            .ok_or_else(|| DumpError::Refused(format!("there is no location {location} in the revision")))
    }

    /// Copies the rows of all pieces, one table after the other.
    async fn copy(&self, run: &[Piece], writer: &mut SegmentWriter) -> Result<(), DumpError> {
        for index in 0..self.target.tables.len() {
            let mut batches = self.rows(index, run);
            while let Some(batch) = batches.try_next().await? {
                writer.write(rewrite::only(&self.target, index, batch)).await?;
            }
            writer.end_row_group(index).await?;
        }
        Ok(())
    }

    fn rows<'a>(&'a self, index: usize, run: &'a [Piece]) -> BoxStream<'a, Result<RecordBatch, DumpError>> {
        let files = run.iter().filter_map(move |piece| piece.segments[index].file.as_ref());
        let read = move |file: &'a SegmentFile| async move {
            let (table, location) = &self.target.tables[index];
            let object = files::object(&self.target.stores, location, &file.name)?;
            let rows = files::read_table(object, file, table).await?;
            if file.size_bytes > SMALL_FILE_BYTES {
                return Ok(rows);
            }
            let rows: Vec<RecordBatch> = rows.try_collect().await?;
            Ok::<_, DumpError>(stream::iter(rows.into_iter().map(Ok)).boxed())
        };
        stream::iter(files).map(read).buffered(READ_AHEAD).try_flatten().boxed()
    }
}

fn rows(file: &Option<SegmentFile>) -> u64 {
    file.as_ref().map_or(0, |file| file.rows)
}

#[cfg(test)]
mod tests {
    use nozzle_core::BlockHash;
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy { target_bytes: 1000, min_segments: 2, growth: 4 };

    fn hash(number: u64) -> BlockHash {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes.into()
    }

    fn piece(start: u64, end: u64, bytes: u64) -> Piece {
        let range = BlockRange::new(start, end).expect("a range");
        let span = Span { range, prev_hash: hash(start), hash: hash(end + 1) };
        Piece { span, bytes: vec![bytes, bytes / 2], segments: vec![], sources: None }
    }

    /// One-block pieces of these sizes.
    fn blocks(bytes: &[u64]) -> Vec<Piece> {
        bytes.iter().zip(0..).map(|(bytes, number)| piece(number, number, *bytes)).collect()
    }

    fn cuts(pieces: &[Piece], policy: Policy) -> Vec<(usize, usize)> {
        runs(pieces, policy).into_iter().map(|run| (run.start, run.end)).collect()
    }

    #[test]
    fn runs_fill_the_target_and_leave_alone_what_is_not_worth_it() {
        assert_eq!(cuts(&blocks(&[10; 3]), POLICY), []);
        assert_eq!(cuts(&blocks(&[10; 4]), POLICY), [(0, 4)]);
        assert_eq!(cuts(&blocks(&[300; 9]), POLICY.everything()), [(0, 3), (3, 6), (6, 9)]);
        assert_eq!(cuts(&blocks(&[900, 900, 900]), POLICY.everything()), []);
        // The large one is not copied for three small ones, and they wait for a fourth.
        assert_eq!(cuts(&blocks(&[600, 10, 10, 10]), POLICY), []);
        assert_eq!(cuts(&blocks(&[600, 10, 10, 10, 10]), POLICY), [(1, 5)]);
        assert_eq!(cuts(&blocks(&[600, 10, 10, 10]), POLICY.everything()), [(0, 4)]);
        // Segments without files count as well.
        assert_eq!(cuts(&blocks(&[0; 5]), POLICY), [(0, 5)]);
    }

    #[test]
    fn only_neighbours_that_link_are_merged() {
        let mut pieces = blocks(&[10; 10]);
        pieces[4].span.hash = hash(99);
        pieces.remove(8);
        assert_eq!(cuts(&pieces, POLICY.everything()), [(0, 5), (5, 8)]);
    }

    #[test]
    fn only_what_was_computed_from_the_same_is_merged() {
        let mut pieces = blocks(&[10; 10]);
        let of_another = SourceRevisions([RevisionId::generate()].into());
        pieces[..4].iter_mut().for_each(|piece| piece.sources = Some(of_another.clone()));
        assert_eq!(cuts(&pieces, POLICY.everything()), [(0, 4), (4, 10)]);
        // Once the others are found to be the same, all of them are.
        assert_eq!(next_floor(&pieces, POLICY, 0), 0);
    }

    #[test]
    fn what_is_full_is_not_looked_at_again() {
        let full = [blocks(&[900, 900, 900]), vec![piece(3, 3, 10), piece(4, 4, 10)]].concat();
        assert_eq!(next_floor(&full, POLICY, 0), 2);
        assert_eq!(next_floor(&blocks(&[600, 600]), POLICY, 0), 1);
        let mut with_hole = full.clone();
        with_hole.remove(1);
        assert_eq!(next_floor(&with_hole, POLICY, 0), 0);
        assert_eq!(next_floor(&[], POLICY, 7), 7);
    }

    /// Merges as often as it is worth, and gives how many bytes were copied.
    fn settle(pieces: &mut Vec<Piece>, policy: Policy) -> u64 {
        let mut copied = 0;
        loop {
            let runs = runs(pieces, policy);
            if runs.is_empty() {
                return copied;
            }
            for run in runs.into_iter().rev() {
                let (first, last) = (pieces[run.start].span, pieces[run.end - 1].span);
                let bytes = pieces[run.clone()].iter().map(|piece| piece.bytes[0]).sum();
                copied += bytes;
                let merged = piece(first.range.start(), last.range.end(), bytes);
                pieces.splice(run, [merged]);
            }
        }
    }

    #[test]
    fn a_month_of_one_second_blocks_stays_few_files_and_is_copied_a_few_times() {
        let days: u64 = std::env::var("NOZZLE_YEAR_DAYS").map_or(30, |days| days.parse().expect("a number"));
        let seconds = days * 24 * 3600;
        const BLOCK_BYTES: u64 = 20_000;
        let policy = Policy { target_bytes: 512 << 20, min_segments: 2, growth: 4 };
        let (mut pieces, mut copied, mut floor): (Vec<Piece>, u64, usize) = (vec![], 0, 0);
        // A pass every two minutes.
        for start in (0..seconds).step_by(120) {
            pieces.extend((start..start + 120).map(|number| piece(number, number, BLOCK_BYTES)));
            let mut tail = pieces.split_off(floor);
            copied += settle(&mut tail, policy);
            let next = next_floor(&tail, policy, 0);
            floor += tail.iter().take_while(|piece| piece.span.range.start() < next).count();
            pieces.append(&mut tail);
        }
        let whole = seconds * BLOCK_BYTES;
        println!("{} segments, each byte copied {:.1} times", pieces.len(), copied as f64 / whole as f64);
        assert!(pieces.len() as u64 <= 2 * whole / policy.target_bytes + 64, "{} segments", pieces.len());
        assert!(copied <= 5 * whole, "{copied}");
    }

    proptest! {
        #[test]
        fn merging_ends_and_changes_no_block(bytes in prop::collection::vec(0..400_u64, 0..200), growth in 1..6_u64) {
            let policy = Policy { growth, ..POLICY };
            let mut pieces = blocks(&bytes);
            settle(&mut pieces, policy);
            prop_assert_eq!(pieces.iter().map(|piece| piece.span.range.len()).sum::<u64>(), bytes.len() as u64);
            prop_assert!(pieces.iter().all(|piece| piece.bytes[0] <= POLICY.target_bytes));
            prop_assert!(pieces.windows(2).all(|pair| pair[0].span.links_to(&pair[1].span)));
            // Few are left of each size.
            if growth == 1 && bytes.iter().all(|bytes| *bytes > 0) {
                prop_assert!(pieces.windows(2).all(|pair| pair[0].bytes[0] + pair[1].bytes[0] > POLICY.target_bytes));
            }
        }
    }
}

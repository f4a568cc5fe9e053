//! Segments of a derived dataset that were computed from revisions which are not read any more: they are computed
//! again, and those that differ are replaced.
//!
//! Each segment says what it was computed from, down to the raw datasets. What is derived from derived waits until
//! that is of the new revisions itself, so a change goes up level by level.

use std::{collections::HashMap, sync::atomic::Ordering::Relaxed, time::Duration};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::UInt64Type,
};
use futures::{StreamExt, TryStreamExt};
use nozzle_core::{BlockHash, BlockNum, BlockRange, SourceRevisions, TableDef};
use nozzle_metadata::{HeldLease, Segment, SegmentId};
use nozzle_query::RowsHash;
use nozzle_sources::{MadeOf, SourceError};

use crate::{
    commit::Change,
    error::DumpError,
    files,
    job::{CutPolicy, Job},
    lease::{Claimed, Leases},
    observe::Event,
    run::{Round, Run},
};

/// Segments that are looked at under one lease.
const MAX_SEGMENTS: usize = 64;

/// Stale segments that are read from the database at once: more than those that workers beside this one are at.
const MAX_LOOKED_AT: u32 = 1024;

/// Their blocks, unless the first has more.
const MAX_BLOCKS: u64 = 20_000;

impl Run<'_> {
    /// Reads anew what the source is made of. Rows that are read later are of these revisions or of later ones.
    pub async fn look_at_sources(&self) -> Result<(), DumpError> {
        let found = self.dump.source.made_of().await?;
        *self.made_of.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = found;
        Ok(())
    }

    fn made_of(&self) -> Option<MadeOf> {
        self.made_of.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The revisions that rows are computed from, where the dataset is derived.
    pub fn source_revisions(&self) -> Option<SourceRevisions> {
        self.made_of().map(|made_of| made_of.revisions)
    }

    /// The segments of the first table that begin in a range, end at or below `limit`, and were computed from other
    /// revisions than those that are read: the first so many of them.
    pub async fn stale(
        &self,
        range: BlockRange,
        limit: BlockNum,
        at_most: u32,
    ) -> Result<Vec<Segment>, DumpError> {
        let made_of = self.made_of().filter(|made_of| made_of.is_settled);
        let (Some(made_of), Some((_, location))) = (made_of, self.target.tables.first()) else {
            return Ok(vec![]);
        };
        let (sources, metadata) = (made_of.revisions, &self.dump.metadata);
        let mut segments = metadata.stale_segments(location.id, &sources, range, at_most).await?;
        segments.retain(|segment| segment.span.range.end() <= limit);
        Ok(segments)
    }

    /// Computes a few stale segments again, where it is their turn: new blocks come first every other time. `None`
    /// where there is nothing to do.
    pub async fn recompute_some(
        &self,
        last: BlockNum,
        limit: BlockNum,
        is_nothing_missing: bool,
    ) -> Result<Option<Round>, DumpError> {
        if self.has_recomputed.swap(false, Relaxed) && !is_nothing_missing {
            return Ok(None);
        }
        // Whoever follows the head sees to what changes below its own part too: nobody else would.
        let part = self.dump.options.part.filter(|part| !part.switches);
        let first = part.map_or(self.dump.start_block, |part| part.blocks.start());
        let Some(range) = BlockRange::new(first, last) else { return Ok(None) };
        let mut stale = self.stale(range, limit, MAX_LOOKED_AT).await?;
        if stale.is_empty() {
            return Ok(None);
        }
        // Those that others may be writing now come later.
        let held = self.dump.metadata.leases(self.revision.id).await?;
        let holder =
            |segment: &Segment| held.iter().find(|held| held.lease.range.overlaps(segment.span.range));
        let other = stale.iter().find_map(holder).cloned();
        stale.retain(|segment| holder(segment).is_none());
        // A part is done when all of it is: whoever is at it may die.
        let wait = |held: Box<HeldLease>| match part {
            Some(_) if is_nothing_missing => Some(Round::LeftToOthers(held)),
            _ => None,
        };
        let Some(some) = first_run(&stale) else { return Ok(other.map(Box::new).and_then(wait)) };
        self.has_recomputed.store(true, Relaxed);
        let leases = match self.claim(&[some], true).await? {
            Claimed::Some(leases, _) => leases,
            // Then it is theirs to do.
            Claimed::None(held) => return Ok(wait(held)),
            Claimed::Stopped => return Ok(Some(Round::Stopped)),
        };
        let result = self.recompute(some, &leases).await;
        let released = leases.release().await;
        let round = match result {
            Err(DumpError::Source(error @ SourceError::NotLinked { .. })) => Round::Replan(error.to_string()),
            result => result?,
        };
        released.map(|()| Some(round))
    }

    async fn recompute(&self, range: BlockRange, leases: &Leases) -> Result<Round, DumpError> {
        let Some(sources) = self.source_revisions() else { return Ok(Round::Progress) };
        let tables = self.segments(range).await?;
        let Some(mut pieces) = pieces(&tables, range) else {
            return Ok(Round::Replan("another writer has changed the stored blocks".into()));
        };
        // Between the look and the claim another may have done them.
        let ids: Vec<SegmentId> = pieces.iter().map(|piece| piece[0].id).collect();
        let of: HashMap<_, _> = self.dump.metadata.sources(&ids).await?.into_iter().collect();
        pieces.retain(|piece| of.get(&piece[0].id).is_some_and(|of| *of != sources));
        let [first, last] = [pieces.first(), pieces.last()].map(|piece| piece.map(|p| p[0].span.range));
        let Some(range) = first.zip(last).and_then(|(a, b)| BlockRange::new(a.start(), b.end())) else {
            return Ok(Round::Progress);
        };
        self.observer.event(Event::Planned { blocks: range.len() });
        let computing = async {
            let computed = self.computed(range, &pieces).await?;
            let mut are_same = vec![];
            for (piece, computed) in pieces.iter().zip(computed) {
                are_same.push(computed == self.stored(piece).await?);
            }
            Ok::<_, DumpError>(are_same)
        };
        let Some(are_same) = self.unless_stopped(computing).await? else { return Ok(Round::Stopped) };
        let (same, other): (Vec<_>, Vec<_>) = pieces.iter().zip(are_same).partition(|(_, is_same)| *is_same);
        let ids = |piece: &Piece<'_>| piece.iter().map(|segment| segment.id).collect::<Vec<_>>();
        let same: Vec<_> = same.into_iter().flat_map(|(piece, _)| ids(piece)).collect();
        self.dump.metadata.confirm_sources(&same, &sources).await?;
        let replaced = other.len();
        let mut jobs: Vec<Job> = vec![];
        for (piece, _) in other {
            let blocks = piece[0].span.range;
            let terms = self.terms(leases, blocks).ok_or(DumpError::LeaseLost)?;
            // The new segment takes the place of the old one in one commit, unless it fills a file first.
            let cut = CutPolicy { flush_interval: Duration::MAX, ..self.dump.options.cut };
            jobs.push(self.job(terms, blocks, cut, Change { replaced: ids(piece), ..Change::default() }));
        }
        let round = self.run_jobs(jobs, leases).await?;
        if let Round::Progress = round {
            self.observer.event(Event::Recomputed { range, segments: pieces.len(), replaced });
        }
        Ok(round)
    }

    /// A hash of no rows for each table; `None` where values of one cannot be compared.
    fn hashes(&self) -> Option<Vec<RowsHash>> {
        let hash =
            |table: &TableDef| RowsHash::new(table.schema.fields().iter().map(|field| field.data_type()));
        self.target.tables.iter().map(|(table, _)| hash(table).ok()).collect()
    }

    /// What the rows of pieces are now, each by a hash for each table. The order of rows does not count.
    async fn computed(
        &self,
        range: BlockRange,
        pieces: &[Piece<'_>],
    ) -> Result<Vec<Option<Vec<u128>>>, DumpError> {
        let mut hashes: Vec<Option<Vec<RowsHash>>> = pieces.iter().map(|_| self.hashes()).collect();
        let mut blocks = self.dump.source.blocks(range);
        let mut before = pieces.first().map(|piece| piece[0].span.prev_hash);
        while let Some(rows) = blocks.next().await {
            let rows = rows?;
            if let (Some(expected), Some(first)) = (before, rows.blocks.first())
                && first.parent_hash != expected
            {
                return Err(not_linked(first.number, expected, first.parent_hash));
            }
            for (piece, hashes) in pieces.iter().zip(&mut hashes) {
                let span = piece[0].span;
                if !span.range.overlaps(rows.range) {
                    continue;
                }
                for (hash, table) in hashes.iter_mut().flatten().zip(&rows.tables) {
                    add_blocks(hash, &table.batch, span.range)?;
                }
                if rows.range.contains(span.range.end()) {
                    let up_to_end = rows.blocks.iter().take_while(|block| block.number <= span.range.end());
                    let found = up_to_end.last().map(|block| block.hash).or(before).unwrap_or(span.hash);
                    if found != span.hash {
                        return Err(not_linked(span.range.end(), span.hash, found));
                    }
                }
            }
            before = rows.blocks.last().map(|last| last.hash).or(before);
            let count = rows.tables.iter().map(|table| table.batch.num_rows() as u64).sum();
            self.observer.event(Event::Checked { blocks: rows.range.len(), rows: count });
        }
        Ok(hashes.into_iter().map(|hashes| hashes.map(values)).collect())
    }

    /// What the stored rows of a piece are, as [`Self::computed`].
    async fn stored(&self, piece: &Piece<'_>) -> Result<Option<Vec<u128>>, DumpError> {
        let Some(mut hashes) = self.hashes() else { return Ok(Some(vec![])) };
        for ((segment, hash), (table, location)) in piece.iter().zip(&mut hashes).zip(&self.target.tables) {
            let Some(file) = &segment.file else { continue };
            let object = files::object(&self.target.stores, location, &file.name)?;
            let mut rows = files::read_table(object, file, table).await?;
            while let Some(batch) = rows.try_next().await? {
                add_blocks(hash, &batch, segment.span.range)?;
            }
        }
        Ok(Some(values(hashes)))
    }
}

/// One segment of each table, all of the same blocks.
type Piece<'a> = Vec<&'a Segment>;

/// The segments of all tables by their blocks; `None` where they are not cut alike, or not all within the range.
fn pieces(tables: &[Vec<Segment>], range: BlockRange) -> Option<Vec<Piece<'_>>> {
    let count = tables.first()?.len();
    if tables.iter().any(|table| table.len() != count) {
        return None;
    }
    let piece = |place: usize| tables.iter().map(|table| &table[place]).collect::<Piece<'_>>();
    let is_whole = |piece: &Piece<'_>| {
        let span = piece[0].span;
        range.covers(span.range) && piece.iter().all(|segment| segment.span == span)
    };
    (0..count).map(piece).map(|piece| is_whole(&piece).then_some(piece)).collect()
}

fn values(hashes: Vec<RowsHash>) -> Vec<u128> {
    hashes.iter().map(RowsHash::value).collect()
}

/// Adds the rows of some blocks; a batch is sorted by them.
fn add_blocks(hash: &mut RowsHash, batch: &RecordBatch, blocks: BlockRange) -> Result<(), DumpError> {
    let numbers = batch.column(0).as_primitive::<UInt64Type>().values();
    let from = numbers.partition_point(|number| *number < blocks.start());
    let to = numbers.partition_point(|number| *number <= blocks.end());
    let added = hash.add(batch.slice(from, to - from).columns());
    added.map_err(|error| DumpError::store(format!("comparing the rows of blocks {blocks}"), error))
}

fn not_linked(block: BlockNum, expected: BlockHash, found: BlockHash) -> DumpError {
    SourceError::NotLinked { block, expected, found }.into()
}

/// The blocks of the first segments that follow each other, as many as are done at once.
fn first_run(stale: &[Segment]) -> Option<BlockRange> {
    let first = stale.first()?.span.range;
    let mut end = first.end();
    for next in stale.iter().skip(1).take(MAX_SEGMENTS - 1).map(|segment| segment.span.range) {
        if next.start() != end + 1 || next.end() - first.start() >= MAX_BLOCKS {
            break;
        }
        end = next.end();
    }
    BlockRange::new(first.start(), end)
}

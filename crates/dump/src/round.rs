//! One round of a dump: what a look at node and database asks for, and doing it.

use std::sync::{Arc, atomic::Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use nozzle_core::{BlockId, BlockNum, BlockRange, Span, chain, range::MAX_BLOCK};
use nozzle_metadata::{Finality, Scan, Segment};
use nozzle_sources::Place;

use crate::{
    commit::{Change, Refusal, commit},
    error::DumpError,
    job::{CutPolicy, Job, JobEnd},
    lease::{self, Claimed, Leases, Terms},
    observe::Event,
    plan,
    reorg::{self, Orphan},
    rewrite,
    run::{Round, Run, Sight},
};

/// Up to so many new blocks at the head are committed as they come.
const HEAD_BLOCKS: u64 = 64;

impl Run<'_> {
    /// One look at what is stored, and one thing done about it, up to `end` or as far as the dump may
    /// go.
    pub async fn round(&self, sight: Sight, end: Option<BlockNum>) -> Result<Round, DumpError> {
        // The limit is read before the sources; do not swap. Revisions never come back, as only one that is being
        // built becomes the one that is read. So where what a segment says contains what was read at the look, and
        // equals what is read today, its rows are of that.
        let Some(limit) = sight.limit else { return Ok(Round::NothingYet) };
        let last = end.map_or(limit.number, |end| end.min(limit.number));
        let whole_until = self.dump.options.part.map_or(last, |part| part.whole_until.max(last));
        self.goal.store(whole_until, Ordering::Relaxed);
        self.look_at_sources().await?;
        let mut spans = self.spans().await?;
        let mut orphan = match self.unless_stopped(self.find_orphan(&spans, limit)).await? {
            Some(orphan) => orphan,
            None => return Ok(Round::Stopped),
        };
        if orphan.as_ref().is_some_and(|orphan| orphan.fork.is_none()) && self.move_floor(None) {
            // The fork lies below what was looked at: how far below, only all of it tells.
            spans = self.spans().await?;
            orphan = match self.unless_stopped(self.find_orphan(&spans, limit)).await? {
                Some(orphan) => orphan,
                None => return Ok(Round::Stopped),
            };
        }
        if let Some(orphan) = orphan {
            self.refuse_foreign_chain(&orphan, &spans, limit).await?;
            return self.repair(orphan, &spans, limit).await;
        }
        self.write_down(sight.chain).await?;
        let first = self.dump.options.part.map_or(self.dump.start_block, |part| part.blocks.start());
        if last < first {
            return Ok(Round::NothingYet);
        }
        // An end below what was found complete before leaves nothing to do.
        let wanted = BlockRange::new(self.floor.load(Ordering::Relaxed).max(first), last);
        let missing = wanted.map(|wanted| plan::missing(wanted, &spans)).unwrap_or_default();
        if let Some(round) = self.recompute_some(last, limit.number, missing.is_empty()).await? {
            return Ok(round);
        }
        if missing.is_empty() {
            // Neighbours are compared at each commit, so a break cannot be; if it is, say so.
            return match chain::first_break(&spans) {
                None => {
                    self.move_floor(Some(last));
                    Ok(Round::Idle)
                }
                Some(block) => Err(DumpError::Refused(format!("the stored blocks do not link at {block}"))),
            };
        }
        self.extract(&missing, limit, sight.chain.finalized).await
    }

    async fn find_orphan(&self, spans: &[Span], limit: BlockId) -> Result<Option<Orphan>, DumpError> {
        reorg::find_orphan(self.dump.source.as_ref(), &self.target, spans, limit.number).await
    }

    /// Takes note that all up to `last` is stored and linked, so that the next rounds need not read
    /// all of it again: at the head there may be one every second, over years of segments. What a reorg
    /// usually reaches stays above the floor. `None` takes the floor back; `false` where it was there.
    fn move_floor(&self, last: Option<BlockNum>) -> bool {
        let start = self.dump.start_block;
        let reach = 2 * self.dump.options.reorg_depth.max(HEAD_BLOCKS);
        let floor = last.map_or(start, |last| last.saturating_sub(reach).max(start));
        self.floor.swap(floor, Ordering::Relaxed) != floor
    }

    /// The live spans from the floor on, with the neighbours below and above: what is extracted has to
    /// link to them.
    async fn spans(&self) -> Result<Vec<Span>, DumpError> {
        self.spans_from(self.floor.load(Ordering::Relaxed).saturating_sub(1)).await
    }

    /// The live spans that reach above `start`, as far as they are this dump's concern; all tables of a raw
    /// dataset have the same ones.
    pub async fn spans_from(&self, start: BlockNum) -> Result<Vec<Span>, DumpError> {
        let Some((_, location)) = self.target.tables.first() else { return Ok(vec![]) };
        let sequence = self.dump.metadata.sequence().await?;
        let concern = self.dump.options.part.map_or(MAX_BLOCK, |part| part.blocks.end());
        let range = BlockRange::new(start, concern.saturating_add(1).min(MAX_BLOCK));
        let Some(range) = range else { return Ok(vec![]) };
        let scan = Scan { location: location.id, sequence, range };
        Ok(self.dump.metadata.spans(&scan).await?)
    }

    /// Whether nothing is missing up to `limit`.
    pub async fn is_complete(&self, limit: Option<BlockNum>) -> Result<bool, DumpError> {
        // Below the floor of a part are the blocks of others.
        let is_part = self.dump.options.part.is_some();
        let from = if is_part { self.dump.start_block } else { self.floor.load(Ordering::Relaxed) };
        let Some(wanted) = limit.and_then(|limit| BlockRange::new(from, limit)) else { return Ok(false) };
        Ok(plan::missing(wanted, &self.spans_from(from).await?).is_empty())
    }

    pub async fn claim(&self, wanted: &[BlockRange], all_or_nothing: bool) -> Result<Claimed, DumpError> {
        let request = lease::Request {
            store: &self.dump.metadata,
            revision: self.revision.id,
            wanted,
            all_or_nothing,
            holder: &self.dump.options.holder,
        };
        lease::claim(request, self.observer, self.cancel).await
    }

    async fn extract(
        &self,
        missing: &[BlockRange],
        head: BlockId,
        finalized: Option<BlockId>,
    ) -> Result<Round, DumpError> {
        let leases = match self.claim(missing, false).await? {
            Claimed::Some(leases, held) => {
                for held in held {
                    self.observer.event(Event::LeftToWriter { range: held.lease.range, holder: held.holder });
                }
                leases
            }
            Claimed::None(held) => return Ok(Round::LeftToOthers(held)),
            Claimed::Stopped => return Ok(Round::Stopped),
        };
        let result = self.extract_under(&leases, head, finalized).await;
        let released = leases.release().await;
        let round = result?;
        released.map(|()| round)
    }

    async fn extract_under(
        &self,
        leases: &Leases,
        head: BlockId,
        finalized: Option<BlockId>,
    ) -> Result<Round, DumpError> {
        // Another writer may have committed some of it between the look and the claim.
        let spans = self.spans().await?;
        let stored = spans.iter().map(|span| span.range).collect();
        let mut wanted = nozzle_core::range::subtract(leases.ranges(), stored);
        // Rows that tell no hashes are replaced by whole segments: a reorg is not to reach final blocks.
        if let Some(finalized) = finalized.filter(|_| !self.dump.source.is_of_chain()) {
            wanted = plan::cut_behind(&wanted, finalized.number);
        }
        let work = plan::chunks(&wanted, self.dump.options.jobs);
        self.observer.event(Event::Planned { blocks: wanted.iter().map(BlockRange::len).sum() });
        let mut jobs = vec![];
        for range in work {
            let Some(terms) = self.terms(leases, range) else { continue };
            let behind = self.place_before(range, &spans).await?;
            jobs.push(Job { behind, ..self.job(terms, range, self.cut_for(range, head), Change::default()) });
        }
        self.run_jobs(jobs, leases).await
    }

    /// The place in the source's stream right before a range, where one of the stored spans ends there.
    async fn place_before(&self, range: BlockRange, spans: &[Span]) -> Result<Option<Place>, DumpError> {
        if !self.dump.source.has_cursors() {
            return Ok(None);
        }
        let before = spans.iter().map(Span::tip).find(|tip| tip.number + 1 == range.start());
        let Some(block) = before else { return Ok(None) };
        let cursor = self.target.cursor_behind(block).await?;
        Ok(cursor.map(|cursor| Place { block, cursor }))
    }

    /// At the head every group of blocks is committed as it comes; below it segments grow.
    fn cut_for(&self, range: BlockRange, head: BlockId) -> CutPolicy {
        let at_head = range.end() == head.number && range.len() <= HEAD_BLOCKS && self.dump.options.follow;
        CutPolicy {
            flush_interval: if at_head { Duration::ZERO } else { self.dump.options.cut.flush_interval },
            ..self.dump.options.cut
        }
    }

    /// The terms under which a range can be written now.
    pub fn terms(&self, leases: &Leases, range: BlockRange) -> Option<Terms> {
        let is_building = self.is_building.load(Ordering::Relaxed);
        let building_until = is_building.then(|| self.goal.load(Ordering::Relaxed));
        let sources = self.source_revisions();
        Some(Terms { building_until, sources, ..leases.covering(range)? })
    }

    pub fn job(&self, terms: Terms, range: BlockRange, cut: CutPolicy, first_change: Change) -> Job {
        let (target, source) = (Arc::clone(&self.target), Arc::clone(&self.dump.source));
        Job { target, source, cut, terms, range, behind: None, first_change }
    }

    /// Runs jobs side by side, in block order. The first failure or change of the chain stops the
    /// others at a whole block; what they have stays.
    pub async fn run_jobs(&self, jobs: Vec<Job>, leases: &Leases) -> Result<Round, DumpError> {
        let stop = self.cancel.child_token();
        let lost = leases.lost();
        let ends = stream::iter(jobs)
            .map(|job| job.run(self.observer, &stop))
            .buffer_unordered(self.dump.options.jobs.max(1))
            .inspect(|end| {
                if !matches!(end, Ok(JobEnd::Done)) {
                    stop.cancel();
                }
            })
            .collect::<Vec<_>>();
        let mut ends = std::pin::pin!(ends);
        // With a lease lost, those that still hold theirs end at a whole block too.
        let ends = tokio::select! {
            ends = &mut ends => ends,
            () = lost.cancelled() => {
                stop.cancel();
                ends.await
            }
        };
        // Whatever else failed may have failed for that.
        if lost.is_cancelled() { Err(DumpError::LeaseLost) } else { round_of(ends) }
    }

    /// Replaces what a reorg orphaned: what lies below the fork is copied, and the first commit of
    /// the new blocks puts both in the place of the old segments, so that readers do not see a
    /// shorter chain in between.
    async fn repair(&self, orphan: Orphan, spans: &[Span], head: BlockId) -> Result<Round, DumpError> {
        let from = orphan.kept.map_or(orphan.replaced.start(), |kept| kept.end() + 1);
        // Nothing is there to be read again where all that is orphaned lies above the head.
        let again = BlockRange::new(from, orphan.replaced.end().min(head.number));
        self.observer.event(Event::Reorg { fork: orphan.fork, orphaned: orphan.blocks });
        let leases = match self.claim(&[orphan.replaced], true).await? {
            Claimed::Some(leases, _) => leases,
            Claimed::None(held) => return Ok(Round::LeftToOthers(held)),
            Claimed::Stopped => return Ok(Round::Stopped),
        };
        let result = self.replace(&orphan, again, spans, &leases).await;
        let released = leases.release().await;
        let round = result?;
        released.map(|()| round)
    }

    async fn replace(
        &self,
        orphan: &Orphan,
        again: Option<BlockRange>,
        spans: &[Span],
        leases: &Leases,
    ) -> Result<Round, DumpError> {
        // The claim may have waited for another writer, which may have repaired the same.
        if self.spans().await? != spans {
            return Ok(Round::Replan("another writer has changed the stored blocks".into()));
        }
        let Some(terms) = self.terms(leases, orphan.replaced) else { return Err(DumpError::LeaseLost) };
        let stored = self.segments(orphan.replaced).await?;
        let replaced = stored.iter().flatten().map(|segment| segment.id).collect();
        let mut change = Change { replaced, ..Change::default() };
        if let (Some(kept), Some(fork)) = (orphan.kept, orphan.fork) {
            let first: Vec<Segment> =
                stored.iter().filter_map(|segments| segments.first().cloned()).collect();
            let Some(prev_hash) = first.first().map(|segment| segment.span.prev_hash) else {
                return Ok(Round::Replan("the orphaned segments are gone".into()));
            };
            let span = Span { range: kept, prev_hash, hash: fork.hash };
            // What is copied stays what it was computed from.
            let ids: Vec<_> = first.first().map(|segment| segment.id).into_iter().collect();
            let sources = self.dump.metadata.sources(&ids).await?.pop().map(|(_, sources)| sources);
            change.kept =
                rewrite::keep(&self.target, Terms { sources, ..terms.clone() }, &first, span).await?;
        }
        let Some(again) = again else {
            return match commit(&self.target, terms.lease, change, self.observer).await {
                Ok(()) => Ok(Round::Progress),
                Err(Refusal::Replan(error)) => Ok(Round::Replan(error.to_string())),
                Err(Refusal::Failed(error)) => Err(error),
            };
        };
        self.observer.event(Event::Planned { blocks: again.len() });
        // The new blocks take the place of the old ones in one commit, unless they fill a file first.
        let cut = CutPolicy { flush_interval: Duration::MAX, ..self.dump.options.cut };
        let behind = self.place_before(again, spans).await?;
        let job = Job { behind, ..self.job(terms, again, cut, change) };
        self.run_jobs(vec![job], leases).await
    }

    /// The live segments of a range, for each table.
    pub async fn segments(&self, range: BlockRange) -> Result<Vec<Vec<Segment>>, DumpError> {
        let sequence = self.dump.metadata.sequence().await?;
        let mut tables = vec![];
        for (_, location) in &self.target.tables {
            let scan = Scan { location: location.id, sequence, range };
            tables.push(self.dump.metadata.segments(&scan).await?);
        }
        Ok(tables)
    }

    /// A block that was final does not change. Where one would, another chain is behind the
    /// provider's name, and nothing stored may be thrown away for it. Judged by what was written
    /// down while the stored blocks came in, never by what this provider says now.
    async fn refuse_foreign_chain(
        &self,
        orphan: &Orphan,
        spans: &[Span],
        limit: BlockId,
    ) -> Result<(), DumpError> {
        let known = self.dump.metadata.finality(&self.dump.network).await?;
        let stored = spans.last().map_or(orphan.blocks.end(), |span| span.range.end());
        let other_chain = |from| {
            let provider = self.dump.source.provider().to_owned();
            DumpError::OtherChain { provider, stored, from }
        };
        // The final block itself is the surest witness, where the provider is so far. Of what is derived it is one for
        // the raw dataset, which has its own hash: here that of a block without rows may be another's.
        if let Some(finalized) = known.and_then(|known| known.finalized).filter(|f| f.number <= limit.number)
            && self.dump.source.is_of_chain()
            && let Some(theirs) = self.dump.source.block_id(finalized.number).await?
            && theirs.hash != finalized.hash
        {
            return Err(other_chain(orphan.differs.min(finalized.number)));
        }
        // Finality is written down by every dataset of the network, so it may be ahead of what was
        // final when these blocks came in: what lies just below their end was not.
        let unsettled = stored.saturating_sub(self.dump.options.reorg_depth);
        let is_final = match known.and_then(|known| known.finalized) {
            Some(finalized) => orphan.differs <= finalized.number.min(unsettled),
            None => stored.saturating_sub(orphan.differs) >= self.dump.options.reorg_depth,
        };
        if !is_final {
            return Ok(());
        }
        Err(other_chain(orphan.differs))
    }

    /// Writes down how far the chain is, for readers and for the next run. A provider that is
    /// behind does not take finality back, unless the dataset is built anew.
    async fn write_down(&self, mut finality: Finality) -> Result<(), DumpError> {
        let Self { dump, .. } = self;
        if !dump.source.is_of_chain() {
            return Ok(());
        }
        if !dump.options.fresh {
            let known = dump.metadata.finality(&dump.network).await?.and_then(|known| known.finalized);
            if known.is_some_and(|known| finality.finalized.is_none_or(|new| new.number < known.number)) {
                finality.finalized = known;
            }
        }
        Ok(dump.metadata.set_finality(&dump.network, &finality).await?)
    }
}

/// What the ends of all jobs of a round mean: a failure counts first, then a stop by the user.
fn round_of(ends: Vec<Result<JobEnd, DumpError>>) -> Result<Round, DumpError> {
    let mut round = Round::Progress;
    for end in ends {
        match end? {
            JobEnd::Replan(reason) => round = Round::Replan(reason.to_string()),
            JobEnd::Done | JobEnd::Stopped => {}
        }
    }
    Ok(round)
}

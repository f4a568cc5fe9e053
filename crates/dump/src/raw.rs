//! The dump of a raw dataset: rounds of looking, claiming and extracting until the end is reached.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use nozzle_core::{BlockId, BlockNum, BlockRange, Network, Span, TableDef, chain};
use nozzle_metadata::{Dataset, Finality, HeldLease, MetadataStore, Revision, RevisionState, Scan, Segment};
use nozzle_query::Stores;
use nozzle_sources::{Head, SharedSource, SourceError};
use tokio_util::sync::CancellationToken;

use crate::{
    commit::{Change, Refusal, commit},
    error::DumpError,
    job::{CutPolicy, Job, JobEnd},
    lease::{self, Claimed, Leases},
    observe::{Event, Observer, Summary, Tally},
    parquet::ParquetOptions,
    plan,
    reorg::{self, Orphan},
    revision, rewrite,
    writer::Target,
};

/// Rounds in a row that end because the chain changed below them, before the dump gives up: a
/// provider that contradicts itself each time will not mend.
const MAX_REPLANS: u32 = 20;

/// The longest wait for a node that is away, while the head is followed.
const MAX_OUTLAST: Duration = Duration::from_secs(30);

/// Up to so many new blocks at the head are committed as they come.
const HEAD_BLOCKS: u64 = 64;

/// Where a dump ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndBlock {
    /// The head as it is when the dump starts.
    Latest,
    /// This block; a head below it is waited for.
    Number(BlockNum),
    /// So many blocks below the head as it is when the dump starts.
    BelowHead(u64),
}

/// How a raw dataset is dumped.
#[derive(Debug, Clone)]
pub struct DumpOptions {
    /// The last block.
    pub end: EndBlock,
    /// Whether to go on for ever, with the head.
    pub follow: bool,
    /// Whether the head is the finalized block.
    pub only_finalized: bool,
    /// Whether a new revision is built.
    pub fresh: bool,
    /// How many jobs extract side by side.
    pub jobs: usize,
    /// The URL below which a new revision is made, ending in `/`.
    pub base_url: String,
    /// Whether that place was named on purpose.
    pub is_base_explicit: bool,
    /// When segments are cut.
    pub cut: CutPolicy,
    /// How files are written.
    pub parquet: ParquetOptions,
    /// Memory of all unfinished row groups together, in bytes; the jobs share it.
    pub writer_memory_bytes: usize,
    /// How often the head is asked for while it is waited for.
    pub poll_interval: Duration,
    /// How many blocks below the head count as final where the source does not say.
    pub reorg_depth: u64,
    /// Who dumps, in words for a person.
    pub holder: String,
}

/// What is dumped, from where, to where.
#[derive(Debug)]
pub struct RawDump {
    /// The metadata.
    pub metadata: Arc<dyn MetadataStore>,
    /// The stores.
    pub stores: Arc<Stores>,
    /// The source; its tables are those that are stored.
    pub source: SharedSource,
    /// The dataset.
    pub dataset: Dataset,
    /// Its network.
    pub network: Network,
    /// Its first block.
    pub start_block: BlockNum,
    /// How.
    pub options: DumpOptions,
}

impl RawDump {
    /// Dumps until the end is reached or `cancel`, which ends at a whole block.
    pub async fn run(
        self,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Summary, DumpError> {
        let tables = self.source.tables().iter().map(|table| table.name.clone());
        let tally = Tally::new(observer, tables);
        let end = match self.run_on(self.revision().await?, &tally, cancel).await {
            // What was built for another chain was never read: it makes room for what is wanted now.
            Err((DumpError::OtherChain { .. }, revision)) if revision.state == RevisionState::Building => {
                self.metadata.retire_revision(revision.id).await?;
                self.run_on(self.revision().await?, &tally, cancel).await
            }
            end => end,
        };
        let end = end.map_err(|(error, _)| error)?;
        Ok(tally.summary(end == RunEnd::Stopped))
    }

    async fn run_on(
        &self,
        revision: Revision,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<RunEnd, (DumpError, Revision)> {
        let target = match self.target(&revision) {
            Ok(target) => Arc::new(target),
            Err(error) => return Err((error, revision)),
        };
        let run = Run { target, dump: self, revision, observer, cancel };
        let end = run.until_the_end().await;
        end.map_err(|error| (error, run.revision))
    }

    async fn revision(&self) -> Result<Revision, DumpError> {
        revision::resolve(revision::Wanted {
            store: &self.metadata,
            dataset: &self.dataset,
            tables: self.source.tables(),
            base_url: &self.options.base_url,
            is_base_explicit: self.options.is_base_explicit,
            fresh: self.options.fresh,
        })
        .await
    }

    fn target(&self, revision: &Revision) -> Result<Target, DumpError> {
        let location_of = |table: &TableDef| {
            let location = revision.locations.iter().find(|location| location.table == table.name);
            let missing = || DumpError::Refused(format!("the stored revision has no table `{}`", table.name));
            Ok((table.clone(), location.cloned().ok_or_else(missing)?))
        };
        Ok(Target {
            metadata: Arc::clone(&self.metadata),
            stores: Arc::clone(&self.stores),
            tables: self.source.tables().iter().map(location_of).collect::<Result<_, DumpError>>()?,
            network: self.network.clone(),
            parquet: self.options.parquet.clone(),
            job_memory_bytes: self.options.writer_memory_bytes / self.options.jobs.max(1),
        })
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunEnd {
    Reached,
    Stopped,
}

/// What a round has done.
#[derive(Debug)]
enum Round {
    /// Something; look again at once.
    Progress,
    /// The chain changed below it; look again.
    Replan(String),
    /// Nothing: all up to the head is there.
    Idle,
    /// Nothing: the head is still below the dataset's first block.
    NothingYet,
    /// Nothing: the node or the database is away, and it was waited for.
    Outlasted,
    /// Nothing: live writers have all that is missing.
    LeftToOthers(Box<HeldLease>),
    /// It was asked to stop.
    Stopped,
}

/// A dump that has its revision.
struct Run<'a> {
    dump: &'a RawDump,
    target: Arc<Target>,
    revision: Revision,
    observer: &'a dyn Observer,
    cancel: &'a CancellationToken,
}

impl Run<'_> {
    async fn until_the_end(&self) -> Result<RunEnd, DumpError> {
        let Some(mut finality) = self.unless_stopped(self.head()).await? else { return Ok(RunEnd::Stopped) };
        let end = match self.dump.options.end {
            _ if self.dump.options.follow => None,
            EndBlock::Latest => Some(finality.head.number),
            EndBlock::Number(number) => Some(number),
            EndBlock::BelowHead(below) => Some(finality.head.number.saturating_sub(below)),
        };
        if finality.head.number < self.dump.start_block {
            let (head, start) = (finality.head.number, self.dump.start_block);
            self.observer.event(Event::BelowStart { head, start });
        }
        let (mut replans, mut failures, mut has_worked) = (0, 0, false);
        let mut is_building = self.revision.state == RevisionState::Building;
        loop {
            // Whoever follows, or waits for a block to come, outlasts a node that is away for a while.
            let head = finality.head;
            let is_reached = end.is_none_or(|end| head.number >= end);
            let is_patient = end.is_none() || !is_reached;
            let round = match self.round(finality, end).await {
                Err(error) if is_patient && error.may_pass() => {
                    self.outlast(error, &mut failures).await;
                    Round::Outlasted
                }
                Err(DumpError::Source(error @ SourceError::Missing { .. })) => {
                    Round::Replan(error.to_string())
                }
                round => {
                    failures = 0;
                    round?
                }
            };
            match round {
                Round::Stopped => return Ok(RunEnd::Stopped),
                Round::Outlasted => {}
                Round::Progress => (replans, has_worked) = (0, true),
                // Only a dump that finds nothing to do is refused; one that has done its part is done,
                // unless it is also to switch the revision or to see later blocks.
                Round::LeftToOthers(held) if !has_worked => return Err(DumpError::Held(held)),
                Round::LeftToOthers(_) if end.is_some() && is_reached && !is_building => {
                    return Ok(RunEnd::Reached);
                }
                Round::LeftToOthers(_) => self.pause(self.dump.options.poll_interval).await,
                Round::Replan(why) if replans < MAX_REPLANS => {
                    replans += 1;
                    tracing::info!(why, "the chain changed while it was read; looking again");
                    self.pause(Duration::from_millis(50 * u64::from(replans))).await;
                }
                Round::Replan(why) => {
                    return Err(DumpError::Refused(format!(
                        "the provider contradicts itself again and again: {why}. Check that it is one node, or use another"
                    )));
                }
                Round::NothingYet if end.is_some() && is_reached => return Ok(RunEnd::Reached),
                Round::NothingYet => self.pause(self.dump.options.poll_interval).await,
                Round::Idle => {
                    if is_reached && is_building {
                        self.activate().await?;
                        is_building = false;
                    }
                    match end {
                        Some(_) if is_reached => return Ok(RunEnd::Reached),
                        Some(end) => self.observer.event(Event::WaitingForHead { head: head.number, end }),
                        None => {}
                    }
                    self.pause(self.dump.options.poll_interval).await;
                }
            }
            if self.cancel.is_cancelled() {
                return Ok(RunEnd::Stopped);
            }
            finality = loop {
                match self.unless_stopped(self.head()).await {
                    Ok(Some(finality)) => break finality,
                    Ok(None) => return Ok(RunEnd::Stopped),
                    Err(error) if is_patient && error.may_pass() => self.outlast(error, &mut failures).await,
                    Err(error) => return Err(error),
                }
            };
        }
    }

    /// Makes the built revision the one that is read. Another dump may have done so a moment ago.
    async fn activate(&self) -> Result<(), DumpError> {
        let activated = self.dump.metadata.activate_revision(self.revision.id).await;
        if let Err(error) = activated {
            let revisions = self.dump.metadata.revisions(self.dump.dataset.id).await?;
            let is_ours = |r: &Revision| r.id == self.revision.id && r.state == RevisionState::Active;
            if !revisions.iter().any(is_ours) {
                return Err(error.into());
            }
        }
        self.observer.event(Event::Activated);
        Ok(())
    }

    /// Waits after a failure that may pass, longer each time.
    async fn outlast(&self, error: DumpError, failures: &mut u32) {
        let wait = MAX_OUTLAST.min(Duration::from_secs(1 << (*failures).min(8)));
        *failures += 1;
        self.observer.event(Event::Outlasting { why: error.with_causes(), wait });
        self.pause(wait).await;
    }

    /// What `asked` gives; `None` where the dump is told to stop first.
    async fn unless_stopped<T>(
        &self,
        asked: impl Future<Output = Result<T, DumpError>>,
    ) -> Result<Option<T>, DumpError> {
        self.cancel.run_until_cancelled(asked).await.transpose()
    }

    async fn pause(&self, duration: Duration) {
        self.cancel.run_until_cancelled(tokio::time::sleep(duration)).await;
    }

    /// The head as the dump sees it, and what is final: as the source says, or by its depth.
    async fn finality(&self) -> Result<Finality, DumpError> {
        let Head { latest, finalized } = self.dump.source.head().await?;
        let by_depth = latest.number.checked_sub(self.dump.options.reorg_depth);
        let finalized = match (finalized, by_depth) {
            (None, Some(number)) => self.dump.source.block_id(number).await?,
            (finalized, _) => finalized,
        };
        Ok(Finality { head: latest, finalized })
    }

    /// The block up to which the dump may go now.
    async fn head(&self) -> Result<Finality, DumpError> {
        let finality = self.finality().await?;
        if !self.dump.options.only_finalized {
            return Ok(finality);
        }
        let none_is_final = || {
            DumpError::Refused(
                "the chain has no final block yet; leave out --only-finalized-blocks, or try again later"
                    .into(),
            )
        };
        let finalized = finality.finalized.ok_or_else(none_is_final)?;
        Ok(Finality { head: finalized, finalized: Some(finalized) })
    }

    async fn round(&self, finality: Finality, end: Option<BlockNum>) -> Result<Round, DumpError> {
        let head = finality.head;
        let spans = self.spans().await?;
        let find = reorg::find_orphan(self.dump.source.as_ref(), &self.target, &spans, head.number);
        let Some(orphan) = self.unless_stopped(find).await? else { return Ok(Round::Stopped) };
        if let Some(orphan) = orphan {
            self.refuse_foreign_chain(&orphan, &spans).await?;
            return self.repair(orphan, &spans, head).await;
        }
        self.write_down(finality).await?;
        let last = end.map_or(head.number, |end| end.min(head.number));
        let Some(wanted) = BlockRange::new(self.dump.start_block, last) else { return Ok(Round::NothingYet) };
        let missing = plan::missing(wanted, &spans);
        if missing.is_empty() {
            // Neighbours are compared at each commit, so a break cannot be; if it is, say so.
            return match chain::first_break(&spans) {
                None => Ok(Round::Idle),
                Some(block) => Err(DumpError::Refused(format!("the stored blocks do not link at {block}"))),
            };
        }
        self.extract(&missing, head).await
    }

    /// The live spans; all tables of a raw dataset have the same ones.
    async fn spans(&self) -> Result<Vec<Span>, DumpError> {
        let Some((_, location)) = self.target.tables.first() else { return Ok(vec![]) };
        let sequence = self.dump.metadata.sequence().await?;
        let scan = Scan { location: location.id, sequence, range: BlockRange::from(0) };
        Ok(self.dump.metadata.spans(&scan).await?)
    }

    async fn claim(&self, wanted: &[BlockRange], all_or_nothing: bool) -> Result<Claimed, DumpError> {
        let request = lease::Request {
            store: &self.dump.metadata,
            revision: self.revision.id,
            wanted,
            all_or_nothing,
            holder: &self.dump.options.holder,
        };
        lease::claim(request, self.observer, self.cancel).await
    }

    async fn extract(&self, missing: &[BlockRange], head: BlockId) -> Result<Round, DumpError> {
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
        let result = self.extract_under(&leases, head).await;
        let released = leases.release().await;
        let round = result?;
        released.map(|()| round)
    }

    async fn extract_under(&self, leases: &Leases, head: BlockId) -> Result<Round, DumpError> {
        // Another writer may have committed some of it between the look and the claim.
        let stored = self.spans().await?.iter().map(|span| span.range).collect();
        let wanted = nozzle_core::range::subtract(leases.ranges(), stored);
        let work = plan::chunks(&wanted, self.dump.options.jobs);
        self.observer.event(Event::Planned { blocks: wanted.iter().map(BlockRange::len).sum() });
        let jobs = work.into_iter().filter_map(|range| {
            let lease = leases.covering(range)?;
            Some(self.job(lease, range, self.cut_for(range, head), Change::default()))
        });
        self.run_jobs(jobs.collect(), leases).await
    }

    /// At the head every group of blocks is committed as it comes; below it segments grow.
    fn cut_for(&self, range: BlockRange, head: BlockId) -> CutPolicy {
        let at_head = range.end() == head.number && range.len() <= HEAD_BLOCKS && self.dump.options.follow;
        CutPolicy {
            flush_interval: if at_head { Duration::ZERO } else { self.dump.options.cut.flush_interval },
            ..self.dump.options.cut
        }
    }

    fn job(
        &self,
        lease: nozzle_metadata::LeaseId,
        range: BlockRange,
        cut: CutPolicy,
        first_change: Change,
    ) -> Job {
        let (target, source) = (Arc::clone(&self.target), Arc::clone(&self.dump.source));
        Job { target, source, cut, lease, range, first_change }
    }

    /// Runs jobs side by side, in block order. The first failure or change of the chain stops the
    /// others at a whole block; what they have stays.
    async fn run_jobs(&self, jobs: Vec<Job>, leases: &Leases) -> Result<Round, DumpError> {
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
        let round = round_of(ends)?;
        if lost.is_cancelled() { Err(DumpError::LeaseLost) } else { Ok(round) }
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
            Claimed::None(held) => return Err(DumpError::Held(held)),
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
        let Some(lease) = leases.covering(orphan.replaced) else { return Err(DumpError::LeaseLost) };
        let stored = self.segments(orphan.replaced).await?;
        let mut change =
            Change { added: vec![], replaced: stored.iter().flatten().map(|segment| segment.id).collect() };
        if let (Some(kept), Some(fork)) = (orphan.kept, orphan.fork) {
            let first: Vec<Segment> =
                stored.iter().filter_map(|segments| segments.first().cloned()).collect();
            let Some(prev_hash) = first.first().map(|segment| segment.span.prev_hash) else {
                return Ok(Round::Replan("the orphaned segments are gone".into()));
            };
            let span = Span { range: kept, prev_hash, hash: fork.hash };
            change.added = rewrite::keep(&self.target, lease, &first, span).await?;
        }
        let Some(again) = again else {
            return match commit(&self.target, lease, change, self.observer).await {
                Ok(()) => Ok(Round::Progress),
                Err(Refusal::Replan(error)) => Ok(Round::Replan(error.to_string())),
                Err(Refusal::Failed(error)) => Err(error),
            };
        };
        self.observer.event(Event::Planned { blocks: again.len() });
        // The new blocks take the place of the old ones in one commit, unless they fill a file first.
        let cut = CutPolicy { flush_interval: Duration::MAX, ..self.dump.options.cut };
        let job = self.job(lease, again, cut, change);
        self.run_jobs(vec![job], leases).await
    }

    /// The live segments of a range, for each table.
    async fn segments(&self, range: BlockRange) -> Result<Vec<Vec<Segment>>, DumpError> {
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
    async fn refuse_foreign_chain(&self, orphan: &Orphan, spans: &[Span]) -> Result<(), DumpError> {
        let known = self.dump.metadata.finality(&self.dump.network).await?;
        let stored = spans.last().map_or(orphan.blocks.end(), |span| span.range.end());
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
        Err(DumpError::OtherChain { stored, from: orphan.differs })
    }

    /// Writes down how far the chain is, for readers and for the next run. A provider that is
    /// behind does not take finality back, unless the dataset is built anew.
    async fn write_down(&self, mut finality: Finality) -> Result<(), DumpError> {
        let Self { dump, .. } = self;
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

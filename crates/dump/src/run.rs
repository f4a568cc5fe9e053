//! The rounds of a dump in their order: look, do one thing, look again, until the end is reached.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nozzle_core::{BlockId, BlockNum, BlockRange};
use nozzle_metadata::{Finality, HeldLease, Revision, RevisionState};
use nozzle_sources::{Head, MadeOf};
use tokio_util::sync::CancellationToken;

use crate::{
    error::DumpError,
    observe::{Event, Observer},
    plan,
    raw::{EndBlock, Outlook, RawDump},
    writer::Target,
};

/// Rounds in a row that end because the chain changed below them, before a dump that has an end
/// gives up: a provider that contradicts itself each time will not mend soon.
const MAX_REPLANS: u32 = 20;

/// How long such rounds may go on, where each of them has waited for a block that never came.
const MAX_REPLANNING: Duration = Duration::from_secs(15);

/// The longest wait for a node that is away, while the head is followed.
const MAX_OUTLAST: Duration = Duration::from_secs(30);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// All up to its end is there.
    Reached,
    /// It was asked to stop.
    Stopped,
}

/// What a round has done.
#[derive(Debug)]
pub(crate) enum Round {
    /// Something; look again at once.
    Progress,
    /// The chain changed below it; look again.
    Replan(String),
    /// Nothing: all up to the head is there.
    Idle,
    /// Nothing: the head is still below the dataset's first block, or no block is final yet.
    NothingYet,
    /// Nothing: the node or the database is away, and it was waited for.
    Outlasted,
    /// Nothing: live writers have all that is missing.
    LeftToOthers(Box<HeldLease>),
    /// It was asked to stop.
    Stopped,
}

/// How far the chain is, and how far the dump may go now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    /// The chain as the source shows it.
    pub chain: Finality,
    /// The last block that the dump may take: the head, or the final one. `None` where only final
    /// blocks are wanted and none is.
    pub limit: Option<BlockId>,
}

/// Where a dump ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// It follows the head.
    Never,
    /// At this block, however long it takes to come.
    At(BlockNum),
    /// At the block that the first look gave. Where the chain has become shorter since, at its head:
    /// the block may never come again.
    AtMost(BlockNum),
}

impl Goal {
    /// The last block as things are now; `None` where there is none.
    fn end(self, limit: Option<BlockNum>) -> Option<BlockNum> {
        match self {
            Self::Never => None,
            Self::At(end) => Some(end),
            Self::AtMost(end) => Some(limit.map_or(end, |limit| limit.min(end))),
        }
    }
}

/// A dump that has its revision.
pub(crate) struct Run<'a> {
    pub dump: &'a RawDump,
    pub target: Arc<Target>,
    pub revision: Revision,
    pub observer: &'a dyn Observer,
    pub cancel: &'a CancellationToken,
    /// Whether the revision is still being built.
    pub is_building: AtomicBool,
    /// The last block that the newest round wants.
    pub goal: AtomicU64,
    /// Below it a former round of this run has found all blocks stored and linked: see `round`.
    pub floor: AtomicU64,
    /// What the newest round found its source to be made of, where that is something stored.
    pub made_of: Mutex<Option<MadeOf>>,
    /// Whether the last round has computed segments again: the next one sees to new blocks first.
    pub has_recomputed: AtomicBool,
}

/// What the loop remembers from round to round.
#[derive(Debug, Default)]
struct Past {
    /// Rounds in a row below which the chain has changed.
    replans: u32,
    /// When the first of them ended.
    replanning_since: Option<Instant>,
    /// Failures in a row that were waited for.
    failures: u32,
    /// Whether a round has done something, or found all of it done.
    has_worked: bool,
}

impl Past {
    /// Counts one more round below which the chain has changed; whether it is worth while to look again.
    fn count_replan(&mut self, now: Instant) -> bool {
        if self.replans == 0 {
            self.replanning_since = Some(now);
        }
        self.replans += 1;
        let is_long = self.replanning_since.is_some_and(|since| now - since >= MAX_REPLANNING);
        self.replans <= MAX_REPLANS && !is_long
    }
}

impl<'a> Run<'a> {
    /// A run that has not begun.
    pub fn new(
        dump: &'a RawDump,
        revision: Revision,
        target: Arc<Target>,
        observer: &'a dyn Observer,
        cancel: &'a CancellationToken,
    ) -> Self {
        let floor = AtomicU64::new(dump.options.part.map_or(dump.start_block, |part| part.blocks.start()));
        let is_building = AtomicBool::new(revision.state == RevisionState::Building);
        Self {
            dump,
            target,
            revision,
            observer,
            cancel,
            is_building,
            goal: AtomicU64::new(0),
            floor,
            made_of: Mutex::new(None),
            has_recomputed: AtomicBool::new(false),
        }
    }

    /// Rounds until the end is reached, or the dump is asked to stop.
    pub async fn until_the_end(&self) -> Result<RunEnd, DumpError> {
        let mut past = Past::default();
        let Some(mut sight) = self.look_again_while(self.dump.options.follow, &mut past).await? else {
            return Ok(RunEnd::Stopped);
        };
        let Some(goal) = self.goal(&sight).await? else { return Ok(RunEnd::Reached) };
        loop {
            let limit = sight.limit.map(|limit| limit.number);
            let end = goal.end(limit);
            let is_building = self.is_building.load(Ordering::Relaxed);
            let is_reached = end.is_none_or(|end| limit.is_some_and(|limit| limit >= end));
            // Whoever follows, or waits for a block to come, outlasts a node that is away for a while.
            let is_patient = goal == Goal::Never || !is_reached;
            match self.patient_round(sight, end, is_patient, &mut past).await? {
                Round::Stopped => return Ok(RunEnd::Stopped),
                Round::Outlasted => {}
                Round::Progress => {
                    past.replans = 0;
                    past.has_worked = true;
                    // A chain that is faster than a round never leaves one with nothing to do.
                    if is_building && goal == Goal::Never {
                        self.switch_if_complete(limit).await?;
                    }
                }
                Round::LeftToOthers(_) if self.dump.options.part.is_some() => {
                    self.pause(self.dump.options.poll_interval).await;
                }
                // Only a dump that finds nothing to do is refused; one that has done its part is done,
                // unless it is also to switch the revision or to see later blocks.
                Round::LeftToOthers(held) if !past.has_worked => return Err(DumpError::Held(held)),
                Round::LeftToOthers(_) if end.is_some() && is_reached && !is_building => {
                    return Ok(RunEnd::Reached);
                }
                Round::LeftToOthers(_) => self.pause(self.dump.options.poll_interval).await,
                Round::Replan(why) => self.look_again(why, is_patient, &mut past).await?,
                Round::NothingYet if end.is_some() && is_reached => return Ok(RunEnd::Reached),
                Round::NothingYet => self.pause_at_head().await,
                Round::Idle => {
                    past.has_worked = true;
                    past.replans = 0;
                    self.observer.event(Event::UpToDate);
                    if is_reached && is_building {
                        self.switch_if_complete(end.or(limit)).await?;
                    }
                    match (end, limit) {
                        (Some(_), _) if is_reached => return Ok(RunEnd::Reached),
                        (Some(end), Some(head)) => self.observer.event(Event::WaitingForHead { head, end }),
                        _ => {}
                    }
                    self.pause_at_head().await;
                }
            }
            if self.cancel.is_cancelled() {
                return Ok(RunEnd::Stopped);
            }
            sight = match self.look_again_while(is_patient, &mut past).await? {
                Some(sight) => sight,
                None => return Ok(RunEnd::Stopped),
            };
        }
    }

    /// Looks until there is something to be seen, where failures that may pass are waited for. `None` where
    /// the dump is told to stop first.
    async fn look_again_while(&self, is_patient: bool, past: &mut Past) -> Result<Option<Sight>, DumpError> {
        loop {
            match self.unless_stopped(self.look()).await {
                Err(error) if is_patient && error.may_pass() => {
                    self.outlast(&error, &mut past.failures).await;
                }
                sight => return sight,
            }
        }
    }

    /// Where the dump ends; `None` where that lies below the chain's first block.
    async fn goal(&self, first: &Sight) -> Result<Option<Goal>, DumpError> {
        let options = &self.dump.options;
        let goal = match (options.follow, options.end, first.limit) {
            (true, ..) => Some(Goal::Never),
            (false, EndBlock::Number(number), _) => Some(Goal::At(number)),
            (false, EndBlock::AtMost(number), _) => Some(Goal::AtMost(number)),
            (false, EndBlock::Latest | EndBlock::BelowHead(_), None) => {
                return Err(DumpError::NoFinalBlock);
            }
            (false, EndBlock::Latest, Some(limit)) => Some(Goal::AtMost(limit.number)),
            (false, EndBlock::BelowHead(below), Some(limit)) => {
                self.tip(limit.number).await?.checked_sub(below).map(Goal::AtMost)
            }
        };
        let start = self.dump.start_block;
        let why = match (first.limit, goal) {
            (None, _) => "no block is final yet".to_owned(),
            (Some(limit), None) => {
                format!("the head is {}, and there is no block so far below it", limit.number)
            }
            (Some(limit), _) if limit.number < start => {
                format!("the head is {}, and the dataset starts at block {start}", limit.number)
            }
            _ => return Ok(goal),
        };
        self.observer.event(Event::NothingYet { why });
        Ok(goal)
    }

    /// The head that an end is so far below, `limit` where the source knows it. What is derived ends where all that
    /// it is made of does: not so far below the end of that once more.
    async fn tip(&self, limit: BlockNum) -> Result<BlockNum, DumpError> {
        if self.dump.source.is_of_chain() {
            return Ok(limit);
        }
        let known = self.dump.metadata.finality(&self.dump.network).await?;
        let is_final = self.dump.options.only_finalized;
        let tip = known.and_then(|known| if is_final { known.finalized } else { Some(known.head) });
        Ok(tip.map_or(limit, |tip| tip.number.max(limit)))
    }

    /// A round; failures that may pass are waited for where that is wanted.
    async fn patient_round(
        &self,
        sight: Sight,
        end: Option<BlockNum>,
        is_patient: bool,
        past: &mut Past,
    ) -> Result<Round, DumpError> {
        match self.round(sight, end).await {
            Err(error) if is_patient && error.may_pass() => {
                self.outlast(&error, &mut past.failures).await;
                Ok(Round::Outlasted)
            }
            Err(DumpError::Source(error)) if error.is_missing() => Ok(Round::Replan(error.to_string())),
            round => {
                past.failures = 0;
                round
            }
        }
    }

    /// Waits a little after the chain has changed below a round, longer each time.
    async fn look_again(&self, why: String, is_patient: bool, past: &mut Past) -> Result<(), DumpError> {
        if past.count_replan(Instant::now()) {
            tracing::info!(why, "the chain changed while it was read; looking again");
            self.pause(Duration::from_millis(50 * u64::from(past.replans))).await;
            return Ok(());
        }
        let error = DumpError::Unsteady(format!(
            "the provider `{}` contradicts itself again and again: {why}. Check that it is one node, or use another",
            self.dump.source.provider()
        ));
        if !is_patient {
            return Err(error);
        }
        self.outlast(&error, &mut past.failures).await;
        Ok(())
    }

    /// What is left to do, before anything is done.
    pub async fn outlook(&self) -> Result<Outlook, DumpError> {
        let sight = self.look().await?;
        let start = self.dump.start_block;
        let goal = self.goal(&sight).await?;
        let end = goal.and_then(|goal| goal.end(sight.limit.map(|limit| limit.number)));
        let finalized = sight.chain.finalized.map(|block| block.number);
        let settled_end = end.map_or(finalized, |end| finalized.map(|finalized| finalized.min(end)));
        let spans = self.spans_from(start).await?;
        let wanted = settled_end.and_then(|settled| BlockRange::new(start, settled));
        let mut settled = wanted.map(|wanted| plan::missing(wanted, &spans)).unwrap_or_default();
        self.look_at_sources().await?;
        if let Some(wanted) = wanted {
            let stale = self.stale(wanted, wanted.end(), u32::MAX).await?;
            settled.extend(stale.iter().map(|segment| segment.span.range));
            settled = nozzle_core::range::merge(settled);
        }
        Ok(Outlook {
            is_empty: goal.is_none(),
            end,
            head: sight.chain.head.number,
            settled,
            unsettled_from: finalized.map_or(start, |finalized| (finalized + 1).max(start)),
        })
    }

    /// Makes a built revision the one that is read, if nothing is missing up to `limit` and that is this
    /// dump's to do.
    async fn switch_if_complete(&self, limit: Option<BlockNum>) -> Result<(), DumpError> {
        let is_ours = self.dump.options.part.is_none_or(|part| part.switches);
        if is_ours && self.is_complete(limit).await? { self.activate().await } else { Ok(()) }
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
        self.is_building.store(false, Ordering::Relaxed);
        self.observer.event(Event::Activated);
        Ok(())
    }

    /// Waits after a failure that may pass, longer each time.
    async fn outlast(&self, error: &DumpError, failures: &mut u32) {
        let wait = MAX_OUTLAST.min(Duration::from_secs(1 << (*failures).min(8)));
        *failures += 1;
        self.observer.event(Event::Outlasting { why: error.with_causes(), wait });
        self.pause(wait).await;
    }

    /// What `asked` gives; `None` where the dump is told to stop first.
    pub async fn unless_stopped<T>(
        &self,
        asked: impl Future<Output = Result<T, DumpError>>,
    ) -> Result<Option<T>, DumpError> {
        self.cancel.run_until_cancelled(asked).await.transpose()
    }

    async fn pause(&self, duration: Duration) {
        self.cancel.run_until_cancelled(tokio::time::sleep(duration)).await;
    }

    /// Waits until the head may have moved: the source says so, or it is time to ask.
    async fn pause_at_head(&self) {
        tokio::select! {
            () = self.pause(self.dump.options.poll_interval) => {}
            () = self.dump.source.head_moved() => {}
        }
    }

    /// The head, and what is final: as the source says, or by its depth.
    async fn look(&self) -> Result<Sight, DumpError> {
        let Head { latest, finalized } = self.dump.source.head().await?;
        let by_depth = latest.number.checked_sub(self.dump.options.reorg_depth);
        let finalized = match (finalized, by_depth) {
            (None, Some(number)) => self.dump.source.block_id(number).await?,
            (finalized, _) => finalized,
        };
        let limit = if self.dump.options.only_finalized { finalized } else { Some(latest) };
        Ok(Sight { chain: Finality { head: latest, finalized }, limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replans_in_a_row_are_bounded_by_number_and_by_time() {
        let start = Instant::now();
        let mut past = Past::default();
        assert!((0..MAX_REPLANS).all(|_| past.count_replan(start)));
        assert!(!past.count_replan(start));
        past.replans = 0;
        let late = start + MAX_REPLANNING;
        assert!(past.count_replan(late), "the time counts from the first in a row");
        assert!(!past.count_replan(late + MAX_REPLANNING));
    }

    #[test]
    fn an_end_that_was_the_head_moves_down_with_a_shorter_chain() {
        assert_eq!(Goal::Never.end(Some(9)), None);
        assert_eq!(Goal::At(20).end(Some(9)), Some(20));
        assert_eq!(Goal::AtMost(20).end(Some(25)), Some(20));
        assert_eq!(Goal::AtMost(20).end(Some(9)), Some(9));
        assert_eq!(Goal::AtMost(20).end(None), Some(20));
    }
}

//! A source of several providers: where one fails, the next one goes on.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use nozzle_core::{BlockId, BlockNum, BlockRange, TableDef};
use tokio::time::Instant;

use crate::{
    error::SourceError,
    remaining::Remaining,
    retry::RetryPolicy,
    source::{BlockRows, BlockSource, Head, Place, SharedSource},
};

/// A head so many blocks below the one that another provider has shown is that of a provider that is
/// behind. Less is the time that a block takes from node to node.
const MAX_LAG_BLOCKS: u64 = 64;

/// A chain that breaks so often within [`BREAKS_WITHIN`] is not being reorganised: the provider mixes
/// the blocks of several. Fewer than the rounds after which a dump gives up.
const MAX_BREAKS: u32 = 5;

/// The time in which breaks of the chain are counted together.
const BREAKS_WITHIN: Duration = Duration::from_secs(60);

/// How long providers rest, and how often all of them are asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FailoverPolicy {
    /// The first rest; each further one is twice as long.
    pub rest: Duration,
    /// The longest rest. A provider that has done without one for so long begins anew.
    pub longest_rest: Duration,
    /// How often all providers are asked in all where one has sent a bad block, which may be only an
    /// answer that was damaged on its way.
    pub rounds: RetryPolicy,
    /// How often all of several are asked in all where one pushes back: each is left soon while another may
    /// answer, and waited for where none does.
    pub busy_rounds: RetryPolicy,
}

impl Default for FailoverPolicy {
    /// Rests from 30 seconds to 10 minutes, three rounds within about two seconds, twelve within about a minute
    /// where providers push back.
    fn default() -> Self {
        Self {
            rest: Duration::from_secs(30),
            longest_rest: Duration::from_secs(600),
            rounds: RetryPolicy::among_several(),
            busy_rounds: RetryPolicy {
                attempts: 12,
                base: Duration::from_secs(1),
                cap: Duration::from_secs(8),
            },
        }
    }
}

/// Several providers of one chain, each of them a source that does its own retries.
///
/// A question goes to the first provider by order that does not rest. Where that fails, the provider
/// rests and the next one is asked; those that rest are asked last. With all of them failed the error
/// names each. A provider of another chain rests for good. A stream goes on behind the last block
/// received, with a provider that is back in its turn too, and the seam must link. A chain that breaks
/// is for the caller to look at again, but a provider in whose blocks it does so again and again rests.
///
/// The head is that of the provider in use. One that is far below what another provider has shown
/// lately counts as a failure: the chain has not become shorter, the provider is behind, and a dump
/// that waits for the head waits on. One that is a little below is passed on, as a single node behind
/// a load balancer would have it: what is stored above it is not compared, so nothing is taken for
/// orphaned. A final block stays final whoever is asked, so the highest that was shown by any
/// provider counts, also where the one in use knows of none.
#[derive(Debug)]
pub struct Failover {
    pool: Arc<Pool>,
}

impl Failover {
    /// The providers by name, in the order in which they are tried; `None` where there is none. All
    /// must have the same tables.
    pub fn new(providers: Vec<(String, SharedSource)>, policy: FailoverPolicy) -> Option<Self> {
        let tables = providers.first()?.1.tables().to_vec();
        let names: Vec<_> = providers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join("` or `");
        let target = |(name, source)| Target { name, source, standing: Mutex::default() };
        let targets = providers.into_iter().map(target).collect();
        Some(Self { pool: Arc::new(Pool { names, tables, targets, policy, seen: Mutex::default() }) })
    }
}

#[derive(Debug)]
struct Pool {
    /// Those of all, for messages.
    names: String,
    tables: Vec<TableDef>,
    targets: Vec<Target>,
    policy: FailoverPolicy,
    /// The highest head of late, and who has shown it.
    seen: Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Target {
    name: String,
    source: SharedSource,
    standing: Mutex<Standing>,
}

/// What is held against a provider.
#[derive(Debug, Default)]
struct Standing {
    is_of_another_chain: bool,
    /// The end of the last rest, as long as the provider has not answered since.
    rests_until: Option<Instant>,
    /// Whether it has answered when it was last asked, though it rests as all do.
    answers: bool,
    /// Rests in a row, and when the last one ended.
    rests: u32,
    last_rest_end: Option<Instant>,
    /// How often the chain has broken since this moment.
    breaks: u32,
    first_break: Option<Instant>,
}

impl Standing {
    /// Whom to prefer: those that do not rest, then those that do, and of these those that answer all the
    /// same, then those of another chain.
    fn rank(&self, now: Instant) -> u8 {
        match (self.is_of_another_chain, self.rests_until) {
            (true, _) => 3,
            (false, Some(end)) if now < end => {
                if self.answers {
                    1
                } else {
                    2
                }
            }
            (false, _) => 0,
        }
    }

    /// Begins a rest, longer each time, and says how long.
    fn begin_rest(&mut self, policy: &FailoverPolicy, now: Instant) -> Duration {
        if self.last_rest_end.is_some_and(|end| now > end + policy.longest_rest) {
            self.rests = 0;
        }
        let rest = policy.rest.saturating_mul(2_u32.saturating_pow(self.rests)).min(policy.longest_rest);
        self.rests += 1;
        self.rests_until = Some(now + rest);
        self.answers = false;
        self.last_rest_end = self.rests_until;
        rest
    }

    /// Counts a break of the chain; whether there were too many of late.
    fn count_break(&mut self, now: Instant) -> bool {
        if self.first_break.is_none_or(|first| now > first + BREAKS_WITHIN) {
            self.first_break = Some(now);
            self.breaks = 0;
        }
        self.breaks += 1;
        self.breaks >= MAX_BREAKS
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    by: usize,
    at: Instant,
    head: Head,
}

/// A question on its way from provider to provider.
#[derive(Debug)]
struct Turn {
    /// The provider whose turn it is.
    target: usize,
    /// Who has failed in this round, and how.
    failures: Vec<(usize, SourceError)>,
    /// Rounds in which all have failed.
    rounds: u32,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks can leave half of it behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Begins with the first provider in order that does not rest.
    fn begin(&self) -> Turn {
        Turn { target: self.choose(|_| true).unwrap_or(0), failures: vec![], rounds: 0 }
    }

    /// The first of those that are `open`: in order, but with those that rest behind the others.
    fn choose(&self, open: impl Fn(usize) -> bool) -> Option<usize> {
        let now = Instant::now();
        let open = (0..self.targets.len()).filter(|index| open(*index));
        open.min_by_key(|index| (locked(&self.targets[*index].standing).rank(now), *index))
    }

    /// Takes note that the provider has answered. Where it rests because of what another stream has
    /// met, or since all do, it rests on.
    fn succeeded(&self, index: usize) {
        let (Target { name, standing, .. }, now) = (&self.targets[index], Instant::now());
        let mut standing = locked(standing);
        standing.answers = true;
        if standing.rests_until.is_some_and(|end| end <= now) {
            standing.rests_until = None;
            tracing::info!(provider = name, "the provider answers again and is used again");
        }
    }

    /// Takes note that the chain has broken in the provider's blocks.
    fn broke(&self, index: usize, error: &SourceError) {
        let is_often = locked(&self.targets[index].standing).count_break(Instant::now());
        if is_often && let Some(next) = self.choose(|other| other != index) {
            self.leave(index, next, error);
        }
    }

    /// Passes a question on; the error where all have failed often enough, or where it is none of
    /// a provider.
    async fn failed(&self, turn: &mut Turn, error: SourceError) -> Result<(), SourceError> {
        let failed = turn.target;
        if matches!(error, SourceError::NotLinked { .. }) {
            self.broke(failed, &error);
            return Err(error);
        }
        turn.failures.push((failed, error));
        let is_open = |index| turn.failures.iter().all(|(failed, _)| *failed != index);
        if let Some(next) = self.choose(is_open) {
            if let Some((_, error)) = turn.failures.last() {
                self.leave(failed, next, error);
            }
            turn.target = next;
            return Ok(());
        }
        turn.rounds += 1;
        match self.rounds(&turn.failures).and_then(|rounds| rounds.pause(turn.rounds)) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(all_failed(std::mem::take(&mut turn.failures))),
        }
        turn.failures.clear();
        turn.target = self.choose(|_| true).unwrap_or(0);
        Ok(())
    }

    /// How often all are asked again where they have failed like this.
    fn rounds(&self, failures: &[(usize, SourceError)]) -> Option<&RetryPolicy> {
        let any = |is: fn(&SourceError) -> bool| failures.iter().any(|(_, error)| is(error));
        let is_busy = any(|error| matches!(error, SourceError::PushedBack { .. }));
        if is_busy && self.targets.len() > 1 {
            return Some(&self.policy.busy_rounds);
        }
        any(|error| matches!(error, SourceError::Malformed { .. })).then_some(&self.policy.rounds)
    }

    /// Lets a provider rest, and says so once.
    fn leave(&self, index: usize, next: usize, error: &SourceError) {
        let Target { name, standing, .. } = &self.targets[index];
        let (mut standing, now) = (locked(standing), Instant::now());
        if standing.rank(now) > 0 {
            standing.answers = false;
            return;
        }
        let (error_text, next) = (error.with_causes(), &self.targets[next].name);
        if matches!(error, SourceError::OtherChain { .. }) {
            standing.is_of_another_chain = true;
            tracing::error!(error = error_text, next, "the provider `{name}` is not used any more");
        } else {
            let rest_secs = standing.begin_rest(&self.policy, now).as_secs();
            tracing::warn!(error = error_text, next, rest_secs, "the provider `{name}` is left to rest");
        }
    }

    async fn ask<T, F>(&self, ask: impl Fn(usize) -> F) -> Result<T, SourceError>
    where
        F: Future<Output = Result<T, SourceError>>,
    {
        let mut turn = self.begin();
        loop {
            match ask(turn.target).await {
                Ok(answer) => {
                    self.succeeded(turn.target);
                    return Ok(answer);
                }
                Err(error) => self.failed(&mut turn, error).await?,
            }
        }
    }

    /// Whether a block is at or below the highest head of late.
    fn has_shown(&self, number: BlockNum) -> bool {
        locked(&self.seen).is_some_and(|seen| number <= seen.head.latest.number)
    }

    /// A block that the first provider denies, as the next one gives it that has it and does not rest.
    /// Not to have it is an answer too, so nobody is left for it.
    async fn found_by_another(&self, number: BlockNum) -> Option<BlockId> {
        let is_in_use = |target: &&Target| locked(&target.standing).rank(Instant::now()) == 0;
        let others: Vec<_> = self.targets.iter().filter(is_in_use).skip(1).collect();
        for target in others {
            if let Ok(Some(block)) = target.source.block_id(number).await {
                return Some(block);
            }
        }
        None
    }

    async fn head_of(&self, index: usize) -> Result<Head, SourceError> {
        let mut head = self.targets[index].source.head().await?;
        let now = Instant::now();
        let mut seen = locked(&self.seen);
        let lately = seen.filter(|seen| now < seen.at + self.policy.longest_rest && seen.by != index);
        if let Some(lately) = lately {
            let (latest, highest) = (head.latest.number, lately.head.latest.number);
            if latest.saturating_add(MAX_LAG_BLOCKS) < highest {
                let other = &self.targets[lately.by].name;
                return Err(SourceError::Unavailable {
                    provider: self.targets[index].name.clone(),
                    source: format!(
                        "its head is block {latest}, far below {highest}, which `{other}` has shown"
                    )
                    .into(),
                });
            }
        }
        if self.targets.len() > 1 {
            let shown = seen.and_then(|seen| seen.head.finalized);
            let shown = shown.filter(|shown| shown.number <= head.latest.number);
            head.finalized = head.finalized.into_iter().chain(shown).max_by_key(|block| block.number);
        }
        if lately.is_none_or(|lately| lately.head.latest.number <= head.latest.number) {
            *seen = Some(Seen { by: index, at: now, head });
        }
        Ok(head)
    }
}

/// One error of those of all providers.
fn all_failed(failures: Vec<(usize, SourceError)>) -> SourceError {
    let mut failures: Vec<_> = failures.into_iter().map(|(_, error)| error).collect();
    match failures.pop() {
        Some(only) if failures.is_empty() => only,
        last => {
            failures.extend(last);
            SourceError::AllFailed { failures }
        }
    }
}

#[async_trait]
impl BlockSource for Failover {
    fn provider(&self) -> &str {
        &self.pool.names
    }

    fn tables(&self) -> &[TableDef] {
        &self.pool.tables
    }

    async fn head(&self) -> Result<Head, SourceError> {
        self.pool.ask(|index| self.pool.head_of(index)).await
    }

    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        let given = self.pool.ask(|index| self.pool.targets[index].source.block_id(number)).await?;
        if given.is_none() && self.pool.has_shown(number) {
            return Ok(self.pool.found_by_another(number).await);
        }
        Ok(given)
    }

    /// As the provider says that would be asked now.
    async fn head_moved(&self) {
        self.pool.targets[self.pool.begin().target].source.head_moved().await;
    }

    /// They are of one kind.
    fn has_cursors(&self) -> bool {
        self.pool.targets.iter().any(|target| target.source.has_cursors())
    }

    fn blocks_behind(
        &self,
        range: BlockRange,
        behind: Option<Place>,
    ) -> BoxStream<'static, Result<BlockRows, SourceError>> {
        let pool = Arc::clone(&self.pool);
        let reading =
            Reading { turn: pool.begin(), pool, remaining: Remaining::new(range, behind), stream: None };
        stream::unfold(reading, |mut reading| async { reading.next().await.map(|item| (item, reading)) })
            .boxed()
    }
}

/// A stream that goes on with the next provider behind the last block received.
struct Reading {
    pool: Arc<Pool>,
    remaining: Remaining,
    /// Failures since the last block received.
    turn: Turn,
    stream: Option<BoxStream<'static, Result<BlockRows, SourceError>>>,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<BlockRows, SourceError>> {
        loop {
            let left = self.remaining.range()?;
            let source = &self.pool.targets[self.turn.target].source;
            let behind = || self.remaining.place();
            let stream = self.stream.get_or_insert_with(|| source.blocks_behind(left, behind()));
            match stream.next().await {
                Some(Ok(rows)) => return Some(self.received(rows)),
                Some(Err(error)) => {
                    self.stream = None;
                    if let Err(error) = self.pool.failed(&mut self.turn, error).await {
                        self.remaining.end();
                        return Some(Err(error));
                    }
                }
                None => {
                    self.remaining.end();
                    return None;
                }
            }
        }
    }

    /// Takes note of rows. Where an earlier provider is back from its rest, it goes on.
    fn received(&mut self, rows: BlockRows) -> Result<BlockRows, SourceError> {
        let used = self.turn.target;
        self.pool.succeeded(used);
        self.turn = self.pool.begin();
        if self.turn.target != used {
            self.stream = None;
        }
        self.remaining.received(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{QUICK, Scripted, Step, collect, collect_behind, hash, place, range};

    const POLICY: FailoverPolicy = FailoverPolicy {
        rest: Duration::from_secs(30),
        longest_rest: Duration::from_secs(600),
        rounds: QUICK,
        busy_rounds: QUICK,
    };

    fn failover(sources: &[&Arc<Scripted>]) -> Failover {
        resting(sources, POLICY)
    }

    fn resting(sources: &[&Arc<Scripted>], policy: FailoverPolicy) -> Failover {
        let named = |(index, source): (usize, &&Arc<Scripted>)| {
            (format!("p{index}"), Arc::clone(source) as SharedSource)
        };
        Failover::new(sources.iter().enumerate().map(named).collect(), policy).expect("some providers")
    }

    fn asked(source: &Scripted) -> Vec<u64> {
        source.asked.lock().expect("not poisoned").iter().map(BlockRange::start).collect()
    }

    #[tokio::test]
    async fn the_next_provider_goes_on_behind_the_last_block() {
        for failing in [Step::Unavailable, Step::Missing, Step::Malformed, Step::Refused] {
            let (a, b) = (
                Scripted::new(&[Step::Blocks(2), failing]),
                Scripted::new(&[Step::Blocks(1), Step::Blocks(2)]),
            );
            let (received, error) = collect(&failover(&[&a, &b]), range(10, 14)).await;
            assert!(error.is_none(), "{error:?}");
            assert_eq!(received, [range(10, 11), range(12, 12), range(13, 14)]);
            assert_eq!((asked(&a), asked(&b)), (vec![10], vec![12]));
        }
    }

    #[tokio::test]
    async fn the_next_provider_is_told_the_place_too() {
        let (a, b) =
            (Scripted::new(&[Step::Blocks(2), Step::Unavailable]), Scripted::new(&[Step::Blocks(3)]));
        let pool = failover(&[&a, &b]);
        let (_, error) = collect_behind(&pool, range(10, 14), Some(place(9))).await;
        assert!(error.is_none() && pool.has_cursors(), "{error:?}");
        let behind = |source: &Scripted| source.behind.lock().expect("not poisoned").clone();
        assert_eq!((behind(&a), behind(&b)), (vec![Some(place(9))], vec![Some(place(11))]));
    }

    #[tokio::test]
    async fn the_seam_between_providers_must_link() {
        let a = Scripted::new(&[Step::Blocks(2), Step::Unavailable]);
        let b = Scripted::new(&[Step::Fork(7), Step::Blocks(1)]);
        let (received, error) = collect(&failover(&[&a, &b]), range(0, 2)).await;
        assert_eq!(received, [range(0, 1)]);
        assert!(matches!(error, Some(SourceError::NotLinked { block: 2, .. })), "{error:?}");
    }

    #[tokio::test]
    async fn a_provider_comes_back_after_its_rest() {
        let a = Scripted::new(&[Step::Unavailable, Step::Blocks(1)]);
        let b = Scripted::new(&[Step::Blocks(1), Step::Blocks(1)]);
        let policy = FailoverPolicy { rest: Duration::ZERO, ..POLICY };
        let (received, error) = collect(&resting(&[&a, &b], policy), range(0, 1)).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(received.len(), 2);
        assert_eq!((asked(&a), asked(&b)), (vec![0, 1], vec![0]));
    }

    #[tokio::test]
    async fn with_all_at_rest_the_one_that_answers_is_kept() {
        let a = Scripted::new(&[Step::Unavailable, Step::Unavailable]);
        let b = Scripted::new(&[Step::Unavailable, Step::Blocks(1), Step::Blocks(1)]);
        let c = Scripted::new(&[Step::Unavailable, Step::Unavailable]);
        let source = failover(&[&a, &b, &c]);
        assert!(source.head().await.is_err());
        let (received, error) = collect(&source, range(0, 1)).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(received.len(), 2);
        assert_eq!((asked(&a), asked(&b), asked(&c)), (vec![0], vec![0], vec![0]));
    }

    #[tokio::test]
    async fn a_provider_whose_chain_breaks_again_and_again_rests() {
        let a = Scripted::new(&[Step::NotLinked; MAX_BREAKS as usize]);
        let b = Scripted::new(&[Step::Blocks(1)]);
        let source = failover(&[&a, &b]);
        for _ in 0..MAX_BREAKS {
            let (_, error) = collect(&source, range(0, 0)).await;
            assert!(matches!(error, Some(SourceError::NotLinked { .. })), "{error:?}");
        }
        assert_eq!(collect(&source, range(0, 0)).await.0, [range(0, 0)]);
        let (mut standing, now) = (Standing::default(), Instant::now());
        let mut rare = (0..20_u32).map(|n| standing.count_break(now + n * (BREAKS_WITHIN / 3)));
        assert!(!rare.any(|is_often| is_often), "a chain may be reorganised now and then");
    }

    #[test]
    fn rests_grow_up_to_the_longest_and_begin_anew_after_a_good_while() {
        let (mut standing, now) = (Standing::default(), Instant::now());
        let rests: Vec<_> = (0..6).map(|_| standing.begin_rest(&POLICY, now).as_secs()).collect();
        assert_eq!(rests, [30, 60, 120, 240, 480, 600]);
        assert_eq!((standing.rank(now), standing.rank(now + POLICY.longest_rest)), (2, 0));
        assert_eq!(standing.begin_rest(&POLICY, now + 3 * POLICY.longest_rest).as_secs(), 30);
    }

    #[tokio::test]
    async fn with_all_failed_the_error_names_each() {
        let a = Scripted::new(&[Step::Refused]);
        let b = Scripted::new(&[Step::Unavailable]);
        let error = failover(&[&a, &b]).head().await.expect_err("all have failed");
        assert!(matches!(&error, SourceError::AllFailed { failures } if failures.len() == 2), "{error:?}");
        assert!(error.to_string().contains("no; a request") && error.to_string().contains("gone"), "{error}");
        assert!(error.may_pass() && !error.is_missing());
        let only = failover(&[&Scripted::new(&[Step::Refused])]).head().await.expect_err("it is refused");
        assert!(matches!(only, SourceError::Refused { .. }), "{only:?}");
    }

    #[tokio::test]
    async fn a_bad_block_is_asked_for_again_a_little() {
        let a = Scripted::new(&[Step::Malformed, Step::Malformed, Step::Blocks(1)]);
        assert!(collect(&failover(&[&a]), range(0, 0)).await.1.is_none());
        let a = Scripted::new(&[Step::Malformed, Step::Malformed, Step::Malformed, Step::Blocks(1)]);
        let (_, error) = collect(&failover(&[&a]), range(0, 0)).await;
        assert!(matches!(error, Some(SourceError::Malformed { .. })), "{error:?}");
    }

    #[tokio::test]
    async fn where_all_push_back_they_are_waited_for() {
        let a = Scripted::new(&[Step::PushedBack, Step::PushedBack, Step::Blocks(9)]);
        let b = Scripted::new(&[Step::PushedBack, Step::Unavailable]);
        assert_eq!(failover(&[&a, &b]).head().await.expect("a head").latest.number, 9);
        let busy = || Scripted::new(&[Step::PushedBack; QUICK.attempts as usize]);
        let error = failover(&[&busy(), &busy()]).head().await.expect_err("they never answer");
        assert!(matches!(&error, SourceError::AllFailed { failures } if failures.len() == 2), "{error:?}");
        // One alone was waited for when it was asked.
        let error = failover(&[&Scripted::new(&[Step::PushedBack])]).head().await.expect_err("it is busy");
        assert!(matches!(error, SourceError::PushedBack { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_provider_that_is_far_behind_does_not_make_the_chain_shorter() {
        let a = Scripted::new(&[Step::Blocks(1000), Step::Unavailable]);
        let b = Scripted::new(&[Step::Blocks(900), Step::Blocks(990)]);
        let source = failover(&[&a, &b]);
        assert_eq!(source.head().await.expect("a head").latest.number, 1000);
        let error = source.head().await.expect_err("one is away, one behind").to_string();
        assert!(error.contains("far below 1000") && error.contains("`p0`"), "{error}");
        assert_eq!(source.head().await.expect("a little behind").latest.number, 990);
    }

    #[tokio::test]
    async fn a_block_that_one_denies_is_asked_of_the_others() {
        let a = Scripted::new(&[Step::Blocks(9), Step::None, Step::None]);
        let b = Scripted::new(&[Step::Blocks(1)]);
        let source = failover(&[&a, &b]);
        assert_eq!(source.head().await.expect("a head").latest.number, 9);
        assert_eq!(source.block_id(9).await.expect("an answer").map(|block| block.number), Some(9));
        assert_eq!(source.block_id(10).await.expect("an answer"), None, "it is above the head");
    }

    #[tokio::test]
    async fn what_was_final_stays_final_with_another_provider() {
        let pool = failover(&[&Scripted::new(&[Step::Unavailable]), &Scripted::new(&[Step::Blocks(1000)])]);
        let final_block = BlockId { number: 950, hash: hash(0, 950) };
        let head =
            Head { latest: BlockId { number: 1001, hash: hash(0, 1001) }, finalized: Some(final_block) };
        *locked(&pool.pool.seen) = Some(Seen { by: 0, at: Instant::now(), head });
        assert_eq!(pool.head().await.expect("a head").finalized, Some(final_block));
    }
}

//! A source that asks again when asking again may help.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use nozzle_core::{BlockId, BlockNum, BlockRange, TableDef};

use crate::{
    error::SourceError,
    remaining::Remaining,
    source::{BlockRows, BlockSource, Head, MadeOf, Place},
};

/// How often and how fast to ask again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// How often to ask in all, the first time included.
    pub attempts: u32,
    /// About how long to wait before the second attempt; before each further one twice as long.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    /// Six attempts within about ten seconds.
    fn default() -> Self {
        Self { attempts: 6, base: Duration::from_millis(500), cap: Duration::from_secs(4) }
    }
}

impl RetryPolicy {
    /// For a provider beside which there are others: three attempts within about two seconds.
    pub const fn among_several() -> Self {
        Self { attempts: 3, base: Duration::from_millis(500), cap: Duration::from_secs(1) }
    }

    /// The wait, spread by chance, after `failures` failures in a row; `None` after enough of them.
    pub(crate) fn pause(&self, failures: u32) -> Option<Duration> {
        (failures < self.attempts).then(|| self.wait(failures, jitter()))
    }

    /// The wait after `failures` failures in a row (one or more); `jitter`, from 0 to 1, spreads it
    /// over the upper half, so that many who failed together do not come back together.
    fn wait(&self, failures: u32, jitter: f64) -> Duration {
        let doubled = self.base.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        doubled.min(self.cap).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// The wait before asking again; `None` where that does not help or was done often enough.
    fn after(&self, error: &SourceError, failures: u32, has_others: bool) -> Option<Duration> {
        let passing = match error {
            SourceError::Unavailable { .. } | SourceError::Missing { .. } => true,
            SourceError::PushedBack { .. } => !has_others,
            _ => false,
        };
        if passing { self.pause(failures) } else { None }
    }
}

/// A number from 0 to 1 that differs from call to call and from process to process.
fn jitter() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from((random >> 32) as u32) / f64::from(u32::MAX)
}

/// A source that asks the source within again after errors that may pass, `Unavailable`, `PushedBack` and
/// `Missing`; all others pass through. A stream goes on behind the last block received.
#[derive(Debug)]
pub struct Retry<S: ?Sized> {
    policy: RetryPolicy,
    has_others: bool,
    inner: Arc<S>,
}

impl<S: BlockSource + ?Sized> Retry<S> {
    /// `inner`, asked again as `policy` says.
    pub fn new(inner: Arc<S>, policy: RetryPolicy) -> Self {
        Self { policy, has_others: false, inner }
    }

    /// A source beside which there are others: what it only pushes back, also when asked again, is theirs.
    pub fn beside_others(self) -> Self {
        Self { has_others: true, ..self }
    }

    async fn ask<T, F>(&self, what: &str, ask: impl Fn() -> F) -> Result<T, SourceError>
    where
        F: Future<Output = Result<T, SourceError>>,
    {
        let mut failures = 0;
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            failures += 1;
            let wait = self.policy.after(&error, failures, self.has_others);
            let Some(wait) = wait else { return Err(error) };
            warn(&error, what, failures, wait);
            tokio::time::sleep(wait).await;
        }
    }
}

fn warn(error: &SourceError, what: &str, failures: u32, wait: Duration) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let wait_ms = wait.as_millis() as u64;
    tracing::warn!(%error, cause = cause.as_deref(), failures, wait_ms, "asking again for {what}");
}

#[async_trait]
impl<S: BlockSource + ?Sized + 'static> BlockSource for Retry<S> {
    fn provider(&self) -> &str {
        self.inner.provider()
    }

    fn tables(&self) -> &[TableDef] {
        self.inner.tables()
    }

    fn is_of_chain(&self) -> bool {
        self.inner.is_of_chain()
    }

    async fn head(&self) -> Result<Head, SourceError> {
        self.ask("the head", || self.inner.head()).await
    }

    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        self.ask("a block's hash", || self.inner.block_id(number)).await
    }

    async fn made_of(&self) -> Result<Option<MadeOf>, SourceError> {
        self.ask("what its rows are computed from", || self.inner.made_of()).await
    }

    async fn head_moved(&self) {
        self.inner.head_moved().await;
    }

    fn has_cursors(&self) -> bool {
        self.inner.has_cursors()
    }

    fn blocks_behind(
        &self,
        range: BlockRange,
        behind: Option<Place>,
    ) -> BoxStream<'static, Result<BlockRows, SourceError>> {
        let stream = Resuming {
            policy: self.policy,
            has_others: self.has_others,
            inner: self.inner.clone(),
            remaining: Remaining::new(range, behind),
            failures: 0,
            stream: None,
        };
        stream::unfold(stream, |mut stream| async { stream.next().await.map(|item| (item, stream)) }).boxed()
    }
}

/// How often in a row a stream is begun from its place.
const WITH_PLACE: u32 = 2;

/// A stream that is begun anew behind the last block received.
struct Resuming<S: ?Sized> {
    policy: RetryPolicy,
    has_others: bool,
    inner: Arc<S>,
    remaining: Remaining,
    /// Failures since the last block received.
    failures: u32,
    stream: Option<BoxStream<'static, Result<BlockRows, SourceError>>>,
}

impl<S: BlockSource + ?Sized> Resuming<S> {
    async fn next(&mut self) -> Option<Result<BlockRows, SourceError>> {
        loop {
            let left = self.remaining.range()?;
            let inner = &self.inner;
            // A place helps, and no more: a source that cannot bear it may still do without.
            let behind = || self.remaining.place().filter(|_| self.failures < WITH_PLACE);
            let stream = self.stream.get_or_insert_with(|| inner.blocks_behind(left, behind()));
            let error = match stream.next().await {
                Some(Ok(rows)) => {
                    self.failures = 0;
                    return Some(self.remaining.received(rows));
                }
                Some(Err(error)) => error,
                None => {
                    self.remaining.end();
                    return None;
                }
            };
            self.stream = None;
            self.failures += 1;
            let Some(wait) = self.policy.after(&error, self.failures, self.has_others) else {
                self.remaining.end();
                return Some(Err(error));
            };
            warn(&error, &format!("the blocks {left}"), self.failures, wait);
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{QUICK, Scripted, Step, collect, collect_behind, hash, place, range};

    fn retry(source: &Arc<Scripted>) -> Retry<Scripted> {
        Retry::new(source.clone(), QUICK)
    }

    #[test]
    fn waits_double_up_to_the_cap_and_the_default_takes_about_ten_seconds() {
        let policy = RetryPolicy::default();
        let longest: Vec<_> = (1..policy.attempts).map(|n| policy.wait(n, 1.0).as_millis()).collect();
        assert_eq!(longest, [500, 1000, 2000, 4000, 4000]);
        assert_eq!(policy.wait(1, 0.0).as_millis(), 250);
        assert_eq!(policy.wait(4_000_000_000, 0.0).as_millis(), 2000);
        let (some, other) = (jitter(), jitter());
        assert!((0.0..=1.0).contains(&some) && some != other);
    }

    #[tokio::test]
    async fn a_stream_goes_on_behind_the_last_block_received() {
        let source = Scripted::new(&[
            Step::Blocks(2),
            Step::Unavailable,
            Step::Missing,
            Step::Blocks(1),
            Step::Unavailable,
            Step::Unavailable,
            Step::Blocks(2),
        ]);
        let (received, error) = collect(&retry(&source), range(10, 14)).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(received, [range(10, 11), range(12, 12), range(13, 14)]);
        let asked = source.asked.lock().expect("not poisoned").clone();
        let starts: Vec<_> = asked.iter().map(BlockRange::start).collect();
        assert_eq!(starts, [10, 12, 12, 13, 13]);
        assert!(asked.iter().all(|range| range.end() == 14));
    }

    #[tokio::test]
    async fn a_stream_goes_on_from_the_place_behind_the_last_block_received() {
        let steps = [Step::Unavailable, Step::Blocks(2), Step::Unavailable, Step::Blocks(3)];
        let source = Scripted::new(&steps);
        let (received, error) = collect_behind(&retry(&source), range(10, 14), Some(place(9))).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(received, [range(10, 11), range(12, 14)]);
        let behind = source.behind.lock().expect("not poisoned").clone();
        assert_eq!(behind, [Some(place(9)), Some(place(9)), Some(place(11))]);
    }

    #[tokio::test]
    async fn a_place_that_does_not_help_is_left_out() {
        let source = Scripted::new(&[Step::Unavailable, Step::Unavailable, Step::Blocks(5)]);
        let (received, error) = collect_behind(&retry(&source), range(10, 14), Some(place(9))).await;
        assert_eq!((received, error.is_none()), (vec![range(10, 14)], true));
        let behind = source.behind.lock().expect("not poisoned").clone();
        assert_eq!(behind, [Some(place(9)), Some(place(9)), None]);
    }

    #[tokio::test]
    async fn what_does_not_follow_the_place_is_not_linked() {
        let source = Scripted::new(&[Step::Fork(3), Step::Blocks(5)]);
        let (received, error) = collect_behind(&retry(&source), range(10, 14), Some(place(9))).await;
        assert_eq!(received, []);
        assert!(matches!(error, Some(SourceError::NotLinked { block: 10, .. })), "{error:?}");
    }

    #[tokio::test]
    async fn a_seam_between_two_chains_is_not_linked() {
        let source = Scripted::new(&[Step::Blocks(2), Step::Unavailable, Step::Fork(7), Step::Blocks(1)]);
        let (received, error) = collect(&retry(&source), range(0, 2)).await;
        assert_eq!(received, [range(0, 1)]);
        let Some(SourceError::NotLinked { block: 2, expected, found }) = error else {
            panic!("{error:?}");
        };
        assert_eq!((expected, found), (hash(0, 1), hash(7, 1)));
    }

    #[tokio::test]
    async fn attempts_are_counted_since_the_last_block() {
        let source = Scripted::new(&[
            Step::Unavailable,
            Step::Unavailable,
            Step::Blocks(1),
            Step::Unavailable,
            Step::Unavailable,
            Step::Unavailable,
        ]);
        let (received, error) = collect(&retry(&source), range(0, 5)).await;
        assert_eq!(received, [range(0, 0)]);
        assert!(matches!(error, Some(SourceError::Unavailable { .. })), "{error:?}");
        assert_eq!(source.asked.lock().expect("not poisoned").len(), 5);
    }

    #[tokio::test]
    async fn other_errors_pass_through_at_once() {
        let source = Scripted::new(&[Step::Blocks(1), Step::Refused, Step::Blocks(1)]);
        let (received, error) = collect(&retry(&source), range(0, 1)).await;
        assert_eq!(received, [range(0, 0)]);
        assert!(matches!(error, Some(SourceError::Refused { .. })), "{error:?}");
    }

    #[tokio::test]
    async fn what_is_pushed_back_is_asked_again_where_there_are_no_others() {
        let script = [Step::PushedBack, Step::Blocks(5), Step::PushedBack, Step::Blocks(2)];
        let alone = Retry::new(Scripted::new(&script), QUICK);
        assert_eq!(alone.head().await.expect("a head").latest.number, 5);
        assert_eq!(collect(&alone, range(0, 1)).await.0, [range(0, 1)]);
        let beside_others = Retry::new(Scripted::new(&[Step::PushedBack, Step::PushedBack]), QUICK);
        let beside_others = beside_others.beside_others();
        let error = beside_others.head().await.expect_err("it is pushed back");
        assert!(matches!(error, SourceError::PushedBack { .. }), "{error:?}");
        let (received, error) = collect(&beside_others, range(0, 1)).await;
        assert!(received.is_empty() && matches!(error, Some(SourceError::PushedBack { .. })), "{error:?}");
    }

    #[tokio::test]
    async fn questions_are_asked_again_too() {
        let source = Scripted::new(&[Step::Unavailable, Step::Blocks(5), Step::Missing, Step::Blocks(0)]);
        let retry: Retry<dyn BlockSource> = Retry::new(source, QUICK);
        assert_eq!(retry.head().await.expect("a head").latest.number, 5);
        assert_eq!(
            retry.block_id(3).await.expect("an answer"),
            Some(BlockId { number: 3, hash: hash(0, 3) })
        );
        let source = Scripted::new(&[Step::Unavailable, Step::Unavailable, Step::Unavailable]);
        let error = Retry::new(source, QUICK).head().await.expect_err("three failures");
        assert!(matches!(error, SourceError::Unavailable { .. }));
    }
}

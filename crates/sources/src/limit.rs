//! How fast a provider is asked: as many requests at a time as it keeps up with, never more than its
//! limits say, and none while it wants a rest.
//!
//! [`Limits`] decides, with the time handed in; [`Limiter`] waits.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Requests at a time that a provider gets before it has shown that it keeps up with more.
const FIRST_REQUESTS: usize = 8;
/// The longest rest that a provider can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The rest of a provider that pushes back without saying for how long; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest of those.
const MAX_OWN_PAUSE: Duration = Duration::from_secs(8);
/// How long a provider that only pushes back is asked again where others can be asked instead.
const PATIENCE_BESIDE_OTHERS: Duration = Duration::from_secs(10);
/// After somebody has given up waiting, nobody waits in vain for so long.
const IMPATIENCE: Duration = Duration::from_secs(60);

/// The limits of a provider.
#[derive(Debug, Clone, Copy)]
pub struct LimitOptions {
    /// The most requests at a time.
    pub requests: usize,
    /// Whether as many may be under way from the start, because the node is on this machine.
    pub is_near: bool,
    /// The most calls in a minute; 0: no limit.
    pub calls_per_minute: u32,
    /// How long a request is asked again that does nothing but push back.
    pub patience: Duration,
}

/// What is allowed now.
#[derive(Debug)]
struct Limits {
    /// The provider's limits for everybody.
    options: LimitOptions,
    /// How many processes share them.
    sharers: u32,
    /// Whether others can be asked in the provider's place.
    has_others: bool,
    most: usize,
    /// Requests at a time, from one to the most.
    allowed: usize,
    /// Up to here what is allowed doubles with each round trip; above it grows by one.
    doubles_to: usize,
    /// Answers since it last grew by one.
    answers: usize,
    /// When it was last halved. What was sent before that tells nothing new.
    last_cut: Option<Instant>,
    /// Cuts since the last answer.
    cuts: u32,
    paused_until: Option<Instant>,
    /// Between calls, where they are limited.
    interval: Option<Duration>,
    /// When all calls that were let through are paid for.
    paid_until: Option<Instant>,
    /// When somebody last gave up. Answers to others do not end it: one question that is always pushed back
    /// would hold up a dump for as many patiences as there are attempts.
    gave_up: Option<Instant>,
}

impl Limits {
    fn new(options: &LimitOptions) -> Self {
        let most = options.requests.max(1);
        let interval =
            (options.calls_per_minute > 0).then(|| Duration::from_secs(60) / options.calls_per_minute);
        Self {
            options: *options,
            sharers: 1,
            has_others: false,
            most,
            allowed: if options.is_near { most } else { most.min(FIRST_REQUESTS) },
            doubles_to: most,
            answers: 0,
            last_cut: None,
            cuts: 0,
            paused_until: None,
            interval,
            paid_until: None,
            gave_up: None,
        }
    }

    /// So many processes share the provider's limits from now on, evenly.
    fn share(&mut self, sharers: u32) {
        let sharers = sharers.max(1);
        if sharers == self.sharers {
            return;
        }
        self.sharers = sharers;
        self.most = (self.options.requests / sharers as usize).max(1);
        self.allowed = if self.options.is_near { self.most } else { self.allowed.min(self.most) };
        self.doubles_to = self.doubles_to.max(self.allowed);
        let per_call = |calls| Duration::from_secs(60) / calls;
        let calls = self.options.calls_per_minute;
        self.interval = (calls > 0).then(|| per_call(calls).saturating_mul(sharers));
    }

    /// An answer has come to what was sent at `sent`; `is_full` tells whether all that is allowed was
    /// under way.
    fn kept_up(&mut self, sent: Instant, is_full: bool) {
        if self.last_cut.is_some_and(|cut| sent < cut) {
            return;
        }
        self.cuts = 0;
        if !is_full || self.allowed >= self.most {
            return;
        }
        self.answers += 1;
        if self.allowed < self.doubles_to || self.answers >= self.allowed {
            self.allowed += 1;
            self.answers = 0;
        }
    }

    /// The provider wants fewer requests, and none for a while, if it says how long; whether that is
    /// news.
    fn pushed_back(&mut self, sent: Instant, rest: Option<Duration>, now: Instant) -> bool {
        let is_news = self.last_cut.is_none_or(|cut| sent >= cut);
        if is_news {
            self.allowed = (self.allowed / 2).max(1);
            self.doubles_to = self.allowed;
            self.answers = 0;
            self.last_cut = Some(now);
            self.cuts += 1;
        }
        let own = || self.own_pause(now);
        // A time that is over, as of a clock that is behind, is no leave to ask at once.
        let end = now + rest.map_or_else(own, |rest| rest.max(own())).min(MAX_PAUSE);
        self.paused_until = self.paused_until.max(Some(end));
        is_news
    }

    /// The rest where the provider does not say for how long. What is asked in vain only waits for its few
    /// attempts to be over: long rests of each of them would add up for all that is asked beside it.
    fn own_pause(&self, now: Instant) -> Duration {
        if self.is_impatient(now) {
            return FIRST_PAUSE;
        }
        FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.cuts.saturating_sub(1))).min(MAX_OWN_PAUSE)
    }

    fn is_impatient(&self, now: Instant) -> bool {
        self.gave_up.is_some_and(|at| now < at + IMPATIENCE)
    }

    /// How long a request is asked again that does nothing but push back.
    fn patience(&self) -> Duration {
        let patience = self.options.patience;
        if self.has_others { patience.min(PATIENCE_BESIDE_OTHERS) } else { patience }
    }

    /// How long the provider wants to be left alone, where that is too long to be waited for.
    fn too_long_a_rest(&self, now: Instant) -> Option<Duration> {
        let rest = self.pause(now).filter(|_| self.has_others)? - now;
        (rest > PATIENCE_BESIDE_OTHERS).then_some(rest)
    }

    /// Whether to ask again what has only been pushed back since then.
    fn has_patience(&mut self, since: Instant, now: Instant) -> bool {
        if self.is_impatient(now) {
            return false;
        }
        // Beside others nobody waits for a rest that is longer than the patience.
        let asked_again = self.pause(now).filter(|_| self.has_others).unwrap_or(now);
        let is_patient = asked_again < since + self.patience();
        if !is_patient {
            self.gave_up = Some(now);
        }
        is_patient
    }

    /// The end of the rest, where there is one.
    fn pause(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|end| *end > now)
    }

    /// Books so many calls, and says when they may be sent.
    fn book(&mut self, calls: usize, now: Instant) -> Instant {
        let Some(interval) = self.interval else { return now };
        let start = self.paid_until.unwrap_or(now).max(now);
        self.paid_until = Some(start + interval.saturating_mul(u32::try_from(calls).unwrap_or(u32::MAX)));
        start
    }
}

/// The provider wants to be left alone for longer than it is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LongRest(Duration);

impl std::fmt::Display for LongRest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it wants no requests for {} s", self.0.as_secs())
    }
}

/// Lets requests to a provider through.
#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Mutex<Limits>,
    turns: Arc<Semaphore>,
    /// Turns that are taken back as soon as they are free.
    owed: Mutex<usize>,
    has_said: AtomicBool,
}

/// The right to have one request under way.
#[derive(Debug)]
pub(crate) struct Turn {
    limiter: Arc<Limiter>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut owed = locked(&self.limiter.owed);
        if let Some(permit) = self.permit.take()
            && *owed > 0
        {
            *owed -= 1;
            permit.forget();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks can leave half of it behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Limiter {
    /// A limiter for all that is asked of a provider.
    pub fn new(options: &LimitOptions) -> Arc<Self> {
        let limits = Limits::new(options);
        Arc::new(Self {
            turns: Arc::new(Semaphore::new(limits.allowed)),
            limits: Mutex::new(limits),
            owed: Mutex::new(0),
            has_said: AtomicBool::new(false),
        })
    }

    /// Waits until one more request may be under way. Requests get their turn in this order.
    pub async fn turn(self: &Arc<Self>) -> Turn {
        let permit = self.turns.clone().acquire_owned().await.expect("this semaphore is never closed");
        Turn { limiter: self.clone(), permit: Some(permit) }
    }

    /// Turns for further requests at the same time, as many as nobody else wants now.
    pub fn further_turns(self: &Arc<Self>, most: usize) -> Vec<Turn> {
        let permits = (0..most).map_while(|_| self.turns.clone().try_acquire_owned().ok());
        permits.map(|permit| Turn { limiter: self.clone(), permit: Some(permit) }).collect()
    }

    /// Waits until so many calls may be sent, and says when that is. Not for a long rest of the provider where
    /// others can be asked in its place.
    pub async fn ready(&self, calls: usize) -> Result<Instant, LongRest> {
        let now = self.rest_over().await?;
        let at = locked(&self.limits).book(calls, now);
        if at <= now {
            return Ok(now);
        }
        tokio::time::sleep_until(at).await;
        self.rest_over().await
    }

    /// A moment of no rest. It lies before any rest that begins now, so that what is sent then is not taken for
    /// an answer to that.
    async fn rest_over(&self) -> Result<Instant, LongRest> {
        loop {
            let now = Instant::now();
            let (pause, too_long) = {
                let limits = locked(&self.limits);
                (limits.pause(now), limits.too_long_a_rest(now))
            };
            if let Some(rest) = too_long {
                return Err(LongRest(rest));
            }
            let Some(end) = pause else { return Ok(now) };
            tokio::time::sleep_until(end).await;
        }
    }

    /// An answer has come to what was sent at `sent`.
    pub fn kept_up(&self, sent: Instant) {
        let is_full = self.turns.available_permits() == 0;
        self.change(|limits| limits.kept_up(sent, is_full));
    }

    /// The provider wants fewer requests, in its words; said loud the first time.
    pub fn pushed_back(&self, provider: &str, why: &str, sent: Instant, rest: Option<Duration>) {
        let is_news = self.change(|limits| limits.pushed_back(sent, rest, Instant::now()));
        if is_news && !self.has_said.swap(true, Ordering::Relaxed) {
            tracing::warn!(provider, why, "the provider pushes back; it is asked more slowly from now on");
        } else {
            tracing::debug!(provider, why, "the provider pushes back");
        }
    }

    /// Whether to ask again what has only been pushed back since then.
    pub fn has_patience(&self, since: Instant) -> bool {
        locked(&self.limits).has_patience(since, Instant::now())
    }

    /// So many processes share the provider's limits from now on, evenly.
    pub fn share(&self, sharers: u32) {
        self.change(|limits| limits.share(sharers));
    }

    /// Changes the limits, and the number of turns with them.
    fn change<T>(&self, change: impl FnOnce(&mut Limits) -> T) -> T {
        let mut limits = locked(&self.limits);
        let before = limits.allowed;
        let changed = change(&mut limits);
        let mut owed = locked(&self.owed);
        let (more, fewer) = (limits.allowed.saturating_sub(before), before.saturating_sub(limits.allowed));
        let kept = more.min(*owed);
        *owed -= kept;
        self.turns.add_permits(more - kept);
        *owed += fewer - self.turns.forget_permits(fewer);
        changed
    }
}

/// How fast a provider is asked, by all sources of the process that have it together.
#[derive(Debug, Clone)]
pub struct Throttle(Arc<Limiter>);

impl Throttle {
    /// What keeps to the limits.
    pub fn new(options: &LimitOptions) -> Self {
        Self(Limiter::new(options))
    }

    /// One with the same limits under which nothing that is pushed back is asked again.
    pub fn without_patience(&self) -> Self {
        let options = locked(&self.0.limits).options;
        Self::new(&LimitOptions { patience: Duration::ZERO, ..options })
    }

    /// So many processes share the limits from now on, evenly.
    pub fn share(&self, processes: u32) {
        self.0.share(processes);
    }

    /// Whether others can be asked in the provider's place, as where several serve one chain: then one that
    /// only pushes back is left soon.
    pub fn beside_others(&self, has_others: bool) {
        locked(&self.0.limits).has_others = has_others;
    }

    /// How long a request is asked again that does nothing but push back.
    pub fn patience(&self) -> Duration {
        locked(&self.0.limits).patience()
    }

    /// What lets requests through.
    pub(crate) fn limiter(&self) -> &Arc<Limiter> {
        &self.0
    }
}

/// The time that a `Retry-After` names: seconds, or a date.
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(text.trim()).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(requests: usize) -> LimitOptions {
        LimitOptions { requests, is_near: false, calls_per_minute: 0, patience: Duration::ZERO }
    }

    /// Round trips in each of which all that is allowed is answered.
    fn round_trips(limits: &mut Limits, count: usize, now: Instant) -> Vec<usize> {
        (0..count)
            .map(|_| {
                (0..limits.allowed).for_each(|_| limits.kept_up(now, true));
                limits.allowed
            })
            .collect()
    }

    #[test]
    fn what_is_allowed_doubles_up_to_the_limit_and_is_halved_once_a_round_trip() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut limits = Limits::new(&options(100));
        assert_eq!(limits.allowed, 8);
        assert_eq!(round_trips(&mut limits, 5, start), [16, 32, 64, 100, 100]);
        assert!(limits.pushed_back(at(10), None, at(20)));
        assert_eq!(limits.allowed, 50);
        // These were sent before.
        assert!(!limits.pushed_back(at(15), None, at(25)));
        limits.kept_up(at(19), true);
        assert_eq!(limits.allowed, 50);
        assert!(limits.pushed_back(at(30), None, at(40)));
        assert_eq!(limits.allowed, 25);
        // From where it was pushed back it grows slowly.
        assert_eq!(round_trips(&mut limits, 3, at(50)), [26, 27, 28]);
        for ms in 60..70 {
            limits.pushed_back(at(ms), None, at(ms));
        }
        assert_eq!(limits.allowed, 1);
    }

    #[test]
    fn processes_share_a_providers_limits_evenly() {
        let now = Instant::now();
        let near = LimitOptions { is_near: true, calls_per_minute: 600, ..options(12) };
        let mut limits = Limits::new(&near);
        let interval = |limits: &mut Limits| {
            let first = limits.book(1, now);
            limits.book(1, now) - first
        };
        assert_eq!((limits.allowed, interval(&mut limits)), (12, Duration::from_millis(100)));
        limits.share(3);
        assert_eq!((limits.allowed, interval(&mut limits)), (4, Duration::from_millis(300)));
        limits.share(100);
        assert_eq!(limits.allowed, 1, "nobody gets nothing");
        limits.share(1);
        assert_eq!((limits.allowed, interval(&mut limits)), (12, Duration::from_millis(100)));
        let mut far = Limits::new(&options(64));
        far.share(2);
        assert_eq!((far.allowed, far.most), (FIRST_REQUESTS, 32), "it still has to show that it keeps up");
    }

    #[test]
    fn what_is_not_used_does_not_grow_and_a_near_node_needs_not() {
        let start = Instant::now();
        let mut limits = Limits::new(&options(100));
        (0..50).for_each(|_| limits.kept_up(start, false));
        assert_eq!(limits.allowed, 8);
        assert_eq!(Limits::new(&LimitOptions { is_near: true, ..options(100) }).allowed, 100);
        assert_eq!((Limits::new(&options(3)).allowed, Limits::new(&options(0)).allowed), (3, 1));
    }

    #[test]
    fn a_rest_is_as_long_as_the_provider_says_or_longer_each_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut limits = Limits::new(&options(8));
        let mut rest = |ms, said: Option<u64>| {
            limits.pushed_back(at(ms), said.map(Duration::from_secs), at(ms));
            limits.pause(at(ms)).map_or(0, |end| (end - at(ms)).as_millis())
        };
        assert_eq!(rest(0, None), 250);
        assert_eq!(rest(1000, None), 500);
        assert_eq!(rest(2000, Some(3)), 3000);
        // A shorter one does not end it earlier.
        assert_eq!(rest(3000, Some(0)), 2000);
        // One that is over, as of a clock that is behind, is no leave to ask at once.
        assert_eq!(rest(5001, Some(0)), 4000);
        assert_eq!(rest(10_000, Some(3600)), 60_000);
        assert_eq!(rest(100_000, None), 8000);
        limits.kept_up(at(110_000), false);
        limits.pushed_back(at(120_000), None, at(120_000));
        assert_eq!(limits.pause(at(120_000)), Some(at(120_250)));
        assert_eq!(limits.pause(at(120_250)), None);
    }

    #[test]
    fn what_is_asked_in_vain_does_not_make_the_rests_longer() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut limits = Limits::new(&LimitOptions { patience: Duration::from_secs(60), ..options(8) });
        let mut rest = |secs, said| {
            limits.pushed_back(at(secs), said, at(secs));
            let is_patient = limits.has_patience(start, at(secs));
            (is_patient, limits.pause(at(secs)).map_or(0, |end| (end - at(secs)).as_millis()))
        };
        let first = [0, 5, 10, 15, 20, 59].map(|secs| rest(secs, None));
        assert_eq!(first, [250, 500, 1000, 2000, 4000, 8000].map(|rest| (true, rest)));
        assert_eq!(rest(60, None), (false, 8000));
        assert_eq!(rest(70, None), (false, 250));
        assert_eq!(rest(80, Some(Duration::from_secs(5))), (false, 5000));
        assert_eq!(rest(121, None), (false, 8000));
    }

    #[test]
    fn one_beside_others_is_left_soon_and_at_once_where_it_wants_a_long_rest() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let pushed_back = |secs, said: Option<u64>| {
            let mut limits = Limits::new(&LimitOptions { patience: Duration::from_secs(60), ..options(8) });
            limits.has_others = true;
            limits.pushed_back(at(secs), said.map(Duration::from_secs), at(secs));
            limits.has_patience(start, at(secs))
        };
        assert_eq!([0, 9, 10].map(|secs| pushed_back(secs, None)), [true, true, false]);
        assert_eq!([9, 10, 60].map(|rest| pushed_back(0, Some(rest))), [true, false, false]);
        let mut limits = Limits::new(&options(8));
        limits.pushed_back(start, Some(Duration::from_secs(30)), start);
        assert_eq!(limits.too_long_a_rest(at(1)), None);
        limits.has_others = true;
        let rests = [1, 20, 30].map(|secs| limits.too_long_a_rest(at(secs)));
        assert_eq!(rests, [Some(Duration::from_secs(29)), None, None]);
        limits.options.patience = Duration::ZERO;
        assert_eq!(limits.patience(), Duration::ZERO, "less is less");
    }

    #[tokio::test]
    async fn requests_that_were_let_through_together_are_pushed_back_once() {
        let limiter = Limiter::new(&LimitOptions { is_near: true, ..options(16) });
        for allowed in [8, 4] {
            let mut sent = vec![];
            for _ in 0..5 {
                sent.push(limiter.ready(1).await.expect("a moment"));
            }
            sent.into_iter().for_each(|sent| limiter.pushed_back("p", "slower", sent, None));
            assert_eq!(locked(&limiter.limits).allowed, allowed);
        }
    }

    #[test]
    fn calls_are_spread_over_the_minute_and_each_of_a_batch_counts() {
        let start = Instant::now();
        let mut limits = Limits::new(&LimitOptions { calls_per_minute: 600, ..options(8) });
        let mut at = |ms, calls| {
            let now = start + Duration::from_millis(ms);
            (limits.book(calls, now) - start).as_millis()
        };
        assert_eq!([at(0, 1), at(0, 1), at(0, 10), at(50, 1)], [0, 100, 200, 1200]);
        // What was not used is not saved up.
        assert_eq!([at(5000, 1), at(5000, 1)], [5000, 5100]);
        assert_eq!(Limits::new(&options(8)).book(1000, start), start);
    }

    #[tokio::test]
    async fn turns_follow_what_is_allowed() {
        let limiter = Limiter::new(&options(16));
        let mut held = limiter.further_turns(100);
        assert_eq!(held.len(), 8);
        let now = Instant::now();
        (0..3).for_each(|_| limiter.kept_up(now));
        held.extend(limiter.further_turns(1));
        assert_eq!(held.len(), 9, "one more is allowed once all are under way");
        limiter.pushed_back("p", "slower", Instant::now(), None);
        held.truncate(5);
        assert_eq!(limiter.further_turns(100).len(), 0, "they are taken back first");
        held.clear();
        assert_eq!(limiter.further_turns(100).len(), 4);
    }

    #[test]
    fn a_rest_is_said_in_seconds_or_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let cases = [
            ("120", Some(120.0)),
            (" 1.5 ", Some(1.5)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10.0)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(0.0)),
            ("-1", None),
            ("soon", None),
        ];
        for (text, expected) in cases {
            assert_eq!(retry_after(text, now), expected.map(Duration::from_secs_f64), "{text}");
        }
    }
}

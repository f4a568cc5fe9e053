//! Whether the head of a node still moves.

use std::time::Duration;

use nozzle_core::BlockId;
use tokio::time::Instant;

/// So many times the time of a block without a new head are more than chance.
const STALL_BLOCKS: u32 = 20;
/// No head is taken for stuck earlier, however fast its blocks came.
const MIN_STALL: Duration = Duration::from_secs(60);

/// What was seen of a node's head.
#[derive(Debug, Default)]
pub(crate) struct HeadWatch {
    last: Option<BlockId>,
    /// When it was first seen.
    since: Option<Instant>,
    /// The time from block to block, once some have come.
    block_time: Option<Duration>,
    /// When the connection was last given up for this head.
    redialled: Option<Instant>,
}

/// A head that has not moved for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stall {
    /// For how long.
    pub duration: Duration,
    /// Whether it was not said of this head before.
    pub is_news: bool,
}

impl HeadWatch {
    /// Takes note of the head; tells where the connection should be dialled anew.
    pub fn note(&mut self, head: BlockId, now: Instant) -> Option<Stall> {
        let (Some(last), Some(since)) = (self.last, self.since) else {
            (self.last, self.since) = (Some(head), Some(now));
            return None;
        };
        if head != last {
            self.learn(head, last, now - since);
            *self = Self { last: Some(head), since: Some(now), block_time: self.block_time, redialled: None };
            return None;
        }
        let longest = self.block_time?.saturating_mul(STALL_BLOCKS).max(MIN_STALL);
        if now - self.redialled.unwrap_or(since) < longest {
            return None;
        }
        let is_news = self.redialled.replace(now).is_none();
        Some(Stall { duration: now - since, is_news })
    }

    /// The blocks of late count as much as all before them.
    fn learn(&mut self, head: BlockId, last: BlockId, time: Duration) {
        let blocks = head.number.saturating_sub(last.number);
        if let Some(blocks) = u32::try_from(blocks).ok().filter(|blocks| *blocks > 0) {
            let each = time / blocks;
            self.block_time = Some(self.block_time.map_or(each, |before| (before + each) / 2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(number: u64, fork: u8) -> BlockId {
        BlockId { number, hash: [fork; 32].into() }
    }

    #[test]
    fn a_head_that_stays_for_many_block_times_is_told_once_and_redialled_again() {
        let start = Instant::now();
        let mut watch = HeadWatch::default();
        let mut note = |seconds, head| {
            let stall = watch.note(head, start + Duration::from_secs(seconds));
            stall.map(|stall| (stall.duration.as_secs(), stall.is_news))
        };
        assert_eq!(note(0, head(1, 0)), None);
        // How fast the chain is is not known yet.
        assert_eq!(note(10_000, head(1, 0)), None);
        assert_eq!(note(10_012, head(835, 0)), None, "about 12 s a block");
        assert_eq!(note(10_250, head(835, 0)), None);
        assert_eq!(note(10_253, head(835, 0)), Some((241, true)));
        assert_eq!(note(10_300, head(835, 0)), None);
        assert_eq!(note(10_500, head(835, 0)), Some((488, false)));
        // Another block at the same height is a move too.
        assert_eq!(note(10_501, head(835, 1)), None);
        assert_eq!(note(10_600, head(835, 1)), None);
        assert_eq!(note(10_800, head(835, 1)), Some((299, true)));
    }

    #[test]
    fn a_fast_chain_may_rest_for_a_minute() {
        let start = Instant::now();
        let mut watch = HeadWatch::default();
        let mut note = |ms, number| watch.note(head(number, 0), start + Duration::from_millis(ms)).is_some();
        assert!(!note(0, 1) && !note(100, 101) && !note(59_000, 101));
        assert!(note(60_200, 101));
    }
}

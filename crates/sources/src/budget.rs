//! How much of what providers have sent may be in memory.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many bytes of answers all streams of a source may hold.
const BUDGET_BYTES: u64 = 16 << 20;
/// What a block is taken for while none has been seen.
const FIRST_ESTIMATE_BYTES: u64 = 512 << 10;

/// Bounds the bytes that are under way, in units of 1 KiB.
///
/// The size of a block is not known before it has come, so an estimate is held for it first: the
/// largest seen lately.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    units: Arc<Semaphore>,
    estimate_bytes: AtomicU64,
}

/// What a block holds of the budget.
#[derive(Debug)]
pub(crate) struct Hold {
    _own: Option<OwnedSemaphorePermit>,
    shared: Option<OwnedSemaphorePermit>,
}

impl Default for ByteBudget {
    fn default() -> Self {
        Self {
            units: Arc::new(Semaphore::new((BUDGET_BYTES >> 10) as usize)),
            estimate_bytes: AtomicU64::new(FIRST_ESTIMATE_BYTES),
        }
    }
}

fn units(bytes: u64) -> u32 {
    bytes.min(BUDGET_BYTES).div_ceil(1 << 10).max(1) as u32
}

impl ByteBudget {
    /// Waits for room for `most` blocks, or fewer where there is not so much: one hold for each, at
    /// least one. `own` is the stream's own place for one block, so that streams which nobody reads
    /// cannot stop it.
    pub async fn hold(&self, own: &Arc<Semaphore>, most: usize) -> Vec<Hold> {
        let each = units(self.estimate_bytes.load(Ordering::Relaxed));
        // All at once or none of them: whoever held a part could wait for who waits for him.
        let count = (units(BUDGET_BYTES / 2) / each).clamp(1, u32::try_from(most).unwrap_or(u32::MAX));
        let never_closed = "these semaphores are never closed";
        let shared = self.units.clone().acquire_many_owned(each * count);
        let own = || own.clone().acquire_owned();
        let own_hold = |own| vec![Hold { _own: Some(own), shared: None }];
        let is_single = count == 1;
        tokio::select! {
            biased;
            own = own(), if is_single => own_hold(own.expect(never_closed)),
            shared = shared => {
                let mut shared = shared.expect(never_closed);
                let parts = (1..count).filter_map(|_| shared.split(each as usize)).collect::<Vec<_>>();
                parts.into_iter().chain([shared]).map(|part| Hold { _own: None, shared: Some(part) }).collect()
            }
            own = own(), if !is_single => own_hold(own.expect(never_closed)),
        }
    }

    /// Corrects a hold, now that the block's size is known.
    pub fn settle(&self, hold: &mut Hold, size_bytes: u64) {
        let learn = |estimate: u64| Some(size_bytes.max(estimate - estimate.saturating_sub(size_bytes) / 16));
        // The closure always gives a value.
        self.estimate_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, learn).ok();
        let Some(shared) = &mut hold.shared else { return };
        let (held, needed) = (shared.num_permits(), units(size_bytes) as usize);
        if held > needed {
            drop(shared.split(held - needed));
        } else if let Ok(more) = self.units.clone().try_acquire_many_owned((needed - held) as u32) {
            // Where there is no room left, the block is here all the same.
            shared.merge(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_hold_is_an_estimate_until_the_size_is_known() {
        let budget = ByteBudget::default();
        let all = budget.units.available_permits();
        let own = Arc::new(Semaphore::new(0));
        let mut hold = budget.hold(&own, 1).await.remove(0);
        assert_eq!(all - budget.units.available_permits(), 512);
        budget.settle(&mut hold, 3 << 20);
        assert_eq!(all - budget.units.available_permits(), 3072);
        assert_eq!(budget.estimate_bytes.load(Ordering::Relaxed), 3 << 20);
        budget.settle(&mut hold, 100);
        assert_eq!(all - budget.units.available_permits(), 1);
        assert!(budget.estimate_bytes.load(Ordering::Relaxed) < 3 << 20);
        drop(hold);
        assert_eq!(budget.units.available_permits(), all);
    }

    #[tokio::test]
    async fn a_full_budget_leaves_each_stream_one_block() {
        let budget = ByteBudget::default();
        let none = Arc::new(Semaphore::new(0));
        let mut held = Vec::new();
        while let Some(hold) = budget.hold(&none, 1).now_or_never() {
            held.push(hold);
        }
        assert_eq!(held.len(), 32);
        let own = Arc::new(Semaphore::new(1));
        let first = budget.hold(&own, 1).now_or_never().expect("the stream's own place is free");
        assert!(budget.hold(&own, 1).now_or_never().is_none());
        drop(first);
        assert!(budget.hold(&own, 1).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_batch_holds_for_each_of_its_blocks_what_there_is_room_for() {
        let budget = ByteBudget::default();
        let all = budget.units.available_permits();
        let own = Arc::new(Semaphore::new(1));
        let batch = budget.hold(&own, 10).await;
        assert_eq!((batch.len(), all - budget.units.available_permits()), (10, 10 << 9));
        let half = budget.hold(&own, 1000).await;
        assert_eq!(half.len(), 16);
        // There is no room for a second half, but for one block.
        assert_eq!(budget.hold(&own, 1000).await.len(), 1);
        drop(batch);
        assert_eq!(budget.hold(&own, 1000).await.len(), 16);
    }
}

//! The memory of one query among others.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use datafusion::{
    error::Result,
    execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation},
};

/// What one query may have: bounded by itself, and together with all others by their memory.
#[derive(Debug)]
pub(crate) struct Share {
    own: FairSpillPool,
    limit_bytes: usize,
    all: Arc<dyn MemoryPool>,
}

impl Share {
    /// A share of the memory of all.
    pub fn new(limit_bytes: usize, all: Arc<dyn MemoryPool>) -> Self {
        Self { own: FairSpillPool::new(limit_bytes), limit_bytes, all }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a query's share of {} bytes", self.limit_bytes)
    }
}

impl MemoryPool for Share {
    fn name(&self) -> &str {
        "share"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
        self.all.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
        self.all.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.all.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.all.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.own.try_grow(reservation, additional)?;
        let grown = self.all.try_grow(reservation, additional);
        if grown.is_err() {
            self.own.shrink(reservation, additional);
        }
        grown
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit_bytes)
    }
}

/// What steps of a query hold until it is at its end, in its memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    reservation: Arc<Mutex<Option<MemoryReservation>>>,
}

impl Kept {
    /// Takes over what was held until now.
    pub fn take(&self, held: &mut MemoryReservation) {
        let mut kept = self.reservation.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_mut() {
            Some(kept) => kept.grow(held.free()),
            None => *kept = Some(held.take()),
        }
    }

    /// Gives it back.
    pub fn clear(&self) {
        self.reservation.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_neither_more_than_its_share_nor_than_is_left() {
        let all: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(100));
        let shares = [0, 1].map(|_| Arc::new(Share::new(60, Arc::clone(&all))) as Arc<dyn MemoryPool>);
        let [first, second] = shares.each_ref().map(|share| MemoryConsumer::new("c").register(share));
        assert!(first.try_grow(61).is_err() && all.reserved() == 0);
        first.try_grow(60).expect("its share");
        assert!(second.try_grow(50).is_err(), "only 40 are left");
        assert_eq!((all.reserved(), shares[1].reserved()), (60, 0));
        second.try_grow(40).expect("what is left");
        drop(first);
        assert_eq!((all.reserved(), shares[0].reserved()), (40, 0));
    }
}

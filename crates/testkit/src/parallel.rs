//! Work spread over all cores.

use std::{
    num::NonZero,
    thread::{self, available_parallelism},
};

/// What `make` makes of the numbers below `count`, on all cores.
pub(crate) fn in_parallel<T: Send>(count: u64, make: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let threads = available_parallelism().map_or(1, NonZero::get) as u64;
    let share = count.div_ceil(threads).max(1) as usize;
    let mut made: Vec<Option<T>> = (0..count).map(|_| None).collect();
    thread::scope(|scope| {
        for (part, slots) in made.chunks_mut(share).enumerate() {
            let make = &make;
            scope.spawn(move || {
                for (index, slot) in slots.iter_mut().enumerate() {
                    *slot = Some(make((part * share + index) as u64));
                }
            });
        }
    });
    made.into_iter().map(|item| item.expect("every slot is in one of the chunks")).collect()
}

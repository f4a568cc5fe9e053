//! Which of the cuts that lie in a store count: pure, from what their files say.
//!
//! A store also holds what was replaced and waits for the collector, and what a crash kept from being
//! committed. Of cuts that share a block the one that came later counts: its writer had seen the commit
//! of the other. What then does not link to a neighbour that came later is the stale side of a fork.

use std::collections::BTreeMap;

use nozzle_core::{BlockNum, SourceCursor, Span};

/// What tells of two cuts which came later: see `FileOrigin::order`.
pub(super) type Order = (u64, i64);

/// One cut through all tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut<T> {
    /// Its blocks and how they link.
    pub span: Span,
    /// When it was written, among the others.
    pub order: Order,
    /// Where the source's stream goes on behind it.
    pub cursor: Option<SourceCursor>,
    /// What the caller knows it by.
    pub id: T,
}

/// The cuts that count, in block order: none overlaps another, and neighbours link.
pub(super) fn live<T>(mut cuts: Vec<Cut<T>>) -> Vec<Cut<T>> {
    cuts.sort_by_key(|cut| cut.order);
    let mut uppermost: BTreeMap<BlockNum, Cut<T>> = BTreeMap::new();
    for cut in cuts {
        let range = cut.span.range;
        // They are disjoint, so their ends are in the order of their starts.
        let below = uppermost.range(..=range.end()).rev();
        let covered = below.take_while(|(_, other)| other.span.range.end() >= range.start());
        for start in covered.map(|(start, _)| *start).collect::<Vec<_>>() {
            uppermost.remove(&start);
        }
        uppermost.insert(range.start(), cut);
    }
    linked(uppermost.into_values())
}

/// Drops the older side where two neighbours touch without linking, and what hangs on to it.
fn linked<T>(cuts: impl Iterator<Item = Cut<T>>) -> Vec<Cut<T>> {
    let parted = |below: &Span, above: &Span| below.touches(above) && !below.links_to(above);
    let mut kept: Vec<Cut<T>> = vec![];
    let mut dropped: Option<Span> = None;
    for cut in cuts {
        if dropped.is_some_and(|dropped| dropped.links_to(&cut.span)) {
            dropped = Some(cut.span);
            continue;
        }
        match kept.last() {
            Some(below) if parted(&below.span, &cut.span) && below.order < cut.order => {
                // The stale island below ends here. How far down it reaches only the source can tell.
                kept.pop();
                kept.push(cut);
            }
            Some(below) if parted(&below.span, &cut.span) => dropped = Some(cut.span),
            _ => kept.push(cut),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use nozzle_core::{BlockHash, BlockRange};
    use proptest::prelude::*;

    use super::*;

    fn hash(chain: u8, number: u64) -> BlockHash {
        let mut bytes = [chain; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes.into()
    }

    /// A chain as the number of the fork that each of its blocks came with.
    type Chain = Vec<u8>;

    fn cut(chain: &Chain, start: u64, end: u64, order: Order) -> Cut<usize> {
        let hash_of = |number: u64| hash(chain[number as usize], number);
        let prev_hash = start.checked_sub(1).map_or(BlockHash::ZERO, hash_of);
        let range = BlockRange::new(start, end).expect("a range");
        Cut { span: Span { range, prev_hash, hash: hash_of(end) }, order, cursor: None, id: 0 }
    }

    fn spans<T>(cuts: &[Cut<T>]) -> Vec<Span> {
        cuts.iter().map(|cut| cut.span).collect()
    }

    #[test]
    fn what_came_later_counts() {
        let (old, new) = (vec![1; 40], [vec![1; 15], vec![2; 25]].concat());
        let replaced = [cut(&old, 0, 9, (0, 1)), cut(&old, 10, 19, (0, 1)), cut(&old, 20, 29, (0, 1))];
        let kept = cut(&new, 10, 14, (3, 2));
        let mended = [kept, cut(&new, 15, 24, (3, 2))];
        let all = [replaced.as_slice(), mended.as_slice()].concat();
        let expected = [replaced[0].clone(), mended[0].clone(), mended[1].clone()];
        assert_eq!(spans(&live(all.clone())), spans(&expected));
        // In whatever order they are found.
        assert_eq!(spans(&live(all.into_iter().rev().collect())), spans(&expected));
    }

    #[test]
    fn the_stale_side_of_a_fork_goes_with_all_that_hangs_on_to_it() {
        let (old, new) = (vec![1; 60], [vec![1; 20], vec![2; 40]].concat());
        let stale = [cut(&old, 30, 39, (0, 1)), cut(&old, 40, 49, (0, 1))];
        let fresh = cut(&new, 20, 29, (5, 2));
        let [first, second] = stale.clone();
        assert_eq!(spans(&live(vec![first, fresh.clone(), second])), spans(&[fresh]));
        let below = cut(&old, 20, 29, (0, 1));
        let above = cut(&new, 30, 39, (5, 2));
        assert_eq!(spans(&live(vec![below, above.clone()])), spans(&[above]));
    }

    /// Something that happens to a dataset.
    #[derive(Debug, Clone)]
    enum Step {
        /// Blocks are extracted and committed, so many in each cut.
        Extract { blocks: u64, cut: u64 },
        /// The same, but the commit never comes.
        Crash { blocks: u64 },
        /// The chain changes so many blocks below its end, and the stored ones are mended.
        Reorg { depth: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..30_u64, 1..12_u64).prop_map(|(blocks, cut)| Step::Extract { blocks, cut }),
            1 => (1..30_u64).prop_map(|blocks| Step::Crash { blocks }),
            2 => (1..25_u64).prop_map(|depth| Step::Reorg { depth }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// The files of any history tell what the database knew at its end. What a crash kept from
        /// being committed may come on top: it is of the chain, and more of it.
        #[test]
        fn the_files_tell_what_was_live(steps in prop::collection::vec(step(), 1..14)) {
            let mut chain: Chain = vec![0; 1_000];
            let (mut live_now, mut all): (Vec<Cut<usize>>, Vec<Cut<usize>>) = (vec![], vec![]);
            let (mut sequence, mut lease, mut forks) = (0, 0, 0);
            let mut add = |written: &Cut<usize>| {
                all.push(Cut { id: all.len(), ..written.clone() });
            };
            for step in steps {
                lease += 1;
                let end = live_now.last().map_or(0, |cut| cut.span.range.end() + 1);
                match step {
                    Step::Extract { blocks, cut: size } => {
                        // The lease is claimed once, and each cut is a commit of its own.
                        let order = (sequence, lease);
                        for start in (end..end + blocks).step_by(size as usize) {
                            let written = cut(&chain, start, (start + size).min(end + blocks) - 1, order);
                            add(&written);
                            live_now.push(written);
                            sequence += 1;
                        }
                    }
                    Step::Crash { blocks } => add(&cut(&chain, end, end + blocks - 1, (sequence, lease))),
                    Step::Reorg { depth } => {
                        forks += 1;
                        let fork = end.saturating_sub(depth);
                        chain[fork as usize..].fill(forks);
                        let Some(first) = live_now.iter().position(|cut| cut.span.range.end() >= fork) else {
                            continue;
                        };
                        let start = live_now[first].span.range.start();
                        live_now.truncate(first);
                        let parts = [(start, fork), (fork, end)];
                        for (start, end) in parts.into_iter().filter(|(start, end)| start < end) {
                            let written = cut(&chain, start, end - 1, (sequence, lease));
                            add(&written);
                            live_now.push(written);
                        }
                        sequence += 1;
                    }
                }
            }
            let mut found = live(all);
            // What was never committed lies above all that was, if it is there at all.
            while found.last().is_some_and(|cut| !spans(&live_now).contains(&cut.span)) {
                let extra = found.pop().expect("it has a last one");
                let end = live_now.last().map_or(0, |cut| cut.span.range.end() + 1);
                prop_assert!(extra.span.range.start() >= end, "{extra:?} above {end}");
            }
            prop_assert_eq!(spans(&found), spans(&live_now));
        }
    }
}

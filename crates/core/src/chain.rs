//! What a list of spans says about a chain: pure functions, the ground that dumping, watermarks
//! and reorgs stand on.
//!
//! All of them take the *live* spans of one table: sorted by their start and not overlapping.
//!
//! ```text
//!  start_block                    hole            break (hashes differ)
//!      │ [0..9]──[10..19]──[20..29]     [40..49]  ≠  [50..59]
//!      └───────── linked run ────┘
//!                    watermark = 29
//! ```

use crate::{
    block::{BlockHash, BlockId, BlockNum},
    range::{BlockRange, subtract},
    segment::Span,
};

/// How many spans, from the first, form a run from exactly `start` on in which each links to the
/// next.
pub fn linked_run(start: BlockNum, spans: &[Span]) -> usize {
    if spans.first().is_none_or(|first| first.range.start() != start) {
        return 0;
    }
    1 + spans.windows(2).take_while(|pair| pair[0].links_to(&pair[1])).count()
}

/// The end of the linked run from `start`: up to here, and no further, a table may be streamed
/// and derived from.
pub fn watermark(start: BlockNum, spans: &[Span]) -> Option<BlockId> {
    linked_run(start, spans).checked_sub(1).map(|last| spans[last].tip())
}

/// The parts of `wanted` that no span covers, in order.
pub fn missing(wanted: BlockRange, spans: &[Span]) -> Vec<BlockRange> {
    subtract(vec![wanted], spans.iter().map(|span| span.range).collect())
}

/// The first place where two neighbours touch but are of different chains: the number of the
/// later one's first block.
pub fn first_break(spans: &[Span]) -> Option<BlockNum> {
    spans
        .windows(2)
        .find(|pair| pair[0].touches(&pair[1]) && !pair[0].links_to(&pair[1]))
        .map(|pair| pair[1].range.start())
}

/// What a reorg leaves of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphaned {
    /// The index of the first span with an orphaned block; it and all above are to be replaced.
    pub first: usize,
    /// The blocks of that span that are still canonical, from its start to the fork block. Their
    /// rows are kept; absent where the span begins above the fork.
    pub kept: Option<BlockRange>,
}

/// What is orphaned when `fork` is the last block that the stored chain and the canonical chain
/// share (`None`: they share none). `None` where no span reaches above the fork.
pub fn orphaned(spans: &[Span], fork: Option<BlockNum>) -> Option<Orphaned> {
    let reaches_above = |span: &Span| fork.is_none_or(|fork| span.range.end() > fork);
    let first = spans.partition_point(|span| !reaches_above(span));
    let span = spans.get(first)?;
    let kept = fork.and_then(|fork| BlockRange::new(span.range.start(), fork));
    Some(Orphaned { first, kept })
}

/// Finds the highest of our blocks that is also on another chain, asking about few of them.
///
/// Once two chains part they never meet again, so the blocks in common are a prefix of ours. The
/// search starts at the top, where forks are, doubles its steps downwards, and then halves.
/// A pure state machine: [`ForkSearch::probe`] says which block to ask about and
/// [`ForkSearch::answer`] takes the other chain's hash of it.
#[derive(Debug, Clone)]
pub struct ForkSearch<'a> {
    ours: &'a [BlockId],
    /// `ours[..common]` is known to be shared.
    common: usize,
    /// `ours[parted..]` is known not to be shared.
    parted: usize,
    /// How far below `parted` the next probe is while no shared block is known.
    step: usize,
    found_common: bool,
}

impl<'a> ForkSearch<'a> {
    /// A search over our blocks, in ascending order of their numbers.
    pub fn new(ours: &'a [BlockId]) -> Self {
        Self { ours, common: 0, parted: ours.len(), step: 1, found_common: false }
    }

    /// The block to ask about next; `None` when the search is over.
    pub fn probe(&self) -> Option<BlockId> {
        self.probe_index().map(|index| self.ours[index])
    }

    fn probe_index(&self) -> Option<usize> {
        if self.common == self.parted {
            return None;
        }
        Some(if self.found_common {
            self.common + (self.parted - self.common) / 2
        } else {
            self.parted.saturating_sub(self.step)
        })
    }

    /// Takes the other chain's hash of the block last probed; `None` where that chain has no such
    /// block.
    pub fn answer(&mut self, theirs: Option<BlockHash>) {
        let Some(index) = self.probe_index() else { return };
        if theirs == Some(self.ours[index].hash) {
            self.common = index + 1;
            self.found_common = true;
        } else {
            self.parted = index;
            self.step *= 2;
        }
    }

    /// The highest shared block, once [`ForkSearch::probe`] has nothing more to ask; `None` where
    /// no block is shared.
    pub fn fork(&self) -> Option<BlockId> {
        self.common.checked_sub(1).map(|last| self.ours[last])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::BlockLink;

    fn hash(chain: u8, number: BlockNum) -> BlockHash {
        let mut bytes = [chain; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        BlockHash::from(bytes)
    }

    /// Spans of the given ranges on chain 1, in which every number is a block.
    fn spans(ranges: &[(BlockNum, BlockNum)]) -> Vec<Span> {
        let span = |&(start, end): &(u64, u64)| Span {
            range: BlockRange::new(start, end).expect("a range"),
            prev_hash: start.checked_sub(1).map_or(BlockHash::ZERO, |n| hash(1, n)),
            hash: hash(1, end),
        };
        ranges.iter().map(span).collect()
    }

    #[test]
    fn the_watermark_is_the_end_of_the_linked_run() {
        let end = |start, list: &[Span]| watermark(start, list).map(|block| block.number);
        assert_eq!(end(0, &[]), None);
        assert_eq!(end(0, &spans(&[(0, 9), (10, 19), (30, 39)])), Some(19));
        assert_eq!(end(5, &spans(&[(0, 9)])), None);
        assert_eq!(end(0, &spans(&[(1, 9)])), None);
        let mut broken = spans(&[(0, 9), (10, 19), (20, 29)]);
        broken[1].prev_hash = hash(2, 9);
        assert_eq!(end(0, &broken), Some(9));
        assert_eq!(first_break(&broken), Some(10));
        assert_eq!(first_break(&spans(&[(0, 9), (20, 29)])), None);
    }

    #[test]
    fn what_is_orphaned_depends_on_where_the_fork_lies() {
        let list = spans(&[(0, 9), (10, 19), (20, 20)]);
        type Expected = Option<(usize, Option<(u64, u64)>)>;
        let cases: &[(Option<u64>, Expected)] = &[
            (Some(20), None),
            (Some(99), None),
            (Some(19), Some((2, None))),
            (Some(18), Some((1, Some((10, 18))))),
            (Some(10), Some((1, Some((10, 10))))),
            (Some(9), Some((1, None))),
            (Some(0), Some((0, Some((0, 0))))),
            (None, Some((0, None))),
        ];
        for (fork, expected) in cases {
            let expected = expected.map(|(first, kept)| Orphaned {
                first,
                kept: kept.map(|(start, end)| BlockRange::new(start, end).expect("a range")),
            });
            assert_eq!(orphaned(&list, *fork), expected, "fork at {fork:?}");
        }
        assert_eq!(orphaned(&[], None), None);
    }

    /// A chain as a test knows it: the blocks by ascending number, numbers may be skipped.
    #[derive(Debug, Clone)]
    struct Chain(Vec<BlockLink>);

    impl Chain {
        /// `gaps[i]` numbers are skipped before the block `i`; `tag` tells chains apart.
        fn grow(mut self, tag: u8, gaps: &[u64]) -> Chain {
            for gap in gaps {
                let parent = self.0.last().copied();
                let number = parent.map_or(0, |p| p.number + 1) + gap;
                let parent_hash = parent.map_or(BlockHash::ZERO, |p| p.hash);
                self.0.push(BlockLink { number, hash: hash(tag, number), parent_hash });
            }
            self
        }

        fn tip(&self) -> BlockNum {
            self.0.last().map_or(0, |block| block.number)
        }

        fn at(&self, number: BlockNum) -> Option<BlockHash> {
            self.0.iter().find(|block| block.number == number).map(|block| block.hash)
        }

        /// The span of `range`: a wholly skipped one carries its predecessor's hash.
        fn span(&self, range: BlockRange) -> Span {
            let before = self.0.iter().rfind(|block| block.number < range.start());
            let inside: Vec<_> = self.0.iter().filter(|block| range.contains(block.number)).collect();
            let before_hash = before.map_or(BlockHash::ZERO, |block| block.hash);
            Span {
                range,
                prev_hash: inside.first().map_or(before_hash, |block| block.parent_hash),
                hash: inside.last().map_or(before_hash, |block| block.hash),
            }
        }

        /// All of `range`, cut at the given lengths.
        fn cut(&self, range: BlockRange, lengths: &[u64]) -> Vec<Span> {
            let mut start = range.start();
            let mut list = Vec::new();
            for length in lengths.iter().cycle() {
                let end = (start + length - 1).min(range.end());
                list.push(self.span(BlockRange::new(start, end).expect("a range")));
                if end == range.end() {
                    return list;
                }
                start = end + 1;
            }
            list
        }
    }

    fn whole(chain: &Chain) -> BlockRange {
        BlockRange::new(0, chain.tip()).expect("a range")
    }

    prop_compose! {
        /// A common trunk and two branches on it, cuts for the stored branch, cuts for the repair.
        fn forked()(
            trunk in proptest::collection::vec(0u64..3, 1..40),
            ours in proptest::collection::vec(0u64..3, 0..40),
            theirs in proptest::collection::vec(0u64..3, 1..40),
            cuts in proptest::collection::vec(1u64..30, 1..6),
            repair_cuts in proptest::collection::vec(1u64..30, 1..6),
            same_height in any::<bool>(),
        ) -> (Chain, Chain, Chain, Vec<u64>, Vec<u64>) {
            let trunk = Chain(vec![]).grow(0, &trunk);
            let ours = trunk.clone().grow(1, &ours);
            let mut other = trunk.clone().grow(2, &theirs);
            if same_height && ours.0.len() > trunk.0.len() {
                // Equal heights with other hashes: what comparing numbers alone would miss.
                let gaps = ours.0[trunk.0.len()..].iter().scan(trunk.tip(), |before, block| {
                    let gap = block.number - *before - 1;
                    *before = block.number;
                    Some(gap)
                });
                other = trunk.clone().grow(2, &gaps.collect::<Vec<_>>());
            }
            (trunk, ours, other, cuts, repair_cuts)
        }
    }

    proptest! {
        #[test]
        fn a_cut_chain_links_whatever_the_cuts((_, ours, _, cuts, _) in forked()) {
            let list = ours.cut(whole(&ours), &cuts);
            prop_assert_eq!(linked_run(0, &list), list.len());
            prop_assert_eq!(first_break(&list), None);
            prop_assert_eq!(watermark(0, &list).map(|tip| tip.hash), ours.at(ours.tip()));
            prop_assert!(missing(whole(&ours), &list).is_empty());
        }

        #[test]
        fn the_fork_search_finds_the_last_shared_block((trunk, ours, theirs, _, _) in forked()) {
            let ids: Vec<_> = ours.0.iter().map(BlockLink::id).collect();
            let mut search = ForkSearch::new(&ids);
            let mut probes = 0;
            while let Some(block) = search.probe() {
                search.answer(theirs.at(block.number));
                probes += 1;
            }
            prop_assert_eq!(search.fork(), trunk.0.last().map(BlockLink::id));
            let above = (ours.0.len() - trunk.0.len() + 1) as f64;
            prop_assert!(f64::from(probes) <= 2.0 * above.log2() + 3.0, "{} probes for {} blocks", probes, above);
        }

        #[test]
        fn replacing_the_orphaned_part_gives_the_other_chain((trunk, ours, theirs, cuts, repair_cuts) in forked()) {
            let mut list = ours.cut(whole(&ours), &cuts);
            let fork = trunk.tip();
            let wanted = whole(&theirs);
            if let Some(Orphaned { first, kept }) = orphaned(&list, Some(fork)) {
                let replaced = list.split_off(first);
                prop_assert!(replaced.iter().all(|span| span.range.end() > fork));
                if let Some(kept) = kept {
                    prop_assert!(replaced[0].range.covers(kept) && kept.end() == fork);
                    list.push(ours.span(kept));
                }
            }
            // What is kept is on both chains, and nothing of it needs to be asked for again.
            prop_assert!(list.iter().all(|span| *span == theirs.span(span.range)));
            for range in missing(wanted, &list) {
                prop_assert!(range.start() > fork);
                list.extend(theirs.cut(range, &repair_cuts));
            }
            list.sort_by_key(|span| span.range);
            prop_assert_eq!(linked_run(0, &list), list.len());
            prop_assert_eq!(list.iter().map(|span| span.range.len()).sum::<u64>(), wanted.len());
            prop_assert_eq!(watermark(0, &list).map(|tip| tip.hash), theirs.at(theirs.tip()));
        }

        #[test]
        fn a_span_of_the_other_chain_never_links_above_the_fork((trunk, ours, theirs, cuts, _) in forked()) {
            let fork = trunk.tip();
            prop_assume!(ours.tip() > fork + 1 && theirs.tip() > fork + 1);
            let top = ours.tip().max(theirs.tip());
            for at in fork + 1..top {
                // Below: ours up to `at`; above: theirs. Only where a side holds no block of its
                // own above the fork may they link.
                let below = ours.cut(BlockRange::new(0, at).expect("a range"), &cuts);
                let above = theirs.span(BlockRange::new(at + 1, top).expect("a range"));
                let own_below = ours.0.iter().any(|b| b.number > fork && b.number <= at);
                let own_above = theirs.0.iter().any(|b| b.number > at);
                if own_below && own_above {
                    prop_assert!(!below[below.len() - 1].links_to(&above));
                }
            }
        }
    }
}

//! Inclusive block ranges that are never empty, and sets of them.

use serde::{Deserialize, Serialize};

use crate::block::BlockNum;

/// The greatest block number that can be stored: SQL databases have signed 64-bit integers.
/// As the end of a lease it means "open": everything above the start.
pub const MAX_BLOCK: BlockNum = i64::MAX as u64;

/// An inclusive, never empty range of block numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Bounds")]
pub struct BlockRange {
    start: BlockNum,
    end: BlockNum,
}

#[derive(Deserialize)]
struct Bounds {
    start: BlockNum,
    end: BlockNum,
}

impl TryFrom<Bounds> for BlockRange {
    type Error = String;

    fn try_from(Bounds { start, end }: Bounds) -> Result<Self, String> {
        BlockRange::new(start, end).ok_or_else(|| format!("{start}..={end} is not a block range"))
    }
}

impl BlockRange {
    /// The blocks from `start` to `end`, both included; `None` where that is no block at all or
    /// `end` is above [`MAX_BLOCK`].
    pub fn new(start: BlockNum, end: BlockNum) -> Option<Self> {
        (start <= end && end <= MAX_BLOCK).then_some(Self { start, end })
    }

    /// One block. Numbers above [`MAX_BLOCK`] are held at it.
    pub fn single(number: BlockNum) -> Self {
        let number = number.min(MAX_BLOCK);
        Self { start: number, end: number }
    }

    /// Every block from `start` on.
    pub fn from(start: BlockNum) -> Self {
        Self { start: start.min(MAX_BLOCK), end: MAX_BLOCK }
    }

    /// The first block.
    pub fn start(&self) -> BlockNum {
        self.start
    }

    /// The last block.
    pub fn end(&self) -> BlockNum {
        self.end
    }

    /// Whether the range has no upper end.
    pub fn is_open(&self) -> bool {
        self.end == MAX_BLOCK
    }

    /// How many block numbers the range holds; at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.end - self.start + 1
    }

    /// Whether `number` lies in the range.
    pub fn contains(&self, number: BlockNum) -> bool {
        self.start <= number && number <= self.end
    }

    /// Whether all of `other` lies in the range.
    pub fn covers(&self, other: BlockRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether the two share a block.
    pub fn overlaps(&self, other: BlockRange) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// What the two share.
    pub fn intersect(&self, other: BlockRange) -> Option<BlockRange> {
        BlockRange::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Cuts the range into at most `parts` neighbouring ranges of nearly equal length, in order.
    pub fn split(&self, parts: u64) -> Vec<BlockRange> {
        let parts = parts.clamp(1, self.len());
        let (each, rest) = (self.len() / parts, self.len() % parts);
        let mut start = self.start;
        (0..parts)
            .map(|i| {
                let end = start + each + u64::from(i < rest) - 1;
                let part = BlockRange { start, end };
                start = end + 1;
                part
            })
            .collect()
    }
}

impl std::fmt::Display for BlockRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_open() {
            write!(f, "{} and above", self.start)
        } else if self.start == self.end {
            write!(f, "{}", self.start)
        } else {
            write!(f, "{} to {}", self.start, self.end)
        }
    }
}

impl std::fmt::Debug for BlockRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..={}", self.start, self.end)
    }
}

/// Sorts ranges and joins those that touch or overlap.
pub fn merge(mut ranges: Vec<BlockRange>) -> Vec<BlockRange> {
    ranges.sort();
    let mut merged: Vec<BlockRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(1) => {
                last.end = last.end.max(range.end);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// What of `wanted` lies in none of `covered`, in order. Neither needs to be sorted.
pub fn subtract(wanted: Vec<BlockRange>, covered: Vec<BlockRange>) -> Vec<BlockRange> {
    let covered = merge(covered);
    let mut missing = Vec::new();
    let mut from = 0;
    for want in merge(wanted) {
        let mut next = want.start;
        // `wanted` ascends, so what ended before this range is never looked at again.
        while from < covered.len() && covered[from].end < want.start {
            from += 1;
        }
        for have in covered[from..].iter().take_while(|have| have.start <= want.end) {
            if have.start > next {
                missing.push(BlockRange { start: next, end: have.start - 1 });
            }
            next = next.max(have.end.saturating_add(1));
        }
        missing.extend(BlockRange::new(next, want.end));
    }
    missing
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> BlockRange {
        BlockRange::new(start, end).expect("a range")
    }

    #[test]
    fn an_empty_range_is_never_a_value() {
        assert_eq!(BlockRange::new(2, 1), None);
        assert_eq!(BlockRange::new(0, u64::MAX), None);
        assert!(serde_json::from_str::<BlockRange>(r#"{"start":2,"end":1}"#).is_err());
    }

    #[test]
    fn splitting_keeps_every_block_and_the_order() {
        assert_eq!(range(0, 9).split(3), [range(0, 3), range(4, 6), range(7, 9)]);
        assert_eq!(range(5, 6).split(9), [range(5, 5), range(6, 6)]);
        assert_eq!(range(5, 6).split(0), [range(5, 6)]);
    }

    #[test]
    fn subtraction_is_a_table_of_cases() {
        type Ranges = &'static [(u64, u64)];
        let cases: &[(Ranges, Ranges, Ranges)] = &[
            (&[(0, 9)], &[], &[(0, 9)]),
            (&[(0, 9)], &[(0, 9)], &[]),
            (&[(0, 9)], &[(3, 4)], &[(0, 2), (5, 9)]),
            (&[(5, 9)], &[(0, 6), (9, 20)], &[(7, 8)]),
            (&[(0, 2), (6, 8)], &[(2, 6)], &[(0, 1), (7, 8)]),
            (&[(0, 9), (5, 20)], &[(1, 1), (1, 3)], &[(0, 0), (4, 20)]),
        ];
        let ranges = |list: &[(u64, u64)]| list.iter().map(|&(s, e)| range(s, e)).collect::<Vec<_>>();
        for (wanted, covered, missing) in cases {
            assert_eq!(subtract(ranges(wanted), ranges(covered)), ranges(missing));
        }
    }

    proptest! {
        #[test]
        fn subtraction_agrees_with_sets_of_numbers(
            wanted in proptest::collection::vec((0u64..60, 0u64..12), 0..6),
            covered in proptest::collection::vec((0u64..60, 0u64..12), 0..6),
        ) {
            let ranges = |list: &[(u64, u64)]| list.iter().map(|&(s, n)| range(s, s + n)).collect::<Vec<_>>();
            let (wanted, covered) = (ranges(&wanted), ranges(&covered));
            let missing = subtract(wanted.clone(), covered.clone());
            for number in 0..80 {
                let has = |list: &[BlockRange]| list.iter().any(|r| r.contains(number));
                prop_assert_eq!(has(&missing), has(&wanted) && !has(&covered));
            }
            prop_assert_eq!(merge(missing.clone()), missing);
        }
    }
}

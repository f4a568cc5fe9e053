//! What is to be extracted, decided without asking anybody: wanted minus covered, cut into work.

use nozzle_core::{BlockNum, BlockRange, Span, chain};

/// The least number of blocks that is worth a job of its own when the work is shared.
const MIN_CHUNK: u64 = 64;

/// Chunks a job gets on average: jobs that are done early take from what is left, and slow parts of
/// the chain (recent blocks are fuller) do not leave one job with all the rest.
const CHUNKS_PER_JOB: u64 = 4;

/// The missing parts of `wanted`.
pub fn missing(wanted: BlockRange, spans: &[Span]) -> Vec<BlockRange> {
    chain::missing(wanted, spans)
}

/// Cuts ranges behind a block, so that none has blocks on both sides.
pub fn cut_behind(ranges: &[BlockRange], last: BlockNum) -> Vec<BlockRange> {
    let parts = |range: &BlockRange| {
        let below = BlockRange::new(range.start(), range.end().min(last));
        let above = BlockRange::new(range.start().max(last.saturating_add(1)), range.end());
        below.into_iter().chain(above)
    };
    ranges.iter().flat_map(parts).collect()
}

/// Cuts work into chunks for `jobs` jobs, in block order. One job takes each range whole.
pub fn chunks(ranges: &[BlockRange], jobs: usize) -> Vec<BlockRange> {
    if jobs <= 1 {
        return ranges.to_vec();
    }
    let total: u64 = ranges.iter().map(BlockRange::len).sum();
    let length = (total / (jobs as u64 * CHUNKS_PER_JOB)).max(MIN_CHUNK);
    ranges.iter().flat_map(|range| range.split(range.len().div_ceil(length))).collect()
}

/// Below so many blocks it costs more to share the work than to do it.
const MIN_SHARED: u64 = 128;

/// Tasks that the work of a job is cut into, where it is large: workers that come later, or are faster,
/// find some left.
const TASKS_PER_JOB: u64 = 256;

/// The most blocks of a task: so much at most waits for one worker.
const MAX_TASK: u64 = 20_000;

/// Cuts what is missing of a dataset into tasks for any number of workers; none where one may as well do
/// all of it.
pub fn tasks(missing: &[BlockRange]) -> Vec<BlockRange> {
    let total: u64 = missing.iter().map(BlockRange::len).sum();
    if total < MIN_SHARED {
        return vec![];
    }
    let length = (total / TASKS_PER_JOB).clamp(MIN_CHUNK, MAX_TASK);
    missing.iter().flat_map(|range| range.split(range.len().div_ceil(length))).collect()
}

#[cfg(test)]
mod tests {
    use nozzle_core::BlockHash;

    use super::*;

    fn range(start: u64, end: u64) -> BlockRange {
        BlockRange::new(start, end).expect("a range")
    }

    #[test]
    fn only_what_no_span_covers_is_missing() {
        let span =
            |start, end| Span { range: range(start, end), prev_hash: BlockHash::ZERO, hash: BlockHash::ZERO };
        assert_eq!(missing(range(0, 9), &[]), [range(0, 9)]);
        assert_eq!(missing(range(0, 9), &[span(0, 3), span(6, 20)]), [range(4, 5)]);
        assert_eq!(missing(range(0, 9), &[span(0, 9)]), []);
    }

    #[test]
    fn a_cut_leaves_no_range_on_both_sides() {
        let ranges = [range(0, 9), range(20, 29)];
        assert_eq!(cut_behind(&ranges, 24), [range(0, 9), range(20, 24), range(25, 29)]);
        assert_eq!(cut_behind(&ranges, 19), ranges);
        assert_eq!(cut_behind(&ranges, 99), ranges);
        assert_eq!(cut_behind(&[range(5, 9)], 2), [range(5, 9)]);
    }

    #[test]
    fn tasks_cover_the_ranges_in_order_and_are_of_a_size_to_share() {
        assert_eq!(tasks(&[range(0, 99)]), []);
        for (missing, most) in
            [(range(0, 1_999), 64), (range(5, 1_000_000), 3_907), (range(0, 20_000_000), 20_000)]
        {
            let tasks = tasks(&[missing]);
            assert_eq!(nozzle_core::range::merge(tasks.clone()), [missing]);
            assert!(tasks.len() >= 32 && tasks.windows(2).all(|pair| pair[0].end() < pair[1].start()));
            assert!(tasks.iter().all(|task| task.len() <= most), "{missing}");
        }
    }

    #[test]
    fn chunks_cover_the_ranges_in_order() {
        let ranges = [range(0, 9_999), range(20_000, 20_010)];
        for jobs in [1, 2, 3, 8, 64] {
            let chunks = chunks(&ranges, jobs);
            assert_eq!(nozzle_core::range::merge(chunks.clone()), ranges);
            assert!(chunks.windows(2).all(|pair| pair[0].end() < pair[1].start()));
            if jobs > 1 {
                assert!(chunks.len() >= jobs, "{} chunks for {jobs} jobs", chunks.len());
            }
        }
        assert_eq!(chunks(&ranges, 1), ranges);
        assert_eq!(chunks(&[range(0, 50)], 4), [range(0, 50)]);
    }
}

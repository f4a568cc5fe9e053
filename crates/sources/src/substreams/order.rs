//! Whether the blocks of a stream follow each other, and what an undo leaves of those that wait.

use std::collections::VecDeque;

use nozzle_core::{BlockId, BlockRange};

use super::client::Arrived;
use crate::error::SourceError;

/// With so many blocks or bytes a group is decoded, though more may be there.
const GROUP_BLOCKS: usize = 256;
const GROUP_BYTES: usize = 4 << 20;

/// Blocks that have come and were not passed on yet.
#[derive(Debug)]
pub(crate) struct Order {
    provider: String,
    /// The block before the next one; `None` where the module begins.
    previous: Option<BlockId>,
    /// Each with the one before it.
    waiting: VecDeque<(Arrived, Option<BlockId>)>,
}

impl Order {
    /// Behind `previous`, if there is a block before. A place has it under the number where it stands, which is a
    /// later one where the numbers in between had no blocks.
    pub fn new(provider: &str, previous: Option<BlockId>) -> Self {
        Self { provider: provider.to_owned(), previous, waiting: VecDeque::new() }
    }

    pub fn previous(&self) -> Option<BlockId> {
        self.previous
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether it is time to pass on what waits.
    pub fn is_full(&self) -> bool {
        let bytes: usize = self.waiting.iter().map(|(block, _)| block.output.len()).sum();
        self.waiting.len() >= GROUP_BLOCKS || bytes >= GROUP_BYTES
    }

    /// All that waits.
    pub fn pass(&mut self) -> Vec<(Arrived, Option<BlockId>)> {
        self.waiting.drain(..).collect()
    }

    /// Takes the next block; `range` are the numbers that are still to come.
    pub fn take(&mut self, block: Arrived, range: BlockRange) -> Result<(), SourceError> {
        if self.previous == Some(block.id) {
            // Sent twice.
            return Ok(());
        }
        let above = self.previous.map_or(range.start().checked_sub(1), |previous| Some(previous.number));
        if let Some(above) = above.filter(|above| block.id.number <= *above) {
            return Err(SourceError::Malformed {
                provider: self.provider.clone(),
                block: block.id.number,
                why: format!("it came behind block {above}, and nothing was undone"),
            });
        }
        // There was none at that number before the undo: whoever has stored that has another chain.
        if let Some(previous) = self.previous.filter(|_| block.id.number < range.start()) {
            return Err(SourceError::NotLinked {
                block: range.start(),
                expected: previous.hash,
                found: block.id.hash,
            });
        }
        let before = self.previous.replace(block.id);
        self.waiting.push_back((block, before));
        Ok(())
    }

    /// Drops what waits above the last valid block. What was passed on already no longer stands then, nor does what
    /// others have below the range, which is an error.
    pub fn undo(&mut self, last: BlockId) -> Result<(), SourceError> {
        while self.waiting.back().is_some_and(|(block, _)| block.id.number > last.number) {
            if let Some((_, before)) = self.waiting.pop_back() {
                self.previous = before;
            }
        }
        match self.previous {
            // Also where it stands under a later number.
            Some(previous) if previous.hash == last.hash => self.previous = Some(last),
            Some(previous) if previous.number >= last.number => {
                return Err(SourceError::NotLinked {
                    block: previous.number.saturating_add(1),
                    expected: previous.hash,
                    found: last.hash,
                });
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nozzle_core::BlockHash;

    use super::*;

    fn id(fork: u8, number: u64) -> BlockId {
        let mut hash = BlockHash::left_padding_from(&number.to_be_bytes());
        hash[0] = fork;
        BlockId { number, hash }
    }

    fn arrived(id: BlockId) -> Arrived {
        Arrived {
            id,
            timestamp_micros: 0,
            type_url: String::new(),
            output: bytes::Bytes::new(),
            cursor: String::new(),
            final_height: 0,
        }
    }

    /// Behind block 9 of the fork 0, with what of the range from 10 on has come.
    fn order(come: &[BlockId]) -> Order {
        let mut order = Order::new("p", Some(id(0, 9)));
        come.iter().for_each(|id| order.take(arrived(*id), range(10)).expect("it follows"));
        order
    }

    fn range(start: u64) -> BlockRange {
        BlockRange::new(start, 20).expect("a range")
    }

    fn numbers(order: &mut Order) -> Vec<(u64, Option<u64>)> {
        let passed = order.pass();
        passed.iter().map(|(block, before)| (block.id.number, before.map(|before| before.number))).collect()
    }

    /// The hashes of a link that is broken, and at which block.
    fn broken(outcome: Result<(), SourceError>) -> (u64, BlockHash, BlockHash) {
        match outcome {
            Err(SourceError::NotLinked { block, expected, found }) => (block, expected, found),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn blocks_follow_each_other() {
        let mut order = order(&[id(0, 10), id(0, 12), id(0, 12)]);
        assert_eq!(numbers(&mut order), [(10, Some(9)), (12, Some(10))]);
        let error = order.take(arrived(id(1, 11)), range(13)).expect_err("it is below");
        assert!(error.to_string().contains("it came behind block 12, and nothing was undone"), "{error}");
        // Where the module begins nothing is before.
        let mut order = Order::new("p", None);
        assert!(order.take(arrived(id(0, 9)), range(10)).is_err());
        assert!(order.take(arrived(id(0, 10)), range(10)).is_ok());
        assert_eq!(numbers(&mut order), [(10, None)]);
    }

    #[test]
    fn an_undo_drops_what_waits_and_what_was_passed_on_is_an_error() {
        let mut waits = order(&[id(0, 10), id(0, 11), id(0, 12)]);
        waits.undo(id(0, 10)).expect("nobody has them");
        waits.take(arrived(id(1, 11)), range(10)).expect("it follows");
        assert_eq!(numbers(&mut waits), [(10, Some(9)), (11, Some(10))]);
        // Block 11 of the other fork is out.
        assert_eq!(broken(waits.undo(id(0, 10))), (12, id(1, 11).hash, id(0, 10).hash));
        // Below the range, and at the same number.
        for last in [id(0, 8), id(1, 9)] {
            assert_eq!(broken(order(&[id(0, 10)]).undo(last)), (10, id(0, 9).hash, last.hash));
        }
        order(&[id(0, 10)]).undo(id(0, 9)).expect("the block before stands");
        // Of the last valid block nothing was sent, as of one without output.
        let mut omitted = order(&[id(0, 10), id(0, 13)]);
        omitted.undo(id(0, 12)).expect("nobody has 13");
        assert_eq!(numbers(&mut omitted), [(10, Some(9))]);
    }

    #[test]
    fn a_block_that_stands_for_later_numbers_is_known_by_its_hash() {
        // The numbers 8 and 9 had no blocks: 7 stands for them.
        let stand_in = BlockId { number: 9, hash: id(0, 7).hash };
        let undone = || {
            let mut order = Order::new("p", Some(stand_in));
            order.take(arrived(id(0, 10)), range(10)).expect("it follows");
            order.undo(id(0, 7)).expect("it is the block before");
            order
        };
        let mut same = undone();
        same.take(arrived(id(1, 10)), range(10)).expect("it follows");
        assert_eq!(numbers(&mut same), [(10, Some(7))]);
        // Now there is a block where none was.
        let outcome = undone().take(arrived(id(1, 9)), range(10));
        assert_eq!(broken(outcome), (10, id(0, 7).hash, id(1, 9).hash));
        // Others know the place under its own number.
        let mut order = Order::new("p", Some(stand_in));
        assert_eq!(broken(order.undo(id(0, 6))), (10, id(0, 7).hash, id(0, 6).hash));
    }
}

//! The order of the blocks of a range, whatever an endpoint sends: blocks again, late ones, blocks that take
//! others' places, and blocks that are undone.

use bytes::Bytes;
use nozzle_core::{BlockHash, BlockNum, BlockRange, SourceCursor, block::BlockLink};

use crate::error::SourceError;

/// The most blocks that wait together.
pub const GROUP_BLOCKS: usize = 64;
/// With so many bytes they are enough.
pub const GROUP_BYTES: usize = 4 << 20;

/// A block as it has come.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// Which it is.
    pub link: BlockLink,
    /// What was sent.
    pub payload: Bytes,
    /// Where a stream goes on behind it.
    pub cursor: Option<SourceCursor>,
    /// The last final block, as the endpoint says.
    pub final_num: Option<BlockNum>,
}

/// A block has come, but not the one before it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gap(pub BlockNum);

/// Blocks of a range that wait to be passed on. What was passed on is out of its hands: where it is undone, the
/// next block does not link to it. Where an endpoint says nothing of it, the block that takes its place is
/// stepped over, and the first one behind it does not link.
#[derive(Debug)]
pub(crate) struct Order {
    /// The block that was passed on last, or that the range follows, where it is known.
    before: Option<BlockHash>,
    /// The number of the first block that waits, or of the one that comes next.
    first: BlockNum,
    end: BlockNum,
    waiting: Vec<Received>,
    bytes: usize,
}

impl Order {
    /// Nothing has come yet. `before` is the block that the range follows, where it is known.
    pub fn new(range: BlockRange, before: Option<BlockHash>) -> Self {
        Self { before, first: range.start(), end: range.end(), waiting: vec![], bytes: 0 }
    }

    /// The number of the block that comes next.
    pub fn next(&self) -> BlockNum {
        self.first + self.waiting.len() as u64
    }

    /// Takes a block that is part of the chain now.
    pub fn take(&mut self, block: Received) -> Result<(), Gap> {
        let number = block.link.number;
        if number < self.first || number > self.end {
            return Ok(());
        }
        if number > self.next() {
            return Err(Gap(self.next()));
        }
        let place = (number - self.first) as usize;
        if self.waiting.get(place).is_some_and(|other| other.link.hash == block.link.hash) {
            return Ok(());
        }
        self.cut(place);
        self.bytes += block.payload.len();
        self.waiting.push(block);
        Ok(())
    }

    /// Takes back a block and those behind it. `NotLinked` where it is the one before those that wait. Others
    /// were never taken, or were taken back before: endpoints repeat themselves.
    pub fn undo(&mut self, undone: &BlockLink) -> Result<(), SourceError> {
        if undone.number.checked_add(1) == Some(self.first) && self.before == Some(undone.hash) {
            let (block, expected, found) = (self.first, undone.hash, undone.parent_hash);
            return Err(SourceError::NotLinked { block, expected, found });
        }
        let place = undone.number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if let Some(place) = place
            && self.waiting.get(place).is_some_and(|block| block.link.hash == undone.hash)
        {
            self.cut(place);
        }
        Ok(())
    }

    fn cut(&mut self, place: usize) {
        self.bytes -= self.waiting.iter().skip(place).map(|block| block.payload.len()).sum::<usize>();
        self.waiting.truncate(place);
    }

    /// Whether some wait.
    pub fn has_some(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether no more should come before those that wait are passed on.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= GROUP_BLOCKS || self.bytes >= GROUP_BYTES || self.next() > self.end
    }

    /// Whether all were passed on.
    pub fn is_over(&self) -> bool {
        self.first > self.end
    }

    /// Passes on those that wait.
    pub fn pass(&mut self) -> Vec<Received> {
        self.first = self.next();
        self.before = self.waiting.last().map(|last| last.link.hash).or(self.before);
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }
}

/// The last blocks of the chain, as far as they were followed.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    blocks: std::collections::VecDeque<Received>,
    bytes: usize,
}

/// The most bytes of blocks that are remembered, beside the newest one.
const TAIL_BYTES: usize = 32 << 20;
/// The most blocks that are remembered.
const TAIL_BLOCKS: usize = 512;

impl Tail {
    /// The newest block.
    pub fn head(&self) -> Option<&Received> {
        self.blocks.back()
    }

    /// Takes a block that is part of the chain now. One that is known at its height is late: it takes nothing back,
    /// nor does one below all that are known. Where that is of another chain, the block behind it shows it.
    pub fn take(&mut self, block: Received) {
        if self.blocks.front().is_some_and(|first| block.link.number < first.link.number) {
            return;
        }
        if self.at(block.link.number).is_some_and(|known| known.link.hash == block.link.hash) {
            return;
        }
        self.cut(block.link.number);
        if self.blocks.back().is_some_and(|last| last.link.hash != block.link.parent_hash) {
            // It follows another chain than the one that is known.
            self.blocks.clear();
            self.bytes = 0;
        }
        self.bytes += block.payload.len();
        self.blocks.push_back(block);
        while self.blocks.len() > 1 && (self.bytes > TAIL_BYTES || self.blocks.len() > TAIL_BLOCKS) {
            self.bytes -= self.blocks.pop_front().map_or(0, |first| first.payload.len());
        }
    }

    /// Takes back a block and those behind it, if it is one of them.
    pub fn undo(&mut self, undone: &BlockLink) {
        if self.at(undone.number).is_some_and(|known| known.link.hash == undone.hash) {
            self.cut(undone.number);
        }
    }

    fn cut(&mut self, number: BlockNum) {
        while self.blocks.back().is_some_and(|last| last.link.number >= number) {
            self.bytes -= self.blocks.pop_back().map_or(0, |last| last.payload.len());
        }
    }

    /// The block at a height.
    pub fn at(&self, number: BlockNum) -> Option<&Received> {
        let first = self.blocks.front()?.link.number;
        self.blocks.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// The blocks of a range, if all of them are remembered.
    pub fn all_of(&self, range: BlockRange) -> Option<Vec<Received>> {
        self.at(range.end())?;
        (range.start()..=range.end()).map(|number| self.at(number).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The block `number` of the chain `fork`, whose parent is one of the chain `parent`.
    fn block(fork: u8, number: u64, parent: u8) -> Received {
        let hash = |fork: u8, number: u64| [[fork; 24].as_slice(), &number.to_be_bytes()].concat();
        let hash = |fork, number: u64| <[u8; 32]>::try_from(hash(fork, number)).expect("32 bytes").into();
        let link =
            BlockLink { number, hash: hash(fork, number), parent_hash: hash(parent, number.wrapping_sub(1)) };
        Received { link, payload: Bytes::from_static(b"12"), cursor: None, final_num: None }
    }

    fn order(start: u64, end: u64) -> Order {
        Order::new(BlockRange::new(start, end).expect("a range"), None)
    }

    fn passed(order: &mut Order) -> Vec<(u8, u64)> {
        order.pass().iter().map(|block| (block.link.hash.0[0], block.link.number)).collect()
    }

    #[test]
    fn blocks_that_come_again_or_late_or_beyond_the_range_are_stepped_over() {
        let mut order = order(5, 7);
        for (fork, number) in [(0, 4), (0, 5), (0, 5), (0, 6), (0, 5)] {
            order.take(block(fork, number, fork)).expect("no gap");
        }
        assert_eq!(passed(&mut order), [(0, 5), (0, 6)]);
        order.take(block(0, 6, 0)).expect("it was passed on");
        assert_eq!(order.take(block(0, 8, 0)), Ok(()));
        assert!(!order.has_some() && !order.is_over());
        order.take(block(0, 7, 0)).expect("no gap");
        assert!(order.is_full());
        assert_eq!(passed(&mut order), [(0, 7)]);
        assert!(order.is_over());
    }

    #[test]
    fn what_waits_is_undone_and_what_was_passed_on_does_not_link() {
        let mut order = order(1, 9);
        let undo = |order: &mut Order, fork, number| order.undo(&block(fork, number, fork).link);
        for number in 1..=3 {
            order.take(block(0, number, 0)).expect("no gap");
        }
        undo(&mut order, 0, 3).expect("it waits");
        undo(&mut order, 0, 2).expect("it waits");
        order.take(block(7, 2, 0)).expect("no gap");
        // Said again, late.
        undo(&mut order, 0, 2).expect("it is gone");
        assert_eq!(passed(&mut order), [(0, 1), (7, 2)]);
        undo(&mut order, 0, 2).expect("it is gone");
        let error = undo(&mut order, 7, 2).expect_err("it was passed on");
        let of = |fork, number| block(fork, number, fork).link.hash;
        assert!(
            matches!(error, SourceError::NotLinked { block: 3, expected, found } if expected == of(7, 2) && found == of(7, 1)),
            "{error:?}"
        );
    }

    #[test]
    fn the_block_that_a_range_follows_may_be_undone() {
        let before = block(0, 4, 0).link;
        let mut order = Order::new(BlockRange::new(5, 9).expect("a range"), Some(before.hash));
        order.undo(&block(3, 4, 0).link).expect("another block");
        order.undo(&block(0, 3, 0).link).expect("what is below is told by what is above");
        assert!(matches!(order.undo(&before), Err(SourceError::NotLinked { block: 5, .. })));
    }

    #[test]
    fn a_block_takes_the_place_of_one_that_was_passed_on_without_a_word() {
        let mut order = order(1, 9);
        for number in 1..=2 {
            order.take(block(0, number, 0)).expect("no gap");
        }
        assert_eq!(passed(&mut order).len(), 2);
        for number in 2..=3 {
            order.take(block(8, number, if number == 2 { 0 } else { 8 })).expect("no gap");
        }
        // Its parent is not the block 2 that was passed on: whoever looks at the link sees it.
        assert_eq!(passed(&mut order), [(8, 3)]);
    }

    #[test]
    fn a_block_takes_the_place_of_another_without_a_word() {
        let mut order = order(1, 9);
        for (fork, number) in [(0, 1), (0, 2), (0, 3), (7, 2)] {
            order.take(block(fork, number, 0)).expect("no gap");
        }
        assert_eq!(order.bytes, 4);
        assert_eq!(passed(&mut order), [(0, 1), (7, 2)]);
    }

    #[test]
    fn a_gap_is_told() {
        assert_eq!(order(1, 9).take(block(0, 3, 0)), Err(Gap(1)));
    }

    #[test]
    fn the_tail_is_one_chain() {
        let mut tail = Tail::default();
        let head = |tail: &Tail| tail.head().map(|block| (block.link.hash.0[0], block.link.number));
        for number in 10..=13 {
            tail.take(block(0, number, 0));
            tail.take(block(0, number, 0));
        }
        tail.take(block(0, 11, 0));
        assert_eq!(head(&tail), Some((0, 13)));
        let range = |start, end| BlockRange::new(start, end).expect("a range");
        assert_eq!(tail.all_of(range(11, 13)).map(|blocks| blocks.len()), Some(3));
        assert!(tail.all_of(range(9, 11)).is_none() && tail.all_of(range(12, 14)).is_none());
        // Late ones from below it.
        tail.take(block(0, 9, 0));
        tail.take(block(6, 9, 0));
        assert_eq!((head(&tail), tail.blocks.len(), tail.bytes), (Some((0, 13)), 4, 8));
        tail.undo(&block(5, 12, 5).link);
        assert_eq!(head(&tail), Some((0, 13)));
        tail.undo(&block(0, 12, 0).link);
        assert_eq!(head(&tail), Some((0, 11)));
        tail.take(block(7, 12, 0));
        assert_eq!((head(&tail), tail.blocks.len(), tail.bytes), (Some((7, 12)), 3, 6));
        tail.take(block(9, 13, 9));
        assert_eq!((head(&tail), tail.blocks.len(), tail.bytes), (Some((9, 13)), 1, 2));
        assert!(tail.at(12).is_none() && tail.at(13).is_some() && tail.at(u64::MAX).is_none());
        // A chain that parts from it further down, without a word.
        tail.take(block(4, 12, 0));
        assert_eq!(head(&tail), Some((9, 13)));
        tail.take(block(4, 13, 4));
        assert_eq!((head(&tail), tail.blocks.len()), (Some((4, 13)), 1));
    }
}

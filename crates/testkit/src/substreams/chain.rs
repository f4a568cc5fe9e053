//! A chain with its forks, and what a stream says next.

use std::collections::{BTreeMap, HashMap};

/// A block, and what the module gave for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubstreamsBlock {
    /// Its number.
    pub number: u64,
    /// Its hash in hex.
    pub id: String,
    /// Its time, in seconds since 1970.
    pub seconds: i64,
    /// The full name of the module's message.
    pub message: String,
    /// The message; empty where the module gave nothing.
    pub output: Vec<u8>,
}

/// All blocks that there ever were, and which of them count.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// By identifier, with the identifier of the block before.
    all: HashMap<String, (SubstreamsBlock, Option<String>)>,
    canonical: BTreeMap<u64, String>,
}

/// What a stream does next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Send(SubstreamsBlock),
    Undo(SubstreamsBlock),
    Wait,
    End,
}

impl Chain {
    /// Blocks that follow the first one's predecessor: all that was at their numbers or above is undone.
    pub fn extend(&mut self, blocks: Vec<SubstreamsBlock>) {
        if let Some(first) = blocks.first() {
            self.canonical.split_off(&first.number);
        }
        for block in blocks {
            let parent = self.canonical.last_key_value().map(|(_, id)| id.clone());
            self.canonical.insert(block.number, block.id.clone());
            self.all.insert(block.id.clone(), (block, parent));
        }
    }

    pub fn head(&self) -> Option<u64> {
        self.canonical.last_key_value().map(|(number, _)| *number)
    }

    pub fn get(&self, id: &str) -> Option<SubstreamsBlock> {
        self.all.get(id).map(|(block, _)| block.clone())
    }

    /// What comes behind `last`, or from `start` on; `stop` is behind the end, 0 for none.
    pub fn step(&self, last: Option<&SubstreamsBlock>, start: u64, stop: u64) -> Step {
        if let Some(last) = last.filter(|last| !self.is_canonical(last)) {
            let mut ancestor = last;
            while !self.is_canonical(ancestor) {
                let parent = self.all.get(&ancestor.id).and_then(|(_, parent)| parent.as_ref());
                match parent.and_then(|parent| self.all.get(parent)) {
                    Some((parent, _)) => ancestor = parent,
                    None => return Step::End,
                }
            }
            return Step::Undo(ancestor.clone());
        }
        let from = last.map_or(start, |last| last.number + 1);
        let next = self.canonical.range(from..).next().and_then(|(_, id)| self.get(id));
        match next {
            Some(next) if stop == 0 || next.number < stop => Step::Send(next),
            Some(_) => Step::End,
            None if stop > 0 && self.head().is_some_and(|head| head + 1 >= stop) => Step::End,
            None => Step::Wait,
        }
    }

    fn is_canonical(&self, block: &SubstreamsBlock) -> bool {
        self.canonical.get(&block.number) == Some(&block.id)
    }
}

//! The chain that is served, and how far a stream of it has come.

use std::collections::HashMap;

use bytes::Bytes;

use super::pb::{
    google::protobuf::Any,
    sf::firehose::v2::{BlockMetadata, ForkStep, Response},
};
use crate::rng::Rng;

/// A block as it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Its number.
    pub number: u64,
    /// Its hash, in hex digits.
    pub id: String,
    /// The hash of its parent.
    pub parent_id: String,
    /// The number of the last final block when it was new.
    pub final_num: u64,
    /// A message of the type `sf.ethereum.type.v2.Block`.
    pub payload: Bytes,
}

impl Served {
    /// The payload as messages carry it.
    pub fn any(&self) -> Any {
        Any { type_url: "type.googleapis.com/sf.ethereum.type.v2.Block".into(), value: self.payload.to_vec() }
    }

    /// What messages say beside it.
    pub fn metadata(&self) -> BlockMetadata {
        BlockMetadata {
            num: self.number,
            id: self.id.clone(),
            parent_num: self.number.saturating_sub(1),
            parent_id: self.parent_id.clone(),
            lib_num: self.final_num,
            time: None,
        }
    }
}

/// So many blocks at most are undone for whoever goes on from a cursor.
const MOST_UNDONE: u64 = 12;

/// The chain, and all cursors that were given.
#[derive(Debug)]
pub struct Chain {
    blocks: Vec<Served>,
    /// The blocks that whoever has the cursor holds, as far down as they may be undone.
    cursors: HashMap<String, Vec<Served>>,
    rng: Rng,
}

impl Chain {
    /// A chain of these blocks.
    pub fn new(blocks: Vec<Served>, seed: u64) -> Self {
        Self { blocks, cursors: HashMap::new(), rng: Rng::new(seed) }
    }

    /// Puts blocks at the end; those of the same numbers and above are no part of the chain any more.
    pub fn push(&mut self, blocks: Vec<Served>) {
        let Some(first) = blocks.first() else { return };
        self.blocks.retain(|block| block.number < first.number);
        self.blocks.extend(blocks);
    }

    /// The newest block.
    pub fn head(&self) -> Option<&Served> {
        self.blocks.last()
    }

    /// The block at a height.
    pub fn at(&self, number: u64) -> Option<&Served> {
        self.blocks.iter().find(|block| block.number == number)
    }

    /// The blocks up to the one that a cursor came with, as far down as they may be undone.
    pub fn of_cursor(&self, cursor: &str) -> Option<&[Served]> {
        self.cursors.get(cursor).map(Vec::as_slice)
    }

    /// Forgets all cursors, as an endpoint that was set up anew.
    pub fn forget_cursors(&mut self) {
        self.cursors.clear();
    }

    /// A message about a block, with a new cursor.
    pub fn message(&mut self, block: &Served, step: ForkStep) -> Response {
        let cursor = format!("{:016x}{:016x}==", self.rng.next_u64(), self.rng.next_u64());
        // Behind a block that is undone is its parent.
        let held = block.number + u64::from(step != ForkStep::StepUndo);
        let held =
            self.blocks.iter().filter(|other| other.number < held && other.number + MOST_UNDONE >= held);
        self.cursors.insert(cursor.clone(), held.cloned().collect());
        Response { block: Some(block.any()), step: step.into(), cursor, metadata: Some(block.metadata()) }
    }
}

/// How far a stream has come.
#[derive(Debug)]
pub struct Place {
    /// The blocks that its reader holds for the chain, from the first that may be undone.
    sent: Vec<Served>,
    next: u64,
    stop: Option<u64>,
    only_final: bool,
}

/// What comes next in a stream.
#[derive(Debug)]
pub enum Next {
    /// A message.
    Message(Box<Response>),
    /// Nothing before the chain moves.
    Wait,
    /// The end.
    End,
}

impl Place {
    /// A stream that begins at a block, or behind `sent`.
    pub fn new(next: u64, sent: Vec<Served>, stop: u64, only_final: bool) -> Self {
        let next = sent.last().map_or(next, |sent| sent.number + 1);
        Self { sent, next, stop: (stop > 0).then_some(stop), only_final }
    }

    /// Steps on.
    pub fn step(&mut self, chain: &mut Chain) -> Next {
        if let Some(undone) =
            self.sent.pop_if(|last| chain.at(last.number).is_none_or(|block| block.id != last.id))
        {
            self.next = undone.number;
            return Next::Message(Box::new(chain.message(&undone, ForkStep::StepUndo)));
        }
        if self.stop.is_some_and(|stop| self.next > stop) {
            return Next::End;
        }
        let is_there = |block: &&Served| {
            !self.only_final || chain.head().is_some_and(|head| block.number <= head.final_num)
        };
        let Some(block) = chain.at(self.next).filter(is_there).cloned() else { return Next::Wait };
        let step = if self.only_final { ForkStep::StepFinal } else { ForkStep::StepNew };
        self.next += 1;
        self.sent.push(block.clone());
        Next::Message(Box::new(chain.message(&block, step)))
    }
}

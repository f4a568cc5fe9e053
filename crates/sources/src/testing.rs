//! A source that does as a script says, for the tests of what wraps sources.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use nozzle_core::{BlockHash, BlockId, BlockNum, BlockRange, SourceCursor, TableDef, block::BlockLink};

use crate::{
    error::SourceError,
    retry::RetryPolicy,
    source::{BlockRows, BlockSource, Head, Place},
};

/// What a scripted source does next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Gives the next `n` blocks of the chain.
    Blocks(u64),
    /// Switches to another chain.
    Fork(u8),
    /// Has no block at the number that it is asked for.
    None,
    Unavailable,
    PushedBack,
    Missing,
    NotLinked,
    Malformed,
    Refused,
}

/// A source that does as its script says, over all streams and questions.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    steps: Mutex<VecDeque<Step>>,
    chain: Mutex<u8>,
    pub asked: Mutex<Vec<BlockRange>>,
    /// What each of those came with.
    pub behind: Mutex<Vec<Option<Place>>>,
}

impl Scripted {
    pub fn new(steps: &[Step]) -> Arc<Self> {
        Arc::new(Self { steps: Mutex::new(steps.iter().copied().collect()), ..Self::default() })
    }

    fn step(&self) -> Option<Step> {
        loop {
            let step = self.steps.lock().expect("not poisoned").pop_front();
            let Some(Step::Fork(chain)) = step else { return step };
            *self.chain.lock().expect("not poisoned") = chain;
        }
    }

    fn failure(step: Step) -> SourceError {
        let provider = "p".to_owned();
        match step {
            Step::PushedBack => SourceError::PushedBack { provider, why: "slower".into() },
            Step::Missing => SourceError::Missing { provider, block: 1, what: "the block" },
            Step::NotLinked => SourceError::NotLinked { block: 1, expected: hash(0, 0), found: hash(1, 0) },
            Step::Malformed => SourceError::Malformed { provider, block: 1, why: "bad".into() },
            Step::Refused => SourceError::Refused { provider, why: "no".into() },
            _ => SourceError::Unavailable { provider, source: "gone".into() },
        }
    }

    fn rows(&self, start: u64, count: u64) -> BlockRows {
        let chain = *self.chain.lock().expect("not poisoned");
        let link = |number| BlockLink {
            number,
            hash: hash(chain, number),
            parent_hash: hash(chain, number.wrapping_sub(1)),
        };
        BlockRows {
            range: BlockRange::new(start, start + count - 1).expect("a range"),
            blocks: (start..start + count).map(link).collect(),
            tables: Vec::new(),
            source_bytes: 0,
            cursor: SourceCursor::new(format!("{chain}-{}", start + count - 1)),
        }
    }
}

pub(crate) fn hash(chain: u8, number: u64) -> BlockHash {
    let mut bytes = [chain; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes.into()
}

#[async_trait]
impl BlockSource for Scripted {
    fn provider(&self) -> &str {
        "p"
    }

    fn tables(&self) -> &[TableDef] {
        &[]
    }

    async fn head(&self) -> Result<Head, SourceError> {
        match self.step().expect("the script goes on") {
            Step::Blocks(number) => {
                Ok(Head { latest: BlockId { number, hash: hash(0, number) }, finalized: None })
            }
            failing => Err(Self::failure(failing)),
        }
    }

    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        match self.step().expect("the script goes on") {
            Step::Blocks(_) => Ok(Some(BlockId { number, hash: hash(0, number) })),
            Step::None => Ok(None),
            failing => Err(Self::failure(failing)),
        }
    }

    fn has_cursors(&self) -> bool {
        true
    }

    fn blocks_behind(
        &self,
        range: BlockRange,
        behind: Option<Place>,
    ) -> BoxStream<'static, Result<BlockRows, SourceError>> {
        self.asked.lock().expect("not poisoned").push(range);
        self.behind.lock().expect("not poisoned").push(behind);
        let mut items = Vec::new();
        let mut next = range.start();
        while next <= range.end() {
            match self.step() {
                Some(Step::Blocks(count)) => {
                    items.push(Ok(self.rows(next, count)));
                    next += count;
                }
                Some(failing) => {
                    items.push(Err(Self::failure(failing)));
                    break;
                }
                None => break,
            }
        }
        stream::iter(items).boxed()
    }
}

pub(crate) const QUICK: RetryPolicy =
    RetryPolicy { attempts: 3, base: Duration::from_micros(100), cap: Duration::from_millis(1) };

pub(crate) fn range(start: u64, end: u64) -> BlockRange {
    BlockRange::new(start, end).expect("a range")
}

/// The ranges that a source gives, and the error at the end.
pub(crate) async fn collect(
    source: &dyn BlockSource,
    wanted: BlockRange,
) -> (Vec<BlockRange>, Option<SourceError>) {
    collect_behind(source, wanted, None).await
}

/// The place behind a block of the chain 0, with the cursor that came with it.
pub(crate) fn place(number: BlockNum) -> Place {
    let cursor = SourceCursor::new(format!("0-{number}")).expect("a cursor");
    Place { block: BlockId { number, hash: hash(0, number) }, cursor }
}

/// As [`collect`], behind a place.
pub(crate) async fn collect_behind(
    source: &dyn BlockSource,
    wanted: BlockRange,
    behind: Option<Place>,
) -> (Vec<BlockRange>, Option<SourceError>) {
    let mut stream = source.blocks_behind(wanted, behind);
    let (mut received, mut error) = (Vec::new(), None);
    while let Some(item) = stream.next().await {
        assert!(error.is_none(), "nothing comes after an error");
        match item {
            Ok(rows) => received.push(rows.range),
            Err(last) => error = Some(last),
        }
    }
    (received, error)
}

//! A query that goes on: first what is stored, then every new block as it is committed.
//!
//! Ranges of blocks are answered one after the other, each at a moment of its own, up to the watermark of what is
//! read and never past it. Before each range the last one's hash is compared with what is stored now: where it is
//! another, blocks were reorganised, and the next range starts where the chains part.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{
    common::tree_node::TreeNodeRecursion, execution::SendableRecordBatchStream, logical_expr::LogicalPlan,
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use nozzle_core::{BlockHash, BlockId, BlockNum, BlockRange, DatasetRef, Network};
use tokio::time::timeout;

use crate::{
    chain::Chain,
    error::QueryError,
    feed::{Feeds, Follows, Microbatch, Subscription},
    incremental::Incremental,
    session::{Engine, Session},
};

/// So many ranges are remembered, to find where chains part; below them it is the newest final block.
const REMEMBERED: usize = 1_000;

/// A chain that has lost a block that it calls final is taken to lose no more blocks at once.
const NEVER_DEEPER: u64 = 64;

/// How long commits that were not told of stay unseen.
const POLL: Duration = Duration::from_secs(1);

/// How a stream is to be.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// How many blocks a range has at most.
    pub most_blocks: u64,
    /// How often an item comes where there is nothing to tell.
    pub keep_alive: Duration,
    /// Blocks up to which the client has everything, by network, newest first.
    pub resume: Vec<(Network, Vec<BlockId>)>,
}

/// The blocks that rows are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRange {
    /// The blocks.
    pub numbers: BlockRange,
    /// Their network.
    pub network: Network,
    /// The hash of the last of them.
    pub hash: BlockHash,
    /// The hash of the block before the first.
    pub prev_hash: BlockHash,
}

/// What comes next.
#[derive(Debug)]
pub enum StreamItem {
    /// Rows of a range; more may follow.
    Rows(RecordBatch, StreamRange),
    /// All rows of a range were given.
    Complete(StreamRange),
    /// Nothing, for a while.
    KeepAlive,
}

/// A query that goes on.
pub struct QueryStream {
    schema: SchemaRef,
    keep_alive: Duration,
    /// What comes next, with what has read it. It is kept while the client is told that its stream lives: what a
    /// range begins with may take longer.
    coming: BoxFuture<'static, (Reader, Result<StreamItem, QueryError>)>,
}

impl std::fmt::Debug for QueryStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryStream").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl QueryStream {
    /// Plans a query; refused where it cannot go on block by block.
    pub async fn open(engine: Arc<Engine>, sql: String, options: StreamOptions) -> Result<Self, QueryError> {
        let keep_alive = options.keep_alive;
        let reader = Reader::open(engine, sql, options).await?;
        Ok(Self { schema: Arc::clone(&reader.schema), keep_alive, coming: reader.read() })
    }

    /// The columns of the rows.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// What comes next; it never ends by itself.
    pub async fn next(&mut self) -> Result<StreamItem, QueryError> {
        match timeout(self.keep_alive, &mut self.coming).await {
            Ok((reader, item)) => {
                self.coming = reader.read();
                item
            }
            Err(_) => Ok(StreamItem::KeepAlive),
        }
    }
}

/// What reads the ranges of a stream.
pub(crate) struct Reader {
    engine: Arc<Engine>,
    sql: String,
    options: StreamOptions,
    schema: SchemaRef,
    network: Network,
    datasets: BTreeSet<DatasetRef>,
    /// The first block of all.
    start: BlockNum,
    /// The next block; none before the first range.
    next: Option<BlockNum>,
    /// The last block of each range that was given, oldest first.
    given: Vec<BlockId>,
    running: Option<(SendableRecordBatchStream, StreamRange)>,
    /// Where streams of the same query find each other; none for the one that reads for others.
    feeds: Option<Arc<Feeds>>,
    feed: Option<Subscription>,
    /// What came from the feed, and how many batches of it were given.
    taken: Option<(Arc<Microbatch>, usize)>,
}

impl Reader {
    async fn open(engine: Arc<Engine>, sql: String, options: StreamOptions) -> Result<Self, QueryError> {
        let session = engine.session().await?;
        let (plan, incremental) = session.incremental(&sql).await?;
        let networks = session.networks(&plan)?;
        let network = match networks.as_slice() {
            [network] => network.clone(),
            [] => {
                return Err(QueryError::Plan("the query reads no blocks: nothing would ever follow".into()));
            }
            several => {
                let names: Vec<_> = several.iter().map(Network::as_str).collect();
                let names = names.join(" and ");
                return Err(QueryError::Plan(format!(
                    "a stream is of one network, and this is one of {names}"
                )));
            }
        };
        for (named, _) in &options.resume {
            if *named != network {
                let why =
                    format!("the stream cannot resume on the network `{named}`: it is one of `{network}`");
                return Err(QueryError::Plan(why));
            }
        }
        let datasets = datasets_of(&plan)?;
        let Some(Chain { start, .. }) = session.chain_of(&datasets)? else {
            return Err(QueryError::Plan("nobody knows whose blocks the query's are".into()));
        };
        let schema = incremental.query_schema();
        Ok(Self {
            feeds: Some(Arc::clone(engine.feeds())),
            engine,
            sql,
            options,
            schema,
            network,
            datasets,
            start,
            next: None,
            given: vec![],
            running: None,
            feed: None,
            taken: None,
        })
    }

    /// The same query from the same block on, by itself.
    pub(crate) fn another(&self) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            sql: self.sql.clone(),
            options: self.options.clone(),
            schema: Arc::clone(&self.schema),
            network: self.network.clone(),
            datasets: self.datasets.clone(),
            start: self.start,
            next: self.next,
            given: self.given.clone(),
            running: None,
            feeds: None,
            feed: None,
            taken: None,
        }
    }

    /// The query.
    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }

    /// The last block of the last range, where the next one begins behind it.
    pub(crate) fn at(&self) -> Option<BlockId> {
        self.given.last().copied().filter(|last| self.next == Some(last.number.saturating_add(1)))
    }

    /// How many blocks a range has at most, from the next one on; one that was begun is given up.
    pub(crate) fn begin_again(&mut self, most_blocks: u64) {
        self.running = None;
        self.options.most_blocks = most_blocks;
    }

    /// How many blocks a range has at most.
    pub(crate) fn most_blocks(&self) -> u64 {
        self.options.most_blocks
    }

    fn read(mut self) -> BoxFuture<'static, (Self, Result<StreamItem, QueryError>)> {
        async move {
            let item = self.next().await;
            (self, item)
        }
        .boxed()
    }

    /// What comes next, however long that takes.
    pub(crate) async fn next(&mut self) -> Result<StreamItem, QueryError> {
        loop {
            if let Some((microbatch, given)) = &mut self.taken {
                let range = microbatch.range.clone();
                if let Some(rows) = microbatch.rows.get(*given) {
                    *given += 1;
                    return Ok(StreamItem::Rows(rows.clone(), range));
                }
                self.taken = None;
                self.has_given(&range);
                return Ok(StreamItem::Complete(range));
            }
            let at = self.at();
            if let Some(feed) = &mut self.feed {
                match feed.recv().await {
                    Ok(microbatch) => match feed.follows(&microbatch.range, at) {
                        Follows::Yes => self.taken = Some((microbatch, 0)),
                        Follows::NotYet => {}
                        Follows::No => self.feed = None,
                    },
                    // It has ended, or is far ahead.
                    Err(_) => self.feed = None,
                }
                continue;
            }
            if let Some((rows, range)) = &mut self.running {
                match rows.next().await {
                    Some(Ok(batch)) if batch.num_rows() == 0 => continue,
                    Some(batch) => return Ok(StreamItem::Rows(batch?, range.clone())),
                    None => {
                        let range = range.clone();
                        self.running = None;
                        self.has_given(&range);
                        return Ok(StreamItem::Complete(range));
                    }
                }
            }
            let mut commits = self.engine.commits();
            commits.mark_unchanged();
            if self.begin_range().await? {
                continue;
            }
            self.feed = self.feeds.as_ref().and_then(|feeds| feeds.join(self));
            if self.feed.is_none() {
                timeout(POLL, commits.changed()).await.ok();
            }
        }
    }

    fn has_given(&mut self, range: &StreamRange) {
        // A feed goes back to where it sees the chains part.
        while self.given.last().is_some_and(|last| last.number >= range.numbers.start()) {
            self.given.pop();
        }
        self.given.push(BlockId { number: range.numbers.end(), hash: range.hash });
        if self.given.len() > 2 * REMEMBERED {
            self.given.drain(..REMEMBERED);
        }
        self.next = Some(range.numbers.end().saturating_add(1));
    }

    /// Begins the next range; `false` where there is none yet.
    async fn begin_range(&mut self) -> Result<bool, QueryError> {
        let session = self.engine.session().await?;
        let Some(chain) = session.chain_of(&self.datasets)? else { return Ok(false) };
        let Some(watermark) = session.watermark(&self.datasets, &chain).await? else { return Ok(false) };
        let next = match self.next {
            Some(_) => self.after_reorgs(&session, &chain).await?,
            None => self.resumed(&session, &chain).await?,
        };
        self.next = Some(next);
        let last = watermark.min(next.saturating_add(self.options.most_blocks - 1));
        let Some(numbers) = BlockRange::new(next, last) else { return Ok(false) };
        // The last number may have been skipped by the chain: its predecessor then stands for it.
        let Some(hash) = session.hash_at(&chain, last).await? else { return Ok(false) };
        let before = match (next.checked_sub(1), self.given.last()) {
            // What was given is still there, and known by the hash that the client has for it.
            (Some(before), Some(given)) if given.number == before => Some(given.hash),
            (Some(before), _) => session.hash_at(&chain, before).await?,
            (None, _) => None,
        };
        let prev_hash = match before {
            Some(hash) => hash,
            None => session.links(&chain, numbers).await?.first().map(|l| l.parent_hash).unwrap_or_default(),
        };
        let (_, incremental): (_, Incremental) = session.incremental(&self.sql).await?;
        let rows = session.execute_range(incremental.query_at(numbers, self.start)?).await?;
        let range = StreamRange { numbers, network: self.network.clone(), hash, prev_hash };
        self.running = Some((rows, range));
        Ok(true)
    }

    /// The next block, which lies at or below what was given where that was reorganised away.
    async fn after_reorgs(&mut self, session: &Session, chain: &Chain) -> Result<BlockNum, QueryError> {
        let next = self.next.unwrap_or_default();
        while let Some(last) = self.given.last() {
            if session.is_canonical(chain, *last).await? {
                return Ok(next.min(last.number.saturating_add(1)));
            }
            let lost = last.number;
            self.given.pop();
            if self.given.is_empty() {
                return below(session, &self.network, lost, self.start).await;
            }
        }
        Ok(next)
    }

    /// Where a client goes on that has had everything up to one of its blocks.
    async fn resumed(&mut self, session: &Session, chain: &Chain) -> Result<BlockNum, QueryError> {
        let Some((_, blocks)) = self.options.resume.first() else { return Ok(self.start) };
        for block in blocks {
            if session.is_canonical(chain, *block).await? {
                self.given.push(*block);
                return Ok(block.number.saturating_add(1));
            }
        }
        match blocks.iter().map(|block| block.number).min() {
            Some(oldest) => below(session, &self.network, oldest, self.start).await,
            None => Ok(self.start),
        }
    }
}

/// The first block that cannot have been reorganised away together with a block that was; `start` is the first of
/// all.
async fn below(
    session: &Session,
    network: &Network,
    lost: BlockNum,
    start: BlockNum,
) -> Result<BlockNum, QueryError> {
    let known = session.metadata().finality(network).await?;
    let finalized = known.and_then(|known| Some((known.head.number, known.finalized?.number)));
    Ok(finalized.map_or(0, |(head, finalized)| behind_final(lost, head, finalized)).max(start))
}

/// The first block behind the newest that was final when `lost` was the head, as far below it as the newest final
/// one is below the head now, and no less than [`NEVER_DEEPER`]: finality may come in leaps, and then today's distance
/// tells nothing of the one before. Blocks that became final later may be others than the client has had.
fn behind_final(lost: BlockNum, head: BlockNum, finalized: BlockNum) -> BlockNum {
    let reach = head.saturating_sub(finalized).max(NEVER_DEEPER);
    // The first block of a chain is final from the beginning.
    lost.saturating_sub(reach).min(finalized).saturating_add(1)
}

/// The datasets whose tables a plan reads.
fn datasets_of(plan: &LogicalPlan) -> Result<BTreeSet<DatasetRef>, QueryError> {
    let mut datasets = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            datasets.extend(scan.table_name.schema().and_then(|schema| schema.parse::<DatasetRef>().ok()));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(datasets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_with_nothing_of_the_chain_goes_on_behind_what_was_final_for_it() {
        // The newest block that the client has, the head, the newest final block, and where the stream goes on.
        let cases = [
            // Its block was the head: behind the newest final one.
            (200, 200, 136, 137),
            // Finality was further below the head before it leapt, or may have been.
            (1_000, 1_001, 996, 937),
            (1_000, 1_000, 999, 937),
            (1_000, 999, 999, 937),
            // Since then the chain has grown by 40: some that are final now were not.
            (160, 200, 136, 97),
            (130, 200, 136, 67),
            // What is called final has gone.
            (1_000, 1_010, 1_010, 937),
            (6, 20, 0, 1),
            (64, 64, 0, 1),
            (40, 110, 46, 1),
        ];
        for (lost, head, finalized, goes_on) in cases {
            assert_eq!(behind_final(lost, head, finalized), goes_on, "{lost} of {head}, {finalized} final");
        }
    }
}

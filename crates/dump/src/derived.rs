//! A derived dataset as a source of blocks: the queries of its tables, run range by range over what is stored.
//!
//! To whoever writes, it is a source like any other: its blocks are those of the raw dataset below, with their
//! hashes, so that resuming, reorgs, leases, jobs and compaction are the same. Its head is the watermark of what
//! it is made of: the blocks up to which all of that is stored and linked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::{AsArray, RecordBatch, UInt64Array},
    compute::concat_batches,
    datatypes::SchemaRef,
};
use async_trait::async_trait;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use nozzle_core::{
    BlockId, BlockNum, BlockRange, DatasetRef, Network, RevisionId, SourceRevisions, TableDef,
    block::BlockLink, derived::Resolved,
};
use nozzle_metadata::MetadataStore;
use nozzle_query::{Chain, Engine, QueryError, Session, TableQuery, catalog::is_raw, plain::plain_batch};
use nozzle_sources::{BlockRows, BlockSource, Head, MadeOf, Place, SourceError, TableRows};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// How many blocks the first range of a stream has, which is before anything is known of their rows.
const FIRST_BLOCKS: u64 = 256;

/// What a range should give: more, and the next one is smaller.
const RANGE_BYTES: usize = 16 << 20;

/// How long the first blocks of what it is made of are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The tables of a derived dataset.
#[derive(Debug, Clone)]
pub struct DerivedSource(Arc<Derivation>);

#[derive(Debug)]
struct Derivation {
    name: String,
    engine: Arc<Engine>,
    metadata: Arc<dyn MetadataStore>,
    threads: Handle,
    tables: Vec<TableDef>,
    queries: Vec<TableQuery>,
    names: BTreeMap<String, DatasetRef>,
    network: Network,
    start_block: BlockNum,
    most_blocks: u64,
}

impl DerivedSource {
    /// The tables that a registered manifest describes, each range of at most `most_blocks` blocks. The queries
    /// run on `threads`, whose stacks are deep enough for them.
    pub fn new(
        name: String,
        engine: Arc<Engine>,
        metadata: Arc<dyn MetadataStore>,
        threads: Handle,
        queries: Vec<TableQuery>,
        resolved: &Resolved,
        most_blocks: u64,
    ) -> Result<Self, String> {
        Ok(Self(Arc::new(Derivation {
            name,
            engine,
            metadata,
            threads,
            tables: resolved.tables()?,
            queries,
            names: resolved.names.clone(),
            network: resolved.network.clone(),
            start_block: resolved.start_block,
            most_blocks: most_blocks.max(1),
        })))
    }
}

impl Derivation {
    fn unavailable(&self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SourceError {
        SourceError::Unavailable { provider: self.name.clone(), source: why.into() }
    }

    /// What failed, by whether asking again may help.
    fn failed(&self, error: QueryError) -> SourceError {
        match error {
            QueryError::Parse(why) | QueryError::Plan(why) => {
                SourceError::Refused { provider: self.name.clone(), why }
            }
            error => self.unavailable(error),
        }
    }

    async fn session(&self) -> Result<Session, SourceError> {
        self.engine.session().await.map_err(|error| self.failed(error))
    }

    /// The chain that its blocks are of.
    fn chain(&self, session: &Session) -> Result<Chain, SourceError> {
        let chain = session.chain_of(&self.names.values().cloned().collect());
        let chain = chain.map_err(|error| self.failed(error))?;
        chain.ok_or_else(|| self.unavailable("it is made of no dataset"))
    }

    /// The last block up to which all that it is made of is stored and linked, at a session's moment.
    async fn watermark(&self, session: &Session, chain: &Chain) -> Result<Option<BlockNum>, SourceError> {
        let datasets = self.names.values().chain([&chain.dataset]).cloned().collect();
        session.watermark(&datasets, chain).await.map_err(|error| self.failed(error))
    }

    /// The blocks of a range, with their hashes.
    async fn links(
        &self,
        session: &Session,
        chain: &Chain,
        range: BlockRange,
    ) -> Result<Vec<BlockLink>, SourceError> {
        session.links(chain, range).await.map_err(|error| self.failed(error))
    }

    /// The block at a number, where it is stored.
    async fn block_at(
        &self,
        session: &Session,
        chain: &Chain,
        number: BlockNum,
    ) -> Result<Option<BlockId>, SourceError> {
        session.told_block(chain, number).await.map_err(|error| self.failed(error))
    }

    /// The rows of a range, all of one moment.
    async fn rows(&self, range: BlockRange) -> Result<BlockRows, SourceError> {
        let session = self.session().await?;
        let chain = self.chain(&session)?;
        if self.watermark(&session, &chain).await?.is_none_or(|watermark| watermark < range.end()) {
            // It did when it was looked at: blocks were reorganised away since.
            let (provider, block) = (self.name.clone(), range.end());
            return Err(SourceError::Missing { provider, block, what: "what its queries read" });
        }
        let blocks = self.links(&session, &chain, range).await?;
        let planned = session.derive(&self.names, &self.queries).await.map_err(|error| self.failed(error))?;
        let (mut tables, mut source_bytes) = (vec![], 0);
        for table in &self.tables {
            let place = self.queries.iter().position(|query| query.table == table.name);
            let Some(incremental) = place.and_then(|place| planned.get(place)) else {
                let why = format!("its table `{}` has no query", table.name);
                return Err(SourceError::Refused { provider: self.name.clone(), why });
            };
            let plan = incremental.at(range, self.start_block).map_err(|error| self.failed(error))?;
            let rows = session.execute_range(plan).await.map_err(|error| self.failed(error))?;
            let batches: Vec<RecordBatch> =
                rows.try_collect().await.map_err(|error| self.failed(error.into()))?;
            let batch = self.conformed(&batches, &table.schema)?;
            source_bytes += batch.get_array_memory_size();
            tables.push(TableRows { ends: ends(&batch, &blocks), batch });
        }
        Ok(BlockRows { range, blocks, tables, source_bytes: source_bytes as u64, cursor: None })
    }

    /// All rows in one batch with the table's own columns.
    fn conformed(&self, batches: &[RecordBatch], schema: &SchemaRef) -> Result<RecordBatch, SourceError> {
        let plain = batches.iter().map(|batch| plain_batch(batch, schema)).collect::<Result<Vec<_>, _>>();
        let whole = plain.and_then(|batches| concat_batches(schema, &batches));
        whole.map_err(|error| {
            let why = format!("its rows do not have the columns that were registered: {error}");
            SourceError::Refused { provider: self.name.clone(), why }
        })
    }
}

/// For each block the number of rows up to its end. The rows are sorted by their blocks.
fn ends(batch: &RecordBatch, blocks: &[BlockLink]) -> Vec<usize> {
    let numbers: &UInt64Array = batch.column(0).as_primitive();
    blocks.iter().map(|block| numbers.values().partition_point(|number| *number <= block.number)).collect()
}

#[async_trait]
impl BlockSource for DerivedSource {
    fn provider(&self) -> &str {
        &self.0.name
    }

    fn tables(&self) -> &[TableDef] {
        &self.0.tables
    }

    fn is_of_chain(&self) -> bool {
        false
    }

    /// The watermark; the first blocks are waited for.
    async fn head(&self) -> Result<Head, SourceError> {
        let own = &self.0;
        let mut commits = own.metadata.commits();
        let waiting = async {
            loop {
                commits.mark_unchanged();
                let session = own.session().await?;
                let chain = own.chain(&session)?;
                if let Some(watermark) = own.watermark(&session, &chain).await?
                    && let Some(latest) = own.block_at(&session, &chain, watermark).await?
                {
                    return Ok((session, chain, latest));
                }
                tokio::time::timeout(Duration::from_secs(1), commits.changed()).await.ok();
            }
        };
        let (session, chain, latest) = match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(found) => found?,
            Err(_) => {
                let datasets = own.names.values().map(|dataset| format!("`{dataset}`")).collect::<Vec<_>>();
                return Err(own.unavailable(format!("no block of {} is stored yet", datasets.join(" and "))));
            }
        };
        let finality = own.metadata.finality(&own.network).await.map_err(|error| own.unavailable(error))?;
        let finalized = match finality.and_then(|known| known.finalized) {
            Some(finalized) if finalized.number >= latest.number => Some(latest),
            Some(finalized) => own.block_at(&session, &chain, finalized.number).await?,
            None => None,
        };
        Ok(Head { latest, finalized })
    }

    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        let own = &self.0;
        let session = own.session().await?;
        let chain = own.chain(&session)?;
        if number.checked_add(1) == Some(chain.start) {
            // Of the block before all others, the first one knows the hash.
            let first = own.links(&session, &chain, BlockRange::single(chain.start)).await?;
            return Ok(first.first().map(|first| BlockId { number, hash: first.parent_hash }));
        }
        own.block_at(&session, &chain, number).await
    }

    /// The revisions that are read, and of what is derived itself also those that it was computed from.
    async fn made_of(&self) -> Result<Option<MadeOf>, SourceError> {
        let own = &self.0;
        let session = own.session().await?;
        let (mut revisions, mut is_settled) = (BTreeSet::new(), true);
        for reference in own.names.values() {
            let Some((dataset, Some(revision))) = session.active(reference) else {
                is_settled = false;
                continue;
            };
            revisions.insert(revision.id);
            let Some(location) = revision.locations.first().filter(|_| !is_raw(dataset.kind)) else {
                continue;
            };
            let bounds = own.metadata.source_bounds(location.id).await;
            let Some([least, greatest]) = bounds.map_err(|error| own.unavailable(error))? else { continue };
            is_settled &= least == greatest;
            for of in [least, greatest] {
                if !of.is_known() {
                    // What is computed from it is not to be taken for rows of the others alone, once it is known:
                    // no revision that is read has this id.
                    revisions.insert(RevisionId(Uuid::nil()));
                }
                revisions.extend(of.0);
            }
        }
        let is_active = |id| {
            session.snapshot().datasets.iter().any(|(_, own)| own.as_ref().is_some_and(|own| own.id == id))
        };
        is_settled &= revisions.iter().all(|id| is_active(*id));
        Ok(Some(MadeOf { revisions: SourceRevisions(revisions), is_settled }))
    }

    async fn head_moved(&self) {
        self.0.metadata.commits().changed().await.ok();
    }

    fn blocks_behind(
        &self,
        range: BlockRange,
        _behind: Option<Place>,
    ) -> BoxStream<'static, Result<BlockRows, SourceError>> {
        let reading = Reading {
            source: Arc::clone(&self.0),
            left: Some(range),
            blocks: FIRST_BLOCKS.min(self.0.most_blocks),
            last: None,
        };
        stream::unfold(reading, |mut reading| async { reading.next().await.map(|item| (item, reading)) })
            .boxed()
    }
}

/// What is left of a range.
struct Reading {
    source: Arc<Derivation>,
    left: Option<BlockRange>,
    /// How many blocks come next.
    blocks: u64,
    last: Option<BlockLink>,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<BlockRows, SourceError>> {
        let left = self.left.take()?;
        let end = left.end().min(left.start().saturating_add(self.blocks - 1));
        let range = BlockRange::new(left.start(), end)?;
        let source = Arc::clone(&self.source);
        let rows = AbortOnDropHandle::new(self.source.threads.spawn(async move { source.rows(range).await }));
        let rows = match rows.await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => return Some(Err(error)),
            Err(defect) => {
                let why = format!("a query of blocks {range} ended by a defect of the engine: {defect}");
                return Some(Err(SourceError::Refused { provider: self.source.name.clone(), why }));
            }
        };
        if let (Some(last), Some(first)) = (&self.last, rows.blocks.first())
            && first.parent_hash != last.hash
        {
            let (expected, found) = (last.hash, first.parent_hash);
            return Some(Err(SourceError::NotLinked { block: first.number, expected, found }));
        }
        self.last = rows.blocks.last().copied().or(self.last);
        let bytes = usize::try_from(rows.source_bytes).unwrap_or(usize::MAX);
        self.blocks = match bytes {
            0..RANGE_BYTES => (self.blocks * 2).min(self.source.most_blocks),
            _ if bytes > 2 * RANGE_BYTES => (self.blocks / 2).max(1),
            _ => self.blocks,
        };
        self.left = BlockRange::new(end.saturating_add(1), left.end());
        Some(Ok(rows))
    }
}

//! The dump of a raw dataset: what is dumped, how, and to which revision.

use std::{sync::Arc, time::Duration};

use nozzle_core::{BlockNum, BlockRange, Network};
use nozzle_metadata::{Dataset, MetadataStore, Revision, RevisionState};
use nozzle_query::Stores;
use nozzle_sources::SharedSource;
use tokio_util::sync::CancellationToken;

use crate::{
    error::DumpError,
    job::CutPolicy,
    observe::{Observer, Summary, Tally},
    parquet::ParquetOptions,
    revision,
    run::{Run, RunEnd},
    writer::Target,
};

/// Where a dump ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndBlock {
    /// The head as it is when the dump starts.
    Latest,
    /// This block; a head below it is waited for.
    Number(BlockNum),
    /// So many blocks below the head as it is when the dump starts.
    BelowHead(u64),
    /// This block, which was the head once: where the chain is shorter by now, its head.
    AtMost(BlockNum),
}

/// What of a dataset's blocks a dump has to do, where others do the rest of the same revision. It waits
/// for writers that hold some of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The blocks.
    pub blocks: BlockRange,
    /// The last block that all parts together are to store, as far as it is known.
    pub whole_until: BlockNum,
    /// Whether this one makes a built revision the one that is read, once all of it is there.
    pub switches: bool,
}

/// What is left to do of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// Whether there is nothing to do at all: the end lies below the chain's first block.
    pub is_empty: bool,
    /// The last block; `None` where the head is followed.
    pub end: Option<BlockNum>,
    /// The newest block.
    pub head: BlockNum,
    /// The missing blocks, up to the end, that no reorg reaches any more.
    pub settled: Vec<BlockRange>,
    /// The first block that a reorg may still reach.
    pub unsettled_from: BlockNum,
}

/// How a raw dataset is dumped.
#[derive(Debug, Clone)]
pub struct DumpOptions {
    /// The last block.
    pub end: EndBlock,
    /// Only a part of the blocks; absent: all of them.
    pub part: Option<Part>,
    /// Whether to go on for ever, with the head.
    pub follow: bool,
    /// Whether the head is the finalized block.
    pub only_finalized: bool,
    /// Whether a new revision is built.
    pub fresh: bool,
    /// How many jobs extract side by side.
    pub jobs: usize,
    /// The URL below which a new revision is made, ending in `/`.
    pub base_url: String,
    /// Whether that place was named on purpose.
    pub is_base_explicit: bool,
    /// When segments are cut.
    pub cut: CutPolicy,
    /// How files are written.
    pub parquet: ParquetOptions,
    /// Memory of all unfinished row groups together, in bytes; the jobs share it.
    pub writer_memory_bytes: usize,
    /// How often the head is asked for while it is waited for.
    pub poll_interval: Duration,
    /// How many blocks below the head count as final where the source does not say.
    pub reorg_depth: u64,
    /// Who dumps, in words for a person.
    pub holder: String,
}

/// What is dumped, from where, to where.
#[derive(Debug)]
pub struct RawDump {
    /// The metadata.
    pub metadata: Arc<dyn MetadataStore>,
    /// The stores.
    pub stores: Arc<Stores>,
    /// The source; its tables are those that are stored.
    pub source: SharedSource,
    /// The dataset.
    pub dataset: Dataset,
    /// Its network.
    pub network: Network,
    /// Its first block.
    pub start_block: BlockNum,
    /// How.
    pub options: DumpOptions,
}

impl RawDump {
    /// Dumps until the end is reached or `cancel`, which ends at a whole block.
    pub async fn run(
        self,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Summary, DumpError> {
        let tables = self.source.tables().iter().map(|table| table.name.clone());
        let tally = Tally::new(observer, tables);
        let writer = revision::Writer { holder: &self.options.holder, observer, cancel };
        let end = match self.run_on(self.revision(&writer).await?, &tally, cancel).await {
            // What was built for another chain was never read: it makes room for what is wanted now.
            Err((DumpError::OtherChain { .. }, revision)) if revision.state == RevisionState::Building => {
                revision::discard(&self.metadata, revision.id, &writer).await?;
                self.run_on(self.revision(&writer).await?, &tally, cancel).await
            }
            end => end,
        };
        let end = end.map_err(|(error, _)| error)?;
        Ok(tally.summary(end == RunEnd::Stopped))
    }

    /// The revision that is to be written, made where there is none.
    pub async fn resolve(
        &self,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Revision, DumpError> {
        self.revision(&revision::Writer { holder: &self.options.holder, observer, cancel }).await
    }

    /// What is left to do of a revision.
    pub async fn outlook(
        &self,
        revision: &Revision,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Outlook, DumpError> {
        let target = Arc::new(self.target(revision)?);
        Run::new(self, revision.clone(), target, observer, cancel).outlook().await
    }

    /// As [`Self::run`], on a revision that is there.
    pub async fn run_revision(
        &self,
        revision: Revision,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Summary, DumpError> {
        let tally = Tally::new(observer, self.source.tables().iter().map(|table| table.name.clone()));
        let end = self.run_on(revision, &tally, cancel).await.map_err(|(error, _)| error)?;
        Ok(tally.summary(end == RunEnd::Stopped))
    }

    async fn run_on(
        &self,
        revision: Revision,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<RunEnd, (DumpError, Revision)> {
        let target = match self.target(&revision) {
            Ok(target) => Arc::new(target),
            Err(error) => return Err((error, revision)),
        };
        let run = Run::new(self, revision, target, observer, cancel);
        let end = run.until_the_end().await;
        end.map_err(|error| (error, run.revision))
    }

    async fn revision(&self, writer: &revision::Writer<'_>) -> Result<Revision, DumpError> {
        revision::resolve(revision::Wanted {
            store: &self.metadata,
            stores: &self.stores,
            dataset: &self.dataset,
            tables: self.source.tables(),
            base_url: &self.options.base_url,
            is_base_explicit: self.options.is_base_explicit,
            fresh: self.options.fresh,
            writer,
        })
        .await
    }

    fn target(&self, revision: &Revision) -> Result<Target, DumpError> {
        Ok(Target {
            metadata: Arc::clone(&self.metadata),
            stores: Arc::clone(&self.stores),
            tables: revision::locate(self.source.tables(), revision)?,
            network: self.network.clone(),
            manifest: serde_json::from_str(&self.dataset.manifest)
                .map_err(|error| DumpError::store("reading the stored manifest", error))?,
            parquet: self.options.parquet.clone(),
            job_memory_bytes: self.options.writer_memory_bytes / self.options.jobs.max(1),
        })
    }
}

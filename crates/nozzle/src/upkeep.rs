//! Keeping what is stored in order: compaction and collection, in the background of workers and of dumps
//! that follow, at the end of other dumps, and when somebody asks for it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use nozzle_core::{BlockNum, RevisionId, manifest::RawManifest};
use nozzle_dump::{
    Compaction, Policy,
    collect::{self, Collected},
    compact::Pass,
    revision,
    writer::Target,
};
use nozzle_metadata::{CommitSeq, Dataset, DatasetId, Revision, Snapshot};
use nozzle_sources::evm::tables;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    context::{Context, WRITER_MEMORY_BYTES},
    definitions,
};

/// A run is merged when it has so many times the bytes of its largest segment.
const GROWTH: u64 = 4;

/// The size that blocks from the head are folded to where compaction is turned off: without it a chain of
/// one-second blocks would have thirty million files a year.
const FOLD_BYTES: u64 = 16 << 20;

/// Keeps some or all datasets in order.
#[derive(Debug)]
pub struct Upkeep {
    context: Arc<Context>,
    /// Who does it, in words for a person.
    holder: String,
    /// Which datasets; all where it is `None`.
    only: Option<Vec<DatasetId>>,
    /// What the last pass has seen of each revision.
    seen: HashMap<RevisionId, Seen>,
}

/// What a pass has seen of a revision.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Below it nothing is left to be merged.
    floor: BlockNum,
    /// The newest commit that it has found nothing to do about.
    settled: Option<CommitSeq>,
}

impl Upkeep {
    /// Upkeep of all datasets, or of some.
    pub fn new(context: Arc<Context>, holder: String, only: Option<Vec<DatasetId>>) -> Self {
        Self { context, holder, only, seen: HashMap::new() }
    }

    /// Compacts and collects again and again until `stop`. What fails is tried again next time.
    pub async fn run(mut self, stop: &CancellationToken) {
        let config = &self.context.config.compaction;
        let interval = |seconds: f64| {
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(seconds));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let mut compactions = interval(config.compactor_interval_secs);
        let mut collections = interval(config.collector_interval_secs);
        let does_collect = config.collector_enabled;
        loop {
            let done = tokio::select! {
                () = stop.cancelled() => return,
                _ = compactions.tick() => self.compact(self.policy(), stop).await.map(|_| ()),
                _ = collections.tick(), if does_collect => self.collect(stop).await.map(|_| ()),
            };
            if let Err(error) = done {
                tracing::debug!("what is stored could not be kept in order for now: {error:#}");
            }
        }
    }

    /// Once, at the end of a dump: what is left to do then is done by the next one.
    pub async fn once(mut self, stop: &CancellationToken) {
        let config = self.context.config.compaction.clone();
        if config.compactor_enabled
            && let Err(error) = self.compact(self.policy(), stop).await
        {
            tracing::warn!("the files could not be compacted for now: {error:#}");
        }
        if config.collector_enabled
            && let Err(error) = self.collect(stop).await
        {
            tracing::warn!("files that nobody needs any more stay for now: {error:#}");
        }
    }

    /// What is merged by itself.
    pub fn policy(&self) -> Policy {
        let config = &self.context.config.compaction;
        let target = if config.compactor_enabled { config.target_size_mb << 20 } else { FOLD_BYTES };
        Policy { target_bytes: target, min_segments: config.min_file_count, growth: GROWTH }
    }

    /// All merges that are worth it now, by dataset.
    pub async fn compact(
        &mut self,
        policy: Policy,
        stop: &CancellationToken,
    ) -> anyhow::Result<Vec<(Dataset, Pass)>> {
        let Snapshot { datasets, .. } = self.context.metadata.snapshot().await?;
        let mut passes = vec![];
        for (dataset, revision) in datasets {
            let Some(revision) = revision.filter(|_| self.concerns(dataset.id)) else { continue };
            // Finality moves without a commit too, but only where the next commit is not far.
            if self.seen.get(&revision.id).is_some_and(|seen| seen.settled == Some(revision.changed)) {
                continue;
            }
            if stop.is_cancelled() {
                return Ok(passes);
            }
            let name = dataset.name.clone();
            let pass = self.compact_one(&dataset, revision, policy, stop).await;
            let pass = pass.with_context(|| format!("compacting `{name}` failed"))?;
            if pass.segments.0 > 0 {
                let (before, after) = pass.segments;
                tracing::info!("{name}: {before} segments are {after} now");
                passes.push((dataset, pass));
            }
        }
        Ok(passes)
    }

    fn concerns(&self, dataset: DatasetId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&dataset))
    }

    async fn compact_one(
        &mut self,
        dataset: &Dataset,
        revision: Revision,
        policy: Policy,
        stop: &CancellationToken,
    ) -> anyhow::Result<Pass> {
        let manifest = definitions::of_dataset(dataset)?;
        let finality = self.context.metadata.finality(&manifest.network).await?;
        let Some(finalized) = finality.and_then(|finality| finality.finalized) else {
            return Ok(Pass::default());
        };
        let (id, changed) = (revision.id, revision.changed);
        let compaction = Compaction {
            target: Arc::new(self.target(&manifest, &revision)?),
            revision: id,
            policy,
            concurrency: self.context.config.compaction.write_concurrency,
            holder: self.holder.clone(),
        };
        let floor = self.seen.get(&id).map_or(0, |seen| seen.floor);
        let pass = compaction.all(floor, finalized.number, stop).await?;
        let is_settled = pass.segments.0 == 0 && pass.lost == 0;
        self.seen.insert(id, Seen { floor: pass.floor, settled: is_settled.then_some(changed) });
        Ok(pass)
    }

    fn target(&self, manifest: &RawManifest, revision: &Revision) -> anyhow::Result<Target> {
        let tables = manifest.select_tables(&tables::tables()).map_err(anyhow::Error::msg)?;
        let concurrency = self.context.config.compaction.write_concurrency.max(1);
        Ok(Target {
            metadata: Arc::clone(&self.context.metadata),
            stores: Arc::clone(&self.context.stores),
            tables: revision::locate(&tables, revision)?,
            network: manifest.network.clone(),
            manifest: serde_json::to_value(manifest)?,
            parquet: self.context.parquet_options()?,
            job_memory_bytes: WRITER_MEMORY_BYTES / concurrency,
        })
    }

    /// Deletes what nobody can need any more.
    pub async fn collect(&self, stop: &CancellationToken) -> anyhow::Result<Collected> {
        let Context { config, metadata, stores } = self.context.as_ref();
        let grace = Duration::from_secs_f64(config.compaction.file_lock_duration_secs);
        let collected = collect::all(metadata, stores, grace, stop).await?;
        if collected != Collected::default() {
            let Collected { objects, unregistered, .. } = collected;
            tracing::info!(
                "deleted {objects} files that were replaced and {unregistered} that were never committed"
            );
        }
        Ok(collected)
    }
}

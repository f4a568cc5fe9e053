//! Keeping what is stored in order: compaction and collection, in the background of workers and of dumps
//! that follow, at the end of other dumps, and when somebody asks for it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use nozzle_core::{BlockNum, Network, RevisionId, manifest::Manifest};
use nozzle_dump::{
    Compaction, Policy,
    collect::{self, Collected},
    compact::Pass,
    revision,
    writer::Target,
};
use nozzle_metadata::{CommitSeq, Dataset, DatasetId, Finality, Revision, Snapshot};
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

/// So many more final blocks are worth another look at a revision that nobody has written to.
const LOOK_AGAIN_BLOCKS: u64 = 16;

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
    /// How far the networks are, as the pass has found it.
    finality: HashMap<Network, Option<Finality>>,
}

/// What a pass has seen of a revision.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Below it nothing is left to be merged.
    floor: BlockNum,
    /// The newest commit and final block that it has found nothing to do about.
    settled: Option<(CommitSeq, BlockNum)>,
    /// Why it failed, where it did: that is said once.
    why: Option<String>,
}

impl Upkeep {
    /// Upkeep of all datasets, or of some.
    pub fn new(context: Arc<Context>, holder: String, only: Option<Vec<DatasetId>>) -> Self {
        Self { context, holder, only, seen: HashMap::new(), finality: HashMap::new() }
    }

    /// Compacts and collects again and again until `stop`. What fails is tried again next time.
    pub async fn run(mut self, stop: &CancellationToken) {
        let context = Arc::clone(&self.context);
        let config = &context.config.compaction;
        let interval = |seconds: f64| {
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(seconds));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let compacting = async {
            let mut ticks = interval(config.compactor_interval_secs);
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                if let Err(error) = self.compact(self.policy(), stop).await {
                    tracing::debug!("nothing can be compacted for now: {error:#}");
                }
            }
        };
        // Beside it: merging much may take hours.
        let collecting = async {
            let mut ticks = interval(config.collector_interval_secs);
            let mut said = None;
            while config.collector_enabled && stop.run_until_cancelled(ticks.tick()).await.is_some() {
                let why = collect(&context, stop).await.err().map(|error| format!("{error:#}"));
                if let Some(why) = why.as_ref().filter(|why| said.as_ref() != Some(*why)) {
                    tracing::warn!("files that nobody needs any more stay for now: {why}");
                }
                said = why;
            }
        };
        tokio::join!(compacting, collecting);
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
            && let Err(error) = collect(&self.context, stop).await
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
        self.finality.clear();
        let mut passes = vec![];
        for (dataset, revision) in datasets {
            let Some(revision) = revision.filter(|_| self.concerns(dataset.id)) else { continue };
            if stop.is_cancelled() {
                return Ok(passes);
            }
            let (name, id) = (dataset.name.clone(), revision.id);
            // One that fails has nothing to do with the others.
            let pass = self.compact_one(&dataset, revision, policy, stop).await;
            let failed =
                |error: anyhow::Error| Pass { failed: 1, why: Some(format!("{error:#}")), ..Pass::default() };
            let pass = pass.unwrap_or_else(failed);
            let seen = self.seen.entry(id).or_default();
            if let Some(why) = pass.why.as_ref().filter(|why| seen.why.as_ref() != Some(*why)) {
                tracing::warn!("{name}: some files could not be compacted for now: {why}");
            }
            seen.why.clone_from(&pass.why);
            if pass.segments.0 > 0 {
                let (before, after) = pass.segments;
                tracing::info!("{name}: {before} segments are {after} now");
            }
            if pass.segments.0 + pass.lost + pass.failed > 0 {
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
        let (id, changed) = (revision.id, revision.changed);
        let seen = self.seen.get(&id).cloned().unwrap_or_default();
        let Some(network) = manifest.network() else { return Ok(Pass::default()) };
        let Some(finalized) = self.finalized(&network).await? else { return Ok(Pass::default()) };
        // Blocks become final without a commit; a few more of them are not worth a look.
        let is_as_before = |(commit, known): (CommitSeq, BlockNum)| {
            commit == changed && finalized < known.saturating_add(LOOK_AGAIN_BLOCKS)
        };
        if seen.settled.is_some_and(is_as_before) {
            return Ok(Pass::default());
        }
        let compaction = Compaction {
            target: Arc::new(self.target(&manifest, &revision)?),
            revision: id,
            policy,
            concurrency: self.context.config.compaction.write_concurrency,
            holder: self.holder.clone(),
        };
        let pass = compaction.all(seen.floor, finalized, stop).await?;
        let is_settled = pass.segments.0 + pass.lost + pass.failed == 0;
        let settled = is_settled.then_some((changed, finalized));
        self.seen.insert(id, Seen { floor: pass.floor, settled, ..seen });
        Ok(pass)
    }

    /// The newest final block of a network; each is asked for once in a pass.
    async fn finalized(&mut self, network: &Network) -> anyhow::Result<Option<BlockNum>> {
        if !self.finality.contains_key(network) {
            let finality = self.context.metadata.finality(network).await?;
            self.finality.insert(network.clone(), finality);
        }
        let finality = self.finality.get(network).copied().flatten();
        Ok(finality.and_then(|finality| finality.finalized).map(|block| block.number))
    }

    fn target(&self, manifest: &Manifest, revision: &Revision) -> anyhow::Result<Target> {
        let tables = definitions::tables(manifest)?;
        let concurrency = self.context.config.compaction.write_concurrency.max(1);
        Ok(Target {
            metadata: Arc::clone(&self.context.metadata),
            stores: Arc::clone(&self.context.stores),
            tables: revision::locate(&tables, revision)?,
            network: manifest.network().context("the dataset has no network")?,
            manifest: serde_json::to_value(manifest)?,
            parquet: self.context.parquet_options()?,
            job_memory_bytes: WRITER_MEMORY_BYTES / concurrency,
        })
    }
}

/// Deletes what nobody can need any more.
pub async fn collect(context: &Context, stop: &CancellationToken) -> anyhow::Result<Collected> {
    let Context { config, metadata, stores, .. } = context;
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

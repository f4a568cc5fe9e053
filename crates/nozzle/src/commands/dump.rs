//! `nozzle dump`: direct extraction that ends when its end block is reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures::{StreamExt, stream};
use nozzle_core::{DatasetKind, DatasetRef, manifest::Manifest};
use nozzle_dump::{DumpError, DumpOptions, EndBlock, RawDump, Summary, job::CutPolicy};
use nozzle_metadata::{Dataset, DatasetId};
use nozzle_sources::SourceError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{self, DatasetArg, DumpArgs},
    commands::generate_manifest,
    config::Config,
    context::{Context, holder},
    definitions::{self, Definition, Rejected},
    kinds::{self, Endpoint},
    networks,
    progress::{Progress, say},
    providers,
    report::{self, one_line},
    shutdown::Shutdown,
    sources, stores,
    upkeep::Upkeep,
};

/// Dumps once, or again and again.
pub async fn run(args: DumpArgs, config: Config) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::watch("stopping at the next whole block; once more to stop at once")?;
    let context = Arc::new(Context::open(config).await?);
    let base_url = match &args.location {
        // A path on the command line is relative to where the command runs.
        Some(place) => {
            let here = std::env::current_dir().context("finding the current folder")?;
            stores::writable_folder(place, &here, &context.stores).await?
        }
        None => {
            let Config { data_dir, base, .. } = &context.config;
            stores::writable_folder(data_dir, base, &context.stores).await?
        }
    };
    let dump = Dump { args, context, base_url, shutdown };
    // With --fresh a dataset is built anew once, however often the dump runs.
    let mut built = BTreeSet::new();
    if let Some(minutes) = dump.args.run_every_mins {
        every(Duration::from_secs(minutes * 60), dump.shutdown.token(), async || dump.once(&mut built).await)
            .await;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(match dump.once(&mut built).await? {
        RunEnd::Stopped if !dump.args.follow => dump.shutdown.exit_code(),
        RunEnd::Stopped | RunEnd::Done => ExitCode::SUCCESS,
    })
}

struct Dump {
    args: DumpArgs,
    context: Arc<Context>,
    base_url: String,
    shutdown: Shutdown,
}

/// A dataset to dump and where its blocks come from.
struct Job {
    dataset: Dataset,
    manifest: Manifest,
    /// In the order in which they are tried; none for a derived dataset.
    endpoints: Vec<Endpoint>,
    /// Whether it was asked for, and not only brought along for what is made of it.
    is_asked: bool,
}

impl Job {
    /// Whether it is the one of a dataset.
    fn is_of(&self, reference: &DatasetRef) -> bool {
        self.dataset.name == reference.name && reference.version.is_none_or(|v| v == self.dataset.version)
    }
}

/// How a run over all datasets ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunEnd {
    Done,
    Stopped,
}

/// Runs every `interval`, never two at once; a run that fails is said and the next one still
/// happens. Ends when `stop` is cancelled.
async fn every(
    interval: Duration,
    stop: &CancellationToken,
    mut run: impl AsyncFnMut() -> anyhow::Result<RunEnd>,
) {
    loop {
        let next = Instant::now() + interval;
        if let Err(error) = run().await {
            say(&format!("this run failed: {}", one_line(&error)));
        }
        if !stop.is_cancelled() {
            say(&format!(
                "the next run starts in {} s",
                next.saturating_duration_since(Instant::now()).as_secs()
            ));
        }
        if stop.run_until_cancelled(tokio::time::sleep_until(next)).await.is_none() {
            return;
        }
    }
}

impl Dump {
    /// Dumps every dataset that was asked for. One that fails does not keep the others from their
    /// turn. `fresh` has the datasets that are still to be built anew.
    async fn once(&self, built: &mut BTreeSet<DatasetId>) -> anyhow::Result<RunEnd> {
        let jobs = self.jobs().await?;
        let datasets = jobs.iter().map(|job| job.dataset.id).collect();
        let upkeep = Upkeep::new(Arc::clone(&self.context), holder("dump"), Some(datasets));
        if !self.args.follow {
            let end = self.dump_all(jobs, built).await;
            // Also after a failure: what was replaced before it is to go.
            upkeep.once(self.shutdown.token()).await;
            return end;
        }
        let stop = self.shutdown.token().child_token();
        let dumping = async {
            let end = self.dump_all(jobs, built).await;
            stop.cancel();
            end
        };
        let (end, ()) = tokio::join!(dumping, upkeep.run(&stop));
        end
    }

    async fn dump_all(&self, jobs: Vec<Job>, built: &mut BTreeSet<DatasetId>) -> anyhow::Result<RunEnd> {
        let is_one_of_several = jobs.len() > 1;
        let awaited: Vec<Vec<usize>> = jobs.iter().map(|job| self.awaited(job, &jobs)).collect();
        let ended: Vec<CancellationToken> = jobs.iter().map(|_| CancellationToken::new()).collect();
        let (side_by_side, ended) = (jobs.len(), &ended);
        let runs = jobs.into_iter().zip(awaited).enumerate().map(|(place, (job, awaited))| {
            let id = job.dataset.id;
            let fresh = self.args.fresh && job.is_asked && !built.contains(&id);
            async move {
                for other in awaited {
                    ended[other].cancelled().await;
                }
                // Whatever comes of it, those that wait for it go on then.
                let _ended = ended[place].clone().drop_guard();
                if self.shutdown.token().is_cancelled() {
                    return (id, Ok(RunEnd::Stopped));
                }
                let end = self.dump(job, fresh).await;
                if let (Err(error), true) = (&end, is_one_of_several) {
                    // The others go on, for ever where they follow: nobody would hear of it before.
                    report::say(error);
                }
                (id, end.map(|summary| if summary.stopped { RunEnd::Stopped } else { RunEnd::Done }))
            }
        });
        let runs = stream::iter(runs.collect::<Vec<_>>()).buffered(side_by_side.max(1));
        let ends = runs.collect().await;
        self.end_of(ends, built, is_one_of_several)
    }

    /// The places of the jobs that end before one begins: those of what it is made of, and no others. Without
    /// these all go in the listed order. Following never ends: whoever follows several follows them side by side.
    fn awaited(&self, job: &Job, jobs: &[Job]) -> Vec<usize> {
        let place = jobs.iter().position(|other| other.dataset.id == job.dataset.id).unwrap_or_default();
        if self.args.follow {
            return vec![];
        }
        if self.args.ignore_deps {
            return place.checked_sub(1).into_iter().collect();
        }
        let needed = job.manifest.dependencies();
        (0..jobs.len()).filter(|other| needed.iter().any(|needed| jobs[*other].is_of(needed))).collect()
    }

    fn end_of(
        &self,
        ends: Vec<(DatasetId, anyhow::Result<RunEnd>)>,
        built: &mut BTreeSet<DatasetId>,
        is_one_of_several: bool,
    ) -> anyhow::Result<RunEnd> {
        let (mut run_end, mut failures) = (RunEnd::Done, vec![]);
        for (id, end) in ends {
            match end {
                Ok(RunEnd::Stopped) => run_end = RunEnd::Stopped,
                Ok(RunEnd::Done) => {
                    built.insert(id);
                }
                Err(error) => failures.push(error),
            }
        }
        match (failures.len(), failures.pop()) {
            (1, Some(error)) if !is_one_of_several => Err(error),
            (failed @ 1.., _) => Err(anyhow::anyhow!("{failed} of the datasets failed; see above")),
            _ => Ok(run_end),
        }
    }

    /// Finds the datasets that were asked for, after bringing in what the two folders define.
    async fn jobs(&self) -> anyhow::Result<Vec<Job>> {
        let metadata = &self.context.metadata;
        providers::import(&self.context.providers_folder()?, metadata.as_ref()).await?;
        let definitions = self.context.definitions_folder()?;
        let rejected = definitions::import(&definitions, metadata.as_ref()).await?;
        let mut jobs = vec![];
        if self.args.dataset.is_empty() {
            jobs.push(self.ad_hoc(None, &rejected).await?);
        }
        let mut given = self.given().await?;
        for dataset in &self.args.dataset {
            let found = match dataset {
                DatasetArg::File(path) => {
                    let mut found = vec![];
                    for dataset in given.remove(path.as_path()).unwrap_or_default() {
                        found.push(self.job(dataset).await?);
                    }
                    found
                }
                DatasetArg::Name(reference) => vec![self.by_name(reference, &rejected).await?],
            };
            for job in found {
                if !jobs.iter().any(|known: &Job| known.dataset.id == job.dataset.id) {
                    jobs.push(job);
                }
            }
        }
        let jobs = if self.args.ignore_deps { jobs } else { self.with_dependencies(jobs).await? };
        for rejected in rejected {
            tracing::warn!("{} is left out: {:#}", rejected.definition.file.shown, rejected.error);
        }
        Ok(jobs)
    }

    /// The jobs with those of all that they are made of, each before what is made of it.
    async fn with_dependencies(&self, jobs: Vec<Job>) -> anyhow::Result<Vec<Job>> {
        let mut ordered: Vec<Job> = vec![];
        let mut waiting: Vec<Job> = jobs.into_iter().rev().collect();
        while let Some(job) = waiting.pop() {
            if ordered.iter().any(|done| done.dataset.id == job.dataset.id) {
                continue;
            }
            let is_there = |needed: &&&DatasetRef| ordered.iter().any(|done| done.is_of(needed));
            let missing: Vec<DatasetRef> = job
                .manifest
                .dependencies()
                .iter()
                .filter(|needed| !is_there(needed))
                .map(|d| (*d).clone())
                .collect();
            if missing.is_empty() {
                ordered.push(job);
                continue;
            }
            // No cycle can be: a manifest names only what was registered before it.
            waiting.push(job);
            for needed in missing {
                let job = self.job(self.context.dataset(&needed).await?).await?;
                waiting.push(Job { is_asked: false, ..job });
            }
        }
        Ok(ordered)
    }

    /// Brings in the files that were listed, and gives the datasets of each.
    async fn given(&self) -> anyhow::Result<BTreeMap<&Path, Vec<Dataset>>> {
        let (mut paths, mut manifests) = (vec![], vec![]);
        for dataset in &self.args.dataset {
            let DatasetArg::File(path) = dataset else { continue };
            for manifest in Definition::read(path)?.manifests()? {
                paths.push(path.as_path());
                manifests.push(manifest);
            }
        }
        let datasets = definitions::register_all(&manifests, self.context.metadata.as_ref()).await?;
        let mut given: BTreeMap<&Path, Vec<Dataset>> = BTreeMap::new();
        for (path, dataset) in paths.into_iter().zip(datasets) {
            given.entry(path).or_default().push(dataset);
        }
        Ok(given)
    }

    async fn by_name(&self, reference: &DatasetRef, rejected: &[Rejected]) -> anyhow::Result<Job> {
        if let Some(bad) = rejected.iter().find(|rejected| rejected.defines(reference)) {
            bail!("{:#}", bad.error);
        }
        if self.args.rpc_url.is_some() && self.context.metadata.dataset(reference).await?.is_none() {
            return self.ad_hoc(Some(reference.clone()), rejected).await;
        }
        self.job(self.context.dataset(reference).await?).await
    }

    async fn job(&self, dataset: Dataset) -> anyhow::Result<Job> {
        let manifest = definitions::of_dataset(&dataset)?;
        let endpoints = match &self.args.rpc_url {
            Some(url) if matches!(manifest, Manifest::Raw(_)) => vec![sources::endpoint_of_url(url)],
            _ => sources::endpoints_of_manifest(&manifest, &self.context).await?,
        };
        Ok(Job { dataset, manifest, endpoints, is_asked: true })
    }

    /// A dataset that only --rpc-url tells of: its definition is written so that the next dump, and
    /// everybody else, finds it.
    async fn ad_hoc(&self, reference: Option<DatasetRef>, rejected: &[Rejected]) -> anyhow::Result<Job> {
        let url = self.args.rpc_url.as_deref().context("no dataset and no --rpc-url was given")?;
        let endpoint = sources::endpoint_of_url(url);
        let network = networks::network_of(kinds::node(&endpoint)?.chain_id().await?);
        let name = match reference {
            Some(DatasetRef { version: Some(version), name }) => {
                bail!(
                    "there is no dataset `{name}` of version {version}; leave the version out to define version 0.0.0"
                )
            }
            Some(reference) => reference.name,
            None => networks::dataset_name_of(&network),
        };
        let plain = DatasetRef { name: name.clone(), version: None };
        if let Some(dataset) = self.context.metadata.dataset(&plain).await? {
            return self.job(dataset).await;
        }
        if let Some(bad) = rejected.iter().find(|rejected| rejected.defines(&plain)) {
            bail!("{:#}", bad.error);
        }
        let metadata = &self.context.metadata;
        let manifest = generate_manifest::of_kind(DatasetKind::EvmRpc, name, network.clone(), 0)?;
        let definitions = self.context.definitions_folder()?;
        let path = generate_manifest::write_into(&definitions, &manifest).await?;
        say(&format!("wrote the manifest {path}"));
        if providers::find(metadata.as_ref(), manifest.kind, &network).await?.is_empty() {
            let folder = self.context.providers_folder()?;
            let provider = network.as_str().parse().context("naming the provider")?;
            let path = providers::write_file(&folder, &provider, &network, url).await?;
            say(&format!("wrote the provider {path}"));
            providers::import(&folder, metadata.as_ref()).await?;
        }
        let manifest = Manifest::Raw(manifest);
        let dataset = definitions::register(&manifest, metadata.as_ref()).await?;
        Ok(Job { dataset, manifest, endpoints: vec![endpoint], is_asked: true })
    }

    async fn dump(&self, job: Job, fresh: bool) -> anyhow::Result<Summary> {
        let Job { dataset, manifest, mut endpoints, is_asked } = job;
        let name = dataset.name.clone();
        let network = manifest.network().context("the dataset has no network")?;
        self.context.throttles.hold(&mut endpoints, &network)?;
        let source = sources::open(&endpoints, &manifest, self.args.verify, &self.context).await;
        let source = source.with_context(|| format!("dumping `{name}` failed"))?;
        let raw = RawDump {
            metadata: Arc::clone(&self.context.metadata),
            stores: Arc::clone(&self.context.stores),
            source,
            dataset,
            network,
            start_block: manifest.start_block(),
            options: self.options(&manifest, fresh, is_asked)?,
        };
        let progress = Progress::start(name.as_str());
        match raw.run(&progress, self.shutdown.token()).await {
            Ok(summary) => {
                progress.finish(&summary);
                Ok(summary)
            }
            Err(error) => {
                progress.abandon();
                Err(error).with_context(|| format!("dumping `{name}` failed"))
            }
        }
    }

    fn options(&self, manifest: &Manifest, fresh: bool, is_asked: bool) -> anyhow::Result<DumpOptions> {
        let defaults = self.context.dump_options(self.base_url.clone(), holder("dump"))?;
        Ok(DumpOptions {
            end: match self.args.end_block {
                cli::EndBlock::Number(number) if number < manifest.start_block() => bail!(
                    "the end block {number} is below the dataset's first block {}",
                    manifest.start_block()
                ),
                cli::EndBlock::Latest => EndBlock::Latest,
                cli::EndBlock::Number(number) => EndBlock::Number(number),
                cli::EndBlock::BelowHead(below) => EndBlock::BelowHead(below),
            },
            follow: self.args.follow,
            only_finalized: self.args.only_finalized_blocks || manifest.is_finalized_only(),
            fresh,
            jobs: usize::from(self.args.n_jobs),
            is_base_explicit: self.args.location.is_some() && is_asked,
            cut: CutPolicy { partition_bytes: self.args.partition_size_mb << 20, ..defaults.cut },
            ..defaults
        })
    }
}

/// What to do next about a failed dump, where the error itself does not say.
pub fn advice(error: &anyhow::Error) -> Option<&'static str> {
    match error.downcast_ref::<DumpError>()? {
        DumpError::Source(SourceError::OtherChain { .. }) => None,
        DumpError::Source(_) | DumpError::Metadata(_) | DumpError::Commit(_) => {
            Some("what was committed is safe; run the same command again to go on")
        }
        DumpError::Store { .. } => Some(
            "check that the disk has space and can be written, or that the store can be reached (`nozzle doctor` tries it); what was committed is safe, run the same command again to go on",
        ),
        DumpError::Held(_)
        | DumpError::OtherChain { .. }
        | DumpError::Refused(_)
        | DumpError::LeaseLost
        | DumpError::Unsteady(_)
        | DumpError::NoFinalBlock => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn scheduled_runs_never_overlap_and_outlive_failures() {
        let (stop, interval) = (CancellationToken::new(), Duration::from_millis(40));
        let mut starts: Vec<Instant> = vec![];
        let (running, mut overlaps) = (std::sync::atomic::AtomicBool::new(false), 0);
        every(interval, &stop, async || {
            use std::sync::atomic::Ordering::SeqCst;
            overlaps += u32::from(running.swap(true, SeqCst));
            starts.push(Instant::now());
            // The second run takes longer than the interval.
            let takes = if starts.len() == 2 { interval * 3 } else { Duration::ZERO };
            tokio::time::sleep(takes).await;
            running.store(false, SeqCst);
            if starts.len() == 5 {
                stop.cancel();
            }
            if starts.len().is_multiple_of(2) { Ok(RunEnd::Done) } else { bail!("a run that fails") }
        })
        .await;
        assert_eq!((starts.len(), overlaps), (5, 0));
        assert!(starts[1] - starts[0] >= interval && starts[2] - starts[1] >= interval * 3);
    }
}

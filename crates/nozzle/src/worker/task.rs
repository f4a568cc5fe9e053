//! Doing one task: a dump of its blocks, as the job asks for it.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use nozzle_core::{BlockRange, DatasetName, manifest::Manifest, range::MAX_BLOCK};
use nozzle_dump::{DumpError, DumpOptions, EndBlock, Part, RawDump, job::CutPolicy, plan};
use nozzle_metadata::{Job, JobFilter, JobPlan, JobStatus, MetadataError, Revision, Task, TaskEnd, TaskKind};
use tokio_util::sync::CancellationToken;

use super::{Worker, report, report::Log};
use crate::{
    context::holder, definitions, jobs::JobRequest, kinds::PackageChanged, report::one_line, sources, stores,
};

/// The longest wait before a task is tried again.
const MAX_RETRY: Duration = Duration::from_secs(300);

/// How long a job waits before it looks again whether those are over that it is to come after.
const AFTER_DEPENDENCIES: Duration = Duration::from_secs(1);

/// Why a task has ended before its goal.
enum Trouble {
    /// Another try may succeed, here or elsewhere.
    MayPass(anyhow::Error),
    /// It will not.
    Lasts(anyhow::Error),
    /// The task is another worker's, or its job is to stop.
    Lost,
}

impl From<DumpError> for Trouble {
    fn from(error: DumpError) -> Self {
        // A final block comes, and whoever may only read is a standby that becomes the primary.
        let comes_back = matches!(
            error,
            DumpError::LeaseLost
                | DumpError::NoFinalBlock
                | DumpError::Unsteady(_)
                | DumpError::Metadata(MetadataError::ReadOnly { .. })
        );
        if error.may_pass() || comes_back { Self::MayPass(error.into()) } else { Self::Lasts(error.into()) }
    }
}

impl From<MetadataError> for Trouble {
    fn from(error: MetadataError) -> Self {
        DumpError::from(error).into()
    }
}

/// Does a task until it is done or `cancel`, and says how it is to be left.
pub(super) async fn run(
    worker: &Worker,
    task: &Task,
    cancel: &CancellationToken,
    is_light: Arc<AtomicBool>,
) -> TaskEnd {
    let log = Log { label: report::label(task), is_light };
    let doing = Doing { worker, task, cancel, log };
    match doing.run().await {
        Ok(_) | Err(Trouble::Lost) if cancel.is_cancelled() => TaskEnd::Released,
        Ok(end) => end,
        Err(Trouble::Lost) => TaskEnd::Released,
        // Whoever is told to stop does not wait for what fails.
        Err(Trouble::MayPass(_)) if cancel.is_cancelled() => TaskEnd::Released,
        Err(Trouble::MayPass(error)) => {
            let after = Duration::from_secs(1 << task.attempts.min(16)).min(MAX_RETRY);
            TaskEnd::Retry { why: one_line(&error), after }
        }
        Err(Trouble::Lasts(error)) => TaskEnd::Failed { why: one_line(&error) },
    }
}

struct Doing<'a> {
    worker: &'a Worker,
    task: &'a Task,
    cancel: &'a CancellationToken,
    log: Log,
}

impl Doing<'_> {
    async fn run(&self) -> Result<TaskEnd, Trouble> {
        let job = &self.task.job;
        let request = JobRequest::of(job).map_err(Trouble::Lasts)?;
        let manifest = definitions::of_dataset(&job.dataset).map_err(Trouble::Lasts)?;
        // The store may be away for minutes.
        let Some(dump) = self.unless_cancelled(self.dump(&request, &manifest)).await else {
            return Err(Trouble::Lost);
        };
        let dump = dump?;
        if self.task.kind == TaskKind::Head
            && job.end_block.is_none()
            && request.ends_by_head()
            && let Some(dataset) = self.awaited(&manifest).await?
        {
            let why = format!("it comes after the job of `{dataset}`, of which it is made");
            return Ok(TaskEnd::Retry { why, after: AFTER_DEPENDENCIES });
        }
        match self.task.kind {
            TaskKind::Head => self.head(dump, &request).await,
            TaskKind::Range(range) => self.range(dump, range).await,
        }
    }

    /// What the dataset is made of and a job with an end is still at: the head is where that has ended.
    async fn awaited(&self, manifest: &Manifest) -> Result<Option<DatasetName>, Trouble> {
        let metadata = &self.worker.context.metadata;
        for reference in manifest.dependencies() {
            let Some(dataset) = metadata.dataset(reference).await? else { continue };
            let filter = JobFilter {
                statuses: JobStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect(),
                dataset: Some(dataset.id),
                limit: 1,
                ..JobFilter::default()
            };
            let live = metadata.jobs(&filter).await?;
            let ends = |job: &Job| JobRequest::of(job).is_ok_and(|request| request.end_block.is_some());
            if live.iter().any(ends) {
                return Ok(Some(dataset.name));
            }
        }
        Ok(None)
    }

    /// Plans the job; then does what lies above what was cut off for others, or all where that is little.
    async fn head(&self, mut dump: RawDump, request: &JobRequest) -> Result<TaskEnd, Trouble> {
        dump.options.follow = request.end_block.is_none();
        if let Some(end) = request.end(self.task.job.end_block) {
            dump.options.end = end;
        }
        let Some(revision) = self.unless_cancelled(self.revision(&dump)).await else {
            return Err(Trouble::Lost);
        };
        let revision = revision?;
        let Some(outlook) = self.unless_cancelled(dump.outlook(&revision, &self.log, self.cancel)).await
        else {
            return Err(Trouble::Lost);
        };
        let outlook = outlook?;
        if outlook.is_empty {
            return Ok(TaskEnd::Done);
        }
        let ranges = plan::tasks(&outlook.settled);
        let has_cut = !ranges.is_empty();
        let end_block = request.end_block.and(outlook.end);
        let plan = JobPlan { revision: revision.id, end_block, ranges };
        if !self.worker.context.metadata.plan_job(self.task.claim, &plan).await? {
            return Err(Trouble::Lost);
        }
        if let Some(end) = request.end(outlook.end) {
            dump.options.end = end;
        }
        let first = if has_cut { outlook.unsettled_from } else { dump.start_block };
        let last = end_block.unwrap_or(MAX_BLOCK);
        // Above what was cut off there may be nothing.
        if let Some(blocks) = BlockRange::new(first, last) {
            let whole_until = end_block.unwrap_or(outlook.head);
            let switches = request.end_block.is_none();
            dump.options.part = Some(Part { blocks, whole_until, switches });
            let summary = dump.run_revision(revision, &self.log, self.cancel).await?;
            report::stored(&self.log.label, &summary);
        }
        Ok(if has_cut { TaskEnd::Waiting } else { TaskEnd::Done })
    }

    async fn range(&self, mut dump: RawDump, blocks: BlockRange) -> Result<TaskEnd, Trouble> {
        let revision = self.planned_revision().await?;
        let known_head =
            self.worker.context.metadata.finality(&dump.network).await?.map(|known| known.head.number);
        let whole_until = self.task.job.end_block.or(known_head).unwrap_or(blocks.end());
        dump.options.part = Some(Part { blocks, whole_until, switches: false });
        dump.options.end = EndBlock::Number(blocks.end());
        let summary = dump.run_revision(revision, &self.log, self.cancel).await?;
        report::stored(&self.log.label, &summary);
        Ok(TaskEnd::Done)
    }

    /// What was asked, unless the task is to end first: it may wait for a node for long.
    async fn unless_cancelled<T>(&self, asked: impl Future<Output = T>) -> Option<T> {
        self.cancel.run_until_cancelled(asked).await
    }

    /// The revision that the job writes: the planned one, else the one that is to be written now.
    async fn revision(&self, dump: &RawDump) -> Result<Revision, Trouble> {
        match self.task.job.revision {
            Some(_) => self.planned_revision().await,
            None => Ok(dump.resolve(&self.log, self.cancel).await?),
        }
    }

    async fn planned_revision(&self) -> Result<Revision, Trouble> {
        let job = &self.task.job;
        let revisions = self.worker.context.metadata.revisions(job.dataset.id).await?;
        let planned = revisions.into_iter().find(|revision| Some(revision.id) == job.revision);
        planned.ok_or_else(|| Trouble::Lasts(anyhow!("the revision that the job writes is gone")))
    }

    async fn dump(&self, request: &JobRequest, manifest: &Manifest) -> Result<RawDump, Trouble> {
        let (context, job) = (&self.worker.context, &self.task.job);
        // A database that is away comes back; a variable that is missing here may be set elsewhere; a
        // provider may still be added.
        let endpoints = sources::endpoints_of_manifest(manifest, context).await;
        let mut endpoints = endpoints.map_err(Trouble::MayPass)?;
        let network = manifest.network().context("the dataset has no network").map_err(Trouble::Lasts)?;
        self.worker.throttles.hold(&mut endpoints, &network).map_err(Trouble::MayPass)?;
        let source = sources::open(&endpoints, manifest, None, context)
            .await
            .with_context(|| format!("opening the source of `{}` failed", job.dataset.name))
            .map_err(|error| match error.downcast_ref::<PackageChanged>() {
                Some(_) => Trouble::Lasts(error),
                None => Trouble::MayPass(error),
            })?;
        Ok(RawDump {
            metadata: Arc::clone(&context.metadata),
            stores: Arc::clone(&context.stores),
            source,
            dataset: job.dataset.clone(),
            network: network.clone(),
            start_block: manifest.start_block(),
            options: self.options(request, manifest).await?,
        })
    }

    async fn options(&self, request: &JobRequest, manifest: &Manifest) -> Result<DumpOptions, Trouble> {
        let (context, config) = (&self.worker.context, &self.worker.context.config);
        let base_url = stores::writable_folder(&config.data_dir, &config.base, &context.stores);
        let base_url = base_url.await.map_err(Trouble::MayPass)?;
        let holder =
            format!("job {} on worker {}, {}", self.task.job.id, self.worker.hold.node_id, holder("worker"));
        let defaults = context.dump_options(base_url, holder).map_err(Trouble::Lasts)?;
        Ok(DumpOptions {
            end: EndBlock::Latest,
            only_finalized: request.only_finalized_blocks || manifest.is_finalized_only(),
            fresh: request.fresh,
            jobs: usize::from(request.n_jobs),
            cut: CutPolicy { partition_bytes: request.partition_size_mb << 20, ..defaults.cut },
            writer_memory_bytes: defaults.writer_memory_bytes / self.worker.options.max_tasks.max(1),
            ..defaults
        })
    }
}

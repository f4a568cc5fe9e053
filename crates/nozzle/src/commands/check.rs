//! `nozzle check`: what is stored is checked as it was before it was written, from the files alone;
//! with --repair the bad parts are extracted again.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use arrow::{
    array::{RecordBatch, StringArray, UInt64Array},
    datatypes::{DataType, Field, Schema},
    error::ArrowError,
};
use futures::stream;
use indicatif::HumanCount;
use nozzle_core::{BlockRange, TableDef, manifest::Manifest};
use nozzle_dump::{Check, CheckReport, Finding, Repair, RepairEnd, revision, strays, writer::Target};
use nozzle_metadata::{Dataset, Revision};
use nozzle_sources::stored::{OrderCheck, StoredCheck};
use url::Url;

use crate::{
    cli::CheckArgs,
    config::Config,
    context::{Context, WRITER_MEMORY_BYTES, holder},
    definitions, kinds, output,
    progress::{Progress, say},
    providers, report,
    shutdown::Shutdown,
    sources, stores,
};

/// Checks, and repairs where that is wanted. Fails where something wrong is left.
pub async fn run(args: CheckArgs, config: Config) -> anyhow::Result<ExitCode> {
    let range = range_of(&args)?;
    let shutdown = Shutdown::watch("stopping; once more to stop at once")?;
    let context = Context::open_existing(config).await?;
    let checking = Checking::open(args, context, shutdown).await?;
    let found = checking.check(range).await?;
    // They belong to no blocks that could be left out.
    let strays = if is_whole(&checking.args) && !found.stopped { checking.strays().await? } else { vec![] };
    print(&[found.findings.as_slice(), strays.as_slice()].concat()).await?;
    if found.stopped {
        return Ok(checking.shutdown.exit_code());
    }
    if found.findings.is_empty() {
        return Ok(if strays.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if !checking.args.repair {
        say("run it again with --repair to extract these files again from the node");
        return Ok(ExitCode::FAILURE);
    }
    checking.repair(&found.bad_segments).await
}

fn is_whole(args: &CheckArgs) -> bool {
    args.start_block.is_none() && args.end_block.is_none()
}

fn range_of(args: &CheckArgs) -> anyhow::Result<BlockRange> {
    let start = args.start_block.unwrap_or(0);
    let end = args.end_block.unwrap_or(nozzle_core::range::MAX_BLOCK);
    BlockRange::new(start, end).with_context(|| {
        format!("there are no blocks from {start} to {end}: give a start that is not above the end")
    })
}

/// A dataset that is checked.
struct Checking {
    args: CheckArgs,
    context: Context,
    shutdown: Shutdown,
    dataset: Dataset,
    manifest: Manifest,
    revision: Revision,
    stored: Check,
}

impl Checking {
    async fn open(args: CheckArgs, context: Context, shutdown: Shutdown) -> anyhow::Result<Self> {
        let dataset = context.dataset(&args.dataset).await?;
        let manifest = definitions::of_dataset(&dataset)?;
        let snapshot = context.metadata.snapshot().await?;
        let active = snapshot.datasets.into_iter().find(|(found, _)| found.id == dataset.id);
        let Some(revision) = active.and_then(|(_, revision)| revision) else {
            bail!("the dataset `{}` has no data yet: run `nozzle dump --dataset {0}`", dataset.name);
        };
        let tables: Vec<TableDef> = definitions::tables(&manifest)?;
        let check: Arc<dyn StoredCheck> = match &manifest {
            Manifest::Raw(raw) => kinds::of(raw.kind)?.stored_check(tables.clone(), args.verify)?,
            Manifest::Derived(_) => Arc::new(OrderCheck::new(tables.clone())),
        };
        // The files themselves, not what was kept of them.
        let context = Context { stores: stores::stores(None, stores::PATIENCE), ..context };
        let stored = Check {
            metadata: Arc::clone(&context.metadata),
            stores: Arc::clone(&context.stores),
            tables: revision::locate(&tables, &revision)?,
            check,
        };
        Ok(Self { args, context, shutdown, dataset, manifest, revision, stored })
    }

    async fn check(&self, range: BlockRange) -> anyhow::Result<CheckReport> {
        let name = &self.dataset.name;
        let progress = Progress::start(name.as_str());
        let report = self.stored.run(range, &progress, self.shutdown.token()).await;
        progress.abandon();
        let report = report.with_context(|| format!("checking `{name}` failed"))?;
        say(&format!("{name}: {}", summary_text(&report, &self.level_text())));
        Ok(report)
    }

    /// At which level the rows were checked, and why that is not the one that was asked for.
    fn level_text(&self) -> String {
        let (asked, kind) = (self.args.verify, self.manifest.kind());
        match self.stored.check.level() {
            Some(level) if level < asked => {
                format!("at `{level}`, the most that rows of kind `{kind}` allow,")
            }
            Some(level) => format!("at `{level}`"),
            None => format!(
                "(files, links and order: rows of kind `{kind}` allow no more, whatever --verify says)"
            ),
        }
    }

    /// The files that the database does not name.
    async fn strays(&self) -> anyhow::Result<Vec<Finding>> {
        let strays =
            strays::find(&self.context.metadata, &self.context.stores, &self.revision.locations).await;
        let strays = strays.with_context(|| format!("checking `{}` failed", self.dataset.name))?;
        if !strays.is_empty() {
            say(&format!("{}: {} files are not named by the database", self.dataset.name, strays.len()));
        }
        Ok(strays)
    }

    /// Replaces the segments and checks the new ones.
    async fn repair(&self, segments: &[BlockRange]) -> anyhow::Result<ExitCode> {
        let name = &self.dataset.name;
        let failed = || format!("repairing `{name}` failed");
        let progress = Progress::start(name.as_str());
        let end = self.replace(segments, &progress).await;
        progress.abandon();
        if end.with_context(failed)? == RepairEnd::Stopped {
            return Ok(self.shutdown.exit_code());
        }
        let mut left = vec![];
        for range in segments {
            say(&format!("{name}: replaced blocks {range}"));
            let again = self.check(*range).await?;
            if again.stopped {
                return Ok(self.shutdown.exit_code());
            }
            left.extend(again.findings);
        }
        print(&left).await?;
        Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn replace(&self, segments: &[BlockRange], progress: &Progress) -> anyhow::Result<RepairEnd> {
        let Self { context, manifest, .. } = self;
        let stop = self.shutdown.token();
        providers::import(&context.providers_folder()?, context.metadata.as_ref()).await?;
        let mut endpoints = sources::endpoints_of_manifest(manifest, context).await?;
        if let Some(network) = manifest.network() {
            context.throttles.hold(&mut endpoints, &network)?;
        }
        let source = sources::open(&endpoints, manifest, Some(self.args.verify), context).await?;
        let target = Target {
            metadata: Arc::clone(&context.metadata),
            stores: Arc::clone(&context.stores),
            tables: self.stored.tables.clone(),
            network: manifest.network().context("the dataset has no network")?,
            manifest: serde_json::to_value(manifest)?,
            parquet: context.parquet_options()?,
            job_memory_bytes: WRITER_MEMORY_BYTES,
        };
        let holder = holder("check --repair");
        let (target, revision) = (Arc::new(target), self.revision.id);
        let repair = Repair { stored: &self.stored, source, target, revision, holder: &holder };
        Ok(repair.run(segments, progress, stop).await?)
    }
}

fn summary_text(report: &CheckReport, level: &str) -> String {
    let seconds = report.elapsed.as_secs_f64();
    let found = match report.findings.len() {
        0 => "nothing wrong".to_owned(),
        1 => "1 finding".to_owned(),
        count => format!("{} findings", HumanCount(count as u64)),
    };
    let stopped = if report.stopped { ", stopped before the end" } else { "" };
    format!("checked {} blocks {level} in {seconds:.1} s: {found}{stopped}", HumanCount(report.blocks))
}

/// Prints findings as a table; nothing where there are none.
async fn print(findings: &[Finding]) -> anyhow::Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    let batch = rows_of(findings)?;
    let schema = batch.schema();
    let mut text = vec![];
    let options = output::Options { table_rows: findings.len(), ..output::Options::default() };
    let rows = stream::iter([Ok::<_, ArrowError>(batch)]);
    output::write(output::Format::Table, schema, rows, &mut text, options).await?;
    report::answer(&String::from_utf8_lossy(&text))
}

fn rows_of(findings: &[Finding]) -> Result<RecordBatch, ArrowError> {
    let schema = Schema::new(vec![
        Field::new("first_block", DataType::UInt64, false),
        Field::new("last_block", DataType::UInt64, false),
        Field::new("file", DataType::Utf8, true),
        Field::new("finding", DataType::Utf8, false),
    ]);
    let number = |of: fn(&BlockRange) -> u64| -> UInt64Array {
        findings.iter().map(|finding| of(&finding.range)).collect::<Vec<_>>().into()
    };
    let files = findings.iter().map(|finding| finding.file.as_deref().map(path_of));
    let whys = findings.iter().map(|finding| &finding.why);
    RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(number(BlockRange::start)),
            Arc::new(number(BlockRange::end)),
            Arc::new(files.collect::<StringArray>()),
            Arc::new(StringArray::from_iter_values(whys)),
        ],
    )
}

/// A file as other programs take it: a plain path on the local disk.
fn path_of(url: &str) -> String {
    let path = Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
    path.map_or_else(|| url.to_owned(), |path| path.display().to_string())
}

//! `nozzle status`: what there is, how far it is, and who is at work.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use indicatif::{HumanBytes, HumanCount};
use nozzle_core::{BlockNum, RevisionId};
use nozzle_metadata::{
    Coverage, Dataset, Job, JobFilter, JobStatus, MetadataStore, Revision, Snapshot, Worker,
};

use crate::{config::Config, context::Context, definitions, report};

/// So many jobs that have ended are shown.
const ENDED_JOBS: u32 = 10;

/// So many live jobs are shown.
const LIVE_JOBS: u32 = 1000;

/// Prints datasets, jobs and workers.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let context = Context::open_existing(config).await?;
    let metadata = context.metadata.as_ref();
    let mut text = datasets(metadata).await?;
    let live = [JobStatus::Scheduled, JobStatus::Running, JobStatus::StopRequested, JobStatus::Stopping];
    let live = JobFilter { statuses: live.to_vec(), limit: LIVE_JOBS, ..JobFilter::default() };
    let ended =
        JobFilter { statuses: JobStatus::TERMINAL.to_vec(), limit: ENDED_JOBS, ..JobFilter::default() };
    let jobs = [metadata.jobs(&live).await?, metadata.jobs(&ended).await?].concat();
    let (workers, now) = (metadata.workers().await?, metadata.clock().await?);
    if !jobs.is_empty() {
        text += &jobs_text(metadata, &jobs, &workers).await?;
    }
    if !workers.is_empty() {
        text += &workers_text(&workers, now);
    }
    report::answer(&text)?;
    Ok(ExitCode::SUCCESS)
}

async fn datasets(metadata: &dyn MetadataStore) -> anyhow::Result<String> {
    let Snapshot { datasets, .. } = metadata.snapshot().await?;
    if datasets.is_empty() {
        return Ok("no datasets yet\n".to_owned());
    }
    let active: Vec<RevisionId> = datasets.iter().filter_map(|(_, r)| r.as_ref()).map(|r| r.id).collect();
    let stored = metadata.coverage(&active).await?;
    let mut text = format!(
        "{:<32} {:<9} {:>14} {:>14} {:>10} {:>14} {:>11}\n",
        "dataset", "version", "linked until", "head", "behind", "rows", "bytes"
    );
    for (dataset, revision) in datasets {
        let head = match &dataset.network {
            Some(network) => metadata.finality(network).await?.map(|finality| finality.head.number),
            None => None,
        };
        let tables: Vec<&Coverage> = of_revision(&stored, revision.as_ref());
        let start = start_of(&dataset);
        let linked = tables.iter().map(|table| table.linked_from(start)).min().flatten();
        let behind = head.zip(linked).map(|(head, linked)| head.saturating_sub(linked));
        text += &format!(
            "{:<32} {:<9} {:>14} {:>14} {:>10} {:>14} {:>11}\n",
            dataset.name.as_str(),
            dataset.version.to_string(),
            number(linked),
            number(head),
            number(behind),
            HumanCount(tables.iter().map(|table| table.totals.rows).sum()).to_string(),
            HumanBytes(tables.iter().map(|table| table.totals.bytes).sum()).to_string(),
        );
    }
    Ok(text)
}

fn of_revision<'a>(stored: &'a [Coverage], revision: Option<&Revision>) -> Vec<&'a Coverage> {
    stored.iter().filter(|table| revision.is_some_and(|revision| revision.id == table.revision)).collect()
}

fn start_of(dataset: &Dataset) -> BlockNum {
    definitions::of_dataset(dataset).map_or(0, |manifest| manifest.start_block())
}

fn number(number: Option<BlockNum>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}

async fn jobs_text(metadata: &dyn MetadataStore, jobs: &[Job], workers: &[Worker]) -> anyhow::Result<String> {
    let revisions: Vec<RevisionId> = jobs.iter().filter_map(|job| job.revision).collect();
    let stored = metadata.coverage(&revisions).await?;
    let mut text = format!(
        "\n{:<8} {:<32} {:<15} {:<20} {:>14} {:>14}\n",
        "job", "dataset", "status", "worker", "linked until", "end"
    );
    for job in jobs {
        let tables = stored.iter().filter(|table| Some(table.revision) == job.revision);
        let start = start_of(&job.dataset);
        let linked = tables.map(|table| table.linked_from(start)).min().flatten();
        text += &format!(
            "{:<8} {:<32} {:<15} {:<20} {:>14} {:>14}\n",
            job.id.to_string(),
            job.dataset.name.as_str(),
            job.status.as_str(),
            job.node_id.as_deref().unwrap_or("-"),
            number(linked),
            number(job.end_block),
        );
        if let Some(error) = &job.error {
            text += &format!("         {error}\n");
        }
        if let Some(why) = left_alone(job.status, job.node_id.as_deref(), workers) {
            text += &format!("         {why}\n");
        }
    }
    Ok(text)
}

/// Why nobody is at a job that is under way, where nobody is; `node_id` is the worker that has or had it.
fn left_alone(status: JobStatus, node_id: Option<&str>, workers: &[Worker]) -> Option<&'static str> {
    if JobStatus::TERMINAL.contains(&status) {
        return None;
    }
    if !workers.iter().any(|worker| worker.is_alive) {
        return Some(
            "no live worker has it: it goes on once one runs (`nozzle worker`, or `nozzle server --dev`)",
        );
    }
    let is_gone = |worker: &Worker| Some(worker.node_id.as_str()) == node_id && !worker.is_alive;
    let is_held = status != JobStatus::Scheduled;
    (is_held && workers.iter().any(is_gone)).then_some("its worker is gone: another one goes on with it")
}

fn workers_text(workers: &[Worker], now: DateTime<Utc>) -> String {
    let mut text = format!(
        "\n{:<32} {:<8} {:>7}  {:<12} {:<10} region\n",
        "worker", "state", "tasks", "heard of", "version"
    );
    for worker in workers {
        let state = if worker.is_alive { "alive" } else { "gone" };
        let silent = (now - worker.last_heartbeat).num_seconds().max(0);
        text += &format!(
            "{:<32} {state:<8} {:>7}  {:<12} {:<10} {}\n",
            worker.node_id,
            worker.running_tasks,
            format!("{silent} s ago"),
            worker.version,
            worker.region.as_deref().unwrap_or("-"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_whose_workers_are_gone_is_told_from_one_that_runs() {
        let worker = |node_id: &str, is_alive| Worker {
            node_id: node_id.into(),
            started_at: DateTime::UNIX_EPOCH,
            last_heartbeat: DateTime::UNIX_EPOCH,
            is_alive,
            version: "0".into(),
            region: None,
            running_tasks: 0,
        };
        let (gone, both) = ([worker("a", false)], [worker("a", false), worker("b", true)]);
        for (status, node_id, workers, says) in [
            (JobStatus::Running, Some("a"), &gone[..], Some("no live worker has it")),
            (JobStatus::Scheduled, None, &[], Some("no live worker has it")),
            (JobStatus::Running, Some("a"), &both, Some("its worker is gone")),
            (JobStatus::Running, Some("b"), &both, None),
            (JobStatus::Scheduled, Some("a"), &both, None),
            (JobStatus::Completed, Some("a"), &gone, None),
        ] {
            let said = left_alone(status, node_id, workers);
            let is_so = match says {
                Some(says) => said.is_some_and(|said| said.contains(says)),
                None => said.is_none(),
            };
            assert!(is_so, "{status:?} {node_id:?}: {said:?}");
        }
    }
}

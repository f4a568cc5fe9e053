//! Jobs, tasks and workers, for both databases: each compiles this file as a module of its own, with the
//! words of its SQL and its connection from beside it (`dialect`).
//!
//! Locks are taken in the order job, task, and then as everywhere; a claim skips what is locked. Who is alive is decided by the
//! database's clock.

use super::{
    datasets,
    dialect::{
        Connection, after_pulse, before_pulse, for_update, ids, json_array, json_rows, later, notify, now,
        silent, skip_locked, skip_locked_rows, texts,
    },
    leases, revisions,
};
use crate::{
    fault::{Fault, refused},
    model::*,
    rows::{
        jobs::{JobRow, PulseRow, TaskRow, WorkerRow},
        read_all,
    },
    sql::{id_list, jobs as text},
    validate::{self, bounds},
};

/// Ranges that one statement adds.
const RANGES_PER_STATEMENT: usize = 1000;

/// A task of a job that nobody is at, and that waits for so long, goes before those of a worker's own region.
macro_rules! patience {
    () => {
        "60.0"
    };
}

/// Whether the worker `w` lives, and still is the process that claimed the task `t`.
macro_rules! is_held {
    () => {
        concat!(
            "COALESCE(w.fence = t.worker_fence AND w.ended_at IS NULL AND ",
            silent!("w.heartbeat_at"),
            " < 5.0, FALSE)"
        )
    };
}

/// Tasks with their jobs and the workers that hold them.
macro_rules! tasks {
    () => {
        "FROM tasks t JOIN jobs j ON j.id = t.job_id LEFT JOIN workers w ON w.node_id = t.node_id "
    };
}

/// Whether the task `t` may be claimed. A worker that is merely silent is taken over from only where
/// the parameter says so: after the database was away, everybody has been silent.
macro_rules! is_claimable {
    ($take_over:literal) => {
        concat!(
            "NOT t.is_waiting AND j.status IN ('SCHEDULED', 'RUNNING') AND (t.not_before IS NULL OR t.not_before <= ",
            now!(),
            ") AND (t.node_id IS NULL OR w.node_id IS NULL OR w.ended_at IS NOT NULL OR w.fence <> t.worker_fence OR (",
            $take_over,
            " AND ",
            silent!("w.heartbeat_at"),
            " >= 5.0))"
        )
    };
}

/// What a worker is told at each heartbeat, `$1` its name, `$2` its fence, `$3` whether it may take over.
pub(super) const PULSE: &str = concat!(
    before_pulse!(),
    "(SELECT CAST(",
    json_rows!(),
    "(",
    json_array!(),
    "(t.id, t.fence, j.status)) AS TEXT) FROM tasks t JOIN jobs j ON j.id = t.job_id
               WHERE t.node_id = $1 AND t.worker_fence = $2) AS held,
             EXISTS (SELECT 1 ",
    tasks!(),
    "WHERE ",
    is_claimable!("$3"),
    ") AS has_work,
             (SELECT CAST(",
    json_rows!(),
    "(",
    json_array!(),
    "(shared.kind, shared.network, shared.workers)) AS TEXT) FROM
                (SELECT d.kind, d.network, COUNT(DISTINCT t.node_id) AS workers ",
    tasks!(),
    "JOIN datasets d ON d.id = j.dataset_id WHERE d.network IS NOT NULL AND ",
    is_held!(),
    " GROUP BY d.kind, d.network) shared) AS sharing",
    after_pulse!()
);

// --- workers ----------------------------------------------------------------------------------------

pub(super) async fn register(tx: &mut Connection, new: &NewWorker) -> Result<Registration, Fault> {
    let statement = concat!(
        "INSERT INTO workers (node_id, fence, version, region, started_at, heartbeat_at)
         VALUES ($1, 1, $2, $3, ",
        now!(),
        ", ",
        now!(),
        ") ON CONFLICT (node_id) DO UPDATE SET fence = workers.fence + 1, version = excluded.version,
             region = excluded.region, started_at = excluded.started_at,
             heartbeat_at = excluded.heartbeat_at, ended_at = NULL
           WHERE workers.ended_at IS NOT NULL OR ",
        silent!("workers.heartbeat_at"),
        " >= 5.0 RETURNING fence"
    );
    let fence: Option<i64> = sqlx::query_scalar(statement)
        .bind(&new.node_id)
        .bind(&new.version)
        .bind(&new.region)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(fence) = fence {
        return Ok(Registration::Granted(WorkerHold { node_id: new.node_id.clone(), fence: Fence(fence) }));
    }
    let statement = concat!("SELECT ", silent!("w.heartbeat_at"), " FROM workers w WHERE w.node_id = $1");
    let silent: f64 = sqlx::query_scalar(statement).bind(&new.node_id).fetch_one(tx).await?;
    Ok(Registration::Held { silent_for: std::time::Duration::from_secs_f64(silent.max(0.0)) })
}

pub(super) async fn heartbeat(
    connection: &mut Connection,
    hold: &WorkerHold,
    may_take_over: bool,
) -> Result<Option<Pulse>, Fault> {
    let row = super::dialect::heartbeat(connection, hold, may_take_over).await?;
    row.map(PulseRow::read).transpose()
}

/// Ends a worker: its tasks are free at once.
pub(super) async fn retire(tx: &mut Connection, hold: &WorkerHold) -> Result<(), Fault> {
    let statement = concat!("UPDATE workers SET ended_at = ", now!(), " WHERE node_id = $1 AND fence = $2");
    sqlx::query(statement).bind(&hold.node_id).bind(hold.fence.0).execute(&mut *tx).await?;
    settle_all(tx).await?;
    notify(tx).await
}

pub(super) async fn workers(connection: &mut Connection) -> Result<Vec<Worker>, Fault> {
    let statement = concat!(
        "SELECT w.node_id, w.started_at, w.heartbeat_at, w.version, w.region,
                (w.ended_at IS NULL AND ",
        silent!("w.heartbeat_at"),
        " < 5.0) AS is_alive,
                (SELECT COUNT(*) FROM tasks t WHERE t.node_id = w.node_id AND ",
        is_held!(),
        ") AS running_tasks
         FROM workers w ORDER BY w.node_id"
    );
    let rows: Vec<WorkerRow> = sqlx::query_as(statement).fetch_all(connection).await?;
    read_all(rows, WorkerRow::read)
}

// --- jobs -------------------------------------------------------------------------------------------

pub(super) async fn schedule(tx: &mut Connection, new: &NewJob) -> Result<Scheduled, Fault> {
    // Whoever schedules another job of the dataset, or removes it, waits here.
    datasets::lock(tx, new.dataset).await?;
    let live: Option<(i64, String, String)> =
        sqlx::query_as(text::LIVE_JOB).bind(new.dataset.0).fetch_optional(&mut *tx).await?;
    // What is to stop may have been left by a worker that has died since.
    let left = match &live {
        Some((id, _, status)) => Some(JobId(*id)).filter(|_| is_stopping(status)),
        None => None,
    };
    let is_settled = match left {
        Some(id) => lock(tx, id).await?.is_some() && settle(tx, id).await?,
        None => false,
    };
    if let Some((id, descriptor, status)) = live.filter(|_| !is_settled) {
        let is_same = descriptor == new.descriptor && !crate::rows::jobs::status(&status)?.is_stopping();
        return Ok(if is_same { Scheduled::Same(JobId(id)) } else { Scheduled::Conflict(JobId(id)) });
    }
    let id: i64 = sqlx::query_scalar(text::INSERT_JOB)
        .bind(new.dataset.0)
        .bind(&new.descriptor)
        .fetch_one(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO tasks (job_id, kind) VALUES ($1, 'head')").bind(id).execute(&mut *tx).await?;
    notify(tx).await?;
    Ok(Scheduled::New(JobId(id)))
}

fn is_stopping(status: &str) -> bool {
    crate::rows::jobs::status(status).is_ok_and(JobStatus::is_stopping)
}

pub(super) async fn list(connection: &mut Connection, filter: &JobFilter) -> Result<Vec<Job>, Fault> {
    let statement = concat!(
        text::select_jobs!(),
        " WHERE ($1 = '[]' OR j.status IN ",
        texts!("$1"),
        ") AND ($2 IS NULL OR j.dataset_id = $2) AND ($3 IS NULL OR j.id < $3) ORDER BY j.id DESC LIMIT $4"
    );
    let rows: Vec<JobRow> = sqlx::query_as(statement)
        .bind(text_list(&filter.statuses))
        .bind(filter.dataset.map(|id| id.0))
        .bind(filter.before.map(|id| id.0))
        .bind(i64::from(filter.limit))
        .fetch_all(connection)
        .await?;
    read_all(rows, JobRow::read)
}

fn text_list(statuses: &[JobStatus]) -> String {
    let names: Vec<_> = statuses.iter().map(|status| format!("\"{}\"", status.as_str())).collect();
    format!("[{}]", names.join(","))
}

pub(super) async fn count(connection: &mut Connection) -> Result<Vec<(JobStatus, u64)>, Fault> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT status, COUNT(*) FROM jobs GROUP BY status").fetch_all(connection).await?;
    let read =
        |(status, count): (String, i64)| Ok((crate::rows::jobs::status(&status)?, count.unsigned_abs()));
    rows.into_iter().map(read).collect()
}

pub(super) async fn by_id(connection: &mut Connection, id: JobId) -> Result<Option<Job>, Fault> {
    let statement = concat!(text::select_jobs!(), " WHERE j.id = $1");
    let row: Option<JobRow> = sqlx::query_as(statement).bind(id.0).fetch_optional(connection).await?;
    row.map(JobRow::read).transpose()
}

/// The status of a job, which nobody else changes until the transaction has ended.
async fn lock(tx: &mut Connection, id: JobId) -> Result<Option<JobStatus>, Fault> {
    let statement = concat!("SELECT status FROM jobs WHERE id = $1", for_update!());
    let status: Option<String> = sqlx::query_scalar(statement).bind(id.0).fetch_optional(tx).await?;
    status.map(|text| crate::rows::jobs::status(&text)).transpose()
}

pub(super) async fn stop(tx: &mut Connection, id: JobId) -> Result<JobChange, Fault> {
    let Some(status) = lock(tx, id).await? else { return Ok(JobChange::Missing) };
    if status.is_terminal() {
        return Ok(JobChange::Conflict(status));
    }
    if !status.is_stopping() {
        set_status(tx, id, JobStatus::StopRequested).await?;
    }
    let status = if settle(tx, id).await? {
        JobStatus::Stopped
    } else {
        if status.is_stopping() { status } else { JobStatus::StopRequested }
    };
    notify(tx).await?;
    Ok(JobChange::Done(status))
}

async fn set_status(tx: &mut Connection, id: JobId, status: JobStatus) -> Result<(), Fault> {
    let statement = concat!("UPDATE jobs SET status = $2, updated_at = ", now!(), " WHERE id = $1");
    sqlx::query(statement).bind(id.0).bind(status.as_str()).execute(tx).await?;
    Ok(())
}

/// Makes a job that is to stop a stopped one, if no live worker is at it. The job is locked.
async fn settle(tx: &mut Connection, id: JobId) -> Result<bool, Fault> {
    let statement =
        concat!("SELECT EXISTS (SELECT 1 ", tasks!(), "WHERE t.job_id = $1 AND ", is_held!(), ")");
    let is_held: bool = sqlx::query_scalar(statement).bind(id.0).fetch_one(&mut *tx).await?;
    if !is_held {
        end(tx, id, JobStatus::Stopped).await?;
    }
    Ok(!is_held)
}

/// Gives a job its last status. There is nothing left to do of it.
async fn end(tx: &mut Connection, id: JobId, status: JobStatus) -> Result<(), Fault> {
    set_status(tx, id, status).await?;
    sqlx::query("DELETE FROM tasks WHERE job_id = $1").bind(id.0).execute(tx).await?;
    Ok(())
}

/// Settles the jobs that are to stop and whose workers have died.
pub(super) async fn settle_all(tx: &mut Connection) -> Result<(), Fault> {
    let statement = concat!(text::stopping_jobs!(), skip_locked_rows!());
    let ids: Vec<i64> = sqlx::query_scalar(statement).fetch_all(&mut *tx).await?;
    for id in ids.into_iter().map(JobId) {
        settle(tx, id).await?;
    }
    Ok(())
}

pub(super) async fn delete(tx: &mut Connection, id: JobId) -> Result<JobChange, Fault> {
    match lock(tx, id).await? {
        None => Ok(JobChange::Missing),
        Some(status) if status.is_terminal() => {
            sqlx::query("DELETE FROM jobs WHERE id = $1").bind(id.0).execute(tx).await?;
            Ok(JobChange::Done(status))
        }
        Some(status) => Ok(JobChange::Conflict(status)),
    }
}

pub(super) async fn delete_all(tx: &mut Connection, statuses: &[JobStatus]) -> Result<u64, Fault> {
    if let Some(live) = statuses.iter().find(|status| !status.is_terminal()) {
        return refused(format!("jobs that are {} are not deleted", live.as_str()));
    }
    let statement = concat!("DELETE FROM jobs WHERE status IN ", texts!("$1"));
    Ok(sqlx::query(statement).bind(text_list(statuses)).execute(tx).await?.rows_affected())
}

/// The live job of a dataset.
pub(super) async fn live(connection: &mut Connection, dataset: DatasetId) -> Result<Option<JobId>, Fault> {
    let live: Option<(i64, String, String)> =
        sqlx::query_as(text::LIVE_JOB).bind(dataset.0).fetch_optional(connection).await?;
    Ok(live.map(|(id, ..)| JobId(id)))
}

// --- tasks ------------------------------------------------------------------------------------------

pub(super) async fn claim(
    tx: &mut Connection,
    hold: &WorkerHold,
    limit: u32,
    may_take_over: bool,
) -> Result<Vec<Task>, Fault> {
    let region: Option<Option<String>> = sqlx::query_scalar(text::WORKER_REGION)
        .bind(&hold.node_id)
        .bind(hold.fence.0)
        .fetch_optional(&mut *tx)
        .await?;
    // Another process has the name.
    let Some(region) = region else { return Ok(vec![]) };
    let statement = concat!(
        "SELECT t.id ",
        tasks!(),
        "JOIN datasets d ON d.id = j.dataset_id WHERE ",
        is_claimable!("$1"),
        " ORDER BY CASE WHEN ",
        silent!("t.created_at"),
        " >= ",
        patience!(),
        " AND NOT EXISTS (SELECT 1 FROM tasks o WHERE o.job_id = t.job_id AND o.node_id IS NOT NULL)
              OR EXISTS (SELECT 1 FROM providers p WHERE p.kind = d.kind AND p.network = d.network AND p.region = $2)
             THEN 0 ELSE 1 END, t.id LIMIT $3",
        skip_locked!()
    );
    let locked: Vec<i64> = sqlx::query_scalar(statement)
        .bind(may_take_over)
        .bind(&region)
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
    if locked.is_empty() {
        return Ok(vec![]);
    }
    // Looked at again now that they are locked: a task that another worker claimed while the statement ran
    // comes out of it with that worker's name, but without that worker's row, and looks deserted.
    let take = concat!(
        "UPDATE tasks SET node_id = $2, worker_fence = $3, fence = fence + 1, not_before = NULL
         WHERE id IN (SELECT t.id ",
        tasks!(),
        "WHERE t.id IN ",
        ids!("$1"),
        " AND ",
        is_claimable!("$4"),
        ") RETURNING id"
    );
    let claimed: Vec<i64> = sqlx::query_scalar(take)
        .bind(id_list(locked.into_iter()))
        .bind(&hold.node_id)
        .bind(hold.fence.0)
        .bind(may_take_over)
        .fetch_all(&mut *tx)
        .await?;
    let claimed = id_list(claimed.into_iter());
    let run = concat!(
        "UPDATE jobs SET status = 'RUNNING', node_id = $2, updated_at = ",
        now!(),
        " WHERE id IN (SELECT job_id FROM tasks WHERE kind = 'head' AND id IN ",
        ids!("$1"),
        ")"
    );
    sqlx::query(run).bind(&claimed).bind(&hold.node_id).execute(&mut *tx).await?;
    let list = concat!(text::select_tasks!(), " WHERE t.id IN ", ids!("$1"), " ORDER BY t.id");
    let rows: Vec<TaskRow> = sqlx::query_as(list).bind(&claimed).fetch_all(tx).await?;
    read_all(rows, TaskRow::read)
}

/// A claimed task and its job, which nobody else changes until the transaction has ended; `None` where the
/// claim has been lost. The job first: whoever ends it deletes its tasks.
async fn lock_task(tx: &mut Connection, claim: TaskClaim) -> Result<Option<(JobId, JobStatus, bool)>, Fault> {
    let job: Option<i64> = sqlx::query_scalar("SELECT job_id FROM tasks WHERE id = $1")
        .bind(claim.task.0)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(job) = job.map(JobId) else { return Ok(None) };
    let Some(status) = lock(tx, job).await? else { return Ok(None) };
    let statement = concat!(
        "SELECT kind = 'head' FROM tasks WHERE id = $1 AND fence = $2 AND node_id IS NOT NULL",
        for_update!()
    );
    let is_head: Option<bool> =
        sqlx::query_scalar(statement).bind(claim.task.0).bind(claim.fence.0).fetch_optional(tx).await?;
    Ok(is_head.map(|is_head| (job, status, is_head)))
}

pub(super) async fn plan(tx: &mut Connection, claim: TaskClaim, plan: &JobPlan) -> Result<bool, Fault> {
    let Some((job, status, _)) = lock_task(tx, claim).await? else { return Ok(false) };
    if status != JobStatus::Running {
        return Ok(false);
    }
    let end = plan.end_block.map(validate::block_number).transpose()?;
    let statement =
        concat!("UPDATE jobs SET revision_id = $2, end_block = $3, updated_at = ", now!(), " WHERE id = $1");
    sqlx::query(statement).bind(job.0).bind(plan.revision.0).bind(end).execute(&mut *tx).await?;
    // A head task that was taken over plans again; what was cut before is still there.
    let cut: Vec<(i64, i64)> = sqlx::query_as(text::RANGES).bind(job.0).fetch_all(&mut *tx).await?;
    let cut: Vec<_> =
        cut.into_iter().map(|(start, end)| crate::rows::range(start, end)).collect::<Result<_, _>>()?;
    insert_ranges(tx, job, &missing(&plan.ranges, &cut)).await?;
    has_progressed(tx, job, Some(claim)).await?;
    notify(tx).await?;
    Ok(true)
}

/// What of the wanted ranges lies in none of those that are cut, each part by itself: neighbours stay apart.
/// Both are in block order.
fn missing(
    wanted: &[nozzle_core::BlockRange],
    cut: &[nozzle_core::BlockRange],
) -> Vec<nozzle_core::BlockRange> {
    let missing_of = |wanted: &nozzle_core::BlockRange| {
        let first = cut.partition_point(|cut| cut.end() < wanted.start());
        let overlapping = cut[first..].iter().take_while(|cut| cut.start() <= wanted.end());
        nozzle_core::range::subtract(vec![*wanted], overlapping.copied().collect())
    };
    wanted.iter().flat_map(missing_of).collect()
}

/// Many at a time: the database may be far away, and the job is locked.
async fn insert_ranges(
    tx: &mut Connection,
    job: JobId,
    ranges: &[nozzle_core::BlockRange],
) -> Result<(), Fault> {
    for ranges in ranges.chunks(RANGES_PER_STATEMENT) {
        let rows: Vec<String> = ranges
            .iter()
            .map(|range| bounds(*range))
            .map(|(start, end)| format!("({job},'range',{start},{end})"))
            .collect();
        let statement = format!("{} {}", text::INSERT_RANGES, rows.join(","));
        // Nothing but numbers was put into it.
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *tx).await?;
    }
    Ok(())
}

/// What was being waited out is over, unless another task of the job still does.
async fn has_progressed(tx: &mut Connection, job: JobId, claim: Option<TaskClaim>) -> Result<(), Fault> {
    if let Some(claim) = claim {
        sqlx::query("UPDATE tasks SET attempts = 0 WHERE id = $1")
            .bind(claim.task.0)
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query(text::FORGET_ERROR).bind(job.0).execute(tx).await?;
    Ok(())
}

/// Leaves a task. `None` where the claim has been lost; with the number of the commit that switched the
/// revision, if one did.
pub(super) async fn finish(
    tx: &mut Connection,
    claim: TaskClaim,
    task_end: &TaskEnd,
) -> Result<Option<Option<CommitSeq>>, Fault> {
    let Some((job, status, is_head)) = lock_task(tx, claim).await? else { return Ok(None) };
    let mut switched = None;
    match task_end {
        TaskEnd::Failed { why } => {
            set_error(tx, job, Some(why.as_str())).await?;
            end(tx, job, JobStatus::Failed).await?;
            return Ok(Some(None));
        }
        TaskEnd::Done if !is_head => {
            sqlx::query("DELETE FROM tasks WHERE id = $1").bind(claim.task.0).execute(&mut *tx).await?;
            has_progressed(tx, job, None).await?;
        }
        TaskEnd::Done if !has_ranges(tx, job).await? => {
            switched = switch(tx, job).await?;
            set_error(tx, job, None).await?;
            end(tx, job, JobStatus::Completed).await?;
            return Ok(Some(switched));
        }
        // What the others still have to do decides whether the job is complete.
        TaskEnd::Done | TaskEnd::Waiting => {
            release(tx, claim).await?;
            let waits = "UPDATE tasks SET is_waiting = TRUE, attempts = 0 WHERE id = $1";
            sqlx::query(waits).bind(claim.task.0).execute(&mut *tx).await?;
        }
        TaskEnd::Released => release(tx, claim).await?,
        TaskEnd::Retry { why, after } => {
            set_error(tx, job, Some(why.as_str())).await?;
            release(tx, claim).await?;
            let statement = concat!(
                "UPDATE tasks SET attempts = attempts + 1, not_before = ",
                later!("$2"),
                " WHERE id = $1"
            );
            sqlx::query(statement).bind(claim.task.0).bind(after.as_secs_f64()).execute(&mut *tx).await?;
        }
    }
    if status.is_stopping() {
        settle(tx, job).await?;
    } else if !has_ranges(tx, job).await? {
        sqlx::query(text::WAKE_HEAD).bind(job.0).execute(&mut *tx).await?;
    }
    notify(tx).await?;
    Ok(Some(switched))
}

async fn release(tx: &mut Connection, claim: TaskClaim) -> Result<(), Fault> {
    sqlx::query(text::RELEASE_TASK).bind(claim.task.0).execute(tx).await?;
    Ok(())
}

async fn set_error(tx: &mut Connection, job: JobId, why: Option<&str>) -> Result<(), Fault> {
    let statement = concat!("UPDATE jobs SET error = $2, updated_at = ", now!(), " WHERE id = $1");
    sqlx::query(statement).bind(job.0).bind(why).execute(tx).await?;
    Ok(())
}

async fn has_ranges(tx: &mut Connection, job: JobId) -> Result<bool, Fault> {
    Ok(sqlx::query_scalar(text::HAS_RANGES).bind(job.0).fetch_one(tx).await?)
}

/// Makes the revision that a job was building the one that is read.
async fn switch(tx: &mut Connection, job: JobId) -> Result<Option<CommitSeq>, Fault> {
    let building: Option<uuid::Uuid> =
        sqlx::query_scalar(text::BUILDING_REVISION).bind(job.0).fetch_optional(&mut *tx).await?;
    match building {
        Some(id) => revisions::activate(tx, nozzle_core::RevisionId(id)).await.map(Some),
        None => Ok(None),
    }
}

/// Retires a revision that no job and no other writer is at.
pub(super) async fn retire_unused(
    tx: &mut Connection,
    revision: nozzle_core::RevisionId,
) -> Result<CommitSeq, Fault> {
    validate::check_writable(revision, revisions::lock(tx, revision).await?)?;
    validate::check_unheld(&leases::live(tx, revision).await?)?;
    let job: Option<i64> =
        sqlx::query_scalar(text::JOB_OF_REVISION).bind(revision.0).fetch_optional(&mut *tx).await?;
    validate::check_no_job(job.map(JobId))?;
    revisions::retire_all(tx, &[revision]).await
}

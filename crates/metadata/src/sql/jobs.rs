//! The statements about jobs that are the same on both databases.

macro_rules! job_columns {
    () => {
        "j.id AS job_id, j.descriptor, j.status AS job_status, j.error AS job_error,
         j.revision_id AS job_revision, j.end_block AS job_end, j.node_id AS job_node,
         j.created_at AS job_created_at, j.updated_at AS job_updated_at"
    };
}

/// Jobs with their datasets.
macro_rules! select_jobs {
    () => {
        concat!(
            "SELECT ",
            crate::sql::jobs::job_columns!(),
            ", ",
            crate::sql::dataset_columns!(),
            " FROM jobs j JOIN datasets d ON d.id = j.dataset_id"
        )
    };
}

/// Tasks with their jobs.
macro_rules! select_tasks {
    () => {
        concat!(
            "SELECT t.id AS task_id, t.fence AS task_fence, t.kind AS task_kind, t.start_block, t.end_block,
                    t.attempts, ",
            crate::sql::jobs::job_columns!(),
            ", ",
            crate::sql::dataset_columns!(),
            " FROM tasks t JOIN jobs j ON j.id = t.job_id JOIN datasets d ON d.id = j.dataset_id"
        )
    };
}
pub(crate) use {job_columns, select_jobs, select_tasks};

/// The live job of the dataset `$1`.
pub(crate) const LIVE_JOB: &str = "SELECT id, descriptor, status FROM jobs
     WHERE dataset_id = $1 AND status IN ('SCHEDULED', 'RUNNING', 'STOP_REQUESTED', 'STOPPING')";

/// Schedules a job `$2` of the dataset `$1`.
pub(crate) const INSERT_JOB: &str =
    "INSERT INTO jobs (dataset_id, descriptor, status) VALUES ($1, $2, 'SCHEDULED') RETURNING id";

/// The jobs that are to stop, in the order in which they are locked.
macro_rules! stopping_jobs {
    () => {
        "SELECT id FROM jobs WHERE status IN ('STOP_REQUESTED', 'STOPPING') ORDER BY id"
    };
}
pub(crate) use stopping_jobs;

/// The live job that writes the revision `$1`.
pub(crate) const JOB_OF_REVISION: &str = "SELECT id FROM jobs
     WHERE revision_id = $1 AND status IN ('SCHEDULED', 'RUNNING', 'STOP_REQUESTED', 'STOPPING')";

/// The region of the worker `$1` whose process is still the `$2`th.
pub(crate) const WORKER_REGION: &str =
    "SELECT region FROM workers WHERE node_id = $1 AND fence = $2 AND ended_at IS NULL";

/// The ranges that the job `$1` is cut into and that are still to do.
pub(crate) const RANGES: &str =
    "SELECT start_block, end_block FROM tasks WHERE job_id = $1 AND kind = 'range' ORDER BY start_block";

/// Adds ranges to jobs, a row `(job, 'range', first, last)` each.
pub(crate) const INSERT_RANGES: &str = "INSERT INTO tasks (job_id, kind, start_block, end_block) VALUES";

/// Whether ranges of the job `$1` are still to do.
pub(crate) const HAS_RANGES: &str =
    "SELECT EXISTS (SELECT 1 FROM tasks WHERE job_id = $1 AND kind = 'range')";

/// Forgets why the job `$1` was being tried again, unless a task of it still is.
pub(crate) const FORGET_ERROR: &str = "UPDATE jobs SET error = NULL WHERE id = $1 AND error IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM tasks WHERE job_id = $1 AND attempts > 0)";

/// Frees the task `$1`. Whoever had it has lost it: the next claim has another number.
pub(crate) const RELEASE_TASK: &str = "UPDATE tasks SET node_id = NULL, worker_fence = NULL WHERE id = $1";

/// Lets the head task of the job `$1` be claimed again.
pub(crate) const WAKE_HEAD: &str =
    "UPDATE tasks SET is_waiting = FALSE WHERE job_id = $1 AND kind = 'head' AND is_waiting";

/// The revision that the job `$1` writes, where it is not read yet.
pub(crate) const BUILDING_REVISION: &str = "SELECT r.id FROM jobs j JOIN revisions r ON r.id = j.revision_id
     WHERE j.id = $1 AND r.state = 'building'";

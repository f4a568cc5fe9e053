//! PostgreSQL's words for what the two databases say differently, and its heartbeat.

use crate::{fault::Fault, model::WorkerHold, rows::jobs::PulseRow};

pub(in crate::postgres) use super::now;

pub(in crate::postgres) type Connection = sqlx::PgConnection;

/// The channel that tells of work.
pub(super) const CHANNEL: &str = "nozzle_jobs";

/// For how many seconds a column's time has been over.
macro_rules! silent {
    ($column:literal) => {
        concat!("EXTRACT(EPOCH FROM clock_timestamp() - ", $column, ")::float8")
    };
}

/// The time so many seconds from now.
macro_rules! later {
    ($seconds:literal) => {
        concat!("clock_timestamp() + make_interval(secs => ", $seconds, ")")
    };
}

/// The time so many seconds ago.
macro_rules! ago {
    ($seconds:literal) => {
        concat!("clock_timestamp() - make_interval(secs => ", $seconds, ")")
    };
}

macro_rules! for_update {
    () => {
        " FOR UPDATE"
    };
}

/// Takes what nobody else is taking, of jobs that nobody is ending: who ends one locks it for update. Others
/// who claim of it may change it meanwhile, or two that have each other's jobs would wait for one another.
macro_rules! skip_locked {
    () => {
        " FOR UPDATE OF t SKIP LOCKED FOR KEY SHARE OF j SKIP LOCKED"
    };
}

/// Locks what nobody else has locked.
macro_rules! skip_locked_rows {
    () => {
        " FOR UPDATE SKIP LOCKED"
    };
}

/// The numbers of a parameter that is a JSON array.
macro_rules! ids {
    ($parameter:literal) => {
        concat!("(SELECT value::bigint FROM json_array_elements_text(", $parameter, "::json))")
    };
}

/// The ids of a parameter that is a JSON array.
macro_rules! uuids {
    ($parameter:literal) => {
        concat!("(SELECT value::uuid FROM json_array_elements_text(", $parameter, "::json))")
    };
}

/// The texts of a parameter that is a JSON array.
macro_rules! texts {
    ($parameter:literal) => {
        concat!("(SELECT value FROM json_array_elements_text(", $parameter, "::json))")
    };
}

macro_rules! json_array {
    () => {
        "json_build_array"
    };
}

macro_rules! json_rows {
    () => {
        "json_agg"
    };
}
/// What comes before the columns of a heartbeat: all of it is one statement, as idle workers must cost the
/// server little.
macro_rules! before_pulse {
    () => {
        concat!(
            "WITH me AS (UPDATE workers SET heartbeat_at = ",
            now!(),
            " WHERE node_id = $1 AND fence = $2 AND ended_at IS NULL RETURNING node_id),
                  told AS (UPDATE jobs SET status = 'STOPPING', updated_at = ",
            now!(),
            " WHERE id IN (SELECT j.id FROM jobs j WHERE j.status = 'STOP_REQUESTED' AND j.id IN (
                                 SELECT job_id FROM tasks WHERE node_id = $1 AND worker_fence = $2)
                             FOR NO KEY UPDATE SKIP LOCKED))
             SELECT "
        )
    };
}

/// What comes after them.
macro_rules! after_pulse {
    () => {
        " FROM me"
    };
}
pub(in crate::postgres) use {
    after_pulse, ago, before_pulse, for_update, ids, json_array, json_rows, later, silent, skip_locked,
    skip_locked_rows, texts, uuids,
};

/// Tells workers that there may be something to do.
pub(in crate::postgres) async fn notify(tx: &mut Connection) -> Result<(), Fault> {
    sqlx::query("SELECT pg_notify('nozzle_jobs', '')").execute(tx).await?;
    Ok(())
}

pub(super) async fn heartbeat(
    connection: &mut Connection,
    hold: &WorkerHold,
    may_take_over: bool,
) -> Result<Option<PulseRow>, Fault> {
    let row = sqlx::query_as(super::jobs::PULSE).bind(&hold.node_id).bind(hold.fence.0).bind(may_take_over);
    Ok(row.fetch_optional(connection).await?)
}

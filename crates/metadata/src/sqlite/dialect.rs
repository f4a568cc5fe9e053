//! SQLite's words for what the two databases say differently, and its heartbeat.

use crate::{fault::Fault, model::WorkerHold, rows::jobs::PulseRow};

pub(in crate::sqlite) use super::now;

pub(in crate::sqlite) type Connection = sqlx::SqliteConnection;

/// For how many seconds a column's time has been over.
macro_rules! silent {
    ($column:literal) => {
        concat!("(unixepoch('now', 'subsec') - unixepoch(", $column, ", 'subsec'))")
    };
}

/// The time so many seconds from now.
macro_rules! later {
    ($seconds:literal) => {
        concat!("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+' || ", $seconds, " || ' seconds')")
    };
}

/// The time so many seconds ago.
macro_rules! ago {
    ($seconds:literal) => {
        concat!("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || ", $seconds, " || ' seconds')")
    };
}

/// A transaction that writes is alone.
macro_rules! for_update {
    () => {
        ""
    };
}

macro_rules! skip_locked {
    () => {
        ""
    };
}

/// Locks what nobody else has locked.
macro_rules! skip_locked_rows {
    () => {
        ""
    };
}

/// The numbers of a parameter that is a JSON array.
macro_rules! ids {
    ($parameter:literal) => {
        concat!("(SELECT value FROM json_each(", $parameter, "))")
    };
}

/// The ids of a parameter that is a JSON array.
macro_rules! uuids {
    ($parameter:literal) => {
        concat!("(SELECT unhex(value, '-') FROM json_each(", $parameter, "))")
    };
}

/// The texts of a parameter that is a JSON array.
macro_rules! texts {
    ($parameter:literal) => {
        concat!("(SELECT value FROM json_each(", $parameter, "))")
    };
}

macro_rules! json_array {
    () => {
        "json_array"
    };
}

macro_rules! json_rows {
    () => {
        "json_group_array"
    };
}
/// What comes before the columns of a heartbeat.
macro_rules! before_pulse {
    () => {
        "SELECT "
    };
}

/// What comes after them.
macro_rules! after_pulse {
    () => {
        ""
    };
}
pub(in crate::sqlite) use {
    after_pulse, ago, before_pulse, for_update, ids, json_array, json_rows, later, silent, skip_locked,
    skip_locked_rows, texts, uuids,
};

/// Workers of this process are told by the store, and there are no others.
pub(in crate::sqlite) async fn notify(_: &mut Connection) -> Result<(), Fault> {
    Ok(())
}

pub(super) async fn heartbeat(
    tx: &mut Connection,
    hold: &WorkerHold,
    may_take_over: bool,
) -> Result<Option<PulseRow>, Fault> {
    let beat = concat!(
        "UPDATE workers SET heartbeat_at = ",
        now!(),
        " WHERE node_id = $1 AND fence = $2 AND ended_at IS NULL"
    );
    let beat = sqlx::query(beat).bind(&hold.node_id).bind(hold.fence.0).execute(&mut *tx).await?;
    if beat.rows_affected() == 0 {
        return Ok(None);
    }
    let told = concat!(
        "UPDATE jobs SET status = 'STOPPING', updated_at = ",
        now!(),
        " WHERE status = 'STOP_REQUESTED'
            AND id IN (SELECT job_id FROM tasks WHERE node_id = $1 AND worker_fence = $2)"
    );
    sqlx::query(told).bind(&hold.node_id).bind(hold.fence.0).execute(&mut *tx).await?;
    let row = sqlx::query_as(super::jobs::PULSE).bind(&hold.node_id).bind(hold.fence.0).bind(may_take_over);
    Ok(Some(row.fetch_one(tx).await?))
}

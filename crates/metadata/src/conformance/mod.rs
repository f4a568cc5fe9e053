//! The contract of [`MetadataStore`], held against both databases: each rule is a function of a
//! database, and one test for each database.

#![allow(clippy::unwrap_used)]

mod collecting;
mod commits;
mod datasets;
mod hints;
mod jobs;
mod leases;
mod objects;
mod opening;
mod revisions;
mod scans;
mod world;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqliteConnection};

use crate::{LeaseId, MetadataConfig, MetadataStore, open};

/// A fresh database.
pub(crate) enum Database {
    Sqlite(tempfile::TempDir),
    Postgres(nozzle_testkit::postgres::SharedDatabase),
}

impl Database {
    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    fn postgres() -> Self {
        Self::Postgres(nozzle_testkit::postgres::shared().unwrap())
    }

    fn config(&self) -> MetadataConfig {
        let url = match self {
            Self::Sqlite(folder) => format!("sqlite://{}", folder.path().join("made/metadata.db").display()),
            Self::Postgres(database) => database.url(),
        };
        MetadataConfig { url, listen_url: None, pool_size: 4, auto_migrate: true }
    }

    async fn open(&self) -> Arc<dyn MetadataStore> {
        open(&self.config()).await.unwrap()
    }

    /// Runs statements behind the store's back.
    async fn execute(&self, statements: &str) {
        let statements = AssertSqlSafe(statements.to_owned());
        let url = self.config().url;
        if let Self::Sqlite(_) = self {
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
        } else {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
        }
    }

    /// How the database would run a statement.
    async fn plan(&self, statement: &str) -> String {
        let url = self.config().url;
        let lines: Vec<String> = if let Self::Sqlite(_) = self {
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            let statement = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let rows = sqlx::raw_sql(statement).fetch_all(&mut connection).await.unwrap();
            rows.iter().map(|row| row.get("detail")).collect()
        } else {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            let statement = AssertSqlSafe(format!("EXPLAIN {statement}"));
            let rows = sqlx::raw_sql(statement).fetch_all(&mut connection).await.unwrap();
            rows.iter().map(|row| row.get(0)).collect()
        };
        lines.join("\n")
    }

    /// Makes a lease as silent as if nobody had renewed it for six seconds.
    async fn silence(&self, lease: LeaseId) {
        let six_seconds_ago = match self {
            Self::Sqlite(_) => "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-6 seconds')",
            Self::Postgres(_) => "clock_timestamp() - interval '6 seconds'",
        };
        self.execute(&format!("UPDATE leases SET heartbeat_at = {six_seconds_ago} WHERE id = {lease}")).await;
    }

    /// A hash of zeros, in the database's SQL.
    fn zero_hash(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "zeroblob(32)",
            Self::Postgres(_) => "decode(repeat('00', 32), 'hex')",
        }
    }
}

macro_rules! tests {
    ($database:ident: $($module:ident::$rule:ident,)+) => {
        mod $database {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread")]
            async fn $rule() {
                $module::$rule(Database::$database()).await;
            })+
        }
    };
}

macro_rules! rules {
    ($($rules:tt)+) => {
        tests!(sqlite: $($rules)+);
        tests!(postgres: $($rules)+);
    };
}

rules! {
    datasets::registering_the_same_manifest_again_is_no_error,
    datasets::another_manifest_under_the_same_version_is_refused,
    datasets::registering_at_once_makes_one_dataset,
    datasets::a_reference_without_a_version_is_the_greatest,
    datasets::a_removed_dataset_may_be_registered_again_as_a_new_one,
    datasets::a_dataset_that_is_written_is_not_removed,
    datasets::what_a_dataset_is_made_of_is_not_removed,
    datasets::a_dataset_is_never_made_of_one_that_goes_meanwhile,
    datasets::providers_are_put_replaced_listed_and_removed,
    datasets::finality_is_kept_for_each_network,
    datasets::a_row_that_does_not_read_is_corrupt,

    revisions::a_revision_keeps_its_tables_in_their_order,
    revisions::malformed_revisions_are_refused,
    revisions::revisions_stay_known_whatever_becomes_of_them,
    revisions::sequence_numbers_can_be_skipped_but_not_given_again,
    revisions::a_dataset_has_one_building_and_one_active_revision,
    revisions::activating_switches_all_tables_at_once,
    revisions::only_a_building_revision_is_activated,
    revisions::retiring_ends_the_leases_and_shows_in_the_next_snapshot,
    revisions::a_snapshot_lists_datasets_with_and_without_revisions,

    scans::a_snapshot_before_a_commit_does_not_see_it,
    scans::a_replaced_segment_is_seen_by_older_snapshots,
    scans::a_scan_that_was_written_down_lists_the_same_later,
    scans::scans_find_what_looking_at_every_segment_finds,
    scans::a_scan_goes_by_the_index,
    scans::totals_count_what_is_seen,
    scans::footers_are_given_for_segments_with_files,
    scans::what_live_segments_were_computed_from_is_told,
    scans::what_was_computed_from_other_revisions_is_found,
    scans::no_segment_is_read_where_none_is_stale,
    scans::a_cursor_is_that_of_the_block_that_ends_a_live_segment,
    scans::a_file_is_found_by_its_id_also_when_replaced,

    commits::a_commit_adds_all_tables_under_one_number,
    commits::a_revision_tells_its_newest_commit,
    commits::an_empty_range_is_a_segment_without_a_file,
    commits::tables_cut_at_different_blocks_are_refused,
    commits::spans_outside_of_the_lease_are_refused,
    commits::malformed_commits_are_refused,
    commits::a_stale_neighbour_below_is_not_linked,
    commits::a_stale_neighbour_above_is_not_linked,
    commits::new_segments_must_link_to_each_other,
    commits::a_replaced_neighbour_need_not_link,
    commits::blocks_that_are_stored_are_not_added_again,
    commits::a_segment_is_replaced_only_once,
    commits::only_segments_within_the_lease_are_replaced,
    commits::segments_are_replaced_in_all_tables_alike,
    commits::segments_may_be_replaced_by_nothing,
    commits::a_lost_lease_cannot_commit,
    commits::an_open_lease_takes_every_block_above_its_start,
    commits::a_refused_commit_leaves_nothing,
    commits::concurrent_commits_count_without_gaps_and_are_read_whole,

    leases::a_claim_grants_what_nobody_holds_and_names_the_holders,
    leases::claims_at_once_never_grant_the_same_block,
    leases::a_silent_lease_is_taken_and_its_late_commit_refused,
    leases::a_silent_lease_that_nobody_took_lives_on,
    leases::a_silent_lease_elsewhere_is_left_alone,
    leases::a_released_lease_is_free_again,
    leases::lease_ids_only_grow,
    leases::claims_on_what_is_not_there_are_refused,
    leases::a_lease_is_widened_where_nobody_is_in_the_way,
    leases::a_live_lease_in_the_way_stops_widening,
    leases::a_silent_lease_in_the_way_is_ended_by_widening,
    leases::whatever_is_done_at_once_fails_nobody,

    objects::a_recorded_object_is_listed_until_a_commit_takes_it_up,
    objects::a_recorded_object_tells_when_its_lease_ended,
    objects::an_upload_is_recorded_with_its_object,
    objects::objects_are_recorded_under_live_leases_only,

    collecting::a_merge_changes_nothing_but_the_cuts,
    collecting::a_merge_gives_way_to_writers_and_to_nobody_else,
    collecting::replaced_segments_are_collected_after_the_grace_period,
    collecting::a_retired_revision_is_collected_whole,
    collecting::ended_leases_are_forgotten_but_for_those_of_objects,

    jobs::the_same_live_request_is_one_job,
    jobs::asked_for_at_once_it_is_still_one_job,
    jobs::a_job_is_cut_into_tasks_and_complete_when_all_are_done,
    jobs::a_head_task_that_plans_again_cuts_only_what_is_not_cut,
    jobs::a_built_revision_is_read_when_its_job_is_complete,
    jobs::no_task_is_claimed_twice,
    jobs::a_silent_workers_tasks_go_to_others,
    jobs::a_silent_worker_whose_tasks_nobody_took_goes_on,
    jobs::a_name_belongs_to_one_living_process,
    jobs::a_job_that_is_asked_to_stop_ends_when_its_workers_have,
    jobs::failures_that_may_pass_are_tried_again_later,
    jobs::only_jobs_that_have_ended_are_deleted,
    jobs::a_dataset_with_a_live_job_is_not_removed,
    jobs::a_workers_region_comes_first_and_starves_nobody,
    jobs::workers_of_one_chain_are_counted,
    jobs::work_is_told,
    jobs::what_locations_hold_is_counted,
    jobs::a_revision_in_use_is_not_retired,

    hints::own_commits_are_told_at_once,
    hints::commits_of_others_are_told_soon,
    hints::receivers_may_come_and_go,
    hints::receivers_end_with_the_store,

    opening::migrating_again_does_nothing,
    opening::migrating_at_once_succeeds_for_everyone,
    opening::opening_at_once_succeeds_for_everyone,
    opening::a_newer_database_is_refused,
    opening::a_migration_that_is_another_one_is_refused,
    opening::an_old_schema_is_refused_unless_it_may_be_migrated,
}

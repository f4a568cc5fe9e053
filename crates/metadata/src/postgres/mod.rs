//! The store in a PostgreSQL database, for any number of machines.
//!
//! Transactions read what is committed and lock rows, always in this order: dataset, revision,
//! lease, commit counter. Times are by the server's clock.

#[path = "../collect.rs"]
#[allow(clippy::duplicate_mod, reason = "each database compiles it with its own words")]
mod collect;
mod commit;
mod connect;
mod datasets;
mod dialect;
#[path = "../jobs.rs"]
#[allow(clippy::duplicate_mod, reason = "each database compiles it with its own words")]
mod jobs;
mod leases;
mod migrations;
mod revisions;
#[path = "../segments.rs"]
#[allow(clippy::duplicate_mod, reason = "each database compiles it with its own words")]
mod segments;
mod watch;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use nozzle_core::{
    BlockId, BlockRange, DatasetRef, Network, ProviderName, RevisionId, SourceCursor, SourceRevisions, Span,
};
use sqlx::{PgPool, Postgres, Transaction};
use tokio::sync::watch::Receiver;

use crate::{
    error::{CommitError, Result},
    fault::Fault,
    hints::Hints,
    model::*,
    store::MetadataStore,
};
#[cfg(test)]
pub(crate) use commit::LIVE as LIVE_SEGMENTS;
pub(crate) use connect::{migrate, open};

/// The server's clock at this moment, not at the transaction's start.
macro_rules! now {
    () => {
        "clock_timestamp()"
    };
}
use now;

/// How every transaction that writes begins. A machine that vanishes or is stopped in the middle of one must
/// not hold the others up for longer than it takes to count as dead.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '30s'; \
                                SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// How long any of the work below may take. A server that is cut off answers nothing, and the system
/// notices that after a quarter of an hour only.
const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T, E: From<sqlx::Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let cut_off = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    tokio::time::timeout(PATIENCE, work).await.map_err(cut_off)?
}

/// The store in a PostgreSQL database.
#[derive(Debug)]
pub(crate) struct PostgresStore {
    name: String,
    pool: PgPool,
    doubt: connect::Doubt,
    source: watch::Source,
    hints: Hints,
}

impl PostgresStore {
    /// Begins a transaction that changes something.
    async fn begin(&self) -> Result<Transaction<'static, Postgres>, Fault> {
        match self.pool.begin_with(BEGIN).await.map_err(Fault::from) {
            Err(fault) if self.has_died(&fault) => Ok(self.pool.begin_with(BEGIN).await?),
            begun => begun,
        }
    }

    /// Whether a connection of the pool was dead when it was used: another one may be better.
    fn has_died(&self, fault: &Fault) -> bool {
        let has_died = fault.is_cut_off();
        if has_died {
            self.doubt.arise();
        }
        has_died
    }

    /// What a call that may have made work has given.
    fn told_of_work<T>(&self, done: Result<T>) -> Result<T> {
        if done.is_ok() {
            self.hints.tell_of_work();
        }
        done
    }
}

/// One statement on a connection, or several that only read.
macro_rules! ask {
    ($store:ident, $connection:ident => $work:expr) => {{
        let once = async || {
            let mut pooled = $store.pool.acquire().await?;
            let $connection = &mut *pooled;
            $work.await
        };
        let ask = async {
            match once().await {
                // Each of these may be done twice: the answer may have been lost after the deed.
                Err(fault) if $store.has_died(&fault) => once().await,
                done => done,
            }
        };
        within(ask).await.map_err(|fault: Fault| fault.of(&$store.name))
    }};
}

/// One transaction that changes something.
macro_rules! write {
    ($store:ident, $transaction:ident => $work:expr) => {{
        let write = async {
            let mut $transaction = $store.begin().await?;
            let done = $work.await?;
            $transaction.commit().await?;
            Ok(done)
        };
        within(write).await.map_err(|fault: Fault| fault.of(&$store.name))
    }};
}

#[async_trait]
impl MetadataStore for PostgresStore {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn is_single_machine(&self) -> bool {
        false
    }

    async fn register_dataset(&self, dataset: &NewDataset) -> Result<Registered> {
        write!(self, tx => datasets::register(&mut tx, dataset))
    }

    async fn dataset(&self, reference: &DatasetRef) -> Result<Option<Dataset>> {
        ask!(self, connection => datasets::by_reference(connection, reference))
    }

    async fn datasets(&self) -> Result<Vec<Dataset>> {
        ask!(self, connection => datasets::all(connection))
    }

    async fn remove_datasets(&self, datasets: &[DatasetId]) -> Result<()> {
        let retired = write!(self, tx => datasets::remove(&mut tx, datasets))?;
        if let Some(sequence) = retired {
            self.hints.tell(sequence);
        }
        Ok(())
    }

    async fn put_provider(&self, provider: &Provider) -> Result<()> {
        write!(self, tx => datasets::put_provider(&mut tx, provider))
    }

    async fn providers(&self) -> Result<Vec<Provider>> {
        ask!(self, connection => datasets::providers(connection))
    }

    async fn remove_provider(&self, name: &ProviderName) -> Result<bool> {
        write!(self, tx => datasets::remove_provider(&mut tx, name))
    }

    async fn create_revision(&self, revision: &NewRevision) -> Result<Revision> {
        write!(self, tx => revisions::create(&mut tx, revision))
    }

    async fn revisions(&self, dataset: DatasetId) -> Result<Vec<Revision>> {
        // Two statements: a transaction makes them one moment.
        let read = async {
            let mut moment = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            revisions::of_dataset(&mut moment, dataset).await
        };
        within(read).await.map_err(|fault: Fault| fault.of(&self.name))
    }

    async fn activate_revision(&self, revision: RevisionId) -> Result<CommitSeq> {
        let sequence = write!(self, tx => revisions::activate(&mut tx, revision))?;
        self.hints.tell(sequence);
        Ok(sequence)
    }

    async fn retire_revision(&self, revision: RevisionId) -> Result<()> {
        let sequence = write!(self, tx => revisions::retire(&mut tx, revision))?;
        self.hints.tell(sequence);
        Ok(())
    }

    async fn retire_unused_revision(&self, revision: RevisionId) -> Result<()> {
        let sequence = write!(self, tx => jobs::retire_unused(&mut tx, revision))?;
        self.hints.tell(sequence);
        Ok(())
    }

    async fn change_schema(&self, location: LocationId, from: &str, to: &str) -> Result<bool> {
        write!(self, tx => revisions::change_schema(&mut tx, location, from, to))
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        ask!(self, connection => revisions::snapshot(connection))
    }

    async fn clock(&self) -> Result<DateTime<Utc>> {
        ask!(self, connection => leases::clock(connection))
    }

    async fn sequence(&self) -> Result<CommitSeq> {
        ask!(self, connection => revisions::sequence(connection))
    }

    async fn skip_sequence(&self, sequence: CommitSeq) -> Result<()> {
        write!(self, tx => revisions::skip_sequence(&mut tx, sequence))
    }

    async fn known_revisions(&self, ids: &[RevisionId]) -> Result<Vec<RevisionId>> {
        ask!(self, connection => revisions::known(connection, ids))
    }

    async fn segments(&self, scan: &Scan) -> Result<Vec<Segment>> {
        ask!(self, connection => segments::list(connection, scan))
    }

    async fn spans(&self, scan: &Scan) -> Result<Vec<Span>> {
        ask!(self, connection => segments::spans(connection, scan))
    }

    async fn totals(&self, scan: &Scan) -> Result<LocationTotals> {
        ask!(self, connection => segments::totals(connection, scan))
    }

    async fn coverage(&self, revisions: &[RevisionId]) -> Result<Vec<Coverage>> {
        ask!(self, connection => segments::coverage(connection, revisions))
    }

    async fn live_files(
        &self,
        locations: &[LocationId],
        after: Option<SegmentId>,
        limit: u32,
    ) -> Result<Vec<(LocationId, Segment)>> {
        ask!(self, connection => segments::live_files(connection, locations, after, limit))
    }

    async fn locations(&self, after: Option<LocationId>, limit: u32) -> Result<Vec<LocationRecord>> {
        ask!(self, connection => segments::locations(connection, after, None, limit))
    }

    async fn location(&self, id: LocationId) -> Result<Option<LocationRecord>> {
        let found = ask!(self, connection => segments::locations(connection, None, Some(id), 1))?;
        Ok(found.into_iter().next())
    }

    async fn footers(&self, segments: &[SegmentId]) -> Result<Vec<(SegmentId, Bytes)>> {
        ask!(self, connection => segments::footers(connection, segments))
    }

    async fn sources(&self, segments: &[SegmentId]) -> Result<Vec<(SegmentId, SourceRevisions)>> {
        ask!(self, connection => segments::sources(connection, segments))
    }

    async fn source_bounds(&self, location: LocationId) -> Result<Option<[SourceRevisions; 2]>> {
        ask!(self, connection => segments::source_bounds(connection, location))
    }

    async fn stale_segments(
        &self,
        location: LocationId,
        sources: &SourceRevisions,
        begins_in: BlockRange,
        limit: u32,
    ) -> Result<Vec<Segment>> {
        ask!(self, connection => segments::stale(connection, location, sources, begins_in, limit))
    }

    async fn confirm_sources(&self, segments: &[SegmentId], sources: &SourceRevisions) -> Result<()> {
        write!(self, tx => segments::confirm_sources(&mut tx, segments, sources))
    }

    async fn cursor(&self, location: LocationId, block: BlockId) -> Result<Option<SourceCursor>> {
        ask!(self, connection => segments::cursor(connection, location, block))
    }

    async fn file(&self, id: SegmentId) -> Result<Option<FileRecord>> {
        ask!(self, connection => segments::file(connection, id))
    }

    fn commits(&self) -> Receiver<CommitSeq> {
        self.hints.subscribe(|told| watch::watch(self.source.clone(), told))
    }

    async fn claim(&self, revision: RevisionId, wanted: &[BlockRange], holder: &str) -> Result<Claim> {
        write!(self, tx => leases::claim(&mut tx, revision, wanted, holder))
    }

    async fn claim_to_merge(
        &self,
        revision: RevisionId,
        range: BlockRange,
        holder: &str,
    ) -> Result<Option<(Lease, CommitSeq)>> {
        write!(self, tx => leases::claim_to_merge(&mut tx, revision, range, holder))
    }

    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<LeaseId>> {
        ask!(self, connection => leases::renew(connection, leases))
    }

    async fn widen(&self, lease: LeaseId, range: BlockRange) -> Result<Result<Lease, Vec<HeldLease>>> {
        write!(self, tx => leases::widen(&mut tx, lease, range))
    }

    async fn release(&self, leases: &[LeaseId]) -> Result<()> {
        write!(self, tx => leases::release(&mut tx, leases))
    }

    async fn leases(&self, revision: RevisionId) -> Result<Vec<HeldLease>> {
        ask!(self, connection => leases::live(connection, revision))
    }

    async fn record_object(&self, lease: LeaseId, location: LocationId, name: &str) -> Result<()> {
        ask!(self, connection => leases::record_object(connection, lease, location, name))
    }

    async fn record_upload(&self, location: LocationId, name: &str, upload: &str) -> Result<()> {
        ask!(self, connection => leases::record_upload(connection, location, name, upload))
    }

    async fn recorded_objects(&self) -> Result<Vec<RecordedObject>> {
        ask!(self, connection => leases::recorded_objects(connection))
    }

    async fn forget_object(&self, location: LocationId, name: &str) -> Result<()> {
        ask!(self, connection => leases::forget_object(connection, location, name))
    }

    async fn commit(&self, commit: &Commit) -> Result<CommitSeq, CommitError> {
        let write = async {
            let mut tx = self.begin().await?;
            let sequence = commit::commit(&mut tx, commit).await?;
            tx.commit().await?;
            Ok(sequence)
        };
        let sequence =
            within(write).await.map_err(|fault: crate::fault::CommitFault| fault.of(&self.name))?;
        self.hints.tell(sequence);
        Ok(sequence)
    }

    async fn collect(&self, grace: Duration, limit: u32) -> Result<u64> {
        write!(self, tx => collect::collect(&mut tx, grace, limit))
    }

    async fn collectable(&self, grace: Duration) -> Result<Collectable> {
        ask!(self, connection => collect::collectable(connection, grace))
    }

    async fn doomed_objects(
        &self,
        after: Option<&(LocationId, String)>,
        limit: u32,
    ) -> Result<Vec<(Location, String)>> {
        ask!(self, connection => collect::doomed(connection, after, limit))
    }

    async fn forget_doomed(&self, location: LocationId, names: &[String]) -> Result<()> {
        write!(self, tx => collect::forget_doomed(&mut tx, location, names))
    }

    async fn named_objects(&self, location: LocationId) -> Result<Vec<String>> {
        ask!(self, connection => collect::named(connection, location))
    }

    async fn forget_leases(&self, grace: Duration, limit: u32) -> Result<u64> {
        write!(self, tx => collect::forget_leases(&mut tx, grace, limit))
    }

    async fn set_finality(&self, network: &Network, finality: &Finality) -> Result<()> {
        ask!(self, connection => datasets::set_finality(connection, network, finality))
    }

    async fn finality(&self, network: &Network) -> Result<Option<Finality>> {
        ask!(self, connection => datasets::finality(connection, network))
    }

    // --- jobs -----------------------------------------------------------------------------------

    async fn schedule(&self, job: &NewJob) -> Result<Scheduled> {
        self.told_of_work(write!(self, tx => jobs::schedule(&mut tx, job)))
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        ask!(self, connection => jobs::list(connection, filter))
    }

    async fn count_jobs(&self) -> Result<Vec<(JobStatus, u64)>> {
        ask!(self, connection => jobs::count(connection))
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        ask!(self, connection => jobs::by_id(connection, id))
    }

    async fn stop_job(&self, id: JobId) -> Result<JobChange> {
        self.told_of_work(write!(self, tx => jobs::stop(&mut tx, id)))
    }

    async fn delete_job(&self, id: JobId) -> Result<JobChange> {
        write!(self, tx => jobs::delete(&mut tx, id))
    }

    async fn delete_jobs(&self, statuses: &[JobStatus]) -> Result<u64> {
        write!(self, tx => jobs::delete_all(&mut tx, statuses))
    }

    async fn settle_jobs(&self) -> Result<()> {
        write!(self, tx => jobs::settle_all(&mut tx))
    }

    async fn register_worker(&self, worker: &NewWorker) -> Result<Registration> {
        write!(self, tx => jobs::register(&mut tx, worker))
    }

    async fn heartbeat(&self, worker: &WorkerHold, may_take_over: bool) -> Result<Option<Pulse>> {
        ask!(self, connection => jobs::heartbeat(connection, worker, may_take_over))
    }

    async fn retire_worker(&self, worker: &WorkerHold) -> Result<()> {
        self.told_of_work(write!(self, tx => jobs::retire(&mut tx, worker)))
    }

    async fn workers(&self) -> Result<Vec<Worker>> {
        ask!(self, connection => jobs::workers(connection))
    }

    async fn claim_tasks(&self, worker: &WorkerHold, limit: u32, may_take_over: bool) -> Result<Vec<Task>> {
        write!(self, tx => jobs::claim(&mut tx, worker, limit, may_take_over))
    }

    async fn plan_job(&self, claim: TaskClaim, plan: &JobPlan) -> Result<bool> {
        self.told_of_work(write!(self, tx => jobs::plan(&mut tx, claim, plan)))
    }

    async fn finish_task(&self, claim: TaskClaim, end: &TaskEnd) -> Result<bool> {
        let finished = self.told_of_work(write!(self, tx => jobs::finish(&mut tx, claim, end)))?;
        if let Some(sequence) = finished.flatten() {
            self.hints.tell(sequence);
        }
        Ok(finished.is_some())
    }

    fn work(&self) -> Receiver<u64> {
        self.hints.subscribe_to_work(|told| watch::watch(self.source.clone(), told))
    }
}

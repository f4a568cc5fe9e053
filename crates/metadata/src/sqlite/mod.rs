//! The store in a SQLite file, for one machine.
//!
//! The file is in WAL mode: readers never wait. Writes go through one connection of this process
//! and begin with `BEGIN IMMEDIATE`, so that they wait for other processes' writes instead of
//! failing later. A commit is on the disk when it is answered (`synchronous = FULL`).

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

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use nozzle_core::{
    BlockId, BlockRange, DatasetRef, Network, ProviderName, RevisionId, SourceCursor, SourceRevisions, Span,
};
use sqlx::{Sqlite, SqlitePool, Transaction};
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
use connect::Reads;
pub(crate) use connect::{migrate, open};

/// SQLite's clock as the migrations write it.
macro_rules! now {
    () => {
        "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    };
}
use now;

/// The store in a SQLite file.
#[derive(Debug)]
pub(crate) struct SqliteStore {
    name: String,
    reads: Arc<Reads>,
    /// `None` where the file or its folder cannot be written to.
    writes: Option<SqlitePool>,
    hints: Hints,
}

impl SqliteStore {
    /// What a call that may have made work has given.
    fn told_of_work<T>(&self, done: Result<T>) -> Result<T> {
        if done.is_ok() {
            self.hints.tell_of_work();
        }
        done
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, Fault> {
        match &self.writes {
            Some(pool) => Ok(pool.begin_with("BEGIN IMMEDIATE").await?),
            None => Err(Fault::ReadOnly),
        }
    }
}

/// One read on a connection.
macro_rules! read {
    ($store:ident, $connection:ident => $work:expr) => {{
        let read = async {
            let mut reader = $store.reads.connection().await?;
            let $connection = &mut *reader;
            $work.await
        };
        read.await.map_err(|fault: Fault| fault.of(&$store.name))
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
        write.await.map_err(|fault: Fault| fault.of(&$store.name))
    }};
}

#[async_trait]
impl MetadataStore for SqliteStore {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn is_single_machine(&self) -> bool {
        true
    }

    async fn register_dataset(&self, dataset: &NewDataset) -> Result<Registered> {
        write!(self, tx => datasets::register(&mut tx, dataset))
    }

    async fn dataset(&self, reference: &DatasetRef) -> Result<Option<Dataset>> {
        read!(self, connection => datasets::by_reference(connection, reference))
    }

    async fn datasets(&self) -> Result<Vec<Dataset>> {
        read!(self, connection => datasets::all(connection))
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
        read!(self, connection => datasets::providers(connection))
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
            let mut reader = self.reads.connection().await?;
            let mut moment = sqlx::Connection::begin(&mut *reader).await?;
            revisions::of_dataset(&mut moment, dataset).await
        };
        read.await.map_err(|fault: Fault| fault.of(&self.name))
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
        read!(self, connection => revisions::snapshot(connection))
    }

    async fn clock(&self) -> Result<DateTime<Utc>> {
        read!(self, connection => leases::clock(connection))
    }

    async fn sequence(&self) -> Result<CommitSeq> {
        read!(self, connection => revisions::sequence(connection))
    }

    async fn skip_sequence(&self, sequence: CommitSeq) -> Result<()> {
        write!(self, tx => revisions::skip_sequence(&mut tx, sequence))
    }

    async fn known_revisions(&self, ids: &[RevisionId]) -> Result<Vec<RevisionId>> {
        read!(self, connection => revisions::known(connection, ids))
    }

    async fn segments(&self, scan: &Scan) -> Result<Vec<Segment>> {
        read!(self, connection => segments::list(connection, scan))
    }

    async fn spans(&self, scan: &Scan) -> Result<Vec<Span>> {
        read!(self, connection => segments::spans(connection, scan))
    }

    async fn totals(&self, scan: &Scan) -> Result<LocationTotals> {
        read!(self, connection => segments::totals(connection, scan))
    }

    async fn coverage(&self, revisions: &[RevisionId]) -> Result<Vec<Coverage>> {
        read!(self, connection => segments::coverage(connection, revisions))
    }

    async fn live_files(
        &self,
        locations: &[LocationId],
        after: Option<SegmentId>,
        limit: u32,
    ) -> Result<Vec<(LocationId, Segment)>> {
        read!(self, connection => segments::live_files(connection, locations, after, limit))
    }

    async fn locations(&self, after: Option<LocationId>, limit: u32) -> Result<Vec<LocationRecord>> {
        read!(self, connection => segments::locations(connection, after, None, limit))
    }

    async fn location(&self, id: LocationId) -> Result<Option<LocationRecord>> {
        let found = read!(self, connection => segments::locations(connection, None, Some(id), 1))?;
        Ok(found.into_iter().next())
    }

    async fn footers(&self, segments: &[SegmentId]) -> Result<Vec<(SegmentId, Bytes)>> {
        read!(self, connection => segments::footers(connection, segments))
    }

    async fn sources(&self, segments: &[SegmentId]) -> Result<Vec<(SegmentId, SourceRevisions)>> {
        read!(self, connection => segments::sources(connection, segments))
    }

    async fn source_bounds(&self, location: LocationId) -> Result<Option<[SourceRevisions; 2]>> {
        read!(self, connection => segments::source_bounds(connection, location))
    }

    async fn stale_segments(
        &self,
        location: LocationId,
        sources: &SourceRevisions,
        begins_in: BlockRange,
        limit: u32,
    ) -> Result<Vec<Segment>> {
        read!(self, connection => segments::stale(connection, location, sources, begins_in, limit))
    }

    async fn confirm_sources(&self, segments: &[SegmentId], sources: &SourceRevisions) -> Result<()> {
        write!(self, tx => segments::confirm_sources(&mut tx, segments, sources))
    }

    async fn cursor(&self, location: LocationId, block: BlockId) -> Result<Option<SourceCursor>> {
        read!(self, connection => segments::cursor(connection, location, block))
    }

    async fn file(&self, id: SegmentId) -> Result<Option<FileRecord>> {
        read!(self, connection => segments::file(connection, id))
    }

    fn commits(&self) -> Receiver<CommitSeq> {
        self.hints.subscribe(|told| watch::watch(self.reads.clone(), told))
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
        write!(self, tx => leases::renew(&mut tx, leases))
    }

    async fn widen(&self, lease: LeaseId, range: BlockRange) -> Result<Result<Lease, Vec<HeldLease>>> {
        write!(self, tx => leases::widen(&mut tx, lease, range))
    }

    async fn release(&self, leases: &[LeaseId]) -> Result<()> {
        write!(self, tx => leases::release(&mut tx, leases))
    }

    async fn leases(&self, revision: RevisionId) -> Result<Vec<HeldLease>> {
        read!(self, connection => leases::live(connection, revision))
    }

    async fn record_object(&self, lease: LeaseId, location: LocationId, name: &str) -> Result<()> {
        write!(self, tx => leases::record_object(&mut tx, lease, location, name))
    }

    async fn record_upload(&self, location: LocationId, name: &str, upload: &str) -> Result<()> {
        write!(self, tx => leases::record_upload(&mut tx, location, name, upload))
    }

    async fn recorded_objects(&self) -> Result<Vec<RecordedObject>> {
        read!(self, connection => leases::recorded_objects(connection))
    }

    async fn forget_object(&self, location: LocationId, name: &str) -> Result<()> {
        write!(self, tx => leases::forget_object(&mut tx, location, name))
    }

    async fn commit(&self, commit: &Commit) -> Result<CommitSeq, CommitError> {
        let write = async {
            let mut tx = self.begin().await?;
            let sequence = commit::commit(&mut tx, commit).await?;
            tx.commit().await?;
            Ok(sequence)
        };
        let sequence = write.await.map_err(|fault: crate::fault::CommitFault| fault.of(&self.name))?;
        self.hints.tell(sequence);
        Ok(sequence)
    }

    async fn collect(&self, grace: Duration, limit: u32) -> Result<u64> {
        write!(self, tx => collect::collect(&mut tx, grace, limit))
    }

    async fn collectable(&self, grace: Duration) -> Result<Collectable> {
        read!(self, connection => collect::collectable(connection, grace))
    }

    async fn doomed_objects(
        &self,
        after: Option<&(LocationId, String)>,
        limit: u32,
    ) -> Result<Vec<(Location, String)>> {
        read!(self, connection => collect::doomed(connection, after, limit))
    }

    async fn forget_doomed(&self, location: LocationId, names: &[String]) -> Result<()> {
        write!(self, tx => collect::forget_doomed(&mut tx, location, names))
    }

    async fn named_objects(&self, location: LocationId) -> Result<Vec<String>> {
        read!(self, connection => collect::named(connection, location))
    }

    async fn forget_leases(&self, grace: Duration, limit: u32) -> Result<u64> {
        write!(self, tx => collect::forget_leases(&mut tx, grace, limit))
    }

    async fn set_finality(&self, network: &Network, finality: &Finality) -> Result<()> {
        write!(self, tx => datasets::set_finality(&mut tx, network, finality))
    }

    async fn finality(&self, network: &Network) -> Result<Option<Finality>> {
        read!(self, connection => datasets::finality(connection, network))
    }

    // --- jobs -----------------------------------------------------------------------------------

    async fn schedule(&self, job: &NewJob) -> Result<Scheduled> {
        self.told_of_work(write!(self, tx => jobs::schedule(&mut tx, job)))
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        read!(self, connection => jobs::list(connection, filter))
    }

    async fn count_jobs(&self) -> Result<Vec<(JobStatus, u64)>> {
        read!(self, connection => jobs::count(connection))
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        read!(self, connection => jobs::by_id(connection, id))
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
        write!(self, tx => jobs::heartbeat(&mut tx, worker, may_take_over))
    }

    async fn retire_worker(&self, worker: &WorkerHold) -> Result<()> {
        self.told_of_work(write!(self, tx => jobs::retire(&mut tx, worker)))
    }

    async fn workers(&self) -> Result<Vec<Worker>> {
        read!(self, connection => jobs::workers(connection))
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
        self.hints.subscribe_to_work(|told| watch::watch(self.reads.clone(), told))
    }
}

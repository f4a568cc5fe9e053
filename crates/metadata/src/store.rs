//! The contract of the metadata store.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use nozzle_core::{
    BlockId, BlockRange, DatasetRef, Network, ProviderName, RevisionId, SourceCursor, SourceRevisions, Span,
};
use tokio::sync::watch;

use crate::{
    error::{CommitError, Result},
    model::*,
};

/// All that is remembered. Each method is one transaction; where it changes something, either all
/// of it has happened when it returns `Ok`, or nothing.
///
/// Ranges, hashes and names that come out were checked when they went in; a row that does not
/// pass is [`crate::MetadataError::Corrupt`].
#[async_trait]
pub trait MetadataStore: Send + Sync + std::fmt::Debug {
    /// The database in words for a person, without secrets.
    fn describe(&self) -> String;

    /// Whether the database serves one machine only (SQLite).
    fn is_single_machine(&self) -> bool;

    /// The time by the database's clock, which all leases go by.
    async fn clock(&self) -> Result<DateTime<Utc>>;

    // --- datasets -------------------------------------------------------------------------------

    /// Registers a dataset. The same manifest again is no error; another manifest under the same
    /// name and version is refused, and so is a derived one that is pinned to a dataset that is not registered.
    async fn register_dataset(&self, dataset: &NewDataset) -> Result<Registered>;

    /// The dataset of that name: the given version, or the greatest.
    async fn dataset(&self, reference: &DatasetRef) -> Result<Option<Dataset>>;

    /// All datasets, by name and version.
    async fn datasets(&self) -> Result<Vec<Dataset>>;

    /// Removes datasets and retires their revisions: all of them, or none. Their names and versions may be
    /// registered again afterwards, as new datasets. Refused while somebody holds a live lease on a revision
    /// of theirs, a job is live, or a dataset that stays is made of one of them.
    async fn remove_datasets(&self, datasets: &[DatasetId]) -> Result<()>;

    // --- providers ------------------------------------------------------------------------------

    /// Adds a provider or replaces the one of that name.
    async fn put_provider(&self, provider: &Provider) -> Result<()>;

    /// All providers, by name.
    async fn providers(&self) -> Result<Vec<Provider>>;

    /// Removes a provider; `false` where there is none of that name.
    async fn remove_provider(&self, name: &ProviderName) -> Result<bool>;

    // --- revisions ------------------------------------------------------------------------------

    /// Makes a revision. A dataset has at most one building and one active revision: a second one
    /// is refused.
    async fn create_revision(&self, revision: &NewRevision) -> Result<Revision>;

    /// The revisions of a dataset, oldest first.
    async fn revisions(&self, dataset: DatasetId) -> Result<Vec<Revision>>;

    /// Which of these revisions there are, of whatever dataset and in whatever state, also those of
    /// datasets that were removed.
    async fn known_revisions(&self, revisions: &[RevisionId]) -> Result<Vec<RevisionId>>;

    /// Makes a building revision the active one, for all its tables at once, and retires the one
    /// that was active. Takes a sequence number: a snapshot before it sees the old one.
    async fn activate_revision(&self, revision: RevisionId) -> Result<CommitSeq>;

    /// Retires a building or active revision.
    async fn retire_revision(&self, revision: RevisionId) -> Result<()>;

    /// As [`Self::retire_revision`], but refused while somebody holds a live lease on it.
    async fn retire_unused_revision(&self, revision: RevisionId) -> Result<()>;

    /// Changes the stored columns of a table from one text to another; `false` where they are not the former
    /// by now.
    async fn change_schema(&self, location: LocationId, from: &str, to: &str) -> Result<bool>;

    // --- reading --------------------------------------------------------------------------------

    /// The present moment.
    async fn snapshot(&self) -> Result<Snapshot>;

    /// The newest commit's sequence number.
    async fn sequence(&self) -> Result<CommitSeq>;

    /// The segments that a scan sees, by ascending block. Costs by what is listed, not by what the
    /// location holds. A moment of which some were collected is [`crate::MetadataError::Expired`].
    async fn segments(&self, scan: &Scan) -> Result<Vec<Segment>>;

    /// The spans of those segments, without their files.
    async fn spans(&self, scan: &Scan) -> Result<Vec<Span>>;

    /// Totals over what a scan sees.
    async fn totals(&self, scan: &Scan) -> Result<LocationTotals>;

    /// What is stored of all tables of the given revisions now, by the locations' ids.
    async fn coverage(&self, revisions: &[RevisionId]) -> Result<Vec<Coverage>>;

    /// The live files of the given locations, by their ids: those above `after`, `limit` at most.
    async fn live_files(
        &self,
        locations: &[LocationId],
        after: Option<SegmentId>,
        limit: u32,
    ) -> Result<Vec<(LocationId, Segment)>>;

    /// The tables of all revisions, by their ids: those above `after`, `limit` at most.
    async fn locations(&self, after: Option<LocationId>, limit: u32) -> Result<Vec<LocationRecord>>;

    /// One table of a revision.
    async fn location(&self, id: LocationId) -> Result<Option<LocationRecord>>;

    /// The Parquet footers of the given segments, in any order; those without a file are left out.
    async fn footers(&self, segments: &[SegmentId]) -> Result<Vec<(SegmentId, Bytes)>>;

    /// What the given segments were computed from, in any order; those that were not, or that are not live, are
    /// left out.
    async fn sources(&self, segments: &[SegmentId]) -> Result<Vec<(SegmentId, SourceRevisions)>>;

    /// The least and the greatest, as text, of what the live segments of a table were computed from: the same twice
    /// where all are of the same. `None` where none is computed. Costs the same however many there are.
    async fn source_bounds(&self, location: LocationId) -> Result<Option<[SourceRevisions; 2]>>;

    /// The live segments of a table that begin in a range and were computed from other revisions than these, by
    /// ascending block, `limit` at most. Costs by how many segments of the table are of others, wherever they begin.
    async fn stale_segments(
        &self,
        location: LocationId,
        sources: &SourceRevisions,
        begins_in: BlockRange,
        limit: u32,
    ) -> Result<Vec<Segment>>;

    /// Writes down that segments, as far as they are live, are what their queries give of these revisions.
    async fn confirm_sources(&self, segments: &[SegmentId], sources: &SourceRevisions) -> Result<()>;

    /// Where the source's stream goes on behind `block`, which is the last one of a live segment of the
    /// location; `None` where it is not, or nothing is known.
    async fn cursor(&self, location: LocationId, block: BlockId) -> Result<Option<SourceCursor>>;

    /// One file by its id, live or not yet collected.
    async fn file(&self, id: SegmentId) -> Result<Option<FileRecord>>;

    /// Makes the next commit's sequence number greater than `sequence`: numbers up to it were given by
    /// a database that is no more.
    async fn skip_sequence(&self, sequence: CommitSeq) -> Result<()>;

    /// A channel that changes soon after each commit, also by other processes. Only a hint: it may
    /// miss commits, and the query is the truth.
    fn commits(&self) -> watch::Receiver<CommitSeq>;

    // --- writing --------------------------------------------------------------------------------

    /// Claims what nobody holds of `wanted`. A lease that has been silent for [`LEASE_TIMEOUT`] and
    /// overlaps is ended first. `holder` says who asks, in words for a person.
    async fn claim(&self, revision: RevisionId, wanted: &[BlockRange], holder: &str) -> Result<Claim>;

    /// Claims all of a range for a compaction, unless somebody else holds some of it. The lease gives way:
    /// a writer that claims or widens into its blocks ends it.
    async fn claim_to_merge(
        &self,
        revision: RevisionId,
        range: BlockRange,
        holder: &str,
    ) -> Result<Option<(Lease, CommitSeq)>>;

    /// Renews leases and says which of them still live. One that nobody has taken meanwhile is
    /// alive again, however long it was silent.
    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<LeaseId>>;

    /// Changes the range of a lease, to grow downwards at a fork. `Err(held)` names the live leases
    /// in the way; the lease is then as it was.
    async fn widen(&self, lease: LeaseId, range: BlockRange) -> Result<Result<Lease, Vec<HeldLease>>>;

    /// Ends leases. Ending one that has ended is no error.
    async fn release(&self, leases: &[LeaseId]) -> Result<()>;

    /// The live leases on a revision, but for those that give way.
    async fn leases(&self, revision: RevisionId) -> Result<Vec<HeldLease>>;

    /// Records the name of an object that is about to be uploaded, so that the collector can find
    /// it if no commit follows.
    async fn record_object(&self, lease: LeaseId, location: LocationId, name: &str) -> Result<()>;

    /// Adds to a recorded object the store's id of the upload in parts that was begun for it.
    async fn record_upload(&self, location: LocationId, name: &str, upload: &str) -> Result<()>;

    /// The recorded objects that no commit has taken up.
    async fn recorded_objects(&self) -> Result<Vec<RecordedObject>>;

    /// Forgets a recorded object once it is gone from the store.
    async fn forget_object(&self, location: LocationId, name: &str) -> Result<()>;

    /// Makes written segments visible, in one transaction: checks that the lease lives, that every
    /// added span and every replaced segment lies within it; that all tables are cut at the same blocks; that new segments overlap no live
    /// one and link to their live neighbours; that what is replaced is live; under a lease that gives way
    /// also that the new segments have exactly the blocks of those that they replace. Then adds, marks as
    /// replaced, takes the next sequence number and notifies.
    async fn commit(&self, commit: &Commit) -> Result<CommitSeq, CommitError>;

    // --- collecting -----------------------------------------------------------------------------

    /// Takes out up to `limit` segments that were replaced, or whose revision was retired, longer ago than
    /// `grace` by the database's clock, and says how many there were. The names of their objects are kept
    /// as doomed. A scan at a moment that would have seen one of them is [`crate::MetadataError::Expired`]
    /// from then on.
    async fn collect(&self, grace: Duration, limit: u32) -> Result<u64>;

    /// What [`Self::collect`] would take out now, without a limit.
    async fn collectable(&self, grace: Duration) -> Result<Collectable>;

    /// Objects that nothing names any more and that are to be deleted: those behind `after`, `limit` at most.
    async fn doomed_objects(
        &self,
        after: Option<&(LocationId, String)>,
        limit: u32,
    ) -> Result<Vec<(Location, String)>>;

    /// Forgets doomed objects of a location once they are gone from the store.
    async fn forget_doomed(&self, location: LocationId, names: &[String]) -> Result<()>;

    /// Every name of an object of a location that is written down, for whatever reason.
    async fn named_objects(&self, location: LocationId) -> Result<Vec<String>>;

    /// Forgets up to `limit` leases that ended longer ago than `grace` and that no recorded object needs,
    /// and says how many there were.
    async fn forget_leases(&self, grace: Duration, limit: u32) -> Result<u64>;

    // --- finality -------------------------------------------------------------------------------

    /// Writes down a network's head and newest final block.
    async fn set_finality(&self, network: &Network, finality: &Finality) -> Result<()>;

    /// What was last written down.
    async fn finality(&self, network: &Network) -> Result<Option<Finality>>;

    // --- jobs -----------------------------------------------------------------------------------

    /// Schedules a job, unless the same or another one of the dataset is live.
    async fn schedule(&self, job: &NewJob) -> Result<Scheduled>;

    /// The jobs that are asked for, newest first.
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>>;

    /// How many jobs there are of each status.
    async fn count_jobs(&self) -> Result<Vec<(JobStatus, u64)>>;

    /// One job.
    async fn job(&self, id: JobId) -> Result<Option<Job>>;

    /// Asks a job to stop. One that no live worker is at is stopped at once; one that has ended is a
    /// conflict.
    async fn stop_job(&self, id: JobId) -> Result<JobChange>;

    /// Deletes a job that has ended; one that lives is a conflict.
    async fn delete_job(&self, id: JobId) -> Result<JobChange>;

    /// Deletes all jobs of the given states, which must be terminal ones, and says how many there were.
    async fn delete_jobs(&self, statuses: &[JobStatus]) -> Result<u64>;

    /// Makes stopped ones of the jobs that are to stop and that no live worker is at.
    async fn settle_jobs(&self) -> Result<()>;

    /// Makes a process the worker of a name, unless another process that has it was heard of within
    /// [`WORKER_TIMEOUT`]. The tasks of the process that had the name before are free.
    async fn register_worker(&self, worker: &NewWorker) -> Result<Registration>;

    /// Says that a worker lives, and tells it what it holds and whether there is more to do. `None` where
    /// another process has its name by now: it holds nothing any more.
    ///
    /// `may_take_over` is whether tasks of silent workers count: not so soon after the database was away,
    /// when all of them have been silent.
    async fn heartbeat(&self, worker: &WorkerHold, may_take_over: bool) -> Result<Option<Pulse>>;

    /// Ends a worker. Its tasks are free at once.
    async fn retire_worker(&self, worker: &WorkerHold) -> Result<()>;

    /// All workers that ever were, by name.
    async fn workers(&self) -> Result<Vec<Worker>>;

    /// Claims up to `limit` tasks that nobody alive holds: first those of chains that have a provider in
    /// the worker's region, and those that have waited for a minute. Their jobs are then running.
    async fn claim_tasks(&self, worker: &WorkerHold, limit: u32, may_take_over: bool) -> Result<Vec<Task>>;

    /// Writes down what a head task has found out, and adds the ranges that the job is not cut into yet.
    /// `false` where the claim has been lost, or the job is to stop.
    async fn plan_job(&self, claim: TaskClaim, plan: &JobPlan) -> Result<bool>;

    /// Leaves a task. `false` where the claim has been lost: nothing has changed then.
    async fn finish_task(&self, claim: TaskClaim, end: &TaskEnd) -> Result<bool>;

    /// A channel that changes when there may be work. Only a hint, as [`Self::commits`].
    fn work(&self) -> watch::Receiver<u64>;
}

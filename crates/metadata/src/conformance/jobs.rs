//! Rules of jobs, tasks and workers.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use nozzle_core::{BlockRange, DatasetKind};
use tokio::time::timeout;

use super::{Database, world::*};
use crate::*;

fn request(dataset: DatasetId, descriptor: &str) -> NewJob {
    NewJob { dataset, descriptor: descriptor.into() }
}

fn new_worker(node_id: &str) -> NewWorker {
    NewWorker { node_id: node_id.into(), version: "1".into(), region: None }
}

impl World {
    async fn worker(&self, node_id: &str) -> WorkerHold {
        match self.register_worker(&new_worker(node_id)).await.unwrap() {
            Registration::Granted(hold) => hold,
            held => panic!("{held:?}"),
        }
    }

    async fn scheduled(&self, descriptor: &str) -> JobId {
        match self.schedule(&request(self.dataset, descriptor)).await.unwrap() {
            Scheduled::New(id) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn claim_task(&self, worker: &WorkerHold) -> Task {
        let mut tasks = self.claim_tasks(worker, 1, true).await.unwrap();
        tasks.pop().expect("there is a task to claim")
    }

    async fn status(&self, job: JobId) -> JobStatus {
        self.job(job).await.unwrap().unwrap().status
    }

    async fn pulse(&self, worker: &WorkerHold) -> Pulse {
        self.heartbeat(worker, true).await.unwrap().expect("the worker has its name")
    }

    /// Cuts a job into ranges of ten blocks.
    async fn cut(&self, head: &Task, ranges: u64) {
        let ranges = (0..ranges).map(|n| range(n * 10, n * 10 + 9)).collect();
        let plan = JobPlan { revision: self.revision.id, end_block: Some(99), ranges };
        assert!(self.plan_job(head.claim, &plan).await.unwrap());
        assert!(self.finish_task(head.claim, &TaskEnd::Waiting).await.unwrap());
    }

    /// Makes a worker as silent as if nobody had heard of it for six seconds.
    async fn silence_worker(&self, node_id: &str) {
        self.age("workers", "heartbeat_at", &format!("node_id = '{node_id}'"), 6).await;
    }

    async fn age(&self, table: &str, column: &str, which: &str, seconds: u32) {
        let then = match self.database {
            Database::Sqlite(_) => format!("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{seconds} seconds')"),
            Database::Postgres(_) => format!("clock_timestamp() - interval '{seconds} seconds'"),
        };
        self.database.execute(&format!("UPDATE {table} SET {column} = {then} WHERE {which}")).await;
    }
}

pub(super) async fn the_same_live_request_is_one_job(database: Database) {
    let world = World::new(database).await;
    let job = world.scheduled("a").await;
    assert_eq!(world.schedule(&request(world.dataset, "a")).await.unwrap(), Scheduled::Same(job));
    assert_eq!(world.schedule(&request(world.dataset, "b")).await.unwrap(), Scheduled::Conflict(job));
    assert_refused(world.schedule(&request(DatasetId(999), "a")).await, "no dataset");
    assert_eq!(world.stop_job(job).await.unwrap(), JobChange::Done(JobStatus::Stopped));
    let second = world.scheduled("b").await;
    assert!(second > job);
    let listed = world.jobs(&JobFilter { limit: 9, ..JobFilter::default() }).await.unwrap();
    assert_eq!(listed.iter().map(|job| job.id).collect::<Vec<_>>(), [second, job]);
    let (new, old) = (&listed[0], &listed[1]);
    assert_eq!((new.status, old.status), (JobStatus::Scheduled, JobStatus::Stopped));
    assert_eq!((new.dataset.id, new.descriptor.as_str(), &new.node_id), (world.dataset, "b", &None));
    let filter = JobFilter { statuses: vec![JobStatus::Stopped], limit: 9, ..JobFilter::default() };
    assert_eq!(world.jobs(&filter).await.unwrap().len(), 1);
    let filter = JobFilter { before: Some(second), limit: 9, ..JobFilter::default() };
    assert_eq!(world.jobs(&filter).await.unwrap()[0].id, job);
    let filter = JobFilter { dataset: Some(DatasetId(999)), limit: 9, ..JobFilter::default() };
    assert_eq!(world.jobs(&filter).await.unwrap(), []);
    assert_eq!(world.job(JobId(999)).await.unwrap(), None);
}

pub(super) async fn asked_for_at_once_it_is_still_one_job(database: Database) {
    let world = Arc::new(World::new(database).await);
    let other = world.database.open().await;
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (world, store) = (world.clone(), if n % 2 == 0 { world.store.clone() } else { other.clone() });
        requests.spawn(async move { store.schedule(&request(world.dataset, "a")).await.unwrap() });
    }
    let answers = requests.join_all().await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Scheduled::New(_))).count(), 1);
    assert_eq!(world.jobs(&JobFilter { limit: 9, ..JobFilter::default() }).await.unwrap().len(), 1);
}

pub(super) async fn a_job_is_cut_into_tasks_and_complete_when_all_are_done(database: Database) {
    let world = World::new(database).await;
    let (job, one, two) = (world.scheduled("a").await, world.worker("one").await, world.worker("two").await);
    assert!(world.pulse(&one).await.has_work);
    let head = world.claim_task(&one).await;
    assert_eq!((head.kind, head.attempts, head.job.id), (TaskKind::Head, 0, job));
    assert_eq!((world.status(job).await, head.job.node_id.as_deref()), (JobStatus::Running, Some("one")));
    assert!(!world.pulse(&two).await.has_work);
    world.cut(&head, 3).await;

    let tasks = world.claim_tasks(&two, 2, true).await.unwrap();
    let kinds: Vec<_> = tasks.iter().map(|task| task.kind).collect();
    assert_eq!(kinds, [TaskKind::Range(range(0, 9)), TaskKind::Range(range(10, 19))]);
    let last = world.claim_task(&one).await;
    assert_eq!(last.kind, TaskKind::Range(range(20, 29)));
    for task in &tasks {
        assert!(!world.pulse(&one).await.has_work, "the head task waits for the ranges");
        assert!(world.finish_task(task.claim, &TaskEnd::Done).await.unwrap());
    }
    assert!(world.finish_task(last.claim, &TaskEnd::Done).await.unwrap());
    assert!(!world.finish_task(last.claim, &TaskEnd::Done).await.unwrap(), "it was done before");

    let head = world.claim_task(&two).await;
    assert_eq!((head.kind, head.job.revision), (TaskKind::Head, Some(world.revision.id)));
    assert_eq!((head.job.end_block, head.job.node_id.as_deref()), (Some(99), Some("two")));
    assert!(world.finish_task(head.claim, &TaskEnd::Done).await.unwrap());
    assert_eq!(world.status(job).await, JobStatus::Completed);
    assert_eq!(world.claim_tasks(&one, 9, true).await.unwrap(), []);
}

pub(super) async fn a_head_task_that_plans_again_cuts_only_what_is_not_cut(database: Database) {
    let world = World::new(database).await;
    let worker = world.worker("one").await;
    world.scheduled("a").await;
    let head = world.claim_task(&worker).await;
    world.cut(&head, 2).await;
    let first = world.claim_task(&worker).await;
    assert!(world.finish_task(first.claim, &TaskEnd::Done).await.unwrap());
    // The head task was not asked to wait this time.
    world.database.execute("UPDATE tasks SET is_waiting = FALSE").await;
    let head = world.claim_tasks(&worker, 9, true).await.unwrap().remove(0);
    let plan = JobPlan { revision: world.revision.id, end_block: None, ranges: vec![range(5, 24)] };
    assert!(world.plan_job(head.claim, &plan).await.unwrap());
    let tasks = world.claim_tasks(&worker, 9, true).await.unwrap();
    let kinds: Vec<_> = tasks.iter().map(|task| task.kind).collect();
    assert_eq!(kinds, [TaskKind::Range(range(5, 9)), TaskKind::Range(range(20, 24))]);
}

pub(super) async fn a_built_revision_is_read_when_its_job_is_complete(database: Database) {
    let world = World::new(database).await;
    let building = new_revision(world.dataset, RevisionState::Building);
    world.create_revision(&building).await.unwrap();
    let worker = world.worker("one").await;
    world.scheduled("a").await;
    let mut commits = world.commits();
    let head = world.claim_task(&worker).await;
    let plan = JobPlan { revision: building.id, end_block: Some(9), ranges: vec![] };
    assert!(world.plan_job(head.claim, &plan).await.unwrap());
    assert!(world.finish_task(head.claim, &TaskEnd::Done).await.unwrap());
    let active = world.snapshot().await.unwrap().datasets[0].1.clone().unwrap();
    assert_eq!(active.id, building.id);
    assert_eq!(*commits.borrow_and_update(), world.sequence().await.unwrap());
}

pub(super) async fn no_task_is_claimed_twice(database: Database) {
    let world = Arc::new(World::new(database).await);
    let worker = world.worker("planner").await;
    world.scheduled("a").await;
    world.cut(&world.claim_task(&worker).await, 60).await;
    let other = world.database.open().await;
    let mut claims = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (world, store) = (world.clone(), if n % 2 == 0 { world.store.clone() } else { other.clone() });
        claims.spawn(async move {
            let hold = world.worker(&format!("worker-{n}")).await;
            let mut claimed = vec![];
            // What another transaction is about to take is passed over.
            for _ in 0..200 {
                claimed.extend(store.claim_tasks(&hold, 2, true).await.unwrap());
                if world.pulse(&hold).await.has_work {
                    continue;
                }
                break;
            }
            claimed
        });
    }
    let claimed: Vec<_> = claims.join_all().await.into_iter().flatten().collect();
    let tasks: BTreeSet<_> = claimed.iter().map(|task| task.claim.task).collect();
    assert_eq!((claimed.len(), tasks.len()), (60, 60));
}

pub(super) async fn a_silent_workers_tasks_go_to_others(database: Database) {
    let world = World::new(database).await;
    let (silent, other) = (world.worker("silent").await, world.worker("other").await);
    let job = world.scheduled("a").await;
    let lost = world.claim_task(&silent).await;
    world.silence_worker("silent").await;
    // Whoever has just come back from an outage does not judge by silence.
    assert!(!world.heartbeat(&other, false).await.unwrap().unwrap().has_work);
    assert_eq!(world.claim_tasks(&other, 1, false).await.unwrap(), []);

    let taken = world.claim_task(&other).await;
    assert_eq!((taken.claim.task, taken.kind), (lost.claim.task, TaskKind::Head));
    assert!(taken.claim.fence > lost.claim.fence);
    let plan = JobPlan { revision: world.revision.id, end_block: None, ranges: vec![] };
    assert!(!world.plan_job(lost.claim, &plan).await.unwrap());
    assert!(!world.finish_task(lost.claim, &TaskEnd::Failed { why: "late".into() }).await.unwrap());
    assert_eq!(world.status(job).await, JobStatus::Running);
    // The silent one lives on, without what was taken.
    assert_eq!(world.pulse(&silent).await.held, []);
    assert_eq!(world.pulse(&other).await.held, [(taken.claim, false)]);
}

pub(super) async fn a_silent_worker_whose_tasks_nobody_took_goes_on(database: Database) {
    let world = World::new(database).await;
    let worker = world.worker("one").await;
    world.scheduled("a").await;
    let task = world.claim_task(&worker).await;
    world.silence_worker("one").await;
    assert!(!world.workers().await.unwrap()[0].is_alive);
    assert_eq!(world.pulse(&worker).await.held, [(task.claim, false)]);
    assert!(world.workers().await.unwrap()[0].is_alive);
    assert!(world.finish_task(task.claim, &TaskEnd::Done).await.unwrap());
}

pub(super) async fn a_name_belongs_to_one_living_process(database: Database) {
    let world = World::new(database).await;
    let first = world.worker("one").await;
    world.scheduled("a").await;
    let task = world.claim_task(&first).await;
    let held = world.register_worker(&new_worker("one")).await.unwrap();
    assert!(matches!(held, Registration::Held { silent_for } if silent_for < Duration::from_secs(5)));
    let listed = world.workers().await.unwrap();
    assert_eq!((listed.len(), listed[0].running_tasks, listed[0].is_alive), (1, 1, true));
    assert_eq!((listed[0].version.as_str(), &listed[0].region), ("1", &None));

    world.silence_worker("one").await;
    let second = world.worker("one").await;
    assert!(second.fence > first.fence);
    assert_eq!(world.heartbeat(&first, true).await.unwrap(), None);
    assert_eq!(world.claim_tasks(&first, 9, true).await.unwrap(), []);
    // What the first one had is free at once, also for who does not judge by silence.
    let again = world.claim_tasks(&second, 9, false).await.unwrap();
    assert_eq!(again.iter().map(|task| task.claim.task).collect::<Vec<_>>(), [task.claim.task]);
    world.retire_worker(&second).await.unwrap();
    let third = world.worker("one").await;
    assert_eq!(world.claim_tasks(&third, 9, false).await.unwrap().len(), 1);
}

pub(super) async fn a_job_that_is_asked_to_stop_ends_when_its_workers_have(database: Database) {
    let world = World::new(database).await;
    let (one, two) = (world.worker("one").await, world.worker("two").await);
    let job = world.scheduled("a").await;
    world.cut(&world.claim_task(&one).await, 3).await;
    let (first, second) = (world.claim_task(&one).await, world.claim_task(&two).await);
    assert_eq!(world.stop_job(job).await.unwrap(), JobChange::Done(JobStatus::StopRequested));
    assert_eq!(world.stop_job(job).await.unwrap(), JobChange::Done(JobStatus::StopRequested));
    assert_eq!(world.claim_tasks(&one, 9, true).await.unwrap(), [], "nothing of it is begun any more");
    assert_eq!(world.pulse(&one).await.held, [(first.claim, true)]);
    assert_eq!(world.status(job).await, JobStatus::Stopping);
    assert!(world.finish_task(first.claim, &TaskEnd::Released).await.unwrap());
    assert_eq!(world.status(job).await, JobStatus::Stopping);
    // The other dies before it hears of it.
    world.silence_worker("two").await;
    world.settle_jobs().await.unwrap();
    assert_eq!(world.status(job).await, JobStatus::Stopped);
    assert!(!world.finish_task(second.claim, &TaskEnd::Done).await.unwrap());
    assert_eq!(world.stop_job(job).await.unwrap(), JobChange::Conflict(JobStatus::Stopped));
    assert_eq!(world.stop_job(JobId(999)).await.unwrap(), JobChange::Missing);
}

pub(super) async fn failures_that_may_pass_are_tried_again_later(database: Database) {
    let world = World::new(database).await;
    let worker = world.worker("one").await;
    let job = world.scheduled("a").await;
    let task = world.claim_task(&worker).await;
    let retry = TaskEnd::Retry { why: "the node is away".into(), after: Duration::from_millis(300) };
    assert!(world.finish_task(task.claim, &retry).await.unwrap());
    assert!(!world.pulse(&worker).await.has_work);
    let failed = world.job(job).await.unwrap().unwrap();
    assert_eq!((failed.status, failed.error.as_deref()), (JobStatus::Running, Some("the node is away")));
    tokio::time::sleep(Duration::from_millis(350)).await;
    let task = world.claim_task(&worker).await;
    assert_eq!(task.attempts, 1);

    let end = TaskEnd::Failed { why: "it is another chain".into() };
    assert!(world.finish_task(task.claim, &end).await.unwrap());
    let failed = world.job(job).await.unwrap().unwrap();
    assert_eq!((failed.status, failed.error.as_deref()), (JobStatus::Failed, Some("it is another chain")));
    assert_eq!(world.claim_tasks(&worker, 9, true).await.unwrap(), []);
}

pub(super) async fn only_jobs_that_have_ended_are_deleted(database: Database) {
    let world = World::new(database).await;
    let job = world.scheduled("a").await;
    assert_eq!(world.delete_job(job).await.unwrap(), JobChange::Conflict(JobStatus::Scheduled));
    assert_refused(world.delete_jobs(&[JobStatus::Scheduled]).await, "not deleted");
    assert_eq!(world.delete_jobs(&JobStatus::TERMINAL).await.unwrap(), 0);
    world.stop_job(job).await.unwrap();
    assert_eq!(world.delete_jobs(&[JobStatus::Failed]).await.unwrap(), 0);
    assert_eq!(world.delete_job(job).await.unwrap(), JobChange::Done(JobStatus::Stopped));
    assert_eq!(world.delete_job(job).await.unwrap(), JobChange::Missing);
    let job = world.scheduled("b").await;
    world.stop_job(job).await.unwrap();
    assert_eq!(world.delete_jobs(&[JobStatus::Stopped]).await.unwrap(), 1);
}

pub(super) async fn a_dataset_with_a_live_job_is_not_removed(database: Database) {
    let world = World::new(database).await;
    let job = world.scheduled("a").await;
    assert_refused(world.remove_datasets(&[world.dataset]).await, "stop it first");
    world.stop_job(job).await.unwrap();
    world.remove_datasets(&[world.dataset]).await.unwrap();
    // Its jobs stay to be looked at.
    assert_eq!(world.job(job).await.unwrap().unwrap().dataset.id, world.dataset);
}

pub(super) async fn a_workers_region_comes_first_and_starves_nobody(database: Database) {
    let world = World::new(database).await;
    let near = NewDataset { network: Some("near".parse().unwrap()), ..new_dataset("near", "0.0.0", "{}") };
    let near = world.register_dataset(&near).await.unwrap().id();
    let provider = Provider {
        name: "p".parse().unwrap(),
        kind: DatasetKind::EvmRpc,
        network: "near".parse().unwrap(),
        region: Some("here".into()),
        config: "{}".into(),
        origin: ProviderOrigin::Api,
    };
    world.put_provider(&provider).await.unwrap();
    assert_eq!(world.providers().await.unwrap(), [provider]);
    let far_job = world.scheduled("a").await;
    let Scheduled::New(near_job) = world.schedule(&request(near, "a")).await.unwrap() else { panic!() };
    let worker = NewWorker { region: Some("here".into()), ..new_worker("one") };
    let Registration::Granted(here) = world.register_worker(&worker).await.unwrap() else { panic!() };
    let first = world.claim_task(&here).await;
    assert_eq!(first.job.id, near_job);
    assert!(world.finish_task(first.claim, &TaskEnd::Released).await.unwrap());
    // What has waited for long goes first.
    world.age("tasks", "created_at", &format!("job_id = {far_job}"), 61).await;
    assert_eq!(world.claim_task(&here).await.job.id, far_job);
    assert_eq!(world.claim_task(&here).await.job.id, near_job);
}

pub(super) async fn workers_of_one_chain_are_counted(database: Database) {
    let world = World::new(database).await;
    let (one, two) = (world.worker("one").await, world.worker("two").await);
    world.scheduled("a").await;
    world.cut(&world.claim_task(&one).await, 2).await;
    world.claim_task(&one).await;
    let chain = |workers| vec![(DatasetKind::EvmRpc, "anvil".parse().unwrap(), workers)];
    assert_eq!(world.pulse(&one).await.sharing, chain(1));
    world.claim_task(&two).await;
    assert_eq!(world.pulse(&one).await.sharing, chain(2));
    world.silence_worker("two").await;
    assert_eq!(world.pulse(&one).await.sharing, chain(1));
}

pub(super) async fn work_is_told(database: Database) {
    let world = World::new(database).await;
    let other = world.database.open().await;
    let mut own = world.work();
    let mut theirs = other.work();
    // Whoever begins to listen is told to look, once it listens.
    tokio::time::sleep(Duration::from_millis(300)).await;
    own.borrow_and_update();
    theirs.borrow_and_update();
    world.scheduled("a").await;
    timeout(Duration::from_secs(1), own.changed()).await.expect("told at once").unwrap();
    // SQLite's workers are of the process that schedules.
    if !world.is_single_machine() {
        timeout(Duration::from_secs(1), theirs.changed()).await.expect("told soon").unwrap();
    }
}

pub(super) async fn what_locations_hold_is_counted(database: Database) {
    let world = World::new(database).await;
    let tables = [world.table(0), world.table(1)];
    let empty = world.coverage(&[world.revision.id]).await.unwrap();
    assert_eq!(empty.iter().map(|c| c.location).collect::<Vec<_>>(), tables);
    assert!(empty.iter().all(|c| c.totals == LocationTotals::default() && c.linked_until.is_none()));
    let lease = world.claim_one(range(0, 99)).await;
    world.add(lease.id, &[span(0, 9), span(10, 19)]).await.unwrap();
    world.add(lease.id, &[span(30, 39)]).await.unwrap();
    let replaced = world.at(10).await;
    world.replace(lease.id, &replaced, &[span(10, 14), span(15, 19)]).await.unwrap();
    let sequence = world.sequence().await.unwrap();
    assert_eq!(empty.iter().map(|table| table.changed).max(), Some(CommitSeq(0)));
    for (n, counted) in world.coverage(&[world.revision.id]).await.unwrap().into_iter().enumerate() {
        assert_eq!(counted.totals, world.totals(&world.scan(n, sequence)).await.unwrap());
        assert_eq!(counted.linked_until, Some(19));
        assert_eq!(
            [0, 5, 19, 20].map(|start| counted.linked_from(start)),
            [Some(19), Some(19), Some(19), None]
        );
        assert_eq!(counted.changed, sequence);
    }
    let files = world.live_files(&tables, None, 99).await.unwrap();
    assert_eq!(files.len(), 8);
    assert!(files.is_sorted_by_key(|(_, segment)| segment.id));
    let rest = world.live_files(&tables, Some(files[2].1.id), 3).await.unwrap();
    assert_eq!(rest, files[3..6]);
    assert!(world.live_files(&[tables[1]], None, 99).await.unwrap().iter().all(|(l, _)| *l == tables[1]));

    let records = world.locations(None, 99).await.unwrap();
    assert_eq!(records.iter().map(|record| record.location.id).collect::<Vec<_>>(), tables);
    assert_eq!(world.locations(Some(tables[0]), 1).await.unwrap(), records[1..]);
    let one = world.location(tables[1]).await.unwrap().unwrap();
    assert_eq!(
        (one.dataset.id, one.revision, one.state),
        (world.dataset, world.revision.id, RevisionState::Active)
    );
    assert_eq!(world.location(LocationId(999)).await.unwrap(), None);
}

pub(super) async fn a_revision_in_use_is_not_retired(database: Database) {
    let world = World::new(database).await;
    let lease = world.claim_one(BlockRange::from(0)).await;
    assert_refused(world.retire_unused_revision(world.revision.id).await, "is writing");
    world.release(&[lease.id]).await.unwrap();
    world.retire_unused_revision(world.revision.id).await.unwrap();
    assert_refused(world.retire_unused_revision(world.revision.id).await, "retired");
}

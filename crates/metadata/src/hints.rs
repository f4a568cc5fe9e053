//! The channels that tell of commits and of work.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{runtime::Handle, sync::watch, task::AbortHandle};

use crate::model::CommitSeq;

/// Where hints come from and go to. Commits of this process are told at once; those of others are
/// watched for by a task that runs only while somebody listens, and ends with this value.
#[derive(Debug)]
pub(crate) struct Hints {
    told: Told,
    watcher: Arc<Mutex<Option<AbortHandle>>>,
    runtime: Handle,
}

/// The sending ends.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    commits: Arc<watch::Sender<CommitSeq>>,
    /// Counts how often it was told that there may be work.
    work: Arc<watch::Sender<u64>>,
}

impl Told {
    /// Tells of a commit, unless a later one is known already.
    pub(crate) fn tell(&self, sequence: CommitSeq) {
        self.commits.send_if_modified(|known| {
            let is_news = sequence > *known;
            *known = sequence.max(*known);
            is_news
        });
    }

    /// Tells that there may be work.
    pub(crate) fn tell_of_work(&self) {
        self.work.send_modify(|count| *count += 1);
    }

    fn is_unheard(&self) -> bool {
        self.commits.receiver_count() + self.work.receiver_count() == 0
    }

    /// Waits until nobody listens to one of the two, and perhaps to neither.
    async fn less_heard(&self) {
        tokio::select! {
            () = self.commits.closed(), if self.commits.receiver_count() > 0 => {}
            () = self.work.closed(), if self.work.receiver_count() > 0 => {}
            // Neither has a receiver.
            else => {}
        }
    }
}

impl Hints {
    /// Hints whose watcher runs on the current runtime.
    pub(crate) fn new() -> Self {
        let (commits, _) = watch::channel(CommitSeq(0));
        let (work, _) = watch::channel(0);
        let told = Told { commits: Arc::new(commits), work: Arc::new(work) };
        Self { told, watcher: Arc::default(), runtime: Handle::current() }
    }

    /// Tells of a commit of this process.
    pub(crate) fn tell(&self, sequence: CommitSeq) {
        self.told.tell(sequence);
    }

    /// Tells of work that this process has made.
    pub(crate) fn tell_of_work(&self) {
        self.told.tell_of_work();
    }

    /// A new receiver of commits. `watch` makes the endless watcher, if none runs.
    pub(crate) fn subscribe<W>(&self, watch: impl FnOnce(Told) -> W) -> watch::Receiver<CommitSeq>
    where
        W: Future<Output = ()> + Send + 'static,
    {
        self.listen(|told| told.commits.subscribe(), watch)
    }

    /// A new receiver of work.
    pub(crate) fn subscribe_to_work<W>(&self, watch: impl FnOnce(Told) -> W) -> watch::Receiver<u64>
    where
        W: Future<Output = ()> + Send + 'static,
    {
        self.listen(|told| told.work.subscribe(), watch)
    }

    fn listen<T, W>(
        &self,
        subscribe: impl FnOnce(&Told) -> watch::Receiver<T>,
        watch: impl FnOnce(Told) -> W,
    ) -> watch::Receiver<T>
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = subscribe(&self.told);
        if watcher.is_none() {
            let task = until_unheard(self.told.clone(), self.watcher.clone(), watch(self.told.clone()));
            *watcher = Some(self.runtime.spawn(task).abort_handle());
        }
        receiver
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watcher) = watcher {
            watcher.abort();
        }
    }
}

/// Watches until nobody listens. Whoever subscribes at that moment either is seen here, or finds
/// no watcher and starts one: both look under the lock.
async fn until_unheard(
    told: Told,
    watcher: Arc<Mutex<Option<AbortHandle>>>,
    watching: impl Future<Output = ()>,
) {
    tokio::pin!(watching);
    loop {
        tokio::select! {
            () = told.less_heard() => {}
            () = &mut watching => return,
        }
        let mut running = watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_unheard() {
            *running = None;
            return;
        }
    }
}

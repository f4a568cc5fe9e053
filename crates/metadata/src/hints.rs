//! The channel that tells of commits.

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

/// The sending end.
#[derive(Debug, Clone)]
pub(crate) struct Told(Arc<watch::Sender<CommitSeq>>);

impl Told {
    /// Tells of a commit, unless a later one is known already.
    pub(crate) fn tell(&self, sequence: CommitSeq) {
        self.0.send_if_modified(|known| {
            let is_news = sequence > *known;
            *known = sequence.max(*known);
            is_news
        });
    }
}

impl Hints {
    /// Hints whose watcher runs on the current runtime.
    pub(crate) fn new() -> Self {
        let (sender, _) = watch::channel(CommitSeq(0));
        Self { told: Told(Arc::new(sender)), watcher: Arc::default(), runtime: Handle::current() }
    }

    /// Tells of a commit of this process.
    pub(crate) fn tell(&self, sequence: CommitSeq) {
        self.told.tell(sequence);
    }

    /// A new receiver. `watch` makes the endless watcher, if none runs.
    pub(crate) fn subscribe<W>(&self, watch: impl FnOnce(Told) -> W) -> watch::Receiver<CommitSeq>
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.told.0.subscribe();
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
            () = told.0.closed() => {}
            () = &mut watching => return,
        }
        let mut running = watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0.receiver_count() == 0 {
            *running = None;
            return;
        }
    }
}

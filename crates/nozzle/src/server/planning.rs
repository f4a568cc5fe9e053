//! What is planned and looked at without being run: for the columns of a query, and for lists of what there is.
//!
//! It has turns and a time of its own. So a crowd that asks for columns takes neither the turns of those who ask for
//! rows nor all of their threads.

use std::{sync::Arc, time::Duration};

use nozzle_query::QueryError;
use tokio::{runtime::Handle, sync::Semaphore};

use super::{
    error::ApiError,
    query::{Deadline, defect},
};
use crate::threads;

/// The turns of what is planned, in the order in which it came.
#[derive(Debug)]
pub struct Planning {
    threads: &'static Handle,
    turns: Arc<Semaphore>,
    /// How long one may take, its waiting included.
    time: Option<Duration>,
}

impl Planning {
    /// On half of the threads at most: planning hardly pauses, and keeps its thread until its end.
    pub fn new(threads: &'static Handle, time: Option<Duration>) -> Self {
        let at_a_time = (threads.metrics().num_workers() / 2).max(1);
        Self { threads, turns: Arc::new(Semaphore::new(at_a_time)), time }
    }

    /// Does it when its turn has come. One that is given up leaves the queue, or keeps its turn for as long as it
    /// keeps its thread.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, QueryError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let planning = async {
            // It is never closed.
            let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
            let work = async move {
                let _turn = turn;
                work.await
            };
            threads::spawn(self.threads, work).await
        };
        Ok(Deadline::of(self.time).keep(planning).await?.map_err(defect)??)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{StreamExt, stream};
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::server::error::ErrorCode;

    fn planning(time: Option<Duration>) -> Planning {
        let threads = threads::shared().expect("threads");
        Planning { turns: Arc::new(Semaphore::new(2)), ..Planning::new(threads, time) }
    }

    #[tokio::test]
    async fn so_many_are_planned_at_a_time_and_the_others_in_their_order() {
        let planning = planning(None);
        let (began, mut begun) = mpsc::unbounded_channel();
        let running = Arc::new(AtomicUsize::new(0));
        let (ends, waits): (Vec<_>, Vec<_>) = (0..5).map(|_| oneshot::channel::<()>()).unzip();
        let work = |(number, wait): (usize, oneshot::Receiver<()>)| {
            let (began, running) = (began.clone(), Arc::clone(&running));
            planning.run(async move {
                began.send((number, running.fetch_add(1, Ordering::SeqCst) + 1)).ok();
                wait.await.ok();
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(number)
            })
        };
        let all = stream::iter(waits.into_iter().enumerate()).map(work).buffered(5).collect::<Vec<_>>();
        let told = async {
            let mut told = vec![begun.recv().await, begun.recv().await];
            for end in ends {
                end.send(()).ok();
                if told.len() < 5 {
                    told.push(begun.recv().await);
                }
            }
            told
        };
        let (all, told) = tokio::join!(all, told);
        let (mut order, at_once): (Vec<_>, Vec<_>) = told.into_iter().flatten().unzip();
        order[..2].sort();
        assert_eq!(order, [0, 1, 2, 3, 4]);
        assert!(at_once.iter().all(|count| *count <= 2), "{at_once:?}");
        assert_eq!(all.into_iter().map(Result::ok).collect::<Vec<_>>(), [0, 1, 2, 3, 4].map(Some));
    }

    #[tokio::test]
    async fn waiting_and_planning_have_a_time() {
        let planning = planning(Some(Duration::from_millis(50)));
        for _ in 0..3 {
            let late = planning.run(std::future::pending::<Result<(), _>>()).await;
            assert_eq!(late.expect_err("it never ends").code, ErrorCode::QueryTimeout);
        }
        // What is over has left its turn to others.
        assert!(planning.run(async { Ok(()) }).await.is_ok());
    }
}

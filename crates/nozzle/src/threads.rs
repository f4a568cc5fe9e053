//! The threads that plan and run queries: others than those that answer, watch for signals and keep leases
//! alive. A query may compute for long without a pause, and a statement may be nested deep.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// The stack of a thread. Plans are walked recursively: it is enough for the deepest that
/// `nozzle_query::Session::plan` takes. Only what is used of it takes memory.
const STACK_BYTES: usize = 256 << 20;

/// Threads at the least: one query that does not pause holds up one of them, until it ends.
const MIN_THREADS: usize = 8;

/// Threads for queries.
#[derive(Debug)]
pub struct QueryThreads(Option<Runtime>);

impl QueryThreads {
    /// Starts them.
    pub fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = Builder::new_multi_thread()
            .worker_threads((2 * cores).max(MIN_THREADS))
            .thread_stack_size(STACK_BYTES)
            .thread_name("query")
            .enable_all()
            .build()?;
        Ok(Self(Some(threads)))
    }

    /// Runs something there. Dropping the handle ends it.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        let threads = self.0.as_ref().expect("they are there until this is dropped");
        AbortOnDropHandle::new(threads.spawn(work))
    }
}

impl Drop for QueryThreads {
    fn drop(&mut self) {
        // It may be dropped where waiting is not allowed, and nobody is to wait for a query that is given up.
        if let Some(threads) = self.0.take() {
            threads.shutdown_background();
        }
    }
}

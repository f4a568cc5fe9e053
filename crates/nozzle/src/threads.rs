//! The threads that plan and run queries: others than those that answer, watch for signals and keep leases
//! alive. A query may compute for long without a pause, and a statement may be nested deep.

use std::{io, sync::OnceLock};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// The stack of a thread. Plans are walked recursively: it is enough for the deepest that
/// `nozzle_query::Session::plan` takes. Only what is used of it takes memory.
const STACK_BYTES: usize = 256 << 20;

/// Threads at the least: one query that does not pause holds up one of them, until it ends.
const MIN_THREADS: usize = 8;

/// Never dropped: nobody is to wait for a query that is given up when the process ends.
static SHARED: OnceLock<Runtime> = OnceLock::new();

/// The threads for queries of this process, started where this is the first to need them.
pub fn shared() -> io::Result<&'static Handle> {
    if let Some(threads) = SHARED.get() {
        return Ok(threads.handle());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = Builder::new_multi_thread()
        .worker_threads((2 * cores).max(MIN_THREADS))
        .thread_stack_size(STACK_BYTES)
        .thread_name("query")
        .enable_all()
        .build()?;
    // Another one may have been first by now; this runtime has done nothing yet.
    if let Err(threads) = SHARED.set(threads) {
        threads.shutdown_background();
    }
    Ok(SHARED.get().expect("it was set").handle())
}

/// Runs something on threads. Dropping the handle ends it.
pub fn spawn<T: Send + 'static>(
    threads: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(threads.spawn(work))
}

//! A Substreams endpoint that serves outputs which were recorded or made, with all that goes wrong.
//!
//! ```text
//!  blocks (number, hash, output) ──► SubstreamsServer ──► http://127.0.0.1:PORT
//!                                      extend: new blocks, also on a fork: streams get undo signals
//!                                      fail_next: a stream that breaks off, ends early, fails, repeats
//! ```

mod chain;
pub mod example;
mod messages;
mod service;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use anyhow::Context;
use tokio::{runtime::Runtime, sync::watch};
use tonic::transport::{Server, server::TcpIncoming};

pub use chain::SubstreamsBlock;

/// How the endpoint behaves.
#[derive(Debug, Clone, Default)]
pub struct SubstreamsOptions {
    /// The blocks at the start, ascending.
    pub blocks: Vec<SubstreamsBlock>,
    /// How far below the head blocks are final.
    pub final_depth: u64,
    /// Whether blocks for which the module gave nothing are left out.
    pub omit_empty: bool,
    /// The token that has to be sent.
    pub token: Option<String>,
}

/// What befalls the next stream that is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It breaks off after so many blocks.
    Disconnect(usize),
    /// It ends after so many blocks, as if that were all.
    EndEarly(usize),
    /// The module fails after so many blocks.
    Fail(usize, String),
    /// Each block comes twice.
    Repeat,
    /// It is refused as an invalid request.
    Refuse(String),
    /// It is refused because there are too many.
    Busy,
    /// It goes on behind the block where it should end.
    NoEnd,
    /// Nothing.
    None,
}

/// What somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubstreamsRequest {
    /// The first block; below 0 from the head.
    pub start_block: i64,
    /// Where it goes on.
    pub cursor: Option<String>,
    /// The block behind the last; 0: none.
    pub stop_block: u64,
    /// Whether it is the mode for whole ranges.
    pub production_mode: bool,
    /// The module.
    pub module: String,
    /// The package's modules, a message.
    pub modules: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    chain: Mutex<chain::Chain>,
    changed: watch::Sender<()>,
    faults: Mutex<VecDeque<Fault>>,
    requests: Mutex<Vec<SubstreamsRequest>>,
    final_depth: u64,
    omit_empty: bool,
    token: Option<String>,
    salt: AtomicU64,
}

/// An endpoint, which ends when it is dropped.
#[derive(Debug)]
pub struct SubstreamsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl SubstreamsServer {
    /// Starts an endpoint on a free port, with threads of its own.
    pub fn start(options: SubstreamsOptions) -> anyhow::Result<Self> {
        let mut chain = chain::Chain::default();
        chain.extend(options.blocks);
        let shared = Arc::new(Shared {
            chain: Mutex::new(chain),
            changed: watch::channel(()).0,
            faults: Mutex::default(),
            requests: Mutex::default(),
            final_depth: options.final_depth,
            omit_empty: options.omit_empty,
            token: options.token,
            salt: AtomicU64::new(0),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let bound = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
        bound.set_nonblocking(true)?;
        let address = bound.local_addr()?;
        let streams = service::Streams(shared.clone());
        let listener = {
            let _within = runtime.enter();
            tokio::net::TcpListener::from_std(bound)?
        };
        runtime.spawn(async move {
            let server = Server::builder().add_service(streams);
            server.serve_with_incoming(TcpIncoming::from(listener)).await
        });
        Ok(Self { address, shared, runtime: Some(runtime) })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// New blocks; where there are blocks at their numbers or above, those are undone.
    pub fn extend(&self, blocks: Vec<SubstreamsBlock>) {
        locked(&self.shared.chain).extend(blocks);
        self.shared.changed.send_replace(());
    }

    /// What befalls the streams that are begun next, one after the other.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        locked(&self.shared.faults).extend(faults);
    }

    /// All that was asked for since the last time.
    pub fn requests(&self) -> Vec<SubstreamsRequest> {
        std::mem::take(&mut *locked(&self.shared.requests))
    }
}

impl Drop for SubstreamsServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

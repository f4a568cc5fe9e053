//! The replay node over HTTP.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::header::{CONTENT_TYPE, HeaderName},
    routing::post,
    serve::ListenerExt,
};
use tokio::runtime::Runtime;

use super::{answer::Replay, recording::Recording};

/// Enough: an answer takes microseconds.
const THREADS: usize = 2;

/// How to serve a [`Recording`].
#[derive(Debug, Clone, Default)]
pub struct ReplayOptions {
    /// The port; 0 takes a free one.
    pub port: u16,
    /// How long each HTTP request waits before it is answered: a node that is far away.
    pub delay: Duration,
    /// Another chain id than the recording's.
    pub chain_id: Option<u64>,
}

/// A running replay node with threads of its own; ends when dropped.
///
/// At the start the head is the recording's last block, and so is the finalized one.
#[derive(Debug)]
pub struct ReplayServer {
    replay: Arc<Replay>,
    delay: Delay,
    url: String,
    /// Only absent while it is being dropped.
    runtime: Option<Runtime>,
}

/// How long each request waits for now.
#[derive(Debug, Clone)]
struct Delay {
    nanos: Arc<AtomicU64>,
}

impl Delay {
    fn new(delay: Duration) -> Self {
        let new = Self { nanos: Arc::default() };
        new.set(delay);
        new
    }

    fn set(&self, delay: Duration) {
        self.nanos.store(delay.as_nanos() as u64, Ordering::SeqCst);
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::SeqCst))
    }
}

impl ReplayServer {
    /// Starts to serve; it answers when this returns.
    pub fn start(recording: Recording, options: ReplayOptions) -> anyhow::Result<Self> {
        let replay = Arc::new(Replay::new(recording, options.chain_id));
        let delay = Delay::new(options.delay);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
            .with_context(|| format!("listen on port {}", options.port))?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("replay")
            .enable_all()
            .build()?;
        let app = Router::new()
            .route("/", post(handle))
            .layer(DefaultBodyLimit::disable())
            .with_state((replay.clone(), delay.clone()));
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        // Without it small answers may wait for the client's acknowledgement.
        let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Ok(Self { replay, delay, url, runtime: Some(runtime) })
    }

    /// The node's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on the chain ends at block `number`, within the recording.
    pub fn set_head(&self, number: u64) {
        self.replay.set_head(number);
    }

    /// The number of the head.
    pub fn head(&self) -> u64 {
        self.replay.head()
    }

    /// From now on the blocks up to `number` are safe and final, but never beyond the head;
    /// with `None` no block is, and `null` is answered.
    pub fn set_finalized(&self, number: Option<u64>) {
        self.replay.set_finalized(number);
    }

    /// From now on each request that comes waits so long. A node that is slow until something was seen, and
    /// quick from then on, leaves a test its time without taking it.
    pub fn set_delay(&self, delay: Duration) {
        self.delay.set(delay);
    }

    /// How often each method was called, those in batches included.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.replay.requests()
    }
}

impl Drop for ReplayServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The owner may itself be asynchronous, where waiting for threads is not allowed.
            runtime.shutdown_background();
        }
    }
}

async fn handle(
    State((replay, delay)): State<(Arc<Replay>, Delay)>,
    body: Bytes,
) -> ([(HeaderName, &'static str); 1], Vec<u8>) {
    let delay = delay.get();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    ([(CONTENT_TYPE, "application/json")], replay.answer(&body))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        anvil::{Anvil, AnvilOptions},
        chain::ChainBuilder,
        rpc::{RpcClient, hex_quantity},
    };

    fn serve(recording: Recording, options: ReplayOptions) -> (ReplayServer, RpcClient) {
        let server = ReplayServer::start(recording, options).expect("serve");
        let client = RpcClient::new(server.url()).expect("a client");
        (server, client)
    }

    #[tokio::test]
    async fn a_captured_chain_is_answered_as_the_node_answered_it() {
        let anvil = Anvil::start(AnvilOptions::default()).await.expect("start anvil");
        let mut chain = ChainBuilder::new(&anvil, 1).await.expect("set the stage");
        chain.extend(48).await.expect("extend");
        let recording = Recording::capture(anvil.rpc(), 0..=50).await.expect("capture");
        assert_eq!(recording.chain_id(), 31337);
        let (_server, client) = serve(recording, ReplayOptions::default());
        for number in 0..=50 {
            let number = hex_quantity(number);
            let calls = [
                ("eth_getBlockByNumber", json!([number, true])),
                ("eth_getBlockByNumber", json!([number, false])),
                ("eth_getBlockReceipts", json!([number])),
            ];
            let recorded = anvil.rpc().batch_raw(&calls).await.expect("from anvil");
            let replayed = client.batch_raw(&calls).await.expect("from the replay");
            let text = |answers: &[Box<serde_json::value::RawValue>], i: usize| answers[i].get().to_owned();
            assert_eq!(text(&replayed, 0), text(&recorded, 0));
            assert_eq!(text(&replayed, 2), text(&recorded, 2));
            // Made from the full form; compared as JSON, whose keys may come in another order.
            let light = |i: &str| -> Value { serde_json::from_str(i).expect("JSON") };
            assert_eq!(light(replayed[1].get()), light(recorded[1].get()));
        }
        assert_eq!(client.call("eth_chainId", json!([])).await.expect("chain id"), "0x7a69");
        assert!(Recording::capture(anvil.rpc(), 40..=51).await.is_err());
    }

    #[tokio::test]
    async fn one_connection_carries_hundreds_of_answers_a_second() {
        let recording = Recording::synthetic(200, 2, 2, 1).preload().expect("preload");
        let (server, client) = serve(recording, ReplayOptions::default());
        let start = Instant::now();
        for number in 0..500u64 {
            let answer = client.call("eth_getBlockByNumber", json!([hex_quantity(number % 200), true])).await;
            assert_eq!(answer.expect("a block")["number"], hex_quantity(number % 200));
        }
        // One after the other, both sides on a debug build, and the machine does other things too: but answers
        // that wait for an acknowledgement would take 40 ms each.
        assert!(start.elapsed() < Duration::from_secs(15), "{:?} for 500 blocks", start.elapsed());
        assert_eq!(server.requests()["eth_getBlockByNumber"], 500);
    }

    #[tokio::test]
    async fn a_delay_holds_every_request_back() {
        let options = ReplayOptions { delay: Duration::from_millis(50), ..Default::default() };
        let (server, client) = serve(Recording::synthetic(5, 0, 0, 1), options);
        let start = Instant::now();
        server.set_head(3);
        assert_eq!(client.call("eth_blockNumber", json!([])).await.expect("a number"), "0x3");
        assert!(start.elapsed() >= Duration::from_millis(50));
        server.set_delay(Duration::from_millis(120));
        let start = Instant::now();
        client.call("eth_blockNumber", json!([])).await.expect("a number");
        assert!(start.elapsed() >= Duration::from_millis(120));
    }

    #[tokio::test]
    async fn a_dropped_server_frees_its_port() {
        let (first, client) = serve(Recording::synthetic(5, 0, 0, 1), ReplayOptions::default());
        assert_eq!(client.call("eth_blockNumber", json!([])).await.expect("a number"), "0x4");
        let port = first.url().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
        drop(first);
        // The runtime lets go of its tasks on its own threads, a moment later.
        let deadline = Instant::now() + Duration::from_secs(10);
        let _second = loop {
            let options = ReplayOptions { port, ..Default::default() };
            match ReplayServer::start(Recording::synthetic(2, 0, 0, 1), options) {
                Ok(server) => break server,
                Err(error) => assert!(Instant::now() < deadline, "{error:#}"),
            }
            tokio::task::yield_now().await;
        };
        let client = RpcClient::new(client.url()).expect("a client");
        assert_eq!(client.call("eth_blockNumber", json!([])).await.expect("a number"), "0x1");
    }
}

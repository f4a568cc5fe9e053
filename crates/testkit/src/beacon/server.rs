//! The node itself.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::broadcast};

use super::chain::{BeaconBlock, BeaconChain};

/// What goes wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BeaconFault {
    /// Another status, with the seconds of a `Retry-After` where there are some.
    Status(u16, Option<u64>),
    /// The answer is cut in the middle.
    Truncated,
    /// It is not there.
    NotFound,
    /// There is no answer.
    Silence,
    /// A page of a proxy.
    Page,
    /// The header has another root than its own.
    WrongRoot,
    /// The value at a JSON pointer is another one.
    Changed(&'static str, Value),
}

/// A fault that is to happen.
#[derive(Debug)]
struct Planned {
    /// What the path must contain.
    within: String,
    fault: BeaconFault,
    times: u64,
}

/// A running node with a thread of its own; ends when dropped.
#[derive(Debug)]
pub struct BeaconNode {
    shared: Arc<Shared>,
    url: String,
    /// Only absent while it is being dropped.
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<Serving>,
    events: broadcast::Sender<Bytes>,
}

#[derive(Debug)]
struct Serving {
    chain: BeaconChain,
    planned: VecDeque<Planned>,
    /// Paths with their queries, in the order in which they were asked for.
    asked: Vec<String>,
    has_events: bool,
}

impl BeaconNode {
    /// A node of a chain, on a free port.
    pub fn start(chain: BeaconChain) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on a free port")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("beacon-node")
            .enable_all()
            .build()?;
        let state = Serving { chain, planned: VecDeque::new(), asked: vec![], has_events: true };
        let shared = Arc::new(Shared { state: Mutex::new(state), events: broadcast::channel(64).0 });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        runtime.spawn(async move { axum::serve(listener, app).await });
        Ok(Self { shared, url, runtime: Some(runtime) })
    }

    /// The node's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The node's chain is another one now: longer, or reorganised. Those who listen are told.
    pub fn set_chain(&self, chain: BeaconChain) {
        let head = chain.named("head").map(|head| (head.slot, head.root.clone()));
        self.shared.state().chain = chain;
        if let Some((slot, root)) = head {
            let data = json!({"slot": slot.to_string(), "block": root, "epoch_transition": false});
            // Nobody may be listening.
            self.shared.events.send(format!("event: head\ndata: {data}\n\n").into()).ok();
        }
    }

    /// The chain that the node serves.
    pub fn chain(&self) -> BeaconChain {
        self.shared.state().chain.clone()
    }

    /// The next `times` answers to what contains these words in its path go wrong.
    pub fn fail(&self, within: &str, fault: BeaconFault, times: u64) {
        self.shared.state().planned.push_back(Planned { within: within.to_owned(), fault, times });
    }

    /// From now on nothing goes wrong that was to.
    pub fn heal(&self) {
        self.shared.state().planned.clear();
    }

    /// From now on the node has no stream of events.
    pub fn without_events(&self) {
        self.shared.state().has_events = false;
    }

    /// What was asked so far: paths with their queries, without the first slash.
    pub fn asked(&self) -> Vec<String> {
        self.shared.state().asked.clone()
    }

    /// How many listen to its events.
    pub fn listeners(&self) -> usize {
        self.shared.events.receiver_count()
    }
}

impl Drop for BeaconNode {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The owner may itself be asynchronous, where waiting for threads is not allowed.
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Serving> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Serving {
    fn fault(&mut self, path: &str) -> Option<BeaconFault> {
        let planned =
            self.planned.iter_mut().find(|planned| planned.times > 0 && path.contains(&planned.within))?;
        planned.times -= 1;
        Some(planned.fault.clone())
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let path = uri.path_and_query().map_or("", |path| path.as_str()).trim_start_matches('/').to_owned();
    let (answer, fault, has_events) = {
        let mut state = shared.state();
        state.asked.push(path.clone());
        (plain_answer(&state.chain, &path), state.fault(&path), state.has_events)
    };
    if fault == Some(BeaconFault::Silence) {
        std::future::pending::<()>().await;
    }
    if path.starts_with("eth/v1/events") {
        return if fault.is_none() && has_events {
            events(&shared, &path)
        } else {
            not_found("Route not found")
        };
    }
    spoil(answer, fault)
}

/// The answer to a path; `None` where there is nothing.
fn plain_answer(chain: &BeaconChain, path: &str) -> Option<Value> {
    let of = |id: &str, part: fn(&BeaconBlock) -> &Value| chain.named(id).map(|block| part(block).clone());
    match path {
        "eth/v1/config/spec" => Some(json!({"data": chain.network.spec})),
        "eth/v1/beacon/genesis" => Some(json!({"data": chain.network.genesis})),
        _ => match path.rsplit_once('/')? {
            ("eth/v1/beacon/headers", id) => of(id, |block| &block.header),
            ("eth/v2/beacon/blocks", id) => of(id, |block| &block.block),
            _ => None,
        },
    }
}

fn spoil(answer: Option<Value>, fault: Option<BeaconFault>) -> Response {
    let fault = match fault {
        Some(BeaconFault::Status(status, rest)) => {
            let status = StatusCode::from_u16(status).expect("a status of HTTP");
            let said = json!({"code": status.as_u16(), "message": "not now"}).to_string();
            let mut response = (status, [(header::CONTENT_TYPE, "application/json")], said).into_response();
            if let Some(rest) = rest {
                response.headers_mut().insert(header::RETRY_AFTER, rest.into());
            }
            return response;
        }
        Some(BeaconFault::Page) => {
            return (StatusCode::OK, "<html>We will be back soon</html>").into_response();
        }
        Some(BeaconFault::NotFound) => return not_found("Block not found"),
        fault => fault,
    };
    let Some(mut answer) = answer else { return not_found("Block not found") };
    match &fault {
        Some(BeaconFault::WrongRoot) => {
            replace(&mut answer, "/data/root", format!("0x{}", "ab".repeat(32)).into())
        }
        Some(BeaconFault::Changed(pointer, value)) => replace(&mut answer, pointer, value.clone()),
        _ => {}
    }
    let mut text = answer.to_string();
    if fault == Some(BeaconFault::Truncated) {
        text.truncate(text.len() / 2);
    }
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn replace(answer: &mut Value, pointer: &str, value: Value) {
    if let Some(place) = answer.pointer_mut(pointer) {
        *place = value;
    }
}

fn not_found(message: &str) -> Response {
    let said = json!({"code": 404, "message": message}).to_string();
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "application/json")], said).into_response()
}

/// A stream of events; as some nodes do, it takes each topic by its own parameter only.
fn events(shared: &Shared, path: &str) -> Response {
    if path.contains(',') || path.matches("topics=").count() == 0 {
        return (StatusCode::BAD_REQUEST, "{\"code\":400,\"message\":\"Invalid topic\"}").into_response();
    }
    let receiver = shared.events.subscribe();
    let first = Bytes::from_static(b":\n\n");
    let told = stream::unfold((Some(first), receiver), |(first, mut receiver)| async {
        let bytes = match first {
            Some(first) => first,
            None => receiver.recv().await.ok()?,
        };
        Some((Ok::<_, std::io::Error>(bytes), (None, receiver)))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(told)).into_response()
}

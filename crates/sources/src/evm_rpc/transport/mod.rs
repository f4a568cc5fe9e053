//! The ways to a node. Each takes the text of a request and gives the bytes of its answer.
//!
//! ```text
//!  Client ─► Transport ─┬─► Http    a request a connection, or a stream of HTTP/2
//!                       └─► Socket  one connection, answers found by their ids
//!                             ├─ ws   messages of a WebSocket
//!                             └─ ipc  JSON after JSON on a Unix socket
//! ```

mod http;
mod ipc;
mod socket;
mod ws;

use std::{
    io,
    ops::Range,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use url::{Host, Url};

use super::{EvmRpcConfig, limit::retry_after};
use http::Http;
use socket::Socket;

/// The largest answer that is read.
pub(crate) const MAX_ANSWER_BYTES: usize = 512 << 20;

/// One call, or a batch of them.
#[derive(Debug)]
pub(crate) struct Request {
    /// The JSON that is sent.
    pub body: String,
    /// The ids of its calls.
    pub ids: Range<u64>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Response {
    /// 200 where the transport has no such thing.
    pub status: StatusCode,
    /// All of it.
    pub body: Bytes,
    /// How long to wait before asking again, where it says so.
    pub retry_after: Option<Duration>,
}

/// Why nothing came back, in words that hold no more of the address than its host.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It may work later.
    Unavailable(String),
    /// Asking again does not help.
    Refused(String),
}

/// A way to a node.
pub(crate) enum Transport {
    Http(Box<Http>),
    Socket(Box<Socket>),
}

impl Transport {
    /// The way that the address names; nothing is sent yet. The error says what is wrong.
    pub fn new(config: &EvmRpcConfig) -> Result<Self, String> {
        match config.url.scheme() {
            "http" | "https" => Ok(Self::Http(Box::new(Http::new(config)?))),
            "ws" | "wss" => {
                let node = ws::Node::new(config)?;
                Ok(Self::Socket(Box::new(Socket::new(Box::new(node), address(&config.url), config.timeout))))
            }
            "ipc" | "file" => {
                let node = ipc::Node::new(config)?;
                Ok(Self::Socket(Box::new(Socket::new(Box::new(node), address(&config.url), config.timeout))))
            }
            scheme => Err(format!(
                "the scheme of `url` is `{scheme}`; those that work are http, https, ws, wss and ipc, or a path"
            )),
        }
    }

    /// Sends a request and waits for its answer.
    pub async fn send(&self, request: Request) -> Result<Response, Failure> {
        match self {
            Self::Http(http) => http.send(request.body).await,
            Self::Socket(socket) => socket.send(request).await,
        }
    }

    /// Waits until the node tells of a new head; one that cannot never returns. `subscribe` makes the
    /// call that asks for it.
    pub async fn head_moved(&self, subscribe: impl Fn() -> String + Send + Sync) {
        match self {
            Self::Http(_) => std::future::pending().await,
            Self::Socket(socket) => socket.head_moved(subscribe).await,
        }
    }

    /// Gives up what is connected; the next request connects anew.
    pub async fn redial(&self) {
        match self {
            Self::Http(http) => http.redial(),
            Self::Socket(socket) => socket.redial().await,
        }
    }
}

/// What messages call the node: its host and port, or the path of its socket.
pub(crate) fn address(url: &Url) -> String {
    if is_path(url) {
        return url.path().to_owned();
    }
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether the address is a path of this machine.
pub(crate) fn is_path(url: &Url) -> bool {
    matches!(url.scheme(), "ipc" | "file")
}

/// Whether the node is on this machine.
pub(crate) fn is_near(url: &Url) -> bool {
    is_path(url) || is_loopback(url)
}

fn rest_of(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn auth_headers(config: &EvmRpcConfig) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let (name, value) = match (&config.auth_header, &config.auth_token) {
        (None, None) => return Ok(headers),
        (Some(_), None) => return Err("`auth_header` is set without `auth_token`".into()),
        (None, Some(token)) => (AUTHORIZATION, format!("Bearer {token}")),
        (Some(header), Some(token)) => {
            let name = HeaderName::from_bytes(header.as_bytes());
            // It may hold the token by mistake, so it is not repeated.
            let bad = |_| "`auth_header` must be the name of a header alone, such as X-Api-Key".to_owned();
            (name.map_err(bad)?, token.clone())
        }
    };
    let mut value = HeaderValue::from_str(&value)
        .map_err(|_| "`auth_token` has characters that a header cannot carry".to_owned())?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}

/// What it means that no connection came about.
fn not_connected(address: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => nothing_listens(address),
        _ => format!("no connection to {address} can be made: {error}"),
    }
}

fn nothing_listens(address: &str) -> String {
    format!("nothing listens at {address}; check that the node runs, and its address")
}

fn no_answer(address: &str, timeout: Duration) -> Failure {
    Failure::Unavailable(format!("{address} gave no answer within {timeout:?}"))
}

fn too_large() -> String {
    format!("an answer has more than {} MiB", MAX_ANSWER_BYTES >> 20)
}

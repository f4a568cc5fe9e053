//! The ways to a node. Each takes the text of a request and gives the bytes of its answer.
//!
//! ```text
//!  Client ─► Transport ─┬─► Http    a request a connection, or a stream of HTTP/2
//!                       └─► Socket  one connection, answers found by their ids
//!                             ├─ ws   messages of a WebSocket
//!                             └─ ipc  JSON after JSON on a Unix socket
//! ```

mod ipc;
mod socket;
mod ws;

use std::ops::Range;

use super::EvmRpcConfig;
use crate::{
    http::{Failure, Http, Response},
    secrets::address,
};
use socket::Socket;

/// One call, or a batch of them.
#[derive(Debug)]
pub(crate) struct Request {
    /// The JSON that is sent.
    pub body: String,
    /// The ids of its calls.
    pub ids: Range<u64>,
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
            "http" | "https" => Ok(Self::Http(Box::new(Http::new(&config.http())?))),
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
            Self::Http(http) => http.post_json(request.body).await,
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

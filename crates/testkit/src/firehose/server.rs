//! The endpoint.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{Stream, stream};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::{
    Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Server, server::TcpIncoming},
};

use super::{
    chain::{Chain, Next, Place, Served},
    pb::sf::firehose::v2::{
        InfoRequest, InfoResponse, Request as BlocksRequest, Response as Message, SingleBlockRequest,
        SingleBlockResponse,
        endpoint_info_server::{EndpointInfo, EndpointInfoServer},
        fetch_server::{Fetch, FetchServer},
        single_block_request::Reference,
        stream_server::{Stream as Blocks, StreamServer},
    },
};
use crate::rng::Rng;

/// What an endpoint is like.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The name of the chain; empty: it does not say.
    pub chain_name: String,
    /// What must come as `Authorization: Bearer …`.
    pub token: Option<String>,
    /// What must come as `x-api-key`.
    pub api_key: Option<String>,
    /// Whether blocks are not given one by one.
    pub has_no_fetch: bool,
    /// In a hundred messages, how many are followed by the end of the stream, with or without an error.
    pub disconnects: u64,
    /// In a hundred messages, how many come again, at once or later.
    pub repeats: u64,
    /// What is left to chance depends on it.
    pub seed: u64,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    chain: Mutex<Chain>,
    rng: Mutex<Rng>,
    /// The chain has moved.
    moved: watch::Sender<()>,
    requests: Mutex<Vec<BlocksRequest>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running endpoint; it ends when it is dropped.
#[derive(Debug)]
pub struct FirehoseServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for FirehoseServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FirehoseServer {
    /// Serves the blocks, on a free port.
    pub async fn start(blocks: Vec<Served>, options: Options) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            chain: Mutex::new(Chain::new(blocks, options.seed)),
            rng: Mutex::new(Rng::new(options.seed ^ 0x5eed)),
            options,
            moved: watch::Sender::new(()),
            requests: Mutex::default(),
        });
        let endpoint = || Endpoint(Arc::clone(&shared));
        let gzip = CompressionEncoding::Gzip;
        let server = Server::builder()
            .add_service(StreamServer::new(endpoint()).send_compressed(gzip).accept_compressed(gzip))
            .add_service(FetchServer::new(endpoint()).send_compressed(gzip).accept_compressed(gzip))
            .add_service(EndpointInfoServer::new(endpoint()).send_compressed(gzip).accept_compressed(gzip))
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { server.await.unwrap_or_default() });
        Ok(Self { address, shared, task })
    }

    /// The address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts blocks at the end of the chain; those of the same numbers and above are undone.
    pub fn push(&self, blocks: Vec<Served>) {
        locked(&self.shared.chain).push(blocks);
        self.shared.moved.send_replace(());
    }

    /// Forgets all cursors.
    pub fn forget_cursors(&self) {
        locked(&self.shared.chain).forget_cursors();
    }

    /// The streams that were asked for so far.
    pub fn requests(&self) -> Vec<BlocksRequest> {
        locked(&self.shared.requests).clone()
    }
}

#[derive(Debug, Clone)]
struct Endpoint(Arc<Shared>);

impl Endpoint {
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let has = |header: &str, expected: String| {
            request.metadata().get(header).is_some_and(|value| value.as_bytes() == expected.as_bytes())
        };
        let options = &self.0.options;
        let token =
            options.token.as_ref().is_none_or(|token| has("authorization", format!("Bearer {token}")));
        let key = options.api_key.as_ref().is_none_or(|key| has("x-api-key", key.clone()));
        if token && key { Ok(()) } else { Err(Status::unauthenticated("who are you?")) }
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

#[tonic::async_trait]
impl Blocks for Endpoint {
    type BlocksStream = Messages;

    async fn blocks(&self, request: Request<BlocksRequest>) -> Result<Response<Messages>, Status> {
        self.admit(&request)?;
        let request = request.into_inner();
        locked(&self.0.requests).push(request.clone());
        let place = {
            let chain = locked(&self.0.chain);
            let sent = match request.cursor.as_str() {
                "" => None,
                cursor => {
                    let known = chain.of_cursor(cursor).cloned();
                    Some(known.ok_or_else(|| Status::invalid_argument("invalid cursor"))?)
                }
            };
            let head = chain.head().map_or(0, |head| head.number);
            let start = u64::try_from(request.start_block_num);
            let start = start.unwrap_or_else(|_| head.saturating_sub(request.start_block_num.unsigned_abs()));
            Place::new(start, sent, request.stop_block_num, request.final_blocks_only)
        };
        let sending = Sending {
            shared: Arc::clone(&self.0),
            moved: self.0.moved.subscribe(),
            place,
            again: VecDeque::new(),
            is_cut: false,
        };
        let messages =
            stream::unfold(sending, |mut sending| async { sending.next().await.map(|m| (m, sending)) });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// A stream under way.
struct Sending {
    shared: Arc<Shared>,
    moved: watch::Receiver<()>,
    place: Place,
    /// Messages that come again.
    again: VecDeque<Message>,
    is_cut: bool,
}

impl Sending {
    fn chance(&self, in_a_hundred: u64) -> bool {
        in_a_hundred > 0 && locked(&self.shared.rng).next_u64() % 100 < in_a_hundred
    }

    async fn next(&mut self) -> Option<Result<Message, Status>> {
        if self.is_cut {
            return if self.chance(50) { Some(Err(Status::unavailable("going away"))) } else { None };
        }
        if self.chance(50)
            && let Some(again) = self.again.pop_front()
        {
            return Some(Ok(again));
        }
        loop {
            let step = self.place.step(&mut locked(&self.shared.chain));
            match step {
                Next::Message(message) => {
                    if self.chance(self.shared.options.repeats) && message.step != 2 {
                        self.again.push_back((*message).clone());
                    }
                    self.is_cut = self.chance(self.shared.options.disconnects);
                    return Some(Ok(*message));
                }
                Next::End => return None,
                Next::Wait => self.moved.changed().await.ok()?,
            }
        }
    }
}

#[tonic::async_trait]
impl Fetch for Endpoint {
    async fn block(
        &self,
        request: Request<SingleBlockRequest>,
    ) -> Result<Response<SingleBlockResponse>, Status> {
        self.admit(&request)?;
        if self.0.options.has_no_fetch {
            return Err(Status::unimplemented("no such method"));
        }
        let Some(Reference::BlockNumber(number)) = request.into_inner().reference else {
            return Err(Status::invalid_argument("only numbers"));
        };
        let chain = locked(&self.0.chain);
        let block = chain.at(number.num).ok_or_else(|| Status::not_found("no such block"))?;
        Ok(Response::new(SingleBlockResponse { block: Some(block.any()), metadata: Some(block.metadata()) }))
    }
}

#[tonic::async_trait]
impl EndpointInfo for Endpoint {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        self.admit(&request)?;
        let chain_name = self.0.options.chain_name.clone();
        if chain_name.is_empty() {
            return Err(Status::unimplemented("no such method"));
        }
        Ok(Response::new(InfoResponse { chain_name, ..Default::default() }))
    }
}

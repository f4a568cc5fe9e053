//! The endpoint.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures::{Stream, StreamExt, stream};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::{
    Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use super::{
    chain::{Chain, Next, Place, Served},
    pb::sf::firehose::v2::{
        ForkStep, InfoRequest, InfoResponse, Request as BlocksRequest, Response as Message,
        SingleBlockRequest, SingleBlockResponse,
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
    /// In a hundred messages, how many come later than they should.
    pub late: u64,
    /// In a hundred messages, how many never come.
    pub losses: u64,
    /// In a hundred messages, how many have a block that is cut off.
    pub damages: u64,
    /// Certificate and key, both PEM, of `localhost`; absent: plaintext.
    pub identity: Option<(String, String)>,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// The number of the first block that can be had; streams from below it begin with it.
    pub first_block: u64,
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
    /// What becomes of the chain once a stream goes on from a cursor.
    at_cursor: Mutex<Option<Vec<Served>>>,
    /// What the next streams say in the place of their first messages.
    refusals: Mutex<VecDeque<Status>>,
    /// The block that the next stream first tells to be undone.
    undone_first: Mutex<Option<Served>>,
    /// Blocks that streams were told to be undone.
    undone: Mutex<Vec<u64>>,
    /// Messages that were sent.
    sent: AtomicU64,
    /// Whether nothing is left to chance any more.
    is_calm: AtomicBool,
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
    /// Serves the blocks.
    pub async fn start(blocks: Vec<Served>, options: Options) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            chain: Mutex::new(Chain::new(blocks, options.seed)),
            rng: Mutex::new(Rng::new(options.seed ^ 0x5eed)),
            options,
            moved: watch::Sender::new(()),
            requests: Mutex::default(),
            at_cursor: Mutex::default(),
            refusals: Mutex::default(),
            undone_first: Mutex::default(),
            undone: Mutex::default(),
            sent: AtomicU64::new(0),
            is_calm: AtomicBool::new(false),
        });
        let endpoint = || Endpoint(Arc::clone(&shared));
        let gzip = CompressionEncoding::Gzip;
        let mut server = Server::builder();
        if let Some((certificate, key)) = &shared.options.identity {
            let identity = Identity::from_pem(certificate, key);
            server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
        }
        let server = server
            .add_service(StreamServer::new(endpoint()).send_compressed(gzip).accept_compressed(gzip))
            .add_service(FetchServer::new(endpoint()).send_compressed(gzip).accept_compressed(gzip))
            .add_service(EndpointInfoServer::new(endpoint()).send_compressed(gzip).accept_compressed(gzip))
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { server.await.unwrap_or_default() });
        Ok(Self { address, shared, task })
    }

    /// The address.
    pub fn url(&self) -> String {
        match self.shared.options.identity {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    /// Puts blocks at the end of the chain; those of the same numbers and above are undone.
    pub fn push(&self, blocks: Vec<Served>) {
        locked(&self.shared.chain).push(blocks);
        self.shared.moved.send_replace(());
    }

    /// As [`Self::push`], as soon as somebody goes on from a cursor.
    pub fn push_at_cursor(&self, blocks: Vec<Served>) {
        *locked(&self.shared.at_cursor) = Some(blocks);
    }

    /// The next streams are taken, and say these in the place of their first messages, one each.
    pub fn refuse(&self, refusals: impl IntoIterator<Item = Status>) {
        locked(&self.shared.refusals).extend(refusals);
    }

    /// The next stream first tells that a block is undone.
    pub fn undo_first(&self, block: Served) {
        *locked(&self.shared.undone_first) = Some(block);
    }

    /// The numbers of the blocks that streams were told to be undone so far.
    pub fn undone(&self) -> Vec<u64> {
        locked(&self.shared.undone).clone()
    }

    /// How many messages were sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// From now on all that is sent is as it should be.
    pub fn calm(&self) {
        self.shared.is_calm.store(true, Ordering::Relaxed);
    }

    /// The number of the block behind which a cursor goes on.
    pub fn place_of(&self, cursor: &str) -> Option<u64> {
        locked(&self.shared.chain).of_cursor(cursor)?.last().map(|block| block.number)
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
        if let Some(refusal) = locked(&self.0.refusals).pop_front() {
            return Ok(Response::new(Box::pin(stream::iter([Err(refusal)]))));
        }
        let place = {
            let mut chain = locked(&self.0.chain);
            let sent = match request.cursor.as_str() {
                "" => vec![],
                cursor => {
                    let known = chain.of_cursor(cursor).map(<[Served]>::to_vec);
                    let known = known.ok_or_else(|| Status::invalid_argument("invalid cursor"))?;
                    if let Some(blocks) = locked(&self.0.at_cursor).take() {
                        chain.push(blocks);
                        self.0.moved.send_replace(());
                    }
                    known
                }
            };
            let head = chain.head().map_or(0, |head| head.number);
            let start = u64::try_from(request.start_block_num);
            let start = start.unwrap_or_else(|_| head.saturating_sub(request.start_block_num.unsigned_abs()));
            let start = start.max(self.0.options.first_block);
            Place::new(start, sent, request.stop_block_num, request.final_blocks_only)
        };
        let sending = Sending {
            shared: Arc::clone(&self.0),
            moved: self.0.moved.subscribe(),
            place,
            held: VecDeque::new(),
            is_cut: false,
        };
        let undone = locked(&self.0.undone_first).take();
        let undone = undone.map(|block| Ok(locked(&self.0.chain).message(&block, ForkStep::StepUndo)));
        let messages =
            stream::unfold(sending, |mut sending| async { sending.next().await.map(|m| (m, sending)) });
        Ok(Response::new(Box::pin(stream::iter(undone).chain(messages))))
    }
}

/// A stream under way.
struct Sending {
    shared: Arc<Shared>,
    moved: watch::Receiver<()>,
    place: Place,
    /// Messages that come again, or later.
    held: VecDeque<Message>,
    is_cut: bool,
}

impl Sending {
    fn chance(&self, in_a_hundred: u64) -> bool {
        let is_calm = self.shared.is_calm.load(Ordering::Relaxed);
        in_a_hundred > 0 && !is_calm && locked(&self.shared.rng).next_u64() % 100 < in_a_hundred
    }

    async fn next(&mut self) -> Option<Result<Message, Status>> {
        if self.is_cut {
            return if self.chance(50) { Some(Err(Status::unavailable("going away"))) } else { None };
        }
        let message = self.message().await?;
        self.is_cut = self.chance(self.shared.options.disconnects);
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
        Some(Ok(message))
    }

    async fn message(&mut self) -> Option<Message> {
        if self.chance(50)
            && let Some(held) = self.held.pop_front()
        {
            return Some(held);
        }
        loop {
            let step = self.place.step(&mut locked(&self.shared.chain));
            // What is late comes before the end, and before nothing comes.
            match (step, self.held.pop_front()) {
                (Next::Message(message), held) => {
                    self.held.extend(held);
                    if let Some(message) = self.by_chance(*message) {
                        return Some(message);
                    }
                }
                (_, Some(held)) => return Some(held),
                (Next::End, None) => return None,
                (Next::Wait, None) => self.moved.changed().await.ok()?,
            }
        }
    }

    /// What becomes of a message; `None` where it does not come, or later.
    fn by_chance(&mut self, mut message: Message) -> Option<Message> {
        let options = self.shared.options.clone();
        if message.step == i32::from(ForkStep::StepUndo) {
            locked(&self.shared.undone).extend(message.metadata.as_ref().map(|block| block.num));
        }
        if self.chance(options.losses) {
            return None;
        }
        if self.chance(options.repeats) {
            self.held.push_back(message.clone());
        }
        if self.chance(options.late) {
            self.held.push_back(message);
            return None;
        }
        if let Some(block) = message.block.as_mut().filter(|_| self.chance(options.damages)) {
            block.value.pop();
        }
        Some(message)
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
        let first_streamable_block_num = self.0.options.first_block;
        Ok(Response::new(InfoResponse { chain_name, first_streamable_block_num, ..Default::default() }))
    }
}

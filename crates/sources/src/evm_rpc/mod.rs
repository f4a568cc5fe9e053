//! An EVM chain over the JSON-RPC of an execution client.
//!
//! ```text
//!  numbers ─► fetch (a task a block or batch: blocks, then receipts by hash) ─► ready blocks, in order
//!                                                                              │
//!  BlockRows ◄─ links checked ◄─ decode (groups, on threads of their own) ◄────┘
//! ```

mod batch;
mod calls;
mod client;
mod fetch;
mod receipts;
mod transport;

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use nozzle_core::{BlockId, BlockNum, BlockRange, CallOutcome, ContractCall, TableDef, manifest::Verify};
use url::Url;

use crate::{
    error::SourceError,
    evm::{Decoder, RawBlock},
    http::HttpConfig,
    limit::{LimitOptions, Throttle, Turn},
    ordered::{self, Blocks},
    secrets::is_near,
    source::{BlockRows, BlockSource, Chain, Decoded, Head, Place},
};
use client::Client;
use fetch::Fetch;
use receipts::ReceiptsFrom;

#[cfg(test)]
mod tests;

/// How to reach a node.
#[derive(Clone)]
pub struct EvmRpcConfig {
    /// The provider's name, for messages.
    pub provider: String,
    /// The address: http, https, ws, wss, or ipc and the path of a socket. What it holds beyond a host is
    /// taken for a secret.
    pub url: Url,
    /// The most requests at a time, over all streams; at least one. A node of another machine gets as
    /// many as it keeps up with.
    pub concurrent_request_limit: usize,
    /// The most calls in a minute, those of a batch counted each; 0: no limit.
    pub rate_limit_per_minute: u32,
    /// Keeps to the limits together with other sources; absent: by itself.
    pub throttle: Option<Throttle>,
    /// How long a request is asked again that does nothing but push back.
    pub pushback_patience: Duration,
    /// The most calls of a request; none or one: no batches.
    pub batch_size: usize,
    /// Ask for the receipts of each transaction by itself, also where the node gives those of a block.
    pub receipts_per_tx: bool,
    /// How long one request may take.
    pub timeout: Duration,
    /// A secret that is sent with every request.
    pub auth_token: Option<String>,
    /// The header that carries the token as it is; absent: `Authorization: Bearer <token>`.
    pub auth_header: Option<String>,
}

impl EvmRpcConfig {
    /// The defaults: 64 requests at a time, 30 seconds each, no batches, no token,
    /// 60 seconds of patience.
    pub fn new(provider: &str, url: Url) -> Self {
        Self {
            provider: provider.to_owned(),
            url,
            concurrent_request_limit: 64,
            rate_limit_per_minute: 0,
            throttle: None,
            pushback_patience: Duration::from_secs(60),
            batch_size: 0,
            receipts_per_tx: false,
            timeout: Duration::from_secs(30),
            auth_token: None,
            auth_header: None,
        }
    }

    /// The limits that it names.
    pub fn limits(&self) -> LimitOptions {
        LimitOptions {
            requests: self.request_limit(),
            is_near: is_near(&self.url),
            calls_per_minute: self.rate_limit_per_minute,
            patience: self.pushback_patience,
        }
    }

    fn request_limit(&self) -> usize {
        self.concurrent_request_limit.clamp(1, tokio::sync::Semaphore::MAX_PERMITS)
    }

    fn http(&self) -> HttpConfig<'_> {
        HttpConfig {
            url: &self.url,
            timeout: self.timeout,
            auth_token: self.auth_token.as_deref(),
            auth_header: self.auth_header.as_deref(),
        }
    }
}

/// An address as a provider has it: a URL, or the absolute path of a socket of this machine. `None`
/// where it is neither.
pub fn parse_url(text: &str) -> Option<Url> {
    if text.starts_with('/') { Url::from_file_path(text).ok() } else { Url::parse(text).ok() }
}

impl std::fmt::Debug for EvmRpcConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EvmRpcConfig")
            .field("provider", &self.provider)
            .field("host", &self.url.host_str())
            .field("concurrent_request_limit", &self.concurrent_request_limit)
            .field("batch_size", &self.batch_size)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A node's JSON-RPC as a source of blocks.
#[derive(Debug)]
pub struct EvmRpc {
    node: ordered::Source<Node>,
}

/// What is asked, and what makes rows of its answers.
#[derive(Debug)]
struct Node {
    fetch: Fetch,
    decoder: Decoder,
}

#[async_trait]
impl Blocks for Node {
    type Raw = RawBlock;

    fn provider(&self) -> &str {
        self.fetch.provider()
    }

    fn tables(&self) -> &[TableDef] {
        self.decoder.tables()
    }

    fn request_limit(&self) -> usize {
        self.fetch.request_limit
    }

    fn batch_size(&self) -> usize {
        self.fetch.batch_size()
    }

    async fn turn(&self) -> Turn {
        self.fetch.turn().await
    }

    async fn fetch(&self, numbers: &[BlockNum]) -> Vec<Result<RawBlock, SourceError>> {
        self.fetch.raw_blocks(numbers).await
    }

    fn size_bytes(raw: &RawBlock) -> u64 {
        raw.size_bytes()
    }

    fn decode(&self, blocks: &[RawBlock]) -> Decoded {
        self.decoder.decode(blocks)
    }
}

impl EvmRpc {
    /// A source for the given tables: those of [`crate::evm::tables()`], or fewer, with all or
    /// fewer of their columns. Nothing is sent yet. What can be refused without asking the node
    /// is: a scheme, a token that cannot be sent, a level of checks that is not there.
    ///
    /// The process must have installed a default rustls provider.
    pub fn connect(config: EvmRpcConfig, tables: Vec<TableDef>, verify: Verify) -> Result<Self, SourceError> {
        let decoder = Decoder::new(&config.provider, tables, verify)?;
        let limit = config.request_limit();
        let from = if config.receipts_per_tx { ReceiptsFrom::Transactions } else { ReceiptsFrom::Hash };
        let client = Client::new(config)?;
        let fetch = Fetch::new(client, limit, decoder.needs_receipts().then_some(from), verify);
        Ok(Self { node: ordered::Source::new(Node { fetch, decoder }) })
    }

    /// The chain's id, as the node says.
    pub async fn chain_id(&self) -> Result<u64, SourceError> {
        self.node.fetch.chain_id().await
    }

    /// Calls contracts, side by side and in batches as the provider's limits allow. For each call, in order, what
    /// has come of it; what the node could not tell, such as on a state that it does not have, is an error.
    pub async fn contract_calls(&self, calls: &[ContractCall]) -> Vec<Result<CallOutcome, SourceError>> {
        let _turn = self.node.fetch.turn().await;
        self.node.fetch.contract_calls(calls).await
    }
}

#[async_trait]
impl BlockSource for EvmRpc {
    fn provider(&self) -> &str {
        self.node.fetch.provider()
    }

    fn tables(&self) -> &[TableDef] {
        self.node.decoder.tables()
    }

    async fn chain(&self) -> Result<Option<Chain>, SourceError> {
        Ok(Some(Chain::Id(self.chain_id().await?)))
    }

    async fn head(&self) -> Result<Head, SourceError> {
        self.node.fetch.head().await
    }

    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        self.node.fetch.block_id(number).await
    }

    /// Over a WebSocket or IPC the node tells of new heads; over HTTP it cannot.
    async fn head_moved(&self) {
        self.node.fetch.head_moved().await;
    }

    fn blocks_behind(
        &self,
        range: BlockRange,
        _behind: Option<Place>,
    ) -> BoxStream<'static, Result<BlockRows, SourceError>> {
        self.node.blocks(range)
    }
}

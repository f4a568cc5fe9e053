//! A beacon chain, Ethereum's consensus layer, over the Beacon API of its nodes
//! (<https://ethereum.github.io/beacon-APIs/>).
//!
//! ```text
//!  slots ─► fetch (a task a slot: header, then block) ─► ready slots, in order ─► decode ─► BlockRows
//!                                                                                │
//!                      header: root of the header ◄── verify ── full: root of the body (ssz, forks)
//! ```
//!
//! A block number is a slot, and a hash is a block root. A slot without a block is no row, and counts
//! as skipped only where a later block shows that it is: see [`crate::source::BlockSource`].

mod chain;
mod client;
mod events;
mod fetch;
mod forks;
mod json;
mod lists;
mod newer;
mod rows;
mod ssz;
mod stored;
mod tables;
mod values;
mod verify;

use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use nozzle_core::{BlockHash, BlockId, BlockNum, BlockRange, TableDef, block::BlockLink, manifest::Verify};
use url::Url;

use crate::{
    error::SourceError,
    http::HttpConfig,
    limit::{LimitOptions, Throttle, Turn},
    ordered::{self, Blocks},
    secrets::is_near,
    source::{BlockRows, BlockSource, Chain, Decoded, Head, Place},
};
use client::Client;
use fetch::{Fetch, RawSlot};
use rows::Decoder;
pub use stored::{RowCheck, Unchecked};
pub use tables::tables;

#[cfg(test)]
mod tests;

/// How to reach a node.
#[derive(Clone)]
pub struct BeaconConfig {
    /// The provider's name, for messages.
    pub provider: String,
    /// The address, http or https, below which the API lies: without `/eth/v1`. What it holds beyond a
    /// host is taken for a secret.
    pub url: Url,
    /// The most requests at a time, over all streams; at least one. A node of another machine gets as
    /// many as it keeps up with.
    pub concurrent_request_limit: usize,
    /// The most requests in a minute; 0: no limit. A block takes two, a skipped slot one or two.
    pub rate_limit_per_minute: u32,
    /// Keeps to the limits together with other sources; absent: by itself.
    pub throttle: Option<Throttle>,
    /// How long a request is asked again that does nothing but push back.
    pub pushback_patience: Duration,
    /// How long one request may take.
    pub timeout: Duration,
    /// A secret that is sent with every request, as `Authorization: Bearer <token>`.
    pub auth_token: Option<String>,
}

impl BeaconConfig {
    /// The defaults: 64 requests at a time, 30 seconds each, no token, 60 seconds of patience.
    pub fn new(provider: &str, url: Url) -> Self {
        Self {
            provider: provider.to_owned(),
            url,
            concurrent_request_limit: 64,
            rate_limit_per_minute: 0,
            throttle: None,
            pushback_patience: Duration::from_secs(60),
            timeout: Duration::from_secs(30),
            auth_token: None,
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
            auth_header: None,
        }
    }
}

impl std::fmt::Debug for BeaconConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BeaconConfig")
            .field("provider", &self.provider)
            .field("host", &self.url.host_str())
            .field("concurrent_request_limit", &self.concurrent_request_limit)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A node's Beacon API as a source of blocks.
#[derive(Debug)]
pub struct Beacon {
    node: ordered::Source<Node>,
}

/// What is asked, and what makes rows of its answers.
#[derive(Debug)]
struct Node {
    fetch: Fetch,
    decoder: Decoder,
}

impl Beacon {
    /// A source for the given tables: those of [`tables()`], or fewer, with all or fewer of their
    /// columns. Nothing is sent yet. What can be refused without asking the node is: a scheme, a token
    /// that cannot be sent, a level of checks that is not there.
    ///
    /// The process must have installed a default rustls provider.
    pub fn connect(config: BeaconConfig, tables: Vec<TableDef>, verify: Verify) -> Result<Self, SourceError> {
        let decoder = Decoder::new(&config.provider, tables, verify)?;
        let fetch = Fetch::new(Client::new(&config)?, config.request_limit(), verify);
        Ok(Self { node: ordered::Source::new(Node { fetch, decoder }) })
    }

    /// The id of the execution layer's chain, as the node says: `DEPOSIT_CHAIN_ID`, or
    /// `DEPOSIT_NETWORK_ID` where it has no such.
    pub async fn chain_id(&self) -> Result<u64, SourceError> {
        self.node.fetch.chain_id().await
    }
}

#[async_trait]
impl BlockSource for Beacon {
    fn provider(&self) -> &str {
        self.node.fetch.provider()
    }

    fn tables(&self) -> &[TableDef] {
        self.node.decoder.tables()
    }

    async fn chain(&self) -> Result<Option<Chain>, SourceError> {
        self.chain_id().await.map(|id| Some(Chain::Id(id)))
    }

    async fn head(&self) -> Result<Head, SourceError> {
        self.node.fetch.head().await
    }

    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        self.node.fetch.block_id(number).await
    }

    /// The node tells of new heads by its events, where it has them.
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

#[async_trait]
impl Blocks for Node {
    type Raw = RawSlot;

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
        1
    }

    async fn turn(&self) -> Turn {
        self.fetch.turn().await
    }

    async fn fetch(&self, numbers: &[BlockNum]) -> Vec<Result<RawSlot, SourceError>> {
        stream::iter(numbers).then(|slot| self.fetch.raw_slot(*slot)).collect().await
    }

    fn size_bytes(raw: &RawSlot) -> u64 {
        raw.size_bytes()
    }

    fn decode(&self, slots: &[RawSlot]) -> Decoded {
        self.decoder.decode(slots)
    }

    async fn before_skipped(
        &self,
        skipped: BlockRange,
        next: Option<&BlockLink>,
    ) -> Result<BlockHash, SourceError> {
        self.fetch.before_skipped(skipped, next).await
    }

    async fn lost_before(
        &self,
        block: BlockNum,
        parent: BlockHash,
        empty: BlockRange,
    ) -> Option<SourceError> {
        self.fetch.lost_before(block, parent, empty).await
    }
}

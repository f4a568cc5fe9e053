//! An EVM chain over Firehose (`sf.firehose.v2`).
//!
//! ```text
//!  Stream/Blocks ─► steps ─► order (again, late, undone) ─► groups ─► decode (threads) ─► links ─► BlockRows
//!       │ from -1
//!       └─► follow ─► head, final block, the newest blocks
//! ```
//!
//! NEW and FINAL are blocks. UNDO takes back what was not passed on yet; what was, or is stored, is a reorg:
//! the next block does not link, as with every other source.

mod answer;
mod bad;
mod block;
mod client;
mod decode;
mod follow;
mod order;
mod stream;
mod tables;
mod transactions;
mod values;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use nozzle_core::{BlockId, BlockNum, BlockRange, TableDef, manifest::Verify};
use tokio::sync::Mutex;

use crate::{
    error::SourceError,
    grpc::{Grpc, GrpcConfig},
    source::{BlockRows, BlockSource, Chain, Head, Place},
};
use client::Client;
pub use decode::{Decoder, Payload};
use decode::{id_of, link_of_payload};
use follow::Follow;
pub use order::{GROUP_BLOCKS, GROUP_BYTES};
pub use tables::tables;

#[cfg(test)]
mod tests;

/// How to reach an endpoint.
#[derive(Debug, Clone)]
pub struct FirehoseConfig {
    /// The address and the secrets.
    pub grpc: GrpcConfig,
    /// The id of the chain (EIP-155), where it is known. Typed transactions hold it, and do not say it here.
    pub chain_id: Option<u64>,
}

impl FirehoseConfig {
    /// The defaults of [`GrpcConfig::new`], and a chain whose id is not known.
    pub fn new(provider: &str, url: &str) -> Self {
        Self { grpc: GrpcConfig::new(provider, url), chain_id: None }
    }
}

/// An endpoint as a source of blocks.
#[derive(Debug)]
pub struct Firehose {
    shared: Arc<Shared>,
}

/// What the streams of an endpoint share.
#[derive(Debug)]
pub(crate) struct Shared {
    client: Arc<Client>,
    decoder: Decoder,
    verify: Verify,
    follow: Follow,
    /// The final block that was asked for last.
    finalized: Mutex<Option<BlockId>>,
}

impl Firehose {
    /// A source for the given tables: those of [`tables()`], or fewer, with all or fewer of their columns.
    /// Nothing is sent yet. Must be called within a Tokio runtime, in a process that has installed a default
    /// rustls provider.
    pub fn connect(
        config: FirehoseConfig,
        tables: Vec<TableDef>,
        verify: Verify,
    ) -> Result<Self, SourceError> {
        let decoder = Decoder::new(&config.grpc.provider, tables, verify, config.chain_id)?;
        let client = Arc::new(Client::new(Grpc::connect(&config.grpc)?));
        let (follow, finalized) = (Follow::default(), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { client, decoder, verify, follow, finalized }) })
    }
}

impl Shared {
    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        if let Some(link) = self.follow.at(number) {
            return Ok(Some(id_of(&link)));
        }
        let Some(payload) = self.client.block(number).await? else { return Ok(None) };
        let link = link_of_payload(&payload, self.verify)
            .map_err(|problem| problem.of_block(self.client.provider(), number))?;
        // Some endpoints give the nearest block that they have.
        Ok((link.number == number).then(|| id_of(&link)))
    }

    /// The last final block: the endpoint tells its number, and the hash is asked for when that has moved.
    async fn finalized(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        let mut known = self.finalized.lock().await;
        if known.is_none_or(|known| known.number != number) {
            *known = self.block_id(number).await?;
        }
        Ok(*known)
    }
}

#[async_trait]
impl BlockSource for Firehose {
    fn provider(&self) -> &str {
        self.shared.client.provider()
    }

    fn tables(&self) -> &[TableDef] {
        self.shared.decoder.tables()
    }

    async fn chain(&self) -> Result<Option<Chain>, SourceError> {
        Ok(self.shared.client.chain_names().await?.map(Chain::Named))
    }

    async fn head(&self) -> Result<Head, SourceError> {
        let now = self.shared.follow.now(&self.shared.client).await?;
        let finalized = match now.final_num {
            Some(number) => self.shared.finalized(number).await?,
            None => None,
        };
        Ok(Head { latest: id_of(&now.latest), finalized })
    }

    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        self.shared.block_id(number).await
    }

    async fn head_moved(&self) {
        self.shared.follow.moved().await;
    }

    fn has_cursors(&self) -> bool {
        true
    }

    fn blocks_behind(
        &self,
        range: BlockRange,
        behind: Option<Place>,
    ) -> BoxStream<'static, Result<BlockRows, SourceError>> {
        stream::blocks(Arc::clone(&self.shared), range, behind)
    }
}

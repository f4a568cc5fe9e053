//! A module at an endpoint as a source of blocks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use nozzle_core::{BlockHash, BlockId, BlockNum, BlockRange, TableDef, manifest::Verify};

use super::{
    client::Client,
    decode::{Decoder, ModuleOutput},
    head::HeadWatch,
    package::Package,
    stream,
};
use crate::{
    error::SourceError,
    grpc::{Grpc, GrpcConfig},
    source::{BlockRows, BlockSource, Decoded, Head, Place},
};

/// A module's output for a block is far smaller; what is larger is refused by the connection.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// How often a long preparation is told of, where nobody says.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// How to reach an endpoint, and what a module needs to know.
#[derive(Debug, Clone)]
pub struct SubstreamsConfig {
    /// The endpoint.
    pub grpc: GrpcConfig,
    /// The network, for which the package may set parameters and first blocks.
    pub network: String,
    /// Parameters by module; those of the package hold where there are none.
    pub params: BTreeMap<String, String>,
    /// How often the log tells that the endpoint prepares a module's output.
    pub progress_every: Duration,
}

impl SubstreamsConfig {
    /// Without parameters of one's own.
    pub fn new(provider: &str, url: &str, network: &str) -> Self {
        Self {
            grpc: GrpcConfig::new(provider, url),
            network: network.to_owned(),
            params: BTreeMap::new(),
            progress_every: PROGRESS_EVERY,
        }
    }
}

/// A module at an endpoint as a source of blocks.
#[derive(Debug)]
pub struct Substreams {
    module: Arc<Module>,
}

/// What all streams share.
#[derive(Debug)]
pub(crate) struct Module {
    pub client: Arc<Client>,
    pub head: HeadWatch,
    decoder: Arc<Decoder>,
}

impl Substreams {
    /// A source for the given tables of a module: those of [`super::tables`], or fewer, with all or fewer of
    /// their columns. Nothing is sent yet. Must be called within a Tokio runtime; the process must have
    /// installed a default rustls provider.
    ///
    /// `Refused` are a package that does not have such tables (any more), parameters that no module takes, and
    /// checks that cannot be made: an endpoint sends no headers, so blocks are as it says.
    pub fn connect(
        config: SubstreamsConfig,
        package: &Package,
        module: &str,
        tables: Vec<TableDef>,
        verify: Verify,
    ) -> Result<Self, SourceError> {
        let provider = config.grpc.provider.clone();
        let refused = |why: String| SourceError::Refused { provider: provider.clone(), why };
        if verify > Verify::Header {
            return Err(refused(format!(
                "Substreams sends no headers, transactions or receipts, so nothing can be verified as `{verify}` \
                 asks; use `--verify links`"
            )));
        }
        let decoder = Decoder::new(&provider, package, module, tables)?;
        let found = package.map_module(module).map_err(|error| refused(error.to_string()))?;
        let modules = package.modules_for(&config.network, &config.params);
        let grpc = GrpcConfig {
            max_message_bytes: config.grpc.max_message_bytes.min(MAX_MESSAGE_BYTES),
            ..config.grpc
        };
        let client = Arc::new(Client {
            grpc: Grpc::connect(&grpc)?,
            module: module.to_owned(),
            modules: modules.map_err(|error| refused(error.to_string()))?.into(),
            initial_block: package.initial_block(found, &config.network),
            progress_every: config.progress_every,
        });
        let module = Module { head: HeadWatch::new(client.clone()), client, decoder: Arc::new(decoder) };
        Ok(Self { module: Arc::new(module) })
    }
}

#[async_trait]
impl BlockSource for Substreams {
    fn provider(&self) -> &str {
        self.module.client.grpc.provider()
    }

    fn tables(&self) -> &[TableDef] {
        self.module.decoder.tables()
    }

    async fn head(&self) -> Result<Head, SourceError> {
        self.module.head.head().await
    }

    async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        // The first block that the module gives anything for links to no other.
        if number < self.module.client.initial_block {
            return Ok(Some(BlockId { number, hash: BlockHash::ZERO }));
        }
        if number > self.module.head.latest().await?.number {
            return Ok(None);
        }
        if let Some(block) = self.module.head.block(number).await? {
            return Ok(Some(block));
        }
        let before = stream::last_before(&self.module, number).await?;
        Ok(Some(BlockId { number, hash: before.map_or(BlockHash::ZERO, |block| block.hash) }))
    }

    async fn head_moved(&self) {
        self.module.head.moved().await;
    }

    fn has_cursors(&self) -> bool {
        true
    }

    /// Blocks of which the endpoint sends nothing count as skipped. A parent's hash is that of the block
    /// before: outputs do not name it.
    fn blocks_behind(
        &self,
        range: BlockRange,
        behind: Option<Place>,
    ) -> BoxStream<'static, Result<BlockRows, SourceError>> {
        stream::blocks(self.module.clone(), range, behind)
    }
}

impl Module {
    /// Decodes on a thread of its own.
    pub async fn decode(&self, range: BlockRange, outputs: Vec<ModuleOutput>, source_bytes: u64) -> Decoded {
        let decoder = self.decoder.clone();
        let task = tokio::task::spawn_blocking(move || decoder.decode(range, &outputs, source_bytes));
        task.await.unwrap_or_else(|error| {
            let error = self.client.grpc.unavailable(format!("decoding was broken off: {error}"));
            Decoded { rows: None, error: Some(error) }
        })
    }
}

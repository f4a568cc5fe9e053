//! What is asked of an endpoint, and what its answers mean.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nozzle_core::{BlockId, BlockNum, block::BlockLink};
use tonic::codec::CompressionEncoding;

use super::{block_id, decode::ModuleOutput};
use crate::{
    error::SourceError,
    grpc::{Grpc, Messages},
    pb::sf::substreams::rpc::v2::{
        BlockRef, BlockScopedData, Error, ModulesProgress, Request, Response, response::Message,
        stream_client::StreamClient,
    },
};

/// How much of a failed module's logs is shown.
const MAX_LOG_CHARS: usize = 2000;

/// A module at an endpoint.
#[derive(Debug)]
pub(crate) struct Client {
    pub grpc: Grpc,
    pub module: String,
    /// The package's modules, with the parameters set.
    pub modules: Bytes,
    /// The first block for which the module gives anything.
    pub initial_block: BlockNum,
    /// How often a long preparation is told of.
    pub progress_every: Duration,
}

/// Where a stream begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    /// At a block.
    Block(BlockNum),
    /// So many blocks below the head.
    BelowHead(u32),
    /// Behind the response that a cursor came with.
    Cursor(String),
}

/// A block that has come.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub id: BlockId,
    pub timestamp_micros: i64,
    pub type_url: String,
    pub output: Bytes,
    pub cursor: String,
    pub final_height: BlockNum,
}

impl Arrived {
    /// What the module gave, once the block before is known.
    pub fn behind(&self, parent_hash: nozzle_core::BlockHash) -> ModuleOutput {
        ModuleOutput {
            block: BlockLink { number: self.id.number, hash: self.id.hash, parent_hash },
            timestamp_micros: self.timestamp_micros,
            type_url: self.type_url.clone(),
            output: self.output.clone(),
        }
    }
}

/// What a stream says next.
#[derive(Debug)]
pub(crate) enum Said {
    Block(Arrived),
    /// All blocks above this one are undone.
    Undo(BlockId),
}

impl Client {
    /// Begins a stream, up to the block before `stop`, if there is one.
    pub async fn open(&self, from: From, stop: Option<BlockNum>) -> Result<Stream, SourceError> {
        let mut request = Request {
            stop_block_num: stop.unwrap_or(0),
            production_mode: true,
            output_module: self.module.clone(),
            modules: self.modules.clone(),
            ..Request::default()
        };
        match from {
            From::Block(number) => {
                request.start_block_num = i64::try_from(number).map_err(|_| {
                    self.grpc.refused(format!("Substreams has no block numbers as high as {number}"))
                })?;
            }
            From::BelowHead(count) => request.start_block_num = -i64::from(count),
            From::Cursor(cursor) => request.start_cursor = cursor,
        }
        let call = async || {
            let mut client = StreamClient::new(self.grpc.service())
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(self.grpc.max_message_bytes)
                .max_encoding_message_size(super::MAX_PACKAGE_BYTES);
            Messages::begin(client.blocks(request.clone())).await
        };
        let responses = self.grpc.call("the module's output", call).await?;
        Ok(Stream {
            grpc: self.grpc.clone(),
            module: self.module.clone(),
            responses,
            progress_every: self.progress_every,
            told: Instant::now(),
        })
    }
}

/// A stream of a module's output.
#[derive(Debug)]
pub(crate) struct Stream {
    grpc: Grpc,
    module: String,
    responses: Messages<Response>,
    progress_every: Duration,
    /// When a preparation was last told of.
    told: Instant,
}

impl Stream {
    /// Waits for the next block or undo, up to the timeout for each message; `None` at the end. What else an
    /// endpoint says goes to the log.
    pub async fn next(&mut self) -> Result<Option<Said>, SourceError> {
        loop {
            let next = self.grpc.next("the module's output", &mut self.responses).await?;
            let Some(response) = next else { return Ok(None) };
            if let Some(said) = self.read(response)? {
                return Ok(Some(said));
            }
        }
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        self.grpc.provider()
    }

    fn read(&mut self, response: Response) -> Result<Option<Said>, SourceError> {
        match response.message {
            Some(Message::BlockScopedData(data)) => self.arrived(data).map(Some),
            Some(Message::BlockUndoSignal(signal)) => {
                let last = signal.last_valid_block.ok_or_else(|| {
                    self.malformed(0, "it undoes blocks without saying which is the last valid one")
                })?;
                Ok(Some(Said::Undo(self.block_ref(&last)?)))
            }
            Some(Message::FatalError(error)) => Err(self.failed(&error)),
            Some(Message::Session(session)) => {
                tracing::debug!(
                    provider = self.grpc.provider(),
                    trace_id = session.trace_id,
                    first_block = session.resolved_start_block,
                    "a Substreams session has begun"
                );
                Ok(None)
            }
            Some(Message::Progress(progress)) => {
                self.tell(&progress);
                Ok(None)
            }
            // A message of a newer protocol.
            None => Ok(None),
        }
    }

    fn tell(&mut self, progress: &ModulesProgress) {
        if self.told.elapsed() < self.progress_every {
            return;
        }
        self.told = Instant::now();
        let jobs = &progress.running_jobs;
        let blocks: u64 = jobs.iter().fold(0, |sum, job| sum.saturating_add(job.processed_blocks));
        let read = progress.processed_bytes.as_ref().map_or(0, |bytes| bytes.total_bytes_read);
        tracing::info!(
            provider = self.grpc.provider(),
            module = self.module,
            jobs = jobs.len(),
            blocks_of_jobs = blocks,
            read_mb = read >> 20,
            "the endpoint prepares the module's output"
        );
    }

    fn arrived(&self, data: BlockScopedData) -> Result<Said, SourceError> {
        let clock = data.clock.ok_or_else(|| self.malformed(0, "it sent an output without its block"))?;
        let bad = |why: &str| self.malformed(clock.number, why);
        let hash = block_id::parse(&clock.id)
            .ok_or_else(|| bad("its identifier is neither 32 bytes of hex nor of base58"))?;
        let time = clock.timestamp.ok_or_else(|| bad("it has no time"))?;
        let micros = time.seconds.checked_mul(1_000_000);
        let micros = micros.and_then(|micros| micros.checked_add(i64::from(time.nanos).div_euclid(1_000)));
        let output = data.output.unwrap_or_default();
        // Endpoints have sent empty outputs without the module's name.
        if !output.name.is_empty() && output.name != self.module {
            return Err(bad(&format!("it is an output of the module `{}`", output.name)));
        }
        let message = output.map_output.unwrap_or_default();
        Ok(Said::Block(Arrived {
            id: BlockId { number: clock.number, hash },
            timestamp_micros: micros.ok_or_else(|| bad("its time is too far away"))?,
            type_url: message.type_url,
            output: message.value,
            cursor: data.cursor,
            final_height: data.final_block_height,
        }))
    }

    fn block_ref(&self, block: &BlockRef) -> Result<BlockId, SourceError> {
        let hash = block_id::parse(&block.id)
            .ok_or_else(|| self.malformed(block.number, "its identifier is neither hex nor base58"))?;
        Ok(BlockId { number: block.number, hash })
    }

    fn malformed(&self, block: BlockNum, why: &str) -> SourceError {
        SourceError::Malformed { provider: self.grpc.provider().to_owned(), block, why: why.to_owned() }
    }

    /// A module that fails does so again: it is a program over the same blocks.
    fn failed(&self, error: &Error) -> SourceError {
        let logs = error.logs.join(" | ");
        let logs = if logs.is_empty() { String::new() } else { format!("; its last words: {logs}") };
        let words = format!("{}{logs}", error.reason);
        let words: String =
            words.chars().take(MAX_LOG_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let module = if error.module.is_empty() { &self.module } else { &error.module };
        self.grpc.refused(format!("the module `{module}` failed at the endpoint: {words}"))
    }
}

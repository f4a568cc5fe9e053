//! The calls of Firehose.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use nozzle_core::{BlockNum, SourceCursor, block::BlockLink, manifest::Verify};
use tonic::{Code, Status, Streaming, codec::CompressionEncoding};

use super::{decode::link_of_payload, order::Received};
use crate::{
    error::SourceError,
    grpc::{Grpc, Service},
    limit::Limiter,
    pb::{
        google::protobuf::Any,
        sf::firehose::v2::{
            BlockMetadata, ForkStep, InfoRequest, Request, Response, SingleBlockRequest,
            endpoint_info_client::EndpointInfoClient, fetch_client::FetchClient,
            single_block_request::BlockNumber, single_block_request::Reference, stream_client::StreamClient,
        },
    },
};

/// The type of the blocks of EVM chains.
const BLOCK_TYPE: &str = "sf.ethereum.type.v2.Block";

/// What an endpoint says of a block.
#[derive(Debug)]
pub(crate) enum Step {
    /// It is part of the chain now.
    New(Received),
    /// It is not any more.
    Undo(BlockLink),
}

/// An endpoint.
#[derive(Debug)]
pub(crate) struct Client {
    grpc: Grpc,
    /// Whether it does not give blocks one by one.
    has_no_fetch: AtomicBool,
}

/// A generated client with what all of them need: the limit of messages, and compression both ways, as endpoints
/// answer in the encoding that they were asked in.
macro_rules! client {
    ($client:ident, $grpc:expr) => {
        $client::<Service>::new($grpc.service())
            .max_decoding_message_size($grpc.max_message_bytes)
            .send_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Gzip)
    };
}

impl Client {
    /// Calls to an endpoint.
    pub fn new(grpc: Grpc) -> Self {
        Self { grpc, has_no_fetch: AtomicBool::new(false) }
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        self.grpc.provider()
    }

    /// The names of the chain; `None` where the endpoint does not say.
    pub async fn chain_names(&self) -> Result<Option<Vec<String>>, SourceError> {
        let call = async || {
            let mut client = client!(EndpointInfoClient, self.grpc);
            match client.info(InfoRequest {}).await {
                Err(status) if status.code() == Code::Unimplemented => Ok(None),
                answer => answer.map(|answer| Some(answer.into_inner())),
            }
        };
        let Some(info) = self.grpc.call("the name of its chain", call).await? else { return Ok(None) };
        let names: Vec<_> = [info.chain_name]
            .into_iter()
            .chain(info.chain_name_aliases)
            .filter(|name| !name.is_empty())
            .collect();
        Ok(Some(names).filter(|names| !names.is_empty()))
    }

    /// The block that is at `number` now; `None` where there is none.
    pub async fn block(&self, number: BlockNum) -> Result<Option<Bytes>, SourceError> {
        if !self.has_no_fetch.load(Ordering::Relaxed) {
            let call = async || {
                let reference = Some(Reference::BlockNumber(BlockNumber { num: number }));
                let mut client = client!(FetchClient, self.grpc);
                match not_found(client.block(SingleBlockRequest { reference, transforms: vec![] }).await) {
                    Err(status) if status.code() == Code::Unimplemented => Ok(None),
                    answer => answer.map(Some),
                }
            };
            match self.grpc.call(&format!("block {number}"), call).await? {
                Some(found) => {
                    return found.map(|found| self.payload(number, found.into_inner().block)).transpose();
                }
                None => self.has_no_fetch.store(true, Ordering::Relaxed),
            }
        }
        self.block_of_stream(number).await
    }

    /// A block by way of a stream of one.
    async fn block_of_stream(&self, number: BlockNum) -> Result<Option<Bytes>, SourceError> {
        let start_block_num = i64::try_from(number).unwrap_or(i64::MAX);
        let request = Request { start_block_num, stop_block_num: number, ..Request::default() };
        let what = format!("block {number}");
        let call = async || {
            let mut client = client!(StreamClient, self.grpc);
            not_found(client.blocks(request.clone()).await)
        };
        let Some(stream) = self.grpc.call(&what, call).await? else { return Ok(None) };
        let mut stream = stream.into_inner();
        let Some(first) = self.grpc.next(&what, stream.message()).await? else { return Ok(None) };
        self.payload(number, first.block).map(Some)
    }

    /// Opens a stream of blocks.
    pub async fn stream(&self, request: &Request) -> Result<Streaming<Response>, SourceError> {
        let call = async || {
            let mut client = client!(StreamClient, self.grpc);
            client.blocks(request.clone()).await
        };
        Ok(self.grpc.call("a stream of blocks", call).await?.into_inner())
    }

    /// What lets streams of ranges through.
    pub fn limiter(&self) -> &Arc<Limiter> {
        self.grpc.limiter()
    }

    /// The next step of a stream; `None` once it is over. `expected` is the block that should come, for messages.
    pub async fn next(
        &self,
        stream: &mut Streaming<Response>,
        expected: BlockNum,
    ) -> Result<Option<Step>, SourceError> {
        loop {
            let what = format!("the blocks from {expected} on");
            let Some(response) = self.grpc.next(&what, stream.message()).await? else { return Ok(None) };
            let Response { block, step, cursor, metadata } = response;
            match ForkStep::try_from(step) {
                Ok(ForkStep::StepUndo) => {
                    return self.undone(expected, block, metadata).map(|link| Some(Step::Undo(link)));
                }
                Ok(_) => {
                    let final_num = metadata.map(|metadata| metadata.lib_num);
                    return self
                        .received(expected, block, cursor, final_num)
                        .map(|block| Some(Step::New(block)));
                }
                // A step that is not known here, such as of a part of a block.
                Err(_) => {}
            }
        }
    }

    /// The block that is undone, as it is sent once more or as it is named.
    fn undone(
        &self,
        expected: BlockNum,
        block: Option<Any>,
        metadata: Option<BlockMetadata>,
    ) -> Result<BlockLink, SourceError> {
        let named = metadata.and_then(|BlockMetadata { num, id, parent_id, .. }| {
            let (hash, parent_hash) = (id.parse().ok()?, parent_id.parse().ok()?);
            Some(BlockLink { number: num, hash, parent_hash })
        });
        match (block, named) {
            (None, Some(link)) => Ok(link),
            (block, _) => self.received(expected, block, String::new(), None).map(|block| block.link),
        }
    }

    fn received(
        &self,
        expected: BlockNum,
        block: Option<Any>,
        cursor: String,
        final_num: Option<BlockNum>,
    ) -> Result<Received, SourceError> {
        let payload = self.payload(expected, block)?;
        let link = link_of_payload(&payload, Verify::None)
            .map_err(|problem| problem.of_block(self.provider(), expected))?;
        Ok(Received { link, payload, cursor: SourceCursor::new(cursor), final_num })
    }

    fn payload(&self, number: BlockNum, block: Option<Any>) -> Result<Bytes, SourceError> {
        let provider = self.provider().to_owned();
        let Some(block) = block else {
            return Err(SourceError::Malformed {
                provider,
                block: number,
                why: "the answer has no block".into(),
            });
        };
        if block.type_url.rsplit('/').next() == Some(BLOCK_TYPE) {
            return Ok(block.value);
        }
        let found: String = block.type_url.chars().filter(|c| !c.is_control()).take(100).collect();
        Err(self.grpc.refused(format!("its blocks are of the type `{found}`; Nozzle reads `{BLOCK_TYPE}`")))
    }

    /// It may work later.
    pub fn unavailable(&self, why: String) -> SourceError {
        self.grpc.unavailable(why)
    }
}

/// What is not there is an answer.
fn not_found<T>(answer: Result<T, Status>) -> Result<Option<T>, Status> {
    match answer {
        Err(status) if status.code() == Code::NotFound => Ok(None),
        answer => answer.map(Some),
    }
}

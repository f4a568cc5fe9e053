//! The calls of Firehose.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use nozzle_core::{BlockNum, SourceCursor, block::BlockLink, manifest::Verify};
use tonic::{Code, Status, codec::CompressionEncoding};

use super::{decode::link_of_payload, order::Received};
use crate::{
    error::SourceError,
    grpc::{Grpc, Messages, Service},
    limit::Limiter,
    pb::{
        google::protobuf::Any,
        sf::firehose::v2::{
            BlockMetadata, ForkStep, InfoRequest, InfoResponse, Request, Response, SingleBlockRequest,
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

    /// What the endpoint says of itself, if it says anything.
    async fn info(&self) -> Result<Option<InfoResponse>, SourceError> {
        let call = async || {
            let mut client = client!(EndpointInfoClient, self.grpc);
            match client.info(InfoRequest {}).await {
                Err(status) if status.code() == Code::Unimplemented => Ok(None),
                answer => answer.map(|answer| Some(answer.into_inner())),
            }
        };
        self.grpc.call("the name of its chain", call).await
    }

    /// The number of the first block that the endpoint has; 0 also where it does not say.
    pub async fn first_block(&self) -> Result<BlockNum, SourceError> {
        Ok(self.info().await?.map_or(0, |info| info.first_streamable_block_num))
    }

    /// The names of the chain; `None` where the endpoint does not say.
    pub async fn chain_names(&self) -> Result<Option<Vec<String>>, SourceError> {
        let Some(info) = self.info().await? else { return Ok(None) };
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
            not_found(Messages::begin(client.blocks(request.clone())).await)
        };
        let Some(mut stream) = self.grpc.call(&what, call).await? else { return Ok(None) };
        while let Some(Response { block, step, .. }) = self.grpc.next(&what, &mut stream).await? {
            // One that is no part of the chain any more.
            if step != i32::from(ForkStep::StepUndo) {
                return self.payload(number, block).map(Some);
            }
        }
        Ok(None)
    }

    /// Opens a stream of blocks. The inner error is that of an endpoint that does not go on from the cursor: it may
    /// begin at the number.
    pub async fn stream(
        &self,
        request: &Request,
    ) -> Result<Result<Messages<Response>, SourceError>, SourceError> {
        let what = "a stream of blocks";
        let call = async || {
            let mut client = client!(StreamClient, self.grpc);
            match Messages::begin(client.blocks(request.clone())).await {
                Err(status) if !request.cursor.is_empty() && may_be_of_cursor(&status) => Ok(Err(status)),
                answer => answer.map(Ok),
            }
        };
        let opened = self.grpc.call(what, call).await?;
        Ok(opened.map_err(|status| self.grpc.error(what, &status)))
    }

    /// What lets streams of ranges through.
    pub fn limiter(&self) -> &Arc<Limiter> {
        self.grpc.limiter()
    }

    /// The next step of a stream; `None` once it is over. `expected` is the block that should come, for messages.
    pub async fn next(
        &self,
        stream: &mut Messages<Response>,
        expected: BlockNum,
    ) -> Result<Option<Step>, SourceError> {
        loop {
            let what = format!("the blocks from {expected} on");
            let Some(response) = self.grpc.next(&what, stream).await? else { return Ok(None) };
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

    /// The block that is undone, as it is named, or, where it is not, as it is sent once more.
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
        match named {
            Some(link) => Ok(link),
            None => self.received(expected, block, String::new(), None).map(|block| block.link),
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

    /// Asking again does not help.
    pub fn refused(&self, why: String) -> SourceError {
        self.grpc.refused(why)
    }

    /// It may work later.
    pub fn unavailable(&self, why: String) -> SourceError {
        self.grpc.unavailable(why)
    }
}

/// Whether the cursor may be to blame. Some endpoints say that they do not take it with codes that mean nothing;
/// those of an endpoint that is busy, lost, or does not know the caller say nothing of it.
fn may_be_of_cursor(status: &Status) -> bool {
    let is_of_endpoint = std::error::Error::source(status).is_none();
    is_of_endpoint
        && !matches!(
            status.code(),
            Code::Unavailable
                | Code::ResourceExhausted
                | Code::Unauthenticated
                | Code::PermissionDenied
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Unimplemented
        )
}

/// What is not there is an answer.
fn not_found<T>(answer: Result<T, Status>) -> Result<Option<T>, Status> {
    match answer {
        Err(status) if status.code() == Code::NotFound => Ok(None),
        answer => answer.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::GrpcConfig;

    #[tokio::test]
    async fn an_undone_block_is_known_by_its_name_though_what_is_sent_of_it_is_damaged() {
        let grpc = Grpc::connect(&GrpcConfig::new("p", "http://localhost:1")).expect("an address");
        let client = Client::new(grpc);
        let (id, parent_id) = ("07".repeat(32), "06".repeat(32));
        let named = BlockMetadata { num: 7, id, parent_id, ..BlockMetadata::default() };
        let sent = Some(Any { type_url: BLOCK_TYPE.to_owned(), value: Bytes::from_static(b"\x08") });
        let expected = BlockLink { number: 7, hash: [7; 32].into(), parent_hash: [6; 32].into() };
        assert_eq!(client.undone(7, sent.clone(), Some(named)).expect("it has a name"), expected);
        client.undone(7, sent, None).expect_err("nothing says which it is");
    }
}

//! The service `sf.substreams.rpc.v2.Stream`, over what tonic has for generated code.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    Code, Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, BoxStream, CompressionEncoding, Service, http, tokio_stream},
    server::{Grpc, NamedService, ServerStreamingService},
};
use tonic_prost::ProstCodec;

use super::{
    Fault, Shared, SubstreamsRequest,
    chain::{Step, SubstreamsBlock},
    messages::{
        Any, BlockRef, Clock, Data, Failed, Job, Output, Progress, Request as Asked, Response as Answer,
        Said, Session, Timestamp, Undo,
    },
};

#[derive(Clone)]
pub(super) struct Streams(pub Arc<Shared>);

impl NamedService for Streams {
    const NAME: &'static str = "sf.substreams.rpc.v2.Stream";
}

impl Service<http::Request<Body>> for Streams {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let blocks = Blocks(self.0.clone());
        Box::pin(async move {
            if request.uri().path() != "/sf.substreams.rpc.v2.Stream/Blocks" {
                return Ok(Status::unimplemented("there is only Blocks").into_http());
            }
            let mut grpc = Grpc::new(ProstCodec::<Answer, Asked>::default())
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(256 << 20);
            Ok(grpc.server_streaming(blocks, request).await)
        })
    }
}

struct Blocks(Arc<Shared>);

impl ServerStreamingService<Asked> for Blocks {
    type Response = Answer;
    type ResponseStream = BoxStream<Answer>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Asked>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let is_known = match &shared.token {
                Some(token) => {
                    let sent = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
                    sent == Some(&format!("Bearer {token}"))
                }
                None => true,
            };
            if !is_known {
                return Err(Status::unauthenticated("who are you?"));
            }
            let asked = request.into_inner();
            super::locked(&shared.requests).push(SubstreamsRequest {
                start_block: asked.start_block_num,
                cursor: Some(asked.start_cursor.clone()).filter(|cursor| !cursor.is_empty()),
                stop_block: asked.stop_block_num,
                production_mode: asked.production_mode,
                module: asked.output_module.clone(),
                modules: asked.modules.clone(),
            });
            let fault = super::locked(&shared.faults).pop_front();
            if let Some(Fault::Refuse(words)) = fault {
                return Err(Status::invalid_argument(words));
            }
            if matches!(fault, Some(Fault::Busy)) {
                return Err(Status::resource_exhausted("too many streams"));
            }
            let (answers, received) = tokio::sync::mpsc::channel(16);
            tokio::spawn(async move {
                let outcome = serve(&shared, &asked, fault, &answers).await;
                if let Err(status) = outcome {
                    // Whoever has gone needs no answer.
                    let _ = answers.send(Err(status)).await;
                }
            });
            let stream = tokio_stream::wrappers::ReceiverStream::new(received);
            Ok(Response::new(Box::pin(stream) as Self::ResponseStream))
        })
    }
}

type Answers = tokio::sync::mpsc::Sender<Result<Answer, Status>>;

async fn send(answers: &Answers, said: Said) -> Result<(), Status> {
    let answer = Answer { message: Some(said) };
    answers.send(Ok(answer)).await.map_err(|_| Status::cancelled("nobody listens"))
}

async fn serve(
    shared: &Shared,
    asked: &Asked,
    fault: Option<Fault>,
    answers: &Answers,
) -> Result<(), Status> {
    let mut changed = shared.changed.subscribe();
    let mut last = match asked.start_cursor.is_empty() {
        true => None,
        false => Some(shared.at_cursor(&asked.start_cursor)?),
    };
    let head = super::locked(&shared.chain).head().unwrap_or(0);
    let start = u64::try_from(asked.start_block_num)
        .unwrap_or_else(|_| head.saturating_sub(asked.start_block_num.unsigned_abs()));
    let session = Session { trace_id: "t".into(), resolved_start_block: start };
    send(answers, Said::Session(session)).await?;
    let jobs = vec![Job { stage: 0, processed_blocks: 1 }];
    send(answers, Said::Progress(Progress { running_jobs: jobs })).await?;
    let stop = if matches!(fault, Some(Fault::NoEnd)) { 0 } else { asked.stop_block_num };
    let mut sent = 0;
    loop {
        match fault {
            Some(Fault::Disconnect(after)) if sent >= after => {
                return Err(Status::new(Code::Unavailable, "the endpoint goes away"));
            }
            Some(Fault::EndEarly(after)) if sent >= after => return Ok(()),
            Some(Fault::Fail(after, ref reason)) if sent >= after => {
                let module = asked.output_module.clone();
                let failed = Failed { module, reason: reason.clone(), logs: vec!["a log".into()] };
                return send(answers, Said::Failed(failed)).await;
            }
            _ => {}
        }
        changed.borrow_and_update();
        let step = super::locked(&shared.chain).step(last.as_ref(), start, stop);
        match step {
            Step::Send(block) => {
                if !(shared.omit_empty && block.output.is_empty()) {
                    let data = shared.data(&asked.output_module, &block);
                    if matches!(fault, Some(Fault::Repeat)) {
                        send(answers, Said::Data(data.clone())).await?;
                    }
                    send(answers, Said::Data(data)).await?;
                    sent += 1;
                }
                last = Some(block);
            }
            Step::Undo(block) => {
                let last_valid_block = Some(BlockRef { id: block.id.clone(), number: block.number });
                let undo = Undo { last_valid_block, last_valid_cursor: shared.cursor(&block) };
                send(answers, Said::Undo(undo)).await?;
                last = Some(block);
            }
            Step::End => return Ok(()),
            Step::Wait => tokio::select! {
                changed = changed.changed() => {
                    changed.map_err(|_| Status::unavailable("the endpoint ends"))?;
                }
                () = answers.closed() => return Ok(()),
            },
        }
    }
}

impl Shared {
    fn data(&self, module: &str, block: &SubstreamsBlock) -> Data {
        let head = super::locked(&self.chain).head().unwrap_or(0);
        Data {
            output: Some(Output {
                name: module.to_owned(),
                map_output: Some(Any {
                    type_url: format!("type.googleapis.com/{}", block.message),
                    value: block.output.clone(),
                }),
            }),
            clock: Some(Clock {
                id: block.id.clone(),
                number: block.number,
                timestamp: Some(Timestamp { seconds: block.seconds, nanos: 0 }),
            }),
            cursor: self.cursor(block),
            final_block_height: head.saturating_sub(self.final_depth),
        }
    }

    /// Cursors say nothing to others, and no two are the same.
    fn cursor(&self, block: &SubstreamsBlock) -> String {
        let salt = self.salt.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        const_hex::encode(format!("{salt}/{}", block.id))
    }

    fn at_cursor(&self, cursor: &str) -> Result<SubstreamsBlock, Status> {
        let text = const_hex::decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let block = text
            .as_deref()
            .and_then(|text| text.split_once('/'))
            .and_then(|(_, id)| super::locked(&self.chain).get(id));
        block.ok_or_else(|| Status::invalid_argument("this is not a cursor"))
    }
}

//! One JSON-RPC call, and what its failures mean.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use nozzle_core::BlockNum;
use serde::de::IgnoredAny;
use sonic_rs::{JsonValueTrait, LazyValue};

use super::{
    EvmRpcConfig,
    batch::{BatchLimit, Call},
    transport::{Request, Transport},
};
use crate::{
    error::SourceError,
    evm::{Answer, RpcError},
    http::{BadStatus, Failure, Response},
    limit::{Limiter, Throttle},
    secrets::{Secrets, address},
};

/// Answers up to this size are looked through at once; an error object or null is never larger.
const SMALL_BYTES: usize = 16 << 10;

const METHOD_NOT_FOUND: i64 = -32601;
/// The codes of errors that ask for fewer requests: a limit is exceeded, or too many requests.
const PUSH_BACK: [i64; 2] = [-32005, 429];
/// What nodes say of a method that they do not have, beside naming it.
const NO_METHOD: [&str; 6] =
    ["not found", "not supported", "not available", "not exist", "unsupported", "unknown method"];
const CHECK_URL: &str = "check that `url` is the address of a JSON-RPC endpoint";

/// An answer that is not an error.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The whole answer.
    pub body: Bytes,
    /// Whether the result is null.
    pub is_null: bool,
}

/// The body of a response that is not an error of HTTP.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    pub body: Bytes,
    /// The ids of the calls that it answers.
    pub ids: Range<u64>,
}

/// Why a call failed.
#[derive(Debug, Clone)]
pub(crate) enum CallError {
    /// The node answered with an error object.
    Rpc {
        /// The error's code.
        code: i64,
        /// The node's words, without secrets.
        message: String,
        /// What a contract has said, where the error is of a call.
        data: Option<Bytes>,
    },
    /// The answer may be had later.
    Unavailable(String),
    /// The provider wants fewer requests.
    PushedBack {
        /// In its words.
        why: String,
        /// How long it wants none, where it says so.
        rest: Option<Duration>,
    },
    /// Asking again does not help.
    Refused(String),
    /// The node does not take a request like this one.
    Unfit {
        /// The status of HTTP that says so.
        status: u16,
        /// What that means where nothing else is known.
        why: String,
    },
}

impl CallError {
    /// Says that `count` calls have failed together, so that the one named is not taken for the cause.
    pub fn of_batch(self, count: usize) -> Self {
        let together = |why: String| format!("{why} (in a batch of {count} calls)");
        match self {
            Self::Unavailable(why) => Self::Unavailable(together(why)),
            Self::PushedBack { why, rest } => Self::PushedBack { why: together(why), rest },
            Self::Refused(why) => Self::Refused(together(why)),
            Self::Rpc { .. } | Self::Unfit { .. } => self,
        }
    }

    /// Whether the node does not have the method, while it has others.
    pub fn is_unknown_method(&self, method: &str) -> bool {
        match self {
            Self::Rpc { code: METHOD_NOT_FOUND, .. } => true,
            Self::Rpc { message, .. } => {
                let message = message.to_ascii_lowercase();
                let is_of_it = message.contains("method") || message.contains(&method.to_ascii_lowercase());
                is_of_it && NO_METHOD.iter().any(|words| message.contains(words))
            }
            Self::Unfit { status, .. } => matches!(status, 404 | 405),
            Self::Unavailable(_) | Self::PushedBack { .. } | Self::Refused(_) => false,
        }
    }
}

/// A node that can be called.
pub(crate) struct Client {
    provider: String,
    /// What messages call the node.
    address: String,
    secrets: Secrets,
    transport: Transport,
    next_id: AtomicU64,
    limiter: Arc<Limiter>,
    batch_limit: BatchLimit,
    /// Whether it was said that batches are refused.
    has_said_refused: AtomicBool,
    /// Whether it has ever answered as JSON-RPC does.
    has_answered: AtomicBool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("provider", &self.provider).field("address", &self.address).finish()
    }
}

impl Client {
    /// A client for the node; nothing is sent yet.
    pub fn new(config: EvmRpcConfig) -> Result<Self, SourceError> {
        let transport = Transport::new(&config)
            .map_err(|why| SourceError::Refused { provider: config.provider.clone(), why })?;
        Ok(Self {
            address: address(&config.url),
            secrets: Secrets::of(&config.url, config.auth_token.as_deref()),
            provider: config.provider.clone(),
            transport,
            next_id: AtomicU64::new(1),
            limiter: config
                .throttle
                .clone()
                .unwrap_or_else(|| Throttle::new(&config.limits()))
                .limiter()
                .clone(),
            batch_limit: BatchLimit::new(config.batch_size),
            has_said_refused: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
        })
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// What lets requests through.
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// How many calls a request may have.
    pub fn batch_limit(&self) -> &BatchLimit {
        &self.batch_limit
    }

    /// Whether it is now to be said, for the first time, that the node refuses batches.
    pub fn says_batches_are_refused(&self) -> bool {
        !self.has_said_refused.swap(true, Ordering::Relaxed)
    }

    /// Calls a method; `params` is a JSON array. The caller has a turn.
    pub async fn call(&self, method: &'static str, params: &str) -> Result<Reply, CallError> {
        let calls = [Call { method, params: params.to_owned() }];
        let lost = || Err(CallError::Unavailable("the call was not made".into()));
        self.call_all(&calls).await.pop().unwrap_or_else(lost)
    }

    /// Sends one call, without regard to limits.
    pub async fn send_call(&self, call: &Call) -> Result<Reply, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = Request { body: call_text(id, call.method, &call.params), ids: id..id + 1 };
        self.reply(self.send(request).await?.body)
    }

    /// Sends several calls in one request, without regard to limits.
    pub async fn send_calls(&self, calls: &[&Call]) -> Result<ResponseBody, CallError> {
        let count = calls.len() as u64;
        let first = self.next_id.fetch_add(count, Ordering::Relaxed);
        let ids = first..first + count;
        let texts: Vec<_> =
            ids.clone().zip(calls).map(|(id, call)| call_text(id, call.method, &call.params)).collect();
        self.send(Request { body: format!("[{}]", texts.join(",")), ids }).await
    }

    async fn send(&self, request: Request) -> Result<ResponseBody, CallError> {
        let ids = request.ids.clone();
        match self.transport.send(request).await {
            Ok(Response { status, body, .. }) if status.is_success() => Ok(ResponseBody { body, ids }),
            Ok(response) => Err(self.bad_status(&response)),
            Err(Failure::Unavailable(why)) => Err(CallError::Unavailable(self.secrets.clean(&why))),
            Err(Failure::Refused(why)) => Err(CallError::Refused(self.secrets.clean(&why))),
        }
    }

    /// Waits until the node tells of a new head.
    pub async fn head_moved(&self) {
        let subscribe = || {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            call_text(id, "eth_subscribe", r#"["newHeads"]"#)
        };
        self.transport.head_moved(subscribe).await;
    }

    /// Gives up what is connected; the next request connects anew.
    pub async fn redial(&self) {
        self.transport.redial().await;
    }

    /// What a failed call means to whoever asked for blocks.
    pub fn source_error(&self, method: &str, error: CallError) -> SourceError {
        match error {
            CallError::Rpc { code: METHOD_NOT_FOUND, message, .. } => {
                self.refused(format!("it does not have the method `{method}`: {message}"))
            }
            CallError::Rpc { code, message, .. } => {
                self.unavailable(format!("`{method}` failed: {message} ({code})"))
            }
            CallError::Unavailable(why) => self.unavailable(why),
            CallError::PushedBack { why, .. } => {
                SourceError::PushedBack { provider: self.provider.clone(), why }
            }
            CallError::Refused(why) => self.refused(why),
            // As of a page before a node that has answered before.
            CallError::Unfit { why, .. } if self.has_answered.load(Ordering::Relaxed) => {
                self.unavailable(why)
            }
            CallError::Unfit { why, .. } => self.refused(why),
        }
    }

    /// The answer to a question about a block; null means that it is missing.
    pub fn present(
        &self,
        block: BlockNum,
        method: &str,
        what: &'static str,
        answer: Result<Reply, CallError>,
    ) -> Result<Bytes, SourceError> {
        let reply = answer.map_err(|error| self.source_error(method, error))?;
        if reply.is_null {
            return Err(SourceError::Missing { provider: self.provider.clone(), block, what });
        }
        Ok(reply.body)
    }

    /// The answer may be had later.
    pub fn unavailable(&self, why: String) -> SourceError {
        SourceError::Unavailable { provider: self.provider.clone(), source: why.into() }
    }

    fn refused(&self, why: String) -> SourceError {
        SourceError::Refused { provider: self.provider.clone(), why }
    }

    /// Looks at an answer: whether it is one, and not an error.
    pub fn reply(&self, body: Bytes) -> Result<Reply, CallError> {
        if !looks_like_json(&body) {
            return Err(self.foreign("it does not answer with JSON"));
        }
        if body.len() > SMALL_BYTES && !begins_with_error(&body) {
            self.has_answered.store(true, Ordering::Relaxed);
            return Ok(Reply { body, is_null: false });
        }
        let answer: Answer<'_, IgnoredAny> = match sonic_rs::from_slice(&body) {
            Ok(answer) => answer,
            Err(error) if error.is_unmatched_type() => {
                return Err(self.foreign("it does not answer as JSON-RPC does"));
            }
            Err(_) => return Err(CallError::Unavailable("the answer is not JSON to its end".into())),
        };
        self.has_answered.store(true, Ordering::Relaxed);
        if let Some(error) = answer.error {
            return Err(self.rpc_error(&error, None));
        }
        let is_null = answer.result.is_none();
        Ok(Reply { body, is_null })
    }

    fn rpc_error(&self, error: &RpcError<'_>, rest: Option<Duration>) -> CallError {
        let (code, message) = (error.code, self.secrets.clean(&error.message));
        if PUSH_BACK.contains(&code) {
            return CallError::PushedBack {
                why: format!("it wants fewer requests: {message} ({code})"),
                rest,
            };
        }
        CallError::Rpc { code, message, data: error.data.as_ref().and_then(said) }
    }

    /// What answers is not a node. Where a node has answered before, something stands before it now,
    /// such as the page of a proxy, that may go away; elsewhere the address is wrong.
    fn foreign(&self, why: &str) -> CallError {
        if self.has_answered.load(Ordering::Relaxed) {
            CallError::Unavailable(why.to_owned())
        } else {
            CallError::Refused(format!("{why}; {CHECK_URL}"))
        }
    }

    fn bad_status(&self, response: &Response) -> CallError {
        let Response { status, body, retry_after } = response;
        let said = sonic_rs::from_slice::<Answer<'_, IgnoredAny>>(body).ok().and_then(|answer| answer.error);
        let words = said
            .as_ref()
            .map(|error| format!(": {}", self.secrets.clean(&error.message)))
            .unwrap_or_default();
        let pushed_back =
            || CallError::PushedBack { why: format!("it answers HTTP {status}{words}"), rest: *retry_after };
        match response.bad_status() {
            Some(BadStatus::Denied) => CallError::Refused(format!(
                "it answers HTTP {status}{words}; check `auth_token`, `auth_header` and the key in `url`"
            )),
            Some(BadStatus::PushesBack) => pushed_back(),
            // Some providers say the same with other statuses, such as 402 or 500.
            _ if said.as_ref().is_some_and(|error| PUSH_BACK.contains(&error.code)) => pushed_back(),
            Some(BadStatus::Unavailable) => {
                CallError::Unavailable(format!("it answers HTTP {status}{words}"))
            }
            Some(BadStatus::Redirects) => CallError::Refused(format!(
                "it answers HTTP {status}, a redirection; set `url` to where it leads"
            )),
            Some(BadStatus::Other) | None => match said {
                Some(error) => self.rpc_error(&error, *retry_after),
                None => CallError::Unfit {
                    status: status.as_u16(),
                    why: format!("it answers HTTP {status}; {CHECK_URL}"),
                },
            },
        }
    }
}

/// The bytes that an error carries: as a text, behind a word (`Reverted 0x…`), or within an object.
fn said(data: &LazyValue<'_>) -> Option<Bytes> {
    let within = ["data", "result"].iter().find_map(|key| data.get(key));
    let text = data.as_str().map(str::to_owned).or_else(|| Some(within?.as_str()?.to_owned()))?;
    let digits = &text[text.find("0x")?..];
    const_hex::decode(digits).ok().map(Bytes::from)
}

fn call_text(id: u64, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

/// Whether an answer that is too large to be looked through has an error before anything of its result.
fn begins_with_error(body: &[u8]) -> bool {
    const LOOK_BYTES: usize = 128;
    let begin = &body[..body.len().min(LOOK_BYTES)];
    let place = |key: &[u8]| begin.windows(key.len()).position(|window| window == key);
    match (place(br#""error""#), place(br#""result""#)) {
        (Some(error), Some(result)) => error < result,
        (error, None) => error.is_some(),
        (None, Some(_)) => false,
    }
}

fn looks_like_json(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()).is_none_or(|byte| *byte == b'{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_a_node_does_not_have_is_known_by_what_it_says() {
        let says = |code, message: &str| {
            CallError::Rpc { code, message: message.into(), data: None }
                .is_unknown_method("eth_getBlockReceipts")
        };
        assert!(says(-32601, "no"));
        for words in [
            "Method not found",
            "the method eth_getBlockReceipts does not exist/is not available",
            "eth_getBlockReceipts is not supported",
            "Unsupported method: eth_getBlockReceipts",
        ] {
            assert!(says(-32000, words), "{words}");
        }
        for words in ["header not found", "state is not available", "busy"] {
            assert!(!says(-32000, words), "{words}");
        }
        let unfit = |status| CallError::Unfit { status, why: String::new() }.is_unknown_method("m");
        assert_eq!([404, 405, 400, 413].map(unfit), [true, true, false, false]);
        assert!(!CallError::Unavailable("method not found".into()).is_unknown_method("m"));
    }
}

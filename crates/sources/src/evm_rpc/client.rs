//! One JSON-RPC call, and what its failures mean.
//!
//! An address may hold a key in its path, its query or before its host. So nothing of it but the
//! host is ever shown, and what a node says is cleaned of it before it is passed on.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use reqwest::StatusCode;
use serde::de::IgnoredAny;

use super::{
    EvmRpcConfig,
    transport::{self, Failure, Request, Response, Transport},
};
use crate::{error::SourceError, evm::Answer};

/// Answers up to this size are looked through at once; an error object or null is never larger.
const SMALL_BYTES: usize = 16 << 10;
/// How much of a node's own words an error carries.
const MAX_MESSAGE_CHARS: usize = 300;

const METHOD_NOT_FOUND: i64 = -32601;
const CHECK_URL: &str = "check that `url` is the address of a JSON-RPC endpoint";

/// An answer that is not an error.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The whole answer.
    pub body: Bytes,
    /// Whether the result is null.
    pub is_null: bool,
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The node answered with an error object.
    Rpc {
        /// The error's code.
        code: i64,
        /// The node's words, without secrets.
        message: String,
    },
    /// There is no answer, or none that is JSON-RPC.
    Source(SourceError),
}

/// A node that can be called.
pub(crate) struct Client {
    provider: String,
    /// What messages call the node.
    address: String,
    secrets: Vec<String>,
    transport: Transport,
    next_id: AtomicU64,
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
            address: transport::address(&config.url),
            secrets: secrets(&config),
            provider: config.provider,
            transport,
            next_id: AtomicU64::new(1),
        })
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Calls a method; `params` is a JSON array.
    pub async fn call(&self, method: &str, params: &str) -> Result<Reply, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
        let Response { status, body } = self.send(Request { body, ids: id..id + 1 }).await?;
        if status.is_success() { self.reply(body) } else { Err(self.bad_status(status, &body)) }
    }

    async fn send(&self, request: Request) -> Result<Response, CallError> {
        self.transport.send(request).await.map_err(|failure| {
            CallError::Source(match failure {
                Failure::Unavailable(why) => self.unavailable(self.clean(&why)),
                Failure::Refused(why) => self.refused(self.clean(&why)),
            })
        })
    }

    /// What an error object means to the caller.
    pub fn rpc_error(&self, method: &str, code: i64, message: &str) -> SourceError {
        if code == METHOD_NOT_FOUND {
            self.refused(format!("it does not have the method `{method}`: {message}"))
        } else {
            self.unavailable(format!("`{method}` failed: {message} ({code})"))
        }
    }

    /// The answer may be had later.
    pub fn unavailable(&self, why: String) -> SourceError {
        SourceError::Unavailable { provider: self.provider.clone(), source: why.into() }
    }

    fn refused(&self, why: String) -> SourceError {
        SourceError::Refused { provider: self.provider.clone(), why }
    }

    fn reply(&self, body: Bytes) -> Result<Reply, CallError> {
        if !looks_like_json(&body) {
            return Err(CallError::Source(
                self.refused(format!("it does not answer with JSON; {CHECK_URL}")),
            ));
        }
        if body.len() > SMALL_BYTES {
            return Ok(Reply { body, is_null: false });
        }
        let answer: Answer<'_, IgnoredAny> = match sonic_rs::from_slice(&body) {
            Ok(answer) => answer,
            Err(error) if error.is_unmatched_type() => {
                let why = format!("it does not answer as JSON-RPC does; {CHECK_URL}");
                return Err(CallError::Source(self.refused(why)));
            }
            Err(_) => {
                let why = "the answer is not JSON to its end".to_owned();
                return Err(CallError::Source(self.unavailable(why)));
            }
        };
        if let Some(error) = answer.error {
            return Err(CallError::Rpc { code: error.code, message: self.clean(&error.message) });
        }
        let is_null = answer.result.is_none();
        Ok(Reply { body, is_null })
    }

    fn bad_status(&self, status: StatusCode, body: &[u8]) -> CallError {
        let said = sonic_rs::from_slice::<Answer<'_, IgnoredAny>>(body).ok().and_then(|answer| answer.error);
        let words =
            said.as_ref().map(|error| format!(": {}", self.clean(&error.message))).unwrap_or_default();
        let error = match status.as_u16() {
            401 | 403 => self.refused(format!(
                "it answers HTTP {status}{words}; check `auth_token`, `auth_header` and the key in `url`"
            )),
            408 | 425 | 429 | 500.. => self.unavailable(format!("it answers HTTP {status}{words}")),
            300..=399 => {
                self.refused(format!("it answers HTTP {status}, a redirection; set `url` to where it leads"))
            }
            _ => match said {
                Some(error) => {
                    return CallError::Rpc { code: error.code, message: self.clean(&error.message) };
                }
                None => self.refused(format!("it answers HTTP {status}; {CHECK_URL}")),
            },
        };
        CallError::Source(error)
    }

    /// The words of a node, cut short, on one line and without the secrets that it may repeat.
    fn clean(&self, words: &str) -> String {
        let mut words = words.to_owned();
        for secret in &self.secrets {
            words = words.replace(secret, "***");
        }
        words.chars().take(MAX_MESSAGE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// What a node's words must be cleaned of, longest first.
fn secrets(config: &EvmRpcConfig) -> Vec<String> {
    let url = &config.url;
    if transport::is_path(url) {
        return vec![];
    }
    let mut secrets: Vec<String> = vec![url.username().to_owned(), url.path().to_owned()];
    secrets.extend(url.password().map(str::to_owned));
    secrets.extend(url.query().map(str::to_owned));
    secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
    // Short parts of a path, such as `v3`, are no keys, and words that a node may well say.
    secrets
        .extend(url.path_segments().into_iter().flatten().filter(|part| part.len() >= 8).map(str::to_owned));
    secrets.extend(config.auth_token.clone());
    secrets.retain(|secret| secret.len() > 3);
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

fn looks_like_json(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()).is_none_or(|byte| *byte == b'{')
}

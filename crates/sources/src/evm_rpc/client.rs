//! One JSON-RPC call over HTTP, and what its failures mean.
//!
//! An address may hold a key in its path, its query or before its host. So nothing of it but the
//! host is ever shown, and what a node says is cleaned of it before it is passed on.

use std::{
    error::Error,
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use serde::de::IgnoredAny;
use url::{Host, Url};

use super::EvmRpcConfig;
use crate::{error::SourceError, evm::Answer};

/// Answers up to this size are looked through at once; an error object or null is never larger.
const SMALL_BYTES: usize = 16 << 10;
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 512 << 20;
/// The most that is made room for before it has arrived.
const MAX_RESERVED_BYTES: u64 = 16 << 20;
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
    /// Host and port, for messages.
    address: String,
    url: Url,
    timeout: Duration,
    secrets: Vec<String>,
    http: reqwest::Client,
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
        let refused = |why: String| SourceError::Refused { provider: config.provider.clone(), why };
        let scheme = config.url.scheme();
        if !matches!(scheme, "http" | "https") {
            return Err(refused(format!(
                "the scheme of `url` is `{scheme}`; those that work are http and https"
            )));
        }
        let headers = auth_headers(&config).map_err(refused)?;
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .redirect(Policy::none())
            .timeout(config.timeout)
            .http2_adaptive_window(true)
            // Unpacking costs more than a loopback connection does.
            .gzip(!is_loopback(&config.url))
            .build()
            .map_err(|error| refused(format!("no HTTP client can be made: {}", root_cause(&error))))?;
        Ok(Self {
            address: address(&config.url),
            secrets: secrets(&config),
            provider: config.provider,
            url: config.url,
            timeout: config.timeout,
            http,
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
        let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
        let post = self.http.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(request);
        let mut response = post.send().await.map_err(|error| self.transport(&error))?;
        let status = response.status();
        let body = self.read(&mut response).await?;
        if status.is_success() { self.reply(body) } else { Err(self.bad_status(status, &body)) }
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

    async fn read(&self, response: &mut reqwest::Response) -> Result<Bytes, CallError> {
        let expected = response.content_length().unwrap_or(0).min(MAX_RESERVED_BYTES);
        let mut body = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                let why = format!("an answer has more than {} MiB", MAX_ANSWER_BYTES >> 20);
                return Err(CallError::Source(self.refused(why)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
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

    fn transport(&self, error: &reqwest::Error) -> CallError {
        let (address, cause) = (&self.address, self.clean(&root_cause(error)));
        let why = if error.is_timeout() {
            format!("{address} gave no answer within {:?}", self.timeout)
        } else if is_refused(error) {
            format!("nothing listens at {address}")
        } else if error.is_dns() {
            format!("the name of {address} cannot be resolved: {cause}")
        } else if error.is_connect() {
            format!("no connection to {address} can be made: {cause}")
        } else {
            format!("the connection to {address} broke: {cause}")
        };
        CallError::Source(self.unavailable(why))
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

fn auth_headers(config: &EvmRpcConfig) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let (name, value) = match (&config.auth_header, &config.auth_token) {
        (None, None) => return Ok(headers),
        (Some(_), None) => return Err("`auth_header` is set without `auth_token`".into()),
        (None, Some(token)) => (AUTHORIZATION, format!("Bearer {token}")),
        (Some(header), Some(token)) => {
            let name = HeaderName::from_bytes(header.as_bytes());
            (name.map_err(|_| format!("`auth_header` is not a header's name: `{header}`"))?, token.clone())
        }
    };
    let mut value = HeaderValue::from_str(&value)
        .map_err(|_| "`auth_token` has characters that a header cannot carry".to_owned())?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}

/// What a node's words must be cleaned of, longest first.
fn secrets(config: &EvmRpcConfig) -> Vec<String> {
    let url = &config.url;
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

fn address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn looks_like_json(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()).is_none_or(|byte| *byte == b'{')
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The innermost cause. Outer ones may show the address.
fn root_cause(error: &reqwest::Error) -> String {
    let cause = causes(error).skip(1).last();
    cause.map_or_else(|| "the reason is not known".to_owned(), ToString::to_string)
}

fn is_refused(error: &reqwest::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
}

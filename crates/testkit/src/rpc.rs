//! A small JSON-RPC client for tests: what a test asks a node itself, next to what Nozzle asks.
//!
//! It shares no code with Nozzle's own client, so that a mistake in one cannot hide in both.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

/// Long enough for the slowest batch on a busy machine; a node that hangs still fails the test.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One call of a batch: the method's name and its parameters, an array.
pub type Call<'a> = (&'a str, Value);

/// A JSON-RPC client over HTTP that keeps its connections; clones share them.
#[derive(Debug, Clone)]
pub struct RpcClient {
    http: reqwest::Client,
    url: String,
}

/// Ids are drawn from one sequence for all clients, so that an answer to another call is noticed.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

#[derive(Deserialize)]
struct Answer {
    id: Option<u64>,
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<Value>,
}

impl RpcClient {
    /// A client of the node at `url` (`http://…`). Nothing is sent yet.
    pub fn new(url: impl Into<String>) -> anyhow::Result<Self> {
        // reqwest wants a provider even for plain http; another caller may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().context("HTTP client")?;
        Ok(Self { http, url: url.into() })
    }

    /// The node's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// One call; an error answer is an error.
    pub async fn call(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let body = self.post(&request(id, method, &params)).await?;
        let answer: Answer = parse(&body)?;
        decode(answer.into_result(id, method)?.as_ref())
    }

    /// Several calls in one request; the results in the order of the calls. The first error
    /// answer is an error.
    pub async fn batch(&self, calls: &[Call<'_>]) -> anyhow::Result<Vec<Value>> {
        self.batch_raw(calls).await?.iter().map(|raw| decode(raw)).collect()
    }

    /// Like [`RpcClient::batch`], with each result as the very text that the node sent.
    pub async fn batch_raw(&self, calls: &[Call<'_>]) -> anyhow::Result<Vec<Box<RawValue>>> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let first = NEXT_ID.fetch_add(calls.len() as u64, Ordering::Relaxed);
        let requests: Vec<Value> =
            (first..).zip(calls).map(|(id, (method, params))| request(id, method, params)).collect();
        let body = self.post(&Value::Array(requests)).await?;
        let mut answers: Vec<Answer> = parse(&body)?;
        answers.sort_by_key(|answer| answer.id);
        if answers.len() != calls.len() {
            bail!("{} answers to {} calls from {}", answers.len(), calls.len(), self.url);
        }
        let paired = answers.into_iter().zip(first..).zip(calls);
        paired.map(|((answer, id), (method, _))| answer.into_result(id, method)).collect()
    }

    async fn post(&self, body: &Value) -> anyhow::Result<bytes::Bytes> {
        let request =
            self.http.post(&self.url).header(CONTENT_TYPE, "application/json").body(body.to_string());
        let response = request.send().await.with_context(|| format!("ask {}", self.url))?;
        let response = response.error_for_status()?;
        response.bytes().await.with_context(|| format!("read the answer of {}", self.url))
    }
}

fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> anyhow::Result<T> {
    serde_json::from_slice(body).with_context(|| {
        let start = String::from_utf8_lossy(&body[..body.len().min(300)]);
        format!("not a JSON-RPC answer: {start}")
    })
}

fn decode(raw: &RawValue) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(raw.get())?)
}

impl Answer {
    fn into_result(self, id: u64, method: &str) -> anyhow::Result<Box<RawValue>> {
        if let Some(error) = self.error {
            bail!("{method}: {error}");
        }
        if self.id != Some(id) {
            bail!("{method}: the answer has id {:?}, expected {id}", self.id);
        }
        // `"result": null` is read as an absent one.
        Ok(self.result.unwrap_or_else(|| RawValue::NULL.to_owned()))
    }
}

/// Reads a quantity such as `0x1b4` out of an answer.
pub fn quantity(value: &Value) -> anyhow::Result<u64> {
    let text = value.as_str().with_context(|| format!("not a quantity: {value}"))?;
    let digits = text.strip_prefix("0x").with_context(|| format!("not a quantity: {text}"))?;
    u64::from_str_radix(digits, 16).with_context(|| format!("not a quantity: {text}"))
}

/// Writes a quantity as JSON-RPC has it: `0x` and hexadecimal digits without leading zeros.
pub fn hex_quantity(number: impl std::fmt::LowerHex) -> String {
    format!("{number:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_and_written() {
        assert_eq!(quantity(&json!("0x1b4")).expect("a quantity"), 436);
        assert_eq!(hex_quantity(436), "0x1b4");
        assert_eq!(hex_quantity(0), "0x0");
        for wrong in [json!("1b4"), json!("0x"), json!("0xg"), json!(5), json!(null)] {
            assert!(quantity(&wrong).is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn an_error_answer_and_a_foreign_id_are_errors() {
        let answer = |text: &str| serde_json::from_str::<Answer>(text).expect("an answer");
        let result = answer(r#"{"id":7,"result":{"a":1}}"#).into_result(7, "m").expect("a result");
        assert_eq!(result.get(), r#"{"a":1}"#);
        assert_eq!(answer(r#"{"id":7,"result":null}"#).into_result(7, "m").expect("null").get(), "null");
        assert!(answer(r#"{"id":8,"result":1}"#).into_result(7, "m").is_err());
        let error = answer(r#"{"id":7,"error":{"code":-32601}}"#).into_result(7, "m").expect_err("an error");
        assert!(error.to_string().contains("-32601"), "{error}");
    }
}

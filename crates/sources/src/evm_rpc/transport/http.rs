//! JSON-RPC over HTTP.

use std::{
    error::Error,
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap},
    redirect::Policy,
};
use url::Url;

use super::{Failure, MAX_ANSWER_BYTES, Response, address, auth_headers, is_loopback};
use crate::evm_rpc::EvmRpcConfig;

/// The most that is made room for before it has arrived.
const MAX_RESERVED_BYTES: u64 = 16 << 20;

/// A node over HTTP.
pub(crate) struct Http {
    client: Mutex<reqwest::Client>,
    headers: HeaderMap,
    url: Url,
    address: String,
    timeout: Duration,
}

impl Http {
    /// Nothing is sent yet.
    pub fn new(config: &EvmRpcConfig) -> Result<Self, String> {
        let (headers, mut url, timeout) = (auth_headers(config)?, config.url.clone(), config.timeout);
        if headers.contains_key(AUTHORIZATION) {
            // The token is meant; the library would send the login of the address instead. Neither fails
            // where there is a host.
            url.set_username("").ok();
            url.set_password(None).ok();
        }
        let client = new_client(&headers, &url, timeout)
            .map_err(|error| format!("no HTTP client can be made: {}", root_cause(&error)))?;
        Ok(Self { client: Mutex::new(client), headers, address: address(&url), url, timeout })
    }

    /// Posts a body and reads the response.
    pub async fn send(&self, body: String) -> Result<Response, Failure> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let post = client.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        let mut response = post.send().await.map_err(|error| self.failure(&error))?;
        let (status, retry_after) = (response.status(), super::rest_of(response.headers()));
        Ok(Response { status, body: self.read(&mut response).await?, retry_after })
    }

    /// Leaves the connections that are open; requests under way end on them.
    pub fn redial(&self) {
        // It could be made before, and nothing has changed since.
        if let Ok(client) = new_client(&self.headers, &self.url, self.timeout) {
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
        }
    }

    async fn read(&self, response: &mut reqwest::Response) -> Result<Bytes, Failure> {
        let expected = response.content_length().unwrap_or(0).min(MAX_RESERVED_BYTES);
        let mut body = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Failure::Refused(super::too_large()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    fn failure(&self, error: &reqwest::Error) -> Failure {
        let (address, cause) = (&self.address, root_cause(error));
        if error.is_timeout() {
            return super::no_answer(address, self.timeout);
        }
        Failure::Unavailable(if is_refused(error) {
            super::nothing_listens(address)
        } else if is_of_name(error) {
            format!("the name of {address} cannot be resolved: {cause}")
        } else if error.is_connect() {
            format!("no connection to {address} can be made: {cause}")
        } else {
            format!("the connection to {address} broke: {cause}")
        })
    }
}

fn new_client(headers: &HeaderMap, url: &Url, timeout: Duration) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .default_headers(headers.clone())
        .redirect(Policy::none())
        .timeout(timeout)
        .http2_adaptive_window(true)
        // Unpacking costs more than a loopback connection does.
        .gzip(!is_loopback(url))
        .build()
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The innermost cause. Outer ones may show the address.
fn root_cause(error: &reqwest::Error) -> String {
    let cause = causes(error).skip(1).last();
    cause.map_or_else(|| "the reason is not known".to_owned(), ToString::to_string)
}

/// Whether the host's name could not be resolved: only the connector's words tell.
fn is_of_name(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.to_string() == "dns error")
}

fn is_refused(error: &reqwest::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
}

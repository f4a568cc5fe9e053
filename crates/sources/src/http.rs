//! Requests over HTTP, and what their failures mean, in words that hold no more of the address than
//! its host.

use std::{
    error::Error,
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{
    StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use url::Url;

use crate::{
    limit::retry_after,
    secrets::{address, is_loopback},
};

/// The largest answer that is read.
pub(crate) const MAX_ANSWER_BYTES: usize = 512 << 20;
/// What never ends has no timeout of its own; the library wants some number.
const NO_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// The most that is made room for before it has arrived.
const MAX_RESERVED_BYTES: u64 = 16 << 20;

/// How to reach a provider over HTTP.
pub(crate) struct HttpConfig<'a> {
    /// The address; its path and query stay in every request.
    pub url: &'a Url,
    /// How long one request may take.
    pub timeout: Duration,
    /// A secret that is sent with every request.
    pub auth_token: Option<&'a str>,
    /// The header that carries the token as it is; absent: `Authorization: Bearer <token>`.
    pub auth_header: Option<&'a str>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Response {
    /// 200 where the transport has no such thing.
    pub status: StatusCode,
    /// All of it.
    pub body: Bytes,
    /// How long to wait before asking again, where it says so.
    pub retry_after: Option<Duration>,
}

/// Why nothing came back, in words that hold no more of the address than its host.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It may work later.
    Unavailable(String),
    /// Asking again does not help.
    Refused(String),
}

impl Response {
    /// What its status means; `None` where that is success.
    pub fn bad_status(&self) -> Option<BadStatus> {
        Some(match self.status.as_u16() {
            200..=299 => return None,
            401 | 403 => BadStatus::Denied,
            429 => BadStatus::PushesBack,
            503 if self.retry_after.is_some() => BadStatus::PushesBack,
            408 | 425 | 500 | 502.. => BadStatus::Unavailable,
            300..=399 => BadStatus::Redirects,
            _ => BadStatus::Other,
        })
    }
}

/// What a status other than success means, where the body says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadStatus {
    /// Credentials are wrong or missing.
    Denied,
    /// The provider wants fewer requests.
    PushesBack,
    /// It may work later.
    Unavailable,
    /// It is somewhere else.
    Redirects,
    /// The request is not one for it.
    Other,
}

/// A provider over HTTP.
pub(crate) struct Http {
    client: Mutex<reqwest::Client>,
    headers: HeaderMap,
    url: Url,
    address: String,
    timeout: Duration,
}

impl Http {
    /// Nothing is sent yet.
    pub fn new(config: &HttpConfig<'_>) -> Result<Self, String> {
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

    /// Posts JSON to the address and reads the response.
    pub async fn post_json(&self, body: String) -> Result<Response, Failure> {
        let post = self.client().post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        self.send(post).await
    }

    /// Gets a path below the address (`eth/v1/…`, with a query where it has one) and reads the response.
    pub async fn get_json(&self, path: &str) -> Result<Response, Failure> {
        self.send(self.client().get(self.below(path)).header(ACCEPT, "application/json")).await
    }

    /// Begins to get a path below the address that tells of events for as long as it is open. Only its
    /// beginning has the timeout of a request.
    pub async fn open_events(&self, path: &str) -> Result<reqwest::Response, Failure> {
        let get = self.client().get(self.below(path)).header(ACCEPT, "text/event-stream").timeout(NO_TIMEOUT);
        let begun = tokio::time::timeout(self.timeout, get.send()).await;
        begun.map_err(|_| no_answer(&self.address, self.timeout))?.map_err(|error| self.failure(&error))
    }

    fn client(&self) -> reqwest::Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The address with a path behind its own; its query, which may be a key, stays.
    fn below(&self, path: &str) -> Url {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{path}", self.url.path().trim_end_matches('/')));
        if let Some(query) = query {
            let own = self.url.query().map(|own| format!("{own}&")).unwrap_or_default();
            url.set_query(Some(&format!("{own}{query}")));
        }
        url
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Failure> {
        let mut response = request.send().await.map_err(|error| self.failure(&error))?;
        let (status, retry_after) = (response.status(), rest_of(response.headers()));
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
                return Err(Failure::Refused(too_large()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    fn failure(&self, error: &reqwest::Error) -> Failure {
        let (address, cause) = (&self.address, root_cause(error));
        if error.is_timeout() {
            return no_answer(address, self.timeout);
        }
        Failure::Unavailable(if is_refused(error) {
            nothing_listens(address)
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

/// The headers that carry the token. The error says what is wrong.
pub(crate) fn auth_headers(config: &HttpConfig<'_>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let (name, value) = match (config.auth_header, config.auth_token) {
        (None, None) => return Ok(headers),
        (Some(_), None) => return Err("`auth_header` is set without `auth_token`".into()),
        (None, Some(token)) => (AUTHORIZATION, format!("Bearer {token}")),
        (Some(header), Some(token)) => {
            let name = HeaderName::from_bytes(header.as_bytes());
            // It may hold the token by mistake, so it is not repeated.
            let bad = |_| "`auth_header` must be the name of a header alone, such as X-Api-Key".to_owned();
            (name.map_err(bad)?, token.to_owned())
        }
    };
    let mut value = HeaderValue::from_str(&value)
        .map_err(|_| "`auth_token` has characters that a header cannot carry".to_owned())?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}

/// How long to wait before asking again, where the headers say so.
pub(crate) fn rest_of(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

/// What it means that no connection came about.
pub(crate) fn not_connected(address: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => nothing_listens(address),
        _ => format!("no connection to {address} can be made: {error}"),
    }
}

fn nothing_listens(address: &str) -> String {
    format!("nothing listens at {address}; check that the node runs, and its address")
}

/// The failure of a provider that is silent.
pub(crate) fn no_answer(address: &str, timeout: Duration) -> Failure {
    Failure::Unavailable(format!("{address} gave no answer within {timeout:?}"))
}

/// The failure of an answer that is not read to its end.
pub(crate) fn too_large() -> String {
    format!("an answer has more than {} MiB", MAX_ANSWER_BYTES >> 20)
}

//! The connection that gRPC sources share: an endpoint of Firehose or Substreams.
//!
//! An address, a token and a key are secrets: nothing of an address but its host and port is ever shown, and
//! what an endpoint says is cleaned of them before it is passed on.

use std::{sync::Arc, time::Duration};

use prost::Message;
use tokio::{net::TcpStream, time::Instant};
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use url::Url;

use crate::{
    error::SourceError,
    http::not_connected,
    limit::{LimitOptions, Limiter, Throttle},
    pb::google::protobuf::Any,
    secrets,
};

/// The header that carries an API key.
const API_KEY_HEADER: &str = "x-api-key";
/// How often a connection is asked whether it is still there, also while nothing is under way.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(20);
/// How long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Room for what comes while nobody reads, of one stream and of the connection. Blocks have megabytes.
const WINDOW_BYTES: u32 = 4 << 20;
/// How much of an endpoint's own words an error carries.
const MAX_MESSAGE_CHARS: usize = 300;
const CHECK_URL: &str =
    "`url` should look like https://mainnet.eth.streamingfast.io:443 or http://localhost:10015";

/// How to reach an endpoint.
#[derive(Clone)]
pub struct GrpcConfig {
    /// The provider's name, for messages.
    pub provider: String,
    /// `https://host:port` (TLS), `http://host:port` (plaintext), or `host:port`, which is TLS.
    pub url: String,
    /// Sent as `Authorization: Bearer <token>`.
    pub token: Option<String>,
    /// Sent as `x-api-key`.
    pub api_key: Option<String>,
    /// How long one answer may take, and how long a stream may be silent.
    pub timeout: Duration,
    /// The largest message that is taken.
    pub max_message_bytes: usize,
    /// Streams of ranges at a time, at most.
    pub concurrent_request_limit: usize,
    /// How long a call is made again that the endpoint does nothing but push back.
    pub pushback_patience: Duration,
    /// Keeps to the limits together with other sources; absent: by itself.
    pub throttle: Option<Throttle>,
}

impl GrpcConfig {
    /// The defaults: no secrets, 60 seconds, messages of up to 1 GiB, 16 streams, 60 seconds of patience.
    pub fn new(provider: &str, url: &str) -> Self {
        Self {
            provider: provider.to_owned(),
            url: url.to_owned(),
            token: None,
            api_key: None,
            timeout: Duration::from_secs(60),
            max_message_bytes: 1 << 30,
            concurrent_request_limit: 16,
            pushback_patience: Duration::from_secs(60),
            throttle: None,
        }
    }

    /// What keeps to the limits of this source alone.
    pub fn own_throttle(&self) -> Throttle {
        Throttle::new(&LimitOptions {
            requests: self.concurrent_request_limit.clamp(1, tokio::sync::Semaphore::MAX_PERMITS),
            // A stream is not an answer that comes and goes: as many as may be are open from the start.
            is_near: true,
            calls_per_minute: 0,
            patience: self.pushback_patience,
        })
    }
}

impl std::fmt::Debug for GrpcConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcConfig")
            .field("provider", &self.provider)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A connection with the secrets that go with each request.
pub type Service = InterceptedService<Channel, Auth>;

/// An endpoint that can be called. The connection is made when it is first used, and again when it was lost.
#[derive(Clone)]
pub struct Grpc {
    provider: String,
    /// What messages call the endpoint: its host and port.
    address: String,
    service: Service,
    secrets: Vec<String>,
    timeout: Duration,
    limiter: Arc<Limiter>,
    /// The largest message that is taken.
    pub max_message_bytes: usize,
}

impl std::fmt::Debug for Grpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grpc").field("provider", &self.provider).field("address", &self.address).finish()
    }
}

/// Puts the secrets into each request.
#[derive(Debug, Clone)]
pub struct Auth(Vec<(&'static str, MetadataValue<Ascii>)>);

impl Interceptor for Auth {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in &self.0 {
            request.metadata_mut().insert(*name, value.clone());
        }
        Ok(request)
    }
}

impl Grpc {
    /// The endpoint; nothing is sent yet. Must be called within a Tokio runtime. `Refused` are addresses
    /// that are none, and secrets that cannot be sent.
    pub fn connect(config: &GrpcConfig) -> Result<Self, SourceError> {
        let refused = |why: String| SourceError::Refused { provider: config.provider.clone(), why };
        let url = address(&config.url).map_err(&refused)?;
        let auth = auth(config).map_err(&refused)?;
        let channel = channel(&url).map_err(|error| refused(format!("{error}; {CHECK_URL}")))?;
        let mut secrets: Vec<_> = [&config.token, &config.api_key].into_iter().flatten().cloned().collect();
        secrets.extend(url.password().map(str::to_owned));
        secrets.push(url.username().to_owned());
        secrets.retain(|secret| secret.len() > 3);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Self {
            provider: config.provider.clone(),
            address: secrets::address(&url),
            service: InterceptedService::new(channel, auth),
            secrets,
            timeout: config.timeout,
            limiter: config.throttle.clone().unwrap_or_else(|| config.own_throttle()).limiter().clone(),
            max_message_bytes: config.max_message_bytes,
        })
    }

    /// What the generated clients call.
    pub fn service(&self) -> Service {
        self.service.clone()
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// What lets streams of ranges through.
    pub(crate) fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// Makes a call once the endpoint wants one, and for a while again where it only pushes back. The answer may
    /// take no longer than the timeout. That of a stream is its first message: see [`Messages::begin`].
    pub async fn call<T, F>(&self, what: &str, call: impl Fn() -> F) -> Result<T, SourceError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut pushed_back_since = None;
        loop {
            let sent = match self.limiter.ready(1).await {
                Ok(sent) => sent,
                Err(rest) => return Err(self.busy(rest.to_string())),
            };
            let status = match self.in_time(what, call()).await? {
                Ok(answer) => {
                    self.limiter.kept_up(sent);
                    return Ok(answer);
                }
                Err(status) => status,
            };
            // A connection that fails says the same, and has a cause.
            let is_busy = status.code() == Code::Unavailable && std::error::Error::source(&status).is_none();
            if !is_busy && status.code() != Code::ResourceExhausted {
                return Err(self.error(what, &status));
            }
            self.pushed_back(&status, sent);
            if !self.limiter.has_patience(*pushed_back_since.get_or_insert_with(Instant::now)) {
                return Err(self.busy(self.said(what, &status)));
            }
        }
    }

    /// Waits for the next message of a stream that has begun, no longer than the timeout.
    pub async fn next<T>(&self, what: &str, messages: &mut Messages<T>) -> Result<Option<T>, SourceError> {
        let begun = messages.begun;
        self.in_time(what, messages.next()).await?.map_err(|status| self.broken_off(what, &status, begun))
    }

    /// What a stream that was begun then has ended with.
    fn broken_off(&self, what: &str, status: &Status, begun: Instant) -> SourceError {
        if status.code() == Code::ResourceExhausted {
            // Streams that were open together are pushed back together, which is news once.
            self.pushed_back(status, begun);
        }
        self.error(what, status)
    }

    async fn in_time<T>(&self, what: &str, answer: impl Future<Output = T>) -> Result<T, SourceError> {
        tokio::time::timeout(self.timeout, answer).await.map_err(|_| {
            let secs = self.timeout.as_secs_f64();
            self.unavailable(format!("{what}: {} was silent for {secs} seconds", self.address))
        })
    }

    fn pushed_back(&self, status: &Status, sent: Instant) {
        self.limiter.pushed_back(&self.provider, &self.clean(status), sent, rest(status.details()));
    }

    /// What a failed call means to whoever asked for blocks; `what` is what was asked.
    pub fn error(&self, what: &str, status: &Status) -> SourceError {
        let why = self.said(what, status);
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                self.refused(format!("{why}; check its `token` or `api_key`"))
            }
            Code::Unimplemented => {
                self.refused(format!("{why}; check that `url` is the address of such an endpoint"))
            }
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => self.refused(why),
            // The endpoint may do better next time, or its words do not say.
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => self.unavailable(why),
        }
    }

    /// A failure in words: the endpoint's own, or those of the connection.
    fn said(&self, what: &str, status: &Status) -> String {
        let (address, words) = (&self.address, self.clean(status));
        match std::error::Error::source(status) {
            Some(_) => format!("{what}: the connection to {address} failed: {words}"),
            None => format!("{what}: {address} says: {words} ({:?})", status.code()),
        }
    }

    fn busy(&self, why: String) -> SourceError {
        SourceError::PushedBack { provider: self.provider.clone(), why }
    }

    /// It may work later.
    pub fn unavailable(&self, why: String) -> SourceError {
        SourceError::Unavailable { provider: self.provider.clone(), source: why.into() }
    }

    /// Asking again does not help.
    pub fn refused(&self, why: String) -> SourceError {
        SourceError::Refused { provider: self.provider.clone(), why }
    }

    /// An endpoint's words and their causes, without secrets.
    fn clean(&self, status: &Status) -> String {
        let causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
        let mut words = status.message().to_owned();
        for cause in causes.map(ToString::to_string) {
            if !words.contains(&cause) {
                words = if words.is_empty() { cause } else { format!("{words}: {cause}") };
            }
        }
        for secret in &self.secrets {
            words = words.replace(secret, "***");
        }
        words.chars().take(MAX_MESSAGE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// A stream whose first message has come.
#[derive(Debug)]
pub struct Messages<T> {
    /// When it was asked for.
    begun: Instant,
    /// The first one until it is asked for: `None` of a stream that has ended without any.
    first: Option<Option<T>>,
    stream: Streaming<T>,
}

impl<T> Messages<T> {
    /// Waits for the first message. Endpoints say yes to a call before they look at it, and then say in the place
    /// of the first message that they are busy, or do not know the caller: until that has come a stream is a call
    /// without an answer.
    pub async fn begin(
        answer: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    ) -> Result<Self, Status> {
        let begun = Instant::now();
        let mut stream = answer.await?.into_inner();
        Ok(Self { begun, first: Some(stream.message().await?), stream })
    }

    /// The next message; `None` once the stream is over.
    async fn next(&mut self) -> Result<Option<T>, Status> {
        match self.first.take() {
            Some(first) => Ok(first),
            None => self.stream.message().await,
        }
    }
}

/// `google.rpc.Status`, as far as it is read.
#[derive(Clone, PartialEq, Message)]
struct Detailed {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The rest that an endpoint asks for in the details of its status.
fn rest(details: &[u8]) -> Option<Duration> {
    let details = Detailed::decode(details).ok()?.details;
    let info = details.iter().find(|any| any.type_url.rsplit('/').next() == Some("google.rpc.RetryInfo"))?;
    let Delay { seconds, nanos } = RetryInfo::decode(&info.value[..]).ok()?.delay?;
    Some(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?.min(999_999_999)))
}

/// Reads an address. It may hold a secret, so a bad one is not repeated.
fn address(text: &str) -> Result<Url, String> {
    let bad = || format!("its `url` is not valid; {CHECK_URL}");
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = Url::parse(&whole).map_err(|_| bad())?;
    let is_known = matches!(url.scheme(), "http" | "https");
    if !is_known || url.host_str().is_none_or(str::is_empty) {
        return Err(bad());
    }
    Ok(url)
}

/// Refuses an address that [`Grpc::connect`] would refuse.
pub fn check_url(text: &str) -> Result<(), String> {
    address(text).map(drop)
}

/// Connects to an address and sends nothing; the error says why that cannot be done.
pub async fn reach(text: &str) -> Result<(), String> {
    let address = secrets::address(&address(text)?);
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await {
        Ok(connected) => connected.map(drop).map_err(|error| not_connected(&address, &error)),
        Err(_) => Err(format!("no connection to {address} has come about within {CONNECT_TIMEOUT:?}")),
    }
}

fn auth(config: &GrpcConfig) -> Result<Auth, String> {
    let mut headers = vec![];
    let bearer = config.token.as_ref().map(|token| ("authorization", "token", format!("Bearer {token}")));
    let key = config.api_key.as_ref().map(|key| (API_KEY_HEADER, "api_key", key.clone()));
    for (header, name, value) in bearer.into_iter().chain(key) {
        let mut value = MetadataValue::try_from(value)
            .map_err(|_| format!("its `{name}` has characters that cannot be sent in a header"))?;
        value.set_sensitive(true);
        headers.push((header, value));
    }
    Ok(Auth(headers))
}

fn channel(url: &Url) -> Result<Channel, tonic::transport::Error> {
    let host = url.host_str().unwrap_or_default();
    let default_port = if url.scheme() == "https" { 443 } else { 80 };
    let origin = format!("{}://{host}:{}", url.scheme(), url.port().unwrap_or(default_port));
    let mut endpoint = Endpoint::from_shared(origin)?
        .user_agent(concat!("nozzle/", env!("CARGO_PKG_VERSION")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES);
    if url.scheme() == "https" {
        endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
    }
    Ok(endpoint.connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grpc(config: &GrpcConfig) -> Grpc {
        Grpc::connect(config).expect("a good configuration")
    }

    #[test]
    fn addresses_are_of_http_and_without_a_scheme_of_tls() {
        for (text, expected) in [
            ("http://localhost:10015", "http://localhost:10015/"),
            ("https://eth.example", "https://eth.example/"),
            ("mainnet.eth.example:443", "https://mainnet.eth.example/"),
            ("127.0.0.1:9000", "https://127.0.0.1:9000/"),
        ] {
            assert_eq!(address(text).expect(text).as_str(), expected);
        }
        for bad in ["", "ftp://host", "https://", "grpc:host", "my secret"] {
            let why = check_url(bad).expect_err(bad);
            assert!(why.contains("should look like") && !why.contains("secret"), "{why}");
        }
    }

    #[tokio::test]
    async fn errors_say_what_to_do_and_hold_no_secret() {
        let config = GrpcConfig {
            token: Some("tok-en-1234".into()),
            api_key: Some("key-5678".into()),
            ..GrpcConfig::new("p", "http://user:word@localhost:1")
        };
        let grpc = grpc(&config);
        let error = |code| grpc.error("the blocks", &Status::new(code, "no tok-en-1234, key-5678 or word\n"));
        for (code, may_pass, words) in [
            (Code::Unauthenticated, false, "check its `token`"),
            (Code::PermissionDenied, false, "`api_key`"),
            (Code::Unimplemented, false, "check that `url`"),
            (Code::InvalidArgument, false, "the blocks: localhost:1 says"),
            (Code::Unavailable, true, "(Unavailable)"),
            (Code::ResourceExhausted, true, "no ***, *** or ***"),
            (Code::Internal, true, "***"),
        ] {
            let error = error(code);
            let text = error.with_causes();
            assert!(error.may_pass() == may_pass && text.contains(words), "{text}");
            assert!(!text.contains("1234") && !text.contains("5678") && !text.contains("word"), "{text}");
        }
        let shown = format!("{grpc:?} {config:?}");
        assert!(!shown.contains("1234") && !shown.contains("word"), "{shown}");
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_sent_is_refused_without_being_shown() {
        let config =
            GrpcConfig { api_key: Some("a\nb".into()), ..GrpcConfig::new("p", "http://localhost:1") };
        let error = Grpc::connect(&config).expect_err("a line break").to_string();
        assert!(error.contains("`api_key`") && !error.contains("a\nb"), "{error}");
    }

    #[tokio::test]
    async fn an_answer_may_take_no_longer_than_the_timeout() {
        let config =
            GrpcConfig { timeout: Duration::from_millis(5), ..GrpcConfig::new("p", "http://localhost:1") };
        let grpc = grpc(&config);
        let error = grpc.call("the head", std::future::pending::<Result<(), Status>>).await;
        let error = error.expect_err("nothing comes");
        assert!(error.may_pass() && error.with_causes().contains("was silent"), "{error:?}");
    }

    /// What an endpoint says that wants a rest.
    fn busy(code: Code, seconds: i64) -> Status {
        let delay = Some(Delay { seconds, nanos: 500_000_000 });
        let value = RetryInfo { delay }.encode_to_vec();
        let info = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: value.into() };
        Status::with_details(code, "slower", Detailed { details: vec![info] }.encode_to_vec().into())
    }

    #[test]
    fn a_rest_is_read_from_the_details() {
        assert_eq!(rest(busy(Code::ResourceExhausted, 7).details()), Some(Duration::from_millis(7_500)));
        for nothing in [&b""[..], b"\x1a", b"\x1a\x02\x0a\x00", busy(Code::Unavailable, -1).details()] {
            assert_eq!(rest(nothing), None);
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_pushes_back_is_asked_more_slowly() {
        let config =
            GrpcConfig { pushback_patience: Duration::from_secs(9), ..GrpcConfig::new("p", "http://h:1") };
        for (status, waits_ms) in [
            (Status::new(Code::ResourceExhausted, "slower"), 250 + 500),
            (Status::new(Code::Unavailable, "slower"), 250 + 500),
            (busy(Code::ResourceExhausted, 0), 2 * 500),
        ] {
            let (grpc, calls) = (grpc(&config), std::cell::Cell::new(0));
            let started = Instant::now();
            let answer = grpc.call("the blocks", async || {
                calls.set(calls.get() + 1);
                if calls.get() <= 2 { Err(status.clone()) } else { Ok(calls.get()) }
            });
            assert_eq!(answer.await.expect("an answer"), 3);
            assert!(started.elapsed().as_millis() >= waits_ms, "{status}");
            assert_eq!(grpc.limiter().further_turns(100).len(), 4, "a half of a half of 16");
        }
        let grpc = grpc(&GrpcConfig { pushback_patience: Duration::ZERO, ..config });
        let answer = grpc.call("the blocks", async || Err::<(), _>(Status::resource_exhausted("slower")));
        let error = answer.await.expect_err("it does nothing else");
        assert!(error.may_pass() && error.with_causes().contains("slower"), "{error:?}");
        // In the middle of a stream it is told to who reads on.
        let grpc = self::grpc(&GrpcConfig::new("p", "http://h:1"));
        for half in [8, 4] {
            let begun = Instant::now();
            for _ in 0..3 {
                let error = grpc.broken_off("a block", &Status::resource_exhausted("slower"), begun);
                assert!(
                    matches!(error, SourceError::Unavailable { .. }),
                    "it was not asked again: {error:?}"
                );
            }
            assert_eq!(grpc.limiter().further_turns(100).len(), half, "they were open together");
        }
    }
}

//! The connection that gRPC sources share: an endpoint of Firehose or Substreams.
//!
//! An address, a token and a key are secrets: nothing of an address but its host is ever shown, and what
//! an endpoint says is cleaned of them before it is passed on.

use std::time::Duration;

use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use url::Url;

use crate::error::SourceError;

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
}

impl GrpcConfig {
    /// The defaults: no secrets, 60 seconds, messages of up to 1 GiB.
    pub fn new(provider: &str, url: &str) -> Self {
        Self {
            provider: provider.to_owned(),
            url: url.to_owned(),
            token: None,
            api_key: None,
            timeout: Duration::from_secs(60),
            max_message_bytes: 1 << 30,
        }
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
    /// What messages call the endpoint.
    host: String,
    service: Service,
    secrets: Vec<String>,
    timeout: Duration,
    /// The largest message that is taken.
    pub max_message_bytes: usize,
}

impl std::fmt::Debug for Grpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grpc").field("provider", &self.provider).field("host", &self.host).finish()
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
        let host = url.host_str().unwrap_or_default().to_owned();
        let channel = channel(&url).map_err(|error| refused(format!("{error}; {CHECK_URL}")))?;
        let mut secrets: Vec<_> = [&config.token, &config.api_key].into_iter().flatten().cloned().collect();
        secrets.extend(url.password().map(str::to_owned));
        secrets.push(url.username().to_owned());
        secrets.retain(|secret| secret.len() > 3);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Self {
            provider: config.provider.clone(),
            host,
            service: InterceptedService::new(channel, auth),
            secrets,
            timeout: config.timeout,
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

    /// Waits for one answer, or the next message of a stream, no longer than the timeout.
    pub async fn answer<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, SourceError> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => answer.map_err(|status| self.error(what, &status)),
            Err(_) => {
                let secs = self.timeout.as_secs_f64();
                Err(self.unavailable(format!("{what}: {} was silent for {secs} seconds", self.host)))
            }
        }
    }

    /// What a failed call means to whoever asked for blocks; `what` is what was asked.
    pub fn error(&self, what: &str, status: &Status) -> SourceError {
        let words = self.clean(status);
        let why = format!("{what}: {} says: {words} ({:?})", self.host, status.code());
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
            (Code::InvalidArgument, false, "the blocks: localhost says"),
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
        let error = grpc.answer("the head", std::future::pending::<Result<(), Status>>()).await;
        let error = error.expect_err("nothing comes");
        assert!(error.may_pass() && error.with_causes().contains("was silent"), "{error:?}");
    }
}

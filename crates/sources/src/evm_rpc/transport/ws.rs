//! JSON-RPC over a WebSocket.

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use rustls_platform_verifier::ConfigVerifierExt;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    Connector, client_async_tls_with_config,
    tungstenite::{
        Error, Message, client::IntoClientRequest, handshake::client::Request, protocol::WebSocketConfig,
    },
};
use url::Url;

use super::socket::{Dial, DialError, Wire};
use crate::{
    evm_rpc::EvmRpcConfig,
    http::{self, Failure, MAX_ANSWER_BYTES, Response, auth_headers},
    secrets::address,
};

/// Where a node takes WebSocket connections.
pub(super) struct Node {
    address: String,
    handshake: Request,
    connector: Connector,
}

impl Node {
    /// Nothing is sent yet.
    pub(super) fn new(config: &EvmRpcConfig) -> Result<Self, String> {
        Ok(Self {
            address: address(&config.url),
            handshake: handshake(&config.url, auth_headers(&config.http())?)?,
            connector: connector(&config.url)?,
        })
    }
}

fn handshake(url: &Url, mut headers: HeaderMap) -> Result<Request, String> {
    if let Some(login) = basic_auth(url)
        && !headers.contains_key(AUTHORIZATION)
    {
        headers.insert(AUTHORIZATION, login);
    }
    let mut plain = url.clone();
    // Neither fails where there is a host, and every address of these schemes has one.
    plain.set_username("").ok();
    plain.set_password(None).ok();
    plain.set_fragment(None);
    let mut request = plain
        .as_str()
        .into_client_request()
        // The error may repeat the address.
        .map_err(|_| "`url` is not an address that a WebSocket can use".to_owned())?;
    request.headers_mut().extend(headers);
    Ok(request)
}

/// The name and the password before the host, as HTTP sends them.
fn basic_auth(url: &Url) -> Option<HeaderValue> {
    let (name, password) = (url.username(), url.password().unwrap_or_default());
    if name.is_empty() && password.is_empty() {
        return None;
    }
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let login = [decoded(name), b":".to_vec(), decoded(password)].concat();
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(login))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// TLS as HTTP has it: the process's provider and the system's certificates.
fn connector(url: &Url) -> Result<Connector, String> {
    if url.scheme() == "ws" {
        return Ok(Connector::Plain);
    }
    let config = rustls::ClientConfig::with_platform_verifier()
        .map_err(|error| format!("no TLS client can be made: {error}"))?;
    Ok(Connector::Rustls(Arc::new(config)))
}

#[async_trait]
impl Dial for Node {
    async fn dial(&self) -> Result<Wire, DialError> {
        let failed = |why| DialError::Failure(Failure::Unavailable(why));
        let stream = TcpStream::connect(&self.address)
            .await
            .map_err(|error| failed(http::not_connected(&self.address, &error)))?;
        // Small requests must not wait for each other.
        stream.set_nodelay(true).map_err(|error| failed(http::not_connected(&self.address, &error)))?;
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_ANSWER_BYTES))
            .max_frame_size(Some(MAX_ANSWER_BYTES));
        let (request, connector) = (self.handshake.clone(), self.connector.clone());
        let connected = client_async_tls_with_config(request, stream, Some(limits), Some(connector)).await;
        let (socket, _) = connected.map_err(|error| match error {
            Error::Http(response) => {
                let (status, retry_after) = (response.status(), http::rest_of(response.headers()));
                let body = response.into_body().unwrap_or_default().into();
                DialError::Response(Response { status, body, retry_after })
            }
            error => failed(format!("no WebSocket to {} can be opened: {error}", self.address)),
        })?;
        let (outgoing, incoming) = socket.split();
        let outgoing = outgoing
            .sink_map_err(|error| words(&error))
            .with(|body: String| std::future::ready(Ok::<_, String>(Message::text(body))));
        let incoming = incoming.filter_map(|message| std::future::ready(bytes_of(message)));
        Ok(Wire { outgoing: Box::pin(outgoing), incoming: incoming.boxed() })
    }
}

/// The bytes of a message that carries some.
fn bytes_of(message: Result<Message, Error>) -> Option<Result<Bytes, String>> {
    match message {
        Ok(Message::Text(text)) => Some(Ok(text.into())),
        Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
        Ok(Message::Close(frame)) => {
            let said = frame.map(|frame| format!(" and says `{frame}`")).unwrap_or_default();
            Some(Err(format!("the node closes it{said}")))
        }
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => None,
        Err(error) => Some(Err(words(&error))),
    }
}

fn words(error: &Error) -> String {
    match error {
        Error::Capacity(_) => http::too_large(),
        Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_carries_the_login_and_not_in_its_address() {
        let url: Url = "ws://user:pass%20word@host:8546/v1?key=x".parse().expect("a URL");
        let request = handshake(&url, HeaderMap::new()).expect("a request");
        assert_eq!(request.uri().to_string(), "ws://host:8546/v1?key=x");
        assert_eq!(request.headers()[AUTHORIZATION], "Basic dXNlcjpwYXNzIHdvcmQ=");
        let token = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Bearer t"))]);
        let request = handshake(&url, token).expect("a request");
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer t");
    }
}

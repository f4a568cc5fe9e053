//! The servers of HTTP: what of it a client may keep others waiting with has its time.

use std::{pin::pin, time::Duration};

use axum::{Router, body::Body};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    error::{ApiError, ErrorCode},
    incoming::{Connection, Incoming, PING_EVERY, PING_TIME},
};

/// How long a client may say nothing at all on a new connection.
pub const SILENCE: Duration = Duration::from_secs(75);

/// How long a client may take for the head of a request, also where it keeps a connection for the next one: some load
/// balancers keep theirs for ten minutes, and must not find one ended that they are about to use.
pub const HEAD_TIME: Duration = Duration::from_secs(630);

/// How long the body of a request may be on its way.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The largest body that is taken.
const MAX_BODY_BYTES: usize = 1 << 20;

/// How much of one that is larger is read, and let go: a client that is cut off while it sends may never see the answer.
const READ_BYTES: usize = 32 << 20;

/// Answers until `stop`, then finishes what it has begun.
pub async fn serve(
    mut incoming: Incoming,
    router: Router,
    head_time: Duration,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(head_time);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIME);
    let connections = TaskTracker::new();
    while let Some(connection) = stop.run_until_cancelled(incoming.accept()).await {
        connections.spawn(answer(connection, builder.clone(), router.clone(), stop.clone()));
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Answers the requests of one connection.
async fn answer(
    connection: Connection,
    builder: Builder<TokioExecutor>,
    router: Router,
    stop: CancellationToken,
) {
    let mut serving =
        pin!(builder.serve_connection(TokioIo::new(connection), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// The whole body of a request.
pub async fn body(body: Body) -> Result<Bytes, ApiError> {
    body_within(body, BODY_TIME).await
}

async fn body_within(body: Body, time: Duration) -> Result<Bytes, ApiError> {
    let late = |_| {
        let message = format!("the body of the request was not there after {} s", time.as_secs_f64());
        ApiError::new(ErrorCode::RequestTimeout, message)
    };
    let too_large = || {
        let message = format!("the body is larger than {MAX_BODY_BYTES} bytes");
        ApiError::new(ErrorCode::PayloadTooLarge, message)
    };
    let broken = |error| {
        let message = format!("the body of the request cannot be read: {error}");
        ApiError::new(ErrorCode::SqlParseError, message)
    };
    timeout(time, whole(body)).await.map_err(late)?.map_err(broken)?.ok_or_else(too_large)
}

/// All of a body; `None` of one that is too large.
async fn whole(body: Body) -> Result<Option<Bytes>, axum::Error> {
    let (mut whole, mut read) = (BytesMut::new(), 0_usize);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.try_next().await? {
        read = read.saturating_add(chunk.len());
        if read > READ_BYTES {
            break;
        }
        if read > MAX_BODY_BYTES {
            whole = BytesMut::new();
        } else {
            whole.extend_from_slice(&chunk);
        }
    }
    Ok((read <= MAX_BODY_BYTES).then(|| whole.freeze()))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::{extract::Request, routing::post};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        task::JoinHandle,
    };

    use super::*;

    /// How long what is waited for may take at most.
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn started(time: Duration) -> (SocketAddr, CancellationToken, JoinHandle<anyhow::Result<()>>) {
        let echo = async move |request: Request| body_within(request.into_body(), time).await;
        let router = Router::new().route("/", post(echo));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let incoming = Incoming::new(listener, None, time);
        (address, stop.clone(), tokio::spawn(serve(incoming, router, time, stop)))
    }

    /// What the server says to this until it ends the connection.
    async fn said(address: SocketAddr, sent: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(sent.as_bytes()).await.expect("it is taken");
        let mut answer = vec![];
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is let go").ok();
        String::from_utf8(answer).expect("text")
    }

    #[tokio::test]
    async fn who_does_not_go_on_is_let_go() {
        let (address, stop, server) = started(Duration::from_millis(200)).await;
        let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n";
        for silent in ["", "POST", "PRI * HTTP/2.0", &head[..30]] {
            assert_eq!(said(address, silent).await, "", "{silent:?}");
        }
        let half = said(address, &format!("{head}ab")).await;
        assert!(half.starts_with("HTTP/1.1 408 ") && half.contains("REQUEST_TIMEOUT"), "{half}");
        // The next request does not come.
        let whole = said(address, &format!("{head}abcd")).await;
        assert!(whole.starts_with("HTTP/1.1 200 ") && whole.ends_with("\r\n\r\nabcd"), "{whole}");
        stop.cancel();
        assert!(timeout(PATIENCE, server).await.expect("it ends").expect("without a panic").is_ok());
    }

    #[tokio::test]
    async fn who_sends_too_much_sees_the_answer() {
        let (address, _stop, _server) = started(PATIENCE).await;
        let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8388608\r\n\r\n";
        let refused = said(address, &format!("{head}{}", "x".repeat(8 << 20))).await;
        assert!(refused.starts_with("HTTP/1.1 413 ") && refused.contains("PAYLOAD_TOO_LARGE"), "{refused}");
    }

    #[tokio::test]
    async fn what_was_begun_is_answered_before_the_end() {
        let (address, stop, server) = started(PATIENCE).await;
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let head = "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("it is taken");
        // Whoever waits for the body says so.
        let mut answer = vec![0; 4 << 10];
        let read = stream.read(&mut answer).await.expect("an answer");
        assert!(answer[..read].starts_with(b"HTTP/1.1 100"));
        stop.cancel();
        stream.write_all(b"abcd").await.expect("it is taken");
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("abcd"), "{answer}");
        assert!(timeout(PATIENCE, server).await.expect("it ends").expect("without a panic").is_ok());
        assert!(TcpStream::connect(address).await.is_err(), "it still listens");
    }
}

//! The source over a WebSocket and over IPC, against a node's side that each test plays.

use futures::SinkExt;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::{
    Message,
    handshake::server::{Request, Response},
};

use super::*;

/// The node's side of a connection. Dropping it cuts the connection.
struct Peer {
    requests: mpsc::UnboundedReceiver<Value>,
    answers: mpsc::UnboundedSender<String>,
    /// What the handshake carried as `authorization`.
    authorization: Option<String>,
}

/// A node whose connections a test plays.
struct Played {
    url: Url,
    peers: mpsc::UnboundedReceiver<Peer>,
    _folder: Option<TempDir>,
}

impl Played {
    async fn ws() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let (peers_in, peers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(speak_ws(stream, peers_in.clone()));
            }
        });
        Self { url, peers, _folder: None }
    }

    async fn ipc() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.ipc");
        let listener = UnixListener::bind(&path).unwrap();
        let (peers_in, peers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(speak_ipc(stream, peers_in.clone()));
            }
        });
        Self { url: parse_url(path.to_str().unwrap()).unwrap(), peers, _folder: Some(folder) }
    }

    async fn both() -> [Self; 2] {
        [Self::ws().await, Self::ipc().await]
    }

    fn config(&self) -> EvmRpcConfig {
        EvmRpcConfig::new("node", self.url.clone())
    }

    fn source(&self) -> EvmRpc {
        connect(self.config(), Verify::Links).unwrap()
    }

    async fn peer(&mut self) -> Peer {
        self.peers.recv().await.unwrap()
    }
}

#[allow(clippy::result_large_err, reason = "the handshake's callback is of that form")]
async fn speak_ws(stream: TcpStream, peers: mpsc::UnboundedSender<Peer>) {
    let mut authorization = None;
    let note = |request: &Request, response: Response| {
        authorization =
            request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, note).await else { return };
    let (requests_in, requests) = mpsc::unbounded_channel();
    let (answers, mut answers_out) = mpsc::unbounded_channel::<String>();
    peers.send(Peer { requests, answers, authorization }).ok();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(Ok(message)) = message else { return };
                requests_in.send(serde_json::from_str(message.to_text().unwrap()).unwrap()).ok();
            }
            answer = answers_out.recv() => {
                let Some(answer) = answer else { return };
                socket.send(Message::text(answer)).await.unwrap();
            }
        }
    }
}

/// Without anything between the answers, and each in two pieces.
async fn speak_ipc(mut stream: UnixStream, peers: mpsc::UnboundedSender<Peer>) {
    let (requests_in, requests) = mpsc::unbounded_channel();
    let (answers, mut answers_out) = mpsc::unbounded_channel::<String>();
    peers.send(Peer { requests, answers, authorization: None }).ok();
    let (mut reader, mut writer) = stream.split();
    let read = async {
        let mut seen = Vec::new();
        while reader.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {
            let mut values = serde_json::Deserializer::from_slice(&seen).into_iter::<Value>();
            for value in values.by_ref().map_while(Result::ok) {
                requests_in.send(value).ok();
            }
            let read = values.byte_offset();
            seen.drain(..read);
        }
    };
    let write = async {
        while let Some(answer) = answers_out.recv().await {
            let (start, end) = answer.as_bytes().split_at(answer.len() / 2);
            writer.write_all(start).await.unwrap();
            tokio::task::yield_now().await;
            writer.write_all(end).await.unwrap();
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

impl Peer {
    async fn request(&mut self) -> Value {
        self.requests.recv().await.unwrap()
    }

    /// Answers with an id of its own place: in front of the result, or behind it.
    fn answer(&self, request: &Value, result: &Value) {
        let id = &request["id"];
        let answer = if id.as_u64().unwrap().is_multiple_of(2) {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
        } else {
            format!(r#"{{"jsonrpc":"2.0","result":{result},"id":{id}}}"#)
        };
        self.answers.send(answer).unwrap();
    }

    /// Answers as the chain does, and the later of two requests first.
    async fn answer_backwards(mut self) {
        loop {
            let Some(first) = self.requests.recv().await else { return };
            let second = self.requests.try_recv().ok();
            for request in second.iter().chain([&first]) {
                let method = request["method"].as_str().unwrap();
                let answer: Value = serde_json::from_str(&chain(method, &request["params"]).1).unwrap();
                let mut result = answer["result"].clone();
                if method == "eth_getBlockByNumber" {
                    // No answer of a node is small.
                    result["odd"] = json!("x".repeat(200_000));
                }
                self.answer(request, &result);
            }
        }
    }
}

#[tokio::test]
async fn answers_are_told_apart_by_their_ids_however_large_and_late_they_are() {
    for mut node in Played::both().await {
        let source = node.source();
        tokio::spawn(async move { node.peer().await.answer_backwards().await });
        let (numbers, error) = collect(&source, range(10, 109)).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(numbers, (10..=109).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_cut_connection_fails_all_that_wait_and_the_next_request_dials_again() {
    for mut node in Played::both().await {
        let source = node.source();
        let both = async { tokio::join!(source.chain_id(), source.block_id(3)) };
        let cut = async {
            let mut peer = node.peer().await;
            peer.request().await;
            peer.request().await;
        };
        let ((one, other), ()) = tokio::join!(both, cut);
        for error in [one.expect_err("it was cut"), other.map(|_| 0).expect_err("it was cut")] {
            assert!(matches!(error, SourceError::Unavailable { .. }), "{error:?}");
            assert!(text(&error).contains("broke"), "{}", text(&error));
        }
        let again = async {
            let mut peer = node.peer().await;
            let request = peer.request().await;
            peer.answer(&request, &json!("0x5"));
            peer
        };
        let (id, _peer) = tokio::join!(source.chain_id(), again);
        assert_eq!(id.unwrap(), 5);
    }
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    for mut node in Played::both().await {
        let config = EvmRpcConfig { timeout: Duration::from_millis(50), ..node.config() };
        let source = connect(config, Verify::Links).unwrap();
        let error = source.chain_id().await.expect_err("no answer");
        assert!(text(&error).contains("gave no answer within 50ms"), "{}", text(&error));
        let _silent = node.peer().await;
        source.chain_id().await.expect_err("no answer");
        // A second connection has been made.
        let _second = node.peer().await;
    }
}

#[tokio::test]
async fn the_token_is_sent_in_the_handshake() {
    let mut node = Played::ws().await;
    let config = EvmRpcConfig { auth_token: Some("secret".into()), ..node.config() };
    let source = connect(config, Verify::Links).unwrap();
    let answer = async {
        let mut peer = node.peer().await;
        assert_eq!(peer.authorization.as_deref(), Some("Bearer secret"));
        let request = peer.request().await;
        peer.answer(&request, &json!("0x5"));
        peer
    };
    let (id, _peer) = tokio::join!(source.chain_id(), answer);
    assert_eq!(id.unwrap(), 5);
}

#[tokio::test]
async fn a_node_that_takes_no_websocket_says_so() {
    let app = Router::new().fallback(|| async { StatusCode::UNAUTHORIZED });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/v3/topsecretpath1", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    let error = connect(EvmRpcConfig::new("node", url), Verify::Links).unwrap().head().await;
    let error = error.expect_err("it is not let in");
    assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");
    assert!(text(&error).contains("auth_token") && !text(&error).contains("topsecret"), "{}", text(&error));
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let url = parse_url(folder.path().join("geth.ipc").to_str().unwrap()).unwrap();
    let config = EvmRpcConfig::new("node", url);
    let error = connect(config.clone(), Verify::Links).unwrap().head().await.expect_err("nothing is there");
    assert!(text(&error).contains("there is no socket /"), "{}", text(&error));
    assert!(text(&error).contains("geth.ipc"), "{}", text(&error));
    let token = EvmRpcConfig { auth_token: Some("secret".into()), ..config };
    let Err(SourceError::Refused { why, .. }) = connect(token, Verify::Links) else { panic!("no refusal") };
    assert!(why.contains("IPC carries no `auth_token`"), "{why}");
}

#[tokio::test]
async fn a_node_that_can_tells_of_new_heads_also_after_a_reconnect() {
    for mut node in Played::both().await {
        let source = node.source();
        for _ in 0..2 {
            let told = async {
                let mut peer = node.peer().await;
                let request = peer.request().await;
                assert_eq!(
                    (&request["method"], &request["params"]),
                    (&json!("eth_subscribe"), &json!(["newHeads"]))
                );
                peer.answer(&request, &json!("0xcd"));
                let news =
                    json!({"method": "eth_subscription", "params": {"subscription": "0xcd", "result": {}}});
                peer.answers.send(news.to_string()).unwrap();
                peer
            };
            let ((), mut peer) = tokio::join!(source.head_moved(), told);
            // It stays subscribed, and news that came while nobody waited are not lost.
            assert!(source.head_moved().now_or_never().is_none() && peer.requests.try_recv().is_err());
            peer.answers.send(json!({"method": "eth_subscription"}).to_string()).unwrap();
            source.head_moved().await;
        }
    }
}

#[tokio::test]
async fn over_http_nobody_tells_of_new_heads() {
    let node = Node::simple(|_, _| panic!("nothing is asked")).await;
    assert!(node.source().head_moved().now_or_never().is_none());
}

//! The source against a small HTTP server whose answers each test writes.
#![allow(clippy::unwrap_used)]

mod batches;
mod limits;
mod receipts;
mod sockets;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use serde_json::{Value, json};
use tokio::sync::{Barrier, Notify, oneshot};

use super::*;
use crate::{
    evm::tables,
    retry::{Retry, RetryPolicy},
};

/// Longer than any test waits.
const PATIENCE: Duration = Duration::from_secs(120);

type Answer = (StatusCode, String);
type Answers = Arc<dyn Fn(String, Value) -> BoxFuture<'static, Answer> + Send + Sync>;

/// A node on a port of its own; it ends with the test's runtime.
struct Node {
    url: Url,
}

impl Node {
    /// Answers each call by its method and parameters.
    async fn start<F, Fut>(answer: F) -> Self
    where
        F: Fn(String, Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let answers: Answers = Arc::new(move |method, params| answer(method, params).boxed());
        Self::serve(Router::new().fallback(post(call)).with_state(answers)).await
    }

    /// A node whose answers are there at once.
    async fn simple(answer: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(move |method, params| std::future::ready(answer(&method, &params))).await
    }

    /// Answers whole requests, as they are.
    async fn raw(answer: impl Fn(Value) -> Answer + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        let respond = move |body: Bytes| {
            let answer = answer.clone();
            async move { answer(serde_json::from_slice(&body).unwrap()) }
        };
        Self::serve(Router::new().fallback(post(respond))).await
    }

    async fn serve(app: Router) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(axum::serve(listener, app).into_future());
        Self { url }
    }

    fn source(&self) -> EvmRpc {
        connect(EvmRpcConfig::new("node", self.url.clone()), Verify::Links).unwrap()
    }

    fn source_with_limit(&self, limit: usize) -> EvmRpc {
        let config =
            EvmRpcConfig { concurrent_request_limit: limit, ..EvmRpcConfig::new("node", self.url.clone()) };
        connect(config, Verify::Links).unwrap()
    }
}

async fn call(State(answers): State<Answers>, body: Bytes) -> impl IntoResponse {
    let request: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(request["jsonrpc"], "2.0");
    answers(request["method"].as_str().unwrap().to_owned(), request["params"].clone()).await
}

fn connect(config: EvmRpcConfig, verify: Verify) -> Result<EvmRpc, SourceError> {
    // Whichever test comes first installs it.
    rustls::crypto::ring::default_provider().install_default().ok();
    // Whoever waits says so.
    let pushback_patience = if config.pushback_patience == PATIENCE { PATIENCE } else { Duration::ZERO };
    EvmRpc::connect(EvmRpcConfig { pushback_patience, ..config }, tables(), verify)
}

fn result(value: &Value) -> Answer {
    (StatusCode::OK, json!({"jsonrpc": "2.0", "id": 1, "result": value}).to_string())
}

fn rpc_error(code: i64, message: &str) -> Answer {
    (
        StatusCode::OK,
        json!({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": message}}).to_string(),
    )
}

fn hash_text(number: u64) -> String {
    format!("0x{number:064x}")
}

fn hash(number: u64) -> nozzle_core::BlockHash {
    hash_text(number).parse().unwrap()
}

/// A block whose hash is its number plus one, with one transaction.
fn block(number: u64) -> Value {
    let word = hash_text(0);
    let address = format!("0x{}", "00".repeat(20));
    json!({
        "number": format!("{number:#x}"), "hash": hash_text(number + 1), "parentHash": hash_text(number),
        "sha3Uncles": word, "miner": address, "stateRoot": word, "transactionsRoot": word,
        "receiptsRoot": word, "difficulty": "0x0", "gasLimit": "0x1", "gasUsed": "0x1",
        "timestamp": "0x1", "extraData": "0x",
        "transactions": [{
            "hash": hash_text(number + 1000), "transactionIndex": "0x0", "from": address, "nonce": "0x0",
            "gas": "0x1", "input": "0x", "value": "0x1",
        }],
    })
}

fn receipts(number: u64) -> Value {
    json!([{
        "transactionHash": hash_text(number + 1000), "transactionIndex": "0x0",
        "blockHash": hash_text(number + 1), "status": "0x1", "gasUsed": "0x1", "cumulativeGasUsed": "0x1",
        "logs": [],
    }])
}

fn number_of(text: &Value) -> u64 {
    u64::from_str_radix(text.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

/// What a node with a chain answers; receipts by hash.
fn chain(method: &str, params: &Value) -> Answer {
    match method {
        "eth_getBlockByNumber" => result(&block(number_of(&params[0]))),
        "eth_getBlockReceipts" => result(&receipts(number_of(&params[0]) - 1)),
        _ => rpc_error(-32601, "no such method"),
    }
}

fn range(start: u64, end: u64) -> BlockRange {
    BlockRange::new(start, end).unwrap()
}

/// The numbers received, and the error at the end.
async fn collect(source: &EvmRpc, wanted: BlockRange) -> (Vec<u64>, Option<SourceError>) {
    let mut stream = source.blocks(wanted);
    let (mut numbers, mut error) = (Vec::new(), None);
    while let Some(item) = stream.next().await {
        assert!(error.is_none(), "nothing comes after an error");
        match item {
            Ok(rows) => {
                assert_eq!(rows.blocks.len() as u64, rows.range.len());
                assert_eq!(rows.tables[1].batch.num_rows(), rows.blocks.len());
                numbers.extend(rows.blocks.iter().map(|block| block.number));
            }
            Err(last) => error = Some(last),
        }
    }
    (numbers, error)
}

/// The error of a stream that gives nothing else.
async fn error_of(source: &EvmRpc) -> SourceError {
    let (numbers, error) = collect(source, range(3, 3)).await;
    assert!(numbers.is_empty());
    error.expect("an error")
}

/// An error with its cause, as a person would read it.
fn text(error: &SourceError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

#[tokio::test]
async fn blocks_come_in_order_even_if_the_first_answers_are_the_last() {
    let (first, rest) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let node = Node::start(move |method, params| {
        let (first, rest) = (first.clone(), rest.clone());
        async move {
            let number = number_of(&params[0]);
            if method == "eth_getBlockByNumber" && number == 10 {
                // The first block answers once four others have.
                first.notified().await;
            } else if method == "eth_getBlockReceipts" && rest.fetch_add(1, Ordering::SeqCst) == 3 {
                first.notify_one();
            }
            chain(&method, &params)
        }
    })
    .await;
    let (numbers, error) = collect(&node.source(), range(10, 309)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(numbers, (10..=309).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_limit_of_requests_holds_over_all_streams_and_is_reached() {
    const LIMIT: usize = 4;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let full = Arc::new(Barrier::new(LIMIT));
    let seen = most.clone();
    let node = Node::start(move |method, params| {
        let (now, most, full) = (now.clone(), most.clone(), full.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            if method == "eth_getBlockByNumber" {
                // Nobody goes on before as many requests as may be are under way.
                full.wait().await;
            }
            now.fetch_sub(1, Ordering::SeqCst);
            chain(&method, &params)
        }
    })
    .await;
    let source = node.source_with_limit(LIMIT);
    let streams = tokio::join!(collect(&source, range(1, 20)), collect(&source, range(101, 120)));
    assert!(streams.0.1.is_none() && streams.1.1.is_none(), "{streams:?}");
    assert_eq!((streams.0.0.len(), streams.1.0.len()), (20, 20));
    assert_eq!(seen.load(Ordering::SeqCst), LIMIT);
}

#[tokio::test]
async fn receipts_are_asked_for_by_hash() {
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = asked.clone();
    let node = Node::simple(move |method, params| {
        asked.lock().unwrap().insert(format!("{method}{params}"));
        chain(method, params)
    })
    .await;
    let (numbers, error) = collect(&node.source(), range(3, 3)).await;
    assert_eq!((numbers, error.is_none()), (vec![3], true));
    let by_hash = format!(r#"eth_getBlockReceipts["{}"]"#, hash_text(4));
    let expected = [r#"eth_getBlockByNumber["0x3",true]"#.to_owned(), by_hash];
    assert_eq!(*seen.lock().unwrap(), BTreeSet::from(expected));
}

#[tokio::test]
async fn a_node_that_takes_no_hash_is_asked_by_number_and_remembered() {
    let by_hash = Arc::new(AtomicUsize::new(0));
    let seen = by_hash.clone();
    let node = Node::simple(move |method, params| {
        let what = params[0].as_str().unwrap();
        if method == "eth_getBlockReceipts" && what.len() == 66 {
            by_hash.fetch_add(1, Ordering::SeqCst);
            return rpc_error(-32602, "invalid argument 0: hex string has length 64");
        }
        match method {
            "eth_getBlockReceipts" => result(&receipts(number_of(&params[0]))),
            _ => chain(method, params),
        }
    })
    .await;
    let source = node.source_with_limit(1);
    let (numbers, error) = collect(&source, range(3, 9)).await;
    assert_eq!((numbers.len(), error.is_none()), (7, true), "{error:?}");
    assert_eq!(collect(&source, range(3, 9)).await.0.len(), 7);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn receipts_of_another_fork_are_missing_receipts() {
    let node = Node::simple(|method, params| match method {
        "eth_getBlockReceipts" if params[0].as_str().unwrap().len() == 66 => rpc_error(-32602, "no hashes"),
        "eth_getBlockReceipts" => result(&receipts(77)),
        _ => chain(method, params),
    })
    .await;
    let error = error_of(&node.source()).await;
    assert!(matches!(error, SourceError::Missing { block: 3, .. }), "{error:?}");
}

#[tokio::test]
async fn receipts_that_no_column_needs_are_not_asked_for() {
    let node = Node::simple(|method, params| {
        assert_eq!(method, "eth_getBlockByNumber");
        chain(method, params)
    })
    .await;
    rustls::crypto::ring::default_provider().install_default().ok();
    let blocks = vec![tables().remove(0)];
    let source = EvmRpc::connect(EvmRpcConfig::new("node", node.url.clone()), blocks, Verify::Links).unwrap();
    assert_eq!(source.tables().len(), 1);
    let rows: Vec<_> = source.blocks(range(0, 5)).collect().await;
    assert_eq!(rows.iter().map(|rows| rows.as_ref().unwrap().blocks.len()).sum::<usize>(), 6);
}

#[tokio::test]
async fn the_blocks_before_a_bad_one_come_before_its_error() {
    let node = Node::simple(|method, params| match (method, number_of(&params[0])) {
        ("eth_getBlockByNumber", 150) => result(&json!(null)),
        _ => chain(method, params),
    })
    .await;
    let (numbers, error) = collect(&node.source(), range(100, 200)).await;
    assert_eq!(numbers, (100..150).collect::<Vec<_>>());
    assert!(matches!(error, Some(SourceError::Missing { block: 150, what: "the block", .. })), "{error:?}");
}

#[tokio::test]
async fn a_block_of_another_chain_is_not_linked() {
    for limit in [1, 64] {
        let node = Node::simple(|method, params| match (method, number_of(&params[0])) {
            ("eth_getBlockByNumber", 150) => {
                let mut other = block(150);
                other["parentHash"] = json!(hash_text(9));
                result(&other)
            }
            _ => chain(method, params),
        })
        .await;
        let (numbers, error) = collect(&node.source_with_limit(limit), range(100, 200)).await;
        assert_eq!(numbers, (100..150).collect::<Vec<_>>());
        let Some(SourceError::NotLinked { block: 150, expected, found }) = error else {
            panic!("{error:?}");
        };
        assert_eq!((expected, found), (hash(150), hash(9)));
    }
}

#[tokio::test]
async fn the_link_is_checked_between_groups_too() {
    let (started, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let held = (started.clone(), go_on.clone());
    let node = Node::start(move |method, params| {
        let (started, go_on) = held.clone();
        async move {
            if method == "eth_getBlockByNumber" && number_of(&params[0]) == 1 {
                started.notify_one();
                go_on.notified().await;
                let mut other = block(1);
                other["parentHash"] = json!(hash_text(9));
                return result(&other);
            }
            chain(&method, &params)
        }
    })
    .await;
    let mut stream = node.source().blocks(range(0, 2));
    // The second block is held back until the first is here, so they are never in one group.
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first.range, range(0, 0));
    started.notified().await;
    go_on.notify_one();
    let error = stream.next().await.unwrap().expect_err("another chain");
    assert!(matches!(error, SourceError::NotLinked { block: 1, .. }), "{error:?}");
    assert!(stream.next().await.is_none());
}

/// Tells when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(dropped) = self.0.take() {
            dropped.send(()).ok();
        }
    }
}

#[tokio::test]
async fn dropping_the_stream_ends_its_requests() {
    let (dropped_in, dropped) = oneshot::channel();
    let dropped_in = Arc::new(Mutex::new(Some(dropped_in)));
    let started = Arc::new(Notify::new());
    let starting = started.clone();
    let node = Node::start(move |_, _| {
        let (guard, started) = (Dropped(dropped_in.lock().unwrap().take()), starting.clone());
        async move {
            started.notify_one();
            std::future::pending::<()>().await;
            drop(guard);
            unreachable!("it never answers")
        }
    })
    .await;
    let mut stream = node.source_with_limit(1).blocks(range(0, 10));
    tokio::select! {
        _ = stream.next() => panic!("there is no answer"),
        () = started.notified() => {}
    }
    drop(stream);
    dropped.await.expect("the server sees the request end");
}

#[tokio::test]
async fn nothing_is_asked_before_the_stream_is_polled() {
    let asked = Arc::new(AtomicBool::new(false));
    let seen = asked.clone();
    let node = Node::simple(move |method, params| {
        asked.store(true, Ordering::SeqCst);
        chain(method, params)
    })
    .await;
    let source = node.source();
    let stream = source.blocks(range(0, 5));
    tokio::task::yield_now().await;
    assert!(!seen.load(Ordering::SeqCst));
    assert!(stream.count().await >= 1);
    assert!(seen.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_page_before_a_node_that_has_answered_may_go_away() {
    let is_page = Arc::new(AtomicBool::new(false));
    let seen = is_page.clone();
    let node = Node::simple(move |method, params| {
        if seen.load(Ordering::SeqCst) {
            (StatusCode::OK, "<html>".to_owned())
        } else {
            chain(method, params)
        }
    })
    .await;
    let source = node.source();
    source.block_id(3).await.expect("a block");
    is_page.store(true, Ordering::SeqCst);
    let error = error_of(&source).await;
    assert!(matches!(error, SourceError::Unavailable { .. }), "{error:?}");
    assert!(text(&error).contains("block 3: it does not answer with JSON"), "{}", text(&error));
}

#[tokio::test]
async fn each_failure_says_what_to_do() {
    let page = |status: u16, body: &str| (StatusCode::from_u16(status).unwrap(), body.to_owned());
    let rpc = |status: u16, code: i64| (StatusCode::from_u16(status).unwrap(), rpc_error(code, "why").1);
    let big = format!("<html>{}</html>", "x".repeat(100_000));
    let cases = [
        (page(401, ""), "Refused", "auth_token"),
        (page(403, "<html>"), "Refused", "auth_token"),
        (rpc(401, -32000), "Refused", "Unauthorized: why"),
        (page(404, "not found"), "Refused", "JSON-RPC endpoint"),
        (page(405, ""), "Refused", "JSON-RPC endpoint"),
        (page(400, ""), "Refused", "JSON-RPC endpoint"),
        (page(301, ""), "Refused", "redirection"),
        (page(429, ""), "PushedBack", "429"),
        (page(500, "x"), "Unavailable", "500"),
        (page(503, ""), "Unavailable", "503"),
        (page(200, "<html>"), "Refused", "does not answer with JSON"),
        (page(200, &big), "Refused", "does not answer with JSON"),
        (page(200, "[]"), "Refused", "does not answer with JSON"),
        (page(200, ""), "Unavailable", "not JSON to its end"),
        (page(200, r#"{"result":{"number":"0x"#), "Unavailable", "not JSON to its end"),
        (rpc_error(-32601, "the method does not exist"), "Refused", "eth_getBlockByNumber"),
        (rpc(400, -32601), "Refused", "does not have the method"),
        (rpc_error(-32005, "slow down"), "PushedBack", "slow down"),
        (rpc(402, -32005), "PushedBack", "402"),
        (rpc(500, 429), "PushedBack", "500"),
        (rpc_error(-32000, "header not found"), "Unavailable", "header not found (-32000)"),
        (rpc_error(7, "odd"), "Unavailable", "odd"),
        (result(&json!(null)), "Missing", "the block"),
        (result(&json!({"number": "0x3"})), "Malformed", "`hash` is missing"),
        (result(&block(4)), "Malformed", "it is the block 4"),
    ];
    for (answer, kind, words) in cases {
        let node = Node::simple(move |method, params| match method {
            "eth_getBlockByNumber" => answer.clone(),
            _ => chain(method, params),
        })
        .await;
        let error = error_of(&node.source()).await;
        let told = text(&error);
        assert!(format!("{error:?}").starts_with(kind), "{kind}: {error:?}");
        assert!(told.contains(words) && told.contains("`node`"), "{told}");
    }
}

#[tokio::test]
async fn failures_of_receipts_say_what_to_do() {
    let cases = [
        (rpc_error(-32601, "no"), "Refused", "eth_getBlockReceipts"),
        (result(&json!(null)), "Missing", "the receipts"),
        // As of a node whose index is a little behind.
        (result(&json!([])), "Missing", "the receipts"),
        (rpc_error(-32000, "busy"), "Unavailable", "busy"),
        (rpc_error(-32000, &"busy ".repeat(10_000)), "Unavailable", "busy"),
        // Something stands before a node that has answered with the block.
        ((StatusCode::BAD_REQUEST, String::new()), "Unavailable", "400"),
    ];
    for (answer, kind, words) in cases {
        let node = Node::simple(move |method, params| match method {
            "eth_getBlockReceipts" => answer.clone(),
            _ => chain(method, params),
        })
        .await;
        let error = error_of(&node.source()).await;
        assert!(format!("{error:?}").starts_with(kind), "{kind}: {error:?}");
        assert!(text(&error).contains(words) && text(&error).len() < 500, "{}", text(&error));
    }
}

#[tokio::test]
async fn a_node_that_is_not_there_is_named_in_plain_words() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{address}/v3/0123456789abcdef").parse().unwrap();
    let source = connect(EvmRpcConfig::new("node", url), Verify::Links).unwrap();
    let error = source.head().await.expect_err("nobody is there");
    let expected = format!(
        "a request to the provider `node` failed: nothing listens at {address}; check that the node runs, and its address"
    );
    assert_eq!(text(&error), expected);
    assert!(!format!("{error:?}").contains("0123456789abcdef"));
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_timeout() {
    let node = Node::start(|_, _| std::future::pending()).await;
    let config =
        EvmRpcConfig { timeout: Duration::from_millis(20), ..EvmRpcConfig::new("node", node.url.clone()) };
    let error = connect(config, Verify::Links).unwrap().chain_id().await.expect_err("no answer");
    assert!(matches!(error, SourceError::Unavailable { .. }));
    assert!(text(&error).contains("gave no answer within 20ms"), "{}", text(&error));
}

#[tokio::test]
async fn secrets_are_never_told() {
    let secrets = ["topsecretpath1", "topsecretquery", "topsecretuser", "topsecretpass", "topsecrettoken"];
    let node = Node::simple(move |_, _| rpc_error(-32000, &format!("bad key: {}", secrets.join(" ")))).await;
    let mut url = node.url.clone();
    url.set_path("/v3/topsecretpath1/rpc");
    url.set_query(Some("apikey=topsecretquery"));
    url.set_username("topsecretuser").unwrap();
    url.set_password(Some("topsecretpass")).unwrap();
    let config = EvmRpcConfig {
        auth_token: Some("topsecrettoken".into()),
        auth_header: Some("x-api-key".into()),
        ..EvmRpcConfig::new("node", url)
    };
    let shown = format!("{config:?}");
    let source = connect(config, Verify::Links).unwrap();
    let error = source.chain_id().await.expect_err("an error");
    let told = format!("{shown} {source:?} {error:?} {}", text(&error));
    assert!(told.contains("bad key: ***"), "{told}");
    for secret in secrets {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_is_sent() {
    let refused = |config: EvmRpcConfig, verify| match connect(config, verify) {
        Err(SourceError::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let config = |url: &str| EvmRpcConfig::new("node", url.parse().unwrap());
    assert!(refused(config("ftp://localhost"), Verify::Links).contains("http, https, ws, wss and ipc"));
    assert!(refused(config("ipc://geth.ipc"), Verify::Links).contains("/path/to/geth.ipc"));
    let header = EvmRpcConfig { auth_header: Some("x".into()), ..config("http://localhost") };
    assert!(refused(header, Verify::Links).contains("without `auth_token`"));
    let token = EvmRpcConfig { auth_token: Some("a\nsecret".into()), ..config("http://localhost") };
    assert!(!refused(token, Verify::Links).contains("secret"));
    let mistaken = EvmRpcConfig {
        auth_token: Some("Bearer".into()),
        auth_header: Some("Authorization: secret".into()),
        ..config("http://localhost")
    };
    let why = refused(mistaken, Verify::Links);
    assert!(why.contains("the name of a header alone") && !why.contains("secret"), "{why}");
}

#[tokio::test]
async fn the_head_is_the_latest_and_the_finalized_block() {
    let node = Node::simple(|method, params| match (method, params[0].as_str().unwrap_or_default()) {
        ("eth_chainId", _) => result(&json!("0x7a69")),
        (_, "latest") => result(&block(100)),
        (_, "finalized") => result(&block(36)),
        (_, "0x200") => result(&json!(null)),
        (_, "0x300") => result(&block(5)),
        _ => chain(method, params),
    })
    .await;
    let source = node.source_with_limit(1);
    let id = |number| BlockId { number, hash: hash(number + 1) };
    assert_eq!(source.head().await.unwrap(), Head { latest: id(100), finalized: Some(id(36)) });
    assert_eq!(source.chain_id().await.unwrap(), 31337);
    assert_eq!(source.block_id(7).await.unwrap(), Some(id(7)));
    assert_eq!(source.block_id(0x200).await.unwrap(), None);
    assert!(matches!(source.block_id(0x300).await, Err(SourceError::Malformed { block: 0x300, .. })));
}

#[tokio::test]
async fn a_token_is_sent_and_not_the_login_of_the_address() {
    let seen = Arc::new(Mutex::new(vec![]));
    let sent = seen.clone();
    let respond = move |headers: axum::http::HeaderMap| {
        let values = headers.get_all("authorization").iter();
        sent.lock().unwrap().extend(values.map(|value| value.to_str().unwrap().to_owned()));
        std::future::ready(result(&json!("0x1")))
    };
    let node = Node::serve(Router::new().fallback(post(respond))).await;
    let mut url = node.url.clone();
    url.set_username("name").unwrap();
    let config = EvmRpcConfig::new("node", url);
    connect(config.clone(), Verify::Links).unwrap().chain_id().await.unwrap();
    let with_token = EvmRpcConfig { auth_token: Some("token".into()), ..config };
    connect(with_token, Verify::Links).unwrap().chain_id().await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["Basic bmFtZTo=", "Bearer token"]);
}

#[tokio::test]
async fn what_names_a_block_must_hash_to_it_too() {
    // Its hash is its number.
    let node = Node::simple(|_, _| result(&block(100))).await;
    let source = connect(EvmRpcConfig::new("node", node.url.clone()), Verify::Header).unwrap();
    let error = source.head().await.expect_err("a hash that is not the header's");
    assert!(text(&error).contains("cannot be checked") && text(&error).contains("links"), "{}", text(&error));
    let error = source.block_id(100).await.expect_err("a hash that is not the header's");
    assert!(matches!(error, SourceError::Malformed { block: 100, .. }), "{error:?}");
}

#[tokio::test]
async fn a_final_block_above_the_head_is_asked_about_once_more() {
    for (later, is_in_step) in [(101, true), (100, false)] {
        let asked = AtomicUsize::new(0);
        let node = Node::simple(move |_, params| match params[0].as_str().unwrap() {
            "finalized" => result(&block(101)),
            _ if asked.fetch_add(1, Ordering::SeqCst) == 0 => result(&block(100)),
            _ => result(&block(later)),
        })
        .await;
        match node.source().head().await {
            Ok(head) => assert!(is_in_step && head.latest.number == 101, "{head:?}"),
            Err(error) => {
                let told = text(&error);
                assert!(!is_in_step && told.contains("finalized block 101 is above its head 100"), "{told}");
            }
        }
    }
}

#[tokio::test]
async fn a_chain_may_have_no_finality() {
    let finalized = [
        (result(&json!(null)), Some(None)),
        (rpc_error(-32000, "finalized block not found"), Some(None)),
        (rpc_error(-32602, "invalid argument 0"), Some(None)),
        (rpc_error(-39001, "Unknown block"), Some(None)),
        (rpc_error(-32000, "'finalized' tag not supported on pre-merge network"), Some(None)),
        (rpc_error(-32005, "slow down"), None),
        (rpc_error(-32000, "the backend is busy"), None),
        (rpc_error(-32603, "internal error"), None),
        ((StatusCode::BAD_GATEWAY, String::new()), None),
    ];
    for (answer, expected) in finalized {
        let node = Node::simple(move |_, params| match params[0].as_str().unwrap() {
            "latest" => result(&block(100)),
            _ => answer.clone(),
        })
        .await;
        assert_eq!(node.source().head().await.ok().map(|head| head.finalized), expected);
    }
}

#[tokio::test]
async fn with_retries_a_stream_reads_on_behind_a_failure() {
    let failures = AtomicUsize::new(2);
    let node = Node::simple(move |method, params| {
        let busy =
            || failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        match (method, number_of(&params[0])) {
            ("eth_getBlockByNumber", 20) if busy() => (StatusCode::TOO_MANY_REQUESTS, String::new()),
            _ => chain(method, params),
        }
    })
    .await;
    let quick = RetryPolicy { base: Duration::from_millis(1), ..RetryPolicy::default() };
    let source = Retry::new(Arc::new(node.source()), quick);
    let rows: Vec<_> = source.blocks(range(0, 40)).map(|rows| rows.unwrap()).collect().await;
    let numbers: Vec<_> = rows.iter().flat_map(|rows| &rows.blocks).map(|block| block.number).collect();
    assert_eq!(numbers, (0..=40).collect::<Vec<_>>());
}

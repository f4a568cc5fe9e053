//! Each fault as a client meets it, and the right answer afterwards.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Fault, FaultServer, Fired, Schedule, What};
use crate::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
    replay::{Recording, ReplayOptions, ReplayServer},
    rpc::RpcClient,
};

const BLOCKS: u64 = 40;

/// A node, one of another chain, and the proxy before them.
struct Scene {
    node: ReplayServer,
    other: ReplayServer,
    proxy: FaultServer,
}

impl Scene {
    /// Every question meets the fault, once.
    fn of(fault: Fault) -> Self {
        Self::with(Schedule { seed: 1, rates: [(fault, 1.0)].into(), in_a_row: Some(1) })
    }

    fn with(schedule: Schedule) -> Self {
        let serve = |seed| {
            let recording = Recording::synthetic(BLOCKS, 3, 2, seed);
            ReplayServer::start(recording, ReplayOptions::default()).expect("serve")
        };
        let (node, other) = (serve(1), serve(2));
        let proxy = FaultServer::start(node.url(), other.url(), schedule).expect("a proxy");
        Self { node, other, proxy }
    }

    async fn call(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        RpcClient::new(self.proxy.url()).expect("a client").call(method, params).await
    }

    async fn truth(&self, method: &str, params: Value) -> Value {
        RpcClient::new(self.node.url()).expect("a client").call(method, params).await.expect("an answer")
    }

    /// What the first ask for a block meets, of which the second one gives the truth.
    async fn first(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let first = self.call(method, params.clone()).await;
        let second = self.call(method, params.clone()).await.expect("an answer");
        assert_eq!(second, self.truth(method, params).await);
        first
    }

    /// The response as it came.
    async fn post(&self) -> reqwest::Result<reqwest::Response> {
        let body = json!({ "id": 1, "method": "eth_getBlockByNumber", "params": ["0x7", true] });
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(300)).build();
        http.expect("a client").post(self.proxy.url()).body(body.to_string()).send().await
    }
}

const BLOCK: &str = "eth_getBlockByNumber";
const RECEIPTS: &str = "eth_getBlockReceipts";

#[tokio::test]
async fn connections_and_responses_break_as_they_do_on_the_way() {
    let error = Scene::of(Fault::Reset).post().await.expect_err("a reset");
    assert!(format!("{error:?}").contains("ConnectionReset"), "{error:?}");
    let error = Scene::of(Fault::Silence).post().await.expect_err("no answer");
    assert!(error.is_timeout(), "{error:?}");
    let cut = Scene::of(Fault::CutBody).post().await.expect("a head");
    assert_eq!(cut.status(), 200);
    assert!(cut.text().await.is_err());
    let cut = Scene::of(Fault::CutJson).post().await.expect("a response").text().await.expect("a body");
    assert!(cut.starts_with('{') && serde_json::from_str::<Value>(&cut).is_err(), "{cut}");
    let page = Scene::of(Fault::Html).post().await.expect("a response");
    assert_eq!(page.headers()["content-type"], "text/html");
    assert!(page.text().await.expect("a page").contains("<html>"));
}

#[tokio::test]
async fn refusals_have_their_status_and_header() {
    for (fault, statuses, retry_after) in [
        (Fault::TooManyRequests, &[429][..], None),
        (Fault::RetryAfter, &[429], Some("1")),
        (Fault::ServerError, &[500, 502, 503, 504], None),
    ] {
        let response = Scene::of(fault).post().await.expect("a response");
        assert!(statuses.contains(&response.status().as_u16()), "{fault:?}: {response:?}");
        let header = response.headers().get("retry-after").map(|value| value.to_str().expect("text"));
        assert_eq!(header, retry_after, "{fault:?}");
    }
    let error = Scene::of(Fault::LimitExceeded).first(BLOCK, json!(["0x7", true])).await;
    assert!(error.expect_err("an error").to_string().contains("-32005"));
}

#[tokio::test]
async fn a_late_answer_is_the_right_one() {
    let scene = Scene::of(Fault::Delay);
    let started = Instant::now();
    let late = scene.call(BLOCK, json!(["0x7", true])).await.expect("an answer");
    assert!(started.elapsed() >= Duration::from_millis(20));
    assert_eq!(late, scene.truth(BLOCK, json!(["0x7", true])).await);
}

#[tokio::test]
async fn what_is_there_is_denied_or_is_of_another_block() {
    for full in [true, false] {
        let block = Scene::of(Fault::NullBlock).first(BLOCK, json!(["0x7", full])).await;
        assert_eq!(block.expect("an answer"), json!(null));
    }
    let receipts = Scene::of(Fault::NullReceipts).first(RECEIPTS, json!(["0x7"])).await;
    assert_eq!(receipts.expect("an answer"), json!(null));
    for (number, neighbour) in [("0x7", "0x8"), ("0x27", "0x26")] {
        let scene = Scene::of(Fault::ForeignReceipts);
        let foreign = scene.first(RECEIPTS, json!([number])).await.expect("an answer");
        assert_eq!(foreign, scene.truth(RECEIPTS, json!([neighbour])).await);
    }
}

#[tokio::test]
async fn a_log_is_missing_or_an_amount_is_another() {
    let logs = |receipts: &Value| {
        let receipts = receipts.as_array().expect("receipts").iter();
        receipts.map(|receipt| receipt["logs"].as_array().expect("logs").len()).sum::<usize>()
    };
    let fewer = Scene::of(Fault::MissingLog).first(RECEIPTS, json!(["0x7"])).await;
    assert_eq!(logs(&fewer.expect("an answer")), 5);
    for (method, params) in [(BLOCK, json!(["0x7", true])), (RECEIPTS, json!(["0x7"]))] {
        let scene = Scene::of(Fault::ChangedAmount);
        let changed = scene.first(method, params.clone()).await.expect("an answer");
        assert_ne!(changed, scene.truth(method, params).await);
    }
    // Block 0 has neither.
    let scene = Scene::of(Fault::MissingLog);
    assert_eq!(scene.call(RECEIPTS, json!(["0x0"])).await.expect("an answer"), json!([]));
    assert!(scene.proxy.fired().is_empty(), "what could not happen is not counted");
}

#[tokio::test]
async fn the_head_is_lower_for_a_while() {
    let lower = Scene::of(Fault::LowerHead).first("eth_blockNumber", json!([])).await.expect("a number");
    assert_ne!(lower, json!("0x27"));
    let scene = Scene::of(Fault::LowerHead);
    let lower = scene.first(BLOCK, json!(["latest", false])).await.expect("a block");
    assert_ne!(lower["number"], "0x27");
    assert_eq!(lower, scene.truth(BLOCK, json!([lower["number"], false])).await);
}

#[tokio::test]
async fn a_block_of_another_chain_has_its_own_receipts() {
    let scene = Scene::of(Fault::OtherChain);
    let other = RpcClient::new(scene.other.url()).expect("a client");
    let of_other = async |method, params| other.call(method, params).await.expect("an answer");
    let block = scene.call(BLOCK, json!(["0x7", true])).await.expect("a block");
    assert_eq!(block, of_other(BLOCK, json!(["0x7", true])).await);
    let receipts = scene.call(RECEIPTS, json!([block["hash"]])).await.expect("receipts");
    assert_eq!(receipts, of_other(RECEIPTS, json!(["0x7"])).await);
    let block = scene.call(BLOCK, json!(["0x7", true])).await.expect("a block");
    assert_eq!(block, scene.truth(BLOCK, json!(["0x7", true])).await);
    let receipts = scene.call(RECEIPTS, json!([block["hash"]])).await.expect("receipts");
    assert_eq!(receipts, scene.truth(RECEIPTS, json!(["0x7"])).await);
}

#[tokio::test]
async fn answers_of_a_batch_are_doubled_or_out_of_order() {
    let calls: Vec<Value> = (0..4)
        .map(|id| json!({ "jsonrpc": "2.0", "id": id, "method": BLOCK, "params": [format!("{id:#x}"), false] }))
        .collect();
    let ids = async |scene: &Scene| -> Vec<u64> {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let response = http.post(scene.proxy.url()).body(json!(calls).to_string()).send().await;
        let text = response.expect("a response").text().await.expect("a body");
        let answers: Vec<Value> = serde_json::from_str(&text).expect("a list");
        answers.iter().map(|answer| answer["id"].as_u64().expect("an id")).collect()
    };
    let scene = Scene::of(Fault::ReorderedAnswers);
    let mut first = ids(&scene).await;
    assert_ne!(first, [0, 1, 2, 3]);
    first.sort_unstable();
    assert_eq!((first, ids(&scene).await), (vec![0, 1, 2, 3], vec![0, 1, 2, 3]));
    let scene = Scene::of(Fault::DuplicatedAnswers);
    let mut first = ids(&scene).await;
    assert_eq!((first.len(), ids(&scene).await), (4, vec![0, 1, 2, 3]));
    first.sort_unstable();
    first.dedup();
    assert_eq!(first.len(), 3);
    // What befalls one call of a batch befalls all of it.
    let scene = Scene::of(Fault::LimitExceeded);
    assert_eq!(ids(&scene).await, [0, 1, 2, 3]);
    assert_eq!(scene.proxy.counts(), [(Fault::LimitExceeded, 4)].into());
}

#[tokio::test]
async fn what_has_happened_is_told_and_ends_when_it_is_healed() {
    let schedule = Schedule { seed: 1, rates: [(Fault::NullBlock, 1.0)].into(), in_a_row: None };
    let scene = Scene::with(schedule);
    for _ in 0..3 {
        assert_eq!(scene.call(BLOCK, json!(["0x7", true])).await.expect("an answer"), json!(null));
    }
    let fired = scene.proxy.fired();
    assert_eq!(fired.len(), 3);
    let is_block_7 = |fired: &Fired| fired.asked.block == Some(7) && fired.asked.what == What::Block;
    assert!(fired.iter().all(is_block_7), "{fired:?}");
    scene.proxy.heal();
    let block = scene.call(BLOCK, json!(["0x7", true])).await.expect("an answer");
    assert_eq!(block, scene.truth(BLOCK, json!(["0x7", true])).await);
    assert_eq!(scene.proxy.counts(), [(Fault::NullBlock, 3)].into());
}

#[tokio::test]
async fn a_quiet_proxy_passes_on_what_a_real_node_says() {
    let anvil = Anvil::start(AnvilOptions::default()).await.expect("start anvil");
    let mut chain = ChainBuilder::new(&anvil, 1).await.expect("set the stage");
    chain.extend(8).await.expect("extend");
    let proxy = FaultServer::start(anvil.url(), anvil.url(), Schedule::quiet()).expect("a proxy");
    let client = RpcClient::new(proxy.url()).expect("a client");
    for number in 0..8 {
        let number = format!("{number:#x}");
        let calls = [(BLOCK, json!([number, true])), (RECEIPTS, json!([number])), ("eth_chainId", json!([]))];
        let truth = anvil.rpc().batch(&calls).await.expect("from anvil");
        assert_eq!(client.batch(&calls).await.expect("through the proxy"), truth);
        assert_eq!(client.call(BLOCK, json!([number, true])).await.expect("through the proxy"), truth[0]);
    }
}

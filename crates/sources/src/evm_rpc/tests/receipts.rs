//! The source of a node that has no receipts of blocks.

use super::*;

/// How often each method was called.
type Calls = Arc<Mutex<std::collections::BTreeMap<String, usize>>>;

/// The receipt of a transaction of [`block`].
fn receipt(params: &Value) -> Value {
    receipts(number_of(&params[0]) - 1000)[0].clone()
}

/// A node that answers the question for the receipts of a block in its way, and counts.
async fn node(lacking: fn() -> Answer) -> (Node, Calls) {
    let calls = Calls::default();
    let seen = calls.clone();
    let one = move |call: &Value| {
        let method = call["method"].as_str().unwrap();
        *seen.lock().unwrap().entry(method.to_owned()).or_default() += 1;
        let (status, text) = match method {
            "eth_getBlockReceipts" => lacking(),
            "eth_getTransactionReceipt" => result(&receipt(&call["params"])),
            _ => chain(method, &call["params"]),
        };
        let Ok(mut answer) = serde_json::from_str::<Value>(&text) else { return (status, text) };
        answer["id"] = call["id"].clone();
        (status, answer.to_string())
    };
    let node = Node::raw(move |request| match request {
        Value::Array(calls) => {
            let answers: Vec<Answer> = calls.iter().map(&one).collect();
            let texts: Vec<&str> = answers.iter().map(|(_, text)| text.as_str()).collect();
            (StatusCode::OK, format!("[{}]", texts.join(",")))
        }
        call => one(&call),
    })
    .await;
    (node, calls)
}

fn count(calls: &Calls, method: &str) -> usize {
    calls.lock().unwrap().get(method).copied().unwrap_or(0)
}

#[tokio::test]
async fn a_node_without_receipts_of_blocks_is_asked_for_those_of_transactions() {
    let lacking: [(fn() -> Answer, usize); 4] = [
        (|| rpc_error(-32601, "no"), 1),
        (|| rpc_error(-32000, "the method eth_getBlockReceipts is not available"), 1),
        // A proxy may say so for a moment.
        (|| (StatusCode::NOT_FOUND, "no such page".into()), 3),
        (|| (StatusCode::METHOD_NOT_ALLOWED, String::new()), 3),
    ];
    for (lacking, questions) in lacking {
        let (node, calls) = node(lacking).await;
        let source = node.source_with_limit(1);
        let (numbers, error) = collect(&source, range(3, 9)).await;
        assert_eq!((numbers.len(), error.is_none()), (7, true), "{error:?}");
        assert_eq!(collect(&source, range(3, 9)).await.0.len(), 7);
        assert_eq!(count(&calls, "eth_getBlockReceipts"), questions, "it is remembered");
        assert_eq!(count(&calls, "eth_getTransactionReceipt"), 14);
    }
}

#[tokio::test]
async fn receipts_of_transactions_are_batched_and_may_be_forced() {
    let (node, calls) = node(|| rpc_error(-32601, "no")).await;
    let config = EvmRpcConfig { batch_size: 5, ..EvmRpcConfig::new("node", node.url.clone()) };
    let source = connect(config.clone(), Verify::Links).unwrap();
    let (numbers, error) = collect(&source, range(0, 19)).await;
    assert_eq!((numbers.len(), error.is_none()), (20, true), "{error:?}");
    let asked = count(&calls, "eth_getBlockReceipts");
    assert!((5..=20).contains(&asked), "{asked}");
    let forced = EvmRpcConfig { receipts_per_tx: true, ..config };
    let source = connect(forced, Verify::Links).unwrap();
    assert_eq!(collect(&source, range(0, 19)).await.0.len(), 20);
    assert_eq!(count(&calls, "eth_getBlockReceipts"), asked);
}

#[tokio::test]
async fn a_receipt_that_is_null_is_missing() {
    let node = Node::simple(|method, params| match method {
        "eth_getTransactionReceipt" => result(&json!(null)),
        _ => chain(method, params),
    })
    .await;
    let config = EvmRpcConfig { receipts_per_tx: true, ..EvmRpcConfig::new("node", node.url.clone()) };
    let error = error_of(&connect(config, Verify::Links).unwrap()).await;
    assert!(matches!(error, SourceError::Missing { block: 3, what: "the receipts", .. }), "{error:?}");
}

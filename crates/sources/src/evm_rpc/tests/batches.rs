//! The source with batches.

use super::*;

/// The answers of a batch, one for each call; the id is still to be put in.
type Elements = Vec<Value>;

/// What a batch becomes on its way.
type Change = fn(Elements) -> Answer;

/// A node with a chain whose batches come back changed, and the sizes of all its requests.
async fn node(change: Change) -> (Node, Arc<Mutex<Vec<usize>>>) {
    let sizes = Arc::new(Mutex::new(vec![]));
    let seen = sizes.clone();
    let node = Node::raw(move |request| {
        let element = |call: &Value| {
            let mut answer: Value =
                serde_json::from_str(&chain(call["method"].as_str().unwrap(), &call["params"]).1).unwrap();
            answer["id"] = call["id"].clone();
            answer
        };
        let Value::Array(calls) = request else {
            seen.lock().unwrap().push(1);
            return (StatusCode::OK, element(&request).to_string());
        };
        seen.lock().unwrap().push(calls.len());
        change(calls.iter().map(element).collect())
    })
    .await;
    (node, sizes)
}

fn source(node: &Node, batch_size: usize) -> EvmRpc {
    let config = EvmRpcConfig {
        batch_size,
        concurrent_request_limit: 1,
        ..EvmRpcConfig::new("node", node.url.clone())
    };
    connect(config, Verify::Links).unwrap()
}

fn answered(elements: Elements) -> Answer {
    (StatusCode::OK, Value::Array(elements).to_string())
}

fn is_of_block(element: &Value, number: u64) -> bool {
    element["result"]["number"] == format!("{number:#x}")
}

#[tokio::test]
async fn consecutive_blocks_are_asked_for_together_and_answers_may_come_in_any_order() {
    let (node, sizes) = node(|mut elements| {
        elements.reverse();
        answered(elements)
    })
    .await;
    let (numbers, error) = collect(&source(&node, 10), range(100, 124)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(numbers, (100..=124).collect::<Vec<_>>());
    assert_eq!(*sizes.lock().unwrap(), [10, 10, 10, 10, 5, 5]);
}

#[tokio::test]
async fn a_missing_a_repeated_or_a_foreign_answer_fails_only_its_block() {
    let changes: [Change; 3] = [
        |mut elements| {
            elements.retain(|element| !is_of_block(element, 5));
            answered(elements)
        },
        |mut elements| {
            // The answer for block 5 has the id of another one of the batch.
            if let Some(at) = elements.iter().position(|element| is_of_block(element, 5)) {
                elements[at] = elements[at + 1].clone();
            }
            answered(elements)
        },
        |mut elements| {
            if let Some(at) = elements.iter().position(|element| is_of_block(element, 5)) {
                elements[at]["id"] = json!(1_000_000);
            }
            answered(elements)
        },
    ];
    for change in changes {
        let (node, _) = node(change).await;
        let (numbers, error) = collect(&source(&node, 10), range(0, 19)).await;
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        let error = error.expect("a block has failed");
        assert!(matches!(error, SourceError::Unavailable { .. }), "{error:?}");
        assert!(text(&error).contains("block 5: the answers of the batch have none"), "{}", text(&error));
    }
}

#[tokio::test]
async fn a_node_that_refuses_batches_is_asked_in_halves_and_then_singly() {
    let too_large = || json!({"code": -32600, "message": "batch too large"});
    let refusals: [fn(Value) -> Answer; 4] = [
        |error| (StatusCode::OK, json!({"id": null, "error": error}).to_string()),
        |error| (StatusCode::OK, json!([{"id": null, "error": error}]).to_string()),
        |error| (StatusCode::BAD_REQUEST, json!({"error": error}).to_string()),
        |_| (StatusCode::PAYLOAD_TOO_LARGE, "too large".into()),
    ];
    for refusal in refusals {
        let sizes = Arc::new(Mutex::new(vec![]));
        let seen = sizes.clone();
        let node = Node::raw(move |request| match request {
            Value::Array(calls) => {
                seen.lock().unwrap().push(calls.len());
                refusal(too_large())
            }
            call => {
                seen.lock().unwrap().push(1);
                chain(call["method"].as_str().unwrap(), &call["params"])
            }
        })
        .await;
        let source = source(&node, 4);
        let (numbers, error) = collect(&source, range(0, 7)).await;
        assert_eq!((numbers.len(), error.is_none()), (8, true), "{error:?}");
        let first: Vec<usize> = sizes.lock().unwrap().iter().copied().take(5).collect();
        assert_eq!(first, [4, 2, 2, 1, 1]);
        sizes.lock().unwrap().clear();
        assert_eq!(collect(&source, range(8, 15)).await.0.len(), 8);
        assert!(sizes.lock().unwrap().iter().all(|size| *size == 1), "it is remembered");
    }
}

#[tokio::test]
async fn answers_that_a_node_leaves_out_of_a_large_response_are_asked_for_again() {
    let (node, _) = node(|mut elements| {
        for element in elements.iter_mut().skip(3) {
            let id = element["id"].clone();
            *element = json!({"id": id, "error": {"code": -32003, "message": "response too large"}});
        }
        answered(elements)
    })
    .await;
    let (numbers, error) = collect(&source(&node, 10), range(0, 29)).await;
    assert_eq!((numbers.len(), error.is_none()), (30, true), "{error:?}");
}

#[tokio::test]
async fn a_batch_that_fails_as_a_whole_names_its_first_block() {
    let (node, _) = node(|_| (StatusCode::BAD_GATEWAY, String::new())).await;
    let error = collect(&source(&node, 10), range(3, 9)).await.1.expect("an error");
    assert!(text(&error).contains("block 3: it answers HTTP 502"), "{}", text(&error));
}

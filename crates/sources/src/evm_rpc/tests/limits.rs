//! The source of a provider that pushes back.

use std::time::Instant;

use super::*;

fn patient(node: &Node, limit: usize) -> EvmRpcConfig {
    EvmRpcConfig {
        pushback_patience: PATIENCE,
        concurrent_request_limit: limit,
        ..EvmRpcConfig::new("node", node.url.clone())
    }
}

/// Answers as the chain does, but pushes back with some of its first answers.
fn pushing_back(times: usize, pushback: fn() -> Answer) -> impl Fn(&str, &Value) -> Answer + Send + Sync {
    let left = AtomicUsize::new(times);
    move |method, params| {
        let take = |left: usize| left.checked_sub(1);
        match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(_) => pushback(),
            Err(_) => chain(method, params),
        }
    }
}

#[tokio::test]
async fn what_is_pushed_back_is_asked_again_inside() {
    let pushbacks: [fn() -> Answer; 3] = [
        || (StatusCode::TOO_MANY_REQUESTS, String::new()),
        || rpc_error(-32005, "limit exceeded"),
        || rpc_error(429, "too many"),
    ];
    for pushback in pushbacks {
        let node = Node::simple(pushing_back(5, pushback)).await;
        let source = connect(patient(&node, 4), Verify::Links).unwrap();
        let (numbers, error) = collect(&source, range(0, 19)).await;
        assert_eq!((numbers.len(), error.is_none()), (20, true), "{error:?}");
    }
}

#[tokio::test]
async fn nothing_is_asked_before_the_time_that_retry_after_names() {
    let (pushed_back, early) = (Arc::new(Mutex::new(None::<Instant>)), Arc::new(AtomicUsize::new(0)));
    let (since, seen) = (pushed_back.clone(), early.clone());
    let respond = move |body: Bytes| {
        let request: Value = serde_json::from_slice(&body).unwrap();
        let mut since = since.lock().unwrap();
        let response = match *since {
            None => {
                *since = Some(Instant::now());
                (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], String::new())
            }
            Some(since) => {
                seen.fetch_add(usize::from(since.elapsed() < Duration::from_secs(1)), Ordering::SeqCst);
                let (status, text) = chain(request["method"].as_str().unwrap(), &request["params"]);
                (status, [("retry-after", "0")], text)
            }
        };
        std::future::ready(response)
    };
    let node = Node::serve(Router::new().fallback(post(respond))).await;
    let source = connect(patient(&node, 1), Verify::Links).unwrap();
    let (numbers, error) = collect(&source, range(0, 9)).await;
    assert_eq!((numbers.len(), error.is_none()), (10, true), "{error:?}");
    assert_eq!(early.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn calls_of_a_batch_that_are_pushed_back_are_asked_again_without_the_others() {
    let seen = Arc::new(Mutex::new(vec![]));
    let sizes = seen.clone();
    let node = Node::raw(move |request| {
        let Value::Array(calls) = request else {
            sizes.lock().unwrap().push(1);
            return chain(request["method"].as_str().unwrap(), &request["params"]);
        };
        let mut sizes = sizes.lock().unwrap();
        sizes.push(calls.len());
        let is_first = sizes.len() == 1;
        let answer = |(place, call): (usize, &Value)| {
            let (_, text) = if is_first && place > 5 {
                rpc_error(-32005, "limit exceeded")
            } else {
                chain(call["method"].as_str().unwrap(), &call["params"])
            };
            let mut answer: Value = serde_json::from_str(&text).unwrap();
            answer["id"] = call["id"].clone();
            answer
        };
        (StatusCode::OK, Value::Array(calls.iter().enumerate().map(answer).collect()).to_string())
    })
    .await;
    let config = EvmRpcConfig { batch_size: 10, ..patient(&node, 1) };
    let (numbers, error) = collect(&connect(config, Verify::Links).unwrap(), range(0, 9)).await;
    assert_eq!((numbers.len(), error.is_none()), (10, true), "{error:?}");
    assert_eq!(*seen.lock().unwrap(), [10, 4, 10]);
}

#[tokio::test]
async fn a_rate_limit_spreads_the_calls() {
    let node = Node::simple(chain).await;
    // Twenty calls, 10 ms apart.
    let config = EvmRpcConfig { rate_limit_per_minute: 6_000, ..patient(&node, 64) };
    let source = connect(config, Verify::Links).unwrap();
    let started = Instant::now();
    assert_eq!(collect(&source, range(0, 9)).await.0.len(), 10);
    assert!(started.elapsed() >= Duration::from_millis(190), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_provider_that_only_pushes_back_has_failed_in_the_end() {
    let node = Node::simple(|_, _| (StatusCode::TOO_MANY_REQUESTS, String::new())).await;
    let error = error_of(&node.source()).await;
    assert!(text(&error).contains("block 3: it answers HTTP 429"), "{}", text(&error));
}

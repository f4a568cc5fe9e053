//! From the text of a request to the text of its answer: pure, but for the counter.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use alloy_primitives::B256;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    logs::{LogFilter, logs_in},
    recording::Recording,
};
use crate::rpc::quantity;

/// In [`Replay::finalized`]: no block is final.
const NOTHING_FINAL: u64 = u64::MAX;

/// What is served, and how much of it for the moment.
#[derive(Debug)]
pub(super) struct Replay {
    recording: Recording,
    chain_id: u64,
    head: AtomicU64,
    finalized: AtomicU64,
    requests: Mutex<BTreeMap<String, u64>>,
}

/// As much of a call as it takes to answer it.
#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    params: Vec<Value>,
}

/// An answer without its envelope.
enum Reply {
    /// JSON text, kept ready.
    Stored(Bytes),
    /// JSON text, short.
    Text(String),
    /// A JSON-RPC error.
    Error(i32, &'static str),
}

const NULL: Reply = Reply::Stored(Bytes::from_static(b"null"));

/// Which block a call is about.
enum Selected {
    Number(u64),
    /// There is none such, or not yet.
    Nothing,
    /// It cannot be understood.
    Unknown,
}

impl Replay {
    pub(super) fn new(recording: Recording, chain_id: Option<u64>) -> Self {
        let last = recording.last();
        let chain_id = chain_id.unwrap_or(recording.chain_id());
        let (head, finalized) = (AtomicU64::new(last), AtomicU64::new(last));
        Self { recording, chain_id, head, finalized, requests: Mutex::default() }
    }

    pub(super) fn set_head(&self, number: u64) {
        let head = number.clamp(self.recording.first(), self.recording.last());
        self.head.store(head, Ordering::SeqCst);
    }

    pub(super) fn head(&self) -> u64 {
        self.head.load(Ordering::SeqCst)
    }

    pub(super) fn set_finalized(&self, number: Option<u64>) {
        self.finalized.store(number.unwrap_or(NOTHING_FINAL), Ordering::SeqCst);
    }

    fn finalized(&self) -> Option<u64> {
        let finalized = self.finalized.load(Ordering::SeqCst);
        (finalized != NOTHING_FINAL).then(|| finalized.min(self.head()))
    }

    pub(super) fn requests(&self) -> BTreeMap<String, u64> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, method: &str) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        match requests.get_mut(method) {
            Some(count) => *count += 1,
            None => drop(requests.insert(method.to_owned(), 1)),
        }
    }

    /// The answer to the body of a request: one call or a batch of them.
    pub(super) fn answer(&self, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if body.trim_ascii_start().first() == Some(&b'[') {
            self.answer_batch(body, &mut out);
        } else {
            self.answer_call(body, &mut out);
        }
        out
    }

    fn answer_batch(&self, body: &[u8], out: &mut Vec<u8>) {
        let calls = match serde_json::from_slice::<Vec<&RawValue>>(body) {
            Err(_) => return write_reply(out, "null", &Reply::Error(-32700, "parse error")),
            Ok(calls) if calls.is_empty() => {
                return write_reply(out, "null", &Reply::Error(-32600, "empty batch"));
            }
            Ok(calls) => calls,
        };
        out.push(b'[');
        for (index, call) in calls.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.answer_call(call.get().as_bytes(), out);
        }
        out.push(b']');
    }

    fn answer_call(&self, text: &[u8], out: &mut Vec<u8>) {
        match serde_json::from_slice::<Call<'_>>(text) {
            Ok(call) => {
                self.count(&call.method);
                let reply = self.reply(&call.method, &call.params);
                write_reply(out, call.id.map_or("null", RawValue::get), &reply);
            }
            Err(error) if error.is_data() => {
                write_reply(out, "null", &Reply::Error(-32600, "invalid request"));
            }
            Err(_) => write_reply(out, "null", &Reply::Error(-32700, "parse error")),
        }
    }

    fn reply(&self, method: &str, params: &[Value]) -> Reply {
        let selector = params.first().unwrap_or(&Value::Null);
        let full = params.get(1) == Some(&Value::Bool(true));
        match method {
            "eth_getBlockByNumber" => {
                self.reply_block(self.by_number(selector), |number| self.recording.block(number, full))
            }
            "eth_getBlockByHash" => {
                self.reply_block(self.by_hash(selector), |number| self.recording.block(number, full))
            }
            "eth_getBlockReceipts" => {
                self.reply_block(self.by_either(selector), |number| self.recording.receipts(number))
            }
            "eth_getTransactionReceipt" => self.reply_receipt(selector),
            "eth_getLogs" => self.reply_logs(selector),
            "eth_blockNumber" => Reply::Text(format!("\"{:#x}\"", self.head())),
            "eth_chainId" => Reply::Text(format!("\"{:#x}\"", self.chain_id)),
            "eth_syncing" => Reply::Text("false".to_owned()),
            "net_version" => Reply::Text(format!("\"{}\"", self.chain_id)),
            "web3_clientVersion" => Reply::Text("\"nozzle-replay\"".to_owned()),
            _ => Reply::Error(-32601, "the method does not exist"),
        }
    }

    fn reply_block(&self, selected: Selected, find: impl Fn(u64) -> Option<Bytes>) -> Reply {
        match selected {
            Selected::Number(number) => find(number).map_or(NULL, Reply::Stored),
            Selected::Nothing => NULL,
            Selected::Unknown => Reply::Error(-32602, "invalid block"),
        }
    }

    fn reply_receipt(&self, selector: &Value) -> Reply {
        let Some(Ok(hash)) = selector.as_str().map(str::parse::<B256>) else {
            return Reply::Error(-32602, "invalid hash");
        };
        let found = self.recording.receipt_of(hash).filter(|(number, _)| *number <= self.head());
        found.map_or(NULL, |(_, receipt)| Reply::Stored(receipt))
    }

    /// A range may end above the head; a filter that names neither end is about the head.
    fn reply_logs(&self, query: &Value) -> Reply {
        let Ok(filter) = LogFilter::deserialize(query) else {
            return Reply::Error(-32602, "invalid filter");
        };
        let latest = Value::from("latest");
        let end = |name| self.named(query.get(name).unwrap_or(&latest));
        let (first, last) = match query.get("blockHash") {
            Some(hash) => (self.by_hash(hash), self.by_hash(hash)),
            None => (end("fromBlock"), end("toBlock")),
        };
        match (first, last) {
            (Selected::Unknown, _) | (_, Selected::Unknown) => Reply::Error(-32602, "invalid block"),
            (Selected::Number(first), Selected::Number(last)) => {
                let blocks = first..=last.min(self.head());
                logs_in(blocks, &filter, |number| self.recording.logs(number))
                    .map_or(Reply::Error(-32000, "no receipts were recorded"), Reply::Stored)
            }
            _ => Reply::Error(-32000, "unknown block"),
        }
    }

    fn by_number(&self, selector: &Value) -> Selected {
        match self.named(selector) {
            Selected::Number(number) => self.up_to_head(Some(number)),
            other => other,
        }
    }

    /// A number or a tag, which may be above the head.
    fn named(&self, selector: &Value) -> Selected {
        let number = match selector.as_str() {
            Some("latest" | "pending") => Some(self.head()),
            Some("finalized" | "safe") => self.finalized(),
            Some("earliest") => Some(self.recording.first()),
            _ => match quantity(selector) {
                Ok(number) => Some(number),
                Err(_) => return Selected::Unknown,
            },
        };
        number.map_or(Selected::Nothing, Selected::Number)
    }

    fn by_hash(&self, selector: &Value) -> Selected {
        match selector.as_str().map(str::parse::<B256>) {
            Some(Ok(hash)) => self.up_to_head(self.recording.number_of(hash)),
            _ => Selected::Unknown,
        }
    }

    /// A number, a tag or a hash, by itself or in an object.
    fn by_either(&self, selector: &Value) -> Selected {
        let selector = selector.get("blockHash").or(selector.get("blockNumber")).unwrap_or(selector);
        // "0x" and 64 digits.
        if selector.as_str().is_some_and(|text| text.len() == 66) {
            return self.by_hash(selector);
        }
        self.by_number(selector)
    }

    fn up_to_head(&self, number: Option<u64>) -> Selected {
        number.filter(|number| *number <= self.head()).map_or(Selected::Nothing, Selected::Number)
    }
}

fn write_reply(out: &mut Vec<u8>, id: &str, reply: &Reply) {
    let body: &[u8] = match reply {
        Reply::Stored(text) => text,
        Reply::Text(text) => text.as_bytes(),
        Reply::Error(..) => b"",
    };
    out.reserve(body.len() + id.len() + 96);
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.as_bytes());
    if let Reply::Error(code, message) = reply {
        let error = format!(",\"error\":{{\"code\":{code},\"message\":\"{message}\"}}");
        out.extend_from_slice(error.as_bytes());
    } else {
        out.extend_from_slice(b",\"result\":");
        out.extend_from_slice(body);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replay() -> Replay {
        Replay::new(Recording::synthetic(100, 1, 1, 1), None)
    }

    fn ask(replay: &Replay, method: &str, params: Value) -> Value {
        let call = json!({ "jsonrpc": "2.0", "id": "a", "method": method, "params": params });
        let answer: Value =
            serde_json::from_slice(&replay.answer(call.to_string().as_bytes())).expect("JSON");
        assert_eq!((&answer["id"], &answer["jsonrpc"]), (&json!("a"), &json!("2.0")));
        answer.get("error").map_or_else(|| answer["result"].clone(), |error| error["code"].clone())
    }

    fn number(replay: &Replay, selector: &str) -> Value {
        ask(replay, "eth_getBlockByNumber", json!([selector, false]))["number"].clone()
    }

    #[test]
    fn tags_and_numbers_name_blocks_up_to_the_head() {
        let replay = replay();
        let tags =
            |replay: &Replay| ["earliest", "finalized", "safe", "latest"].map(|tag| number(replay, tag));
        assert_eq!(tags(&replay), ["0x0", "0x63", "0x63", "0x63"]);
        replay.set_head(50);
        replay.set_finalized(Some(40));
        assert_eq!(tags(&replay), ["0x0", "0x28", "0x28", "0x32"]);
        assert_eq!(ask(&replay, "eth_blockNumber", json!([])), "0x32");
        assert_eq!(number(&replay, "0x32"), "0x32");
        assert_eq!(ask(&replay, "eth_getBlockByNumber", json!(["0x33", true])), json!(null));
        assert_eq!(ask(&replay, "eth_getBlockReceipts", json!(["0x33"])), json!(null));
        replay.set_head(30);
        assert_eq!(number(&replay, "finalized"), "0x1e");
        replay.set_finalized(None);
        assert_eq!(ask(&replay, "eth_getBlockByNumber", json!(["finalized", false])), json!(null));
        replay.set_head(5000);
        assert_eq!(ask(&replay, "eth_blockNumber", json!([])), "0x63");
    }

    #[test]
    fn blocks_and_receipts_are_found_by_hash_unless_above_the_head() {
        let replay = replay();
        let block = ask(&replay, "eth_getBlockByNumber", json!(["0x7", true]));
        let hash = &block["hash"];
        assert_eq!(ask(&replay, "eth_getBlockByHash", json!([hash, true])), block);
        let receipts = ask(&replay, "eth_getBlockReceipts", json!(["0x7"]));
        assert_eq!(receipts[0]["blockHash"], *hash);
        for selector in [json!(hash), json!({ "blockHash": hash }), json!({ "blockNumber": "0x7" })] {
            assert_eq!(ask(&replay, "eth_getBlockReceipts", json!([selector])), receipts);
        }
        let transaction = json!([receipts[0]["transactionHash"]]);
        assert_eq!(ask(&replay, "eth_getTransactionReceipt", transaction.clone()), receipts[0]);
        replay.set_head(6);
        assert_eq!(ask(&replay, "eth_getTransactionReceipt", transaction), json!(null));
        assert_eq!(ask(&replay, "eth_getBlockByHash", json!([hash, true])), json!(null));
        assert_eq!(ask(&replay, "eth_getBlockReceipts", json!([hash])), json!(null));
    }

    #[test]
    fn logs_are_those_of_the_receipts_of_a_range_up_to_the_head() {
        let replay = replay();
        replay.set_head(50);
        let logs = |query: Value| ask(&replay, "eth_getLogs", json!([query]));
        let of = |number: &str| {
            let receipts = ask(&replay, "eth_getBlockReceipts", json!([number]));
            receipts[0]["logs"].as_array().expect("logs").clone()
        };
        let hash = ask(&replay, "eth_getBlockByNumber", json!(["0x7", false]))["hash"].clone();
        assert_eq!(of("0x7").len(), 1);
        assert_eq!(logs(json!({ "blockHash": hash })), json!(of("0x7")));
        let both = [of("0x7"), of("0x8")].concat();
        assert_eq!(logs(json!({ "fromBlock": "0x7", "toBlock": "0x8" })), json!(both));
        let topics = json!([both[1]["topics"][0], both[1]["topics"][1]]);
        let one = json!({ "fromBlock": "0x7", "toBlock": "0x8", "topics": topics });
        assert_eq!(logs(one), json!([both[1]]));
        let last = [of("0x31"), of("0x32")].concat();
        assert_eq!(logs(json!({ "fromBlock": "0x31", "toBlock": "0xffffffffffffffff" })), json!(last));
        assert_eq!(logs(json!({})), json!(of("0x32")));
        assert_eq!(logs(json!({ "fromBlock": "0x33", "toBlock": "0x40" })), json!([]));
    }

    #[test]
    fn what_cannot_be_answered_is_an_error() {
        let replay = replay();
        assert_eq!(ask(&replay, "eth_nothing", json!([{}])), -32601);
        for (query, code) in [
            (json!({ "fromBlock": "7" }), -32602),
            (json!({ "address": "0x1" }), -32602),
            (json!({ "blockHash": B256::ZERO }), -32000),
        ] {
            assert_eq!(ask(&replay, "eth_getLogs", json!([query])), code);
        }
        for params in [json!([]), json!(["7"]), json!([7]), json!([null])] {
            assert_eq!(ask(&replay, "eth_getBlockByNumber", params), -32602);
        }
        for (body, code) in [("{", -32700), ("[1", -32700), ("[]", -32600), ("{}", -32600), ("7", -32600)] {
            let answer: Value = serde_json::from_slice(&replay.answer(body.as_bytes())).expect("JSON");
            assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(code), &json!(null)), "{body}");
        }
    }

    #[test]
    fn a_batch_is_answered_in_its_order_and_calls_are_counted() {
        let replay = Replay::new(Recording::synthetic(10, 1, 1, 1), Some(137));
        let body = r#" [{"id":1,"method":"eth_chainId"}, {"id":"x","method":"net_version","params":[]},
                        {"id":3,"method":"eth_nothing"}, {"id":4,"method":"eth_chainId","params":[]}]"#;
        let answers: Value = serde_json::from_slice(&replay.answer(body.as_bytes())).expect("JSON");
        let ids: Vec<&Value> = answers.as_array().expect("a list").iter().map(|a| &a["id"]).collect();
        assert_eq!(ids, [&json!(1), &json!("x"), &json!(3), &json!(4)]);
        assert_eq!((&answers[0]["result"], &answers[1]["result"]), (&json!("0x89"), &json!("137")));
        assert_eq!(answers[2]["error"]["code"], -32601);
        assert_eq!(replay.requests()["eth_chainId"], 2);
        assert_eq!(replay.requests().len(), 3);
    }
}

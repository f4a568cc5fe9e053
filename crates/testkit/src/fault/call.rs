//! What a request asks for: which of its calls are the same question.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::rpc::quantity;

/// What kind of answer a call wants, as far as faults differ by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A block with whole transactions.
    Block,
    /// A block with the hashes of its transactions.
    Header,
    /// The receipts of a block.
    Receipts,
    /// The newest block, or its number.
    Head,
    /// All else.
    Other,
}

/// A question: the same one, however often and in whatever order it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// What kind of answer is wanted.
    pub what: What,
    /// The block's number, where the question is about one.
    pub block: Option<u64>,
    /// Tells it from all other questions.
    pub(super) key: u64,
}

/// As much of a call as it takes to know what it asks.
#[derive(Deserialize)]
pub(super) struct Call<'a> {
    #[serde(borrow)]
    pub(super) method: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) params: Vec<Value>,
}

impl Call<'_> {
    /// The id as it was sent.
    pub(super) fn id(&self) -> &str {
        self.id.map_or("null", RawValue::get)
    }

    /// The hash that the call names a block by.
    pub(super) fn hash(&self) -> Option<&str> {
        let selector = self.params.first()?;
        let text = selector.get("blockHash").unwrap_or(selector).as_str()?;
        // "0x" and 64 digits.
        let is_of_a_block = matches!(&*self.method, "eth_getBlockByHash" | "eth_getBlockReceipts");
        (is_of_a_block && text.len() == 66).then_some(text)
    }

    /// The question; `number_of` knows the numbers of hashes.
    pub(super) fn asked(&self, number_of: impl Fn(&str) -> Option<u64>) -> Asked {
        let selector = self.params.first().unwrap_or(&Value::Null);
        let number = match self.hash() {
            Some(hash) => number_of(hash),
            None => quantity(selector.get("blockNumber").unwrap_or(selector)).ok(),
        };
        let is_whole = self.params.get(1) == Some(&Value::Bool(true));
        let what = match (&*self.method, number) {
            ("eth_blockNumber", _) => What::Head,
            ("eth_getBlockByNumber", _) if selector == "latest" => What::Head,
            ("eth_getBlockByNumber" | "eth_getBlockByHash", Some(_)) if is_whole => What::Block,
            ("eth_getBlockByNumber" | "eth_getBlockByHash", Some(_)) => What::Header,
            ("eth_getBlockReceipts", Some(_)) => What::Receipts,
            _ => What::Other,
        };
        let key = match (what, number) {
            // However the block is named, it is the same question.
            (What::Block | What::Header | What::Receipts, Some(number)) => key(&format!("{what:?} {number}")),
            _ => key(&format!("{} {:?}", self.method, self.params)),
        };
        Asked { what, block: number.filter(|_| what != What::Other), key }
    }
}

impl Asked {
    /// A question about a block.
    #[cfg(test)]
    pub(super) fn of_block(what: What, number: u64) -> Self {
        Self { what, block: Some(number), key: key(&format!("{what:?} {number}")) }
    }
}

/// FNV-1a: the same on every machine and in every version, unlike the hashes of the standard library.
fn key(text: &str) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Asked {
        let call: Call<'_> = serde_json::from_str(text).expect("a call");
        call.asked(|hash| hash.ends_with('7').then_some(7))
    }

    #[test]
    fn questions_are_known_by_what_they_ask_about() {
        let hash = format!("0x{:064x}", 7);
        let by_hash =
            |method: &str| asked(&format!(r#"{{"id":1,"method":"{method}","params":["{hash}",true]}}"#));
        let block = asked(r#"{"id":1,"method":"eth_getBlockByNumber","params":["0x7",true]}"#);
        assert_eq!(block, Asked::of_block(What::Block, 7));
        assert_eq!(by_hash("eth_getBlockByHash"), block);
        let header = asked(r#"{"id":2,"method":"eth_getBlockByNumber","params":["0x7",false]}"#);
        assert_eq!(header, Asked::of_block(What::Header, 7));
        let receipts = asked(r#"{"method":"eth_getBlockReceipts","params":["0x7"]}"#);
        assert_eq!(receipts, Asked::of_block(What::Receipts, 7));
        assert_eq!(by_hash("eth_getBlockReceipts"), receipts);
        for head in [
            r#"{"method":"eth_blockNumber"}"#,
            r#"{"method":"eth_getBlockByNumber","params":["latest",false]}"#,
        ] {
            assert_eq!((asked(head).what, asked(head).block), (What::Head, None));
        }
        let finalized = asked(r#"{"method":"eth_getBlockByNumber","params":["finalized",false]}"#);
        let chain = asked(r#"{"method":"eth_chainId"}"#);
        let of_nobody = asked(&format!(r#"{{"method":"eth_getBlockReceipts","params":["0x{:064x}"]}}"#, 8));
        for other in [finalized, chain, of_nobody] {
            assert_eq!((other.what, other.block), (What::Other, None));
        }
        assert_ne!(finalized.key, chain.key);
    }
}

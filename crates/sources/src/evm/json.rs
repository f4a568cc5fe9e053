//! The answers of a node as they lie in the response: borrowed text, nothing converted yet.
//!
//! Every field may be absent or null; what a column or a check needs says so itself. Fields that
//! are not named here are skipped.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use sonic_rs::LazyValue;

/// A JSON-RPC answer.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub(crate) struct Answer<'a, T> {
    #[serde(default = "none")]
    pub result: Option<T>,
    #[serde(default, borrow)]
    pub error: Option<RpcError<'a>>,
}

fn none<T>() -> Option<T> {
    None
}

/// The error object of a JSON-RPC answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RpcError<'a> {
    pub code: i64,
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    /// What else there is to say: a text, or an object of the node's own making.
    #[serde(borrow)]
    pub data: Option<LazyValue<'a>>,
}

/// What `eth_getBlockByNumber` gives.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Block<'a> {
    pub number: Option<&'a str>,
    pub hash: Option<&'a str>,
    pub parent_hash: Option<&'a str>,
    #[serde(rename = "sha3Uncles")]
    pub ommers_hash: Option<&'a str>,
    pub miner: Option<&'a str>,
    pub state_root: Option<&'a str>,
    pub transactions_root: Option<&'a str>,
    pub receipts_root: Option<&'a str>,
    pub logs_bloom: Option<&'a str>,
    pub difficulty: Option<&'a str>,
    pub total_difficulty: Option<&'a str>,
    pub gas_limit: Option<&'a str>,
    pub gas_used: Option<&'a str>,
    pub timestamp: Option<&'a str>,
    pub extra_data: Option<&'a str>,
    pub mix_hash: Option<&'a str>,
    pub nonce: Option<&'a str>,
    pub base_fee_per_gas: Option<&'a str>,
    pub withdrawals_root: Option<&'a str>,
    pub blob_gas_used: Option<&'a str>,
    pub excess_blob_gas: Option<&'a str>,
    pub parent_beacon_block_root: Option<&'a str>,
    pub requests_hash: Option<&'a str>,
    #[serde(borrow)]
    pub transactions: Option<Vec<TxSlot<'a>>>,
    #[serde(borrow)]
    pub withdrawals: Option<Vec<Withdrawal<'a>>>,
}

/// A transaction of a block: whole, or only its hash where the node was asked for hashes.
#[derive(Debug)]
pub(crate) struct TxSlot<'a>(pub Tx<'a>);

/// A transaction.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Tx<'a> {
    pub hash: Option<&'a str>,
    pub transaction_index: Option<&'a str>,
    pub to: Option<&'a str>,
    pub from: Option<&'a str>,
    pub nonce: Option<&'a str>,
    pub gas_price: Option<&'a str>,
    pub gas: Option<&'a str>,
    pub value: Option<&'a str>,
    pub input: Option<&'a str>,
    pub r: Option<&'a str>,
    pub s: Option<&'a str>,
    pub v: Option<&'a str>,
    pub y_parity: Option<&'a str>,
    pub chain_id: Option<&'a str>,
    #[serde(rename = "type")]
    pub tx_type: Option<&'a str>,
    pub max_fee_per_gas: Option<&'a str>,
    pub max_priority_fee_per_gas: Option<&'a str>,
    pub max_fee_per_blob_gas: Option<&'a str>,
    #[serde(borrow)]
    pub access_list: Option<Vec<Access<'a>>>,
    #[serde(borrow)]
    pub blob_versioned_hashes: Option<Vec<&'a str>>,
    #[serde(borrow)]
    pub authorization_list: Option<Vec<Authorization<'a>>>,
}

/// An entry of an access list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Access<'a> {
    pub address: Option<&'a str>,
    #[serde(borrow)]
    pub storage_keys: Option<Vec<&'a str>>,
}

/// An entry of an authorization list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Authorization<'a> {
    pub chain_id: Option<&'a str>,
    pub address: Option<&'a str>,
    pub nonce: Option<&'a str>,
    pub y_parity: Option<&'a str>,
    pub v: Option<&'a str>,
    pub r: Option<&'a str>,
    pub s: Option<&'a str>,
}

/// A withdrawal.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Withdrawal<'a> {
    pub index: Option<&'a str>,
    pub validator_index: Option<&'a str>,
    pub address: Option<&'a str>,
    pub amount: Option<&'a str>,
}

/// A receipt.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Receipt<'a> {
    pub transaction_hash: Option<&'a str>,
    pub transaction_index: Option<&'a str>,
    pub block_hash: Option<&'a str>,
    pub cumulative_gas_used: Option<&'a str>,
    pub gas_used: Option<&'a str>,
    pub contract_address: Option<&'a str>,
    pub status: Option<&'a str>,
    pub root: Option<&'a str>,
    pub effective_gas_price: Option<&'a str>,
    pub blob_gas_used: Option<&'a str>,
    pub blob_gas_price: Option<&'a str>,
    pub logs_bloom: Option<&'a str>,
    #[serde(borrow)]
    pub logs: Option<Vec<Log<'a>>>,
}

/// A log.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Log<'a> {
    pub transaction_hash: Option<&'a str>,
    pub log_index: Option<&'a str>,
    pub address: Option<&'a str>,
    #[serde(borrow)]
    pub topics: Topics<'a>,
    pub data: Option<&'a str>,
}

/// The topics of a log: none to four.
#[derive(Debug, Default)]
pub(crate) struct Topics<'a>(pub [Option<&'a str>; 4]);

impl<'de: 'a, 'a> Deserialize<'de> for Topics<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(TopicsVisitor)
    }
}

struct TopicsVisitor;

impl<'de> Visitor<'de> for TopicsVisitor {
    type Value = Topics<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of at most four topics")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Topics<'de>, A::Error> {
        let mut topics = [None; 4];
        let mut count = 0;
        while let Some(topic) = list.next_element::<&'de str>()? {
            let slot = topics.get_mut(count).ok_or_else(|| de::Error::invalid_length(count + 1, &self))?;
            *slot = Some(topic);
            count += 1;
        }
        Ok(Topics(topics))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for TxSlot<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TxSlotVisitor)
    }
}

struct TxSlotVisitor;

impl<'de> Visitor<'de> for TxSlotVisitor {
    type Value = TxSlot<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a transaction or its hash")
    }

    fn visit_borrowed_str<E: de::Error>(self, hash: &'de str) -> Result<TxSlot<'de>, E> {
        Ok(TxSlot(Tx { hash: Some(hash), ..Tx::default() }))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<TxSlot<'de>, A::Error> {
        Tx::deserialize(de::value::MapAccessDeserializer::new(fields)).map(TxSlot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_may_be_whole_or_only_hashes() {
        let json = r#"{"transactions":["0xaa",{"hash":"0xbb","odd":[{"x":1}]}],"odd":{"y":[null]}}"#;
        let block: Block<'_> = sonic_rs::from_str(json).expect("a block");
        let hashes: Vec<_> = block.transactions.iter().flatten().map(|slot| slot.0.hash).collect();
        assert_eq!(hashes, [Some("0xaa"), Some("0xbb")]);
    }

    #[test]
    fn a_log_has_at_most_four_topics() {
        let parse = |count: usize| {
            let topics = vec!["\"0x1\""; count].join(",");
            let json = format!(r#"{{"topics":[{topics}]}}"#);
            sonic_rs::from_str::<Log<'_>>(&json).map(|log| log.topics.0.iter().flatten().count()).ok()
        };
        assert_eq!([0, 1, 4, 5].map(parse), [Some(0), Some(1), Some(4), None]);
    }

    #[test]
    fn an_answer_has_a_result_or_an_error() {
        let answer: Answer<'_, &str> = sonic_rs::from_str(r#"{"id":1,"result":"0x1"}"#).expect("json");
        assert_eq!((answer.result, answer.error.is_none()), (Some("0x1"), true));
        let json = r#"{"error":{"code":-32601,"message":"no \"such\" method","data":{}},"result":null}"#;
        let answer: Answer<'_, &str> = sonic_rs::from_str(json).expect("json");
        let error = answer.error.expect("an error");
        assert_eq!((answer.result, error.code, &*error.message), (None, -32601, "no \"such\" method"));
    }
}

//! Receipts: as the trie has them and as JSON.

use alloy_primitives::{Address, B256, Bloom};
use alloy_rlp::Encodable;

use super::{
    fees::Fees,
    json::Json,
    logs::{self, Log},
    plan::Step,
    rlp,
    transactions::{Transaction, blob_gas_used},
};
use crate::rng::Rng;

/// The receipt of a transaction.
#[derive(Debug)]
pub(super) struct Receipt {
    pub(super) bloom: Bloom,
    pub(super) logs: Vec<Log>,
    cumulative_gas: u64,
    failed: bool,
}

/// Where a receipt stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) block: B256,
    pub(super) index: usize,
    /// The index of its first log in the block.
    pub(super) first_log: usize,
}

impl Receipt {
    pub(super) fn new(step: &Step, transaction: &Transaction, gas_before: u64, rng: &mut Rng) -> Self {
        let logs = if step.failed { Vec::new() } else { logs::of(step, transaction, rng) };
        let mut bloom = Bloom::ZERO;
        logs.iter().for_each(|log| bloom.accrue_raw_log(log.address, &log.topics));
        let cumulative_gas = gas_before + transaction.gas_used;
        Self { bloom, logs, cumulative_gas, failed: step.failed }
    }

    /// As EIP-2718 says.
    pub(super) fn encode(&self, envelope: u8) -> Vec<u8> {
        let mut list = rlp::list(|out| {
            u8::from(!self.failed).encode(out);
            self.cumulative_gas.encode(out);
            self.bloom.encode(out);
            rlp::put_list(out, |out| self.logs.iter().for_each(|log| log.put(out)));
        });
        if envelope > 0 {
            list.insert(0, envelope);
        }
        list
    }

    /// In the order of geth's fields, which is the alphabet's.
    pub(super) fn write(&self, json: &mut Json, transaction: &Transaction, fees: Fees, place: Place) {
        let content = &transaction.content;
        json.object(|json| {
            if content.envelope == 3 {
                json.quantity("blobGasPrice", fees.blob_price());
                json.quantity("blobGasUsed", blob_gas_used(content));
            }
            json.data("blockHash", place.block);
            json.quantity("blockNumber", place.number);
            json.data_or_null("contractAddress", self.created(transaction));
            json.quantity("cumulativeGasUsed", self.cumulative_gas);
            json.quantity("effectiveGasPrice", transaction.price);
            json.data("from", transaction.from);
            json.quantity("gasUsed", transaction.gas_used);
            json.key("logs").list((place.first_log..).zip(&self.logs), |json, (index, log)| {
                log.write(json, transaction.hash, place, index);
            });
            json.data("logsBloom", self.bloom);
            json.quantity("status", !self.failed);
            json.data_or_null("to", content.to);
            json.data("transactionHash", transaction.hash);
            json.quantity("transactionIndex", place.index as u64);
            json.quantity("type", content.envelope);
        });
    }

    fn created(&self, transaction: &Transaction) -> Option<Address> {
        transaction.created().filter(|_| !self.failed)
    }
}

impl Log {
    fn put(&self, out: &mut Vec<u8>) {
        rlp::put_list(out, |out| {
            self.address.encode(out);
            rlp::put_list(out, |out| self.topics.iter().for_each(|topic| topic.encode(out)));
            self.data[..].encode(out);
        });
    }

    fn write(&self, json: &mut Json, transaction: B256, place: Place, index: usize) {
        json.object(|json| {
            json.data("address", self.address);
            json.key("topics").list(&self.topics, |json, topic| json.item(topic.as_slice()));
            json.data("data", &self.data);
            json.quantity("blockNumber", place.number);
            json.data("transactionHash", transaction);
            json.quantity("transactionIndex", place.index as u64);
            json.data("blockHash", place.block);
            json.quantity("logIndex", index as u64);
            json.no("removed");
        });
    }
}

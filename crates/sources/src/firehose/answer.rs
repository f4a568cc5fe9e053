//! A block as a node would answer it over JSON-RPC, so that it is checked by the code that checks nodes: every
//! hash, root and bloom, and what follows from them.
//!
//! Only the levels `header` and above ask for it, and `header` only for the header, so it costs nothing where
//! no hash is computed.

use std::fmt::Write;

use super::{
    block::{self, Block, Header, Log, Trace},
    transactions as tx,
    values::{self, significant},
};
use crate::evm::hex::Bad;

/// A field that cannot be written, by the name that messages use.
pub(crate) type BadField = (&'static str, Bad);

/// The block, with its transactions where `transactions` is not `None`.
pub(crate) fn block(
    block: &Block<'_>,
    number: u64,
    chain_id: Option<u64>,
    is_whole: bool,
) -> Result<String, BadField> {
    let mut json = Json::default();
    json.begin('{');
    json.quantity("number", &number.to_be_bytes());
    json.data("hash", block.hash);
    header(&mut json, &block.header);
    if is_whole {
        json.list("transactions", &block.transactions, |json, index, trace| {
            transaction(json, index, trace, chain_id)
        })?;
        if !block.withdrawals.is_empty() {
            json.list("withdrawals", &block.withdrawals, |json, _, withdrawal| {
                json.number("index", withdrawal.index);
                json.number("validatorIndex", withdrawal.validator_index);
                json.data("address", withdrawal.address);
                json.number("amount", withdrawal.amount_gwei);
                Ok(())
            })?;
        }
    }
    json.end('}');
    Ok(json.0)
}

/// The receipts of a block.
pub(crate) fn receipts(block: &Block<'_>) -> Result<String, BadField> {
    let mut json = Json::default();
    json.items(&block.transactions, |json, index, trace| receipt(json, index, trace, block.hash))?;
    Ok(json.0)
}

fn header(json: &mut Json, header: &Header<'_>) {
    json.data("parentHash", header.parent_hash);
    json.data("sha3Uncles", header.ommers_hash);
    json.data("miner", header.miner);
    json.data("stateRoot", header.state_root);
    json.data("transactionsRoot", header.transactions_root);
    json.data("receiptsRoot", header.receipt_root);
    json.data("logsBloom", header.logs_bloom);
    json.quantity("difficulty", header.difficulty.unwrap_or_default());
    json.number("gasLimit", header.gas_limit);
    json.number("gasUsed", header.gas_used);
    json.number("timestamp", header.timestamp);
    json.data("extraData", header.extra_data);
    json.data("mixHash", header.mix_hash);
    json.data("nonce", &header.nonce.to_be_bytes());
    json.quantity_or_nothing("baseFeePerGas", header.base_fee_per_gas);
    json.data_or_nothing("withdrawalsRoot", header.withdrawals_root);
    json.number_or_nothing("blobGasUsed", header.blob_gas_used);
    json.number_or_nothing("excessBlobGas", header.excess_blob_gas);
    json.data_or_nothing("parentBeaconBlockRoot", header.parent_beacon_root);
    json.data_or_nothing("requestsHash", header.requests_hash);
}

fn transaction(
    json: &mut Json,
    index: usize,
    trace: &Trace<'_>,
    chain_id: Option<u64>,
) -> Result<(), BadField> {
    let is_typed = trace.tx_type != 0;
    json.data("hash", trace.hash);
    json.number("transactionIndex", index as u64);
    json.number("type", trace.tx_type);
    json.number("nonce", trace.nonce);
    if let Some(to) = tx::recipient(trace).map_err(|bad| ("to", bad))? {
        json.data("to", &to);
    }
    json.data("from", trace.from);
    json.quantity_or_nothing("gasPrice", tx::gas_price(trace));
    json.number("gas", trace.gas_limit);
    json.quantity("value", tx::value(trace));
    json.data("input", trace.input);
    json.quantity("r", trace.r);
    json.quantity("s", trace.s);
    json.quantity(if is_typed { "yParity" } else { "v" }, trace.v);
    if is_typed {
        json.number_or_nothing("chainId", chain_id);
    }
    json.quantity_or_nothing("maxFeePerGas", tx::max_fee(trace));
    json.quantity_or_nothing("maxPriorityFeePerGas", tx::max_priority_fee(trace));
    json.quantity_or_nothing("maxFeePerBlobGas", trace.blob_gas_fee_cap);
    if tx::has_access_list(trace) {
        json.list("accessList", &trace.access_list, |json, _, message| access(json, message))?;
    }
    if tx::has_blobs(trace) {
        json.datas("blobVersionedHashes", &trace.blob_hashes);
    }
    if tx::has_authorizations(trace) {
        json.list("authorizationList", &trace.authorizations, |json, _, message| {
            authorization(json, message)
        })?;
    }
    Ok(())
}

fn access(json: &mut Json, message: &[u8]) -> Result<(), BadField> {
    let access = block::access(message).map_err(|_| ("accessList", Bad::NotAllowed))?;
    json.data("address", access.address);
    json.datas("storageKeys", &access.storage_keys);
    Ok(())
}

fn authorization(json: &mut Json, message: &[u8]) -> Result<(), BadField> {
    let item = block::authorization(message).map_err(|_| ("authorizationList", Bad::NotAllowed))?;
    json.quantity("chainId", item.chain_id);
    json.data("address", item.address);
    json.number("nonce", item.nonce);
    json.number("yParity", item.v);
    json.quantity("r", item.r);
    json.quantity("s", item.s);
    Ok(())
}

fn receipt(json: &mut Json, index: usize, trace: &Trace<'_>, block_hash: &[u8]) -> Result<(), BadField> {
    let receipt = tx::receipt(trace).map_err(|bad| ("receipt", bad))?;
    json.data("transactionHash", trace.hash);
    json.number("transactionIndex", index as u64);
    json.data("blockHash", block_hash);
    json.number("cumulativeGasUsed", receipt.cumulative_gas_used);
    json.number("gasUsed", trace.gas_used);
    if let Some(contract) = tx::contract_address(trace).map_err(|bad| ("contractAddress", bad))? {
        json.data("contractAddress", &contract);
    }
    match tx::state_root(receipt) {
        Some(root) => json.data("root", &root),
        None => {
            let status = tx::status(trace).map_err(|bad| ("status", bad))?;
            json.number_or_nothing("status", status.map(u64::from));
        }
    }
    json.quantity_or_nothing("effectiveGasPrice", tx::gas_price(trace));
    json.number_or_nothing("blobGasUsed", tx::blob_gas_used(trace).map_err(|bad| ("blobGasUsed", bad))?);
    json.quantity_or_nothing("blobGasPrice", receipt.blob_gas_price);
    json.data_or_nothing("logsBloom", receipt.logs_bloom);
    json.list("logs", &receipt.logs, |json, _, item| log(json, item))
}

fn log(json: &mut Json, log: &Log<'_>) -> Result<(), BadField> {
    if log.has_too_many_topics {
        return Err(("topics", Bad::NotAllowed));
    }
    json.number("logIndex", log.block_index);
    json.data("address", log.address);
    let topics: Vec<&[u8]> = log.topics.iter().flatten().copied().collect();
    json.datas("topics", &topics);
    json.data("data", log.data);
    Ok(())
}

/// JSON text that grows.
#[derive(Default)]
struct Json(String);

impl Json {
    fn begin(&mut self, bracket: char) {
        self.0.push(bracket);
    }

    /// Ends an object or a list, which may have a comma behind its last part.
    fn end(&mut self, bracket: char) {
        if self.0.ends_with(',') {
            self.0.pop();
        }
        self.0.push(bracket);
    }

    fn key(&mut self, key: &str) {
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    fn hex(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.0.reserve(2 * bytes.len() + 5);
        self.0.push_str("\"0x");
        for byte in bytes {
            self.0.push(char::from(DIGITS[usize::from(byte >> 4)]));
            self.0.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        self.0.push_str("\",");
    }

    fn data(&mut self, key: &str, bytes: &[u8]) {
        self.key(key);
        self.hex(bytes);
    }

    fn data_or_nothing(&mut self, key: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.data(key, bytes);
        }
    }

    fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        // Writing to a text cannot fail.
        write!(self.0, "\"0x{number:x}\",").ok();
    }

    fn number_or_nothing(&mut self, key: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.number(key, number);
        }
    }

    fn quantity(&mut self, key: &str, bytes: &[u8]) {
        let bytes = significant(bytes);
        if let Ok(number) = values::number(bytes) {
            self.key(key);
            write!(self.0, "\"0x{number:x}\",").ok();
        } else {
            self.data(key, bytes);
        }
    }

    fn quantity_or_nothing(&mut self, key: &str, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            self.quantity(key, bytes);
        }
    }

    fn datas(&mut self, key: &str, items: &[&[u8]]) {
        self.key(key);
        self.begin('[');
        items.iter().for_each(|item| self.hex(item));
        self.end(']');
        self.0.push(',');
    }

    fn list<T>(
        &mut self,
        key: &str,
        items: &[T],
        fill: impl FnMut(&mut Self, usize, &T) -> Result<(), BadField>,
    ) -> Result<(), BadField> {
        self.key(key);
        self.items(items, fill)?;
        self.0.push(',');
        Ok(())
    }

    /// A list of objects.
    fn items<T>(
        &mut self,
        items: &[T],
        mut fill: impl FnMut(&mut Self, usize, &T) -> Result<(), BadField>,
    ) -> Result<(), BadField> {
        self.begin('[');
        for (index, item) in items.iter().enumerate() {
            self.begin('{');
            fill(self, index, item)?;
            self.end('}');
            self.0.push(',');
        }
        self.end(']');
        Ok(())
    }
}

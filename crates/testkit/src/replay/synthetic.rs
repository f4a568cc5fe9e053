//! A generated chain: everything about a block follows from the seed, its number and its parent's
//! hash, so that only the hashes are kept.

use std::{collections::HashMap, fmt::Write};

use alloy_primitives::{Address, B64, B256, Bloom, U256, b256, keccak256};
use alloy_rlp::Encodable;

use crate::rng::Rng;

const EMPTY_UNCLES: B256 = b256!("1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347");
const EMPTY_ROOT: B256 = b256!("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421");
/// `Transfer(address,address,uint256)`.
const TRANSFER: B256 = b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");

const GENESIS_TIME: u64 = 1_600_000_000;
const GAS_LIMIT: u64 = 30_000_000;
const BASE_FEE: u64 = 1_000_000_000;

/// Accounts and tokens that take part; few, as on a real chain most are seen again.
const ACTORS: u64 = 500;

#[derive(Debug)]
pub(super) struct Synthetic {
    txs_per_block: u64,
    logs_per_tx: u64,
    seed: u64,
    hashes: Vec<B256>,
    numbers: HashMap<B256, u64>,
}

/// The fields of a header that are not the same for all blocks.
struct Header {
    number: u64,
    parent: B256,
    miner: Address,
    state_root: B256,
    transactions_root: B256,
    receipts_root: B256,
    gas_used: u64,
    gas_limit: u64,
    timestamp: u64,
    mix_hash: B256,
}

/// A transaction with what its receipt says.
struct Transaction {
    hash: B256,
    index: u64,
    from: Address,
    to: Address,
    value: u64,
    tip: u64,
    input: String,
    signature: [B256; 2],
}

impl Synthetic {
    pub(super) fn new(blocks: u64, txs_per_block: u64, logs_per_tx: u64, seed: u64) -> Self {
        let mut chain =
            Self { txs_per_block, logs_per_tx, seed, hashes: Vec::new(), numbers: HashMap::new() };
        for number in 0..blocks {
            let hash = keccak256(chain.header(number).rlp());
            chain.hashes.push(hash);
            chain.numbers.insert(hash, number);
        }
        chain
    }

    pub(super) fn len(&self) -> u64 {
        self.hashes.len() as u64
    }

    pub(super) fn hash(&self, number: u64) -> B256 {
        self.hashes[number as usize]
    }

    pub(super) fn number_of(&self, hash: B256) -> Option<u64> {
        self.numbers.get(&hash).copied()
    }

    fn parent(&self, number: u64) -> B256 {
        number.checked_sub(1).map_or(B256::ZERO, |parent| self.hashes[parent as usize])
    }

    fn transaction_count(&self, number: u64) -> u64 {
        if number == 0 { 0 } else { self.txs_per_block }
    }

    fn gas_per_transaction(&self) -> u64 {
        30_000 + 2_000 * self.logs_per_tx
    }

    /// The header, which needs the parent's hash, so blocks are first made in order.
    fn header(&self, number: u64) -> Header {
        let mut rng = Rng::nth(self.seed, number);
        let count = self.transaction_count(number);
        let gas_used = count * self.gas_per_transaction();
        let mut root = || if count == 0 { EMPTY_ROOT } else { B256::from(rng.bytes::<32>()) };
        let (transactions_root, receipts_root) = (root(), root());
        Header {
            number,
            parent: self.parent(number),
            miner: Address::from(rng.bytes::<20>()),
            state_root: B256::from(rng.bytes::<32>()),
            transactions_root,
            receipts_root,
            gas_used,
            gas_limit: GAS_LIMIT.max(gas_used),
            timestamp: GENESIS_TIME + 12 * number,
            mix_hash: B256::from(rng.bytes::<32>()),
        }
    }

    fn transaction(&self, number: u64, index: u64) -> Transaction {
        let mut rng = Rng::nth(self.seed ^ 0x7478, (number << 20) | index);
        let (from, to) = (actor(&mut rng), actor(&mut rng));
        let amount = U256::from(rng.next_u64());
        Transaction {
            hash: B256::from(rng.bytes::<32>()),
            index,
            from,
            to,
            value: rng.below(1_000_000_000_000_000_000),
            tip: rng.below(1_000_000_000),
            input: format!("0xa9059cbb{:064x}{amount:064x}", U256::from_be_slice(to.as_slice())),
            signature: [B256::from(rng.bytes::<32>()), B256::from(rng.bytes::<32>())],
        }
    }

    /// The answer to `eth_getBlockByNumber` of a block that exists.
    pub(super) fn block_json(&self, number: u64, full: bool) -> String {
        let count = self.transaction_count(number);
        let mut out = String::with_capacity(2048 + 1024 * count as usize);
        let hash = self.hashes[number as usize];
        self.header(number).write_json(&mut out, hash);
        push_list(&mut out, (0..count).map(|index| self.transaction(number, index)), |out, transaction| {
            if full {
                transaction.write_json(out, number, hash);
            } else {
                push(out, format_args!("\"{}\"", transaction.hash));
            }
        });
        out.push('}');
        out
    }

    /// The answer to `eth_getBlockReceipts` of a block that exists.
    pub(super) fn receipts_json(&self, number: u64) -> String {
        let count = self.transaction_count(number);
        let mut out = String::with_capacity(64 + (1500 + 700 * self.logs_per_tx as usize) * count as usize);
        let transactions = (0..count).map(|index| self.transaction(number, index));
        push_list(&mut out, transactions, |out, transaction| self.write_receipt(out, number, &transaction));
        out
    }

    fn write_receipt(&self, out: &mut String, number: u64, transaction: &Transaction) {
        let block_hash = self.hashes[number as usize];
        let Transaction { hash, index, from, to, tip, .. } = transaction;
        let gas = self.gas_per_transaction();
        push(
            out,
            format_args!(
                r#"{{"blockHash":"{block_hash:#x}","blockNumber":"{number:#x}","contractAddress":null,"cumulativeGasUsed":"{:#x}","effectiveGasPrice":"{:#x}","from":"{from:#x}","gasUsed":"{gas:#x}","logsBloom":"{:#x}","status":"0x1","to":"{to:#x}","transactionHash":"{hash:#x}","transactionIndex":"{index:#x}","type":"0x2","logs":"#,
                gas * (index + 1),
                BASE_FEE + tip,
                Bloom::ZERO,
            ),
        );
        let mut rng = Rng::nth(self.seed ^ 0x6c6f_6773, (number << 20) | index);
        push_list(out, 0..self.logs_per_tx, |out, log| {
            let (token, sender, recipient) = (actor(&mut rng), actor(&mut rng), actor(&mut rng));
            let log_index = index * self.logs_per_tx + log;
            push(
                out,
                format_args!(
                    r#"{{"address":"{token:#x}","topics":["{TRANSFER:#x}","{:#x}","{:#x}"],"data":"0x{:064x}","blockNumber":"{number:#x}","transactionHash":"{hash:#x}","transactionIndex":"{index:#x}","blockHash":"{block_hash:#x}","logIndex":"{log_index:#x}","removed":false}}"#,
                    sender.into_word(),
                    recipient.into_word(),
                    rng.next_u64(),
                ),
            );
        });
        out.push('}');
    }
}

impl Header {
    /// The header in RLP, with the fields of the Cancun upgrade.
    fn rlp(&self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(640);
        let mut put = |field: &dyn Encodable| field.encode(&mut fields);
        put(&self.parent.as_slice());
        put(&EMPTY_UNCLES.as_slice());
        put(&self.miner.as_slice());
        put(&self.state_root.as_slice());
        put(&self.transactions_root.as_slice());
        put(&self.receipts_root.as_slice());
        put(&Bloom::ZERO.as_slice());
        put(&0u64); // difficulty
        put(&self.number);
        put(&self.gas_limit);
        put(&self.gas_used);
        put(&self.timestamp);
        put(&[0u8; 0].as_slice()); // extra data
        put(&self.mix_hash.as_slice());
        put(&B64::ZERO.as_slice()); // nonce
        put(&BASE_FEE);
        put(&EMPTY_ROOT.as_slice()); // withdrawals
        put(&0u64); // blob gas used
        put(&0u64); // excess blob gas
        put(&B256::ZERO.as_slice()); // parent beacon block root
        let mut out = Vec::with_capacity(fields.len() + 4);
        alloy_rlp::Header { list: true, payload_length: fields.len() }.encode(&mut out);
        out.extend_from_slice(&fields);
        out
    }

    /// The header as JSON, open for the list of transactions to follow.
    fn write_json(&self, out: &mut String, hash: B256) {
        let Self { number, parent, miner, state_root, transactions_root, receipts_root, .. } = self;
        let Self { gas_used, gas_limit, timestamp, mix_hash, .. } = self;
        push(
            out,
            format_args!(
                r#"{{"number":"{number:#x}","hash":"{hash:#x}","parentHash":"{parent:#x}","sha3Uncles":"{EMPTY_UNCLES:#x}","miner":"{miner:#x}","stateRoot":"{state_root:#x}","transactionsRoot":"{transactions_root:#x}","receiptsRoot":"{receipts_root:#x}","logsBloom":"{:#x}","difficulty":"0x0","gasLimit":"{gas_limit:#x}","gasUsed":"{gas_used:#x}","timestamp":"{timestamp:#x}","extraData":"0x","mixHash":"{mix_hash:#x}","nonce":"{:#x}","baseFeePerGas":"{BASE_FEE:#x}","withdrawalsRoot":"{EMPTY_ROOT:#x}","blobGasUsed":"0x0","excessBlobGas":"0x0","parentBeaconBlockRoot":"{:#x}","size":"0x400","uncles":[],"withdrawals":[],"transactions":"#,
                Bloom::ZERO,
                B64::ZERO,
                B256::ZERO,
            ),
        );
    }
}

impl Transaction {
    fn write_json(&self, out: &mut String, number: u64, block_hash: B256) {
        let Self { hash, index, from, to, value, tip, input, signature: [r, s] } = self;
        push(
            out,
            format_args!(
                r#"{{"blockHash":"{block_hash:#x}","blockNumber":"{number:#x}","from":"{from:#x}","gas":"0x30d40","gasPrice":"{:#x}","maxFeePerGas":"0xb2d05e00","maxPriorityFeePerGas":"{tip:#x}","hash":"{hash:#x}","input":"{input}","nonce":"{number:#x}","to":"{to:#x}","transactionIndex":"{index:#x}","value":"{value:#x}","type":"0x2","accessList":[],"chainId":"0x1","v":"0x0","r":"{:#x}","s":"{:#x}","yParity":"0x0"}}"#,
                BASE_FEE + tip,
                U256::from_be_bytes(r.0),
                U256::from_be_bytes(s.0),
            ),
        );
    }
}

fn actor(rng: &mut Rng) -> Address {
    Address::from(Rng::nth(0x6163_746f, rng.below(ACTORS)).bytes::<20>())
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes everything");
}

/// A JSON array: `write` puts each item.
fn push_list<T>(out: &mut String, items: impl Iterator<Item = T>, mut write: impl FnMut(&mut String, T)) {
    out.push('[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, str::FromStr};

    use serde_json::Value;

    use super::*;

    fn json(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    /// One header field as RLP, from the JSON alone: quantities without leading zeros, data as it
    /// is. Independent of how the chain is generated.
    fn field(block: &Value, name: &str) -> Vec<u8> {
        let text = block[name].as_str().expect("a field");
        let is_quantity = ["difficulty", "number", "gasLimit", "gasUsed", "timestamp", "baseFeePerGas"]
            .contains(&name)
            || name.ends_with("BlobGas")
            || name == "blobGasUsed";
        let bytes = if is_quantity {
            U256::from_str(text).expect("a quantity").to_be_bytes_trimmed_vec()
        } else {
            const_hex::decode(text).expect("bytes")
        };
        alloy_rlp::encode(bytes.as_slice())
    }

    fn header_hash(block: &Value) -> B256 {
        let names = "parentHash sha3Uncles miner stateRoot transactionsRoot receiptsRoot logsBloom difficulty \
                     number gasLimit gasUsed timestamp extraData mixHash nonce baseFeePerGas withdrawalsRoot \
                     blobGasUsed excessBlobGas parentBeaconBlockRoot";
        let fields: Vec<u8> = names.split_whitespace().flat_map(|name| field(block, name)).collect();
        let mut list = Vec::new();
        alloy_rlp::Header { list: true, payload_length: fields.len() }.encode(&mut list);
        list.extend(fields);
        keccak256(list)
    }

    #[test]
    fn headers_hash_to_the_block_s_hash_and_are_linked() {
        let chain = Synthetic::new(300, 2, 1, 9);
        let mut parent = B256::ZERO;
        for number in 0..300 {
            let block = json(&chain.block_json(number, false));
            let hash = header_hash(&block);
            assert_eq!(block["hash"], hash.to_string());
            assert_eq!(block["parentHash"], parent.to_string());
            assert_eq!(chain.number_of(hash), Some(number));
            parent = hash;
        }
        assert_eq!(chain.len(), 300);
    }

    #[test]
    fn transactions_receipts_and_logs_agree() {
        let chain = Synthetic::new(50, 3, 2, 9);
        let mut seen = HashSet::new();
        for number in 1..50 {
            let (block, receipts) =
                (json(&chain.block_json(number, true)), json(&chain.receipts_json(number)));
            let light = json(&chain.block_json(number, false));
            let transactions = block["transactions"].as_array().expect("transactions");
            let receipts = receipts.as_array().expect("receipts");
            assert_eq!((transactions.len(), receipts.len()), (3, 3));
            let mut log_index = 0;
            for (index, (transaction, receipt)) in transactions.iter().zip(receipts).enumerate() {
                assert!(seen.insert(transaction["hash"].to_string()));
                assert_eq!(light["transactions"][index], transaction["hash"]);
                assert_eq!(receipt["transactionHash"], transaction["hash"]);
                for name in ["transactionIndex", "blockHash", "blockNumber", "from", "to", "type"] {
                    assert_eq!(receipt[name], transaction[name], "{name}");
                }
                assert_eq!(receipt["blockHash"], block["hash"]);
                assert_eq!(receipt["effectiveGasPrice"], transaction["gasPrice"]);
                for log in receipt["logs"].as_array().expect("logs") {
                    assert_eq!(log["logIndex"], format!("{log_index:#x}"));
                    assert_eq!(log["transactionHash"], transaction["hash"]);
                    log_index += 1;
                }
            }
            assert_eq!(log_index, 6);
            assert_eq!(receipts[2]["cumulativeGasUsed"], block["gasUsed"]);
        }
    }

    #[test]
    fn the_seed_decides_the_chain() {
        let last = |seed| Synthetic::new(20, 1, 1, seed).block_json(19, true);
        assert_eq!(last(1), last(1));
        assert_ne!(last(1), last(2));
    }
}

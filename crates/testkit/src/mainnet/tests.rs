//! The chain against a second implementation: everything recomputed from the JSON alone.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::OnceLock,
};

use alloy_consensus::{
    Block, BlockBody, BlockHeader, EthereumTxEnvelope, Header, ReceiptEnvelope, Transaction, TxEip4844,
    proofs::{calculate_receipt_root, calculate_transaction_root},
    transaction::SignerRecoverable,
};
use alloy_eips::{Encodable2718, eip1559::BaseFeeParams, eip7840::BlobParams};
use alloy_primitives::{Address, B256, Bloom, U128, b256, keccak256};
use serde_json::{Value, json};

use super::MainnetLike;
use crate::parallel::in_parallel;

const BLOCKS: u64 = 25;

type Tx = EthereumTxEnvelope<TxEip4844>;

/// A block as it is served.
struct Served {
    block: Value,
    receipts: Vec<Value>,
    bytes: usize,
}

impl Served {
    fn transactions(&self) -> &[Value] {
        self.block["transactions"].as_array().expect("transactions")
    }

    fn header(&self) -> Header {
        serde_json::from_value(self.block.clone()).expect("a header")
    }

    fn decoded(&self) -> Vec<Tx> {
        let decode = |tx: &Value| serde_json::from_value(tx.clone()).expect("a transaction");
        self.transactions().iter().map(decode).collect()
    }

    fn logs(&self) -> impl Iterator<Item = &Value> {
        self.receipts.iter().flat_map(|receipt| receipt["logs"].as_array().expect("logs"))
    }
}

/// The first blocks under seed 1.
fn served() -> &'static [Served] {
    static SERVED: OnceLock<Vec<Served>> = OnceLock::new();
    SERVED.get_or_init(|| serve(&MainnetLike::new(BLOCKS, 1)))
}

fn serve(chain: &MainnetLike) -> Vec<Served> {
    in_parallel(chain.len(), |number| {
        let (block, receipts) = (chain.block_json(number, true), chain.receipts_json(number));
        Served {
            bytes: block.len() + receipts.len(),
            block: serde_json::from_slice(&block).expect("JSON"),
            receipts: serde_json::from_slice(&receipts).expect("JSON"),
        }
    })
}

fn number(value: &Value) -> u128 {
    value.as_str().and_then(|text| text.parse::<U128>().ok()).expect("a quantity").to()
}

fn words(value: &Value) -> Vec<B256> {
    serde_json::from_value(value.clone()).expect("words")
}

#[test]
fn headers_hash_to_the_hash_that_the_next_block_names() {
    let mut parent = B256::ZERO;
    for (number, served) in (0..).zip(served()) {
        let header = served.header();
        assert_eq!((header.number, header.parent_hash), (number, parent));
        parent = header.hash_slow();
        assert_eq!(served.block["hash"], parent.to_string());
    }
}

#[test]
fn the_roots_and_the_size_are_those_of_the_content() {
    assert_roots(served());
}

#[test]
fn a_small_chain_has_up_to_so_many_transactions_and_right_roots_too() {
    let served = serve(&MainnetLike::small(60, 3, 1));
    let counts: HashSet<usize> = served[1..].iter().map(|served| served.transactions().len()).collect();
    assert_eq!(counts, HashSet::from([0, 1, 2, 3]));
    assert_roots(&served);
}

fn assert_roots(served: &[Served]) {
    for served in served {
        let header = served.header();
        let receipts: Vec<ReceiptEnvelope> =
            serde_json::from_value(Value::Array(served.receipts.clone())).expect("receipts");
        assert_eq!(header.receipts_root, calculate_receipt_root(&receipts));
        let body = json!({ "transactions": served.transactions(), "ommers": [],
                           "withdrawals": served.block["withdrawals"] });
        let body: BlockBody<Tx> = serde_json::from_value(body).expect("a body");
        assert_eq!(header.transactions_root, calculate_transaction_root(&body.transactions));
        assert_eq!(header.withdrawals_root, body.calculate_withdrawals_root());
        let size = alloy_rlp::Encodable::length(&Block::new(header, body));
        assert_eq!(number(&served.block["size"]), size as u128);
    }
}

#[test]
fn blooms_have_the_bits_of_the_logs_and_no_others() {
    for served in served() {
        let mut all = Bloom::ZERO;
        for receipt in &served.receipts {
            let mut bloom = Bloom::ZERO;
            for log in receipt["logs"].as_array().expect("logs") {
                let address: Address = serde_json::from_value(log["address"].clone()).expect("an address");
                set_bits(&mut bloom, address.as_slice());
                words(&log["topics"]).iter().for_each(|topic| set_bits(&mut bloom, topic.as_slice()));
            }
            assert_eq!(receipt["logsBloom"], bloom.to_string());
            all |= bloom;
        }
        assert_eq!(served.header().logs_bloom, all);
    }
}

/// The three bits of an entry, as the yellow paper has them.
fn set_bits(bloom: &mut Bloom, entry: &[u8]) {
    let hash = keccak256(entry);
    for pair in hash[..6].chunks_exact(2) {
        let bit = usize::from(u16::from_be_bytes([pair[0], pair[1]]) % 2048);
        bloom.0[255 - bit / 8] |= 1 << (bit % 8);
    }
}

#[test]
fn transactions_hash_and_recover_to_what_is_said() {
    for served in served() {
        for (tx, json) in served.decoded().iter().zip(served.transactions()) {
            assert_eq!(json["hash"], keccak256(tx.encoded_2718()).to_string());
            let sender = tx.recover_signer().expect("a low s and a valid signature");
            assert_eq!(json["from"], format!("{sender:#x}"));
            assert_eq!(json["chainId"], "0x1");
            assert!(tx.max_fee_per_gas() >= tx.max_priority_fee_per_gas().unwrap_or(0));
            for authorization in tx.authorization_list().unwrap_or_default() {
                assert!(senders().contains(&authorization.recover_authority().expect("an authority")));
            }
        }
    }
}

fn senders() -> &'static HashSet<Address> {
    static SENDERS: OnceLock<HashSet<Address>> = OnceLock::new();
    SENDERS.get_or_init(|| (0..100_000).map(|rank| super::accounts::Cast::get().sender(rank)).collect())
}

#[test]
fn receipts_agree_with_their_transactions_and_among_each_other() {
    for served in served() {
        let base_fee = served.header().base_fee_per_gas;
        let (mut gas, mut log_index) = (0, 0);
        for ((json, tx), receipt) in served.transactions().iter().zip(served.decoded()).zip(&served.receipts)
        {
            for name in ["from", "to", "type", "transactionIndex", "blockHash", "blockNumber"] {
                assert_eq!(receipt[name], json[name], "{name}");
            }
            assert_eq!(receipt["transactionHash"], json["hash"]);
            gas += number(&receipt["gasUsed"]);
            assert_eq!(number(&receipt["cumulativeGasUsed"]), gas);
            assert!(number(&receipt["gasUsed"]) <= u128::from(tx.gas_limit()));
            assert!(tx.max_fee_per_gas() >= u128::from(base_fee.unwrap_or(0)));
            assert_eq!(number(&receipt["effectiveGasPrice"]), tx.effective_gas_price(base_fee));
            assert_eq!(receipt["effectiveGasPrice"], json["gasPrice"]);
            let failed = receipt["status"] == "0x0";
            let created = tx.to().is_none().then(|| tx.recover_signer().expect("signed").create(tx.nonce()));
            assert_eq!(receipt["contractAddress"], json!(created.map(|address| format!("{address:#x}"))));
            let logs = receipt["logs"].as_array().expect("logs");
            assert!(!failed || logs.is_empty());
            for log in logs {
                assert_eq!(number(&log["logIndex"]), log_index);
                assert_eq!((&log["transactionHash"], &log["blockHash"]), (&json["hash"], &json["blockHash"]));
                log_index += 1;
            }
        }
        assert_eq!(number(&served.block["gasUsed"]), gas);
        assert!(gas <= number(&served.block["gasLimit"]));
    }
}

#[test]
fn fees_follow_from_the_block_before() {
    let params = BlobParams::prague();
    for pair in served().windows(2) {
        let [before, after] = [pair[0].header(), pair[1].header()];
        assert_eq!(after.base_fee_per_gas, before.next_block_base_fee(BaseFeeParams::ethereum()));
        assert_eq!(after.excess_blob_gas, before.next_block_excess_blob_gas(params));
        let blob_gas: u64 = pair[1].decoded().iter().filter_map(|tx| tx.blob_gas_used()).sum();
        assert_eq!(after.blob_gas_used, Some(blob_gas));
        let price = BlockHeader::blob_fee(&after, params).expect("a price");
        for receipt in pair[1].receipts.iter().filter(|receipt| receipt["type"] == "0x3") {
            assert_eq!(number(&receipt["blobGasPrice"]), price);
        }
    }
    // Where the price is no longer the lowest.
    for excess in [0, 131_072, 10_000_000, 50_000_000, 123_456_789] {
        let fees = super::Fees { base_fee: 1, excess_blob_gas: excess };
        assert_eq!(fees.blob_price(), params.calc_blob_fee(excess));
    }
}

#[test]
fn nonces_rise_and_nothing_is_there_twice() {
    let mut nonces = HashMap::new();
    let (mut hashes, mut signatures) = (HashSet::new(), HashSet::new());
    for tx in served().iter().flat_map(Served::transactions) {
        let before = nonces.insert(tx["from"].to_string(), number(&tx["nonce"]));
        assert!(before.is_none_or(|before| before < number(&tx["nonce"])));
        assert!(hashes.insert(tx["hash"].to_string()) && signatures.insert(tx["r"].to_string()));
    }
    let withdrawals = |served: &Served| served.block["withdrawals"].as_array().expect("a list").len();
    let counts: HashSet<usize> = served()[1..].iter().map(withdrawals).collect();
    assert_eq!((withdrawals(&served()[0]), counts), (0, HashSet::from([16])));
}

#[test]
fn blocks_are_as_large_as_the_real_ones_and_vary_as_much() {
    let blocks = &served()[1..];
    let mean = |of: fn(&Served) -> usize| blocks.iter().map(of).sum::<usize>() / blocks.len();
    let spread = |of: fn(&Served) -> usize| {
        let sizes: Vec<usize> = blocks.iter().map(of).collect();
        *sizes.iter().max().expect("blocks") as f64 / *sizes.iter().min().expect("blocks") as f64
    };
    let (txs, logs) =
        (|served: &Served| served.transactions().len(), |served: &Served| served.logs().count());
    assert!((150..186).contains(&mean(txs)), "{} transactions", mean(txs));
    assert!((280..360).contains(&mean(logs)), "{} logs", mean(logs));
    let bytes = mean(|served| served.bytes);
    assert!((530_000..650_000).contains(&bytes), "{bytes} bytes");
    assert!(spread(txs) > 1.6 && spread(logs) > 1.8 && spread(|served| served.bytes) > 1.6);
    assert_eq!(served()[0].transactions().len(), 0);
}

#[test]
fn few_accounts_do_much_and_all_kinds_of_transactions_occur() {
    let transactions: Vec<&Value> = served().iter().flat_map(Served::transactions).collect();
    let receipts: Vec<&Value> = served().iter().flat_map(|served| &served.receipts).collect();
    let (top, contracts) = top_share(served().iter().flat_map(Served::logs).map(|log| &log["address"]));
    assert!((0.12..0.30).contains(&top) && contracts > 500, "{top} of {contracts}");
    let (top, senders) = top_share(transactions.iter().map(|tx| &tx["from"]));
    assert!((0.005..0.03).contains(&top) && senders > 1500, "{top} of {senders}");

    let share = |of: &dyn Fn(&Value) -> bool| {
        transactions.iter().filter(|tx| of(tx)).count() as f64 / transactions.len() as f64
    };
    let mut types = BTreeMap::new();
    transactions.iter().for_each(|tx| *types.entry(tx["type"].to_string()).or_insert(0u32) += 1);
    assert_eq!(types.len(), 5, "{types:?}");
    assert!(share(&|tx| tx["type"] == "0x2") > 0.8);
    assert!((0.002..0.01).contains(&share(&|tx| tx["to"].is_null())));
    assert!((0.25..0.36).contains(&share(&|tx| tx["input"] == "0x")));
    // A selector and two words.
    let word_call = |tx: &Value| tx["input"].as_str().is_some_and(|input| input.len() == 2 + 2 * 68);
    assert!((0.27..0.40).contains(&share(&word_call)));
    let listed = |tx: &Value| tx["accessList"].as_array().is_some_and(|list| !list.is_empty());
    assert!((0.005..0.05).contains(&share(&listed)));
    let failed = receipts.iter().filter(|receipt| receipt["status"] == "0x0").count();
    assert!((0.035..0.057).contains(&(failed as f64 / receipts.len() as f64)), "{failed} failed");
}

/// The share of the most frequent value, and how many values there are.
fn top_share<'a>(values: impl Iterator<Item = &'a Value>) -> (f64, usize) {
    let mut counts = HashMap::new();
    values.for_each(|value| *counts.entry(value.as_str()).or_insert(0u32) += 1);
    let (all, top) = (counts.values().sum::<u32>(), counts.values().max().copied().unwrap_or(0));
    (f64::from(top) / f64::from(all), counts.len())
}

#[test]
fn the_seed_decides_the_chain_and_a_longer_one_begins_the_same() {
    let chain = MainnetLike::new(12, 1);
    assert_eq!(served()[11].block["hash"], chain.hash(11).to_string());
    assert_ne!(MainnetLike::new(3, 2).hash(2), chain.hash(2));
    assert_eq!(chain.number_of(chain.hash(7)), Some(7));
    // What is measured with the chain is comparable only while this stays.
    let known = b256!("616d6124fff5ee4cf9a4f07fac9299efe58ca2d3127984c46430d55938942a9b");
    assert_eq!(chain.hash(11), known);
}

#[test]
fn a_block_may_be_asked_for_with_hashes_only() {
    let chain = MainnetLike::new(4, 1);
    let mut light: Value = serde_json::from_slice(&chain.block_json(3, false)).expect("JSON");
    let whole = &served()[3];
    let hashes: Vec<&Value> = whole.transactions().iter().map(|tx| &tx["hash"]).collect();
    assert_eq!(light["transactions"], json!(hashes));
    light["transactions"] = whole.block["transactions"].clone();
    assert_eq!(light, whole.block);
}

//! Blocks whose hashes and roots are right, as another implementation computes them.

use alloy_consensus::{
    EthereumTxEnvelope, Header, ReceiptEnvelope, TxEip4844,
    proofs::{calculate_receipt_root, calculate_transaction_root},
};
use alloy_primitives::{B256, Bloom, keccak256};
use nozzle_testkit::replay::Recording;

use super::*;

type OtherTx = EthereumTxEnvelope<TxEip4844>;

/// A block and its receipts.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub block: Value,
    pub receipts: Value,
}

impl Sealed {
    pub fn raw(&self) -> RawBlock {
        raw(&self.block, &self.receipts)
    }

    /// Gives the block the roots, bloom and hash of its content.
    pub fn seal(&mut self) {
        let transactions: Vec<OtherTx> = serde_json::from_value(self.block["transactions"].clone()).unwrap();
        self.block["transactionsRoot"] = json!(calculate_transaction_root(&transactions));
        let receipts: Vec<ReceiptEnvelope> = serde_json::from_value(self.receipts.clone()).unwrap();
        self.block["receiptsRoot"] = json!(calculate_receipt_root(&receipts));
        let bloom = receipts.iter().fold(Bloom::ZERO, |bloom, receipt| bloom | *receipt.logs_bloom());
        self.block["logsBloom"] = json!(bloom);
        self.rehash();
    }

    /// Gives the block the hash of its header, and all that names it.
    pub fn rehash(&mut self) {
        let header: Header = serde_json::from_value(self.block.clone()).unwrap();
        let hash = json!(header.hash_slow());
        self.block["hash"] = hash.clone();
        let transactions = self.block["transactions"].as_array_mut().unwrap();
        transactions.iter_mut().for_each(|tx| tx["blockHash"] = hash.clone());
        for receipt in self.receipts.as_array_mut().unwrap() {
            receipt["blockHash"] = hash.clone();
            let logs = receipt["logs"].as_array_mut().unwrap();
            logs.iter_mut().for_each(|log| log["blockHash"] = hash.clone());
        }
    }

    /// Gives a transaction the hash of its content.
    pub fn rehash_transaction(&mut self, index: usize) {
        let tx = &mut self.block["transactions"][index];
        let other: OtherTx = serde_json::from_value(tx.clone()).unwrap();
        let hash = json!(keccak256(alloy_eips::Encodable2718::encoded_2718(&other)));
        tx["hash"] = hash.clone();
        self.receipts[index]["transactionHash"] = hash.clone();
        let logs = self.receipts[index]["logs"].as_array_mut().unwrap();
        logs.iter_mut().for_each(|log| log["transactionHash"] = hash.clone());
    }

    /// Keeps the transactions at the given places, in this order.
    fn keep(&mut self, places: &[usize]) {
        let pick = |list: &Value| places.iter().map(|at| list[*at].clone()).collect::<Vec<_>>();
        self.block["transactions"] = pick(&self.block["transactions"]).into();
        self.receipts = pick(&self.receipts).into();
        let (mut gas, mut log_index) = (0, 0);
        for index in 0..places.len() {
            let at = json!(format!("{index:#x}"));
            self.block["transactions"][index]["transactionIndex"] = at.clone();
            let receipt = &mut self.receipts[index];
            gas += u64::from_str_radix(&receipt["gasUsed"].as_str().unwrap()[2..], 16).unwrap();
            receipt["transactionIndex"] = at.clone();
            receipt["cumulativeGasUsed"] = json!(format!("{gas:#x}"));
            for log in receipt["logs"].as_array_mut().unwrap() {
                log["transactionIndex"] = at.clone();
                log["logIndex"] = json!(format!("{log_index:#x}"));
                log_index += 1;
            }
        }
        self.block["gasUsed"] = json!(format!("{gas:#x}"));
    }
}

/// A block of the generated chain, whole.
pub(super) fn generated(chain: &Recording, number: u64) -> Sealed {
    let read = |json: Option<bytes::Bytes>| serde_json::from_slice(&json.unwrap()).unwrap();
    Sealed { block: read(chain.block(number, true)), receipts: read(chain.receipts(number)) }
}

/// A block with transactions of all types, some that fail and one that creates a contract, taken
/// out of a generated one.
pub(super) fn of_all_types() -> Sealed {
    let chain = Recording::mainnet_like(16, 3);
    (1..16).find_map(|number| cut(generated(&chain, number))).expect("a block with all types")
}

fn cut(mut sealed: Sealed) -> Option<Sealed> {
    let transactions = sealed.block["transactions"].as_array().unwrap();
    let places = |is_wanted: &dyn Fn(usize) -> bool, count: usize| {
        (0..transactions.len()).filter(|at| is_wanted(*at)).take(count).collect::<Vec<_>>()
    };
    let receipts = &sealed.receipts;
    let logs = |at: usize| receipts[at]["logs"].as_array().unwrap().len();
    let mut wanted = vec![];
    for kind in ["0x0", "0x1", "0x2", "0x3", "0x4"] {
        let of_kind = |at: usize| transactions[at]["type"] == kind && logs(at) < 8;
        let found = places(&of_kind, 2);
        if found.is_empty() {
            return None;
        }
        wanted.extend(found);
    }
    let created = places(&|at| receipts[at]["contractAddress"].is_string(), 1);
    let with_keys = places(&|at| transactions[at]["accessList"][0]["storageKeys"][0].is_string(), 1);
    let with_log = places(&|at| (1..8).contains(&logs(at)), 1);
    let failed = places(&|at| receipts[at]["status"] == "0x0", 1);
    for found in [created, with_keys, with_log, failed] {
        wanted.push(*found.first()?);
    }
    wanted.sort_unstable();
    wanted.dedup();
    sealed.keep(&wanted);
    // What nodes add and no header knows.
    sealed.block["totalDifficulty"] = json!("0xc70d815d562d3cfa955");
    sealed.block["uncles"] = json!([word(1)]);
    sealed.seal();
    Some(sealed)
}

/// A transaction of the mainnet's block 1920000, in a block as there were before Byzantium and
/// EIP-155.
pub(super) fn before_byzantium() -> Sealed {
    let tx = json!({
        "blockHash": word(0), "blockNumber": "0x1d4c00", "transactionIndex": "0x0",
        "hash": "0x4677a93807b73a0875d3a292eacb450d0af0d6f0eec6f283f8ad927ec539a17b",
        "from": "0x57ec8ef62a9af59b9fbbc6d7dba05516558f5018",
        "to": "0x53d284357ec70ce289d6d64134dfac8e511c8a3d", "input": "0x", "nonce": "0x1",
        "value": "0x14da2c24e0d37014", "gas": "0x5208", "gasPrice": "0x4a817c800", "type": "0x0", "v": "0x1b",
        "r": "0xfdbbc462a8a60ac3d8b13ee236b45af9b7991cf4f0f556d3af46aa5aeca242ab",
        "s": "0x5de5dc03fdcb6cf6d14609dbe6f5ba4300b8ff917c7d190325d9ea2144a7a2fb",
    });
    let receipt = json!({
        "blockHash": word(0), "blockNumber": "0x1d4c00", "contractAddress": null, "cumulativeGasUsed": "0x5208",
        "effectiveGasPrice": "0x4a817c800", "from": tx["from"], "gasUsed": "0x5208", "logs": [],
        "logsBloom": format!("0x{}", "00".repeat(256)), "root": word(9), "to": tx["to"],
        "transactionHash": tx["hash"], "transactionIndex": "0x0", "type": "0x0",
    });
    let mut block = empty_block(1_920_000);
    block["transactions"] = json!([tx]);
    let mut sealed = Sealed { block, receipts: json!([receipt]) };
    sealed.seal();
    sealed
}

#[test]
fn a_mainnet_like_chain_is_right_to_the_senders() {
    let chain = Recording::mainnet_like(4, 1);
    let blocks: Vec<_> = (0..4).map(|number| generated(&chain, number).raw()).collect();
    let rows = good(decoder(Verify::Senders).decode(&blocks));
    assert!(rows.tables[1].batch.num_rows() > 400 && rows.tables[2].batch.num_rows() > 800);
}

#[test]
fn blocks_of_all_types_and_times_are_right_to_the_senders() {
    for sealed in [of_all_types(), before_byzantium()] {
        good(decoder(Verify::Senders).decode(&[sealed.raw()]));
        // Receipts are checked only where they are asked for.
        let without = RawBlock { receipts: None, ..sealed.raw() };
        let tables = select(&[("transactions", "tx_hash")]);
        good(Decoder::new("node", tables, Verify::Senders).unwrap().decode(&[without]));
    }
}

#[test]
fn a_receipt_before_byzantium_may_also_have_a_status() {
    let mut sealed = before_byzantium();
    sealed.receipts[0]["status"] = json!("0x0");
    let rows = good(decoder(Verify::Senders).decode(&[sealed.raw()]));
    assert_eq!(cell(&rows.tables[1].batch, "status", 0), "null");
    assert_eq!(cell(&rows.tables[1].batch, "state_root", 0), word(9));
}

#[test]
fn an_amount_of_256_bits_is_part_of_the_hash() {
    let mut sealed = before_byzantium();
    sealed.block["transactions"][0]["value"] = json!(word(0xfe));
    sealed.rehash_transaction(0);
    sealed.seal();
    let rows = good(decoder(Verify::Full).decode(&[sealed.raw()]));
    assert_eq!(cell(&rows.tables[1].batch, "value", 0), "null");
    assert_eq!(cell(&rows.tables[1].batch, "value_overflow", 0), word(0xfe));
    // It is another content than the one that was signed.
    assert!(error_of(&decoder(Verify::Senders), &sealed.raw()).contains("of transaction 0 the signature is"));
}

#[test]
fn a_root_that_is_not_that_of_the_content_names_both_and_the_setting() {
    for (name, what) in [
        ("transactionsRoot", "transactions"),
        ("receiptsRoot", "receipts"),
        ("withdrawalsRoot", "withdrawals"),
    ] {
        let mut sealed = before_byzantium();
        sealed.block["withdrawals"] = json!([]);
        sealed.block["withdrawalsRoot"] = json!(super::super::trie::EMPTY_ROOT);
        sealed.block["baseFeePerGas"] = json!("0x1");
        sealed.rehash();
        good(decoder(Verify::Full).decode(&[sealed.raw()]));
        sealed.block[name] = json!(B256::repeat_byte(7));
        sealed.rehash();
        good(decoder(Verify::Header).decode(&[sealed.raw()]));
        let error = error_of(&decoder(Verify::Full), &sealed.raw());
        assert!(error.contains(&format!("its {what} have the root 0x")), "{error}");
        assert!(error.contains(&word(7)) && error.contains(r#""verify": "header""#), "{error}");
    }
}

#[test]
fn withdrawals_that_are_left_out_are_no_rows_from_full_on() {
    let mut sealed = before_byzantium();
    sealed.block["withdrawalsRoot"] = json!(word(8));
    sealed.block["baseFeePerGas"] = json!("0x1");
    sealed.rehash();
    let left_out = sealed.raw();
    assert_eq!(good(decoder(Verify::Header).decode(std::slice::from_ref(&left_out))).tables[3].ends, [0]);
    let error = error_of(&decoder(Verify::Full), &left_out);
    assert!(error.contains("leave the table `withdrawals` out of the manifest"), "{error}");
    let others = Decoder::new("node", tables()[..3].to_vec(), Verify::Full).unwrap();
    good(others.decode(std::slice::from_ref(&left_out)));
    // Where there are none, nothing is left out.
    sealed.block["withdrawalsRoot"] = json!(super::super::trie::EMPTY_ROOT);
    sealed.rehash();
    good(decoder(Verify::Full).decode(&[sealed.raw()]));
}

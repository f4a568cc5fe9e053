//! Blocks of chains with types of transactions that are not Ethereum's.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tracing::{Event, Id, Level, Metadata, span};

use super::{
    sealed::{Sealed, before_byzantium},
    *,
};

/// A block of an OP chain: a deposit before an ordinary transaction, with the fields that its nodes
/// add, and a root of withdrawals that is of something else.
fn with_deposit() -> Sealed {
    let mut sealed = before_byzantium();
    let deposit = json!({
        "hash": word(200), "transactionIndex": "0x0", "type": "0x7e", "from": address(1), "to": address(2),
        "nonce": "0x3", "gas": "0xf4240", "gasPrice": "0x0", "value": "0x0", "input": "0x440a5e20",
        "sourceHash": word(3), "mint": "0x0", "isSystemTx": false, "depositReceiptVersion": "0x1",
        "r": "0x0", "s": "0x0", "v": "0x0", "yParity": "0x0",
    });
    let receipt = json!({
        "transactionHash": word(200), "transactionIndex": "0x0", "blockHash": word(0), "type": "0x7e",
        "status": "0x1", "gasUsed": "0xb44c", "cumulativeGasUsed": "0xb44c", "contractAddress": null,
        "effectiveGasPrice": "0x0", "depositNonce": "0x3", "l1Fee": "0x0", "logs": [
            {"address": address(1), "topics": [word(5)], "data": "0x01", "logIndex": "0x0",
             "transactionHash": word(200)}],
    });
    let mut bloom = alloy_primitives::Bloom::ZERO;
    bloom.accrue_raw_log([1; 20].into(), &[[5; 32].into()]);
    sealed.block["logsBloom"] = json!(bloom);
    sealed.block["baseFeePerGas"] = json!("0x1");
    sealed.block["withdrawals"] = json!([]);
    sealed.block["withdrawalsRoot"] = json!(word(8));
    sealed.block["transactions"].as_array_mut().unwrap().insert(0, deposit);
    sealed.receipts.as_array_mut().unwrap().insert(0, receipt);
    sealed.block["transactions"][1]["transactionIndex"] = json!("0x1");
    sealed.receipts[1]["transactionIndex"] = json!("0x1");
    sealed.rehash();
    sealed
}

#[test]
fn of_a_block_with_an_unknown_type_all_is_checked_that_can_be() {
    let decoder = decoder(Verify::Senders);
    let sealed = with_deposit();
    let rows = good(decoder.decode(&[sealed.raw()]));
    assert_eq!(cell(&rows.tables[1].batch, "type", 0), "126");
    let with = |change: &dyn Fn(&mut Sealed)| {
        let mut sealed = sealed.clone();
        change(&mut sealed);
        error_of(&decoder, &sealed.raw())
    };
    let tx = |sealed: &mut Sealed| sealed.block["transactions"][1]["nonce"] = json!("0x2");
    assert!(with(&tx).contains("of transaction 1 the content hashes to"));
    let sender = |sealed: &mut Sealed| sealed.block["transactions"][1]["from"] = json!(address(1));
    assert!(with(&sender).contains("not of `from`"));
    let log = |sealed: &mut Sealed| sealed.receipts[0]["logs"][0]["address"] = json!(address(2));
    assert!(with(&log).contains("`logsBloom` is not that of the logs"));
    let withdrawals =
        json!([{"index": "0x1", "validatorIndex": "0x1", "address": address(1), "amount": "0x1"}]);
    let withdrawn = |sealed: &mut Sealed| sealed.block["withdrawals"] = withdrawals.clone();
    assert!(with(&withdrawn).contains("its withdrawals have the root"));
}

#[test]
fn a_type_that_is_only_damaged_is_found_by_the_hash() {
    let decoder = decoder(Verify::Full);
    for mut sealed in [before_byzantium(), with_deposit()] {
        let last = sealed.block["transactions"].as_array().unwrap().len() - 1;
        sealed.block["transactions"][last]["type"] = json!("0x7e");
        sealed.receipts[last]["type"] = json!("0x7e");
        let error = error_of(&decoder, &sealed.raw());
        assert!(error.contains("the `type` is 126, but its hash is that of type 0"), "{error}");
    }
}

#[test]
fn types_of_arbitrum_are_rows_with_what_the_node_gives() {
    let types = (0x64..=0x6a).map(|kind| format!("{kind:#x}"));
    let txs: Vec<Value> = types
        .enumerate()
        .map(|(index, kind)| {
            let fields = json!({"type": kind, "v": null, "r": null, "s": null, "yParity": null, "requestId": word(1),
                "value": if index == 0 { json!(null) } else { json!(word(0xff)) }, "input": null,
                "chainId": "0xa4b1", "gasPrice": null});
            tx(index, &fields)
        })
        .collect();
    let (mut block, receipts) = block_of(&txs);
    block["logsBloom"] = json!(format!("0x{}", "00".repeat(256)));
    seal(&mut block);
    let mut receipts = receipts;
    receipts
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|receipt| receipt["blockHash"] = block["hash"].clone());
    let rows = good(decoder(Verify::Senders).decode(&[raw(&block, &receipts)]));
    let batch = &rows.tables[1].batch;
    let all = |name: &str| (0..7).map(|row| cell(batch, name, row)).collect::<Vec<_>>();
    assert_eq!(all("type"), ["100", "101", "102", "103", "104", "105", "106"]);
    assert_eq!(all("value"), ["null"; 7]);
    assert_eq!(all("value_overflow")[..2], ["null".to_owned(), word(0xff)]);
    assert_eq!(all("chain_id"), ["42161"; 7]);
    assert_eq!(all("r"), ["null"; 7]);
}

/// Counts what is said.
struct Counting(Arc<AtomicUsize>);

impl tracing::Subscriber for Counting {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_source_says_once_what_it_cannot_check() {
    let said = Arc::new(AtomicUsize::new(0));
    tracing::subscriber::with_default(Counting(said.clone()), || {
        let full = decoder(Verify::Full);
        for _ in 0..3 {
            good(full.decode(&[with_deposit().raw()]));
        }
        assert_eq!(said.load(Ordering::Relaxed), 1);
        let mut left_out = before_byzantium();
        left_out.block["withdrawalsRoot"] = json!(word(8));
        let links = decoder(Verify::Links);
        for _ in 0..3 {
            good(links.decode(&[left_out.raw()]));
        }
        assert_eq!(said.load(Ordering::Relaxed), 2);
    });
}

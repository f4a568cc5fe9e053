//! Answers that are damaged in many ways: errors, never a panic, and no wrong header unnoticed.

use super::*;

/// A small generator of numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

const PIECES: [&str; 12] =
    ["null", "\"0x\"", "\"\"", "[]", "{}", "-1", "1e999", "\"0x0x\"", "\\u0000", "\u{fffd}", "}", "\"0xzz\""];

/// The answer with one thing wrong.
fn damaged(answer: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    if answer.is_empty() {
        return PIECES[numbers.below(PIECES.len())].into();
    }
    let mut bytes = answer.to_vec();
    let at = numbers.below(bytes.len());
    match numbers.below(6) {
        0 => bytes.truncate(at),
        1 => bytes[at] = numbers.next() as u8,
        2 => drop(bytes.remove(at)),
        3 => bytes.insert(at, b"0\"{}[],:x"[numbers.below(9)]),
        4 => {
            let end = (at + numbers.below(40)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => replace_value(&mut bytes, at, PIECES[numbers.below(PIECES.len())]),
    }
    bytes
}

/// Puts another value in the place of the first string behind a colon after `from`.
fn replace_value(bytes: &mut Vec<u8>, from: usize, piece: &str) {
    let Some(start) = bytes[from..].windows(2).position(|pair| pair == b":\"").map(|at| from + at + 1) else {
        return;
    };
    let Some(end) = bytes[start + 1..].iter().position(|byte| *byte == b'"').map(|at| start + at + 2) else {
        return;
    };
    bytes.splice(start..end, piece.bytes());
}

/// Blocks with something in every field.
fn full_blocks() -> Vec<RawBlock> {
    let typed = json!({"type": "0x4", "yParity": "0x1", "maxFeePerGas": "0x5", "maxFeePerBlobGas": "0x1",
        "accessList": [{"address": address(1), "storageKeys": [word(2)]}], "blobVersionedHashes": [word(3)],
        "authorizationList": [{"chainId": "0x1", "address": address(4), "nonce": "0x1", "yParity": "0x0", "r": "0x1", "s": "0x2"}]});
    let (mut block, _) = block_of(&[tx(0, &json!({})), tx(1, &typed)]);
    block["withdrawals"] =
        json!([{"index": "0xa", "validatorIndex": "0xb", "address": address(2), "amount": "0x1"}]);
    let log =
        json!([{"address": address(1), "data": "0x01", "logIndex": "0x0", "topics": [word(1), word(2)]}]);
    let receipts =
        json!([receipt(&block, 0, &json!({"logs": log})), receipt(&block, 1, &json!({"root": word(1)}))]);
    vec![raw(&block, &receipts)]
}

fn survives(blocks: &[RawBlock], rounds: usize) {
    let decoders = Verify::ALL.map(decoder);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut errors = 0;
    for round in 0..rounds {
        let mut block = blocks[numbers.below(blocks.len())].clone();
        for _ in 0..1 + numbers.below(3) {
            if numbers.below(2) == 0 {
                block.block = damaged(&block.block, &mut numbers).into();
            } else {
                block.receipts = block.receipts.map(|receipts| damaged(&receipts, &mut numbers).into());
            }
        }
        let decoded = decoders[round % decoders.len()].decode(std::slice::from_ref(&block));
        assert_ne!(decoded.rows.is_some(), decoded.error.is_some());
        errors += usize::from(decoded.error.is_some());
        if let Some(rows) = decoded.rows {
            assert!(rows.tables.iter().all(|table| table.ends == [table.batch.num_rows()]));
        }
        // The reading of single fields must stand the same.
        let _ = super::super::hash_of_answer(&block.block);
        let _ = super::super::number_of_answer(&block.block);
    }
    assert!(errors > rounds / 2, "{errors} errors in {rounds} rounds");
}

#[test]
fn damaged_answers_are_errors_and_never_panics() {
    survives(&full_blocks(), 10_000);
}

#[test]
fn damaged_real_answers_are_errors_and_never_panics() {
    let Some(data) = super::real::data() else { return };
    let anvil = super::real::lines(data.join("anvil-chain/blocks_receipts.jsonl.zst"));
    let mut blocks: Vec<_> = anvil.skip(40).take(60).collect();
    let forks = super::real::lines(data.join("rpc-mainnet-fork-boundaries/blocks_receipts.jsonl.zst"));
    blocks.extend(forks.filter(|block| block.size_bytes() < 300_000));
    survives(&blocks, 1000);
}

#[test]
fn every_prefix_of_an_answer_is_an_error() {
    let block = full_blocks().remove(0);
    let decoder = decoder(Verify::Header);
    for end in 0..block.block.len() {
        let cut = RawBlock { block: block.block.slice(..end), ..block.clone() };
        assert!(matches!(decoder.decode(&[cut]).error, Some(crate::error::SourceError::Unavailable { .. })));
    }
}

#[test]
fn a_changed_header_field_is_noticed() {
    let mut block = empty_block(5);
    for (name, value) in [
        ("baseFeePerGas", json!("0x7")),
        ("withdrawalsRoot", json!(word(8))),
        ("blobGasUsed", json!("0x20000")),
        ("excessBlobGas", json!("0x1")),
        ("parentBeaconBlockRoot", json!(word(9))),
        ("requestsHash", json!(word(10))),
    ] {
        block[name] = value;
    }
    seal(&mut block);
    let decoder = decoder(Verify::Header);
    good(decoder.decode(&[raw(&block, &json!([]))]));
    let fields: Vec<_> = block.as_object().unwrap().keys().cloned().collect();
    let mut changed = 0;
    for name in fields {
        let Some(text) = block[&name].as_str() else { continue };
        // Another last digit: of the same length, but of another value.
        let last = if text.ends_with('1') { "2" } else { "1" };
        let mut other = block.clone();
        other[&name] = json!(format!("{}{last}", &text[..text.len() - 1]));
        let mut asked = raw(&other, &json!([]));
        asked.number = 5;
        let error = error_of(&decoder, &asked);
        assert!(error.contains("hashes to") || name == "number", "{name}: {error}");
        changed += 1;
    }
    assert_eq!(changed, 22);
}

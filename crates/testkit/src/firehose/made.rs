//! Blocks that are made: small ones, whose hashes are not those of their headers.

use bytes::Bytes;
use prost::Message;

use super::{
    chain::Served,
    pb::{google::protobuf::Timestamp, sf::ethereum::r#type::v2 as eth},
};

/// How far the last final block is behind.
const FINAL_BEHIND: u64 = 8;

fn hash(fork: u8, number: u64) -> Vec<u8> {
    let mut hash = vec![fork + 1; 32];
    hash[24..].copy_from_slice(&number.to_be_bytes());
    hash
}

/// The blocks from `start` to `end` of the chain `fork`. Each has a transaction with a log and a call; of a fork the first follows the block
/// before it of the chain 0.
pub fn made(start: u64, end: u64, fork: u8) -> Vec<Served> {
    made_on(start, end, fork, 0)
}

/// As [`made`]; the first follows the block before it of the chain `parent`.
pub fn made_on(start: u64, end: u64, fork: u8, parent: u8) -> Vec<Served> {
    let block = |number: u64| {
        let parent_fork = if number == start { parent } else { fork };
        let parent = number.checked_sub(1).map_or(vec![0; 32], |parent| hash(parent_fork, parent));
        served(&block(number, fork, parent), number.saturating_sub(FINAL_BEHIND))
    };
    (start..=end).map(block).collect()
}

fn served(block: &eth::Block, final_num: u64) -> Served {
    let header = block.header.as_ref();
    Served {
        number: block.number,
        id: const_hex::encode(&block.hash),
        parent_id: const_hex::encode(header.map_or(&[][..], |header| &header.parent_hash)),
        final_num,
        payload: block.encode_to_vec().into(),
    }
}

fn big(number: u64) -> Option<eth::BigInt> {
    Some(eth::BigInt { bytes: number.to_be_bytes().to_vec() })
}

fn block(number: u64, fork: u8, parent_hash: Vec<u8>) -> eth::Block {
    let header = eth::BlockHeader {
        parent_hash,
        uncle_hash: vec![1; 32],
        coinbase: vec![2; 20],
        state_root: vec![3; 32],
        transactions_root: vec![4; 32],
        receipt_root: vec![5; 32],
        logs_bloom: vec![0; 256],
        difficulty: big(0),
        number,
        gas_limit: 30_000_000,
        gas_used: 21_000,
        timestamp: Some(Timestamp { seconds: 1_700_000_000 + number as i64 * 12, nanos: 0 }),
        mix_hash: vec![6; 32],
        hash: hash(fork, number),
        base_fee_per_gas: big(7),
        ..Default::default()
    };
    let log =
        eth::Log { address: vec![9; 20], topics: vec![vec![8; 32]], data: vec![fork], ..Default::default() };
    let receipt =
        eth::TransactionReceipt { cumulative_gas_used: 21_000, logs: vec![log], ..Default::default() };
    let call = eth::Call {
        index: 1,
        call_type: eth::CallType::Call as i32,
        caller: vec![10; 20],
        address: vec![9; 20],
        value: big(number),
        ..Default::default()
    };
    let transaction = eth::TransactionTrace {
        to: vec![9; 20],
        nonce: number,
        gas_price: big(10),
        gas_limit: 21_000,
        value: big(number),
        v: vec![27],
        r: vec![1],
        s: vec![1],
        gas_used: 21_000,
        hash: hash(fork + 100, number),
        from: vec![10; 20],
        status: eth::TransactionTraceStatus::Succeeded as i32,
        receipt: Some(receipt),
        calls: vec![call],
        ..Default::default()
    };
    eth::Block {
        ver: 4,
        hash: hash(fork, number),
        number,
        header: Some(header),
        transaction_traces: vec![transaction],
        ..Default::default()
    }
}

/// Other blocks of the same content: what follows the first one's parent instead of `blocks`. The hashes are
/// not those of the headers.
pub fn fork(blocks: &[Served], fork: u8) -> Vec<Served> {
    let mut forked: Vec<Served> = vec![];
    for original in blocks {
        let Ok(mut block) = eth::Block::decode(Bytes::clone(&original.payload)) else { continue };
        block.hash[0] = block.hash[0].wrapping_add(fork);
        if let Some(header) = &mut block.header {
            header.hash.clone_from(&block.hash);
            if let Some(parent) = forked.last() {
                header.parent_hash = const_hex::decode(&parent.id).unwrap_or_default();
            }
        }
        forked.push(served(&block, original.final_num));
    }
    forked
}

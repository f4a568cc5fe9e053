//! Blocks as archives hold them, in RLP: told as a node would, they pass every check, and are the rows
//! that nodes gave.

use std::io::Read;

use alloy_consensus::{BlockBody, Header, Transaction, TxEnvelope, transaction::SignerRecoverable};
use alloy_eips::eip7840::BlobParams;
use alloy_primitives::{B256, Bloom, BloomInput, Bytes, Log};
use alloy_rlp::{Decodable, RlpDecodable};

use super::{
    real::{data, lines},
    *,
};

/// What some nodes give and archives do not hold.
const NOT_ARCHIVED: &str = "total_difficulty";

/// A receipt as eth/69 has it: without its bloom.
#[derive(RlpDecodable)]
struct Receipt {
    _tx_type: u8,
    /// A byte from Byzantium on, the state root before.
    outcome: Bytes,
    cumulative_gas_used: u64,
    logs: Vec<Log>,
}

fn decoded<T: Decodable>(mut rlp: &[u8]) -> T {
    let value = T::decode(&mut rlp).unwrap();
    assert!(rlp.is_empty());
    value
}

/// The answers of a node about an archived block.
fn told(header: &[u8], body: &[u8], receipts: &[u8]) -> RawBlock {
    let (header, body) = (decoded::<Header>(header), decoded::<BlockBody<TxEnvelope>>(body));
    let receipts: Vec<Receipt> = decoded(receipts);
    assert_eq!(body.transactions.len(), receipts.len());
    let hash = json!(header.hash_slow());
    let mut block = serde_json::to_value(&header).unwrap();
    block["hash"] = hash.clone();
    block["transactions"] = body
        .transactions
        .iter()
        .enumerate()
        .map(|(index, tx)| told_transaction(&header, index, tx))
        .collect();
    block["withdrawals"] = json!(body.withdrawals);
    let mut before = Before::default();
    let receipts = body.transactions.iter().zip(&receipts).enumerate();
    let receipts =
        receipts.map(|(index, (tx, receipt))| told_receipt(&header, &hash, index, tx, receipt, &mut before));
    raw(&block, &receipts.collect())
}

/// What the sender paid for each unit of gas.
fn gas_price(header: &Header, tx: &TxEnvelope) -> Value {
    json!(format!("{:#x}", tx.effective_gas_price(header.base_fee_per_gas)))
}

/// What all blobs of the block paid for each unit of their gas.
fn blob_gas_price(header: &Header) -> Option<String> {
    let is_prague = header.requests_hash.is_some();
    let params = if is_prague { BlobParams::prague() } else { BlobParams::cancun() };
    header.blob_fee(params).map(|fee| format!("{fee:#x}"))
}

fn told_transaction(header: &Header, index: usize, tx: &TxEnvelope) -> Value {
    let mut told = serde_json::to_value(tx).unwrap();
    told["gasPrice"] = gas_price(header, tx);
    told["transactionIndex"] = json!(format!("{index:#x}"));
    told["from"] = json!(tx.recover_signer().unwrap());
    told
}

/// What the transactions before one in its block add up to.
#[derive(Default)]
struct Before {
    gas_used: u64,
    logs: usize,
}

fn told_receipt(
    header: &Header,
    block_hash: &Value,
    index: usize,
    tx: &TxEnvelope,
    receipt: &Receipt,
    before: &mut Before,
) -> Value {
    let mut bloom = Bloom::ZERO;
    let mut logs = vec![];
    for log in &receipt.logs {
        bloom.accrue(BloomInput::Raw(log.address.as_slice()));
        log.topics().iter().for_each(|topic| bloom.accrue(BloomInput::Raw(topic.as_slice())));
        let mut told = serde_json::to_value(log).unwrap();
        told["transactionHash"] = json!(tx.tx_hash());
        told["logIndex"] = json!(format!("{:#x}", before.logs));
        before.logs += 1;
        logs.push(told);
    }
    let gas_used = receipt.cumulative_gas_used - before.gas_used;
    before.gas_used = receipt.cumulative_gas_used;
    let created = tx.is_create().then(|| tx.recover_signer().unwrap().create(tx.nonce()));
    let mut told = json!({
        "blockHash": block_hash, "transactionHash": tx.tx_hash(), "transactionIndex": format!("{index:#x}"),
        "cumulativeGasUsed": format!("{:#x}", receipt.cumulative_gas_used),
        "gasUsed": format!("{gas_used:#x}"), "contractAddress": created, "logs": logs, "logsBloom": bloom,
        "effectiveGasPrice": gas_price(header, tx),
        "blobGasUsed": tx.blob_gas_used().map(|gas| format!("{gas:#x}")),
        "blobGasPrice": tx.blob_gas_used().and(blob_gas_price(header)),
    });
    match receipt.outcome.as_ref() {
        [] => told["status"] = json!("0x0"),
        [1] => told["status"] = json!("0x1"),
        root => told["root"] = json!(B256::from_slice(root)),
    }
    told
}

/// The block of a file `header: 0x…`, `body: 0x…`, `receipts: 0x…`.
fn portal_block(yaml: &str) -> RawBlock {
    let part = |name: &str| {
        let line = yaml.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap();
        const_hex::decode(line.trim_matches(|c| c == '"' || c == '\'')).unwrap()
    };
    told(&part("header"), &part("body"), &part("receipts"))
}

#[test]
fn the_archived_blocks_around_forks_are_those_that_nodes_gave() {
    let Some(data) = data() else { return };
    let given = lines(data.join("rpc-mainnet-fork-boundaries/blocks_receipts.jsonl.zst"));
    let (mut compared, decoder) = (0, decoder(Verify::Senders));
    for given in given {
        let name = format!("rlp-mainnet-portal/block-data-{}.yaml.zst", given.number);
        let yaml = zstd::decode_all(std::fs::File::open(data.join(name)).unwrap()).unwrap();
        let archived = portal_block(std::str::from_utf8(&yaml).unwrap());
        let [archived, given] = [archived, given].map(|block| good(decoder.decode(&[block])));
        assert_eq!(archived.blocks, given.blocks);
        for (archived, given) in archived.tables.iter().zip(&given.tables) {
            let fields = given.batch.schema();
            for field in fields.fields().iter().filter(|field| field.name() != NOT_ARCHIVED) {
                let [one, other] = [archived, given].map(|rows| column(&rows.batch, field.name()));
                assert_eq!(one, other, "`{}` of block {}", field.name(), given.batch.num_rows());
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 13);
}

/// The entries of an e2store file: a type, and what lies behind it.
fn e2store_entries(mut file: &[u8]) -> Vec<(u16, &[u8])> {
    let mut entries = vec![];
    while let Some((head, rest)) = file.split_first_chunk::<8>() {
        let kind = u16::from_le_bytes([head[0], head[1]]);
        let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
        entries.push((kind, &rest[..length]));
        file = &rest[length..];
    }
    assert!(file.is_empty());
    entries
}

fn unframed(snappy: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    snap::read::FrameDecoder::new(snappy).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_first_blocks_of_the_archive_pass_every_check_and_link() {
    let Some(data) = data() else { return };
    let file = std::fs::read(data.join("era1/mainnet-00000-5ec1ffb8.era1")).unwrap();
    // Types 3, 4 and 5 of e2store: a header, the body and the receipts behind it.
    let entries: Vec<_> =
        e2store_entries(&file).into_iter().filter(|(kind, _)| (3..=5).contains(kind)).collect();
    let blocks: Vec<_> = entries
        .chunks(3)
        .map(|block| {
            let [(3, header), (4, body), (5, receipts)] = block else { panic!("another order") };
            told(&unframed(header), &unframed(body), &unframed(receipts))
        })
        .collect();
    let rows = good(decoder(Verify::Senders).decode(&blocks));
    assert_eq!((rows.range.start(), rows.range.end(), rows.blocks.len()), (0, 8191, 8192));
    let facts: Value = serde_json::from_slice(&std::fs::read(data.join("era1/FACTS.json")).unwrap()).unwrap();
    let hash = |block: usize| const_hex::encode(rows.blocks[block].hash);
    assert_eq!(
        [hash(0), hash(8191)],
        [&facts[0]["first"], &facts[0]["last"]].map(|fact| fact[1].as_str().unwrap())
    );
}

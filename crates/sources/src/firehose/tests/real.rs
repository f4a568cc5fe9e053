//! Blocks of mainnet as Firehose has them.

use std::path::PathBuf;

use arrow::{
    array::{Array, AsArray},
    datatypes::{Decimal128Type, UInt64Type},
};
use nozzle_testkit::{
    firehose::{pb::sf::ethereum::r#type::v2 as eth, read},
    rng::Rng,
};
use prost::Message;
use serde_json::Value;

use super::{converted::sent, *};
use crate::evm::{
    self,
    tests::real::{data, lines},
};

const RANGE: &str = "mainnet-17686110-17686132";

fn files(folder: PathBuf) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().contains(".dbin"));
    files.sort();
    files
}

fn blocks(data: &std::path::Path) -> Vec<Served> {
    files(data.join(format!("firehose-{RANGE}"))).iter().flat_map(|path| read(path).unwrap()).collect()
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn rows_are_those_of_json_rpc() {
    let Some(data) = data() else { return };
    let blocks = blocks(&data);
    assert_eq!(blocks.len(), 23);
    let answers: Vec<_> = lines(data.join(format!("rpc-{RANGE}/blocks_receipts.jsonl.zst"))).collect();
    let theirs = evm::Decoder::new("node", evm::tables()[..3].to_vec(), Verify::Header).unwrap();
    let theirs = good(theirs.decode(&answers));
    let ours = good(decoder(without(&["withdrawals"]), Verify::Senders).decode(&payloads(&blocks)));
    assert_eq!(ours.blocks, theirs.blocks);
    for (ours, theirs) in ours.tables.iter().zip(&theirs.tables) {
        assert_eq!(ours.ends, theirs.ends);
        for field in theirs.batch.schema_ref().fields() {
            let (ours, theirs) = (column(&ours.batch, field.name()), column(&theirs.batch, field.name()));
            // These answers leave it out.
            if field.name() == "total_difficulty" {
                assert_eq!(theirs.null_count(), theirs.len());
                assert_eq!(ours.as_primitive::<Decimal128Type>().value(0), 58_750_003_716_598_352_816_469);
            } else {
                assert_eq!(ours, theirs, "{}", field.name());
            }
        }
    }
}

#[test]
fn calls_are_as_another_reader_has_them() {
    let Some(data) = data() else { return };
    let blocks = blocks(&data);
    let rows = good(decoder(without(&["withdrawals"]), Verify::Header).decode(&payloads(&blocks)));
    let calls = &rows.tables[3].batch;
    assert_eq!(calls.num_rows(), 24_103);
    let mut row = 0;
    let number = |name: &str, row: usize| column(calls, name).as_primitive::<UInt64Type>().value(row);
    let bytes = |name: &str, row: usize| column(calls, name).as_binary::<i32>().value(row).to_vec();
    let flag = |name: &str, row: usize| column(calls, name).as_boolean().value(row);
    for block in &blocks {
        let block = eth::Block::decode(&block.payload[..]).unwrap();
        for call in block.transaction_traces.iter().flat_map(|trace| &trace.calls) {
            assert_eq!(number("_block_num", row), block.number);
            assert_eq!(
                (number("gas_limit", row), number("gas_consumed", row)),
                (call.gas_limit, call.gas_consumed)
            );
            assert_eq!(
                (bytes("input", row), bytes("return_data", row)),
                (call.input.clone(), call.return_data.clone())
            );
            assert_eq!(number("end_ordinal", row), call.end_ordinal);
            assert_eq!(
                (flag("state_reverted", row), flag("executed_code", row), flag("selfdestruct", row)),
                (call.state_reverted, call.executed_code, call.suicide)
            );
            assert_eq!(column(calls, "caller").as_fixed_size_binary().value(row), call.caller);
            row += 1;
        }
    }
    let facts = json(data.join(format!("firehose-{RANGE}/FACTS.json")));
    let of_facts: u64 = facts.as_array().unwrap().iter().map(|block| block["calls"].as_u64().unwrap()).sum();
    assert_eq!((row as u64, of_facts), (24_103, 24_103));
}

#[test]
fn older_payloads_and_other_files_decode() {
    let Some(data) = data() else { return };
    let folder = data.join("firehose-mainnet-misc");
    for fact in json(folder.join("FACTS.json")).as_array().unwrap() {
        let name = fact["file"].as_str().unwrap();
        let path = folder.join(name);
        let blocks = if name.contains("binpb") {
            let Ok(file) = std::fs::File::open(&path) else {
                eprintln!("{} is left out on this machine: it was not checked", path.display());
                continue;
            };
            let block: bytes::Bytes = zstd::decode_all(file).unwrap().into();
            vec![Payload { number: fact["first"].as_u64().unwrap(), block }]
        } else {
            payloads(&read(&path).unwrap())
        };
        let rows = good(decoder(without(&["withdrawals"]), Verify::Senders).decode(&blocks));
        assert_eq!(rows.blocks.len() as u64, fact["blocks"].as_u64().unwrap(), "{name}");
        let hash = rows.blocks.last().unwrap().hash.to_string();
        assert_eq!(&hash[2..], fact["last_hash"].as_str().unwrap(), "{name}");
        // The transaction of genesis is none.
        let is_merged = name.starts_with("merged");
        let transactions = fact["txs"].as_u64().unwrap() - u64::from(is_merged);
        assert_eq!(rows.tables[1].batch.num_rows() as u64, transactions, "{name}");
        assert_eq!(rows.tables[2].batch.num_rows() as u64, fact["logs"].as_u64().unwrap(), "{name}");
        let creations = column(&rows.tables[1].batch, "to").null_count();
        let contracts = column(&rows.tables[1].batch, "contract_address");
        assert_eq!(creations, contracts.len() - contracts.null_count(), "{name}");
    }
}

#[test]
fn a_base_block_has_the_same_rows_but_what_it_leaves_out() {
    let Some(data) = data() else { return };
    let extended = &payloads(&blocks(&data)[..4]);
    let decoded = |block: &Payload| eth::Block::decode(&block.block[..]).unwrap();
    let base: Vec<_> = extended.iter().map(|block| sent(&converted::base(decoded(block)))).collect();
    let tables = without(&["withdrawals", "calls"]);
    let of_base = good(decoder(tables.clone(), Verify::Header).decode(&base));
    let of_extended = good(decoder(tables.clone(), Verify::Header).decode(extended));
    for (base, extended) in of_base.tables.iter().zip(&of_extended.tables) {
        for field in base.batch.schema_ref().fields() {
            let (base, extended) = (column(&base.batch, field.name()), column(&extended.batch, field.name()));
            match field.name().as_str() {
                "max_fee_per_gas" | "max_priority_fee_per_gas" => assert_eq!(base.null_count(), base.len()),
                "return_data" => assert!(base.as_binary::<i32>().iter().all(|data| data == Some(b""))),
                name => assert_eq!(base, extended, "{name}"),
            }
        }
    }
    let error = |tables, block: &Payload| {
        let error = decoder(tables, Verify::Full).decode(std::slice::from_ref(block)).error;
        error.expect("it cannot be checked").to_string()
    };
    assert!(error(tables, &base[0]).contains("are of the detail level BASE"));
    // Others say the fees.
    let mut block = decoded(&extended[0]);
    block.detail_level = eth::block::DetailLevel::DetaillevelBase as i32;
    block.transaction_traces.iter_mut().for_each(|trace| trace.calls.clear());
    let error = error(without(&["withdrawals"]), &sent(&block));
    assert!(error.contains("leaves out its calls"), "{error}");
}

#[test]
fn what_is_wrong_is_found_at_its_level() {
    let Some(data) = data() else { return };
    let block = &payloads(&blocks(&data)[..1])[0];
    let changed = |change: &dyn Fn(&mut eth::Block)| {
        let mut changed = eth::Block::decode(&block.block[..]).unwrap();
        change(&mut changed);
        Payload { number: block.number, block: changed.encode_to_vec().into() }
    };
    let cases: [(Verify, &str, Payload); 8] = [
        (
            Verify::None,
            "it is the block",
            changed(&|block| {
                block.number += 1;
                block.header.as_mut().unwrap().number += 1;
            }),
        ),
        (Verify::None, "that of another block", changed(&|block| block.number += 1)),
        (
            Verify::None,
            "out of order",
            changed(&|block| {
                let log =
                    |trace: &eth::TransactionTrace| trace.receipt.as_ref().is_some_and(|r| r.logs.len() > 1);
                let trace = block.transaction_traces.iter_mut().find(|trace| log(trace)).unwrap();
                trace.receipt.as_mut().unwrap().logs.swap(0, 1);
            }),
        ),
        (Verify::Links, "has another index", changed(&|block| block.transaction_traces[0].index += 1)),
        (Verify::Header, "not to its hash", changed(&|block| block.header.as_mut().unwrap().gas_used += 1)),
        (Verify::Full, "transaction 0", changed(&|block| block.transaction_traces[0].nonce += 1)),
        (Verify::Full, "`gasUsed`", changed(&|block| block.transaction_traces[0].gas_used += 1)),
        (Verify::Senders, "the signature is", changed(&|block| block.transaction_traces[0].from[0] ^= 1)),
    ];
    for (level, words, payload) in cases {
        let tables = without(&["withdrawals"]);
        let error = decoder(tables.clone(), level).decode(std::slice::from_ref(&payload)).error;
        let error = error.unwrap_or_else(|| panic!("{words}")).to_string();
        assert!(error.contains(words), "{error}");
        let Some(lower) = Verify::ALL.into_iter().rev().find(|lower| *lower < level) else { continue };

        assert!(decoder(tables, lower).decode(&[payload]).error.is_none(), "{words}: also at {lower}");
    }
}

/// A byte is changed, or the end is cut off: the rows are those of the block all the same, as the byte is in none of
/// them, or the error names the block; those before it are given.
#[test]
fn a_damaged_block_is_found_by_its_roots() {
    let Some(data) = data() else { return };
    let blocks = &blocks(&data)[1..3];
    let (first, second) = (&blocks[0], &blocks[1]);
    let decoder = decoder(without(&["withdrawals", "calls"]), Verify::Senders);
    let truth = good(decoder.decode(&payloads(blocks)));
    let truth_alone = good(decoder.decode(&payloads(&blocks[1..])));
    let (mut rng, mut found) = (Rng::new(42), 0);
    for turn in 0..60 {
        let mut bytes = second.payload.to_vec();
        let place = rng.below(bytes.len() as u64) as usize;
        if turn % 4 == 0 {
            bytes.truncate(place);
        } else {
            bytes[place] ^= 1 << rng.below(8);
        }
        // Behind a good one now and then: that is decoded twice.
        let before = if turn % 10 == 0 { std::slice::from_ref(first) } else { &[] };
        let mut group = payloads(before);
        group.push(Payload { number: second.number, block: bytes.into() });
        let decoded = decoder.decode(&group);
        match decoded.error {
            None => {
                let rows = decoded.rows.expect("both are good");
                let truth = if before.is_empty() { &truth_alone } else { &truth };
                let shared =
                    ["gas_used", "value", "from", "to", "input", "data", "topic0", "hash", "timestamp"];
                for (ours, theirs) in rows.tables.iter().zip(&truth.tables) {
                    for name in shared.iter().filter(|name| ours.batch.column_by_name(name).is_some()) {
                        assert_eq!(column(&ours.batch, name), column(&theirs.batch, name), "{turn}: {name}");
                    }
                }
            }
            Some(error) => {
                found += 1;
                assert!(error.to_string().contains(&second.number.to_string()), "{error}");
                assert_eq!(decoded.rows.map_or(0, |rows| rows.blocks.len()), before.len());
            }
        }
    }
    assert!(found > 10, "only {found}");
}

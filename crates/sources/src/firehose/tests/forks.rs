//! What came with later forks, and what endpoints leave out of it.

use arrow::{
    array::{Array, AsArray},
    datatypes::{Decimal128Type, Int32Type, UInt64Type},
};
use nozzle_testkit::firehose::{pb::sf::ethereum::r#type::v2 as eth, read};
use prost::Message;

use super::{
    converted::{base, of_answers, sent},
    *,
};
use crate::{
    evm::{
        self, RawBlock,
        stored::BlockCheck,
        tests::real::{data, lines},
    },
    stored::StoredCheck,
};

/// Blocks around forks of mainnet, as a node has them, and as an endpoint would.
fn around_forks() -> Option<Vec<(RawBlock, eth::Block)>> {
    let answers = lines(data()?.join("rpc-mainnet-fork-boundaries/blocks_receipts.jsonl.zst"));
    Some(answers.map(|answers| (answers.clone(), of_answers(&answers))).collect())
}

/// A block that is made, with one transaction of a type.
fn made(tx_type: i32) -> eth::Block {
    let mut block = eth::Block::decode(&nozzle_testkit::firehose::made(5, 5, 0)[0].payload[..]).unwrap();
    block.transaction_traces[0].r#type = tx_type;
    block
}

/// Gives a block the hash that its header has.
fn rehash(block: &mut eth::Block) {
    let error = decoder(tables(), Verify::Header).decode(&[sent(block)]).error.unwrap().to_string();
    let hash = error.split("hashes to 0x").nth(1).expect(&error)[..64].to_owned();
    block.hash = const_hex::decode(hash).unwrap();
    block.header.as_mut().unwrap().hash.clone_from(&block.hash);
}

fn error_of(tables: Vec<TableDef>, verify: Verify, block: &eth::Block) -> String {
    decoder(tables, verify).decode(&[sent(block)]).error.expect("it is refused").to_string()
}

/// What a check of stored rows finds first.
fn found(tables: &[TableDef], level: Verify, rows: &BlockRows) -> Option<String> {
    let batches: Vec<_> = rows.tables.iter().map(|table| table.batch.clone()).collect();
    let check = BlockCheck::new(tables.to_vec(), level).unwrap();
    check.check(rows.range, &batches).bad.first().map(|bad| bad.why.clone())
}

#[test]
fn rows_around_forks_are_those_of_json_rpc() {
    let Some(blocks) = around_forks() else { return };
    let theirs = evm::Decoder::new("node", evm::tables(), Verify::Header).unwrap();
    let ours = decoder(without(&["calls"]), Verify::Full);
    let (mut withdrawals, mut types) = (0, [0; 5]);
    for (answers, block) in &blocks {
        let theirs = good(theirs.decode(std::slice::from_ref(answers)));
        let ours = good(ours.decode(&[sent(block)]));
        assert_eq!(ours.blocks, theirs.blocks);
        for (ours, theirs) in ours.tables.iter().zip(&theirs.tables) {
            for field in theirs.batch.schema_ref().fields() {
                let name = field.name();
                assert_eq!(
                    column(&ours.batch, name),
                    column(&theirs.batch, name),
                    "{}: {name}",
                    block.number
                );
            }
        }
        assert_eq!(found(ours_tables().as_slice(), Verify::Full, &ours), None);
        withdrawals += ours.tables[3].batch.num_rows();
        let of_types = column(&ours.tables[1].batch, "type").as_primitive::<Int32Type>().values();
        of_types.iter().for_each(|tx_type| types[*tx_type as usize] += 1);
    }
    assert!(withdrawals > 100 && types.iter().all(|count| *count > 0), "{withdrawals} {types:?}");
}

fn ours_tables() -> Vec<TableDef> {
    without(&["calls"])
}

#[test]
fn withdrawals_that_are_left_out_are_told() {
    let Some(blocks) = around_forks() else { return };
    let (_, block) = blocks.iter().rfind(|(_, block)| !block.withdrawals.is_empty()).unwrap();
    let block = eth::Block { withdrawals: vec![], ..block.clone() };
    let error = error_of(ours_tables(), Verify::Full, &block);
    assert!(error.contains("leaves out its withdrawals"), "{error}");
    let rows = good(decoder(ours_tables(), Verify::Header).decode(&[sent(&block)]));
    assert_eq!(rows.tables[3].batch.num_rows(), 0);
    let found = found(&ours_tables(), Verify::Full, &rows).unwrap();
    assert!(found.ends_with("its withdrawals were not in what the source gave"), "{found}");
}

#[test]
fn what_base_blocks_leave_out_is_null_and_not_0() {
    let Some(blocks) = around_forks() else { return };
    let theirs = evm::Decoder::new("node", evm::tables(), Verify::Links).unwrap();
    let ours = decoder(tables(), Verify::Links);
    let left_out: [&[&str]; 3] = [
        &["requests_hash"],
        &[
            "max_fee_per_gas",
            "max_priority_fee_per_gas",
            "max_fee_per_blob_gas",
            "blob_gas_used",
            "blob_gas_price",
            "blob_versioned_hashes",
            "authorization_list",
        ],
        &[],
    ];
    for (answers, block) in &blocks {
        let theirs = good(theirs.decode(std::slice::from_ref(answers)));
        let ours = good(ours.decode(&[sent(&base(block.clone()))]));
        for ((ours, theirs), left_out) in ours.tables.iter().zip(&theirs.tables).zip(left_out) {
            for field in theirs.batch.schema_ref().fields() {
                let name = field.name();
                let (ours, theirs) = (column(&ours.batch, name), column(&theirs.batch, name));
                if left_out.contains(&name.as_str()) {
                    assert_eq!(ours.null_count(), ours.len(), "{}: {name}", block.number);
                } else {
                    assert_eq!(ours, theirs, "{}: {name}", block.number);
                }
            }
        }
    }
}

#[test]
fn base_blocks_are_checked_as_far_as_they_can_be() {
    let Some(blocks) = around_forks() else { return };
    let tables = without(&["withdrawals", "calls"]);
    for (_, block) in &blocks {
        let (extended, block) = (block, base(block.clone()));
        let error = error_of(self::tables(), Verify::Full, &block);
        let has_requests = !extended.header.as_ref().unwrap().requests_hash.is_empty();
        if has_requests {
            // The header cannot be checked, so nothing below it can.
            assert!(error.contains("lack `requests_hash`") && error.contains("--verify links"), "{error}");
            good(decoder(tables.clone(), Verify::Links).decode(&[sent(&block)]));
            continue;
        }
        assert!(error.contains("detail level BASE") && error.contains("--verify header"), "{error}");
        let rows = good(decoder(tables.clone(), Verify::Header).decode(&[sent(&block)]));
        assert_eq!(found(&tables, Verify::Header, &rows), None);
        let found = found(&tables, Verify::Full, &rows).unwrap();
        assert!(found.contains("detail level BASE") && found.contains("--verify header"), "{found}");
    }
}

#[test]
fn a_base_fee_of_0_is_told_from_none() {
    let fee_of = |block: &eth::Block, verify| {
        let rows = good(decoder(without(&["withdrawals", "calls"]), verify).decode(&[sent(block)]));
        let fees = column(&rows.tables[0].batch, "base_fee_per_gas").as_primitive::<Decimal128Type>().clone();
        let total = column(&rows.tables[0].batch, "total_difficulty").is_valid(0);
        (fees.is_valid(0).then(|| fees.value(0)), total)
    };
    for (fee, expected) in [(Some(eth::BigInt::default()), Some(0)), (None, None)] {
        let mut block = made(0);
        block.header.as_mut().unwrap().base_fee_per_gas = fee;
        rehash(&mut block);
        let block = base(block);
        for verify in [Verify::None, Verify::Header] {
            assert_eq!(fee_of(&block, verify), (expected, false));
        }
    }
    let Some(data) = data() else { return };
    let blocks = read(&data.join("firehose-mainnet-misc/merged-0000000000.dbin.zst")).unwrap();
    let old = base(eth::Block::decode(blocks[7].payload.clone()).unwrap());
    assert_eq!(fee_of(&old, Verify::Full), (None, true));
}

#[test]
fn chains_without_withdrawals_may_use_the_root_for_other_things() {
    let mut block = made(126);
    block.transaction_traces[0].receipt.as_mut().unwrap().logs.clear();
    block.header.as_mut().unwrap().withdrawals_root = vec![7; 32];
    rehash(&mut block);
    let rows = good(decoder(tables(), Verify::Full).decode(&[sent(&block)]));
    assert_eq!(rows.tables[4].batch.num_rows(), 0);
}

#[test]
fn withdrawals_blobs_and_authorizations_are_read() {
    let mut block = made(3);
    let withdrawal = |index| eth::Withdrawal {
        index,
        validator_index: index + 1,
        address: vec![index as u8; 20],
        amount: 1 << 40,
    };
    block.withdrawals = vec![withdrawal(7), withdrawal(8)];
    let mut of_blobs = block.transaction_traces[0].clone();
    of_blobs.blob_hashes = vec![vec![1; 32], vec![2; 32]];
    of_blobs.blob_gas = Some(262_144);
    of_blobs.blob_gas_fee_cap = Some(eth::BigInt { bytes: vec![9] });
    of_blobs.receipt.as_mut().unwrap().blob_gas_price = Some(eth::BigInt { bytes: vec![3] });
    let mut of_code = block.transaction_traces[0].clone();
    of_code.r#type = 4;
    of_code.index = 1;
    of_code.receipt.as_mut().unwrap().logs[0].block_index = 1;
    of_code.set_code_authorizations = vec![eth::SetCodeAuthorization {
        chain_id: vec![1],
        nonce: 6,
        v: 1,
        r: vec![4; 32],
        s: vec![5; 32],
        address: vec![3; 20],
        ..Default::default()
    }];
    block.transaction_traces = vec![of_blobs, of_code];
    let rows = good(decoder(tables(), Verify::Links).decode(&[sent(&block)]));
    let [_, txs, _, _, withdrawals] = &rows.tables[..] else { panic!("five tables") };
    let numbers = |batch: &RecordBatch, name: &str| {
        column(batch, name).as_primitive::<UInt64Type>().iter().collect::<Vec<_>>()
    };
    assert_eq!(numbers(&withdrawals.batch, "index"), [Some(7), Some(8)]);
    assert_eq!(numbers(&withdrawals.batch, "validator_index"), [Some(8), Some(9)]);
    assert_eq!(numbers(&withdrawals.batch, "amount_gwei"), [Some(1 << 40), Some(1 << 40)]);
    let addresses = column(&withdrawals.batch, "address").as_fixed_size_binary();
    assert_eq!((addresses.value(0), addresses.value(1)), (&[7; 20][..], &[8; 20][..]));
    assert_eq!(numbers(&txs.batch, "blob_gas_used"), [Some(262_144), None]);
    // A fee that an extended block leaves out is 0.
    let fees = column(&txs.batch, "max_fee_per_gas").as_primitive::<Decimal128Type>();
    assert_eq!((fees.value(0), fees.null_count()), (0, 0));
    let hashes = column(&txs.batch, "blob_versioned_hashes").as_list::<i32>();
    assert_eq!((hashes.value(0).as_binary::<i32>().value(1), hashes.is_null(1)), (&[2; 32][..], true));
    let lists = column(&txs.batch, "authorization_list").as_list::<i32>();
    let signed = lists.value(1);
    let of = |name: &str| signed.as_struct().column_by_name(name).unwrap().clone();
    assert!(lists.is_null(0));
    assert_eq!(of("nonce").as_primitive::<UInt64Type>().value(0), 6);
    assert_eq!(of("address").as_binary::<i32>().value(0), [3; 20]);
    assert_eq!(
        (of("r").as_binary::<i32>().value(0), of("s").as_binary::<i32>().value(0)),
        (&[4; 32][..], &[5; 32][..])
    );
}

//! Stored rows are checked as blocks are: right ones pass, and a changed value is found.

use std::collections::BTreeSet;

use arrow::array::UInt32Array;
use arrow::compute::{concat, concat_batches, take};
use nozzle_core::BlockRange;
use nozzle_testkit::replay::Recording;

use super::{
    real::{data, lines},
    sealed::{Sealed, before_byzantium, generated, of_all_types},
    *,
};
use crate::{
    evm::stored::BlockCheck,
    stored::{Checked, StoredCheck},
};

const DOCUMENTATION: &str = include_str!("../../../../../docs/datasets.md");

const LEVELS: [Verify; 4] = [Verify::Links, Verify::Header, Verify::Full, Verify::Senders];

fn batches(rows: &BlockRows) -> Vec<RecordBatch> {
    rows.tables.iter().map(|table| table.batch.clone()).collect()
}

fn check(tables: Vec<TableDef>, level: Verify, range: BlockRange, rows: &[RecordBatch]) -> Checked {
    BlockCheck::new(tables, level).unwrap().check(range, rows)
}

/// Decodes blocks with these tables and checks the rows at every level.
fn assert_right(tables: &[TableDef], blocks: &[RawBlock], levels: &[Verify]) {
    let decoder = Decoder::new("node", tables.to_vec(), Verify::Header).unwrap();
    let rows = good(decoder.decode(blocks));
    for level in levels {
        let checked = check(tables.to_vec(), *level, rows.range, &batches(&rows));
        assert_eq!(checked.bad, [], "{level}");
        assert_eq!(checked.first_parent, rows.blocks.first().map(|block| block.parent_hash));
        assert_eq!(checked.last_hash, rows.blocks.last().map(|block| block.hash));
    }
}

#[test]
fn rows_of_generated_blocks_pass_at_every_level() {
    let chain = Recording::mainnet_like(4, 1);
    let blocks: Vec<_> = (0..4).map(|number| generated(&chain, number).raw()).collect();
    assert_right(&tables(), &blocks, &LEVELS);
    for sealed in [of_all_types(), before_byzantium()] {
        assert_right(&tables(), &[sealed.raw()], &LEVELS);
    }
}

#[test]
fn rows_of_real_blocks_pass_at_every_level() {
    let Some(data) = data() else { return };
    let blocks: Vec<_> =
        lines(data.join("rpc-mainnet-17686110-17686132/blocks_receipts.jsonl.zst")).collect();
    // These lack their withdrawals.
    assert_right(&tables()[..3], &blocks, &LEVELS);
    for block in lines(data.join("rpc-mainnet-fork-boundaries/blocks_receipts.jsonl.zst")) {
        assert_right(&tables(), &[block], &LEVELS);
    }
}

#[test]
fn an_amount_of_256_bits_comes_back() {
    let mut sealed = before_byzantium();
    sealed.block["transactions"][0]["value"] = json!(word(0xfe));
    sealed.rehash_transaction(0);
    sealed.seal();
    assert_right(&tables(), &[sealed.raw()], &[Verify::Full]);
    for columns in ["tx_hash,value", "tx_hash,value_overflow"] {
        let tables = select(&[("blocks", "hash,parent_hash"), ("transactions", columns)]);
        assert_right(&tables, &[sealed.raw()], &[Verify::Links]);
        assert_right(&tables, &[of_all_types().raw()], &[Verify::Links]);
    }
}

/// Stored columns, one that `senders` lacks, and the highest level that works.
type Case = (&'static [(&'static str, &'static str)], &'static str, Option<Verify>);

#[test]
fn fewer_columns_pass_the_levels_that_they_are_enough_for() {
    let cases: [Case; 5] = [
        (&[("blocks", "hash,parent_hash")], "blocks.timestamp", Some(Verify::Links)),
        (&[("blocks", "hash")], "blocks.parent_hash", None),
        (
            &[("blocks", "hash,parent_hash"), ("transactions", "tx_hash,nonce,gas_used,chain_id,y_parity")],
            "blocks.timestamp",
            Some(Verify::Links),
        ),
        (
            &[
                ("blocks", "hash,parent_hash"),
                ("transactions", "tx_hash"),
                ("logs", "tx_index,log_index,topic1"),
            ],
            "logs.topic3",
            Some(Verify::Links),
        ),
        (
            &[("blocks", "hash,parent_hash"), ("logs", "address,data"), ("withdrawals", "index")],
            "withdrawals.amount_gwei",
            Some(Verify::Links),
        ),
    ];
    for (columns, missing, highest) in cases {
        let tables = select(columns);
        let refused = BlockCheck::new(tables.clone(), Verify::Senders).unwrap_err();
        assert!(refused.missing.split(", ").any(|column| column == missing), "{refused}");
        assert_eq!(refused.highest, highest, "{refused}");
        if let Some(level) = highest {
            assert_right(&tables, &[of_all_types().raw()], &[level]);
        }
    }
    let mut whole = tables();
    whole.truncate(1);
    let refused = BlockCheck::new(whole.clone(), Verify::Full).unwrap_err().to_string();
    assert!(refused.contains("transactions.tx_hash") && refused.ends_with("is --verify header"), "{refused}");
    assert_right(&whole, &[of_all_types().raw()], &[Verify::Header]);
}

#[test]
fn a_bad_block_does_not_hide_the_others() {
    let chain = Recording::mainnet_like(6, 1);
    let blocks: Vec<_> = (0..6).map(|number| generated(&chain, number).raw()).collect();
    let rows = good(decoder(Verify::Full).decode(&blocks));
    let mut stored = batches(&rows);
    // Blocks 1 and 4 get another's gas; block 3 has no row.
    let gas = stored[0].schema().index_of("gas_used").unwrap();
    let mut columns = stored[0].columns().to_vec();
    columns[gas] = take(&columns[gas], &UInt32Array::from(vec![0, 0, 2, 3, 0, 5]), None).unwrap();
    let changed = RecordBatch::try_new(stored[0].schema(), columns).unwrap();
    stored[0] = arrow::compute::take_record_batch(&changed, &UInt32Array::from(vec![0, 1, 2, 4, 5])).unwrap();
    let checked = check(tables(), Verify::Header, rows.range, &stored);
    assert_eq!(checked.bad.iter().map(|bad| bad.block).collect::<Vec<_>>(), [1, 3, 4]);
    assert!(checked.bad[0].why.contains("hashes to"), "{:?}", checked.bad);
    assert!(checked.bad[1].why.contains("no row in `blocks`"), "{:?}", checked.bad);
    assert_eq!(checked.last_hash, Some(rows.blocks[5].hash));
}

#[test]
fn rows_of_other_blocks_are_found() {
    let chain = Recording::mainnet_like(3, 1);
    let blocks: Vec<_> = (0..3).map(|number| generated(&chain, number).raw()).collect();
    let rows = batches(&good(decoder(Verify::Full).decode(&blocks)));
    for (range, other) in [(BlockRange::new(1, 2), 0), (BlockRange::new(0, 1), 2)] {
        let bad = check(tables(), Verify::Full, range.unwrap(), &rows).bad;
        assert!(bad.iter().any(|bad| bad.table == Some(0)), "{bad:?}");
        assert!(bad.iter().all(|bad| bad.why == format!("it has rows of the block {other}")), "{bad:?}");
    }
}

#[test]
fn a_missing_or_doubled_row_is_found() {
    let rows = good(decoder(Verify::Full).decode(&[of_all_types().raw()]));
    for (table, count) in batches(&rows).iter().map(RecordBatch::num_rows).enumerate() {
        for row in 0..count {
            let kept: Vec<u32> = (0..count as u32).filter(|at| *at as usize != row).collect();
            let doubled: Vec<u32> =
                (0..count as u32).flat_map(|at| vec![at; 1 + usize::from(at as usize == row)]).collect();
            for places in [kept, doubled] {
                let mut stored = batches(&rows);
                stored[table] =
                    arrow::compute::take_record_batch(&stored[table], &UInt32Array::from(places)).unwrap();
                let bad = check(tables(), Verify::Full, rows.range, &stored).bad;
                assert_eq!(bad.len(), 1, "row {row} of table {table}: {bad:?}");
            }
        }
    }
}

/// The columns that the documentation lists behind a mark.
fn documented() -> BTreeSet<String> {
    let list = DOCUMENTATION.split_once("<!-- not seen by check -->").unwrap().1;
    let items = list.trim_start().lines().take_while(|line| line.starts_with('-') || line.starts_with("  "));
    let text = items.collect::<Vec<_>>().join(" ");
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The column with the value of one row taken from another, or null: each such change that makes a
/// difference.
fn changes(column: &ArrayRef, donors: &ArrayRef, row: usize) -> Vec<ArrayRef> {
    let all = concat(&[column, donors]).unwrap();
    let value = column.slice(row, 1);
    let differs = |at: &usize| all.is_valid(*at) && !all.slice(*at, 1).eq(&value);
    let others = [(0..all.len()).find(differs), (0..all.len()).rfind(differs)];
    let others = others.into_iter().flatten().map(|at| Some(at as u32));
    let null = (column.is_valid(row)).then_some(None);
    let with = |from: Option<u32>| {
        let places = (0..column.len() as u32).map(|at| if at as usize == row { from } else { Some(at) });
        take(&all, &places.collect::<UInt32Array>(), None).unwrap()
    };
    others.chain(null).map(with).collect()
}

/// The name of a column whose change is not seen; a list that has items is another thing than one without.
fn unseen_name(column: &str, values: &ArrayRef, row: usize) -> String {
    let lists = values.as_list_opt::<i32>();
    let has_items = lists.is_some_and(|lists| lists.is_null(row) || lists.value_length(row) > 0);
    if has_items { format!("{column} with items") } else { column.to_owned() }
}

/// A block with values that the others do not have.
fn unlike() -> Sealed {
    let mut sealed = before_byzantium();
    sealed.block["difficulty"] = json!("0x7");
    sealed.block["gasLimit"] = json!("0x1c9c381");
    sealed.block["transactions"][0]["value"] = json!(word(0xfe));
    sealed.rehash_transaction(0);
    sealed.seal();
    sealed
}

#[test]
fn every_change_of_a_stored_column_is_found_but_of_those_that_the_documentation_names() {
    let sealed = [of_all_types(), before_byzantium()]
        .map(|sealed| good(decoder(Verify::Full).decode(&[sealed.raw()])));
    let mut donors: Vec<RecordBatch> = tables()
        .iter()
        .enumerate()
        .map(|(table, def)| {
            let of_table: Vec<_> = sealed.iter().map(|rows| rows.tables[table].batch.clone()).collect();
            concat_batches(&def.schema, &of_table).unwrap()
        })
        .collect();
    let chain = Recording::mainnet_like(20, 5);
    let others: Vec<_> = (0..20).map(|number| generated(&chain, number).raw()).collect();
    for others in [&others[..], &[unlike().raw()]] {
        for (donor, other) in donors.iter_mut().zip(batches(&good(decoder(Verify::Full).decode(others)))) {
            let few = other.slice(0, other.num_rows().min(200));
            *donor = concat_batches(&donor.schema(), [&*donor, &few]).unwrap();
        }
    }
    let (mut tried, mut unseen) = (BTreeSet::new(), BTreeSet::new());
    for rows in &sealed {
        for (table, def) in tables().iter().enumerate() {
            let batch = &rows.tables[table].batch;
            for (index, field) in def.schema.fields().iter().enumerate() {
                let name = format!("{}.{}", def.name, field.name());
                for row in 0..batch.num_rows() {
                    for column in changes(batch.column(index), donors[table].column(index), row) {
                        let mut columns = batch.columns().to_vec();
                        columns[index] = column;
                        // A null where the column has none is no file that could be read.
                        let Ok(changed) = RecordBatch::try_new(batch.schema(), columns) else { continue };
                        let mut stored = batches(rows);
                        stored[table] = changed;
                        tried.insert(name.clone());
                        if check(tables(), Verify::Senders, rows.range, &stored).bad.is_empty() {
                            unseen.insert(unseen_name(&name, &stored[table].columns()[index], row));
                        }
                    }
                }
            }
        }
    }
    let all: BTreeSet<String> = tables()
        .iter()
        .flat_map(|table| {
            table
                .schema
                .fields()
                .iter()
                .map(|field| format!("{}.{}", table.name, field.name()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(all.difference(&tried).collect::<Vec<_>>(), Vec::<&String>::new(), "nothing was changed");
    assert_eq!(unseen, documented());
}

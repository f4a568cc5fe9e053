//! Answers about real chains: what they must count up to, and that every header hashes right.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
};

use arrow::{array::AsArray, datatypes::Int32Type};
use bytes::Bytes;

use super::*;

/// The folder of recorded chains. Where it is absent a test has nothing to look at and says so;
/// on the build machine that is a failure.
pub(crate) fn data() -> Option<PathBuf> {
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("NOZZLE_TEST_DATA").map_or(default, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    let folder = folder.display();
    assert!(
        std::env::var_os("CI").is_none(),
        "the recorded chains are not in {folder}: set NOZZLE_TEST_DATA"
    );
    eprintln!("the recorded chains are not in {folder}: nothing was checked; set NOZZLE_TEST_DATA");
    None
}

fn unpacked(path: PathBuf) -> impl Read {
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    zstd::Decoder::new(file).unwrap()
}

/// `{"block": …, "receipts": …}` lines as the two answers they were.
pub(crate) fn lines(path: PathBuf) -> impl Iterator<Item = RawBlock> {
    BufReader::new(unpacked(path)).lines().map(|line| split_line(&line.unwrap()))
}

fn split_line(line: &str) -> RawBlock {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        block: &'a serde_json::value::RawValue,
        #[serde(borrow)]
        receipts: &'a serde_json::value::RawValue,
    }
    let line: Line<'_> = serde_json::from_str(line).unwrap();
    let answer = |result: &serde_json::value::RawValue| {
        Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{}}}"#, result.get()))
    };
    with_number(answer(line.block), Some(answer(line.receipts)))
}

fn with_number(block: Bytes, receipts: Option<Bytes>) -> RawBlock {
    let number = super::super::id_of_answer(&block, Verify::Header).unwrap().number;
    RawBlock { number, block, receipts }
}

/// What a chain adds up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    blocks: usize,
    txs: usize,
    failed: usize,
    creations: usize,
    logs: usize,
    gas: u64,
    tx_gas: u64,
    withdrawals: usize,
    types: BTreeMap<i32, usize>,
}

impl Totals {
    fn add(&mut self, rows: &BlockRows) {
        let [blocks, txs, logs, withdrawals @ ..] = &rows.tables[..] else { panic!("three tables or four") };
        assert!(rows.tables.iter().all(|table| table.ends.len() == rows.blocks.len()));
        assert!(rows.tables.iter().all(|table| table.ends.last() == Some(&table.batch.num_rows())));
        self.blocks += blocks.batch.num_rows();
        self.txs += txs.batch.num_rows();
        self.logs += logs.batch.num_rows();
        self.withdrawals += withdrawals.iter().map(|table| table.batch.num_rows()).sum::<usize>();
        self.gas += sum(&blocks.batch, "gas_used");
        self.tx_gas += sum(&txs.batch, "gas_used");
        self.failed += column(&txs.batch, "status").as_boolean().false_count();
        self.creations += column(&txs.batch, "to").null_count();
        for kind in column(&txs.batch, "type").as_primitive::<Int32Type>().values() {
            *self.types.entry(*kind).or_default() += 1;
        }
    }
}

/// The totals of blocks that are decoded by `group` at a time.
fn totals(decoder: &Decoder, blocks: &[RawBlock], group: usize) -> Totals {
    let mut totals = Totals::default();
    for group in blocks.chunks(group) {
        totals.add(&good(decoder.decode(group)));
    }
    totals
}

#[test]
fn the_mainnet_blocks_count_up_to_what_is_known() {
    let Some(data) = data() else { return };
    let blocks: Vec<_> =
        lines(data.join("rpc-mainnet-17686110-17686132/blocks_receipts.jsonl.zst")).collect();
    let expected = Totals {
        blocks: 23,
        txs: 4416,
        failed: 202,
        logs: 9807,
        gas: 403_782_315,
        tx_gas: 403_782_315,
        creations: 2,
        withdrawals: 0,
        types: [(0, 453), (1, 21), (2, 3942)].into(),
    };
    for group in [1, 4, 23] {
        assert_eq!(totals(&decoder(Verify::Header), &blocks, group), expected, "{group} blocks at a time");
    }
    // The withdrawals are left out: no more than `header` holds with the table for them.
    assert!(error_of(&decoder(Verify::Full), &blocks[0]).contains("leaves out its withdrawals"));
    let others = tables()[..3].to_vec();
    assert_eq!(totals(&Decoder::new("node", others, Verify::Senders).unwrap(), &blocks, 23), expected);
    let rows = good(decoder(Verify::Header).decode(&blocks[..1]));
    assert_eq!(
        rows.blocks[0].hash.to_string(),
        "0x310a2806f56c3da6d1172b86d527f93ea9396d55ca614a79ebfe6d2b6a25625a"
    );
    assert_eq!(rows.tables.iter().map(|table| table.ends[0]).collect::<Vec<_>>(), [1, 179, 398, 0]);
    assert_eq!(sum(&rows.tables[0].batch, "gas_used"), 16_049_335);
}

#[test]
fn the_blocks_around_forks_decode_with_all_types() {
    let Some(data) = data() else { return };
    let facts = std::fs::read_to_string(data.join("rpc-mainnet-fork-boundaries/FACTS.json")).unwrap();
    let facts: Vec<Value> = serde_json::from_str(&facts).unwrap();
    let blocks: Vec<_> = lines(data.join("rpc-mainnet-fork-boundaries/blocks_receipts.jsonl.zst")).collect();
    assert_eq!((facts.len(), blocks.len()), (13, 13));
    let mut known = BTreeMap::new();
    for (block, fact) in blocks.iter().zip(&facts) {
        let found = totals(&decoder(Verify::Senders), std::slice::from_ref(block), 1);
        let number = |name: &str| fact[name].as_u64().unwrap();
        let of_kind = |(kind, count): (&String, &Value)| {
            (i32::from_str_radix(&kind[2..], 16).unwrap(), count.as_u64().unwrap() as usize)
        };
        assert_eq!(block.number, number("number"));
        assert_eq!((found.txs as u64, found.logs as u64), (number("txs"), number("logs")));
        assert_eq!((found.failed as u64, found.gas), (number("failed"), number("gasUsed")));
        assert_eq!((found.withdrawals as u64, found.tx_gas), (number("withdrawals"), number("gasUsed")));
        assert_eq!(found.types, fact["types"].as_object().unwrap().iter().map(of_kind).collect());
        known.insert(block.number, found);
    }
    assert_eq!((known[&15_537_394].txs, known[&15_537_394].logs), (80, 10_041));
    assert_eq!((known[&22_431_084].txs, known[&22_431_084].types[&3]), (95, 2));
    assert_eq!(known[&22_431_084].withdrawals, 16);
    assert_eq!(known[&22_869_878].types.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!((known[&22_869_878].txs, known[&22_869_878].logs), (301, 714));
}

#[test]
fn blocks_without_receipts_decode_where_no_column_needs_them() {
    let Some(data) = data() else { return };
    let folder = data.join("rpc-mainnet-nimbus");
    let facts: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("FACTS.json")).unwrap()).unwrap();
    assert_eq!(facts.len(), 30);
    let mut selected = tables();
    selected.remove(2);
    let fields = selected[1].schema.fields().iter().map(|field| field.name().clone());
    let without: Vec<_> =
        fields.filter(|name| !super::super::transactions::RECEIPT_COLUMNS.contains(&name.as_str())).collect();
    selected[1] = selected[1].select(&without).unwrap();
    let decoder = Decoder::new("node", selected, Verify::Senders).unwrap();
    for fact in facts {
        let mut json = String::new();
        unpacked(folder.join(fact["file"].as_str().unwrap())).read_to_string(&mut json).unwrap();
        let block = with_number(format!(r#"{{"result":{json}}}"#).into(), None);
        let rows = good(decoder.decode(&[block]));
        assert_eq!(rows.blocks[0].number, fact["number"].as_u64().unwrap());
        assert_eq!(rows.blocks[0].hash.to_string(), fact["hash"].as_str().unwrap());
        assert_eq!(rows.tables[1].ends, [fact["txs"].as_u64().unwrap() as usize]);
        assert_eq!(rows.tables[2].ends, [fact["withdrawals"].as_u64().unwrap_or(0) as usize]);
        assert_eq!(sum(&rows.tables[0].batch, "gas_used"), fact["gasUsed"].as_u64().unwrap());
    }
}

#[test]
fn the_development_chain_counts_up_to_what_is_known() {
    let Some(data) = data() else { return };
    let blocks: Vec<_> = lines(data.join("anvil-chain/blocks_receipts.jsonl.zst")).collect();
    let expected = Totals {
        blocks: 2501,
        txs: 13_004,
        failed: 1492,
        creations: 121,
        logs: 49_483,
        gas: 548_775_966,
        tx_gas: 548_775_966,
        withdrawals: 0,
        types: [(0, 2099), (1, 1453), (2, 9449), (3, 2), (4, 1)].into(),
    };
    assert_eq!(totals(&decoder(Verify::Header), &blocks, 64), expected);
    let senders = decoder(Verify::Senders);
    for part in [&blocks[..4], &blocks[5..]] {
        totals(&senders, part, 64);
    }
    // Of transactions with blobs this node puts the blobs into the root too.
    assert!(error_of(&senders, &blocks[4]).contains("its transactions have the root"));
    let head = good(decoder(Verify::Header).decode(&blocks[2500..]));
    assert_eq!(
        head.blocks[0].hash.to_string(),
        "0xf01e371198915c2772a4dc246341fdc802b75dd077d45a5aa7726ad09eb8f635"
    );
}

/// The files of a tar archive: blocks of 512 bytes, a header with name and octal size before each.
fn tar_files(mut archive: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').trim().to_owned();
    let mut files = Vec::new();
    while archive.len() > 512 && archive[0] != 0 {
        let (header, rest) = archive.split_at(512);
        let size = usize::from_str_radix(&text(&header[124..136]), 8).unwrap();
        files.push((text(&header[..100]), String::from_utf8_lossy(&rest[..size]).into_owned()));
        archive = &rest[size.div_ceil(512) * 512..];
    }
    files
}

#[test]
fn the_conformance_answers_decode_and_hash_right() {
    let Some(data) = data() else { return };
    let mut archive = Vec::new();
    unpacked(data.join("execution-apis/tests.tar.zst")).read_to_end(&mut archive).unwrap();
    let files = tar_files(&archive);
    let answers = |method: &str| {
        let wanted = format!("/{method}/");
        let of_file = |(name, text): &(String, String)| {
            let answer = text.lines().find_map(|line| line.strip_prefix("<< ")).map(str::to_owned);
            answer.filter(|_| name.contains(&wanted))
        };
        files.iter().filter_map(of_file).collect::<Vec<_>>()
    };
    let headers =
        Decoder::new("node", select(&[("blocks", "hash"), ("withdrawals", "index")]), Verify::Header);
    let headers = headers.unwrap();
    let senders = Decoder::new("node", select(&[("transactions", "from")]), Verify::Senders).unwrap();
    let mut whole = 0;
    let mut blocks = BTreeMap::new();
    let mut empty = 0;
    for answer in [answers("eth_getBlockByNumber"), answers("eth_getBlockByHash")].concat() {
        if answer.contains(r#""result":null"#) {
            empty += 1;
            continue;
        }
        let raw = with_number(answer.into(), None);
        let rows = good(headers.decode(std::slice::from_ref(&raw)));
        // Some were asked for with the hashes of transactions only.
        let json: Value = serde_json::from_slice(&raw.block).unwrap();
        if json["result"]["transactions"].as_array().unwrap().iter().all(Value::is_object) {
            good(senders.decode(std::slice::from_ref(&raw)));
            whole += 1;
        }
        blocks.insert(rows.blocks[0].hash.to_string(), raw);
    }
    assert_eq!((blocks.len(), empty), (8, 3));
    assert!(whole > 4, "{whole} blocks with whole transactions");
    let (mut joined, mut read) = (0, 0);
    for answer in answers("eth_getBlockReceipts") {
        let json: Value = serde_json::from_str(&answer).unwrap();
        let Some(hash) = json["result"][0]["blockHash"].as_str() else { continue };
        read += 1;
        let Some(block) = blocks.get(hash) else { continue };
        let raw = RawBlock { receipts: Some(answer.into()), ..block.clone() };
        let rows = good(decoder(Verify::Senders).decode(&[raw]));
        assert_eq!(rows.tables[1].ends[0], json["result"].as_array().unwrap().len());
        joined += 1;
    }
    assert_eq!((read, joined), (3, 3));
}

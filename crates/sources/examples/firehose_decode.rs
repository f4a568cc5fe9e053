//! How much processor time it takes to make rows of blocks of Firehose, beside `prost` alone decoding the same bytes:
//! `cargo run --release -p nozzle-sources --example firehose_decode -- [FOLDER] [SECONDS]`, where the folder has
//! `.dbin` files, packed with zstd or not. One thread. Without a folder it is the range of mainnet in
//! `NOZZLE_TEST_DATA`.

use std::{
    error::Error,
    hint::black_box,
    path::{Path, PathBuf},
};

use nozzle_core::manifest::Verify;
use nozzle_sources::firehose::{Decoder, Payload, tables};
use nozzle_testkit::{
    firehose::{pb::sf::ethereum::r#type::v2::Block, read},
    parse::busy_seconds,
};
use prost::Message;

/// How many blocks are decoded in one go, as a stream does when it is behind.
const GROUP: usize = 8;

/// Where the blocks lie in the folder of recorded chains.
const RANGE: &str = "firehose-mainnet-17686110-17686132";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(recorded, |folder| Ok(PathBuf::from(folder)))?;
    let seconds: f64 = arguments.next().map_or(Ok(3.0), |text| text.parse())?;
    let payloads = payloads(&folder)?;
    let megabytes = payloads.iter().map(|payload| payload.block.len()).sum::<usize>() as f64 / 1e6;
    println!("## Firehose: {} blocks, {megabytes:.1} MB of protocol buffers\n", payloads.len());
    println!("| | blocks per CPU second | MB per CPU second | of prost's rate |\n|---|---:|---:|---:|");
    let mut of_prost = None;
    let mut measure = |name: &str, work: &dyn Fn()| -> Result<(), Box<dyn Error>> {
        work();
        let (begin, mut rounds) = (busy_seconds()?, 0.0);
        let busy = loop {
            work();
            rounds += 1.0;
            let busy = busy_seconds()? - begin;
            if busy >= seconds {
                break busy;
            }
        };
        let rate = rounds / busy;
        let of_prost = rate / *of_prost.get_or_insert(rate);
        let (blocks, megabytes) = (payloads.len() as f64 * rate, megabytes * rate);
        println!("| {name} | {blocks:.0} | {megabytes:.0} | {of_prost:.2} |");
        Ok(())
    };
    measure("prost, all of the message", &|| {
        for payload in &payloads {
            black_box(Block::decode(&payload.block[..])).ok();
        }
    })?;
    let stored = |names: &'static [&'static str]| {
        tables().into_iter().filter(move |table| names.contains(&table.name.as_str())).collect::<Vec<_>>()
    };
    let all = &["blocks", "transactions", "logs", "calls"][..];
    for (name, names, verify) in [
        ("rows of blocks, transactions, logs, calls", all, Verify::None),
        ("the same, headers hashed", all, Verify::Header),
        ("the same, all roots", all, Verify::Full),
        ("rows of blocks, transactions, logs", &all[..3], Verify::None),
        ("rows of blocks and logs", &["blocks", "logs"], Verify::None),
        ("rows of blocks", &all[..1], Verify::None),
    ] {
        let decoder = Decoder::new("files", stored(names), verify, Some(1))?;
        measure(name, &|| {
            for group in payloads.chunks(GROUP) {
                let decoded = decoder.decode(group);
                assert!(decoded.error.is_none(), "{:?}", decoded.error);
                black_box(decoded.rows);
            }
        })?;
    }
    Ok(())
}

fn recorded() -> Result<PathBuf, Box<dyn Error>> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("NOZZLE_TEST_DATA").map_or(default, PathBuf::from).join(RANGE);
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(format!("there is no {}: set NOZZLE_TEST_DATA, or name a folder with .dbin files", folder.display())
        .into())
}

fn payloads(folder: &Path) -> Result<Vec<Payload>, Box<dyn Error>> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.to_string_lossy().contains(".dbin"));
    files.sort();
    let mut payloads = vec![];
    for file in files {
        let blocks = read(&file)?.into_iter();
        payloads.extend(blocks.map(|block| Payload { number: block.number, block: block.payload }));
    }
    Ok(payloads)
}

//! How much processor time it takes to make rows of blocks of Firehose, beside `prost` alone decoding the same bytes:
//! `cargo run --release -p nozzle-sources --example firehose_decode -- [FOLDER] [SECONDS]`, where the folder has
//! `.dbin` files, packed with zstd or not. One thread. Without a folder it is the range of mainnet in
//! `NOZZLE_TEST_DATA`. What a stream does with each block that comes is measured too, in groups as large as those of
//! a stream that is behind; `prost` is measured with bytes that it copies, and with pieces of the message.

use std::{
    error::Error,
    hint::black_box,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use nozzle_core::manifest::Verify;
use nozzle_sources::firehose::{Decoder, GROUP_BLOCKS, GROUP_BYTES, Payload, tables};
use nozzle_testkit::{
    firehose::{
        pb::sf::ethereum::r#type::v2::Block, pb_bytes::sf::ethereum::r#type::v2::Block as BlockOfBytes,
        read_all,
    },
    parse::busy_seconds,
};
use prost::Message;

/// Where the blocks lie in the folder of recorded chains.
const RANGE: &str = "firehose-mainnet-17686110-17686132";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(recorded, |folder| Ok(PathBuf::from(folder)))?;
    let seconds: f64 = arguments.next().map_or(Ok(3.0), |text| text.parse())?;
    let blocks: Vec<Bytes> = read_all(&folder)?.into_iter().map(|block| block.payload).collect();
    let megabytes = blocks.iter().map(Bytes::len).sum::<usize>() as f64 / 1e6;
    println!("## Firehose: {} blocks, {megabytes:.1} MB of protocol buffers\n", blocks.len());
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
        let (blocks, megabytes) = (blocks.len() as f64 * rate, megabytes * rate);
        println!("| {name} | {blocks:.0} | {megabytes:.0} | {of_prost:.2} |");
        Ok(())
    };
    measure("prost, all of the message", &|| {
        for block in &blocks {
            black_box(Block::decode(block.clone())).ok();
        }
    })?;
    measure("prost, all of the message, bytes not copied", &|| {
        for block in &blocks {
            black_box(BlockOfBytes::decode(block.clone())).ok();
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
            let mut left = &blocks[..];
            while !left.is_empty() {
                let mut group = vec![];
                while let Some((block, rest)) = left.split_first()
                    && group.len() < GROUP_BLOCKS
                    && group.iter().map(|payload: &Payload| payload.block.len()).sum::<usize>() < GROUP_BYTES
                {
                    group.push(Payload::read("files", block.clone()).expect("a block"));
                    left = rest;
                }
                let decoded = decoder.decode(&group);
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

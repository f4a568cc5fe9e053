//! How fast blocks of Firehose become rows, beside `prost` alone decoding the same bytes:
//! `cargo run --release -p nozzle-sources --example firehose_decode -- FOLDER [SECONDS]`, where the folder has
//! `.dbin` files, packed with zstd or not. One thread.

use std::{hint::black_box, path::PathBuf, time::Duration, time::Instant};

use nozzle_core::manifest::Verify;
use nozzle_sources::firehose::{Decoder, Payload, tables};
use nozzle_testkit::firehose::{pb::sf::ethereum::r#type::v2::Block, read};
use prost::Message;

/// How many blocks are decoded in one go, as a stream does when it is behind.
const GROUP: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("which folder?")?);
    let seconds: f64 = arguments.next().map_or(Ok(3.0), |text| text.parse())?;
    let mut files: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.to_string_lossy().contains(".dbin"));
    files.sort();
    let mut payloads = vec![];
    for file in files {
        payloads.extend(
            read(&file)?.into_iter().map(|block| Payload { number: block.number, block: block.payload }),
        );
    }
    let size = payloads.iter().map(|payload| payload.block.len()).sum::<usize>() as f64 / 1e6;
    println!("{} blocks, {size:.1} MB", payloads.len());
    let measure = |name: &str, work: &dyn Fn()| {
        work();
        let (begin, mut rounds) = (Instant::now(), 0.0);
        while begin.elapsed() < Duration::from_secs_f64(seconds) {
            work();
            rounds += 1.0;
        }
        let per_second = rounds / begin.elapsed().as_secs_f64();
        println!(
            "{name:44} {:8.0} blocks/s {:8.0} MB/s",
            payloads.len() as f64 * per_second,
            size * per_second
        );
    };
    measure("prost, all of the message", &|| {
        for payload in &payloads {
            black_box(Block::decode(&payload.block[..])).ok();
        }
    });
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
        });
    }
    Ok(())
}

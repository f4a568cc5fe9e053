//! What it costs to parse a chain's JSON and do nothing else: the ground that an extractor stands on.

use std::{fs, hint::black_box, thread};

use anyhow::Context;

use crate::replay::Recording;

/// A stock JSON parser, each into its own tree of values.
#[derive(Debug, Clone, Copy)]
pub enum Parser {
    /// `serde_json::Value`
    SerdeJson,
    /// `sonic_rs::Value`
    SonicRs,
}

/// What was parsed, and how long a processor was busy with it.
#[derive(Debug, Clone, Copy)]
pub struct Parsed {
    /// Blocks, each with its receipts.
    pub blocks: u64,
    /// The JSON of both, without the envelopes of answers.
    pub bytes: u64,
    /// Of one thread, parsing and dropping included.
    pub cpu_seconds: f64,
}

impl Parser {
    fn parse(self, json: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::SerdeJson => drop(black_box(serde_json::from_slice::<serde_json::Value>(json)?)),
            Self::SonicRs => drop(black_box(sonic_rs::from_slice::<sonic_rs::Value>(json)?)),
        }
        Ok(())
    }
}

/// Parses every block of a recording and its receipts, one after the other on one thread. Preload
/// a generated recording, or its making is measured too.
pub fn measure(recording: &Recording, parser: Parser) -> anyhow::Result<Parsed> {
    let work = || {
        let start = busy_seconds()?;
        let (mut blocks, mut bytes) = (0, 0);
        for number in recording.first()..=recording.last() {
            let Some(block) = recording.block(number, true) else { continue };
            blocks += 1;
            for json in [Some(block), recording.receipts(number)].into_iter().flatten() {
                bytes += json.len() as u64;
                parser.parse(&json)?;
            }
        }
        Ok(Parsed { blocks, bytes, cpu_seconds: busy_seconds()? - start })
    };
    // A thread of its own: nothing else counts.
    thread::scope(|scope| scope.spawn(work).join().expect("parsing does not panic"))
}

/// How long this thread has been on a processor, in seconds; Linux counts it in nanoseconds.
pub fn busy_seconds() -> anyhow::Result<f64> {
    let path = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}: this needs Linux"))?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}

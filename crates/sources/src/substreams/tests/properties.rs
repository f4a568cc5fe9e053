//! Whatever bytes come as a package or as an output: rows or an error, never a panic, and a bounded amount of
//! memory. The seeds are the real packages and outputs, and those of the other tests.

use std::time::{Duration, Instant};

use super::*;

/// A generator of numbers from a seed, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64: https://prng.di.unimi.it/splitmix64.c
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Changes a few things, as damage or malice would: bits, bytes that matter in protobuf, pieces left out, doubled,
/// or put in from elsewhere.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len());
        let piece = at..(at + random.below(64)).min(bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => drop(bytes.drain(piece)),
            3 => {
                let doubled = bytes[piece].to_vec();
                bytes.splice(at..at, doubled);
            }
            4 => bytes.truncate(at),
            5 => {
                let from = random.below(other.len());
                let piece = other[from..(from + random.below(64)).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let length = random.below(12);
                let new: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                bytes.splice(at..at, new);
            }
        }
    }
}

/// All seeds: packages, and outputs with the module of the package that they are of.
struct Corpus {
    packages: Vec<Vec<u8>>,
    outputs: Vec<(Package, String, Vec<Vec<u8>>)>,
}

impl Corpus {
    fn new() -> Self {
        let (mut packages, mut all) = (vec![], vec![]);
        for (package, outputs) in [kinds::seed(), changes::seed(), entities::seed()] {
            all.push((Package::parse(&package).unwrap(), "out".to_owned(), outputs));
            packages.push(package);
        }
        if let Some(folder) = data("spkg") {
            for entry in std::fs::read_dir(folder).unwrap() {
                packages.push(bytes_of(&entry.unwrap().path()));
            }
            for (name, module) in [
                ("erc20-transfers-v0.4.0", "map_events"),
                ("evm-clickhouse-contracts-v0.4.0", "db_out"),
                ("evm-contracts-v0.4.0", "db_out"),
                ("evm-native-transfers-v0.2.0", "map_events"),
                ("graph-node-substreams-test-v1.0.1", "graph_out"),
            ] {
                let recorded = outputs::recorded(&format!("{name}.{module}.jsonl.zst")).unwrap();
                let recorded = recorded.iter().map(|output| output.output.to_vec()).collect();
                all.push((real(&format!("{name}.spkg")).unwrap(), module.to_owned(), recorded));
            }
        }
        Self { packages, outputs: all }
    }

    /// One step: a package and all of its modules, or an output.
    fn step(&self, random: &mut Random) {
        if random.below(8) == 0 {
            let mut package = self.packages[random.below(self.packages.len())].clone();
            let other = &self.packages[random.below(self.packages.len())];
            mutate(&mut package, other, random);
            if let Ok(package) = Package::parse(&package) {
                package.modules().iter().for_each(|module| drop(tables(&package, &module.name)));
                drop(package.modules_for("mainnet", &Default::default()));
            }
            return;
        }
        let (package, module, recorded) = &self.outputs[random.below(self.outputs.len())];
        let mut message = recorded[random.below(recorded.len())].clone();
        // What is large is slow, and no more is in it.
        message.truncate(16 << 10);
        mutate(&mut message, &recorded[random.below(recorded.len())], random);
        let outputs = super::outputs(vec![message]);
        let decoded = decoder(package, module).decode(range_of(&outputs), &outputs, 0);
        assert!(decoded.rows.is_some() != decoded.error.is_some());
    }
}

/// The most memory that the process has had.
fn peak_memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0)
}

/// `NOZZLE_FUZZ_SECONDS` makes it longer, each time from another seed; `NOZZLE_FUZZ_SEED` says which: see `just fuzz`.
#[test]
fn no_bytes_make_it_panic() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let until = number("NOZZLE_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let by_clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    let seed = number("NOZZLE_FUZZ_SEED").unwrap_or_else(|| if until.is_some() { by_clock() } else { 1 });
    eprintln!("the seed is {seed}");
    let (corpus, mut random, mut steps) = (Corpus::new(), Random(seed), 0_u64);
    while until.map_or(steps < 3000, |until| Instant::now() < until) {
        // Told before: what ends the process does not tell afterwards.
        let state = random.0;
        let step = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| corpus.step(&mut random)));
        assert!(step.is_ok(), "after {steps} steps: NOZZLE_FUZZ_SEED={state} does it at once");
        steps += 1;
    }
    let peak_mb = peak_memory_kb() >> 10;
    assert!(peak_mb < 3 << 10, "it took {peak_mb} MB");
    eprintln!("{steps} steps, {peak_mb} MB at most, from the seed {seed}");
}

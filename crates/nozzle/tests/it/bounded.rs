//! The memory of a dump is bounded by what is in flight, not by the range.

use std::time::Duration;

use nozzle_testkit::replay::Recording;

use crate::harness::{Db, Place, peak_memory_kib, synthetic};

/// What a dump holds is the answers in flight, the row groups of the files that are open, and those of the
/// merge at its end. The longer range fills the row group of that merge (128 Ki rows, some 30 MiB here), and
/// gives the allocator more time to scatter: together some 50 MiB. Its answers are 150 MiB.
const SLACK_KIB: u64 = 80 << 10;
const LIMITS: &str = "concurrent_request_limit = 8\n";
/// Files that are closed so often that the short range, too, has a dozen of them, and merges them.
const CONFIG: &str = "writer = { segment_flush_interval_secs = 0.1 }";

/// Transactions a block; `just bounded` takes 40, whose answers are 1.5 GiB.
fn transactions() -> u64 {
    std::env::var("NOZZLE_BOUNDED_TRANSACTIONS").map_or(6, |count| count.parse().expect("a number"))
}

/// The peak resident memory of a dump of so many blocks, in KiB.
fn peak_of(blocks: u64) -> u64 {
    let node = synthetic(Recording::synthetic(blocks, transactions(), 2, 5), 0);
    let place = Place::configured(Db::Sqlite, CONFIG);
    place.define("eth", "chain-1337", node.url());
    let provider = std::fs::read_to_string(place.path("providers/chain-1337.toml")).unwrap();
    place.write("providers/chain-1337.toml", &(provider + LIMITS));
    let mut dump = place.start(&["dump", "--dataset", "eth"]);
    let mut peak = 0;
    while dump.is_running() {
        peak = peak.max(peak_memory_kib(dump.id()));
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = dump.wait();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("segments are"), "nothing was merged: {}", said.stderr);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), blocks);
    peak
}

#[test]
fn peak_memory_does_not_grow_with_the_range() {
    let (short, long) = (peak_of(2_000), peak_of(11_000));
    println!("peak of 2,000 blocks {short} KiB, of 11,000 blocks {long} KiB");
    assert!(long < short + SLACK_KIB, "2,000 blocks took {short} KiB, 11,000 took {long} KiB");
}

//! `kill -9` at random moments: the same command afterwards makes everything whole.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use nozzle_core::{BlockRange, chain};
use nozzle_testkit::{replay::Recording, rng::Rng};
use serde_json::json;

use crate::harness::{Db, Place, Stored, asked, seed, synthetic, until};

const BLOCKS: u64 = 1_500;

/// Many commits in each dump.
const FLUSH: &str = "writer = { segment_flush_interval_secs = 0.15 }";

/// Three in each block but the first.
const TRANSACTIONS: u64 = (BLOCKS - 1) * 3;

/// By which more kills per database are asked for than six.
const RUNS: &str = "NOZZLE_CRASH_RUNS";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_dump_is_made_whole_by_the_same_command_on_sqlite() {
    kill_and_repeat(Db::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_dump_is_made_whole_by_the_same_command_on_postgres() {
    kill_and_repeat(Db::Postgres).await;
}

async fn kill_and_repeat(db: Db) {
    let seed = seed(RUNS);
    // The delay makes the dump long enough for a moment in it to be met.
    let node = synthetic(Recording::synthetic(BLOCKS, 3, 2, 11), 30);
    let after_first_commit = undisturbed(db, node.url()).await;
    // A killed writer's lease is waited out, so that several runs at once cost little more than one.
    let runs = stream::iter(0..asked(RUNS, 6))
        .map(|run| kill_and_repeat_once(db, node.url(), run, Rng::nth(seed, run), after_first_commit));
    runs.buffer_unordered(3).collect::<Vec<()>>().await;
}

/// How long a dump that nobody disturbs goes on after its first commit: the moments to kill it at
/// lie in there.
async fn undisturbed(db: Db, url: &str) -> Duration {
    let place = Place::configured(db, FLUSH);
    place.define("eth", "chain-1337", url);
    let mut dump = place.start(&["dump", "--dataset", "eth", "-j", "3"]);
    let store = place.metadata_when_there().await;
    until("the first commit", async || (store.sequence().await.ok()?.0 > 0).then_some(())).await;
    let first_commit = Instant::now();
    until("the end", async || (!dump.is_running()).then_some(())).await;
    let elapsed = first_commit.elapsed();
    let said = dump.wait();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    elapsed
}

async fn kill_and_repeat_once(db: Db, url: &str, run: u64, mut random: Rng, within: Duration) {
    let args = ["dump", "--dataset", "eth", "-j", if run.is_multiple_of(2) { "1" } else { "3" }];
    let mut wait = within.mul_f64(random.below(1000) as f64 / 1000.0);
    let place = loop {
        let place = Place::configured(db, FLUSH);
        place.define("eth", "chain-1337", url);
        if kill_after(&place, &args, wait).await {
            break place;
        }
        // The dump was faster than the one that was measured: an earlier moment, on a new place.
        wait /= 2;
    };
    let again = place.start(&args);
    let said = tokio::task::spawn_blocking(|| again.wait()).await.unwrap();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    place.stored("eth").await.assert_sound(0, BLOCKS - 1);
    let expected = json!({
        "blocks": BLOCKS, "block_numbers": BLOCKS, "transactions": TRANSACTIONS, "tx_hashes": TRANSACTIONS,
        "logs": TRANSACTIONS * 2, "unlinked": 0,
    });
    assert_eq!(place.query(COUNTS), [expected]);
}

/// Of `unlinked` blocks the one before has another hash than they name.
const COUNTS: &str = "
    SELECT (SELECT count(*) FROM eth.blocks) AS blocks,
           (SELECT count(DISTINCT block_num) FROM eth.blocks) AS block_numbers,
           (SELECT count(*) FROM eth.transactions) AS transactions,
           (SELECT count(DISTINCT tx_hash) FROM eth.transactions) AS tx_hashes,
           (SELECT count(*) FROM eth.logs) AS logs,
           (SELECT count(*) FROM (SELECT parent_hash, lag(hash) OVER (ORDER BY block_num) AS before
                                  FROM eth.blocks) WHERE before <> parent_hash) AS unlinked";

/// Kills a dump between its first commit and its end, and proves that it was there; `false` where it
/// was over before.
async fn kill_after(place: &Place, args: &[&str], wait: Duration) -> bool {
    let mut dump = place.start(args);
    let store = place.metadata_when_there().await;
    let first = until("the first commit", async || {
        let is_over = !dump.is_running();
        let sequence = store.sequence().await.ok()?;
        (sequence.0 > 0 || is_over).then_some(sequence)
    })
    .await;
    let started = Instant::now();
    while started.elapsed() < wait {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if !dump.is_running() {
        return false;
    }
    dump.kill();
    let stored = Stored::read(store, "eth").await;
    let missing = chain::missing(BlockRange::new(0, BLOCKS - 1).unwrap(), &stored.spans());
    println!("killed {wait:?} after commit {first}, missing {missing:?}");
    !missing.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_dump_ends_at_a_whole_block_and_gives_its_leases_back() {
    let recording = Recording::synthetic(5_000, 3, 2, 12);
    let node = synthetic(recording, 100);
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let place = Place::configured(Db::Sqlite, "writer = { segment_flush_interval_secs = 0.2 }");
        place.define("eth", "chain-1337", node.url());
        let mut dump = place.start(&["dump", "--dataset", "eth"]);
        let store = place.metadata_when_there().await;
        until("a commit", async || (store.sequence().await.ok()?.0 > 0).then_some(())).await;
        dump.signal(signal);
        let said = dump.wait();
        assert_eq!(said.code, Some(code), "{}", said.stderr);
        assert!(said.stderr.contains("stopping at the next whole block"), "{}", said.stderr);
        let stored = Stored::read(store.clone(), "eth").await;
        assert!(store.leases(stored.revision.id).await.unwrap().is_empty(), "a lease was left behind");
        let last = stored.spans().last().unwrap().range.end();
        assert!(last < 4_999, "the dump was over before the signal");
        stored.assert_sound(0, last);
        // What was received is committed: no file lies about that no segment names.
        assert!(store.recorded_objects().await.unwrap().is_empty());
    }
}

//! Providers that cannot be trusted: whatever they answer, a dump ends with the chain as it is, or
//! with an error that says who has failed, at which block, and how.
//!
//! A schedule of faults follows from a seed. 40 are tried, or as many as `NOZZLE_FAULT_SCHEDULES`
//! says; `NOZZLE_SEED` plays those of another run again.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use futures::{StreamExt, stream};
use nozzle_testkit::{
    fault::{Fault, FaultServer, Fired, Schedule},
    replay::{Recording, ReplayOptions, ReplayServer},
    rng::Rng,
};
use serde::Deserialize;
use serde_json::json;

use crate::harness::{Db, PATIENCE, Place, Said, asked, python, seed};

const BLOCKS: u64 = 500;
const MOST_TRANSACTIONS: u64 = 4;
/// How many blocks are asked for together, where they are.
const BATCH: u64 = 10;

/// Schedules that run at a time: they mostly wait.
pub const AT_A_TIME: usize = 12;

/// Schedules whose rows are compared together.
const A_BATCH: u64 = 60;

/// Runs of the same command before the faults stop.
const RUNS_WITH_FAULTS: usize = 3;

/// The name of the provider that has the faults.
const PROVIDER: &str = "fickle";

/// The name of the one without, which is tried after it.
const OTHER_PROVIDER: &str = "sound";

/// The rows of each table, and the sum of their hashes.
type Sums = BTreeMap<String, (u64, String)>;

/// The files of each table.
type Files = BTreeMap<String, Vec<PathBuf>>;

/// How long faults last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Asking again helps in the end.
    Passing,
    /// A question that fails once fails always.
    Lasting,
}

/// One schedule, and the command that meets it.
#[derive(Debug)]
struct Day {
    index: u64,
    kind: Kind,
    jobs: &'static str,
    is_full: bool,
    has_batches: bool,
    /// Whether there is another provider, without faults.
    has_other: bool,
    /// How many blocks below the head count as final.
    reorg_depth: u64,
    schedule: Schedule,
}

/// What has become of a day. Its place is kept until its rows are compared.
struct Ended {
    day: Day,
    errors: Vec<String>,
    /// Those of them that do not say what has failed, with what had.
    mute: Vec<String>,
    /// Whether only `--fresh` has helped.
    is_fresh: bool,
    fired: Vec<Fired>,
    files: Files,
    _place: Place,
}

/// The seed of the schedules and how many there are.
pub fn schedules(usual: u64) -> (u64, u64) {
    const LENGTH: &str = "NOZZLE_FAULT_SCHEDULES";
    (seed(LENGTH), asked(LENGTH, usual))
}

impl Day {
    fn new(seed: u64, index: u64) -> Self {
        let kind = if index % 5 == 4 { Kind::Lasting } else { Kind::Passing };
        // Level `full` sees what no other does.
        let is_full = index % 4 < 2;
        let has_batches = index % 8 < 4;
        let mut rates = match kind {
            Kind::Passing => passing(is_full, has_batches),
            Kind::Lasting => lasting(index / 5),
        };
        rates.retain(|_, rate| *rate > 0.0);
        let in_a_row = (kind == Kind::Passing).then_some(2);
        let has_other = match kind {
            // Two fifths, so that in the end each fault is met both with and without help.
            Kind::Lasting => index / 5 % 5 >= 3,
            Kind::Passing => index % 20 == 7,
        };
        Self {
            index,
            kind,
            jobs: if index.is_multiple_of(2) { "1" } else { "3" },
            is_full,
            has_batches,
            has_other,
            reorg_depth: if index.is_multiple_of(3) { 64 } else { 10 * BLOCKS },
            schedule: Schedule { seed: Rng::nth(seed, index).next_u64(), rates, in_a_row },
        }
    }

    /// Whether not even the first run may fail: the other provider has a good answer to everything.
    /// Only blocks of another chain may have been stored before anybody could tell.
    fn must_succeed(&self) -> bool {
        let has_chains = self.schedule.rates.contains_key(&Fault::OtherChain);
        self.has_other && self.kind == Kind::Lasting && !has_chains
    }

    /// A place where the provider of `mainnet` is at `url`.
    fn place(&self, url: &str) -> Place {
        let place = Place::configured(
            Db::Sqlite,
            &format!(
                "poll_interval_secs = 0.05\nwriter = {{ segment_flush_interval_secs = 1.0 }}\n\
                 chain = {{ reorg_depth = {} }}",
                self.reorg_depth
            ),
        );
        place.write("datasets/eth.json", r#"{"name":"eth","kind":"evm-rpc","network":"mainnet"}"#);
        self.provide(&place, PROVIDER, url);
        place
    }

    fn provide(&self, place: &Place, name: &str, url: &str) {
        let batches = if self.has_batches { format!("rpc_batch_size = {BATCH}\n") } else { String::new() };
        place.write(
            &format!("providers/{name}.toml"),
            &format!(
                "kind = \"evm-rpc\"\nnetwork = \"mainnet\"\nurl = \"{url}\"\ntimeout_secs = 2\n\
                 concurrent_request_limit = 8\n{batches}"
            ),
        );
    }

    fn args(&self) -> Vec<&'static str> {
        let verify = if self.is_full { "full" } else { "header" };
        vec!["dump", "--dataset", "eth", "--end-block", "499", "-j", self.jobs, "--verify", verify]
    }
}

/// Some of everything, so that a dump meets about seven faults and waits some five seconds for them.
fn passing(is_full: bool, has_batches: bool) -> BTreeMap<Fault, f64> {
    let rate = |fault| match fault {
        Fault::Delay => 0.002,
        Fault::Silence | Fault::Html => 0.0003,
        Fault::NullBlock | Fault::NullReceipts | Fault::ForeignReceipts => 0.001,
        Fault::MissingLog | Fault::ChangedAmount if is_full => 0.001,
        Fault::MissingLog | Fault::ChangedAmount => 0.0,
        Fault::DuplicatedAnswers | Fault::ReorderedAnswers if has_batches => 0.01,
        Fault::DuplicatedAnswers | Fault::ReorderedAnswers => 0.0,
        // There is one head and many blocks.
        Fault::LowerHead => 0.3,
        Fault::OtherChain => 0.005,
        _ => 0.0004,
    };
    Fault::ALL.map(|fault| (fault, rate(fault))).into()
}

/// A few questions to which there never is a good answer, by another fault each time.
fn lasting(turn: u64) -> BTreeMap<Fault, f64> {
    const FAULTS: [Fault; 12] = [
        Fault::Reset,
        Fault::TooManyRequests,
        Fault::RetryAfter,
        Fault::ServerError,
        Fault::LimitExceeded,
        Fault::Html,
        Fault::CutBody,
        Fault::CutJson,
        Fault::OtherChain,
        Fault::NullBlock,
        Fault::NullReceipts,
        Fault::ForeignReceipts,
    ];
    let fault = FAULTS[(turn % FAULTS.len() as u64) as usize];
    [(fault, if fault == Fault::OtherChain { 0.03 } else { 0.004 })].into()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_provider_answers_the_rows_are_right_or_an_error_says_what_failed() {
    let (seed, count) = schedules(40);
    let serve = |seed| {
        let recording = Recording::small_mainnet_like(BLOCKS, MOST_TRANSACTIONS, seed).preload().unwrap();
        let server = ReplayServer::start(recording, ReplayOptions::default()).unwrap();
        // What is final is for each schedule to say.
        server.set_finalized(None);
        server
    };
    let (node, other) = (serve(1), serve(2));
    let truth = undisturbed(&node).await;
    println!("undisturbed: {truth:?}");
    let mut counts: BTreeMap<Fault, u64> = BTreeMap::new();
    let (mut failed, mut fresh, mut mute) = ([0, 0], 0, vec![]);
    for first in (0..count).step_by(A_BATCH as usize) {
        let days = (first..count.min(first + A_BATCH)).map(|index| Day::new(seed, index));
        let ended: Vec<Ended> = stream::iter(days)
            .map(|day| live_through(day, node.url(), other.url()))
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        let files: Vec<(u64, &Files)> = ended.iter().map(|ended| (ended.day.index, &ended.files)).collect();
        for (ended, sums) in ended.iter().zip(sums_of(&files)) {
            assert_eq!(sums, truth, "other rows after {:?} with {:?}", ended.day, ended.fired);
            for fired in &ended.fired {
                *counts.entry(fired.fault).or_default() += 1;
            }
            failed[usize::from(ended.day.kind == Kind::Lasting)] += usize::from(!ended.errors.is_empty());
            fresh += usize::from(ended.is_fresh);
            mute.extend_from_slice(&ended.mute);
        }
    }
    println!("{count} schedules of seed {seed}: {counts:?}");
    let [passing, lasting] = failed;
    println!(
        "{passing} with passing and {lasting} with lasting faults ended with an error first; {fresh} needed --fresh"
    );
    assert!(mute.is_empty(), "errors that do not say what failed:\n{}", mute.join("\n"));
    let at_least = if count >= 1_000 { 50 } else { u64::from(count >= 40) };
    for fault in (0..8).flat_map(|index| Day::new(seed, index).schedule.rates.into_keys()) {
        let times = counts.get(&fault).copied().unwrap_or(0);
        assert!(times >= at_least, "{fault:?} has happened {times} times in {count} schedules");
    }
}

/// The sums of the chain as the node has it.
async fn undisturbed(node: &ReplayServer) -> Sums {
    let day = Day::new(0, 0);
    let place = day.place(node.url());
    place.ok(&day.args());
    let files = files_of(&place).await;
    let sums = sums_of(&[(0, &files)]).remove(0);
    assert_eq!(sums["blocks"].0, BLOCKS);
    assert!(sums.values().all(|(rows, _)| *rows >= BLOCKS), "{sums:?}");
    sums
}

/// Runs the command until it succeeds; the faults stop before it can go on for ever.
async fn live_through(day: Day, node: &str, other: &str) -> Ended {
    let started = Instant::now();
    let server = FaultServer::start(node, other, day.schedule.clone()).unwrap();
    let place = day.place(server.url());
    if day.has_other {
        day.provide(&place, OTHER_PROVIDER, node);
    }
    let runs_with_faults = if day.kind == Kind::Lasting { 1 } else { RUNS_WITH_FAULTS };
    let (mut errors, mut mute, mut is_fresh) = (vec![], vec![], false);
    loop {
        let is_healed = errors.len() >= runs_with_faults;
        if is_healed {
            server.heal();
        }
        let mut args = day.args();
        args.extend(is_fresh.then_some("--fresh"));
        let before = server.fired().len();
        let said = run(&place, &args).await;
        assert!(!said.stderr.contains("panicked"), "{day:?}: {}", said.stderr);
        if said.code == Some(0) {
            break;
        }
        assert_eq!(said.code, Some(1), "{day:?}: {}", said.stderr);
        let words = last_words(&said).to_owned();
        assert!(!day.must_succeed(), "{day:?} failed beside a sound provider: {words}");
        if is_healed {
            // Only blocks of another chain that were stored as final are left to the user.
            assert!(!is_fresh && words.contains("--fresh"), "{day:?} failed without faults: {words}");
            is_fresh = true;
        } else if !says_what_failed(&words, &server.fired(), before) {
            mute.push(format!("{words}\nafter {:?}", &server.fired()[before..]));
        }
        errors.push(words);
    }
    let fired = server.fired();
    let (index, kind, seconds) = (day.index, day.kind, started.elapsed().as_secs_f64());
    let providers = if day.has_other { " with another provider" } else { "" };
    println!(
        "{index} {kind:?}{providers} -j {}: {seconds:.1} s, {} faults, errors {errors:?}",
        day.jobs,
        fired.len()
    );
    let files = files_of(&place).await;
    Ended { day, errors, mute, is_fresh, fired, files, _place: place }
}

/// A run of the program, which must end in time.
async fn run(place: &Place, args: &[&str]) -> Said {
    let mut command = tokio::process::Command::from(place.command(args));
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    Said::of(output.unwrap_or_else(|_| panic!("{args:?} has not ended within {PATIENCE:?}")).unwrap())
}

/// What the program said last, its error.
fn last_words(said: &Said) -> &str {
    said.stderr.rfind("error: ").map_or("", |at| said.stderr[at..].trim_end())
}

/// Whether an error names the provider, the block and the cause of one of the faults that happened
/// in this run, which began after the first `earlier` ones. What was stored of another chain may be found
/// out in any later one.
fn says_what_failed(words: &str, fired: &[Fired], earlier: usize) -> bool {
    // A batch fails as a whole: then its first block is named, and how many there are.
    let before = if words.contains("(in a batch of ") { BATCH - 1 } else { 0 };
    let names = |block: u64| (block.saturating_sub(before)..=block).any(|n| words.contains(&n.to_string()));
    let names_it = |fired: &Fired| {
        let names_block = fired.asked.block.is_none_or(names);
        names_block && causes(fired.fault).iter().any(|cause| words.contains(cause))
    };
    let (earlier, now) = fired.split_at(earlier);
    let mut stored = earlier.iter().filter(|fired| fired.fault == Fault::OtherChain);
    words.contains(PROVIDER) && (now.iter().any(names_it) || stored.any(names_it))
}

/// The words of which an error has one when such a fault is its cause.
fn causes(fault: Fault) -> &'static [&'static str] {
    match fault {
        Fault::Delay | Fault::LowerHead => &[],
        Fault::Silence => &["no answer within"],
        Fault::Reset | Fault::CutBody => &["broke"],
        Fault::TooManyRequests | Fault::RetryAfter => &["429"],
        Fault::ServerError => &["HTTP 50"],
        Fault::LimitExceeded => &["-32005"],
        Fault::Html | Fault::CutJson => &["JSON"],
        Fault::NullBlock => &["does not have the block"],
        Fault::NullReceipts => &["does not have the receipts"],
        Fault::ForeignReceipts => &["receipts"],
        Fault::MissingLog => &["receipts root", "bloom"],
        Fault::ChangedAmount => &["root", "hash"],
        Fault::DuplicatedAnswers | Fault::ReorderedAnswers => &["answer"],
        Fault::OtherChain => &["does not follow", "another chain", "contradicts"],
    }
}

/// The files of every table, after the segments were found whole.
async fn files_of(place: &Place) -> Files {
    let stored = place.stored("eth").await;
    stored.assert_sound(0, BLOCKS - 1);
    let files = |(table, folder, segments): (String, PathBuf, Vec<nozzle_metadata::Segment>)| {
        let files = segments.into_iter().filter_map(|segment| segment.file);
        (table, files.map(|file| folder.join(&file.name)).collect())
    };
    stored.tables.into_iter().map(files).collect()
}

/// The sums of the rows in each set of files, read by code that shares nothing with the program.
fn sums_of(sets: &[(u64, &Files)]) -> Vec<Sums> {
    #[derive(Deserialize)]
    struct Line {
        name: String,
        sums: Sums,
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("files.json");
    let named: serde_json::Map<String, serde_json::Value> =
        sets.iter().map(|(name, files)| (format!("{name:04}"), json!(files))).collect();
    std::fs::write(&path, serde_json::Value::Object(named).to_string()).unwrap();
    let printed = python(include_str!("faults.py"), &[path.to_str().unwrap()]);
    let lines = printed.lines().map(|line| serde_json::from_str::<Line>(line).unwrap());
    let mut sums: BTreeMap<String, Sums> = lines.map(|line| (line.name, line.sums)).collect();
    sets.iter().map(|(name, _)| sums.remove(&format!("{name:04}")).unwrap()).collect()
}

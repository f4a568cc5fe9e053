//! Everything that can happen to a dataset, one random step after the other, while somebody asks all the
//! time: at every moment a query sees a linked chain without a block twice, and in the end nothing is missing
//! and nothing is left behind.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
    rng::Rng,
};

use crate::{
    compaction::{files_below, live_files},
    concurrency::{QUESTIONS, assert_line_is_undoubled, assert_line_is_whole},
    harness::{Db, Place, Running, asked, seed, until},
    reorgs::assert_equals_node,
    servers::Server,
};

/// Files are collected soon; while somebody follows, all is kept in order in the background.
const CONFIG: &str = "poll_interval_secs = 0.05\n\
    writer = { segment_flush_interval_secs = 0.1 }\n\
    compaction = { compactor_interval_secs = 0.3, collector_interval_secs = 0.3, file_lock_duration_secs = 2 }";

/// Grows beyond it: what is older is final for a chain whose node does not say.
const FINAL_DEPTH: u64 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Extend,
    Reorg,
    DeepReorg,
    Dump,
    KilledDump,
    Follow,
    Compact,
    KilledCompact,
    Collect,
    KilledCollect,
    KilledServer,
}

/// How often each happens, of a hundred.
const WEIGHTS: [(Step, u64); 11] = [
    (Step::Extend, 27),
    (Step::Reorg, 12),
    (Step::DeepReorg, 3),
    (Step::Dump, 20),
    (Step::KilledDump, 3),
    (Step::Follow, 8),
    (Step::Compact, 12),
    (Step::KilledCompact, 4),
    (Step::Collect, 5),
    (Step::KilledCollect, 3),
    (Step::KilledServer, 3),
];

/// Asks all the time, whatever else happens.
struct Asker {
    asking: tokio::task::JoinHandle<()>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Where the server listens now.
    url: Mutex<String>,
    /// Whether blocks may be missing now: a dump with several jobs is under way, or was killed.
    may_have_hole: AtomicBool,
    answers: AtomicU64,
    expired: AtomicU64,
}

impl Asker {
    fn start(url: &str) -> Self {
        let shared = Arc::new(Shared {
            url: Mutex::new(url.to_owned()),
            may_have_hole: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            expired: AtomicU64::new(0),
        });
        Self { asking: tokio::spawn(Arc::clone(&shared).ask_for_ever()), shared }
    }
}

impl Shared {
    async fn ask_for_ever(self: Arc<Self>) {
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        for asked in 0.. {
            let sql = QUESTIONS[asked % QUESTIONS.len()];
            let url = self.url.lock().unwrap().clone();
            let had_hole = self.may_have_hole.load(SeqCst);
            // The server is killed now and then.
            let Ok(answer) = client.post(url).body(sql).send().await else { continue };
            let status = answer.status();
            let Ok(text) = answer.text().await else { continue };
            match status.as_u16() {
                200 if had_hole || self.may_have_hole.load(SeqCst) => assert_line_is_undoubled(sql, &text),
                200 => assert_line_is_whole(sql, &text),
                // The machine was so busy that a query outlived its files; it says so.
                410 => drop(self.expired.fetch_add(1, SeqCst)),
                other => panic!("{other}: {text}"),
            }
            self.answers.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

struct Soak {
    anvil: Anvil,
    chain: ChainBuilder,
    place: Place,
    server: Server,
    following: Option<Running>,
    random: Rng,
    asker: Asker,
    /// How often each step has happened.
    counts: BTreeMap<Step, u64>,
}

impl Soak {
    async fn start(seed: u64) -> Self {
        let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
        let mut chain = ChainBuilder::new(&anvil, seed).await.unwrap();
        chain.extend(FINAL_DEPTH + 20).await.unwrap();
        let place = Place::configured(Db::Sqlite, CONFIG);
        place.define("anvil", "anvil", anvil.url());
        place.ok(&["dump", "--dataset", "anvil"]);
        let server = Server::start(&place, &["--jsonl-server"]);
        let asker = Asker::start(server.jsonl());
        let (random, counts) = (Rng::new(seed), BTreeMap::new());
        Self { anvil, chain, place, server, following: None, random, asker, counts }
    }

    /// Whether answers may lack blocks from now on.
    fn set_hole(&self, may_have_hole: bool) {
        self.asker.shared.may_have_hole.store(may_have_hole, SeqCst);
    }

    fn choose(&mut self) -> Step {
        let mut point = self.random.below(WEIGHTS.iter().map(|(_, weight)| weight).sum());
        for (step, weight) in WEIGHTS {
            match point.checked_sub(weight) {
                None => return step,
                Some(rest) => point = rest,
            }
        }
        unreachable!("the point lies below the sum")
    }

    async fn step(&mut self) {
        let step = self.choose();
        match step {
            Step::Extend => {
                let blocks = 1 + self.random.below(12);
                self.chain.extend(blocks).await.unwrap();
            }
            Step::Reorg => self.anvil.reorg(1 + self.random.below(6)).await.unwrap(),
            Step::DeepReorg => self.anvil.reorg(20 + self.random.below(30)).await.unwrap(),
            Step::Dump => {
                self.stop_following();
                let jobs = (1 + self.random.below(3)).to_string();
                self.set_hole(true);
                self.place.ok(&["dump", "--dataset", "anvil", "-j", &jobs]);
                self.set_hole(false);
            }
            Step::KilledDump => {
                self.stop_following();
                self.chain.extend(30).await.unwrap();
                // Whoever follows goes on above the blocks of the dead one, until its lease is over.
                self.set_hole(true);
                self.kill(&["dump", "--dataset", "anvil", "-j", "2"], 900).await;
            }
            Step::Follow if self.following.is_some() => self.stop_following(),
            Step::Follow => {
                self.following = Some(self.place.start(&["dump", "--dataset", "anvil", "--follow"]));
            }
            Step::Compact => drop(self.place.ok(&["compact"])),
            Step::KilledCompact => self.kill(&["compact"], 250).await,
            Step::Collect => drop(self.place.ok(&["gc"])),
            Step::KilledCollect => self.kill(&["gc"], 120).await,
            Step::KilledServer => {
                self.server = Server::start(&self.place, &["--jsonl-server"]);
                *self.asker.shared.url.lock().unwrap() = self.server.jsonl().to_owned();
            }
        }
        *self.counts.entry(step).or_default() += 1;
        assert!(!self.asker.asking.is_finished(), "a question had a wrong answer: see above");
    }

    /// Ctrl-C for whoever follows.
    fn stop_following(&mut self) {
        if let Some(mut following) = self.following.take() {
            following.signal("INT");
            let said = following.wait();
            // One that was told before it listened has no code.
            assert!(matches!(said.code, Some(0) | None), "{:?}: {}", said.code, said.stderr);
        }
    }

    /// Starts a command and kills it at a random moment.
    async fn kill(&mut self, args: &[&str], within_ms: u64) {
        let command = self.place.start(args);
        tokio::time::sleep(Duration::from_millis(self.random.below(within_ms))).await;
        command.kill();
    }

    /// Brings all in order, and compares it with the node and the disk.
    async fn settle(&mut self) {
        self.stop_following();
        let place = &self.place;
        place.ok(&["dump", "--dataset", "anvil"]);
        self.set_hole(false);
        // A killed writer is waited for, a killed compaction's blocks are free after five seconds.
        until("nothing to be left", async || {
            let has_more = place.ok(&["compact"]).stdout != "nothing to compact\n";
            place.ok(&["gc"]);
            let live = live_files(&place.stored("anvil").await);
            (!has_more && files_below(&place.path("data/anvil")) == live).then_some(())
        })
        .await;
        assert_equals_node(place, &self.anvil).await;
        place.ok(&["check", "--dataset", "anvil"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_of_random_steps_never_shows_a_broken_chain_and_leaves_nothing() {
    const LENGTH: &str = "NOZZLE_SOAK_STEPS";
    let (seed, steps) = (seed(LENGTH), asked(LENGTH, 200));
    println!("{steps} steps");
    let started = Instant::now();
    let mut soak = Soak::start(seed).await;
    let mut done = 0;
    // Further where one kind of step has not come yet.
    while done < steps || soak.counts.len() < WEIGHTS.len() {
        soak.step().await;
        done += 1;
        if done % 500 == 0 {
            soak.settle().await;
        }
    }
    soak.settle().await;
    let (head, _) = soak.anvil.head().await.unwrap();
    let shared = &soak.asker.shared;
    let (answers, expired) = (shared.answers.load(SeqCst), shared.expired.load(SeqCst));
    soak.asker.asking.abort();
    let (took, counts) = (started.elapsed(), &soak.counts);
    println!("{done} steps, {head} blocks, {answers} answers, {expired} expired, {took:?}: {counts:?}");
    assert!(answers > done / 2 && expired * 2 < answers, "{answers} answers, {expired} of them expired");
}

//! Everything that can happen to a dataset, one random step after the other: at every moment a query sees a
//! linked chain without a block twice, and in the end nothing is missing and nothing is left behind.

use std::{
    collections::BTreeMap,
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
    harness::{Db, Place, Running, until},
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

struct Soak {
    anvil: Anvil,
    chain: ChainBuilder,
    place: Place,
    server: Server,
    following: Option<Running>,
    random: Rng,
    /// Whether a dump was killed and none has come to its end since.
    may_have_hole: bool,
    /// How often each step has happened.
    counts: BTreeMap<Step, u64>,
    answers: u64,
    expired: u64,
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
        let (random, counts) = (Rng::new(seed), BTreeMap::new());
        let (following, may_have_hole) = (None, false);
        Self { anvil, chain, place, server, following, random, may_have_hole, counts, answers: 0, expired: 0 }
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
                self.place.ok(&["dump", "--dataset", "anvil", "-j", &jobs]);
                self.may_have_hole = false;
            }
            Step::KilledDump => {
                self.stop_following();
                self.chain.extend(30).await.unwrap();
                self.kill(&["dump", "--dataset", "anvil", "-j", "2"], 900).await;
                // Whoever follows goes on above the blocks of the dead one, until its lease is over.
                self.may_have_hole = true;
            }
            Step::Follow if self.following.is_some() => self.stop_following(),
            Step::Follow => {
                self.following = Some(self.place.start(&["dump", "--dataset", "anvil", "--follow"]));
            }
            Step::Compact => drop(self.place.ok(&["compact"])),
            Step::KilledCompact => self.kill(&["compact"], 250).await,
            Step::Collect => drop(self.place.ok(&["gc"])),
            Step::KilledCollect => self.kill(&["gc"], 120).await,
            Step::KilledServer => self.server = Server::start(&self.place, &["--jsonl-server"]),
        }
        *self.counts.entry(step).or_default() += 1;
        self.ask();
    }

    /// Ctrl-C for whoever follows.
    fn stop_following(&mut self) {
        if let Some(mut following) = self.following.take() {
            following.signal("INT");
            let said = following.wait();
            assert_eq!(said.code, Some(0), "{}", said.stderr);
        }
    }

    /// Starts a command and kills it at a random moment.
    async fn kill(&mut self, args: &[&str], within_ms: u64) {
        let command = self.place.start(args);
        tokio::time::sleep(Duration::from_millis(self.random.below(within_ms))).await;
        command.kill();
    }

    fn ask(&mut self) {
        let sql = *self.random.pick(&QUESTIONS);
        let (status, answer) = self.server.post(sql);
        if status == 410 {
            // The machine was so busy that a query outlived its files; it says so.
            self.expired += 1;
            return;
        }
        assert_eq!(status, 200, "{answer}");
        if self.may_have_hole {
            assert_line_is_undoubled(sql, &answer);
        } else {
            assert_line_is_whole(sql, &answer);
        }
        self.answers += 1;
    }

    /// Brings all in order, and compares it with the node and the disk.
    async fn settle(&mut self) {
        self.stop_following();
        let place = &self.place;
        place.ok(&["dump", "--dataset", "anvil"]);
        self.may_have_hole = false;
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
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("NOZZLE_SEED").unwrap_or(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    let steps = number("NOZZLE_SOAK_STEPS").unwrap_or(200);
    println!("seed {seed}, {steps} steps");
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
    println!(
        "{done} steps, {head} blocks, {} answers, {} expired, {:?}: {:?}",
        soak.answers,
        soak.expired,
        started.elapsed(),
        soak.counts
    );
    assert!(soak.answers > done * 9 / 10, "{} of {done} were answered", soak.answers);
}

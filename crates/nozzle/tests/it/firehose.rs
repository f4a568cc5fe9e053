//! Datasets of the kind `firehose`, from an endpoint that forks, breaks off and repeats itself.

use futures::{StreamExt, stream};
use nozzle_testkit::{
    firehose::{FirehoseServer, Options, made, made_on},
    rng::Rng,
};

use crate::{
    faults,
    harness::{Db, Place, until, until_stored},
};

/// A place with the dataset `fh` and a provider that has a token and a key.
fn place(server: &FirehoseServer) -> Place {
    place_on(Db::Sqlite, server)
}

fn place_on(db: Db, server: &FirehoseServer) -> Place {
    let place = Place::configured(db, "writer = { segment_flush_interval_secs = 0.3 }");
    place.write(
        "datasets/fh.json",
        r#"{"name":"fh","kind":"firehose","network":"chain-1337","verify":"links"}"#,
    );
    let keys = format!(
        "kind = \"firehose\"\nnetwork = \"chain-1337\"\nurl = \"{}\"\ntoken = \"tok-en\"\napi_key = \"a-key\"\n",
        server.url()
    );
    place.write("providers/endpoint.toml", &keys);
    place
}

fn options(seed: u64) -> Options {
    Options { token: Some("tok-en".into()), api_key: Some("a-key".into()), seed, ..Options::default() }
}

fn assert_chain(place: &Place, last: u64, fork_from: u64) {
    for table in ["blocks", "transactions", "logs", "calls"] {
        assert_eq!(place.number(&format!("SELECT count(*) FROM fh.{table}")), last + 1, "{table}");
    }
    let forked = "SELECT count(*) FROM fh.logs WHERE encode(data, 'hex') = '01'";
    assert_eq!(place.number(forked), (last + 1).saturating_sub(fork_from));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_ends_whole_whatever_the_endpoint_does() {
    let options = Options { disconnects: 3, repeats: 10, ..options(7) };
    let server = FirehoseServer::start(made(0, 300, 0), options).await.unwrap();
    let place = place(&server);
    place.ok(&["dump", "--dataset", "fh", "--end-block", "120"]);
    place.stored("fh").await.assert_sound(0, 120);
    place.ok(&["dump", "--dataset", "fh", "--end-block", "300", "-j", "2"]);
    place.stored("fh").await.assert_sound(0, 300);
    assert_chain(&place, 300, u64::MAX);
    assert_eq!(place.number("SELECT count(*) FROM fh.calls WHERE call_type = 1 AND \"index\" = 1"), 301);
    place.ok(&["check", "--dataset", "fh", "--verify", "links"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_replaces_what_it_has_undone() {
    let server = FirehoseServer::start(made(0, 50, 0), options(1)).await.unwrap();
    let place = place(&server);
    place.ok(&["dump", "--dataset", "fh"]);
    assert_chain(&place, 50, u64::MAX);
    server.push(made(45, 60, 1));
    place.ok(&["dump", "--dataset", "fh"]);
    place.stored("fh").await.assert_sound(0, 60);
    assert_chain(&place, 60, 45);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_follows_sees_forks_and_survives_a_kill() {
    let server = FirehoseServer::start(made(0, 30, 0), options(2)).await.unwrap();
    let place = place(&server);
    let follow = ["dump", "--dataset", "fh", "--follow"];
    let mut running = place.start(&follow);
    until_stored(place.metadata_when_there().await.as_ref(), "fh", 30).await;
    server.push(made(28, 40, 1));
    until_stored(place.metadata().await.as_ref(), "fh", 40).await;
    running.kill();
    server.push(made_on(41, 45, 1, 1));
    running = place.start(&follow);
    until_stored(place.metadata().await.as_ref(), "fh", 45).await;
    running.signal("TERM");
    running.wait();
    place.ok(&["dump", "--dataset", "fh"]);
    place.stored("fh").await.assert_sound(0, 45);
    assert_eq!(place.number("SELECT count(*) FROM fh.blocks"), 46);
}

/// The numbers of the blocks behind which streams from `first` on were asked for, since the first `before` streams.
fn asked_behind(server: &FirehoseServer, before: usize, first: i64) -> Vec<Option<u64>> {
    let asked = server.requests().split_off(before);
    let from = asked.iter().filter(|request| request.start_block_num == first);
    from.map(|request| server.place_of(&request.cursor)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_process_goes_on_from_the_cursor_that_is_stored() {
    for db in [Db::Sqlite, Db::Postgres] {
        let server = FirehoseServer::start(made(0, 200, 0), options(4)).await.unwrap();
        let place = place_on(db, &server);
        let dump_from = |first: i64, end: &str| {
            let before = server.requests().len();
            let said = place.ok(&["dump", "--dataset", "fh", "--end-block", end]);
            (asked_behind(&server, before, first), said.stderr)
        };
        assert_eq!(dump_from(0, "40").0, [None]);
        assert_eq!(dump_from(41, "80").0, [Some(40)]);
        // Merged, they have the one of the last.
        place.ok(&["compact", "--dataset", "fh"]);
        assert_eq!(place.stored("fh").await.spans().len(), 1);
        assert_eq!(dump_from(81, "100").0, [Some(80)]);
        // The files tell it to a database that is made anew.
        if db == Db::Sqlite {
            for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
                std::fs::remove_file(place.path(name)).ok();
            }
            place.ok(&["restore", "--dataset", "fh"]);
            assert_eq!(dump_from(101, "120").0, [Some(100)]);
        }
        // One that the endpoint does not know is left alone.
        server.forget_cursors();
        let (asked, log) = dump_from(if db == Db::Sqlite { 121 } else { 101 }, "200");
        assert_eq!(asked, [None, None]);
        assert!(log.contains("could not go on from its cursor") && log.contains("invalid cursor"), "{log}");
        place.stored("fh").await.assert_sound(0, 200);
        assert_chain(&place, 200, u64::MAX);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_undone_while_nobody_looked_is_told_from_the_cursor() {
    let server = FirehoseServer::start(made(0, 50, 0), options(5)).await.unwrap();
    let place = place(&server);
    let mut running = place.start(&["dump", "--dataset", "fh", "--follow"]);
    until_stored(place.metadata_when_there().await.as_ref(), "fh", 50).await;
    running.kill();
    // Behind the head that the next process sees first; the fork comes when it goes on.
    server.push(made_on(51, 53, 0, 0));
    server.push_at_cursor(made(46, 70, 1));
    let before = server.requests().len();
    running = place.start(&["dump", "--dataset", "fh", "--follow"]);
    until_stored(place.metadata().await.as_ref(), "fh", 70).await;
    running.signal("TERM");
    assert_eq!(running.wait().code, Some(0));
    assert_eq!(asked_behind(&server, before, 51).first(), Some(&Some(50)));
    // The stream of the newest blocks has never had it.
    assert!(server.undone().contains(&50), "{:?}", server.undone());
    place.stored("fh").await.assert_sound(0, 70);
    assert_chain(&place, 70, 46);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_chain_and_a_stranger_are_refused() {
    let server = FirehoseServer::start(made(0, 5, 0), Options { chain_name: "mainnet".into(), ..options(3) })
        .await
        .unwrap();
    let place = place(&server);
    place.write("datasets/fh.json", r#"{"name":"fh","kind":"firehose","network":"sepolia"}"#);
    let keys = |token: &str| {
        let url = server.url();
        format!(
            "kind = \"firehose\"\nnetwork = \"sepolia\"\nurl = \"{url}\"\ntoken = \"{token}\"\napi_key = \"a-key\"\n"
        )
    };
    place.write("providers/endpoint.toml", &keys("tok-en"));
    let said = place.run(&["dump", "--dataset", "fh"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("it serves `mainnet`, and not `sepolia`"), "{}", said.stderr);
    place.write("providers/endpoint.toml", &keys("wro-ng"));
    let said = place.run(&["dump", "--dataset", "fh"]);
    assert!(said.stderr.contains("check its `token`") && !said.stderr.contains("wro-ng"), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_a_name_that_says_nothing_is_told() {
    let server = FirehoseServer::start(made(0, 5, 0), Options { chain_name: "foo".into(), ..options(3) })
        .await
        .unwrap();
    let place = place(&server);
    let words = "it calls its chain `foo`, a name that cannot be compared: see that it is `chain-1337`";
    let said = place.ok(&["dump", "--dataset", "fh", "-j", "2"]).stderr;
    assert_eq!(said.matches(words).count(), 1, "{said}");
    let said = place.ok(&["doctor"]).stdout;
    assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").contains(words), "{said}");
}

#[test]
fn a_manifest_of_the_kind_is_generated() {
    let place = Place::empty();
    let args = ["generate-manifest", "--kind", "firehose", "--network", "mainnet", "--name", "fh"];
    let manifest: serde_json::Value = serde_json::from_str(&place.ok(&args).stdout).unwrap();
    let tables: Vec<_> = manifest["schema"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(tables, ["blocks", "calls", "logs", "transactions", "withdrawals"]);
}

/// Disconnects, messages that come again, late or never, blocks that are cut off, forks, kills: whatever a dump
/// makes of it, it is the chain, or an error that names the endpoint; and the chain it is once the endpoint is calm.
#[tokio::test(flavor = "multi_thread")]
async fn schedules_of_faults_forks_and_kills_end_on_the_chain() {
    let (seed, count) = faults::schedules(4);
    // Each on a thread of its own: most of the time it waits for the program.
    let on_thread = |index| {
        tokio::task::spawn_blocking(move || tokio::runtime::Handle::current().block_on(day(seed, index)))
    };
    let days = stream::iter(0..count).map(on_thread).buffer_unordered(faults::AT_A_TIME);
    days.for_each(|ended| async { ended.unwrap() }).await;
}

/// Why a dump from such an endpoint may fail.
const CAUSES: [&str; 6] = [
    "sent a bad block",
    "does not have the block",
    "does not follow the block before it",
    "going away",
    "the stream has ended",
    "the stream of the newest blocks has ended",
];

/// The hashes of the blocks that are stored.
fn hashes(place: &Place) -> Vec<String> {
    let rows = place.query("SELECT hash FROM fh.blocks ORDER BY block_num");
    rows.iter().map(|row| row["hash"].as_str().unwrap()[2..].to_owned()).collect()
}

/// Those of a chain with blocks of these forks.
fn hashes_of(forks: &[u8]) -> Vec<String> {
    forks.iter().zip(0..).map(|(fork, number)| made(number, number, *fork)[0].id.clone()).collect()
}

async fn day(seed: u64, index: u64) {
    let mut rng = Rng::nth(seed, index);
    let faults =
        Options { disconnects: 2, repeats: 8, late: 2, losses: 1, damages: 1, ..options(rng.next_u64()) };
    let server = FirehoseServer::start(made(0, 60, 0), faults).await.unwrap();
    let place = place(&server);
    let jobs = if index.is_multiple_of(2) { "1" } else { "3" };
    let dump = ["dump", "--dataset", "fh", "-j", jobs];
    let mut forks = vec![0_u8; 61];
    for fork in 1..=5 {
        if fork % 3 == 1 {
            let until_sent = server.sent() + rng.below(80);
            let mut running = place.start(&dump);
            until("the moment to kill it", async || {
                (server.sent() >= until_sent || !running.is_running()).then_some(())
            })
            .await;
            running.kill();
        } else {
            let said = place.run(&dump);
            if said.code == Some(0) {
                let stored = hashes(&place);
                let is_of_chain =
                    stored.iter().zip(hashes_of(&forks)).all(|(found, expected)| *found == expected);
                assert!(is_of_chain, "seed {seed}, schedule {index}: {stored:?}, and not of {forks:?}");
            } else {
                // Not what was logged before it, such as that something is asked again.
                let (_, error) = said.stderr.rsplit_once("error: dumping `fh` failed").unwrap_or_default();
                let is_told =
                    error.contains("`endpoint`") && CAUSES.iter().any(|cause| error.contains(cause));
                assert!(is_told, "seed {seed}, schedule {index}: {:?} {}", said.code, said.stderr);
            }
        }
        let first = forks.len() - rng.below(6) as usize;
        let end = first + 3 + rng.below(10) as usize;
        server.push(made_on(first as u64, end as u64, fork, forks[first - 1]));
        forks.truncate(first);
        forks.resize(end + 1, fork);
    }
    server.calm();
    place.ok(&dump);
    let last = forks.len() as u64 - 1;
    place.stored("fh").await.assert_sound(0, last);
    assert_eq!(hashes(&place), hashes_of(&forks), "seed {seed}, schedule {index}");
    // Each block has one row in each of the other tables, with what its fork has.
    let of_fork = "SELECT encode(l.data, 'hex') AS fork FROM fh.logs l JOIN fh.calls c USING (tx_hash) \
                   JOIN fh.transactions t USING (tx_hash) ORDER BY l.block_num";
    let found: Vec<_> =
        place.query(of_fork).iter().map(|row| row["fork"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<_> = forks.iter().map(|fork| format!("{fork:02x}")).collect();
    assert_eq!(found, expected, "seed {seed}, schedule {index}");
}

//! Servers and workers as processes: what happens to jobs when workers, wires and databases fail, how
//! work is shared, and what a person sees of it.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use nozzle_testkit::{
    host::Host,
    postgres::{self, Postgres},
    replay::{Recording, ReplayServer},
    rng::Rng,
    store::StoreServer,
    tcp::TcpProxy,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cluster::{Api, Cluster, FLUSH, NETWORK, Worker, assert_equal},
    harness::{Db, Place, asked, gate, seed, synthetic, until, until_stored},
    servers::Server,
};

/// Others have the tasks of a worker that is gone after a few seconds, on a machine with much else to do after more.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);

/// How late a node answers so that a job is not over before something has happened to it: with [`BLOCKS`] it takes
/// some ten seconds.
const LATE: Duration = Duration::from_millis(300);

/// How late it answers after that.
const SOON: Duration = Duration::from_millis(20);

/// A node of so many blocks, each answer late.
fn node(blocks: u64, delay_ms: u64) -> ReplayServer {
    synthetic(Recording::synthetic(blocks, 3, 2, 61), delay_ms)
}

/// The dataset `truth`, dumped from a node that nobody disturbs.
fn dump_truth(place: &Place, blocks: u64) {
    let quick = node(blocks, 0);
    let folder = place.path("truth");
    std::fs::create_dir(&folder).unwrap();
    let provider = format!("kind = \"evm-rpc\"\nnetwork = \"{NETWORK}\"\nurl = \"{}\"\n", quick.url());
    place.write("truth/providers/quick.toml", &provider);
    let manifest = format!(r#"{{"name":"truth","kind":"evm-rpc","network":"{NETWORK}"}}"#);
    place.write("truth/datasets/truth.json", &manifest);
    let said = place
        .command(&["dump", "--dataset", "truth"])
        .env("NOZZLE_CONFIG_PROVIDERS_DIR", folder.join("providers"))
        .env("NOZZLE_CONFIG_DATASET_DEFS_DIR", folder.join("datasets"))
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    // The provider is gone with its node.
    postgres::ask(place.postgres(), "DELETE FROM providers").unwrap();
}

const BLOCKS: u64 = 1024;

/// Three workers, the truth, and a slow node.
async fn three_workers() -> (Cluster, ReplayServer) {
    let place = Place::configured(Db::Postgres, FLUSH);
    place.ok(&["migrate"]);
    dump_truth(&place, BLOCKS);
    let node = node(BLOCKS, 0);
    let cluster = Cluster::on(place, &["worker-0", "worker-1", "worker-2"], &["--max-tasks", "2"]);
    cluster.api.add_provider("node", node.url()).await;
    (cluster, node)
}

async fn until_all_at_work(cluster: &Cluster, workers: &[&Worker]) {
    until("all workers to be at work", async || {
        workers.iter().all(|worker| !cluster.held_by(&worker.name).is_empty()).then_some(())
    })
    .await;
}

/// Waits for a random moment, and gives a random worker that has a task then.
async fn victim(cluster: &Cluster, random: &mut Rng) -> usize {
    until_all_at_work(cluster, &cluster.workers.iter().collect::<Vec<_>>()).await;
    tokio::time::sleep(Duration::from_millis(random.below(1_500))).await;
    let at_work = |worker: &usize| !cluster.held_by(&cluster.workers[*worker].name).is_empty();
    let candidates: Vec<usize> = (0..cluster.workers.len()).filter(at_work).collect();
    assert!(!candidates.is_empty(), "the job was over before anything happened to it");
    *random.pick(&candidates)
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_of_a_killed_worker_loses_and_doubles_nothing() {
    let mut random = Rng::new(seed("NOZZLE_FAILOVER_KILLS"));
    let (mut cluster, node) = three_workers().await;
    let (runs, mut had_tasks) = (asked("NOZZLE_FAILOVER_KILLS", 3), 0);
    for run in 0..runs {
        let dataset = format!("killed_{run}");
        cluster.api.register(&dataset).await;
        node.set_delay(LATE);
        let job = cluster.api.dump(&dataset, json!({"end_block": BLOCKS - 1})).await;
        let index = victim(&cluster, &mut random).await;
        let name = cluster.workers[index].name.clone();
        cluster.workers[index].kill();
        node.set_delay(SOON);
        let held = cluster.held_by(&name);
        had_tasks += u64::from(!held.is_empty());
        let taken = cluster.until_taken(&held).await;
        println!("run {run}: {name} was killed with {} tasks, which others had after {taken:?}", held.len());
        assert!(taken < TAKEN_WITHIN, "{taken:?}");
        // It waits until its former process has been silent for long enough.
        cluster.workers[index] = Worker::start(&cluster.place, &name, &["--max-tasks", "2"]);
        cluster.api.until_job(job, "COMPLETED").await;
        assert_equal(&cluster.place, &dataset, "truth", BLOCKS);
        cluster.place.stored(&dataset).await.assert_sound(0, BLOCKS - 1);
    }
    assert!(had_tasks * 2 >= runs, "only {had_tasks} of {runs} workers had a task when they were killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_of_a_paused_worker_refuses_its_late_commit_and_it_goes_on() {
    let mut random = Rng::new(seed("NOZZLE_FAILOVER_PAUSES"));
    let pause = Duration::from_secs(asked("NOZZLE_FAILOVER_PAUSE_SECS", 9));
    let (mut cluster, node) = three_workers().await;
    for run in 0..asked("NOZZLE_FAILOVER_PAUSES", 1) {
        let (dataset, next) = (format!("paused_{run}"), format!("next_{run}"));
        cluster.api.register(&dataset).await;
        cluster.api.register(&next).await;
        node.set_delay(LATE);
        let job = cluster.api.dump(&dataset, json!({"end_block": BLOCKS - 1})).await;
        // One that has just come to the end of its tasks would show nothing.
        let (paused, held, stopped) = loop {
            let index = victim(&cluster, &mut random).await;
            cluster.workers[index].signal("STOP");
            let stopped = Instant::now();
            let held = cluster.held_by(&cluster.workers[index].name);
            if !held.is_empty() {
                break (cluster.workers.remove(index), held, stopped);
            }
            cluster.workers[index].signal("CONT");
        };
        node.set_delay(SOON);
        let taken = cluster.until_taken(&held).await;
        println!(
            "run {run}: {} was paused with {} tasks, which others had after {taken:?}",
            paused.name,
            held.len()
        );
        assert!(taken < TAKEN_WITHIN, "{taken:?}");
        tokio::time::sleep(pause.saturating_sub(stopped.elapsed())).await;
        paused.signal("CONT");
        paused.until_logged("has gone to another worker").await;
        cluster.api.until_job(job, "COMPLETED").await;
        assert_equal(&cluster.place, &dataset, "truth", BLOCKS);
        cluster.place.stored(&dataset).await.assert_sound(0, BLOCKS - 1);

        // Alone, it does a whole job.
        let others: Vec<String> = cluster.workers.iter().map(|worker| worker.name.clone()).collect();
        cluster.workers.drain(..).for_each(Worker::stop);
        let job = cluster.api.dump(&next, json!({"end_block": BLOCKS - 1})).await;
        let done = cluster.api.until_job(job, "COMPLETED").await;
        assert_eq!(done["node_id"], paused.name.as_str());
        assert_equal(&cluster.place, &next, "truth", BLOCKS);
        cluster.workers.push(paused);
        for name in others {
            cluster.workers.push(Worker::start(&cluster.place, &name, &["--max-tasks", "2"]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_cut_off_from_all_comes_back_by_itself() {
    let place = Place::configured(Db::Postgres, FLUSH);
    place.ok(&["migrate"]);
    dump_truth(&place, BLOCKS);
    let host = Host::start().unwrap();
    let node = node(BLOCKS, 0);
    let through = |url: &str| {
        let server = url.rsplit_once('@').map_or(url, |(_, rest)| rest).trim_start_matches("http://");
        let address = server.split('/').next().unwrap().parse().unwrap();
        TcpProxy::start_on(host.this_machine(), address, Duration::ZERO).unwrap()
    };
    let (node_there, database_there) = (through(node.url()), through(place.postgres()));
    let cluster = Cluster::on(place, &["near"], &["--max-tasks", "2"]);
    cluster.api.add_provider("node", &format!("http://{}", node_there.address())).await;

    let (user, rest) = cluster.place.postgres().split_once('@').unwrap();
    let database = rest.split_once('/').unwrap().1;
    let url = format!("{user}@{}/{database}", database_there.address());
    let mut command = Worker::command(&cluster.place, "far", &["--max-tasks", "2"]);
    command.env("NOZZLE_CONFIG_METADATA_DB__URL", url);
    let mut far = Worker::started(&cluster.place, host.run_there(&command), "far");

    cluster.api.register("parted").await;
    cluster.api.register("after").await;
    node.set_delay(LATE);
    let job = cluster.api.dump("parted", json!({"end_block": BLOCKS - 1})).await;
    until("the far worker to have a task", async || (!cluster.held_by("far").is_empty()).then_some(())).await;
    host.unplug().unwrap();
    node.set_delay(SOON);
    let held = cluster.held_by("far");
    let taken = cluster.until_taken(&held).await;
    println!("the far worker was cut off with {} tasks, which the near one had after {taken:?}", held.len());
    assert!(taken < TAKEN_WITHIN, "{taken:?}");
    let workers = cluster.api.get("/workers/far").await;
    assert_eq!((&workers["alive"], &workers["running_tasks"]), (&json!(false), &json!(0)), "{workers}");
    far.until_logged("the metadata database is away").await;
    host.plug().unwrap();
    far.until_logged("the metadata database is back").await;
    cluster.api.until_job(job, "COMPLETED").await;
    assert_equal(&cluster.place, "parted", "truth", BLOCKS);
    cluster.place.stored("parted").await.assert_sound(0, BLOCKS - 1);

    cluster.workers.into_iter().for_each(Worker::stop);
    let job = cluster.api.dump("after", json!({"end_block": BLOCKS - 1})).await;
    assert_eq!(cluster.api.until_job(job, "COMPLETED").await["node_id"], "far");
    assert_equal(&cluster.place, "after", "truth", BLOCKS);
    assert!(far.is_running());
    far.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_crashes_in_the_middle_is_waited_for() {
    let postgres = Postgres::start().unwrap();
    let place = Place::on(Some(postgres.create_database().unwrap()), FLUSH);
    place.ok(&["migrate"]);
    dump_truth(&place, BLOCKS);
    let node = node(BLOCKS, 0);
    let mut cluster = Cluster::on(place, &["worker-0", "worker-1"], &["--max-tasks", "2"]);
    cluster.api.add_provider("node", node.url()).await;
    cluster.api.register("eth").await;
    node.set_delay(LATE);
    let job = cluster.api.dump("eth", json!({"end_block": BLOCKS - 1})).await;
    for crash in 1..=2 {
        let stored = || cluster.ask("SELECT count(*) FROM segments");
        let before = stored();
        until("another commit", async || (stored() != before).then_some(())).await;
        postgres.restart_immediate().unwrap();
        let status = &cluster.api.until_job(job, "RUNNING").await["status"];
        println!("crash {crash}: {status}");
    }
    node.set_delay(SOON);
    cluster.api.until_job(job, "COMPLETED").await;
    assert_equal(&cluster.place, "eth", "truth", BLOCKS);
    cluster.place.stored("eth").await.assert_sound(0, BLOCKS - 1);
    assert!(cluster.workers.iter_mut().all(Worker::is_running));
    let (status, body) = cluster.server.post("SELECT count(*) AS n FROM eth.blocks");
    assert_eq!((status, body), (200, format!("{{\"n\":{BLOCKS}}}\n")));
}

/// How long a job of so many blocks takes with so many workers, beside a node that is late, once they are at work.
async fn with_workers(count: usize, blocks: u64, node: &ReplayServer, delay: Duration) -> Duration {
    let names: Vec<String> = (0..count).map(|n| format!("worker-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let place = Place::configured(Db::Postgres, "");
    let cluster = Cluster::on(place, &names, &["--max-tasks", "1"]);
    // The limit is the deployment's: at the default, all workers together would have 64 requests.
    let body = json!({"name": "node", "kind": "evm-rpc", "network": NETWORK, "url": node.url(),
                      "concurrent_request_limit": 4096});
    assert_eq!(cluster.api.send(Method::POST, "/providers", &body).await.0, 201);
    cluster.api.register("eth").await;
    // Until each has a task: none is to come when the others have done all.
    node.set_delay(Duration::from_secs(1));
    let job = cluster.api.dump("eth", json!({"end_block": blocks - 1})).await;
    until_all_at_work(&cluster, &cluster.workers.iter().collect::<Vec<_>>()).await;
    node.set_delay(delay);
    let started = Instant::now();
    cluster.api.until_job(job, "COMPLETED").await;
    let elapsed = started.elapsed();
    assert_eq!(cluster.place.number("SELECT count(*) FROM eth.blocks"), blocks);
    for worker in &cluster.workers {
        assert!(worker.log().contains(": done"), "{} had nothing to do", worker.name);
    }
    elapsed
}

/// Few blocks, and that each worker has a share; `just scaling` measures.
#[tokio::test(flavor = "multi_thread")]
async fn more_workers_share_the_work() {
    let (blocks, delay) = (asked("NOZZLE_SCALING_BLOCKS", 512), asked("NOZZLE_SCALING_DELAY_MS", 60));
    let (node, delay) = (node(blocks, delay), Duration::from_millis(delay));
    let one = with_workers(1, blocks, &node, delay).await;
    println!("1 worker: {one:?}");
    for count in [2, 4] {
        let took = with_workers(count, blocks, &node, delay).await;
        println!("{count} workers: {took:?}, {:.2} times", one.as_secs_f64() / took.as_secs_f64());
    }
}

/// Everything that happens to tasks, as the database sees it.
const AUDIT: &str = "
    CREATE TABLE audit (at TIMESTAMPTZ DEFAULT clock_timestamp(), task BIGINT, before TEXT, after TEXT);
    CREATE FUNCTION note() RETURNS TRIGGER LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO audit (task, before, after) VALUES (OLD.id, OLD.node_id, NEW.node_id);
        RETURN NULL;
    END $$;
    CREATE TRIGGER noted AFTER UPDATE OF fence ON tasks FOR EACH ROW EXECUTE FUNCTION note();";

#[tokio::test(flavor = "multi_thread")]
async fn many_small_jobs_are_done_once_each_and_cost_the_database_little() {
    const SMALL: u64 = 20;
    let jobs = asked("NOZZLE_MANY_JOBS", 100);
    let node = node(SMALL, 5);
    let place = Place::configured(Db::Postgres, "");
    place.define("eth", NETWORK, node.url());
    let manifest = |n: u64| format!(r#"{{"name":"small_{n}","kind":"evm-rpc","network":"{NETWORK}"}}"#);
    place.write(
        "datasets/small.json",
        &format!("[{}]", (0..jobs).map(manifest).collect::<Vec<_>>().join(",")),
    );
    place.ok(&["migrate"]);
    postgres::ask(place.postgres(), AUDIT).unwrap();
    let cluster = Cluster::on(place, &["worker-0", "worker-1", "worker-2", "worker-3"], &[]);
    let mut ids = BTreeSet::new();
    for n in 0..jobs {
        ids.insert(cluster.api.dump(&format!("small_{n}"), json!({"end_block": "latest"})).await);
    }
    assert_eq!(ids.len() as u64, jobs);
    let mut lists = vec![];
    let live = async || {
        let started = Instant::now();
        let listed = cluster.api.get("/jobs?status=active&limit=100").await;
        (started.elapsed(), listed["jobs"].as_array().unwrap().len())
    };
    loop {
        let (took, count) = live().await;
        lists.push(took);
        if count == 0 {
            break;
        }
        assert!(lists.len() < 100_000);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lists.sort_unstable();
    println!(
        "{} lists of jobs: median {:?}, longest {:?}",
        lists.len(),
        lists[lists.len() / 2],
        lists.last()
    );
    // On a machine with nothing else to do it takes a few milliseconds.
    assert!(lists[lists.len() / 2] < Duration::from_secs(1));
    assert_eq!(cluster.ask("SELECT count(*) FROM jobs WHERE status = 'COMPLETED'"), jobs.to_string());
    // Nobody died or was silent: nothing that one worker has may go to another.
    let doubled = "SELECT count(*) FROM audit WHERE before IS NOT NULL AND after IS NOT NULL";
    assert_eq!(cluster.ask(doubled), "0", "tasks were done twice at the same time");
    let by_worker =
        cluster.ask("SELECT after, count(*) FROM audit WHERE after IS NOT NULL GROUP BY 1 ORDER BY 1");
    println!("tasks by worker: {}", by_worker.replace('\n', ", "));
    assert_eq!(by_worker.lines().count(), 4, "{by_worker}");
    for n in [0, jobs / 2, jobs - 1] {
        assert_eq!(cluster.place.number(&format!("SELECT count(*) FROM small_{n}.blocks")), SMALL);
    }

    let transactions = || {
        let now =
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
        cluster.ask(now).parse::<f64>().unwrap()
    };
    let seconds = 5.0;
    let mut per_worker = f64::INFINITY;
    // The server tells of what was busy up to ten seconds late.
    for _ in 0..6 {
        let before = transactions();
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        // The question is a transaction too.
        per_worker = (transactions() - before - 1.0) / seconds / 4.0;
        if per_worker < 5.0 {
            break;
        }
    }
    println!("an idle worker costs the database {per_worker:.1} transactions a second");
    assert!(per_worker < 5.0, "{per_worker}");
}

/// The rows of all tables that are committed now, by the database itself.
fn committed_blocks(cluster: &Cluster) -> u64 {
    let statement =
        "SELECT COALESCE(sum(row_count), 0)::bigint FROM segments s JOIN locations l ON l.id = s.location_id
                     WHERE l.table_name = 'blocks' AND s.replaced_seq IS NULL";
    cluster.ask(statement).parse().unwrap()
}

fn count_blocks(server: &Server) -> u64 {
    let (status, body) = server.post("SELECT count(*) AS n FROM eth.blocks");
    // The dataset has no revision before the job has begun.
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    if status == 200 { answer["n"].as_u64().unwrap() } else { 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_regions_see_the_same_rows_and_a_reader_may_only_read() {
    const AWAY: Duration = Duration::from_millis(50);
    let blocks = asked("NOZZLE_REGION_BLOCKS", 1024);
    let store = tokio::task::spawn_blocking(StoreServer::seaweedfs).await.unwrap().unwrap();
    // Commits of one revision wait for one another, and one from far away holds the others up for 0.3 s.
    let folder =
        format!("data_dir = \"{}\"\nwriter = {{ segment_flush_interval_secs = 1 }}", store.url("regions"));
    let mut place = Place::configured(Db::Postgres, &folder);
    place.set_variables(store.variables(None));
    place.ok(&["migrate"]);
    let node = node(blocks, 0);
    let near = Cluster::on(place, &["a-1", "a-2"], &["--region", "a", "--max-tasks", "2"]);

    let address =
        near.place.postgres().split_once('@').unwrap().1.split('/').next().unwrap().parse().unwrap();
    let (database, store_there) =
        (TcpProxy::start(address, AWAY).unwrap(), TcpProxy::start(store.address(), AWAY).unwrap());
    let far = |mut command: Command| {
        let url = near.place.postgres().replace(&address.to_string(), &database.address().to_string());
        command.env("NOZZLE_CONFIG_METADATA_DB__URL", url);
        command.envs(store.variables(Some(&format!("http://{}", store_there.address()))));
        command
    };
    let far_server = Server::started(far(Server::command(&near.place, &[])), &[]);
    let flags = ["--region", "b", "--max-tasks", "2"];
    let far_workers = ["b-1", "b-2"]
        .map(|name| Worker::started(&near.place, far(Worker::command(&near.place, name, &flags)), name));

    near.api.add_provider("node", node.url()).await;
    near.api.register("eth").await;
    // Until all have a task: those far away come late.
    node.set_delay(Duration::from_secs(1));
    // The far server's API is as good as the near one's.
    let job = Api::of(&far_server).dump("eth", json!({"end_block": blocks - 1})).await;
    until_all_at_work(&near, &near.workers.iter().chain(&far_workers).collect::<Vec<_>>()).await;
    node.set_delay(SOON);
    let mut longest = Duration::ZERO;
    loop {
        let committed = committed_blocks(&near);
        let at = Instant::now();
        for server in [&near.server, &far_server] {
            until("a commit to be seen", async || (count_blocks(server) >= committed).then_some(())).await;
            longest = longest.max(at.elapsed());
        }
        if committed == blocks {
            break;
        }
    }
    println!("both servers saw what was committed within {longest:?}");
    near.api.until_job(job, "COMPLETED").await;
    let sql = "SELECT block_num, hash FROM eth.blocks ORDER BY block_num";
    let (one, other) = (near.server.post(sql), far_server.post(sql));
    assert!(one.0 == 200 && one == other);
    assert_eq!(one.1.lines().count() as u64, blocks);
    for region in [&near.workers, &far_workers.into()] {
        let mut logs = region.iter().map(Worker::log);
        assert!(logs.any(|log| log.contains(": done")), "{} had nothing to do", region[0].name);
    }
    only_reads(&near, &store).await;
}

/// A server whose rights in the database and in the store are those of a reader.
async fn only_reads(cluster: &Cluster, store: &StoreServer) {
    let name = format!("reader_{:x}", std::process::id());
    cluster.ask(&format!("CREATE ROLE {name} LOGIN"));
    cluster.ask(&format!("GRANT USAGE ON SCHEMA public TO {name}"));
    cluster.ask(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"));
    let mut command = Server::command(&cluster.place, &[]);
    let url = cluster.place.postgres().replace("postgres://postgres@", &format!("postgres://{name}@"));
    command
        .env("NOZZLE_CONFIG_METADATA_DB__URL", url)
        .env("NOZZLE_CONFIG_METADATA_DB__AUTO_MIGRATE", "false");
    command.envs(store.read_only_variables());
    let server = Server::started(command, &[]);
    let sql = "SELECT count(*) AS n, max(block_num) AS last FROM eth.blocks";
    assert_eq!(server.post(sql), cluster.server.post(sql));
    let api = Api::of(&server);
    assert_eq!(api.get("/jobs").await["jobs"].as_array().unwrap().len(), 1);
    api.get("/datasets/eth").await;
    api.get("/ready").await;
    let document = api.get("/openapi.json").await;
    let mut refused = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|method| *method != "get") {
            if path == "/schema" {
                continue;
            }
            let path = path.replace("{name}", "eth").replace("{version}", "0.0.0").replace("{id}", "1");
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let code = api.refused(method.clone(), &path, &json!({})).await;
            assert_eq!(code, (403, "READ_ONLY".into()), "{method} {path}");
            refused += 1;
        }
    }
    assert!(refused >= 10, "{refused}");
    let (status, answer) = api.send(Method::POST, "/schema", &json!({"sql_query": "SELECT 1 AS one"})).await;
    assert_eq!((status, &answer["schema"]["arrow"]["fields"][0]["name"]), (200, &json!("one")));
    drop(server);
    cluster.ask(&format!("DROP OWNED BY {name}; DROP ROLE {name}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_end_gives_its_tasks_back_at_whole_blocks() {
    let node = node(BLOCKS, 0);
    let mut cluster = Cluster::start(&["worker-0"], &[]);
    cluster.api.add_provider("node", node.url()).await;
    cluster.api.register("eth").await;
    node.set_delay(LATE);
    let job = cluster.api.dump("eth", json!({"end_block": BLOCKS - 1})).await;
    until("some commits", async || (committed_blocks(&cluster) > 100).then_some(())).await;
    let (worker, asked) = (cluster.workers.remove(0), Instant::now());
    let log = worker.log();
    worker.stop();
    node.set_delay(SOON);
    println!("it ended after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(60), "{log}");
    assert_eq!(cluster.ask("SELECT count(*) FROM tasks WHERE node_id IS NOT NULL"), "0");
    assert_eq!(cluster.ask("SELECT count(*) FROM leases WHERE ended_at IS NULL"), "0");
    let stored = committed_blocks(&cluster);
    assert!(stored < BLOCKS, "the job was over before");
    assert_eq!(cluster.api.get("/workers/worker-0").await["alive"], false);
    // The next one begins at once, under the same name and where the last commit ended.
    let again = Worker::start(&cluster.place, "worker-0", &[]);
    cluster.api.until_job(job, "COMPLETED").await;
    again.stop();
    cluster.place.stored("eth").await.assert_sound(0, BLOCKS - 1);
    assert_eq!(cluster.place.number("SELECT count(*) FROM eth.blocks"), BLOCKS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_an_end_follows_the_head_until_it_is_stopped() {
    let node = node(60, 0);
    node.set_head(20);
    node.set_finalized(Some(10));
    let cluster = Cluster::on(
        Place::configured(Db::Postgres, "poll_interval_secs = 0.05"),
        &["worker-0"],
        &["--max-tasks", "1"],
    );
    cluster.api.add_provider("node", node.url()).await;
    cluster.api.register("eth").await;
    let job = cluster.api.dump("eth", json!({})).await;
    assert_eq!(cluster.api.dump("eth", json!({})).await, job, "the same request is the same job");
    let other = cluster.api.refused(Method::POST, "/datasets/eth/dump", &json!({"end_block": 5})).await;
    assert_eq!(other, (409, "ACTIVE_JOB_CONFLICT".into()));
    let metadata = cluster.metadata().await;
    until_stored(metadata.as_ref(), "eth", 20).await;
    node.set_head(45);
    until_stored(metadata.as_ref(), "eth", 45).await;
    let shown = cluster.api.until_job(job, "RUNNING").await;
    let blocks = &shown["progress"]["tables"]["blocks"];
    assert_eq!((&blocks["current_block"], &blocks["end_block"]), (&json!(45), &Value::Null), "{shown}");

    // A task that only follows the head takes no room.
    cluster.api.register("small").await;
    let small = cluster.api.dump("small", json!({"end_block": 30})).await;
    cluster.api.until_job(small, "COMPLETED").await;

    let status = cluster.place.ok(&["status"]).stdout;
    for part in ["eth ", "45", "RUNNING", "worker-0", "alive", "COMPLETED"] {
        assert!(status.contains(part), "`{part}` is not in {status}");
    }
    let path = format!("/jobs/{job}");
    assert_eq!(cluster.api.refused(Method::DELETE, &path, &Value::Null).await, (409, "JOB_CONFLICT".into()));
    assert_eq!(cluster.api.refused(Method::DELETE, "/datasets/eth", &Value::Null).await.0, 409);
    assert_eq!(cluster.api.send(Method::PUT, &format!("{path}/stop"), &Value::Null).await.0, 200);
    cluster.api.until_job(job, "STOPPED").await;
    let again = cluster.api.refused(Method::PUT, &format!("{path}/stop"), &Value::Null).await;
    assert_eq!(again, (409, "JOB_CONFLICT".into()));
    assert_eq!(cluster.api.send(Method::DELETE, &path, &Value::Null).await.0, 204);
    assert_eq!(cluster.api.refused(Method::GET, &path, &Value::Null).await, (404, "JOB_NOT_FOUND".into()));
    assert_eq!(cluster.place.number("SELECT count(*) FROM eth.blocks"), 46, "what is stored stays");

    // What no worker has is stopped at once.
    cluster.workers.into_iter().for_each(Worker::stop);
    let job = cluster.api.dump("eth", json!({})).await;
    let (_, stopped) = cluster.api.send(Method::PUT, &format!("/jobs/{job}/stop"), &Value::Null).await;
    assert_eq!(stopped["status"], "STOPPED");
    assert_eq!(cluster.api.send(Method::DELETE, "/jobs?status=Terminal", &Value::Null).await.0, 204);
    assert_eq!(cluster.api.get("/jobs").await["jobs"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_where_it_was_asked_to() {
    let node = node(420, 0);
    node.set_head(399);
    let place = Place::configured(Db::Postgres, "poll_interval_secs = 0.05");
    let cluster = Cluster::on(place, &["worker-0", "worker-1"], &[]);
    cluster.api.add_provider("node", node.url()).await;
    let count = |dataset: &str| cluster.place.number(&format!("SELECT count(*) FROM {dataset}.blocks"));
    for (n, (request, blocks)) in [
        (json!({"end_block": 50}), 51),
        (json!({"end_block": 300}), 301),
        (json!({"end_block": 300, "n_jobs": 3, "partition_size_mb": 1}), 301),
        (json!({"end_block": -100}), 300),
        (json!({"end_block": -350}), 50),
        (json!({"end_block": "latest"}), 400),
    ]
    .into_iter()
    .enumerate()
    {
        let dataset = format!("end_{n}");
        cluster.api.register(&dataset).await;
        let job = cluster.api.dump(&dataset, request.clone()).await;
        let done = cluster.api.until_job(job, "COMPLETED").await;
        let table = &done["progress"]["tables"]["blocks"];
        assert_eq!((count(&dataset), &table["end_block"]), (blocks, &json!(blocks - 1)), "{request}");
        cluster.place.stored(&dataset).await.assert_sound(0, blocks - 1);
    }
    // Built anew beside what is there, and to another end.
    let job = cluster.api.dump("end_5", json!({"end_block": 200, "fresh": true})).await;
    cluster.api.until_job(job, "COMPLETED").await;
    assert_eq!(count("end_5"), 201);
    cluster.api.register("nothing").await;
    let job = cluster.api.dump("nothing", json!({"end_block": -1000})).await;
    cluster.api.until_job(job, "COMPLETED").await;

    // What is final is cut into tasks, and the end lies above the head: it is waited for.
    node.set_finalized(Some(250));
    cluster.api.register("later").await;
    let later = cluster.api.dump("later", json!({"end_block": 410})).await;
    cluster.api.register("final").await;
    let job = cluster.api.dump("final", json!({"end_block": "latest", "only_finalized_blocks": true})).await;
    cluster.api.until_job(job, "COMPLETED").await;
    assert_eq!(count("final"), 251);
    until_stored(cluster.metadata().await.as_ref(), "later", 399).await;
    assert_eq!(cluster.api.job(later).await["status"], "RUNNING");
    node.set_head(415);
    cluster.api.until_job(later, "COMPLETED").await;
    assert_eq!(count("later"), 411);
    cluster.place.stored("later").await.assert_sound(0, 410);

    // No block is final yet: that is waited for too.
    node.set_finalized(None);
    node.set_head(30);
    cluster.api.register("patient").await;
    let request = json!({"end_block": "latest", "only_finalized_blocks": true});
    let job = cluster.api.dump("patient", request).await;
    until("the reason", async || {
        cluster.api.job(job).await["error"].as_str()?.contains("no final block").then_some(())
    })
    .await;
    node.set_finalized(Some(20));
    let done = cluster.api.until_job(job, "COMPLETED").await;
    assert_eq!((count("patient"), done.get("error")), (21, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_beside_a_running_job_takes_what_nobody_has() {
    let node = node(BLOCKS, 60);
    let cluster = Cluster::start(&["worker-0"], &["--max-tasks", "2"]);
    cluster.api.add_provider("node", node.url()).await;
    cluster.api.register("eth").await;
    let job = cluster.api.dump("eth", json!({"end_block": BLOCKS - 1})).await;
    until("some commits", async || (committed_blocks(&cluster) > 64).then_some(())).await;
    let said = cluster.place.ok(&["dump", "--dataset", "eth"]);
    assert!(said.stderr.contains("blocks"), "{}", said.stderr);
    cluster.api.until_job(job, "COMPLETED").await;
    cluster.place.stored("eth").await.assert_sound(0, BLOCKS - 1);
    assert_eq!(cluster.place.number("SELECT count(*) FROM eth.blocks"), BLOCKS);
    assert_eq!(cluster.place.number("SELECT count(DISTINCT block_num) FROM eth.blocks"), BLOCKS);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_and_what_lasts_fails_the_job() {
    let node = node(60, 0);
    let (shut, url) = gate(node.url());
    shut.shut();
    let cluster = Cluster::start(&["worker-0"], &[]);
    let provider =
        json!({"name": "node", "kind": "evm-rpc", "network": NETWORK, "url": url, "timeout_secs": 1});
    assert_eq!(cluster.api.send(Method::POST, "/providers", &provider).await.0, 201);
    cluster.api.register("eth").await;
    let job = cluster.api.dump("eth", json!({"end_block": 59})).await;
    let why = until("the reason", async || {
        let job = cluster.api.job(job).await;
        assert!(["SCHEDULED", "RUNNING"].contains(&job["status"].as_str().unwrap()), "{job}");
        Some(job["error"].as_str()?.to_owned())
    })
    .await;
    assert!(why.contains("node"), "{why}");
    assert!(cluster.place.ok(&["status"]).stdout.contains(&why));
    shut.open();
    let done = cluster.api.until_job(job, "COMPLETED").await;
    assert_eq!(done.get("error"), None, "{done}");

    // A provider of another chain does not become one of this chain.
    let other = json!({"name": "foreign", "kind": "evm-rpc", "network": "gnosis", "url": node.url()});
    assert_eq!(cluster.api.send(Method::POST, "/providers", &other).await.0, 201);
    let foreign = json!({"name": "foreign", "kind": "evm-rpc", "network": "gnosis"});
    assert_eq!(cluster.api.send(Method::POST, "/datasets", &foreign).await.0, 201);
    let job = cluster.api.dump("foreign", json!({"end_block": 59})).await;
    let failed = cluster.api.until_job(job, "FAILED").await;
    let why = failed["error"].as_str().unwrap();
    assert!(why.contains("1337") && why.contains("gnosis"), "{why}");
    cluster.workers[0].until_logged("the job has failed").await;
    assert_eq!(cluster.api.send(Method::DELETE, "/jobs?status=error", &Value::Null).await.0, 204);
    assert_eq!(cluster.api.get("/jobs").await["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_belongs_to_one_living_process() {
    let mut cluster = Cluster::start(&["worker-0"], &[]);
    let said = cluster.place.run(&["worker", "--node-id", "worker-0"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("worker-0") && said.stderr.contains("lives"), "{}", said.stderr);
    // A killed one is waited out, and said so.
    cluster.workers[0].kill();
    let mut command = Worker::command(&cluster.place, "worker-0", &[]);
    let again = Worker::launched(&cluster.place, &mut command, "worker-0");
    again.until_logged("is ready").await;
    assert!(again.log().contains("waiting whether it still lives"), "{}", again.log());
    for (name, flags) in [("0worker", vec![]), ("", vec![]), ("ok", vec!["--max-tasks", "0"])] {
        let said = cluster.place.run(&[&["worker", "--node-id", name], &flags[..]].concat());
        assert_eq!(said.code, Some(2), "`{name}`: {}", said.stderr);
    }
    let place = Place::configured(Db::Sqlite, "");
    let said = place.run(&["worker", "--node-id", "worker-0"]);
    assert!(said.code == Some(1) && said.stderr.contains("--dev"), "{}", said.stderr);
    again.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_preferred_and_no_other_is_starved() {
    let node = node(60, 20);
    let cluster = Cluster::on(Place::configured(Db::Postgres, ""), &[], &[]);
    for region in ["a", "b"] {
        let network = format!("region-{region}");
        let provider = json!({"name": region, "kind": "evm-rpc", "network": network, "url": node.url(),
                              "region": region});
        assert_eq!(cluster.api.send(Method::POST, "/providers", &provider).await.0, 201);
        let dataset = json!({"name": region, "kind": "evm-rpc", "network": network});
        assert_eq!(cluster.api.send(Method::POST, "/datasets", &dataset).await.0, 201);
    }
    let first = cluster.api.dump("a", json!({"end_block": 59})).await;
    let second = cluster.api.dump("b", json!({"end_block": 59})).await;
    let worker = Worker::start(&cluster.place, "worker-b", &["--region", "b", "--max-tasks", "1"]);
    for job in [first, second] {
        cluster.api.until_job(job, "COMPLETED").await;
    }
    let log = worker.log();
    let done = |job: i64| log.find(&format!("job {job} ")).unwrap_or_else(|| panic!("{log}"));
    assert!(done(second) < done(first), "the worker of region b began with region a: {log}");
}

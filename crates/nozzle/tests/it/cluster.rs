//! Workers as processes, and the Admin API as its clients see it.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nozzle_metadata::MetadataStore;
use nozzle_testkit::{postgres, process::OwnedProcess};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{Db, PATIENCE, Place, until, until_sync},
    servers::Server,
};

/// The network of the nodes that tests serve.
pub const NETWORK: &str = "chain-1337";

/// A `nozzle worker`. It ends with its handle.
pub struct Worker {
    pub name: String,
    process: OwnedProcess,
    log: PathBuf,
}

impl Worker {
    /// Starts a worker of the place, and waits until it has its name.
    pub fn start(place: &Place, name: &str, flags: &[&str]) -> Self {
        Self::started(place, Self::command(place, name, flags), name)
    }

    pub fn command(place: &Place, name: &str, flags: &[&str]) -> Command {
        place.command(&[&["worker", "--node-id", name], flags].concat())
    }

    /// A worker that this command starts.
    pub fn started(place: &Place, mut command: Command, name: &str) -> Self {
        let mut worker = Self::launched(place, &mut command, name);
        until_sync(&format!("{name} to be ready"), || {
            assert!(worker.is_running(), "{name} has ended: {}", worker.log());
            worker.log().contains("is ready").then_some(())
        });
        worker
    }

    /// As [`Worker::started`], without waiting for anything.
    pub fn launched(place: &Place, command: &mut Command, name: &str) -> Self {
        let log = place.path(&format!("{name}.{}.log", uuid::Uuid::now_v7()));
        // A pipe that nobody reads would be full one day.
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Self { name: name.into(), process: OwnedProcess::spawn(command).unwrap(), log }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub async fn until_logged(&self, text: &str) {
        let what = format!("{} to say `{text}`", self.name);
        until(&what, async || self.log().contains(text).then_some(())).await;
    }

    pub fn is_running(&mut self) -> bool {
        self.process.child().try_wait().unwrap().is_none()
    }

    /// Sends a signal by its name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// `kill -9`
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits until it ends, and gives its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let what = format!("the end of {}", self.name);
        until_sync(&what, || self.process.child().try_wait().unwrap()).code()
    }

    /// Tells it to end; it must end well.
    pub fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(self.wait(), Some(0), "{}", self.log());
    }
}

/// A client of the Admin API.
pub struct Api {
    client: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Api {
    pub fn of(server: &Server) -> Self {
        // A connection on which a request was refused before all of it was read is closed: none is used twice.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        Self { client, url: server.admin().to_owned(), token: None }
    }

    pub fn with_token(self, token: &str) -> Self {
        Self { token: Some(token.into()), ..self }
    }

    /// The status and the answer; null where it has no body.
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (
            status,
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(json!(text)) },
        )
    }

    /// What it answers, which must be well.
    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.send(Method::GET, path, &Value::Null).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// The error code that a request is refused with, and its status.
    pub async fn refused(&self, method: Method, path: &str, body: &Value) -> (u16, String) {
        let (status, answer) = self.send(method, path, body).await;
        let message = answer["error_message"].as_str().unwrap_or_else(|| panic!("{path}: {status} {answer}"));
        assert!(!message.is_empty(), "{path}");
        (status, answer["error_code"].as_str().unwrap_or_default().to_owned())
    }

    /// Makes a provider of the test's network.
    pub async fn add_provider(&self, name: &str, url: &str) {
        let body = json!({"name": name, "kind": "evm-rpc", "network": NETWORK, "url": url});
        let (status, answer) = self.send(Method::POST, "/providers", &body).await;
        assert_eq!(status, 201, "{answer}");
    }

    /// Registers a dataset of every table.
    pub async fn register(&self, name: &str) {
        let body = json!({"name": name, "kind": "evm-rpc", "network": NETWORK});
        let (status, answer) = self.send(Method::POST, "/datasets", &body).await;
        assert_eq!(status, 201, "{answer}");
    }

    /// Schedules a dump, and gives the job's id.
    pub async fn dump(&self, dataset: &str, request: Value) -> i64 {
        let (status, answer) = self.send(Method::POST, &format!("/datasets/{dataset}/dump"), &request).await;
        assert_eq!(status, 200, "{answer}");
        answer["job_id"].as_i64().unwrap()
    }

    pub async fn job(&self, id: i64) -> Value {
        self.get(&format!("/jobs/{id}")).await
    }

    /// The job, as soon as it has the status.
    pub async fn until_job(&self, id: i64, status: &str) -> Value {
        let started = Instant::now();
        loop {
            // A server whose database is away for a moment says so.
            let (code, job) = self.send(Method::GET, &format!("/jobs/{id}"), &Value::Null).await;
            if code == 200 && job["status"] == status {
                return job;
            }
            let is_over = ["COMPLETED", "FAILED", "STOPPED"].iter().any(|over| job["status"] == *over);
            assert!(!is_over && started.elapsed() < PATIENCE, "the job is not {status}: {job}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A server, its API and workers of these names on one PostgreSQL database of their own.
pub struct Cluster {
    pub place: Place,
    pub server: Server,
    pub api: Api,
    pub workers: Vec<Worker>,
}

/// Many commits in each task.
pub const FLUSH: &str = "writer = { segment_flush_interval_secs = 0.2 }";

impl Cluster {
    pub fn start(workers: &[&str], flags: &[&str]) -> Self {
        Self::on(Place::configured(Db::Postgres, FLUSH), workers, flags)
    }

    pub fn on(place: Place, workers: &[&str], flags: &[&str]) -> Self {
        let server = Server::start(&place, &[]);
        let api = Api::of(&server);
        let workers = workers.iter().map(|name| Worker::start(&place, name, flags)).collect();
        Self { place, server, api, workers }
    }

    /// What a statement answers, straight from the database.
    pub fn ask(&self, statement: &str) -> String {
        postgres::ask(self.place.postgres(), statement).unwrap()
    }

    /// The tasks that a worker holds, and the fence of each.
    pub fn held_by(&self, name: &str) -> Vec<String> {
        let held = self.ask(&format!("SELECT id, fence FROM tasks WHERE node_id = '{name}' ORDER BY id"));
        held.lines().map(str::to_owned).collect()
    }

    /// Waits until no task is held as these were: others have them, or they are done.
    pub async fn until_taken(&self, held: &[String]) -> Duration {
        let started = Instant::now();
        until("the tasks to be taken", async || {
            let now = self.ask("SELECT id, fence FROM tasks WHERE node_id IS NOT NULL");
            (!held.iter().any(|task| now.lines().any(|line| line == task))).then_some(())
        })
        .await;
        started.elapsed()
    }

    pub async fn metadata(&self) -> std::sync::Arc<dyn MetadataStore> {
        self.place.metadata().await
    }
}

/// The dataset has every row of these blocks of a synthetic chain of three transactions a block with two
/// logs each, but for the first block, and no row twice; it equals what `truth`, an undisturbed dump, has.
pub fn assert_equal(place: &Place, dataset: &str, truth: &str, blocks: u64) {
    let transactions = (blocks - 1) * 3;
    let expected = [("blocks", blocks), ("transactions", transactions), ("logs", transactions * 2)];
    let asked = expected.map(|(table, _)| {
        format!(
            "(SELECT count(*) FROM {dataset}.{table}) AS {table},
             (SELECT count(*) FROM (SELECT * FROM {truth}.{table} EXCEPT ALL SELECT * FROM {dataset}.{table}))
               AS {table}_missing"
        )
    });
    // One question: each is a process.
    let answer = &place.query(&format!("SELECT {}", asked.join(", ")))[0];
    for (table, rows) in expected {
        assert_eq!(answer[table], rows, "{dataset}.{table}");
        let missing = &answer[format!("{table}_missing")];
        assert_eq!(*missing, 0, "rows of {dataset}.{table} differ from the truth");
    }
}

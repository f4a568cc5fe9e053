//! A folder of its own for each test, and the program run in it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use nozzle_core::{BlockRange, DatasetRef, Span};
use nozzle_metadata::{MetadataConfig, MetadataStore, Revision, RevisionState, Scan, Segment};
use nozzle_testkit::{
    postgres,
    replay::{Recording, ReplayOptions, ReplayServer},
    tcp::TcpProxy,
};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test calls it a hang.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A line of a configuration in which segments stay as a dump has cut them.
pub const NOT_MERGED: &str = "compaction = { compactor_enabled = false }";

/// Which metadata database a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Db {
    Sqlite,
    Postgres,
}

/// A folder with a configuration, and the program in it.
pub struct Place {
    folder: TempDir,
    /// The URL of its PostgreSQL database.
    postgres: Option<String>,
    /// Ends with the place where it is its own.
    _database: Option<postgres::SharedDatabase>,
    /// By which the program finds an object store.
    variables: Vec<(&'static str, String)>,
}

/// What a run of the program said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    /// A folder without a configuration: everything goes to `.nozzle` in it.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), postgres: None, _database: None, variables: vec![] }
    }

    /// A folder with a `nozzle.toml` of these lines, on the given database.
    pub fn configured(db: Db, lines: &str) -> Self {
        let database = (db == Db::Postgres).then(|| postgres::shared().unwrap());
        let url = database.as_ref().map(postgres::SharedDatabase::url);
        Self { _database: database, ..Self::on(url, lines) }
    }

    /// As [`Place::configured`], on the PostgreSQL database at the URL; without one on SQLite.
    pub fn on(postgres: Option<String>, lines: &str) -> Self {
        let place = Self { postgres, ..Self::empty() };
        let url = place.postgres.as_deref().unwrap_or_default();
        let config = format!("{lines}\n[metadata_db]\nurl = \"{url}\"\nauto_migrate = true\n");
        place.write("nozzle.toml", &config);
        place
    }

    /// The URL of its PostgreSQL database.
    pub fn postgres(&self) -> &str {
        self.postgres.as_deref().unwrap()
    }

    /// The program is run with these variables from now on.
    pub fn set_variables(&mut self, variables: Vec<(&'static str, String)>) {
        self.variables = variables;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A dataset `name` of every table, and a provider for its network.
    pub fn define(&self, name: &str, network: &str, url: &str) {
        self.write(
            &format!("datasets/{name}.json"),
            &format!(r#"{{"name":"{name}","kind":"evm-rpc","network":"{network}"}}"#),
        );
        self.write(
            &format!("providers/{network}.toml"),
            &format!("kind = \"evm-rpc\"\nnetwork = \"{network}\"\nurl = \"{url}\"\n"),
        );
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nozzle"));
        command.current_dir(self.folder.path()).args(args).stdin(Stdio::null());
        for (name, _) in std::env::vars() {
            if [
                "NOZZLE_CONFIG",
                "DUMP_",
                "CHECK_",
                "GM_",
                "QUERY_",
                "RESTORE_",
                "SERVER_",
                "WORKER_",
                "RUST_LOG",
                "AWS_",
                "AZURE_",
            ]
            .iter()
            .any(|p| name.starts_with(p))
            {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn run(&self, args: &[&str]) -> Said {
        Said::of(self.command(args).output().unwrap())
    }

    /// Runs the program, which must succeed.
    pub fn ok(&self, args: &[&str]) -> Said {
        let said = self.run(args);
        assert_eq!(said.code, Some(0), "nozzle {args:?} failed: {}", said.stderr);
        said
    }

    /// Starts the program and leaves it running. It ends with its handle.
    pub fn start(&self, args: &[&str]) -> Running {
        let child = self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running { child: Some(child) }
    }

    /// As [`Self::start`], with what it says on the standard error in a file.
    pub fn start_with_log(&self, args: &[&str], log: &Path) -> Running {
        let log = std::fs::File::create(log).unwrap();
        let child = self.command(args).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        Running { child: Some(child) }
    }

    /// The rows of a query, as the JSON objects that it prints.
    pub fn query(&self, sql: &str) -> Vec<Value> {
        let said = self.ok(&["query", sql, "--format", "jsonl"]);
        said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// One number that a query answers.
    pub fn number(&self, sql: &str) -> u64 {
        let rows = self.query(sql);
        let value = rows[0].as_object().unwrap().values().next().unwrap().clone();
        value
            .as_u64()
            .or_else(|| value.as_str()?.parse().ok())
            .unwrap_or_else(|| panic!("{sql} gave {value}"))
    }

    /// The metadata that the program works on.
    pub async fn metadata(&self) -> Arc<dyn MetadataStore> {
        let sqlite = ["metadata.db", ".nozzle/metadata.db"].map(|name| self.path(name));
        let sqlite = sqlite.iter().find(|path| path.exists()).unwrap_or(&sqlite[0]);
        let url = match &self.postgres {
            Some(url) => url.clone(),
            None => format!("sqlite://{}", sqlite.display()),
        };
        let config = MetadataConfig { url, listen_url: None, pool_size: 2, auto_migrate: true };
        nozzle_metadata::open(&config).await.unwrap()
    }

    /// The metadata, as soon as a program that was just started has made it.
    pub async fn metadata_when_there(&self) -> Arc<dyn MetadataStore> {
        if self.postgres.is_none() {
            until("the metadata database", async || self.path("metadata.db").exists().then_some(())).await;
        }
        self.metadata().await
    }

    /// What is stored of a dataset's active revision.
    pub async fn stored(&self, dataset: &str) -> Stored {
        Stored::read(self.metadata().await, dataset).await
    }
}

impl Said {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A running program.
pub struct Running {
    child: Option<Child>,
}

impl Running {
    fn child(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }

    pub fn id(&mut self) -> u32 {
        self.child().id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child().try_wait().unwrap().is_none()
    }

    /// `kill -9`
    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal by its name, such as `INT`.
    pub fn signal(&mut self, name: &str) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    pub fn wait(mut self) -> Said {
        Said::of(self.child.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Waits until `happened` gives something.
pub async fn until<T>(what: &str, mut happened: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = happened().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a dataset is stored up to `end`, or further.
pub async fn until_stored(store: &dyn MetadataStore, dataset: &str, end: u64) {
    until("the blocks to be stored", async || {
        let dataset = store.dataset(&dataset.parse().unwrap()).await.ok()??;
        let revision = store.revisions(dataset.id).await.ok()?.into_iter().next()?;
        let (location, sequence) = (revision.locations[0].id, store.sequence().await.ok()?);
        let scan = Scan { location, sequence, range: BlockRange::from(0) };
        (store.totals(&scan).await.ok()?.blocks?.end() >= end).then_some(())
    })
    .await;
}

/// [`until`] where nothing is awaited.
pub fn until_sync<T>(what: &str, mut happened: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = happened() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The resident memory of a process; 0 where it has ended.
pub fn memory_kib(process: u32) -> u64 {
    status_kib(process, "VmRSS:")
}

/// The most resident memory that a process has had; 0 where it has ended.
pub fn peak_memory_kib(process: u32) -> u64 {
    status_kib(process, "VmHWM:")
}

/// The processor time that a process has had, in hundredths of a second.
pub fn processor_ticks(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

fn status_kib(process: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

/// A proxy before the node at `url` that can be shut, and the node's URL through it.
pub fn gate(url: &str) -> (TcpProxy, String) {
    let node = url.strip_prefix("http://").unwrap().parse().unwrap();
    let proxy = TcpProxy::start(node, Duration::ZERO).unwrap();
    let url = format!("http://{}", proxy.address());
    (proxy, url)
}

/// The committed segments of a dataset, by table.
#[derive(Debug)]
pub struct Stored {
    pub revision: Revision,
    pub tables: Vec<(String, PathBuf, Vec<Segment>)>,
}

impl Stored {
    pub async fn read(metadata: Arc<dyn MetadataStore>, dataset: &str) -> Self {
        let reference: DatasetRef = dataset.parse().unwrap();
        let dataset = metadata.dataset(&reference).await.unwrap().expect("the dataset is registered");
        let revisions = metadata.revisions(dataset.id).await.unwrap();
        let active = revisions.into_iter().find(|r| r.state == RevisionState::Active);
        let revision = active.expect("the dataset has an active revision");
        let sequence = metadata.sequence().await.unwrap();
        let mut tables = vec![];
        for location in &revision.locations {
            let scan = Scan { location: location.id, sequence, range: BlockRange::from(0) };
            let segments = metadata.segments(&scan).await.unwrap();
            let folder = PathBuf::from(location.url.strip_prefix("file://").unwrap());
            tables.push((location.table.to_string(), folder, segments));
        }
        Self { revision, tables }
    }

    pub fn spans(&self) -> Vec<Span> {
        self.tables[0].2.iter().map(|segment| segment.span).collect()
    }

    /// No block missing, none twice, hashes linked, tables cut alike, every live file on disk with
    /// the size that is written down.
    pub fn assert_sound(&self, first: u64, last: u64) {
        let spans = self.spans();
        assert_eq!(
            nozzle_core::chain::linked_run(first, &spans),
            spans.len(),
            "the segments do not link: {spans:?}"
        );
        assert_eq!(spans.last().map(|span| span.range.end()), Some(last));
        for (table, folder, segments) in &self.tables {
            let own: Vec<Span> = segments.iter().map(|segment| segment.span).collect();
            assert_eq!(own, spans, "the table {table} is cut at other blocks");
            for file in segments.iter().filter_map(|segment| segment.file.as_ref()) {
                let path = folder.join(&file.name);
                let size = std::fs::metadata(&path)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
                    .len();
                assert_eq!(size, file.size_bytes, "{}", path.display());
            }
        }
    }
}

/// A number that a longer run is asked for by.
pub fn asked(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

/// The seed of what is random, printed: what `NOZZLE_SEED` says. Without it every usual run is the same, so that
/// one that fails fails because of what has changed; one whose `length` is asked for has another each time.
pub fn seed(length: &str) -> u64 {
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let default = if std::env::var_os(length).is_some() { now() } else { 20_261_128 };
    let seed = asked("NOZZLE_SEED", default);
    println!("NOZZLE_SEED={seed}");
    seed
}

/// The Python of the tests, with DuckDB, Polars and pyarrow.
pub fn python_program() -> PathBuf {
    std::env::var_os("NOZZLE_TEST_PYTHON").map(PathBuf::from).unwrap_or_else(|| {
        let tools = workspace().join("target/tools/venv/bin/python");
        assert!(
            tools.exists(),
            "Python with duckdb, polars and pyarrow is missing; run `scripts/test --setup`"
        );
        tools
    })
}

/// Runs a script, which must succeed, and gives what it printed.
pub fn python(script: &str, args: &[&str]) -> String {
    let python = python_program();
    let output = Command::new(&python).arg("-c").arg(script).args(args).output().unwrap();
    let said = Said::of(output);
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    said.stdout
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A node that serves a generated chain, each answer after a delay, under a chain id of no name.
pub fn synthetic(recording: Recording, delay_ms: u64) -> ReplayServer {
    let delay = Duration::from_millis(delay_ms);
    ReplayServer::start(recording, ReplayOptions { delay, chain_id: Some(1337), ..ReplayOptions::default() })
        .unwrap()
}

//! Throw-away PostgreSQL clusters, and fresh databases on one that is there.
//!
//! A cluster has a folder and a port of its own. A small shell, the *keeper*, waits until the pipe
//! to it closes, which is when the handle is dropped or the process ends, however it ends; it then
//! stops the cluster and removes the folder. So not even a killed test leaves one behind.
//!
//! Starting a cluster takes a second or two: what only needs a database takes [`shared`].

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};

/// The variable that names a running server, such as `postgres://postgres@127.0.0.1:5432/postgres`,
/// whose user may create databases. `scripts/test` starts one for all tests of a run.
pub const SERVER_VARIABLE: &str = "NOZZLE_TEST_POSTGRES_URL";

const SETTINGS: &str = "-c max_connections=200 -c unix_socket_directories= -c listen_addresses=127.0.0.1";
/// Nothing is forced to the disk, but a commit is written before it is answered: it survives the
/// crash of the server, though not that of the machine.
const QUICK: &str = "-c fsync=off -c full_page_writes=off";

/// A PostgreSQL cluster that ends, with all its files, when the handle is dropped.
#[derive(Debug)]
pub struct Postgres {
    programs: Programs,
    folder: PathBuf,
    port: u16,
    is_durable: bool,
    keeper: Child,
    /// Open as long as the cluster is to live.
    pipe: Option<ChildStdin>,
}

impl Postgres {
    /// Starts a cluster on a free port of 127.0.0.1 with the superuser `postgres`, who needs no
    /// password. Blocks until it takes connections.
    pub fn start() -> Result<Postgres> {
        Self::start_as(false)
    }

    /// As [`Postgres::start`], but commits survive the crash of the machine, as they do where nobody
    /// has changed the settings: for measurements.
    pub fn start_durable() -> Result<Postgres> {
        Self::start_as(true)
    }

    fn start_as(is_durable: bool) -> Result<Postgres> {
        let programs = Programs::find()?;
        let folder = make_folder(&programs)?;
        let mut keeper = start_keeper(&programs, &folder)?;
        let pipe = keeper.stdin.take();
        let mut cluster = Postgres { programs, folder, port: 0, is_durable, keeper, pipe };
        cluster.init()?;
        // Another process may take the free port before the server does.
        for _ in 0..4 {
            cluster.port = free_port()?;
            if cluster.pg_ctl("start").is_ok() {
                return Ok(cluster);
            }
        }
        cluster.port = free_port()?;
        cluster.pg_ctl("start")?;
        Ok(cluster)
    }

    /// The URL of a database of the cluster; `postgres` is there from the start.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates an empty database with a name of its own and gives its URL.
    pub fn create_database(&self) -> Result<String> {
        let name = fresh_name();
        execute(&self.programs, &self.url("postgres"), &format!("CREATE DATABASE {name}"))?;
        Ok(self.url(&name))
    }

    /// Crashes the server: connections break, nothing is shut down in order.
    pub fn stop_immediate(&self) -> Result<()> {
        self.pg_ctl("-m immediate stop")
    }

    /// Starts the server again on the same port, after crashing it where it runs.
    pub fn restart_immediate(&self) -> Result<()> {
        self.pg_ctl("-m immediate restart")
    }

    fn init(&self) -> Result<()> {
        let data = self.folder.join("data");
        self.programs.run_as_server(&format!(
            "{} -D {} -U postgres -A trust --no-sync -E UTF8 --locale=C.UTF-8",
            self.programs.path("initdb"),
            data.display()
        ))
    }

    fn pg_ctl(&self, action: &str) -> Result<()> {
        let folder = self.folder.display();
        let durability = if self.is_durable { "" } else { QUICK };
        self.programs.run_as_server(&format!(
            "{} -D {folder}/data -w -t 60 -l {folder}/log -o '-p {} {SETTINGS} {durability}' {action}",
            self.programs.path("pg_ctl"),
            self.port
        ))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // The keeper has stopped the cluster when it ends; there is nobody to tell if it failed.
        let _ = self.keeper.wait();
    }
}

/// A fresh, empty database; dropped with the handle as far as that is possible.
#[derive(Debug)]
pub struct SharedDatabase {
    programs: Programs,
    server: String,
    name: String,
}

impl SharedDatabase {
    /// The database's URL.
    pub fn url(&self) -> String {
        with_database(&self.server, &self.name)
    }
}

impl Drop for SharedDatabase {
    fn drop(&mut self) {
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let _ = execute(&self.programs, &self.server, &statement);
    }
}

/// A fresh database on the server that [`SERVER_VARIABLE`] names; without it on a cluster that
/// this process starts once and that ends with the process.
pub fn shared() -> Result<SharedDatabase> {
    let programs = Programs::find()?;
    let server = match std::env::var(SERVER_VARIABLE) {
        Ok(url) if !url.is_empty() => url,
        _ => own_server()?,
    };
    let name = fresh_name();
    execute(&programs, &server, &format!("CREATE DATABASE {name}"))?;
    Ok(SharedDatabase { programs, server, name })
}

/// What a statement answers, run by psql on the database at `url`: a line a row, `|` between columns.
pub fn ask(url: &str, statement: &str) -> Result<String> {
    execute(&Programs::find()?, url, statement)
}

/// Runs the statements of a file on the database at `url`, as pg_dump writes them.
pub fn load(url: &str, file: &Path) -> Result<()> {
    let done = Command::new(Programs::find()?.path("psql"))
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(file)
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .context("running psql")?;
    ensure!(done.status.success(), "loading failed: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn own_server() -> Result<String> {
    static CLUSTER: Mutex<Option<Postgres>> = Mutex::new(None);
    let mut cluster = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    if cluster.is_none() {
        *cluster = Some(Postgres::start()?);
    }
    Ok(cluster.as_ref().map(|started| started.url("postgres")).unwrap_or_default())
}

/// Where PostgreSQL's programs are and as whom its server runs.
#[derive(Debug, Clone)]
struct Programs {
    folder: PathBuf,
    /// PostgreSQL refuses to run as root; it then runs as the user `postgres`.
    as_root: bool,
}

impl Programs {
    fn find() -> Result<Programs> {
        let packaged = newest_packaged();
        let in_path = || {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).find(|folder| folder.join("initdb").exists())
        };
        let folder = packaged.or_else(in_path).context(
            "PostgreSQL is needed for this test and is not installed: apt-get install -y postgresql",
        )?;
        let user = Command::new("id").arg("-u").output().context("running `id -u`")?;
        Ok(Programs { folder, as_root: user.stdout.starts_with(b"0\n") })
    }

    fn path(&self, program: &str) -> String {
        self.folder.join(program).display().to_string()
    }

    /// A shell command, run as the user whom the server runs as.
    fn as_server(&self, script: &str) -> Command {
        let mut command;
        if self.as_root {
            command = Command::new("su");
            command.args(["postgres", "-s", "/bin/sh", "-c", script]);
        } else {
            command = Command::new("/bin/sh");
            command.args(["-c", script]);
        }
        command
    }

    /// Runs it to its end. Its output goes to a file, not to a pipe: the server that it starts
    /// keeps the file open.
    fn run_as_server(&self, script: &str) -> Result<()> {
        let mut output = tempfile::tempfile().context("a file for the output")?;
        let status = self
            .as_server(script)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .status()
            .with_context(|| format!("running `{script}`"))?;
        if !status.success() {
            bail!("`{script}` failed: {}", read_back(&mut output));
        }
        Ok(())
    }
}

/// `/usr/lib/postgresql/<version>/bin` of the greatest version, as Debian's packages have it.
fn newest_packaged() -> Option<PathBuf> {
    let version = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let folders = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let installed = folders.filter(|entry| entry.path().join("bin/initdb").exists());
    Some(installed.max_by_key(version)?.path().join("bin"))
}

fn make_folder(programs: &Programs) -> Result<PathBuf> {
    let folder = tempfile::Builder::new().prefix("nozzle-postgres-").tempdir()?;
    if programs.as_root {
        // The server's user must be able to own the folder and to reach it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let owned = Command::new("chown").arg("postgres:").arg(folder.path()).status()?;
        ensure!(owned.success(), "the user `postgres` is missing: apt-get install -y postgresql");
    }
    Ok(folder.keep())
}

/// Starts the shell that cleans up once the pipe to it is closed. It has a process group of its
/// own, so that a signal to the test's group does not end it too.
fn start_keeper(programs: &Programs, folder: &Path) -> Result<Child> {
    let folder = folder.display();
    let pg_ctl = programs.path("pg_ctl");
    let script = format!(
        "trap '' INT TERM HUP; read -r _; {pg_ctl} -D {folder}/data -m immediate stop; rm -rf {folder}/*; rmdir {folder}"
    );
    programs
        .as_server(&script)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the cluster's keeper")
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("a free port")?;
    Ok(listener.local_addr()?.port())
}

fn read_back(output: &mut fs::File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    let read = output.rewind().and_then(|()| output.read_to_string(&mut text));
    read.map_or_else(|error| error.to_string(), |_| text.trim().to_owned())
}

/// A database name that no other test has.
fn fresh_name() -> String {
    use std::hash::{BuildHasher, RandomState};
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // A RandomState has keys of its own each time it is made.
    format!("nozzle_{:016x}", RandomState::new().hash_one((now, std::process::id())))
}

fn execute(programs: &Programs, url: &str, statement: &str) -> Result<String> {
    let done = Command::new(programs.path("psql"))
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement, url])
        .stdin(Stdio::null())
        .output()
        .context("running psql")?;
    ensure!(done.status.success(), "`{statement}` failed: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
}

/// The URL with another database in it.
fn with_database(url: &str, database: &str) -> String {
    let (address, parameters) = match url.split_once('?') {
        Some((address, parameters)) => (address, format!("?{parameters}")),
        None => (url, String::new()),
    };
    let authority = address.find("://").map_or(0, |scheme| scheme + 3);
    let end = address[authority..].find('/').map_or(address.len(), |slash| authority + slash);
    format!("{}/{database}{parameters}", &address[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        for (url, expected) in [
            ("postgres://u@h:1/postgres", "postgres://u@h:1/db"),
            ("postgres://u:p@h:1", "postgres://u:p@h:1/db"),
            ("postgres://h/a?sslmode=disable", "postgres://h/db?sslmode=disable"),
        ] {
            assert_eq!(with_database(url, "db"), expected);
        }
    }

    #[test]
    fn a_cluster_takes_statements_crashes_restarts_and_leaves_nothing() -> Result<()> {
        let cluster = Postgres::start()?;
        let url = cluster.create_database()?;
        let programs = cluster.programs.clone();
        execute(&programs, &url, "CREATE TABLE kept (n INT)")?;
        cluster.stop_immediate()?;
        assert!(execute(&programs, &url, "SELECT 1").is_err());
        cluster.restart_immediate()?;
        execute(&programs, &url, "INSERT INTO kept VALUES (1)")?;
        cluster.restart_immediate()?;
        assert_eq!(ask(&url, "SELECT n FROM kept")?, "1");

        let folder = cluster.folder.clone();
        drop(cluster);
        assert!(!folder.exists());
        assert!(execute(&programs, &url, "SELECT 1").is_err());
        Ok(())
    }

    #[test]
    fn shared_databases_are_apart_and_dropped() -> Result<()> {
        let (one, other) = (shared()?, shared()?);
        assert_ne!(one.url(), other.url());
        execute(&one.programs, &one.url(), "CREATE TABLE mine (n INT)")?;
        assert!(execute(&other.programs, &other.url(), "SELECT * FROM mine").is_err());
        let (programs, url) = (one.programs.clone(), one.url());
        drop(one);
        assert!(execute(&programs, &url, "SELECT 1").is_err());
        Ok(())
    }
}

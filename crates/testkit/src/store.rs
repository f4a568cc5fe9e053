//! Object stores: real servers on loopback, each with a folder and ports of its own, and a proxy that
//! breaks what passes.

mod proxy;

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tempfile::TempDir;

pub use proxy::{Passed, StoreFault, StoreProxy, StoreProxyOptions};

use crate::{process::OwnedProcess, tools};

/// How long a server may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The bucket, or container, that every server of this module has from the start.
pub const BUCKET: &str = "nozzle-test";

/// The account of Azurite, known to all.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A store that ends, with all its files, when the handle is dropped.
#[derive(Debug)]
pub struct StoreServer {
    kind: Kind,
    address: SocketAddr,
    // In this order: the process ends before its folder goes.
    _process: OwnedProcess,
    folder: TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    SeaweedFs,
    Moto,
    Azurite,
}

impl StoreServer {
    /// SeaweedFS, which speaks S3.
    pub fn seaweedfs() -> anyhow::Result<Self> {
        Self::start(Kind::SeaweedFs)
    }

    /// moto, which speaks S3 too.
    pub fn moto() -> anyhow::Result<Self> {
        Self::start(Kind::Moto)
    }

    /// Azurite, which speaks Azure Blob Storage.
    pub fn azurite() -> anyhow::Result<Self> {
        Self::start(Kind::Azurite)
    }

    fn start(kind: Kind) -> anyhow::Result<Self> {
        // Another process may take a port before the server does.
        let mut failure = None;
        for _ in 0..3 {
            match Self::start_once(kind) {
                Ok(server) => return Ok(server),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("the store was never started")))
    }

    fn start_once(kind: Kind) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("nozzle-store-").tempdir()?;
        let ports = free_ports()?;
        let log = folder.path().join("log");
        let mut command = command(kind, &folder, &ports)?;
        let output = File::create(&log).context("the log of the store")?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = OwnedProcess::spawn(&mut command).with_context(|| format!("starting {command:?}"))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0]));
        let mut server = Self { kind, address, _process: process, folder };
        let started = Instant::now();
        while !server.is_ready() {
            if started.elapsed() > START_TIMEOUT || server._process.child().try_wait()?.is_some() {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(10).collect();
                bail!("the store did not start: {}", last.join(" / "));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    fn is_ready(&self) -> bool {
        if TcpStream::connect(self.address).is_err() {
            return false;
        }
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return false;
        };
        runtime.block_on(self.make_bucket()).is_ok()
    }

    async fn make_bucket(&self) -> anyhow::Result<()> {
        match self.kind {
            // Both take an unsigned request: SeaweedFS lets `anonymous` make buckets here.
            Kind::SeaweedFs | Kind::Moto => {
                let _ = rustls::crypto::ring::default_provider().install_default();
                let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
                let answer = client.put(format!("http://{}/{BUCKET}", self.address)).send().await?;
                if !answer.status().is_success() && answer.status().as_u16() != 409 {
                    bail!("making the bucket: {}", answer.status());
                }
                Ok(())
            }
            Kind::Azurite => {
                let status = Command::new(tools::in_python("python")?)
                    .args(["-c", MAKE_CONTAINER, &format!("http://{}", self.address)])
                    .args([AZURE_ACCOUNT, AZURE_KEY, BUCKET])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()?;
                if status.success() { Ok(()) } else { bail!("making the container failed") }
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a folder in the bucket, for Nozzle.
    pub fn url(&self, folder: &str) -> String {
        let scheme = if self.kind == Kind::Azurite { "az" } else { "s3" };
        format!("{scheme}://{BUCKET}/{folder}")
    }

    /// The variables by which Nozzle reaches it, through a proxy's URL where there is one.
    pub fn variables(&self, through: Option<&str>) -> Vec<(&'static str, String)> {
        let endpoint = through.map_or(format!("http://{}", self.address), str::to_owned);
        match self.kind {
            Kind::SeaweedFs | Kind::Moto => vec![
                ("AWS_ENDPOINT_URL", endpoint),
                ("AWS_ACCESS_KEY_ID", "key".into()),
                ("AWS_SECRET_ACCESS_KEY", "secret".into()),
                ("AWS_REGION", "us-east-1".into()),
            ],
            Kind::Azurite => vec![
                ("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT.into()),
                ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY.into()),
                ("AZURE_STORAGE_ENDPOINT", format!("{endpoint}/{AZURE_ACCOUNT}")),
            ],
        }
    }

    /// The variables of somebody who may only read; only SeaweedFS tells them apart.
    pub fn read_only_variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.variables(None);
        for (name, value) in &mut variables {
            match *name {
                "AWS_ACCESS_KEY_ID" => *value = "reader".into(),
                "AWS_SECRET_ACCESS_KEY" => *value = "readers-secret".into(),
                _ => {}
            }
        }
        variables
    }

    /// The folder of its files.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

fn command(kind: Kind, folder: &TempDir, ports: &[u16; 8]) -> anyhow::Result<Command> {
    Ok(match kind {
        Kind::SeaweedFs => {
            let identities = folder.path().join("s3.json");
            fs::write(&identities, IDENTITIES).context("the identities of the store")?;
            let data = folder.path().join("data");
            fs::create_dir(&data)?;
            let [s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc] = ports;
            let mut command = Command::new(tools::in_python("weed")?);
            command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]);
            command.args([
                format!("-dir={}", data.display()),
                format!("-s3.config={}", identities.display()),
                format!("-s3.port={s3}"),
                format!("-s3.port.grpc={s3_grpc}"),
                format!("-master.port={master}"),
                format!("-master.port.grpc={master_grpc}"),
                format!("-volume.port={volume}"),
                format!("-volume.port.grpc={volume_grpc}"),
                format!("-filer.port={filer}"),
                format!("-filer.port.grpc={filer_grpc}"),
            ]);
            command.args([
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.telemetry=false",
                "-master.volumeSizeLimitMB=64",
                "-volume.max=20",
            ]);
            command
        }
        Kind::Moto => {
            let mut command = Command::new(tools::in_python("moto_server")?);
            command.args(["-H", "127.0.0.1", "-p", &ports[0].to_string()]);
            command
        }
        Kind::Azurite => {
            let mut command = Command::new("node");
            command
                .arg(tools::azurite()?.join("node_modules/azurite/dist/src/blob/main.js"))
                .args(["--blobHost", "127.0.0.1", "--blobPort", &ports[0].to_string()])
                .args(["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"])
                .current_dir(folder.path());
            command
        }
    })
}

/// Whoever has the key may do all, the reader may read, and anybody may make the bucket.
const IDENTITIES: &str = r#"{"identities":[
  {"name":"owner","credentials":[{"accessKey":"key","secretKey":"secret"}],
   "actions":["Admin","Read","Write","List","Tagging"]},
  {"name":"reader","credentials":[{"accessKey":"reader","secretKey":"readers-secret"}],
   "actions":["Read","List"]},
  {"name":"anonymous","actions":["Admin"]}]}"#;

/// A request for a container has to be signed, over its headers and the account's name.
const MAKE_CONTAINER: &str = r#"
import base64, hashlib, hmac, sys, urllib.request
from email.utils import formatdate
url, account, key, container = sys.argv[1:]
headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
lines = ["PUT"] + [""] * 11 + [f"{name}:{value}" for name, value in headers.items()]
lines += [f"/{account}/{account}/{container}", "restype:container"]
digest = hmac.new(base64.b64decode(key), "\n".join(lines).encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(digest).decode()}"
headers["Content-Length"] = "0"
request = urllib.request.Request(f"{url}/{account}/{container}?restype=container", method="PUT", headers=headers)
urllib.request.urlopen(request, timeout=10)
"#;

/// Free ports below those that the system gives to outgoing connections.
fn free_ports() -> anyhow::Result<[u16; 8]> {
    let mut ports = [0; 8];
    let mut held = vec![];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

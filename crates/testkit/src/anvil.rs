//! An EVM node: anvil, on a free port of its own.
//!
//! What is worth knowing about it (1.7.1):
//!
//! - Blocks are mined on request. Two runs with the same requests give the same hashes, as long as
//!   every block's timestamp is given (`evm_mine` with a timestamp); [`Anvil::mine`] gives it.
//! - `anvil_reorg(depth, [])` replaces the blocks by empty ones at the same height and drops their
//!   transactions. The new blocks draw the same randomness (`mixHash`) again, so reorganising
//!   empty blocks twice gives *the same hashes*; [`Anvil::reorg`] therefore puts a transaction of
//!   its own into the first new block. The new blocks' timestamps come from the clock, and the
//!   first one's base fee from the replaced head, not from its parent.
//! - A JSON-RPC batch is worked on concurrently: two `evm_mine` in one batch mix up which block a
//!   transaction lands in. One block a batch is safe.
//! - safe is 32 blocks behind the head and finalized 64, or one and two with `slots_in_an_epoch` 1.

use std::{
    io::{BufRead, BufReader, Read, Seek},
    path::PathBuf,
    process::{ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use alloy_primitives::B256;
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::{
    process::OwnedProcess,
    rpc::{RpcClient, hex_quantity, quantity},
    tools,
};

/// A start takes about 0.1 s; on a machine that is busy with other tests much longer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Seconds between blocks that [`Anvil::mine`] makes.
const BLOCK_SECONDS: u64 = 12;

/// How to start an [`Anvil`].
#[derive(Debug, Clone)]
pub struct AnvilOptions {
    /// Mine only when asked (the default). Otherwise each transaction makes a block, or
    /// `block_time` says when.
    pub no_mining: bool,
    /// Mine every so many seconds; takes the place of `no_mining`.
    pub block_time: Option<u64>,
    /// The chain id, 31337 unless said otherwise.
    pub chain_id: u64,
    /// The timestamp of block 0, in seconds.
    pub timestamp: u64,
    /// The rules of the chain, `prague` unless said otherwise.
    pub hardfork: String,
    /// How far safe and finalized are behind the head: one and two times this; 32 by default.
    pub slots_in_an_epoch: Option<u64>,
    /// A file written by an anvil with `--dump-state`, to start from. It cannot be reorganised
    /// below its head unless `preserve_historical_states` was set where it was written.
    pub load_state: Option<PathBuf>,
    /// Keep the states of old blocks in what is dumped.
    pub preserve_historical_states: bool,
    /// The port; 0 takes a free one. Restarting on the port of an anvil that ended is what the
    /// others are for.
    pub port: u16,
    /// Where its IPC socket is; none unless said.
    pub ipc: Option<PathBuf>,
    /// Further arguments as anvil takes them.
    pub extra_args: Vec<String>,
}

impl Default for AnvilOptions {
    fn default() -> Self {
        Self {
            no_mining: true,
            block_time: None,
            chain_id: 31337,
            timestamp: 1_700_000_000,
            hardfork: "prague".to_owned(),
            slots_in_an_epoch: None,
            load_state: None,
            preserve_historical_states: false,
            port: 0,
            ipc: None,
            extra_args: Vec::new(),
        }
    }
}

impl AnvilOptions {
    fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = vec!["--order".into(), "fifo".into()];
        let mut set = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        set("--port", self.port.to_string());
        set("--chain-id", self.chain_id.to_string());
        set("--timestamp", self.timestamp.to_string());
        set("--hardfork", self.hardfork.clone());
        if let Some(slots) = self.slots_in_an_epoch {
            set("--slots-in-an-epoch", slots.to_string());
        }
        if let Some(state) = &self.load_state {
            set("--load-state", state.display().to_string());
        }
        if let Some(path) = &self.ipc {
            set("--ipc", path.display().to_string());
        }
        match self.block_time {
            Some(seconds) => set("--block-time", seconds.to_string()),
            None if self.no_mining => arguments.push("--no-mining".to_owned()),
            None => {}
        }
        if self.preserve_historical_states {
            arguments.push("--preserve-historical-states".to_owned());
        }
        arguments.extend(self.extra_args.iter().cloned());
        arguments
    }
}

/// A running anvil; killed when dropped, and when the process that holds it is killed.
#[derive(Debug)]
pub struct Anvil {
    process: OwnedProcess,
    port: u16,
    rpc: RpcClient,
    reorgs: AtomicU64,
    /// Where anvil keeps old states; left behind in the home folder if it were not said.
    _folder: TempDir,
}

impl Anvil {
    /// Starts anvil and waits until it answers.
    pub async fn start(options: AnvilOptions) -> anyhow::Result<Self> {
        let program = tools::anvil()?;
        let folder = tempfile::Builder::new().prefix("nozzle-anvil-").tempdir()?;
        let mut errors = tempfile::tempfile()?;
        let mut command = Command::new(&program);
        command.args(options.arguments()).arg("--cache-path").arg(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
        let mut process = OwnedProcess::spawn(&mut command)
            .with_context(|| format!("start anvil ({})", program.display()))?;
        let stdout = process.child().stdout.take().context("anvil's output")?;
        let Some(port) = announced_port(stdout).await? else {
            process.kill();
            bail!("anvil ended while starting: {}", text_of(&mut errors));
        };
        let rpc = RpcClient::new(format!("http://127.0.0.1:{port}"))?;
        let anvil = Self { process, port, rpc, reorgs: AtomicU64::new(0), _folder: folder };
        // It listens before it says so. It has told its port and need not tell of each request.
        anvil.rpc.call("anvil_setLoggingEnabled", json!([false])).await.context("anvil's first answer")?;
        Ok(anvil)
    }

    /// The address of its JSON-RPC over HTTP.
    pub fn url(&self) -> &str {
        self.rpc.url()
    }

    /// The address of its JSON-RPC over a WebSocket.
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// A client of it.
    pub fn rpc(&self) -> &RpcClient {
        &self.rpc
    }

    /// The number and the hash of the head.
    pub async fn head(&self) -> anyhow::Result<(u64, B256)> {
        let block = self.rpc.call("eth_getBlockByNumber", json!(["latest", false])).await?;
        Ok((quantity(&block["number"])?, hash(&block)?))
    }

    /// The hash of the block `number`, which must exist.
    pub async fn block_hash(&self, number: u64) -> anyhow::Result<B256> {
        let params = json!([hex_quantity(number), false]);
        hash(&self.rpc.call("eth_getBlockByNumber", params).await?)
    }

    /// Mines `blocks` blocks 12 s apart. The first takes the transactions that wait.
    pub async fn mine(&self, blocks: u64) -> anyhow::Result<()> {
        let head = self.rpc.call("eth_getBlockByNumber", json!(["latest", false])).await?;
        let mut timestamp = quantity(&head["timestamp"])?;
        for _ in 0..blocks {
            timestamp += BLOCK_SECONDS;
            self.rpc.call("evm_mine", json!([hex_quantity(timestamp)])).await?;
        }
        Ok(())
    }

    /// Replaces the top `depth` blocks by as many others. Their transactions are gone; the first
    /// new block has one transaction (the tenth account to itself), the others are empty. All
    /// replaced blocks get other hashes, which is checked.
    pub async fn reorg(&self, depth: u64) -> anyhow::Result<()> {
        ensure!(depth > 0, "a reorg replaces at least one block");
        let (head, _) = self.head().await?;
        let first = (head + 1).checked_sub(depth).filter(|first| *first > 0);
        let first = first.with_context(|| format!("a reorg of {depth} blocks at height {head}"))?;
        let before = self.block_hash(first).await?;
        let marker = self.marker_transaction().await?;
        self.rpc.call("anvil_reorg", json!([depth, [[marker, 0]]])).await?;
        let (head_after, _) = self.head().await?;
        ensure!(head_after == head, "anvil_reorg moved the head from {head} to {head_after}");
        ensure!(self.block_hash(first).await? != before, "anvil_reorg brought block {first} back");
        Ok(())
    }

    /// A transaction that no block of this anvil holds yet: its value counts the reorgs.
    async fn marker_transaction(&self) -> anyhow::Result<Value> {
        let accounts = self.rpc.call("eth_accounts", json!([])).await?;
        let account = accounts.as_array().and_then(|list| list.last()).context("no account")?;
        let count = self.reorgs.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(json!({ "from": account, "to": account, "value": hex_quantity(count), "gas": "0x5208" }))
    }

    /// Takes the top `depth` blocks away: the head is lower afterwards.
    pub async fn rollback(&self, depth: u64) -> anyhow::Result<()> {
        self.rpc.call("anvil_rollback", json!([depth])).await.map(drop)
    }

    /// Kills anvil (SIGKILL), as a crash would. Calls fail from now on.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn hash(block: &Value) -> anyhow::Result<B256> {
    let text = block["hash"].as_str().with_context(|| format!("no block: {block}"))?;
    text.parse().with_context(|| format!("not a hash: {text}"))
}

/// The port out of anvil's `Listening on 127.0.0.1:PORT`; `None` if it ends without saying so.
///
/// A thread reads its output, and goes on to the end: anvil must not fill the pipe.
async fn announced_port(stdout: ChildStdout) -> anyhow::Result<Option<u16>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut sender = Some(sender);
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let port = line.strip_prefix("Listening on ").and_then(port_of);
            if let Some((port, sender)) = port.and_then(|port| sender.take().map(|sender| (port, sender))) {
                let _ = sender.send(port);
            }
        }
    });
    match tokio::time::timeout(START_TIMEOUT, receiver).await {
        Ok(port) => Ok(port.ok()),
        Err(_) => bail!("anvil did not start within {} s", START_TIMEOUT.as_secs()),
    }
}

fn port_of(address: &str) -> Option<u16> {
    address.trim().rsplit_once(':')?.1.parse().ok()
}

fn text_of(file: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    read.map_or_else(|error| error.to_string(), |_| String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn anvil() -> Anvil {
        Anvil::start(AnvilOptions::default()).await.expect("start anvil")
    }

    async fn hashes(anvil: &Anvil, numbers: std::ops::RangeInclusive<u64>) -> Vec<B256> {
        let mut list = Vec::new();
        for number in numbers {
            list.push(anvil.block_hash(number).await.expect("a hash"));
        }
        list
    }

    #[tokio::test]
    async fn anvil_mines_only_when_asked_and_the_same_chain_each_time() {
        let (one, other) = (anvil().await, anvil().await);
        assert_ne!(one.port(), other.port());
        assert_eq!(one.head().await.expect("head").0, 0);
        one.mine(3).await.expect("mine");
        other.mine(3).await.expect("mine");
        let head = one.head().await.expect("head");
        assert_eq!(head.0, 3);
        assert_eq!(head, other.head().await.expect("head"));
    }

    #[tokio::test]
    async fn a_reorg_keeps_the_height_and_changes_every_hash_each_time() {
        let anvil = anvil().await;
        // At this height the base fee no longer falls: nothing but its transactions tells an
        // empty block from the one that replaces it.
        anvil.mine(200).await.expect("mine");
        let mut before = hashes(&anvil, 194..=200).await;
        for _ in 0..3 {
            anvil.reorg(5).await.expect("reorg");
            let after = hashes(&anvil, 194..=200).await;
            assert_eq!(before[..2], after[..2]);
            assert!((2..7).all(|i| before[i] != after[i]), "{before:?} {after:?}");
            before = after;
        }
        assert!(anvil.reorg(0).await.is_err());
        assert!(anvil.reorg(201).await.is_err());
    }

    #[tokio::test]
    async fn a_rollback_lowers_the_head() {
        let anvil = anvil().await;
        anvil.mine(5).await.expect("mine");
        let third = anvil.block_hash(3).await.expect("a hash");
        anvil.rollback(2).await.expect("rollback");
        assert_eq!(anvil.head().await.expect("head"), (3, third));
    }

    #[tokio::test]
    async fn a_killed_anvil_is_gone_and_another_can_take_its_port() {
        let mut first = anvil().await;
        let port = first.port();
        first.kill();
        assert!(first.head().await.is_err());
        let options = AnvilOptions { port, chain_id: 5, slots_in_an_epoch: Some(1), ..Default::default() };
        let second = Anvil::start(options).await.expect("start on the same port");
        assert_eq!(second.port(), port);
        assert_eq!(second.rpc().call("eth_chainId", json!([])).await.expect("chain id"), "0x5");
        second.mine(5).await.expect("mine");
        let finalized = json!(["finalized", false]);
        let finalized = second.rpc().call("eth_getBlockByNumber", finalized).await.expect("finalized");
        assert_eq!(finalized["number"], "0x3");
        let client = second.rpc().clone();
        drop(second);
        assert!(client.call("eth_chainId", json!([])).await.is_err());
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error_that_says_so() {
        let first = anvil().await;
        let options = AnvilOptions { port: first.port(), ..Default::default() };
        let error = Anvil::start(options).await.expect_err("the port is taken");
        assert!(error.to_string().contains("ddress"), "{error:#}");
    }
}

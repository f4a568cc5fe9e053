//! The test kit's counterparts for scripts: a replay node, a beacon node, an anvil, endpoints of
//! Substreams and Firehose, a database, a recorder, a writer of chains, and a measure of JSON parsers.
//!
//! The recorded chain for demonstrations (`assets/demo-chain.jsonl.zst`) is made again with
//!
//! ```text
//! anvil --no-mining --order fifo --timestamp 1700000000 --hardfork prague --silent &
//! nozzle-testkit chain --url http://127.0.0.1:8545 --blocks 300
//! nozzle-testkit capture --url http://127.0.0.1:8545 --out crates/testkit/assets/demo-chain.jsonl.zst
//! ```

use std::{io::Read, path::PathBuf, str::FromStr, time::Duration};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    beacon::{BeaconChain, BeaconNode},
    chain::ChainBuilder,
    firehose::{self, FirehoseServer, made, made_on},
    parse,
    postgres::Postgres,
    replay::{Recording, ReplayOptions, ReplayServer},
    rpc::{RpcClient, quantity},
    substreams::{SubstreamsOptions, SubstreamsServer, example},
};
use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// Counterparts for tests and demonstrations.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves a recorded or generated chain as JSON-RPC. Prints its URL when it is ready; ends on
    /// SIGTERM or when its standard input is closed.
    Replay(ReplayArguments),
    /// Serves a recorded or generated beacon chain as the Beacon API. Prints its URL when it is ready; ends as
    /// a replay does.
    Beacon(BeaconArguments),
    /// Runs an anvil that mines by the clock. Prints the URL of its JSON-RPC when it is ready; ends as
    /// a replay does.
    Anvil(AnvilArguments),
    /// Runs a PostgreSQL cluster of its own that writes through to the disk. Prints the URL of an
    /// empty database when it is ready; ends as a replay does.
    Postgres,
    /// Serves the example package's module, with a block every so often, and every tenth time a reorg of up to five
    /// blocks. Prints its URL when it is ready; ends as a replay does.
    Substreams(SubstreamsArguments),
    /// Serves blocks of files as Firehose, or made ones with a block every so often, and every tenth time a reorg of up
    /// to five blocks. Made ones have hashes that are not those of their headers: extract them with `--verify
    /// links`. Prints its URL when it is ready; ends as a replay does.
    Firehose(FirehoseArguments),
    /// Records a node's chain into a file.
    Capture(CaptureArguments),
    /// Fills a running anvil (--no-mining --order fifo) with a varied chain.
    Chain(ChainArguments),
    /// Parses a chain's JSON and does nothing else; prints {"blocks":…,"bytes":…,"cpu_seconds":…}.
    Parse(ParseArguments),
}

#[derive(Args)]
#[group(required = true, multiple = false, id = "source")]
struct Source {
    /// A recorded chain: lines of {"block":…,"receipts":[…]}; `.zst` is decompressed.
    #[arg(long)]
    file: Option<PathBuf>,
    /// A generated chain: BLOCKS,TXS,LOGS,SEED (transactions a block, logs a transaction).
    #[arg(long, value_name = "BLOCKS,TXS,LOGS,SEED")]
    synthetic: Option<Shape>,
    /// A generated chain like the Ethereum mainnet: blocks of about 590 KB with right hashes and
    /// roots. The seed is 1 if not given.
    #[arg(long, value_name = "BLOCKS[,SEED]")]
    mainnet_like: Option<Like>,
}

#[derive(Args)]
struct ReplayArguments {
    #[command(flatten)]
    source: Source,
    /// The port; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Wait so long before each answer.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Another chain id than the recorded one.
    #[arg(long)]
    chain_id: Option<u64>,
    /// Make the answers of a generated chain beforehand and keep them in memory; says on the
    /// standard error how many bytes these are.
    #[arg(long)]
    preload: bool,
    /// Stay when the standard input is closed.
    #[arg(long)]
    ignore_stdin: bool,
}

#[derive(Args)]
struct BeaconArguments {
    /// A recorded chain: a line {"spec":…,"genesis":…}, then lines of {"header":…,"block":…}; `.zst` is
    /// decompressed.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Of a generated chain: the last slot. Every seventh is skipped.
    #[arg(long, default_value_t = 100, conflicts_with = "file")]
    head: u64,
}

#[derive(Args)]
struct AnvilArguments {
    /// The seconds between two blocks.
    #[arg(long, default_value_t = 1)]
    block_time: u64,
}

#[derive(Args)]
struct SubstreamsArguments {
    /// Where the package is written.
    #[arg(long)]
    package: PathBuf,
    /// The last block at the start; the first is 5.
    #[arg(long, default_value_t = 60)]
    blocks: u64,
    /// The milliseconds between two blocks.
    #[arg(long, default_value_t = 1000)]
    block_time_ms: u64,
    /// The token that has to be sent.
    #[arg(long)]
    token: Option<String>,
}

#[derive(Args)]
struct FirehoseArguments {
    /// A folder with `.dbin` files, packed with zstd or not, whose blocks are served.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Of a made chain: the last block at the start; the first is 0.
    #[arg(long, default_value_t = 60, conflicts_with = "folder")]
    blocks: u64,
    /// Of a made chain: the milliseconds between two blocks.
    #[arg(long, default_value_t = 1000, conflicts_with = "folder")]
    block_time_ms: u64,
    /// The port; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The token that has to be sent.
    #[arg(long)]
    token: Option<String>,
    /// The name of the chain; it says none if not given.
    #[arg(long, default_value_t)]
    chain_name: String,
}

#[derive(Args)]
struct CaptureArguments {
    /// The node's JSON-RPC.
    #[arg(long)]
    url: String,
    /// The file; compressed if its name ends with `.zst`.
    #[arg(long)]
    out: PathBuf,
    /// The first block.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The last block; the head if not given.
    #[arg(long)]
    to: Option<u64>,
}

#[derive(Args)]
struct ChainArguments {
    /// The anvil's JSON-RPC.
    #[arg(long)]
    url: String,
    /// How many blocks, besides the two that deploy the contracts.
    #[arg(long)]
    blocks: u64,
    /// Another seed is another chain.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct ParseArguments {
    #[command(flatten)]
    source: Source,
    /// The parser.
    #[arg(long)]
    with: ParserName,
}

/// The parsers of `--with`.
#[derive(Clone, Copy, ValueEnum)]
enum ParserName {
    SerdeJson,
    SonicRs,
}

/// The numbers of `--synthetic`.
#[derive(Clone)]
struct Shape([u64; 4]);

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let numbers: Vec<u64> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let numbers = <[u64; 4]>::try_from(numbers).ok().context("four numbers: BLOCKS,TXS,LOGS,SEED")?;
        Ok(Self(numbers))
    }
}

/// The numbers of `--mainnet-like`.
#[derive(Clone)]
struct Like {
    blocks: u64,
    seed: u64,
}

impl FromStr for Like {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (blocks, seed) = text.split_once(',').unwrap_or((text, "1"));
        Ok(Self { blocks: blocks.parse()?, seed: seed.parse()? })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Replay(arguments) => replay(arguments).await,
        Command::Beacon(arguments) => beacon(arguments).await,
        Command::Anvil(arguments) => anvil(arguments).await,
        Command::Postgres => postgres().await,
        Command::Substreams(arguments) => substreams(arguments).await,
        Command::Firehose(arguments) => serve_firehose(arguments).await,
        Command::Capture(arguments) => capture(arguments).await,
        Command::Chain(arguments) => chain(arguments).await,
        Command::Parse(arguments) => parse(arguments),
    }
}

async fn replay(arguments: ReplayArguments) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let recording = arguments.source.open()?;
    let recording = if arguments.preload { recording.preload()? } else { recording };
    if arguments.preload {
        let (blocks, bytes) = (recording.len(), recording.stored_bytes());
        eprintln!("{blocks} blocks, {} MB of JSON in memory", bytes / 1_000_000);
    }
    let delay = Duration::from_millis(arguments.delay_ms);
    let options = ReplayOptions { port: arguments.port, delay, chain_id: arguments.chain_id };
    let server = ReplayServer::start(recording, options)?;
    println!("{}", server.url());
    if arguments.ignore_stdin {
        terminated.recv().await;
    } else {
        until_unwanted(terminated).await;
    }
    Ok(())
}

async fn beacon(arguments: BeaconArguments) -> anyhow::Result<()> {
    let terminated = signal(SignalKind::terminate())?;
    let chain = match arguments.file {
        Some(file) => BeaconChain::load(&file)?,
        None => {
            let skipped: Vec<u64> = (1..arguments.head).filter(|slot| slot % 7 == 0).collect();
            BeaconChain::build(arguments.head, &skipped)
        }
    };
    let node = BeaconNode::start(chain)?;
    println!("{}", node.url());
    until_unwanted(terminated).await;
    Ok(())
}

async fn anvil(arguments: AnvilArguments) -> anyhow::Result<()> {
    let terminated = signal(SignalKind::terminate())?;
    let options = AnvilOptions { block_time: Some(arguments.block_time), ..AnvilOptions::default() };
    let anvil = Anvil::start(options).await?;
    println!("{}", anvil.url());
    until_unwanted(terminated).await;
    Ok(())
}

async fn substreams(arguments: SubstreamsArguments) -> anyhow::Result<()> {
    let terminated = signal(SignalKind::terminate())?;
    let SubstreamsArguments { package, blocks, block_time_ms, token } = arguments;
    std::fs::write(&package, example::package(&["n", "fork"], 5))
        .with_context(|| format!("writing {}", package.display()))?;
    let options = SubstreamsOptions {
        blocks: example::blocks(0, 5..=blocks),
        final_depth: 12,
        token,
        ..SubstreamsOptions::default()
    };
    let server = SubstreamsServer::start(options)?;
    println!("{}", server.url());
    tokio::select! {
        () = grow(&server, blocks, Duration::from_millis(block_time_ms)) => {}
        () = until_unwanted(terminated) => {}
    }
    Ok(())
}

/// A block every so often, and other ones in the place of the last ones every tenth time.
async fn grow(server: &SubstreamsServer, mut head: u64, block_time: Duration) {
    let mut fork = 0_u8;
    loop {
        tokio::time::sleep(block_time).await;
        head += 1;
        let reorg = if head.is_multiple_of(10) { 1 + head / 10 % 5 } else { 0 };
        fork = fork.wrapping_add(u8::from(reorg > 0));
        server.extend(example::blocks(fork, head - reorg..=head));
    }
}

async fn serve_firehose(arguments: FirehoseArguments) -> anyhow::Result<()> {
    let terminated = signal(SignalKind::terminate())?;
    let FirehoseArguments { folder, blocks, block_time_ms, port, token, chain_name } = arguments;
    let chain = match &folder {
        Some(folder) => firehose::read_all(folder)?,
        None => made(0, blocks, 0),
    };
    let first_block = chain.first().context("there are no blocks")?.number;
    let options = firehose::Options { port, token, chain_name, first_block, ..firehose::Options::default() };
    let server = FirehoseServer::start(chain, options).await?;
    println!("{}", server.url());
    let grow = async {
        match folder {
            Some(_) => std::future::pending().await,
            None => grow_firehose(&server, blocks, Duration::from_millis(block_time_ms)).await,
        }
    };
    tokio::select! {
        () = grow => {}
        () = until_unwanted(terminated) => {}
    }
    Ok(())
}

/// A block every so often, and other ones in the place of the last ones every tenth time.
async fn grow_firehose(server: &FirehoseServer, mut head: u64, block_time: Duration) {
    let mut fork = 0_u8;
    loop {
        tokio::time::sleep(block_time).await;
        head += 1;
        let reorg = if head.is_multiple_of(10) { 1 + head / 10 % 5 } else { 0 };
        let parent = fork;
        fork = (fork + u8::from(reorg > 0)) % 100;
        server.push(made_on(head - reorg, head, fork, parent));
    }
}

async fn postgres() -> anyhow::Result<()> {
    let terminated = signal(SignalKind::terminate())?;
    let cluster = Postgres::start_durable()?;
    println!("{}", cluster.create_database()?);
    until_unwanted(terminated).await;
    Ok(())
}

/// Waits for SIGTERM or the end of the standard input.
async fn until_unwanted(mut terminated: Signal) {
    tokio::select! {
        _ = terminated.recv() => {}
        _ = stdin_closed() => {}
    }
}

impl Source {
    fn open(self) -> anyhow::Result<Recording> {
        match (self.file, self.synthetic, self.mainnet_like) {
            (Some(file), ..) => Recording::load(&file),
            (_, Some(Shape([blocks, txs, logs, seed])), _) => {
                Ok(Recording::synthetic(blocks, txs, logs, seed))
            }
            (.., Some(Like { blocks, seed })) => Ok(Recording::mainnet_like(blocks, seed)),
            (None, None, None) => anyhow::bail!("--file, --synthetic or --mainnet-like"),
        }
    }
}

/// A thread waits for the end of the standard input: tokio's own would keep the program from
/// ending while it reads.
fn stdin_closed() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|count| count > 0) {}
        let _ = sender.send(());
    });
    receiver
}

async fn capture(arguments: CaptureArguments) -> anyhow::Result<()> {
    let rpc = RpcClient::new(arguments.url)?;
    let to = match arguments.to {
        Some(to) => to,
        None => quantity(&rpc.call("eth_blockNumber", json!([])).await?)?,
    };
    Recording::capture(&rpc, arguments.from..=to).await?.save(&arguments.out)?;
    println!("blocks {} to {to} in {}", arguments.from, arguments.out.display());
    Ok(())
}

async fn chain(arguments: ChainArguments) -> anyhow::Result<()> {
    let rpc = RpcClient::new(arguments.url)?;
    let mut chain = ChainBuilder::with_rpc(rpc.clone(), arguments.seed).await?;
    let mut counts = chain.setup();
    counts += chain.extend(arguments.blocks).await?;
    let head = rpc.call("eth_getBlockByNumber", json!(["latest", false])).await?;
    println!(
        "{} blocks, {} transactions ({} failed, {} contracts created), {} logs; head {} {}",
        counts.blocks,
        counts.transactions,
        counts.failed,
        counts.creations,
        counts.logs,
        quantity(&head["number"])?,
        head["hash"].as_str().unwrap_or_default(),
    );
    Ok(())
}

fn parse(arguments: ParseArguments) -> anyhow::Result<()> {
    let recording = arguments.source.open()?.preload()?;
    let parser = match arguments.with {
        ParserName::SerdeJson => parse::Parser::SerdeJson,
        ParserName::SonicRs => parse::Parser::SonicRs,
    };
    let parse::Parsed { blocks, bytes, cpu_seconds } = parse::measure(&recording, parser)?;
    println!("{}", json!({ "blocks": blocks, "bytes": bytes, "cpu_seconds": cpu_seconds }));
    Ok(())
}

//! What can be typed. Below this module nobody knows of clap.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand};
use nozzle_core::{
    BlockNum, DatasetKind, DatasetName, DatasetRef, Network, TableName, manifest::Verify, name::InvalidName,
};

use crate::output::Format;

/// The longest name of a worker.
const MAX_NODE_ID: usize = 128;

/// Gets blockchain data into Parquet files, keeps track of them, and answers SQL over them.
#[derive(Debug, Parser)]
#[command(name = "nozzle", version, max_term_width = 100)]
pub struct Cli {
    /// The configuration file. Without one (and without ./nozzle.toml) everything lives in ./.nozzle/
    #[arg(long, global = true, env = "NOZZLE_CONFIG", value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Whether somebody sits in front of the program and tries things out.
    pub fn is_development(&self) -> bool {
        matches!(&self.command, Command::Server(server) if server.dev)
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Extract datasets to Parquet files, and end when the end block is reached
    Dump(DumpArgs),
    /// Run one SQL query on the extracted data
    Query(QueryArgs),
    /// Answer queries over Arrow Flight and HTTP until it is told to end
    Server(ServerArgs),
    /// Do the dump jobs that are scheduled, beside other workers, until it is told to end
    Worker(WorkerArgs),
    /// Show datasets and how far they reach, jobs and workers
    Status,
    /// List the live files of a dataset for DuckDB and other readers: paths, or URLs of an object store
    Files(FilesArgs),
    /// Check what is stored, reading only the files
    Check(CheckArgs),
    /// Merge small files into larger ones, all that can be merged now
    Compact(CompactArgs),
    /// Delete files that were replaced, or never committed, longer ago than the grace period
    Gc(GcArgs),
    /// Rebuild what a lost database knew of a dataset, from its files alone
    Restore(RestoreArgs),
    /// Look whether database and stores can do what they must, and say what to change
    Doctor,
    /// List, show or remove datasets
    #[command(subcommand)]
    Dataset(DatasetCommand),
    /// Bring the metadata database to this version's schema
    Migrate,
    /// Write the manifest of a raw dataset
    GenerateManifest(GenerateManifestArgs),
}

/// `nozzle dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// Datasets: names, name__x_y_z for a version, or paths of .json or .toml manifests
    #[arg(
        long,
        env = "DUMP_DATASET",
        value_delimiter = ',',
        value_name = "A,B,…",
        required_unless_present = "rpc_url"
    )]
    pub dataset: Vec<DatasetArg>,
    /// An EVM JSON-RPC endpoint to extract from, when nothing is defined yet
    #[arg(long, env = "DUMP_RPC_URL", value_name = "URL", hide_env_values = true)]
    pub rpc_url: Option<String>,
    /// Only the listed datasets, in the listed order, without those that they are derived from
    #[arg(long, env = "DUMP_IGNORE_DEPS", value_parser = switch)]
    pub ignore_deps: bool,
    /// The last block: a number (waited for if above the head), -N for N below the head, or latest
    #[arg(
        short,
        long,
        env = "DUMP_END_BLOCK",
        value_name = "N|-N|latest",
        default_value = "latest",
        allow_hyphen_values = true,
        value_parser = parse_end_block
    )]
    pub end_block: EndBlock,
    /// How many jobs extract side by side
    #[arg(short = 'j', long, env = "DUMP_N_JOBS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub n_jobs: u16,
    /// All tables are cut at the same block when the file of one reaches about this size, or when the
    /// flush interval of the configuration has passed
    #[arg(long, env = "DUMP_PARTITION_SIZE_MB", value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub partition_size_mb: u64,
    /// Dump again every N minutes; a failed run is logged and the next one still happens (not with
    /// --follow)
    #[arg(long, env = "DUMP_RUN_EVERY_MINS", value_name = "N", value_parser = clap::value_parser!(u64).range(1..=525_600), conflicts_with = "follow")]
    pub run_every_mins: Option<u64>,
    /// Never end: follow the head
    #[arg(long, env = "DUMP_FOLLOW", value_parser = switch)]
    pub follow: bool,
    /// Where a new revision is created instead of the data folder: a path, s3://, gs:// or az://
    #[arg(long, env = "DUMP_LOCATION", value_name = "PLACE")]
    pub location: Option<String>,
    /// Build a new revision beside the one that is read, and switch to it when it is complete
    #[arg(long, env = "DUMP_FRESH", value_parser = switch)]
    pub fresh: bool,
    /// Extract only blocks that the chain calls final
    #[arg(long, env = "DUMP_ONLY_FINALIZED_BLOCKS", value_parser = switch)]
    pub only_finalized_blocks: bool,
    /// How much of each block is checked before it is written: none, links, header (its hash), full (also
    /// the roots and blooms, from its content) or senders (also who signed) [default: what the manifest
    /// says, else header]
    #[arg(long, env = "DUMP_VERIFY", value_name = "LEVEL")]
    pub verify: Option<Verify>,
}

/// A dataset to dump, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatasetArg {
    /// A name, with or without a version.
    Name(DatasetRef),
    /// The path of a manifest.
    File(PathBuf),
}

impl FromStr for DatasetArg {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.ends_with(".json") || text.ends_with(".toml") {
            return Ok(Self::File(text.into()));
        }
        text.parse().map(Self::Name)
    }
}

/// The end of a dump, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndBlock {
    /// `latest`
    Latest,
    /// `N`
    Number(BlockNum),
    /// `-N`
    BelowHead(u64),
}

/// A switch as the environment has it.
fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "" | "0" | "n" | "no" | "f" | "false" | "off" => Ok(false),
        "1" | "y" | "yes" | "t" | "true" | "on" => Ok(true),
        _ => Err("it is neither true nor false".into()),
    }
}

fn parse_end_block(text: &str) -> Result<EndBlock, String> {
    let number = |digits: &str| digits.parse::<u64>().ok().filter(|n| *n <= nozzle_core::range::MAX_BLOCK);
    let parsed = match text.strip_prefix('-') {
        _ if text == "latest" => Some(EndBlock::Latest),
        Some(below) => number(below).map(EndBlock::BelowHead),
        None => number(text).map(EndBlock::Number),
    };
    parsed.ok_or_else(|| "give a block number, -N for N blocks below the head, or latest".into())
}

/// `nozzle query`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// One read-only SQL statement; - reads it from standard input
    pub sql: String,
    /// How the answer is written [default: by the ending of FILE, else table]
    #[arg(
        long,
        env = "QUERY_FORMAT",
        value_enum,
        hide_possible_values = true,
        value_name = "table|jsonl|csv|parquet"
    )]
    pub format: Option<Format>,
    /// Write to this file instead of standard output
    #[arg(short, long, env = "QUERY_OUT", value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `nozzle server`. The flags are selectors: none of them means all servers.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Only the named servers: Arrow Flight
    #[arg(long, env = "FLIGHT_SERVER", value_parser = switch)]
    pub flight_server: bool,
    /// Only the named servers: JSON Lines over HTTP
    #[arg(long, env = "JSONL_SERVER", value_parser = switch)]
    pub jsonl_server: bool,
    /// Only the named servers: the Admin API
    #[arg(long, env = "ADMIN_SERVER", value_parser = switch)]
    pub admin_server: bool,
    /// Also do the jobs that are scheduled, as the worker `worker` (not for production)
    #[arg(long, env = "SERVER_DEV", value_parser = switch)]
    pub dev: bool,
}

/// `nozzle worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// The worker's name, of which there is one: a letter, then letters, digits, _ - and .
    #[arg(long, env = "NOZZLE_NODE_ID", value_name = "ID", value_parser = parse_node_id)]
    pub node_id: String,
    /// How many tasks it extracts at a time; those that only wait for the next block do not count
    /// [default: the cores of the machine, at least 2]
    #[arg(long, env = "WORKER_MAX_TASKS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub max_tasks: Option<u16>,
    /// Where it runs: it takes tasks first whose provider names this region
    #[arg(long, env = "WORKER_REGION", value_name = "NAME")]
    pub region: Option<String>,
}

fn parse_node_id(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_name = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_allowed);
    match is_name && text.len() <= MAX_NODE_ID {
        true => Ok(text.to_owned()),
        false => {
            Err(format!("a letter, then letters, digits, `_`, `-` and `.`, at most {MAX_NODE_ID} of them"))
        }
    }
}

/// `nozzle files`.
#[derive(Debug, Args)]
pub struct FilesArgs {
    /// The dataset, or name__x_y_z for a version
    #[arg(long, env = "FILES_DATASET")]
    pub dataset: DatasetRef,
    /// Only this table
    #[arg(long, env = "FILES_TABLE")]
    pub table: Option<TableName>,
}

/// `nozzle check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The dataset, or name__x_y_z for a version
    #[arg(long, env = "CHECK_DATASET")]
    pub dataset: DatasetRef,
    /// How much of each block is checked: links, header (its hash), full (also the roots and blooms, from
    /// its content) or senders (also who signed); less where the dataset's kind allows less
    #[arg(long, env = "CHECK_VERIFY", value_name = "LEVEL", default_value = "full", value_parser = parse_check_level)]
    pub verify: Verify,
    /// The first block to check [default: the first that is stored]
    #[arg(long, env = "CHECK_START_BLOCK", value_name = "N")]
    pub start_block: Option<BlockNum>,
    /// The last block to check [default: the last that is stored]
    #[arg(long, env = "CHECK_END_BLOCK", value_name = "N")]
    pub end_block: Option<BlockNum>,
    /// Extract the files with findings again from the node, and put the new ones in their place
    #[arg(long, env = "CHECK_REPAIR", value_parser = switch)]
    pub repair: bool,
}

fn parse_check_level(text: &str) -> Result<Verify, String> {
    match text.parse() {
        Ok(Verify::None) => Err("it checks nothing; the levels are links, header, full, senders".into()),
        level => level,
    }
}

/// `nozzle compact`.
#[derive(Debug, Args)]
pub struct CompactArgs {
    /// Only these datasets: names, or name__x_y_z for a version
    #[arg(long, env = "COMPACT_DATASET", value_delimiter = ',', value_name = "A,B,…")]
    pub dataset: Vec<DatasetRef>,
}

/// `nozzle gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Only tell how much would be deleted
    #[arg(long, env = "GC_DRY_RUN", value_parser = switch)]
    pub dry_run: bool,
}

/// `nozzle restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The dataset, or name__x_y_z for one version of it [default version: all that are stored]
    #[arg(long, env = "RESTORE_DATASET")]
    pub dataset: DatasetRef,
    /// Where its files are, instead of the data folder: a path, s3://, gs:// or az://
    #[arg(long, env = "RESTORE_LOCATION", value_name = "PLACE")]
    pub location: Option<String>,
}

/// `nozzle dataset …`.
#[derive(Debug, Subcommand)]
pub enum DatasetCommand {
    /// List all datasets
    List,
    /// Show one dataset: its tables, where they lie and how far they reach
    Show {
        /// The dataset, or name__x_y_z for a version
        dataset: DatasetRef,
    },
    /// Remove a dataset: its revisions are retired, its files are no longer read
    Rm {
        /// The dataset, or name__x_y_z for a version
        dataset: DatasetRef,
        /// Do not ask
        #[arg(long, env = "DATASET_RM_YES", value_parser = switch)]
        yes: bool,
    },
}

/// `nozzle generate-manifest`.
#[derive(Debug, Args)]
pub struct GenerateManifestArgs {
    /// The network of the blocks, such as mainnet
    #[arg(long, env = "GM_NETWORK")]
    pub network: Network,
    /// The kind of source: evm-rpc, firehose, substreams or eth-beacon
    #[arg(long, env = "GM_KIND")]
    pub kind: DatasetKind,
    /// The dataset's name
    #[arg(long, env = "GM_NAME")]
    pub name: DatasetName,
    /// A file, or a folder: then <kind>.json in it. Without it, standard output
    #[arg(short, long, env = "GM_OUT", value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// The Substreams package (for --kind substreams)
    #[arg(long, env = "GM_SS_MANIFEST_URL", value_name = "URL")]
    pub manifest: Option<String>,
    /// The Substreams module (for --kind substreams)
    #[arg(long, env = "GM_SS_MODULE")]
    pub module: Option<String>,
    /// The first block; without it 0, or with a module the one that its package names
    #[arg(long, env = "GM_START_BLOCK", value_name = "N")]
    pub start_block: Option<BlockNum>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_flag_has_a_variable() {
        Cli::command().debug_assert();
        let mut commands: Vec<clap::Command> = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            for arg in command.get_opts() {
                assert!(arg.get_env().is_some(), "{} --{}", command.get_name(), arg.get_id());
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn a_node_id_is_a_letter_and_what_may_follow() {
        for good in ["w", "worker-01", "eu-west-1a-worker", "A_b.c-1"] {
            assert_eq!(parse_node_id(good), Ok(good.to_owned()));
        }
        for bad in ["", "1a", "-a", "a b", "a/b", "ä", &"a".repeat(129)] {
            assert!(parse_node_id(bad).is_err(), "{bad}");
        }
        assert!(Cli::try_parse_from(["nozzle", "worker"]).is_err(), "a worker has a name");
    }

    #[test]
    fn end_blocks_are_numbers_counts_below_the_head_or_latest() {
        assert_eq!(parse_end_block("latest"), Ok(EndBlock::Latest));
        assert_eq!(parse_end_block("12"), Ok(EndBlock::Number(12)));
        assert_eq!(parse_end_block("-12"), Ok(EndBlock::BelowHead(12)));
        for bad in ["", "-", "x", "--1", "1.5", "99999999999999999999", "18446744073709551615"] {
            assert!(parse_end_block(bad).is_err(), "{bad}");
        }
        let dump = Cli::try_parse_from(["nozzle", "dump", "--dataset", "a,b", "-e", "-3", "-j", "4"]);
        let Ok(Cli { command: Command::Dump(args), .. }) = dump else { panic!("{dump:?}") };
        assert_eq!(
            (args.dataset, args.end_block, args.n_jobs),
            (["a", "b"].map(|name| name.parse().expect("a name")).to_vec(), EndBlock::BelowHead(3), 4)
        );
        assert!(Cli::try_parse_from(["nozzle", "dump"]).is_err());
        assert!(Cli::try_parse_from(["nozzle", "dump", "--rpc-url", "http://localhost"]).is_ok());
    }
}

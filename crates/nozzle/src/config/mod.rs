//! The configuration: a TOML file, variables over it, defaults under it.

mod keys;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use figment2::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use nozzle_query::ReadCache;
use serde::{Deserialize, Serialize};

/// The prefix of the variables that override single keys; `__` goes one level down.
const ENV_PREFIX: &str = "NOZZLE_CONFIG_";

/// The file that is used where none is named.
const DEFAULT_FILE: &str = "nozzle.toml";

/// The folder that everything lives in where there is no file.
const ZERO_CONFIG_FOLDER: &str = ".nozzle";

/// The configuration as written: every key, with its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where Parquet files go: a path or a URL.
    pub data_dir: String,
    /// The folder of provider files.
    pub providers_dir: String,
    /// The folder of dataset manifests.
    pub dataset_defs_dir: String,
    /// Memory of all queries together in MiB; 0: no limit.
    pub max_mem_mb: usize,
    /// Memory of one query, in MiB; 0: no limit but that of all.
    pub query_max_mem_mb: usize,
    /// How long a query of a server may take; 0: no limit.
    pub query_timeout_secs: f64,
    /// How many queries of a server run at a time; 0: no limit.
    pub max_concurrent_queries: usize,
    /// Folders for spilling; empty: the system's temporary folder.
    pub spill_location: Vec<PathBuf>,
    /// How many blocks of a derived dataset are computed at a time, at most.
    pub microbatch_max_interval: u64,
    /// How many blocks of a stream are computed at a time, at most.
    pub server_microbatch_max_interval: u64,
    /// How often a stream says that it lives while nothing comes.
    pub keep_alive_interval_secs: f64,
    /// How often a head is asked for while it is waited for.
    pub poll_interval_secs: f64,
    /// Where Arrow Flight listens.
    pub flight_addr: String,
    /// Where JSON Lines listens.
    pub jsonl_addr: String,
    /// Where the Admin API listens.
    pub admin_api_addr: String,
    /// The metadata database.
    pub metadata_db: MetadataDb,
    /// How Parquet files are written and read.
    pub parquet: Parquet,
    /// When files are cut.
    pub writer: Writer,
    /// When what is no longer needed is deleted.
    pub compaction: Compaction,
    /// What was read of a far store, kept on this machine.
    pub cache: Cache,
    /// What is assumed of chains.
    pub chain: Chain,
    /// Who may use the servers.
    pub auth: Auth,
    /// TLS of the servers.
    pub tls: Tls,
    /// The folder that relative paths are relative to.
    #[serde(skip)]
    pub base: PathBuf,
}

/// `[metadata_db]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetadataDb {
    /// `sqlite://…` or `postgres://…`; empty: `metadata.db` beside the configuration.
    pub url: String,
    /// Where PostgreSQL is listened to; empty: `url`.
    pub listen_url: String,
    /// Connections at most.
    pub pool_size: u32,
    /// Whether commands migrate by themselves; absent: only SQLite.
    pub auto_migrate: Option<bool>,
}

/// `[parquet]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parquet {
    /// `zstd(1…22)`, `lz4`, `gzip(0…9)`, `brotli(0…11)`, `snappy` or `uncompressed`.
    pub compression: String,
    /// Whether columns of hashes, addresses and topics get bloom filters.
    pub bloom_filters: bool,
    /// Memory for footers of files, in MiB.
    pub cache_size_mb: usize,
    /// The size of a row group at most, in MiB.
    pub max_row_group_mb: usize,
}

/// `[writer]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Writer {
    /// The age at which a segment is cut while history is extracted.
    pub segment_flush_interval_secs: f64,
}

/// `[compaction]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compaction {
    /// Whether small files are merged into larger ones.
    pub compactor_enabled: bool,
    /// Whether files are deleted that nobody can need any more.
    pub collector_enabled: bool,
    /// The size of a merged file at most, in MiB.
    pub target_size_mb: u64,
    /// Files that are merged into one at least.
    pub min_file_count: usize,
    /// How often there is a look at what can be merged.
    pub compactor_interval_secs: f64,
    /// How often there is a look at what can be deleted.
    pub collector_interval_secs: f64,
    /// How long after it was replaced, or after the end of its writer's lease, a file is deleted.
    pub file_lock_duration_secs: f64,
    /// Merges that are under way at a time.
    pub write_concurrency: usize,
}

/// `[cache]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cache {
    /// The folder; empty: nothing is kept.
    pub dir: PathBuf,
    /// What it may hold, in MiB.
    pub size_mb: u64,
}

/// `[chain]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chain {
    /// Blocks below the head that count as final where the source has no finality.
    pub reorg_depth: u64,
}

/// `[auth]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// The tokens; none: everybody who reaches a server may use it.
    pub tokens: Vec<Token>,
}

/// `[tls]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// The certificate of the servers and those between it and its authority, as PEM; empty: no TLS.
    pub cert: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
    /// Only clients with a certificate of these authorities are let in; empty: all.
    pub client_ca: PathBuf,
}

/// One of `[auth] tokens`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Whose it is.
    pub name: String,
    /// The secret itself, or `${VAR}`.
    pub token: String,
    /// What it allows.
    pub role: Role,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To query.
    Query,
    /// Also all of the Admin API.
    Admin,
}

impl Role {
    /// Whether who has this role may do what needs the other.
    pub fn includes(self, needed: Self) -> bool {
        self >= needed
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

impl Auth {
    /// The tokens with variables filled in.
    pub fn filled_in(&self) -> anyhow::Result<Vec<(String, Role)>> {
        let filled = |token: &Token| {
            let text = crate::providers::filled_in(&token.token)
                .with_context(|| format!("the token `{}` of auth.tokens cannot be used", token.name))?;
            if text.is_empty() {
                bail!("the token `{}` of auth.tokens is empty", token.name);
            }
            Ok((text, token.role))
        };
        self.tokens.iter().map(filled).collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "data".into(),
            providers_dir: "providers".into(),
            dataset_defs_dir: "datasets".into(),
            max_mem_mb: 0,
            query_max_mem_mb: 0,
            query_timeout_secs: 0.0,
            max_concurrent_queries: 0,
            spill_location: vec![],
            microbatch_max_interval: 100_000,
            server_microbatch_max_interval: 1000,
            keep_alive_interval_secs: 30.0,
            poll_interval_secs: 1.0,
            flight_addr: "127.0.0.1:1602".into(),
            jsonl_addr: "127.0.0.1:1603".into(),
            admin_api_addr: "127.0.0.1:1610".into(),
            metadata_db: MetadataDb::default(),
            parquet: Parquet::default(),
            writer: Writer::default(),
            compaction: Compaction::default(),
            cache: Cache::default(),
            chain: Chain::default(),
            auth: Auth::default(),
            tls: Tls::default(),
            base: PathBuf::new(),
        }
    }
}

impl Default for MetadataDb {
    fn default() -> Self {
        Self { url: String::new(), listen_url: String::new(), pool_size: 10, auto_migrate: None }
    }
}

impl Default for Parquet {
    fn default() -> Self {
        Self {
            compression: "zstd(1)".into(),
            bloom_filters: true,
            cache_size_mb: 1024,
            max_row_group_mb: 128,
        }
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self { segment_flush_interval_secs: 60.0 }
    }
}

impl Default for Compaction {
    fn default() -> Self {
        Self {
            compactor_enabled: true,
            collector_enabled: true,
            target_size_mb: 512,
            min_file_count: 2,
            compactor_interval_secs: 10.0,
            collector_interval_secs: 60.0,
            file_lock_duration_secs: 3600.0,
            write_concurrency: 1,
        }
    }
}

impl Compaction {
    fn check(&self) -> anyhow::Result<()> {
        for (name, seconds) in [
            ("compactor_interval_secs", self.compactor_interval_secs),
            ("collector_interval_secs", self.collector_interval_secs),
            ("file_lock_duration_secs", self.file_lock_duration_secs),
        ] {
            if !is_interval(seconds) {
                bail!("compaction.{name} must be greater than 0 and at most a year");
            }
        }
        if !(1..=1 << 20).contains(&self.target_size_mb) {
            bail!("compaction.target_size_mb must be from 1 to 1048576");
        }
        if self.min_file_count < 2 {
            bail!("compaction.min_file_count must be at least 2");
        }
        if !(1..=64).contains(&self.write_concurrency) {
            bail!("compaction.write_concurrency must be from 1 to 64");
        }
        Ok(())
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self { reorg_depth: 64 }
    }
}

impl Config {
    /// Reads the named file, else `./nozzle.toml`, else nothing: then everything lives in
    /// `./.nozzle/`. Variables override the file.
    pub fn load(named: Option<&Path>) -> anyhow::Result<Self> {
        let here = std::env::current_dir().context("finding the current folder")?;
        let file = match named {
            Some(path) if !path.is_file() => {
                bail!(
                    "the configuration file {} does not exist; check --config and NOZZLE_CONFIG",
                    path.display()
                )
            }
            Some(path) => Some(path.to_owned()),
            None => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.is_file()),
        };
        let (text, base) = match &file {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                let path =
                    std::path::absolute(path).with_context(|| format!("finding {}", path.display()))?;
                (text, path.parent().map(Path::to_owned).unwrap_or(here))
            }
            None => (String::new(), here.join(ZERO_CONFIG_FOLDER)),
        };
        let name = file.map_or("the environment".to_owned(), |path| path.display().to_string());
        Self::parse(&text, &name, base)
    }

    fn parse(text: &str, name: &str, base: PathBuf) -> anyhow::Result<Self> {
        let context = || format!("the configuration in {name} is not valid; docs/config.md lists the keys");
        crate::definitions::parse_toml(text).with_context(context)?;
        let written = Figment::from(Toml::string(text)).merge(Env::prefixed(ENV_PREFIX).split("__"));
        keys::refuse_unknown(&written).with_context(context)?;
        let config: Self = Figment::from(Serialized::defaults(Self::default()))
            .merge(written)
            .extract()
            .map_err(|error| wrong_value(&error))
            .with_context(context)?;
        let config = Self { base, ..config };
        config.check().with_context(context)?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        if !is_interval(self.poll_interval_secs) {
            bail!("poll_interval_secs must be greater than 0 and at most a year");
        }
        if !is_interval(self.keep_alive_interval_secs) {
            bail!("keep_alive_interval_secs must be greater than 0 and at most a year");
        }
        if self.microbatch_max_interval == 0 || self.server_microbatch_max_interval == 0 {
            bail!("microbatch_max_interval and server_microbatch_max_interval must be at least 1 block");
        }
        if !is_interval(self.writer.segment_flush_interval_secs) {
            bail!("writer.segment_flush_interval_secs must be greater than 0 and at most a year");
        }
        self.compaction.check()?;
        let lock = self.compaction.file_lock_duration_secs;
        if self.query_timeout_secs != 0.0 && !is_interval(self.query_timeout_secs) {
            bail!("query_timeout_secs must be 0 for no limit, or greater and at most a year");
        }
        if self.query_timeout_secs > lock {
            bail!(
                "query_timeout_secs may not be greater than compaction.file_lock_duration_secs, which is {lock}: the files that a query reads could be deleted before its end"
            );
        }
        if !self.cache.dir.as_os_str().is_empty() && self.cache.size_mb == 0 {
            bail!("cache.size_mb must be at least 1 where cache.dir is set");
        }
        let is_given = |path: &PathBuf| !path.as_os_str().is_empty();
        if is_given(&self.tls.cert) != is_given(&self.tls.key) {
            bail!("tls.cert and tls.key belong together: set both or none");
        }
        if is_given(&self.tls.client_ca) && !is_given(&self.tls.cert) {
            bail!("tls.client_ca needs tls.cert and tls.key: without them the servers have no TLS");
        }
        if self.metadata_db.pool_size < 2 {
            bail!("metadata_db.pool_size must be at least 2");
        }
        if self.parquet.max_row_group_mb == 0 {
            bail!("parquet.max_row_group_mb must be at least 1");
        }
        self.parquet
            .compression
            .parse::<nozzle_dump::Compression>()
            .map_err(|why| anyhow::anyhow!("parquet.compression: {why}"))?;
        Ok(())
    }

    /// The cache of what is read of far stores, where there is to be one. Where another process uses its
    /// folder, this one reads without.
    pub fn read_cache(&self) -> anyhow::Result<Option<Arc<ReadCache>>> {
        if self.cache.dir.as_os_str().is_empty() {
            return Ok(None);
        }
        let folder = self.base.join(&self.cache.dir);
        match ReadCache::open(&folder, self.cache.size_mb << 20) {
            Ok(cache) => Ok(Some(Arc::new(cache))),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                tracing::warn!(
                    "another process uses the read cache {}: reading without one",
                    folder.display()
                );
                Ok(None)
            }
            Err(error) => Err(error)
                .with_context(|| format!("opening the read cache {}; see cache.dir", folder.display())),
        }
    }

    /// Where the metadata database lies, if it is a file.
    pub fn metadata_file(&self) -> Option<PathBuf> {
        let url = &self.metadata_db.url;
        let path = if url.is_empty() { "metadata.db" } else { url.strip_prefix("sqlite:")? };
        let path = path.strip_prefix("//").unwrap_or(path);
        Some(self.path(path.split_once('?').map_or(path, |(path, _)| path)))
    }

    /// A path of the configuration, relative ones from the configuration's folder.
    pub fn path(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    /// The metadata database's URL, with the default filled in and relative paths made absolute.
    pub fn metadata_url(&self) -> String {
        let url = &self.metadata_db.url;
        // What a URL would take for something else is written as a URL writes it.
        let escaped = |path: String| path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
        let sqlite = |path: &str| {
            let (path, query) =
                path.split_once('?').map_or((path, String::new()), |(p, q)| (p, format!("?{q}")));
            format!("sqlite://{}{query}", escaped(self.path(path).display().to_string()))
        };
        match url.strip_prefix("sqlite:") {
            _ if url.is_empty() => sqlite("metadata.db"),
            Some(rest) => sqlite(rest.strip_prefix("//").unwrap_or(rest)),
            None => url.clone(),
        }
    }
}

/// Whether a number of seconds is a time that can be waited.
pub fn is_interval(seconds: f64) -> bool {
    seconds > 0.0 && seconds <= 366.0 * 86_400.0
}

/// What is wrong with a key, without the value: it may be a secret.
fn wrong_value(error: &figment2::Error) -> anyhow::Error {
    use figment2::error::Kind;
    let key = error.path.join(".");
    let source = if error.metadata.as_ref().is_some_and(|from| from.name.contains("environment")) {
        format!(" (from the variable {ENV_PREFIX}{})", key.replace('.', "__").to_uppercase())
    } else {
        String::new()
    };
    match &error.kind {
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => {
            anyhow::anyhow!("`{key}`{source} must be {expected}")
        }
        _ => anyhow::anyhow!("`{key}`{source} has a value that it cannot have"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Config> {
        Config::parse(text, "nozzle.toml", PathBuf::from("/base"))
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", parse(text).expect_err("it is refused"))
    }

    #[test]
    fn nothing_written_means_the_defaults() {
        let config = parse("").expect("a configuration");
        assert_eq!(config, Config { base: "/base".into(), ..Config::default() });
        assert_eq!(config.metadata_url(), "sqlite:///base/metadata.db");
        assert_eq!(config.path(&config.data_dir), Path::new("/base/data"));
        assert_eq!(config.path("/elsewhere"), Path::new("/elsewhere"));
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_known_one() {
        assert!(refusal("data_dri = 'x'").contains("`data_dir`"));
        assert!(refusal("[metadata_db]\nurll = 'x'").contains("`metadata_db.url`"));
        assert!(refusal("[parquett]\ncompression = 'x'").contains("parquett"));
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        assert!(refusal("max_mem_mb = 'much'").contains("max_mem_mb"));
        assert!(refusal("query_timeout_secs = -1").contains("query_timeout_secs"));
        assert!(refusal("query_timeout_secs = 3601").contains("file_lock_duration_secs, which is 3600"));
        assert!(refusal("poll_interval_secs = 0").contains("poll_interval_secs"));
        assert!(refusal("[parquet]\ncompression = 'zip'").contains("zstd"));
        assert!(refusal("[tls]\ncert = 'x'").contains("tls.key"));
        assert!(refusal("[tls]\nclient_ca = 'x'").contains("tls.cert"));
        assert!(refusal("data_dir = ").contains("nozzle.toml"));
    }

    #[test]
    fn the_sample_is_the_defaults_written_out() {
        let sample = include_str!("../../../../config.sample.toml");
        let config = parse(sample).expect("the sample is valid");
        let defaults = Config { base: "/base".into(), ..Config::default() };
        let written =
            Config { metadata_db: MetadataDb { auto_migrate: None, ..config.metadata_db.clone() }, ..config };
        assert_eq!(written, defaults);
        for key in keys::known() {
            let last = key.rsplit('.').next().expect("a key has a name");
            assert!(sample.contains(&format!("{last} =")), "the sample does not show `{key}`");
        }
    }
}

//! What commands work on: the configuration, the metadata database and the object stores.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use nozzle_core::DatasetRef;
use nozzle_dump::{DumpOptions, EndBlock, ParquetOptions, job::CutPolicy};
use nozzle_metadata::{Dataset, MetadataConfig, MetadataStore};
use nozzle_query::{Engine, EngineConfig, Stores, nearest::suggestion};

use crate::{calls::Nodes, config::Config, folder::Folder, stores, throttles::Throttles};

/// What the unfinished row groups of a command hold at most, all of its jobs together.
pub const WRITER_MEMORY_BYTES: usize = 256 << 20;

/// The size of a file where nobody asks for another.
const PARTITION_BYTES: u64 = 4096 << 20;

/// What commands work on.
#[derive(Debug)]
pub struct Context {
    /// The configuration.
    pub config: Config,
    /// The metadata database.
    pub metadata: Arc<dyn MetadataStore>,
    /// The object stores.
    pub stores: Arc<Stores>,
    /// What keeps all that asks a provider to its limits.
    pub throttles: Arc<Throttles>,
}

impl Context {
    /// Opens what a command that writes needs; a new SQLite database is made where there is none.
    pub async fn open(config: Config) -> anyhow::Result<Self> {
        let metadata = nozzle_metadata::open(&metadata_config(&config)).await?;
        let cache = config.read_cache()?;
        let stores = stores::stores(cache, stores::PATIENCE);
        Ok(Self { config, metadata, stores, throttles: Arc::default() })
    }

    /// Opens what a command that only reads needs: where nothing was extracted yet, it says so
    /// instead of making an empty database.
    pub async fn open_existing(config: Config) -> anyhow::Result<Self> {
        if let Some(file) = config.metadata_file().filter(|file| !file.exists()) {
            bail!(
                "nothing has been extracted here yet: there is no {}. Run `nozzle dump`, or name the configuration with --config",
                file.display()
            );
        }
        Self::open(config).await
    }

    /// The folder of provider files.
    pub fn providers_folder(&self) -> anyhow::Result<Folder> {
        Folder::at(&self.config.providers_dir, &self.config.base, &self.stores)
    }

    /// The folder of dataset manifests.
    pub fn definitions_folder(&self) -> anyhow::Result<Folder> {
        Folder::at(&self.config.dataset_defs_dir, &self.config.base, &self.stores)
    }

    /// How files are written.
    pub fn parquet_options(&self) -> anyhow::Result<ParquetOptions> {
        let parquet = &self.config.parquet;
        Ok(ParquetOptions {
            compression: parquet.compression.parse().map_err(anyhow::Error::msg)?,
            bloom_filters: parquet.bloom_filters,
            max_row_group_bytes: parquet.max_row_group_mb << 20,
        })
    }

    /// Asks the store of the data anything, to see whether it answers.
    pub async fn reach_store(&self) -> anyhow::Result<()> {
        stores::reach(&self.config.data_dir, &self.config.base, &self.stores).await
    }

    /// How a dataset is dumped into `base_url`, as the configuration says: all of it up to the head.
    pub fn dump_options(&self, base_url: String, holder: String) -> anyhow::Result<DumpOptions> {
        let Config { writer, chain, poll_interval_secs, .. } = &self.config;
        Ok(DumpOptions {
            end: EndBlock::Latest,
            part: None,
            follow: false,
            only_finalized: false,
            fresh: false,
            jobs: 1,
            base_url,
            is_base_explicit: false,
            cut: CutPolicy {
                partition_bytes: PARTITION_BYTES,
                flush_interval: Duration::from_secs_f64(writer.segment_flush_interval_secs),
            },
            parquet: self.parquet_options()?,
            writer_memory_bytes: WRITER_MEMORY_BYTES,
            poll_interval: Duration::from_secs_f64(*poll_interval_secs),
            reorg_depth: chain.reorg_depth,
            holder,
        })
    }

    /// The query engine.
    pub fn engine(&self) -> anyhow::Result<Engine> {
        let (limit, of_one) = (self.config.max_mem_mb, self.config.query_max_mem_mb);
        let config = EngineConfig {
            max_memory_bytes: (limit > 0).then_some(limit << 20),
            max_query_memory_bytes: (of_one > 0).then_some(of_one << 20),
            spill_folders: self
                .config
                .spill_location
                .iter()
                .map(|path| self.config.base.join(path))
                .collect(),
            footer_cache_bytes: self.config.parquet.cache_size_mb << 20,
        };
        let nodes = Nodes::new(Arc::clone(&self.metadata), Arc::clone(&self.throttles));
        let engine = Engine::new(Arc::clone(&self.metadata), Arc::clone(&self.stores), &config)?;
        Ok(engine.with_caller(Arc::new(nodes)))
    }

    /// A registered dataset; the error names the nearest one that exists.
    pub async fn dataset(&self, reference: &DatasetRef) -> anyhow::Result<Dataset> {
        if let Some(dataset) = self.metadata.dataset(reference).await? {
            return Ok(dataset);
        }
        let datasets = self.metadata.datasets().await?;
        let known: Vec<String> = datasets.iter().map(|dataset| dataset.name.to_string()).collect();
        let name = reference.name.as_str();
        if known.iter().any(|known| known == name) {
            let of_it = datasets.iter().filter(|dataset| dataset.name == reference.name);
            let versions: Vec<String> = of_it.map(|dataset| dataset.version.to_string()).collect();
            let missing = reference.version.unwrap_or_default();
            bail!("the dataset `{name}` has no version {missing}, only {}", versions.join(", "));
        }
        bail!(
            "there is no dataset `{name}`{} `nozzle dump` makes it: with its manifest in {}, or with --rpc-url",
            Some(suggestion(name, known.iter().map(String::as_str)))
                .filter(|s| !s.is_empty())
                .unwrap_or(".".into()),
            self.definitions_folder()?.shown()
        )
    }
}

/// How the configuration's metadata database is opened.
pub fn metadata_config(config: &Config) -> MetadataConfig {
    let url = config.metadata_url();
    let listen_url = &config.metadata_db.listen_url;
    MetadataConfig {
        listen_url: (!listen_url.is_empty()).then(|| listen_url.clone()),
        pool_size: config.metadata_db.pool_size,
        auto_migrate: config.metadata_db.auto_migrate.unwrap_or_else(|| url.starts_with("sqlite:")),
        url,
    }
}

/// The name of this machine, for messages that other machines read.
pub fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    name.map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or("an unnamed machine".into())
}

/// What a lease of this process says of its holder.
pub fn holder(command: &str) -> String {
    format!("`nozzle {command}` (process {} on {})", std::process::id(), machine_name())
}

/// Reads the configuration that the command line names.
pub fn load_config(named: Option<&Path>) -> anyhow::Result<Config> {
    Config::load(named).context("the configuration cannot be used")
}

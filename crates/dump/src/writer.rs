//! Writing one segment of every table: rows in, closed files out.

use std::{sync::Arc, time::Instant};

use arrow::array::RecordBatch;
use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use nozzle_core::{
    BlockRange, Network, Span, TableDef, TableName,
    segment::{FileMetadata, RangeMetadata},
};
use nozzle_metadata::{LeaseId, Location, MetadataStore, NewFile, NewSegment, SegmentFile};
use nozzle_query::Stores;
use nozzle_sources::{BlockRows, SourceError};
use object_store::buffered::BufWriter;
use tokio::io::AsyncWriteExt;

use crate::{
    error::DumpError,
    files::{self, ObjectRef},
    parquet::{Finished, ParquetOptions, TableEncoder},
};

/// Bytes that are gathered before they are sent to the store as one part.
const UPLOAD_PART_BYTES: usize = 8 << 20;

/// What all writers of a dump share.
#[derive(Debug)]
pub struct Target {
    /// The metadata.
    pub metadata: Arc<dyn MetadataStore>,
    /// The stores.
    pub stores: Arc<Stores>,
    /// The tables, each with its location in the revision.
    pub tables: Vec<(TableDef, Location)>,
    /// The network of the blocks.
    pub network: Network,
    /// How files are written.
    pub parquet: ParquetOptions,
    /// Memory that the unfinished row groups of one job may hold together, in bytes.
    pub job_memory_bytes: usize,
}

/// The segments of all tables from one block on, growing with each group of rows.
pub struct SegmentWriter {
    target: Arc<Target>,
    lease: LeaseId,
    files: Vec<Option<OpenFile>>,
    span: Option<Span>,
    opened_at: Instant,
}

/// A file that is being written.
struct OpenFile {
    encoder: TableEncoder,
    upload: Upload,
}

/// The way of a file to the store. Its object exists only once it is closed.
struct Upload {
    writer: BufWriter,
    url: String,
    name: String,
    size_bytes: u64,
}

impl SegmentWriter {
    /// A writer whose segments will be committed under `lease`.
    pub fn new(target: Arc<Target>, lease: LeaseId) -> Self {
        let files = target.tables.iter().map(|_| None).collect();
        Self { target, lease, files, span: None, opened_at: Instant::now() }
    }

    /// A writer of segments whose span is known from the start; rows come by [`Self::write`].
    pub fn of_span(target: Arc<Target>, lease: LeaseId, span: Span) -> Self {
        Self { span: Some(span), ..Self::new(target, lease) }
    }

    /// Whether there is nothing to close.
    pub fn is_empty(&self) -> bool {
        self.span.is_none()
    }

    /// When the first block came; `None` where none has.
    pub fn opened_at(&self) -> Option<Instant> {
        (!self.is_empty()).then_some(self.opened_at)
    }

    /// About how large the largest file is.
    pub fn largest_file_bytes(&self) -> u64 {
        self.files.iter().flatten().map(|file| file.encoder.size_bytes()).max().unwrap_or(0)
    }

    /// Adds the rows of the blocks that follow the ones written so far.
    pub async fn append(&mut self, rows: BlockRows) -> Result<(), DumpError> {
        let span = self.grown_by(&rows)?;
        if self.is_empty() {
            self.opened_at = Instant::now();
        }
        self.span = Some(span);
        self.write(rows.tables.into_iter().map(|table| table.batch).collect()).await
    }

    /// Adds one batch of rows for each table, in the tables' order.
    pub async fn write(&mut self, batches: Vec<RecordBatch>) -> Result<(), DumpError> {
        for (index, batch) in batches.iter().enumerate() {
            if batch.num_rows() > 0 && self.files[index].is_none() {
                self.files[index] = Some(self.open(index).await?);
            }
        }
        self.encode(batches).await?;
        for file in self.files.iter_mut().flatten() {
            let pieces = file.encoder.take_bytes();
            file.upload.send(pieces).await?;
        }
        Ok(())
    }

    /// The span with these rows, which must link to those before them.
    fn grown_by(&self, rows: &BlockRows) -> Result<Span, DumpError> {
        let (Some(first), Some(last)) = (rows.blocks.first(), rows.blocks.last()) else {
            return Err(DumpError::Refused(format!("the source gave no block for {}", rows.range)));
        };
        let Some(before) = self.span else {
            return Ok(Span { range: rows.range, prev_hash: first.parent_hash, hash: last.hash });
        };
        if first.parent_hash != before.hash {
            let (expected, found) = (before.hash, first.parent_hash);
            return Err(SourceError::NotLinked { block: first.number, expected, found }.into());
        }
        let range = BlockRange::new(before.range.start(), rows.range.end())
            .filter(|_| rows.range.start() == before.range.end() + 1)
            .ok_or_else(|| DumpError::Refused(format!("the source skipped to {}", rows.range)))?;
        Ok(Span { range, prev_hash: before.prev_hash, hash: last.hash })
    }

    async fn open(&self, index: usize) -> Result<OpenFile, DumpError> {
        let (table, location) = &self.target.tables[index];
        let name = files::new_name(self.span.map_or(0, |span| span.range.start()));
        self.target.metadata.record_object(self.lease, location.id, &name).await?;
        let ObjectRef { store, path, url } = files::object(&self.target.stores, location, &name)?;
        let writer = BufWriter::with_capacity(store, path, UPLOAD_PART_BYTES);
        let encoder = TableEncoder::new(table, &self.target.parquet)
            .map_err(|error| DumpError::store(format!("starting {url}"), error))?;
        Ok(OpenFile { encoder, upload: Upload { writer, url, name, size_bytes: 0 } })
    }

    /// Encodes on a thread of its own: compressing is work for a core, not for the runtime.
    async fn encode(&mut self, batches: Vec<RecordBatch>) -> Result<(), DumpError> {
        let mut files = std::mem::take(&mut self.files);
        let memory_bytes = self.target.job_memory_bytes;
        let encoding = tokio::task::spawn_blocking(move || {
            let result =
                encode_all(&mut files, &batches).and_then(|()| stay_within(&mut files, memory_bytes));
            (files, result)
        });
        let (files, result) = encoding.await.map_err(|error| DumpError::store("encoding rows", error))?;
        self.files = files;
        result
    }

    /// Ends all files and gives the segments to commit: for each table the same span.
    pub async fn close(mut self) -> Result<Vec<NewSegment>, DumpError> {
        let Some(span) = self.span else { return Ok(vec![]) };
        if self.files.iter().all(Option::is_none) {
            // Without any row the range needs one file all the same: a database that is rebuilt
            // from the files must know that the range was extracted.
            self.files[0] = Some(self.open(0).await?);
        }
        let names = self.target.tables.iter().map(|(table, _)| table.name.clone());
        let mut empty_tables: Vec<TableName> =
            names.zip(&self.files).filter(|(_, file)| file.is_none()).map(|(name, _)| name).collect();
        let mut closing = vec![];
        for (index, file) in std::mem::take(&mut self.files).into_iter().enumerate() {
            let sisters = if file.is_some() { std::mem::take(&mut empty_tables) } else { vec![] };
            closing.push(close_table(&self.target, index, file, span, sisters));
        }
        futures::future::try_join_all(closing).await
    }

    /// Gives up: nothing of what was written since the last close stays.
    pub async fn abort(self) {
        for mut file in self.files.into_iter().flatten() {
            // The name is recorded, so what cannot be removed now is the collector's.
            if let Err(error) = file.upload.writer.abort().await {
                tracing::debug!(%error, url = file.upload.url, "an unfinished upload could not be ended");
            }
        }
    }
}

fn encode_all(files: &mut [Option<OpenFile>], batches: &[RecordBatch]) -> Result<(), DumpError> {
    for (file, batch) in files.iter_mut().zip(batches) {
        if let (Some(file), true) = (file, batch.num_rows() > 0) {
            let written = file.encoder.write(batch);
            written.map_err(|error| DumpError::store(format!("encoding {}", file.upload.url), error))?;
        }
    }
    Ok(())
}

/// Ends the largest row groups until what is unfinished fits into the memory that there is for it.
fn stay_within(files: &mut [Option<OpenFile>], memory_bytes: usize) -> Result<(), DumpError> {
    let held = |files: &[Option<OpenFile>]| -> usize {
        files.iter().flatten().map(|file| file.encoder.unfinished_bytes()).sum()
    };
    while held(files) > memory_bytes {
        let largest = files.iter_mut().flatten().max_by_key(|file| file.encoder.unfinished_bytes());
        let Some(file) = largest else { return Ok(()) };
        let before = file.encoder.unfinished_bytes();
        let ended = file.encoder.end_row_group();
        ended.map_err(|error| DumpError::store(format!("encoding {}", file.upload.url), error))?;
        if file.encoder.unfinished_bytes() >= before {
            return Ok(());
        }
    }
    Ok(())
}

impl Upload {
    async fn send(&mut self, pieces: Vec<Bytes>) -> Result<(), DumpError> {
        for piece in pieces {
            self.size_bytes += piece.len() as u64;
            self.writer.put(piece).await.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), DumpError> {
        self.writer.shutdown().await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: impl std::error::Error + Send + Sync + 'static) -> DumpError {
        DumpError::store(format!("writing {}", self.url), error)
    }
}

async fn close_table(
    target: &Target,
    index: usize,
    file: Option<OpenFile>,
    span: Span,
    empty_tables: Vec<TableName>,
) -> Result<NewSegment, DumpError> {
    let (table, location) = &target.tables[index];
    let Some(file) = file else { return Ok(NewSegment { location: location.id, span, file: None }) };
    let metadata = FileMetadata {
        table: table.name.clone(),
        filename: file.upload.name.clone(),
        created_at: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
        ranges: vec![RangeMetadata::new(span, target.network.clone())],
        empty_tables,
    };
    let closed = close_file(file, metadata, location).await?;
    Ok(NewSegment { location: location.id, span, file: Some(closed) })
}

async fn close_file(
    file: OpenFile,
    metadata: FileMetadata,
    location: &Location,
) -> Result<NewFile, DumpError> {
    let OpenFile { encoder, mut upload } = file;
    let Finished { tail, footer, rows } = tokio::task::spawn_blocking(move || encoder.finish(&metadata))
        .await
        .map_err(|error| upload.failed(error))?
        .map_err(|error| upload.failed(error))?;
    upload.send(tail).await?;
    upload.close().await?;
    let Upload { name, size_bytes, .. } = upload;
    files::make_durable(location, &name).await?;
    // Objects are named by a random number and never written twice, so neither an ETag nor a
    // version is needed to tell two apart; asking for them would cost a request a file.
    let file = SegmentFile { name, size_bytes, rows, e_tag: None, version: None };
    Ok(NewFile { file, footer })
}

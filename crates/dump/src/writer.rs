//! Writing one segment of every table: rows in, closed files out.

use std::{sync::Arc, time::Instant};

use arrow::array::RecordBatch;
use chrono::{SecondsFormat, Utc};
use nozzle_core::{
    BlockId, BlockRange, Network, SourceCursor, SourceRevisions, Span, TableDef, TableName, layout,
    segment::{FileMetadata, FileOrigin, RangeMetadata},
};
use nozzle_metadata::{Location, MetadataStore, NewFile, NewSegment, SegmentFile};
use nozzle_query::Stores;
use nozzle_sources::{BlockRows, SourceError};

use crate::{
    error::DumpError,
    files,
    lease::Terms,
    parquet::{Finished, ParquetOptions, TableEncoder},
    upload::{Recorder, Upload},
};

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
    /// The dataset's manifest, for the files to tell.
    pub manifest: serde_json::Value,
    /// How files are written.
    pub parquet: ParquetOptions,
    /// Memory that the unfinished row groups of one job may hold together, in bytes.
    pub job_memory_bytes: usize,
}

impl Target {
    /// Where the source's stream goes on behind a block that ends a live segment: each cut has it with its
    /// first table.
    pub async fn cursor_behind(&self, block: BlockId) -> Result<Option<SourceCursor>, DumpError> {
        let Some((_, location)) = self.tables.first() else { return Ok(None) };
        Ok(self.metadata.cursor(location.id, block).await?)
    }
}

/// The segments of all tables from one block on, growing with each group of rows.
pub struct SegmentWriter {
    target: Arc<Target>,
    terms: Terms,
    /// The random part of the name that the files of all tables share.
    random: u64,
    files: Vec<Option<OpenFile>>,
    span: Option<Span>,
    /// Where the source's stream goes on behind the span.
    cursor: Option<SourceCursor>,
    opened_at: Instant,
}

/// A file that is being written.
struct OpenFile {
    encoder: TableEncoder,
    upload: Upload,
    name: String,
}

impl SegmentWriter {
    /// A writer whose segments will be committed under `terms`.
    pub fn new(target: Arc<Target>, terms: Terms) -> Self {
        let files = target.tables.iter().map(|_| None).collect();
        let (random, opened_at) = (files::new_random(), Instant::now());
        Self { target, terms, random, files, span: None, cursor: None, opened_at }
    }

    /// A writer of segments whose span is known from the start, and the cursor of its last block, where it has
    /// one; rows come by [`Self::write`].
    pub fn of_span(target: Arc<Target>, terms: Terms, span: Span, cursor: Option<SourceCursor>) -> Self {
        Self { span: Some(span), cursor, ..Self::new(target, terms) }
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
        self.cursor = rows.cursor;
        self.write(rows.tables.into_iter().map(|table| table.batch).collect()).await
    }

    /// Takes note that rows may also have been computed from these revisions.
    pub fn add_sources(&mut self, others: SourceRevisions) {
        self.terms.sources.get_or_insert_default().0.extend(others.0);
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

    /// Ends what a table's rows have begun: no more of them will come.
    pub async fn end_row_group(&mut self, index: usize) -> Result<(), DumpError> {
        let Some(mut file) = self.files[index].take() else { return Ok(()) };
        let ending = tokio::task::spawn_blocking(move || {
            let ended = file.encoder.end_row_group();
            (file, ended)
        });
        let (mut file, ended) = ending.await.map_err(|error| DumpError::store("encoding rows", error))?;
        let pieces = file.encoder.take_bytes();
        ended.map_err(|error| DumpError::store(format!("encoding {}", file.upload.url()), error))?;
        let sent = file.upload.send(pieces).await;
        self.files[index] = Some(file);
        sent
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

    async fn open(&mut self, index: usize) -> Result<OpenFile, DumpError> {
        let (table, location) = &self.target.tables[index];
        let name = layout::file_name(self.span.map_or(0, |span| span.range.start()), self.random);
        self.target.metadata.record_object(self.terms.lease, location.id, &name).await?;
        let object = files::object(&self.target.stores, location, &name)?;
        let encoder = TableEncoder::new(table, &self.target.parquet)
            .map_err(|error| DumpError::store(format!("starting {}", object.url), error))?;
        let metadata = Arc::clone(&self.target.metadata);
        let recorder = Recorder { metadata, location: location.id, name: name.clone() };
        Ok(OpenFile { encoder, upload: Upload::new(object, recorder), name })
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
        let first = self.files.iter().position(Option::is_some);
        let mut closing = vec![];
        for (index, file) in std::mem::take(&mut self.files).into_iter().enumerate() {
            let is_first = first == Some(index);
            let sisters = if is_first { std::mem::take(&mut empty_tables) } else { vec![] };
            closing.push(close_table(&self.target, index, file, span, self.origin(is_first), sisters));
        }
        // All of them, so that none is left half-way: what one began the others' failure must not keep.
        let closed = futures::future::join_all(closing).await;
        let mut closed: Vec<NewSegment> = closed.into_iter().collect::<Result<_, DumpError>>()?;
        if let Some(first) = closed.first_mut() {
            first.cursor = self.cursor;
        }
        Ok(closed)
    }

    /// Gives up: nothing of what was written since the last close stays.
    pub async fn abort(self) {
        for file in self.files.into_iter().flatten() {
            file.upload.abort().await;
        }
    }

    /// What a file says of its place among the others. The first of its cut, which lists its empty
    /// sisters, also has the manifest and the cursor.
    fn origin(&self, is_first: bool) -> FileOrigin {
        let Terms { lease, after_commit, building_until, ref sources } = self.terms;
        FileOrigin {
            after_commit: after_commit.0.unsigned_abs(),
            lease: lease.0,
            building_until,
            sources: sources.clone(),
            manifest: is_first.then(|| self.target.manifest.clone()),
            cursor: self.cursor.clone().filter(|_| is_first),
        }
    }
}

fn encode_all(files: &mut [Option<OpenFile>], batches: &[RecordBatch]) -> Result<(), DumpError> {
    for (file, batch) in files.iter_mut().zip(batches) {
        if let (Some(file), true) = (file, batch.num_rows() > 0) {
            let written = file.encoder.write(batch);
            written.map_err(|error| DumpError::store(format!("encoding {}", file.upload.url()), error))?;
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
        ended.map_err(|error| DumpError::store(format!("encoding {}", file.upload.url()), error))?;
        if file.encoder.unfinished_bytes() >= before {
            return Ok(());
        }
    }
    Ok(())
}

async fn close_table(
    target: &Target,
    index: usize,
    file: Option<OpenFile>,
    span: Span,
    origin: FileOrigin,
    empty_tables: Vec<TableName>,
) -> Result<NewSegment, DumpError> {
    let (table, location) = &target.tables[index];
    let sources = origin.sources.clone();
    let segment = NewSegment { location: location.id, span, file: None, sources, cursor: None };
    let Some(file) = file else { return Ok(segment) };
    let metadata = FileMetadata {
        table: table.name.clone(),
        filename: file.name.clone(),
        created_at: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
        ranges: vec![RangeMetadata::new(span, target.network.clone())],
        empty_tables,
    };
    let closed = close_file(file, metadata, origin, location).await?;
    Ok(NewSegment { file: Some(closed), ..segment })
}

async fn close_file(
    file: OpenFile,
    metadata: FileMetadata,
    origin: FileOrigin,
    location: &Location,
) -> Result<NewFile, DumpError> {
    let OpenFile { encoder, mut upload, name } = file;
    let closed = finish_and_send(encoder, &mut upload, metadata, origin).await;
    let Finished { footer, rows, .. } = match closed {
        Ok(finished) => finished,
        Err(error) => {
            upload.abort().await;
            return Err(error);
        }
    };
    files::make_durable(location, &name).await?;
    // Objects are named by a random number and never written twice, so neither an ETag nor a
    // version is needed to tell two apart; asking for them would cost a request a file.
    let file = SegmentFile { name, size_bytes: upload.size_bytes(), rows, e_tag: None, version: None };
    Ok(NewFile { file, footer })
}

async fn finish_and_send(
    encoder: TableEncoder,
    upload: &mut Upload,
    metadata: FileMetadata,
    origin: FileOrigin,
) -> Result<Finished, DumpError> {
    let url = upload.url().to_owned();
    let failed = |error| DumpError::store(format!("ending {url}"), error);
    let finished = tokio::task::spawn_blocking(move || encoder.finish(&metadata, &origin)).await;
    let finished = finished.map_err(|error| failed(std::io::Error::other(error)))?;
    let mut finished = finished.map_err(|error| failed(std::io::Error::other(error)))?;
    upload.send(std::mem::take(&mut finished.tail)).await?;
    upload.close().await?;
    Ok(finished)
}

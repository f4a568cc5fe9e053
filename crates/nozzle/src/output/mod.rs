//! Rows on their way out: a stream of record batches as a table for people, JSON Lines, CSV or a
//! Parquet file.
//!
//! ```text
//!            ┌─ table     gathered up to a limit, then drawn
//!  batches ──┼─ json ┐
//!            ├─ csv  ┴──  cells (one branch a cell) ── text, time
//!            └─ parquet   plain types, zstd
//! ```

pub mod csv;
pub mod json;

mod cells;
mod parquet;
mod table;
#[cfg(test)]
mod testing;
mod text;
mod time;
mod values;

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::str::FromStr;

use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{Stream, StreamExt};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns in a box, for people
    #[default]
    Table,
    /// One JSON object a line
    #[value(alias = "ndjson", alias = "json")]
    Jsonl,
    /// Comma-separated, with a header line
    Csv,
    /// A Parquet file
    Parquet,
}

impl FromStr for Format {
    type Err = String;

    /// The format's name, in any case; `ndjson` and `json` mean [`Format::Jsonl`].
    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "table" => Ok(Self::Table),
            "jsonl" | "ndjson" | "json" => Ok(Self::Jsonl),
            "csv" => Ok(Self::Csv),
            "parquet" => Ok(Self::Parquet),
            _ => Err(format!("`{name}` is not a format: use table, jsonl, csv or parquet")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        })
    }
}

/// How JSON writes decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DecimalFormat {
    /// As strings: no reader loses digits.
    #[default]
    String,
    /// As numbers: JavaScript and jq round them to 53 bits. Clients of the server ask for it.
    #[allow(dead_code)]
    Number,
}

impl DecimalFormat {
    fn is_string(self) -> bool {
        self == Self::String
    }
}

/// What may differ from one output to the next.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How JSON Lines has decimals.
    pub decimals: DecimalFormat,
    /// The most rows that a table shows.
    pub table_rows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { decimals: DecimalFormat::default(), table_rows: 10_000 }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Rows that are in the output.
    pub rows: u64,
    /// The table's limit was reached and there were more rows; nobody counted how many.
    pub truncated: bool,
    /// The reader left (`| head`); what it did not take was not produced. For a Parquet file this
    /// means that there is none.
    pub pipe_closed: bool,
}

/// Rows that are turned into text at a time, so that a large batch is not in memory as text as well.
const PIECE_ROWS: usize = 2048;

/// Writes all of `stream`, whose batches have `schema`, to `out`.
///
/// JSON Lines and CSV are written and flushed batch by batch, a table at its end, Parquet row group
/// by row group. Writing blocks the task. After an error what is in `out` is incomplete: an error
/// of the stream is handed on as it is, so that the caller can tell it from one of writing.
pub async fn write<S, E>(
    format: Format,
    schema: SchemaRef,
    stream: S,
    out: &mut (impl Write + Send),
    options: Options,
) -> Result<Written>
where
    S: Stream<Item = Result<RecordBatch, E>> + Unpin,
    E: std::error::Error + Send + Sync + 'static,
{
    let mut pipe = Pipe { out, closed: false };
    let mut written = Written::default();
    let result = match format {
        Format::Table => write_table(&schema, stream, &mut pipe, options.table_rows, &mut written).await,
        Format::Parquet => write_parquet(&schema, stream, &mut pipe, &mut written).await,
        Format::Jsonl => match json::JsonLines::new(&schema, options.decimals) {
            Ok(json) => {
                let encode = |batch: &RecordBatch, text: &mut Vec<u8>| json.encode(batch, text);
                write_lines(stream, &mut pipe, &[], encode, &mut written).await
            }
            Err(error) => Err(error),
        },
        Format::Csv => match csv::Csv::new(&schema) {
            Ok(csv) => {
                let encode = |batch: &RecordBatch, text: &mut Vec<u8>| csv.encode(batch, text);
                write_lines(stream, &mut pipe, csv.header(), encode, &mut written).await
            }
            Err(error) => Err(error),
        },
    };
    match result {
        Err(_) if pipe.closed => Ok(Written { pipe_closed: true, ..written }),
        other => other.map(|()| written),
    }
}

async fn write_lines<S, E>(
    mut stream: S,
    out: &mut (impl Write + Send),
    header: &[u8],
    encode: impl Fn(&RecordBatch, &mut Vec<u8>) -> Result<()>,
    written: &mut Written,
) -> Result<()>
where
    S: Stream<Item = Result<RecordBatch, E>> + Unpin,
    E: std::error::Error + Send + Sync + 'static,
{
    out.write_all(header).and_then(|()| out.flush()).context("writing the header")?;
    let mut text = Vec::new();
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        for start in (0..batch.num_rows()).step_by(PIECE_ROWS) {
            let piece = batch.slice(start, PIECE_ROWS.min(batch.num_rows() - start));
            text.clear();
            encode(&piece, &mut text)?;
            out.write_all(&text).context("writing rows")?;
            written.rows += piece.num_rows() as u64;
        }
        out.flush().context("writing rows")?;
    }
    Ok(())
}

async fn write_table<S, E>(
    schema: &SchemaRef,
    mut stream: S,
    out: &mut (impl Write + Send),
    limit: usize,
    written: &mut Written,
) -> Result<()>
where
    S: Stream<Item = Result<RecordBatch, E>> + Unpin,
    E: std::error::Error + Send + Sync + 'static,
{
    let mut table = table::Table::new(schema, limit)?;
    while let Some(batch) = stream.next().await {
        if !table.add(&batch?)? {
            written.truncated = true;
            break;
        }
    }
    let mut buffered = io::BufWriter::new(out);
    table.write(&mut buffered).and_then(|()| buffered.flush()).context("writing the table")?;
    written.rows = table.len() as u64;
    Ok(())
}

async fn write_parquet<S, E>(
    schema: &SchemaRef,
    mut stream: S,
    out: &mut (impl Write + Send),
    written: &mut Written,
) -> Result<()>
where
    S: Stream<Item = Result<RecordBatch, E>> + Unpin,
    E: std::error::Error + Send + Sync + 'static,
{
    let mut file = parquet::ParquetFile::new(schema, &mut *out)?;
    let mut rows = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        file.add(&batch)?;
        rows += batch.num_rows() as u64;
    }
    file.finish()?;
    out.flush().context("ending the Parquet file")?;
    written.rows = rows;
    Ok(())
}

/// Remembers that the reader has gone, however deep the error is wrapped by the time it is seen.
struct Pipe<'a, W> {
    out: &'a mut W,
    closed: bool,
}

impl<W: Write> Pipe<'_, W> {
    fn watch<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.closed |= result.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
        result
    }
}

impl<W: Write> Write for Pipe<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let result = self.out.write(buffer);
        self.watch(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.watch(result)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

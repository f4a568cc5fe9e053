//! How the Parquet files are written: encodings by the meaning of a column, limits by bytes.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field},
};
use bytes::Bytes;
use nozzle_core::{
    TableDef,
    segment::{FileMetadata, FileOrigin},
};
use parquet::{
    arrow::ArrowWriter,
    basic::{BrotliLevel, Compression as Codec, Encoding, GzipLevel, ZstdLevel},
    errors::{ParquetError, Result},
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion},
    },
    schema::types::ColumnPath,
};

use crate::pieces::{Pieces, last_bytes};

/// Rows of a row group at most. With it a point look-up reads little and a scan still flows.
const ROW_GROUP_ROWS: usize = 128 * 1024;

/// The size of a page before compression. Smaller than the usual 1 MiB: each column of each open
/// file holds one page and a compressor that is sized by it, and pages are what a filter skips.
const PAGE_BYTES: usize = 256 << 10;

/// How often the bloom filter of a column of hashes may be wrong. Who looks a hash up asks every file for it, and
/// reads each in vain whose filter is wrong: of the usual 5 % in thousands of files that would be most of the work,
/// and a join that looks up the hashes of some new rows would find one of them nearly everywhere.
const HASH_FPP: f64 = 0.001;

/// How the pages of a file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// Snappy.
    Snappy,
    /// LZ4, raw blocks.
    Lz4,
    /// Gzip at a level 0 to 9.
    Gzip(u32),
    /// Brotli at a level 0 to 11.
    Brotli(u32),
    /// Zstandard at a level 1 to 22.
    Zstd(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

impl Compression {
    fn codec(self) -> Result<Codec> {
        Ok(match self {
            Self::Uncompressed => Codec::UNCOMPRESSED,
            Self::Snappy => Codec::SNAPPY,
            Self::Lz4 => Codec::LZ4_RAW,
            Self::Gzip(level) => Codec::GZIP(GzipLevel::try_new(level)?),
            Self::Brotli(level) => Codec::BROTLI(BrotliLevel::try_new(level)?),
            Self::Zstd(level) => Codec::ZSTD(ZstdLevel::try_new(level)?),
        })
    }
}

impl std::str::FromStr for Compression {
    type Err = String;

    /// Reads `zstd`, `zstd(3)`, `gzip(6)`, `snappy`, `lz4`, `brotli(4)`, `uncompressed`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, level) = match text.strip_suffix(')').and_then(|text| text.split_once('(')) {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let bad = |_| format!("`{text}` has a level that is not a number");
        let level = level.map(str::parse::<u32>).transpose().map_err(bad)?;
        let compression = match (name, level) {
            ("uncompressed", None) => Self::Uncompressed,
            ("snappy", None) => Self::Snappy,
            ("lz4", None) => Self::Lz4,
            ("gzip", level) => Self::Gzip(level.unwrap_or(6)),
            ("brotli", level) => Self::Brotli(level.unwrap_or(1)),
            ("zstd", level) => Self::Zstd(i32::try_from(level.unwrap_or(1)).unwrap_or(i32::MAX)),
            _ => {
                return Err(format!(
                    "`{text}` is not a compression; there are zstd(1…22), lz4, gzip(0…9), brotli(0…11), snappy and uncompressed"
                ));
            }
        };
        compression.codec().map_err(|error| format!("`{text}` is not a compression: {error}"))?;
        Ok(compression)
    }
}

/// How files are written.
#[derive(Debug, Clone)]
pub struct ParquetOptions {
    /// How pages are compressed.
    pub compression: Compression,
    /// Whether columns of hashes, addresses and topics get bloom filters.
    pub bloom_filters: bool,
    /// The size of a row group at most, in bytes.
    pub max_row_group_bytes: usize,
}

impl Default for ParquetOptions {
    fn default() -> Self {
        Self { compression: Compression::default(), bloom_filters: true, max_row_group_bytes: 128 << 20 }
    }
}

/// Encodes the rows of one table into one Parquet file, in memory, piece by piece.
pub struct TableEncoder {
    writer: ArrowWriter<Pieces>,
    rows: u64,
}

/// The end of a file.
#[derive(Debug)]
pub struct Finished {
    /// The last bytes of the file, in their order.
    pub tail: Vec<Bytes>,
    /// The footer among them: the Thrift metadata without the length and magic behind it.
    pub footer: Bytes,
    /// How many rows the file holds.
    pub rows: u64,
}

impl TableEncoder {
    /// An empty file for rows of `table`.
    pub fn new(table: &TableDef, options: &ParquetOptions) -> Result<Self> {
        let properties = properties(table, options)?;
        let writer = ArrowWriter::try_new(Pieces::default(), Arc::clone(&table.schema), Some(properties))?;
        Ok(Self { writer, rows: 0 })
    }

    /// Adds rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch)
    }

    /// Takes the encoded bytes that are complete, in the order of the file.
    pub fn take_bytes(&mut self) -> Vec<Bytes> {
        self.writer.inner_mut().take()
    }

    /// About how large the file would be if it ended now.
    pub fn size_bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// About how much the rows hold that are not in a finished row group yet. What a writer holds
    /// however few rows it has (bloom filters, compressors) is not counted: ending a row group would
    /// not give it back.
    pub fn unfinished_bytes(&self) -> usize {
        self.writer.in_progress_size()
    }

    /// Ends the row group, which gives most of that memory back.
    pub fn end_row_group(&mut self) -> Result<()> {
        self.writer.flush()
    }

    /// Ends the file with what it says of itself.
    pub fn finish(mut self, metadata: &FileMetadata, origin: &FileOrigin) -> Result<Finished> {
        let json =
            |value: serde_json::Result<String>| value.map_err(|error| ParquetError::External(error.into()));
        let entries = [
            (FileMetadata::KEY, json(serde_json::to_string(metadata))?),
            (FileOrigin::KEY, json(serde_json::to_string(origin))?),
        ];
        for (key, value) in entries {
            self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        self.writer.finish()?;
        let tail = self.take_bytes();
        let footer =
            footer_of(&tail).ok_or_else(|| ParquetError::General("the file has no footer".into()))?;
        Ok(Finished { footer, rows: self.rows, tail })
    }
}

/// The footer within the last bytes of a Parquet file: `… footer, length (4 bytes), "PAR1"`.
fn footer_of(tail: &[Bytes]) -> Option<Bytes> {
    const END_BYTES: usize = 8;
    let end = last_bytes(tail, END_BYTES)?;
    let (length, magic) = end.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let footer = last_bytes(tail, length.checked_add(END_BYTES)?)?.slice(..length);
    (magic == b"PAR1").then_some(footer)
}

fn properties(table: &TableDef, options: &ParquetOptions) -> Result<WriterProperties> {
    let sorted_by_block = SortingColumn { column_idx: 0, descending: false, nulls_first: false };
    let builder = WriterProperties::builder()
        .set_created_by(concat!("nozzle ", env!("CARGO_PKG_VERSION")).to_owned())
        // The second version is the one that has dictionaries for fixed-size binary columns.
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(options.compression.codec()?)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_dictionary_page_size_limit(PAGE_BYTES)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(options.max_row_group_bytes))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_sorting_columns(Some(vec![sorted_by_block]));
    let configured =
        table.schema.fields().iter().fold(builder, |builder, field| column(builder, table, field, options));
    Ok(configured.build())
}

/// Encodings by what a column means: counters barely change from row to row, hashes never repeat.
fn column(
    builder: WriterPropertiesBuilder,
    table: &TableDef,
    field: &Field,
    options: &ParquetOptions,
) -> WriterPropertiesBuilder {
    let path = ColumnPath::from(field.name().as_str());
    match field.data_type() {
        DataType::UInt64 | DataType::UInt32 | DataType::Int64 | DataType::Timestamp(..) => builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
        DataType::FixedSizeBinary(width) => {
            let has_bloom_filter =
                options.bloom_filters && matches!(width, 20 | 32) && is_looked_up(field.name());
            let is_unique = is_unique(table.name.as_str(), field.name());
            let is_hash = field.name() == "hash" || field.name().ends_with("_hash");
            let builder = match has_bloom_filter && is_hash {
                true => builder.set_column_bloom_filter_fpp(path.clone(), HASH_FPP),
                false => builder,
            };
            builder
                .set_column_dictionary_enabled(path.clone(), !is_unique)
                .set_column_encoding(path.clone(), Encoding::PLAIN)
                .set_column_bloom_filter_enabled(path, has_bloom_filter)
        }
        DataType::Decimal128(..) => builder.set_column_encoding(path, Encoding::PLAIN),
        DataType::Binary => {
            let builder = builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), Encoding::PLAIN);
            match field.name().as_str() {
                // Neither is ever compared with a value: bounds of each page would only fill the file.
                "logs_bloom" | "extra_data" => {
                    builder.set_column_statistics_enabled(path, EnabledStatistics::Chunk)
                }
                _ => builder,
            }
        }
        _ => builder,
    }
}

/// Values that differ in every row: a dictionary of them is pure cost.
fn is_unique(table: &str, column: &str) -> bool {
    let is_of_block = matches!(
        column,
        "hash"
            | "parent_hash"
            | "state_root"
            | "transactions_root"
            | "receipt_root"
            | "withdrawals_root"
            | "parent_beacon_root"
            | "mix_hash"
    );
    is_of_block || matches!(column, "r" | "s") || (table == "transactions" && column == "tx_hash")
}

/// Columns that people look single values up in.
fn is_looked_up(name: &str) -> bool {
    name == "to"
        || name == "from"
        || name == "hash"
        || name == "miner"
        || name.ends_with("_hash")
        || name.ends_with("address")
        || name.starts_with("topic")
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, FixedSizeBinaryArray, UInt64Array};
    use nozzle_core::{BlockHash, BlockRange, Span, segment::RangeMetadata};
    use parquet::{
        arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
        file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
    };

    use super::*;

    fn metadata() -> FileMetadata {
        let span = Span {
            range: BlockRange::new(5, 7).expect("a range"),
            prev_hash: BlockHash::repeat_byte(1),
            hash: BlockHash::repeat_byte(2),
        };
        FileMetadata {
            table: "t".parse().expect("a name"),
            filename: "f".into(),
            created_at: "2024-01-01T00:00:00Z".into(),
            ranges: vec![RangeMetadata::new(span, "anvil".parse().expect("a name"))],
            empty_tables: vec![],
        }
    }

    fn origin() -> FileOrigin {
        FileOrigin {
            after_commit: 7,
            lease: 3,
            building_until: None,
            sources: None,
            manifest: None,
            cursor: None,
        }
    }

    #[test]
    fn a_file_is_the_pieces_in_order_and_its_footer_is_read_apart() {
        let table = TableDef::new(
            "t".parse().expect("a name"),
            vec![Field::new("hash", DataType::FixedSizeBinary(32), true)],
        );
        let mut encoder = TableEncoder::new(&table, &ParquetOptions::default()).expect("an encoder");
        let mut file = vec![];
        for start in [0u64, 3] {
            let numbers = Arc::new(UInt64Array::from_iter_values(start..start + 3));
            let hashes = arrow::array::new_null_array(&DataType::FixedSizeBinary(32), 3);
            let batch =
                RecordBatch::try_new(Arc::clone(&table.schema), vec![numbers, hashes]).expect("a batch");
            encoder.write(&batch).expect("rows are written");
            file.extend(encoder.take_bytes().concat());
        }
        let finished = encoder.finish(&metadata(), &origin()).expect("a file");
        file.extend(finished.tail.concat());
        assert_eq!(finished.rows, 6);

        let from_footer = ParquetMetaDataReader::decode_metadata(&finished.footer).expect("a footer");
        let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).expect("a file");
        assert_eq!(from_footer.file_metadata(), builder.metadata().file_metadata());
        let kv = builder.metadata().file_metadata().key_value_metadata().expect("metadata");
        let own =
            kv.iter().find(|kv| kv.key == FileMetadata::KEY).and_then(|kv| kv.value.as_ref()).expect("ours");
        assert_eq!(serde_json::from_str::<FileMetadata>(own).expect("it parses"), metadata());
        let place = kv.iter().find(|kv| kv.key == FileOrigin::KEY).and_then(|kv| kv.value.as_ref());
        assert_eq!(serde_json::from_str::<FileOrigin>(place.expect("ours")).expect("it parses"), origin());
        let group = builder.metadata().row_group(0);
        assert!(group.sorting_columns().is_some_and(|columns| columns[0].column_idx == 0));
        assert!(group.column(1).bloom_filter_offset().is_some());
        let rows: usize =
            builder.build().expect("a reader").map(|batch| batch.expect("rows").num_rows()).sum();
        assert_eq!(rows, 6);
    }

    /// A file of a table with a column of each kind, in row groups of at most so many bytes.
    fn file_of(options: &ParquetOptions, rows: u64) -> ParquetMetaData {
        let fixed = |name: &str, width| Field::new(name, DataType::FixedSizeBinary(width), false);
        let fields =
            vec![fixed("tx_hash", 32), fixed("address", 20), Field::new("data", DataType::Binary, false)];
        let table = TableDef::new("transactions".parse().expect("a name"), fields);
        let mut encoder = TableEncoder::new(&table, options).expect("an encoder");
        let mut file = vec![];
        for start in (0..rows).step_by(1_000) {
            let numbers = start..start + 1_000;
            let hash = |n: u64| alloy_primitives::keccak256(n.to_be_bytes()).0;
            let hashes = FixedSizeBinaryArray::try_from_iter(numbers.clone().map(hash)).expect("hashes");
            let addresses = FixedSizeBinaryArray::try_from_iter(numbers.clone().map(|n| [(n % 7) as u8; 20]));
            let data = BinaryArray::from_iter_values(numbers.clone().map(hash));
            let columns: Vec<arrow::array::ArrayRef> = vec![
                Arc::new(UInt64Array::from_iter_values(numbers)),
                Arc::new(hashes),
                Arc::new(addresses.expect("addresses")),
                Arc::new(data),
            ];
            encoder
                .write(&RecordBatch::try_new(Arc::clone(&table.schema), columns).expect("a batch"))
                .expect("rows");
            file.extend(encoder.take_bytes().concat());
        }
        file.extend(encoder.finish(&metadata(), &origin()).expect("a file").tail.concat());
        let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        reader.parse_and_finish(&Bytes::from(file)).expect("a file with page indexes")
    }

    #[test]
    fn columns_are_encoded_by_what_they_mean() {
        let file = file_of(&ParquetOptions::default(), 20_000);
        let group = file.row_group(0);
        let has = |column: usize, encoding| group.column(column).encodings().any(|e| e == encoding);
        assert!(has(0, Encoding::DELTA_BINARY_PACKED), "numbers barely change");
        assert!(!has(1, Encoding::RLE_DICTIONARY), "hashes never repeat");
        assert!(has(2, Encoding::RLE_DICTIONARY), "addresses do");
        for column in group.columns() {
            assert!(matches!(column.compression(), Codec::ZSTD(_)));
            assert!(column.statistics().is_some_and(|s| s.min_bytes_opt().is_some()));
        }
        let blooms: Vec<bool> = group.columns().iter().map(|c| c.bloom_filter_offset().is_some()).collect();
        assert_eq!(blooms, [false, true, true, false]);
        assert!(
            file.offset_index().is_some_and(|index| index[0][1].page_locations().len() > 1),
            "several pages"
        );
    }

    #[test]
    fn row_groups_are_bounded_by_bytes_and_by_rows() {
        let small =
            ParquetOptions { max_row_group_bytes: 1 << 20, bloom_filters: false, ..Default::default() };
        let file = file_of(&small, 60_000);
        assert!(file.num_row_groups() > 2, "{} row groups", file.num_row_groups());
        assert!(file.row_group(0).columns().iter().all(|c| c.bloom_filter_offset().is_none()));
        let file = file_of(&ParquetOptions::default(), 140_000);
        assert_eq!(file.row_group(0).num_rows(), ROW_GROUP_ROWS as i64);
    }

    #[test]
    fn compressions_are_read_as_the_configuration_writes_them() {
        let read = |text: &str| text.parse::<Compression>();
        assert_eq!(read("zstd(1)"), Ok(Compression::Zstd(1)));
        assert_eq!(read("zstd"), Ok(Compression::Zstd(1)));
        assert_eq!(read("snappy"), Ok(Compression::Snappy));
        assert_eq!(read("gzip(9)"), Ok(Compression::Gzip(9)));
        for bad in ["zstd(99)", "zstd(x)", "snappy(1)", "lzma", "", "gzip(10)"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

//! A Parquet file that any reader opens.
//!
//! Its types are the plain ones (see `plain`).

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, IntervalUnit, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use nozzle_query::plain::{plain_batch, plain_schema};

/// A Parquet file that is being written. It is one once [`finish`](Self::finish) has returned.
pub(super) struct ParquetFile<W: Write + Send> {
    schema: SchemaRef,
    writer: ArrowWriter<W>,
}

impl<W: Write + Send> ParquetFile<W> {
    /// Begins a file. Columns that Parquet has no type for (unions, intervals with nanoseconds)
    /// are refused.
    pub fn new(schema: &Schema, out: W) -> Result<Self> {
        let schema = plain_schema(schema);
        schema.fields().iter().try_for_each(check_column)?;
        let level = ZstdLevel::try_new(1).context("the compression level")?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let writer = ArrowWriter::try_new(out, Arc::clone(&schema), Some(properties))
            .context("beginning the Parquet file")?;
        Ok(Self { schema, writer })
    }

    /// Adds a batch's rows.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let plain =
            plain_batch(batch, &self.schema).context("a batch does not have the columns of its schema")?;
        self.writer.write(&plain).context("writing the Parquet file")
    }

    /// Writes the footer.
    pub fn finish(self) -> Result<()> {
        self.writer.close().context("ending the Parquet file")?;
        Ok(())
    }
}

/// Refuses what Parquet has no type for, at any depth, naming the column.
fn check_column(column: &FieldRef) -> Result<()> {
    check(column).with_context(|| format!("column `{}`", column.name()))
}

fn check(field: &FieldRef) -> Result<()> {
    match field.data_type() {
        DataType::Interval(IntervalUnit::MonthDayNano) | DataType::Union(..) => {
            bail!("Parquet has no type for {}: cast it, for instance to text", field.data_type())
        }
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => check(item),
        DataType::Struct(fields) => fields.iter().try_for_each(check),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::{
        Array, ArrayRef, AsArray, BinaryViewArray, DictionaryArray, Int32Array, Int64Array, ListBuilder,
        RunArray, StringViewArray, StringViewBuilder, StructArray, TimestampMicrosecondArray,
        new_empty_array,
    };
    use arrow::datatypes::{Field, Int32Type, UnionFields, UnionMode};
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::super::testing::batch;
    use super::*;

    fn written(batches: &[RecordBatch]) -> RecordBatch {
        let mut out = Vec::new();
        let mut file = ParquetFile::new(&batches[0].schema(), &mut out).unwrap();
        for batch in batches {
            file.add(batch).unwrap();
        }
        file.finish().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(out)).unwrap();
        let compression = reader.metadata().row_groups().first().map(|group| group.column(0).compression());
        assert!(compression.is_none_or(|compression| matches!(compression, Compression::ZSTD(_))));
        let schema = Arc::clone(reader.schema());
        let read: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
        arrow::compute::concat_batches(&schema, &read).unwrap()
    }

    #[test]
    fn what_is_read_back_is_what_was_written() {
        let rows = batch(vec![
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(i64::MAX)]))),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3]).with_timezone("+00:00"))),
        ]);
        let read = written(&[rows.clone(), rows.slice(1, 2)]);
        assert_eq!(read.slice(0, 3), rows);
        assert_eq!(read.slice(3, 2), rows.slice(1, 2));
    }

    #[test]
    fn views_dictionaries_and_runs_become_plain_at_any_depth() {
        let texts = || StringViewArray::from(vec![Some("a text longer than twelve bytes"), None]);
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        lists.values().append_value("in a list");
        lists.append(true);
        lists.append_null();
        let inner: ArrayRef = Arc::new(BinaryViewArray::from_iter_values([[1u8], [2]]));
        let field = Arc::new(Field::new("inner", DataType::BinaryView, true));
        let runs = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2]), &Int64Array::from(vec![7]));
        let read = written(&[batch(vec![
            ("text", Arc::new(texts())),
            ("list", Arc::new(lists.finish())),
            ("struct", Arc::new(StructArray::from(vec![(field, inner)]))),
            ("coded", Arc::new(DictionaryArray::new(Int32Array::from(vec![1, 0]), Arc::new(texts())))),
            ("runs", Arc::new(runs.unwrap())),
        ])]);
        let types: Vec<String> = read.columns().iter().map(|c| c.data_type().to_string()).collect();
        assert_eq!(types[0], "Utf8");
        assert!(!types.iter().any(|name| name.contains("View") || name.contains("Dictionary")), "{types:?}");
        assert_eq!(read["text"].as_string::<i32>().value(0), "a text longer than twelve bytes");
        assert!(read["text"].is_null(1));
        assert_eq!(read["list"].as_list::<i32>().value(0).as_string::<i32>().value(0), "in a list");
        assert_eq!(read["struct"].as_struct().column(0).as_binary::<i32>().value(1), [2]);
        assert!(read["coded"].is_null(0));
        assert_eq!(read["runs"].as_primitive::<arrow::datatypes::Int64Type>().values(), &[7, 7]);
    }

    #[test]
    fn a_result_without_rows_is_a_file_with_a_schema() {
        let rows = batch(vec![("n", Arc::new(Int64Array::from(Vec::<i64>::new())))]);
        let read = written(&[rows]);
        assert_eq!((read.num_rows(), read.schema().field(0).name().as_str()), (0, "n"));
    }

    #[test]
    fn a_type_that_parquet_lacks_is_refused_by_name() {
        let union = DataType::Union(UnionFields::empty(), UnionMode::Dense);
        let list = DataType::new_list(DataType::Interval(IntervalUnit::MonthDayNano), true);
        for data_type in [union, list] {
            let schema = Schema::new(vec![Field::new("odd", data_type, true)]);
            let error = ParquetFile::new(&schema, Vec::new()).err().unwrap();
            assert!(format!("{error:#}").contains("odd"), "{error:#}");
        }
    }

    #[test]
    fn every_other_type_can_be_written() {
        use arrow::datatypes::{IntervalUnit::*, TimeUnit::*};
        let types = [
            DataType::Null,
            DataType::Float16,
            DataType::Date64,
            DataType::Time32(Second),
            DataType::Time64(Nanosecond),
            DataType::Timestamp(Second, None),
            DataType::Duration(Microsecond),
            DataType::Interval(YearMonth),
            DataType::Interval(DayTime),
            DataType::Decimal32(9, 2),
            DataType::Decimal256(76, 10),
            DataType::FixedSizeBinary(20),
            DataType::new_fixed_size_list(DataType::Utf8View, 2, true),
            DataType::LargeListView(Arc::new(Field::new_list_field(DataType::Int8, true))),
        ];
        for data_type in types {
            let rows = batch(vec![("c", arrow::array::new_null_array(&data_type, 2))]);
            assert_eq!(written(&[rows]).num_rows(), 2, "{data_type}");
            let empty = batch(vec![("c", new_empty_array(&data_type))]);
            assert_eq!(written(&[empty]).num_rows(), 0, "{data_type}");
        }
    }
}

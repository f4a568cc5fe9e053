//! Tests of whole outputs.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatchOptions, StringArray};
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use futures::stream;

use super::testing::batch;
use super::*;

fn numbers(values: std::ops::Range<i64>) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
    batch(vec![("n", column)])
}

async fn written(format: Format, batches: Vec<RecordBatch>, options: Options) -> (String, Written) {
    let schema = batches[0].schema();
    let rows = stream::iter(batches.into_iter().map(Ok::<_, ArrowError>));
    let mut out = Vec::new();
    let written = write(format, schema, rows, &mut out, options).await.unwrap();
    (String::from_utf8(out).unwrap(), written)
}

/// Takes `room` bytes and is then a pipe without a reader.
struct Narrow {
    room: usize,
    error: ErrorKind,
    flushes: usize,
}

impl Write for Narrow {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            return Err(self.error.into());
        }
        let taken = buffer.len().min(self.room);
        self.room -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes += 1;
        Ok(())
    }
}

const ALL: [Format; 4] = [Format::Table, Format::Jsonl, Format::Csv, Format::Parquet];

#[test]
fn a_format_is_known_by_its_name_and_others_are_listed() {
    for format in ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
        assert_eq!(<Format as clap::ValueEnum>::from_str(&format.to_string(), false), Ok(format));
    }
    assert_eq!("NDJSON".parse(), Ok(Format::Jsonl));
    let error = "xml".parse::<Format>().unwrap_err();
    assert!(error.contains("`xml`") && error.contains("jsonl"), "{error}");
}

#[tokio::test]
async fn batches_are_written_in_their_order() {
    let batches = vec![numbers(0..2), numbers(0..0), numbers(2..3)];
    let (text, summary) = written(Format::Jsonl, batches.clone(), Options::default()).await;
    assert_eq!(text, "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n");
    assert_eq!(summary, Written { rows: 3, truncated: false, pipe_closed: false });
    let (text, _) = written(Format::Csv, batches, Options::default()).await;
    assert_eq!(text, "n\n0\n1\n2\n");
}

#[tokio::test]
async fn a_large_batch_is_written_whole() {
    let rows = 3 * PIECE_ROWS as i64 + 7;
    let (text, summary) = written(Format::Jsonl, vec![numbers(0..rows)], Options::default()).await;
    let expected: String = (0..rows).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    assert!(text == expected);
    assert_eq!(summary.rows, rows as u64);
}

#[tokio::test]
async fn lines_are_flushed_batch_by_batch() {
    for format in [Format::Jsonl, Format::Csv] {
        let mut out = Narrow { room: usize::MAX, error: ErrorKind::BrokenPipe, flushes: 0 };
        let batches = [numbers(0..1), numbers(1..2), numbers(2..3)];
        let rows = stream::iter(batches.map(Ok::<_, ArrowError>));
        write(format, numbers(0..0).schema(), rows, &mut out, Options::default()).await.unwrap();
        assert!(out.flushes >= 3, "{format}");
    }
}

#[tokio::test]
async fn a_table_says_whether_there_was_more() {
    let options = Options { table_rows: 2, ..Options::default() };
    let (text, summary) = written(Format::Table, vec![numbers(0..2), numbers(2..3)], options).await;
    assert_eq!(text, "┌───┐\n│ n │\n├───┤\n│ 0 │\n│ 1 │\n└───┘\n");
    assert_eq!(summary, Written { rows: 2, truncated: true, pipe_closed: false });
    let (_, summary) = written(Format::Table, vec![numbers(0..2), numbers(0..0)], options).await;
    assert!(!summary.truncated);
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_error_and_ends_the_work() {
    for format in ALL {
        for room in [0, 3] {
            let mut out = Narrow { room, error: ErrorKind::BrokenPipe, flushes: 0 };
            let mut asked = 0;
            let rows = stream::iter((0..1000).map(|n| Ok::<_, ArrowError>(numbers(n..n + 1))));
            let rows = rows.inspect(|_| asked += 1);
            let options = Options { table_rows: 10, ..Options::default() };
            let summary = write(format, numbers(0..0).schema(), rows, &mut out, options).await.unwrap();
            assert!(summary.pipe_closed, "{format} {room}");
            assert!(format == Format::Parquet || asked <= 11, "{format} {asked}");
        }
    }
}

#[tokio::test]
async fn another_failure_of_the_output_is_an_error() {
    for format in ALL {
        let mut out = Narrow { room: 3, error: ErrorKind::StorageFull, flushes: 0 };
        let rows = stream::iter([Ok::<_, ArrowError>(numbers(0..5))]);
        let result = write(format, numbers(0..0).schema(), rows, &mut out, Options::default()).await;
        assert!(result.is_err(), "{format}");
    }
}

#[tokio::test]
async fn an_error_of_the_stream_arrives_as_it_is_after_the_rows_before_it() {
    for format in ALL {
        let rows = [Ok(numbers(0..1)), Err(ArrowError::ComputeError("no more".into()))];
        let mut out = Vec::new();
        let result =
            write(format, numbers(0..0).schema(), stream::iter(rows), &mut out, Options::default()).await;
        let error = result.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(ArrowError::ComputeError(_))), "{format}");
        if format == Format::Jsonl {
            assert_eq!(out, b"{\"n\":0}\n");
        }
    }
}

#[tokio::test]
async fn rows_without_columns_are_counted() {
    let options = RecordBatchOptions::new().with_row_count(Some(2));
    let schema = Arc::new(Schema::empty());
    let rows = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
    let (text, summary) = written(Format::Jsonl, vec![rows.clone()], Options::default()).await;
    assert_eq!((text.as_str(), summary.rows), ("{}\n{}\n", 2));
    for format in [Format::Csv, Format::Table, Format::Parquet] {
        let stream = stream::iter([Ok::<_, ArrowError>(rows.clone())]);
        let written =
            write(format, rows.schema(), stream, &mut Vec::new(), Options::default()).await.unwrap();
        assert_eq!(written.rows, 2, "{format}");
    }
}

#[tokio::test]
async fn decimals_can_be_numbers() {
    let array = arrow::array::Decimal128Array::from(vec![125]).with_precision_and_scale(5, 2).unwrap();
    let rows = batch(vec![("d", Arc::new(array)), ("s", Arc::new(StringArray::from(vec!["1"])))]);
    let number = Options { decimals: DecimalFormat::Number, ..Options::default() };
    let (text, _) = written(Format::Jsonl, vec![rows.clone()], number).await;
    assert_eq!(text, "{\"d\":1.25,\"s\":\"1\"}\n");
    let (text, _) = written(Format::Jsonl, vec![rows], Options::default()).await;
    assert_eq!(text, "{\"d\":\"1.25\",\"s\":\"1\"}\n");
}

//! CSV as RFC 4180 describes it, with a header line, except that lines end with a line feed alone
//! as everywhere on Unix.
//!
//! A cell is the text that it has in JSON, without the quotes; lists, structs and maps are JSON.
//! Quoted is what has to be: a quote, a comma or the end of a line in it. A null is nothing at all
//! and an empty text is `""`, so that a reader who cares can tell them apart. Where there is just
//! one column a null is `""` too: an empty line would be skipped by most readers.

use anyhow::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use super::DecimalFormat;
use super::cells::Cells;
use super::json::{check_types, columns};

/// Writes batches of one schema as CSV.
#[derive(Debug, Clone)]
pub struct Csv {
    header: Vec<u8>,
}

impl Csv {
    /// A writer for batches of `schema`. Columns that have no text (unions) are refused.
    pub fn new(schema: &Schema) -> Result<Self> {
        check_types(schema)?;
        let mut header = Vec::new();
        for (index, field) in schema.fields().iter().enumerate() {
            separate(index, &mut header);
            let start = header.len();
            header.extend_from_slice(field.name().as_bytes());
            quote_from(start, &mut header);
        }
        header.push(b'\n');
        Ok(Self { header })
    }

    /// The first line.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Appends a line for each row.
    pub fn encode(&self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let columns = columns(batch, DecimalFormat::String)?;
        for row in 0..batch.num_rows() {
            for (index, cells) in columns.iter().enumerate() {
                separate(index, out);
                write_cell(cells, row, columns.len() == 1, out);
            }
            out.push(b'\n');
        }
        Ok(())
    }
}

fn separate(index: usize, out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b',');
    }
}

fn write_cell(cells: &Cells<'_>, row: usize, alone: bool, out: &mut Vec<u8>) {
    if cells.is_null(row) {
        if alone {
            out.extend_from_slice(b"\"\"");
        }
        return;
    }
    let start = out.len();
    cells.write_bare(row, out);
    if cells.is_free_text() {
        quote_from(start, out);
    }
}

/// Puts what was written since `start` between quotes if it needs them.
fn quote_from(start: usize, out: &mut Vec<u8>) {
    let text = &out[start..];
    let special = |byte: &u8| matches!(byte, b'"' | b',' | b'\r' | b'\n');
    if !text.is_empty() && !text.iter().any(special) {
        return;
    }
    let text = out.split_off(start);
    out.push(b'"');
    for byte in text {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BinaryArray, Decimal128Array, Float64Array, Int64Array, ListArray, StringArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int32Type;

    use super::super::testing::{batch, text_of};
    use super::*;

    fn csv(columns: Vec<(&str, ArrayRef)>) -> String {
        let batch = batch(columns);
        let csv = Csv::new(&batch.schema()).unwrap();
        text_of(|out| {
            out.extend_from_slice(csv.header());
            csv.encode(&batch, out).unwrap();
        })
    }

    #[test]
    fn cells_have_the_text_of_json_without_quotes() {
        let text = csv(vec![
            ("n", Arc::new(Int64Array::from(vec![i64::MIN]))),
            ("b", Arc::new(BinaryArray::from_vec(vec![&[0xde, 0xad]]))),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![1_500_000]).with_timezone("+00:00"))),
            ("d", Arc::new(Decimal128Array::from(vec![-5]).with_precision_and_scale(38, 2).unwrap())),
            ("f", Arc::new(Float64Array::from(vec![f64::NAN]))),
            ("l", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None])]))),
        ]);
        let row = "-9223372036854775808,0xdead,1970-01-01T00:00:01.500Z,-0.05,NaN,\"[1,null]\"";
        assert_eq!(text, format!("n,b,t,d,f,l\n{row}\n"));
    }

    #[test]
    fn only_what_has_to_be_quoted_is() {
        let texts = ["plain text", "a,b", "say \"hi\"", "line\nbreak", "return\r", "", " spaces ", "é"];
        let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let other: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; texts.len()]));
        let expected = "a,\"b,\"\"c\"\n\
            plain text,\n\"a,b\",\n\"say \"\"hi\"\"\",\n\"line\nbreak\",\n\"return\r\",\n\"\",\n spaces ,\né,\n";
        assert_eq!(csv(vec![("a", column), ("b,\"c", other)]), expected);
    }

    #[test]
    fn a_null_alone_on_its_line_is_not_an_empty_line() {
        assert_eq!(csv(vec![("a", Arc::new(Int64Array::from(vec![None, Some(1)])))]), "a\n\"\"\n1\n");
    }

    #[test]
    fn an_empty_batch_is_a_header() {
        assert_eq!(csv(vec![("a", Arc::new(Int64Array::from(Vec::<i64>::new())))]), "a\n");
    }

    #[test]
    fn another_reader_reads_back_what_was_written() {
        let texts = ["a,b", "\"", "\"\"", "x\r\ny", "plain", ",", "\n", "日本"];
        let numbers: Vec<i64> = (0..).take(texts.len()).collect();
        let written = batch(vec![
            ("text", Arc::new(StringArray::from(texts.to_vec()))),
            ("number", Arc::new(Int64Array::from(numbers))),
        ]);
        let csv = Csv::new(&written.schema()).unwrap();
        let mut text = csv.header().to_vec();
        csv.encode(&written, &mut text).unwrap();
        let reader = arrow::csv::ReaderBuilder::new(written.schema()).with_header(true);
        let read: Vec<_> = reader.build(text.as_slice()).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, [written]);
    }
}

//! A table for people: a box around aligned columns, nothing cut, numbers to the right.
//!
//! Cells have the text that they have in JSON, without the quotes; a null is `NULL`. Characters
//! that would move the cursor, colour the terminal or turn the reading direction are written as
//! escapes: on a chain anybody can write such a text.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use unicode_width::UnicodeWidthStr;

use super::DecimalFormat;
use super::json::{check_types, columns};

/// A table that is being gathered: the width of a column is known after its last row.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    limit: usize,
}

#[derive(Debug)]
struct Column {
    header: String,
    width: usize,
    right: bool,
}

impl Table {
    /// A table of at most `limit` rows. Columns that have no text (unions) are refused.
    pub fn new(schema: &Schema, limit: usize) -> Result<Self> {
        check_types(schema)?;
        let column = |name: &str, data_type| {
            let header = printable(name);
            Column { width: header.width(), header, right: is_number(data_type) }
        };
        let columns = schema.fields().iter().map(|field| column(field.name(), field.data_type())).collect();
        Ok(Self { columns, rows: Vec::new(), limit })
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Takes rows up to the limit; whether all of the batch's were taken.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<bool> {
        let taken = batch.num_rows().min(self.limit - self.rows.len());
        let cells = columns(batch, DecimalFormat::String)?;
        let mut buffer = Vec::new();
        for row in 0..taken {
            let mut texts = Vec::with_capacity(cells.len());
            for (cells, column) in cells.iter().zip(&mut self.columns) {
                buffer.clear();
                if cells.is_null(row) {
                    buffer.extend_from_slice(b"NULL");
                } else {
                    cells.write_bare(row, &mut buffer);
                }
                let text = printable(&String::from_utf8_lossy(&buffer));
                column.width = column.width.max(text.width());
                texts.push(text);
            }
            self.rows.push(texts);
        }
        Ok(taken == batch.num_rows())
    }

    /// Writes the table, the header also where there is no row.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let headers = self.columns.iter().map(|column| column.header.as_str());
        out.write_all(self.rule(["┌", "┬", "┐"]).as_bytes())?;
        out.write_all(self.line(headers).as_bytes())?;
        if !self.rows.is_empty() {
            out.write_all(self.rule(["├", "┼", "┤"]).as_bytes())?;
        }
        for row in &self.rows {
            out.write_all(self.line(row.iter().map(String::as_str)).as_bytes())?;
        }
        out.write_all(self.rule(["└", "┴", "┘"]).as_bytes())
    }

    fn rule(&self, [left, cross, right]: [&str; 3]) -> String {
        let bars: Vec<String> = self.columns.iter().map(|column| "─".repeat(column.width + 2)).collect();
        format!("{left}{}{right}\n", bars.join(cross))
    }

    fn line<'a>(&self, texts: impl Iterator<Item = &'a str>) -> String {
        let mut line = String::new();
        for (column, text) in self.columns.iter().zip(texts) {
            let space = " ".repeat(column.width - text.width());
            let (before, after) = if column.right { (space.as_str(), "") } else { ("", space.as_str()) };
            // Writing into a string cannot fail.
            let _ = write!(line, "│ {before}{text}{after} ");
        }
        line.push_str(if self.columns.is_empty() { "││\n" } else { "│\n" });
        line
    }
}

fn is_number(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_number(values),
        DataType::RunEndEncoded(_, values) => is_number(values.data_type()),
        other => other.is_numeric(),
    }
}

/// The text with escapes for what a terminal would act on.
fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if acts_on_a_terminal(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

fn acts_on_a_terminal(character: char) -> bool {
    let turns =
        matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = matches!(character, '\u{2028}' | '\u{2029}');
    character.is_control() || turns || breaks
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal128Array, DictionaryArray, Int32Array, StringArray};
    use arrow::datatypes::Int8Type;

    use super::super::testing::{batch, text_of};
    use super::*;

    fn table(columns: Vec<(&str, ArrayRef)>, limit: usize) -> String {
        let batch = batch(columns);
        let mut table = Table::new(&batch.schema(), limit).unwrap();
        table.add(&batch).unwrap();
        text_of(|out| table.write(out).unwrap())
    }

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let decimals = Decimal128Array::from(vec![150, 5]).with_precision_and_scale(38, 2).unwrap();
        let keys = Int32Array::from(vec![1, 0]);
        let coded = DictionaryArray::new(arrow::array::Int8Array::from(vec![0, 1]), Arc::new(keys));
        let _: &DictionaryArray<Int8Type> = &coded;
        let text = table(
            vec![
                ("name", Arc::new(StringArray::from(vec![Some("日本"), None]))),
                ("amount", Arc::new(decimals)),
                ("k", Arc::new(coded)),
            ],
            10,
        );
        let expected = "\
┌──────┬────────┬───┐
│ name │ amount │ k │
├──────┼────────┼───┤
│ 日本 │   1.50 │ 1 │
│ NULL │   0.05 │ 0 │
└──────┴────────┴───┘
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_a_terminal_would_act_on_is_escaped() {
        let texts = StringArray::from(vec!["a\nb", "\u{1b}[31mred", "x\u{202e}y\u{9b}"]);
        let text = table(vec![("t\t", Arc::new(texts))], 10);
        for expected in ["t\\t", "a\\nb", "\\u{1b}[31mred", "x\\u{202e}y\\u{9b}"] {
            assert!(text.contains(expected), "{text}");
        }
        assert_eq!(text.lines().count(), 7);
    }

    #[test]
    fn an_empty_result_has_its_header() {
        let text = table(vec![("id", Arc::new(Int32Array::from(Vec::<i32>::new())))], 10);
        assert_eq!(text, "┌────┐\n│ id │\n└────┘\n");
    }

    #[test]
    fn rows_beyond_the_limit_are_not_taken() {
        let batch = batch(vec![("id", Arc::new(Int32Array::from(vec![1, 2, 3])))]);
        let mut table = Table::new(&batch.schema(), 5).unwrap();
        assert!(table.add(&batch).unwrap());
        assert!(!table.add(&batch).unwrap());
        assert_eq!(table.len(), 5);
        assert!(table.add(&batch.slice(0, 0)).unwrap());
    }

    #[test]
    fn a_long_cell_is_not_cut() {
        let long = "x".repeat(5000);
        let text = table(vec![("t", Arc::new(StringArray::from(vec![long.as_str()])))], 1);
        assert!(text.contains(&long));
    }
}

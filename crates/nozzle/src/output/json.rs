//! JSON Lines: one object a row, columns in the schema's order, nulls left out.
//!
//! | type | JSON |
//! |---|---|
//! | integers | numbers, all 64 bits of them |
//! | floats | numbers, the shortest that read back the same; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | decimals | strings with their exact digits, or numbers ([`DecimalFormat`]) |
//! | binary of every kind | `"0x…"`, lowercase |
//! | timestamps, dates, times, durations, intervals | ISO 8601 strings; with a zone RFC 3339 in UTC, `…Z` |
//! | lists | arrays; a null in one is `null` |
//! | structs | objects; fields that are null are left out |
//! | maps | objects, keys as text; a value that is null is `null`, so that its key stays |
//! | dictionaries, run-end encoded | as their values |
//! | null | left out |
//! | unions | refused |

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, RecordBatch, new_empty_array};
use arrow::datatypes::Schema;

use super::DecimalFormat;
use super::cells::{Cells, name_prefix, write_object};

/// Writes batches of one schema as JSON Lines.
#[derive(Debug, Clone)]
pub struct JsonLines {
    prefixes: Vec<Vec<u8>>,
    decimals: DecimalFormat,
}

impl JsonLines {
    /// A writer for batches of `schema`. Refused are columns that have no JSON (unions) and two
    /// columns of one name, of which most readers would keep one.
    pub fn new(schema: &Schema, decimals: DecimalFormat) -> Result<Self> {
        check_types(schema)?;
        let mut names = HashSet::new();
        for field in schema.fields() {
            let name = field.name();
            ensure!(names.insert(name), "two columns are named `{name}`: give one of them another name");
        }
        let prefixes = schema.fields().iter().map(|field| name_prefix(field.name())).collect();
        Ok(Self { prefixes, decimals })
    }

    /// Appends a line for each row, each with its line feed. The batch has the columns of the
    /// schema that the writer was made for; after an error `out` is as it was.
    pub fn encode(&self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let (found, expected) = (batch.num_columns(), self.prefixes.len());
        ensure!(found == expected, "a batch has {found} columns and should have {expected}");
        let columns = columns(batch, self.decimals)?;
        for row in 0..batch.num_rows() {
            let members = self.prefixes.iter().map(Vec::as_slice).zip(&columns);
            write_object(members, row, out);
            out.push(b'\n');
        }
        Ok(())
    }
}

/// Refuses a schema with a column that cannot be written as text, naming it.
pub(super) fn check_types(schema: &Schema) -> Result<()> {
    for field in schema.fields() {
        let sample = new_empty_array(field.data_type());
        Cells::new(&sample, DecimalFormat::String).with_context(|| format!("column `{}`", field.name()))?;
    }
    Ok(())
}

/// A batch's columns, ready to be written.
pub(super) fn columns(batch: &RecordBatch, decimals: DecimalFormat) -> Result<Vec<Cells<'_>>> {
    batch.columns().iter().map(|column| Cells::new(column as &dyn Array, decimals)).collect()
}

#[cfg(test)]
#[path = "json_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;

//! The forms that rows are sent in: JSON Lines, or what the client asks for with `Accept`.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
    ipc::writer::StreamWriter,
};
use axum::http::{HeaderMap, header};

use nozzle_query::plain::{plain_batch, plain_schema};

use super::qualities;
use crate::output::{DecimalFormat, csv::Csv, json::JsonLines};

/// A form, by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Csv,
    Arrow,
}

impl Form {
    const ALL: [Self; 3] = [Self::Json, Self::Csv, Self::Arrow];

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// The form that the client likes best; JSON Lines where it does not say. `None` where it takes none.
    pub fn accepted(headers: &HeaderMap) -> Option<Self> {
        let wanted = qualities(headers, &header::ACCEPT);
        if wanted.is_empty() {
            return Some(Self::Json);
        }
        let of = |form: Self| {
            let is_named = |name: &str| match form {
                Self::Json => matches!(
                    name,
                    "*/*"
                        | "application/*"
                        | "application/x-ndjson"
                        | "application/jsonl"
                        | "application/json"
                ),
                Self::Csv => matches!(name, "text/*" | "text/csv"),
                Self::Arrow => name == "application/vnd.apache.arrow.stream",
            };
            let named = wanted.iter().filter(|(name, _)| is_named(&name.to_ascii_lowercase()));
            named.map(|(_, quality)| *quality).fold(0.0, f32::max)
        };
        let best = Self::ALL.into_iter().rev().max_by(|a, b| of(*a).total_cmp(&of(*b)))?;
        (of(best) > 0.0).then_some(best)
    }
}

/// Writes the batches of one answer.
pub enum Rows {
    Json(JsonLines),
    Csv(Csv),
    Arrow { writer: Box<StreamWriter<Vec<u8>>>, schema: SchemaRef },
}

impl Rows {
    /// A writer for batches of a schema; an error where the form does not have a type of it.
    pub fn new(form: Form, schema: &Schema, decimals: DecimalFormat) -> anyhow::Result<Self> {
        Ok(match form {
            Form::Json => Self::Json(JsonLines::new(schema, decimals)?),
            Form::Csv => Self::Csv(Csv::new(schema)?),
            Form::Arrow => {
                let schema = plain_schema(schema);
                let writer = Box::new(StreamWriter::try_new(vec![], &schema)?);
                Self::Arrow { writer, schema }
            }
        })
    }

    /// What stands before the rows.
    pub fn begin(&mut self) -> Vec<u8> {
        match self {
            Self::Json(_) => vec![],
            Self::Csv(csv) => csv.header().to_vec(),
            Self::Arrow { writer, .. } => std::mem::take(writer.get_mut()),
        }
    }

    /// The rows of a batch.
    pub fn encode(&mut self, batch: &RecordBatch) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![];
        match self {
            Self::Json(lines) => lines.encode(batch, &mut bytes)?,
            Self::Csv(csv) => csv.encode(batch, &mut bytes)?,
            Self::Arrow { writer, schema } => {
                let written = plain_batch(batch, &Arc::clone(schema)).and_then(|batch| writer.write(&batch));
                written.map_err(|error: ArrowError| anyhow::Error::new(error))?;
                bytes = std::mem::take(writer.get_mut());
            }
        }
        Ok(bytes)
    }

    /// What stands behind the rows.
    pub fn end(&mut self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Json(_) | Self::Csv(_) => Ok(vec![]),
            Self::Arrow { writer, .. } => {
                writer.finish()?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }

    /// Whether a line can tell an error behind rows.
    pub fn has_lines(&self) -> bool {
        matches!(self, Self::Json(_))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_client_says_which_form_it_takes() {
        let accepted = |value: &'static str| {
            Form::accepted(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))]))
        };
        assert_eq!(Form::accepted(&HeaderMap::new()), Some(Form::Json));
        for (value, expected) in [
            ("*/*", Some(Form::Json)),
            ("application/json", Some(Form::Json)),
            ("text/csv", Some(Form::Csv)),
            ("text/csv;q=0.5, */*;q=0.1", Some(Form::Csv)),
            ("application/vnd.apache.arrow.stream, text/csv;q=0.9", Some(Form::Arrow)),
            ("text/html, */*;q=0.1", Some(Form::Json)),
            ("text/html", None),
            ("text/csv;q=0", None),
        ] {
            assert_eq!(accepted(value), expected, "{value}");
        }
    }
}

//! Streams as clients ask for them, and what they are told beside the rows.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, RecordBatch},
    datatypes::SchemaRef,
    error::ArrowError,
    ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions},
};
use arrow_flight::{FlightData, SchemaAsIpc};
use axum::http::HeaderMap;
use bytes::Bytes;
use nozzle_core::{BlockHash, BlockId, BlockNum, Network};
use nozzle_query::{StreamItem, StreamRange};
use prost::Message as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    error::{ApiError, ErrorCode},
    query::Queries,
};

/// The header that makes a stream of a query.
const STREAM: &str = "nozzle-stream";
/// The header that says up to where the client has everything.
const RESUME: &str = "nozzle-resume";
/// The header that asks for lines about the ranges.
const CONTROL: &str = "nozzle-control";

/// What messages of Flight hold about.
const MESSAGE_BYTES: usize = 2 << 20;

/// What a message of Flight has at most: a client takes no more where it is not told otherwise.
const MOST_MESSAGE_BYTES: usize = 4 << 20;

/// Blocks by network, newest first.
pub type Resume = Vec<(Network, Vec<BlockId>)>;

/// Where the stream begins that a request asks for; `None` where it asks for none.
pub async fn asked_for(
    queries: &Queries,
    headers: &HeaderMap,
    sql: &str,
) -> Result<Option<Resume>, ApiError> {
    if !is_true(headers, STREAM)? && !queries.asks_for_stream(sql).await? {
        return Ok(None);
    }
    let Some(value) = headers.get(RESUME) else { return Ok(Some(vec![])) };
    let bad = |why: String| {
        let form = r#"{"<network>":{"number":1,"hash":"0x…"}}, or a list of such blocks, newest first"#;
        ApiError::new(ErrorCode::InvalidRequest, format!("the header {RESUME} must be {form}: {why}"))
    };
    let value: Map<String, Value> =
        serde_json::from_slice(value.as_bytes()).map_err(|error| bad(error.to_string()))?;
    let resume = value.into_iter().map(|(network, blocks)| {
        let network: Network = network.parse().map_err(|error| bad(format!("{error}")))?;
        let blocks = if blocks.is_array() { blocks } else { Value::Array(vec![blocks]) };
        let blocks: Vec<Cursor> = serde_json::from_value(blocks).map_err(|error| bad(error.to_string()))?;
        let mut blocks: Vec<_> =
            blocks.into_iter().map(|Cursor { number, hash }| BlockId { number, hash }).collect();
        blocks.sort_by_key(|block| std::cmp::Reverse(block.number));
        Ok((network, blocks))
    });
    resume.collect::<Result<_, _>>().map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    number: BlockNum,
    hash: BlockHash,
}

/// Whether lines about the ranges are asked for.
pub fn wants_control(headers: &HeaderMap) -> Result<bool, ApiError> {
    is_true(headers, CONTROL)
}

fn is_true(headers: &HeaderMap, name: &str) -> Result<bool, ApiError> {
    match headers.get(name).map(|value| value.as_bytes().to_ascii_lowercase()).as_deref() {
        None | Some(b"false") => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => Err(ApiError::new(
            ErrorCode::InvalidRequest,
            format!("the header {name} is neither true nor false"),
        )),
    }
}

/// The bytes of a batch, which may be a part of larger arrays.
pub fn bytes_of(batch: &RecordBatch) -> usize {
    let size = |column: &ArrayRef| {
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(size).sum()
}

/// What a client is told of an item.
pub fn told(item: &StreamItem) -> Value {
    match item {
        StreamItem::Rows(_, range) => ranges(range, false),
        StreamItem::Complete(range) => ranges(range, true),
        StreamItem::KeepAlive => json!({ "ranges": [], "ranges_complete": false }),
    }
}

fn ranges(range: &StreamRange, is_complete: bool) -> Value {
    json!({
        "ranges": [{
            "numbers": { "start": range.numbers.start(), "end": range.numbers.end() },
            "network": range.network.as_str(),
            "hash": range.hash,
            "prev_hash": range.prev_hash,
        }],
        "ranges_complete": is_complete,
    })
}

/// Messages of Flight, with what clients are told of each.
pub struct Messages {
    schema: SchemaRef,
    options: IpcWriteOptions,
    generator: IpcDataGenerator,
    tracker: DictionaryTracker,
    compression: IpcWriteContext,
}

impl Messages {
    /// Messages of rows of plain types.
    pub fn new(schema: SchemaRef) -> Self {
        Self {
            schema,
            options: IpcWriteOptions::default(),
            generator: IpcDataGenerator::default(),
            tracker: DictionaryTracker::new(false),
            compression: IpcWriteContext::default(),
        }
    }

    /// The message that comes first.
    pub fn schema(&self) -> FlightData {
        SchemaAsIpc::new(&self.schema, &self.options).into()
    }

    /// The messages of an item; `rows` are those of it, of plain types.
    pub fn of(
        &mut self,
        item: &StreamItem,
        rows: Option<RecordBatch>,
    ) -> Result<Vec<FlightData>, ArrowError> {
        let rows = rows.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&self.schema)));
        self.of_rows(&rows, told(item).to_string().into())
    }

    /// The messages of rows of plain types, of about [`MESSAGE_BYTES`] each and never more than
    /// [`MOST_MESSAGE_BYTES`] where no single row has more, each with `told` beside it.
    pub fn of_rows(&mut self, rows: &RecordBatch, told: Bytes) -> Result<Vec<FlightData>, ArrowError> {
        let count = rows.num_rows();
        let parts = bytes_of(rows).div_ceil(MESSAGE_BYTES).clamp(1, count.max(1));
        let each = count.div_ceil(parts).max(1);
        let mut messages = vec![];
        for start in (0..count.max(1)).step_by(each) {
            self.encode(&rows.slice(start, each.min(count - start)), &told, &mut messages)?;
        }
        Ok(messages)
    }

    /// Encodes rows into one message, or into more where that would be too large: rows are not all of one size.
    fn encode(
        &mut self,
        rows: &RecordBatch,
        told: &Bytes,
        messages: &mut Vec<FlightData>,
    ) -> Result<(), ArrowError> {
        let (dictionaries, batch) =
            self.generator.encode(rows, &mut self.tracker, &self.options, &mut self.compression)?;
        let message = FlightData::from(batch).with_app_metadata(told.clone());
        let count = rows.num_rows();
        if count > 1 && message.encoded_len() > MOST_MESSAGE_BYTES {
            let half = count / 2;
            self.encode(&rows.slice(0, half), told, messages)?;
            return self.encode(&rows.slice(half, count - half), told, messages);
        }
        messages.extend(dictionaries.into_iter().map(FlightData::from));
        messages.push(message);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::StringArray,
        datatypes::{DataType, Field, Schema},
    };
    use arrow_flight::utils::flight_data_to_batches;

    use super::*;

    #[test]
    fn no_message_is_larger_than_clients_take_where_its_rows_can_be_parted() {
        let schema: SchemaRef = Schema::new(vec![Field::new("t", DataType::Utf8, false)]).into();
        let sizes = |sizes: &[(usize, usize)]| {
            let texts = sizes.iter().flat_map(|(count, size)| vec!["x".repeat(*size); *count]);
            let texts: ArrayRef = Arc::new(StringArray::from(texts.collect::<Vec<_>>()));
            RecordBatch::try_new(Arc::clone(&schema), vec![texts]).expect("a batch")
        };
        for (rows, largest) in [
            (sizes(&[(50, 300_000), (8_000, 10)]), MOST_MESSAGE_BYTES),
            (sizes(&[(8_000, 10), (50, 300_000), (3, 3 << 20)]), MOST_MESSAGE_BYTES),
            // A row is never parted.
            (sizes(&[(100, 10), (1, 6 << 20), (100, 10)]), (6 << 20) + 1024),
        ] {
            let mut messages = Messages::new(Arc::clone(&schema));
            let mut sent = vec![messages.schema()];
            sent.extend(messages.of_rows(&rows, Bytes::from_static(b"told")).expect("messages"));
            for message in &sent[1..] {
                assert!(message.encoded_len() <= largest, "{} bytes", message.encoded_len());
                assert_eq!(message.app_metadata, "told");
            }
            let read = flight_data_to_batches(&sent).expect("batches");
            assert_eq!(arrow::compute::concat_batches(&schema, &read).expect("one"), rows);
        }
    }
}

//! Tests of the way from payloads to rows, and from an endpoint to streams.
#![allow(clippy::unwrap_used)]

mod converted;
mod endpoint;
mod forks;
mod hostile;
mod real;

use arrow::array::{ArrayRef, RecordBatch};
use nozzle_core::{TableDef, manifest::Verify};
use nozzle_testkit::firehose::Served;

use super::{Decoder, Payload, tables};
use crate::source::{BlockRows, Decoded};

fn payload(block: &Served) -> Payload {
    Payload { number: block.number, block: block.payload.clone() }
}

fn payloads(blocks: &[Served]) -> Vec<Payload> {
    blocks.iter().map(payload).collect()
}

/// All tables but those named.
fn without(names: &[&str]) -> Vec<TableDef> {
    tables().into_iter().filter(|table| !names.contains(&table.name.as_str())).collect()
}

fn decoder(tables: Vec<TableDef>, verify: Verify) -> Decoder {
    Decoder::new("endpoint", tables, verify, Some(1)).unwrap()
}

fn good(decoded: Decoded) -> BlockRows {
    assert!(decoded.error.is_none(), "{:?}", decoded.error);
    decoded.rows.unwrap()
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"))
}

//! `tests/slt`: what queries answer on two fixed chains, over Arrow Flight and over JSON Lines alike.
//!
//! A row is one JSON object with its columns in the order of their names, nulls left out, as JSON Lines has it;
//! what Arrow Flight gives is written in that form here. An error is its kind and its message.
//! `NOZZLE_SLT_UPDATE=1` writes the answers of JSON Lines into the files: read them before they are kept.

use std::{fmt, path::PathBuf};

use arrow::{
    array::{Array, ArrayRef, AsArray, StructArray},
    datatypes::{DataType, TimeUnit},
    util::display::{ArrayFormatter, FormatOptions},
};
use arrow_flight::{FlightClient, Ticket, error::FlightError};
use async_trait::async_trait;
use futures::TryStreamExt;
use nozzle_testkit::replay::{Recording, ReplayOptions, ReplayServer};
use serde_json::{Map, Value, json};
use sqllogictest::{
    AsyncDB, DBOutput, DefaultColumnType, ExpectedError, QueryExpect, Record, Runner,
    default_column_validator, default_normalizer, default_validator, parse_file,
};
use tonic::Code;

use crate::{
    harness::{Place, workspace},
    servers::Server,
};

/// The least number of queries in all files.
const QUERIES: usize = 150;

/// An error of a query, as both interfaces have it.
#[derive(Debug)]
struct Failed {
    kind: &'static str,
    message: String,
}

impl std::error::Error for Failed {}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

fn output(rows: Vec<Value>) -> DBOutput<DefaultColumnType> {
    let rows = rows.into_iter().map(|row| vec![row.to_string()]).collect();
    DBOutput::Rows { types: vec![DefaultColumnType::Text], rows }
}

struct JsonLines(String);

#[async_trait]
impl AsyncDB for JsonLines {
    type Error = Failed;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failed> {
        let answer = reqwest::Client::new().post(&self.0).body(sql.to_owned()).send().await.unwrap();
        let is_ok = answer.status().is_success();
        let body = answer.text().await.unwrap();
        if is_ok {
            return Ok(output(body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()));
        }
        let body: Value = serde_json::from_str(&body).unwrap();
        let kind = match body["error_code"].as_str().unwrap() {
            "SQL_PARSE_ERROR" | "INVALID_PLAN" => "refused",
            "TABLE_NOT_FOUND_ERROR" => "no table",
            "EXECUTION_ERROR" => "failed",
            other => panic!("{other}: {body}"),
        };
        Err(Failed { kind, message: body["error_message"].as_str().unwrap().to_owned() })
    }

    async fn shutdown(&mut self) {}
}

struct Flight(FlightClient);

#[async_trait]
impl AsyncDB for Flight {
    type Error = Failed;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failed> {
        let failed = |error: FlightError| {
            let FlightError::Tonic(status) = error else { panic!("{error}") };
            let kind = match status.code() {
                Code::InvalidArgument => "refused",
                Code::NotFound => "no table",
                Code::Internal => "failed",
                other => panic!("{other}: {status}"),
            };
            Failed { kind, message: status.message().to_owned() }
        };
        let stream = self.0.do_get(Ticket::new(sql.to_owned())).await.map_err(failed)?;
        let batches: Vec<_> = stream.try_collect().await.map_err(failed)?;
        let rows = batches
            .into_iter()
            .map(StructArray::from)
            .flat_map(|rows| (0..rows.len()).map(|row| object(&rows, row)).collect::<Vec<_>>());
        Ok(output(rows.collect()))
    }

    async fn shutdown(&mut self) {}
}

fn object(columns: &StructArray, row: usize) -> Value {
    let names = columns.column_names().into_iter().map(str::to_owned);
    let cells = names.zip(columns.columns()).map(|(name, column)| (name, cell(column, row)));
    Value::Object(cells.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
}

fn cells(items: &ArrayRef) -> Vec<Value> {
    (0..items.len()).map(|item| cell(items, item)).collect()
}

/// A value as JSON Lines is to write it.
fn cell(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) || array.data_type().is_null() {
        return Value::Null;
    }
    let options = FormatOptions::default().with_timestamp_tz_format(Some("%Y-%m-%dT%H:%M:%S%.fZ"));
    let text = || ArrayFormatter::try_new(array, &options).unwrap().value(row).to_string();
    match array.data_type() {
        DataType::Struct(_) => object(array.as_struct(), row),
        DataType::List(_) => cells(&array.as_list::<i32>().value(row)).into(),
        DataType::FixedSizeList(..) => cells(&array.as_fixed_size_list().value(row)).into(),
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
            json!(format!("0x{}", text()))
        }
        DataType::Boolean => array.as_boolean().value(row).into(),
        integer if integer.is_integer() => serde_json::from_str(&text()).unwrap(),
        DataType::Float32 | DataType::Float64 => match text().as_str() {
            "inf" => "Infinity".into(),
            "NaN" => "NaN".into(),
            number => number.parse::<f64>().unwrap().into(),
        },
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Decimal128(..)
        | DataType::Decimal256(..)
        | DataType::Date32
        | DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => text().into(),
        other => panic!("{other} in an answer: say here how it is written"),
    }
}

/// A place with both chains: `anvil`, recorded from a node, and `eth_mainnet`, with every kind of transaction.
fn chains() -> Place {
    let place = Place::empty();
    let demo = workspace().join("crates/testkit/assets/demo-chain.jsonl.zst");
    for recording in [Recording::load(&demo).unwrap(), Recording::mainnet_like(12, 1)] {
        let node = ReplayServer::start(recording, ReplayOptions::default()).unwrap();
        place.ok(&["dump", "--rpc-url", node.url()]);
    }
    place
}

fn files() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(workspace().join("tests/slt")).unwrap();
    let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "slt"));
    files.sort();
    files
}

#[tokio::test]
async fn queries_answer_alike_over_flight_and_json_lines() {
    let place = chains();
    let server = Server::start(&place, &["--flight-server", "--jsonl-server"]);
    let mut queries = 0;
    for file in files() {
        let jsonl = server.jsonl().to_owned();
        let mut over_jsonl = Runner::new(|| async { Ok(JsonLines(jsonl.clone())) });
        if std::env::var_os("NOZZLE_SLT_UPDATE").is_some() {
            let updated = over_jsonl.update_test_file(
                &file,
                " ",
                default_validator,
                default_normalizer,
                default_column_validator,
            );
            updated.await.unwrap();
        }
        let records = parse_file::<DefaultColumnType>(&file).unwrap();
        let is_vague = |record: &&Record<DefaultColumnType>| {
            let Record::Query { expected: QueryExpect::Error(error), .. } = record else { return false };
            matches!(error, ExpectedError::Empty)
        };
        let vague = records.iter().find(is_vague);
        assert!(vague.is_none(), "any error would do for {vague:?}");
        queries += records.iter().filter(|record| matches!(record, Record::Query { .. })).count();
        over_jsonl
            .run_multi_async(records.clone())
            .await
            .unwrap_or_else(|error| panic!("JSON Lines: {error}"));
        let flight = server.flight().replace("grpc://", "http://");
        let mut over_flight = Runner::new(|| async {
            let channel = tonic::transport::Endpoint::new(flight.clone()).unwrap().connect().await.unwrap();
            Ok(Flight(FlightClient::new(channel)))
        });
        over_flight.run_multi_async(records).await.unwrap_or_else(|error| panic!("Arrow Flight: {error}"));
    }
    assert!(queries >= QUERIES, "only {queries} queries");
}

//! Real packages and their recorded outputs, packages that are made here, and what is no package.

#![allow(clippy::unwrap_used)]

mod asked;
mod changes;
mod endpoint;
mod entities;
mod foreign;
mod kinds;
mod outputs;
mod packages;
mod properties;

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use nozzle_core::{BlockHash, BlockRange, TableDef, block::BlockLink};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, MessageOptions, OneofDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

use super::{
    wire::{Raw, put, put_bytes},
    *,
};
use crate::source::BlockRows;

/// The folder of recorded data. Where it is absent a test has nothing to look at and says so; on the build
/// machine that is a failure.
fn data(folder: &str) -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let all = std::env::var_os("NOZZLE_TEST_DATA").map_or(default, PathBuf::from);
    if all.is_dir() {
        return Some(all.join(folder));
    }
    let all = all.display();
    assert!(std::env::var_os("CI").is_none(), "the recorded chains are not in {all}: set NOZZLE_TEST_DATA");
    eprintln!("the recorded chains are not in {all}: nothing was checked; set NOZZLE_TEST_DATA");
    None
}

fn bytes_of(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn unpacked(path: &Path) -> String {
    let mut text = String::new();
    zstd::Decoder::new(&*bytes_of(path)).unwrap().read_to_string(&mut text).unwrap();
    text
}

/// The package of that file, if recorded data is there.
fn real(file: &str) -> Option<Package> {
    Some(Package::parse(&bytes_of(&data("spkg")?.join(file))).unwrap())
}

/// A package with one map module `out` that gives the message `t.Out`, described by these files.
fn package(files: &[FileDescriptorProto]) -> Vec<u8> {
    package_of(files, "t.Out", None)
}

/// As [`package`], whose module gives another message; with a schema, behind the type of the configuration that it
/// is in.
fn package_of(files: &[FileDescriptorProto], output: &str, schema: Option<(&str, &str)>) -> Vec<u8> {
    use prost::Message;
    let mut package = Vec::new();
    for file in files {
        put_bytes(&mut package, 1, &file.encode_to_vec());
    }
    put_bytes(&mut package, 6, &modules(&[module("out", Some(&format!("proto:{output}")), &[])]));
    if let Some((config, schema)) = schema {
        let (mut service, mut any) = (Vec::new(), Vec::new());
        put_bytes(&mut service, 1, schema.as_bytes());
        put_bytes(&mut any, 1, format!("type.googleapis.com/{config}").as_bytes());
        put_bytes(&mut any, 2, &service);
        put_bytes(&mut package, 10, &any);
    }
    package
}

fn modules(all: &[Vec<u8>]) -> Vec<u8> {
    let mut modules = Vec::new();
    all.iter().for_each(|module| put_bytes(&mut modules, 1, module));
    modules
}

/// A module: a map with an output, else a store.
fn module(name: &str, output: Option<&str>, reads: &[&str]) -> Vec<u8> {
    let mut module = Vec::new();
    put_bytes(&mut module, 1, name.as_bytes());
    let mut kind = Vec::new();
    if let Some(output) = output {
        put_bytes(&mut kind, 1, output.as_bytes());
    }
    put_bytes(&mut module, if output.is_some() { 2 } else { 3 }, &kind);
    for read in reads {
        let (mut map, mut input) = (Vec::new(), Vec::new());
        put_bytes(&mut map, 1, read.as_bytes());
        put_bytes(&mut input, 2, &map);
        put_bytes(&mut module, 6, &input);
    }
    module
}

/// A file of the package `t`, in proto3.
fn file(messages: Vec<DescriptorProto>) -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some("t.proto".into()),
        package: Some("t".into()),
        syntax: Some("proto3".into()),
        message_type: messages,
        ..FileDescriptorProto::default()
    }
}

fn message(name: &str, field: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto { name: Some(name.into()), field, ..DescriptorProto::default() }
}

fn field(name: &str, number: i32, field_type: Type) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(number),
        r#type: Some(field_type as i32),
        label: Some(Label::Optional as i32),
        ..FieldDescriptorProto::default()
    }
}

/// A field that is a message, or an enum, of that name.
fn typed(name: &str, number: i32, field_type: Type, type_name: &str) -> FieldDescriptorProto {
    FieldDescriptorProto { type_name: Some(type_name.into()), ..field(name, number, field_type) }
}

fn repeated(field: FieldDescriptorProto) -> FieldDescriptorProto {
    FieldDescriptorProto { label: Some(Label::Repeated as i32), ..field }
}

/// `t.Out` with one table `rows` of `t.Row`.
fn out() -> DescriptorProto {
    message("Out", vec![repeated(typed("rows", 1, Type::Message, ".t.Row"))])
}

/// What tables a package of these messages beside [`out`] has, or why it has none.
fn tables_of(mut messages: Vec<DescriptorProto>) -> Result<Vec<TableDef>, String> {
    messages.push(out());
    let package = Package::parse(&package(&[file(messages)])).unwrap();
    tables(&package, "out").map_err(|error| error.to_string())
}

/// A table's own columns, as `name Type` and a `?` where there may be nulls.
fn columns(table: &TableDef) -> Vec<String> {
    let own = table.schema.fields().iter().skip(4);
    own.map(|field| {
        format!("{} {}{}", field.name(), field.data_type(), if field.is_nullable() { "?" } else { "" })
    })
    .collect()
}

/// The outputs of blocks from 100 on, one a block.
fn outputs(messages: Vec<Vec<u8>>) -> Vec<ModuleOutput> {
    let hash = |number: u64| BlockHash::left_padding_from(&number.to_be_bytes());
    let output = |(i, message): (usize, Vec<u8>)| {
        let number = 100 + i as u64;
        ModuleOutput {
            block: BlockLink { number, hash: hash(number), parent_hash: hash(number - 1) },
            timestamp_micros: number as i64 * 1_000_000,
            type_url: String::new(),
            output: message.into(),
        }
    };
    messages.into_iter().enumerate().map(output).collect()
}

fn range_of(outputs: &[ModuleOutput]) -> BlockRange {
    let (first, last) = (&outputs[0].block, &outputs[outputs.len() - 1].block);
    BlockRange::new(first.number, last.number).unwrap()
}

fn decoder(package: &Package, module: &str) -> Decoder {
    Decoder::new("p", package, module, tables(package, module).unwrap()).unwrap()
}

/// The rows of messages, which fit.
fn decode(package: &Package, messages: Vec<Vec<u8>>) -> BlockRows {
    let outputs = outputs(messages);
    let decoded = decoder(package, "out").decode(range_of(&outputs), &outputs, 0);
    assert!(decoded.error.is_none(), "{:?}", decoded.error);
    decoded.rows.unwrap()
}

/// Why a message of the second block does not fit; that the first one's rows are given all the same.
fn misfit(package: &Package, message: Vec<u8>) -> String {
    let outputs = outputs(vec![vec![], message]);
    let decoded = decoder(package, "out").decode(range_of(&outputs), &outputs, 0);
    assert_eq!(decoded.rows.unwrap().range, BlockRange::new(100, 100).unwrap());
    decoded.error.expect("it does not fit").to_string()
}

/// A message `t.Out` with one row.
fn row(fields: &[(u32, Raw<'_>)]) -> Vec<u8> {
    encoded(&[(1, Raw::Bytes(&encoded(fields)))])
}

/// Rows as JSON, one object a row, without the columns in front.
fn rows_as_json(rows: &arrow::array::RecordBatch) -> Vec<serde_json::Value> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(rows).unwrap();
    writer.finish().unwrap();
    let lines = String::from_utf8(writer.into_inner()).unwrap();
    let without_front = |line: &str| {
        let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        for front in ["_block_num", "block_num", "timestamp", "block_hash"] {
            assert!(row.remove(front).is_some(), "{line}");
        }
        serde_json::Value::Object(row)
    };
    lines.lines().map(without_front).collect()
}

/// A message of these fields.
fn encoded(fields: &[(u32, Raw<'_>)]) -> Vec<u8> {
    let mut message = Vec::new();
    fields.iter().for_each(|(number, value)| put(&mut message, *number, *value));
    message
}

fn option_map_entry() -> Option<MessageOptions> {
    Some(MessageOptions { map_entry: Some(true), ..MessageOptions::default() })
}

fn oneof(name: &str) -> OneofDescriptorProto {
    OneofDescriptorProto { name: Some(name.into()), ..OneofDescriptorProto::default() }
}

fn enum_of(name: &str, values: &[(&str, i32)]) -> EnumDescriptorProto {
    let value = |(name, number): &(&str, i32)| EnumValueDescriptorProto {
        name: Some((*name).into()),
        number: Some(*number),
        ..EnumValueDescriptorProto::default()
    };
    EnumDescriptorProto {
        name: Some(name.into()),
        value: values.iter().map(value).collect(),
        ..EnumDescriptorProto::default()
    }
}

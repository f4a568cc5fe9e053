//! A small package and its outputs, for those who need any.

use std::ops::RangeInclusive;

use prost::Message;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

use super::SubstreamsBlock;

/// The module of the package.
pub const MODULE: &str = "map_rows";

#[derive(Clone, PartialEq, Message)]
struct Package {
    #[prost(message, repeated, tag = "1")]
    files: Vec<FileDescriptorProto>,
    #[prost(message, optional, tag = "6")]
    modules: Option<Modules>,
}

#[derive(Clone, PartialEq, Message)]
struct Modules {
    #[prost(message, repeated, tag = "1")]
    modules: Vec<Module>,
}

#[derive(Clone, PartialEq, Message)]
struct Module {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    map: Option<Map>,
    #[prost(uint64, tag = "8")]
    initial_block: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Map {
    #[prost(string, tag = "1")]
    output_type: String,
}

/// A package whose module gives messages `demo.Out` from a first block on: rows of these numbers, in the table
/// `rows`.
pub fn package(columns: &[&str], first_block: u64) -> Vec<u8> {
    let field = |name: &str, number: usize, label: Label, of: Type| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number as i32),
        label: Some(label as i32),
        r#type: Some(of as i32),
        type_name: (of == Type::Message).then(|| ".demo.Row".to_owned()),
        ..FieldDescriptorProto::default()
    };
    let row = columns.iter().enumerate();
    let row = row.map(|(i, name)| field(name, i + 1, Label::Optional, Type::Uint64)).collect();
    let message = |name: &str, fields: Vec<FieldDescriptorProto>| DescriptorProto {
        name: Some(name.to_owned()),
        field: fields,
        ..DescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("demo.proto".into()),
        package: Some("demo".into()),
        syntax: Some("proto3".into()),
        message_type: vec![
            message("Row", row),
            message("Out", vec![field("rows", 1, Label::Repeated, Type::Message)]),
        ],
        ..FileDescriptorProto::default()
    };
    let map = Some(Map { output_type: "proto:demo.Out".into() });
    let module = Module { name: MODULE.into(), map, initial_block: first_block };
    Package { files: vec![file], modules: Some(Modules { modules: vec![module] }) }.encode_to_vec()
}

/// Blocks of a fork, each with one row: its number and its fork. Every tenth has none.
pub fn blocks(fork: u8, numbers: RangeInclusive<u64>) -> Vec<SubstreamsBlock> {
    #[derive(Clone, PartialEq, Message)]
    struct Row {
        #[prost(uint64, tag = "1")]
        number: u64,
        #[prost(uint64, tag = "2")]
        fork: u64,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Out {
        #[prost(message, repeated, tag = "1")]
        rows: Vec<Row>,
    }
    let block = |number: u64| {
        let rows = if number.is_multiple_of(10) { vec![] } else { vec![Row { number, fork: fork.into() }] };
        SubstreamsBlock {
            number,
            id: format!("{fork:02x}{number:062x}"),
            seconds: 1_700_000_000 + 12 * number as i64,
            message: "demo.Out".into(),
            output: Out { rows }.encode_to_vec(),
        }
    };
    numbers.map(block).collect()
}

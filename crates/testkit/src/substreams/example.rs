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
/// The parameter of the module, where nobody sets another.
pub const PARAM: &str = "the package's own";

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
    #[prost(message, repeated, tag = "6")]
    inputs: Vec<Input>,
    #[prost(uint64, tag = "8")]
    initial_block: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Input {
    #[prost(message, optional, tag = "4")]
    params: Option<Params>,
}

#[derive(Clone, PartialEq, Message)]
struct Params {
    #[prost(string, tag = "1")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Map {
    #[prost(string, tag = "1")]
    output_type: String,
}

/// A package whose module gives messages `demo.Out` from a first block on: rows of these numbers, in the table
/// `rows`.
pub fn package(columns: &[&str], first_block: u64) -> Vec<u8> {
    let row = columns.iter().enumerate();
    let row = row.map(|(i, name)| field(name, i + 1, Type::Uint64)).collect();
    packed(vec![message("Row", row), message("Out", vec![list("rows", 1, "Row")])], first_block)
}

/// A package with columns within columns: swaps, each with its number, a token, and a list of tokens.
pub fn nested_package() -> Vec<u8> {
    let token = vec![field("symbol", 1, Type::String), field("amount", 2, Type::Uint64)];
    let sold =
        FieldDescriptorProto { type_name: Some(".demo.Token".into()), ..field("sold", 2, Type::Message) };
    let swap = vec![field("n", 1, Type::Uint64), sold, list("path", 3, "Token")];
    let out = vec![list("swaps", 1, "Swap")];
    packed(vec![message("Token", token), message("Swap", swap), message("Out", out)], 0)
}

fn field(name: &str, number: usize, of: Type) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number as i32),
        label: Some(Label::Optional as i32),
        r#type: Some(of as i32),
        ..FieldDescriptorProto::default()
    }
}

fn list(name: &str, number: usize, item: &str) -> FieldDescriptorProto {
    FieldDescriptorProto {
        label: Some(Label::Repeated as i32),
        type_name: Some(format!(".demo.{item}")),
        ..field(name, number, Type::Message)
    }
}

fn message(name: &str, field: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto { name: Some(name.to_owned()), field, ..DescriptorProto::default() }
}

fn packed(messages: Vec<DescriptorProto>, first_block: u64) -> Vec<u8> {
    let file = FileDescriptorProto {
        name: Some("demo.proto".into()),
        package: Some("demo".into()),
        syntax: Some("proto3".into()),
        message_type: messages,
        ..FileDescriptorProto::default()
    };
    let map = Some(Map { output_type: "proto:demo.Out".into() });
    let inputs = vec![Input { params: Some(Params { value: PARAM.into() }) }];
    let module = Module { name: MODULE.into(), map, inputs, initial_block: first_block };
    Package { files: vec![file], modules: Some(Modules { modules: vec![module] }) }.encode_to_vec()
}

/// Blocks of [`nested_package`], each with one swap: of as many A as its number, over B and C, twice and thrice as many.
pub fn nested_blocks(numbers: RangeInclusive<u64>) -> Vec<SubstreamsBlock> {
    #[derive(Clone, PartialEq, Message)]
    struct Token {
        #[prost(string, tag = "1")]
        symbol: String,
        #[prost(uint64, tag = "2")]
        amount: u64,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Swap {
        #[prost(uint64, tag = "1")]
        number: u64,
        #[prost(message, optional, tag = "2")]
        sold: Option<Token>,
        #[prost(message, repeated, tag = "3")]
        path: Vec<Token>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Out {
        #[prost(message, repeated, tag = "1")]
        swaps: Vec<Swap>,
    }
    let token = |symbol: &str, amount: u64| Token { symbol: symbol.to_owned(), amount };
    let swap = |n: u64| Swap {
        number: n,
        sold: Some(token("A", n)),
        path: vec![token("B", 2 * n), token("C", 3 * n)],
    };
    numbers.map(|n| block(0, n, Out { swaps: vec![swap(n)] }.encode_to_vec())).collect()
}

fn block(fork: u8, number: u64, output: Vec<u8>) -> SubstreamsBlock {
    SubstreamsBlock {
        number,
        id: format!("{fork:02x}{number:062x}"),
        seconds: 1_700_000_000 + 12 * number as i64,
        message: "demo.Out".into(),
        output,
    }
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
    let row = |number: u64| {
        let rows = if number.is_multiple_of(10) { vec![] } else { vec![Row { number, fork: fork.into() }] };
        block(fork, number, Out { rows }.encode_to_vec())
    };
    numbers.map(row).collect()
}

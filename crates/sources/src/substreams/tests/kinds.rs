//! Every kind of field, and how it may be written.

use arrow::array::AsArray;
use serde_json::json;

use super::*;

/// `t.Row` with a field of every kind.
fn every_kind() -> Vec<DescriptorProto> {
    let numbers = [
        Type::Double,
        Type::Float,
        Type::Int64,
        Type::Uint64,
        Type::Int32,
        Type::Fixed64,
        Type::Fixed32,
        Type::Bool,
        Type::String,
        Type::Bytes,
        Type::Uint32,
        Type::Sfixed32,
        Type::Sfixed64,
        Type::Sint32,
        Type::Sint64,
    ];
    let mut fields: Vec<_> = numbers
        .iter()
        .enumerate()
        .map(|(i, kind)| field(&format!("f{}", i + 1), i as i32 + 1, *kind))
        .collect();
    fields.push(typed("color", 20, Type::Enum, ".t.Color"));
    fields.push(typed("inner", 21, Type::Message, ".t.Inner"));
    fields.push(typed("at", 22, Type::Message, ".google.protobuf.Timestamp"));
    fields.push(typed("maybe", 23, Type::Message, ".google.protobuf.Int64Value"));
    fields.push(typed("nothing", 24, Type::Message, ".t.Nothing"));
    fields.push(FieldDescriptorProto { proto3_optional: Some(true), ..field("optional", 25, Type::Uint64) });
    fields.push(repeated(field("list", 26, Type::Uint32)));
    fields.push(repeated(typed("inners", 27, Type::Message, "Inner")));
    fields.push(repeated(typed("map", 28, Type::Message, ".t.Row.MapEntry")));
    fields.push(FieldDescriptorProto { oneof_index: Some(0), ..field("either", 29, Type::String) });
    fields.push(FieldDescriptorProto { oneof_index: Some(0), ..typed("or", 30, Type::Message, ".t.Inner") });
    fields.push(repeated(typed("colors", 31, Type::Enum, ".t.Color")));
    // The greatest number that there is: nothing is sized by it.
    fields.push(field("far", wire::MAX_FIELD_NUMBER as i32, Type::Bool));
    let entry = DescriptorProto {
        options: option_map_entry(),
        ..message(
            "MapEntry",
            vec![field("key", 1, Type::String), typed("value", 2, Type::Message, ".t.Inner")],
        )
    };
    let row = DescriptorProto {
        nested_type: vec![entry],
        oneof_decl: vec![oneof("one")],
        ..message("Row", fields)
    };
    vec![
        row,
        message("Inner", vec![field("n", 1, Type::Int32), field("s", 2, Type::String)]),
        message("Nothing", vec![]),
    ]
}

/// The package of these tests, and outputs of it, to begin with.
pub(super) fn seed() -> (Vec<u8>, Vec<Vec<u8>>) {
    let all = [
        row(&[
            (9, Raw::Bytes(b"text")),
            (10, Raw::Bytes(&[1, 2])),
            (5, Raw::Varint(7)),
            (20, Raw::Varint(1)),
        ]),
        row(&[(21, Raw::Bytes(&[8, 7, 18, 1, b'x'])), (28, Raw::Bytes(&[10, 1, b'a', 18, 2, 8, 1]))]),
        row(&[
            (26, Raw::Bytes(&[1, 2])),
            (27, Raw::Bytes(&[8, 7])),
            (29, Raw::Bytes(b"a")),
            (31, Raw::Bytes(&[1])),
        ]),
        row(&[
            (22, Raw::Bytes(&[8, 1, 16, 1])),
            (23, Raw::Bytes(&[8, 1])),
            (1, Raw::Fixed64(1)),
            (2, Raw::Fixed32(2)),
        ]),
    ];
    (bytes(), all.to_vec())
}

fn described() -> Package {
    Package::parse(&bytes()).unwrap()
}

fn bytes() -> Vec<u8> {
    let mut messages = every_kind();
    messages.push(out());
    let file = FileDescriptorProto {
        enum_type: vec![enum_of("Color", &[("NONE", 0), ("RED", 1), ("ROUGE", 1), ("DARK", -1)])],
        dependency: vec!["google/protobuf/timestamp.proto".into()],
        ..file(messages)
    };
    package(&[file])
}

#[test]
fn each_kind_of_field_has_its_column() {
    let inner = r#"Struct("n": non-null Int32, "s": non-null Utf8)"#;
    let expected = [
        "f1 Float64".to_owned(),
        "f2 Float32".to_owned(),
        "f3 Int64".to_owned(),
        "f4 UInt64".to_owned(),
        "f5 Int32".to_owned(),
        "f6 UInt64".to_owned(),
        "f7 UInt32".to_owned(),
        "f8 Boolean".to_owned(),
        "f9 Utf8".to_owned(),
        "f10 Binary".to_owned(),
        "f11 UInt32".to_owned(),
        "f12 Int32".to_owned(),
        "f13 Int64".to_owned(),
        "f14 Int32".to_owned(),
        "f15 Int64".to_owned(),
        "color Utf8".to_owned(),
        format!("inner {inner}?"),
        r#"at Timestamp(µs, "+00:00")?"#.to_owned(),
        "maybe Int64?".to_owned(),
        "nothing Boolean?".to_owned(),
        "optional UInt64?".to_owned(),
        "list List(non-null UInt32)".to_owned(),
        format!("inners List(non-null {inner})"),
        format!(
            r#"map Map("entries": non-null Struct("key": non-null Utf8, "value": non-null {inner}), unsorted)"#
        ),
        "either Utf8?".to_owned(),
        format!("or {inner}?"),
        "colors List(non-null Utf8)".to_owned(),
        "far Boolean".to_owned(),
    ];
    assert_eq!(columns(&tables(&described(), "out").unwrap()[0]), expected);
}

#[test]
fn what_is_not_there_is_a_default_or_null() {
    let rows = decode(&described(), vec![row(&[])]);
    let expected = json!({
        "f1": 0.0, "f2": 0.0, "f3": 0, "f4": 0, "f5": 0, "f6": 0, "f7": 0, "f8": false, "f9": "", "f10": "",
        "f11": 0, "f12": 0, "f13": 0, "f14": 0, "f15": 0, "color": "NONE", "list": [], "inners": [], "map": {},
        "colors": [], "far": false,
    });
    assert_eq!(rows_as_json(&rows.tables[0].batch), [expected]);
}

#[test]
fn each_kind_of_value_is_read() {
    let inner = [8, 7, 18, 1, b'x'];
    let entry = |key: u8, n: u8| vec![10, 1, key, 18, 2, 8, n];
    let (first, second, again) = (entry(b'a', 1), entry(b'b', 2), entry(b'a', 3));
    let far = wire::MAX_FIELD_NUMBER;
    let fields = [
        (far, Raw::Varint(1)),
        (1, Raw::Fixed64(1.5_f64.to_bits())),
        (2, Raw::Fixed32((-2.5_f32).to_bits())),
        (3, Raw::Varint(-3_i64 as u64)),
        (4, Raw::Varint(u64::MAX)),
        (5, Raw::Varint(-5_i64 as u64)),
        (6, Raw::Fixed64(u64::MAX - 1)),
        (7, Raw::Fixed32(u32::MAX)),
        (8, Raw::Varint(2)),
        (9, Raw::Bytes("ä".as_bytes())),
        (10, Raw::Bytes(&[0, 255])),
        (11, Raw::Varint(u64::from(u32::MAX))),
        (12, Raw::Fixed32(-12_i32 as u32)),
        (13, Raw::Fixed64(-13_i64 as u64)),
        (14, Raw::Varint(27)),
        (15, Raw::Varint(29)),
        (20, Raw::Varint(1)),
        (21, Raw::Bytes(&inner)),
        // 1689269903 seconds and 500 nanoseconds less than a millisecond.
        (22, Raw::Bytes(&[8, 0x8f, 0xed, 0xc0, 0xa5, 0x06, 16, 0xcc, 0x80, 0x3d])),
        (23, Raw::Bytes(&[])),
        (24, Raw::Bytes(&[])),
        (25, Raw::Varint(0)),
        (26, Raw::Bytes(&[1, 2])),
        (26, Raw::Varint(300)),
        (27, Raw::Bytes(&inner)),
        (27, Raw::Bytes(&[])),
        (28, Raw::Bytes(&first)),
        (28, Raw::Bytes(&second)),
        (28, Raw::Bytes(&again)),
        (29, Raw::Bytes(b"lost")),
        (30, Raw::Bytes(&[8, 1])),
        (31, Raw::Bytes(&[1, 9])),
        (31, Raw::Varint(-1_i64 as u64)),
        (999, Raw::Bytes(b"not known")),
    ];
    let rows = decode(&described(), vec![row(&fields)]);
    let expected = json!({
        "f1": 1.5, "f2": -2.5, "f3": -3, "f4": u64::MAX, "f5": -5, "f6": u64::MAX - 1, "f7": u32::MAX, "f8": true,
        "f9": "ä", "f10": "00ff", "f11": u32::MAX, "f12": -12, "f13": -13, "f14": -14, "f15": -15,
        "color": "RED", "inner": {"n": 7, "s": "x"}, "at": "2023-07-13T17:38:23.000999Z", "maybe": 0,
        "nothing": true, "optional": 0, "list": [1, 2, 300],
        "inners": [{"n": 7, "s": "x"}, {"n": 0, "s": ""}],
        "map": {"a": {"n": 3, "s": ""}, "b": {"n": 2, "s": ""}}, "or": {"n": 1, "s": ""},
        "colors": ["RED", "9", "DARK"], "far": true,
    });
    assert_eq!(rows_as_json(&rows.tables[0].batch), [expected]);
}

#[test]
fn of_what_is_written_twice_the_last_counts_and_messages_are_put_together() {
    let fields = [
        (5, Raw::Varint(1)),
        (21, Raw::Bytes(&[8, 7])),
        (5, Raw::Varint(2)),
        (21, Raw::Bytes(&[18, 1, b'x'])),
        (30, Raw::Bytes(&[8, 1])),
        (29, Raw::Bytes(b"a")),
        (30, Raw::Bytes(&[18, 1, b'y'])),
        (30, Raw::Bytes(&[8, 5])),
    ];
    let rows = decode(&described(), vec![row(&fields)]);
    let row = &rows_as_json(&rows.tables[0].batch)[0];
    assert_eq!((&row["f5"], &row["inner"]), (&json!(2), &json!({"n": 7, "s": "x"})));
    assert_eq!((row.get("either"), &row["or"]), (None, &json!({"n": 5, "s": "y"})));
}

#[test]
fn rows_keep_their_order_and_their_block() {
    let with =
        |numbers: &[u64]| numbers.iter().flat_map(|n| row(&[(4, Raw::Varint(*n))])).collect::<Vec<u8>>();
    let rows = decode(&described(), vec![with(&[3, 1, 2]), vec![], with(&[9])]);
    assert_eq!(rows.tables[0].ends, [3, 3, 4]);
    let batch = &rows.tables[0].batch;
    let numbers: Vec<_> = rows_as_json(batch).iter().map(|row| row["f4"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [3, 1, 2, 9]);
    let blocks = batch.column(0).as_primitive::<arrow::datatypes::UInt64Type>().values().to_vec();
    assert_eq!(blocks, [100, 100, 100, 102]);
    let times =
        batch.column(2).as_primitive::<arrow::datatypes::TimestampMicrosecondType>().values().to_vec();
    assert_eq!(times, [100_000_000, 100_000_000, 100_000_000, 102_000_000]);
    assert_eq!(batch.column(3).as_fixed_size_binary().value(3), rows.blocks[2].hash.as_slice());
}

#[test]
fn a_message_that_does_not_fit_names_block_table_and_field() {
    let package = described();
    for (message, expected) in [
        (row(&[(9, Raw::Varint(1))]), "table `rows`, field `f9`: it should be text, but it is a number"),
        (
            row(&[(9, Raw::Bytes(&[0xff]))]),
            "table `rows`, field `f9`: it should be text, but it is not UTF-8",
        ),
        (row(&[(5, Raw::Bytes(b"x"))]), "table `rows`, field `f5`: it should be a number (Int32)"),
        (row(&[(21, Raw::Bytes(&[18, 1, 0xff]))]), "table `rows`, field `inner.s`: it should be text"),
        (row(&[(21, Raw::Bytes(&[18]))]), "table `rows`, field `inner`: it is not a protobuf message"),
        (row(&[(27, Raw::Varint(0))]), "table `rows`, field `inners`: it should be a message"),
        (row(&[(28, Raw::Bytes(&[18, 2, 8]))]), "table `rows`, field `map`: it is not a protobuf message"),
        (row(&[(28, Raw::Bytes(&[18, 2, 18, 1]))]), "table `rows`, field `map.value`: it is not a protobuf"),
        (
            row(&[(22, Raw::Bytes(&[8, 255, 255, 255, 255, 255, 255, 255, 255, 127]))]),
            "field `at`: the time,",
        ),
        (row(&[(26, Raw::Bytes(&[0x80]))]), "table `rows`, field `list`: it is not a protobuf message"),
        (vec![10, 5, 1], "its tables: it is not a protobuf message: it ends within a field"),
        (vec![8, 1], "table `rows`, it should be a message"),
    ] {
        let error = misfit(&package, message);
        let place = "the provider `p` sent a bad block 101: the module's output does not fit its tables: ";
        assert!(error.starts_with(place) && error.contains(expected), "{error}");
    }
}

#[test]
fn the_rows_of_a_block_are_bounded_in_memory() {
    // Numbers of one byte each, which stand for names of 255.
    let row = message("Row", vec![repeated(typed("names", 1, Type::Enum, ".t.Long"))]);
    let long = enum_of("Long", &[(&"x".repeat(255), 0)]);
    let file = FileDescriptorProto { enum_type: vec![long], ..file(vec![out(), row]) };
    let package = Package::parse(&super::package(&[file])).unwrap();
    let error = misfit(&package, super::row(&[(1, Raw::Bytes(&vec![0; 4 << 20]))]));
    assert!(error.contains("the rows of the block take too much memory"), "{error}");
}

#[test]
fn required_fields_of_proto2_have_to_be_there() {
    let required =
        |field: FieldDescriptorProto| FieldDescriptorProto { label: Some(Label::Required as i32), ..field };
    let fields = vec![required(field("a", 1, Type::Int32)), field("b", 2, Type::Int32)];
    let old = FileDescriptorProto { syntax: None, ..file(vec![out(), message("Row", fields)]) };
    let package = Package::parse(&super::package(&[old])).unwrap();
    assert_eq!(columns(&tables(&package, "out").unwrap()[0]), ["a Int32", "b Int32?"]);
    let rows = decode(&package, vec![row(&[(1, Raw::Varint(0))])]);
    assert_eq!(rows_as_json(&rows.tables[0].batch), [json!({"a": 0})]);
    assert!(misfit(&package, row(&[])).contains("field `a`: it is not there, though it is required"));
}

//! Changes of tables that a package's SQL schema creates: what each becomes, and which are refused.

use serde_json::{Value, json};

use super::*;

const SQL: &str = "sf.substreams.sink.sql.v1.Service";
const SCHEMA: &str = "
    CREATE TABLE one (id TEXT PRIMARY KEY, n INTEGER, ok BOOLEAN, at TIMESTAMP);
    CREATE TABLE pairs (a TEXT, b BIGINT, v INTEGER, PRIMARY KEY (a, b));
    CREATE TABLE loose (x TEXT, n INTEGER);";

/// The messages as they are now.
fn described() -> FileDescriptorProto {
    let operations = [
        ("OPERATION_UNSPECIFIED", 0),
        ("OPERATION_CREATE", 1),
        ("OPERATION_UPDATE", 2),
        ("OPERATION_DELETE", 3),
        ("OPERATION_UPSERT", 4),
    ];
    let change = vec![
        field("table", 1, Type::String),
        field("pk", 2, Type::String),
        typed("composite_pk", 6, Type::Message, ".t.CompositePrimaryKey"),
        field("ordinal", 3, Type::Uint64),
        typed("operation", 4, Type::Enum, ".t.TableChange.Operation"),
        repeated(typed("fields", 5, Type::Message, ".t.Field")),
    ];
    let change = DescriptorProto {
        enum_type: vec![enum_of("Operation", &operations)],
        ..message("TableChange", change)
    };
    let entry = DescriptorProto {
        options: option_map_entry(),
        ..message("KeysEntry", vec![field("key", 1, Type::String), field("value", 2, Type::String)])
    };
    let keys = vec![repeated(typed("keys", 1, Type::Message, ".t.CompositePrimaryKey.KeysEntry"))];
    let keys = DescriptorProto { nested_type: vec![entry], ..message("CompositePrimaryKey", keys) };
    let changed = vec![
        field("name", 1, Type::String),
        field("new_value", 2, Type::String),
        field("old_value", 3, Type::String),
        field("update_op", 4, Type::Int32),
    ];
    let all = vec![repeated(typed("table_changes", 1, Type::Message, ".t.TableChange"))];
    file(vec![message("DatabaseChanges", all), change, keys, message("Field", changed)])
}

fn made() -> Vec<u8> {
    package_of(&[described()], "t.DatabaseChanges", Some((SQL, SCHEMA)))
}

/// How a change names its row.
enum Key<'a> {
    None,
    One(&'a str),
    Several(&'a [(&'a str, &'a str)]),
}
use Key::{None as Unnamed, One, Several};

const CREATE: u64 = 1;
const UPDATE: u64 = 2;
const DELETE: u64 = 3;
const UPSERT: u64 = 4;

/// A message with one change.
fn change(table: &str, operation: u64, key: &Key<'_>, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut change = encoded(&[(1, Raw::Bytes(table.as_bytes())), (4, Raw::Varint(operation))]);
    let pair = |(name, value): &(&str, &str)| {
        encoded(&[(1, Raw::Bytes(name.as_bytes())), (2, Raw::Bytes(value.as_bytes()))])
    };
    match key {
        Key::None => {}
        Key::One(value) => put_bytes(&mut change, 2, value.as_bytes()),
        Key::Several(keys) => {
            let mut all = Vec::new();
            keys.iter().for_each(|key| put_bytes(&mut all, 1, &pair(key)));
            put_bytes(&mut change, 6, &all);
        }
    }
    fields.iter().for_each(|field| put_bytes(&mut change, 5, &pair(field)));
    encoded(&[(1, Raw::Bytes(&change))])
}

/// The package of these tests, and outputs of it.
pub(super) fn seed() -> (Vec<u8>, Vec<Vec<u8>>) {
    let all = [
        change("one", CREATE, &One("k"), &[("n", "5"), ("ok", "true"), ("at", "1689269903")]),
        change("pairs", UPSERT, &Several(&[("a", "x"), ("b", "2")]), &[("v", "7")]),
        change("loose", CREATE, &One("1"), &[("x", "y"), ("n", "")]),
        change("one", DELETE, &One("k"), &[]),
    ];
    (made(), all.to_vec())
}

/// The rows of all tables that a message has, each with its table.
fn rows(package: &Package, message: Vec<u8>) -> Vec<(String, Value)> {
    let rows = decode(package, vec![message]);
    let names = tables(package, "out").unwrap();
    let tables = names.iter().zip(&rows.tables);
    tables
        .flat_map(|(table, rows)| {
            rows_as_json(&rows.batch).into_iter().map(|row| (table.name.to_string(), row))
        })
        .collect()
}

#[test]
fn every_operation_is_a_row_that_says_which_one_it_is_of() {
    let package = Package::parse(&made()).unwrap();
    for (table, operation, key, fields, expected) in [
        (
            "one",
            CREATE,
            One("k"),
            &[("n", "5"), ("ok", "t"), ("at", "1689269903")][..],
            json!({"_operation": "CREATE", "id": "k", "n": 5, "ok": true, "at": "2023-07-13T17:38:23Z"}),
        ),
        ("one", UPDATE, One("k"), &[("n", "-6")], json!({"_operation": "UPDATE", "id": "k", "n": -6})),
        ("one", DELETE, One("k"), &[], json!({"_operation": "DELETE", "id": "k"})),
        // The key among the fields says the same.
        ("one", UPSERT, Unnamed, &[("ID", "k")], json!({"_operation": "UPSERT", "id": "k"})),
        // Empty text is null, but for text.
        (
            "one",
            UPSERT,
            One("k"),
            &[("n", ""), ("ok", ""), ("at", "")],
            json!({"_operation": "UPSERT", "id": "k"}),
        ),
        ("loose", CREATE, One("1"), &[("x", "")], json!({"_operation": "CREATE", "x": ""})),
        (
            "pairs",
            UPDATE,
            Several(&[("a", "x"), ("b", "2")]),
            &[("v", "7")],
            json!({"_operation": "UPDATE", "a": "x", "b": 2, "v": 7}),
        ),
        (
            "pairs",
            DELETE,
            Several(&[("a", "x"), ("b", "2")]),
            &[],
            json!({"_operation": "DELETE", "a": "x", "b": 2}),
        ),
        // One value, and the key's columns among the fields.
        (
            "pairs",
            UPDATE,
            One("x-2"),
            &[("b", "2"), ("a", "x")],
            json!({"_operation": "UPDATE", "a": "x", "b": 2}),
        ),
        ("pairs", CREATE, Unnamed, &[("v", "7")], json!({"_operation": "CREATE", "v": 7})),
        // Whoever names columns of a table without a key means them.
        (
            "loose",
            UPDATE,
            Several(&[("x", "y")]),
            &[("n", "1")],
            json!({"_operation": "UPDATE", "x": "y", "n": 1}),
        ),
    ] {
        let message = change(table, operation, &key, fields);
        assert_eq!(rows(&package, message), [(table.to_owned(), expected)]);
    }
    // All changes of a block, in their order.
    let both = [change("one", CREATE, &One("b"), &[]), change("one", CREATE, &One("a"), &[])].concat();
    let ids: Vec<_> = rows(&package, both).into_iter().map(|(_, row)| row["id"].clone()).collect();
    assert_eq!(ids, ["b", "a"]);
}

#[test]
fn a_change_that_does_not_say_which_row_it_is_of_is_refused() {
    let package = Package::parse(&made()).unwrap();
    let by_one = "field `pk`: the change names its row by one value, but";
    for (table, operation, key, fields, expected) in [
        ("pairs", CREATE, One("x-2"), &[("v", "7")][..], by_one),
        ("pairs", UPDATE, One("x-2"), &[("v", "7")], by_one),
        ("pairs", UPDATE, One("x-2"), &[("a", "x"), ("v", "7")], by_one),
        ("pairs", UPSERT, One("x-2"), &[("v", "7")], by_one),
        ("pairs", DELETE, One("x-2"), &[], by_one),
        ("pairs", DELETE, One("x-2"), &[("v", "7")], by_one),
        ("loose", UPDATE, One("1"), &[("x", "y")], by_one),
        ("loose", DELETE, One("1"), &[("x", "y")], by_one),
        (
            "pairs",
            DELETE,
            Several(&[("a", "x")]),
            &[],
            "field `composite_pk`: the change does not name all columns",
        ),
        ("one", UPDATE, Unnamed, &[("n", "1")], "field `pk`: the change does not say which row it is of"),
        ("loose", DELETE, Unnamed, &[], "field `pk`: the change does not say which row it is of"),
    ] {
        let error = misfit(&package, change(table, operation, &key, fields));
        assert!(error.contains(&format!("table `{table}`, {expected}")), "{error}");
    }
}

#[test]
fn what_the_schema_does_not_have_is_refused() {
    let package = Package::parse(&made()).unwrap();
    for (message, expected) in [
        (
            change("two", CREATE, &One("k"), &[]),
            "table `two`, the package's schema has no such table; it has one, pairs, loose",
        ),
        (
            change("one", CREATE, &One("k"), &[("m", "1")]),
            "table `one`, field `m`: the package's schema has no such column; it has id, n, ok, at",
        ),
        (
            change("pairs", UPDATE, &Several(&[("c", "1")]), &[]),
            "field `c`: the package's schema has no such column",
        ),
        (change("one", 0, &One("k"), &[]), "table `one`, field `operation`: the operation 0 is unknown"),
        (change("one", 9, &One("k"), &[]), "field `operation`: the operation 9 is unknown"),
        (change("one", CREATE, &One("k"), &[("n", "x")]), "field `n`: `x` is not a number of the type Int32"),
        (change("one", CREATE, &One("k"), &[("ok", "maybe")]), "field `ok`: `maybe` is not true or false"),
        (change("one", CREATE, &One("k"), &[("at", "soon")]), "field `at`: `soon` is not a point in time"),
    ] {
        let error = misfit(&package, message);
        assert!(error.contains(expected), "{error}");
    }
    // Of an addition the sum is not known.
    let added = encoded(&[(1, Raw::Bytes(b"n")), (2, Raw::Bytes(b"1")), (4, Raw::Varint(1))]);
    let mut message = change("one", UPSERT, &One("k"), &[]);
    let change = encoded(&[(5, Raw::Bytes(&added))]);
    message[1] += change.len() as u8;
    message.extend(change);
    let error = misfit(&package, message);
    assert!(error.contains("field `n`: it is changed by adding to it or comparing with it"), "{error}");
}

/// A message of an early package, with other numbers and names; and a field's value as one of the latest names it.
#[test]
fn messages_of_all_versions_are_read_by_the_names_of_their_fields() {
    let operations = [("UNSET", 0), ("CREATE", 1), ("UPDATE", 2), ("DELETE", 3)];
    let change = vec![
        field("table", 1, Type::String),
        field("pk", 2, Type::String),
        field("block_num", 3, Type::Uint64),
        field("ordinal", 4, Type::Uint64),
        typed("operation", 5, Type::Enum, ".t.TableChange.Operation"),
        repeated(typed("fields", 6, Type::Message, ".t.Field")),
    ];
    let change = DescriptorProto {
        enum_type: vec![enum_of("Operation", &operations)],
        ..message("TableChange", change)
    };
    let all = vec![repeated(typed("tableChanges", 1, Type::Message, ".t.TableChange"))];
    for value in ["new_value", "value"] {
        let changed = message("Field", vec![field("name", 1, Type::String), field(value, 2, Type::String)]);
        let old = file(vec![message("DatabaseChanges", all.clone()), change.clone(), changed]);
        let package = package_of(&[old], "t.DatabaseChanges", Some((SQL, SCHEMA)));
        let package = Package::parse(&package).unwrap();
        let field = encoded(&[(1, Raw::Bytes(b"n")), (2, Raw::Bytes(b"5"))]);
        let change = encoded(&[
            (1, Raw::Bytes(b"one")),
            (2, Raw::Bytes(b"k")),
            (3, Raw::Varint(100)),
            (5, Raw::Varint(DELETE)),
            (6, Raw::Bytes(&field)),
        ]);
        let rows = rows(&package, encoded(&[(1, Raw::Bytes(&change))]));
        assert_eq!(rows, [("one".to_owned(), json!({"_operation": "DELETE", "id": "k", "n": 5}))]);
    }
}

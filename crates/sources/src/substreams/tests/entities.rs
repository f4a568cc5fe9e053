//! Changes of entities that a package's GraphQL schema describes: one table for each type.

use serde_json::json;

use super::*;

const SUBGRAPH: &str = "sf.substreams.sink.subgraph.v1.Service";
const SCHEMA: &str = r#"
    type Pool @entity {
      id: ID!
      token: Token!
      fee: BigInt!
      price: BigDecimal
      count: Int!
      big: Int8
      ok: Boolean
      raw: Bytes
      at: Timestamp
      ticks: [Int!]!
      names: [String!]
      swaps: [Token!]! @derivedFrom(field: "pool")
    }
    type Token @entity(immutable: true) { id: Bytes!, symbol: String }"#;

fn described() -> FileDescriptorProto {
    let operations = [
        ("OPERATION_UNSPECIFIED", 0),
        ("OPERATION_CREATE", 1),
        ("OPERATION_UPDATE", 2),
        ("OPERATION_DELETE", 3),
        ("OPERATION_FINAL", 4),
    ];
    let change = vec![
        field("entity", 1, Type::String),
        field("id", 2, Type::String),
        field("ordinal", 3, Type::Uint64),
        typed("operation", 4, Type::Enum, ".t.EntityChange.Operation"),
        repeated(typed("fields", 5, Type::Message, ".t.Field")),
    ];
    let change = DescriptorProto {
        enum_type: vec![enum_of("Operation", &operations)],
        ..message("EntityChange", change)
    };
    let changed = vec![
        field("name", 1, Type::String),
        typed("new_value", 3, Type::Message, ".t.Value"),
        typed("old_value", 5, Type::Message, ".t.Value"),
    ];
    let value = vec![field("int32", 1, Type::Int32), typed("array", 10, Type::Message, ".t.Array")];
    file(vec![
        message(
            "EntityChanges",
            vec![repeated(typed("entity_changes", 5, Type::Message, ".t.EntityChange"))],
        ),
        change,
        message("Field", changed),
        message("Value", value),
        message("Array", vec![repeated(typed("value", 1, Type::Message, ".t.Value"))]),
    ])
}

fn made() -> Vec<u8> {
    package_of(&[described()], "t.EntityChanges", Some((SUBGRAPH, SCHEMA)))
}

fn int(number: i32) -> Vec<u8> {
    encoded(&[(1, Raw::Varint(i64::from(number) as u64))])
}

/// A value that is sent as text: 2 is a `BigDecimal`, 3 a `BigInt`, 4 a `String`, 5 `Bytes`, 7 a `Timestamp`.
fn text(kind: u32, text: &str) -> Vec<u8> {
    encoded(&[(kind, Raw::Bytes(text.as_bytes()))])
}

fn flag(flag: bool) -> Vec<u8> {
    encoded(&[(6, Raw::Varint(flag.into()))])
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let items: Vec<_> = items.iter().map(|item| (1, Raw::Bytes(item))).collect();
    encoded(&[(10, Raw::Bytes(&encoded(&items)))])
}

/// A message with one change; a field without a value is null.
fn change(entity: &str, id: &str, operation: u64, fields: &[(&str, Option<Vec<u8>>)]) -> Vec<u8> {
    let mut change = encoded(&[
        (1, Raw::Bytes(entity.as_bytes())),
        (2, Raw::Bytes(id.as_bytes())),
        (4, Raw::Varint(operation)),
    ]);
    for (name, value) in fields {
        let mut field = encoded(&[(1, Raw::Bytes(name.as_bytes()))]);
        if let Some(value) = value {
            put_bytes(&mut field, 3, value);
        }
        put_bytes(&mut change, 5, &field);
    }
    encoded(&[(5, Raw::Bytes(&change))])
}

const WIDE: &str = "115792089237316195423570985008687907853269984665640564039457584007913129639935";

fn whole_pool() -> Vec<u8> {
    change(
        "Pool",
        "p1",
        1,
        &[
            ("token", Some(text(4, "0x0a"))),
            ("fee", Some(text(3, WIDE))),
            ("price", Some(text(2, "-0.000000000000000000000000000000000001"))),
            ("count", Some(int(-7))),
            ("big", Some(text(3, "9223372036854775807"))),
            ("ok", Some(flag(true))),
            ("raw", Some(text(5, "0x0aff"))),
            ("at", Some(text(7, "1689269903000500"))),
            ("ticks", Some(list(&[int(1), int(-2)]))),
            ("names", Some(list(&[text(4, "a"), text(4, "")]))),
        ],
    )
}

/// The package of these tests, and outputs of it.
pub(super) fn seed() -> (Vec<u8>, Vec<Vec<u8>>) {
    let all = [
        whole_pool(),
        change("Token", "0x0b", 1, &[("symbol", Some(text(4, "X")))]),
        change("Pool", "p1", 2, &[("price", None), ("ticks", Some(list(&[])))]),
        change("Pool", "p1", 3, &[]),
    ];
    (made(), all.to_vec())
}

#[test]
fn each_type_is_a_table_and_each_change_a_row() {
    let package = Package::parse(&made()).unwrap();
    let defs = tables(&package, "out").unwrap();
    let shown: Vec<_> =
        defs.iter().map(|table| format!("{}: {}", table.name, columns(table).join(", "))).collect();
    let pool = "pool: _operation Utf8, id Utf8?, token Utf8?, fee Utf8?, price Utf8?, count Int32?, big Int64?, ok \
                Boolean?, raw Binary?, at Timestamp(µs, \"+00:00\")?, ticks List(Int32)?, names List(Utf8)?";
    assert_eq!(shown, [pool, "token: _operation Utf8, id Binary?, symbol Utf8?"]);
    let messages = vec![
        whole_pool(),
        [
            change("Token", "0x0b", 1, &[("symbol", Some(text(4, "X")))]),
            change(
                "Pool",
                "p1",
                2,
                &[("price", None), ("ticks", Some(list(&[]))), ("ok", Some(flag(false)))],
            ),
        ]
        .concat(),
        change("Pool", "p1", 3, &[]),
        change("Token", "0x0b", 4, &[]),
    ];
    let rows = decode(&package, messages);
    let pools = [
        json!({
            "_operation": "CREATE", "id": "p1", "token": "0x0a", "fee": WIDE,
            "price": "-0.000000000000000000000000000000000001", "count": -7, "big": i64::MAX, "ok": true, "raw": "0aff",
            "at": "2023-07-13T17:38:23.000500Z", "ticks": [1, -2], "names": ["a", ""],
        }),
        json!({"_operation": "UPDATE", "id": "p1", "ok": false, "ticks": []}),
        json!({"_operation": "DELETE", "id": "p1"}),
    ];
    assert_eq!(rows_as_json(&rows.tables[0].batch), pools);
    assert_eq!(rows.tables[0].ends, [1, 2, 3, 3]);
    let tokens = [
        json!({"_operation": "CREATE", "id": "0b", "symbol": "X"}),
        json!({"_operation": "FINAL", "id": "0b"}),
    ];
    assert_eq!(rows_as_json(&rows.tables[1].batch), tokens);
}

#[test]
fn what_the_schema_does_not_have_is_refused() {
    let package = Package::parse(&made()).unwrap();
    let deep = (0..20).fold(int(1), |item, _| list(&[item]));
    for (message, expected) in [
        (
            change("Swap", "s", 1, &[]),
            "table `Swap`, the package's schema has no such table; it has Pool, Token",
        ),
        (
            change("Pool", "p", 1, &[("x", Some(int(1)))]),
            "table `pool`, field `x`: the package's schema has no such",
        ),
        // What is derived is never sent.
        (
            change("Pool", "p", 1, &[("swaps", Some(list(&[])))]),
            "field `swaps`: the package's schema has no such",
        ),
        (change("Pool", "p", 9, &[]), "field `operation`: the operation 9 is unknown"),
        (change("Pool", "", 2, &[]), "field `id`: the change does not say which row it is of"),
        (
            change("Pool", "p", 1, &[("ticks", Some(int(1)))]),
            "field `ticks`: it should be a list, but it is one value",
        ),
        (
            change("Pool", "p", 1, &[("count", Some(list(&[int(1)])))]),
            "field `count`: it should be one value",
        ),
        (
            change("Pool", "p", 1, &[("count", Some(text(3, "2147483648")))]),
            "`2147483648` is not a number of the type",
        ),
        (change("Pool", "p", 1, &[("ticks", Some(list(&[vec![]])))]), "a list has an item without a value"),
        (change("Pool", "p", 1, &[("ticks", Some(deep))]), "lists are more than 16 deep within each other"),
    ] {
        let error = misfit(&package, message);
        assert!(error.contains(expected), "{error}");
    }
}

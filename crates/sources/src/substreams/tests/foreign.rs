//! Descriptors, modules and schemas that nobody should write: a clear error each.

use std::collections::BTreeMap;

use super::*;

/// Why there are no tables with this `t.Row` and these others.
fn refused(messages: Vec<DescriptorProto>) -> String {
    let error = tables_of(messages).expect_err("it is refused");
    let error = error.strip_prefix("no tables can be made of the output of the module `out`: ");
    error.expect("it names the module").to_owned()
}

fn row_of(fields: Vec<FieldDescriptorProto>) -> DescriptorProto {
    message("Row", fields)
}

#[test]
fn recursive_messages_are_refused() {
    let own = row_of(vec![typed("child", 1, Type::Message, ".t.Row")]);
    assert_eq!(refused(vec![own]), "the message `t.Row` holds itself; a column cannot hold itself");
    let a = row_of(vec![repeated(typed("b", 1, Type::Message, ".t.B"))]);
    let b = message("B", vec![typed("a", 1, Type::Message, ".t.Row")]);
    assert!(refused(vec![a, b]).contains("the message `t.Row` holds itself (`t.Row` within `t.B`)"));
}

#[test]
fn impossible_fields_are_refused() {
    let f = |name: &str, number| field(name, number, Type::Int32);
    let unknown_type = FieldDescriptorProto { r#type: Some(99), ..f("a", 1) };
    for (fields, expected) in [
        (vec![f("a", 0)], "the field `a` of `t.Row`: its number 0 is not within 1 and 536870911"),
        (vec![f("a", -7)], "its number -7 is not within"),
        (vec![f("a", i32::MAX)], "its number 2147483647 is not within"),
        (vec![f("a", 1), f("b", 1)], "the field `b` of `t.Row`: there are two of the number 1"),
        (vec![f("a", 1), f("a", 2)], "the field `a` of `t.Row`: there are two of that name"),
        (vec![f("", 1)], "a field of `t.Row` has no name"),
        (vec![f(&"x".repeat(1000), 1)], "has no name, or one of more than 255 bytes"),
        (vec![unknown_type], "the field `a` of `t.Row`: its type 99 is unknown"),
        (vec![typed("a", 1, Type::Group, ".t.Row")], "groups cannot be read"),
        (vec![typed("a", 1, Type::Message, ".x.Y")], "the package does not describe the type `x.Y`"),
        (vec![typed("a", 1, Type::Message, "")], "the package does not describe the type ``"),
        (vec![f("_block_num", 1)], "would have two columns `_block_num`"),
        (vec![f("_BLOCK_NUM", 1)], "would have two columns `_block_num`"),
        (vec![f("timestamp", 1), f("module_timestamp", 2)], "would have two columns `module_timestamp`"),
    ] {
        let error = refused(vec![row_of(fields)]);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn deep_and_wide_messages_are_refused() {
    // Each message holds the next one twice: a million columns, in twenty small messages.
    let name = |i: usize| if i == 0 { "Row".to_owned() } else { format!("M{i}") };
    let chain = |length: usize, width: i32| -> Vec<DescriptorProto> {
        let of = |i: usize| match i + 1 == length {
            true => vec![field("leaf", 1, Type::Int32)],
            false => (1..=width)
                .map(|n| typed(&format!("f{n}"), n, Type::Message, &format!(".t.{}", name(i + 1))))
                .collect(),
        };
        (0..length).map(|i| message(&name(i), of(i))).collect()
    };
    assert!(refused(chain(20, 2)).contains("would have more than 4096 columns"));
    assert!(refused(chain(100, 1)).contains("messages are more than 32 deep within each other"));
    assert!(tables_of(chain(20, 1)).is_ok());
    // The deep one is known before it is looked at from above.
    let mut messages = chain(32, 1);
    messages.push(message("Top", vec![typed("a", 1, Type::Message, ".t.Row")]));
    messages.push(message(
        "Out",
        vec![
            repeated(typed("rows", 1, Type::Message, ".t.Row")),
            repeated(typed("tops", 2, Type::Message, ".t.Top")),
        ],
    ));
    let package = Package::parse(&package(&[file(messages)])).unwrap();
    assert!(tables(&package, "out").unwrap_err().to_string().contains("more than 32 deep"));
}

#[test]
fn files_are_found_in_any_order_and_what_is_missing_is_named() {
    let other = FileDescriptorProto {
        name: Some("o.proto".into()),
        package: Some("o".into()),
        ..file(vec![message("Other", vec![field("a", 1, Type::Int32)])])
    };
    let uses = FileDescriptorProto {
        dependency: vec!["o.proto".into()],
        ..file(vec![out(), row_of(vec![typed("other", 1, Type::Message, ".o.Other")])])
    };
    for files in [vec![uses.clone(), other.clone()], vec![other.clone(), uses.clone()]] {
        let package = Package::parse(&package(&files)).unwrap();
        assert_eq!(columns(&tables(&package, "out").unwrap()[0]), [r#"other Struct("a": non-null Int32)?"#]);
    }
    let alone = Package::parse(&package(std::slice::from_ref(&uses))).unwrap();
    let error = tables(&alone, "out").unwrap_err().to_string();
    let expected = "the field `other` of `t.Row`: the package does not describe the type `o.Other`, and it lacks \
                    `o.proto`, which `t.proto` imports; it has to be packed again with all files";
    assert!(error.ends_with(expected), "{error}");
    // Twice the same is once; twice something else is refused where it is used.
    let same = Package::parse(&package(&[uses.clone(), other.clone(), other.clone()])).unwrap();
    assert!(tables(&same, "out").is_ok());
    let changed = FileDescriptorProto { message_type: vec![message("Other", vec![])], ..other.clone() };
    let twice = Package::parse(&package(&[uses, other, changed])).unwrap();
    let error = tables(&twice, "out").unwrap_err().to_string();
    assert!(error.contains("describes `o.Other` twice, and not in the same way"), "{error}");
}

#[test]
fn outputs_without_tables_are_refused() {
    let of = |out: DescriptorProto| {
        let package = Package::parse(&package(&[file(vec![out])])).unwrap();
        tables(&package, "out").unwrap_err().to_string()
    };
    let error = of(message("Out", vec![field("a", 1, Type::Int32), repeated(field("b", 2, Type::Int32))]));
    assert!(error.contains("`t.Out`, has no field that is a repeated message"), "{error}");
    assert!(of(message("Other", vec![])).contains("does not describe the type `t.Out`"));
    let clash = message(
        "Out",
        vec![
            repeated(typed("someRows", 1, Type::Message, ".t.Out.A")),
            repeated(typed("some_rows", 2, Type::Message, ".t.Out.A")),
        ],
    );
    let clash = DescriptorProto { nested_type: vec![message("A", vec![])], ..clash };
    assert!(of(clash).contains("there would be two tables `some_rows`"));
}

#[test]
fn module_graphs_are_checked() {
    let of = |all: &[Vec<u8>], name: &str| {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, 6, &modules(all));
        let package = Package::parse(&bytes).unwrap();
        package.map_module(name).map(|module| module.name.clone()).map_err(|error| error.to_string())
    };
    let map = |name: &str, reads: &[&str]| module(name, Some("t.Out"), reads);
    assert_eq!(of(&[map("a", &["b"]), module("b", None, &[])], "a"), Ok("a".into()));
    let missing = of(&[map("a", &["b"]), map("b", &["c"])], "a");
    assert_eq!(missing, Err("the module `b` reads `c`, which the package does not have".into()));
    let cycle = of(&[map("a", &["b"]), map("b", &["c"]), map("c", &["b"])], "a");
    assert_eq!(cycle, Err("the module `b` reads itself".into()));
    assert_eq!(of(&[map("a", &[]), map("a", &[])], "a"), Err("the package has two modules `a`".into()));
    assert!(of(&[module("s", None, &[])], "x").unwrap_err().ends_with("it has none that give rows"));
    // A diamond is no cycle, and a chain may be as long as it likes.
    assert!(of(&[map("a", &["b", "c"]), map("b", &["d"]), map("c", &["d"]), map("d", &[])], "a").is_ok());
    let names: Vec<_> = (0..20_000).map(|i| format!("m{i}")).collect();
    let long: Vec<_> = (0..20_000)
        .map(|i| map(&names[i], &names.get(i + 1).map(|n| &n[..]).into_iter().collect::<Vec<_>>()))
        .collect();
    assert!(of(&long, "m0").is_ok());
}

#[test]
fn what_is_no_package_is_refused() {
    for bytes in [&b""[..], b"<html>not found</html>", &[0xff; 100], &[10, 255]] {
        let error = Package::parse(bytes).unwrap_err().to_string();
        assert!(error.starts_with("this is not a Substreams package: "), "{error}");
    }
}

#[test]
fn parameters_and_first_blocks_are_set_in_the_modules() {
    let Some(real) = real("substreams-test-v0.1.0.spkg") else { return };
    let untouched = real.modules_for("mainnet", &BTreeMap::new()).unwrap();
    let params = BTreeMap::from([("test_map".to_owned(), "mine".to_owned())]);
    let set = real.modules_for("mainnet", &params).unwrap();
    assert_eq!(set.len() + "my default params value".len(), untouched.len() + "mine".len());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        text(&untouched).contains("my default params value")
            && !text(&set).contains("my default params value")
    );
    let nobody = BTreeMap::from([("store_root".to_owned(), "mine".to_owned())]);
    let error = real.modules_for("mainnet", &nobody).unwrap_err().to_string();
    assert_eq!(error, "a parameter is given for the module `store_root`, which takes none");
    // What a package sets for one network holds there alone.
    let mut network = Vec::new();
    put_bytes(&mut network, 1, &[10, 1, b'a', 16, 42]);
    let mut entry = Vec::new();
    put_bytes(&mut entry, 1, b"sepolia");
    put_bytes(&mut entry, 2, &network);
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, 6, &modules(&[module("a", Some("t.Out"), &[])]));
    put_bytes(&mut bytes, 13, &entry);
    let package = Package::parse(&bytes).unwrap();
    let module = package.map_module("a").unwrap();
    assert_eq!((package.initial_block(module, "sepolia"), package.initial_block(module, "mainnet")), (42, 0));
    let set = package.modules_for("sepolia", &BTreeMap::new()).unwrap();
    assert!(set.ends_with(&[64, 42]), "{set:?}");
}

#[test]
fn a_package_that_has_changed_is_refused() {
    let before =
        tables_of(vec![row_of(vec![field("a", 1, Type::Int32), field("b", 2, Type::Int32)])]).unwrap();
    for (now, expected) in [
        (vec![field("a", 1, Type::Int32)], "the module's table `rows` has no column `b`"),
        (
            vec![field("a", 1, Type::Int64), field("b", 2, Type::Int32)],
            "the column `a` of the module's table `rows` is Int64 without nulls, not Int32 without nulls",
        ),
    ] {
        let package = Package::parse(&package(&[file(vec![out(), row_of(now)])])).unwrap();
        let error = Decoder::new("p", &package, "out", before.clone()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("make a new version of the dataset"), "{error}");
    }
    let renamed = message("Out", vec![repeated(typed("lines", 1, Type::Message, ".t.Row"))]);
    let package = Package::parse(&package(&[file(vec![renamed, row_of(vec![])])])).unwrap();
    let error = Decoder::new("p", &package, "out", before).unwrap_err().to_string();
    assert!(error.contains("the module has no table `rows`"), "{error}");
}

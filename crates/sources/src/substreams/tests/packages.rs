//! What each real package gives: a schema, or the error that it deserves.

use std::collections::BTreeMap;

use super::*;

/// The tables of a module, as `name: first column, …` behind the columns in front.
fn shown(package: &Package, module: &str) -> Result<Vec<String>, String> {
    let tables = tables(package, module).map_err(|error| error.to_string())?;
    let front = ["_block_num", "block_num", "timestamp", "block_hash"];
    for table in &tables {
        let names: Vec<_> = table.schema.fields().iter().take(4).map(|field| field.name().clone()).collect();
        assert_eq!(names, front);
    }
    Ok(tables.iter().map(|table| format!("{}: {}", table.name, columns(table).join(", "))).collect())
}

fn error_of(file: &str, module: &str) -> Option<String> {
    Some(shown(&real(file)?, module).expect_err("it has no tables"))
}

#[test]
fn modules_with_repeated_messages_give_a_table_each() {
    let Some(erc20) = real("erc20-transfers-v0.4.0.spkg") else { return };
    assert_eq!((erc20.name(), erc20.network()), ("erc20_transfers v0.4.0", Some("mainnet")));
    let erc20 = shown(&erc20, "map_events").unwrap();
    assert_eq!(erc20.len(), 1);
    assert!(erc20[0].starts_with("transactions: hash Binary, from Binary, to Binary?"), "{}", erc20[0]);
    let native = shown(&real("evm-native-transfers-v0.2.0.spkg").unwrap(), "map_events").unwrap();
    let names: Vec<_> = native.iter().map(|table| table.split(':').next().unwrap()).collect();
    assert!(names.contains(&"transactions"), "{names:?}");
    let v4 = shown(&real("uniswap-v4-v0.6.0.spkg").unwrap(), "map_events").unwrap();
    assert_eq!(v4.iter().filter(|table| table.starts_with("transactions: ")).count(), 1, "{v4:?}");
    let v3 = real("uniswap-v3.spkg").unwrap();
    assert!(shown(&v3, "map_pools_created").unwrap()[0].starts_with("pools: "));
    assert!(shown(&v3, "map_extract_data_types").unwrap().len() > 5);
    let module = v3.map_module("graph_out").unwrap();
    assert_eq!((module.initial_block, v3.initial_block(module, "mainnet")), (12_369_621, 12_369_621));
}

#[test]
fn database_changes_give_the_tables_of_the_sql_schema() {
    let Some(clickhouse) = real("evm-clickhouse-contracts-v0.4.0.spkg") else { return };
    let time = r#"Timestamp(µs, "+00:00")"#;
    let blocks = format!(
        "blocks: _operation Utf8, module_block_num UInt32?, module_block_hash Utf8?, module_timestamp {time}?"
    );
    let contracts = format!(
        "contracts: _operation Utf8, module_block_num UInt32?, module_block_hash Utf8?, module_timestamp {time}?, \
         transaction_hash Utf8?, transaction_index UInt32?, ordinal UInt64?, address Utf8?, from Utf8?, to Utf8?, \
         deployer Utf8?, factory Utf8?, code Utf8?, code_hash Utf8?, input Utf8?"
    );
    assert_eq!(shown(&clickhouse, "db_out").unwrap(), [blocks, contracts]);
    let block_meta = real("substreams-eth-block-meta-v0.0.1.spkg").unwrap();
    let expected = "block_meta: _operation Utf8, id Utf8?, at Utf8?, number Int32?, hash Utf8?, parent_hash Utf8?, \
                    module_timestamp Utf8?";
    assert_eq!(shown(&block_meta, "blockmeta:db_out").unwrap(), [expected]);
}

#[test]
fn changes_without_a_schema_are_one_table_of_changes() {
    let Some(contracts) = real("evm-contracts-v0.4.0.spkg") else { return };
    let changes = shown(&contracts, "db_out").unwrap();
    assert!(
        changes[0].starts_with("table_changes: table Utf8, pk Utf8?, composite_pk Struct("),
        "{changes:?}"
    );
    // The message's old name, with its field's old name.
    let block_meta = real("substreams-eth-block-meta-v0.2.0.spkg").unwrap();
    let expected = "table_changes: table Utf8, pk Utf8, ordinal UInt64, operation Utf8, fields List(";
    assert!(shown(&block_meta, "db_out").unwrap()[0].starts_with(expected));
    // Entities: three names of one message in four packages.
    for (file, module) in [
        ("substreams-eth-block-meta-v0.2.0.spkg", "graph_out"),
        ("substreams-eth-block-meta-v0.0.1.spkg", "blockmeta:graph_out"),
        ("uniswap-v3.spkg", "graph_out"),
        ("graph-node-substreams-test-v1.0.1.spkg", "graph_out"),
    ] {
        let tables = shown(&real(file).unwrap(), module).unwrap();
        assert_eq!(tables.len(), 1, "{tables:?}");
        let fields =
            r#"fields List(non-null Struct("name": non-null Utf8, "new_value": Utf8, "old_value": Utf8))"#;
        let expected = "entity_changes: entity Utf8, id Utf8, ordinal UInt64, operation Utf8, ";
        assert_eq!(tables[0], format!("{expected}{fields}"), "{file}");
    }
}

#[test]
fn what_gives_no_tables_says_why() {
    let Some(error) = error_of("spkg1-v0.0.0.spkg", "map_events") else { return };
    assert_eq!(error, "the package has no modules, and so no `map_events`");
    let error = error_of("erc20-transfers-v0.4.0.spkg", "db_out").unwrap();
    assert_eq!(error, "the package has no module `db_out`; those that give rows are map_events");
    let error = error_of("uniswap-v3.spkg", "store_tokens").unwrap();
    assert!(
        error.contains("`store_tokens` is not a map module; those that give rows are map_pools_created"),
        "{error}"
    );
    let error = error_of("complex-substreams-v0.1.0.spkg", "index_init_60").unwrap();
    assert!(error.contains("is not a map module"), "{error}");
    let error = error_of("graph-node-substreams-test-v1.0.1.spkg", "map_contract").unwrap();
    assert!(error.contains("does not describe the type `test.Contracts`"), "{error}");
    let error = error_of("complex-substreams-v0.1.0.spkg", "map_output_init_50").unwrap();
    assert!(error.contains("no field that is a repeated message"), "{error}");
}

/// Every module of every package: tables or an error, and how many of each.
#[test]
fn every_module_of_every_package_is_answered() {
    let Some(folder) = data("spkg") else { return };
    let mut counted = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "spkg") {
            continue;
        }
        let package = Package::parse(&bytes_of(&path)).unwrap();
        let answers = package.modules().iter().map(|module| shown(&package, &module.name));
        let (tables, errors): (Vec<_>, Vec<_>) = answers.partition(Result::is_ok);
        for error in errors.iter().filter_map(|error| error.as_ref().err()) {
            let known =
                ["is not a map module", "no field that is a repeated message", "does not describe the type"];
            assert!(known.iter().any(|known| error.contains(known)), "{}: {error}", path.display());
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        counted.insert(name, (tables.len(), errors.len()));
    }
    let expected = [
        ("complex-substreams-v0.1.0", (0, 24)),
        ("erc20-transfers-v0.4.0", (1, 0)),
        ("evm-clickhouse-contracts-v0.4.0", (1, 0)),
        ("evm-contracts-v0.4.0", (1, 0)),
        ("evm-native-transfers-v0.2.0", (1, 0)),
        ("graph-node-substreams-test-v1.0.1", (1, 1)),
        ("spkg1-v0.0.0", (0, 0)),
        ("substreams-eth-block-meta-v0.0.1", (3, 2)),
        ("substreams-eth-block-meta-v0.2.0", (2, 2)),
        ("substreams-test-v0.1.0", (0, 86)),
        ("uniswap-v3", (4, 18)),
        ("uniswap-v4-v0.6.0", (1, 0)),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(name, counts)| (name.to_owned(), counts)).into();
    assert_eq!(counted, expected);
}

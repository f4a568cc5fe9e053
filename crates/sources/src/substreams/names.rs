//! The names of tables and columns that are made of foreign names, and the columns in front.

use std::collections::HashSet;

use arrow::datatypes::{DataType, Field};
use nozzle_core::{TableDef, TableName, schema::BLOCK_NUM};

use super::shape::timestamp_type;

/// The columns in front of every table's own, behind [`BLOCK_NUM`].
pub(crate) fn front() -> Vec<Field> {
    vec![
        Field::new("block_num", DataType::UInt64, false),
        Field::new("timestamp", timestamp_type(), false),
        Field::new("block_hash", DataType::FixedSizeBinary(32), false),
    ]
}

/// A foreign name as a table's: `tableChanges` and `TableChanges` are `table_changes`.
pub(crate) fn table_name(foreign: &str) -> Result<TableName, String> {
    let mut name = String::with_capacity(foreign.len());
    let mut before = None;
    for c in foreign.chars() {
        if c.is_ascii_uppercase() {
            if before.is_some_and(|before: char| before.is_ascii_lowercase() || before.is_ascii_digit()) {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        } else {
            name.push(if c.is_ascii_alphanumeric() { c } else { '_' });
        }
        before = Some(c);
    }
    name.parse().map_err(|error: nozzle_core::name::InvalidName| error.to_string())
}

/// A table with the columns in front. A column that is named as one of them gets `module_` before its name;
/// the error says which names clash all the same.
pub(crate) fn table(name: TableName, own: Vec<Field>) -> Result<TableDef, String> {
    let mut fields = front();
    let mut taken: HashSet<String> = fields.iter().map(|field| field.name().clone()).collect();
    for field in own {
        let foreign = field.name();
        if foreign.eq_ignore_ascii_case(BLOCK_NUM) {
            return Err(format!(
                "the table `{name}` would have two columns `{BLOCK_NUM}`: the module's own has to be named \
                 otherwise"
            ));
        }
        let renamed = if front().iter().any(|in_front| in_front.name() == foreign) {
            format!("module_{foreign}")
        } else {
            foreign.clone()
        };
        if !taken.insert(renamed.clone()) {
            return Err(format!("the table `{name}` would have two columns `{renamed}`"));
        }
        fields.push(field.with_name(renamed));
    }
    Ok(TableDef::new(name, fields))
}

/// Of tables no two may have the same name.
pub(crate) fn check_tables(tables: &[TableDef]) -> Result<(), String> {
    let mut taken = HashSet::new();
    match tables.iter().find(|table| !taken.insert(&table.name)) {
        Some(table) => Err(format!("there would be two tables `{}`", table.name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_become_names_of_tables() {
        for (foreign, expected) in [
            ("transfers", Some("transfers")),
            ("tableChanges", Some("table_changes")),
            ("PoolHourData", Some("pool_hour_data")),
            ("ERC20Token", Some("erc20_token")),
            ("erc20-tokens", Some("erc20_tokens")),
            ("20tokens", None),
            ("", None),
        ] {
            assert_eq!(table_name(foreign).ok().map(|name| name.to_string()).as_deref(), expected);
        }
    }

    #[test]
    fn names_that_clash_are_renamed_or_refused() {
        let table = |columns: &[&str]| {
            let fields = columns.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
            table("t".parse().expect("a name"), fields)
        };
        let names: Vec<_> = table(&["timestamp", "a"])
            .expect("a table")
            .schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        assert_eq!(names, ["_block_num", "block_num", "timestamp", "block_hash", "module_timestamp", "a"]);
        assert!(table(&["_block_num"]).expect_err("it clashes").contains("`_block_num`"));
        assert!(table(&["timestamp", "module_timestamp"]).is_err());
        assert!(table(&["_operation", "_operation"]).is_err());
    }
}

//! Tables: their Arrow schemas, and Arrow types as manifests and API answers write them.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde_json::{Value, json};

use crate::name::TableName;

/// The column that every table starts with and is sorted by: the number of the row's block.
pub const BLOCK_NUM: &str = "_block_num";

/// The column by which the rows of one block are in ascending order in a raw dataset's table of that
/// name, where it has one: the place in the chain. Sources refuse blocks in which it is not so.
pub fn order_within_block(table: &TableName) -> Option<&'static str> {
    match table.as_str() {
        "transactions" => Some("tx_index"),
        "logs" => Some("log_index"),
        _ => None,
    }
}

/// A table's name and schema. The first column is [`BLOCK_NUM`], a UInt64 without nulls; rows are
/// sorted by it and keep the chain's order within a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDef {
    /// The table's name within its dataset.
    pub name: TableName,
    /// Its columns.
    pub schema: SchemaRef,
}

impl TableDef {
    /// A table with [`BLOCK_NUM`] in front of `fields`.
    pub fn new(name: TableName, fields: Vec<Field>) -> Self {
        let mut all = vec![Field::new(BLOCK_NUM, DataType::UInt64, false)];
        all.extend(fields);
        Self { name, schema: Arc::new(Schema::new(all)) }
    }

    /// The same table with only the named columns, in the table's own order; [`BLOCK_NUM`] always
    /// stays. The error is the first name that the table does not have.
    pub fn select(&self, columns: &[String]) -> Result<Self, String> {
        if let Some(unknown) = columns.iter().find(|name| self.schema.index_of(name).is_err()) {
            return Err(unknown.clone());
        }
        let keep = |field: &&Arc<Field>| field.name() == BLOCK_NUM || columns.contains(field.name());
        let fields: Fields = self.schema.fields().iter().filter(keep).cloned().collect();
        Ok(Self { name: self.name.clone(), schema: Arc::new(Schema::new(fields)) })
    }
}

/// A type as manifests write it: `"UInt64"`, `{"FixedSizeBinary":32}`, `{"List":{…}}`.
pub fn type_to_json(data_type: &DataType) -> Value {
    let unit = |unit: &TimeUnit| format!("{unit:?}");
    match data_type {
        DataType::FixedSizeBinary(width) => json!({ "FixedSizeBinary": width }),
        DataType::Decimal128(precision, scale) => json!({ "Decimal128": [precision, scale] }),
        DataType::Decimal256(precision, scale) => json!({ "Decimal256": [precision, scale] }),
        DataType::Timestamp(time_unit, zone) => {
            json!({ "Timestamp": [unit(time_unit), zone.as_deref()] })
        }
        DataType::Time32(time_unit) => json!({ "Time32": unit(time_unit) }),
        DataType::Time64(time_unit) => json!({ "Time64": unit(time_unit) }),
        DataType::Duration(time_unit) => json!({ "Duration": unit(time_unit) }),
        DataType::List(item) => json!({ "List": field_to_json(item) }),
        DataType::LargeList(item) => json!({ "LargeList": field_to_json(item) }),
        DataType::FixedSizeList(item, length) => {
            json!({ "FixedSizeList": [field_to_json(item), length] })
        }
        DataType::Struct(fields) => {
            json!({ "Struct": fields.iter().map(|f| field_to_json(f)).collect::<Vec<_>>() })
        }
        DataType::Map(entries, sorted) => json!({ "Map": [field_to_json(entries), sorted] }),
        DataType::Dictionary(key, value) => {
            json!({ "Dictionary": [type_to_json(key), type_to_json(value)] })
        }
        plain => Value::String(plain.to_string()),
    }
}

/// A field as manifests write it: `{"name", "type", "nullable"}`.
pub fn field_to_json(field: &Field) -> Value {
    json!({
        "name": field.name(),
        "type": type_to_json(field.data_type()),
        "nullable": field.is_nullable(),
    })
}

/// Reads what [`type_to_json`] writes; the error says what is not a type.
pub fn type_from_json(value: &Value) -> Result<DataType, String> {
    if let Some(name) = value.as_str() {
        return plain_type(name).ok_or_else(|| format!("`{name}` is not an Arrow type without parameters"));
    }
    let (name, parameter) = value
        .as_object()
        .filter(|object| object.len() == 1)
        .and_then(|object| object.iter().next())
        .ok_or_else(|| format!("{value} is not an Arrow type"))?;
    let bad = || format!("{parameter} is not what the Arrow type {name} takes");
    let pair = || parameter.as_array().filter(|list| list.len() == 2).ok_or_else(bad);
    let decimal = || -> Result<(u8, i8), String> {
        let list = pair()?;
        let precision = list[0].as_u64().and_then(|p| u8::try_from(p).ok()).ok_or_else(bad)?;
        let scale = list[1].as_i64().and_then(|s| i8::try_from(s).ok()).ok_or_else(bad)?;
        Ok((precision, scale))
    };
    let width = |value: &Value| value.as_i64().and_then(|w| i32::try_from(w).ok()).filter(|w| *w >= 0);
    let item = |value: &Value| field_from_json(value).map(Arc::new);
    Ok(match name.as_str() {
        "FixedSizeBinary" => DataType::FixedSizeBinary(width(parameter).ok_or_else(bad)?),
        "Decimal128" => {
            let (precision, scale) = decimal()?;
            if !(1..=38).contains(&precision) {
                return Err(bad());
            }
            DataType::Decimal128(precision, scale)
        }
        "Timestamp" => {
            let list = pair()?;
            let zone = match &list[1] {
                Value::Null => None,
                Value::String(zone) => Some(Arc::from(zone.as_str())),
                _ => return Err(bad()),
            };
            DataType::Timestamp(time_unit(&list[0]).ok_or_else(bad)?, zone)
        }
        "Time32" => DataType::Time32(time_unit(parameter).ok_or_else(bad)?),
        "Time64" => DataType::Time64(time_unit(parameter).ok_or_else(bad)?),
        "Duration" => DataType::Duration(time_unit(parameter).ok_or_else(bad)?),
        "List" => DataType::List(item(parameter)?),
        "LargeList" => DataType::LargeList(item(parameter)?),
        "FixedSizeList" => {
            let list = pair()?;
            DataType::FixedSizeList(item(&list[0])?, width(&list[1]).ok_or_else(bad)?)
        }
        "Struct" => {
            let fields = parameter.as_array().ok_or_else(bad)?;
            DataType::Struct(fields.iter().map(field_from_json).collect::<Result<Vec<_>, _>>()?.into())
        }
        "Map" => {
            let list = pair()?;
            DataType::Map(item(&list[0])?, list[1].as_bool().ok_or_else(bad)?)
        }
        other => return Err(format!("`{other}` is not an Arrow type")),
    })
}

/// Reads what [`field_to_json`] writes; `nullable` is true where it is absent.
pub fn field_from_json(value: &Value) -> Result<Field, String> {
    let name = value.get("name").and_then(Value::as_str).ok_or_else(|| format!("{value} names no field"))?;
    let data_type = value.get("type").ok_or_else(|| format!("the field `{name}` has no type"))?;
    let nullable = match value.get("nullable") {
        None => true,
        Some(flag) => {
            flag.as_bool().ok_or_else(|| format!("`nullable` of `{name}` is neither true nor false"))?
        }
    };
    Ok(Field::new(name, type_from_json(data_type)?, nullable))
}

/// A schema as manifests, answers and the metadata write it: `{"fields": […]}`.
pub fn schema_to_json(schema: &Schema) -> Value {
    json!({ "fields": schema.fields().iter().map(|field| field_to_json(field)).collect::<Vec<_>>() })
}

/// Reads what [`schema_to_json`] writes.
pub fn schema_from_json(value: &Value) -> Result<Schema, String> {
    let fields = value.get("fields").and_then(Value::as_array).ok_or("a schema without `fields`")?;
    Ok(Schema::new(fields.iter().map(field_from_json).collect::<Result<Vec<_>, _>>()?))
}

/// The key of a stored schema that names the columns which older files lack: they are null there.
const ADDED: &str = "added";

/// The stored schema of a table whose columns are now those of `schema`; `None` where nothing is new. The
/// stored columns have to be among them in their order, and what has come must be nullable, as it is in files
/// that were written before; the error says what is not so.
pub fn extend_schema(stored: &Value, schema: &Schema) -> Result<Option<Value>, String> {
    let before = schema_from_json(stored)?;
    let mut added: Vec<&str> = added_columns(stored);
    let mut rest = before.fields().iter().peekable();
    for field in schema.fields() {
        if rest.next_if(|stored| stored == &field).is_some() {
            continue;
        }
        if before.index_of(field.name()).is_ok() || !field.is_nullable() {
            return Err(format!("the column `{}` is not what was stored, or can not be null", field.name()));
        }
        added.push(field.name());
    }
    if let Some(gone) = rest.next() {
        return Err(format!("the stored column `{}` is gone", gone.name()));
    }
    if before.fields().len() == schema.fields().len() {
        return Ok(None);
    }
    let mut extended = schema_to_json(schema);
    extended[ADDED] = json!(added);
    Ok(Some(extended))
}

/// The schema of a table whose files may be of any version: each may lack any column that can be null.
pub fn schema_of_any_version(schema: &Schema) -> Value {
    let nullable = schema.fields().iter().filter(|field| field.is_nullable());
    let mut json = schema_to_json(schema);
    json[ADDED] = nullable.map(|field| field.name().as_str()).collect();
    json
}

/// The columns that files of a stored schema may lack.
pub fn added_columns(stored: &Value) -> Vec<&str> {
    stored[ADDED].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn time_unit(value: &Value) -> Option<TimeUnit> {
    Some(match value.as_str()? {
        "Second" => TimeUnit::Second,
        "Millisecond" => TimeUnit::Millisecond,
        "Microsecond" => TimeUnit::Microsecond,
        "Nanosecond" => TimeUnit::Nanosecond,
        _ => return None,
    })
}

fn plain_type(name: &str) -> Option<DataType> {
    Some(match name {
        "Null" => DataType::Null,
        "Boolean" => DataType::Boolean,
        "Int8" => DataType::Int8,
        "Int16" => DataType::Int16,
        "Int32" => DataType::Int32,
        "Int64" => DataType::Int64,
        "UInt8" => DataType::UInt8,
        "UInt16" => DataType::UInt16,
        "UInt32" => DataType::UInt32,
        "UInt64" => DataType::UInt64,
        "Float32" => DataType::Float32,
        "Float64" => DataType::Float64,
        "Utf8" => DataType::Utf8,
        "LargeUtf8" => DataType::LargeUtf8,
        "Binary" => DataType::Binary,
        "LargeBinary" => DataType::LargeBinary,
        "Date32" => DataType::Date32,
        "Date64" => DataType::Date64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_written_and_read_back() {
        let list = DataType::List(Arc::new(Field::new("item", DataType::Binary, false)));
        let types = [
            (DataType::UInt64, json!("UInt64")),
            (DataType::FixedSizeBinary(32), json!({"FixedSizeBinary": 32})),
            (DataType::Decimal128(38, 0), json!({"Decimal128": [38, 0]})),
            (
                DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
                json!({"Timestamp": ["Microsecond", "+00:00"]}),
            ),
            (list.clone(), json!({"List": {"name": "item", "type": "Binary", "nullable": false}})),
            (
                DataType::Struct(vec![Field::new("a", list, true)].into()),
                json!({"Struct": [{"name": "a", "type": {"List": {"name": "item", "type": "Binary", "nullable": false}}, "nullable": true}]}),
            ),
        ];
        for (data_type, written) in types {
            assert_eq!(type_to_json(&data_type), written);
            assert_eq!(type_from_json(&written), Ok(data_type));
        }
    }

    #[test]
    fn schemas_are_written_and_read_back() {
        let schema = Schema::new(vec![
            Field::new("a", DataType::UInt64, false),
            Field::new("b", DataType::Binary, true),
        ]);
        assert_eq!(schema_from_json(&schema_to_json(&schema)), Ok(schema));
        assert!(schema_from_json(&json!([])).is_err());
    }

    #[test]
    fn columns_that_can_be_null_may_come_and_none_may_go() {
        let schema = |fields: &[(&str, bool)]| {
            let field = |(name, nullable): &(&str, bool)| Field::new(*name, DataType::UInt64, *nullable);
            Schema::new(fields.iter().map(field).collect::<Vec<_>>())
        };
        let stored = schema_to_json(&schema(&[("a", false), ("c", true)]));
        assert_eq!(extend_schema(&stored, &schema(&[("a", false), ("c", true)])), Ok(None));
        let wider = schema(&[("a", false), ("b", true), ("c", true)]);
        let extended = extend_schema(&stored, &wider).expect("it may").expect("something new");
        assert_eq!(schema_from_json(&extended), Ok(wider.clone()));
        assert_eq!(added_columns(&extended), ["b"]);
        assert_eq!(extend_schema(&extended, &wider), Ok(None));
        let widest = schema(&[("a", false), ("b", true), ("c", true), ("d", true)]);
        let again = extend_schema(&extended, &widest).expect("it may").expect("something new");
        assert_eq!(added_columns(&again), ["b", "d"]);
        for refused in [
            schema(&[("a", false), ("b", false), ("c", true)]),
            schema(&[("a", false)]),
            schema(&[("a", true), ("c", true)]),
            schema(&[("c", true), ("a", false)]),
        ] {
            assert!(extend_schema(&stored, &refused).is_err(), "{refused}");
        }
        assert_eq!(added_columns(&schema_of_any_version(&wider)), ["b", "c"]);
    }

    #[test]
    fn what_is_not_a_type_is_refused() {
        for bad in [
            json!("Int128"),
            json!(1),
            json!({}),
            json!({"FixedSizeBinary": -1}),
            json!({"FixedSizeBinary": "x"}),
            json!({"Decimal128": [38]}),
            json!({"Decimal128": [39, 0]}),
            json!({"Timestamp": ["Hour", null]}),
            json!({"List": "UInt8"}),
            json!({"a": 1, "b": 2}),
        ] {
            assert!(type_from_json(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn selecting_columns_keeps_the_block_number_and_the_order() {
        let fields = vec![Field::new("a", DataType::Utf8, true), Field::new("b", DataType::Utf8, true)];
        let table = TableDef::new("t".parse().expect("a name"), fields);
        let names = |t: TableDef| t.schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
        assert_eq!(names(table.select(&["b".into()]).expect("b is there")), ["_block_num", "b"]);
        assert_eq!(
            names(table.select(&["b".into(), "a".into()]).expect("both are there")),
            ["_block_num", "a", "b"]
        );
        assert_eq!(table.select(&["c".into()]), Err("c".into()));
    }
}

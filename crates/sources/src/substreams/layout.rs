//! The tables of a module, and how its output fills them.

use std::sync::Arc;

use nozzle_core::TableDef;
use prost::Message;
use prost_types::field_descriptor_proto::Label;

use super::{
    changes::{ChangedTable, Numbers, Of},
    descriptors::{Type, Types},
    graphql, names,
    package::{Module, Package, PackageError},
    shape::{Kind, MAX_COLUMNS, Shape, Shapes},
    sql,
};

/// How many tables a module may have.
const MAX_TABLES: usize = 1024;

/// A module's tables, and what of its output their rows are.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The full name of the message that the module gives.
    pub message: String,
    pub tables: Vec<TableDef>,
    pub rows: Rows,
}

/// What the rows are, table by table.
#[derive(Debug)]
pub(crate) enum Rows {
    /// The items of fields of the message: their numbers, and their shapes.
    Items(Vec<(u32, Arc<Shape>)>),
    /// Changes, which name their tables.
    Changes(Numbers, Vec<ChangedTable>),
}

/// The tables of a module of a package, and of that module alone: one for each repeated message in its output,
/// those of the package's SQL schema for `DatabaseChanges`, those of its GraphQL schema for `EntityChanges`.
/// A package of such changes that has no schema along gives one table of changes as they are.
pub fn tables(package: &Package, module: &str) -> Result<Vec<TableDef>, PackageError> {
    Layout::new(package, package.map_module(module)?).map(|layout| layout.tables)
}

impl Layout {
    pub fn new(package: &Package, module: &Module) -> Result<Self, PackageError> {
        let layout = if module.output_type.is_empty() {
            Err("it does not say which message it gives".to_owned())
        } else {
            make(package, &module.output_type)
        };
        layout.map_err(|why| PackageError::Schema { module: module.name.clone(), why })
    }
}

fn make(package: &Package, message: &str) -> Result<Layout, String> {
    let types = Types::new(&package.files);
    let last = message.rsplit('.').next().unwrap_or(message);
    let schema = package.sink_config.as_ref();
    let changes = match last {
        "DatabaseChanges" => schema.and_then(sql_schema).map(|schema| (Of::Tables, schema)),
        "EntityChanges" => schema.and_then(graphql_schema).map(|schema| (Of::Entities, schema)),
        _ => None,
    };
    // Also where there are tables of a schema the message has to be there.
    let (_, Type::Message(..)) = types.find(&format!(".{message}"), "")? else {
        return Err(format!("`{message}` is an enum, not a message"));
    };
    let numbers = changes.and_then(|(of, schema)| Some((Numbers::find(&types, message, of)?, of, schema)));
    let (tables, rows) = match numbers {
        Some((numbers, of, schema)) => {
            let tables = changed_tables(of, &schema)?;
            let defs = tables.iter().map(changed_table).collect::<Result<_, String>>()?;
            (defs, Rows::Changes(numbers, tables))
        }
        None => item_tables(&types, message, (last == "EntityChanges").then_some(Of::Entities))?,
    };
    if tables.len() > MAX_TABLES {
        return Err(format!("there would be more than {MAX_TABLES} tables"));
    }
    names::check_tables(&tables)?;
    Ok(Layout { message: message.to_owned(), tables, rows })
}

fn changed_tables(of: Of, schema: &str) -> Result<Vec<ChangedTable>, String> {
    Ok(match of {
        Of::Tables => {
            let tables = sql::tables(schema)?.into_iter();
            tables.map(|table| ChangedTable::new(table.name, table.columns, &table.primary_key)).collect()
        }
        Of::Entities => {
            let entities = graphql::entities(schema)?.into_iter();
            entities.map(|entity| ChangedTable::new(entity.name, entity.columns, &["id".into()])).collect()
        }
    })
}

fn changed_table(table: &ChangedTable) -> Result<TableDef, String> {
    if table.columns.len() > MAX_COLUMNS {
        return Err(format!("the table `{}` would have more than {MAX_COLUMNS} columns", table.name));
    }
    names::table(names::table_name(&table.name)?, table.arrow_fields())
}

/// One table for each repeated message of a message. The message's other fields are not rows of anything, so
/// nothing is asked of them.
fn item_tables(types: &Types<'_>, message: &str, of: Option<Of>) -> Result<(Vec<TableDef>, Rows), String> {
    let (_, Type::Message(descriptor, _)) = types.find(&format!(".{message}"), "")? else {
        return Err(format!("`{message}` is not a message"));
    };
    super::shape::check_fields(message, descriptor)?;
    let mut shapes = Shapes::new(types);
    shapes.entity_value = of.and_then(|_| Numbers::entity_value(types, message));
    let (mut tables, mut items) = (Vec::new(), Vec::new());
    for field in descriptor.field.iter().filter(|field| field.label() == Label::Repeated) {
        if field.type_name().is_empty() || super::shape::map_entry(descriptor, message, field).is_some() {
            continue;
        }
        let shape = match shapes.kind(message, field)? {
            Kind::Message(shape) => shape,
            Kind::Present => Arc::new(Shape::empty()),
            _ => continue,
        };
        tables.push(names::table(names::table_name(field.name())?, shape.arrow_fields())?);
        items.push((super::shape::number(field), shape));
    }
    if tables.is_empty() {
        return Err(format!(
            "its output, `{message}`, has no field that is a repeated message, and those are what tables are made of"
        ));
    }
    Ok((tables, Rows::Items(items)))
}

#[derive(Clone, PartialEq, Message)]
struct SchemaService {
    #[prost(string, tag = "1")]
    schema: String,
}

/// The schema of a sink's configuration: of all services that have one it is the first field.
fn schema_of(config: &(String, Vec<u8>), name: &str) -> Option<String> {
    let (type_url, value) = config;
    let full = type_url.rsplit('/').next().unwrap_or(type_url);
    if !full.starts_with(name) {
        return None;
    }
    SchemaService::decode(&**value)
        .ok()
        .map(|service| service.schema)
        .filter(|schema| !schema.trim().is_empty())
}

fn sql_schema(config: &(String, Vec<u8>)) -> Option<String> {
    schema_of(config, "sf.substreams.sink.sql.")
}

fn graphql_schema(config: &(String, Vec<u8>)) -> Option<String> {
    schema_of(config, "sf.substreams.sink.subgraph.")
}

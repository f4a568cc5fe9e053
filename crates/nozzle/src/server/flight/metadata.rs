//! What Flight SQL's clients ask about the server and its tables: one batch each.

use std::sync::LazyLock;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use arrow_flight::{
    error::Result as FlightResult,
    sql::{
        Command, Nullable, Searchable, SqlInfo, SqlSupportedTransaction, XdbcDataType,
        metadata::{
            SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
        },
    },
};
use nozzle_query::{QueryError, Session, catalog::CATALOG};
use tonic::Status;

use super::super::query::Queries;
use nozzle_query::plain::plain_schema;

/// What all tables are.
const TABLE: &str = "TABLE";

/// The answer to a question about what there is; `None` where the command is another one.
pub(super) async fn answer(command: &Command, queries: &Queries) -> Result<Option<RecordBatch>, Status> {
    let failed = |error: arrow_flight::error::FlightError| Status::internal(error.to_string());
    let batch = match command.clone() {
        Command::CommandGetCatalogs(command) => {
            let mut builder = command.into_builder();
            builder.append(CATALOG);
            builder.build()
        }
        Command::CommandGetDbSchemas(command) => {
            let mut builder = command.into_builder();
            let schemas = queries
                .looked(|session| Ok(listed(session)?.into_iter().map(|(schema, _)| schema).collect()));
            let schemas: Vec<String> = schemas.await?;
            schemas.into_iter().for_each(|schema| builder.append(CATALOG, schema));
            builder.build()
        }
        Command::CommandGetTables(command) => {
            let mut builder = command.into_builder();
            for (schema, tables) in queries.looked(listed).await? {
                for (table, columns) in tables {
                    builder.append(CATALOG, &schema, table, TABLE, &columns).map_err(failed)?;
                }
            }
            builder.build()
        }
        Command::CommandGetTableTypes(command) => {
            let mut builder = command.into_builder();
            builder.append(TABLE);
            builder.build()
        }
        // No table has a key that the metadata knows of.
        Command::CommandGetPrimaryKeys(_) => Ok(RecordBatch::new_empty(primary_keys())),
        Command::CommandGetSqlInfo(command) => match &*SQL_INFO {
            Ok(info) => command.into_builder(info).build(),
            Err(why) => return Err(Status::internal(why.clone())),
        },
        Command::CommandGetXdbcTypeInfo(command) => match &*TYPES {
            Ok(types) => command.into_builder(types).build(),
            Err(why) => return Err(Status::internal(why.clone())),
        },
        _ => return Ok(None),
    };
    batch.map(Some).map_err(failed)
}

/// The schemas, each with its tables and their columns, as they leave the server.
type Listed = Vec<(String, Vec<(String, SchemaRef)>)>;

/// What there is at this moment.
pub(super) fn listed(session: &Session) -> Result<Listed, QueryError> {
    let own = |(schema, tables): (&str, Vec<(&str, SchemaRef)>)| {
        let tables = tables.into_iter().map(|(table, columns)| (table.to_owned(), plain_schema(&columns)));
        (schema.to_owned(), tables.collect())
    };
    Ok(session.list()?.into_iter().map(own).collect())
}

/// The columns that the specification of Flight SQL gives the answer.
fn primary_keys() -> SchemaRef {
    let text = |name: &str, is_nullable| Field::new(name, DataType::Utf8, is_nullable);
    let fields = vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        text("key_name", true),
        Field::new("key_sequence", DataType::Int32, false),
    ];
    Schema::new(fields).into()
}

static SQL_INFO: LazyLock<Result<SqlInfoData, String>> =
    LazyLock::new(|| sql_info().map_err(|error| error.to_string()));

fn sql_info() -> FlightResult<SqlInfoData> {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Nozzle");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    info.append(SqlInfo::FlightSqlServerReadOnly, true);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, false);
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, false);
    info.append(SqlInfo::SqlDdlTable, false);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.build()
}

static TYPES: LazyLock<Result<XdbcTypeInfoData, String>> =
    LazyLock::new(|| types().map_err(|error| error.to_string()));

/// The types that columns of the tables have.
fn types() -> FlightResult<XdbcTypeInfoData> {
    let types = [
        ("BOOLEAN", XdbcDataType::XdbcBit, 1),
        ("INT", XdbcDataType::XdbcInteger, 32),
        ("BIGINT", XdbcDataType::XdbcBigint, 64),
        ("BIGINT UNSIGNED", XdbcDataType::XdbcBigint, 64),
        ("DOUBLE", XdbcDataType::XdbcDouble, 64),
        ("DECIMAL", XdbcDataType::XdbcDecimal, 38),
        ("VARCHAR", XdbcDataType::XdbcVarchar, i32::MAX),
        ("BYTEA", XdbcDataType::XdbcVarbinary, i32::MAX),
        ("TIMESTAMP", XdbcDataType::XdbcTimestamp, 32),
    ];
    let mut builder = XdbcTypeInfoDataBuilder::new();
    for (name, data_type, size) in types {
        builder.append(XdbcTypeInfo {
            type_name: name.to_owned(),
            data_type,
            sql_data_type: data_type,
            column_size: Some(size),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: true,
            searchable: Searchable::Full,
            unsigned_attribute: Some(name.ends_with("UNSIGNED")),
            local_type_name: Some(name.to_owned()),
            ..XdbcTypeInfo::default()
        });
    }
    builder.build()
}

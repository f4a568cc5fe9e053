//! The tables of a derived dataset: their queries, planned one after the other.
//!
//! A query names tables of other datasets by the names that its manifest gives these, and tables of its own
//! dataset as `self.table`. Where a manifest is registered there may be no data yet: then tables are known by
//! their columns alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProviderList, MemorySchemaProvider, SchemaProvider,
    },
    execution::{SessionState, SessionStateBuilder},
    logical_expr::LogicalPlan,
    prelude::SessionContext,
    sql::parser::Statement,
};
use nozzle_core::{DatasetRef, TableName};

use crate::{
    catalog::CATALOG,
    error::QueryError,
    incremental::{self, Declared, Incremental, Own},
    nearest::suggestion,
    session::{self, Session},
};

pub use crate::table::BlockColumns;

/// The name of the dataset's own schema.
pub const SELF: &str = "self";

/// A table and the query that gives its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableQuery {
    /// The table.
    pub table: TableName,
    /// Its rows.
    pub sql: String,
}

/// A table that is known by its columns alone.
#[derive(Debug, Clone)]
pub struct KnownTable {
    /// Its columns, `_block_num` first.
    pub schema: SchemaRef,
    /// Which of them tell of a row's block.
    pub block_columns: BlockColumns,
}

impl Session {
    /// Plans a dataset's tables over what this session sees; `names` is what the queries call datasets.
    pub async fn derive(
        &self,
        names: &BTreeMap<String, DatasetRef>,
        queries: &[TableQuery],
    ) -> Result<Vec<Incremental>, QueryError> {
        let mut schemas: BTreeMap<String, Arc<dyn SchemaProvider>> = BTreeMap::new();
        for (name, dataset) in names {
            let Some(schema) = self.catalog().schema(&dataset.to_string()) else {
                return Err(QueryError::TableNotFound(format!("there is no dataset `{dataset}` any more")));
            };
            schemas.insert(name.clone(), schema);
        }
        derive_all(self.context(), schemas, queries).await
    }

    /// A query of a stream: its plan as that of any other, and what grows block by block.
    pub async fn incremental(&self, sql: &str) -> Result<(LogicalPlan, Incremental), QueryError> {
        collect_spans(self.context());
        let statement = session::parsed(sql)?;
        let plan = match self.plan_statement(statement.clone()).await {
            Err(error) => return Err(in_its_line(&self.context().state(), statement, error).await),
            Ok(plan) => plan,
        };
        let incremental = Incremental::new(plan.clone(), self.context());
        Ok((plan, incremental.map_err(|failure| failure.in_sql(sql))?))
    }
}

/// Plans a dataset's tables over tables that are known by their columns, by the name of their dataset and their
/// own.
pub async fn declared(
    known: &BTreeMap<String, BTreeMap<String, KnownTable>>,
    queries: &[TableQuery],
) -> Result<Vec<Incremental>, QueryError> {
    let mut schemas: BTreeMap<String, Arc<dyn SchemaProvider>> = BTreeMap::new();
    for (name, tables) in known {
        let schema = MemorySchemaProvider::new();
        for (table, known) in tables {
            let KnownTable { schema: columns, block_columns } = known.clone();
            let declared = Declared { schema: columns, block_columns, rows: None };
            schema.register_table(table.clone(), Arc::new(declared))?;
        }
        schemas.insert(name.clone(), Arc::new(schema));
    }
    let context = session::context(SessionStateBuilder::new().with_config(session::session_config()));
    derive_all(&context, schemas, queries).await
}

/// The schemas that the queries of a dataset can name.
#[derive(Debug)]
struct Names(BTreeMap<String, Arc<dyn SchemaProvider>>);

impl CatalogProvider for Names {
    fn schema_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.0.get(name).cloned()
    }
}

async fn derive_all(
    context: &SessionContext,
    mut schemas: BTreeMap<String, Arc<dyn SchemaProvider>>,
    queries: &[TableQuery],
) -> Result<Vec<Incremental>, QueryError> {
    let own = Arc::new(MemorySchemaProvider::new());
    schemas.insert(SELF.to_owned(), Arc::clone(&own) as Arc<dyn SchemaProvider>);
    let names = Arc::new(Names(schemas));
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::clone(&names) as Arc<dyn CatalogProvider>);
    let state =
        SessionStateBuilder::new_from_existing(context.state()).with_catalog_list(Arc::new(catalogs)).build();
    let context = SessionContext::new_with_state(state);
    collect_spans(&context);
    let state = context.state();
    let mut waiting = vec![];
    for (place, query) in queries.iter().enumerate() {
        let of_table = |error| in_table(&query.table, error);
        let statement = session::parsed(&query.sql).map_err(of_table)?;
        let needs = needs(&state, &names, queries, &statement).map_err(of_table)?;
        waiting.push((place, statement, needs));
    }
    let mut planned: Vec<Option<Incremental>> = vec![None; queries.len()];
    while !waiting.is_empty() {
        let is_ready = |needs: &BTreeSet<String>| needs.iter().all(|table| own.table_exist(table));
        let Some(next) = waiting.iter().position(|(.., needs)| is_ready(needs)) else {
            let tables = waiting.iter().map(|(place, ..)| format!("`{}`", queries[*place].table));
            let tables = tables.collect::<Vec<_>>().join(", ");
            return Err(QueryError::Plan(format!(
                "the tables {tables} are made of each other: one has to come first"
            )));
        };
        let (place, statement, _) = waiting.remove(next);
        let query = &queries[place];
        let plan = match session::planned(&state, statement.clone()).await {
            Err(error) => return Err(in_table(&query.table, in_its_line(&state, statement, error).await)),
            Ok(plan) => plan,
        };
        let incremental = Incremental::new(plan, &context)
            .map_err(|failure| in_table(&query.table, failure.in_sql(&query.sql)))?;
        own.register_table(query.table.to_string(), Arc::new(Own(Arc::new(incremental.clone()))))?;
        planned[place] = Some(incremental);
    }
    Ok(planned.into_iter().flatten().collect())
}

/// The tables of the same dataset that a query reads. Fails at a table that there is not.
fn needs(
    state: &SessionState,
    names: &Names,
    queries: &[TableQuery],
    statement: &Statement,
) -> Result<BTreeSet<String>, QueryError> {
    let mut needs = BTreeSet::new();
    for reference in state.resolve_table_references(statement)? {
        let table = reference.table();
        let Some(schema) = reference.schema() else {
            if state.table_functions().contains_key(table) {
                continue;
            }
            let message =
                format!("the table `{table}` is named without its dataset: write `dataset.{table}`");
            return Err(QueryError::TableNotFound(message));
        };
        if schema == SELF {
            if !queries.iter().any(|query| query.table.as_str() == table) {
                let known = queries.iter().map(|query| query.table.as_str());
                let suggestion = suggestion(table, known);
                return Err(QueryError::TableNotFound(format!(
                    "the dataset has no table `{table}`{suggestion}"
                )));
            }
            needs.insert(table.to_owned());
            continue;
        }
        let Some(provider) = names.schema(schema) else {
            let known = names.0.keys().map(String::as_str);
            let suggestion = suggestion(schema, known);
            return Err(QueryError::TableNotFound(format!(
                "`{schema}` is no dataset that the manifest depends on{suggestion}"
            )));
        };
        if !provider.table_exist(table) {
            let known = provider.table_names();
            let suggestion = suggestion(table, known.iter().map(String::as_str));
            return Err(QueryError::TableNotFound(format!("`{schema}` has no table `{table}`{suggestion}")));
        }
    }
    Ok(needs)
}

/// Has plans know where in a query their columns stand.
pub(crate) fn collect_spans(context: &SessionContext) {
    context.state_ref().write().config_mut().options_mut().sql_parser.collect_spans = true;
}

/// The error of a statement that could not be planned, with the line where the engine tells it.
async fn in_its_line(state: &SessionState, statement: Statement, error: QueryError) -> QueryError {
    match (error, state.statement_to_plan(statement).await) {
        (QueryError::Plan(_), Err(again)) => incremental::in_its_line(again),
        (error, _) => error,
    }
}

fn in_table(table: &TableName, error: QueryError) -> QueryError {
    let named = |why: String| format!("the table `{table}`: {why}");
    match error {
        QueryError::Parse(why) => QueryError::Parse(named(why)),
        QueryError::TableNotFound(why) => QueryError::TableNotFound(named(why)),
        QueryError::Plan(why) => QueryError::Plan(named(why)),
        other => other,
    }
}

/// What a query calls the datasets that it reads.
pub fn schemas(query: &TableQuery) -> Result<BTreeSet<String>, QueryError> {
    let statement = session::parsed(&query.sql).map_err(|error| in_table(&query.table, error))?;
    let state = SessionStateBuilder::new().build();
    let references = state.resolve_table_references(&statement)?;
    Ok(references.iter().filter_map(|reference| reference.schema().map(str::to_owned)).collect())
}

//! The engine that all queries of a process share, and the session of one query.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProviderList,
        information_schema::{INFORMATION_SCHEMA, INFORMATION_SCHEMA_TABLES},
    },
    common::{
        TableReference,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext,
        cache::cache_manager::CacheManagerConfig,
        context::SQLOptions,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::{FairSpillPool, MemoryPool, UnboundedMemoryPool},
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    logical_expr::{Expr, LogicalPlan, ScalarUDF},
    optimizer::Analyzer,
    physical_plan::execute_stream,
    prelude::{SessionConfig, SessionContext},
    sql::{
        parser::{DFParserBuilder, Statement},
        sqlparser::{dialect::GenericDialect, parser::ParserError, tokenizer::Tokenizer},
    },
};
use nozzle_core::{DatasetRef, Network};
use nozzle_metadata::{CommitSeq, Dataset, MetadataStore, Snapshot};
use tokio::sync::watch;

use crate::{
    ahead::Ahead,
    calls::{self, Called, ContractCaller},
    catalog::{CATALOG, SnapshotCatalog},
    clauses, depth,
    equality::CountByPages,
    error::QueryError,
    feed::Feeds,
    gaps::KnownGaps,
    inlined, literals,
    memory::Share,
    names,
    nearest::suggestion,
    parameters,
    pauses::Pauses,
    ranges, references, spread,
    stores::Stores,
    udf,
    widths::{self, Widths},
    windows::Windows,
};

/// Keys that are looked up in bloom filters. A filter of a hash is wrong for one of a thousand, so of more keys hardly
/// any row group would be left out.
const LOOKED_UP_KEYS: usize = 2_048;

/// Limits and sizes of the engine.
#[derive(Debug, Clone, Default)]
pub struct EngineConfig {
    /// Memory of all queries together, in bytes; `None`: no limit.
    pub max_memory_bytes: Option<usize>,
    /// Memory of one query, in bytes; `None`: no limit but that of all.
    pub max_query_memory_bytes: Option<usize>,
    /// Where queries that reach the limit spill; empty: the system's temporary folder.
    pub spill_folders: Vec<PathBuf>,
    /// Memory of cached Parquet footers, in bytes.
    pub footer_cache_bytes: usize,
}

/// What all queries of a process share: memory, caches, stores.
#[derive(Debug)]
pub struct Engine {
    metadata: Arc<dyn MetadataStore>,
    stores: Arc<Stores>,
    runtime: Arc<RuntimeEnv>,
    max_query_memory_bytes: Option<usize>,
    config: SessionConfig,
    caller: Option<Arc<dyn ContractCaller>>,
    feeds: Arc<Feeds>,
    known_gaps: Arc<KnownGaps>,
}

impl Engine {
    /// An engine over the given metadata and stores.
    pub fn new(
        metadata: Arc<dyn MetadataStore>,
        stores: Arc<Stores>,
        config: &EngineConfig,
    ) -> Result<Self, QueryError> {
        let memory: Arc<dyn MemoryPool> = match config.max_memory_bytes {
            Some(limit) => Arc::new(FairSpillPool::new(limit)),
            None => Arc::new(UnboundedMemoryPool::default()),
        };
        let spill = match config.spill_folders.as_slice() {
            [] => DiskManagerMode::OsTmpDirectory,
            folders => DiskManagerMode::Directories(folders.to_vec()),
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(memory)
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(spill))
            .with_object_store_registry(Arc::clone(&stores) as _)
            .with_cache_manager(
                CacheManagerConfig::default().with_metadata_cache_limit(config.footer_cache_bytes),
            )
            .build_arc()?;
        let max_query_memory_bytes = config.max_query_memory_bytes;
        let config = session_config();
        Ok(Self {
            metadata,
            stores,
            runtime,
            max_query_memory_bytes,
            config,
            caller: None,
            feeds: Arc::default(),
            known_gaps: Arc::default(),
        })
    }

    /// The engine with what its queries call contracts through; without it there is no `eth_call`.
    pub fn with_caller(self, caller: Arc<dyn ContractCaller>) -> Self {
        Self { caller: Some(caller), ..self }
    }

    /// Where streams of the same query find each other.
    pub(crate) fn feeds(&self) -> &Arc<Feeds> {
        &self.feeds
    }

    /// What a query shares with the others, with a memory of its own where one has a limit.
    fn runtime_of_one(&self) -> Result<Arc<RuntimeEnv>, QueryError> {
        let Some(limit) = self.max_query_memory_bytes else { return Ok(Arc::clone(&self.runtime)) };
        let share = Share::new(limit, Arc::clone(&self.runtime.memory_pool));
        let runtime = RuntimeEnvBuilder::from_runtime_env(&self.runtime).with_memory_pool(Arc::new(share));
        Ok(runtime.build_arc()?)
    }

    /// A channel that changes soon after each commit: only a hint.
    pub fn commits(&self) -> watch::Receiver<CommitSeq> {
        self.metadata.commits()
    }

    /// A session that sees the present moment.
    pub async fn session(&self) -> Result<Session, QueryError> {
        let snapshot = self.metadata.snapshot().await?;
        let catalog = Arc::new(SnapshotCatalog::new(&snapshot, &self.metadata, &self.stores));
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(CATALOG.to_owned(), Arc::clone(&catalog) as Arc<dyn CatalogProvider>);
        let state = SessionStateBuilder::new()
            .with_config(self.config.clone())
            .with_runtime_env(self.runtime_of_one()?)
            .with_catalog_list(Arc::new(catalogs));
        let metadata = Arc::clone(&self.metadata);
        Ok(Session {
            context: context(state),
            catalog,
            snapshot,
            metadata,
            caller: self.caller.clone(),
            known_gaps: Arc::clone(&self.known_gaps),
        })
    }
}

/// What plans and runs queries, with all that is ours in it.
pub(crate) fn context(state: SessionStateBuilder) -> SessionContext {
    let mut state = state.with_default_features();
    let memory = state.runtime_env().as_ref().map(|runtime| Arc::clone(&runtime.memory_pool));
    let bounds = udf::Bounds::new(memory);
    state.config().get_or_insert_default().set_extension(Arc::new(bounds.clone()));
    state
        .expr_planners()
        .get_or_insert_default()
        .splice(0..0, [literals::planner(), Arc::new(bounds.clone())]);
    let mut rules = vec![literals::rule()];
    rules.extend(Analyzer::new().rules);
    let context = SessionContext::new_with_state(
        state
            .with_analyzer_rules(rules)
            .with_optimizer_rule(Arc::new(udf::Fields::default()))
            .with_physical_optimizer_rules(ranges::rules())
            .with_physical_optimizer_rule(Arc::new(CountByPages))
            .with_physical_optimizer_rule(Arc::new(Ahead))
            .with_physical_optimizer_rule(Arc::new(Widths))
            .with_physical_optimizer_rule(Arc::new(Pauses))
            .with_physical_optimizer_rule(Arc::new(Windows(bounds.clone())))
            .build(),
    );
    udf::register(&context, &bounds);
    context
}

pub(crate) fn session_config() -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, "public")
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true);
    let options = config.options_mut();
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    options.execution.time_zone = Some("+00:00".into());
    config
}

/// Plans in all detail and runs.
pub(crate) async fn run(
    context: &SessionContext,
    plan: LogicalPlan,
) -> Result<SendableRecordBatchStream, DataFusionError> {
    let bounds = context.copied_config().get_extension::<udf::Bounds>();
    if let Some(bounds) = &bounds {
        bounds.begin_planning();
    }
    let state = context.state();
    let plan = state.optimize(&plan)?;
    let (state, rows) = spread::fitted(state, &plan)?;
    let task = Arc::new(TaskContext::from(&state));
    let mut plan = state.query_planner().create_physical_plan(&plan, &state).await?;
    if state.config().batch_size() < rows {
        plan = widths::paced(plan, rows)?;
    }
    if let Some(bounds) = &bounds {
        bounds.begin_running()?;
    }
    execute_stream(plan, task)
}

/// One query's view: a snapshot and the tables in it.
pub struct Session {
    context: SessionContext,
    catalog: Arc<SnapshotCatalog>,
    snapshot: Snapshot,
    metadata: Arc<dyn MetadataStore>,
    caller: Option<Arc<dyn ContractCaller>>,
    known_gaps: Arc<KnownGaps>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("sequence", &self.snapshot.sequence).finish_non_exhaustive()
    }
}

impl Session {
    /// What plans and runs this session's queries.
    pub(crate) fn context(&self) -> &SessionContext {
        &self.context
    }

    /// The schemas that queries of this session can name.
    pub(crate) fn catalog(&self) -> &Arc<SnapshotCatalog> {
        &self.catalog
    }

    /// What was found of tables so far.
    pub(crate) fn known_gaps(&self) -> &KnownGaps {
        &self.known_gaps
    }

    /// The database that this session's moment is one of.
    pub(crate) fn metadata(&self) -> &dyn MetadataStore {
        self.metadata.as_ref()
    }

    /// The moment that this session sees.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whether a session made now would see the same.
    pub async fn is_of_now(&self) -> Result<bool, QueryError> {
        Ok(self.metadata.snapshot().await? == self.snapshot)
    }

    /// Plans one read-only statement.
    pub async fn plan(&self, sql: &str) -> Result<LogicalPlan, QueryError> {
        let statement = parsed(sql)?;
        if clauses::is_stream(&statement) {
            return Err(QueryError::Plan(
                "a stream is no answer with an end: ask `nozzle server` for it".into(),
            ));
        }
        let is_complete = clauses::is_complete(&statement);
        let plan = self.plan_statement(statement).await?;
        if is_complete {
            let gaps = self.gaps(&plan).await?;
            if !gaps.0.is_empty() {
                return Err(QueryError::Plan(format!(
                    "the answer would not be complete: {gaps}. Dump them, or leave out `complete = true`"
                )));
            }
        }
        Ok(plan)
    }

    /// As [`Self::plan`], also of a stream.
    pub(crate) async fn plan_statement(&self, statement: Statement) -> Result<LogicalPlan, QueryError> {
        for called in calls::named(&statement) {
            let function = self.eth_call(&called)?;
            self.context.register_udf(function);
        }
        let state = self.context.state();
        for table in state.resolve_table_references(&statement)? {
            let is_function = table.schema().is_none() && state.table_functions().contains_key(table.table());
            if !is_function {
                self.check_table(&table)?;
            }
        }
        let plan = planned(&state, statement).await?;
        calls::check_places(&plan)?;
        Ok(plan)
    }

    /// Runs a plan; rows come as they are made.
    pub async fn execute(&self, plan: LogicalPlan) -> Result<SendableRecordBatchStream, QueryError> {
        Self::execute_in(&self.context, plan).await
    }

    /// As [`Self::execute`], for the rows of a few blocks among all. Where these are joined with all others, up to
    /// [`LOOKED_UP_KEYS`] keys of theirs are looked up in the bloom filters of the other side's row groups.
    pub async fn execute_range(&self, plan: LogicalPlan) -> Result<SendableRecordBatchStream, QueryError> {
        let mut state = self.context.state();
        let optimizer = &mut state.config_mut().options_mut().optimizer;
        optimizer.hash_join_inlist_pushdown_max_distinct_values = LOOKED_UP_KEYS;
        Self::execute_in(&SessionContext::new_with_state(state), plan).await
    }

    async fn execute_in(
        context: &SessionContext,
        plan: LogicalPlan,
    ) -> Result<SendableRecordBatchStream, QueryError> {
        run(context, plan).await.map_err(|error: DataFusionError| {
            // No row was read yet: what is computed here are the query's own constants. A store or a database
            // that fails is another thing.
            let is_own =
                matches!(error.find_root(), DataFusionError::ArrowError(..) | DataFusionError::Execution(_));
            match QueryError::from(error) {
                QueryError::Execution(why) if is_own => QueryError::Plan(why),
                QueryError::Values(why) => QueryError::Plan(why),
                error => error,
            }
        })
    }

    /// The plan with values in the place of its parameters, `$1` and so on: those of the columns of one row. A `0x`
    /// text in the place of bytes is taken as bytes.
    pub fn bind(plan: LogicalPlan, row: &RecordBatch) -> Result<LogicalPlan, QueryError> {
        parameters::bound(plan, row)
    }

    /// The parameters of a plan, in the order of their numbers; those whose type nothing tells are text.
    pub fn parameters(plan: &LogicalPlan) -> Result<SchemaRef, QueryError> {
        let mut types: Vec<_> = plan.get_parameter_types()?.into_iter().collect();
        let number = |name: &str| name.trim_start_matches('$').parse::<u32>().unwrap_or(u32::MAX);
        types.sort_by_key(|(name, _)| number(name));
        let field =
            |(name, ty): (String, Option<DataType>)| Field::new(name, ty.unwrap_or(DataType::Utf8), true);
        Ok(Arc::new(Schema::new(types.into_iter().map(field).collect::<Vec<_>>())))
    }

    /// The schemas that there are, each with its tables and their columns, in order.
    #[allow(clippy::type_complexity, reason = "names with what they name")]
    pub fn list(&self) -> Result<Vec<(&str, Vec<(&str, SchemaRef)>)>, QueryError> {
        self.catalog.list().map_err(QueryError::Execution)
    }

    /// The columns of a plan's answer.
    pub fn schema(plan: &LogicalPlan) -> SchemaRef {
        Arc::clone(plan.schema().inner())
    }

    /// The networks of the tables that a plan reads, each once.
    pub fn networks(&self, plan: &LogicalPlan) -> Result<Vec<Network>, QueryError> {
        let mut schemas: Vec<String> = vec![];
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                schemas.extend(scan.table_name.schema().map(str::to_owned));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let of_schema = |schema: &String| self.dataset(&schema.parse().ok()?)?.network.clone();
        let mut networks: Vec<Network> = schemas.iter().filter_map(of_schema).collect();
        networks.sort();
        networks.dedup();
        Ok(networks)
    }

    /// The function that a query calls contracts of a dataset's network with.
    fn eth_call(&self, called: &Called) -> Result<ScalarUDF, QueryError> {
        let reference = called.dataset.parse::<DatasetRef>().ok();
        let Some(dataset) = reference.and_then(|reference| self.dataset(&reference)) else {
            let known = self.snapshot.datasets.iter().map(|(dataset, _)| dataset.name.as_str());
            let suggestion = suggestion(&called.dataset, known);
            return Err(QueryError::TableNotFound(format!(
                "there is no dataset `{}`{suggestion}",
                called.dataset
            )));
        };
        let (Some(network), Some(caller)) = (&dataset.network, &self.caller) else {
            let name = &dataset.name;
            return Err(QueryError::Plan(format!("contracts of the dataset `{name}` cannot be called here")));
        };
        Ok(calls::eth_call(&called.written, network.clone(), Arc::clone(caller)))
    }

    /// The dataset that a name means: that of a version, or the newest.
    pub(crate) fn dataset(&self, reference: &DatasetRef) -> Option<&Dataset> {
        let is_named = |version| reference.version.is_none_or(|wanted| wanted == version);
        let datasets = self.snapshot.datasets.iter().map(|(dataset, _)| dataset);
        let named = datasets.filter(|d| d.name == reference.name && is_named(d.version));
        named.max_by_key(|dataset| dataset.version)
    }

    fn check_table(&self, table: &TableReference) -> Result<(), QueryError> {
        if table.schema() == Some(INFORMATION_SCHEMA) {
            return match INFORMATION_SCHEMA_TABLES.contains(&table.table()) {
                true => Ok(()),
                false => Err(QueryError::TableNotFound(format!(
                    "there is no table `{table}`{}",
                    suggestion(table.table(), INFORMATION_SCHEMA_TABLES.iter().copied())
                ))),
            };
        }
        if table.catalog().is_some_and(|catalog| catalog != CATALOG) {
            let message =
                format!("there is no catalog in front of a dataset: write `dataset.table`, not `{table}`");
            return Err(QueryError::TableNotFound(message));
        }
        self.catalog
            .explain_missing(table.schema(), table.table())
            .map_or(Ok(()), |why| Err(QueryError::TableNotFound(why)))
    }
}

/// Whether a text is a query that asks for a stream. It is parsed, so this is for threads with a stack for that.
pub fn asks_for_stream(sql: &str) -> bool {
    clauses::may_be_stream(sql) && parsed(sql).is_ok_and(|statement| clauses::is_stream(&statement))
}

/// One statement that only reads, and in which nothing would go unheeded.
pub(crate) fn parsed(sql: &str) -> Result<Statement, QueryError> {
    depth::check(sql)?;
    let mut statement = parse_one(sql)?;
    calls::regroup(&mut statement);
    if !only_reads(&statement) {
        return Err(QueryError::Plan(
            "only statements that read are answered here: SELECT, WITH, VALUES, EXPLAIN, SHOW".into(),
        ));
    }
    if let Some(clause) = clauses::unheeded(&statement) {
        return Err(QueryError::Plan(format!("{clause} is not understood here: leave it out")));
    }
    if let Some(name) = names::reserved(&statement) {
        return Err(reserved(&name));
    }
    references::check(&statement)?;
    Ok(statement)
}

/// The plan of such a statement, checked.
pub(crate) async fn planned(state: &SessionState, statement: Statement) -> Result<LogicalPlan, QueryError> {
    let plan = state.statement_to_plan(statement).await?;
    read_only().verify_plan(&plan)?;
    inlined::check(&plan)?;
    check_names(&plan)?;
    depth::check_types(plan.schema().as_arrow())?;
    Ok(plan)
}

/// Refuses names that rows could not be told by: two output columns of one name, and aliases that begin as the
/// columns do that a server adds.
fn check_names(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut names = HashSet::new();
    if let Some(twice) = plan.schema().fields().iter().find(|field| !names.insert(field.name())) {
        let name = twice.name();
        return Err(QueryError::Plan(format!(
            "two columns of the answer are named `{name}`: give one of them another name with AS"
        )));
    }
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::SubqueryAlias(alias) = node {
            found = found.take().or_else(|| reserved_name(alias.alias.table()));
        }
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::Alias(alias) = part {
                    found = found.take().or_else(|| reserved_name(&alias.name));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    match found {
        Some(name) => Err(reserved(&name)),
        None => Ok(()),
    }
}

fn reserved(name: &str) -> QueryError {
    QueryError::Plan(format!(
        "the alias `{name}` begins with `_`, as only columns do that are added to an answer: choose another"
    ))
}

fn reserved_name(name: &str) -> Option<String> {
    // What is unnested the engine names by itself.
    (name.starts_with('_') && !name.starts_with("__unnest_placeholder")).then(|| name.to_owned())
}

fn parse_one(sql: &str) -> Result<Statement, QueryError> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
    let mut tokens = tokens.map_err(ParserError::from).map_err(DataFusionError::from)?;
    parameters::numbered(&mut tokens)?;
    let mut statements = DFParserBuilder::new(tokens).build()?.parse_statements()?;
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (None, _) => Err(QueryError::Parse("there is no statement".into())),
        (Some(_), more) => Err(QueryError::Parse(format!("one statement at a time, not {}", more + 1))),
    }
}

/// Whether the statement is one that can only read. What it is made of is checked on the plan.
fn only_reads(statement: &Statement) -> bool {
    use datafusion::sql::sqlparser::ast::Statement as Sql;
    match statement {
        Statement::Statement(sql) => matches!(
            **sql,
            Sql::Query(_)
                | Sql::Explain { .. }
                | Sql::ExplainTable { .. }
                | Sql::ShowTables { .. }
                | Sql::ShowColumns { .. }
        ),
        Statement::Explain(_) => true,
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => false,
    }
}

fn read_only() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

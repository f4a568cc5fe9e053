//! A query whose answer grows block by block: what it gives for a range of blocks, from what those blocks add.
//!
//! Every row of such an answer belongs to one block: that of the row it comes from, and of a join the greatest of
//! both. So the answers for neighbouring ranges, put together, are the answer for all of their blocks, wherever
//! the ranges are cut.
//!
//! | step | what a range `a..=b` of it is |
//! |---|---|
//! | a table | its rows of these blocks |
//! | projection, filter, unnest, union | the same of what they read |
//! | `L JOIN R` | `L[a..b] ⋈ R[0..b]` and `L[0..a-1] ⋈ R[a..b]`; only `L[a..b] ⋈ R[a..b]` where the block is a key |
//! | `L` where a row of `R` matches | the same with the first block of each key of `R` |
//! | `GROUP BY`, `DISTINCT ON`, the block first | the same of what they read |
//! | values | rows of the first block of all |
//!
//! Anything else is refused by name: it would have to change rows that were given before.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session as CatalogSession, TableProvider},
    common::{Column, DFSchema, JoinType, NullEquality, tree_node::TreeNode, tree_node::TreeNodeRecursion},
    datasource::{TableType, source_as_provider},
    error::{DataFusionError, Result as DataFusionResult},
    functions_aggregate::expr_fn::min,
    logical_expr::{
        Aggregate, EmptyRelation, Expr, Join, JoinConstraint, LogicalPlan, LogicalPlanBuilder, Projection,
        SortExpr, SubqueryAlias, TableScan, Union, Unnest, Values, Volatility, expr::Alias, ident, lit, when,
    },
    optimizer::{
        Optimizer, OptimizerRule, decorrelate_predicate_subquery::DecorrelatePredicateSubquery,
        eliminate_cross_join::EliminateCrossJoin, extract_equijoin_predicate::ExtractEquijoinPredicate,
        replace_distinct_aggregate::ReplaceDistinctWithAggregate,
    },
    physical_plan::{ExecutionPlan, empty::EmptyExec},
    prelude::SessionContext,
};
use nozzle_core::{BlockNum, BlockRange, schema::BLOCK_NUM};

use crate::{error::QueryError, table::SegmentTable};

/// The column that carries a row's block through the plan.
const BLOCK: &str = "__nozzle_block";
const LEFT: &str = "__nozzle_left";
const RIGHT: &str = "__nozzle_right";

/// The columns that rows of one block are sorted by, where an answer has them.
const WITHIN_BLOCK: [&str; 2] = ["tx_index", "log_index"];

/// A table that is known by its columns.
#[derive(Debug)]
pub struct Declared {
    /// Its columns.
    pub schema: SchemaRef,
    /// Those that hold the block's number.
    pub block_columns: &'static [&'static str],
    /// What gives its rows, where it has some.
    pub rows: Option<Arc<dyn TableProvider>>,
}

#[async_trait]
impl TableProvider for Declared {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn CatalogSession,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        match &self.rows {
            Some(rows) => rows.scan(session, projection, filters, limit).await,
            None => Ok(Arc::new(EmptyExec::new(Arc::clone(&self.schema)))),
        }
    }
}

/// Another table of the same dataset, which stands for its query.
#[derive(Debug)]
pub(crate) struct Own(pub Arc<Incremental>);

#[async_trait]
impl TableProvider for Own {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn CatalogSession,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Internal("a table of the same dataset is never read".into()))
    }
}

/// A query that can be answered range by range.
#[derive(Debug, Clone)]
pub struct Incremental {
    plan: LogicalPlan,
    /// The columns of the answer behind `_block_num`, by their places in the plan.
    columns: Vec<usize>,
    schema: SchemaRef,
    /// The columns of the answer that are the row's block.
    blocks: Vec<usize>,
}

/// Why a query is not one.
#[derive(Debug)]
pub struct NotIncremental {
    /// What cannot be kept up to date.
    pub operator: String,
    /// What to do instead.
    pub instead: &'static str,
    /// Words of the query near which it stands, to find the line.
    pub words: &'static [&'static str],
}

impl std::fmt::Display for NotIncremental {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cannot be kept up to date block by block: {}", self.operator, self.instead)
    }
}

impl std::error::Error for NotIncremental {}

fn refused<T>(
    operator: impl Into<String>,
    words: &'static [&'static str],
    instead: &'static str,
) -> Result<T, Failure> {
    Err(Failure::Not(NotIncremental { operator: operator.into(), instead, words }))
}

/// Why a plan could not be written for a range.
#[derive(Debug)]
pub(crate) enum Failure {
    Not(NotIncremental),
    Engine(DataFusionError),
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        Self::Engine(error)
    }
}

impl Failure {
    /// The error of a query, with the line of `sql` where the operator stands.
    pub fn in_sql(self, sql: &str) -> QueryError {
        match self {
            Self::Engine(error) => error.into(),
            Self::Not(why) => {
                let line = line_of(sql, why.words).map(|line| format!("line {line}: ")).unwrap_or_default();
                QueryError::Plan(format!("{line}{why}"))
            }
        }
    }
}

/// The line of the first of these words, as whole words in any case.
fn line_of(sql: &str, words: &[&str]) -> Option<usize> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
    let has =
        |line: &str, word: &str| line.split(|c| !is_word(c)).any(|part| part.eq_ignore_ascii_case(word));
    words.iter().find_map(|word| lines.clone().position(|line| has(line, word)).map(|line| line + 1))
}

/// Blocks of a range.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    first: BlockNum,
    last: BlockNum,
    /// The first of all blocks, of which the rows are that belong to none.
    start: BlockNum,
}

impl Blocks {
    fn of(range: BlockRange, start: BlockNum) -> Self {
        Self { first: range.start(), last: range.end(), start }
    }

    /// All blocks up to the last of these.
    fn until_last(self) -> Self {
        Self { first: self.start, ..self }
    }

    /// All blocks before these, where there are any.
    fn before(self) -> Option<Self> {
        let last = self.first.checked_sub(1).filter(|last| *last >= self.start)?;
        Some(Self { last, ..self.until_last() })
    }
}

/// A plan with a row's block behind its own columns, and those of its own that are the same.
struct Step {
    plan: LogicalPlan,
    blocks: Vec<usize>,
}

impl Incremental {
    /// Takes a plan as SQL gave it.
    pub(crate) fn new(plan: LogicalPlan, context: &SessionContext) -> Result<Self, Failure> {
        check_nodes(&plan)?;
        let state = context.state();
        let analyzed = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
            Arc::new(ReplaceDistinctWithAggregate::new()),
            Arc::new(DecorrelatePredicateSubquery::new()),
            Arc::new(EliminateCrossJoin::new()),
            Arc::new(ExtractEquijoinPredicate::new()),
        ];
        let plan = Optimizer::with_rules(rules).optimize(analyzed, &state, |_, _| {})?;
        check_expressions(&plan)?;
        let step = rewrite(&plan, Blocks::of(BlockRange::single(0), 0))?;
        let mut fields = vec![Arc::new(Field::new(BLOCK_NUM, DataType::UInt64, false))];
        let mut columns = vec![];
        for (at, field) in plan.schema().fields().iter().enumerate() {
            if field.name() == BLOCK_NUM {
                if !step.blocks.contains(&at) {
                    return refused(
                        format!("a column `{BLOCK_NUM}` that is not the row's block"),
                        &[BLOCK_NUM],
                        "leave it out, each row gets its own",
                    );
                }
                continue;
            }
            columns.push(at);
            fields.push(Arc::clone(field));
        }
        let is_block = |(_, at): &(usize, &usize)| step.blocks.contains(at);
        let blocks = columns.iter().enumerate().filter(is_block).map(|(place, _)| place + 1);
        let blocks = std::iter::once(0).chain(blocks).collect();
        Ok(Self { plan, columns, schema: Arc::new(Schema::new(fields)), blocks })
    }

    /// The columns of the answer, `_block_num` first.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The columns as the query names them.
    pub fn query_schema(&self) -> SchemaRef {
        Arc::clone(self.plan.schema().inner())
    }

    /// The rows of a range, with `_block_num` in front, sorted by it; `start` is the first of all blocks.
    pub fn at(&self, range: BlockRange, start: BlockNum) -> Result<LogicalPlan, QueryError> {
        self.planned(Blocks::of(range, start), true).map_err(|failure| failure.in_sql(""))
    }

    /// As [`Self::at`], with the columns that the query names.
    pub fn query_at(&self, range: BlockRange, start: BlockNum) -> Result<LogicalPlan, QueryError> {
        self.planned(Blocks::of(range, start), false).map_err(|failure| failure.in_sql(""))
    }

    fn planned(&self, blocks: Blocks, with_block: bool) -> Result<LogicalPlan, Failure> {
        let step = rewrite(&self.plan, blocks)?;
        let schema = self.plan.schema();
        let mut sort = vec![SortExpr::new(ident(BLOCK), true, false)];
        for name in WITHIN_BLOCK {
            let mut named =
                schema.iter().filter(|(_, field)| field.name() == name && field.data_type().is_integer());
            if let (Some((qualifier, field)), None) = (named.next(), named.next()) {
                sort.push(SortExpr::new(Expr::Column(Column::from((qualifier, field))), true, false));
            }
        }
        let own = |at: usize| {
            let (qualifier, field) = schema.qualified_field(at);
            Expr::Column(Column::from((qualifier, field))).alias(field.name())
        };
        let columns: Vec<Expr> = if with_block {
            std::iter::once(ident(BLOCK).alias(BLOCK_NUM))
                .chain(self.columns.iter().map(|at| own(*at)))
                .collect()
        } else {
            (0..schema.fields().len()).map(own).collect()
        };
        Ok(LogicalPlanBuilder::from(step.plan).sort(sort)?.project(columns)?.build()?)
    }

    /// The rows of blocks as [`Self::at`] gives them, in any order.
    fn rows(&self, blocks: Blocks) -> Result<LogicalPlan, Failure> {
        let step = rewrite(&self.plan, blocks)?;
        let schema = self.plan.schema();
        let own = |at: &usize| {
            let (qualifier, field) = schema.qualified_field(*at);
            Expr::Column(Column::from((qualifier, field))).alias(field.name())
        };
        let columns: Vec<Expr> =
            std::iter::once(ident(BLOCK).alias(BLOCK_NUM)).chain(self.columns.iter().map(own)).collect();
        Ok(LogicalPlanBuilder::from(step.plan).project(columns)?.build()?)
    }
}

/// Refuses what the rules that come next would hide.
fn check_nodes(plan: &LogicalPlan) -> Result<(), Failure> {
    let mut found = Ok(());
    plan.apply_with_subqueries(|node| {
        found = match node {
            LogicalPlan::Sort(_) => {
                refused("ORDER BY", &["order"], "leave it out, rows come by block; sort when you query")
            }
            LogicalPlan::Limit(_) => {
                refused("LIMIT", &["limit", "fetch", "offset"], "leave it out, or filter by block")
            }
            LogicalPlan::Window(_) => {
                refused("a window function", &["over"], "compute it when you query, over what is stored")
            }
            LogicalPlan::RecursiveQuery(_) => {
                refused("a recursive query", &["recursive"], "write it without")
            }
            _ => Ok(()),
        };
        Ok(if found.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    found
}

/// Refuses functions that give another value each time, and subqueries that no rule has made a join of.
fn check_expressions(plan: &LogicalPlan) -> Result<(), Failure> {
    let mut found = Ok(());
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                found = match part {
                    Expr::ScalarFunction(called)
                        if called.func.signature().volatility != Volatility::Immutable =>
                    {
                        refused(
                            format!("`{}`, which gives another value each time,", called.func.name()),
                            &[],
                            "use the block's timestamp, or compute it when you query",
                        )
                    }
                    Expr::Placeholder(parameter) => refused(
                        format!("the parameter `{}`", parameter.id),
                        &[],
                        "write its value in its place",
                    ),
                    Expr::ScalarSubquery(_)
                    | Expr::Exists(_)
                    | Expr::InSubquery(_)
                    | Expr::SetComparison(_) => {
                        refused("a subquery in an expression", &["select"], "write it as a join")
                    }
                    _ => Ok(()),
                };
                Ok(if found.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
            })
        })
    })?;
    found
}

fn rewrite(plan: &LogicalPlan, blocks: Blocks) -> Result<Step, Failure> {
    match plan {
        LogicalPlan::TableScan(scan) => table(scan, blocks),
        LogicalPlan::Projection(projection) => project(projection, blocks),
        LogicalPlan::Filter(filter) => {
            let step = rewrite(&filter.input, blocks)?;
            let plan = LogicalPlanBuilder::from(step.plan).filter(filter.predicate.clone())?.build()?;
            Ok(Step { plan, ..step })
        }
        LogicalPlan::SubqueryAlias(alias) => aliased(alias, blocks),
        LogicalPlan::Union(union) => united(union, blocks),
        LogicalPlan::Join(join) => match join.join_type {
            JoinType::Inner => inner(join, blocks),
            JoinType::LeftSemi => semi(join, blocks),
            JoinType::LeftAnti | JoinType::RightAnti => refused(
                "NOT IN or NOT EXISTS",
                &["not"],
                "a later block may end it; compute it when you query",
            ),
            other => refused(
                format!("{} JOIN", other.to_string().to_uppercase()),
                &["left", "right", "full", "outer"],
                "a later block may bring the missing side; use an inner join",
            ),
        },
        LogicalPlan::Aggregate(aggregate) => grouped(aggregate, blocks),
        LogicalPlan::Unnest(unnest) => unnested(unnest, blocks),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => rewrite(&sort.input, blocks),
        LogicalPlan::Values(Values { .. }) | LogicalPlan::EmptyRelation(EmptyRelation { .. }) => {
            constant(plan, blocks)
        }
        LogicalPlan::Distinct(_) => {
            refused("DISTINCT", &["distinct"], "use DISTINCT ON with the block number first")
        }
        other => refused(other.display().to_string(), &[], "write the query without it"),
    }
}

/// The columns of a schema, under their own names.
fn columns_of(schema: &DFSchema) -> Vec<Expr> {
    schema.iter().map(|field| Expr::Column(Column::from(field))).collect()
}

/// The plan with the columns of a schema and the block behind them.
fn with_block(plan: LogicalPlan, schema: &DFSchema, block: Expr) -> Result<LogicalPlan, Failure> {
    let columns = columns_of(schema).into_iter().chain([block.alias(BLOCK)]);
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

fn table(scan: &TableScan, blocks: Blocks) -> Result<Step, Failure> {
    let provider = source_as_provider(&scan.source)?;
    let name = &scan.table_name;
    let schema = &scan.projected_schema;
    let block = Expr::Column(Column::new(Some(name.clone()), BLOCK_NUM));
    if let Some(Own(own)) = provider.downcast_ref::<Own>() {
        let rows = LogicalPlanBuilder::from(own.rows(blocks)?).alias(name.clone())?.build()?;
        return Ok(Step { plan: with_block(rows, schema, block)?, blocks: own.blocks.clone() });
    }
    let block_columns = match (provider.downcast_ref::<SegmentTable>(), provider.downcast_ref::<Declared>()) {
        (Some(table), _) => table.block_columns(),
        (_, Some(table)) => table.block_columns,
        _ => {
            return refused(
                format!("the table `{name}`, which has no blocks,"),
                &["information_schema", "generate_series"],
                "read tables of datasets only",
            );
        }
    };
    let of_blocks = block.clone().gt_eq(lit(blocks.first)).and(block.clone().lt_eq(lit(blocks.last)));
    let rows = LogicalPlanBuilder::from(LogicalPlan::TableScan(scan.clone())).filter(of_blocks)?.build()?;
    let is_block = |name: &str| block_columns.contains(&name);
    let equal =
        schema.fields().iter().enumerate().filter(|(_, field)| is_block(field.name())).map(|(at, _)| at);
    Ok(Step { blocks: equal.collect(), plan: with_block(rows, schema, block)? })
}

/// The place of a column among those of a schema.
fn place_of(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Alias(Alias { expr, .. }) => place_of(expr, schema),
        Expr::Column(column) => schema.maybe_index_of_column(column),
        _ => None,
    }
}

fn project(projection: &Projection, blocks: Blocks) -> Result<Step, Failure> {
    let step = rewrite(&projection.input, blocks)?;
    let input = projection.input.schema();
    let is_block = |expr: &Expr| place_of(expr, input).is_some_and(|at| step.blocks.contains(&at));
    let equal =
        projection.expr.iter().enumerate().filter(|(_, expr)| is_block(expr)).map(|(at, _)| at).collect();
    let exprs = projection.expr.iter().cloned().chain([ident(BLOCK)]).collect();
    let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(step.plan))?);
    Ok(Step { plan, blocks: equal })
}

fn aliased(alias: &SubqueryAlias, blocks: Blocks) -> Result<Step, Failure> {
    let step = rewrite(&alias.input, blocks)?;
    let renamed = LogicalPlanBuilder::from(step.plan).alias(alias.alias.clone())?.build()?;
    let block = Expr::Column(Column::new(Some(alias.alias.clone()), BLOCK));
    Ok(Step { plan: with_block(renamed, &alias.schema, block)?, blocks: step.blocks })
}

fn united(union: &Union, blocks: Blocks) -> Result<Step, Failure> {
    let steps = union.inputs.iter().map(|input| rewrite(input, blocks)).collect::<Result<Vec<_>, _>>()?;
    let width = union.schema.fields().len();
    let equal = (0..width).filter(|at| steps.iter().all(|step| step.blocks.contains(at))).collect();
    let plan = union_of(steps.into_iter().map(|step| step.plan).collect(), &union.schema)?;
    Ok(Step { plan, blocks: equal })
}

/// The rows of all plans, which have the same columns by place, under the names of a schema.
fn union_of(plans: Vec<LogicalPlan>, schema: &DFSchema) -> Result<LogicalPlan, Failure> {
    let width = schema.fields().len();
    let numbered = |plan: LogicalPlan| {
        let columns = columns_of(plan.schema());
        let exprs =
            columns.into_iter().take(width).enumerate().map(|(at, column)| column.alias(format!("c{at}")));
        let exprs: Vec<_> = exprs.chain([ident(BLOCK)]).collect();
        Ok(Arc::new(LogicalPlanBuilder::from(plan).project(exprs)?.build()?))
    };
    let mut inputs = plans.into_iter().map(numbered).collect::<DataFusionResult<Vec<_>>>()?;
    let rows = match (inputs.pop(), inputs.is_empty()) {
        (Some(only), true) => Arc::unwrap_or_clone(only),
        (Some(last), false) => {
            inputs.push(last);
            LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)
        }
        (None, _) => return Err(DataFusionError::Internal("a union of nothing".into()).into()),
    };
    let named = schema.iter().enumerate().map(|(at, (qualifier, field))| {
        ident(format!("c{at}")).alias_qualified(qualifier.cloned(), field.name())
    });
    let exprs: Vec<_> = named.chain([ident(BLOCK)]).collect();
    Ok(LogicalPlanBuilder::from(rows).project(exprs)?.build()?)
}

/// Whether both sides of a join must be of the same block.
fn is_by_block(join: &Join, left: &Step, right: &Step) -> bool {
    let is_of = |expr: &Expr, schema: &DFSchema, step: &Step| {
        place_of(expr, schema).is_some_and(|at| step.blocks.contains(&at))
    };
    join.on.iter().any(|(l, r)| is_of(l, join.left.schema(), left) && is_of(r, join.right.schema(), right))
}

/// The plan with its block under another name.
fn renamed(plan: LogicalPlan, schema: &DFSchema, name: &str) -> Result<Arc<LogicalPlan>, Failure> {
    let columns = columns_of(schema).into_iter().chain([ident(BLOCK).alias(name)]);
    Ok(Arc::new(LogicalPlanBuilder::from(plan).project(columns)?.build()?))
}

/// The greater of the blocks of both sides.
fn greater() -> DataFusionResult<Expr> {
    when(ident(LEFT).gt_eq(ident(RIGHT)), ident(LEFT)).otherwise(ident(RIGHT))
}

/// The side of a join that has the rows of the new blocks alone. The engine keeps the left one in memory, and
/// reads of the other what may match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Few {
    Left,
    Right,
}

/// The rows of both sides that match, with the blocks of both.
fn inner_join(
    join: &Join,
    left: Arc<LogicalPlan>,
    right: Arc<LogicalPlan>,
    on: Vec<(Expr, Expr)>,
    filter: Option<Expr>,
    few: Few,
) -> Result<LogicalPlan, Failure> {
    let (first, second, on) = match few {
        Few::Left => (left, right, on),
        Few::Right => (right, left, on.into_iter().map(|(left, right)| (right, left)).collect()),
    };
    let (by, nulls) = (JoinConstraint::On, join.null_equality);
    let rows = Join::try_new(first, second, on, filter, JoinType::Inner, by, nulls, false)?;
    with_block(LogicalPlan::Join(rows), &join.schema, greater()?)
}

fn joined(join: &Join, left: LogicalPlan, right: LogicalPlan, few: Few) -> Result<LogicalPlan, Failure> {
    let left = renamed(left, join.left.schema(), LEFT)?;
    let right = renamed(right, join.right.schema(), RIGHT)?;
    inner_join(join, left, right, join.on.clone(), join.filter.clone(), few)
}

fn inner(join: &Join, blocks: Blocks) -> Result<Step, Failure> {
    if join.on.is_empty() {
        return refused("a join without an equality", &["cross", "join"], "join on columns that are equal");
    }
    let (left, right) = (rewrite(&join.left, blocks)?, rewrite(&join.right, blocks)?);
    if is_by_block(join, &left, &right) {
        let offset = join.left.schema().fields().len();
        let equal = left.blocks.iter().copied().chain(right.blocks.iter().map(|at| at + offset)).collect();
        return Ok(Step { plan: joined(join, left.plan, right.plan, Few::Left)?, blocks: equal });
    }
    let all_right = rewrite(&join.right, blocks.until_last())?;
    let mut parts = vec![joined(join, left.plan, all_right.plan, Few::Left)?];
    if let Some(before) = blocks.before() {
        parts.push(joined(join, rewrite(&join.left, before)?.plan, right.plan, Few::Right)?);
    }
    Ok(Step { plan: union_of(parts, &join.schema)?, blocks: vec![] })
}

fn semi(join: &Join, blocks: Blocks) -> Result<Step, Failure> {
    let (left, right) = (rewrite(&join.left, blocks)?, rewrite(&join.right, blocks)?);
    if is_by_block(join, &left, &right) {
        // One of the names is not needed, and must not be there twice.
        let rows = Join::try_new(
            Arc::new(left.plan),
            renamed(right.plan, join.right.schema(), RIGHT)?,
            join.on.clone(),
            join.filter.clone(),
            JoinType::LeftSemi,
            JoinConstraint::On,
            join.null_equality,
            false,
        )?;
        return Ok(Step { plan: LogicalPlan::Join(rows), blocks: left.blocks });
    }
    if join.on.is_empty() || join.filter.is_some() || join.null_equality != NullEquality::NullEqualsNothing {
        return refused(
            "IN or EXISTS with more than equalities",
            &["exists", "in"],
            "compare columns by equality only",
        );
    }
    let mut parts = vec![matched(join, left.plan, blocks, false)?];
    if let Some(before) = blocks.before() {
        parts.push(matched(join, rewrite(&join.left, before)?.plan, blocks, true)?);
    }
    Ok(Step { plan: union_of(parts, &join.schema)?, blocks: vec![] })
}

/// The rows of the left side whose keys the right side has up to the last of the blocks; `only_new` leaves out
/// those that it has before them.
fn matched(join: &Join, left: LogicalPlan, blocks: Blocks, only_new: bool) -> Result<LogicalPlan, Failure> {
    let right = rewrite(&join.right, blocks.until_last())?.plan;
    let key = |at: usize| format!("__nozzle_key{at}");
    let keys = join.on.iter().enumerate().map(|(at, (_, right))| right.clone().alias(key(at)));
    let mut first_blocks =
        LogicalPlanBuilder::from(right).project(keys.chain([ident(BLOCK)]).collect::<Vec<_>>())?.aggregate(
            (0..join.on.len()).map(|at| ident(key(at))).collect::<Vec<_>>(),
            vec![min(ident(BLOCK)).alias(RIGHT)],
        )?;
    if only_new {
        first_blocks = first_blocks.filter(ident(RIGHT).gt_eq(lit(blocks.first)))?;
    }
    let on = join.on.iter().enumerate().map(|(at, (left, _))| (left.clone(), ident(key(at)))).collect();
    let few = if only_new { Few::Right } else { Few::Left };
    let left = renamed(left, join.left.schema(), LEFT)?;
    inner_join(join, left, Arc::new(first_blocks.build()?), on, None, few)
}

fn grouped(aggregate: &Aggregate, blocks: Blocks) -> Result<Step, Failure> {
    let step = rewrite(&aggregate.input, blocks)?;
    let input = aggregate.input.schema();
    let is_block = |expr: &Expr| place_of(expr, input).is_some_and(|at| step.blocks.contains(&at));
    if !aggregate.group_expr.first().is_some_and(is_block) {
        return refused(
            "GROUP BY or DISTINCT whose first key is not the block number, or an aggregate without GROUP BY,",
            &["group", "distinct", "select"],
            "group by `_block_num` first, and sum up what is stored when you query",
        );
    }
    // Of one block there is one, whichever is taken.
    let takes_block = |expr: &Expr| match expr.clone().unalias() {
        Expr::AggregateFunction(called) => {
            let takes_one = ["first_value", "last_value", "min", "max"].contains(&called.func.name());
            // With a filter there may be none.
            let is_filtered = called.params.filter.is_some();
            takes_one && !is_filtered && called.params.args.first().is_some_and(is_block)
        }
        _ => false,
    };
    let columns =
        aggregate.group_expr.iter().map(is_block).chain(aggregate.aggr_expr.iter().map(takes_block));
    let equal = columns.enumerate().filter(|(_, is_block)| *is_block).map(|(at, _)| at).collect();
    let groups = aggregate.group_expr.iter().cloned().chain([ident(BLOCK)]).collect();
    let rows = Aggregate::try_new(Arc::new(step.plan), groups, aggregate.aggr_expr.clone())?;
    let plan = with_block(LogicalPlan::Aggregate(rows), &aggregate.schema, ident(BLOCK))?;
    Ok(Step { plan, blocks: equal })
}

fn unnested(unnest: &Unnest, blocks: Blocks) -> Result<Step, Failure> {
    let step = rewrite(&unnest.input, blocks)?;
    let plan = LogicalPlanBuilder::from(step.plan)
        .unnest_columns_with_options(unnest.exec_columns.clone(), unnest.options.clone())?
        .build()?;
    let comes_from = unnest.dependency_indices.iter().enumerate();
    let equal = comes_from.filter(|(_, from)| step.blocks.contains(from)).map(|(at, _)| at).collect();
    Ok(Step { plan, blocks: equal })
}

/// Rows that are there from the beginning.
fn constant(plan: &LogicalPlan, blocks: Blocks) -> Result<Step, Failure> {
    let rows = LogicalPlanBuilder::from(plan.clone());
    let rows = if blocks.first == blocks.start { rows } else { rows.filter(lit(false))? };
    Ok(Step { plan: with_block(rows.build()?, plan.schema(), lit(blocks.start))?, blocks: vec![] })
}

#[cfg(test)]
mod tests;

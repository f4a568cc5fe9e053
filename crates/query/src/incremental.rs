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
//! | `L JOIN R` | `L[a..b] ⋈ R[0..b]` and `L[0..a-1] ⋈ R[a..b]`; only `L[a..b] ⋈ R[a..b]` where the block or its hash is a key |
//! | `L` where a row of `R` matches | the same with the first block of each key of `R` |
//! | `GROUP BY`, `DISTINCT ON`, the block first | the same of what they read |
//! | values | rows of the first block of all |
//!
//! Anything else is refused by name: it would have to change rows that were given before.

mod refusal;
mod steps;

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session as CatalogSession, TableProvider},
    common::{Column, tree_node::TreeNode},
    datasource::{TableType, source_as_provider},
    error::{DataFusionError, Result as DataFusionResult},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, SortExpr, ident},
    optimizer::{
        Optimizer, OptimizerRule, decorrelate_predicate_subquery::DecorrelatePredicateSubquery,
        eliminate_cross_join::EliminateCrossJoin, extract_equijoin_predicate::ExtractEquijoinPredicate,
        replace_distinct_aggregate::ReplaceDistinctWithAggregate,
    },
    physical_plan::{ExecutionPlan, empty::EmptyExec},
    prelude::SessionContext,
};
use nozzle_core::{BlockNum, BlockRange, schema::BLOCK_NUM};

pub(crate) use self::refusal::in_its_line;
use self::{
    refusal::{Failure, Place, check_expressions, check_nodes, refused},
    steps::rewrite,
};
use crate::{error::QueryError, table::BlockColumns};

/// The column that carries a row's block through the plan.
const BLOCK: &str = "__nozzle_block";

/// The column that carries a row's place in its block.
const ORDER: &str = "__nozzle_order";

/// The columns that rows of one block are sorted by where nothing else is known of their places. An index of logs is
/// one within the block.
const WITHIN_BLOCK: [&str; 2] = ["log_index", "tx_index"];

/// A table that is known by its columns.
#[derive(Debug)]
pub struct Declared {
    /// Its columns.
    pub schema: SchemaRef,
    /// Those that tell of a row's block.
    pub block_columns: BlockColumns,
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
    /// The columns of the answer that tell the row's block.
    keys: Keys,
    /// The column that told the places of rows in their blocks, where that is known.
    order: Option<&'static str>,
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

/// What a column tells of its row's block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Number,
    /// It commits to the number, in whichever chain: rows of one hash are of one block.
    Hash,
}

/// Columns that are never null and tell the row's block, by their places.
type Keys = BTreeMap<usize, Key>;

/// A plan with a row's block and its place in it behind its own columns, and those of its own that tell the block.
struct Step {
    plan: LogicalPlan,
    keys: Keys,
    /// The column that told the places, where they are known; else they are all the same.
    order: Option<&'static str>,
}

impl Step {
    fn is_number(&self, at: usize) -> bool {
        self.keys.get(&at) == Some(&Key::Number)
    }
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
                if !step.is_number(at) {
                    return refused(
                        format!("a column `{BLOCK_NUM}` that is not the row's block"),
                        Place::at([BLOCK_NUM]),
                        "leave it out, each row gets its own",
                    );
                }
                continue;
            }
            columns.push(at);
            fields.push(Arc::clone(field));
        }
        let key = |(place, at): (usize, &usize)| Some((place + 1, *step.keys.get(at)?));
        let keys = columns.iter().enumerate().filter_map(key).chain([(0, Key::Number)]).collect();
        let order = step.order;
        Ok(Self { plan, columns, schema: Arc::new(Schema::new(fields)), keys, order })
    }

    /// The columns of the answer that hold the block's number besides `_block_num`.
    pub fn block_columns(&self) -> Vec<String> {
        let others = self.keys.iter().filter(|(at, key)| **at > 0 && **key == Key::Number);
        others.map(|(at, _)| self.schema.field(*at).name().clone()).collect()
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
        let by = self.order_column().or_else(|| step.order.map(|_| ident(ORDER)));
        sort.extend(by.map(|column| SortExpr::new(column, true, false)));
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

    /// The column of the answer that rows of one block are sorted by, where one can serve. Those of a joined table
    /// cannot: they may be the same as others, and the engine then takes one for the other until it has lost track.
    fn order_column(&self) -> Option<Expr> {
        if has_joins(&self.plan).unwrap_or(true) {
            return None;
        }
        let unique = |name: &&str| {
            let mut named = self.plan.schema().iter().filter(|(_, field)| field.name() == name);
            let (qualifier, field) = named.next().filter(|(_, field)| field.data_type().is_integer())?;
            named.next().is_none().then(|| Expr::Column(Column::from((qualifier, field))))
        };
        self.order.map_or(WITHIN_BLOCK.to_vec(), |name| vec![name]).iter().find_map(unique)
    }

    /// The rows of blocks as [`Self::at`] gives them, in any order, and behind them their places in their blocks.
    fn rows(&self, blocks: Blocks) -> Result<LogicalPlan, Failure> {
        let step = rewrite(&self.plan, blocks)?;
        let schema = self.plan.schema();
        let own = |at: &usize| {
            let (qualifier, field) = schema.qualified_field(*at);
            Expr::Column(Column::from((qualifier, field))).alias(field.name())
        };
        let own = self.columns.iter().map(own);
        let columns: Vec<Expr> =
            std::iter::once(ident(BLOCK).alias(BLOCK_NUM)).chain(own).chain([ident(ORDER)]).collect();
        Ok(LogicalPlanBuilder::from(step.plan).project(columns)?.build()?)
    }
}

/// Whether a plan, or that of another table of the dataset that it reads, joins.
fn has_joins(plan: &LogicalPlan) -> DataFusionResult<bool> {
    plan.exists(|node| match node {
        LogicalPlan::Join(_) => Ok(true),
        LogicalPlan::TableScan(scan) => match source_as_provider(&scan.source)?.downcast_ref::<Own>() {
            Some(Own(own)) => has_joins(&own.plan),
            None => Ok(false),
        },
        _ => Ok(false),
    })
}

#[cfg(test)]
mod tests;

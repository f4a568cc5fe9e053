//! The steps of a plan, each written anew for the blocks of a range.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{Column, DFSchema, JoinType, NullEquality},
    datasource::source_as_provider,
    error::{DataFusionError, Result as DataFusionResult},
    functions_aggregate::expr_fn::min,
    logical_expr::{
        Aggregate, EmptyRelation, Expr, Join, JoinConstraint, LogicalPlan, LogicalPlanBuilder, Projection,
        SubqueryAlias, TableScan, Union, Unnest, Values, expr::Alias, ident, lit, try_cast, when,
    },
};
use nozzle_core::schema::BLOCK_NUM;

use super::{
    BLOCK, Blocks, Declared, Key, Keys, ORDER, Own, Step, WITHIN_BLOCK,
    refusal::{Failure, Place, refused},
};
use crate::table::{BlockColumns, SegmentTable};

/// The blocks of both sides of a join.
const LEFT: &str = "__nozzle_left";
const RIGHT: &str = "__nozzle_right";

/// The rows of blocks that a plan gives.
pub(super) fn rewrite(plan: &LogicalPlan, blocks: Blocks) -> Result<Step, Failure> {
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
                Place::at(["not"]).near(compared(join)),
                "a later block may end it; compute it when you query",
            ),
            JoinType::LeftMark | JoinType::RightMark => refused(
                "IN or EXISTS within OR, or as a value,",
                Place::at(["in", "exists"]).near(compared(join)),
                "make it a condition of its own, with AND; or write a query for each case, and UNION ALL",
            ),
            other => {
                let side = other.to_string().to_uppercase();
                refused(
                    format!("{side} JOIN"),
                    Place::at([side.as_str()]).near(compared(join)),
                    "a later block may bring the missing side; use an inner join",
                )
            }
        },
        LogicalPlan::Aggregate(aggregate) => grouped(aggregate, blocks),
        LogicalPlan::Unnest(unnest) => unnested(unnest, blocks),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => rewrite(&sort.input, blocks),
        LogicalPlan::Values(Values { .. }) | LogicalPlan::EmptyRelation(EmptyRelation { .. }) => {
            constant(plan, blocks)
        }
        LogicalPlan::Distinct(_) => {
            refused("DISTINCT", Place::at(["distinct"]), "use DISTINCT ON with the block number first")
        }
        other => {
            let place = Place::at(["explain", "describe", "show"]);
            refused(other.display().to_string(), place, "write the query without it")
        }
    }
}

/// What a join compares.
fn compared(join: &Join) -> impl Iterator<Item = &Expr> {
    join.on.iter().flat_map(|(left, right)| [left, right]).chain(&join.filter)
}

/// The columns of a schema, under their own names.
fn columns_of(schema: &DFSchema) -> Vec<Expr> {
    schema.iter().map(|field| Expr::Column(Column::from(field))).collect()
}

/// The plan with the columns of a schema, and the block and the place in it behind them.
fn with_block(
    plan: LogicalPlan,
    schema: &DFSchema,
    block: Expr,
    order: Expr,
) -> Result<LogicalPlan, Failure> {
    let columns = columns_of(schema).into_iter().chain([block.alias(BLOCK), order.alias(ORDER)]);
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

/// The place of rows in their blocks where none is known.
fn no_order() -> Expr {
    lit(0_u32)
}

/// The column of a table that tells the place of its rows in their blocks, where one does.
fn order_of(scan: &TableScan, columns: &BlockColumns) -> Option<&'static str> {
    let names = columns.order.into_iter().chain(WITHIN_BLOCK);
    let fields = scan.projected_schema.as_arrow();
    let is_number = |name: &&str| fields.field_with_name(name).is_ok_and(|f| f.data_type().is_integer());
    names.into_iter().find(is_number)
}

/// The place of rows in their blocks, by a column of theirs. The engine takes the alias of a column that files are
/// sorted by for sorted too, and forgets it where both are read: so this is something of which it knows nothing.
fn order_by(column: Expr) -> Expr {
    try_cast(column, DataType::UInt32) % lit(u32::MAX)
}

fn table(scan: &TableScan, blocks: Blocks) -> Result<Step, Failure> {
    let provider = source_as_provider(&scan.source)?;
    let name = &scan.table_name;
    let schema = &scan.projected_schema;
    let block = Expr::Column(Column::new(Some(name.clone()), BLOCK_NUM));
    if let Some(Own(own)) = provider.downcast_ref::<Own>() {
        let rows = LogicalPlanBuilder::from(own.rows(blocks)?).alias(name.clone())?.build()?;
        let by = Expr::Column(Column::new(Some(name.clone()), ORDER));
        let (keys, order) = (own.keys.clone(), own.order);
        return Ok(Step { plan: with_block(rows, schema, block, by)?, keys, order });
    }
    let columns = match (provider.downcast_ref::<SegmentTable>(), provider.downcast_ref::<Declared>()) {
        (Some(table), _) => table.block_columns(),
        (_, Some(table)) => &table.block_columns,
        _ => {
            return refused(
                format!("the table `{name}`, which has no blocks,"),
                Place::at(name.schema().into_iter().chain([name.table().trim_end_matches("()")])),
                "read tables of datasets only",
            );
        }
    };
    let of_blocks = block.clone().gt_eq(lit(blocks.first)).and(block.clone().lt_eq(lit(blocks.last)));
    let rows = LogicalPlanBuilder::from(LogicalPlan::TableScan(scan.clone())).filter(of_blocks)?.build()?;
    let key = |name: &String| {
        let is_number = columns.numbers.contains(name).then_some(Key::Number);
        is_number.or_else(|| (columns.hash == Some(name.as_str())).then_some(Key::Hash))
    };
    let fields = schema.fields().iter().enumerate();
    let keys = fields.filter_map(|(at, field)| Some((at, key(field.name())?))).collect();
    let order = order_of(scan, columns);
    let by = order.map(|column| order_by(Expr::Column(Column::new(Some(name.clone()), column))));
    Ok(Step { plan: with_block(rows, schema, block, by.unwrap_or_else(no_order))?, keys, order })
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
    let key = |(at, expr)| Some((at, *step.keys.get(&place_of(expr, input)?)?));
    let keys = projection.expr.iter().enumerate().filter_map(key).collect();
    let exprs = projection.expr.iter().cloned().chain([ident(BLOCK), ident(ORDER)]).collect();
    let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(step.plan))?);
    Ok(Step { plan, keys, ..step })
}

fn aliased(alias: &SubqueryAlias, blocks: Blocks) -> Result<Step, Failure> {
    let step = rewrite(&alias.input, blocks)?;
    let renamed = LogicalPlanBuilder::from(step.plan).alias(alias.alias.clone())?.build()?;
    let [block, order] =
        [BLOCK, ORDER].map(|name| Expr::Column(Column::new(Some(alias.alias.clone()), name)));
    Ok(Step { plan: with_block(renamed, &alias.schema, block, order)?, ..step })
}

fn united(union: &Union, blocks: Blocks) -> Result<Step, Failure> {
    let steps = union.inputs.iter().map(|input| rewrite(input, blocks)).collect::<Result<Vec<_>, _>>()?;
    let first = steps.first().map(|step| step.keys.clone()).unwrap_or_default();
    let is_same = |(at, key): &(usize, Key)| steps.iter().all(|step| step.keys.get(at) == Some(key));
    let keys = first.into_iter().filter(is_same).collect();
    let order = steps.iter().find_map(|step| step.order);
    let plan = union_of(steps.into_iter().map(|step| step.plan).collect(), &union.schema)?;
    Ok(Step { plan, keys, order })
}

/// The rows of all plans, which have the same columns by place, under the names of a schema.
fn union_of(plans: Vec<LogicalPlan>, schema: &DFSchema) -> Result<LogicalPlan, Failure> {
    let width = schema.fields().len();
    let numbered = |plan: LogicalPlan| {
        let columns = columns_of(plan.schema());
        let exprs =
            columns.into_iter().take(width).enumerate().map(|(at, column)| column.alias(format!("c{at}")));
        let exprs: Vec<_> = exprs.chain([ident(BLOCK), ident(ORDER)]).collect();
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
    let exprs: Vec<_> = named.chain([ident(BLOCK), ident(ORDER)]).collect();
    Ok(LogicalPlanBuilder::from(rows).project(exprs)?.build()?)
}

/// Whether both sides of a join must be of the same block.
fn is_by_block(join: &Join, left: &Step, right: &Step) -> bool {
    let key = |expr: &Expr, schema: &DFSchema, step: &Step| step.keys.get(&place_of(expr, schema)?).copied();
    let is_same = |(l, r): &(Expr, Expr)| {
        let left = key(l, join.left.schema(), left);
        left.is_some() && left == key(r, join.right.schema(), right)
    };
    join.on.iter().any(is_same)
}

/// The plan with its block under another name, and with the places of its rows where these are wanted.
fn renamed(
    plan: LogicalPlan,
    schema: &DFSchema,
    name: &str,
    with_order: bool,
) -> Result<Arc<LogicalPlan>, Failure> {
    let columns = columns_of(schema).into_iter().chain([ident(BLOCK).alias(name)]);
    let columns = columns.chain(with_order.then(|| ident(ORDER)));
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
    with_block(LogicalPlan::Join(rows), &join.schema, greater()?, ident(ORDER))
}

/// The rows in the order of the left side, where it has one.
fn joined(join: &Join, left: Step, right: Step, few: Few) -> Result<LogicalPlan, Failure> {
    let by_right = right.order.is_some() && left.order.is_none();
    let left = renamed(left.plan, join.left.schema(), LEFT, !by_right)?;
    let right = renamed(right.plan, join.right.schema(), RIGHT, by_right)?;
    inner_join(join, left, right, join.on.clone(), join.filter.clone(), few)
}

fn inner(join: &Join, blocks: Blocks) -> Result<Step, Failure> {
    if join.on.is_empty() {
        return refused(
            "a join without an equality",
            Place::at(["cross", "join", "from"]).near(&join.filter),
            "join on columns that are equal",
        );
    }
    let (left, right) = (rewrite(&join.left, blocks)?, rewrite(&join.right, blocks)?);
    let order = left.order.or(right.order);
    if is_by_block(join, &left, &right) {
        let offset = join.left.schema().fields().len();
        let of_right = right.keys.iter().map(|(at, key)| (at + offset, *key));
        let keys = left.keys.clone().into_iter().chain(of_right).collect();
        return Ok(Step { plan: joined(join, left, right, Few::Left)?, keys, order });
    }
    let all_right = rewrite(&join.right, blocks.until_last())?;
    let mut parts = vec![joined(join, left, all_right, Few::Left)?];
    if let Some(before) = blocks.before() {
        parts.push(joined(join, rewrite(&join.left, before)?, right, Few::Right)?);
    }
    Ok(Step { plan: union_of(parts, &join.schema)?, keys: Keys::new(), order })
}

fn semi(join: &Join, blocks: Blocks) -> Result<Step, Failure> {
    // No condition compares nulls so, but one that has nothing else.
    let is_set_operation = join.null_equality == NullEquality::NullEqualsNull;
    if let LogicalPlan::Aggregate(distinct) = join.left.as_ref()
        && is_set_operation
        && !leads(distinct, &rewrite(&distinct.input, blocks)?)
    {
        return refused(
            "INTERSECT",
            Place::at(["intersect"]),
            "select `_block_num` first on both sides, or write it as IN",
        );
    }
    let (left, right) = (rewrite(&join.left, blocks)?, rewrite(&join.right, blocks)?);
    if is_by_block(join, &left, &right) {
        // One of the names is not needed, and must not be there twice.
        let rows = Join::try_new(
            Arc::new(left.plan),
            renamed(right.plan, join.right.schema(), RIGHT, false)?,
            join.on.clone(),
            join.filter.clone(),
            JoinType::LeftSemi,
            JoinConstraint::On,
            join.null_equality,
            false,
        )?;
        return Ok(Step { plan: LogicalPlan::Join(rows), ..left });
    }
    if join.on.is_empty() || join.filter.is_some() || is_set_operation {
        return refused(
            "IN or EXISTS with more than equalities",
            Place::at(["exists", "in", "intersect"]).near(compared(join)),
            "compare columns by equality only",
        );
    }
    let order = left.order;
    let mut parts = vec![matched(join, left.plan, blocks, false)?];
    if let Some(before) = blocks.before() {
        parts.push(matched(join, rewrite(&join.left, before)?.plan, blocks, true)?);
    }
    Ok(Step { plan: union_of(parts, &join.schema)?, keys: Keys::new(), order })
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
    let left = renamed(left, join.left.schema(), LEFT, true)?;
    inner_join(join, left, Arc::new(first_blocks.build()?), on, None, few)
}

/// Whether the first key of groups is the row's block.
fn leads(aggregate: &Aggregate, step: &Step) -> bool {
    let first = aggregate.group_expr.first();
    first.and_then(|expr| place_of(expr, aggregate.input.schema())).is_some_and(|at| step.is_number(at))
}

fn refused_groups<T>(aggregate: &Aggregate) -> Result<T, Failure> {
    let sums_up = "group by `_block_num` first, and sum up what is stored when you query";
    if aggregate.group_expr.is_empty() {
        let place = Place::at(["select"]).near(&aggregate.aggr_expr);
        return refused("an aggregate without GROUP BY", place, sums_up);
    }
    if let (LogicalPlan::Union(_), []) = (aggregate.input.as_ref(), aggregate.aggr_expr.as_slice()) {
        let instead = "write UNION ALL, or select `_block_num` first";
        return refused("UNION", Place::at(["union"]), instead);
    }
    // What is distinct names its columns in the projection below.
    let selected = match aggregate.input.as_ref() {
        LogicalPlan::Projection(projection) => projection.expr.as_slice(),
        _ => &[],
    };
    let place = Place::at(["group", "distinct"]).near(aggregate.group_expr.iter().chain(selected));
    refused("GROUP BY or DISTINCT whose first key is not the block number", place, sums_up)
}

fn grouped(aggregate: &Aggregate, blocks: Blocks) -> Result<Step, Failure> {
    let step = rewrite(&aggregate.input, blocks)?;
    let input = aggregate.input.schema();
    let key_of = |expr: &Expr| step.keys.get(&place_of(expr, input)?).copied();
    if !leads(aggregate, &step) {
        return refused_groups(aggregate);
    }
    // Of one block there is one, whichever is taken.
    let taken = |expr: &Expr| match expr.clone().unalias() {
        Expr::AggregateFunction(called) => {
            let takes_one = ["first_value", "last_value", "min", "max"].contains(&called.func.name());
            // With a filter there may be none.
            let is_filtered = called.params.filter.is_some();
            called.params.args.first().filter(|_| takes_one && !is_filtered).and_then(key_of)
        }
        _ => None,
    };
    let columns = aggregate.group_expr.iter().map(key_of).chain(aggregate.aggr_expr.iter().map(taken));
    let keys = columns.enumerate().filter_map(|(at, key)| Some((at, key?))).collect();
    let groups = aggregate.group_expr.iter().cloned().chain([ident(BLOCK)]).collect();
    let rows = Aggregate::try_new(Arc::new(step.plan), groups, aggregate.aggr_expr.clone())?;
    let rows = LogicalPlan::Aggregate(rows);
    let plan = with_block(rows, &aggregate.schema, ident(BLOCK), no_order())?;
    Ok(Step { plan, keys, order: None })
}

fn unnested(unnest: &Unnest, blocks: Blocks) -> Result<Step, Failure> {
    let step = rewrite(&unnest.input, blocks)?;
    let plan = LogicalPlanBuilder::from(step.plan)
        .unnest_columns_with_options(unnest.exec_columns.clone(), unnest.options.clone())?
        .build()?;
    let comes_from = unnest.dependency_indices.iter().enumerate();
    let keys = comes_from.filter_map(|(at, from)| Some((at, *step.keys.get(from)?))).collect();
    Ok(Step { plan, keys, ..step })
}

/// Rows that are there from the beginning.
fn constant(plan: &LogicalPlan, blocks: Blocks) -> Result<Step, Failure> {
    let rows = LogicalPlanBuilder::from(plan.clone());
    let rows = if blocks.first == blocks.start { rows } else { rows.filter(lit(false))? };
    let plan = with_block(rows.build()?, plan.schema(), lit(blocks.start), no_order())?;
    Ok(Step { plan, keys: Keys::new(), order: None })
}

//! Random queries over random blocks: whatever the cuts, the ranges together are what the query gives at once, and
//! what lies below a fork does not depend on what lies above it.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, UInt64Array},
    datatypes::{DataType, Field, Schema},
    util::pretty::pretty_format_batches,
};
use datafusion::{
    catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider},
    datasource::MemTable,
    execution::SessionStateBuilder,
};
use proptest::prelude::*;

use super::*;
use crate::{catalog::CATALOG, session, table::block_columns};

const LAST: BlockNum = 23;

/// The rows of one table: block, key, and another number.
type Rows = Vec<(u64, i64, Option<i64>)>;

/// A context with the tables `d.l` and `d.r`.
fn context(left: &Rows, right: &Rows) -> SessionContext {
    let field = |name: &str, ty, nullable| Field::new(name, ty, nullable);
    let schema = Arc::new(Schema::new(vec![
        field(BLOCK_NUM, DataType::UInt64, false),
        field("block_num", DataType::UInt64, false),
        field("k", DataType::Int64, false),
        field("v", DataType::Int64, true),
    ]));
    let tables = MemorySchemaProvider::new();
    for (name, rows) in [("l", left), ("r", right)] {
        let mut rows = rows.clone();
        rows.sort_by_key(|row| row.0);
        let blocks = || Arc::new(rows.iter().map(|row| row.0).collect::<UInt64Array>()) as ArrayRef;
        let keys = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
        let values = Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>());
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![blocks(), blocks(), keys, values]);
        let kept =
            MemTable::try_new(Arc::clone(&schema), vec![vec![batch.expect("a batch")]]).expect("a table");
        let declared = Declared {
            schema: Arc::clone(&schema),
            block_columns: block_columns(true),
            rows: Some(Arc::new(kept)),
        };
        tables.register_table(name.to_owned(), Arc::new(declared)).expect("a new name");
    }
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema("d", Arc::new(tables)).expect("a new name");
    let context = session::context(SessionStateBuilder::new().with_config(session::session_config()));
    context.register_catalog(CATALOG, Arc::new(catalog));
    context
}

async fn lines(context: &SessionContext, plan: LogicalPlan) -> Vec<String> {
    let batches = context.execute_logical_plan(plan).await.expect("a plan").collect().await.expect("rows");
    let text = pretty_format_batches(&batches).expect("text").to_string();
    let mut lines: Vec<String> =
        text.lines().filter(|line| line.starts_with('|')).map(str::to_owned).collect();
    // The names of the columns.
    lines.drain(..1.min(lines.len()));
    lines.sort();
    lines
}

async fn incremental(context: &SessionContext, sql: &str) -> Result<Incremental, QueryError> {
    let plan = session::planned(&context.state(), session::parsed(sql)?).await?;
    Incremental::new(plan, context).map_err(|failure| failure.in_sql(sql))
}

fn range(first: BlockNum, last: BlockNum) -> BlockRange {
    BlockRange::new(first, last).expect("a range")
}

/// Something to select from, with the columns k and v.
fn source() -> impl Strategy<Value = String> {
    let table = prop_oneof![Just("d.l".to_owned()), Just("d.r".to_owned())];
    let leaf = table.prop_map(|table| format!("SELECT _block_num, block_num, k, v FROM {table}"));
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), 0..4_i64).prop_map(|(a, n)| format!("SELECT * FROM ({a}) AS f WHERE k <> {n} OR v IS NULL")),
            inner.clone().prop_map(|a| format!("SELECT _block_num, block_num, v AS k, k AS v FROM ({a}) AS p")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) UNION ALL ({b})")),
            inner.clone().prop_map(|a| format!(
                "SELECT _block_num, block_num, k, count(*) AS v FROM ({a}) AS g GROUP BY _block_num, block_num, k"
            )),
            inner.prop_map(|a| format!(
                "SELECT DISTINCT ON (block_num, k) _block_num, block_num, k, v FROM ({a}) AS o ORDER BY block_num, k, v, _block_num"
            )),
        ]
    })
}

/// A query, maybe with a join at its top, or two.
fn query() -> impl Strategy<Value = String> {
    prop_oneof![
        source().prop_map(|a| format!("SELECT k, v FROM ({a}) AS a")),
        (source(), source()).prop_map(|(a, b)| format!(
            "SELECT a.k, a.v, b.v AS w FROM ({a}) AS a JOIN ({b}) AS b ON a.k = b.k"
        )),
        (source(), source()).prop_map(|(a, b)| format!(
            "SELECT a.k, a.v, b.v AS w FROM ({a}) AS a JOIN ({b}) AS b ON a.block_num = b.block_num AND a.v < b.v"
        )),
        (source(), source()).prop_map(|(a, b)| format!("SELECT k, v FROM ({a}) AS a WHERE k IN (SELECT k FROM ({b}) AS b)")),
        (source(), source()).prop_map(|(a, b)| format!(
            "SELECT k, v FROM ({a}) AS a WHERE EXISTS (SELECT 1 FROM ({b}) AS b WHERE b.block_num = a.block_num AND b.v <> a.v)"
        )),
        (source(), source()).prop_map(|(a, b)| format!(
            "SELECT x.k, x.w, c.v AS u FROM (SELECT a.k, b.v AS w FROM ({a}) AS a JOIN ({b}) AS b ON a.k = b.k) AS x \
             JOIN d.r AS c ON x.w = c.k WHERE x.k IN (SELECT k FROM d.l)"
        )),
        source().prop_map(|a| format!("SELECT a.k, t.n FROM ({a}) AS a JOIN (VALUES (0, 'x'), (1, 'y')) AS t(k, n) ON a.k = t.k")),
        source().prop_map(|a| format!("SELECT k, unnest(make_array(v, k)) AS u FROM ({a}) AS a")),
    ]
}

fn rows() -> impl Strategy<Value = Rows> {
    let row = (0..=LAST, 0..5_i64, proptest::option::of(0..5_i64));
    proptest::collection::vec(row, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn ranges_together_are_the_whole_and_a_fork_changes_nothing_below(
        left in rows(),
        right in rows(),
        other in rows(),
        sql in query(),
        mut cuts in proptest::collection::btree_set(1..=LAST, 0..6),
        fork in 0..=LAST,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let context_now = context(&left, &right);
            let grows = incremental(&context_now, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let at_once = lines(&context_now, grows.at(range(0, LAST), 0).expect("a plan")).await;
            // The query itself, which knows nothing of ranges.
            let plan = session::planned(&context_now.state(), session::parsed(&sql).expect("SQL")).await.expect("a plan");
            let itself = lines(&context_now, plan).await;
            let without_block = lines(&context_now, grows.query_at(range(0, LAST), 0).expect("a plan")).await;
            assert_eq!(without_block, itself, "{sql}");
            // The same in ranges.
            cuts.insert(0);
            let starts: Vec<_> = cuts.iter().copied().collect();
            let mut together = vec![];
            for (at, start) in starts.iter().enumerate() {
                let last = starts.get(at + 1).map_or(LAST, |next| next - 1);
                together.extend(lines(&context_now, grows.at(range(*start, last), 0).expect("a plan")).await);
            }
            together.sort();
            assert_eq!(together, at_once, "{sql} cut at {starts:?}");
            // The same chain up to the fork, another above.
            let forked = |rows: &Rows| -> Rows {
                let kept = rows.iter().copied().filter(|row| row.0 <= fork);
                kept.chain(other.iter().copied().filter(|row| row.0 > fork)).collect()
            };
            let context_then = context(&forked(&left), &forked(&right));
            let grows_then = incremental(&context_then, &sql).await.expect("the same query");
            let now = lines(&context_now, grows.at(range(0, fork), 0).expect("a plan")).await;
            let then = lines(&context_then, grows_then.at(range(0, fork), 0).expect("a plan")).await;
            assert_eq!(now, then, "{sql} below {fork}");
        });
    }
}

#[tokio::test]
async fn what_cannot_grow_is_refused_by_name_and_line() {
    let context = context(&vec![], &vec![]);
    for (sql, says) in [
        ("SELECT k\nFROM d.l\nORDER BY k", "line 3: ORDER BY"),
        ("SELECT k FROM d.l\nLIMIT 5", "line 2: LIMIT"),
        ("SELECT a.k FROM d.l AS a\nLEFT JOIN d.r AS b ON a.k = b.k", "line 2: LEFT JOIN"),
        ("SELECT a.k FROM d.l AS a\nCROSS JOIN d.r AS b", "line 2: a join without an equality"),
        ("SELECT k, count(*) AS n\nFROM d.l\nGROUP BY k", "line 3: GROUP BY"),
        ("SELECT count(*) AS n FROM d.l", "line 1: GROUP BY"),
        ("SELECT DISTINCT k FROM d.l", "GROUP BY or DISTINCT"),
        ("SELECT k, row_number()\n OVER (ORDER BY k) AS n FROM d.l", "line 2: a window function"),
        ("SELECT k FROM d.l WHERE k NOT IN (SELECT k FROM d.r)", "NOT IN"),
        ("SELECT k, now() AS t FROM d.l", "`now`"),
        ("SELECT k, (SELECT max(k) FROM d.r) AS m FROM d.l", "a subquery"),
        ("SELECT v AS n, k + 1 AS \"block_num\", random() AS r FROM d.l", "`random`"),
        ("SELECT value FROM generate_series(1, 3)", "which has no blocks"),
        ("SELECT a.k FROM d.l AS a JOIN d.r AS b ON a.k < b.k", "a join without an equality"),
        ("SELECT k FROM d.l WHERE k = $1", "the parameter `$1`"),
        // Which may be null.
        (
            "SELECT b, count(*) AS n FROM (SELECT min(block_num) FILTER (WHERE k > 1) AS b, k FROM d.l \
             GROUP BY block_num, k) AS a GROUP BY b",
            "GROUP BY",
        ),
    ] {
        let error = incremental(&context, sql).await.expect_err(sql).to_string();
        assert!(error.contains(says), "{sql}: {error}");
        assert!(error.contains("block by block: "), "{sql}: {error}");
    }
}

#[tokio::test]
async fn the_block_comes_first_and_only_once() {
    let context = context(&vec![(3, 1, None), (1, 2, None)], &vec![]);
    let all = incremental(&context, "SELECT * FROM d.l").await.expect("it grows");
    let names: Vec<_> = all.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["_block_num", "block_num", "k", "v"]);
    let none = incremental(&context, "SELECT k FROM d.l").await.expect("it grows");
    let names: Vec<_> = none.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["_block_num", "k"]);
    let plan = none.at(range(2, 3), 0).expect("a plan");
    assert_eq!(lines(&context, plan).await.len(), 1);
}

/// Rows that belong to no block are of the first one, wherever a dataset begins.
#[tokio::test]
async fn values_are_rows_of_the_first_block() {
    let context = context(&vec![(5, 1, None), (6, 1, None), (7, 1, None)], &vec![]);
    let sql = "SELECT a.k, t.n FROM d.l AS a JOIN (VALUES (1, 'x')) AS t(k, n) ON a.k = t.k";
    let joined = incremental(&context, sql).await.expect("it grows");
    let alone = incremental(&context, "SELECT * FROM (VALUES (1, 'x')) AS t(k, n)").await.expect("it grows");
    for (first, last, rows, values) in [(5, 5, 1, 1), (6, 7, 2, 0), (5, 7, 3, 1)] {
        let plan = joined.at(range(first, last), 5).expect("a plan");
        assert_eq!(lines(&context, plan).await.len(), rows, "{first} to {last}");
        let found = lines(&context, alone.at(range(first, last), 5).expect("a plan")).await;
        assert_eq!(found.len(), values, "{first} to {last}");
        assert!(found.iter().all(|line| line.starts_with("| 5 ")), "{found:?}");
    }
}

//! Random queries over random blocks: whatever the cuts, the ranges together are what the query gives at once, and
//! what lies below a fork does not depend on what lies above it.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, FixedSizeBinaryArray, Int64Array, RecordBatch, UInt64Array},
    datatypes::{DataType, Field, Int64Type, Schema},
    util::pretty::pretty_format_batches,
};
use datafusion::{
    catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider},
    datasource::MemTable,
    execution::SessionStateBuilder,
};
use proptest::prelude::*;

use super::*;
use crate::{
    catalog::CATALOG,
    derive::{self, KnownTable, TableQuery},
    session,
};

const LAST: BlockNum = 23;

/// The rows of one table: block, key, and another number.
type Rows = Vec<(u64, i64, Option<i64>)>;

/// Those of a raw table whose rows are sorted by `v` within a block.
fn block_columns() -> BlockColumns {
    let numbers = [BLOCK_NUM, "block_num"].map(str::to_owned).into();
    BlockColumns { numbers, hash: Some("hash"), order: Some("v") }
}

/// A context with the tables `d.l` and `d.r`.
fn context(left: &Rows, right: &Rows) -> SessionContext {
    let field = |name: &str, ty, nullable| Field::new(name, ty, nullable);
    let schema = Arc::new(Schema::new(vec![
        field(BLOCK_NUM, DataType::UInt64, false),
        field("block_num", DataType::UInt64, false),
        field("hash", DataType::FixedSizeBinary(8), false),
        field("k", DataType::Int64, false),
        field("v", DataType::Int64, true),
    ]));
    let tables = MemorySchemaProvider::new();
    for (name, rows) in [("l", left), ("r", right)] {
        let mut rows = rows.clone();
        rows.sort_by_key(|row| row.0);
        let blocks = || Arc::new(rows.iter().map(|row| row.0).collect::<UInt64Array>()) as ArrayRef;
        let hashes = FixedSizeBinaryArray::try_from_iter(rows.iter().map(|row| row.0.to_be_bytes()));
        // Of no rows nothing tells the size.
        let hashes = Arc::new(hashes.unwrap_or_else(|_| FixedSizeBinaryArray::new_null(8, 0)));
        let keys = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
        let values = Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>());
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![blocks(), blocks(), hashes, keys, values]);
        let kept =
            MemTable::try_new(Arc::clone(&schema), vec![vec![batch.expect("a batch")]]).expect("a table");
        let declared = Declared {
            schema: Arc::clone(&schema),
            block_columns: block_columns(),
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
    derive::collect_spans(context);
    let plan = session::planned(&context.state(), session::parsed(sql)?).await?;
    Incremental::new(plan, context).map_err(|failure| failure.in_sql(sql))
}

fn range(first: BlockNum, last: BlockNum) -> BlockRange {
    BlockRange::new(first, last).expect("a range")
}

/// A number as a node would give it in a log, decoded.
fn decoded(column: &str) -> String {
    let topic = format!("evm_encode_hex('0x' || lpad(to_hex({column}), 64, '0'))");
    format!("CAST(evm_decode_log({topic}, NULL, NULL, x'', 'E(uint64 indexed n)')['n'] AS BIGINT)")
}

/// Something to select from, with the columns of the block, k and v.
fn source() -> impl Strategy<Value = String> {
    const ALL: &str = "_block_num, block_num, hash, k, v";
    let table = prop_oneof![Just("d.l".to_owned()), Just("d.r".to_owned())];
    let leaf = table.prop_map(|table| format!("SELECT {ALL} FROM {table}"));
    leaf.prop_recursive(2, 6, 2, |inner| {
        let on = prop_oneof![Just("a.block_num = b._block_num"), Just("a.hash = b.hash")];
        prop_oneof![
            (inner.clone(), 0..4_i64).prop_map(|(a, n)| format!("SELECT * FROM ({a}) AS f WHERE k <> {n} OR v IS NULL")),
            inner.clone().prop_map(|a| format!("SELECT _block_num, block_num, hash, v AS k, {} AS v FROM ({a}) AS p", decoded("k"))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) UNION ALL ({b})")),
            (inner.clone(), inner.clone(), on).prop_map(|(a, b, on)| format!(
                "SELECT a._block_num, b.block_num, b.hash, a.k, b.v FROM ({a}) AS a JOIN ({b}) AS b ON {on} AND a.k = b.v"
            )),
            inner.clone().prop_map(|a| format!(
                "SELECT _block_num, block_num, hash, k, count(*) AS v FROM ({a}) AS g GROUP BY _block_num, block_num, hash, k"
            )),
            inner.prop_map(|a| format!(
                "SELECT DISTINCT ON (block_num, k) {ALL} FROM ({a}) AS o ORDER BY block_num, k, v, _block_num"
            )),
        ]
    })
}

/// Something to select k and v from, whose blocks no column tells.
fn loose() -> impl Strategy<Value = String> {
    let leaf = source().prop_map(|a| format!("SELECT k, v FROM ({a}) AS s"));
    leaf.prop_recursive(1, 3, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) UNION ALL ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!(
                "SELECT a.k, b.v FROM ({a}) AS a JOIN ({b}) AS b ON a.k = b.k AND a.v = b.v"
            )),
            (inner.clone(), inner).prop_map(|(a, b)| format!(
                "SELECT k, v FROM ({a}) AS a WHERE k IN (SELECT v FROM ({b}) AS b)"
            )),
        ]
    })
}

/// A query, maybe with a join at its top, or two.
fn query() -> impl Strategy<Value = String> {
    prop_oneof![
        loose().prop_map(|a| format!("SELECT k, v FROM ({a}) AS a")),
        (source(), loose()).prop_map(|(a, b)| format!(
            "SELECT a.k, a.v, b.v AS w FROM ({a}) AS a JOIN ({b}) AS b ON a.k = b.k"
        )),
        (source(), source()).prop_map(|(a, b)| format!(
            "SELECT a.k, a.v, b.v AS w FROM ({a}) AS a JOIN ({b}) AS b ON a.block_num = b.block_num AND a.v < b.v"
        )),
        (source(), source()).prop_map(|(a, b)| format!(
            "SELECT a.k, a.v, b.v AS w FROM ({a}) AS a JOIN ({b}) AS b ON a.hash = b.hash"
        )),
        (loose(), source()).prop_map(|(a, b)| format!("SELECT k, v FROM ({a}) AS a WHERE k IN (SELECT k FROM ({b}) AS b)")),
        (source(), source()).prop_map(|(a, b)| format!(
            "SELECT k, v FROM ({a}) AS a WHERE EXISTS (SELECT 1 FROM ({b}) AS b WHERE b.block_num = a.block_num AND b.v <> a.v)"
        )),
        (source(), source()).prop_map(|(a, b)| format!(
            "SELECT x.k, x.w, c.v AS u FROM (SELECT a.k, b.v AS w FROM ({a}) AS a JOIN ({b}) AS b ON a.k = b.k) AS x \
             JOIN d.r AS c ON x.w = c.k WHERE x.k IN (SELECT k FROM d.l)"
        )),
        loose().prop_map(|a| format!("SELECT a.k, t.n FROM ({a}) AS a JOIN (VALUES (0, 'x'), (1, 'y')) AS t(k, n) ON a.k = t.k")),
        loose().prop_map(|a| format!("SELECT k, unnest(make_array(v, k)) AS u FROM ({a}) AS a")),
    ]
}

fn rows() -> impl Strategy<Value = Rows> {
    let row = (0..=LAST, 0..5_i64, proptest::option::of(0..5_i64));
    proptest::collection::vec(row, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn ranges_together_are_the_whole_and_a_fork_changes_nothing_below(
        left in rows(),
        right in rows(),
        other in rows(),
        sql in query(),
        start in 0..6_u64,
        cuts in proptest::collection::btree_set(1..=LAST, 0..6),
        fork in 0..=LAST,
    ) {
        // There is nothing below the first block of all.
        let of_dataset = |rows: Rows| -> Rows { rows.into_iter().filter(|row| row.0 >= start).collect() };
        let [left, right, other] = [left, right, other].map(of_dataset);
        let mut cuts: std::collections::BTreeSet<_> = cuts.into_iter().filter(|cut| *cut > start).collect();
        let fork = fork.max(start);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let context_now = context(&left, &right);
            let grows = incremental(&context_now, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let at_once = lines(&context_now, grows.at(range(start, LAST), start).expect("a plan")).await;
            // The query itself, which knows nothing of ranges.
            let plan = session::planned(&context_now.state(), session::parsed(&sql).expect("SQL")).await.expect("a plan");
            let itself = lines(&context_now, plan).await;
            let without_block = lines(&context_now, grows.query_at(range(start, LAST), start).expect("a plan")).await;
            assert_eq!(without_block, itself, "{sql}");
            // The same in ranges.
            cuts.insert(start);
            let starts: Vec<_> = cuts.iter().copied().collect();
            let mut together = vec![];
            for (at, first) in starts.iter().enumerate() {
                let last = starts.get(at + 1).map_or(LAST, |next| next - 1);
                together.extend(lines(&context_now, grows.at(range(*first, last), start).expect("a plan")).await);
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
            let now = lines(&context_now, grows.at(range(start, fork), start).expect("a plan")).await;
            let then = lines(&context_then, grows_then.at(range(start, fork), start).expect("a plan")).await;
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
        ("SELECT count(*) AS n FROM d.l", "line 1: an aggregate without GROUP BY"),
        ("SELECT 1 AS x\nFROM (\nSELECT sum(k) AS n FROM d.l\n) AS a", "line 3: an aggregate without"),
        ("SELECT DISTINCT k FROM d.l", "line 1: GROUP BY or DISTINCT"),
        ("SELECT k, row_number()\n OVER (ORDER BY k) AS n FROM d.l", "line 2: a window function"),
        ("SELECT k FROM d.l\nWHERE k NOT IN (SELECT k FROM d.r)", "line 2: NOT IN"),
        ("SELECT k,\nnow() AS t FROM d.l", "line 2: `now`"),
        ("SELECT k, (\nSELECT max(k) FROM d.r) AS m FROM d.l", "line 2: a subquery"),
        ("SELECT v AS n, k + 1 AS \"block_num\", random() AS r FROM d.l", "line 1: `random`"),
        ("SELECT value FROM generate_series(1, 3)", "line 1: the table"),
        ("SELECT a.k FROM d.l AS a\nJOIN d.r AS b ON a.k < b.k", "line 2: a join without an equality"),
        ("SELECT k FROM d.l\nWHERE k = $1", "line 2: the parameter `$1`"),
        // What looks like it and is not.
        ("-- ORDER BY\nSELECT 'order' AS a, \"v\" AS \"order\"\nFROM d.l ORDER BY k", "line 3: ORDER BY"),
        // The word is there twice; the columns tell which it is.
        (
            "SELECT block_num, count(*) AS n FROM d.l GROUP BY block_num\nUNION ALL\nSELECT k, count(*) FROM d.r\nGROUP BY k",
            "line 4: GROUP BY",
        ),
        // Nothing tells which it is.
        ("SELECT now() AS a,\nnow() AS b FROM d.l", "planned: `now`"),
        ("SELECT k FROM d.l\nEXCEPT SELECT k FROM d.r", "line 2: EXCEPT"),
        ("SELECT k FROM d.l\nINTERSECT SELECT k FROM d.r", "line 2: INTERSECT"),
        ("SELECT k FROM d.l\nUNION ALL SELECT v FROM d.l\nUNION SELECT k FROM d.r", "line 3: UNION"),
        ("SELECT k FROM d.l\nWHERE k IN (SELECT k FROM d.r) OR v = 1", "line 2: IN or EXISTS within OR"),
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
async fn what_sets_have_in_common_grows_where_the_block_comes_first() {
    let context = context(&vec![(1, 1, None), (1, 1, None), (3, 2, None)], &vec![(1, 1, None), (3, 1, None)]);
    for (sql, rows) in [
        ("SELECT block_num, k FROM d.l INTERSECT SELECT block_num, k FROM d.r", 1),
        ("SELECT block_num, k FROM d.l UNION SELECT block_num, k FROM d.r", 3),
    ] {
        let grows = incremental(&context, sql).await.expect(sql);
        let found = lines(&context, grows.at(range(0, LAST), 0).expect("a plan")).await;
        assert_eq!(found.len(), rows, "{sql}: {found:?}");
    }
}

/// What is of other blocks is not read where the block, or its hash, is a key.
#[tokio::test]
async fn a_join_by_block_reads_its_blocks_alone() {
    let context = context(&vec![], &vec![]);
    for (on, is_by_block) in [
        ("a.block_num = b._block_num", true),
        ("a.hash = b.hash", true),
        ("a.k = b.k", false),
        ("a.hash = b.k", false),
    ] {
        for sql in [
            format!("SELECT a.k FROM d.l AS a JOIN (SELECT * FROM d.r WHERE v > 1) AS b ON {on}"),
            format!("SELECT a.k FROM d.l AS a WHERE EXISTS (SELECT 1 FROM d.r AS b WHERE {on})"),
        ] {
            let sql = sql.replace("a.hash = b.k", "a.hash = arrow_cast(b.k, 'Binary')");
            let Ok(grows) = incremental(&context, &sql).await else {
                assert!(!is_by_block, "{sql}");
                continue;
            };
            let plan = grows.at(range(7, 7), 3).expect("a plan").display_indent().to_string();
            assert_eq!(!plan.contains("UInt64(3)"), is_by_block, "{sql}: {plan}");
        }
    }
}

/// Also where the answer does not have the column that they are sorted by.
#[tokio::test]
async fn rows_of_one_block_keep_their_order() {
    let left = vec![(3, 1, Some(2)), (3, 2, Some(0)), (3, 3, Some(1)), (1, 4, Some(9))];
    let context = context(&left, &vec![(3, 1, Some(7)), (1, 4, Some(7))]);
    for (sql, expected) in [
        ("SELECT k FROM d.l", vec![4, 2, 3, 1]),
        ("SELECT a.k FROM (SELECT k, v + 1 AS w FROM d.l) AS a WHERE a.w < 10", vec![2, 3, 1]),
        ("SELECT a.k FROM d.l AS a JOIN d.r AS b ON a.block_num = b.block_num", vec![4, 2, 3, 1]),
        ("SELECT a.k FROM d.l AS a WHERE v IN (SELECT v FROM d.l)", vec![4, 2, 3, 1]),
    ] {
        let grows = incremental(&context, sql).await.expect(sql);
        let plan = grows.query_at(range(0, LAST), 0).expect("a plan");
        let batches =
            context.execute_logical_plan(plan).await.expect("a plan").collect().await.expect("rows");
        let column = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
        let found: Vec<i64> = batches.iter().flat_map(column).collect();
        assert_eq!(found, expected, "{sql}");
    }
}

/// A column that was the block's number stays one, through any number of tables.
#[tokio::test]
async fn the_number_of_a_block_stays_one_from_table_to_table() {
    let fields = ["block_num", "k"].map(|name| Field::new(name, DataType::UInt64, false));
    let columns = std::iter::once(Field::new(BLOCK_NUM, DataType::UInt64, false)).chain(fields);
    let known = KnownTable {
        schema: Arc::new(Schema::new(columns.collect::<Vec<_>>())),
        block_columns: block_columns(),
    };
    let known = BTreeMap::from([("d".to_owned(), BTreeMap::from([("l".to_owned(), known)]))]);
    let query =
        |(table, sql): (&str, &str)| TableQuery { table: table.parse().expect("a name"), sql: sql.into() };
    let queries = [
        ("own", "SELECT block_num AS b, block_num + 1 AS c, k FROM d.l"),
        ("counts", "SELECT b, count(*) AS n, max(b) AS m FROM self.own GROUP BY b"),
    ];
    let planned = derive::declared(&known, &queries.map(query)).await.expect("they grow");
    assert_eq!(planned[0].block_columns(), ["b"]);
    assert_eq!(planned[1].block_columns(), ["b", "m"]);
    let wrong = ("counts", "SELECT c,\ncount(*) AS n FROM self.own\nGROUP BY c");
    let error = derive::declared(&known, &[queries[0], wrong].map(query)).await.expect_err("it is refused");
    let error = error.to_string();
    assert!(error.contains("the table `counts`: line 3: GROUP BY"), "{error}");
    let unknown = ("own", "SELECT k,\nz FROM d.l");
    let error = derive::declared(&known, &[unknown].map(query)).await.expect_err("it is refused").to_string();
    assert!(error.contains("the table `own`: line 2: ") && error.contains('z'), "{error}");
}

#[tokio::test]
async fn the_block_comes_first_and_only_once() {
    let context = context(&vec![(3, 1, None), (1, 2, None)], &vec![]);
    let all = incremental(&context, "SELECT * FROM d.l").await.expect("it grows");
    let names: Vec<_> = all.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["_block_num", "block_num", "hash", "k", "v"]);
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

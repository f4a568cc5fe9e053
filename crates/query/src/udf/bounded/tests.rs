use datafusion::execution::{SessionStateBuilder, runtime_env::RuntimeEnvBuilder};

use crate::{session::context, udf::tests::answer};

/// Each level has the one below it twice.
fn doubled(levels: usize, of: &str, twice: &str) -> String {
    let each = (1..=levels).map(|at| format!(", q{at} AS (SELECT {twice} AS x FROM q{})", at - 1));
    format!("WITH q0 AS (SELECT {of} AS x){} SELECT count(x) FROM q{levels}", each.collect::<String>())
}

#[tokio::test]
async fn what_grows_without_end_is_refused_before_it_is_made() {
    let large = "repeat('x', 1000000)";
    let mega = "repeat('a', 1000000)";
    let texts = |count: usize| vec![large; count].join(", ");
    let columns: Vec<_> = (0..20).map(|more| format!("repeat('x', {})", 1_000_000 + more)).collect();
    let cases = [
        ("repeat('x', 2000000000)".to_owned(), "make 2000000000 bytes"),
        ("lpad('x', 2000000000)".into(), "make 8000000000 bytes"),
        (format!("array_repeat({large}, 30000000)"), "`array_repeat` would make"),
        ("array_repeat(array_repeat('x', 100000), 100000)".into(), "`array_repeat` would make"),
        ("array_repeat(NULL, 100000000)".into(), "`array_repeat` would make"),
        (format!("array_resize([{mega}], 1000000, {mega})"), "`array_resize` would make"),
        ("range(0, 9000000000)".into(), "make 72000000008 bytes"),
        (
            "generate_series(TIMESTAMP '2020-01-01', TIMESTAMP '2021-01-01', INTERVAL '1 nanosecond')".into(),
            "`generate_series` would make",
        ),
        (
            "generate_series(TIMESTAMP '2020-01-01', TIMESTAMP '2021-01-01', INTERVAL '1 day -24 hours')"
                .into(),
            "`generate_series` would make",
        ),
        (
            "range(DATE '2020-01-01', DATE '2020-01-02', INTERVAL '1 month -30 days')".into(),
            "`range` would make",
        ),
        (format!("replace({mega}, 'a', {mega})"), "`replace` would make"),
        (format!("replace({mega}, '', {mega})"), "`replace` would make"),
        (format!("regexp_replace(repeat('a', 90000), 'a', {mega}, 'g')"), "`regexp_replace` would make"),
        (format!("regexp_replace({mega}, 'a+', repeat('$0', 1000))"), "`regexp_replace` would make"),
        (format!("concat({})", texts(12)), "constants of a query"),
        (format!("concat({}, {mega})", ["x"; 300].join(", ")), "`concat` would make"),
        (format!("concat_ws({mega}, {})", ["'x'"; 300].join(", ")), "constants of a query"),
        (format!("array_to_string(array_repeat('x', 100000), {mega})"), "`array_to_string` would make"),
        (format!("cardinality([{}])", texts(12)), "constants of a query"),
        (
            format!("array_replace_all(array_repeat('a', 100000), 'a', {mega})"),
            "`array_replace_all` would make",
        ),
        ("to_char(now(), repeat('%c', 1500000))".to_owned() + ", 1", "constants of a query"),
        (columns.join(", "), "constants of a query"),
        (format!("levenshtein({large}, {large})"), "take 1000000000000 steps"),
        (format!("btrim({large}, concat('ab', {large}))"), "`btrim` would take"),
        (
            "array_has_any(range(0, value), range(value, 200000)) FROM generate_series(100000, 100000)"
                .into(),
            "take 10000000000 steps",
        ),
        ("[range(0, 100000)] @> [range(0, 100000)]".into(), "take 10000000000 steps"),
    ];
    for (expression, words) in cases {
        // A column, and no constant.
        let from = match expression.contains("(x,") {
            true => " FROM (SELECT repeat('x', value) AS x FROM generate_series(4000000, 4000000))",
            false => "",
        };
        let found = answer(&format!("SELECT {expression}{from}")).await;
        assert!(found.starts_with("error: ") && found.contains(words), "{expression:.80}: {found:.200}");
    }
    for (of, twice) in [
        (mega, "x || x"),
        (mega, "concat(x, x)"),
        ("repeat('a', 3000000)", "encode(x, 'hex')"),
        ("X'00'", "CAST(evm_decode_hex(x) AS bytea)"),
        ("make_array(1)", "array_concat(x, x)"),
        ("make_array(1)", "x || x"),
        (mega, "array_to_string([x, x], '')"),
    ] {
        let found = answer(&doubled(40, of, twice)).await;
        let is_refused = found.contains("would make") || found.contains("constants of a query");
        assert!(is_refused, "{twice}: {found:.200}");
    }
}

#[tokio::test]
async fn what_is_small_is_what_the_engine_makes() {
    let series = "generate_series(TIMESTAMP '2020-01-01', TIMESTAMP '2020-12-31', INTERVAL '1 month')";
    for (expression, expected) in [
        ("repeat('ab', 3)", "ababab"),
        ("'a' || 'b' || 1", "ab1"),
        ("NULL || 'a'", "null"),
        ("X'01' || X'02'", "0102"),
        ("[1] || [2] || 3", "[1, 2, 3]"),
        ("concat('a', NULL, 'b')", "ab"),
        ("concat_ws('-', 'a', NULL, 'b')", "a-b"),
        ("replace('aXbX', 'X', 'yy')", "ayybyy"),
        ("regexp_replace('aXbX', '(X)', '<$1>', 'g')", "a<X>b<X>"),
        ("array_repeat([1], 2)", "[[1], [1]]"),
        ("array_resize([1], 3, 7)", "[1, 7, 7]"),
        ("range(3, 9, 2)", "[3, 5, 7]"),
        ("range(9, 3)", "[]"),
        (&format!("cardinality({series})"), "12"),
        ("levenshtein('kitten', 'sitting')", "3"),
        ("trim(BOTH 'x' FROM 'xax')", "a"),
        ("position('b' IN 'abc')", "2"),
        ("overlay('Txxxxas' PLACING 'hom' FROM 2 FOR 4)", "Thomas"),
        ("array_to_string([1, NULL, 2], '-', 'x')", "1-x-2"),
        ("MAP {'a': 1}['a']", "1"),
        ("[1, 2] @> [2]", "true"),
        ("encode('a', 'hex')", "61"),
        ("to_char(TIMESTAMP '2020-01-02', '%Y')", "2020"),
        // More could be made of these than may be, and is not.
        (
            "sum(length(regexp_replace(repeat('a', 1000) || value, '1', repeat('y', 100), 'g'))) \
             FROM generate_series(1, 8000)",
            "8367493",
        ),
    ] {
        assert_eq!(answer(&format!("SELECT {expression}")).await, expected, "{expression}");
    }
    let context = context(SessionStateBuilder::new());
    let plan = context.sql("SELECT a || 'b' || c FROM (VALUES ('a', 1)) AS t(a, c)").await.expect("a plan");
    assert_eq!(plan.schema().field(0).name(), "t.a || Utf8(\"b\") || t.c");
}

#[tokio::test]
async fn a_series_with_a_null_is_none() {
    for (select, expected) in [
        (
            "count(n) FROM (SELECT unnest(generate_series(lag(b) OVER (ORDER BY b) + 1, b - 1)) AS n \
             FROM (VALUES (20000000000), (20000000003)) AS t(b))",
            "2",
        ),
        (
            "sum(cardinality(generate_series(a, TIMESTAMP '2020-01-01', INTERVAL '1 second'))) \
             FROM (VALUES (CAST(NULL AS TIMESTAMP)), (TIMESTAMP '2020-01-01')) AS t(a)",
            "1",
        ),
        ("range(NULL, 9000000000)", "null"),
        // A long one is made, too.
        ("cardinality(generate_series(1, value)) FROM generate_series(9000000, 9000000)", "9000000"),
    ] {
        assert_eq!(answer(&format!("SELECT {select}")).await, expected, "{select}");
    }
}

#[tokio::test]
async fn one_value_for_all_rows_is_made_once_a_batch_and_is_no_constant() {
    let all = "FROM generate_series(1, 500000)";
    let once = "(SELECT max(repeat(chr(CAST(value AS INT)), 300000)) FROM generate_series(65, 66))";
    for (value, bytes) in [
        (format!("concat({once}, 'y')"), 300_001_u64),
        (format!("{once} || 'y'"), 300_001),
        (format!("evm_decode_hex(CAST({once} AS bytea))"), 600_002),
    ] {
        let found = answer(&format!("SELECT sum(octet_length({value})) {all}")).await;
        assert_eq!(found, (bytes * 500_000).to_string(), "{value}");
    }
}

#[tokio::test]
async fn a_list_for_all_rows_is_looked_up() {
    let found = answer(
        "SELECT array_has_any(range(0, value), range(70000, 170000)) FROM generate_series(60000, 60000)",
    );
    assert_eq!(found.await, "false");
}

#[tokio::test]
async fn much_is_made_of_large_values_where_there_is_memory_for_it() {
    let sql = "SELECT sum(octet_length(concat(value, repeat('x', 100000)))) FROM generate_series(1, 3000)";
    assert_eq!(answer(sql).await, "300010893");
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(100 << 20, 1.0).build_arc().expect("a runtime");
    let context = context(SessionStateBuilder::new().with_runtime_env(runtime));
    let error = context.sql(sql).await.expect("a plan").collect().await.expect_err("too much").to_string();
    assert!(error.contains("`concat`") && error.contains("allocate"), "{error}");
}

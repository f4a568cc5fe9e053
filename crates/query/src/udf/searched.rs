//! Searches with regular expressions. The engine keeps each pattern that it has compiled to the end of a batch, and one
//! can have megabytes, so that rows with a pattern of their own are searched for each after the others. Where all
//! matches of a text are looked for, each can take a look at all the rest of it, and nothing stops that.

use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, UInt32Array},
    compute::{cast, concat, take},
    datatypes::DataType,
};
use datafusion::{
    common::{DFSchema, ScalarValue, config::ConfigOptions, exec_err, tree_node::Transformed},
    error::{DataFusionError, Result},
    execution::FunctionRegistry as _,
    logical_expr::{
        BinaryExpr, ColumnarValue, Expr, Like, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, Volatility, binary::BinaryTypeCoercer, expr::ScalarFunction,
        expr_rewriter::FunctionRewrite,
    },
    prelude::SessionContext,
};

use super::{
    joined::operated,
    sizes::{Each, bytes, column},
    wrapped::{Around, wrap, wrapped},
};

/// The length of a text of which all matches may be looked for, in bytes: with a step for each pair of letters it takes
/// some ten seconds.
const MOST_SEARCHED: i128 = 96 << 10;

const MOST_STEPS: i128 = MOST_SEARCHED * MOST_SEARCHED;

/// How long the rows of a batch may be searched in parts.
const LONGEST: Duration = Duration::from_secs(10);

/// What is searched for where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Finds {
    /// Whether there is a match, or the first.
    First,
    /// All matches.
    All,
    /// That with the number of an argument.
    Numbered,
    /// All where the flags say so.
    Flagged,
}

/// A function, with what it finds and at which argument its flags are.
const FUNCTIONS: [(&str, Finds, usize); 5] = [
    ("regexp_like", Finds::First, 2),
    ("regexp_match", Finds::First, 2),
    ("regexp_replace", Finds::Flagged, 3),
    ("regexp_count", Finds::All, 3),
    ("regexp_instr", Finds::Numbered, 4),
];

/// Puts such searches in the place of the engine's functions and operators.
pub(super) fn register(context: &SessionContext) {
    for (name, finds, flags) in FUNCTIONS {
        wrap(context, name, Searched { finds, flags });
    }
    let registered = context.state_ref().write().register_function_rewrite(Arc::new(OfColumns));
    registered.expect("every session takes it");
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Searched {
    finds: Finds,
    flags: usize,
}

impl Around for Searched {
    /// The engine would put its operators in the place of functions.
    fn is_simplified(&self, args: &[Expr]) -> bool {
        !args.get(1).is_some_and(is_of_rows)
    }

    fn call(&self, engine: &ScalarUDF, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let steps = self.steps(engine.name(), &args.args)?;
        let is_of_rows = |at: usize| matches!(args.args.get(at), Some(ColumnarValue::Array(_)));
        let is_one_pattern = !is_of_rows(1) && !is_of_rows(self.flags);
        let all = args.number_rows;
        if is_one_pattern && (0..all).map(|row| steps.at(row)).sum::<i128>() <= MOST_STEPS {
            return engine.invoke_with_args(args);
        }
        let patterns = if is_one_pattern { vec![rows(0..all)] } else { self.patterns(&args)? };
        let began = Instant::now();
        let (mut parts, mut order, mut count) = (vec![], vec![0; all], 0);
        for rows in patterns.iter().flat_map(|rows| divided(rows, &steps)) {
            if began.elapsed() > LONGEST {
                return exec_err!(
                    "`{}` took longer than {} seconds for a batch of rows: ask for fewer rows, for parts of long \
                     texts, or for simpler patterns",
                    engine.name(),
                    LONGEST.as_secs()
                );
            }
            for row in rows {
                order[*row as usize] = count;
                count += 1;
            }
            parts.push(self.of_pattern(engine, &args, rows)?);
        }
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        if parts.is_empty() {
            return engine.invoke_with_args(args);
        }
        Ok(ColumnarValue::Array(take(&concat(&parts)?, &UInt32Array::from(order), None)?))
    }
}

impl Searched {
    /// The steps that each row may take where all matches of its text are looked for.
    fn steps(&self, name: &str, args: &[ColumnarValue]) -> Result<Each> {
        let is_one = |arg: &ColumnarValue| matches!(arg, ColumnarValue::Scalar(ScalarValue::Int64(Some(1))));
        let finds_all = match self.finds {
            Finds::First => false,
            Finds::All => true,
            Finds::Numbered => args.get(3).is_some_and(|number| !is_one(number)),
            Finds::Flagged => match args.get(self.flags) {
                Some(ColumnarValue::Scalar(flags)) => {
                    flags.try_as_str().flatten().is_some_and(|flags| flags.contains('g'))
                }
                flags => flags.is_some(),
            },
        };
        let Some(text) = args.first().filter(|_| finds_all) else { return Ok(Each::default()) };
        let lengths = bytes(text)?;
        match lengths.largest() {
            longest if longest > MOST_SEARCHED => exec_err!(
                "`{name}` looks for all matches in a text of {longest} bytes, and {MOST_SEARCHED} are the most: \
                 ask for parts of it"
            ),
            _ => Ok(lengths.map(|length| length * length)),
        }
    }

    /// The rows of each pattern with its flags.
    fn patterns(&self, args: &ScalarFunctionArgs) -> Result<Vec<Vec<u32>>> {
        let texts = |at: usize| match args.args.get(at) {
            Some(arg) => Ok(Some(cast(&column(arg)?, &DataType::LargeUtf8)?)),
            None => Ok::<_, DataFusionError>(None),
        };
        let (patterns, flags) = (texts(1)?, texts(self.flags)?);
        let at = |texts: &'_ Option<ArrayRef>, row: usize| -> Option<String> {
            let texts = texts.as_ref()?.as_string::<i64>();
            let row = if texts.len() == 1 { 0 } else { row };
            texts.is_valid(row).then(|| texts.value(row).to_owned())
        };
        let mut numbers = HashMap::new();
        let mut rows: Vec<Vec<u32>> = vec![];
        for row in self::rows(0..args.number_rows) {
            let key = (at(&patterns, row as usize), at(&flags, row as usize));
            let number = *numbers.entry(key).or_insert(rows.len());
            if number == rows.len() {
                rows.push(vec![]);
            }
            rows[number].push(row);
        }
        Ok(rows)
    }

    /// Searches some rows for their pattern.
    fn of_pattern(&self, engine: &ScalarUDF, args: &ScalarFunctionArgs, rows: &[u32]) -> Result<ArrayRef> {
        let (count, first) = (rows.len(), rows.first().map_or(0, |row| *row as usize));
        let rows = UInt32Array::from(rows.to_vec());
        let of_rows = |(at, arg): (usize, &ColumnarValue)| {
            Ok(match arg {
                ColumnarValue::Array(array) if (at == 1 || at == self.flags) && array.is_valid(first) => {
                    ColumnarValue::Scalar(ScalarValue::try_from_array(array, first)?)
                }
                ColumnarValue::Array(array) => ColumnarValue::Array(take(array, &rows, None)?),
                constant => constant.clone(),
            })
        };
        let of_rows = args.args.iter().enumerate().map(of_rows).collect::<Result<_>>()?;
        let args = ScalarFunctionArgs { args: of_rows, number_rows: count, ..args.clone() };
        engine.invoke_with_args(args)?.into_array(count)
    }
}

fn rows(range: Range<usize>) -> Vec<u32> {
    range.map(|row| u32::try_from(row).unwrap_or(u32::MAX)).collect()
}

/// Some rows in parts, none of which takes too long.
fn divided<'r>(mut rows: &'r [u32], steps: &Each) -> Vec<&'r [u32]> {
    let mut parts = vec![];
    while !rows.is_empty() {
        let mut sum = 0;
        let fits = |row: &&u32| {
            sum += steps.at(**row as usize);
            sum <= MOST_STEPS
        };
        let (part, rest) = rows.split_at(rows.iter().take_while(fits).count().max(1));
        parts.push(part);
        rows = rest;
    }
    parts
}

/// Whether a pattern may be another one in each row.
fn is_of_rows(pattern: &Expr) -> bool {
    pattern.any_column_refs() || pattern.contains_outer()
}

/// Operators whose patterns come from a column are functions.
#[derive(Debug)]
struct OfColumns;

impl FunctionRewrite for OfColumns {
    fn name(&self) -> &str {
        "patterns_of_columns"
    }

    fn rewrite(&self, expr: Expr, _: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        use Operator::{RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch};
        let (op, text, pattern) = match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if matches!(op, RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch)
                    && is_of_rows(&right) =>
            {
                (op, left, right)
            }
            Expr::SimilarTo(Like { negated, expr, pattern, escape_char: None, case_insensitive })
                if is_of_rows(&pattern) =>
            {
                let op = match (negated, case_insensitive) {
                    (false, false) => RegexMatch,
                    (false, true) => RegexIMatch,
                    (true, false) => RegexNotMatch,
                    (true, true) => RegexNotIMatch,
                };
                (op, expr, pattern)
            }
            other => return Ok(Transformed::no(other)),
        };
        let function =
            wrapped(ScalarUDF::from(Matches::new(op)).into(), Searched { finds: Finds::First, flags: 2 });
        let call = ScalarFunction::new_udf(function.into(), vec![*text, *pattern]);
        Ok(Transformed::yes(Expr::ScalarFunction(call)))
    }
}

/// An operator as a function.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Matches {
    op: Operator,
    name: String,
    signature: Signature,
}

impl Matches {
    fn new(op: Operator) -> Self {
        Self { op, name: op.to_string(), signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Matches {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [text, pattern] = types else { return exec_err!("`{}` is between two values", self.name) };
        let (text, pattern) = BinaryTypeCoercer::new(text, &self.op, pattern).get_input_types()?;
        Ok(vec![text, pattern])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        operated(self.op, args)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{execution::SessionStateBuilder, prelude::SessionContext};

    use crate::{
        session::context,
        udf::tests::{answer, rows_of},
    };

    const ROWS: &str = "(SELECT value AS n, CASE WHEN value % 11 = 0 THEN NULL ELSE 'Text ' || value || ' of ' || (value * 7) END AS t,
        CASE WHEN value % 13 = 0 THEN NULL WHEN value % 5 = 0 THEN '' ELSE '(T|' || (value % 17) || ')+.' END AS p,
        CASE WHEN value % 3 = 0 THEN 'i' ELSE 's' END AS f, CASE WHEN value % 2 = 0 THEN 'g' ELSE 'gi' END AS g
        FROM generate_series(1, 500))";

    #[tokio::test]
    async fn rows_with_patterns_of_their_own_are_searched_as_by_the_engine() {
        let (ours, engines) = (context(SessionStateBuilder::new()), SessionContext::new());
        for call in [
            "t ~ p",
            "t !~ p",
            "t ~* p",
            "t !~* p",
            "'T7' ~ p",
            "t SIMILAR TO p",
            "t NOT SIMILAR TO p",
            "t ~ 'T.*7'",
            "regexp_like(t, p)",
            "regexp_like(t, p, f)",
            "regexp_like(t, 'text', f)",
            "regexp_like('T7', p)",
            "regexp_match(t, p)",
            "regexp_match(t, p, f)",
            "regexp_match(t, '(t) (7)', 'i')",
            "regexp_replace(t, p, '<$1>')",
            "regexp_replace(t, p, '<$1>', 'g')",
            "regexp_replace(t, p, t, g)",
            "regexp_replace(t, 't', 'x', g)",
            "regexp_count(t, p)",
            "regexp_count(t, p, 2, f)",
            "regexp_instr(t, p)",
            "regexp_instr(t, p, 1, 2, f)",
            // In parts for their length.
            "regexp_count(CASE WHEN n < 100 THEN lpad(t, 60000) ELSE t END, 'T')",
        ] {
            let sql = format!("SELECT n, {call} AS found FROM {ROWS} ORDER BY n");
            let (ours, engines) = (rows_of(&ours, &sql).await, rows_of(&engines, &sql).await);
            assert_eq!(ours.expect(call), engines.expect(call), "{call}");
        }
        let plan = ours.sql(&format!("SELECT t ~ p FROM {ROWS} r WHERE t ~ p")).await.expect("a plan");
        assert_eq!(plan.schema().field(0).name(), "r.t ~ r.p");
        let sql = format!(
            "SELECT count(*) FROM {ROWS} a WHERE EXISTS (SELECT 1 FROM {ROWS} b WHERE b.n = a.n AND a.t ~ b.p)"
        );
        assert_eq!(rows_of(&ours, &sql).await.expect("rows"), rows_of(&engines, &sql).await.expect("rows"));
    }

    #[tokio::test]
    async fn texts_of_which_all_matches_would_take_too_long_are_refused() {
        for (call, is_refused) in [
            ("regexp_replace(repeat('a', 3000000), 'a*?b|a', 'x', 'g')", true),
            ("regexp_replace(repeat('a', 3000000), 'a*?b|a', 'x', 'gi')", true),
            ("regexp_count(repeat('a', 3000000), 'a*?b|a')", true),
            ("regexp_instr(repeat('a', 3000000), 'a*?b|a', 1, 2000000)", true),
            ("length(regexp_replace(repeat('a', 3000000), 'a', 'xx'))", false),
            ("regexp_instr(repeat('a', 3000000), 'a')", false),
            ("repeat('a', 3000000) ~ 'b'", false),
            ("length(regexp_replace(repeat('a', 90000), 'a', 'xx', 'g'))", false),
            ("sum(regexp_count(lpad('a', value), 'a')) FROM generate_series(60000, 60020)", false),
        ] {
            let found = answer(&format!("SELECT {call}")).await;
            assert_eq!(found.contains("ask for parts of it"), is_refused, "{call}: {found:.200}");
        }
    }
}

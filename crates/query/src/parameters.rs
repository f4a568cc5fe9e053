//! The parameters of a statement: `$1`, `$2` and so on, or `?` for each in turn, as JDBC and ADBC write them.

use arrow::array::RecordBatch;
use datafusion::{
    common::{ParamValues, ScalarValue},
    logical_expr::LogicalPlan,
    sql::sqlparser::tokenizer::{Token, TokenWithSpan},
};

use crate::{error::QueryError, literals};

/// Puts numbers in the place of `?`, in their order.
pub(crate) fn numbered(tokens: &mut [TokenWithSpan]) -> Result<(), QueryError> {
    let refuse = |why: String| Err(QueryError::Plan(why));
    let (mut marks, mut numbers) = (0_usize, 0_usize);
    for token in tokens {
        let Token::Placeholder(name) = &mut token.token else { continue };
        if name == "?" {
            marks += 1;
            *name = format!("${marks}");
        } else if name
            .strip_prefix('$')
            .and_then(|number| number.parse::<u16>().ok())
            .is_some_and(|at| at > 0)
        {
            numbers += 1;
        } else {
            return refuse(format!("`{name}` is no parameter: write `$1`, `$2` and so on, or `?` for each"));
        }
        if marks > 0 && numbers > 0 {
            return refuse(
                "parameters are written `$1`, `$2` and so on, or `?`, and not both in one query".into(),
            );
        }
    }
    Ok(())
}

/// The plan with values in the place of its parameters: those of the columns of one row. A `0x` text in the place of
/// bytes is taken as bytes.
pub(crate) fn bound(plan: LogicalPlan, row: &RecordBatch) -> Result<LogicalPlan, QueryError> {
    if row.num_rows() != 1 {
        let rows = row.num_rows();
        return Err(QueryError::Plan(format!("a query takes one row of parameters, not {rows}")));
    }
    let types = plan.get_parameter_types()?;
    let mut values = vec![];
    for (index, column) in row.columns().iter().enumerate() {
        let value = ScalarValue::try_from_array(column, 0)?;
        let name = format!("${}", index + 1);
        let bytes = match types.get(&name) {
            Some(Some(data_type)) => literals::as_bytes(&value, data_type, &name)?,
            _ => None,
        };
        values.push(bytes.unwrap_or(value));
    }
    Ok(plan.with_param_values(ParamValues::from(values))?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, StringArray};
    use datafusion::{
        execution::SessionStateBuilder,
        sql::sqlparser::{dialect::GenericDialect, tokenizer::Tokenizer},
    };

    use super::*;
    use crate::session;

    #[tokio::test]
    async fn texts_in_the_place_of_bytes_are_bytes() {
        let context = session::context(SessionStateBuilder::new());
        let word = "arrow_cast(X'0102', 'FixedSizeBinary(2)')";
        let table = format!("CREATE TABLE t AS SELECT {word} a, X'ff' b, 1 n, '0xff' s");
        context.sql(&table).await.expect("a table").collect().await.expect("a table");
        let ask = async |filter: &str, values: &[&str]| {
            let sql = format!("SELECT n FROM t WHERE {filter}");
            let plan = session::planned(&context.state(), session::parsed(&sql)?).await?;
            let columns = values.iter().enumerate().map(|(index, value)| {
                (format!("{index}"), Arc::new(StringArray::from(vec![*value])) as ArrayRef)
            });
            let plan = bound(plan, &RecordBatch::try_from_iter(columns).expect("a row"))?;
            let batches = context.execute_logical_plan(plan).await?.collect().await?;
            Ok::<_, QueryError>(batches.iter().map(|batch| batch.num_rows()).sum::<usize>())
        };
        for (filter, values, expected) in [
            ("a = $1", &["0x0102"][..], 1),
            ("a = ? AND b = ?", &["0x0102", "0xFF"], 1),
            ("a IN (?, ?)", &["0x0000", "0X0102"], 1),
            ("a IS NOT DISTINCT FROM ?", &["0x0102"], 1),
            ("b <> ?", &["0xff"], 0),
            ("b BETWEEN ? AND ?", &["0xf0", "0xff"], 1),
            ("CASE b WHEN ? THEN true END", &["0xff"], 1),
            ("s = ? AND '?' <> s", &["0xff"], 1),
        ] {
            assert_eq!(ask(filter, values).await.expect(filter), expected, "{filter}");
        }
        for (filter, value, why) in [
            ("a = ?", "0x01", "`0x01` has 1 bytes, but $1 has 2"),
            ("a = ?", "0x010", "two digits make a byte"),
            ("b = ?", "0xgg", "two digits make a byte"),
            ("a = ?", "12", "Cannot infer common argument type"),
        ] {
            let error = ask(filter, &[value]).await.expect_err(filter).to_string();
            assert!(error.contains(why), "{filter}: {error}");
        }
        // Bytes are what they are.
        let plan = session::parsed("SELECT n FROM t WHERE b = ?").expect("SQL");
        let plan = session::planned(&context.state(), plan).await.expect("a plan");
        let row = Arc::new(BinaryArray::from(vec![&b"\xff"[..]])) as ArrayRef;
        let plan = bound(plan, &RecordBatch::try_from_iter([("x", row)]).expect("a row")).expect("a plan");
        let batches = context.execute_logical_plan(plan).await.expect("rows").collect().await.expect("rows");
        assert_eq!(batches[0].num_rows(), 1);
    }

    #[test]
    fn marks_are_numbered_in_their_order() {
        let of = |sql: &str| {
            let mut tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().expect(sql);
            numbered(&mut tokens)?;
            Ok::<_, QueryError>(tokens.iter().map(|token| token.to_string()).collect::<String>())
        };
        for (sql, expected) in [
            ("SELECT ? FROM t WHERE a = ? LIMIT ?", "SELECT $1 FROM t WHERE a = $2 LIMIT $3"),
            ("SELECT '?', \"?\", ? -- ?", "SELECT '?', \"?\", $1 -- ?"),
            ("SELECT $2, $1, $2", "SELECT $2, $1, $2"),
        ] {
            assert_eq!(of(sql).expect(sql).trim_end(), expected);
        }
        for (sql, why) in [
            ("SELECT ?, $1", "not both"),
            ("SELECT $2, ?", "not both"),
            ("SELECT $name", "`$name` is no parameter"),
            ("SELECT $0", "`$0` is no parameter"),
            ("SELECT ?1", "`?1` is no parameter"),
        ] {
            let error = of(sql).expect_err(sql).to_string();
            assert!(error.contains(why), "{sql}: {error}");
        }
    }
}

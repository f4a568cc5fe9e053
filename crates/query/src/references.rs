//! How much a statement comes to when each use of a query with a name (`WITH`) is taken for that query: the plan has
//! it as often, so that a few lines, each with the one before it twice, are a plan without end.

use std::ops::ControlFlow;

use datafusion::sql::{
    parser::Statement,
    sqlparser::ast::{Expr, ObjectName, Query, Visit, Visitor},
};

use crate::error::QueryError;

/// Tables that a plan reads at most, each as often as it is named.
const MAX_TABLES: u64 = 2_000;

/// Queries and expressions of a plan at most, but for plain values.
const MAX_PARTS: u64 = 100_000;

/// Refuses a statement whose plan would be too large.
pub(crate) fn check(statement: &Statement) -> Result<(), QueryError> {
    let weight = match statement {
        Statement::Statement(sql) => {
            let mut weighed = Weighed { within: vec![Level::default()] };
            let _: ControlFlow<()> = sql.visit(&mut weighed);
            weighed.within.pop().map(|level| level.weight).unwrap_or_default()
        }
        Statement::Explain(explain) => return check(&explain.statement),
        _ => return Ok(()),
    };
    let refuse = |what: &str, most: u64| {
        Err(QueryError::Plan(format!(
            "the query has more than {most} {what}, with each query of WITH counted as often as it is used: \
             use it less often"
        )))
    };
    if weight.tables > MAX_TABLES {
        return refuse("tables", MAX_TABLES);
    }
    if weight.parts > MAX_PARTS {
        return refuse("expressions", MAX_PARTS);
    }
    Ok(())
}

#[derive(Debug, Default, Clone, Copy)]
struct Weight {
    tables: u64,
    parts: u64,
}

impl Weight {
    fn add(&mut self, other: Self) {
        self.tables = self.tables.saturating_add(other.tables);
        self.parts = self.parts.saturating_add(other.parts);
    }
}

/// A query that is being looked at.
#[derive(Debug, Default)]
struct Level {
    weight: Weight,
    named: Vec<Named>,
}

/// A query of `WITH`.
#[derive(Debug)]
struct Named {
    name: String,
    /// What it comes to, once it was looked at.
    weight: Option<Weight>,
    /// Whether it is counted where it is used: it is planned once, and then in the plan as often as that.
    is_used: bool,
}

/// The queries that are open, the innermost last. Those of `WITH` come first of all that a query has, in their order.
struct Weighed {
    within: Vec<Level>,
}

impl Visitor for Weighed {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        let named = named.map(|named| Named {
            name: named.alias.name.value.to_lowercase(),
            weight: None,
            is_used: false,
        });
        self.within.push(Level { named: named.collect(), weight: Weight { tables: 0, parts: 1 } });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        if let Some(mut ended) = self.within.pop() {
            let unused = ended.named.iter().filter(|named| !named.is_used);
            unused.filter_map(|named| named.weight).for_each(|weight| ended.weight.add(weight));
            if let Some(level) = self.within.last_mut() {
                match level.named.iter_mut().find(|named| named.weight.is_none()) {
                    Some(named) => named.weight = Some(ended.weight),
                    None => level.weight.add(ended.weight),
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = match relation.0.as_slice() {
            [part] => part.as_ident().map(|ident| ident.value.to_lowercase()),
            _ => None,
        };
        // Names that differ in case only are taken for one, the heaviest.
        let levels = self.within.iter_mut().flat_map(|level| &mut level.named);
        let meant = levels
            .filter(|named| Some(&named.name) == name.as_ref())
            .filter_map(|named| named.weight.map(|weight| (weight, &mut named.is_used)));
        let weight = match meant.max_by_key(|(weight, _)| (weight.tables, weight.parts)) {
            Some((weight, is_used)) => {
                *is_used = true;
                weight
            }
            None => Weight { tables: 1, parts: 1 },
        };
        if let Some(level) = self.within.last_mut() {
            level.weight.add(Weight { tables: weight.tables.max(1), ..weight });
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if !matches!(expr, Expr::Value(_))
            && let Some(level) = self.within.last_mut()
        {
            level.weight.add(Weight { tables: 0, parts: 1 });
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParserBuilder;

    use super::*;

    fn checked(sql: &str) -> Result<(), QueryError> {
        let mut statements = DFParserBuilder::new(sql).build().expect("SQL").parse_statements().expect("SQL");
        check(&statements.pop_front().expect("one"))
    }

    /// Queries that each use the one before them twice.
    fn doubled(levels: usize, head: &str) -> String {
        let each = (1..=levels).map(|level| {
            let before = level - 1;
            format!(", q{level} AS (SELECT a.x + b.x AS x FROM q{before} a, (SELECT x FROM Q{before}) b)")
        });
        format!("{head} q0 AS (SELECT 1 AS x){} SELECT x FROM q{levels}", each.collect::<String>())
    }

    #[test]
    fn what_doubles_is_refused_and_what_is_long_is_not() {
        assert!(checked(&doubled(8, "WITH")).is_ok());
        for sql in [
            doubled(40, "WITH"),
            doubled(40, "WITH RECURSIVE"),
            doubled(40, "EXPLAIN WITH"),
            format!("SELECT 1 WHERE EXISTS ({})", doubled(40, "WITH")),
            format!("WITH a AS ({}) SELECT * FROM a", doubled(40, "WITH")),
        ] {
            let error = checked(&sql).expect_err("too much").to_string();
            assert!(error.contains("more than 2000 tables"), "{error}");
        }
        assert!(checked(&format!("WITH a AS ({}) SELECT 1", doubled(40, "WITH"))).is_err(), "even unused");
        // Long chains, each step of which joins others: it is in the plan once.
        let joins = " JOIN t b ON a.x = b.x JOIN t c ON a.x = c.x JOIN t d ON a.x = d.x";
        let chain = (1..=300).map(|at| format!(", q{at} AS (SELECT a.x FROM q{} a{joins})", at - 1));
        let chain = format!("WITH q0 AS (SELECT x FROM t){} SELECT x FROM q300", chain.collect::<String>());
        assert!(checked(&chain).is_ok());
        let wide = format!("WITH a AS (SELECT 1{} AS x)", "+1".repeat(2_000));
        let uses = |uses: usize| format!("{wide} SELECT 1{}", " + (SELECT x FROM a)".repeat(uses));
        assert!(checked(&uses(20)).is_ok());
        assert!(checked(&uses(100)).expect_err("too much").to_string().contains("expressions"));
        let values = format!("SELECT 1 WHERE 1 IN ({})", vec!["1"; 200_000].join(", "));
        assert!(checked(&values).is_ok());
    }
}

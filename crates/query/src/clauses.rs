//! Clauses that the parser knows and the engine does not: it would leave them out without a word, and give
//! another answer than was asked for.

use std::ops::ControlFlow;

use datafusion::sql::{
    parser::Statement,
    sqlparser::ast::{
        GroupByExpr, LimitClause, OrderByKind, Query, Select, Setting, Statement as Sql, TableFactor, Visit,
        Visitor,
    },
};

/// The first clause of a statement that the engine does not heed.
pub(crate) fn unheeded(statement: &Statement) -> Option<&'static str> {
    match statement {
        Statement::Statement(sql) => match sql.visit(&mut Unheeded { is_within: false }) {
            ControlFlow::Break(clause) => Some(clause),
            ControlFlow::Continue(()) => None,
        },
        Statement::Explain(explain) => unheeded(&explain.statement),
        _ => None,
    }
}

struct Unheeded {
    /// Whether this is a query within another.
    is_within: bool,
}

/// The settings that a query may have: it goes on, and it is refused where blocks are missing.
const STREAM: &str = "stream";
const COMPLETE: &str = "complete";

/// All others.
const SETTINGS: &str = "SETTINGS but for `stream = true` and `complete = true` at the end";

/// Whether a text has the word that a stream is asked for with, which most have not.
pub(crate) fn may_be_stream(sql: &str) -> bool {
    const WORD: &[u8] = b"settings";
    sql.as_bytes().windows(WORD.len()).any(|part| part.eq_ignore_ascii_case(WORD))
}

/// Whether a statement asks for a stream: `SETTINGS stream = true`.
pub(crate) fn is_stream(statement: &Statement) -> bool {
    is_on(statement, STREAM)
}

/// Whether a statement wants to be refused where blocks are missing: `SETTINGS complete = true`.
pub(crate) fn is_complete(statement: &Statement) -> bool {
    is_on(statement, COMPLETE)
}

fn is_on(statement: &Statement, name: &str) -> bool {
    let Statement::Statement(sql) = statement else { return false };
    let Sql::Query(query) = sql.as_ref() else { return false };
    let is_on = |setting: &Setting| {
        is_setting(setting, name) && setting.value.to_string().eq_ignore_ascii_case("true")
    };
    query.settings.iter().flatten().any(is_on)
}

fn is_setting(setting: &Setting, name: &str) -> bool {
    let value = setting.value.to_string();
    setting.key.value.eq_ignore_ascii_case(name)
        && ["true", "false"].contains(&value.to_ascii_lowercase().as_str())
}

fn first(clauses: &[(bool, &'static str)]) -> ControlFlow<&'static str> {
    clauses
        .iter()
        .find(|(is_there, _)| *is_there)
        .map_or(ControlFlow::Continue(()), |(_, clause)| ControlFlow::Break(*clause))
}

impl Visitor for Unheeded {
    type Break = &'static str;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        let limits_by = matches!(
            &query.limit_clause,
            Some(LimitClause::LimitOffset { limit_by, .. }) if !limit_by.is_empty()
        );
        let is_within = std::mem::replace(&mut self.is_within, true);
        let is_known = |setting: &Setting| [STREAM, COMPLETE].iter().any(|name| is_setting(setting, name));
        let has_settings = query.settings.iter().flatten().any(|setting| is_within || !is_known(setting));
        let fills = query.order_by.as_ref().is_some_and(|order| match &order.kind {
            OrderByKind::Expressions(by) => by.iter().any(|by| by.with_fill.is_some()),
            OrderByKind::All(_) => false,
        });
        first(&[
            (has_settings, SETTINGS),
            (query.format_clause.is_some(), "FORMAT"),
            (query.fetch.is_some(), "FETCH"),
            (!query.locks.is_empty(), "FOR UPDATE"),
            (query.for_clause.is_some(), "FOR"),
            (limits_by, "LIMIT … BY"),
            (fills, "WITH FILL"),
        ])
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        let modifiers = match &select.group_by {
            GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers) => modifiers,
        };
        first(&[
            (select.prewhere.is_some(), "PREWHERE"),
            (select.into.is_some(), "INTO"),
            (!select.connect_by.is_empty(), "CONNECT BY"),
            (select.value_table_mode.is_some(), "AS STRUCT or AS VALUE"),
            (select.select_modifiers.is_some(), "a modifier behind SELECT"),
            (!modifiers.is_empty(), "WITH behind GROUP BY"),
        ])
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::Table {
                sample,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                index_hints,
                ..
            } => first(&[
                (sample.is_some(), "SAMPLE"),
                (!with_hints.is_empty(), "a hint behind a table"),
                (version.is_some(), "a version of a table"),
                (*with_ordinality, "WITH ORDINALITY"),
                (!partitions.is_empty(), "PARTITION"),
                (json_path.is_some(), "a path behind a table"),
                (!index_hints.is_empty(), "an index behind a table"),
            ]),
            TableFactor::Derived { sample, .. } => first(&[(sample.is_some(), "SAMPLE")]),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParserBuilder;

    use super::*;

    #[test]
    fn what_the_engine_would_leave_out_is_found_at_any_depth() {
        let found = |sql: &str| {
            let mut statements = DFParserBuilder::new(sql).build().expect(sql).parse_statements().expect(sql);
            unheeded(&statements.pop_front().expect(sql))
        };
        let cases = [
            ("SELECT 1 FROM t PREWHERE a < 5", "PREWHERE"),
            ("SELECT 1 FROM t SETTINGS threads = 4", SETTINGS),
            ("SELECT 1 FROM t SETTINGS stream = maybe", SETTINGS),
            ("SELECT 1 FROM (SELECT a FROM t SETTINGS stream = true)", SETTINGS),
            ("SELECT 1 FROM t TABLESAMPLE (10 PERCENT)", "SAMPLE"),
            ("SELECT * FROM (SELECT 1 FROM t FOR UPDATE) s", "FOR UPDATE"),
            ("WITH s AS (SELECT 1 FROM t PREWHERE a) SELECT * FROM s", "PREWHERE"),
            ("EXPLAIN SELECT 1 FROM t PREWHERE a", "PREWHERE"),
            ("SELECT 1 WHERE 1 IN (SELECT a FROM t PREWHERE b)", "PREWHERE"),
            ("SELECT a FROM t ORDER BY a FETCH FIRST 5 ROWS ONLY", "FETCH"),
            ("SELECT a, count(*) FROM t GROUP BY a WITH ROLLUP", "WITH behind GROUP BY"),
        ];
        for (sql, clause) in cases {
            assert_eq!(found(sql), Some(clause), "{sql}");
        }
        for sql in [
            "SELECT a FROM t WHERE b GROUP BY a HAVING c ORDER BY a LIMIT 5 OFFSET 2",
            "SELECT a FROM t SETTINGS stream = true",
            "VALUES (1)",
            "SHOW TABLES",
        ] {
            assert_eq!(found(sql), None, "{sql}");
        }
    }
}

//! Names that a statement must not give: they would be taken for those of columns that a server adds, or of steps that
//! the engine adds. What a query of `WITH` names is looked at too where nothing uses it.

use std::ops::ControlFlow;

use datafusion::sql::{
    parser::Statement,
    sqlparser::ast::{Ident, Query, Select, SelectItem, TableAlias, TableFactor, Visit, Visitor},
};

/// The first name that a statement gives and that begins as only those of added columns do.
pub(crate) fn reserved(statement: &Statement) -> Option<String> {
    match statement {
        Statement::Statement(sql) => sql.visit(&mut Given).break_value(),
        Statement::Explain(explain) => reserved(&explain.statement),
        _ => None,
    }
}

struct Given;

fn first<'a>(names: impl IntoIterator<Item = &'a Ident>) -> ControlFlow<String> {
    match names.into_iter().find(|name| name.value.starts_with('_')) {
        Some(name) => ControlFlow::Break(name.value.clone()),
        None => ControlFlow::Continue(()),
    }
}

fn in_alias(alias: &TableAlias) -> ControlFlow<String> {
    first(std::iter::once(&alias.name).chain(alias.columns.iter().map(|column| &column.name)))
}

impl Visitor for Given {
    type Break = String;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        named
            .map(|named| in_alias(&named.alias))
            .find(ControlFlow::is_break)
            .unwrap_or(ControlFlow::Continue(()))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        first(select.projection.iter().filter_map(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(alias),
            _ => None,
        }))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<String> {
        match factor {
            TableFactor::Table { alias: Some(alias), .. }
            | TableFactor::Derived { alias: Some(alias), .. }
            | TableFactor::TableFunction { alias: Some(alias), .. }
            | TableFactor::Function { alias: Some(alias), .. }
            | TableFactor::UNNEST { alias: Some(alias), .. }
            | TableFactor::NestedJoin { alias: Some(alias), .. } => in_alias(alias),
            _ => ControlFlow::Continue(()),
        }
    }
}

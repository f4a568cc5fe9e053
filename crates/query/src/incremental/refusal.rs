//! Why a query cannot be answered range by range: what of it, in which line, and what to do instead.

use datafusion::{
    common::{JoinType, NullEquality, tree_node::TreeNode, tree_node::TreeNodeRecursion},
    error::DataFusionError,
    logical_expr::{Expr, LogicalPlan, SortExpr, Volatility},
    sql::sqlparser::{
        dialect::GenericDialect,
        keywords::Keyword,
        tokenizer::{Token, Tokenizer, Word},
    },
};

use crate::error::QueryError;

/// Why a query is not one.
#[derive(Debug)]
pub(crate) struct NotIncremental {
    /// What cannot be kept up to date.
    operator: String,
    /// What to do instead.
    instead: &'static str,
    place: Place,
}

/// Where in a query something stands, as far as its plan tells.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// Words that it begins with, the likeliest first.
    words: Vec<String>,
    /// The line of a column that it names.
    near: Option<usize>,
}

impl Place {
    /// At one of these words.
    pub fn at<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self { words: words.into_iter().map(str::to_owned).collect(), near: None }
    }

    /// Near the first column of these expressions.
    pub fn near<'a>(self, exprs: impl IntoIterator<Item = &'a Expr>) -> Self {
        Self { near: exprs.into_iter().find_map(line_of_column), ..self }
    }

    /// The line, where that is beyond doubt: of words that a query has in several lines nothing tells which it is.
    fn line(&self, sql: &str) -> Option<usize> {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().ok()?;
        let tokens: Vec<_> =
            tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
        let lines_of = |word: &str| {
            let is_it = |place: usize| match &tokens[place].token {
                // What is said of a union is not meant of those that keep all rows.
                Token::Word(Word { keyword: Keyword::UNION, .. })
                    if is_all(tokens.get(place + 1).map(|t| &t.token)) =>
                {
                    false
                }
                Token::Word(found) => found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word),
                Token::Placeholder(found) => found == word,
                _ => false,
            };
            let mut lines: Vec<usize> = (0..tokens.len())
                .filter(|place| is_it(*place))
                .filter_map(|place| usize::try_from(tokens[place].span.start.line).ok())
                .collect();
            lines.dedup();
            lines
        };
        let mut lines = self.words.iter().map(|word| lines_of(word));
        match self.near {
            Some(near) => lines.flatten().filter(|line| *line <= near).max().or(Some(near)),
            None => lines.find(|lines| !lines.is_empty()).filter(|lines| lines.len() == 1)?.pop(),
        }
    }
}

fn is_all(token: Option<&Token>) -> bool {
    matches!(token, Some(Token::Word(Word { keyword: Keyword::ALL, .. })))
}

fn line_of_column(expr: &Expr) -> Option<usize> {
    let mut line = None;
    let search = expr.apply(|part| {
        line = part.spans().and_then(|spans| spans.first()).map(|span| span.start.line);
        Ok(if line.is_none() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    search.ok().and(line).and_then(|line| usize::try_from(line).ok())
}

impl std::fmt::Display for NotIncremental {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cannot be kept up to date block by block: {}", self.operator, self.instead)
    }
}

impl std::error::Error for NotIncremental {}

pub(super) fn refused<T>(
    operator: impl Into<String>,
    place: Place,
    instead: &'static str,
) -> Result<T, Failure> {
    Err(Failure::Not(NotIncremental { operator: operator.into(), instead, place }))
}

/// Why a plan could not be written for a range.
#[derive(Debug)]
pub(crate) enum Failure {
    Not(NotIncremental),
    Engine(DataFusionError),
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        Self::Engine(error)
    }
}

impl Failure {
    /// The error of a query, with the line of `sql` where the operator stands.
    pub fn in_sql(self, sql: &str) -> QueryError {
        match self {
            Self::Engine(error) => in_its_line(error),
            Self::Not(why) => {
                let line = why.place.line(sql).map(|line| format!("line {line}: ")).unwrap_or_default();
                QueryError::Plan(format!("{line}{why}"))
            }
        }
    }
}

/// An error of the engine's planner, with the line where that tells it.
pub(crate) fn in_its_line(error: DataFusionError) -> QueryError {
    let line = error.diagnostic().and_then(|told| told.span).map(|span| span.start.line);
    match (QueryError::from(error), line) {
        (QueryError::Plan(why), Some(line)) => QueryError::Plan(format!("line {line}: {why}")),
        (error, _) => error,
    }
}

/// Refuses what the rules that come next would hide.
pub(super) fn check_nodes(plan: &LogicalPlan) -> Result<(), Failure> {
    let mut found = Ok(());
    plan.apply_with_subqueries(|node| {
        found = match node {
            LogicalPlan::Sort(sort) => refused(
                "ORDER BY",
                Place::at(["order"]).near(sort.expr.iter().map(|SortExpr { expr, .. }| expr)),
                "leave it out, rows come by block; sort when you query",
            ),
            LogicalPlan::Limit(_) => {
                refused("LIMIT", Place::at(["limit", "fetch", "offset"]), "leave it out, or filter by block")
            }
            LogicalPlan::Window(window) => refused(
                "a window function",
                Place::at(["over"]).near(&window.window_expr),
                "compute it when you query, over what is stored",
            ),
            LogicalPlan::RecursiveQuery(_) => {
                refused("a recursive query", Place::at(["recursive"]), "write it without")
            }
            // No condition compares nulls so.
            LogicalPlan::Join(join)
                if join.join_type == JoinType::LeftAnti
                    && join.null_equality == NullEquality::NullEqualsNull =>
            {
                refused(
                    "EXCEPT",
                    Place::at(["except", "minus"]),
                    "a later block may take rows away; compute it when you query",
                )
            }
            _ => Ok(()),
        };
        Ok(if found.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    found
}

/// Refuses functions that give another value each time, and subqueries that no rule has made a join of.
pub(super) fn check_expressions(plan: &LogicalPlan) -> Result<(), Failure> {
    let mut found = Ok(());
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                found = match part {
                    Expr::ScalarFunction(called)
                        if called.func.signature().volatility != Volatility::Immutable =>
                    {
                        let names = called.func.aliases().iter().map(String::as_str);
                        refused(
                            format!("`{}`, which gives another value each time,", called.func.name()),
                            Place::at(std::iter::once(called.func.name()).chain(names)).near(&called.args),
                            "use the block's timestamp, or compute it when you query",
                        )
                    }
                    Expr::Placeholder(parameter) => refused(
                        format!("the parameter `{}`", parameter.id),
                        Place::at([parameter.id.as_str()]),
                        "write its value in its place",
                    ),
                    Expr::ScalarSubquery(_)
                    | Expr::Exists(_)
                    | Expr::InSubquery(_)
                    | Expr::SetComparison(_) => {
                        let place = Place { near: line_of_subquery(part), ..Place::at(["select"]) };
                        refused("a subquery in an expression", place, "write it as a join")
                    }
                    _ => Ok(()),
                };
                Ok(if found.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
            })
        })
    })?;
    found
}

/// The line of the first column that a subquery selects.
fn line_of_subquery(expr: &Expr) -> Option<usize> {
    let subquery = match expr {
        Expr::ScalarSubquery(subquery) => subquery,
        Expr::Exists(exists) => &exists.subquery,
        Expr::InSubquery(within) => &within.subquery,
        Expr::SetComparison(compared) => &compared.subquery,
        _ => return None,
    };
    let mut line = subquery.spans.first().and_then(|span| usize::try_from(span.start.line).ok());
    let search = subquery.subquery.apply(|node| {
        node.apply_expressions(|expr| {
            line = line.or_else(|| line_of_column(expr));
            Ok(if line.is_none() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
        })
    });
    search.ok().and(line)
}

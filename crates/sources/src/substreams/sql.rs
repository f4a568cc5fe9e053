//! Tables and types out of a package's SQL schema: its `CREATE TABLE` statements, of PostgreSQL or ClickHouse.
//!
//! It is read as far as columns need it: what else a schema has (indexes, engines, projections, views) is
//! passed over, so that a dialect's newest addition is no reason to refuse a package.

use arrow::datatypes::DataType;

use super::values::{ValueColumn, decimal_type, shortened, time_type};

/// How deep brackets may be within each other.
const MAX_DEPTH: usize = 32;
/// The table in which sinks keep their own place; no module writes it.
const CURSORS: &str = "cursors";

/// A table of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SqlTable {
    pub name: String,
    pub columns: Vec<ValueColumn>,
    /// The columns of the primary key, by name.
    pub primary_key: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A name or keyword as it is written.
    Word(String),
    /// A name in quotes: never a keyword.
    Name(String),
    Text,
    Other(char),
    /// What is within round brackets.
    Group(Vec<Token>),
}

impl Token {
    fn is(&self, keyword: &str) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Word(name) | Self::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// The tables that a schema creates, in its order. The error says what cannot be read.
pub(crate) fn tables(schema: &str) -> Result<Vec<SqlTable>, String> {
    let tokens = Tokens { rest: schema.char_indices().peekable(), text: schema }.group(0)?;
    let mut tables: Vec<SqlTable> = Vec::new();
    for statement in tokens.split(|token| *token == Token::Other(';')) {
        if let Some(table) = create_table(statement)? {
            if !tables.iter().any(|known| known.name == table.name) {
                tables.push(table);
            }
        } else if let Some((name, key)) = added_key(statement)
            && let Some(table) = tables.iter_mut().find(|table| table.name == name)
        {
            table.primary_key = key;
        }
    }
    tables.retain(|table| table.name != CURSORS);
    if tables.is_empty() {
        return Err("the package's SQL schema creates no table".into());
    }
    Ok(tables)
}

struct Tokens<'a> {
    rest: std::iter::Peekable<std::str::CharIndices<'a>>,
    text: &'a str,
}

impl Tokens<'_> {
    /// The tokens up to the bracket that closes, or the end.
    fn group(&mut self, depth: usize) -> Result<Vec<Token>, String> {
        if depth > MAX_DEPTH {
            return Err(format!("the package's SQL schema has brackets more than {MAX_DEPTH} deep"));
        }
        let mut tokens = Vec::new();
        while let Some((at, c)) = self.rest.next() {
            let next = self.rest.peek().map(|(_, c)| *c);
            match c {
                c if c.is_whitespace() => {}
                '-' if next == Some('-') => self.skip_while(|c| c != '\n'),
                '/' if next == Some('*') => self.skip_behind(at + 2, "*/")?,
                '\'' => {
                    self.quoted('\'')?;
                    tokens.push(Token::Text);
                }
                '"' | '`' => tokens.push(Token::Name(self.quoted(c)?)),
                '$' if self.dollar_quoted(at)? => tokens.push(Token::Text),
                '(' => tokens.push(Token::Group(self.group(depth + 1)?)),
                ')' if depth > 0 => return Ok(tokens),
                c if c.is_alphanumeric() || c == '_' => {
                    self.skip_while(|c| c.is_alphanumeric() || c == '_');
                    let end = self.rest.peek().map_or(self.text.len(), |(end, _)| *end);
                    tokens.push(Token::Word(self.text[at..end].to_owned()));
                }
                other => tokens.push(Token::Other(other)),
            }
        }
        if depth > 0 {
            Err("the package's SQL schema has a bracket that is not closed".into())
        } else {
            Ok(tokens)
        }
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.rest.next_if(|(_, c)| wanted(*c)).is_some() {}
    }

    /// Goes on behind `end`, which is looked for from a place in the text.
    fn skip_behind(&mut self, from: usize, end: &str) -> Result<(), String> {
        let open = || "the package's SQL schema ends within a comment or text".to_owned();
        let behind =
            self.text.get(from..).and_then(|rest| rest.find(end)).ok_or_else(open)? + from + end.len();
        while self.rest.next_if(|(at, _)| *at < behind).is_some() {}
        Ok(())
    }

    /// What is in quotes; a quote within is written twice.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.rest.next() {
                Some((_, c)) if c == quote => match self.rest.next_if(|(_, c)| *c == quote) {
                    Some(_) => text.push(quote),
                    None => return Ok(text),
                },
                Some((_, '\\')) if quote == '\'' => {
                    self.rest.next();
                }
                Some((_, c)) => text.push(c),
                None => return Err("the package's SQL schema ends within quotes".into()),
            }
        }
    }

    /// Passes over PostgreSQL's `$tag$ … $tag$`, if one begins here.
    fn dollar_quoted(&mut self, at: usize) -> Result<bool, String> {
        let Some(length) = self.text[at + 1..].find('$') else { return Ok(false) };
        let tag = &self.text[at..at + length + 2];
        if !tag[1..tag.len() - 1].chars().all(|c| c.is_alphanumeric() || c == '_') {
            return Ok(false);
        }
        self.skip_behind(at + tag.len(), tag)?;
        Ok(true)
    }
}

fn create_table(statement: &[Token]) -> Result<Option<SqlTable>, String> {
    // `CREATE [OR REPLACE] [TEMPORARY | UNLOGGED] TABLE`; `CREATE FUNCTION … TABLE (…)` is not one.
    let adjectives = ["or", "replace", "temp", "temporary", "unlogged", "global", "local", "table"];
    if !statement.first().is_some_and(|token| token.is("create")) {
        return Ok(None);
    }
    let head = statement[1..].iter().take_while(|token| adjectives.iter().any(|word| token.is(word)));
    let head = head.count();
    if head == 0 || !statement[head].is("table") {
        return Ok(None);
    }
    let mut rest = &statement[head + 1..];
    if let [first, not, exists, behind @ ..] = rest
        && first.is("if")
        && not.is("not")
        && exists.is("exists")
    {
        rest = behind;
    }
    let (name, behind) =
        qualified_name(rest).ok_or("the package's SQL schema creates a table without a name")?;
    let at = behind.iter().position(|token| matches!(token, Token::Group(_)));
    let Some((Token::Group(body), options)) = at.and_then(|at| behind[at..].split_first()) else {
        return Err(format!("the package's SQL schema does not say which columns the table `{name}` has"));
    };
    let mut table = SqlTable { name: name.to_owned(), columns: Vec::new(), primary_key: Vec::new() };
    for item in body.split(|token| *token == Token::Other(',')) {
        read_item(item, &mut table)?;
    }
    if table.columns.is_empty() {
        return Err(format!("the table `{name}` of the package's SQL schema has no columns"));
    }
    // ClickHouse has the key behind the columns.
    for keywords in [["primary", "key"], ["order", "by"]] {
        if table.primary_key.is_empty() {
            table.primary_key = key_behind(options, keywords).unwrap_or_default();
        }
    }
    Ok(Some(table))
}

/// `ALTER TABLE t ADD … PRIMARY KEY (…)`: the table and its key.
fn added_key(statement: &[Token]) -> Option<(String, Vec<String>)> {
    let [alter, table, rest @ ..] = statement else { return None };
    if !alter.is("alter") || !table.is("table") {
        return None;
    }
    let skipped =
        rest.iter().take_while(|token| ["if", "exists", "only"].iter().any(|w| token.is(w))).count();
    let (name, behind) = qualified_name(&rest[skipped..])?;
    Some((name.to_owned(), key_behind(behind, ["primary", "key"])?))
}

/// The last part of `a.b.c`, and what is behind it.
fn qualified_name(tokens: &[Token]) -> Option<(&str, &[Token])> {
    let mut name = tokens.first()?.name()?;
    let mut rest = &tokens[1..];
    while let [Token::Other('.'), part, behind @ ..] = rest {
        (name, rest) = (part.name()?, behind);
    }
    Some((name, rest))
}

/// The names in brackets behind two keywords; one name may stand without brackets.
fn key_behind(tokens: &[Token], keywords: [&str; 2]) -> Option<Vec<String>> {
    let at = tokens.windows(2).position(|pair| pair[0].is(keywords[0]) && pair[1].is(keywords[1]))?;
    match tokens.get(at + 2)? {
        Token::Group(names) => Some(names.iter().filter_map(Token::name).map(str::to_owned).collect()),
        one => Some(vec![one.name()?.to_owned()]),
    }
}

/// A column, or a constraint, of which only a primary key matters.
fn read_item(item: &[Token], table: &mut SqlTable) -> Result<(), String> {
    let [first, rest @ ..] = item else { return Ok(()) };
    if is_constraint(first, rest) {
        if let Some(key) = key_behind(item, ["primary", "key"]) {
            table.primary_key = key;
        }
        return Ok(());
    }
    let Some(name) = first.name() else {
        return Err(format!(
            "a column of the table `{}` of the package's SQL schema has no name",
            table.name
        ));
    };
    // What the database works out by itself is never sent.
    let computed = ["materialized", "alias", "ephemeral"].iter().any(|word| rest.iter().any(|t| t.is(word)));
    let generated = rest.iter().any(|t| t.is("generated")) && rest.iter().any(|t| t.is("stored"));
    if computed || generated {
        return Ok(());
    }
    let data_type = column_type(rest, 0).ok_or_else(|| {
        let (name, table) = (shortened(name), &table.name);
        format!("the type of the column `{name}` of the table `{table}` of the package's SQL schema cannot be read")
    })?;
    if rest.windows(2).any(|pair| pair[0].is("primary") && pair[1].is("key")) {
        table.primary_key.push(name.to_owned());
    }
    table.columns.push(ValueColumn { name: name.to_owned(), data_type });
    Ok(())
}

fn is_constraint(first: &Token, rest: &[Token]) -> bool {
    let next_is = |word: &str| rest.first().is_some_and(|token| token.is(word));
    let in_brackets = matches!(rest.first(), Some(Token::Group(_)));
    // A column may have such a name too; then a type follows.
    let typed = rest.first().and_then(Token::name).is_some_and(|name| known_type(name).is_some());
    first.is("constraint")
        || (first.is("primary") || first.is("foreign")) && next_is("key")
        || first.is("unique") && (in_brackets || next_is("key") || next_is("index"))
        || (first.is("check") || first.is("exclude")) && (in_brackets || next_is("using"))
        || first.is("like") && !typed
        || ["index", "key", "projection"].iter().any(|word| first.is(word)) && !typed
}

/// The type that stands at the front of these tokens. A type that is not known holds text, as it was sent.
fn column_type(tokens: &[Token], depth: usize) -> Option<DataType> {
    if depth > 8 {
        return None;
    }
    let (first, rest) = tokens.split_first()?;
    let written = first.name()?;
    let name = written.to_ascii_lowercase();
    let args = match rest.first() {
        Some(Token::Group(args)) => Some(args.as_slice()),
        _ => None,
    };
    // Arrays are sent as one text.
    if rest.contains(&Token::Other('[')) || name == "array" {
        return Some(DataType::Utf8);
    }
    match (name.as_str(), args) {
        ("nullable" | "lowcardinality", Some(args)) => column_type(args, depth + 1),
        ("simpleaggregatefunction", Some(args)) => {
            let comma = args.iter().position(|token| *token == Token::Other(','))?;
            column_type(&args[comma + 1..], depth + 1)
        }
        ("numeric" | "decimal" | "dec", args) => {
            let args = args.unwrap_or_default();
            let number = |at: usize| args.get(at)?.name()?.parse().ok();
            Some(decimal_type(number(0), number(2).unwrap_or(0)))
        }
        ("decimal32" | "decimal64" | "decimal128", Some(args)) => {
            let digits = match name.as_str() {
                "decimal32" => 9,
                "decimal64" => 18,
                _ => 38,
            };
            Some(decimal_type(Some(digits), args.first()?.name()?.parse().ok()?))
        }
        _ => Some(known_type(written).unwrap_or(DataType::Utf8)),
    }
}

/// Types by their names, of both databases: in ClickHouse, `Int8` has eight bits, in PostgreSQL `int8` has
/// eight bytes; there they are told apart by how they are written.
fn known_type(written: &str) -> Option<DataType> {
    let clickhouse = written.starts_with("Int") || written.starts_with("UInt");
    Some(match (written.to_ascii_lowercase().as_str(), clickhouse) {
        ("int8", true) => DataType::Int8,
        ("smallint" | "int2" | "smallserial" | "int16", _) => DataType::Int16,
        ("int" | "integer" | "int4" | "serial" | "int32" | "mediumint", _) => DataType::Int32,
        ("bigint" | "int8" | "bigserial" | "int64", _) => DataType::Int64,
        ("uint8", _) => DataType::UInt8,
        ("uint16", _) => DataType::UInt16,
        ("uint32", _) => DataType::UInt32,
        ("uint64", _) => DataType::UInt64,
        ("real" | "float4" | "float32", _) => DataType::Float32,
        ("double" | "float" | "float8" | "float64", _) => DataType::Float64,
        ("bool" | "boolean", _) => DataType::Boolean,
        ("bytea" | "blob", _) => DataType::Binary,
        ("timestamp" | "timestamptz" | "datetime" | "datetime64", _) => time_type(),
        ("date" | "date32", _) => DataType::Date32,
        (
            "text"
            | "varchar"
            | "char"
            | "character"
            | "string"
            | "fixedstring"
            | "citext"
            | "uuid"
            | "json"
            | "jsonb"
            | "int128"
            | "int256"
            | "uint128"
            | "uint256"
            | "numeric"
            | "decimal"
            | "nullable"
            | "lowcardinality"
            | "array"
            | "enum8"
            | "enum16"
            | "simpleaggregatefunction"
            | "decimal32"
            | "decimal64"
            | "decimal128"
            | "decimal256"
            | "time"
            | "interval",
            _,
        ) => DataType::Utf8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(schema: &str) -> Vec<(String, String)> {
        let table = tables(schema).expect("a schema").remove(0);
        table.columns.into_iter().map(|column| (column.name, column.data_type.to_string())).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, data_type)| ((*name).to_owned(), (*data_type).to_owned())).collect()
    }

    #[test]
    fn types_of_postgresql() {
        let schema = r#"
            -- a comment; with ' and (
            /* another ; ( */
            CREATE FUNCTION f() RETURNS void AS $body$ CREATE TABLE no (a int); $body$ LANGUAGE sql;
            create table if not exists "public"."T" (
              id text not null constraint pk primary key, "from" varchar(42) default 'a,b''(',
              n integer, big bigint, eight int8, amount numeric(38, 2), any numeric, wide numeric(78),
              at timestamp with time zone, day date, raw bytea, yes boolean, d double precision,
              tags text[], index integer, key numeric(10), other geometry,
              total bigint generated always as (n * 2) stored,
              CHECK (n > 0), UNIQUE (n, big), FOREIGN KEY (n) REFERENCES other (id)
            );
            create index on "T" (n);
            create table public.cursors (id text primary key);
        "#;
        let expected = [
            ("id", "Utf8"),
            ("from", "Utf8"),
            ("n", "Int32"),
            ("big", "Int64"),
            ("eight", "Int64"),
            ("amount", "Decimal128(38, 2)"),
            ("any", "Utf8"),
            ("wide", "Utf8"),
            ("at", "Timestamp(µs, \"+00:00\")"),
            ("day", "Date32"),
            ("raw", "Binary"),
            ("yes", "Boolean"),
            ("d", "Float64"),
            ("tags", "Utf8"),
            ("index", "Int32"),
            ("key", "Decimal128(10, 0)"),
            ("other", "Utf8"),
        ];
        assert_eq!(columns(schema), pairs(&expected));
        let all = tables(schema).expect("a schema");
        assert_eq!((all.len(), &all[0].name[..], &all[0].primary_key[..]), (1, "T", &["id".to_owned()][..]));
    }

    #[test]
    fn types_of_clickhouse() {
        let schema = "CREATE TABLE t ON CLUSTER c (
              a UInt32, b Int8, c LowCardinality(Nullable(String)), d DateTime64(3, 'UTC'), e UInt256,
              f Decimal(18, 4), g Array(UInt8), h Date MATERIALIZED toDate(d), i FixedString(42), j Bool,
              k SimpleAggregateFunction(sum, UInt64), l Enum8('a' = 1),
              INDEX idx (a) TYPE minmax GRANULARITY 1, PROJECTION p ( SELECT * ORDER BY a )
            ) ENGINE = MergeTree ORDER BY (a, b);
            CREATE MATERIALIZED VIEW v TO t AS SELECT 1;";
        let expected = [
            ("a", "UInt32"),
            ("b", "Int8"),
            ("c", "Utf8"),
            ("d", "Timestamp(µs, \"+00:00\")"),
            ("e", "Utf8"),
            ("f", "Decimal128(18, 4)"),
            ("g", "Utf8"),
            ("i", "Utf8"),
            ("j", "Boolean"),
            ("k", "UInt64"),
            ("l", "Utf8"),
        ];
        assert_eq!(columns(schema), pairs(&expected));
        assert_eq!(tables(schema).expect("a schema")[0].primary_key, ["a", "b"]);
    }

    #[test]
    fn keys_may_be_anywhere() {
        let key = |schema: &str| tables(schema).expect("a schema").remove(0).primary_key;
        assert_eq!(key("create table t (a int, b int, primary key (a, b))"), ["a", "b"]);
        assert_eq!(key("create table t (a int); alter table only t add constraint c primary key (a)"), ["a"]);
        assert_eq!(key("create table t (a UInt8) engine = X primary key a"), ["a"]);
        assert!(key("create table t (a int)").is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for schema in [
            "",
            "select 1",
            "create table t",
            "create table t ()",
            "create table t (a int",
            "create table t ('a' int)",
            "create table t (a)",
            "create table (a int)",
            "create table t as select 1",
            "create table t (a 'x')",
            "create table t (a int /*",
            "create table t (\"a",
        ] {
            assert!(tables(schema).is_err(), "{schema}");
        }
        let deep = format!("create table t (a {}int", "(".repeat(100_000));
        assert!(tables(&deep).is_err());
    }
}

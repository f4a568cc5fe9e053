//! Entities out of a package's GraphQL schema: its types `@entity`.
//!
//! The types are those of The Graph's schemas: big numbers are text, references are the other entity's id.

use arrow::datatypes::DataType;

use super::values::{ValueColumn, list_of, time_type};

/// An entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entity {
    pub name: String,
    pub columns: Vec<ValueColumn>,
}

/// The entities of a schema, in its order. The error says what cannot be read.
pub(crate) fn entities(schema: &str) -> Result<Vec<Entity>, String> {
    let tokens = tokens(schema)?;
    let mut rest = &tokens[..];
    let mut entities = Vec::new();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        // `type Name @directive(…) {`: what is between the name and the bracket may be anything.
        if first != "type" {
            rest = skip_body(rest, first);
            continue;
        }
        let name = rest.first().ok_or("the package's GraphQL schema ends within a type")?.clone();
        let open = rest.iter().position(|token| token == "{");
        let close = rest.iter().position(|token| token == "}");
        let (Some(open), Some(close)) = (open, close) else {
            return Err(format!("the type `{name}` of the package's GraphQL schema has no fields"));
        };
        if close < open {
            return Err(format!("the type `{name}` of the package's GraphQL schema has no fields"));
        }
        let is_entity = rest[..open].windows(2).any(|pair| pair[0] == "@" && pair[1] == "entity");
        if is_entity {
            entities.push(Entity { columns: columns(&name, &rest[open + 1..close])?, name });
        }
        rest = &rest[close + 1..];
    }
    if entities.is_empty() {
        Err("the package's GraphQL schema has no entities".into())
    } else {
        Ok(entities)
    }
}

/// Behind an enum or interface its body is passed over.
fn skip_body<'a>(rest: &'a [String], first: &str) -> &'a [String] {
    if !matches!(first, "enum" | "interface" | "input") {
        return rest;
    }
    rest.iter().position(|token| token == "}").map_or(&[], |close| &rest[close + 1..])
}

fn columns(entity: &str, body: &[String]) -> Result<Vec<ValueColumn>, String> {
    let bad =
        || format!("the fields of the entity `{entity}` of the package's GraphQL schema cannot be read");
    let mut columns = Vec::new();
    let mut rest = body;
    while let Some((name, behind)) = rest.split_first() {
        let [colon, behind @ ..] = behind else { return Err(bad()) };
        if colon != ":" {
            return Err(bad());
        }
        let mut lists = 0;
        let mut named = None;
        rest = behind;
        while let Some((token, behind)) = rest.split_first() {
            match token.as_str() {
                "[" => lists += 1,
                "]" | "!" => {}
                _ if named.is_none() => named = Some(token.clone()),
                _ => break,
            }
            rest = behind;
        }
        let (derived, behind) = directives(rest);
        rest = behind;
        let data_type = scalar(&named.ok_or_else(bad)?);
        // What is derived is a query of other entities: it is never sent.
        if !derived {
            let data_type = if lists > 0 { list_of(data_type) } else { data_type };
            columns.push(ValueColumn { name: name.clone(), data_type });
        }
        if lists > 1 {
            return Err(format!("the field `{name}` of the entity `{entity}` is a list of lists"));
        }
    }
    Ok(columns)
}

/// Passes over `@name(…)`; whether one of them is `@derivedFrom`.
fn directives(mut rest: &[String]) -> (bool, &[String]) {
    let mut derived = false;
    while let [at, name, behind @ ..] = rest
        && at == "@"
    {
        derived |= name == "derivedFrom";
        rest = behind;
        if rest.first().is_some_and(|token| token == "(") {
            let close = rest.iter().position(|token| token == ")");
            rest = close.map_or(&[], |close| &rest[close + 1..]);
        }
    }
    (derived, rest)
}

fn scalar(name: &str) -> DataType {
    match name {
        "Int" => DataType::Int32,
        "Int8" => DataType::Int64,
        "Float" => DataType::Float64,
        "Boolean" => DataType::Boolean,
        "Bytes" => DataType::Binary,
        "Timestamp" => time_type(),
        _ => DataType::Utf8,
    }
}

/// Names and signs, without comments and texts.
fn tokens(schema: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    let mut rest = schema;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("\"\"\"") {
            let end = rest[3..].find("\"\"\"").ok_or("the package's GraphQL schema ends within a text")?;
            rest = &rest[3 + end + 3..];
        } else if c == '"' {
            let end = rest[1..].find('"').ok_or("the package's GraphQL schema ends within a text")?;
            rest = &rest[end + 2..];
        } else if c == '#' {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if c.is_alphanumeric() || c == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            rest = &rest[end..];
        } else {
            if !c.is_whitespace() && c != ',' {
                tokens.push(c.to_string());
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_read() {
        let schema = r#"
            # a comment with type X @entity {
            """ a text with type Y @entity { """
            enum Kind { A B }
            type Pool @entity(immutable: true) {
              id: ID!
              "the token"
              token: Token!
              fee: BigInt!, ticks: [Int!]!
              swaps: [Swap!]! @derivedFrom(field: "pool")
              at: Timestamp raw: Bytes big: Int8 ok: Boolean
            }
            type NotOne { a: Int }
            type Token @entity { id: Bytes! }
        "#;
        let entities = entities(schema).expect("a schema");
        let shown: Vec<_> = entities
            .iter()
            .map(|entity| {
                let columns = entity.columns.iter();
                let columns: Vec<_> = columns.map(|c| format!("{} {}", c.name, c.data_type)).collect();
                format!("{}: {}", entity.name, columns.join(", "))
            })
            .collect();
        let pool = "Pool: id Utf8, token Utf8, fee Utf8, ticks List(Int32), at Timestamp(µs, \"+00:00\"), \
                    raw Binary, big Int64, ok Boolean";
        assert_eq!(shown, [pool, "Token: id Binary"]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for schema in [
            "",
            "type",
            "type A",
            "type A @entity {",
            "type A @entity } {",
            "type A @entity { a }",
            "type A @entity { a: }",
            "type A @entity { a: [[Int]] }",
            "type A { a: Int }",
            "\"",
            "type A @entity { a : [ }",
        ] {
            assert!(entities(schema).is_err(), "{schema}");
        }
    }
}

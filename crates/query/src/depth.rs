//! How deep a statement can be: parsers, planners and plans walk it recursively, and a stack that is used up
//! ends the process with all that others ask of it.

use arrow::datatypes::{DataType, Schema};
use datafusion::sql::sqlparser::{
    dialect::GenericDialect,
    tokenizer::{Token, Tokenizer},
};

use crate::error::QueryError;

/// Words and operators of a statement at most. Each may lie one deeper than the one before it. Lists of values
/// have none, and may be as long as they like.
const MAX_STRUCTURE: usize = 6_000;

/// Brackets within brackets, those in texts too: some functions read types from a text.
const MAX_NESTING: usize = 200;

/// Refuses a statement that could be deeper than the stack of the threads for queries is for.
pub(crate) fn check(sql: &str) -> Result<(), QueryError> {
    let (mut nesting, mut deepest) = (0_usize, 0);
    for byte in sql.bytes() {
        match byte {
            b'(' | b'[' | b'{' => nesting += 1,
            b')' | b']' | b'}' => nesting = nesting.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(nesting);
    }
    // What is no text of SQL the parser says better.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Ok(()) };
    let is_flat = |token: &&Token| {
        matches!(
            token,
            Token::LParen
                | Token::LBracket
                | Token::LBrace
                | Token::RParen
                | Token::RBracket
                | Token::RBrace
                | Token::Whitespace(_)
                | Token::Comma
                | Token::Period
                | Token::Number(..)
                | Token::SingleQuotedString(_)
                | Token::HexStringLiteral(_)
        )
    };
    let structure = tokens.iter().filter(|token| !is_flat(token)).count();
    let refuse = |what: &str, most: usize| {
        let advice = "write a long list of alternatives with IN";
        Err(QueryError::Plan(format!("the statement has more than {most} {what}; {advice}")))
    };
    if structure > MAX_STRUCTURE {
        return refuse("words and operators", MAX_STRUCTURE);
    }
    if deepest > MAX_NESTING {
        return refuse("brackets within brackets", MAX_NESTING);
    }
    Ok(())
}

/// Lists and structs within each other that a column of an answer may have.
const MAX_TYPE_DEPTH: usize = 64;

/// Refuses answers whose columns are nested deeper than those who write them out can follow.
pub(crate) fn check_types(schema: &Schema) -> Result<(), QueryError> {
    let deep = schema.fields().iter().find(|field| is_deeper(field.data_type(), MAX_TYPE_DEPTH));
    match deep {
        Some(field) => Err(QueryError::Plan(format!(
            "the column `{}` has more than {MAX_TYPE_DEPTH} lists or structs within each other",
            field.name()
        ))),
        None => Ok(()),
    }
}

fn is_deeper(data_type: &DataType, levels: usize) -> bool {
    let within = |data_type: &DataType| levels == 0 || is_deeper(data_type, levels - 1);
    match data_type {
        DataType::List(item)
        | DataType::ListView(item)
        | DataType::LargeList(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _)
        | DataType::RunEndEncoded(_, item) => within(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| within(field.data_type())),
        DataType::Union(fields, _) => fields.iter().any(|(_, field)| within(field.data_type())),
        DataType::Dictionary(_, values) => within(values),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn types_may_be_nested_so_deep_and_no_deeper() {
        let nested = |levels: usize| {
            let ty = (0..levels).fold(DataType::Int8, |inner, _| DataType::new_list(inner, true));
            check_types(&Schema::new(vec![Field::new("a", ty, true)]))
        };
        assert!(nested(MAX_TYPE_DEPTH).is_ok());
        assert!(nested(MAX_TYPE_DEPTH + 1).is_err());
    }

    #[test]
    fn what_is_long_is_taken_and_what_may_be_deep_is_not() {
        let list = format!("SELECT 1 WHERE 1 IN ({})", vec!["X'00'"; 100_000].join(", "));
        assert!(check(&list).is_ok());
        assert!(check(&format!("SELECT 1{}", "+1".repeat(5_000))).is_ok());
        for deep in [
            format!("SELECT 1{}", "+1".repeat(6_001)),
            format!("{}SELECT 1", "EXPLAIN ".repeat(6_001)),
            format!("SELECT {}1{}", "(".repeat(201), ")".repeat(201)),
            format!("SELECT arrow_cast(NULL, '{}Int8{}')", "List(".repeat(201), ")".repeat(201)),
        ] {
            assert!(matches!(check(&deep), Err(QueryError::Plan(_))), "{:.40}", deep);
        }
        assert!(check("'").is_ok());
    }
}

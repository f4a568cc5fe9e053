//! Errors of queries, named by what the asker does next.

use datafusion::{arrow::error::ArrowError, error::DataFusionError, sql::sqlparser::parser::ParserError};
use nozzle_metadata::MetadataError;
use thiserror::Error;

/// Why a query has no answer.
#[derive(Debug, Error)]
pub enum QueryError {
    /// The text is not SQL.
    #[error("the query is not valid SQL: {0}")]
    Parse(String),
    /// The query names a dataset or table that is not there.
    #[error("{0}")]
    TableNotFound(String),
    /// The query is SQL but cannot be planned: an unknown column, a type that does not fit, a
    /// statement that writes.
    #[error("the query cannot be planned: {0}")]
    Plan(String),
    /// A limit of memory or disk was reached.
    #[error("the query needs more memory than it may have: {0}")]
    Resources(String),
    /// The files of the query's snapshot have been collected meanwhile: ask again.
    #[error(
        "a file of this query's snapshot is gone: it was replaced and collected while the query ran, or somebody has removed it; run the query again, and if that says the same, `nozzle check --dataset NAME --repair` finds it and extracts its blocks again"
    )]
    SnapshotExpired,
    /// The metadata or the object store failed.
    #[error(transparent)]
    Metadata(nozzle_metadata::MetadataError),
    /// The query computes what has no answer for the rows that it met: a division by zero, a text that is no number.
    #[error("the query failed: {0}")]
    Values(String),
    /// Anything else that went wrong while the query ran.
    #[error("the query failed: {0}")]
    Execution(String),
}

/// Why a column cannot be made: where each value ends is counted up to 2 GiB.
const TOO_LONG: &str = "the values of a column come to more than 2 GiB at once: \
    ask for fewer rows, or for parts of large values";

impl QueryError {
    /// What a panic of the engine says of the query, where it is no defect.
    pub fn of_panic(why: &str) -> Option<Self> {
        is_overflow(why).then(|| Self::Resources(TOO_LONG.into()))
    }

    /// Why rows that were being made are not there: their own values, or anything else.
    pub fn of_rows(error: DataFusionError) -> Self {
        let is_of_values = match error.find_root() {
            DataFusionError::Execution(_) => true,
            DataFusionError::ArrowError(error, _) => matches!(
                **error,
                ArrowError::DivideByZero
                    | ArrowError::ArithmeticOverflow(_)
                    | ArrowError::CastError(_)
                    | ArrowError::ParseError(_)
                    | ArrowError::ComputeError(_)
                    | ArrowError::InvalidArgumentError(_)
            ),
            _ => false,
        };
        match Self::from(error) {
            Self::Execution(why) if is_of_values => Self::Values(why),
            error => error,
        }
    }
}

impl From<MetadataError> for QueryError {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::Expired => Self::SnapshotExpired,
            error => Self::Metadata(error),
        }
    }
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        // What is around it names the engine's own steps.
        let root = error.find_root();
        let text = with_causes(root.strip_backtrace(), root);
        match root {
            DataFusionError::SQL(error, _) => Self::Parse(match &**error {
                ParserError::TokenizerError(said) | ParserError::ParserError(said) => said.clone(),
                ParserError::RecursionLimitExceeded => "it is nested too deep".to_owned(),
            }),
            DataFusionError::Plan(_)
            | DataFusionError::SchemaError(..)
            | DataFusionError::NotImplemented(_)
            | DataFusionError::Configuration(_)
            | DataFusionError::Diagnostic(..) => Self::Plan(text),
            DataFusionError::ResourcesExhausted(_) => Self::Resources(text),
            DataFusionError::ArrowError(..) | DataFusionError::External(_) if is_overflow(&text) => {
                Self::Resources(TOO_LONG.into())
            }
            DataFusionError::ObjectStore(source)
                if matches!(**source, object_store::Error::NotFound { .. }) =>
            {
                Self::SnapshotExpired
            }
            _ if is_missing_object(&error) => Self::SnapshotExpired,
            _ if is_pattern(&text) => Self::Values(pattern(&text)),
            _ => Self::Execution(text),
        }
    }
}

/// Whether an error of a column is that it is too long; the engine has several words for it.
fn is_overflow(text: &str) -> bool {
    text.to_ascii_lowercase().contains("offset overflow")
}

/// Whether an error is one of a regular expression; the engine takes some for its own.
fn is_pattern(text: &str) -> bool {
    text.contains("Regular expression did not compile") || is_large_pattern(text)
}

fn is_large_pattern(text: &str) -> bool {
    text.contains("CompiledTooBig") || text.contains("Compiled regex exceeds size limit")
}

/// What is wrong with a regular expression.
fn pattern(text: &str) -> String {
    if is_large_pattern(text) {
        return "a regular expression is too large: let it repeat less".into();
    }
    let said = text.split_once("did not compile: ").map_or(text, |(_, said)| said);
    let said = said.split("\nThis issue was likely caused").next().unwrap_or(said);
    format!("a regular expression is not valid: {said}")
}

/// What an error says and its causes do, in one line, each said once. `said` is the error's own text.
pub fn with_causes(said: String, error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source()).fold(said, |text, cause| {
        let said = cause.to_string();
        if text.contains(&said) { text } else { format!("{text}: {said}") }
    })
}

/// Whether a missing object, or one that was collected, is somewhere in the chain of causes: readers wrap it
/// in errors of their own.
fn is_missing_object(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(object_store::Error::NotFound { .. }) = error.downcast_ref() {
            return true;
        }
        if let Some(MetadataError::Expired) = error.downcast_ref() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;

    #[derive(Debug, Error)]
    #[error("the store did not answer")]
    struct Store(#[source] io::Error);

    #[test]
    fn an_error_is_told_with_all_its_causes_each_once() {
        let refused = || Store(io::Error::other("connection refused"));
        let external = || DataFusionError::External(Box::new(refused()));
        let step = DataFusionError::Context("a step of the engine".into(), Box::new(external()));
        let reader = ArrowError::ExternalError(Box::new(refused()));
        for (error, expected) in [
            (external(), "External error: the store did not answer: connection refused"),
            (step, "External error: the store did not answer: connection refused"),
            (
                DataFusionError::Shared(Arc::new(DataFusionError::from(reader))),
                "Arrow error: External error: the store did not answer: connection refused",
            ),
            (DataFusionError::IoError(io::Error::other("the disk is full")), "IO error: the disk is full"),
        ] {
            let QueryError::Execution(why) = QueryError::from(error) else { panic!("{expected}") };
            assert_eq!(why, expected);
        }
    }

    #[test]
    fn what_rows_have_no_answer_for_is_told_from_what_went_wrong() {
        for (error, is_of_values) in [
            (DataFusionError::from(ArrowError::DivideByZero), true),
            (DataFusionError::Execution("`0x1` is not a `0x` text of bytes".into()), true),
            (DataFusionError::from(ArrowError::ExternalError(io::Error::other("the disk").into())), false),
            (DataFusionError::IoError(io::Error::other("the disk")), false),
        ] {
            let error = QueryError::of_rows(error);
            assert_eq!(matches!(error, QueryError::Values(_)), is_of_values, "{error:?}");
        }
        for error in [
            DataFusionError::ResourcesExhausted("all".into()),
            DataFusionError::from(ArrowError::OffsetOverflowError(3 << 30)),
            DataFusionError::from(ArrowError::InvalidArgumentError("byte array offset overflow".into())),
        ] {
            let error = QueryError::of_rows(error);
            assert!(matches!(error, QueryError::Resources(_)), "{error:?}");
        }
        for (error, expected) in [
            (
                DataFusionError::Internal(
                    "failed to call 'regex_match_dyn_scalar' Compute error: Regular expression did not compile: \
                     CompiledTooBig(10485760)"
                        .into(),
                ),
                "too large",
            ),
            (
                DataFusionError::External("Compiled regex exceeds size limit of 10485760 bytes.".into()),
                "too large",
            ),
            (DataFusionError::Internal("Regular expression did not compile: Syntax(x)".into()), "Syntax(x)"),
        ] {
            let error = QueryError::of_rows(error);
            assert!(matches!(&error, QueryError::Values(why) if why.contains(expected)), "{error:?}");
        }
        let panic = QueryError::of_panic("offset overflow").expect("no defect").to_string();
        assert!(panic.contains("more memory") && panic.contains("fewer rows"), "{panic}");
        assert!(QueryError::of_panic("index out of bounds").is_none());
    }
}

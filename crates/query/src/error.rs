//! Errors of queries, named by what the asker does next.

use datafusion::{error::DataFusionError, sql::sqlparser::parser::ParserError};
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
    /// Anything else that went wrong while the query ran.
    #[error("the query failed: {0}")]
    Execution(String),
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
        let text = error.find_root().strip_backtrace();
        match error.find_root() {
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
            DataFusionError::ObjectStore(source)
                if matches!(**source, object_store::Error::NotFound { .. }) =>
            {
                Self::SnapshotExpired
            }
            _ if is_missing_object(&error) => Self::SnapshotExpired,
            _ => Self::Execution(text),
        }
    }
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

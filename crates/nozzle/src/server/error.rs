//! What a client is told when a query has no answer: the same reasons over HTTP and gRPC.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use nozzle_query::{QueryError, with_causes};
use serde_json::{Value, json};
use tonic::{Code, Status};

/// An error as both interfaces tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Stable, for programs.
    pub code: ErrorCode,
    /// For people: what is wrong and what to do.
    pub message: String,
}

/// The reasons that a client can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The text is not SQL.
    SqlParseError,
    /// It is SQL but cannot be planned.
    InvalidPlan,
    /// It names a table that is not there.
    TableNotFound,
    /// The data of its snapshot is gone.
    SnapshotExpired,
    /// A limit of memory or disk was reached.
    ResourcesExhausted,
    /// It took longer than a query may.
    QueryTimeout,
    /// The request itself is malformed.
    InvalidRequest,
    /// The request was too long on its way.
    RequestTimeout,
    /// The request is larger than is taken.
    PayloadTooLarge,
    /// No token, or one that is not known.
    Unauthorized,
    /// The token's role does not allow it.
    Forbidden,
    /// Anything else.
    ExecutionError,
}

impl ErrorCode {
    /// The code as answers write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SqlParseError => "SQL_PARSE_ERROR",
            Self::InvalidPlan => "INVALID_PLAN",
            Self::TableNotFound => "TABLE_NOT_FOUND_ERROR",
            Self::SnapshotExpired => "SNAPSHOT_EXPIRED",
            Self::ResourcesExhausted => "RESOURCES_EXHAUSTED",
            Self::QueryTimeout => "QUERY_TIMEOUT",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::RequestTimeout => "REQUEST_TIMEOUT",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Forbidden => "FORBIDDEN",
            Self::ExecutionError => "EXECUTION_ERROR",
        }
    }

    /// The status of HTTP that goes with it.
    pub fn http(self) -> StatusCode {
        match self {
            Self::SqlParseError | Self::InvalidPlan | Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::TableNotFound => StatusCode::NOT_FOUND,
            Self::SnapshotExpired => StatusCode::GONE,
            Self::ResourcesExhausted => StatusCode::SERVICE_UNAVAILABLE,
            Self::QueryTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::ExecutionError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn grpc(self) -> Code {
        match self {
            Self::SqlParseError | Self::InvalidPlan | Self::InvalidRequest => Code::InvalidArgument,
            Self::TableNotFound => Code::NotFound,
            Self::ResourcesExhausted | Self::PayloadTooLarge => Code::ResourceExhausted,
            Self::QueryTimeout | Self::RequestTimeout => Code::DeadlineExceeded,
            Self::Unauthorized => Code::Unauthenticated,
            Self::Forbidden => Code::PermissionDenied,
            Self::SnapshotExpired | Self::ExecutionError => Code::Internal,
        }
    }
}

impl ApiError {
    /// An error of the request itself.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The error as a JSON object.
    pub fn to_json(&self) -> Value {
        json!({ "error_code": self.code.as_str(), "error_message": self.message })
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let code = match &error {
            QueryError::Parse(_) => ErrorCode::SqlParseError,
            QueryError::Plan(_) => ErrorCode::InvalidPlan,
            QueryError::TableNotFound(_) => ErrorCode::TableNotFound,
            QueryError::SnapshotExpired => ErrorCode::SnapshotExpired,
            QueryError::Resources(_) => ErrorCode::ResourcesExhausted,
            QueryError::Metadata(_) | QueryError::Values(_) | QueryError::Execution(_) => {
                ErrorCode::ExecutionError
            }
        };
        // What somebody asks in vain is nothing that whoever runs the server has to mend.
        match &error {
            QueryError::Values(_) => tracing::debug!(%error, "a query failed for its values"),
            _ if code == ErrorCode::ExecutionError => tracing::error!(%error, "a query failed"),
            _ => {}
        }
        Self { code, message: with_causes(error.to_string(), &error) }
    }
}

/// A message that goes into the trailers of gRPC, of which clients take some 8 KiB.
fn shortened(mut message: String) -> String {
    const MOST_BYTES: usize = 4 << 10;
    if message.len() > MOST_BYTES {
        let end = (0..=MOST_BYTES).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.code.http(), Json(self.to_json())).into_response()
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        Status::new(error.code.grpc(), shortened(error.message))
    }
}

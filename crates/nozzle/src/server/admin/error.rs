//! Why the Admin API did not do what was asked.

use axum::{
    Json,
    extract::rejection::QueryRejection,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use nozzle_metadata::MetadataError;
use nozzle_query::QueryError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{report::one_line, server::error::ApiError};

/// An error, as every route tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct AdminError {
    /// Stable, for programs.
    #[schema(value_type = String, example = "DATASET_NOT_FOUND")]
    error_code: &'static str,
    /// For people: what is wrong and what to do.
    error_message: String,
    #[serde(skip)]
    status: StatusCode,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $status:ident $code:literal;)+) => {
        /// The codes that only the Admin API has.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            fn parts(self) -> (StatusCode, &'static str) {
                match self {
                    $(Self::$name => (StatusCode::$status, $code),)+
                }
            }
        }
    };
}

codes! {
    /// The body is not what the route takes.
    InvalidPayload BAD_REQUEST "INVALID_PAYLOAD_FORMAT";
    /// A parameter, or a value in the body, is not one that it can have.
    InvalidRequest BAD_REQUEST "INVALID_REQUEST";
    /// The manifest lacks a key or has one of a wrong type.
    InvalidManifest BAD_REQUEST "INVALID_MANIFEST";
    /// The manifest is well-formed, and names what is not there.
    ManifestValidation BAD_REQUEST "MANIFEST_VALIDATION_ERROR";
    /// Datasets of this kind cannot be extracted.
    UnsupportedKind BAD_REQUEST "UNSUPPORTED_DATASET_KIND";
    /// The provider's keys are not those of its kind.
    InvalidProvider BAD_REQUEST "INVALID_PROVIDER";
    /// The name or version in the path is none.
    InvalidSelector BAD_REQUEST "INVALID_SELECTOR";
    /// The job id is no number.
    InvalidJobId BAD_REQUEST "INVALID_JOB_ID";
    /// The location id is no number.
    InvalidLocationId BAD_REQUEST "INVALID_LOCATION_ID";
    /// The file id is no number.
    InvalidFileId BAD_REQUEST "INVALID_FILE_ID";
    /// The database or the store can only be read.
    ReadOnly FORBIDDEN "READ_ONLY";
    /// There is no such route.
    NotFound NOT_FOUND "NOT_FOUND";
    /// The route is not for this method.
    MethodNotAllowed METHOD_NOT_ALLOWED "METHOD_NOT_ALLOWED";
    /// There is no such dataset, or version of it.
    DatasetNotFound NOT_FOUND "DATASET_NOT_FOUND";
    /// There is no such table.
    TableNotFound NOT_FOUND "TABLE_NOT_FOUND";
    /// There is no such job.
    JobNotFound NOT_FOUND "JOB_NOT_FOUND";
    /// There is no such worker.
    WorkerNotFound NOT_FOUND "WORKER_NOT_FOUND";
    /// There is no such location.
    LocationNotFound NOT_FOUND "LOCATION_NOT_FOUND";
    /// There is no such file.
    FileNotFound NOT_FOUND "FILE_NOT_FOUND";
    /// There is no such provider.
    ProviderNotFound NOT_FOUND "PROVIDER_NOT_FOUND";
    /// The name and version have another manifest.
    DatasetExists CONFLICT "DATASET_ALREADY_EXISTS";
    /// Another dump of the dataset is under way.
    ActiveJob CONFLICT "ACTIVE_JOB_CONFLICT";
    /// Other datasets are made of it.
    DatasetInUse CONFLICT "DATASET_IN_USE";
    /// The job's status does not allow it.
    JobConflict CONFLICT "JOB_CONFLICT";
    /// No worker can do jobs of this database.
    NoWorker CONFLICT "NO_WORKER";
    /// The revision is the one that is read.
    ActiveLocation CONFLICT "ACTIVE_LOCATION_CONFLICT";
    /// The revision is being written.
    OngoingJob CONFLICT "ONGOING_JOB_CONFLICT";
    /// The name is another provider's.
    ProviderExists CONFLICT "PROVIDER_ALREADY_EXISTS";
    /// A file defines the provider.
    ProviderConflict CONFLICT "PROVIDER_CONFLICT";
    /// The metadata database is away.
    Unavailable SERVICE_UNAVAILABLE "UNAVAILABLE";
    /// A defect, of the program or of what is stored.
    Internal INTERNAL_SERVER_ERROR "INTERNAL_ERROR";
}

impl AdminError {
    /// An error with what to do.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (status, error_code) = code.parts();
        Self { error_code, error_message: message.into(), status }
    }
}

impl From<MetadataError> for AdminError {
    fn from(error: MetadataError) -> Self {
        let code = match &error {
            MetadataError::ReadOnly { .. } => Code::ReadOnly,
            MetadataError::Unavailable { .. } => Code::Unavailable,
            MetadataError::Refused(_) | MetadataError::Dependency(_) | MetadataError::LeaseEnded(_) => {
                Code::InvalidRequest
            }
            MetadataError::Expired => Code::Unavailable,
            MetadataError::Schema(_) | MetadataError::Corrupt { .. } | MetadataError::Failed { .. } => {
                tracing::error!(%error, "a request failed");
                Code::Internal
            }
        };
        Self::new(code, one_line(&error.into()))
    }
}

impl From<anyhow::Error> for AdminError {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<MetadataError>() {
            Ok(error) => error.into(),
            Err(error) => {
                tracing::error!("a request failed: {}", one_line(&error));
                Self::new(Code::Internal, one_line(&error))
            }
        }
    }
}

impl From<ApiError> for AdminError {
    fn from(error: ApiError) -> Self {
        Self { error_code: error.code.as_str(), status: error.code.http(), error_message: error.message }
    }
}

impl From<QueryError> for AdminError {
    fn from(error: QueryError) -> Self {
        ApiError::from(error).into()
    }
}

impl From<QueryRejection> for AdminError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Code::InvalidRequest, rejection.body_text())
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}

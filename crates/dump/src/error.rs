//! Errors of a dump, named by what the caller does next.

use nozzle_core::BlockNum;
use nozzle_metadata::{CommitError, HeldLease, MetadataError};
use nozzle_query::stores::StoreError;
use nozzle_sources::SourceError;
use thiserror::Error;

/// Why a dump ended before its goal. What was committed until then stays.
#[derive(Debug, Error)]
pub enum DumpError {
    /// The source failed; running the same command again goes on.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The metadata database failed.
    #[error(transparent)]
    Metadata(MetadataError),
    /// A commit was refused for a reason that another round cannot mend.
    #[error("the blocks could not be committed")]
    Commit(#[source] CommitError),
    /// A file could not be written or read.
    #[error("{what} failed")]
    Store {
        /// What was tried, with the path.
        what: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A live writer has all of the blocks that were wanted.
    #[error("blocks {} are being written by {}; wait for it to end, or stop it", .0.lease.range, .0.holder)]
    Held(Box<HeldLease>),
    /// The provider serves another chain than the one that is stored.
    #[error(
        "the provider `{provider}` is on another chain than the stored one: from block {from} on its blocks are not those that are stored up to {stored}, though they were final. Check the provider's URL; to discard what is stored and begin again, use --fresh"
    )]
    OtherChain {
        /// The provider's name.
        provider: String,
        /// The highest stored block.
        stored: BlockNum,
        /// The first block in which the chains differ.
        from: BlockNum,
    },
    /// The request does not fit what is there.
    #[error("{0}")]
    Refused(String),
    /// The lease was lost to another writer.
    #[error(
        "another writer has taken over the blocks of this dump after it had been silent for too long; run it again to go on"
    )]
    LeaseLost,
    /// The provider shows another chain each time it is asked: another one, or later, may be better.
    #[error("{0}")]
    Unsteady(String),
    /// Only final blocks are wanted, and the chain has none yet.
    #[error("the chain has no final block yet; leave out --only-finalized-blocks, or try again later")]
    NoFinalBlock,
}

impl DumpError {
    /// Whether the same may succeed later without anybody's doing: a node, a database or a far store is
    /// away.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Source(error) => error.may_pass(),
            Self::Metadata(error) => matches!(error, MetadataError::Unavailable { .. }),
            Self::Store { source, .. } => is_away(source.as_ref()),
            _ => false,
        }
    }

    /// The error and its causes in one line, each said once.
    pub fn with_causes(&self) -> String {
        nozzle_query::with_causes(self.to_string(), self)
    }

    /// A failure of the object store, with what was tried.
    pub fn store(what: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Store { what: what.into(), source: Box::new(source) }
    }
}

/// Whether a far store has failed in another way than by refusing: it was asked for minutes then.
fn is_away(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.any(|cause| {
        let failure = cause.downcast_ref();
        matches!(failure, Some(object_store::Error::Generic { store, .. }) if *store != "LocalFileSystem")
    })
}

impl From<MetadataError> for DumpError {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::LeaseEnded(_) => Self::LeaseLost,
            error => Self::Metadata(error),
        }
    }
}

impl From<StoreError> for DumpError {
    fn from(error: StoreError) -> Self {
        Self::store("opening the store", error)
    }
}

#[cfg(test)]
mod tests {
    use object_store::Error::{Generic, NotFound};

    use super::*;

    #[test]
    fn a_far_store_that_is_away_may_come_back_and_a_full_disk_does_not() {
        let failed = |error: object_store::Error| DumpError::store("writing", error).may_pass();
        let generic = |store| Generic { store, source: "it broke".into() };
        assert!(failed(generic("S3")) && failed(generic("MicrosoftAzure")));
        assert!(!failed(generic("LocalFileSystem")));
        assert!(!failed(NotFound { path: "x".into(), source: "gone".into() }));
        let read = parquet::errors::ParquetError::External(Box::new(generic("GCS")));
        assert!(DumpError::store("reading", read).may_pass());
    }
}

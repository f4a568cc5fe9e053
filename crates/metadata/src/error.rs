//! Errors, named by what the caller does next.

use nozzle_core::{BlockHash, BlockNum, BlockRange, TableName};
use thiserror::Error;

use crate::model::{LeaseId, SegmentId};

/// The result of a call to the metadata store.
pub type Result<T, E = MetadataError> = std::result::Result<T, E>;

/// Why the metadata store did not do what was asked.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// The database cannot be reached or is busy: ask again.
    #[error("the metadata database {database} cannot be reached")]
    Unavailable {
        /// The database, without secrets.
        database: String,
        /// What the driver said.
        source: sqlx::Error,
    },
    /// The database can only be read here.
    #[error("the metadata database {database} cannot be written to here: it is read-only")]
    ReadOnly {
        /// The database, without secrets.
        database: String,
    },
    /// The request contradicts what is stored: asking again does not help.
    #[error("{0}")]
    Refused(String),
    /// A dataset would be made of one that is not registered: register, or remove, that one first.
    #[error("{0}")]
    Dependency(String),
    /// The lease has ended, or there never was one: stop writing its blocks.
    #[error("the lease {0} has ended")]
    LeaseEnded(LeaseId),
    /// Segments that a scan's moment saw have been collected: take a new snapshot.
    #[error("what was stored at that moment has been collected meanwhile")]
    Expired,
    /// The database's schema is not this program's.
    #[error("{0}")]
    Schema(String),
    /// The database holds something that it cannot hold, or the file is damaged.
    #[error("the metadata database {database} is damaged: {what}")]
    Corrupt {
        /// The database, without secrets.
        database: String,
        /// What was found.
        what: String,
    },
    /// The database refused a statement for a reason that is none of the above.
    #[error("the metadata database {database} failed")]
    Failed {
        /// The database, without secrets.
        database: String,
        /// What the driver said.
        source: sqlx::Error,
    },
}

/// Why a commit was refused. Nothing of it has happened.
#[derive(Debug, Error)]
pub enum CommitError {
    /// The lease has ended or another holder has taken it: stop writing its range.
    #[error("the lease {0} has ended: another writer has taken over its blocks")]
    LeaseLost(LeaseId),
    /// The commit is not one that this lease allows, or is malformed in itself: a defect of the
    /// writer, not of the data.
    #[error("the commit is not valid: {0}")]
    Invalid(String),
    /// A new segment does not link to the live segment beside it: read both boundary blocks again
    /// and replace the stale side.
    #[error(
        "blocks {below} and {above} of table `{table}` do not link: the hash below is {hash_below}, the parent hash above is {parent_hash_above}",
        above = below + 1
    )]
    NotLinked {
        /// The table.
        table: TableName,
        /// The last block of the lower segment.
        below: BlockNum,
        /// That block's hash.
        hash_below: BlockHash,
        /// The parent hash that the upper segment's first block names.
        parent_hash_above: BlockHash,
    },
    /// A new segment covers blocks that a live segment, not among the replaced ones, has already.
    #[error("blocks {range} of table `{table}` are already stored")]
    AlreadyStored {
        /// The table.
        table: TableName,
        /// The blocks of the live segment.
        range: BlockRange,
    },
    /// A segment to be replaced is no longer live: read the segments again and plan anew.
    #[error("the segment {0} has already been replaced")]
    NotLive(SegmentId),
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] MetadataError),
}

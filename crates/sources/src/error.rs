//! Errors, named by what the caller does next.

use nozzle_core::{BlockHash, BlockNum};
use thiserror::Error;

/// Why a source did not give what was asked for. Each names the provider; none holds a secret.
#[derive(Debug, Error)]
pub enum SourceError {
    /// It may work later: ask again.
    #[error("a request to the provider `{provider}` failed")]
    Unavailable {
        /// The provider's name.
        provider: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The block is not there, though the head is at or above it: ask again, it may be on its way
    /// or was just reorganised away.
    #[error("the provider `{provider}` does not have {what} of block {block}")]
    Missing {
        /// The provider's name.
        provider: String,
        /// The block.
        block: BlockNum,
        /// What is missing: `the block` or `the receipts`.
        what: &'static str,
    },
    /// The block does not follow the one before it: the chain was reorganised while it was read.
    #[error("block {block} does not follow the block before it: its parent is {found}, not {expected}")]
    NotLinked {
        /// The block.
        block: BlockNum,
        /// The hash of the block before it.
        expected: BlockHash,
        /// The parent hash that the block names.
        found: BlockHash,
    },
    /// The answer is not what it must be. Another provider may do better; the block is not written.
    #[error("the provider `{provider}` sent a bad block {block}: {why}")]
    Malformed {
        /// The provider's name.
        provider: String,
        /// The block.
        block: BlockNum,
        /// What is wrong with it, and what to do where there is something to do.
        why: String,
    },
    /// Asking again does not help: the wrong chain, bad credentials, an unknown method.
    #[error("the provider `{provider}` cannot be used: {why}")]
    Refused {
        /// The provider's name.
        provider: String,
        /// Why, and what to do.
        why: String,
    },
}

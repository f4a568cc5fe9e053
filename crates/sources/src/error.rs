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
    /// It wants fewer requests, and nothing else has come of asking it again: ask another one, or later.
    #[error("the provider `{provider}` pushes back: {why}")]
    PushedBack {
        /// The provider's name.
        provider: String,
        /// In its words.
        why: String,
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
    /// The provider is one of another chain.
    #[error("the provider `{provider}` serves another chain: {why}")]
    OtherChain {
        /// The provider's name.
        provider: String,
        /// Which, and what to do.
        why: String,
    },
    /// Each of several providers has failed.
    #[error("no provider could answer: {}", each(.failures))]
    AllFailed {
        /// What each of them has failed with, in the order in which they were asked.
        failures: Vec<SourceError>,
    },
}

impl SourceError {
    /// Whether asking again later may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::PushedBack { .. } | Self::Missing { .. } => true,
            Self::AllFailed { failures } => failures.iter().any(Self::may_pass),
            Self::NotLinked { .. }
            | Self::Malformed { .. }
            | Self::Refused { .. }
            | Self::OtherChain { .. } => false,
        }
    }

    /// Whether nobody who was asked has the block, and nothing else has failed.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing { .. } => true,
            Self::AllFailed { failures } => failures.iter().all(Self::is_missing),
            _ => false,
        }
    }

    /// The error of a request that was for a block.
    pub(crate) fn of_block(self, block: BlockNum) -> Self {
        match self {
            Self::Unavailable { provider, source } => {
                Self::Unavailable { provider, source: format!("block {block}: {source}").into() }
            }
            Self::PushedBack { provider, why } => {
                Self::PushedBack { provider, why: format!("block {block}: {why}") }
            }
            Self::Refused { provider, why } => {
                Self::Refused { provider, why: format!("{why} (it was asked for block {block})") }
            }
            names_it => names_it,
        }
    }

    /// The error and its causes in one line.
    pub fn with_causes(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes.fold(self.to_string(), |text, cause| format!("{text}: {cause}"))
    }
}

fn each(failures: &[SourceError]) -> String {
    failures.iter().map(SourceError::with_causes).collect::<Vec<_>>().join("; ")
}

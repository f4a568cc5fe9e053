//! Where blocks come from.
//!
//! A [`BlockSource`] streams the rows of a block range, in order, and knows the head. One folder a
//! source; what they share lies beside them.

pub mod beacon;
mod budget;
pub mod error;
pub mod evm;
pub mod evm_rpc;
pub mod failover;
pub mod firehose;
pub mod grpc;
mod head;
mod http;
pub mod limit;
mod ordered;
mod pb;
mod remaining;
pub mod retry;
mod secrets;
mod skips;
pub mod source;
pub mod stored;
pub mod substreams;
#[cfg(test)]
mod testing;

pub use error::SourceError;
pub use failover::Failover;
pub use limit::{LimitOptions, Throttle};
pub use retry::{Retry, RetryPolicy};
pub use source::{BlockRows, BlockSource, Chain, Decoded, Head, MadeOf, Place, SharedSource, TableRows};

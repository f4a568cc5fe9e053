//! The words of the system: blocks, ranges, names, manifests, schemas, segments and the chain
//! they form.
//!
//! Nothing here does I/O or waits: values are checked once where they enter and carry the proof
//! in their type afterwards. Every other crate speaks in these words.
//!
//! ```text
//!  manifest ──► dataset ──► tables (schema)
//!                              │
//!                 segments: [ 0..99 ]─hash─[ 100..199 ]─hash─[ 200..200 ]   (chain)
//! ```

pub mod block;
pub mod call;
pub mod chain;
pub mod dataset;
pub mod derived;
pub mod layout;
pub mod manifest;
pub mod name;
pub mod range;
pub mod schema;
pub mod segment;

pub use block::{BlockHash, BlockId, BlockNum, SourceCursor};
pub use call::{CallBlock, CallOutcome, ContractCall};
pub use dataset::DatasetKind;
pub use name::{DatasetName, DatasetRef, DatasetVersion, Network, ProviderName, TableName};
pub use range::BlockRange;
pub use schema::TableDef;
pub use segment::{RevisionId, SourceRevisions, Span};

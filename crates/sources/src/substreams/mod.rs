//! The output of a Substreams module, with tables that come from the package.
//!
//! ```text
//!  .spkg ─► package (modules) ─► descriptors ─► shape ──┐
//!              └► sink config ─► sql, graphql ──────────┴─► layout: tables, and how they are filled
//!                                                             │
//!  endpoint ─► client ─► stream (block by block) ─► decode ─► columns, changes ─► BlockRows
//!                └► head (a stream that is kept at the head)
//! ```
//!
//! Everything here is read from foreign bytes. Nothing is sized by what they claim: fields are found by
//! searching their numbers, messages within messages are counted, and a block's rows have a budget of memory.
//!
//! Descriptors are resolved, and messages decoded, by own code and not by a library of dynamic messages:
//! a package's files may be incomplete where it does not matter, and rows are built from the bytes without a
//! tree of values in between.

mod block_id;
mod changes;
mod client;
mod columns;
mod decode;
mod descriptors;
mod entity_value;
mod found;
mod graphql;
mod head;
mod layout;
mod names;
mod numbers;
mod order;
mod package;
mod shape;
mod source;
mod sql;
mod stream;
mod values;
mod weight;
mod wire;

pub use decode::{Decoder, ModuleOutput};
pub use layout::tables;
pub use package::{MAX_PACKAGE_BYTES, Module, ModuleKind, Package, PackageError};
pub use source::{Substreams, SubstreamsConfig};

#[cfg(test)]
mod tests;

//! The output of a Substreams module, with tables that come from the package.
//!
//! ```text
//!  .spkg ─► package (modules) ─► descriptors ─► shape ──┐
//!              └► sink config ─► sql, graphql ──────────┴─► layout: tables, and how they are filled
//!                                                             │
//!  outputs of the module, block by block ─► decode ─► columns, changes ─► BlockRows
//! ```
//!
//! Everything here is read from foreign bytes. Nothing is sized by what they claim: fields are found by
//! searching their numbers, messages within messages are counted, and a block's rows have a budget of memory.
//!
//! Descriptors are resolved, and messages decoded, by own code and not by a library of dynamic messages:
//! a package's files may be incomplete where it does not matter, and rows are built from the bytes without a
//! tree of values in between.

mod changes;
mod columns;
mod decode;
mod descriptors;
mod entity_value;
mod found;
mod graphql;
mod layout;
mod names;
mod numbers;
mod package;
mod shape;
mod sql;
mod values;
mod wire;

pub use decode::{Decoder, ModuleOutput};
pub use layout::tables;
pub use package::{MAX_PACKAGE_BYTES, Module, ModuleKind, Package, PackageError};

#[cfg(test)]
mod tests;

//! What is remembered: datasets and their manifests, providers, revisions, segments, leases and
//! finality, in SQLite (one machine) or PostgreSQL (many).
//!
//! [`MetadataStore`] is the contract; each of its methods is one transaction on domain objects and
//! no transaction type leaves the crate. `conformance/` holds it against both databases.
//!
//! ```text
//!  dataset ─► revision (building | active | retired) ─► location (one table)
//!                 ▲                                        │
//!               lease (range, fence) ── commit ──► segment (span, file, added_seq, replaced_seq)
//! ```

mod error;
mod fault;
mod hints;
mod model;
mod open;
mod postgres;
mod rows;
mod schema;
mod sql;
mod sqlite;
mod store;
mod validate;

#[cfg(test)]
mod conformance;

pub use error::{CommitError, MetadataError, Result};
pub use model::*;
pub use open::{MetadataConfig, Migrated, migrate, open};
pub use store::MetadataStore;

//! Reads: SQL over snapshots of committed segments.
//!
//! A query takes one snapshot before it is planned and sees that moment to its end. Each table of
//! the snapshot's active revisions is a [`table::SegmentTable`], which asks the metadata for just
//! the segments that the query's block range touches and hands their files to DataFusion's Parquet
//! scan, in declared order.
//!
//! ```text
//!  SQL ─► Engine::session ─► snapshot ─► plan ─► SegmentTable::scan(range) ─► metadata: segments
//!                                                       └► files, footers ─► Parquet scan ─► rows
//! ```

mod ahead;
pub mod bounds;
pub mod cache;
pub mod calls;
pub mod catalog;
mod chain;
mod clauses;
mod depth;
pub mod derive;
mod equality;
pub mod error;
mod feed;
pub mod footers;
pub mod gaps;
pub mod incremental;
mod inlined;
mod links;
mod literals;
mod memory;
mod names;
pub mod nearest;
mod parameters;
mod pauses;
pub mod plain;
mod prune;
mod ranges;
mod references;
pub mod session;
mod spread;
pub mod stores;
pub mod stream;
pub mod table;
mod udf;
mod watched;
mod widths;
mod windows;

pub use cache::ReadCache;
pub use calls::ContractCaller;
pub use chain::Chain;
pub use datafusion::{execution::SendableRecordBatchStream as Rows, logical_expr::LogicalPlan};
pub use derive::{KnownTable, TableQuery};
pub use error::{QueryError, with_causes};
pub use gaps::Gaps;
pub use incremental::Incremental;
pub use session::{Engine, EngineConfig, Session, asks_for_stream};
pub use stores::{OpenedStore, Stores};
pub use stream::{QueryStream, StreamItem, StreamOptions, StreamRange};
pub use udf::{RowsHash, functions};

//! Writes: plans what is missing, extracts it and commits it.
//!
//! ```text
//!  head ─► reorg? ─► repair ┐
//!            │              ├─► lease ─► source rows ─► Parquet files ─► commit ─► next round
//!            └─► missing ───┘
//! ```
//!
//! A dump goes in rounds. Each reads the head and the stored spans anew, does one thing about them
//! (repairs what a reorg orphaned, or extracts what is missing) and commits as it goes, so that a
//! crash at any moment costs only what was not committed yet.
//!
//! `compact` makes few segments of many, and `collect` deletes what nobody needs any more.
//!
//! `check` reads what was written and says what is wrong with it, `repair` puts new segments in the place
//! of bad ones.

pub mod check;
pub mod collect;
pub mod commit;
pub mod compact;
mod cursor;
pub mod derived;
pub mod error;
pub mod files;
pub mod job;
pub mod lease;
pub mod observe;
pub mod parquet;
mod pieces;
pub mod plan;
pub mod raw;
mod recompute;
pub mod reorg;
pub mod repair;
pub mod restore;
pub mod revision;
pub mod rewrite;
mod round;
mod run;
pub mod strays;
mod upload;
pub mod writer;

pub use check::{Check, CheckReport, Finding};
pub use compact::{Compaction, Policy};
pub use error::DumpError;
pub use observe::{Event, Observer, Summary};
pub use parquet::{Compression, ParquetOptions};
pub use raw::{DumpOptions, EndBlock, Outlook, Part, RawDump};
pub use repair::{Repair, RepairEnd};

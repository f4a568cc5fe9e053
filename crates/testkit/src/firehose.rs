//! A Firehose endpoint that serves real blocks from files, or made ones, with all that makes streams hard:
//! forks, disconnects, messages that come again or late, and cursors that say nothing.

mod chain;
mod files;
mod made;
mod server;

#[allow(missing_docs, clippy::all)]
pub mod pb {
    //! The messages, made from the files in `crates/sources/proto`.
    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}

pub use chain::Served;
pub use files::read;
pub use made::{fork, made, made_on};
pub use server::{FirehoseServer, Options};

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

#[allow(missing_docs, clippy::all)]
pub mod pb_bytes {
    //! The messages of blocks again, whose bytes are pieces of the message that they were read from.
    include!(concat!(env!("OUT_DIR"), "/bytes/pb.rs"));
}

pub use chain::Served;
pub use files::{read, read_all};
pub use made::{fork, made, made_on};
pub use server::{FirehoseServer, Options};

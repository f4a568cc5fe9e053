//! The messages of `sf.substreams.rpc.v2`, written down once more: a slip in the client's own is found.
//!
//! Names and tags as published: github.com/streamingfast/substreams, `proto/sf/substreams/rpc/v2`.

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(int64, tag = "1")]
    pub start_block_num: i64,
    #[prost(string, tag = "2")]
    pub start_cursor: String,
    #[prost(uint64, tag = "3")]
    pub stop_block_num: u64,
    #[prost(bool, tag = "4")]
    pub final_blocks_only: bool,
    #[prost(bool, tag = "5")]
    pub production_mode: bool,
    #[prost(string, tag = "6")]
    pub output_module: String,
    #[prost(bytes = "vec", tag = "7")]
    pub modules: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(oneof = "Said", tags = "1, 2, 3, 4, 5")]
    pub message: Option<Said>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Said {
    #[prost(message, tag = "1")]
    Session(Session),
    #[prost(message, tag = "2")]
    Progress(Progress),
    #[prost(message, tag = "3")]
    Data(Data),
    #[prost(message, tag = "4")]
    Undo(Undo),
    #[prost(message, tag = "5")]
    Failed(Failed),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Session {
    #[prost(string, tag = "1")]
    pub trace_id: String,
    #[prost(uint64, tag = "2")]
    pub resolved_start_block: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Progress {
    #[prost(message, repeated, tag = "2")]
    pub running_jobs: Vec<Job>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Job {
    #[prost(uint32, tag = "1")]
    pub stage: u32,
    #[prost(uint64, tag = "4")]
    pub processed_blocks: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Data {
    #[prost(message, optional, tag = "1")]
    pub output: Option<Output>,
    #[prost(message, optional, tag = "2")]
    pub clock: Option<Clock>,
    #[prost(string, tag = "3")]
    pub cursor: String,
    #[prost(uint64, tag = "4")]
    pub final_block_height: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Output {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub map_output: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Clock {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(uint64, tag = "2")]
    pub number: u64,
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Undo {
    #[prost(message, optional, tag = "1")]
    pub last_valid_block: Option<BlockRef>,
    #[prost(string, tag = "2")]
    pub last_valid_cursor: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BlockRef {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(uint64, tag = "2")]
    pub number: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Failed {
    #[prost(string, tag = "1")]
    pub module: String,
    #[prost(string, tag = "2")]
    pub reason: String,
    #[prost(string, repeated, tag = "3")]
    pub logs: Vec<String>,
}

//! The messages of Firehose and Substreams, made from `proto` by the build script.

#![allow(missing_docs, clippy::all, clippy::doc_markdown)]

include!(concat!(env!("OUT_DIR"), "/pb.rs"));

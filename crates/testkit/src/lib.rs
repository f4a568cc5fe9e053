//! Real counterparts for tests: an EVM node, PostgreSQL clusters, object stores, a JSON-RPC replay
//! server, a provider and a store that cannot be trusted, and hosts that are far away or cut off.
//!
//! Everything listens on a free port of 127.0.0.1, keeps its files in a folder of its own, and ends
//! when its handle is dropped, also when a test fails. A missing component is an error that names
//! the command that installs it.

pub mod anvil;
pub mod beacon;
pub mod chain;
pub mod fault;
pub mod firehose;
pub mod host;
mod mainnet;
mod parallel;
pub mod parse;
pub mod postgres;
pub mod process;
pub mod replay;
pub mod rng;
pub mod rpc;
pub mod store;
pub mod substreams;
pub mod tcp;
mod tools;

//! The program as a stranger uses it: the real binary, real nodes, real databases. A module per
//! command and per promise.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so at once")]

mod admin;
mod architecture;
mod beacon;
mod bounded;
mod check;
mod clients;
mod cluster;
mod commands;
mod compaction;
mod concurrency;
mod contract_calls;
mod crash;
mod deploy;
mod derived;
mod distributed;
mod doctor;
mod documents;
mod errors;
mod faults;
mod firehose;
mod harness;
mod hostile;
mod limits;
mod object_stores;
mod providers;
mod readers;
mod rebuilt;
mod reorgs;
mod restore;
mod servers;
mod soak;
mod sql_logic;
mod stream_clients;
mod streams;
mod substreams;
mod tls;
mod transports;
mod truth;
mod upgrades;

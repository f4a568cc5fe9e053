//! What all sources of EVM blocks share: the tables, and the way from a node's answer to rows.
//!
//! ```text
//!  response bytes ──► json (borrowed text) ──► verify ──► columns (hex to buffers) ──► BlockRows
//!                                                │
//!                               full: encode ──► trie, bloom, senders
//! ```
//!
//! `stored` goes the way back, from rows to an answer, to check what was written.

pub(crate) mod blocks;
mod bloom;
pub(crate) mod columns;
mod derived;
mod encode;
pub(crate) mod full;
mod header;
pub(crate) mod hex;
pub(crate) mod json;
mod keccak;
pub(crate) mod lists;
pub(crate) mod logs;
pub(crate) mod needs;
mod render;
pub(crate) mod rlp;
pub mod rows;
mod senders;
pub mod stored;
pub mod tables;
pub(crate) mod transactions;
pub(crate) mod trie;
pub(crate) mod verify;
pub(crate) mod withdrawals;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use json::{Answer, RpcError};
pub use needs::TooFewColumns;
pub use rows::{Decoder, RawBlock};
pub(crate) use rows::{
    Problem, bytes_of_answer, hash_of_answer, id_of_answer, number_of_answer, transactions_of_answer,
};
pub use tables::tables;

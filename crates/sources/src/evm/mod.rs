//! What all sources of EVM blocks share: the tables, and the way from a node's answer to rows.
//!
//! ```text
//!  response bytes ──► json (borrowed text) ──► verify ──► columns (hex to buffers) ──► BlockRows
//!                                                │
//!                               full: encode ──► trie, bloom, senders
//! ```
//!
//! `stored` goes the way back, from rows to an answer, to check what was written.

mod blocks;
mod bloom;
mod columns;
mod derived;
mod encode;
mod full;
mod header;
mod hex;
mod json;
mod keccak;
mod lists;
mod logs;
mod needs;
mod render;
mod rlp;
pub mod rows;
mod senders;
pub mod stored;
pub mod tables;
mod transactions;
mod trie;
mod verify;
mod withdrawals;

#[cfg(test)]
mod tests;

pub(crate) use json::{Answer, RpcError};
pub use needs::TooFewColumns;
pub use rows::{Decoder, RawBlock};
pub(crate) use rows::{
    Problem, bytes_of_answer, hash_of_answer, id_of_answer, number_of_answer, transactions_of_answer,
};
pub use tables::tables;

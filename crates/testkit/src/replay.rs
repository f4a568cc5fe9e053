//! A JSON-RPC node that only repeats: recorded or generated blocks, over HTTP, much faster than any
//! real node, so that what is measured or tested is the one who asks.
//!
//! ```text
//!  Recording (file, live node or seed) ──► ReplayServer ──► http://127.0.0.1:PORT
//!                                            set_head, set_finalized, requests
//! ```
//!
//! An answer is the stored text between `{"jsonrpc":"2.0","id":…,"result":` and `}`; nothing is
//! serialised per request. It answers `eth_chainId`, `eth_blockNumber`, `eth_getBlockByNumber`,
//! `eth_getBlockByHash`, `eth_getBlockReceipts`, `eth_getLogs`, `eth_syncing`, `net_version` and
//! `web3_clientVersion`, alone and in batches, and -32601 to everything else. Logs are cut out of
//! the receipts when they are asked for first.

mod answer;
mod generated;
mod light;
mod logs;
mod recording;
mod server;
mod synthetic;

pub use self::{
    recording::Recording,
    server::{ReplayOptions, ReplayServer},
};

//! A beacon node for tests: it serves recorded answers, or a chain that is built from them, and can be
//! told to fail.

mod chain;
mod server;

pub use chain::{BeaconBlock, BeaconChain, Network, body};
pub use server::{BeaconFault, BeaconNode};

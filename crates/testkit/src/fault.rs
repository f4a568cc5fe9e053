//! A provider that cannot be trusted: a JSON-RPC proxy over HTTP that answers as the node behind it
//! does, but for the faults of its schedule.
//!
//! ```text
//!  client ──► FaultServer ──► the node
//!                │   └──────► a node of another chain
//!                └ Schedule: (seed, what is asked, how often it was) ─► fault or none
//! ```
//!
//! Which request meets which fault is decided by a pure function, [`Schedule::fault`], so that a
//! schedule can be played again, however the requests are timed: all that is kept is how often each
//! question was asked. The HTTP is written by hand, since it has to be broken where it hurts:
//! between two bytes of a body, or before the first one.

mod call;
mod forge;
mod http;
mod schedule;
mod server;
#[cfg(test)]
mod tests;

pub use self::{
    call::{Asked, What},
    schedule::{Fault, Schedule},
    server::{FaultServer, Fired},
};

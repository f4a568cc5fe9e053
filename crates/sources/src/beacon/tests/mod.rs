//! The source against recorded answers of real nodes, and against a node that fails in every way.
#![allow(clippy::unwrap_used)]

mod cells;
mod faults;
mod node;
mod real;
mod ssz;

use std::{path::PathBuf, sync::Arc};

use serde_json::{Value, json};

use super::{
    chain::Chain as Network,
    fetch::{RawBlock, RawSlot},
    rows::Decoder,
    *,
};

/// The folder of recorded answers. Where it is absent a test has nothing to look at and says so; on
/// the build machine that is a failure.
fn data(folder: &str) -> Option<PathBuf> {
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let path = std::env::var_os("NOZZLE_TEST_DATA").map_or(default, PathBuf::from).join(folder);
    if path.is_dir() {
        return Some(path);
    }
    let path = path.display();
    assert!(std::env::var_os("CI").is_none(), "the recorded answers are not in {path}: set NOZZLE_TEST_DATA");
    eprintln!("the recorded answers are not in {path}: nothing was checked; set NOZZLE_TEST_DATA");
    None
}

/// A network of these settings, whose genesis was at the second 1,606,824,023 as mainnet's.
fn network(spec: &Value) -> Arc<Network> {
    let genesis = json!({"data": {"genesis_time": "1606824023"}}).to_string();
    let spec = json!({"data": spec}).to_string();
    Arc::new(Network::of_answers(spec.as_bytes(), genesis.as_bytes()).unwrap())
}

/// A network of mainnet's sizes.
fn mainnet() -> Arc<Network> {
    network(&json!({"SECONDS_PER_SLOT": "12"}))
}

/// A block as a node sends it.
fn raw(chain: &Arc<Network>, header: &Value, block: &Value) -> RawSlot {
    let slot = block["data"]["message"]["slot"].as_str().unwrap().parse().unwrap();
    let raw = RawBlock { header: header.to_string().into(), block: block.to_string().into() };
    RawSlot { slot, chain: chain.clone(), block: Some(raw) }
}

fn decoder(verify: Verify) -> Decoder {
    Decoder::new("node", tables(), verify).unwrap()
}

fn good(decoded: Decoded) -> BlockRows {
    assert!(decoded.error.is_none(), "{:?}", decoded.error);
    decoded.rows.unwrap()
}

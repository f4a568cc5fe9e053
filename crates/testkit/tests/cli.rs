//! The program of the testkit, as scripts use it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so at once")]

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use nozzle_testkit::rpc::RpcClient;
use serde_json::json;

#[tokio::test]
async fn a_replay_says_where_it_listens_and_ends_with_its_input() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nozzle-testkit"))
        .args(["replay", "--synthetic", "12,3,2,1", "--chain-id", "1337"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let node = RpcClient::new(line.trim()).unwrap();
    assert_eq!(node.call("eth_chainId", json!([])).await.unwrap(), "0x539");
    assert_eq!(node.call("eth_blockNumber", json!([])).await.unwrap(), "0xb");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn an_anvil_mines_by_the_clock_and_a_database_is_empty() {
    let start = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nozzle-testkit"));
        let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim().to_owned())
    };
    let (mut anvil, url) = start(&["anvil", "--block-time", "1"]);
    let (mut database, database_url) = start(&["postgres"]);
    let node = RpcClient::new(url).unwrap();
    while node.call("eth_blockNumber", json!([])).await.unwrap() == "0x0" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(database_url.starts_with("postgres://postgres@127.0.0.1:"), "{database_url}");
    for child in [&mut anvil, &mut database] {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}

#[tokio::test]
async fn a_chain_like_mainnet_is_preloaded_and_measured() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nozzle-testkit"))
        .args(["replay", "--mainnet-like", "3", "--preload"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let node = RpcClient::new(line.trim()).unwrap();
    assert_eq!(node.call("eth_chainId", json!([])).await.unwrap(), "0x1");
    let receipts = node.call("eth_getBlockReceipts", json!(["0x2"])).await.unwrap();
    assert!(receipts.as_array().unwrap().len() > 50);
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "3 blocks, 1 MB of JSON in memory\n");
}

#[test]
fn parsers_parse_every_block_with_its_receipts() {
    for parser in ["serde-json", "sonic-rs"] {
        let output = Command::new(env!("CARGO_BIN_EXE_nozzle-testkit"))
            .args(["parse", "--mainnet-like", "3", "--with", parser])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let measured: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(measured["blocks"], 3);
        assert!(measured["bytes"].as_u64().unwrap() > 1_000_000, "{measured}");
        // Three blocks may take less than the kernel counts in.
        assert!(measured["cpu_seconds"].as_f64().unwrap() >= 0.0, "{measured}");
    }
}

#[test]
fn wrong_arguments_are_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_nozzle-testkit")).args(["replay"]).output().unwrap();
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty());
}

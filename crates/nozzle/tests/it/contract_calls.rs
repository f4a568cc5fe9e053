//! `eth_call` in queries, against a node.

use nozzle_testkit::anvil::{Anvil, AnvilOptions};
use serde_json::{Value, json};

use crate::{
    harness::{Db, Place},
    servers::Server,
};

/// Contracts by what they do: the number is the last byte of their address.
const CONTRACTS: [(u8, &str); 5] = [
    // Returns 42.
    (1, "0x602a60005260206000f3"),
    // Reverts with 1.
    (2, "0x600160005260206000fd"),
    // Returns who calls.
    (3, "0x3360005260206000f3"),
    // Returns the block's number.
    (4, "0x4360005260206000f3"),
    // Returns the first word of its input.
    (5, "0x60003560005260206000f3"),
];

fn contract(number: u8) -> String {
    format!("0x{:0>40}", format!("c{number:02x}"))
}

async fn node() -> Anvil {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    for (number, code) in CONTRACTS {
        anvil.rpc().call("anvil_setCode", json!([contract(number), code])).await.unwrap();
    }
    anvil.mine(20).await.unwrap();
    anvil
}

fn word(number: u64) -> String {
    format!("0x{number:064x}")
}

#[tokio::test(flavor = "multi_thread")]
async fn contracts_are_called_row_by_row() {
    let anvil = node().await;
    // The first provider does not answer, and batches are asked for.
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "anvil", anvil.url());
    let dead = "kind = \"evm-rpc\"\nnetwork = \"anvil\"\nurl = \"http://127.0.0.1:9\"\n";
    place.ok(&["dump", "--dataset", "eth"]);
    place.write("providers/a-dead-one.toml", dead);
    let batches =
        format!("kind = \"evm-rpc\"\nnetwork = \"anvil\"\nurl = \"{}\"\nrpc_batch_size = 7\n", anvil.url());
    place.write("providers/anvil.toml", &batches);
    let server = Server::start(&place, &["--jsonl-server"]);
    let ask = |sql: String| -> Vec<Value> {
        let (status, body) = server.post(&sql);
        assert_eq!(status, 200, "{sql}: {body}");
        body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let one = |arguments: String| ask(format!("SELECT eth.eth_call({arguments}) AS r"))[0]["r"].clone();
    let [returns, reverts, caller, number, echo] = [1, 2, 3, 4, 5].map(contract);
    assert_eq!(one(format!("NULL, '{returns}', NULL, 'latest'")), json!({"data": word(42)}));
    let reverted = one(format!("NULL, '{reverts}', X'', 5"));
    assert_eq!(reverted["data"], word(1));
    assert!(reverted["message"].as_str().unwrap().contains("revert"), "{reverted}");
    let from = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";
    let called = one(format!("'{from}', evm_encode_hex('{caller}'), NULL, 'latest'"));
    assert_eq!(called["data"], format!("0x{}{}", "0".repeat(24), &from[2..]));
    assert_eq!(one(format!("NULL, '{number}', NULL, '0x7'"))["data"], word(7));
    // No contract or no block is no call.
    for nothing in ["NULL, NULL, NULL, 1".to_owned(), format!("NULL, '{returns}', NULL, NULL")] {
        assert_eq!(one(nothing), Value::Null);
    }
    // Each row has its own block and its own input; a struct's fields are at hand.
    let rows = ask(format!(
        "SELECT block_num, r['data'] AS data FROM (SELECT block_num, eth.eth_call(NULL, '{number}', NULL, block_num) AS r \
         FROM eth.blocks) ORDER BY block_num"
    ));
    assert_eq!(rows.len(), 21);
    for row in &rows {
        assert_eq!(row["data"], word(row["block_num"].as_u64().unwrap()));
    }
    let rows = ask(format!(
        "SELECT count(*) AS n FROM eth.blocks WHERE eth__0_0_0.eth_call(NULL, '{echo}', hash, 'latest')['data'] = hash"
    ));
    assert_eq!(rows, [json!({"n": 21})]);
    for (sql, status, says) in [
        (format!("SELECT eth.eth_call(NULL, '{returns}', NULL, 1000000)"), 500, "anvil"),
        ("SELECT eth.eth_call(NULL, '0x12', NULL, 1)".to_owned(), 500, "20 bytes"),
        (format!("SELECT eth.eth_call(NULL, '{returns}', NULL, 'newest')"), 500, "latest"),
        (format!("SELECT eth.eth_call(NULL, '{returns}', NULL)"), 400, "eth_call"),
        (format!("SELECT eth.eth_call(NULL, 5, NULL, 1), '{returns}'"), 400, "bytes"),
        (format!("SELECT ethh.eth_call(NULL, '{returns}', NULL, 1)"), 404, "`eth`"),
    ] {
        let (code, body) = server.post(&sql);
        assert!(code == status && body.contains(says), "{sql}: {code} {body}");
    }
    let explained = ask(format!("EXPLAIN SELECT eth.eth_call(NULL, '{returns}', NULL, 1)"));
    assert!(!explained.is_empty());
    // The command has the function too.
    let rows = place.query(&format!("SELECT eth.eth_call(NULL, '{returns}', NULL, 'latest')['data'] AS d"));
    assert_eq!(rows, [json!({"d": word(42)})]);
}

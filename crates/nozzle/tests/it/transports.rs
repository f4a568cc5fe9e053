//! Every way to a node gives the same rows.

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
};

use crate::harness::{Db, Place, until};

/// All rows of all tables, as a query prints them.
fn rows(place: &Place) -> Vec<String> {
    ["blocks", "transactions", "logs", "withdrawals"]
        .map(|table| {
            let sql = format!("SELECT * FROM anvil.{table} ORDER BY _block_num");
            let mut lines: Vec<String> =
                place.query(&sql).iter().map(std::string::ToString::to_string).collect();
            lines.sort();
            lines.join("\n")
        })
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_over_websocket_or_ipc_equals_one_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let ipc = folder.path().join("anvil.ipc");
    let options = AnvilOptions { ipc: Some(ipc.clone()), ..AnvilOptions::default() };
    let anvil = Anvil::start(options).await.unwrap();
    ChainBuilder::new(&anvil, 11).await.unwrap().extend(300).await.unwrap();
    let (head, _) = anvil.head().await.unwrap();
    let dump = |url: &str| {
        let place = Place::empty();
        place.ok(&["dump", "--rpc-url", url]);
        place
    };
    let http = rows(&dump(anvil.url()));
    assert_eq!(http[0].lines().count() as u64, head + 1);
    assert!(http[1].lines().count() as u64 > head && http[2].lines().count() > 0);
    for url in [anvil.ws_url(), ipc.display().to_string(), format!("ipc://{}", ipc.display())] {
        let place = dump(&url);
        place.stored("anvil").await.assert_sound(0, head);
        assert!(rows(&place) == http, "other rows over {url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_websocket_and_ipc_new_blocks_are_not_polled_for() {
    let folder = tempfile::tempdir().unwrap();
    let ipc = folder.path().join("anvil.ipc");
    let options = AnvilOptions { ipc: Some(ipc.clone()), ..AnvilOptions::default() };
    let anvil = Anvil::start(options).await.unwrap();
    anvil.mine(5).await.unwrap();
    for url in [anvil.ws_url(), ipc.display().to_string()] {
        let place = Place::configured(Db::Sqlite, "poll_interval_secs = 3600.0");
        place.define("eth", "anvil", &url);
        let _running = place.start(&["dump", "--dataset", "eth", "--follow"]);
        place.metadata_when_there().await;
        let stored = async || {
            let said =
                place.run(&["query", "SELECT max(block_num) AS n FROM eth.blocks", "--format", "jsonl"]);
            serde_json::from_str::<serde_json::Value>(said.stdout.trim()).ok()?["n"].as_u64()
        };
        let first = until("the first blocks", stored).await;
        // The first news may come before it listens.
        until("a later block", async || {
            anvil.mine(1).await.unwrap();
            stored().await.filter(|head| *head > first + 1)
        })
        .await;
    }
}

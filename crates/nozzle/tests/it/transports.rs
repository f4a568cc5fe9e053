//! Every way to a node gives the same rows.

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
};

use crate::harness::Place;

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

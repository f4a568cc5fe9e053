//! What it costs to keep derived tables up to date.

use nozzle_testkit::{
    replay::Recording,
    store::{StoreProxy, StoreProxyOptions, StoreServer},
};
use serde_json::json;

use super::write_json;
use crate::harness::{Db, NOT_MERGED, Place, synthetic};

/// A join by the block, be it the number of a raw or a derived table's rows or the hash, reads what is new alone, and
/// so do groups.
#[tokio::test(flavor = "multi_thread")]
async fn a_derived_table_costs_what_is_new_and_not_what_was_before() {
    let queries = [
        (
            "stamped",
            "SELECT l.block_num, l.address, b.hash, b.gas_used FROM low.seen AS l \
             JOIN eth.blocks AS b ON l.block_num = b.block_num",
        ),
        ("busy", "SELECT block_num, count(*) AS n, min(tx_hash) AS least FROM low.seen GROUP BY block_num"),
        (
            "by_hash",
            "SELECT t.block_num, t.tx_hash, b.miner, b.gas_used FROM eth.transactions AS t \
             JOIN eth.blocks AS b ON t.block_hash = b.hash",
        ),
        (
            "semi",
            "SELECT tx_hash, \"from\" FROM eth.transactions AS t \
             WHERE EXISTS (SELECT 1 FROM low.seen AS l WHERE l.block_num = t.block_num AND l.tx_hash = t.tx_hash)",
        ),
    ];
    let mut costs = vec![];
    for stored in [100, 1_000] {
        let store = tokio::task::spawn_blocking(StoreServer::seaweedfs).await.unwrap().unwrap();
        let node = synthetic(Recording::synthetic(stored + 1, 3, 2, 7), 0);
        let lines = format!("data_dir = \"{}\"\n{NOT_MERGED}", store.url("derived"));
        let mut place = Place::configured(Db::Sqlite, &lines);
        place.define("eth", "chain-1337", node.url());
        let low = "SELECT block_num, tx_hash, log_index, address FROM eth.logs";
        for (name, table, sql) in
            [("low", "seen", low)].into_iter().chain(queries.map(|(name, sql)| (name, "t", sql)))
        {
            let manifest =
                json!({"name": name, "kind": "manifest", "tables": {table: {"input": {"sql": sql}}}});
            write_json(&place, name, &manifest);
        }
        let all = queries.map(|(name, _)| name).join(",");
        place.set_variables(store.variables(None));
        place.ok(&["dump", "--dataset", &all, "-e", &(stored - 1).to_string()]);
        let end = stored.to_string();
        place.ok(&["dump", "--dataset", "low", "-e", &end]);
        let proxy = StoreProxy::start(store.address(), StoreProxyOptions::default()).unwrap();
        place.set_variables(store.variables(Some(proxy.url())));
        let mut bytes = vec![];
        for (name, _) in queries {
            proxy.take_passed();
            place.ok(&["dump", "--dataset", name, "--ignore-deps", "-e", &end]);
            bytes.push((name, proxy.take_passed().bytes));
        }
        place.set_variables(store.variables(None));
        for (name, _) in queries {
            assert!(place.number(&format!("SELECT count(*) FROM {name}.t WHERE _block_num = {end}")) > 0);
        }
        costs.push(bytes);
    }
    println!("bytes that a block costs behind 100 blocks, and behind 1000: {costs:?}");
    for ((name, few), (_, many)) in costs[0].iter().zip(&costs[1]) {
        assert!(
            *few > 0 && *many <= few + few / 5,
            "{name}: {many} bytes behind 1000 blocks, {few} behind 100"
        );
    }
}

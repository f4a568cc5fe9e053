//! The story of transfers: derived datasets of two levels that follow a node whose chain is reorganised all the time,
//! by dumps and by workers that die, and a client with a stream of the last one.

use std::time::{Duration, Instant};

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
    rng::Rng,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_derived_is_the_truth, erc20, sorted, story, write_json};
use crate::{
    cluster::{Cluster, Worker},
    harness::{Db, NOT_MERGED, PATIENCE, Place, asked, seed, until, until_stored},
    servers::Server,
    streams::{Client, has},
};

/// By which a longer story than one of a minute is asked for.
const SECONDS: &str = "NOZZLE_STORY_SECS";

fn story_time() -> Duration {
    Duration::from_secs(asked(SECONDS, 60))
}

/// Waits until a client has the node's newest block.
async fn until_at_head(client: &mut Client, anvil: &Anvil) {
    let (number, hash) = anvil.head().await.unwrap();
    let head = (number, format!("{hash:#x}"));
    until("the client to have the head", async || has(client, &head)).await;
}

/// A raw dataset is followed, one derived from it, one derived from both, a client has a stream of that, and all
/// the time blocks are reorganised, the dump killed, the server started anew. Every other reorg takes blocks away
/// that the client has already.
#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_transfers_ends_as_the_node_tells_it() {
    let seed = seed(SECONDS);
    let mut dice = Rng::new(seed);
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, seed).await.unwrap();
    chain.extend(30).await.unwrap();
    let place = Place::configured(Db::Sqlite, &format!("poll_interval_secs = 0.1\n{NOT_MERGED}"));
    place.define("eth", "anvil", anvil.url());
    write_json(&place, "erc20", &erc20("eth"));
    write_json(&place, "story", &story());
    let follow = || place.start(&["dump", "--dataset", "story", "--follow"]);
    let mut dump = follow();
    place.metadata_when_there().await;
    until_stored(place.metadata().await.as_ref(), "story", 20).await;
    let sql = "SELECT block_num, log_index, value, timestamp, hash FROM story.stamped SETTINGS stream = true";
    let mut server = Server::start(&place, &["--jsonl-server"]);
    let mut client = Client::start(server.jsonl(), sql, &[]);
    let (began, mut reorgs, mut kills, mut restarts) = (Instant::now(), 0, 0, 0);
    // On a slow machine it goes on until all of it has happened.
    let is_over = |reorgs: u32, [kills, restarts]: [u32; 2], told: usize| {
        reorgs > 3 && kills > 0 && restarts > 0 && told > 1
    };
    while began.elapsed() < story_time()
        || (!is_over(reorgs, [kills, restarts], client.reorgs) && began.elapsed() < story_time() + PATIENCE)
    {
        chain.extend(1 + dice.below(3)).await.unwrap();
        match dice.below(8) {
            0..3 => {
                if reorgs % 2 == 0 {
                    until_at_head(&mut client, &anvil).await;
                }
                let depth = 1 + dice.below(4);
                anvil.reorg(depth).await.unwrap();
                reorgs += 1;
            }
            3 => {
                dump.kill();
                dump = follow();
                kills += 1;
            }
            4 => {
                drop(server);
                server = Server::start(&place, &["--jsonl-server"]);
                client = client.resume(server.jsonl(), sql);
                restarts += 1;
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(100 + dice.below(400))).await;
        client.take();
    }
    chain.extend(3).await.unwrap();
    let head = until_up_to_date(&place, &anvil).await;
    until_at_head(&mut client, &anvil).await;
    dump.signal("TERM");
    assert_eq!(dump.wait().code, Some(0));
    assert_derived_is_the_truth(&place);
    assert_transfers_are_the_nodes(&place, &anvil).await;
    let stored = sorted(&place, "SELECT block_num, log_index, value, timestamp, hash FROM story.stamped");
    assert!(client.sorted() == stored, "the client has {} rows, not {}", client.rows.len(), stored.len());
    place.stored("story").await.assert_sound(0, head);
    let told = client.reorgs;
    let happened = format!(
        "{head} blocks, {reorgs} reorgs, {kills} kills, {restarts} servers, {told} reorgs told to the client"
    );
    eprintln!("{happened}");
    // One that comes while the derived tables follow another may be the same to the client.
    assert!(is_over(reorgs, [kills, restarts], told), "{happened}");
}

/// Waits until the last dataset of the story ends with the node's newest block, and gives its number.
async fn until_up_to_date(place: &Place, anvil: &Anvil) -> u64 {
    let (head, hash) = anvil.head().await.unwrap();
    let hash = format!("{hash:#x}");
    let metadata = place.metadata().await;
    until("all to be up to date", async || {
        let dataset = metadata.dataset(&"story".parse().unwrap()).await.ok()??;
        let revision = metadata.revisions(dataset.id).await.ok()?.into_iter().next()?;
        let location = revision.locations[0].id;
        let scan = nozzle_metadata::Scan {
            location,
            sequence: metadata.sequence().await.ok()?,
            range: nozzle_core::BlockRange::single(head),
        };
        let spans = metadata.spans(&scan).await.ok()?;
        spans.last().is_some_and(|span| format!("{:#x}", span.hash) == hash).then_some(())
    })
    .await;
    head
}

/// Workers follow all three datasets; blocks are reorganised and workers die all the time.
#[tokio::test(flavor = "multi_thread")]
async fn workers_follow_derived_datasets_through_reorgs_and_deaths() {
    let seed = 20261129;
    let mut dice = Rng::new(seed);
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, seed).await.unwrap();
    chain.extend(10).await.unwrap();
    let place = Place::configured(Db::Postgres, &format!("poll_interval_secs = 0.1\n{NOT_MERGED}"));
    let flags = ["--max-tasks", "4"];
    let mut cluster = Cluster::on(place, &["worker-0", "worker-1"], &flags);
    let provider = json!({"name": "node", "kind": "evm-rpc", "network": "anvil", "url": anvil.url()});
    assert_eq!(cluster.api.send(Method::POST, "/providers", &provider).await.0, 201);
    for manifest in [json!({"name": "eth", "kind": "evm-rpc", "network": "anvil"}), erc20("eth"), story()] {
        assert_eq!(cluster.api.send(Method::POST, "/datasets", &manifest).await.0, 201);
    }
    cluster.api.dump("story", json!({})).await;
    until_stored(cluster.metadata().await.as_ref(), "story", 5).await;
    let (began, mut deaths) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(14) || deaths < 2 {
        chain.extend(1 + dice.below(3)).await.unwrap();
        match dice.below(5) {
            0..2 => anvil.reorg(1 + dice.below(4)).await.unwrap(),
            // One that has died is found dead after five seconds.
            2 if began.elapsed() > Duration::from_secs(6 * deaths) => {
                cluster.workers[0].kill();
                deaths += 1;
                cluster.workers.remove(0);
                let name = format!("worker-{}", deaths + 1);
                cluster.workers.push(Worker::start(&cluster.place, &name, &flags));
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(100 + dice.below(400))).await;
    }
    chain.extend(3).await.unwrap();
    let head = until_up_to_date(&cluster.place, &anvil).await;
    assert_eq!(cluster.ask("SELECT count(*) FROM jobs WHERE status = 'RUNNING'"), "3");
    assert_derived_is_the_truth(&cluster.place);
    assert_transfers_are_the_nodes(&cluster.place, &anvil).await;
    cluster.place.stored("story").await.assert_sound(0, head);
}

/// A number of any size in hex, in decimal.
fn decimal(hex: &str) -> String {
    let mut digits = vec![0_u32];
    for digit in hex.trim_start_matches("0x").chars().map(|digit| digit.to_digit(16).unwrap()) {
        let mut carry = digit;
        for place in &mut digits {
            let value = *place * 16 + carry;
            (*place, carry) = (value % 10, value / 10);
        }
        if carry > 0 {
            digits.extend([carry % 10, carry / 10].iter().take(if carry > 9 { 2 } else { 1 }));
        }
    }
    digits.iter().rev().map(|digit| char::from_digit(*digit, 10).unwrap()).collect()
}

/// Compares the transfers, and the blocks that they are stamped with, with the logs as the node itself has them.
async fn assert_transfers_are_the_nodes(place: &Place, anvil: &Anvil) {
    let rows = place.query(
        "SELECT DISTINCT topic0 FROM eth.logs WHERE topic0 = evm_topic('Transfer(address,address,uint256)')",
    );
    let filter = json!([{"fromBlock": "0x0", "toBlock": "latest", "topics": [rows[0]["topic0"]]}]);
    let logs = anvil.rpc().call("eth_getLogs", filter).await.unwrap();
    let number = |value: &Value| u64::from_str_radix(&value.as_str().unwrap()[2..], 16).unwrap();
    let (mut transfers, mut blocks) = (vec![], vec![]);
    for log in logs.as_array().unwrap() {
        let place = (number(&log["blockNumber"]), number(&log["logIndex"]));
        let (topics, data) = (log["topics"].as_array().unwrap(), log["data"].as_str().unwrap());
        let address = |topic: &Value| format!("0x{}", &topic.as_str().unwrap()[26..]);
        let decoded = match (topics.len(), data.len()) {
            (3, 66) => json!([address(&topics[1]), address(&topics[2]), decimal(data)]),
            _ => json!([null, null, null]),
        };
        transfers
            .push(json!([place.0, place.1, log["transactionHash"], log["address"], decoded]).to_string());
        blocks.push(json!([place.0, place.1, log["blockHash"]]).to_string());
    }
    assert!(!transfers.is_empty());
    let sql = "SELECT * FROM erc20.transfers ORDER BY block_num, log_index";
    let stored = place.query(sql).into_iter().map(|row| {
        let decoded = json!([row["sender"], row["receiver"], row["value"]]);
        json!([row["_block_num"], row["log_index"], row["tx_hash"], row["token"], decoded]).to_string()
    });
    assert_eq!(stored.collect::<Vec<_>>(), transfers);
    let sql = "SELECT _block_num, log_index, hash FROM story.stamped ORDER BY block_num, log_index";
    let stored = place.query(sql).into_iter();
    let stored = stored.map(|row| json!([row["_block_num"], row["log_index"], row["hash"]]).to_string());
    assert_eq!(stored.collect::<Vec<_>>(), blocks);
}

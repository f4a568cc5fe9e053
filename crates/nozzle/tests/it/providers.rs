//! Several providers of one network: where one fails, the next one goes on.

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
    fault::{Fault, FaultServer, Schedule},
    replay::{Recording, ReplayOptions, ReplayServer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::harness::{Db, Place, Said, gate, synthetic, until, until_stored};

const BLOCKS: u64 = 200;

fn chain(delay_ms: u64) -> ReplayServer {
    synthetic(Recording::synthetic(BLOCKS, 3, 2, 21), delay_ms)
}

/// A place with the dataset `eth` and providers of its network, in this order.
fn place(urls: &[&str]) -> Place {
    let place = Place::configured(Db::Sqlite, "writer = { segment_flush_interval_secs = 1.0 }");
    place.write("datasets/eth.json", r#"{"name":"eth","kind":"evm-rpc","network":"chain-1337"}"#);
    for (name, url) in ["a_first", "b_second", "c_third"].iter().zip(urls) {
        let keys = format!(
            "kind = \"evm-rpc\"\nnetwork = \"chain-1337\"\nurl = \"{url}\"\nconcurrent_request_limit = 4\n"
        );
        place.write(&format!("providers/{name}.toml"), &keys);
    }
    place
}

fn dump(place: &Place) -> Said {
    place.run(&["dump", "--dataset", "eth", "--end-block", "199"])
}

async fn assert_whole(place: &Place, said: &Said) {
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    place.stored("eth").await.assert_sound(0, BLOCKS - 1);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), BLOCKS);
}

/// An address at which nothing listens.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A node that takes nobody's credentials.
async fn forbidding() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            if client.read(&mut [0; 4096]).await.is_ok_and(|size_bytes| size_bytes > 0) {
                client.write_all(answer).await.ok();
                client.shutdown().await.ok();
            }
            // A connection that is closed with something unread would be reset.
            tokio::io::copy(&mut client, &mut tokio::io::sink()).await.ok();
        }
    });
    url
}

fn always(fault: Fault, node: &ReplayServer) -> FaultServer {
    let schedule = Schedule { seed: 1, rates: [(fault, 1.0)].into(), in_a_row: None };
    FaultServer::start(node.url(), node.url(), schedule).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_goes_on_when_the_first_dies_in_the_middle() {
    let (first, second) = (chain(20), chain(0));
    let (gate, url) = gate(first.url());
    let place = place(&[&url, second.url()]);
    let running = place.start(&["dump", "--dataset", "eth", "--end-block", "199"]);
    let blocks = |server: &ReplayServer| server.requests().get("eth_getBlockByNumber").copied().unwrap_or(0);
    until("half of the blocks", async || (blocks(&first) > BLOCKS / 2).then_some(())).await;
    gate.shut();
    let said = running.wait();
    assert!(said.stderr.contains("`a_first` is left to rest"), "{}", said.stderr);
    assert_whole(&place, &said).await;
    assert!(blocks(&second) < BLOCKS, "it goes on, it does not begin anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_another_chain_among_several_is_not_used() {
    let wrong = ReplayServer::start(
        Recording::synthetic(BLOCKS, 3, 2, 22),
        ReplayOptions { chain_id: Some(5), ..ReplayOptions::default() },
    )
    .unwrap();
    let right = chain(0);
    let place = place(&[wrong.url(), right.url()]);
    let said = dump(&place);
    assert!(said.stderr.contains("`a_first` is not used any more"), "{}", said.stderr);
    assert!(said.stderr.contains("another chain") && said.stderr.contains("1337"), "{}", said.stderr);
    assert_whole(&place, &said).await;
    assert_eq!(wrong.requests().get("eth_getBlockByNumber"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_answers_with_a_page_or_not_at_all_is_left() {
    let right = chain(0);
    let page = always(Fault::Html, &right);
    let place = place(&[page.url(), &nowhere(), right.url()]);
    let said = dump(&place);
    assert!(said.stderr.contains("`a_first` is left to rest"), "{}", said.stderr);
    assert!(said.stderr.contains("`b_second` is left to rest"), "{}", said.stderr);
    assert_whole(&place, &said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_only_pushes_back_is_soon_left_beside_another() {
    let right = chain(0);
    let busy = always(Fault::TooManyRequests, &right);
    let place = place(&[busy.url(), right.url()]);
    let started = std::time::Instant::now();
    let said = dump(&place);
    assert!(said.stderr.contains("`a_first` is left to rest"), "{}", said.stderr);
    assert!(said.stderr.contains("pushes back: it answers HTTP 429"), "{}", said.stderr);
    assert!(started.elapsed().as_secs() < 40, "it was asked for {:?}", started.elapsed());
    assert_whole(&place, &said).await;
}

#[test]
fn with_all_away_the_error_names_each() {
    let said = dump(&place(&[&nowhere(), &nowhere()]));
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let error = &said.stderr[said.stderr.rfind("error: ").unwrap()..];
    for words in ["no provider could answer", "`a_first`", "`b_second`", "nothing listens"] {
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_refuses_the_credentials_is_left_at_once_and_named_where_it_is_alone() {
    let (forbidding, right) = (forbidding().await, chain(0));
    let beside_another = place(&[&forbidding, right.url()]);
    let said = dump(&beside_another);
    assert!(said.stderr.contains("`a_first` is left to rest"), "{}", said.stderr);
    assert!(said.stderr.contains("auth_token"), "{}", said.stderr);
    assert!(!said.stderr.contains("asking again"), "{}", said.stderr);
    assert_whole(&beside_another, &said).await;
    let said = dump(&place(&[&forbidding]));
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let error = &said.stderr[said.stderr.rfind("error: ").unwrap()..];
    assert!(error.contains("`a_first`") && error.contains("auth_token"), "{error}");
    assert!(!said.stderr.contains("asking again"), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_is_followed_with_the_second_when_the_first_is_away() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    let mut chain = ChainBuilder::new(&anvil, 1).await.unwrap();
    chain.extend(3).await.unwrap();
    let (gate, url) = gate(anvil.url());
    let place = Place::configured(Db::Sqlite, "poll_interval_secs = 0.05");
    place.define("anvil", "anvil", &url);
    let second = format!("kind = \"evm-rpc\"\nnetwork = \"anvil\"\nurl = \"{}\"\n", anvil.url());
    place.write("providers/the_second.toml", &second);
    let mut follow = place.start(&["dump", "--dataset", "anvil", "--follow"]);
    let store = place.metadata_when_there().await;
    until_stored(store.as_ref(), "anvil", anvil.head().await.unwrap().0).await;
    gate.shut();
    chain.extend(3).await.unwrap();
    let (last, _) = anvil.head().await.unwrap();
    until_stored(store.as_ref(), "anvil", last).await;
    follow.signal("TERM");
    let said = follow.wait();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("`anvil` is left to rest"), "{}", said.stderr);
    place.stored("anvil").await.assert_sound(0, last);
}

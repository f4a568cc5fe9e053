//! Datasets of kind `substreams`: from a package to rows, through reorgs and changes of the package.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::Engine;

use nozzle_testkit::{
    rng::Rng,
    store::{BUCKET, StoreServer},
    substreams::{
        SubstreamsBlock, SubstreamsOptions, SubstreamsRequest, SubstreamsServer,
        example::{MODULE, PARAM, blocks, nested_blocks, nested_package, package},
    },
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cluster::Api,
    harness::{Db, NOT_MERGED, Place, until},
    servers::Server,
    streams::{Client, has},
};

/// An endpoint with the blocks 5 to 60, final up to 10, and a place with its package and a provider.
fn served() -> (SubstreamsServer, Place) {
    let options = SubstreamsOptions {
        blocks: blocks(0, 5..=60),
        final_depth: 50,
        token: Some("s3cret".into()),
        ..SubstreamsOptions::default()
    };
    let server = SubstreamsServer::start(options).unwrap();
    let place = Place::empty();
    std::fs::write(place.path("demo.spkg"), package(&["n", "fork"], 5)).unwrap();
    place.write(
        ".nozzle/providers/mainnet.toml",
        &format!(
            "kind = \"substreams\"\nnetwork = \"mainnet\"\nurl = \"{}\"\ntoken = \"s3cret\"\n",
            server.url()
        ),
    );
    (server, place)
}

fn generate(place: &Place, name: &str) -> Value {
    generated(place, name, MODULE).0
}

/// The manifest of a module of `demo.spkg`, and what is said beside it.
fn generated(place: &Place, name: &str, module: &str) -> (Value, String) {
    let args = ["generate-manifest", "--kind", "substreams", "--network", "mainnet", "--name", name];
    let said = place.ok(&[&args[..], &["--manifest", "demo.spkg", "--module", module]].concat());
    (serde_json::from_str(&said.stdout).unwrap(), said.stderr)
}

/// The rows are those of the canonical blocks: of fork 0 below `fork_at`, of the other from there on.
fn assert_rows(place: &Place, fork_at: u64, fork: u64, head: u64) {
    let rows = place.query("SELECT block_num, n, fork FROM demo.rows ORDER BY block_num");
    let expected = (5..=head).filter(|number| number % 10 != 0).map(
        |number| json!({"block_num": number, "n": number, "fork": if number < fork_at { 0 } else { fork }}),
    );
    assert_eq!(rows, expected.collect::<Vec<_>>());
}

#[test]
fn a_package_becomes_a_manifest_and_tables() {
    let (_server, place) = served();
    let (manifest, types) = generated(&place, "demo", MODULE);
    let expected = "rows\n  _block_num  UInt64\n  block_num   UInt64\n  timestamp   Timestamp(µs, \"+00:00\")\n  \
                    block_hash  FixedSizeBinary(32)\n  n           UInt64\n  fork        UInt64\n";
    assert_eq!(types, expected);
    assert_eq!((&manifest["start_block"], &manifest["module"]), (&json!(5), &json!(MODULE)));
    let columns = json!(["block_num", "timestamp", "block_hash", "n", "fork"]);
    assert_eq!(manifest["schema"], json!({ "rows": columns }));
    place.write("demo.json", &manifest.to_string());
    place.ok(&["dump", "--dataset", "demo.json"]);
    assert_rows(&place, 61, 0, 60);
    // Below the module's first block there is nothing, and nothing missing: also for a job of these blocks alone.
    let mut early = manifest.clone();
    (early["name"], early["start_block"]) = ("early".into(), 0.into());
    place.write("early.json", &early.to_string());
    place.ok(&["dump", "--dataset", "early.json", "-e", "2"]);
    place.ok(&["dump", "--dataset", "early.json"]);
    assert_eq!(place.number("SELECT count(*) FROM early.rows"), 50);
    place.ok(&["query", "SELECT count(*) FROM early.rows SETTINGS complete = true"]);
    // What no package has is refused, naming what it has.
    let args = ["generate-manifest", "--kind", "substreams", "--network", "mainnet", "--name", "x"];
    let said = place.run(&[&args[..], &["--manifest", "demo.spkg", "--module", "nope"]].concat());
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("no module `nope`") && said.stderr.contains(MODULE), "{}", said.stderr);
}

#[test]
fn undone_blocks_are_replaced() {
    let (server, place) = served();
    place.write("demo.json", &generate(&place, "demo").to_string());
    place.ok(&["dump", "--dataset", "demo.json"]);
    server.extend(blocks(1, 56..=65));
    place.ok(&["dump", "--dataset", "demo.json"]);
    assert_rows(&place, 56, 1, 65);
    // At the same height, and deeper.
    server.extend(blocks(2, 41..=65));
    place.ok(&["dump", "--dataset", "demo.json"]);
    assert_rows(&place, 41, 2, 65);
}

#[test]
fn each_process_goes_on_from_the_cursor_that_is_stored() {
    let (server, place) = served();
    place.write("demo.json", &generate(&place, "demo").to_string());
    place.ok(&["dump", "--dataset", "demo.json", "--end-block", "40"]);
    server.requests();
    place.ok(&["dump", "--dataset", "demo.json"]);
    let (by_cursor, others): (Vec<_>, Vec<_>) =
        server.requests().into_iter().partition(|asked| asked.cursor.is_some());
    assert_eq!(by_cursor.len(), 1, "{by_cursor:?}");
    // Beside the head there are only single blocks, of which it is to be known whether they still stand.
    let is_single = |asked: &SubstreamsRequest| {
        u64::try_from(asked.start_block).is_ok_and(|start| asked.stop_block == start + 1)
    };
    assert!(others.iter().all(|asked| asked.start_block < 0 || is_single(asked)), "{others:?}");
    assert_rows(&place, 61, 0, 60);
}

#[test]
fn a_manifest_by_hand_has_its_package_beside_it_and_its_parameters_reach_the_endpoint() {
    let (server, place) = served();
    let manifest = |name: &str, package: &str, params: Value| {
        json!({"name": name, "kind": "substreams", "network": "mainnet", "start_block": 5, "manifest": package,
            "module": MODULE, "params": params})
        .to_string()
    };
    place.write("defs/demo.json", &manifest("demo", "demo.spkg", json!({MODULE: "over 9000"})));
    std::fs::rename(place.path("demo.spkg"), place.path("defs/demo.spkg")).unwrap();
    let modules = |args: &[&str]| {
        place.ok(args);
        let asked: Vec<_> = server.requests().into_iter().map(|asked| asked.modules).collect();
        assert!(!asked.is_empty() && asked.iter().all(|modules| *modules == asked[0]));
        String::from_utf8_lossy(&asked[0]).into_owned()
    };
    let set = modules(&["dump", "--dataset", "defs/demo.json"]);
    assert!(set.contains("over 9000") && !set.contains(PARAM), "{set}");
    assert_rows(&place, 61, 0, 60);
    // Also in the folder of definitions; without parameters there are those of the package.
    place.write(".nozzle/datasets/plain.json", &manifest("plain", "../../defs/demo.spkg", json!({})));
    let set = modules(&["dump", "--dataset", "plain"]);
    assert!(set.contains(PARAM), "{set}");
    place.write("defs/bad.json", &manifest("bad", "demo.spkg", json!({"map_others": "1"})));
    let said = place.run(&["dump", "--dataset", "defs/bad.json"]);
    assert!(
        said.code == Some(1) && said.stderr.contains("`map_others`, which takes none"),
        "{}",
        said.stderr
    );
}

/// Dumps what `blocks` hold of a module of `demo.spkg`, as the dataset `demo`.
fn dump_all(package: &[u8], module: &str, blocks: Vec<SubstreamsBlock>) -> Place {
    let first = blocks[0].number;
    let options = SubstreamsOptions { blocks, ..SubstreamsOptions::default() };
    let server = SubstreamsServer::start(options).unwrap();
    let place = Place::empty();
    std::fs::write(place.path("demo.spkg"), package).unwrap();
    let provider = format!("kind = \"substreams\"\nnetwork = \"mainnet\"\nurl = \"{}\"\n", server.url());
    place.write(".nozzle/providers/mainnet.toml", &provider);
    let (mut manifest, _) = generated(&place, "demo", module);
    manifest["start_block"] = first.into();
    place.write("demo.json", &manifest.to_string());
    place.ok(&["dump", "--dataset", "demo.json"]);
    place
}

#[test]
fn columns_within_columns_are_stored_and_asked_for() {
    let place = dump_all(&nested_package(), MODULE, nested_blocks(3..=5));
    let rows = place.query(
        "SELECT n, sold['symbol'] AS sold, path[2]['amount'] AS last, path FROM demo.swaps ORDER BY n",
    );
    let expected = (3..=5_u64).map(|n| {
        let path = json!([{"symbol": "B", "amount": 2 * n}, {"symbol": "C", "amount": 3 * n}]);
        json!({"n": n, "sold": "A", "last": 3 * n, "path": path})
    });
    assert_eq!(rows, expected.collect::<Vec<_>>());
    assert_eq!(
        place.number("SELECT sum(t.amount) FROM (SELECT unnest(path) AS t FROM demo.swaps)"),
        5 * (3 + 4 + 5)
    );
}

/// A real package, and what was recorded of its module. Where the recorded data is not there a test says so; on the
/// build machine that is a failure.
fn recorded(name: &str, module: &str) -> Option<(Vec<u8>, Vec<SubstreamsBlock>)> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let data = std::env::var_os("NOZZLE_TEST_DATA").map_or(default, PathBuf::from);
    if !data.is_dir() {
        assert!(std::env::var_os("CI").is_none(), "there is no {}: set NOZZLE_TEST_DATA", data.display());
        eprintln!("there is no {}: nothing was checked; set NOZZLE_TEST_DATA", data.display());
        return None;
    }
    let package = std::fs::read(data.join(format!("spkg/{name}.spkg"))).unwrap();
    let outputs =
        std::fs::File::open(data.join(format!("substreams-outputs/{name}.{module}.jsonl.zst"))).unwrap();
    let lines = std::io::read_to_string(zstd::Decoder::new(outputs).unwrap()).unwrap();
    let block = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        let number = line["number"].as_u64().unwrap();
        SubstreamsBlock {
            number,
            id: text("id"),
            seconds: 1_689_269_900 + 12 * number as i64,
            message: text("type").replace("proto:", ""),
            output: base64::engine::general_purpose::STANDARD.decode(text("output_b64")).unwrap(),
        }
    };
    Some((package, lines.lines().map(block).collect()))
}

#[test]
fn the_recorded_outputs_of_real_packages_are_stored_and_asked_for() {
    let Some((package, blocks)) = recorded("erc20-transfers-v0.4.0", "map_events") else { return };
    let place = dump_all(&package, "map_events", blocks);
    let first = "SELECT count(*) FROM demo.transactions WHERE logs[1]['transfer']['amount'] = '1994930000000000000000'";
    for (sql, expected) in [
        ("SELECT count(*) FROM demo.transactions", 2510),
        ("SELECT sum(array_length(logs)) FROM demo.transactions", 5563),
        (first, 1),
    ] {
        assert_eq!(place.number(sql), expected, "{sql}");
    }
    let (package, blocks) = recorded("evm-clickhouse-contracts-v0.4.0", "db_out").unwrap();
    let place = dump_all(&package, "db_out", blocks);
    let both = "SELECT (SELECT count(*) FROM demo.contracts) + (SELECT count(*) FROM demo.blocks)";
    assert_eq!(place.number(both), 19);
    let created =
        "SELECT count(*) FROM demo.contracts WHERE _operation = 'CREATE' AND module_block_num = block_num";
    assert_eq!(place.number(created), 12);
}

#[test]
fn a_package_that_is_another_is_refused() {
    let (server, place) = served();
    place.write("demo.json", &generate(&place, "demo").to_string());
    place.ok(&["dump", "--dataset", "demo.json"]);
    server.extend(blocks(0, 61..=65));
    let refused = |package: Vec<u8>| {
        std::fs::write(place.path("demo.spkg"), package).unwrap();
        let said = place.run(&["dump", "--dataset", "demo.json"]);
        assert_eq!(said.code, Some(1));
        assert!(said.stderr.contains("register the manifest with a new `version`"), "{}", said.stderr);
        said.stderr
    };
    let said = refused(package(&["n"], 5));
    assert!(said.contains("the table `rows` has no column `fork` any more"), "{said}");
    // What it does may be another thing, though it looks the same.
    let said = refused(package(&["n", "fork"], 6));
    assert!(said.contains("its tables are the same"), "{said}");
    // With its package back it goes on.
    std::fs::write(place.path("demo.spkg"), package(&["n", "fork"], 5)).unwrap();
    place.ok(&["dump", "--dataset", "demo.json"]);
    assert_rows(&place, 66, 0, 65);
}

/// A table of every other row, and what is counted of it.
const SEEN: &str = r#"{"name": "seen", "kind": "manifest", "dependencies": {"demo": {"name": "demo"}}, "tables": {
    "odd": {"input": {"sql": "SELECT block_num, n, fork FROM demo.rows WHERE n % 2 = 1"}},
    "counts": {"input": {"sql": "SELECT block_num, count(*) AS n FROM self.odd GROUP BY block_num"}}}}"#;

/// On top of that: its rows with those of their blocks.
const ABOVE: &str = r#"{"name": "above", "kind": "manifest",
    "dependencies": {"demo": {"name": "demo"}, "seen": {"name": "seen"}}, "tables": {
    "both": {"input": {"sql": "SELECT o.block_num, o.n, r.fork FROM seen.odd AS o JOIN demo.rows AS r ON o.block_num = r.block_num"}}}}"#;

#[test]
fn all_but_extraction_goes_on_without_the_package() {
    let (server, place) = served();
    place.write(".nozzle/datasets/demo.json", &generate(&place, "demo").to_string());
    place.ok(&["dump", "--dataset", "demo"]);
    std::fs::remove_file(place.path("demo.spkg")).unwrap();
    assert_rows(&place, 61, 0, 60);
    place.write(".nozzle/datasets/seen.json", SEEN);
    let said = place.ok(&["dump", "--dataset", "seen", "--ignore-deps"]);
    assert!(!said.stderr.contains("left out"), "{}", said.stderr);
    assert_eq!(place.number("SELECT count(*) FROM seen.odd"), 28);
    for file in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(place.path(&format!(".nozzle/{file}"))).ok();
    }
    place.ok(&["restore", "--dataset", "demo"]);
    assert_rows(&place, 61, 0, 60);
    place.ok(&["check", "--dataset", "demo"]);
    server.extend(blocks(0, 61..=65));
    let said = place.run(&["dump", "--dataset", "demo"]);
    assert!(said.code == Some(1) && said.stderr.contains("reading the package"), "{}", said.stderr);
}

/// Blocks without rows are not told apart, segments are merged, and still every reorg reaches whoever reads.
#[tokio::test(flavor = "multi_thread")]
async fn streams_and_derived_datasets_follow_a_package_through_reorgs() {
    let mut dice = Rng::new(5);
    let endpoint = SubstreamsServer::start(SubstreamsOptions {
        blocks: blocks(0, 5..=60),
        final_depth: 12,
        ..SubstreamsOptions::default()
    });
    let endpoint = endpoint.unwrap();
    let place = Place::configured(Db::Sqlite, NOT_MERGED);
    std::fs::write(place.path("demo.spkg"), package(&["n", "fork"], 5)).unwrap();
    let provider = format!("kind = \"substreams\"\nnetwork = \"anvil\"\nurl = \"{}\"\n", endpoint.url());
    place.write("providers/anvil.toml", &provider);
    let manifest = json!({
        "name": "demo", "kind": "substreams", "network": "anvil", "start_block": 5,
        "manifest": place.path("demo.spkg"), "module": MODULE,
    });
    place.write("datasets/demo.json", &manifest.to_string());
    place.write("datasets/seen.json", SEEN);
    place.write("datasets/above.json", ABOVE);
    // The fork that each block is of.
    let mut chain: BTreeMap<u64, u8> = (5..=60).map(|number| (number, 0)).collect();
    let head = |chain: &BTreeMap<u64, u8>| {
        let (number, fork) = chain.last_key_value().unwrap();
        (*number, format!("0x{fork:02x}{number:062x}"))
    };
    // The blocks 20 and 40 have no rows.
    for end in ["20", "40", "latest"] {
        place.ok(&["dump", "--dataset", "above", "-e", end]);
    }
    let server = Server::start(&place, &["--jsonl-server"]);
    let raw = "SELECT block_num, n, fork FROM demo.rows SETTINGS stream = true";
    let derived = "SELECT block_num, n, fork FROM above.both SETTINGS stream = true";
    let mut there = [raw, derived].map(|sql| Client::start(server.jsonl(), sql, &[]));
    let mut away = Client::start(server.jsonl(), raw, &[]);
    for client in there.iter_mut().chain([&mut away]) {
        until("the client to have what is stored", async || has(client, &head(&chain))).await;
    }
    // Ends of segments are gone, by which the clients and what is derived knew where they were.
    let merge = || {
        let said = place.ok(&["compact", "--dataset", "demo"]).stdout;
        let again = place.ok(&["dump", "--dataset", "above"]).stderr;
        assert_eq!(again.matches("nothing new").count(), 3, "{again}");
        said
    };
    assert_eq!(merge().split(',').next(), Some("demo: 2 segments are 1 now"));
    let mut reorgs = 0;
    for round in 1..=8_u8 {
        let last = head(&chain).0;
        // A block more, several, or other ones from some block on, maybe as many as before or fewer.
        let (from, fork) = match dice.below(3) {
            0 => (last + 1, *chain.last_key_value().unwrap().1),
            _ => (last + 1 - (1 + dice.below(5)), round),
        };
        let end = from + dice.below(7);
        reorgs += usize::from(from <= last);
        endpoint.extend(blocks(fork, from..=end));
        chain.retain(|number, _| *number < from);
        chain.extend((from..=end).map(|number| (number, fork)));
        if end < last {
            // A shorter chain is one that is behind, until it has grown.
            endpoint.extend(blocks(fork, end + 1..=last));
            chain.extend((end + 1..=last).map(|number| (number, fork)));
        }
        place.ok(&["dump", "--dataset", "above"]);
        for client in &mut there {
            until("the client to have the block", async || has(client, &head(&chain))).await;
            assert_eq!(client.reorgs, reorgs, "round {round}");
        }
        if round % 4 == 0 {
            merge();
        }
    }
    let rows = |which: fn(u64) -> bool| {
        let of_block = |(number, fork): (&u64, &u8)| json!({"block_num": number, "n": number, "fork": fork});
        let rows = chain.iter().filter(|(number, _)| !number.is_multiple_of(10) && which(**number));
        let mut rows: Vec<String> = rows.map(of_block).map(|row| row.to_string()).collect();
        rows.sort();
        rows
    };
    let (all, odd) = (rows(|_| true), rows(|number| number % 2 == 1));
    assert!(there[0].sorted() == all && there[1].sorted() == odd, "{:?}", there[1].sorted());
    let stored = |sql: &str| {
        let mut rows: Vec<String> = place.query(sql).iter().map(Value::to_string).collect();
        rows.sort();
        rows
    };
    assert_eq!(stored("SELECT block_num, n, fork FROM demo.rows"), all);
    assert_eq!(stored("SELECT block_num, n, fork FROM above.both"), odd);
    assert_eq!(place.number("SELECT count(*) FROM seen.counts") as usize, odd.len());
    away = away.resume(server.jsonl(), raw);
    until("the client to have caught up", async || has(&mut away, &head(&chain))).await;
    // The end of the segment at 60 may have been merged away, and then it cannot be told.
    assert!(away.sorted() == all && (chain[&60] == 0 || away.reorgs == 1), "{} reorgs", away.reorgs);
    for dataset in ["seen", "above"] {
        place.stored(dataset).await.assert_sound(5, head(&chain).0);
        place.ok(&["check", "--dataset", dataset]);
    }
    assert_eq!(server.stop(), 0);
}

/// A package lies where all machines find it; those of one machine are not read for whoever may call the API.
#[tokio::test(flavor = "multi_thread")]
async fn packages_come_from_stores_and_from_web_servers() {
    let store = tokio::task::spawn_blocking(StoreServer::moto).await.unwrap().unwrap();
    let http = reqwest::Client::new();
    let object = |name: &str| format!("http://{}/{BUCKET}/{name}", store.address());
    for (name, content) in
        [("demo.spkg", package(&["n", "fork"], 5)), ("page.html", b"<html></html>".to_vec())]
    {
        // Also for those without a key.
        let answer = http.put(object(name)).header("x-amz-acl", "public-read").body(content);
        let answer = answer.send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }
    let endpoint =
        SubstreamsServer::start(SubstreamsOptions { blocks: blocks(0, 5..=20), ..Default::default() });
    let endpoint = endpoint.unwrap();
    let mut place = Place::configured(Db::Sqlite, "");
    place.set_variables(store.variables(None));
    let provider = format!("kind = \"substreams\"\nnetwork = \"mainnet\"\nurl = \"{}\"\n", endpoint.url());
    place.write("providers/mainnet.toml", &provider);
    let at = |url: &str| {
        let args = ["generate-manifest", "--kind", "substreams", "--network", "mainnet", "--name", "demo"];
        place.run(&[&args[..], &["--manifest", url, "--module", MODULE]].concat())
    };
    for url in [store.url("demo.spkg"), object("demo.spkg")] {
        let said = at(&url);
        let manifest: Value =
            serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{}", said.stderr));
        assert_eq!((&manifest["manifest"], &manifest["start_block"]), (&json!(url), &json!(5)));
    }
    for (url, says) in [
        (store.url("page.html"), "not a Substreams package"),
        (object("page.html"), "not a Substreams package"),
        (store.url("nothing.spkg"), "not found"),
        (object("nothing.spkg"), "client error (40"),
        ("http://127.0.0.1:1/x.spkg?key=s3cret".into(), "error sending request"),
    ] {
        let said = at(&url);
        assert!(said.code == Some(1) && said.stderr.contains(says), "{url}: {}", said.stderr);
        assert!(
            said.stderr.contains("reading the package") && !said.stderr.contains("s3cret"),
            "{}",
            said.stderr
        );
    }

    std::fs::write(place.path("demo.spkg"), package(&["n", "fork"], 5)).unwrap();
    let server = Server::start(&place, &["--admin-server"]);
    let manifest = |package: &str| json!({"name": "demo", "kind": "substreams", "network": "mainnet", "start_block": 5, "manifest": package, "module": MODULE});
    let api = Api::of(&server);
    let path = place.path("demo.spkg").display().to_string();
    for local in [path.clone(), format!("file://{path}"), "/etc/passwd".into()] {
        let (status, said) = api.send(Method::POST, "/datasets", &manifest(&local)).await;
        assert_eq!((status, &said["error_code"]), (400, &json!("MANIFEST_VALIDATION_ERROR")));
        assert!(said["error_message"].as_str().unwrap().contains("does not read"), "{said}");
    }
    let at_url = manifest(&store.url("demo.spkg"));
    let (status, said) = api.send(Method::POST, "/datasets", &at_url).await;
    assert_eq!(status, 201, "{said}");
    place.ok(&["dump", "--dataset", "demo"]);
    assert_rows(&place, 21, 0, 20);
    // What is registered is known, also without the package.
    http.delete(object("demo.spkg")).send().await.unwrap();
    assert_eq!(api.send(Method::POST, "/datasets", &at_url).await.0, 200);
    let (status, said) = api.send(Method::GET, "/datasets/demo", &Value::Null).await;
    assert_eq!((status, &said["tables"][0]["name"]), (200, &json!("rows")), "{said}");
    assert_eq!(server.stop(), 0);
}

//! Datasets of kind `substreams`: from a package to rows, through reorgs and changes of the package.

use nozzle_testkit::substreams::{
    SubstreamsOptions, SubstreamsServer,
    example::{MODULE, blocks, package},
};
use serde_json::{Value, json};

use crate::harness::Place;

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
    let args = ["generate-manifest", "--kind", "substreams", "--network", "mainnet", "--name", name];
    let said = place.ok(&[&args[..], &["--manifest", "demo.spkg", "--module", MODULE]].concat());
    serde_json::from_str(&said.stdout).unwrap()
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
    let manifest = generate(&place, "demo");
    assert_eq!((&manifest["start_block"], &manifest["module"]), (&json!(5), &json!(MODULE)));
    let columns = json!(["block_num", "timestamp", "block_hash", "n", "fork"]);
    assert_eq!(manifest["schema"], json!({ "rows": columns }));
    place.write("demo.json", &manifest.to_string());
    place.ok(&["dump", "--dataset", "demo.json"]);
    assert_rows(&place, 61, 0, 60);
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
fn a_package_that_has_lost_a_column_is_refused() {
    let (server, place) = served();
    place.write("demo.json", &generate(&place, "demo").to_string());
    place.ok(&["dump", "--dataset", "demo.json"]);
    std::fs::write(place.path("demo.spkg"), package(&["n"], 5)).unwrap();
    server.extend(blocks(0, 61..=65));
    let said = place.run(&["dump", "--dataset", "demo.json"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("has no column `fork`"), "{}", said.stderr);
    // With its package back it goes on.
    std::fs::write(place.path("demo.spkg"), package(&["n", "fork"], 5)).unwrap();
    place.ok(&["dump", "--dataset", "demo.json"]);
    assert_rows(&place, 66, 0, 65);
}

//! The shape of the workspace, asserted from what cargo resolves: who may use whom, one version of
//! what must be one, and the licences of what is used.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

use crate::harness::workspace;

/// What each crate may depend on, and nothing else. A new dependency is a decision: it is added here
/// and, where it changes what a crate is for, in docs/architecture.md.
const MAY_USE: [(&str, &str); 6] = [
    ("nozzle-core", "alloy-primitives arrow-schema serde serde_json thiserror uuid"),
    (
        "nozzle-metadata",
        "nozzle-core async-trait bytes chrono serde serde_json sqlx thiserror tokio tracing uuid",
    ),
    (
        "nozzle-sources",
        "nozzle-core alloy-primitives alloy-rlp arrow async-trait base64 bytes chrono const-hex futures httpdate k256 \
         percent-encoding prost prost-types pulp reqwest rustls rustls-platform-verifier serde sha2 sonic-rs thiserror tokio \
         tokio-tungstenite tonic tonic-prost tracing url",
    ),
    (
        "nozzle-query",
        "nozzle-core nozzle-metadata alloy-primitives arrow async-trait bytes chrono const-hex datafusion datafusion-datasource datafusion-functions-aggregate-common \
         futures itoa object_store parquet \
         serde_json strsim thiserror tokio tracing twox-hash url",
    ),
    (
        "nozzle-dump",
        "nozzle-core nozzle-metadata nozzle-query nozzle-sources arrow async-trait bytes chrono futures object_store parquet \
         serde_json thiserror tokio tokio-util tracing url uuid",
    ),
    // The program may use all, but the engine and the database only through their crates.
    ("nozzle", "*"),
];

/// What no crate but its owner may use.
const OWNED: [(&str, &str); 3] =
    [("datafusion", "nozzle-query"), ("sqlx", "nozzle-metadata"), ("sonic-rs", "nozzle-sources")];

/// Types of these cross crates: two versions of one do not fit together.
const ONE_VERSION: [&str; 8] =
    ["arrow", "parquet", "object_store", "datafusion", "rustls", "reqwest", "sqlx", "tokio"];

/// Never in the tree: a second TLS implementation, or a build that needs more than a C compiler.
const NEVER: [&str; 5] = ["openssl-sys", "native-tls", "aws-lc-sys", "cmake", "bindgen"];

/// The licences that may be used.
const LICENCES: [&str; 14] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "0BSD",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "BSL-1.0",
];

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    // Only this platform's packages are sure to have been fetched.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let args = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform];
    let output = Command::new(cargo).args(args).current_dir(workspace()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(metadata: &Value) -> &Vec<Value> {
    metadata["packages"].as_array().unwrap()
}

#[test]
fn each_crate_uses_only_what_it_may() {
    let metadata = metadata();
    let own: BTreeMap<&str, &Value> = packages(&metadata)
        .iter()
        .filter(|package| package["source"].is_null())
        .map(|package| (package["name"].as_str().unwrap(), package))
        .collect();
    let ruled: BTreeSet<&str> = MAY_USE.iter().map(|(name, _)| *name).chain(["nozzle-testkit"]).collect();
    assert_eq!(own.keys().copied().collect::<BTreeSet<_>>(), ruled);
    for (name, package) in own {
        let allowed = MAY_USE.iter().find(|(ruled, _)| *ruled == name).map_or("*", |(_, allowed)| allowed);
        let allowed: BTreeSet<&str> = allowed.split_whitespace().collect();
        let dependencies = package["dependencies"].as_array().unwrap();
        for dependency in dependencies.iter().filter(|dependency| dependency["kind"].is_null()) {
            let used = dependency["name"].as_str().unwrap();
            let is_allowed = allowed.contains("*") || allowed.contains(used);
            assert!(is_allowed && used != "nozzle-testkit", "{name} must not use {used}");
            let owner = OWNED.iter().find(|(owned, _)| *owned == used).map_or(name, |(_, owner)| owner);
            // What only tests are built with may measure and check with anything.
            let is_free = owner == name || name == "nozzle-testkit";
            assert!(is_free, "{used} is {owner}'s alone, not for {name}");
        }
    }
}

#[test]
fn what_must_be_one_version_is() {
    let metadata = metadata();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages(&metadata) {
        versions
            .entry(package["name"].as_str().unwrap())
            .or_default()
            .push(package["version"].as_str().unwrap());
    }
    for name in ONE_VERSION {
        assert_eq!(versions[name].len(), 1, "{name}: {:?}", versions[name]);
    }
    for name in NEVER {
        assert!(!versions.contains_key(name), "{name} has come into the tree");
    }
}

#[test]
fn every_licence_is_one_that_may_be_used() {
    // `cargo metadata` also lists optional packages that are not built; `cargo tree` does not.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let args = ["tree", "--workspace", "--locked", "--offline", "--prefix", "none", "--format", "{p}|{l}"];
    let output = Command::new(cargo).args(args).current_dir(workspace()).output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let lines = listed.lines().map(|line| line.trim_end_matches(" (*)"));
    let packages: BTreeSet<(&str, &str)> = lines.filter_map(|line| line.split_once('|')).collect();
    assert!(packages.len() > 100, "{}", String::from_utf8_lossy(&output.stderr));
    for (name, licence) in packages {
        let is_allowed = |choice: &str| {
            choice.split(" AND ").all(|part| LICENCES.contains(&part.trim().trim_matches(['(', ')'])))
        };
        let choices = licence.replace('/', " OR ").replace("AND (", "AND ").replace(')', "");
        assert!(choices.split(" OR ").any(is_allowed), "{name} is under {licence}");
    }
}

//! `nozzle doctor` and the providers' endpoints: what answers, what does not, and what to do about it.

use nozzle_testkit::{
    beacon::{BeaconChain, BeaconFault, BeaconNode},
    fault::{Fault, FaultServer, Schedule},
    firehose::{FirehoseServer, Options, made},
    replay::Recording,
    substreams::{
        SubstreamsOptions, SubstreamsServer,
        example::{MODULE, blocks, package},
    },
};

use crate::harness::{Place, synthetic};

/// A provider's file.
fn provide(place: &Place, name: &str, kind: &str, network: &str, url: &str, more: &str) {
    let text = format!("kind = \"{kind}\"\nnetwork = \"{network}\"\nurl = \"{url}\"\n{more}\n");
    place.write(&format!(".nozzle/providers/{name}.toml"), &text);
}

/// What is said of a provider: its verdict and the lines about it.
fn said_of<'a>(report: &'a str, name: &str) -> (&'a str, String) {
    let mut lines = report.lines().skip_while(|line| !line.contains(&format!("provider {name} (")));
    let first = lines.next().unwrap_or_else(|| panic!("nothing is said of {name}: {report}"));
    let about = lines.take_while(|line| line.starts_with("   ")).collect::<Vec<_>>().join("\n");
    (first.split_whitespace().next().unwrap(), about)
}

/// The addresses of one endpoint of each kind.
struct Endpoints {
    evm: nozzle_testkit::replay::ReplayServer,
    beacon: BeaconNode,
    firehose: FirehoseServer,
    substreams: SubstreamsServer,
}

async fn endpoints() -> Endpoints {
    let mut chain = BeaconChain::build(40, &[39]);
    chain.finalized = Some(20);
    let options = SubstreamsOptions {
        blocks: blocks(0, 5..=60),
        final_depth: 50,
        token: Some("tok-en".into()),
        ..SubstreamsOptions::default()
    };
    let of_firehose =
        Options { chain_name: "mainnet".into(), token: Some("tok-en".into()), ..Options::default() };
    Endpoints {
        evm: synthetic(Recording::synthetic(30, 1, 1, 7), 0),
        beacon: BeaconNode::start(chain).unwrap(),
        firehose: FirehoseServer::start(made(0, 50, 0), of_firehose).await.unwrap(),
        substreams: SubstreamsServer::start(options).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_answer_tell_their_chain_and_head() {
    let served = endpoints().await;
    let place = Place::empty();
    let token = "token = \"tok-en\"";
    provide(&place, "evm", "evm-rpc", "chain-1337", served.evm.url(), "");
    provide(&place, "beacon", "eth-beacon", "chain-31337", served.beacon.url(), "");
    provide(&place, "private", "eth-beacon", "my-devnet", served.beacon.url(), "");
    provide(&place, "fire", "firehose", "mainnet", &served.firehose.url(), token);
    provide(&place, "sub", "substreams", "mainnet", &served.substreams.url(), token);
    let report = place.ok(&["doctor"]).stdout;
    for (name, words) in [
        ("evm", &["chain id 1337 (`chain-1337`)", "head 29"][..]),
        ("beacon", &["chain id 31337", "head 40", "finalized 20"]),
        ("private", &["chain id 31337", "`my-devnet` is no network that is known by name"]),
        ("fire", &["chain `mainnet`", "head 50"]),
        ("sub", &["it was not asked", "none is defined"]),
    ] {
        let (verdict, about) = said_of(&report, name);
        assert!(verdict == "ok" && words.iter().all(|words| about.contains(words)), "{name}: {report}");
    }
    // Nothing was made, and what is needed to ask a module is there now.
    assert!(!place.path(".nozzle/metadata.db").exists());
    std::fs::write(place.path("demo.spkg"), package(&["n", "fork"], 5)).unwrap();
    let args = ["generate-manifest", "--kind", "substreams", "--network", "mainnet", "--name", "demo"];
    let args = [&args[..], &["--manifest", "demo.spkg", "--module", MODULE]].concat();
    place.write(".nozzle/datasets/demo.json", &place.ok(&args).stdout);
    let report = place.ok(&["doctor"]).stdout;
    let (_, about) = said_of(&report, "sub");
    assert!(about.contains("reachable") && about.contains("head 60"), "{report}");
    // Whether a package is there says nothing of the provider: another one does as well, and without any it is not asked.
    let asked = |package: &str| {
        let manifest = std::fs::read_to_string(place.path(".nozzle/datasets/demo.json")).unwrap();
        let other = manifest.replace("\"demo\"", "\"another\"").replace("demo.spkg", package);
        place.write(".nozzle/datasets/another.json", &other);
        let report = place.ok(&["doctor"]).stdout;
        let (verdict, about) = said_of(&report, "sub");
        assert_eq!(verdict, "ok", "{report}");
        about
    };
    assert!(asked("gone.spkg").contains("head 60"));
    std::fs::remove_file(place.path("demo.spkg")).unwrap();
    let about = asked("gone.spkg");
    let expected =
        "it was not asked: the package of the dataset `another` cannot be used here: reading the package";
    assert!(about.contains(expected), "{about}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_endpoint_is_told_with_what_to_do() {
    let served = endpoints().await;
    let place = Place::empty();
    std::fs::write(place.path("demo.spkg"), package(&["n", "fork"], 5)).unwrap();
    for network in ["mainnet", "sepolia"] {
        let args = ["generate-manifest", "--kind", "substreams", "--network", network, "--name", network];
        let args = [&args[..], &["--manifest", "demo.spkg", "--module", MODULE]].concat();
        place.write(&format!(".nozzle/datasets/{network}.json"), &place.ok(&args).stdout);
    }
    let (good, bad) = ("token = \"tok-en\"", "token = \"wro-ng\"");
    let (evm, beacon) = (served.evm.url(), served.beacon.url());
    let (fire, sub) = (served.firehose.url(), served.substreams.url());
    let nobody = "http://127.0.0.1:1";
    for (name, kind, network, url, more, words) in [
        ("a1", "evm-rpc", "mainnet", evm, "", &["another chain", "answers 1337", "Check its URL"][..]),
        ("a2", "evm-rpc", "mainnet", nobody, "", &["nothing listens", "check that the node runs"]),
        ("b1", "eth-beacon", "mainnet", beacon, "", &["another chain", "answers 31337", "Check its URL"]),
        ("b2", "eth-beacon", "mainnet", nobody, "", &["nothing listens", "check that the node runs"]),
        // Each layer's node in the place of the other's.
        ("b3", "eth-beacon", "chain-1337", evm, "", &["a Beacon API", "execution client"]),
        ("b4", "evm-rpc", "chain-31337", beacon, "", &["check"]),
        ("f1", "firehose", "sepolia", &fire, good, &["serves `mainnet`, and not `sepolia`"]),
        ("f2", "firehose", "mainnet", &fire, bad, &["check its `token`"]),
        ("f3", "firehose", "mainnet", nobody, good, &["127.0.0.1:1 failed", "check `url`", "endpoint runs"]),
        ("f4", "firehose", "mainnet", &sub, good, &["check"]),
        ("s1", "substreams", "mainnet", &sub, bad, &["check its `token`"]),
        (
            "s2",
            "substreams",
            "mainnet",
            nobody,
            good,
            &["127.0.0.1:1 failed", "check `url`", "endpoint runs"],
        ),
        // For want of a package it is only dialled.
        ("s4", "substreams", "holesky", nobody, good, &["nothing listens at 127.0.0.1:1"]),
        ("s3", "substreams", "sepolia", &fire, good, &["check"]),
        ("v1", "eth-beacon", "mainnet", beacon, "auth_token = \"${NO_SUCH}\"", &["NO_SUCH is not set"]),
    ] {
        provide(&place, name, kind, network, url, more);
        let report = place.run(&["doctor"]);
        assert_eq!(report.code, Some(1), "{name}: {}", report.stdout);
        let (verdict, about) = said_of(&report.stdout, name);
        assert_eq!(verdict, "FAILED", "{name}: {}", report.stdout);
        assert!(words.iter().all(|words| about.contains(words)), "{name}: {about}");
        assert!(url != nobody || !about.contains("reachable"), "{name}: {about}");
        assert!(!report.stdout.contains("wro-ng") && !report.stderr.contains("wro-ng"), "{name}");
        std::fs::remove_file(place.path(&format!(".nozzle/providers/{name}.toml"))).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_pushes_back_is_told_in_its_own_words() {
    let served = endpoints().await;
    served.beacon.fail("eth/", BeaconFault::Status(429, Some(60)), 1000);
    let rates = [(Fault::TooManyRequests, 1.0)].into();
    let busy = Schedule { seed: 1, rates, in_a_row: None };
    let busy = FaultServer::start(served.evm.url(), served.evm.url(), busy).unwrap();
    let place = Place::empty();
    provide(&place, "beacon", "eth-beacon", "chain-31337", served.beacon.url(), "");
    provide(&place, "evm", "evm-rpc", "chain-1337", busy.url(), "");
    let report = place.run(&["doctor"]);
    assert_eq!(report.code, Some(1), "{}", report.stdout);
    for (name, words) in [("beacon", "HTTP 429 Too Many Requests: not now"), ("evm", "HTTP 429")] {
        let (verdict, about) = said_of(&report.stdout, name);
        assert!(verdict == "FAILED" && about.contains(words), "{name}: {about}");
    }
}

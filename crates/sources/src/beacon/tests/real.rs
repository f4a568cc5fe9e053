//! Recorded blocks of real networks: every cell, every root.

use std::{collections::BTreeMap, io::Read, path::Path};

use super::{cells, node::recorded_chain, ssz::decode, *};
use crate::beacon::{
    forks::{Fork, Preset},
    ssz::{Type, U64},
};

fn read(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if path.extension().is_some_and(|extension| extension == "zst") {
        let mut unpacked = vec![];
        zstd::Decoder::new(&bytes[..]).unwrap().read_to_end(&mut unpacked).unwrap();
        return unpacked;
    }
    bytes
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

fn hex_of(root: [u8; 32]) -> String {
    const_hex::encode_prefixed(root)
}

/// The header that belongs to a block, as the node would have given it.
fn header_of(message: &Value, signature: &Value, body: &Type) -> Value {
    let value = message["body"].to_string();
    let body_root = hex_of(body.root(&sonic_rs::from_str(&value).unwrap()).unwrap());
    let mut header = message.clone();
    header.as_object_mut().unwrap().remove("body");
    header["body_root"] = body_root.into();
    let of_header = [
        ("slot", U64),
        ("proposer_index", U64),
        ("parent_root", Type::Bytes(32)),
        ("state_root", Type::Bytes(32)),
        ("body_root", Type::Bytes(32)),
    ];
    let root = Type::Container(of_header.into());
    let root = hex_of(root.root(&sonic_rs::from_str(&header.to_string()).unwrap()).unwrap());
    json!({"data": {"root": root, "canonical": true, "header": {"message": header, "signature": signature}}})
}

/// A file, its fork, the roots of its block and body, and the number of rows of each table.
type Known = (&'static str, &'static str, &'static str, &'static str, [usize; 9]);

/// As remerkleable 0.1.28, another implementation, reads them: `second_reader.py files` prints this.
const MAINNET: [Known; 9] = [
    (
        "geth-block_capella.json.zst",
        "capella",
        "ca39f05d745f42051d231512a1263b5fef52c68a18fe323cd5036ad2d85856df",
        "9d0ead415c4329683bfe6cf95093fd71b2ea21cf6b776e669946cf1de97ad9a7",
        [1, 86, 0, 16, 0, 0, 0, 0, 0],
    ),
    (
        "geth-block_deneb.json.zst",
        "deneb",
        "6501aa5db10d46cd2c905554bc63fbd7f0075124848763e935980877e8587bd9",
        "5aa7fe59e7e8c32e1749cd8ea6be671253d04f32d2b833314b5ef6c50e6a052a",
        [1, 128, 0, 16, 0, 0, 0, 0, 0],
    ),
    (
        "geth-block_electra_consolidations.json.zst",
        "electra",
        "702171768db97dfb4d7d7b47f457a692b1300e0a5ef664e4382b7170e237da4a",
        "455257ae4212ccd96f40e10e3f1c898ea96622cbd90aef1cf5191c44a3202de5",
        [1, 2, 0, 16, 0, 0, 0, 0, 1],
    ),
    (
        "geth-block_electra_deposits.json.zst",
        "electra",
        "7f52decd851222f7ff65908495c82bec5077dae8997fcbb8ca3b2289133fa080",
        "d015968c4bcc5d0dea846dd08bb8808d9bf5569d594f3a4cb30e40b92f548822",
        [1, 2, 0, 16, 0, 0, 0, 0, 1],
    ),
    (
        "geth-block_electra_withdrawals.json.zst",
        "electra",
        "8e62d34cce434ef17ee8f9cd452a964e7f337aa0e4de8f11688bfcaf2442d27e",
        "e63b43935bd801230f2283f0079441cc2e82d60825e85c24e336f26b8d47c980",
        [1, 3, 0, 0, 0, 0, 0, 0, 1],
    ),
    (
        "portal-el15537394-block.ssz.zst",
        "bellatrix",
        "810a00400a80cdffc11ffdcf17ac404ac4dba215b95221955a9dfddf163d0b0d",
        "65aea6c5bc4477cfc402f473b7158233008bc9ab20047d2a27296d997d37319a",
        [1, 128, 0, 0, 0, 0, 0, 0, 0],
    ),
    (
        "portal-el17034869-block.ssz.zst",
        "bellatrix",
        "d82611c764830c4865cdc90126d852d3a131a877fcb2811da5c70a78943e579d",
        "3ef3e45193c2c4e644595afd470d9bfd4a7c860bcf58950119d1a422ba7c564d",
        [1, 64, 0, 0, 0, 0, 0, 0, 0],
    ),
    (
        "portal-el19426586-block.ssz.zst",
        "capella",
        "b35bb80bc5f4e3d8f19b62f6274add24dca334db242546c3024403027aaf6412",
        "11c962c1a1bdaa69555582822fd4bdbc480ec32939453f47fe3d42520132c86f",
        [1, 128, 0, 16, 0, 0, 0, 0, 0],
    ),
    (
        "portal-el19426587-block.ssz.zst",
        "deneb",
        "a471c7622a976313a61e01b01212dcea6acd71f351618734928dcabe4aba62fe",
        "7341cd007d893fd223ebc90d7bde383986da170224ae75a26d4fb381b4088b82",
        [1, 117, 0, 16, 0, 0, 0, 0, 0],
    ),
];

#[test]
fn recorded_blocks_of_mainnet_give_their_rows_and_roots() {
    let Some(folder) = data("beacon-mainnet") else { return };
    let signature = json!(const_hex::encode_prefixed([7; 96]));
    let (chain, preset) = (mainnet(), Preset::of_spec(&BTreeMap::new()));
    for (file, version, root, body_root, expected) in MAINNET {
        let body = preset.body(Fork::named(version).unwrap());
        let bytes = read(&folder.join(file));
        let message = if file.contains(".ssz") {
            let fields = [
                ("slot", U64),
                ("proposer_index", U64),
                ("parent_root", Type::Bytes(32)),
                ("state_root", Type::Bytes(32)),
                ("body", body.clone()),
            ];
            decode(&Type::Container(fields.into()), &bytes)
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        let header = header_of(&message, &signature, &body);
        assert_eq!(header["data"]["root"], format!("0x{root}"), "{file}");
        assert_eq!(header["data"]["header"]["message"]["body_root"], format!("0x{body_root}"), "{file}");
        let block = json!({"version": version, "data": {"message": message, "signature": signature}});
        let rows = good(decoder(Verify::Full).decode(&[raw(&chain, &header, &block)]));
        let slot: i64 = message["slot"].as_str().unwrap().parse().unwrap();
        let counts = cells::check(&rows, &header, &block, 1_606_824_023_000_000 + slot * 12_000_000);
        assert_eq!(counts, expected, "{file}");
        let payload = &message["body"]["execution_payload"];
        if !version.starts_with("electra") {
            let seconds: i64 = payload["timestamp"].as_str().unwrap().parse().unwrap();
            assert_eq!(cells::column(&rows.tables[0].batch, "timestamp", 0), seconds * 1_000_000, "{file}");
        }
    }
}

#[test]
fn two_blocks_around_a_fork_link() {
    let Some(folder) = data("beacon-mainnet") else { return };
    // Slot 8626176 is the first of deneb.
    let bytes = read(&folder.join("portal-el19426587-block.ssz.zst"));
    assert_eq!(const_hex::encode(&bytes[16..48]), MAINNET[7].2);
}

#[test]
fn recorded_answers_of_a_node_give_their_rows_and_roots() {
    let Some(folder) = data("beacon-lodestar-1.5.1-dev") else { return };
    let spec = json_of(&folder.join("v1_config_spec.json"));
    let genesis = read(&folder.join("v1_beacon_genesis.json"));
    let chain = Arc::new(Network::of_answers(spec.to_string().as_bytes(), &genesis).unwrap());
    assert_eq!(chain.chain_id, Some(5));
    let mut headers = BTreeMap::new();
    for slot in [3, 9, 17, 18, 25, 26, 40_i64] {
        let block = json_of(&folder.join(format!("v2_blocks_{slot}.json")));
        let body = chain.body(Fork::named(block["version"].as_str().unwrap()).unwrap());
        let header = header_of(&block["data"]["message"], &block["data"]["signature"], &body);
        let rows = good(decoder(Verify::Full).decode(&[raw(&chain, &header, &block)]));
        cells::check(&rows, &header, &block, (1_795_330_617 + 2 * slot) * 1_000_000);
        headers.insert(slot, header);
    }
    // What the node itself has said of them.
    let recorded = json_of(&folder.join("v1_beacon_headers_26.json"));
    assert_eq!(headers[&26]["data"], recorded["data"]);
    for (parent, child) in [(17, 18), (25, 26)] {
        assert_eq!(
            headers[&parent]["data"]["root"],
            headers[&child]["data"]["header"]["message"]["parent_root"]
        );
    }
    for name in ["26", "head", "finalized"] {
        let answer = read(&folder.join(format!("v1_beacon_headers_{name}.json")));
        verify::header(&answer, Verify::Header).unwrap();
    }
}

/// Blocks with random contents and items of every kind, one of each fork, as remerkleable 0.1.28 writes and
/// hashes them: `second_reader.py blocks 1`.
const EVERY_FORK: &[u8] = include_bytes!("every-fork.jsonl.zst");

/// A block of [`EVERY_FORK`], the header first.
fn random_blocks() -> impl Iterator<Item = (Value, Value, Vec<usize>)> {
    let text = String::from_utf8(zstd::decode_all(EVERY_FORK).unwrap()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.into_iter().map(|mut line| {
        let rows = serde_json::from_value(line["rows"].take()).unwrap();
        (line["header"].take(), line["block"].take(), rows)
    })
}

#[test]
fn every_fork_gives_every_kind_of_item_and_its_roots() {
    let chain = mainnet();
    let mut versions = vec![];
    for (header, block, expected) in random_blocks() {
        let version = block["version"].as_str().unwrap().to_owned();
        let rows = good(decoder(Verify::Full).decode(&[raw(&chain, &header, &block)]));
        let slot = versions.len() as i64;
        let counts = cells::check(&rows, &header, &block, 1_606_824_023_000_000 + slot * 12_000_000);
        assert_eq!(counts, expected, "{version}");
        versions.push(version);
    }
    assert_eq!(versions, ["phase0", "altair", "bellatrix", "capella", "deneb", "electra", "fulu"]);
}

/// A slot of the recorded chain that has a block of capella.
const CAPELLA_SLOT: u64 = 26;

/// The header and the block of a slot of the recorded chain.
fn recorded(slot: u64) -> (Arc<Network>, Value, Value) {
    let chain = recorded_chain();
    let block = chain.at(slot).unwrap();
    (network(&chain.network.spec), block.header.clone(), block.block.clone())
}

#[test]
fn what_is_changed_on_its_way_is_found() {
    let (chain, header, block) = recorded(CAPELLA_SLOT);
    let zeros = json!(const_hex::encode_prefixed([0; 32]));
    let decode =
        |header: &Value, block: &Value, verify| decoder(verify).decode(&[raw(&chain, header, block)]);
    let changed = |answer: &Value, pointer: &str, value: Value| {
        let mut answer = answer.clone();
        *answer.pointer_mut(pointer).unwrap() = value;
        answer
    };
    for level in [Verify::None, Verify::Links, Verify::Header, Verify::Full] {
        good(decode(&header, &block, level));
    }
    let wrong_root = changed(&header, "/data/root", zeros.clone());
    good(decode(&wrong_root, &block, Verify::Links));
    let error = decode(&wrong_root, &block, Verify::Header).error.unwrap().to_string();
    assert!(
        error.contains(&format!("bad block {CAPELLA_SLOT}")) && error.contains("not to its root"),
        "{error}"
    );
    let changed_body = changed(&block, "/data/message/body/graffiti", zeros.clone());
    good(decode(&header, &changed_body, Verify::Header));
    let error = decode(&header, &changed_body, Verify::Full).error.unwrap().to_string();
    assert!(error.contains("not to the body root"), "{error}");
    // Of another fork than the header.
    let other = changed(&block, "/data/message/state_root", zeros);
    good(decode(&header, &other, Verify::None));
    assert!(decode(&header, &other, Verify::Links).error.unwrap().is_missing());
    for (pointer, value, words) in [
        ("/data/message/slot", json!("1"), "its header is of the slot"),
        ("/data/message/body/deposits", json!(null), "lacks `deposits`, which capella has"),
        ("/data/message/body/execution_payload", json!(null), "lacks `execution_payload`"),
        ("/data/message/body/graffiti", json!("0x00"), "32 bytes"),
        ("/version", json!(null), "does not say of which fork"),
        ("/data/message/proposer_index", json!("-1"), "decimal text"),
    ] {
        let error =
            decode(&header, &changed(&block, pointer, value), Verify::None).error.unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
}

/// A block of another fork than its own, with a changed body.
fn of_newer_fork(block: &Value, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Value {
    let mut block = block.clone();
    block["version"] = "heze".into();
    change(block["data"]["message"]["body"].as_object_mut().unwrap());
    block
}

#[test]
fn a_fork_that_is_not_known_is_stored_as_far_as_it_is() {
    let (header, block, expected) = random_blocks().last().unwrap();
    let decoded = |block: &Value| good(decoder(Verify::Full).decode(&[raw(&mainnet(), &header, block)]));
    let counts =
        |rows: &BlockRows| rows.tables.iter().map(|table| table.batch.num_rows()).collect::<Vec<_>>();
    let cell = |rows: &BlockRows, table: usize, name: &str| cells::column(&rows.tables[table].batch, name, 0);
    // More than there was.
    let more = of_newer_fork(&block, |body| {
        body.insert("signed_execution_payload_bid".into(), json!({"message": {"value": "1"}}));
        body["attestations"][0]["data"]["more"] = json!([]);
    });
    let rows = decoded(&more);
    assert_eq!(cells::check(&rows, &header, &more, 1_606_824_023_000_000 + 6 * 12_000_000), expected);
    // Less than there was.
    let rows = decoded(&of_newer_fork(&block, |body| {
        for name in ["execution_payload", "deposits", "eth1_data", "sync_aggregate"] {
            body.remove(name);
        }
        body["attestations"][0]["data"].as_object_mut().unwrap().remove("index");
    }));
    let mut fewer = expected.clone();
    (fewer[2], fewer[3]) = (0, 0);
    assert_eq!(counts(&rows), fewer, "no other row is lost");
    assert_eq!(cell(&rows, 0, "version"), "heze");
    for name in ["execution_block_hash", "execution_block_number", "sync_committee_bits"] {
        assert_eq!(cell(&rows, 0, name), Value::Null, "{name}");
    }
    assert_eq!(cell(&rows, 0, "eth1_data_deposit_count"), "0");
    assert_eq!(cell(&rows, 1, "index"), "0");
    let body = &block["data"]["message"]["body"];
    assert_eq!(cell(&rows, 0, "randao_reveal"), body["randao_reveal"]);
    assert_eq!(cell(&rows, 1, "signature"), body["attestations"][0]["signature"]);
    // Not what it was, wherever it is.
    for other in [json!(null), json!(1), json!("0x01"), json!([[1]]), json!({"a": {}}), json!([{}, null])] {
        let names: Vec<String> = body.as_object().unwrap().keys().cloned().collect();
        for name in names {
            let rows = decoded(&of_newer_fork(&block, |body| body[&name] = other.clone()));
            assert_eq!(counts(&rows)[0], 1, "{name}: {other}");
        }
    }
}

#[test]
fn the_fields_that_a_newer_fork_lacks_are_named() {
    let newest = mainnet().body(Fork::NEWEST);
    let (header, block, expected_rows) = random_blocks().last().unwrap();
    let other = |block: &Value| {
        let text = block["data"]["message"]["body"].to_string();
        let read = crate::beacon::newer::read(&sonic_rs::from_str(&text).unwrap(), &newest).unwrap();
        read.other.into_iter().collect::<Vec<_>>()
    };
    assert!(other(&block).is_empty());
    let block = of_newer_fork(&block, |body| {
        let payload = body["execution_payload"].as_object_mut().unwrap();
        // What is not stored is not missed.
        payload.remove("transactions");
        payload.remove("block_number");
        body["sync_aggregate"].as_object_mut().unwrap().remove("sync_committee_bits");
        body["blob_kzg_commitments"][0] = json!("0x01");
        body["graffiti"] = json!("0x01");
        let requests = &mut body["execution_requests"];
        requests["deposits"][0].as_object_mut().unwrap().remove("index");
        requests["deposits"][0]["amount"] = json!("all");
        requests["withdrawals"][0] = json!(7);
        requests["consolidations"][0]["source_address"] = json!("0x01");
        for attestation in body["attestations"].as_array_mut().unwrap() {
            attestation["data"]["source"] = json!("7");
        }
    });
    let expected = [
        "attestations.data.source",
        "blob_kzg_commitments",
        "execution_payload.block_number",
        "execution_requests.consolidations.source_address",
        "execution_requests.deposits.amount",
        "execution_requests.deposits.index",
        "execution_requests.withdrawals",
        "graffiti",
        "sync_aggregate.sync_committee_bits",
    ];
    assert_eq!(other(&block), expected);
    // Null stands for them, and zero only where a column cannot be null.
    let rows = good(decoder(Verify::Full).decode(&[raw(&mainnet(), &header, &block)]));
    let counts: Vec<usize> = rows.tables.iter().map(|table| table.batch.num_rows()).collect();
    assert_eq!(counts, expected_rows, "no row is lost");
    let cell = |table: usize, name: &str, row| cells::column(&rows.tables[table].batch, name, row);
    for name in ["execution_block_number", "blob_kzg_commitments", "sync_committee_bits"] {
        assert_eq!(cell(0, name, 0), Value::Null, "{name}");
    }
    let body = &block["data"]["message"]["body"];
    assert_eq!(cell(0, "execution_block_hash", 0), body["execution_payload"]["block_hash"]);
    assert_eq!(cell(0, "sync_committee_signature", 0), body["sync_aggregate"]["sync_committee_signature"]);
    assert_eq!(cell(0, "graffiti", 0), const_hex::encode_prefixed([0; 32]));
    assert_eq!(cell(1, "source_epoch", 0), "0");
    let of_type = |name: &str| (0..counts[8]).find(|row| cell(8, "type", *row) == name).unwrap();
    let (deposit, withdrawal, consolidation) =
        (of_type("deposit"), of_type("withdrawal"), of_type("consolidation"));
    for (row, name) in [
        (deposit, "index"),
        (deposit, "amount"),
        (withdrawal, "source_address"),
        (withdrawal, "validator_pubkey"),
        (withdrawal, "amount"),
        (consolidation, "source_address"),
    ] {
        assert_eq!(cell(8, name, row), Value::Null, "{name}");
    }
    let requests = &body["execution_requests"];
    assert_eq!(cell(8, "pubkey", deposit), requests["deposits"][0]["pubkey"]);
    assert_eq!(cell(8, "target_pubkey", consolidation), requests["consolidations"][0]["target_pubkey"]);
}

#[test]
fn a_known_fork_lacks_nothing_that_it_has() {
    let (header, block, _) = random_blocks().last().unwrap();
    for (place, name) in [
        ("/execution_payload", "block_number"),
        ("/execution_payload", "block_hash"),
        ("/sync_aggregate", "sync_committee_signature"),
        ("/execution_requests/deposits/0", "index"),
        ("/execution_requests/withdrawals/0", "validator_pubkey"),
        ("/execution_requests/consolidations/0", "target_pubkey"),
    ] {
        let mut block = block.clone();
        let within = block.pointer_mut(&format!("/data/message/body{place}")).unwrap();
        within.as_object_mut().unwrap().remove(name);
        let error = decoder(Verify::None).decode(&[raw(&mainnet(), &header, &block)]).error.unwrap();
        assert!(error.to_string().contains(&format!("lacks `{name}`, which fulu has")), "{error}");
    }
}

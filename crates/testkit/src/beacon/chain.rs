//! Beacon chains: blocks at slots, linked by the roots of their headers.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What a node says of its network.
#[derive(Debug, Clone)]
pub struct Network {
    /// The answer to `/eth/v1/config/spec`, without its wrapping.
    pub spec: Value,
    /// The answer to `/eth/v1/beacon/genesis`, without its wrapping.
    pub genesis: Value,
}

impl Default for Network {
    /// A network of mainnet's sizes, whose genesis was in November 2023, with slots of 12 seconds and the
    /// chain id 31337.
    fn default() -> Self {
        Self {
            spec: json!({
                "CONFIG_NAME": "testkit",
                "PRESET_BASE": "mainnet",
                "SECONDS_PER_SLOT": "12",
                "SLOTS_PER_EPOCH": "32",
                "DEPOSIT_CHAIN_ID": "31337",
                "DEPOSIT_NETWORK_ID": "31337",
                // Newer nodes list things that are not numbers, too.
                "BLOB_SCHEDULE": [{"EPOCH": "1", "MAX_BLOBS_PER_BLOCK": "9"}],
            }),
            genesis: json!({
                "genesis_time": "1700000000",
                "genesis_validators_root": root_text(&[1; 32]),
                "genesis_fork_version": "0x00000000",
            }),
        }
    }
}

/// A block, as a node answers for it.
#[derive(Debug, Clone)]
pub struct BeaconBlock {
    /// Its slot.
    pub slot: u64,
    /// Its root, as hex text.
    pub root: String,
    /// The answer to `/eth/v1/beacon/headers/{id}`.
    pub header: Value,
    /// The answer to `/eth/v2/beacon/blocks/{id}`.
    pub block: Value,
}

impl BeaconBlock {
    /// A block of a body, with the root that this must have in the header; the rest of it is made up
    /// from `fork`, by which two blocks of one slot differ.
    pub fn new(
        slot: u64,
        parent_root: &str,
        version: &str,
        body: &Value,
        body_root: [u8; 32],
        fork: u8,
    ) -> Self {
        let state_root = [fork; 32];
        let signature = const_hex::encode_prefixed([fork; 96]);
        let parent = bytes32(parent_root);
        let proposer_index = slot % 64;
        let root =
            root_text(&header_root([number(slot), number(proposer_index), parent, state_root, body_root]));
        let message = |last: &str, value: Value| {
            json!({
                "slot": slot.to_string(),
                "proposer_index": proposer_index.to_string(),
                "parent_root": parent_root,
                "state_root": root_text(&state_root),
                last: value,
            })
        };
        let header = json!({
            "execution_optimistic": false,
            "finalized": false,
            "data": {
                "root": root,
                "canonical": true,
                "header": {"message": message("body_root", root_text(&body_root).into()), "signature": signature},
            },
        });
        let block = json!({
            "version": version,
            "execution_optimistic": false,
            "finalized": false,
            "data": {"message": message("body", body.clone()), "signature": signature},
        });
        Self { slot, root, header, block }
    }
}

/// A chain from its genesis on, slots without a block among them.
#[derive(Debug, Clone, Default)]
pub struct BeaconChain {
    /// The network.
    pub network: Network,
    blocks: BTreeMap<u64, BeaconBlock>,
    /// The slot of the newest final block, at or below which it is; absent: the first block.
    pub finalized: Option<u64>,
}

impl BeaconChain {
    /// A chain of blocks with made-up bodies at all slots to `head` but the skipped ones.
    pub fn build(head: u64, skipped: &[u64]) -> Self {
        let mut chain = Self::default();
        chain.extend(0..=head, skipped, 0);
        chain
    }

    /// [`BeaconChain::recorded`] of a file, decompressed if its name ends with `.zst`.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let mut bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        if path.extension().is_some_and(|extension| extension == "zst") {
            bytes = zstd::decode_all(&bytes[..])?;
        }
        Self::recorded(std::str::from_utf8(&bytes)?).with_context(|| format!("read {}", path.display()))
    }

    /// A chain as it was recorded: a line `{"spec", "genesis"}`, then a line `{"header", "block"}` for the
    /// answers about each block.
    pub fn recorded(lines: &str) -> anyhow::Result<Self> {
        let mut lines = lines.lines().map(serde_json::from_str::<Value>);
        let first = lines.next().context("the recording is empty")??;
        let is_network = first["spec"].is_object() && first["genesis"].is_object();
        anyhow::ensure!(is_network, r#"its first line is not {{"spec":…,"genesis":…}}"#);
        let network = Network { spec: first["spec"].clone(), genesis: first["genesis"].clone() };
        let mut chain = Self { network, ..Self::default() };
        for line in lines {
            let line = line?;
            let (header, block) = (line["header"].clone(), line["block"].clone());
            let slot = header["data"]["header"]["message"]["slot"].as_str().context("a slot")?.parse()?;
            let root = header["data"]["root"].as_str().context("a root")?.to_owned();
            chain.insert(BeaconBlock { slot, root, header, block });
        }
        Ok(chain)
    }

    /// Adds blocks with made-up bodies at those of the slots that are not skipped.
    pub fn extend(&mut self, slots: impl IntoIterator<Item = u64>, skipped: &[u64], fork: u8) {
        for slot in slots {
            if !skipped.contains(&slot) {
                self.push_body(slot, "electra", &body(slot, fork), fork);
            }
        }
    }

    /// Adds a block with a body, whose root is made up too.
    pub fn push_body(&mut self, slot: u64, version: &str, body: &Value, fork: u8) {
        let body_root = Sha256::digest(body.to_string()).into();
        self.push(slot, version, body, body_root, fork);
    }

    /// Adds a block with a body and its root.
    pub fn push(&mut self, slot: u64, version: &str, body: &Value, body_root: [u8; 32], fork: u8) {
        let parent = self.blocks.range(..slot).next_back();
        let parent_root = parent.map_or_else(|| root_text(&[0; 32]), |(_, parent)| parent.root.clone());
        self.blocks.insert(slot, BeaconBlock::new(slot, &parent_root, version, body, body_root, fork));
    }

    /// Adds a block as it was recorded.
    pub fn insert(&mut self, block: BeaconBlock) {
        self.blocks.insert(block.slot, block);
    }

    /// The chain without what comes behind a slot, for another fork to begin there.
    pub fn up_to(&self, slot: u64) -> Self {
        let mut chain = self.clone();
        chain.blocks.retain(|at, _| *at <= slot);
        chain
    }

    /// The block of a slot.
    pub fn at(&self, slot: u64) -> Option<&BeaconBlock> {
        self.blocks.get(&slot)
    }

    /// The blocks, ascending.
    pub fn blocks(&self) -> impl Iterator<Item = &BeaconBlock> {
        self.blocks.values()
    }

    /// The block that the API calls so: by slot, by root, `head`, `finalized` or `genesis`.
    pub fn named(&self, id: &str) -> Option<&BeaconBlock> {
        match id {
            "head" => self.blocks.values().next_back(),
            "genesis" => self.blocks.get(&0),
            "finalized" => match self.finalized {
                Some(slot) => self.blocks.range(..=slot).next_back().map(|(_, block)| block),
                None => self.blocks.values().next(),
            },
            root if root.starts_with("0x") => self.blocks.values().find(|block| block.root == root),
            slot => self.blocks.get(&slot.parse().ok()?),
        }
    }
}

/// A made-up body of electra: two attestations, a withdrawal and a request of each kind.
pub fn body(slot: u64, fork: u8) -> Value {
    let hex = |byte: u8, length: usize| const_hex::encode_prefixed(vec![byte; length]);
    let checkpoint = json!({"epoch": (slot / 32).to_string(), "root": hex(2, 32)});
    let attestation = |index: u64| {
        json!({
            "aggregation_bits": "0xff01",
            "data": {
                "slot": slot.saturating_sub(1).to_string(),
                "index": index.to_string(),
                "beacon_block_root": hex(3, 32),
                "source": checkpoint,
                "target": checkpoint,
            },
            "signature": hex(4, 96),
            "committee_bits": "0x0100000000000000",
        })
    };
    json!({
        "randao_reveal": hex(fork, 96),
        "eth1_data": {"deposit_root": hex(5, 32), "deposit_count": "7", "block_hash": hex(6, 32)},
        "graffiti": hex(fork, 32),
        "proposer_slashings": [],
        "attester_slashings": [],
        "attestations": [attestation(0), attestation(1)],
        "deposits": [],
        "voluntary_exits": [],
        "sync_aggregate": {
            "sync_committee_bits": hex(0xff, 64),
            "sync_committee_signature": hex(7, 96),
        },
        "execution_payload": {
            "parent_hash": hex(8, 32),
            "fee_recipient": hex(9, 20),
            "state_root": hex(10, 32),
            "receipts_root": hex(11, 32),
            "logs_bloom": hex(0, 256),
            "prev_randao": hex(12, 32),
            "block_number": slot.to_string(),
            "gas_limit": "30000000",
            "gas_used": "0",
            "timestamp": "0",
            "extra_data": "0x",
            "base_fee_per_gas": "7",
            "block_hash": root_text(&Sha256::digest([slot.to_be_bytes().as_slice(), &[fork]].concat()).into()),
            "transactions": [],
            "withdrawals": [{
                "index": slot.to_string(),
                "validator_index": "1",
                "address": hex(13, 20),
                "amount": "1000",
            }],
            "blob_gas_used": "0",
            "excess_blob_gas": "0",
        },
        "bls_to_execution_changes": [],
        "blob_kzg_commitments": [hex(14, 48)],
        "execution_requests": {
            "deposits": [{
                "pubkey": hex(15, 48),
                "withdrawal_credentials": hex(16, 32),
                "amount": "32000000000",
                "signature": hex(17, 96),
                "index": slot.to_string(),
            }],
            "withdrawals": [{"source_address": hex(18, 20), "validator_pubkey": hex(19, 48), "amount": "0"}],
            "consolidations": [{
                "source_address": hex(20, 20),
                "source_pubkey": hex(21, 48),
                "target_pubkey": hex(22, 48),
            }],
        },
    })
}

/// The root of a header's five values: the consensus specification's `hash_tree_root`.
fn header_root(values: [[u8; 32]; 5]) -> [u8; 32] {
    let mut layer = values.to_vec();
    layer.resize(8, [0; 32]);
    while layer.len() > 1 {
        layer = layer.chunks(2).map(|two| Sha256::digest(two.concat()).into()).collect();
    }
    layer[0]
}

fn number(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn bytes32(text: &str) -> [u8; 32] {
    const_hex::decode_to_array(text).expect("a root of this module")
}

fn root_text(root: &[u8; 32]) -> String {
    const_hex::encode_prefixed(root)
}

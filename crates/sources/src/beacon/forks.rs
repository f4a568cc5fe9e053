//! The forks of the beacon chain: their names, and what a block's body is in each of them.
//!
//! After the `beacon-chain.md` of each fork in <https://github.com/ethereum/consensus-specs>.

use std::collections::BTreeMap;

use sonic_rs::{JsonValueTrait, LazyValue};

use super::ssz::{Type, U64};

/// A fork whose blocks are known here, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fork {
    Phase0,
    Altair,
    Bellatrix,
    Capella,
    Deneb,
    Electra,
    Fulu,
}

impl Fork {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Phase0, "phase0"),
        (Self::Altair, "altair"),
        (Self::Bellatrix, "bellatrix"),
        (Self::Capella, "capella"),
        (Self::Deneb, "deneb"),
        (Self::Electra, "electra"),
        (Self::Fulu, "fulu"),
    ];

    /// The newest of them.
    pub const NEWEST: Self = Self::Fulu;

    /// The fork that the API calls so; `None` where it is not known here.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(fork, _)| *fork)
    }
}

/// The sizes that a network may choose, as far as blocks depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preset {
    pub max_proposer_slashings: u64,
    pub max_attester_slashings: u64,
    pub max_attester_slashings_electra: u64,
    pub max_attestations: u64,
    pub max_attestations_electra: u64,
    pub max_deposits: u64,
    pub max_voluntary_exits: u64,
    pub max_committees_per_slot: u64,
    pub max_validators_per_committee: u64,
    pub sync_committee_size: u64,
    pub max_bytes_per_transaction: u64,
    pub max_transactions_per_payload: u64,
    pub max_extra_data_bytes: u64,
    pub max_withdrawals_per_payload: u64,
    pub max_bls_to_execution_changes: u64,
    pub max_blob_commitments_per_block: u64,
    pub max_deposit_requests_per_payload: u64,
    pub max_withdrawal_requests_per_payload: u64,
    pub max_consolidation_requests_per_payload: u64,
}

impl Preset {
    /// The sizes that `/eth/v1/config/spec` names; those of mainnet where it does not.
    pub fn of_spec(spec: &BTreeMap<&str, LazyValue<'_>>) -> Self {
        let size = |name: &str, of_mainnet: u64| number_of(spec, name).unwrap_or(of_mainnet);
        Self {
            max_proposer_slashings: size("MAX_PROPOSER_SLASHINGS", 16),
            max_attester_slashings: size("MAX_ATTESTER_SLASHINGS", 2),
            max_attester_slashings_electra: size("MAX_ATTESTER_SLASHINGS_ELECTRA", 1),
            max_attestations: size("MAX_ATTESTATIONS", 128),
            max_attestations_electra: size("MAX_ATTESTATIONS_ELECTRA", 8),
            max_deposits: size("MAX_DEPOSITS", 16),
            max_voluntary_exits: size("MAX_VOLUNTARY_EXITS", 16),
            max_committees_per_slot: size("MAX_COMMITTEES_PER_SLOT", 64),
            max_validators_per_committee: size("MAX_VALIDATORS_PER_COMMITTEE", 2048),
            sync_committee_size: size("SYNC_COMMITTEE_SIZE", 512),
            max_bytes_per_transaction: size("MAX_BYTES_PER_TRANSACTION", 1 << 30),
            max_transactions_per_payload: size("MAX_TRANSACTIONS_PER_PAYLOAD", 1 << 20),
            max_extra_data_bytes: size("MAX_EXTRA_DATA_BYTES", 32),
            max_withdrawals_per_payload: size("MAX_WITHDRAWALS_PER_PAYLOAD", 16),
            max_bls_to_execution_changes: size("MAX_BLS_TO_EXECUTION_CHANGES", 16),
            max_blob_commitments_per_block: size("MAX_BLOB_COMMITMENTS_PER_BLOCK", 4096),
            max_deposit_requests_per_payload: size("MAX_DEPOSIT_REQUESTS_PER_PAYLOAD", 8192),
            max_withdrawal_requests_per_payload: size("MAX_WITHDRAWAL_REQUESTS_PER_PAYLOAD", 16),
            max_consolidation_requests_per_payload: size("MAX_CONSOLIDATION_REQUESTS_PER_PAYLOAD", 2),
        }
    }

    /// What a block's body is in a fork.
    pub fn body(&self, fork: Fork) -> Type {
        let is_electra = fork >= Fork::Electra;
        let (attester_slashings, attestations) = if is_electra {
            (self.max_attester_slashings_electra, self.max_attestations_electra)
        } else {
            (self.max_attester_slashings, self.max_attestations)
        };
        let mut fields = vec![
            ("randao_reveal", SIGNATURE),
            ("eth1_data", container([("deposit_root", ROOT), ("deposit_count", U64), ("block_hash", ROOT)])),
            ("graffiti", ROOT),
            ("proposer_slashings", list(proposer_slashing(), self.max_proposer_slashings)),
            ("attester_slashings", list(self.attester_slashing(is_electra), attester_slashings)),
            ("attestations", list(self.attestation(is_electra), attestations)),
            ("deposits", list(deposit(), self.max_deposits)),
            (
                "voluntary_exits",
                list(signed([("epoch", U64), ("validator_index", U64)]), self.max_voluntary_exits),
            ),
        ];
        if fork >= Fork::Altair {
            let bits = Type::Bits(self.sync_committee_size);
            fields.push((
                "sync_aggregate",
                container([("sync_committee_bits", bits), ("sync_committee_signature", SIGNATURE)]),
            ));
        }
        if fork >= Fork::Bellatrix {
            fields.push(("execution_payload", self.execution_payload(fork)));
        }
        if fork >= Fork::Capella {
            let change =
                [("validator_index", U64), ("from_bls_pubkey", KEY), ("to_execution_address", ADDRESS)];
            fields
                .push(("bls_to_execution_changes", list(signed(change), self.max_bls_to_execution_changes)));
        }
        if fork >= Fork::Deneb {
            fields.push(("blob_kzg_commitments", list(KEY, self.max_blob_commitments_per_block)));
        }
        if is_electra {
            fields.push(("execution_requests", self.execution_requests()));
        }
        Type::Container(fields)
    }

    fn attestation(&self, is_electra: bool) -> Type {
        let mut fields = vec![
            ("aggregation_bits", Type::BitList(self.max_attesters(is_electra))),
            ("data", attestation_data()),
            ("signature", SIGNATURE),
        ];
        if is_electra {
            fields.push(("committee_bits", Type::Bits(self.max_committees_per_slot)));
        }
        Type::Container(fields)
    }

    fn attester_slashing(&self, is_electra: bool) -> Type {
        let indexed = container([
            ("attesting_indices", list(U64, self.max_attesters(is_electra))),
            ("data", attestation_data()),
            ("signature", SIGNATURE),
        ]);
        container([("attestation_1", indexed.clone()), ("attestation_2", indexed)])
    }

    /// Since electra an attestation is of all committees of a slot.
    fn max_attesters(&self, is_electra: bool) -> u64 {
        let committees = if is_electra { self.max_committees_per_slot } else { 1 };
        self.max_validators_per_committee.saturating_mul(committees)
    }

    fn execution_payload(&self, fork: Fork) -> Type {
        let transaction = Type::ByteList(self.max_bytes_per_transaction);
        let mut fields = vec![
            ("parent_hash", ROOT),
            ("fee_recipient", ADDRESS),
            ("state_root", ROOT),
            ("receipts_root", ROOT),
            ("logs_bloom", Type::Bytes(256)),
            ("prev_randao", ROOT),
            ("block_number", U64),
            ("gas_limit", U64),
            ("gas_used", U64),
            ("timestamp", U64),
            ("extra_data", Type::ByteList(self.max_extra_data_bytes)),
            ("base_fee_per_gas", Type::Number(32)),
            ("block_hash", ROOT),
            ("transactions", list(transaction, self.max_transactions_per_payload)),
        ];
        if fork >= Fork::Capella {
            let withdrawal =
                container([("index", U64), ("validator_index", U64), ("address", ADDRESS), ("amount", U64)]);
            fields.push(("withdrawals", list(withdrawal, self.max_withdrawals_per_payload)));
        }
        if fork >= Fork::Deneb {
            fields.extend([("blob_gas_used", U64), ("excess_blob_gas", U64)]);
        }
        Type::Container(fields)
    }

    fn execution_requests(&self) -> Type {
        let deposit = container([
            ("pubkey", KEY),
            ("withdrawal_credentials", ROOT),
            ("amount", U64),
            ("signature", SIGNATURE),
            ("index", U64),
        ]);
        let withdrawal = container([("source_address", ADDRESS), ("validator_pubkey", KEY), ("amount", U64)]);
        let consolidation =
            container([("source_address", ADDRESS), ("source_pubkey", KEY), ("target_pubkey", KEY)]);
        container([
            ("deposits", list(deposit, self.max_deposit_requests_per_payload)),
            ("withdrawals", list(withdrawal, self.max_withdrawal_requests_per_payload)),
            ("consolidations", list(consolidation, self.max_consolidation_requests_per_payload)),
        ])
    }
}

/// A number of the specification's settings; newer nodes list other things there too.
pub(crate) fn number_of(spec: &BTreeMap<&str, LazyValue<'_>>, name: &str) -> Option<u64> {
    let value = spec.get(name)?;
    value.as_str().map_or_else(|| value.as_u64(), |text| text.parse().ok())
}

const ROOT: Type = Type::Bytes(32);
const KEY: Type = Type::Bytes(48);
const SIGNATURE: Type = Type::Bytes(96);
const ADDRESS: Type = Type::Bytes(20);

fn container<const N: usize>(fields: [(&'static str, Type); N]) -> Type {
    Type::Container(fields.into())
}

fn list(item: Type, limit: u64) -> Type {
    Type::List(Box::new(item), limit)
}

fn signed<const N: usize>(message: [(&'static str, Type); N]) -> Type {
    container([("message", container(message)), ("signature", SIGNATURE)])
}

fn attestation_data() -> Type {
    let checkpoint = container([("epoch", U64), ("root", ROOT)]);
    container([
        ("slot", U64),
        ("index", U64),
        ("beacon_block_root", ROOT),
        ("source", checkpoint.clone()),
        ("target", checkpoint),
    ])
}

fn proposer_slashing() -> Type {
    let header = signed([
        ("slot", U64),
        ("proposer_index", U64),
        ("parent_root", ROOT),
        ("state_root", ROOT),
        ("body_root", ROOT),
    ]);
    container([("signed_header_1", header.clone()), ("signed_header_2", header)])
}

fn deposit() -> Type {
    // A branch of the deposit contract's tree, and the number of deposits.
    let proof = Type::Vector(Box::new(ROOT), 32 + 1);
    let data = container([
        ("pubkey", KEY),
        ("withdrawal_credentials", ROOT),
        ("amount", U64),
        ("signature", SIGNATURE),
    ]);
    container([("proof", proof), ("data", data)])
}

//! The answers of a beacon node, as far as columns and checks need them.
//!
//! Names are those of the consensus specification. What a fork has added may be absent, and so may what a
//! column that can be null is filled from, for forks that are not known here; whether it may be in a given
//! fork, [`Body::lacks`] says. Fields that are not named here are skipped.

use serde::Deserialize;

use super::{
    forks::Fork,
    values::{Address, Data, Key, Num, Root, Signature},
};

/// What the API wraps its answers in.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer<T> {
    pub data: T,
    /// The name of the fork, of answers whose form depends on it.
    pub version: Option<String>,
}

/// The words of an error.
#[derive(Debug, Deserialize)]
pub(crate) struct Said {
    pub message: String,
}

/// What `/eth/v1/beacon/genesis` gives.
#[derive(Debug, Deserialize)]
pub(crate) struct Genesis {
    /// In seconds.
    pub genesis_time: Num,
}

/// What `/eth/v1/beacon/headers/{id}` gives.
#[derive(Debug, Deserialize)]
pub(crate) struct HeaderAnswer {
    pub root: Root,
    pub header: SignedHeader,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SignedHeader {
    pub message: Header,
    pub signature: Signature,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Header {
    pub slot: Num,
    pub proposer_index: Num,
    pub parent_root: Root,
    pub state_root: Root,
    pub body_root: Root,
}

/// What `/eth/v2/beacon/blocks/{id}` gives.
#[derive(Debug, Deserialize)]
pub(crate) struct SignedBlock<B = Body> {
    pub message: Block<B>,
    pub signature: Signature,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Block<B = Body> {
    pub slot: Num,
    pub proposer_index: Num,
    pub parent_root: Root,
    pub state_root: Root,
    pub body: B,
}

impl<B> SignedBlock<B> {
    /// The block with another form of its body.
    pub fn with_body<C>(self, body: C) -> SignedBlock<C> {
        let Block { slot, proposer_index, parent_root, state_root, .. } = self.message;
        let message = Block { slot, proposer_index, parent_root, state_root, body };
        SignedBlock { message, signature: self.signature }
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Body {
    pub randao_reveal: Signature,
    pub eth1_data: Eth1Data,
    pub graffiti: Root,
    pub proposer_slashings: Option<Vec<ProposerSlashing>>,
    pub attester_slashings: Option<Vec<AttesterSlashing>>,
    pub attestations: Option<Vec<Attestation>>,
    pub deposits: Option<Vec<Deposit>>,
    pub voluntary_exits: Option<Vec<SignedVoluntaryExit>>,
    pub sync_aggregate: Option<SyncAggregate>,
    pub execution_payload: Option<ExecutionPayload>,
    pub bls_to_execution_changes: Option<Vec<SignedBlsToExecutionChange>>,
    pub blob_kzg_commitments: Option<Vec<Key>>,
    pub execution_requests: Option<ExecutionRequests>,
}

impl Body {
    /// What a body of the fork must have, and this one has not.
    pub fn lacks(&self, fork: Fork) -> Option<&'static str> {
        let payload = self.execution_payload.as_ref();
        let of_payload = |has: fn(&ExecutionPayload) -> bool| payload.is_some_and(has);
        let needed = [
            (Fork::Phase0, "proposer_slashings", self.proposer_slashings.is_some()),
            (Fork::Phase0, "attester_slashings", self.attester_slashings.is_some()),
            (Fork::Phase0, "attestations", self.attestations.is_some()),
            (Fork::Phase0, "deposits", self.deposits.is_some()),
            (Fork::Phase0, "voluntary_exits", self.voluntary_exits.is_some()),
            (Fork::Altair, "sync_aggregate", self.sync_aggregate.is_some()),
            (Fork::Bellatrix, "execution_payload", payload.is_some()),
            (Fork::Bellatrix, "block_number", of_payload(|payload| payload.block_number.is_some())),
            (Fork::Bellatrix, "block_hash", of_payload(|payload| payload.block_hash.is_some())),
            (Fork::Capella, "withdrawals", of_payload(|payload| payload.withdrawals.is_some())),
            (Fork::Capella, "bls_to_execution_changes", self.bls_to_execution_changes.is_some()),
            (Fork::Deneb, "blob_kzg_commitments", self.blob_kzg_commitments.is_some()),
            (Fork::Electra, "execution_requests", self.execution_requests.is_some()),
        ];
        let lacking = needed.into_iter().find(|(since, _, is_there)| *since <= fork && !is_there);
        let of_aggregate = || self.sync_aggregate.as_ref().and_then(SyncAggregate::lacks);
        let of_requests = || self.execution_requests.as_ref().and_then(ExecutionRequests::lacks);
        lacking.map(|(_, name, _)| name).or_else(of_aggregate).or_else(of_requests)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Eth1Data {
    pub deposit_root: Root,
    pub deposit_count: Num,
    pub block_hash: Root,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ProposerSlashing {
    pub signed_header_1: SignedHeader,
    pub signed_header_2: SignedHeader,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AttesterSlashing {
    pub attestation_1: IndexedAttestation,
    pub attestation_2: IndexedAttestation,
}

#[derive(Debug, Deserialize)]
pub(crate) struct IndexedAttestation {
    pub attesting_indices: Vec<Num>,
    pub data: AttestationData,
    pub signature: Signature,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Attestation {
    pub aggregation_bits: Data,
    pub data: AttestationData,
    pub signature: Signature,
    /// Since electra.
    pub committee_bits: Option<Data>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct AttestationData {
    pub slot: Num,
    pub index: Num,
    pub beacon_block_root: Root,
    pub source: Checkpoint,
    pub target: Checkpoint,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Checkpoint {
    pub epoch: Num,
    pub root: Root,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Deposit {
    pub proof: Vec<Root>,
    pub data: DepositData,
}

#[derive(Debug, Deserialize)]
pub(crate) struct DepositData {
    pub pubkey: Key,
    pub withdrawal_credentials: Root,
    pub amount: Num,
    pub signature: Signature,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SignedVoluntaryExit {
    pub message: VoluntaryExit,
    pub signature: Signature,
}

#[derive(Debug, Deserialize)]
pub(crate) struct VoluntaryExit {
    pub epoch: Num,
    pub validator_index: Num,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SyncAggregate {
    pub sync_committee_bits: Option<Data>,
    pub sync_committee_signature: Option<Signature>,
}

impl SyncAggregate {
    fn lacks(&self) -> Option<&'static str> {
        lacking([
            ("sync_committee_bits", self.sync_committee_bits.is_some()),
            ("sync_committee_signature", self.sync_committee_signature.is_some()),
        ])
    }
}

/// The first of some fields that is not there.
fn lacking<const N: usize>(fields: [(&'static str, bool); N]) -> Option<&'static str> {
    fields.into_iter().find(|(_, is_there)| !is_there).map(|(name, _)| name)
}

#[derive(Debug, Deserialize)]
pub(crate) struct ExecutionPayload {
    pub block_number: Option<Num>,
    pub block_hash: Option<Root>,
    /// Since capella.
    pub withdrawals: Option<Vec<Withdrawal>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Withdrawal {
    pub index: Num,
    pub validator_index: Num,
    pub address: Address,
    pub amount: Num,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SignedBlsToExecutionChange {
    pub message: BlsToExecutionChange,
    pub signature: Signature,
}

#[derive(Debug, Deserialize)]
pub(crate) struct BlsToExecutionChange {
    pub validator_index: Num,
    pub from_bls_pubkey: Key,
    pub to_execution_address: Address,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ExecutionRequests {
    pub deposits: Vec<DepositRequest>,
    pub withdrawals: Vec<WithdrawalRequest>,
    pub consolidations: Vec<ConsolidationRequest>,
}

impl ExecutionRequests {
    fn lacks(&self) -> Option<&'static str> {
        let of_deposit = || self.deposits.iter().find_map(DepositRequest::lacks);
        let of_withdrawal = || self.withdrawals.iter().find_map(WithdrawalRequest::lacks);
        let of_consolidation = || self.consolidations.iter().find_map(ConsolidationRequest::lacks);
        of_deposit().or_else(of_withdrawal).or_else(of_consolidation)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct DepositRequest {
    pub pubkey: Option<Key>,
    pub withdrawal_credentials: Option<Root>,
    pub amount: Option<Num>,
    pub signature: Option<Signature>,
    pub index: Option<Num>,
}

impl DepositRequest {
    fn lacks(&self) -> Option<&'static str> {
        lacking([
            ("pubkey", self.pubkey.is_some()),
            ("withdrawal_credentials", self.withdrawal_credentials.is_some()),
            ("amount", self.amount.is_some()),
            ("signature", self.signature.is_some()),
            ("index", self.index.is_some()),
        ])
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct WithdrawalRequest {
    pub source_address: Option<Address>,
    pub validator_pubkey: Option<Key>,
    pub amount: Option<Num>,
}

impl WithdrawalRequest {
    fn lacks(&self) -> Option<&'static str> {
        lacking([
            ("source_address", self.source_address.is_some()),
            ("validator_pubkey", self.validator_pubkey.is_some()),
            ("amount", self.amount.is_some()),
        ])
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct ConsolidationRequest {
    pub source_address: Option<Address>,
    pub source_pubkey: Option<Key>,
    pub target_pubkey: Option<Key>,
}

impl ConsolidationRequest {
    fn lacks(&self) -> Option<&'static str> {
        lacking([
            ("source_address", self.source_address.is_some()),
            ("source_pubkey", self.source_pubkey.is_some()),
            ("target_pubkey", self.target_pubkey.is_some()),
        ])
    }
}

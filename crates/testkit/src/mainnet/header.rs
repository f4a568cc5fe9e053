//! Headers with the fields of Prague, and withdrawals.

use alloy_primitives::{Address, B64, B256, Bloom, b256};
use alloy_rlp::Encodable;

use super::{
    accounts::derived,
    fees::{Fees, GAS_LIMIT},
    json::Json,
    rlp,
};
use crate::rng::Rng;

const EMPTY_UNCLES: B256 = b256!("1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347");
/// The hash of a list without requests (EIP-7685).
const EMPTY_REQUESTS: B256 = b256!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
/// When block 0 was made; a block every twelve seconds follows.
const GENESIS_TIME: u64 = 1_746_612_000;
const WITHDRAWALS: u64 = 16;
const VALIDATORS: u64 = 1_050_000;
const BUILDERS: u64 = 12;

/// What a header says of the block's content.
#[derive(Debug, Clone)]
pub(super) struct Digest {
    pub(super) transactions_root: B256,
    pub(super) receipts_root: B256,
    pub(super) withdrawals_root: B256,
    pub(super) bloom: Bloom,
    pub(super) gas_used: u64,
    pub(super) blob_gas_used: u64,
    /// The bytes of the transactions within the encoded block.
    pub(super) transaction_bytes: usize,
}

/// A header.
#[derive(Debug)]
pub(super) struct Header<'a> {
    number: u64,
    parent: B256,
    fees: Fees,
    digest: &'a Digest,
    miner: Address,
    state_root: B256,
    mix_hash: B256,
    beacon_root: B256,
    extra: Vec<u8>,
}

/// A validator's withdrawal, in gwei.
#[derive(Debug)]
pub(super) struct Withdrawal {
    index: u64,
    validator: u64,
    address: Address,
    amount: u64,
}

impl<'a> Header<'a> {
    pub(super) fn new(seed: u64, number: u64, parent: B256, fees: Fees, digest: &'a Digest) -> Self {
        let mut rng = Rng::nth(seed ^ 0x6865_6164, number);
        // The lower of two: some build more blocks than others.
        let builder = rng.below(BUILDERS).min(rng.below(BUILDERS));
        Self {
            number,
            parent,
            fees,
            digest,
            miner: derived(0x6275_696c, builder),
            state_root: rng.bytes::<32>().into(),
            mix_hash: rng.bytes::<32>().into(),
            beacon_root: rng.bytes::<32>().into(),
            extra: format!("builder {builder}").into_bytes(),
        }
    }

    pub(super) fn rlp(&self) -> Vec<u8> {
        rlp::list(|out| {
            let digest = self.digest;
            self.parent.encode(out);
            EMPTY_UNCLES.encode(out);
            self.miner.encode(out);
            self.state_root.encode(out);
            digest.transactions_root.encode(out);
            digest.receipts_root.encode(out);
            digest.bloom.encode(out);
            0u64.encode(out); // difficulty
            self.number.encode(out);
            GAS_LIMIT.encode(out);
            digest.gas_used.encode(out);
            self.timestamp().encode(out);
            self.extra[..].encode(out);
            self.mix_hash.encode(out);
            B64::ZERO.encode(out); // nonce
            self.fees.base_fee.encode(out);
            digest.withdrawals_root.encode(out);
            digest.blob_gas_used.encode(out);
            self.fees.excess_blob_gas.encode(out);
            self.beacon_root.encode(out);
            EMPTY_REQUESTS.encode(out);
        })
    }

    fn timestamp(&self) -> u64 {
        GENESIS_TIME + 12 * self.number
    }

    /// The length of the encoded block.
    fn size(&self, withdrawals: &[Withdrawal]) -> usize {
        let list = |length| alloy_rlp::Header { list: true, payload_length: length }.length() + length;
        let withdrawals = withdrawals.iter().map(|withdrawal| withdrawal.rlp().len()).sum();
        // One byte for the list of uncles.
        list(self.rlp().len() + list(self.digest.transaction_bytes) + 1 + list(withdrawals))
    }

    /// The block in the order of geth's fields, which is the alphabet's; `transactions` writes their
    /// list.
    pub(super) fn write(&self, json: &mut Json, hash: B256, transactions: impl FnOnce(&mut Json)) {
        let withdrawals = Withdrawal::of(self.number);
        json.object(|json| {
            self.write_to_hash(json);
            json.data("hash", hash);
            self.write_from_hash(json);
            json.quantity("size", self.size(&withdrawals) as u64);
            json.data("stateRoot", self.state_root);
            json.quantity("timestamp", self.timestamp());
            transactions(json.key("transactions"));
            json.data("transactionsRoot", self.digest.transactions_root);
            json.key("uncles").list([(); 0], |_, ()| {});
            json.key("withdrawals").list(&withdrawals, |json, withdrawal| withdrawal.write(json));
            json.data("withdrawalsRoot", self.digest.withdrawals_root);
        });
    }

    fn write_to_hash(&self, json: &mut Json) {
        json.quantity("baseFeePerGas", self.fees.base_fee);
        json.quantity("blobGasUsed", self.digest.blob_gas_used);
        json.quantity("difficulty", 0u64);
        json.quantity("excessBlobGas", self.fees.excess_blob_gas);
        json.data("extraData", &self.extra);
        json.quantity("gasLimit", GAS_LIMIT);
        json.quantity("gasUsed", self.digest.gas_used);
    }

    fn write_from_hash(&self, json: &mut Json) {
        json.data("logsBloom", self.digest.bloom);
        json.data("miner", self.miner);
        json.data("mixHash", self.mix_hash);
        json.data("nonce", B64::ZERO);
        json.quantity("number", self.number);
        json.data("parentBeaconBlockRoot", self.beacon_root);
        json.data("parentHash", self.parent);
        json.data("receiptsRoot", self.digest.receipts_root);
        json.data("requestsHash", EMPTY_REQUESTS);
        json.data("sha3Uncles", EMPTY_UNCLES);
    }
}

impl Withdrawal {
    /// Those of block `number`: the validators one after the other. None in block 0.
    pub(super) fn of(number: u64) -> Vec<Self> {
        let Some(blocks_before) = number.checked_sub(1) else { return Vec::new() };
        (0..WITHDRAWALS).map(|place| Self::new(blocks_before * WITHDRAWALS + place)).collect()
    }

    fn new(index: u64) -> Self {
        let validator = index % VALIDATORS;
        let mut rng = Rng::nth(0x7769_7468, index);
        // One in a few thousand leaves with all it has.
        let stake = if rng.below(3000) == 0 { 32_000_000_000 } else { 0 };
        // Validators with neighbouring numbers often belong to the same owner.
        let address = derived(0x7661_6c69, Rng::nth(1, validator / 100).below(3000));
        Self { index, validator, address, amount: stake + 17_000_000 + rng.below(2_500_000) }
    }

    pub(super) fn rlp(&self) -> Vec<u8> {
        rlp::list(|out| {
            self.index.encode(out);
            self.validator.encode(out);
            self.address.encode(out);
            self.amount.encode(out);
        })
    }

    fn write(&self, json: &mut Json) {
        json.object(|json| {
            json.quantity("index", self.index);
            json.quantity("validatorIndex", self.validator);
            json.data("address", self.address);
            json.quantity("amount", self.amount);
        });
    }
}

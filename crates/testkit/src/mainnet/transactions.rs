//! Transactions: signed, encoded as EIP-2718 says, and as JSON.

use alloy_primitives::{Address, B256, keccak256};
use alloy_rlp::Encodable;

use super::{
    CHAIN_ID,
    accounts::{Cast, Kind},
    calldata,
    fees::{Fees, GAS_LIMIT, blob_gas},
    json::Json,
    plan::{Action, Step},
    rlp,
    signing::{Signature, Signer},
};
use crate::rng::Rng;

const GWEI: u64 = 1_000_000_000;

/// A transaction with what follows from it for its receipt.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) hash: B256,
    pub(super) encoded: Vec<u8>,
    pub(super) from: Address,
    pub(super) gas_used: u64,
    /// What was paid for each gas.
    pub(super) price: u64,
    pub(super) content: Content,
    signature: Signature,
}

/// What is signed.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) envelope: u8,
    pub(super) nonce: u64,
    pub(super) to: Option<Address>,
    pub(super) blob_hashes: Vec<B256>,
    gas: u64,
    /// Also the price of a transaction that names only one.
    max_fee: u64,
    tip: u64,
    value: u128,
    input: Vec<u8>,
    access_list: Vec<(Address, Vec<B256>)>,
    max_blob_fee: u128,
    authorizations: Vec<Authorization>,
}

#[derive(Debug)]
struct Authorization {
    address: Address,
    nonce: u64,
    signature: Signature,
}

impl Transaction {
    pub(super) fn new(step: &Step, fees: Fees, rng: &mut Rng, signer: &mut Signer) -> Self {
        let cast = Cast::get();
        let content = Content::new(step, fees, rng, signer);
        let signature = signer.sign(&cast.keys, step.from as usize, content.signed_hash());
        let encoded = content.encode(&signature);
        let price = content.max_fee.min(fees.base_fee + content.tip);
        Self {
            hash: keccak256(&encoded),
            encoded,
            from: cast.sender(step.from),
            gas_used: step.gas.used(fees.load()),
            price: if content.envelope < 2 { content.max_fee } else { price },
            content,
            signature,
        }
    }

    /// The contract that it creates.
    pub(super) fn created(&self) -> Option<Address> {
        self.content.to.is_none().then(|| {
            let of = rlp::list(|out| {
                self.from.encode(out);
                self.content.nonce.encode(out);
            });
            Address::from_word(keccak256(of))
        })
    }

    /// How it stands in the list of a block: behind a type as bytes.
    pub(super) fn length_in_block(&self) -> usize {
        if self.content.envelope == 0 { self.encoded.len() } else { self.encoded[..].length() }
    }

    /// In the order of geth's fields.
    pub(super) fn write(&self, json: &mut Json, block: (u64, B256), index: usize) {
        let content = &self.content;
        json.object(|json| {
            json.data("blockHash", block.1);
            json.quantity("blockNumber", block.0);
            json.data("from", self.from);
            json.quantity("gas", content.gas);
            json.quantity("gasPrice", self.price);
            if content.envelope >= 2 {
                json.quantity("maxFeePerGas", content.max_fee);
                json.quantity("maxPriorityFeePerGas", content.tip);
            }
            if content.envelope == 3 {
                json.quantity("maxFeePerBlobGas", content.max_blob_fee);
            }
            json.data("hash", self.hash);
            json.data("input", &content.input);
            json.quantity("nonce", content.nonce);
            json.data_or_null("to", content.to);
            json.quantity("transactionIndex", index as u64);
            json.quantity("value", content.value);
            json.quantity("type", content.envelope);
            content.write_lists(json);
            self.write_signature(json);
        });
    }

    fn write_signature(&self, json: &mut Json) {
        json.quantity("v", self.content.v(&self.signature));
        json.word("r", self.signature.r);
        json.word("s", self.signature.s);
        if self.content.envelope > 0 {
            json.quantity("yParity", self.signature.y_odd);
        }
    }
}

impl Content {
    fn new(step: &Step, fees: Fees, rng: &mut Rng, signer: &mut Signer) -> Self {
        let tip = tip(rng);
        let room = *rng.pick(&[0, 1, 2, 4, 8, 8, 8]) * (fees.base_fee / 8);
        // Some promise no more than the base fee and a bit.
        let short = rng.below(10) == 0;
        Self {
            envelope: step.envelope,
            nonce: step.nonce,
            to: receiver(step, rng),
            blob_hashes: (0..step.blobs()).map(|_| blob_hash(rng)).collect(),
            gas: gas_limit(step, fees, rng),
            max_fee: (fees.base_fee + if short { tip / 2 } else { tip + room }).max(tip),
            tip,
            value: value(step.action, rng),
            input: calldata::input(step.action, step.input, rng),
            access_list: access_list(step, rng),
            max_blob_fee: fees.blob_price() * 2 + u128::from(GWEI),
            authorizations: authorizations(step, rng, signer),
        }
    }

    fn signed_hash(&self) -> B256 {
        let fields = rlp::list(|out| {
            self.put_fields(out);
            if self.envelope == 0 {
                CHAIN_ID.encode(out);
                0u8.encode(out);
                0u8.encode(out);
            }
        });
        keccak256(self.behind_type(fields))
    }

    fn encode(&self, signature: &Signature) -> Vec<u8> {
        self.behind_type(rlp::list(|out| {
            self.put_fields(out);
            self.v(signature).encode(out);
            put_rs(out, signature);
        }))
    }

    fn behind_type(&self, mut list: Vec<u8>) -> Vec<u8> {
        if self.envelope > 0 {
            list.insert(0, self.envelope);
        }
        list
    }

    fn v(&self, signature: &Signature) -> u64 {
        let parity = u64::from(signature.y_odd);
        if self.envelope == 0 { 35 + 2 * CHAIN_ID + parity } else { parity }
    }

    fn put_fields(&self, out: &mut Vec<u8>) {
        if self.envelope > 0 {
            CHAIN_ID.encode(out);
        }
        self.nonce.encode(out);
        if self.envelope >= 2 {
            self.tip.encode(out);
        }
        self.max_fee.encode(out);
        self.gas.encode(out);
        self.to.as_ref().map_or(&[][..], |to| to.as_slice()).encode(out);
        self.value.encode(out);
        self.input[..].encode(out);
        self.put_lists(out);
    }

    fn put_lists(&self, out: &mut Vec<u8>) {
        if self.envelope > 0 {
            rlp::put_list(out, |out| self.access_list.iter().for_each(|entry| put_access(out, entry)));
        }
        if self.envelope == 3 {
            self.max_blob_fee.encode(out);
            rlp::put_list(out, |out| self.blob_hashes.iter().for_each(|hash| hash.encode(out)));
        }
        if self.envelope == 4 {
            rlp::put_list(out, |out| self.authorizations.iter().for_each(|item| item.put(out)));
        }
    }

    fn write_lists(&self, json: &mut Json) {
        if self.envelope > 0 {
            json.key("accessList").list(&self.access_list, |json, (address, keys)| {
                json.object(|json| {
                    json.data("address", address);
                    json.key("storageKeys").list(keys, |json, key| json.item(key.as_slice()));
                });
            });
        }
        json.quantity("chainId", CHAIN_ID);
        if self.envelope == 3 {
            json.key("blobVersionedHashes").list(&self.blob_hashes, |json, hash| json.item(hash.as_slice()));
        }
        if self.envelope == 4 {
            json.key("authorizationList").list(&self.authorizations, |json, item| item.write(json));
        }
    }
}

impl Authorization {
    fn new(rng: &mut Rng, signer: &mut Signer) -> Self {
        let cast = Cast::get();
        let authority = cast.draw_sender(rng) as usize;
        let address = cast.contract(cast.draw_contract(rng, Kind::App));
        let nonce = rng.below(1000);
        let mut signed = vec![5];
        rlp::put_list(&mut signed, |out| Self::put_fields(out, address, nonce));
        Self { address, nonce, signature: signer.sign(&cast.keys, authority, keccak256(signed)) }
    }

    fn put_fields(out: &mut Vec<u8>, address: Address, nonce: u64) {
        CHAIN_ID.encode(out);
        address.encode(out);
        nonce.encode(out);
    }

    fn put(&self, out: &mut Vec<u8>) {
        rlp::put_list(out, |out| {
            Self::put_fields(out, self.address, self.nonce);
            u64::from(self.signature.y_odd).encode(out);
            put_rs(out, &self.signature);
        });
    }

    fn write(&self, json: &mut Json) {
        json.object(|json| {
            json.quantity("chainId", CHAIN_ID);
            json.data("address", self.address);
            json.quantity("nonce", self.nonce);
            json.quantity("yParity", self.signature.y_odd);
            json.word("r", self.signature.r);
            json.word("s", self.signature.s);
        });
    }
}

fn put_rs(out: &mut Vec<u8>, signature: &Signature) {
    for word in [signature.r, signature.s] {
        let zeros = word.iter().take_while(|byte| **byte == 0).count();
        word[zeros..].encode(out);
    }
}

fn put_access(out: &mut Vec<u8>, (address, keys): &(Address, Vec<B256>)) {
    rlp::put_list(out, |out| {
        address.encode(out);
        rlp::put_list(out, |out| keys.iter().for_each(|key| key.encode(out)));
    });
}

fn receiver(step: &Step, rng: &mut Rng) -> Option<Address> {
    match (step.action, step.to) {
        (Action::Create, _) => None,
        (_, Some(rank)) => Some(Cast::get().contract(rank)),
        (_, None) => Some(Cast::get().draw_recipient(rng)),
    }
}

/// Round ones and exact ones.
fn tip(rng: &mut Rng) -> u64 {
    match rng.below(10) {
        0..3 => *rng.pick(&[GWEI, 2 * GWEI, GWEI / 10]),
        3 => 0,
        _ => 1_000_000 + rng.below(3 * GWEI),
    }
}

fn gas_limit(step: &Step, fees: Fees, rng: &mut Rng) -> u64 {
    let used = step.gas.used(fees.load());
    match (step.action, rng.below(3)) {
        (Action::Pay, _) => used,
        (_, 0) => (used * 3 / 2).div_ceil(10_000) * 10_000,
        _ => used + used * rng.below(60) / 100,
    }
    .min(GAS_LIMIT)
}

fn value(action: Action, rng: &mut Rng) -> u128 {
    let amount = u128::from(rng.next_u64() >> rng.below(20));
    let whole = u128::from(1 + rng.below(300)) * 10_000_000_000_000_000;
    match (action, rng.below(10)) {
        (Action::Pay, 0..4) | (Action::Swap, 0..2) => whole,
        (Action::Pay, _) | (Action::Swap, 2..4) | (Action::Call, 0..2) => amount,
        _ => 0,
    }
}

fn blob_hash(rng: &mut Rng) -> B256 {
    let mut hash = rng.bytes::<32>();
    hash[0] = 1;
    hash.into()
}

fn access_list(step: &Step, rng: &mut Rng) -> Vec<(Address, Vec<B256>)> {
    let chance = match (step.envelope, step.action) {
        (0, _) | (_, Action::Pay) => 0,
        (1, _) => 60,
        (_, Action::Trade) => 25,
        _ => 1,
    };
    if rng.below(100) >= chance {
        return Vec::new();
    }
    let cast = Cast::get();
    let entries = 1 + rng.below(7);
    let entry = |_| {
        let address = cast.contract(cast.draw_contract(rng, Kind::Pair));
        (address, (0..rng.below(6)).map(|_| storage_key(rng)).collect())
    };
    (0..entries).map(entry).collect()
}

/// A low slot or one of a mapping.
fn storage_key(rng: &mut Rng) -> B256 {
    if rng.below(3) > 0 { B256::with_last_byte(rng.below(16) as u8) } else { rng.bytes::<32>().into() }
}

fn authorizations(step: &Step, rng: &mut Rng, signer: &mut Signer) -> Vec<Authorization> {
    (0..step.authorizations()).map(|_| Authorization::new(rng, signer)).collect()
}

/// The blob gas that a transaction with these blobs uses.
pub(super) fn blob_gas_used(content: &Content) -> u64 {
    blob_gas(content.blob_hashes.len() as u64)
}

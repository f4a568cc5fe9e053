//! A generated chain that looks like the Ethereum mainnet of the Prague upgrade, with everything in
//! it right that can be recomputed from the answers of a node.
//!
//! ```text
//!  plan ──► fees ──► transactions ──► receipts ──► roots ──► header
//!  (seed, number)    signed, with     with logs    and       parent's hash
//!                    base fee         and bloom    bloom
//! ```
//!
//! Right are: transaction hashes, signatures and the senders recovered from them, authorizations,
//! addresses of created contracts, blooms, the roots of transactions, receipts and withdrawals, block
//! hashes and sizes, links, base fees and blob gas by their rules, sums of gas. Invented are: state
//! roots, randomness, beacon roots, and the gas that a transaction used; nonces of a sender rise but
//! leave gaps. Numbers start at 0 and the chain id is 1, so that it is extracted as the network
//! `mainnet`.
//!
//! A block has about 168 transactions, 319 logs and 590 KB of JSON with its receipts, but no two
//! have the same. 100,000 senders and 20,000 contracts take part, Zipf-distributed.

mod accounts;
mod calldata;
mod fees;
mod header;
mod json;
mod logs;
mod plan;
mod receipts;
mod rlp;
mod signing;
#[cfg(test)]
mod tests;
mod transactions;
mod trie;

use std::collections::HashMap;

use alloy_primitives::{B256, Bloom, keccak256};

use self::{
    fees::{Fees, blob_gas},
    header::{Digest, Header, Withdrawal},
    json::Json,
    plan::{Recipe, Step, Totals},
    receipts::{Place, Receipt},
    signing::Signer,
    transactions::Transaction,
};
use crate::{parallel::in_parallel, rng::Rng};

const CHAIN_ID: u64 = 1;

/// The chain: what it takes to make any of its blocks at once, some 500 bytes each.
#[derive(Debug)]
pub(crate) struct MainnetLike {
    recipe: Recipe,
    blocks: Vec<Sealed>,
    numbers: HashMap<B256, u64>,
}

/// As much of a block as is kept.
#[derive(Debug)]
struct Sealed {
    hash: B256,
    fees: Fees,
    digest: Digest,
}

/// A block's transactions as they are made, with what they were made from.
struct Body {
    steps: Vec<Step>,
    transactions: Vec<Transaction>,
}

impl MainnetLike {
    /// Makes the chain on all cores; the same on any number of them.
    pub(crate) fn new(blocks: u64, seed: u64) -> Self {
        Self::of(blocks, Recipe { seed, most: None })
    }

    /// The same with few transactions: up to `most` a block, evenly.
    pub(crate) fn small(blocks: u64, most: u64, seed: u64) -> Self {
        Self::of(blocks, Recipe { seed, most: Some(most) })
    }

    fn of(blocks: u64, recipe: Recipe) -> Self {
        let totals = in_parallel(blocks, |number| Totals::of(&plan::steps(recipe, number)));
        let after = totals.iter().scan(Fees::genesis(), |fees, totals| {
            *fees = fees.next(totals);
            Some(*fees)
        });
        let fees: Vec<Fees> = std::iter::once(Fees::genesis()).chain(after).collect();
        let digests = in_parallel(blocks, |number| digest(recipe, number, fees[number as usize]));
        let mut chain = Self { recipe, blocks: Vec::new(), numbers: HashMap::new() };
        for (number, (digest, fees)) in (0..).zip(digests.into_iter().zip(fees)) {
            let hash = keccak256(Header::new(recipe.seed, number, chain.parent(number), fees, &digest).rlp());
            chain.blocks.push(Sealed { hash, fees, digest });
            chain.numbers.insert(hash, number);
        }
        chain
    }

    pub(crate) fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    pub(crate) fn hash(&self, number: u64) -> B256 {
        self.blocks[number as usize].hash
    }

    pub(crate) fn number_of(&self, hash: B256) -> Option<u64> {
        self.numbers.get(&hash).copied()
    }

    fn parent(&self, number: u64) -> B256 {
        number.checked_sub(1).map_or(B256::ZERO, |parent| self.hash(parent))
    }

    /// The answer to `eth_getBlockByNumber` of a block that exists.
    pub(crate) fn block_json(&self, number: u64, full: bool) -> Vec<u8> {
        self.write_block(number, &self.body(number).transactions, full)
    }

    /// The answer to `eth_getBlockReceipts` of a block that exists.
    pub(crate) fn receipts_json(&self, number: u64) -> Vec<u8> {
        self.write_receipts(number, &self.body(number))
    }

    /// Both at once, with whole transactions: less work than one after the other.
    pub(crate) fn block_and_receipts_json(&self, number: u64) -> (Vec<u8>, Vec<u8>) {
        let body = self.body(number);
        (self.write_block(number, &body.transactions, true), self.write_receipts(number, &body))
    }

    fn body(&self, number: u64) -> Body {
        Body::new(self.recipe, number, self.blocks[number as usize].fees)
    }

    fn write_block(&self, number: u64, transactions: &[Transaction], full: bool) -> Vec<u8> {
        let Sealed { hash, fees, digest } = &self.blocks[number as usize];
        let header = Header::new(self.recipe.seed, number, self.parent(number), *fees, digest);
        let mut json = Json::with_capacity(8192 + 800 * transactions.len() + 2 * digest.transaction_bytes);
        header.write(&mut json, *hash, |json| {
            json.list(transactions.iter().enumerate(), |json, (index, transaction)| {
                if full {
                    transaction.write(json, (number, *hash), index);
                } else {
                    json.item(transaction.hash.as_slice());
                }
            });
        });
        json.finish()
    }

    fn write_receipts(&self, number: u64, body: &Body) -> Vec<u8> {
        let Sealed { hash, fees, .. } = &self.blocks[number as usize];
        let receipts = body.receipts(self.recipe.seed, number);
        let mut json = Json::with_capacity(4096 * receipts.len());
        let mut first_log = 0;
        json.list(receipts.iter().enumerate(), |json, (index, receipt)| {
            let place = Place { number, block: *hash, index, first_log };
            receipt.write(json, &body.transactions[index], *fees, place);
            first_log += receipt.logs.len();
        });
        json.finish()
    }
}

impl Body {
    fn new(recipe: Recipe, number: u64, fees: Fees) -> Self {
        let steps = plan::steps(recipe, number);
        let seed = recipe.seed;
        let signatures = steps.iter().map(|step| 1 + step.authorizations()).sum();
        let mut rng = Rng::nth(seed ^ 0x7369_676e, number);
        let mut signer = Signer::new(rng.bytes::<32>().into(), signatures);
        let transaction = |(index, step): (u64, &Step)| {
            let mut rng = Rng::nth(seed ^ 0x7478, (number << 20) | index);
            Transaction::new(step, fees, &mut rng, &mut signer)
        };
        let transactions = (0..).zip(&steps).map(transaction).collect();
        Self { steps, transactions }
    }

    fn receipts(&self, seed: u64, number: u64) -> Vec<Receipt> {
        let mut gas = 0;
        let receipt = |(index, (step, transaction)): (u64, (&Step, &Transaction))| {
            let mut rng = Rng::nth(seed ^ 0x6c6f_6773, (number << 20) | index);
            let receipt = Receipt::new(step, transaction, gas, &mut rng);
            gas += transaction.gas_used;
            receipt
        };
        (0..).zip(self.steps.iter().zip(&self.transactions)).map(receipt).collect()
    }
}

fn digest(recipe: Recipe, number: u64, fees: Fees) -> Digest {
    let body = Body::new(recipe, number, fees);
    let receipts = body.receipts(recipe.seed, number);
    let totals = Totals::of(&body.steps);
    let transactions: Vec<&[u8]> = body.transactions.iter().map(|tx| &tx.encoded[..]).collect();
    let encoded = receipts.iter().zip(&body.transactions);
    let encoded: Vec<Vec<u8>> = encoded.map(|(receipt, tx)| receipt.encode(tx.content.envelope)).collect();
    let withdrawals: Vec<Vec<u8>> = Withdrawal::of(number).iter().map(Withdrawal::rlp).collect();
    Digest {
        transactions_root: trie::ordered_root(&transactions),
        receipts_root: trie::ordered_root(&encoded),
        withdrawals_root: trie::ordered_root(&withdrawals),
        bloom: receipts.iter().fold(Bloom::ZERO, |bloom, receipt| bloom | receipt.bloom),
        gas_used: totals.gas_used(fees.load()),
        blob_gas_used: blob_gas(totals.blobs),
        transaction_bytes: body.transactions.iter().map(Transaction::length_in_block).sum(),
    }
}

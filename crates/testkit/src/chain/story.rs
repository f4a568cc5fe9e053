//! What happens in each block of a generated chain: pure decisions, drawn from a seed.

use std::ops::AddAssign;

use alloy_primitives::{Address, U256};

use super::contracts::Input;
use crate::rng::Rng;

/// Recipients that never send. Few, as anvil hashes all accounts anew for every block.
const OUTSIDERS: u64 = 40;

/// How much a chain, or a part of it, holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks.
    pub blocks: u64,
    /// Blocks without transactions.
    pub empty_blocks: u64,
    /// Transactions.
    pub transactions: u64,
    /// Transactions that failed.
    pub failed: u64,
    /// Transactions that create a contract.
    pub creations: u64,
    /// Logs.
    pub logs: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.empty_blocks += other.empty_blocks;
        self.transactions += other.transactions;
        self.failed += other.failed;
        self.creations += other.creations;
        self.logs += other.logs;
    }
}

/// Who and what is on stage.
#[derive(Debug, Clone)]
pub(super) struct Cast {
    /// The accounts that send; each holds token A.
    pub(super) accounts: Vec<Address>,
    /// The token that is transferred.
    pub(super) token_a: Address,
    /// The token that is only approved.
    pub(super) token_b: Address,
    /// The contract that logs and fails in every way.
    pub(super) logger: Address,
}

/// What a transaction leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It succeeds with so many logs.
    Logs(u64),
    /// It succeeds with so many logs and its receipt names the new contract.
    Creation(u64),
    /// It fails.
    Failure,
}

/// One transaction, without nonce and price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transaction {
    /// Index of the sending account.
    pub(super) sender: usize,
    /// The recipient; none creates a contract.
    pub(super) to: Option<Address>,
    /// What is sent along.
    pub(super) input: Input,
    /// Wei.
    pub(super) value: u64,
    /// The gas limit.
    pub(super) gas: u64,
    /// The transaction type: 0, 1 or 2.
    pub(super) kind: u8,
    /// Wei per unit of gas above the usual price: prices differ between transactions.
    pub(super) extra_price: u64,
    /// What comes of it.
    pub(super) outcome: Outcome,
}

/// One block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// Seconds since its parent.
    pub(super) seconds: u64,
    /// Its transactions, in order.
    pub(super) transactions: Vec<Transaction>,
}

impl Block {
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts { blocks: 1, ..Counts::default() };
        counts.empty_blocks = u64::from(self.transactions.is_empty());
        for transaction in &self.transactions {
            counts.transactions += 1;
            match transaction.outcome {
                Outcome::Logs(logs) => counts.logs += logs,
                Outcome::Failure => counts.failed += 1,
                Outcome::Creation(logs) => {
                    counts.creations += 1;
                    counts.logs += logs;
                }
            }
        }
        counts
    }
}

/// Decides block after block.
#[derive(Debug, Clone)]
pub(super) struct Story {
    rng: Rng,
    cast: Cast,
}

impl Story {
    pub(super) fn new(seed: u64, cast: Cast) -> Self {
        Self { rng: Rng::new(seed), cast }
    }

    /// The next block. One in twenty is empty, unless it `may_be_empty` not at all; one in twenty
    /// comes late.
    pub(super) fn next_block(&mut self, may_be_empty: bool) -> Block {
        let late = self.rng.below(20) == 0;
        let seconds = if late { 12 * (2 + self.rng.below(40)) } else { 12 };
        let empty = self.rng.below(20) == 0 && may_be_empty;
        let count = if empty { 0 } else { 1 + self.rng.below(5) };
        Block { seconds, transactions: (0..count).map(|_| self.next_transaction()).collect() }
    }

    fn next_transaction(&mut self) -> Transaction {
        let mut transaction = self.next_action();
        transaction.kind = *self.rng.pick(&[0, 1, 2, 2]);
        transaction.extra_price = self.rng.below(1_000_000_000);
        transaction
    }

    /// What lasts, a new contract, is rare: anvil's time for a block grows with its state.
    fn next_action(&mut self) -> Transaction {
        match self.rng.below(100) {
            0..43 => self.token_transfer(),
            43..48 => self.approval(),
            48..53 => airdrop(&self.cast, 1 + self.rng.below(1_000_000)),
            53..58 => self.unapproved_transfer(),
            58..70 => self.value_transfer(),
            70..77 => self.every_topic_count(),
            77..83 => self.every_type(),
            83..88 => self.failure(),
            88..89 => self.spawn(),
            89..93 => self.logger_call(Input::call("selfbye"), 300_000, Outcome::Logs(1)),
            93..95 => self.many_logs(),
            95..99 => self.logger_call(Input::call("tryFail"), 200_000, Outcome::Logs(1)),
            _ => self.creation(),
        }
    }

    fn sender(&mut self) -> usize {
        self.rng.below(self.cast.accounts.len() as u64) as usize
    }

    fn account(&mut self) -> Address {
        *self.rng.pick(&self.cast.accounts)
    }

    fn token_transfer(&mut self) -> Transaction {
        let input = Input::call("transfer").address(self.account()).word(self.rng.below(1000));
        call(self.sender(), self.cast.token_a, input, 100_000, Outcome::Logs(1))
    }

    fn approval(&mut self) -> Transaction {
        let input = Input::call("approve").address(self.account()).word(U256::MAX);
        call(self.sender(), self.cast.token_b, input, 100_000, Outcome::Logs(1))
    }

    /// Nobody approved token A: it reverts with the custom error `Insufficient`.
    fn unapproved_transfer(&mut self) -> Transaction {
        let (from, to) = (self.account(), self.account());
        let input = Input::call("transferFrom").address(from).address(to).word(1 + self.rng.below(1000));
        call(self.sender(), self.cast.token_a, input, 100_000, Outcome::Failure)
    }

    /// Value to one of the accounts or to an outsider.
    fn value_transfer(&mut self) -> Transaction {
        let known = self.rng.below(2) == 0;
        let to = if known { self.account() } else { outsider(self.rng.below(OUTSIDERS)) };
        let value = self.rng.below(1_000_000_000_000_000);
        Transaction { value, ..call(self.sender(), to, Input::none(), 21_000 + 8_000, Outcome::Logs(0)) }
    }

    /// Logs with 0, 1, 2, 3 and 4 topics, with no data or with 33 bytes, and one event more.
    fn every_topic_count(&mut self) -> Transaction {
        let input = Input::call("topics").word(self.rng.below(40));
        self.logger_call(input, 150_000, Outcome::Logs(6))
    }

    /// Events with arguments of every kind: nested, dynamic, indexed, anonymous.
    fn every_type(&mut self) -> Transaction {
        let number = U256::from(self.rng.below(1000)).wrapping_sub(U256::from(500));
        let text = format!("{:020}", self.rng.below(u64::MAX));
        let raw = self.rng.bytes::<100>();
        let raw = &raw[..self.rng.below(101) as usize];
        let head = Input::call("every").word(number).word(96u64).word(160u64);
        let input = head.bytes(text.as_bytes()).bytes(raw);
        self.logger_call(input, 600_000, Outcome::Logs(3))
    }

    /// A revert with a reason, a failed assertion, an invalid opcode, gas running out, or a revert
    /// without a word.
    fn failure(&mut self) -> Transaction {
        let input = Input::call("fail").word(self.rng.below(5));
        self.logger_call(input, 120_000, Outcome::Failure)
    }

    /// A contract that creates a contract (CREATE2; the salt is never the same).
    fn spawn(&mut self) -> Transaction {
        let input = Input::call("spawn").word(U256::from_be_bytes(self.rng.bytes::<32>()));
        self.logger_call(input, 300_000, Outcome::Logs(1))
    }

    fn many_logs(&mut self) -> Transaction {
        let count = self.rng.below(200);
        self.logger_call(Input::call("many").word(count), 1_000_000, Outcome::Logs(count))
    }

    fn creation(&mut self) -> Transaction {
        let input = Input::deploy("Child");
        Transaction { to: None, ..call(self.sender(), Address::ZERO, input, 300_000, Outcome::Creation(1)) }
    }

    fn logger_call(&mut self, input: Input, gas: u64, outcome: Outcome) -> Transaction {
        call(self.sender(), self.cast.logger, input, gas, outcome)
    }
}

fn outsider(index: u64) -> Address {
    Address::from(Rng::nth(0x6f75_7473, index).bytes::<20>())
}

/// Token A from the first account, which holds nearly all of it, to all accounts.
pub(super) fn airdrop(cast: &Cast, amount: u64) -> Transaction {
    let count = cast.accounts.len() as u64;
    let head = Input::call("airdrop").word(64u64).word(amount).word(count);
    let input = cast.accounts.iter().fold(head, |input, account| input.address(*account));
    call(0, cast.token_a, input, 900_000, Outcome::Logs(count))
}

/// A transaction of the usual type and price.
pub(super) fn call(sender: usize, to: Address, input: Input, gas: u64, outcome: Outcome) -> Transaction {
    Transaction { sender, to: Some(to), input, value: 0, gas, kind: 2, extra_price: 0, outcome }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(seed: u64) -> Story {
        let address = |n: u8| Address::from([n; 20]);
        let accounts = (0..10).map(address).collect();
        Story::new(seed, Cast { accounts, token_a: address(20), token_b: address(21), logger: address(22) })
    }

    fn blocks(seed: u64, count: usize) -> Vec<Block> {
        let mut story = story(seed);
        (0..count).map(|_| story.next_block(true)).collect()
    }

    #[test]
    fn a_seed_tells_one_story() {
        assert_eq!(blocks(1, 50), blocks(1, 50));
        assert_ne!(blocks(1, 50), blocks(2, 50));
    }

    #[test]
    fn two_hundred_blocks_hold_something_of_everything() {
        let blocks = blocks(1, 200);
        let mut counts = Counts::default();
        blocks.iter().for_each(|block| counts += block.counts());
        assert_eq!(counts.blocks, 200);
        assert!(counts.transactions > 400, "{counts:?}");
        assert!(counts.empty_blocks > 3 && counts.failed > 20 && counts.creations > 3, "{counts:?}");
        assert!(blocks.iter().any(|block| block.seconds > 12));
        let kinds: std::collections::BTreeSet<u8> =
            blocks.iter().flat_map(|block| &block.transactions).map(|t| t.kind).collect();
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_block_that_must_not_be_empty_is_not() {
        let mut story = story(3);
        assert!((0..200).all(|_| !story.next_block(false).transactions.is_empty()));
    }
}

//! The events that transactions leave: transfers, approvals, swaps and what else contracts tell.

use alloy_primitives::{Address, B256, U256, b256};

use super::{
    accounts::{Cast, Kind, WRAPPED},
    calldata::amount,
    plan::{Action, Step},
    transactions::Transaction,
};
use crate::rng::Rng;

/// `Transfer(address,address,uint256)`.
const TRANSFER: B256 = b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");
/// `Approval(address,address,uint256)`.
const APPROVAL: B256 = b256!("8c5be1e5ebec7d5bd14f71427d1e84f3dd0314c0f7b2291e5b200ac8c7c3b925");
/// `Swap(address,uint256,uint256,uint256,uint256,address)` of pairs.
const PAIR_SWAP: B256 = b256!("d78ad95fa46c994b6551d0da85fc275fe613ce37657fb8d5e3d130840159d822");
/// `Sync(uint112,uint112)`.
const SYNC: B256 = b256!("1c411e9a96e071241c2f21f7726b17ae89e3cab4c78be50e062b03a9fffbbad1");
/// `Swap(address,address,int256,int256,uint160,uint128,int24)` of pools.
const POOL_SWAP: B256 = b256!("c42079f94a6350d7e6235f29174924f928cc2ac818eb64fed8004e115fbcca67");
/// `Deposit(address,uint256)`.
const DEPOSIT: B256 = b256!("e1fffcc4923d04b559f4d29a8bfc6cda04eb5b0d3c460751c2402c5c5cc9109c");
/// `Withdrawal(address,uint256)`.
const WITHDRAWAL: B256 = b256!("7fcf532c15f0a6db0bd6d0e038bea71d30d808c7d98cb3bf7268a95bf5081b65");

/// An event.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) address: Address,
    pub(super) topics: Vec<B256>,
    pub(super) data: Vec<u8>,
}

/// The logs of one transaction, one after the other.
struct Writer<'a> {
    rng: &'a mut Rng,
    cast: &'static Cast,
    logs: Vec<Log>,
}

/// What a transaction that has not failed leaves.
pub(super) fn of(step: &Step, transaction: &Transaction, rng: &mut Rng) -> Vec<Log> {
    let mut out = Writer { rng, cast: Cast::get(), logs: Vec::new() };
    let from = transaction.from;
    let to = transaction.content.to.or(transaction.created()).unwrap_or_default();
    match step.action {
        Action::Pay => {}
        Action::Transfer => out.transfer(to, from, None),
        Action::Approve => {
            let router = out.contract(Kind::Router);
            out.moved(APPROVAL, to, from, router);
        }
        Action::Swap => out.swaps(from, to),
        Action::Trade => {
            for _ in 0..1 + out.rng.below(2) {
                out.hops(to);
            }
        }
        Action::Collect => out.collected(to, from),
        Action::Spread => {
            let token = out.contract(Kind::Token);
            (0..10 + out.rng.below(40)).for_each(|_| out.transfer(token, from, None));
        }
        Action::Call | Action::Post | Action::Create | Action::Blobs(_) => out.others(to, from),
        Action::Delegate(_) => {
            let token = out.contract(Kind::Token);
            out.transfer(token, from, None);
            out.others(to, from);
        }
    }
    out.logs
}

impl Writer<'_> {
    fn contract(&mut self, kind: Kind) -> Address {
        self.cast.contract(self.cast.draw_contract(self.rng, kind))
    }

    fn log(&mut self, address: Address, topics: Vec<B256>, words: &[[u8; 32]]) {
        self.logs.push(Log { address, topics, data: words.concat() });
    }

    /// An event about an amount between two accounts.
    fn moved(&mut self, event: B256, token: Address, from: Address, to: Address) {
        let amount = amount(self.rng);
        self.log(token, vec![event, from.into_word(), to.into_word()], &[amount]);
    }

    fn transfer(&mut self, token: Address, from: Address, to: Option<Address>) {
        let to = to.unwrap_or_else(|| self.cast.draw_recipient(self.rng));
        self.moved(TRANSFER, token, from, to);
    }

    /// A deposit to the contract of the wrapped coin, or a withdrawal.
    fn wrapped(&mut self, event: B256, by: Address) {
        let amount = amount(self.rng);
        self.log(self.cast.contract(WRAPPED), vec![event, by.into_word()], &[amount]);
    }

    fn swaps(&mut self, from: Address, router: Address) {
        let wrapped = self.cast.contract(WRAPPED);
        match self.rng.below(3) {
            0 => {
                self.wrapped(DEPOSIT, router);
                self.hops(router);
            }
            1 => {
                self.hops(router);
                self.wrapped(WITHDRAWAL, router);
            }
            _ => {
                self.transfer(wrapped, from, Some(router));
                self.hops(router);
            }
        }
        if self.rng.below(6) == 0 {
            let token = self.contract(Kind::Token);
            self.moved(APPROVAL, token, from, router);
        }
    }

    /// From the wrapped coin through one pool or pair, or several.
    fn hops(&mut self, by: Address) {
        let wrapped = self.cast.contract(WRAPPED);
        for hop in 0..*self.rng.pick(&[1, 1, 1, 1, 1, 2, 2, 3]) {
            let paid = if hop == 0 { wrapped } else { self.contract(Kind::Token) };
            let bought = self.contract(Kind::Token);
            if self.rng.below(3) > 0 {
                self.pair_swap(by, paid, bought);
            } else {
                self.pool_swap(by, paid, bought);
            }
        }
    }

    fn pair_swap(&mut self, by: Address, paid: Address, bought: Address) {
        let pair = self.contract(Kind::Pair);
        self.transfer(paid, by, Some(pair));
        self.transfer(bought, pair, Some(by));
        let reserves = [amount(self.rng), amount(self.rng)];
        self.log(pair, vec![SYNC], &reserves);
        let amounts = [amount(self.rng), [0; 32], [0; 32], amount(self.rng)];
        self.log(pair, vec![PAIR_SWAP, by.into_word(), by.into_word()], &amounts);
    }

    fn pool_swap(&mut self, by: Address, paid: Address, bought: Address) {
        let pool = self.contract(Kind::Pool);
        self.transfer(bought, pool, Some(by));
        self.transfer(paid, by, Some(pool));
        let out = U256::from_be_bytes(amount(self.rng)).wrapping_neg().to_be_bytes();
        let price: U256 = U256::from(self.rng.next_u64()) << 40;
        let tick = U256::from(self.rng.below(200_000)).wrapping_neg().to_be_bytes();
        let words = [amount(self.rng), out, price.to_be_bytes(), amount(self.rng), tick];
        self.log(pool, vec![POOL_SWAP, by.into_word(), by.into_word()], &words);
    }

    /// Pieces of a collection that change hands.
    fn collected(&mut self, collection: Address, from: Address) {
        for _ in 0..*self.rng.pick(&[1, 1, 1, 1, 2, 5]) {
            let to = self.cast.draw_recipient(self.rng);
            let piece = B256::from(U256::from(self.rng.below(10_000)));
            self.log(collection, vec![TRANSFER, from.into_word(), to.into_word(), piece], &[]);
        }
    }

    /// Events of a contract's own, two at most.
    fn others(&mut self, contract: Address, from: Address) {
        for _ in 0..self.rng.below(3) {
            // A contract has few kinds of events.
            let event = Rng::nth(u64::from(contract[0]) << 8 | u64::from(contract[1]), self.rng.below(3));
            let mut topics = vec![event.clone().bytes::<32>().into()];
            let second = [from.into_word(), B256::from(U256::from(self.rng.below(1000)))];
            topics.extend(&second[..self.rng.below(3) as usize]);
            let words = *self.rng.pick(&[0, 1, 1, 2, 2, 3, 4, 5, 7, 9, 24]);
            let words: Vec<[u8; 32]> = (0..words).map(|_| amount(self.rng)).collect();
            self.log(contract, topics, &words);
        }
    }
}

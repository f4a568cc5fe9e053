//! What happens in a block, decided before anything is encoded: who does what, with how many bytes
//! and for how much gas. Needs nothing of the blocks before.

use super::{
    accounts::{Cast, Kind, WRAPPED},
    fees::{GAS_LIMIT, MAX_BLOBS, MAX_LOAD},
};
use crate::rng::Rng;

/// Nonces of a sender leave gaps, since no block knows how often others were sent from: each
/// block has a range of its own.
const NONCES_PER_BLOCK: u64 = 512;

/// What a chain is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe {
    pub(super) seed: u64,
    /// The most transactions of a block, where the blocks are to be small.
    pub(super) most: Option<u64>,
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Coins for an account, nothing else.
    Pay,
    Transfer,
    Approve,
    Swap,
    /// What bots do: unaligned calldata, several pools.
    Trade,
    Collect,
    Call,
    /// One token to many.
    Spread,
    /// Much calldata for one log.
    Post,
    Create,
    /// So many blobs.
    Blobs(u8),
    /// So many accounts that delegate to code.
    Delegate(u8),
}

/// A transaction as planned.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) action: Action,
    /// The sender's rank.
    pub(super) from: u32,
    pub(super) nonce: u64,
    /// The contract's rank, where one is called.
    pub(super) to: Option<u32>,
    /// The transaction's type.
    pub(super) envelope: u8,
    pub(super) failed: bool,
    /// The length of the calldata.
    pub(super) input: usize,
    pub(super) gas: Gas,
}

/// Gas that a transaction needs: some always, some more or less by the load of the chain.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Gas {
    fixed: u64,
    thousands: u64,
}

/// As much of a block as the fees of the next one follow from.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Totals {
    gas: Gas,
    pub(super) blobs: u64,
}

impl Gas {
    /// The gas used under a load, in thousandths. Exact: a sum of gas uses the sum of what is used.
    pub(super) fn used(self, load: u64) -> u64 {
        self.fixed + self.thousands * load
    }
}

impl Totals {
    pub(super) fn of(steps: &[Step]) -> Self {
        steps.iter().fold(Self::default(), |sum, step| Self {
            gas: Gas {
                fixed: sum.gas.fixed + step.gas.fixed,
                thousands: sum.gas.thousands + step.gas.thousands,
            },
            blobs: sum.blobs + step.blobs(),
        })
    }

    pub(super) fn gas_used(&self, load: u64) -> u64 {
        self.gas.used(load)
    }
}

impl Step {
    pub(super) fn blobs(&self) -> u64 {
        if let Action::Blobs(count) = self.action { count.into() } else { 0 }
    }

    pub(super) fn authorizations(&self) -> usize {
        if let Action::Delegate(count) = self.action { count.into() } else { 0 }
    }
}

/// The transactions of block `number`: none in block 0. As many as were wanted or fit.
pub(super) fn steps(recipe: Recipe, number: u64) -> Vec<Step> {
    let mut rng = Rng::nth(recipe.seed ^ 0x706c_616e, number);
    let wanted = match recipe.most {
        _ if number == 0 => 0,
        Some(most) => rng.below(most + 1),
        None => wanted(&mut rng),
    };
    let mut steps: Vec<Step> = Vec::with_capacity(wanted as usize);
    let (mut gas, mut blobs) = (0, 0);
    for index in 0..wanted {
        let nonce = number * NONCES_PER_BLOCK + index;
        let step = draw(&mut rng, nonce);
        if blobs + step.blobs() > MAX_BLOBS {
            continue;
        }
        blobs += step.blobs();
        gas += step.gas.used(MAX_LOAD);
        if gas > GAS_LIMIT {
            break;
        }
        steps.push(step);
    }
    steps
}

/// Mostly around the middle, a few blocks nearly twice as full.
fn wanted(rng: &mut Rng) -> u64 {
    let usual = 80 + rng.below(86) + rng.below(86);
    if rng.below(20) == 0 { usual + 30 + rng.below(120) } else { usual }
}

fn draw(rng: &mut Rng, nonce: u64) -> Step {
    let cast = Cast::get();
    let action = draw_action(rng);
    let from = cast.draw_sender(rng);
    let to = called(action, cast, rng);
    let input = input_length(action, rng);
    let failed = to.is_some() && rng.below(1000) < 66;
    let thousands = thousands_of_gas(action, input, rng);
    let gas =
        Gas { fixed: fixed_gas(action, input), thousands: if failed { thousands / 2 } else { thousands } };
    Step { action, from, nonce, to, envelope: envelope(action, rng), failed, input, gas }
}

fn draw_action(rng: &mut Rng) -> Action {
    match rng.below(1000) {
        0..312 => Action::Pay,
        312..593 => Action::Transfer,
        593..646 => Action::Approve,
        646..788 => Action::Swap,
        788..843 => Action::Trade,
        843..873 => Action::Collect,
        873..967 => Action::Call,
        967..971 => Action::Spread,
        971..977 => Action::Post,
        977..982 => Action::Create,
        982..993 => Action::Blobs(*rng.pick(&[1, 1, 2, 3, 4, 6])),
        _ => Action::Delegate(*rng.pick(&[1, 1, 1, 2])),
    }
}

fn called(action: Action, cast: &Cast, rng: &mut Rng) -> Option<u32> {
    let kind = match action {
        Action::Pay | Action::Create => return None,
        Action::Transfer | Action::Approve => Kind::Token,
        Action::Swap => Kind::Router,
        Action::Collect => Kind::Collection,
        Action::Trade | Action::Call | Action::Spread => Kind::App,
        Action::Post | Action::Blobs(_) | Action::Delegate(_) => Kind::App,
    };
    let rank = cast.draw_contract(rng, kind);
    // The wrapped coin is moved within swaps more than by itself.
    let again = rank == WRAPPED && rng.below(4) > 0;
    Some(if again { cast.draw_contract(rng, kind) } else { rank })
}

/// As on the real chain: selectors with whole words, but for bots; a few long ones make up most of
/// the bytes.
fn input_length(action: Action, rng: &mut Rng) -> usize {
    let length = match action {
        Action::Pay => 0,
        Action::Transfer | Action::Approve => 68 + 32 * u64::from(rng.below(20) == 0),
        Action::Swap => match rng.below(10) {
            0..6 => *rng.pick(&[228, 260, 260, 292, 356]),
            6..9 => *rng.pick(&[580, 644, 644, 740, 836]),
            _ => 1060 + 32 * rng.below(50),
        },
        Action::Trade => 40 + rng.below(300),
        Action::Collect => *rng.pick(&[100, 100, 132, 580, 1060]),
        Action::Call => 4 + 32 * *rng.pick(&[0, 1, 1, 2, 3, 4, 5, 6, 8, 12]),
        Action::Spread => 132 + 64 * (10 + rng.below(40)),
        Action::Post => (2000 << rng.below(5)) + rng.below(2000),
        Action::Create => 1500 + rng.below(14_000),
        Action::Blobs(_) => 164 + 32 * rng.below(20),
        Action::Delegate(_) => 132 + 32 * rng.below(12),
    };
    length as usize
}

fn fixed_gas(action: Action, input: usize) -> u64 {
    let more = match action {
        Action::Create => 32_000,
        Action::Delegate(count) => 25_000 * u64::from(count),
        _ => 0,
    };
    21_000 + 10 * input as u64 + more
}

fn thousands_of_gas(action: Action, input: usize, rng: &mut Rng) -> u64 {
    match action {
        Action::Pay => 0,
        Action::Transfer => 12 + rng.below(33),
        Action::Approve => 22 + rng.below(6),
        Action::Swap => 80 + rng.below(130),
        Action::Trade => 90 + rng.below(260),
        Action::Collect => 40 + rng.below(120),
        Action::Call => 15 + rng.below(130),
        Action::Spread => 400 + rng.below(900),
        Action::Post => 30 + rng.below(60),
        Action::Create => 200 * input as u64 / 1000,
        Action::Blobs(_) => 20 + rng.below(80),
        Action::Delegate(_) => 60 + rng.below(60),
    }
}

fn envelope(action: Action, rng: &mut Rng) -> u8 {
    match (action, rng.below(200)) {
        (Action::Blobs(_), _) => 3,
        (Action::Delegate(_), _) => 4,
        (_, 0..20) => 0,
        (_, 20) => 1,
        _ => 2,
    }
}

//! Who takes part: senders and contracts, a few of them all the time and most of them rarely.

use std::sync::OnceLock;

use alloy_primitives::Address;

use super::signing::Keys;
use crate::rng::Rng;

const SENDERS: usize = 100_000;
const CONTRACTS: u32 = 20_000;
/// The busiest senders are less far ahead of the others than the busiest contracts.
const SENDERS_SHIFT: u64 = 8;

/// What a contract is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Token,
    Router,
    /// A pair with two reserves.
    Pair,
    /// A pool with concentrated liquidity.
    Pool,
    Collection,
    App,
}

const KINDS: [Kind; 6] = [Kind::Token, Kind::Router, Kind::Pair, Kind::Pool, Kind::Collection, Kind::App];

/// The kinds of the contracts used most, which decide how the distributions begin.
const FIRST_KINDS: [Kind; 10] = [
    Kind::Token,
    Kind::Token,
    Kind::Router,
    Kind::Token,
    Kind::Router,
    Kind::Pool,
    Kind::Pair,
    Kind::App,
    Kind::Router,
    Kind::Collection,
];

/// The contract that stands for the wrapped coin: the busiest of all.
pub(super) const WRAPPED: u32 = 0;

/// All accounts; the same for every seed.
#[derive(Debug)]
pub(super) struct Cast {
    pub(super) keys: Keys,
    contracts: Vec<Address>,
    senders: Zipf,
    by_kind: [Zipf; KINDS.len()],
}

/// Draws ranks, the one with `rank` in proportion to `1 / (1 + shift + rank)`. Whole numbers only:
/// the same on every machine.
#[derive(Debug)]
struct Zipf {
    ranks: Vec<u32>,
    cumulative: Vec<u64>,
}

impl Zipf {
    fn new(ranks: impl Iterator<Item = u32>, shift: u64) -> Self {
        let ranks: Vec<u32> = ranks.collect();
        let weights = ranks.iter().map(|rank| (1 << 40) / (1 + shift + u64::from(*rank)));
        let cumulative = weights.scan(0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self { cumulative: cumulative.collect(), ranks }
    }

    fn draw(&self, rng: &mut Rng) -> u32 {
        let point = rng.below(self.cumulative.last().copied().unwrap_or(0));
        self.ranks[self.cumulative.partition_point(|sum| *sum <= point)]
    }
}

impl Cast {
    pub(super) fn get() -> &'static Self {
        static CAST: OnceLock<Cast> = OnceLock::new();
        CAST.get_or_init(|| Self {
            keys: Keys::new(b"the senders of the mainnet-like chain", SENDERS),
            contracts: (0..CONTRACTS).map(|rank| derived(0x636f_6e74, rank.into())).collect(),
            senders: Zipf::new(0..SENDERS as u32, SENDERS_SHIFT),
            by_kind: KINDS.map(|kind| Zipf::new((0..CONTRACTS).filter(|rank| kind_of(*rank) == kind), 0)),
        })
    }

    pub(super) fn draw_sender(&self, rng: &mut Rng) -> u32 {
        self.senders.draw(rng)
    }

    pub(super) fn draw_contract(&self, rng: &mut Rng, kind: Kind) -> u32 {
        self.by_kind[kind as usize].draw(rng)
    }

    pub(super) fn sender(&self, rank: u32) -> Address {
        self.keys.address(rank as usize)
    }

    pub(super) fn contract(&self, rank: u32) -> Address {
        self.contracts[rank as usize]
    }

    /// Somebody who is paid: mostly one who also sends, at times one never seen before.
    pub(super) fn draw_recipient(&self, rng: &mut Rng) -> Address {
        if rng.below(5) == 0 { Address::from(rng.bytes::<20>()) } else { self.sender(self.draw_sender(rng)) }
    }
}

/// The `index`-th address of a group, from which nothing is sent.
pub(super) fn derived(group: u64, index: u64) -> Address {
    Address::from(Rng::nth(group, index).bytes::<20>())
}

fn kind_of(rank: u32) -> Kind {
    if let Some(kind) = FIRST_KINDS.get(rank as usize) {
        return *kind;
    }
    match Rng::nth(0x6b69_6e64, rank.into()).below(100) {
        0..45 => Kind::Token,
        45..46 => Kind::Router,
        46..68 => Kind::Pair,
        68..76 => Kind::Pool,
        76..88 => Kind::Collection,
        _ => Kind::App,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_ranks_are_drawn_in_proportion_to_their_weight() {
        let zipf = Zipf::new(0..1000, 0);
        let mut rng = Rng::new(5);
        let mut counts = vec![0u32; 1000];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut rng) as usize] += 1;
        }
        // The harmonic number of 1000 is 7.485: rank 0 has 13.4 %, rank 9 a tenth of it.
        assert!((12_900..13_900).contains(&counts[0]), "{}", counts[0]);
        assert!((1_200..1_470).contains(&counts[9]), "{}", counts[9]);
        assert!(counts[500..].iter().sum::<u32>() > 7_000);
    }

    #[test]
    fn contracts_are_drawn_by_their_kind() {
        let (cast, mut rng) = (Cast::get(), Rng::new(1));
        for kind in KINDS {
            assert!((0..50).all(|_| kind_of(cast.draw_contract(&mut rng, kind)) == kind));
        }
        assert_eq!(kind_of(WRAPPED), Kind::Token);
    }
}

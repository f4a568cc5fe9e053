//! Which question meets which fault, and when.

use std::collections::BTreeMap;

use super::call::{Asked, What};
use crate::rng::Rng;

/// Blocks that are of another chain together.
const SPELL_BLOCKS: u64 = 6;

/// What goes wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It comes late.
    Delay,
    /// It never comes, and the connection stays.
    Silence,
    /// The connection is reset instead.
    Reset,
    /// HTTP 429.
    TooManyRequests,
    /// HTTP 429 that says when to come again.
    RetryAfter,
    /// HTTP 500, 502, 503 or 504.
    ServerError,
    /// The JSON-RPC error -32005, as providers have it for a limit.
    LimitExceeded,
    /// A page instead of JSON.
    Html,
    /// The connection ends within the body.
    CutBody,
    /// A whole body whose JSON ends too early.
    CutJson,
    /// `null` for a block that is there.
    NullBlock,
    /// `null` for receipts that are there.
    NullReceipts,
    /// The receipts of another block.
    ForeignReceipts,
    /// Receipts of which a log is missing.
    MissingLog,
    /// Another value of a transaction, or other data of a log.
    ChangedAmount,
    /// An answer of a batch twice, and another one not at all.
    DuplicatedAnswers,
    /// The answers of a batch in another order.
    ReorderedAnswers,
    /// A head below the one that was there before.
    LowerHead,
    /// The block of another chain.
    OtherChain,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 19] = [
        Self::Delay,
        Self::Silence,
        Self::Reset,
        Self::TooManyRequests,
        Self::RetryAfter,
        Self::ServerError,
        Self::LimitExceeded,
        Self::Html,
        Self::CutBody,
        Self::CutJson,
        Self::NullBlock,
        Self::NullReceipts,
        Self::ForeignReceipts,
        Self::MissingLog,
        Self::ChangedAmount,
        Self::DuplicatedAnswers,
        Self::ReorderedAnswers,
        Self::LowerHead,
        Self::OtherChain,
    ];

    /// Whether the answer to such a question can have it.
    fn befalls(self, what: What) -> bool {
        match self {
            Self::NullBlock => matches!(what, What::Block | What::Header),
            Self::NullReceipts | Self::ForeignReceipts | Self::MissingLog => what == What::Receipts,
            Self::ChangedAmount => matches!(what, What::Block | What::Receipts),
            Self::LowerHead => what == What::Head,
            // Drawn for spells of blocks and for batches.
            Self::OtherChain | Self::DuplicatedAnswers | Self::ReorderedAnswers => false,
            _ => true,
        }
    }
}

/// What goes wrong, and how often.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Decides everything.
    pub seed: u64,
    /// For each fault that may happen the probability, from 0 to 1, that a question that it can befall
    /// is befallen. For [`Fault::OtherChain`] that of six blocks together.
    pub rates: BTreeMap<Fault, f64>,
    /// How often in a row the same question is befallen at most; the next time it is answered well.
    /// `None`: for ever.
    pub in_a_row: Option<u64>,
}

impl Schedule {
    /// A schedule on which nothing goes wrong.
    pub fn quiet() -> Self {
        Self { seed: 0, rates: BTreeMap::new(), in_a_row: None }
    }

    /// What goes wrong when `asked` is asked after it was asked `before` times.
    pub fn fault(&self, asked: &Asked, before: u64) -> Option<Fault> {
        let spell = asked.block.map(|block| Asked { key: block / SPELL_BLOCKS, ..*asked });
        // Receipts follow the block whose hash they are asked for by.
        let in_spell = spell.filter(|spell| matches!(spell.what, What::Block | What::Header));
        in_spell
            .and_then(|spell| self.draw(&spell, before, |fault| fault == Fault::OtherChain))
            .or_else(|| self.draw(asked, before, |fault| fault.befalls(asked.what)))
    }

    /// What goes wrong with a batch as such, by the first of its questions.
    pub fn batch_fault(&self, first: &Asked, before: u64) -> Option<Fault> {
        let of_batches = [Fault::DuplicatedAnswers, Fault::ReorderedAnswers];
        // Drawn apart from what befalls the question itself.
        let batch = Asked { key: !first.key, ..*first };
        self.draw(&batch, before, |fault| of_batches.contains(&fault))
    }

    /// Drawn anew after each time that the question was befallen as often as may be.
    fn draw(&self, asked: &Asked, before: u64, is_meant: impl Fn(Fault) -> bool) -> Option<Fault> {
        let (episode, place) = match self.in_a_row {
            Some(most) => (before / (most + 1), before % (most + 1)),
            None => (0, 0),
        };
        let mut rng = Rng::nth(self.seed ^ asked.key, episode);
        let times = 1 + rng.below(self.in_a_row.unwrap_or(1));
        let mut point = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let meant = self.rates.iter().filter(|(fault, _)| is_meant(**fault));
        for (fault, rate) in meant {
            if point < *rate {
                return (place < times).then_some(*fault);
            }
            point -= rate;
        }
        None
    }

    /// The source of what else is random about an answer: how late it is, where it is cut.
    pub(super) fn details(&self, asked: &Asked, before: u64) -> Rng {
        Rng::nth(!self.seed ^ asked.key, before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(seed: u64, rates: &[(Fault, f64)], in_a_row: Option<u64>) -> Schedule {
        Schedule { seed, rates: rates.iter().copied().collect(), in_a_row }
    }

    fn faults(schedule: &Schedule, what: What, block: u64, times: u64) -> Vec<Option<Fault>> {
        let asked = Asked::of_block(what, block);
        (0..times).map(|before| schedule.fault(&asked, before)).collect()
    }

    #[test]
    fn every_fault_is_listed_once_in_its_order() {
        assert!(Fault::ALL.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn the_seed_the_question_and_its_occurrence_decide() {
        let rates = [(Fault::Reset, 0.2), (Fault::Html, 0.2)];
        let all = |seed| -> Vec<_> {
            let schedule = schedule(seed, &rates, Some(2));
            (0..50).map(|block| faults(&schedule, What::Block, block, 9)).collect()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        assert!(all(1).iter().flatten().any(Option::is_none));
        for fault in [Fault::Reset, Fault::Html] {
            assert!(all(1).iter().flatten().any(|found| *found == Some(fault)));
        }
    }

    #[test]
    fn rates_are_probabilities_of_the_questions_that_a_fault_can_befall() {
        let schedule =
            schedule(3, &[(Fault::Delay, 0.1), (Fault::NullBlock, 0.2), (Fault::NullReceipts, 0.3)], Some(1));
        let count = |what, fault| {
            let first = |block: &u64| schedule.fault(&Asked::of_block(what, *block), 0) == Some(fault);
            (0..10_000).filter(first).count()
        };
        assert!((900..1100).contains(&count(What::Block, Fault::Delay)));
        assert!((1850..2150).contains(&count(What::Block, Fault::NullBlock)));
        assert!((2800..3200).contains(&count(What::Receipts, Fault::NullReceipts)));
        assert_eq!(count(What::Block, Fault::NullReceipts) + count(What::Receipts, Fault::NullBlock), 0);
    }

    #[test]
    fn a_question_is_befallen_only_so_often_in_a_row_or_for_ever() {
        let rates = [(Fault::Reset, 1.0)];
        let mut longest = 0;
        for block in 0..100 {
            let faults = faults(&schedule(4, &rates, Some(3)), What::Block, block, 40);
            let runs = faults.split(Option::is_none).map(<[_]>::len);
            longest = runs.max().max(Some(longest)).unwrap_or(0);
        }
        assert_eq!(longest, 3);
        let forever = faults(&schedule(4, &rates, None), What::Block, 1, 40);
        assert_eq!(forever, [Some(Fault::Reset); 40]);
        assert_eq!(faults(&Schedule::quiet(), What::Block, 1, 40), [None; 40]);
    }

    #[test]
    fn another_chain_comes_in_spells() {
        let schedule = schedule(5, &[(Fault::OtherChain, 0.3)], Some(1));
        let other: Vec<bool> =
            (0..600).map(|block| schedule.fault(&Asked::of_block(What::Block, block), 0).is_some()).collect();
        assert!(other.chunks(SPELL_BLOCKS as usize).all(|spell| spell.iter().all(|of| *of == spell[0])));
        assert!(other.contains(&true) && other.contains(&false));
        assert_eq!(schedule.fault(&Asked::of_block(What::Receipts, 1), 0), None);
    }
}

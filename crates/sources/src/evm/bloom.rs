//! Blooms of logs: three of 2048 bits for the address and for each topic. (Yellow Paper, 4.3.1.)

use alloy_primitives::{
    Address, B256, keccak256,
    map::{AddressMap, B256Map},
};

use super::encode::LogItems;

/// The bits of any number of logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bloom(pub [u8; 256]);

impl Bloom {
    /// No bit is set.
    pub const EMPTY: Self = Self([0; 256]);

    /// Sets the bits that are set in the other.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(byte, other)| *byte |= other);
    }

    fn set(&mut self, bits: Bits) {
        for bit in bits {
            self.0[255 - usize::from(bit / 8)] |= 1 << (bit % 8);
        }
    }
}

/// The places of three bits, each below 2048.
type Bits = [u16; 3];

/// Addresses and topics that are remembered; then it begins anew.
const MAX_KNOWN: usize = 1 << 14;

/// Sets bits and remembers which belong to what: the same contracts and topics come again and again,
/// and each costs a hash.
#[derive(Debug, Default)]
pub(crate) struct BloomBits {
    addresses: AddressMap<Bits>,
    topics: B256Map<Bits>,
}

impl BloomBits {
    /// Sets the bits of a log.
    pub fn accrue(&mut self, log: &LogItems, bloom: &mut Bloom) {
        if self.addresses.len() + self.topics.len() > MAX_KNOWN {
            *self = Self::default();
        }
        let address = Address::from(log.address);
        bloom.set(*self.addresses.entry(address).or_insert_with(|| bits_of(&log.address)));
        for topic in &log.topics[..log.topic_count] {
            bloom.set(*self.topics.entry(B256::from(*topic)).or_insert_with(|| bits_of(topic)));
        }
    }
}

fn bits_of(item: &[u8]) -> Bits {
    let hash = keccak256(item);
    [0, 2, 4].map(|at| u16::from_be_bytes([hash[at], hash[at + 1]]) % 2048)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blooms_are_those_of_another_implementation() {
        let mut bits = BloomBits::default();
        let (mut all, mut other_all) = (Bloom::EMPTY, alloy_primitives::Bloom::ZERO);
        for number in 0..40_u8 {
            // Every address and topic twice; a topic that begins like an address.
            let address = [number / 2; 20];
            let mut topics = [[number / 2; 32], [7; 32], [0; 32], [number / 3; 32]];
            topics[1][20..].fill(0);
            let log = LogItems { address, topics, topic_count: usize::from(number % 5) };
            let (mut ours, mut other) = (Bloom::EMPTY, alloy_primitives::Bloom::ZERO);
            bits.accrue(&log, &mut ours);
            let words: Vec<B256> = topics[..log.topic_count].iter().map(|topic| B256::from(*topic)).collect();
            other.accrue_raw_log(address.into(), &words);
            assert_eq!(ours.0, other.0);
            all.add(&ours);
            other_all |= other;
        }
        assert_eq!(all.0, other_all.0);
    }
}

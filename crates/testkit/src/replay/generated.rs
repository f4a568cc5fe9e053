//! Chains that are made when they are asked for.

use alloy_primitives::B256;
use bytes::Bytes;

use super::synthetic::Synthetic;
use crate::mainnet::MainnetLike;

/// A generated chain from block 0 on.
#[derive(Debug)]
pub(super) enum Generated {
    Synthetic(Synthetic),
    MainnetLike(MainnetLike),
}

impl Generated {
    pub(super) fn synthetic(blocks: u64, txs_per_block: u64, logs_per_tx: u64, seed: u64) -> Self {
        Self::Synthetic(Synthetic::new(blocks, txs_per_block, logs_per_tx, seed))
    }

    pub(super) fn mainnet_like(blocks: u64, seed: u64) -> Self {
        Self::MainnetLike(MainnetLike::new(blocks, seed))
    }

    pub(super) fn small_mainnet_like(blocks: u64, most_txs_per_block: u64, seed: u64) -> Self {
        Self::MainnetLike(MainnetLike::small(blocks, most_txs_per_block, seed))
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Synthetic(chain) => chain.len(),
            Self::MainnetLike(chain) => chain.len(),
        }
    }

    pub(super) fn has(&self, number: u64) -> bool {
        number < self.len()
    }

    /// The hash of a block that exists.
    pub(super) fn hash(&self, number: u64) -> B256 {
        match self {
            Self::Synthetic(chain) => chain.hash(number),
            Self::MainnetLike(chain) => chain.hash(number),
        }
    }

    pub(super) fn number_of(&self, hash: B256) -> Option<u64> {
        match self {
            Self::Synthetic(chain) => chain.number_of(hash),
            Self::MainnetLike(chain) => chain.number_of(hash),
        }
    }

    /// The JSON of a block that exists.
    pub(super) fn block_json(&self, number: u64, full: bool) -> Bytes {
        match self {
            Self::Synthetic(chain) => chain.block_json(number, full).into(),
            Self::MainnetLike(chain) => chain.block_json(number, full).into(),
        }
    }

    /// The JSON of a block that exists, and of its receipts.
    pub(super) fn block_and_receipts_json(&self, number: u64) -> (Bytes, Bytes) {
        let (block, receipts) = match self {
            Self::Synthetic(chain) => {
                (chain.block_json(number, true).into(), chain.receipts_json(number).into())
            }
            Self::MainnetLike(chain) => chain.block_and_receipts_json(number),
        };
        (block.into(), receipts.into())
    }

    /// The JSON of the receipts of a block that exists.
    pub(super) fn receipts_json(&self, number: u64) -> Bytes {
        match self {
            Self::Synthetic(chain) => chain.receipts_json(number).into(),
            Self::MainnetLike(chain) => chain.receipts_json(number).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::replay::Recording;

    #[test]
    fn a_generated_chain_is_the_same_whether_it_is_preloaded_or_not() {
        for chain in [
            || Recording::synthetic(4, 2, 1, 7),
            || Recording::mainnet_like(4, 7),
            || Recording::small_mainnet_like(4, 3, 7),
        ] {
            let (lazy, kept) = (chain(), chain().preload().expect("preload"));
            let mut bytes = 0;
            for number in 0..=lazy.last() {
                let (block, receipts) = (lazy.block(number, true), lazy.receipts(number));
                bytes += block.iter().chain(&receipts).map(Bytes::len).sum::<usize>();
                assert_eq!((kept.block(number, true), kept.receipts(number)), (block, receipts));
                let light = |chain: &Recording| -> Value {
                    serde_json::from_slice(&chain.block(number, false).expect("a block")).expect("JSON")
                };
                assert_eq!(light(&kept), light(&lazy));
                let hash: B256 = light(&kept)["hash"].as_str().expect("a hash").parse().expect("a hash");
                assert_eq!((kept.number_of(hash), lazy.number_of(hash)), (Some(number), Some(number)));
            }
            assert_eq!((lazy.stored_bytes(), kept.stored_bytes()), (0, bytes));
            assert_eq!((lazy.last(), kept.last(), kept.chain_id()), (3, 3, 1));
            assert_eq!((lazy.block(4, true), kept.block(4, true)), (None, None));
        }
    }
}

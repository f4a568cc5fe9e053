//! What blocks hand on to the next but for their hash: the prices of gas and of blobs.

use super::plan::Totals;

/// Of every block.
pub(super) const GAS_LIMIT: u64 = 30_000_000;
/// The most blobs in a block, as of Prague.
pub(super) const MAX_BLOBS: u64 = 9;
/// The highest load, in thousandths.
pub(super) const MAX_LOAD: u64 = 1300;

const MIN_LOAD: u64 = 600;
const GAS_PER_BLOB: u64 = 131_072;
const TARGET_BLOBS: u64 = 6;
const BLOB_FEE_UPDATE_FRACTION: u128 = 5_007_716;
/// The base fee, in wei, at which transactions need the gas they were planned with.
const USUAL_BASE_FEE: u64 = 8_000_000_000;

/// The prices in a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fees {
    pub(super) base_fee: u64,
    pub(super) excess_blob_gas: u64,
}

impl Fees {
    pub(super) fn genesis() -> Self {
        Self { base_fee: USUAL_BASE_FEE, excess_blob_gas: 0 }
    }

    /// How busy the chain is, in thousandths: less when gas is dear, so that its price stays
    /// within bounds however long the chain is.
    pub(super) fn load(self) -> u64 {
        (2000 * USUAL_BASE_FEE / (USUAL_BASE_FEE + self.base_fee)).clamp(MIN_LOAD, MAX_LOAD)
    }

    /// The prices after a block with these totals, by EIP-1559 and EIP-4844.
    pub(super) fn next(self, totals: &Totals) -> Self {
        let (used, target) = (totals.gas_used(self.load()), GAS_LIMIT / 2);
        let change = |difference: u64| {
            let change = u128::from(self.base_fee) * u128::from(difference) / u128::from(target) / 8;
            change as u64
        };
        let base_fee = if used > target {
            self.base_fee + change(used - target).max(1)
        } else {
            self.base_fee - change(target - used)
        };
        let blob_gas = self.excess_blob_gas + blob_gas(totals.blobs);
        Self { base_fee, excess_blob_gas: blob_gas.saturating_sub(blob_gas_target()) }
    }

    /// The price of blob gas.
    pub(super) fn blob_price(self) -> u128 {
        // `fake_exponential` of EIP-4844 with a factor of 1.
        let (numerator, denominator) = (u128::from(self.excess_blob_gas), BLOB_FEE_UPDATE_FRACTION);
        let (mut term, mut sum) = (denominator, 0);
        for index in 1.. {
            if term == 0 {
                break;
            }
            sum += term;
            term = term * numerator / (denominator * index);
        }
        sum / denominator
    }
}

pub(super) fn blob_gas(blobs: u64) -> u64 {
    blobs * GAS_PER_BLOB
}

fn blob_gas_target() -> u64 {
    blob_gas(TARGET_BLOBS)
}

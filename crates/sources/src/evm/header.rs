//! The hash of a block, recomputed from its header.

use alloy_primitives::{B256, keccak256};

use super::{
    json::Block,
    rlp::{BadField, Rlp},
};

/// The Keccak-256 hash of the header's RLP. Fields that later forks added are part of it where the
/// node gives them.
pub(crate) fn hash(block: &Block<'_>) -> Result<B256, BadField> {
    let mut rlp = Rlp::default();
    rlp.list(|rlp| append(rlp, block))?;
    Ok(keccak256(rlp.bytes()))
}

fn append(rlp: &mut Rlp, block: &Block<'_>) -> Result<(), BadField> {
    rlp.fixed::<32>("parentHash", block.parent_hash)?;
    rlp.fixed::<32>("sha3Uncles", block.ommers_hash)?;
    rlp.fixed::<20>("miner", block.miner)?;
    rlp.fixed::<32>("stateRoot", block.state_root)?;
    rlp.fixed::<32>("transactionsRoot", block.transactions_root)?;
    rlp.fixed::<32>("receiptsRoot", block.receipts_root)?;
    rlp.fixed::<256>("logsBloom", block.logs_bloom)?;
    rlp.quantity("difficulty", block.difficulty)?;
    rlp.quantity("number", block.number)?;
    rlp.quantity("gasLimit", block.gas_limit)?;
    rlp.quantity("gasUsed", block.gas_used)?;
    rlp.quantity("timestamp", block.timestamp)?;
    rlp.data("extraData", block.extra_data)?;
    rlp.fixed::<32>("mixHash", block.mix_hash)?;
    rlp.fixed::<8>("nonce", block.nonce)?;
    append_later_fields(rlp, block)
}

/// What London, Shanghai, Cancun and Prague added.
fn append_later_fields(rlp: &mut Rlp, block: &Block<'_>) -> Result<(), BadField> {
    if block.base_fee_per_gas.is_some() {
        rlp.quantity("baseFeePerGas", block.base_fee_per_gas)?;
    }
    if block.withdrawals_root.is_some() {
        rlp.fixed::<32>("withdrawalsRoot", block.withdrawals_root)?;
    }
    if block.blob_gas_used.is_some() {
        rlp.quantity("blobGasUsed", block.blob_gas_used)?;
    }
    if block.excess_blob_gas.is_some() {
        rlp.quantity("excessBlobGas", block.excess_blob_gas)?;
    }
    if block.parent_beacon_block_root.is_some() {
        rlp.fixed::<32>("parentBeaconBlockRoot", block.parent_beacon_block_root)?;
    }
    if block.requests_hash.is_some() {
        rlp.fixed::<32>("requestsHash", block.requests_hash)?;
    }
    Ok(())
}

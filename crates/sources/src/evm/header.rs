//! The hash of a block, recomputed from its header.

use alloy_primitives::{B256, Keccak256};
use alloy_rlp::{Encodable, Header};

use super::{
    hex::{self, Bad, required},
    json::Block,
};

/// A field of the header that cannot be hashed, by its name in the node's answer.
pub(crate) type BadField = (&'static str, Bad);

/// The Keccak-256 hash of the header's RLP. Fields that later forks added are part of it where the
/// node gives them.
pub(crate) fn hash(block: &Block<'_>) -> Result<B256, BadField> {
    let mut fields = Fields::default();
    fields.append(block)?;
    let mut prefix = Vec::with_capacity(9);
    Header { list: true, payload_length: fields.rlp.len() }.encode(&mut prefix);
    let mut hasher = Keccak256::new();
    hasher.update(prefix);
    hasher.update(&fields.rlp);
    Ok(hasher.finalize())
}

/// The fields as RLP, one behind the other, without the list around them.
#[derive(Default)]
struct Fields {
    rlp: Vec<u8>,
    scratch: Vec<u8>,
}

impl Fields {
    fn append(&mut self, block: &Block<'_>) -> Result<(), BadField> {
        self.bytes::<32>("parentHash", block.parent_hash)?;
        self.bytes::<32>("sha3Uncles", block.ommers_hash)?;
        self.bytes::<20>("miner", block.miner)?;
        self.bytes::<32>("stateRoot", block.state_root)?;
        self.bytes::<32>("transactionsRoot", block.transactions_root)?;
        self.bytes::<32>("receiptsRoot", block.receipts_root)?;
        self.bytes::<256>("logsBloom", block.logs_bloom)?;
        self.quantity("difficulty", block.difficulty)?;
        self.quantity("number", block.number)?;
        self.quantity("gasLimit", block.gas_limit)?;
        self.quantity("gasUsed", block.gas_used)?;
        self.quantity("timestamp", block.timestamp)?;
        self.data("extraData", block.extra_data)?;
        self.bytes::<32>("mixHash", block.mix_hash)?;
        self.bytes::<8>("nonce", block.nonce)?;
        self.append_later_fields(block)
    }

    /// What London, Shanghai, Cancun and Prague added.
    fn append_later_fields(&mut self, block: &Block<'_>) -> Result<(), BadField> {
        if block.base_fee_per_gas.is_some() {
            self.quantity("baseFeePerGas", block.base_fee_per_gas)?;
        }
        if block.withdrawals_root.is_some() {
            self.bytes::<32>("withdrawalsRoot", block.withdrawals_root)?;
        }
        if block.blob_gas_used.is_some() {
            self.quantity("blobGasUsed", block.blob_gas_used)?;
        }
        if block.excess_blob_gas.is_some() {
            self.quantity("excessBlobGas", block.excess_blob_gas)?;
        }
        if block.parent_beacon_block_root.is_some() {
            self.bytes::<32>("parentBeaconBlockRoot", block.parent_beacon_block_root)?;
        }
        if block.requests_hash.is_some() {
            self.bytes::<32>("requestsHash", block.requests_hash)?;
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self, name: &'static str, text: Option<&str>) -> Result<(), BadField> {
        let bytes = required(text).and_then(hex::fixed::<N>).map_err(|bad| (name, bad))?;
        bytes[..].encode(&mut self.rlp);
        Ok(())
    }

    fn data(&mut self, name: &'static str, text: Option<&str>) -> Result<(), BadField> {
        self.scratch.clear();
        let text = required(text).map_err(|bad| (name, bad))?;
        hex::append_data(text, &mut self.scratch).map_err(|bad| (name, bad))?;
        self.scratch[..].encode(&mut self.rlp);
        Ok(())
    }

    fn quantity(&mut self, name: &'static str, text: Option<&str>) -> Result<(), BadField> {
        let word = required(text).and_then(hex::quantity_word).map_err(|bad| (name, bad))?;
        let zeros = word.iter().take_while(|byte| **byte == 0).count();
        word[zeros..].encode(&mut self.rlp);
        Ok(())
    }
}

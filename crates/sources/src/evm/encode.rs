//! The encodings that a header commits to: transactions (EIP-2718, 155, 2930, 1559, 4844, 7702),
//! receipts (EIP-658 and before) and withdrawals (EIP-4895).

use super::{
    bloom::Bloom,
    hex::Bad,
    json::{Access, Authorization, Log, Receipt, Tx, Withdrawal},
    rlp::{BadField, Rlp},
    transactions::post_state,
};

/// The types of transactions that are known here, by what they brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Legacy = 0,
    /// EIP-2930.
    AccessList = 1,
    /// EIP-1559.
    DynamicFee = 2,
    /// EIP-4844.
    Blob = 3,
    /// EIP-7702.
    SetCode = 4,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Legacy, Self::AccessList, Self::DynamicFee, Self::Blob, Self::SetCode];

    /// The type with this number, if it is known here.
    pub fn of(tx_type: i32) -> Option<Self> {
        match tx_type {
            0 => Some(Self::Legacy),
            1 => Some(Self::AccessList),
            2 => Some(Self::DynamicFee),
            3 => Some(Self::Blob),
            4 => Some(Self::SetCode),
            _ => None,
        }
    }

    /// Whether it pays the base fee and, up to a limit, a tip.
    pub fn has_dynamic_fee(self) -> bool {
        self >= Self::DynamicFee
    }

    /// Appends the type in front of an encoding; legacy ones have none.
    pub fn put(self, rlp: &mut Rlp) {
        if self != Self::Legacy {
            rlp.raw(&[self as u8]);
        }
    }
}

/// Appends the fields that are signed, without the list around them.
pub(crate) fn unsigned_fields(tx: &Tx<'_>, kind: Kind, rlp: &mut Rlp) -> Result<(), BadField> {
    if kind != Kind::Legacy {
        rlp.quantity("chainId", tx.chain_id)?;
    }
    rlp.quantity("nonce", tx.nonce)?;
    if kind.has_dynamic_fee() {
        rlp.quantity("maxPriorityFeePerGas", tx.max_priority_fee_per_gas)?;
        rlp.quantity("maxFeePerGas", tx.max_fee_per_gas)?;
    } else {
        rlp.quantity("gasPrice", tx.gas_price)?;
    }
    rlp.quantity("gas", tx.gas)?;
    rlp.fixed_or_empty::<20>("to", tx.to)?;
    rlp.quantity("value", tx.value)?;
    rlp.data("input", tx.input)?;
    if kind != Kind::Legacy {
        let list = tx.access_list.as_deref().ok_or(("accessList", Bad::Missing))?;
        rlp.list(|rlp| list.iter().try_for_each(|entry| access(entry, rlp)))?;
    }
    if kind == Kind::Blob {
        rlp.quantity("maxFeePerBlobGas", tx.max_fee_per_blob_gas)?;
        let hashes = tx.blob_versioned_hashes.as_deref().ok_or(("blobVersionedHashes", Bad::Missing))?;
        rlp.list(|rlp| words("blobVersionedHashes", hashes, rlp))?;
    }
    if kind == Kind::SetCode {
        let list = tx.authorization_list.as_deref().ok_or(("authorizationList", Bad::Missing))?;
        rlp.list(|rlp| list.iter().try_for_each(|item| authorization(item, rlp)))?;
    }
    Ok(())
}

/// Appends the signature, which stands behind [`unsigned_fields`].
pub(crate) fn signature(tx: &Tx<'_>, kind: Kind, rlp: &mut Rlp) -> Result<(), BadField> {
    match kind {
        Kind::Legacy => rlp.quantity("v", tx.v)?,
        _ => rlp.quantity("yParity", tx.y_parity.or(tx.v))?,
    }
    rlp.quantity("r", tx.r)?;
    rlp.quantity("s", tx.s)
}

fn words(name: &'static str, words: &[&str], rlp: &mut Rlp) -> Result<(), BadField> {
    words.iter().try_for_each(|word| rlp.fixed::<32>(name, Some(word)).map(drop))
}

fn access(entry: &Access<'_>, rlp: &mut Rlp) -> Result<(), BadField> {
    rlp.list(|rlp| {
        rlp.fixed::<20>("accessList.address", entry.address)?;
        let keys = entry.storage_keys.as_deref().unwrap_or_default();
        rlp.list(|rlp| words("accessList.storageKeys", keys, rlp))
    })
}

fn authorization(item: &Authorization<'_>, rlp: &mut Rlp) -> Result<(), BadField> {
    rlp.list(|rlp| {
        rlp.quantity("authorizationList.chainId", item.chain_id)?;
        rlp.fixed::<20>("authorizationList.address", item.address)?;
        rlp.quantity("authorizationList.nonce", item.nonce)?;
        rlp.quantity("authorizationList.yParity", item.y_parity.or(item.v))?;
        rlp.quantity("authorizationList.r", item.r)?;
        rlp.quantity("authorizationList.s", item.s)
    })
}

/// Appends a receipt as the trie has it; `logs` has the encoded logs with the list around them.
pub(crate) fn receipt(
    receipt: &Receipt<'_>,
    kind: Kind,
    bloom: &Bloom,
    logs: &Rlp,
    rlp: &mut Rlp,
) -> Result<(), BadField> {
    kind.put(rlp);
    rlp.list(|rlp| {
        match post_state(receipt) {
            Some(_) => drop(rlp.fixed::<32>("root", receipt.root)?),
            None => rlp.quantity("status", receipt.status)?,
        }
        rlp.quantity("cumulativeGasUsed", receipt.cumulative_gas_used)?;
        rlp.string(&bloom.0);
        rlp.raw(logs.bytes());
        Ok(())
    })
}

/// A log's fields as they go into blooms.
pub(crate) struct LogItems {
    /// The contract.
    pub address: [u8; 20],
    /// The topics; those behind the first `topic_count` are zero.
    pub topics: [[u8; 32]; 4],
    /// How many topics there are.
    pub topic_count: usize,
}

/// Appends a log, and gives what goes into blooms.
pub(crate) fn log(log: &Log<'_>, rlp: &mut Rlp) -> Result<LogItems, BadField> {
    let mut items = LogItems { address: [0; 20], topics: [[0; 32]; 4], topic_count: 0 };
    rlp.list(|rlp| {
        items.address = rlp.fixed::<20>("address", log.address)?;
        rlp.list(|rlp| {
            for topic in log.topics.0.iter().flatten() {
                items.topics[items.topic_count] = rlp.fixed::<32>("topics", Some(topic))?;
                items.topic_count += 1;
            }
            Ok::<_, BadField>(())
        })?;
        rlp.data("data", log.data)
    })?;
    Ok(items)
}

/// Appends a withdrawal.
pub(crate) fn withdrawal(withdrawal: &Withdrawal<'_>, rlp: &mut Rlp) -> Result<(), BadField> {
    rlp.list(|rlp| {
        rlp.quantity("index", withdrawal.index)?;
        rlp.quantity("validatorIndex", withdrawal.validator_index)?;
        rlp.fixed::<20>("address", withdrawal.address)?;
        rlp.quantity("amount", withdrawal.amount)
    })
}

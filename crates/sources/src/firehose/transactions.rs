//! The columns of the table `transactions`.

use alloy_primitives::{Address, keccak256};

use super::{
    block::{self, Receipt, Trace},
    tables::{Transactions, TxRow},
    values::{self, decimal_or_null, fixed, kind, word},
};
use crate::evm::{
    columns::{self as column, Column},
    hex::Bad,
    lists::{self, AccessLists, Authorizations, BlobHashes, Signed},
    rlp::Rlp,
};

/// The numbers of the types of transactions.
const ACCESS_LIST: u64 = 1;
const DYNAMIC_FEE: u64 = 2;
const BLOB: u64 = 3;
const SET_CODE: u64 = 4;

/// Every column but the first.
pub(crate) fn columns() -> Vec<Column<Transactions>> {
    vec![
        column::fixed("block_hash", |row: &TxRow<'_>| Ok(row.block.hash)),
        column::u64("block_num", |row: &TxRow<'_>| Ok(row.block.number)),
        column::timestamp("timestamp", |row: &TxRow<'_>| Ok(row.block.timestamp)),
        column::u32("tx_index", |row: &TxRow<'_>| Ok(row.index)),
        column::fixed("tx_hash", |row: &TxRow<'_>| fixed::<32>(row.tx.hash)),
        column::fixed_or_null("to", |row: &TxRow<'_>| recipient(row.tx)),
        column::u64("nonce", |row: &TxRow<'_>| Ok(row.tx.nonce)),
        column::decimal_or_null("gas_price", |row: &TxRow<'_>| Ok(decimal_or_null(gas_price(row.tx)))),
        column::u64("gas_limit", |row: &TxRow<'_>| Ok(row.tx.gas_limit)),
        column::decimal_or_null("value", |row: &TxRow<'_>| Ok(decimal_or_null(Some(value(row.tx))))),
        column::fixed_or_null("value_overflow", |row: &TxRow<'_>| {
            values::decimal_overflow(Some(value(row.tx)))
        }),
        column::bytes("input", |row: &TxRow<'_>| row.tx.input),
        column::fixed_or_null("r", |row: &TxRow<'_>| signed_word(row.tx, row.tx.r)),
        column::fixed_or_null("s", |row: &TxRow<'_>| signed_word(row.tx, row.tx.s)),
        column::flag_or_null("y_parity", |row: &TxRow<'_>| y_parity(row.tx)),
        column::u64_or_null("chain_id", |row: &TxRow<'_>| chain_id(row.tx, row.chain_id)),
        column::u64("gas_used", |row: &TxRow<'_>| Ok(row.tx.gas_used)),
        column::u64("cumulative_gas_used", |row: &TxRow<'_>| receipt(row.tx).map(|r| r.cumulative_gas_used)),
        column::i32("type", |row: &TxRow<'_>| kind(row.tx.tx_type)),
        column::decimal_or_null("max_fee_per_gas", |row: &TxRow<'_>| Ok(decimal_or_null(max_fee(row.tx)))),
        column::decimal_or_null("max_priority_fee_per_gas", |row: &TxRow<'_>| {
            Ok(decimal_or_null(max_priority_fee(row.tx)))
        }),
        column::decimal_or_null("max_fee_per_blob_gas", |row: &TxRow<'_>| {
            Ok(decimal_or_null(row.tx.blob_gas_fee_cap))
        }),
        column::decimal_or_null("effective_gas_price", |row: &TxRow<'_>| {
            Ok(decimal_or_null(gas_price(row.tx)))
        }),
        column::fixed("from", |row: &TxRow<'_>| fixed::<20>(row.tx.from)),
        column::flag_or_null("status", |row: &TxRow<'_>| status(row.tx)),
        column::fixed_or_null("contract_address", |row: &TxRow<'_>| contract_address(row.tx)),
        column::fixed_or_null("state_root", |row: &TxRow<'_>| receipt(row.tx).map(state_root)),
        column::u64_or_null("blob_gas_used", |row: &TxRow<'_>| blob_gas_used(row.tx)),
        column::decimal_or_null("blob_gas_price", |row: &TxRow<'_>| {
            Ok(decimal_or_null(receipt(row.tx)?.blob_gas_price))
        }),
        lists::column(|row: &TxRow<'_>, lists: &mut AccessLists| {
            row.tx.access_list.iter().try_for_each(|access| push_access(access, lists))?;
            Ok(has_access_list(row.tx))
        }),
        lists::column(|row: &TxRow<'_>, lists: &mut BlobHashes| {
            row.tx.blob_hashes.iter().try_for_each(|hash| lists.push(&fixed::<32>(hash)?))?;
            Ok(has_blobs(row.tx))
        }),
        lists::column(|row: &TxRow<'_>, lists: &mut Authorizations| {
            row.tx.authorizations.iter().try_for_each(|item| lists.push(&signed(item)?))?;
            Ok(has_authorizations(row.tx))
        }),
        column::bytes("return_data", |row: &TxRow<'_>| row.tx.return_data),
        column::u64("begin_ordinal", |row: &TxRow<'_>| Ok(row.tx.begin_ordinal)),
        column::u64("end_ordinal", |row: &TxRow<'_>| Ok(row.tx.end_ordinal)),
    ]
}

/// The receipt, which every transaction has.
pub(crate) fn receipt<'r, 'a>(tx: &'r Trace<'a>) -> Result<&'r Receipt<'a>, Bad> {
    tx.receipt.as_ref().ok_or(Bad::Missing)
}

/// Whether it has an access list, be it an empty one.
pub(crate) fn has_access_list(tx: &Trace<'_>) -> bool {
    matches!(tx.tx_type, ACCESS_LIST..=SET_CODE) || !tx.access_list.is_empty()
}

/// Whether it has hashes of blobs, be it none of them.
pub(crate) fn has_blobs(tx: &Trace<'_>) -> bool {
    (tx.tx_type == BLOB && !tx.is_base) || !tx.blob_hashes.is_empty()
}

/// Whether it has a list of accounts whose code it sets, be it an empty one.
pub(crate) fn has_authorizations(tx: &Trace<'_>) -> bool {
    (tx.tx_type == SET_CODE && !tx.is_base) || !tx.authorizations.is_empty()
}

fn has_dynamic_fee(tx: &Trace<'_>) -> bool {
    matches!(tx.tx_type, DYNAMIC_FEE..=SET_CODE)
}

/// Whether it is of a type that is not Ethereum's.
pub(crate) fn is_foreign(tx: &Trace<'_>) -> bool {
    tx.tx_type > SET_CODE
}

/// Whether the fees are left out that it has: its hash cannot be computed.
pub(crate) fn lacks_fees(tx: &Trace<'_>) -> bool {
    has_dynamic_fee(tx) && max_priority_fee(tx).is_none()
}

/// What a unit of gas has cost.
pub(crate) fn gas_price<'a>(tx: &Trace<'a>) -> Option<&'a [u8]> {
    known_or(tx.gas_price, tx.tx_type <= SET_CODE)
}

/// The most that a unit of gas may cost; only some types say it.
pub(crate) fn max_fee<'a>(tx: &Trace<'a>) -> Option<&'a [u8]> {
    known_or(tx.max_fee_per_gas, has_dynamic_fee(tx) && !tx.is_base)
}

/// The most that the miner may get of it; only some types say it. Beside a fee that is there it is 0 where it is not.
pub(crate) fn max_priority_fee<'a>(tx: &Trace<'a>) -> Option<&'a [u8]> {
    known_or(tx.max_priority_fee_per_gas, has_dynamic_fee(tx) && max_fee(tx).is_some())
}

/// A number that a type always has is 0 where it is left out.
fn known_or(number: Option<&[u8]>, has_one: bool) -> Option<&[u8]> {
    number.or(has_one.then_some(&[][..]))
}

/// The amount.
pub(crate) fn value<'a>(tx: &Trace<'a>) -> &'a [u8] {
    tx.value.unwrap_or_default()
}

/// A half of the signature; types of transactions that nobody signs have none.
fn signed_word(tx: &Trace<'_>, bytes: &[u8]) -> Result<Option<[u8; 32]>, Bad> {
    if bytes.is_empty() && is_foreign(tx) { Ok(None) } else { word(bytes).map(Some) }
}

/// The parity of the signature's y: 0 or 1 for typed transactions, 27 or 28 for the oldest, and 35 or more
/// (EIP-155) for those that name a chain.
pub(crate) fn y_parity(tx: &Trace<'_>) -> Result<Option<bool>, Bad> {
    if tx.v.is_empty() && (tx.tx_type == 0 || is_foreign(tx)) {
        return Ok(None);
    }
    Ok(match values::number(tx.v)? {
        even @ (0 | 1) => Some(even == 1),
        old @ (27 | 28) => Some(old == 28),
        eip155 @ 35.. => Some((eip155 - 35) % 2 == 1),
        _ => None,
    })
}

/// The chain that a transaction without a type names (EIP-155).
pub(crate) fn named_chain(tx: &Trace<'_>) -> Option<u128> {
    if tx.tx_type != 0 {
        return None;
    }
    values::number(tx.v).ok()?.checked_sub(35).map(|v| v / 2)
}

fn chain_id(tx: &Trace<'_>, of_chain: Option<u64>) -> Result<Option<u64>, Bad> {
    if tx.tx_type != 0 {
        return Ok(of_chain);
    }
    named_chain(tx).map(u64::try_from).transpose().map_err(|_| Bad::TooLarge)
}

/// Whether a contract is created. The first call says so; where there are no calls, the recipient is left
/// out or is where such a contract comes to be.
pub(crate) fn is_creation(tx: &Trace<'_>) -> Result<bool, Bad> {
    match tx.is_creation {
        Some(is_creation) => Ok(is_creation),
        None if tx.to.is_empty() => Ok(true),
        None if tx.input.is_empty() => Ok(false),
        None => Ok(created(tx)? == fixed::<20>(tx.to)?),
    }
}

fn created(tx: &Trace<'_>) -> Result<[u8; 20], Bad> {
    let from = fixed::<20>(tx.from)?;
    let mut rlp = Rlp::default();
    rlp.list(|rlp| {
        rlp.string(&from);
        rlp.number(tx.nonce.into());
        Ok::<_, Bad>(())
    })?;
    Ok(Address::from_word(keccak256(rlp.bytes())).into_array())
}

/// Whom it is for; null where a contract is created.
pub(crate) fn recipient(tx: &Trace<'_>) -> Result<Option<[u8; 20]>, Bad> {
    if is_creation(tx)? { Ok(None) } else { fixed(tx.to).map(Some) }
}

/// The contract that is created.
pub(crate) fn contract_address(tx: &Trace<'_>) -> Result<Option<[u8; 20]>, Bad> {
    match is_creation(tx)? {
        false => Ok(None),
        true if tx.to.is_empty() => created(tx).map(Some),
        true => fixed(tx.to).map(Some),
    }
}

/// Whether it succeeded; null before Byzantium.
pub(crate) fn status(tx: &Trace<'_>) -> Result<Option<bool>, Bad> {
    if state_root(receipt(tx)?).is_some() {
        return Ok(None);
    }
    match tx.status {
        0 => Ok(None),
        1 => Ok(Some(true)),
        2 | 3 => Ok(Some(false)),
        _ => Err(Bad::NotAllowed),
    }
}

/// The state root after the transaction, which receipts had before Byzantium.
pub(crate) fn state_root(receipt: &Receipt<'_>) -> Option<[u8; 32]> {
    receipt.state_root.try_into().ok()
}

/// The gas of its blobs; null where it is not for blobs.
pub(crate) fn blob_gas_used(tx: &Trace<'_>) -> Result<Option<u64>, Bad> {
    let is_for_blobs = tx.tx_type == BLOB || has_blobs(tx);
    Ok(if is_for_blobs { receipt(tx)?.blob_gas_used.or(tx.blob_gas) } else { None })
}

fn push_access(message: &[u8], lists: &mut AccessLists) -> Result<(), Bad> {
    let access = block::access(message).map_err(|_| Bad::NotAllowed)?;
    access.storage_keys.iter().try_for_each(|key| lists.push_key(&fixed::<32>(key)?))?;
    lists.push(&fixed::<20>(access.address)?)
}

fn signed(message: &[u8]) -> Result<Signed, Bad> {
    let item = block::authorization(message).map_err(|_| Bad::NotAllowed)?;
    Ok(Signed {
        chain_id: word(item.chain_id)?,
        address: fixed::<20>(item.address)?,
        nonce: item.nonce,
        y_parity: item.v,
        r: word(item.r)?,
        s: word(item.s)?,
    })
}

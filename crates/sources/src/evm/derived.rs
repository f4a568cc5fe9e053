//! Fields that no root holds, but that follow from those that a root holds: a node could get them
//! wrong while all hashes are right.

use alloy_primitives::{Address, keccak256};

use super::{
    encode::Kind,
    full::Body,
    hex::{self, Bad, required},
    json::{Block, Receipt, Tx, TxSlot},
    rlp::{BadField, Rlp},
    transactions::{eip155_chain_id, y_parity},
};

/// The gas of one blob (EIP-4844).
const GAS_PER_BLOB: u64 = 1 << 17;

type Wrong = String;

/// Checks what transactions say more than once, and the prices that they pay.
pub(crate) fn transactions(body: &Body<'_>, kinds: &[Option<Kind>]) -> Result<(), Wrong> {
    for (index, (TxSlot(tx), kind)) in body.transactions.iter().zip(kinds).enumerate() {
        let Some(kind) = kind else { continue };
        transaction(body.block, tx, *kind).map_err(|why| format!("of transaction {index} {why}"))?;
    }
    Ok(())
}

fn transaction(block: &Block<'_>, tx: &Tx<'_>, kind: Kind) -> Result<(), Wrong> {
    if let Some(name) = field_of_another_type(tx, kind) {
        return Err(format!("`{name}` does not belong to a transaction of type {}", kind as u8));
    }
    one_parity(tx)?;
    if kind == Kind::Legacy {
        one_chain_id(tx)?;
    } else {
        expect_number("gasPrice", tx.gas_price, price(block, tx, kind)?)?;
    }
    Ok(())
}

/// A field that is no part of the encoding, and so could be anything.
fn field_of_another_type(tx: &Tx<'_>, kind: Kind) -> Option<&'static str> {
    let has_access_list = tx.access_list.as_ref().is_some_and(|list| !list.is_empty());
    [
        ("accessList", has_access_list && kind < Kind::AccessList),
        ("maxFeePerGas", tx.max_fee_per_gas.is_some() && !kind.has_dynamic_fee()),
        ("maxPriorityFeePerGas", tx.max_priority_fee_per_gas.is_some() && !kind.has_dynamic_fee()),
        ("maxFeePerBlobGas", tx.max_fee_per_blob_gas.is_some() && kind != Kind::Blob),
        ("blobVersionedHashes", tx.blob_versioned_hashes.is_some() && kind != Kind::Blob),
        ("authorizationList", tx.authorization_list.is_some() && kind != Kind::SetCode),
    ]
    .into_iter()
    .find_map(|(name, is_wrong)| is_wrong.then_some(name))
}

/// The encoding has one of `v` and `yParity`; a node gives both.
fn one_parity(tx: &Tx<'_>) -> Result<(), Wrong> {
    let (Some(v), Some(_)) = (tx.v, tx.y_parity) else { return Ok(()) };
    let only_v = Tx { v: Some(v), ..Tx::default() };
    let parity = |tx: &Tx<'_>| y_parity(tx).map_err(|bad| bad_field(("yParity", bad)));
    if parity(tx)? == parity(&only_v)? { Ok(()) } else { Err("`v` and `yParity` differ".into()) }
}

fn one_chain_id(tx: &Tx<'_>) -> Result<(), Wrong> {
    match (tx.v.and_then(eip155_chain_id), tx.chain_id) {
        (Some(signed), Some(_)) => expect_number("chainId", tx.chain_id, signed),
        _ => Ok(()),
    }
}

/// What a unit of gas costs (EIP-1559): at most the limit, and the base fee with the tip.
fn price(block: &Block<'_>, tx: &Tx<'_>, kind: Kind) -> Result<u128, Wrong> {
    if !kind.has_dynamic_fee() {
        return number("gasPrice", tx.gas_price);
    }
    let base_fee = number("baseFeePerGas", block.base_fee_per_gas)?;
    let tip = number("maxPriorityFeePerGas", tx.max_priority_fee_per_gas)?;
    Ok(number("maxFeePerGas", tx.max_fee_per_gas)?.min(base_fee.saturating_add(tip)))
}

/// Checks what the receipts of a block say beyond what the root holds.
pub(crate) fn receipts(
    body: &Body<'_>,
    receipts: &[Receipt<'_>],
    kinds: &[Option<Kind>],
) -> Result<(), Wrong> {
    let mut before = Running::default();
    for (index, (receipt, TxSlot(tx))) in receipts.iter().zip(body.transactions).enumerate() {
        let Some(kind) = kinds[index] else { continue };
        check_receipt(body.block, receipt, tx, kind, &mut before)
            .map_err(|why| format!("of receipt {index} {why}"))?;
    }
    Ok(())
}

/// What the receipts before have added up to.
#[derive(Default)]
struct Running {
    gas: u64,
    logs: u64,
}

fn check_receipt(
    block: &Block<'_>,
    receipt: &Receipt<'_>,
    tx: &Tx<'_>,
    kind: Kind,
    before: &mut Running,
) -> Result<(), Wrong> {
    let cumulative = required(receipt.cumulative_gas_used).and_then(hex::quantity_u64);
    let cumulative = cumulative.map_err(|bad| bad_field(("cumulativeGasUsed", bad)))?;
    let used = cumulative.checked_sub(before.gas).ok_or("`cumulativeGasUsed` is below the one before")?;
    expect_number("gasUsed", receipt.gas_used, used.into())?;
    before.gas = cumulative;
    for log in receipt.logs.iter().flatten() {
        expect_number("logIndex", log.log_index, before.logs.into())?;
        before.logs += 1;
    }
    expect_number("effectiveGasPrice", receipt.effective_gas_price, price(block, tx, kind)?)?;
    created(receipt, tx)?;
    if kind == Kind::Blob {
        let blobs = tx.blob_versioned_hashes.as_ref().map_or(0, Vec::len) as u64;
        expect_number("blobGasUsed", receipt.blob_gas_used, u128::from(blobs * GAS_PER_BLOB))?;
        // What it costs follows from the header by constants that each chain has of its own.
        number("blobGasPrice", receipt.blob_gas_price)?;
    } else if receipt.blob_gas_used.is_some_and(|used| hex::quantity_u64(used) != Ok(0)) {
        return Err("`blobGasUsed` does not belong to a transaction without blobs".into());
    }
    Ok(())
}

/// A contract is created at the hash of its creator and the creator's nonce. Some nodes leave it
/// out where the creation failed.
fn created(receipt: &Receipt<'_>, tx: &Tx<'_>) -> Result<(), Wrong> {
    let given = hex::fixed_or_null::<20>(receipt.contract_address);
    let given = given.map_err(|bad| bad_field(("contractAddress", bad)))?;
    let has_failed = receipt.status.map(hex::quantity_u64) == Some(Ok(0));
    match (given, tx.to) {
        (None, Some(_)) => Ok(()),
        (Some(_), Some(_)) => Err("`contractAddress` is given, but no contract was created".into()),
        (None, None) if has_failed => Ok(()),
        (None, None) => Err("`contractAddress` is missing".into()),
        (Some(given), None) if created_by(tx).map_err(bad_field)? == given => Ok(()),
        (Some(_), None) => Err("`contractAddress` is not where its creator's contract comes to be".into()),
    }
}

fn created_by(tx: &Tx<'_>) -> Result<Address, BadField> {
    let mut rlp = Rlp::default();
    rlp.list(|rlp| {
        rlp.fixed::<20>("from", tx.from)?;
        rlp.quantity("nonce", tx.nonce)
    })?;
    Ok(Address::from_word(keccak256(rlp.bytes())))
}

fn number(name: &'static str, text: Option<&str>) -> Result<u128, Wrong> {
    required(text).and_then(hex::quantity_u128).map_err(|bad| bad_field((name, bad)))
}

fn expect_number(name: &'static str, text: Option<&str>, expected: u128) -> Result<(), Wrong> {
    let given = number(name, text)?;
    if given == expected { Ok(()) } else { Err(format!("`{name}` is {given} where {expected} follows")) }
}

fn bad_field((name, bad): (&str, Bad)) -> Wrong {
    format!("`{name}` {bad}")
}

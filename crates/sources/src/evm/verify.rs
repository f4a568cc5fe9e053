//! What is checked of a block before its rows are written.

use nozzle_core::{BlockHash, BlockNum, block::BlockLink, manifest::Verify};

use super::{
    header,
    hex::{self, Bad, required},
    json::{Block, Receipt, TxSlot},
    rows::Problem,
};

/// What a [`Problem::Missing`] says of receipts that belong to another block of the same number.
const OTHER_RECEIPTS: &str = "receipts that match the hash";

/// Checks the header, and that the block is the one asked for.
pub(crate) fn block(block: &Block<'_>, number: BlockNum, verify: Verify) -> Result<BlockLink, Problem> {
    let found = field("number", required(block.number).and_then(hex::quantity_u64))?;
    if found != number {
        return Err(Problem::Malformed(format!("it is the block {found}")));
    }
    let hash = field("hash", required(block.hash).and_then(hex::fixed::<32>))?.into();
    let parent_hash = field("parentHash", required(block.parent_hash).and_then(hex::fixed::<32>))?.into();
    self::hash(block, hash, verify)?;
    Ok(BlockLink { number, hash, parent_hash })
}

/// How the advice begins that follows what is wrong with a hash or a root.
pub(crate) const ADVICE: &str = "; if this chain ";

/// Checks, from the level `header` on, that the header hashes to the block's hash.
pub(crate) fn hash(block: &Block<'_>, hash: BlockHash, verify: Verify) -> Result<(), Problem> {
    if verify < Verify::Header {
        return Ok(());
    }
    let why = match header::hash(block) {
        Ok(computed) if computed == hash => return Ok(()),
        Ok(computed) => format!("its header hashes to {computed}, not to its hash {hash}"),
        Err((name, bad)) => format!("its hash {hash} cannot be checked, as `{name}` {bad}"),
    };
    Err(Problem::Malformed(format!(
        "{why}{ADVICE}hashes its headers in another way, say \"verify\": \"links\" in the manifest"
    )))
}

/// Checks that the transactions and the receipts are those of the block and of each other.
/// The counts are always checked: rows are joined by index.
pub(crate) fn transactions(
    hash: BlockHash,
    transactions: &[TxSlot<'_>],
    receipts: Option<&[Receipt<'_>]>,
    verify: Verify,
) -> Result<(), Problem> {
    if verify >= Verify::Links {
        check_transactions(transactions)?;
    }
    let Some(receipts) = receipts else { return Ok(()) };
    if verify >= Verify::Links {
        check_owner(hash, receipts)?;
    }
    if receipts.is_empty() && !transactions.is_empty() {
        // As of a node whose index of receipts is a little behind its blocks.
        return Err(Problem::Missing("the receipts"));
    }
    if transactions.len() != receipts.len() {
        let (txs, receipts) = (transactions.len(), receipts.len());
        return Err(Problem::Malformed(format!("it has {txs} transactions but {receipts} receipts")));
    }
    if verify >= Verify::Links {
        check_receipts(transactions, receipts)?;
    }
    check_log_order(receipts)
}

fn check_transactions(transactions: &[TxSlot<'_>]) -> Result<(), Problem> {
    for (index, TxSlot(tx)) in transactions.iter().enumerate() {
        if !is_index(tx.transaction_index, index) {
            return Err(Problem::Malformed(format!("the transaction at {index} has another index")));
        }
    }
    Ok(())
}

/// Receipts asked for by number may be those of another fork.
fn check_owner(hash: BlockHash, receipts: &[Receipt<'_>]) -> Result<(), Problem> {
    for (index, receipt) in receipts.iter().enumerate() {
        let name = format!("blockHash of receipt {index}");
        if field(&name, required(receipt.block_hash).and_then(hex::fixed::<32>))? != hash.0 {
            return Err(Problem::Missing(OTHER_RECEIPTS));
        }
    }
    Ok(())
}

fn check_receipts(transactions: &[TxSlot<'_>], receipts: &[Receipt<'_>]) -> Result<(), Problem> {
    for (index, (TxSlot(tx), receipt)) in transactions.iter().zip(receipts).enumerate() {
        if !same_text(tx.hash, receipt.transaction_hash) {
            return Err(Problem::Malformed(format!("the receipt at {index} is of another transaction")));
        }
        if !is_index(receipt.transaction_index, index) {
            return Err(Problem::Malformed(format!("the receipt at {index} has another index")));
        }
        check_logs(index, receipt)?;
    }
    Ok(())
}

fn check_logs(index: usize, receipt: &Receipt<'_>) -> Result<(), Problem> {
    for log in receipt.logs.iter().flatten() {
        if log.transaction_hash.is_some() && !same_text(log.transaction_hash, receipt.transaction_hash) {
            return Err(Problem::Malformed(format!("a log at receipt {index} is of another transaction")));
        }
    }
    Ok(())
}

/// Log indices ascend over the whole block. Always checked: the table is known to be sorted by them, and
/// queries rely on it.
fn check_log_order(receipts: &[Receipt<'_>]) -> Result<(), Problem> {
    let mut last = None;
    for log in receipts.iter().flat_map(|receipt| receipt.logs.iter().flatten()) {
        let log_index = field("logIndex", required(log.log_index).and_then(hex::quantity_u64))?;
        if last.is_some_and(|last| last >= log_index) {
            return Err(Problem::Malformed(format!("the log index {log_index} is out of order")));
        }
        last = Some(log_index);
    }
    Ok(())
}

/// Whether the index, where the node gives it, is `index`.
fn is_index(text: Option<&str>, index: usize) -> bool {
    text.is_none_or(|text| hex::quantity_u64(text).is_ok_and(|found| found == index as u64))
}

fn same_text(one: Option<&str>, other: Option<&str>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one.eq_ignore_ascii_case(other))
}

fn field<T>(name: &str, value: Result<T, Bad>) -> Result<T, Problem> {
    value.map_err(|bad| Problem::Malformed(format!("`{name}` {bad}")))
}

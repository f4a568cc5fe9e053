//! The tables of what validators ask for on the beacon chain: `deposits`, `voluntary_exits` and
//! `bls_to_execution_changes`.

use super::{BeaconTable, BlockRow, Item, items, of_block};
use crate::{
    beacon::{
        json::{Deposit, SignedBlsToExecutionChange, SignedVoluntaryExit},
        lists,
    },
    evm::columns::{self as column, Column, Table},
};

type DepositRow<'a> = Item<'a, Deposit>;
type ExitRow<'a> = Item<'a, SignedVoluntaryExit>;
type ChangeRow<'a> = Item<'a, SignedBlsToExecutionChange>;

/// The table `deposits`: those that the chain takes over from the deposit contract with a proof. Since
/// electra they come as execution requests.
pub(crate) struct Deposits;

impl Table for Deposits {
    const NAME: &'static str = "deposits";
    type Row<'a> = DepositRow<'a>;

    fn block_num(row: &DepositRow<'_>) -> u64 {
        row.block.slot
    }

    fn columns() -> Vec<Column<Self>> {
        of_block(vec![
            lists::byte_lists("proof", |row: &DepositRow<'_>| &*row.item.proof),
            column::fixed("pubkey", |row: &DepositRow<'_>| Ok(row.item.data.pubkey.0)),
            column::fixed("withdrawal_credentials", |row: &DepositRow<'_>| {
                Ok(row.item.data.withdrawal_credentials.0)
            }),
            column::u64("amount", |row: &DepositRow<'_>| Ok(row.item.data.amount.0)),
            column::fixed("signature", |row: &DepositRow<'_>| Ok(row.item.data.signature.0)),
        ])
    }
}

impl BeaconTable for Deposits {
    fn rows<'a>(block: &'a BlockRow<'a>) -> Vec<DepositRow<'a>> {
        items(block, block.signed.message.body.deposits.as_ref())
    }
}

/// The table `voluntary_exits`.
pub(crate) struct VoluntaryExits;

impl Table for VoluntaryExits {
    const NAME: &'static str = "voluntary_exits";
    type Row<'a> = ExitRow<'a>;

    fn block_num(row: &ExitRow<'_>) -> u64 {
        row.block.slot
    }

    fn columns() -> Vec<Column<Self>> {
        of_block(vec![
            column::u64("epoch", |row: &ExitRow<'_>| Ok(row.item.message.epoch.0)),
            column::u64("validator_index", |row: &ExitRow<'_>| Ok(row.item.message.validator_index.0)),
            column::fixed("signature", |row: &ExitRow<'_>| Ok(row.item.signature.0)),
        ])
    }
}

impl BeaconTable for VoluntaryExits {
    fn rows<'a>(block: &'a BlockRow<'a>) -> Vec<ExitRow<'a>> {
        items(block, block.signed.message.body.voluntary_exits.as_ref())
    }
}

/// The table `bls_to_execution_changes`, since capella.
pub(crate) struct BlsToExecutionChanges;

impl Table for BlsToExecutionChanges {
    const NAME: &'static str = "bls_to_execution_changes";
    type Row<'a> = ChangeRow<'a>;

    fn block_num(row: &ChangeRow<'_>) -> u64 {
        row.block.slot
    }

    fn columns() -> Vec<Column<Self>> {
        of_block(vec![
            column::u64("validator_index", |row: &ChangeRow<'_>| Ok(row.item.message.validator_index.0)),
            column::fixed("from_bls_pubkey", |row: &ChangeRow<'_>| Ok(row.item.message.from_bls_pubkey.0)),
            column::fixed("to_execution_address", |row: &ChangeRow<'_>| {
                Ok(row.item.message.to_execution_address.0)
            }),
            column::fixed("signature", |row: &ChangeRow<'_>| Ok(row.item.signature.0)),
        ])
    }
}

impl BeaconTable for BlsToExecutionChanges {
    fn rows<'a>(block: &'a BlockRow<'a>) -> Vec<ChangeRow<'a>> {
        items(block, block.signed.message.body.bls_to_execution_changes.as_ref())
    }
}

//! The table `attestations`: one row an attestation that the block includes.

use super::{BeaconTable, BlockRow, Item, items, of_block};
use crate::{
    beacon::json::Attestation,
    evm::columns::{self as column, Column, Table},
};

type Row<'a> = Item<'a, Attestation>;

/// The table `attestations`.
pub(crate) struct Attestations;

impl Table for Attestations {
    const NAME: &'static str = "attestations";
    type Row<'a> = Row<'a>;

    fn block_num(row: &Row<'_>) -> u64 {
        row.block.slot
    }

    fn columns() -> Vec<Column<Self>> {
        of_block(vec![
            column::bytes("aggregation_bits", |row: &Row<'_>| &row.item.aggregation_bits.0),
            column::bytes_or_null("committee_bits", |row: &Row<'_>| {
                row.item.committee_bits.as_ref().map(|bits| &*bits.0)
            }),
            column::u64("slot", |row: &Row<'_>| Ok(row.item.data.slot.0)),
            column::u64("index", |row: &Row<'_>| Ok(row.item.data.index.0)),
            column::fixed("beacon_block_root", |row: &Row<'_>| Ok(row.item.data.beacon_block_root.0)),
            column::u64("source_epoch", |row: &Row<'_>| Ok(row.item.data.source.epoch.0)),
            column::fixed("source_root", |row: &Row<'_>| Ok(row.item.data.source.root.0)),
            column::u64("target_epoch", |row: &Row<'_>| Ok(row.item.data.target.epoch.0)),
            column::fixed("target_root", |row: &Row<'_>| Ok(row.item.data.target.root.0)),
            column::fixed("signature", |row: &Row<'_>| Ok(row.item.signature.0)),
        ])
    }
}

impl BeaconTable for Attestations {
    fn rows<'a>(block: &'a BlockRow<'a>) -> Vec<Row<'a>> {
        items(block, block.signed.message.body.attestations.as_ref())
    }
}

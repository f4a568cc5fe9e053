//! The table `blocks`: one row a block.

use super::{BeaconTable, BlockRow, block_num, timestamp};
use crate::{
    beacon::{
        json::{Body, ExecutionPayload},
        lists,
        values::Fixed,
    },
    evm::columns::{self as column, Column, Table},
};

/// The table `blocks`.
pub(crate) struct Blocks;

impl Table for Blocks {
    const NAME: &'static str = "blocks";
    type Row<'a> = &'a BlockRow<'a>;

    fn block_num(row: &&BlockRow<'_>) -> u64 {
        row.slot
    }

    fn columns() -> Vec<Column<Self>> {
        vec![
            block_num(),
            timestamp(),
            column::fixed("root", |row: &&BlockRow<'_>| Ok(row.root)),
            column::fixed("parent_root", |row: &&BlockRow<'_>| Ok(row.signed.message.parent_root.0)),
            column::fixed("state_root", |row: &&BlockRow<'_>| Ok(row.signed.message.state_root.0)),
            column::fixed_or_null("body_root", |row: &&BlockRow<'_>| Ok(Some(row.body_root))),
            column::text("version", |row: &&BlockRow<'_>| row.version),
            column::u64("proposer_index", |row: &&BlockRow<'_>| Ok(row.signed.message.proposer_index.0)),
            column::fixed("signature", |row: &&BlockRow<'_>| Ok(row.signed.signature.0)),
            column::fixed("randao_reveal", |row: &&BlockRow<'_>| Ok(body(row).randao_reveal.0)),
            column::fixed("eth1_data_deposit_root", |row: &&BlockRow<'_>| {
                Ok(body(row).eth1_data.deposit_root.0)
            }),
            column::u64("eth1_data_deposit_count", |row: &&BlockRow<'_>| {
                Ok(body(row).eth1_data.deposit_count.0)
            }),
            column::fixed("eth1_data_block_hash", |row: &&BlockRow<'_>| Ok(body(row).eth1_data.block_hash.0)),
            column::fixed("graffiti", |row: &&BlockRow<'_>| Ok(body(row).graffiti.0)),
            column::bytes_or_null("sync_committee_bits", |row: &&BlockRow<'_>| {
                Some(&*body(row).sync_aggregate.as_ref()?.sync_committee_bits.as_ref()?.0)
            }),
            column::fixed_or_null("sync_committee_signature", |row: &&BlockRow<'_>| {
                let aggregate = body(row).sync_aggregate.as_ref();
                Ok(aggregate.and_then(|aggregate| aggregate.sync_committee_signature).map(|bytes| bytes.0))
            }),
            column::fixed_or_null("execution_block_hash", |row: &&BlockRow<'_>| {
                Ok(payload(row).and_then(|payload| payload.block_hash).map(|hash| hash.0))
            }),
            column::u64_or_null("execution_block_number", |row: &&BlockRow<'_>| {
                Ok(payload(row).and_then(|payload| payload.block_number).map(|number| number.0))
            }),
            lists::byte_lists_or_null("blob_kzg_commitments", |row: &&BlockRow<'_>| {
                body(row).blob_kzg_commitments.as_deref()
            }),
        ]
    }
}

fn body<'r>(row: &'r BlockRow<'_>) -> &'r Body {
    &row.signed.message.body
}

/// The execution layer's block. Before the merge bellatrix blocks have an empty payload, all zeros, in
/// the place of one.
fn payload<'r>(row: &'r BlockRow<'_>) -> Option<&'r ExecutionPayload> {
    body(row).execution_payload.as_ref().filter(|payload| payload.block_hash != Some(Fixed([0; 32])))
}

impl BeaconTable for Blocks {
    fn rows<'a>(block: &'a BlockRow<'a>) -> Vec<&'a BlockRow<'a>> {
        vec![block]
    }
}

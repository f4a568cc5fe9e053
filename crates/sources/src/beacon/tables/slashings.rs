//! The tables of proofs that validators broke the rules: `proposer_slashings`, two headers that one
//! proposer signed for one slot, and `attester_slashings`, two attestations that contradict each other.
//!
//! The columns of the two stand side by side, each with the name of its side in front.

use super::{BeaconTable, BlockRow, Item, items, of_block};
use crate::{
    beacon::{
        json::{AttesterSlashing, IndexedAttestation, ProposerSlashing, SignedHeader},
        lists,
    },
    evm::columns::{self as column, Column, Table},
};

type ProposerRow<'a> = Item<'a, ProposerSlashing>;
type AttesterRow<'a> = Item<'a, AttesterSlashing>;

/// The table `proposer_slashings`.
pub(crate) struct ProposerSlashings;

impl Table for ProposerSlashings {
    const NAME: &'static str = "proposer_slashings";
    type Row<'a> = ProposerRow<'a>;

    fn block_num(row: &ProposerRow<'_>) -> u64 {
        row.block.slot
    }

    fn columns() -> Vec<Column<Self>> {
        let first = header_columns("signed_header_1", |slashing| &slashing.signed_header_1);
        let second = header_columns("signed_header_2", |slashing| &slashing.signed_header_2);
        of_block(first.into_iter().chain(second).collect())
    }
}

fn header_columns(side: &str, of: fn(&ProposerSlashing) -> &SignedHeader) -> Vec<Column<ProposerSlashings>> {
    let name = |column: &str| format!("{side}_{column}");
    vec![
        column::u64(&name("slot"), move |row: &ProposerRow<'_>| Ok(of(row.item).message.slot.0)),
        column::u64(&name("proposer_index"), move |row: &ProposerRow<'_>| {
            Ok(of(row.item).message.proposer_index.0)
        }),
        column::fixed(&name("parent_root"), move |row: &ProposerRow<'_>| {
            Ok(of(row.item).message.parent_root.0)
        }),
        column::fixed(&name("state_root"), move |row: &ProposerRow<'_>| {
            Ok(of(row.item).message.state_root.0)
        }),
        column::fixed(&name("body_root"), move |row: &ProposerRow<'_>| Ok(of(row.item).message.body_root.0)),
        column::fixed(&name("signature"), move |row: &ProposerRow<'_>| Ok(of(row.item).signature.0)),
    ]
}

impl BeaconTable for ProposerSlashings {
    fn rows<'a>(block: &'a BlockRow<'a>) -> Vec<ProposerRow<'a>> {
        items(block, block.signed.message.body.proposer_slashings.as_ref())
    }
}

/// The table `attester_slashings`.
pub(crate) struct AttesterSlashings;

impl Table for AttesterSlashings {
    const NAME: &'static str = "attester_slashings";
    type Row<'a> = AttesterRow<'a>;

    fn block_num(row: &AttesterRow<'_>) -> u64 {
        row.block.slot
    }

    fn columns() -> Vec<Column<Self>> {
        let first = attestation_columns("attestation_1", |slashing| &slashing.attestation_1);
        let second = attestation_columns("attestation_2", |slashing| &slashing.attestation_2);
        of_block(first.into_iter().chain(second).collect())
    }
}

fn attestation_columns(
    side: &str,
    of: fn(&AttesterSlashing) -> &IndexedAttestation,
) -> Vec<Column<AttesterSlashings>> {
    let name = |column: &str| format!("{side}_{column}");
    let number = |column: &str, get: fn(&IndexedAttestation) -> u64| {
        column::u64(&name(column), move |row: &AttesterRow<'_>| Ok(get(of(row.item))))
    };
    let root = |column: &str, get: fn(&IndexedAttestation) -> [u8; 32]| {
        column::fixed(&name(column), move |row: &AttesterRow<'_>| Ok(get(of(row.item))))
    };
    vec![
        lists::number_lists(&name("attesting_indices"), move |row: &AttesterRow<'_>| {
            &*of(row.item).attesting_indices
        }),
        number("slot", |attestation| attestation.data.slot.0),
        number("index", |attestation| attestation.data.index.0),
        root("beacon_block_root", |attestation| attestation.data.beacon_block_root.0),
        number("source_epoch", |attestation| attestation.data.source.epoch.0),
        root("source_root", |attestation| attestation.data.source.root.0),
        number("target_epoch", |attestation| attestation.data.target.epoch.0),
        root("target_root", |attestation| attestation.data.target.root.0),
        column::fixed(&name("signature"), move |row: &AttesterRow<'_>| Ok(of(row.item).signature.0)),
    ]
}

impl BeaconTable for AttesterSlashings {
    fn rows<'a>(block: &'a BlockRow<'a>) -> Vec<AttesterRow<'a>> {
        items(block, block.signed.message.body.attester_slashings.as_ref())
    }
}

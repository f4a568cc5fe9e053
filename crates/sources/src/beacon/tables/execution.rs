//! The tables of what passes between the two layers: `withdrawals`, which the beacon chain pays out on
//! the execution layer, and `execution_requests`, which come from there.

use super::{BeaconTable, BlockRow, InBlock, Item, items, of_block};
use crate::{
    beacon::json::{ConsolidationRequest, DepositRequest, Withdrawal, WithdrawalRequest},
    evm::columns::{self as column, Column, Table},
};

type WithdrawalRow<'a> = Item<'a, Withdrawal>;

/// The table `withdrawals`, since capella.
pub(crate) struct Withdrawals;

impl Table for Withdrawals {
    const NAME: &'static str = "withdrawals";
    type Row<'a> = WithdrawalRow<'a>;

    fn block_num(row: &WithdrawalRow<'_>) -> u64 {
        row.block.slot
    }

    fn columns() -> Vec<Column<Self>> {
        of_block(vec![
            column::u64("index", |row: &WithdrawalRow<'_>| Ok(row.item.index.0)),
            column::u64("validator_index", |row: &WithdrawalRow<'_>| Ok(row.item.validator_index.0)),
            column::fixed("address", |row: &WithdrawalRow<'_>| Ok(row.item.address.0)),
            column::u64("amount", |row: &WithdrawalRow<'_>| Ok(row.item.amount.0)),
        ])
    }
}

impl BeaconTable for Withdrawals {
    fn rows<'a>(block: &'a BlockRow<'a>) -> Vec<WithdrawalRow<'a>> {
        let payload = block.signed.message.body.execution_payload.as_ref();
        items(block, payload.and_then(|payload| payload.withdrawals.as_ref()))
    }
}

/// A request of the execution layer.
#[derive(Debug)]
pub(crate) struct RequestRow<'a> {
    block: &'a BlockRow<'a>,
    request: Request<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Request<'a> {
    Deposit(&'a DepositRequest),
    Withdrawal(&'a WithdrawalRequest),
    Consolidation(&'a ConsolidationRequest),
}

impl InBlock for RequestRow<'_> {
    fn block(&self) -> &BlockRow<'_> {
        self.block
    }
}

impl<'a> Request<'a> {
    fn kind(self) -> &'static str {
        match self {
            Self::Deposit(_) => "deposit",
            Self::Withdrawal(_) => "withdrawal",
            Self::Consolidation(_) => "consolidation",
        }
    }

    fn deposit(self) -> Option<&'a DepositRequest> {
        if let Self::Deposit(deposit) = self { Some(deposit) } else { None }
    }

    fn withdrawal(self) -> Option<&'a WithdrawalRequest> {
        if let Self::Withdrawal(withdrawal) = self { Some(withdrawal) } else { None }
    }

    fn consolidation(self) -> Option<&'a ConsolidationRequest> {
        if let Self::Consolidation(consolidation) = self { Some(consolidation) } else { None }
    }

    fn amount(self) -> Option<u64> {
        match self {
            Self::Deposit(deposit) => deposit.amount.map(|amount| amount.0),
            Self::Withdrawal(withdrawal) => withdrawal.amount.map(|amount| amount.0),
            Self::Consolidation(_) => None,
        }
    }

    fn source_address(self) -> Option<[u8; 20]> {
        let address = match self {
            Self::Deposit(_) => None,
            Self::Withdrawal(withdrawal) => withdrawal.source_address,
            Self::Consolidation(consolidation) => consolidation.source_address,
        };
        address.map(|address| address.0)
    }
}

/// The table `execution_requests`, since electra: deposits, then withdrawals, then consolidations. What
/// a kind of request does not have is null.
pub(crate) struct ExecutionRequests;

impl Table for ExecutionRequests {
    const NAME: &'static str = "execution_requests";
    type Row<'a> = RequestRow<'a>;

    fn block_num(row: &RequestRow<'_>) -> u64 {
        row.block.slot
    }

    fn columns() -> Vec<Column<Self>> {
        of_block(vec![
            column::text("type", |row: &RequestRow<'_>| row.request.kind()),
            column::u64_or_null("index", |row: &RequestRow<'_>| {
                Ok(row.request.deposit().and_then(|deposit| deposit.index).map(|value| value.0))
            }),
            column::fixed_or_null("pubkey", |row: &RequestRow<'_>| {
                Ok(row.request.deposit().and_then(|deposit| deposit.pubkey).map(|value| value.0))
            }),
            column::fixed_or_null("withdrawal_credentials", |row: &RequestRow<'_>| {
                Ok(row
                    .request
                    .deposit()
                    .and_then(|deposit| deposit.withdrawal_credentials)
                    .map(|value| value.0))
            }),
            column::u64_or_null("amount", |row: &RequestRow<'_>| Ok(row.request.amount())),
            column::fixed_or_null("signature", |row: &RequestRow<'_>| {
                Ok(row.request.deposit().and_then(|deposit| deposit.signature).map(|value| value.0))
            }),
            column::fixed_or_null("source_address", |row: &RequestRow<'_>| Ok(row.request.source_address())),
            column::fixed_or_null("validator_pubkey", |row: &RequestRow<'_>| {
                Ok(row
                    .request
                    .withdrawal()
                    .and_then(|withdrawal| withdrawal.validator_pubkey)
                    .map(|value| value.0))
            }),
            column::fixed_or_null("source_pubkey", |row: &RequestRow<'_>| {
                Ok(row
                    .request
                    .consolidation()
                    .and_then(|consolidation| consolidation.source_pubkey)
                    .map(|value| value.0))
            }),
            column::fixed_or_null("target_pubkey", |row: &RequestRow<'_>| {
                Ok(row
                    .request
                    .consolidation()
                    .and_then(|consolidation| consolidation.target_pubkey)
                    .map(|value| value.0))
            }),
        ])
    }
}

impl BeaconTable for ExecutionRequests {
    fn rows<'a>(block: &'a BlockRow<'a>) -> Vec<RequestRow<'a>> {
        let Some(requests) = &block.signed.message.body.execution_requests else { return vec![] };
        let deposits = requests.deposits.iter().map(Request::Deposit);
        let withdrawals = requests.withdrawals.iter().map(Request::Withdrawal);
        let consolidations = requests.consolidations.iter().map(Request::Consolidation);
        let all = deposits.chain(withdrawals).chain(consolidations);
        all.map(|request| RequestRow { block, request }).collect()
    }
}

//! From the bytes of blocks to rows: the path that every block takes.
//!
//! ```text
//!  payload ──► block (borrowed bytes, only what is wanted) ──► checks ──► columns ──► BlockRows
//!                                                                │
//!                                    header, full: answer (JSON) ──► the checks of evm
//! ```

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use nozzle_core::{BlockId, BlockNum, BlockRange, TableDef, block::BlockLink, manifest::Verify};

use super::{
    answer::{self, BadField},
    block::{self, Block, Wanted},
    tables::{
        BlockRow, Blocks, CallRow, Calls, LogRow, Logs, Transactions, TxRow, WithdrawalRow, Withdrawals,
    },
    transactions as tx, values,
};
use crate::{
    error::SourceError,
    evm::{
        Problem,
        columns::{Builder, Selection, Table},
        full::{Body, Recompute},
        json, trie, verify,
    },
    source::{BlockRows, Decoded, TableRows},
};

/// The most rows that room is made for before they are there.
const MAX_ROWS_RESERVED: usize = 1 << 16;

/// A block as the endpoint sent it.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The number that it must have.
    pub number: BlockNum,
    /// A message of the type `sf.ethereum.type.v2.Block`.
    pub block: Bytes,
}

impl Payload {
    /// A block of the number that it says, of which as much is read as a stream reads of each that comes.
    pub fn read(provider: &str, block: Bytes) -> Result<Self, SourceError> {
        let link = link_of_payload(&block, Verify::None).map_err(|problem| problem.of_block(provider, 0))?;
        Ok(Self { number: link.number, block })
    }
}

/// Turns payloads into rows: only the tables, and of them only the columns, that are stored.
pub struct Decoder {
    provider: String,
    verify: Verify,
    chain_id: Option<u64>,
    tables: Vec<TableDef>,
    blocks: Option<Selection<Blocks>>,
    transactions: Option<Selection<Transactions>>,
    logs: Option<Selection<Logs>>,
    calls: Option<Selection<Calls>>,
    withdrawals: Option<Selection<Withdrawals>>,
    said: Said,
}

/// What is said once, however many blocks give reason to.
#[derive(Debug, Default)]
struct Said {
    unknown_type: AtomicBool,
    no_withdrawals: AtomicBool,
    no_calls: AtomicBool,
    no_fees: AtomicBool,
}

fn is_first(said: &AtomicBool) -> bool {
    !said.swap(true, Ordering::Relaxed)
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("provider", &self.provider).field("verify", &self.verify).finish()
    }
}

impl Decoder {
    /// A decoder for the given tables: those of [`super::tables()`], or fewer, with all or fewer of their
    /// columns. What cannot be decoded is `Refused`. The chain's id is that of typed transactions, which do
    /// not say it here; without it the column is null, and their hashes cannot be checked.
    pub fn new(
        provider: &str,
        tables: Vec<TableDef>,
        verify: Verify,
        chain_id: Option<u64>,
    ) -> Result<Self, SourceError> {
        let refused = |why| SourceError::Refused { provider: provider.to_owned(), why };
        let mut decoder = Self {
            provider: provider.to_owned(),
            verify,
            chain_id,
            tables: Vec::new(),
            blocks: None,
            transactions: None,
            logs: None,
            calls: None,
            withdrawals: None,
            said: Said::default(),
        };
        for table in tables {
            decoder.add(table).map_err(refused)?;
        }
        Ok(decoder)
    }

    fn add(&mut self, table: TableDef) -> Result<(), String> {
        let again = match table.name.as_str() {
            Blocks::NAME => self.blocks.replace(Selection::new(&table)?).is_some(),
            Transactions::NAME => self.transactions.replace(Selection::new(&table)?).is_some(),
            Logs::NAME => self.logs.replace(Selection::new(&table)?).is_some(),
            Calls::NAME => self.calls.replace(Selection::new(&table)?).is_some(),
            Withdrawals::NAME => self.withdrawals.replace(Selection::new(&table)?).is_some(),
            _ => return Err(format!("it has no table `{}`", table.name)),
        };
        if again {
            return Err(format!("the table `{}` is asked for twice", table.name));
        }
        self.tables.push(table);
        Ok(())
    }

    /// The tables, in the order in which they were given.
    pub fn tables(&self) -> &[TableDef] {
        &self.tables
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    fn wanted(&self) -> Wanted {
        let is_full = self.verify >= Verify::Full;
        let (logs, calls) = (self.logs.is_some() || is_full, self.calls.is_some());
        // Of blocks whose withdrawals are missing the types of transactions tell whether there should be some.
        let transactions = self.transactions.is_some() || self.withdrawals.is_some() || logs || calls;
        Wanted { transactions, logs, calls }
    }

    /// The rows of consecutive blocks, in their order. The first bad block, or the first that does not
    /// follow the one before it, ends it: those before it are decoded all the same.
    pub fn decode(&self, blocks: &[Payload]) -> Decoded {
        if blocks.is_empty() {
            return Decoded { rows: None, error: None };
        }
        match self.decode_all(blocks) {
            Ok(rows) => Decoded { rows: Some(rows), error: None },
            // Half of a bad block's rows are in the buffers: begin again, without it.
            Err((good, error)) => Decoded { rows: self.decode(&blocks[..good]).rows, error: Some(error) },
        }
    }

    /// The error comes with the number of blocks before it.
    fn decode_all(&self, payloads: &[Payload]) -> Result<BlockRows, (usize, SourceError)> {
        let mut links: Vec<BlockLink> = Vec::with_capacity(payloads.len());
        let mut builders = None;
        let mut recompute =
            (self.verify >= Verify::Full).then(|| Recompute::new(self.verify >= Verify::Senders));
        for (index, payload) in payloads.iter().enumerate() {
            let problem = |problem: Problem| (index, problem.of_block(&self.provider, payload.number));
            let block = read(&payload.block, self.wanted()).map_err(problem)?;
            let checked = self.check(payload.number, &block, links.last(), recompute.as_mut());
            let link = checked.map_err(problem)?;
            self.append(&link, &block, payloads.len() - index, &mut builders).map_err(problem)?;
            links.push(link);
        }
        let first = payloads[0].number;
        let problem = |why: String| (0, Problem::Malformed(why).of_block(&self.provider, first));
        let range = BlockRange::new(first, payloads[payloads.len() - 1].number)
            .ok_or_else(|| problem("its number is out of range".into()))?;
        let builders = builders.unwrap_or_else(|| self.start(Counts::default(), 0));
        let tables = self.finish(builders).map_err(|error| problem(error.to_string()))?;
        let source_bytes = payloads.iter().map(|payload| payload.block.len() as u64).sum();
        Ok(BlockRows { range, blocks: links, tables, source_bytes, cursor: None })
    }

    /// Checks one block as far as the level says.
    fn check(
        &self,
        number: BlockNum,
        block: &Block<'_>,
        previous: Option<&BlockLink>,
        recompute: Option<&mut Recompute>,
    ) -> Result<BlockLink, Problem> {
        let link = link_of(block)?;
        if link.number != number {
            return Err(Problem::Malformed(format!("it is the block {}", link.number)));
        }
        if let Some(previous) = previous.filter(|previous| previous.hash != link.parent_hash) {
            let (block, expected, found) = (link.number, previous.hash, link.parent_hash);
            return Err(Problem::NotLinked { block, expected, found });
        }
        check_header(block, &link, self.chain_id, self.verify)?;
        check_order(block, self.verify)?;
        self.check_fees(&link, block)?;
        if let Some(recompute) = recompute {
            self.recompute(&link, block, recompute)?;
        }
        self.check_left_out(&link, block)?;
        Ok(link)
    }

    /// Checks all roots, as of a node's answer.
    fn recompute(
        &self,
        link: &BlockLink,
        block: &Block<'_>,
        recompute: &mut Recompute,
    ) -> Result<(), Problem> {
        if self.chain_id.is_none() && block.transactions.iter().any(|tx| tx.tx_type != 0) {
            return Err(Problem::Malformed(
                "the id of its chain is not known to Nozzle, and the hashes of its transactions hold it; say \
                 \"verify\": \"header\" in the manifest"
                    .into(),
            ));
        }
        let text = answer::block(block, link.number, self.chain_id, true).map_err(bad_field)?;
        let receipts_text = answer::receipts(block).map_err(bad_field)?;
        let answer: json::Block<'_> = parse(&text)?;
        let receipts: Vec<json::Receipt<'_>> = parse(&receipts_text)?;
        let transactions = answer.transactions.as_deref().unwrap_or_default();
        verify::transactions(link.hash, transactions, Some(&receipts), self.verify)?;
        let body = Body { block: &answer, transactions, receipts: Some(&receipts) };
        let unknown = recompute.check(&body)?;
        if let Some(tx_type) = unknown.filter(|_| is_first(&self.said.unknown_type)) {
            let (provider, block) = (&self.provider, link.number);
            tracing::info!(
                provider,
                block,
                tx_type,
                "a type of transaction that is not Ethereum's: the roots of transactions and receipts cannot be \
                 checked in blocks that have such"
            );
        }
        Ok(())
    }

    /// Blocks of the level of detail without calls lack fees, which are part of what a transaction hashes to.
    fn check_fees(&self, link: &BlockLink, block: &Block<'_>) -> Result<(), Problem> {
        if !block.transactions.iter().any(tx::lacks_fees) {
            return Ok(());
        }
        if self.verify >= Verify::Full {
            return Err(Problem::Malformed(
                "the endpoint's blocks are of the detail level BASE, which leaves out `max_fee_per_gas` and \
                 `max_priority_fee_per_gas`: what its transactions hash to cannot be computed. Use --verify header \
                 (or \"verify\": \"header\" in the manifest), or an endpoint with extended blocks"
                    .into(),
            ));
        }
        if is_first(&self.said.no_fees) {
            let (provider, block) = (&self.provider, link.number);
            tracing::warn!(
                provider,
                block,
                "the endpoint's blocks are of the detail level BASE: `max_fee_per_gas`, `max_priority_fee_per_gas` \
                 and what transactions have of blobs and authorizations are null"
            );
        }
        Ok(())
    }

    /// Older endpoints leave out withdrawals, and some have no calls: rows would be missing. Chains without
    /// withdrawals, which have types of transactions of their own, use the root for other things.
    fn check_left_out(&self, link: &BlockLink, block: &Block<'_>) -> Result<(), Problem> {
        let root = block.header.withdrawals_root;
        let has_none = block.withdrawals.is_empty() && !root.is_empty() && root != trie::EMPTY_ROOT;
        if self.withdrawals.is_some() && has_none && !block.transactions.iter().any(tx::is_foreign) {
            self.left_out(link, "withdrawals", &self.said.no_withdrawals)?;
        }
        if self.calls.is_some() && block.is_base && !block.transactions.is_empty() {
            self.left_out(link, "calls", &self.said.no_calls)?;
        }
        Ok(())
    }

    fn left_out(&self, link: &BlockLink, what: &str, said: &AtomicBool) -> Result<(), Problem> {
        if self.verify >= Verify::Full {
            return Err(Problem::Malformed(format!(
                "the endpoint leaves out its {what}; use another endpoint, or leave the table `{what}` out of the \
                 manifest's schema"
            )));
        }
        if is_first(said) {
            let (provider, block) = (&self.provider, link.number);
            tracing::warn!(
                provider,
                block,
                "the endpoint leaves out the {what} of this block and perhaps of others: the table `{what}` will \
                 lack them. Use another endpoint, or leave the table out of the manifest's schema"
            );
        }
        Ok(())
    }

    /// Appends one block's rows; `left` is how many blocks are left with it.
    fn append(
        &self,
        link: &BlockLink,
        block: &Block<'_>,
        left: usize,
        builders: &mut Option<Builders>,
    ) -> Result<(), Problem> {
        let timestamp =
            i64::try_from(block.header.timestamp).ok().and_then(|secs| secs.checked_mul(1_000_000));
        let timestamp = timestamp.ok_or_else(|| Problem::Malformed("`timestamp` is too large".into()))?;
        let row = BlockRow { number: link.number, hash: link.hash.0, timestamp, block };
        let builders = builders.get_or_insert_with(|| self.start(Counts::of(block), left));
        builders.push(&row, self.chain_id).map_err(Problem::Malformed)
    }

    fn start(&self, first: Counts, blocks: usize) -> Builders {
        let rows = |count: usize| count.saturating_mul(blocks).min(MAX_ROWS_RESERVED);
        Builders {
            blocks: self.blocks.as_ref().map(|table| table.start(rows(1))),
            transactions: self.transactions.as_ref().map(|table| table.start(rows(first.transactions))),
            logs: self.logs.as_ref().map(|table| table.start(rows(first.logs))),
            calls: self.calls.as_ref().map(|table| table.start(rows(first.calls))),
            withdrawals: self.withdrawals.as_ref().map(|table| table.start(rows(first.withdrawals))),
        }
    }

    fn finish(&self, builders: Builders) -> Result<Vec<TableRows>, arrow::error::ArrowError> {
        let mut finished = Vec::with_capacity(self.tables.len());
        let Builders { mut blocks, mut transactions, mut logs, mut calls, mut withdrawals } = builders;
        for table in &self.tables {
            let rows = match table.name.as_str() {
                Blocks::NAME => blocks.take().map(Builder::finish),
                Transactions::NAME => transactions.take().map(Builder::finish),
                Logs::NAME => logs.take().map(Builder::finish),
                Calls::NAME => calls.take().map(Builder::finish),
                _ => withdrawals.take().map(Builder::finish),
            };
            finished.extend(rows.transpose()?);
        }
        Ok(finished)
    }
}

/// Which block a payload is, and which it follows. From the level `header` on its header must hash to its
/// hash. Little of the payload is read.
pub(crate) fn link_of_payload(payload: &[u8], verify: Verify) -> Result<BlockLink, Problem> {
    let block = read(payload, Wanted { transactions: false, logs: false, calls: false })?;
    let link = link_of(&block)?;
    check_header(&block, &link, None, verify)?;
    Ok(link)
}

/// Which block it is.
pub(crate) fn id_of(link: &BlockLink) -> BlockId {
    BlockId { number: link.number, hash: link.hash }
}

fn read(payload: &[u8], wanted: Wanted) -> Result<Block<'_>, Problem> {
    let mut block = block::block(payload, wanted).map_err(|bad| Problem::Malformed(bad.to_string()))?;
    settle_base_fee(&mut block);
    Ok(block)
}

/// Where there are no calls, a base fee of 0 and none are the same bytes. The hash tells which it is; where it tells
/// nothing, blocks with a root of withdrawals, which came later, have one.
fn settle_base_fee(block: &mut Block<'_>) {
    let is_unclear = block.is_base && block.header.base_fee_per_gas.is_some_and(<[u8]>::is_empty);
    if !is_unclear || !block.header.withdrawals_root.is_empty() {
        return;
    }
    let hashes = link_of(block).and_then(|link| check_header(block, &link, None, Verify::Header));
    if hashes.is_err() {
        block.header.base_fee_per_gas = None;
    }
}

fn bad_field((name, bad): BadField) -> Problem {
    Problem::Malformed(format!("`{name}` {bad}"))
}

fn parse<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, Problem> {
    sonic_rs::from_str(text).map_err(|error| Problem::Malformed(format!("it cannot be checked: {error}")))
}

fn link_of(block: &Block<'_>) -> Result<BlockLink, Problem> {
    let hash_of = |name, bytes| values::fixed::<32>(bytes).map_err(|bad| bad_field((name, bad)));
    let hash = hash_of("hash", block.hash)?;
    let parent_hash = hash_of("parentHash", block.header.parent_hash)?;
    let header = &block.header;
    if header.number != block.number || (!header.hash.is_empty() && header.hash != hash) {
        return Err(Problem::Malformed("its header is that of another block".into()));
    }
    Ok(BlockLink { number: block.number, hash: hash.into(), parent_hash: parent_hash.into() })
}

fn check_header(
    block: &Block<'_>,
    link: &BlockLink,
    chain_id: Option<u64>,
    level: Verify,
) -> Result<(), Problem> {
    if level < Verify::Header {
        return Ok(());
    }
    let text = answer::block(block, link.number, chain_id, false).map_err(bad_field)?;
    let checked = verify::hash(&parse(&text)?, link.hash, level);
    let header = &block.header;
    // From Cancun on there is the one; Prague may have come.
    if block.is_base && !header.parent_beacon_root.is_empty() && header.requests_hash.is_empty() {
        return checked.map_err(|problem| {
            Problem::Malformed(format!(
                "{problem}. Blocks of the detail level BASE lack `requests_hash`, which headers have since Prague: \
                 use --verify links (or \"verify\": \"links\" in the manifest), or an endpoint with extended blocks"
            ))
        });
    }
    checked
}

/// Checks that transactions are where they say they are, and that log indices ascend over the whole block:
/// the table is known to be sorted by them.
fn check_order(block: &Block<'_>, verify: Verify) -> Result<(), Problem> {
    let mut last = None;
    for (index, trace) in block.transactions.iter().enumerate() {
        if verify >= Verify::Links && trace.index != index as u64 {
            return Err(Problem::Malformed(format!("the transaction at {index} has another index")));
        }
        for log in trace.receipt.iter().flat_map(|receipt| &receipt.logs) {
            if last.is_some_and(|last| last >= log.block_index) {
                return Err(Problem::Malformed(format!("the log index {} is out of order", log.block_index)));
            }
            last = Some(log.block_index);
        }
    }
    Ok(())
}

/// How many rows a block has.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    transactions: usize,
    logs: usize,
    calls: usize,
    withdrawals: usize,
}

impl Counts {
    fn of(block: &Block<'_>) -> Self {
        let logs = |trace: &block::Trace<'_>| trace.receipt.as_ref().map_or(0, |receipt| receipt.logs.len());
        Self {
            transactions: block.transactions.len(),
            logs: block.transactions.iter().map(logs).sum(),
            calls: block.transactions.iter().map(|trace| trace.calls.len()).sum(),
            withdrawals: block.withdrawals.len(),
        }
    }
}

/// The rows of the selected tables while they are collected.
struct Builders {
    blocks: Option<Builder<Blocks>>,
    transactions: Option<Builder<Transactions>>,
    logs: Option<Builder<Logs>>,
    calls: Option<Builder<Calls>>,
    withdrawals: Option<Builder<Withdrawals>>,
}

impl Builders {
    fn push(&mut self, row: &BlockRow<'_>, chain_id: Option<u64>) -> Result<(), String> {
        let traces = || row.block.transactions.iter().zip(0_u32..);
        if let Some(blocks) = &mut self.blocks {
            blocks.push_block(std::slice::from_ref(row))?;
        }
        if let Some(transactions) = &mut self.transactions {
            let rows: Vec<_> =
                traces().map(|(tx, index)| TxRow { block: row, index, tx, chain_id }).collect();
            transactions.push_block(&rows)?;
        }
        if let Some(logs) = &mut self.logs {
            let mut rows = vec![];
            for (tx, tx_index) in traces() {
                let receipt =
                    tx::receipt(tx).map_err(|bad| format!("the receipt of transaction {tx_index} {bad}"))?;
                rows.extend(receipt.logs.iter().map(|log| LogRow { block: row, tx_index, tx, log }));
            }
            logs.push_block(&rows)?;
        }
        if let Some(calls) = &mut self.calls {
            let of = |(tx, tx_index)| {
                let tx: &block::Trace<'_> = tx;
                tx.calls.iter().map(move |call| CallRow { block: row, tx_index, tx, call })
            };
            calls.push_block(&traces().flat_map(of).collect::<Vec<_>>())?;
        }
        if let Some(withdrawals) = &mut self.withdrawals {
            let of = |withdrawal| WithdrawalRow { block: row, withdrawal };
            withdrawals.push_block(&row.block.withdrawals.iter().map(of).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

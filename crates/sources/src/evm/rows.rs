//! From the answers of a node to rows: the path that every block takes.

use std::sync::atomic::{AtomicBool, Ordering};

use alloy_primitives::B256;
use bytes::Bytes;
use nozzle_core::{BlockHash, BlockId, BlockNum, BlockRange, TableDef, block::BlockLink, manifest::Verify};
use serde::Deserialize;

use super::{
    blocks::{BlockRow, Blocks, timestamp_micros},
    columns::{Builder, Selection, Table},
    full::{self, Body, Recompute},
    hex::{self, Bad, required},
    json::{Answer, Block, Receipt, TxSlot},
    logs::{LogRow, Logs},
    transactions::{RECEIPT_COLUMNS, Transactions, TxRow},
    verify,
    withdrawals::{WithdrawalRow, Withdrawals},
};
use crate::{
    error::SourceError,
    source::{BlockRows, Decoded, TableRows},
};

/// The most rows that room is made for before they are there.
const MAX_ROWS_RESERVED: usize = 1 << 16;

/// A block as the node sent it.
#[derive(Debug, Clone)]
pub struct RawBlock {
    /// The number that was asked for.
    pub number: BlockNum,
    /// The whole JSON-RPC answer to `eth_getBlockByNumber`.
    pub block: Bytes,
    /// The whole JSON-RPC answer to `eth_getBlockReceipts`; absent where no column needs it.
    pub receipts: Option<Bytes>,
}

impl RawBlock {
    /// How many bytes the node sent.
    pub fn size_bytes(&self) -> u64 {
        (self.block.len() + self.receipts.as_ref().map_or(0, Bytes::len)) as u64
    }
}

/// Why a block cannot be decoded, without the words that are the same for all.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The answer is whole, but wrong.
    Malformed(String),
    /// The answer is not whole, or says that it cannot be had now.
    Unavailable(String),
    /// The node does not have it.
    Missing(&'static str),
    /// The block does not follow the one before it.
    NotLinked {
        /// The block.
        block: BlockNum,
        /// The hash of the block before it.
        expected: BlockHash,
        /// The parent hash that it names.
        found: BlockHash,
    },
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(why) | Self::Unavailable(why) => f.write_str(why),
            Self::Missing(what) => write!(f, "{what} is not there"),
            Self::NotLinked { block, .. } => write!(f, "{block} does not follow the block before it"),
        }
    }
}

impl Problem {
    /// The error of a source.
    pub fn of_block(self, provider: &str, block: BlockNum) -> SourceError {
        let provider = provider.to_owned();
        match self {
            Self::Malformed(why) => SourceError::Malformed { provider, block, why },
            Self::Unavailable(why) => {
                SourceError::Unavailable { provider, source: format!("block {block}: {why}").into() }
            }
            Self::Missing(what) => SourceError::Missing { provider, block, what },
            Self::NotLinked { block, expected, found } => SourceError::NotLinked { block, expected, found },
        }
    }
}

/// Turns answers into rows: only the tables, and of them only the columns, that are stored.
pub struct Decoder {
    provider: String,
    verify: Verify,
    tables: Vec<TableDef>,
    blocks: Option<Selection<Blocks>>,
    transactions: Option<Selection<Transactions>>,
    logs: Option<Selection<Logs>>,
    withdrawals: Option<Selection<Withdrawals>>,
    said: Said,
}

/// What a source says once, however many of its blocks give reason to.
#[derive(Debug, Default)]
struct Said {
    unknown_type: AtomicBool,
    no_withdrawals: AtomicBool,
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
    /// A decoder for the given tables: those of [`super::tables()`], or fewer, with all or fewer of
    /// their columns. What cannot be decoded is `Refused`.
    pub fn new(provider: &str, tables: Vec<TableDef>, verify: Verify) -> Result<Self, SourceError> {
        let refused = |why| SourceError::Refused { provider: provider.to_owned(), why };
        let mut decoder = Self {
            provider: provider.to_owned(),
            verify,
            tables: Vec::new(),
            blocks: None,
            transactions: None,
            logs: None,
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

    /// Whether a stored column can only be filled from receipts.
    pub fn needs_receipts(&self) -> bool {
        let by_transactions =
            |selection: &Selection<Transactions>| RECEIPT_COLUMNS.iter().any(|name| selection.has(name));
        self.logs.is_some() || self.transactions.as_ref().is_some_and(by_transactions)
    }

    /// The rows of consecutive blocks, in their order. The first bad block, or the first that does
    /// not follow the one before it, ends it: those before it are decoded all the same.
    pub fn decode(&self, blocks: &[RawBlock]) -> Decoded {
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
    fn decode_all(&self, blocks: &[RawBlock]) -> Result<BlockRows, (usize, SourceError)> {
        let mut links: Vec<BlockLink> = Vec::with_capacity(blocks.len());
        let mut builders = None;
        let mut recompute =
            (self.verify >= Verify::Full).then(|| Recompute::new(self.verify >= Verify::Senders));
        for (index, raw) in blocks.iter().enumerate() {
            let problem = |problem: Problem| (index, problem.of_block(&self.provider, raw.number));
            let left = blocks.len() - index;
            let answers = self.parse(raw).map_err(problem)?;
            let checked = self.check(raw.number, &answers, links.last(), recompute.as_mut());
            let link = checked.map_err(problem)?;
            self.append(&link, &answers, left, &mut builders).map_err(problem)?;
            links.push(link);
        }
        let problem = |why: String| (0, Problem::Malformed(why).of_block(&self.provider, blocks[0].number));
        let range = BlockRange::new(blocks[0].number, blocks[blocks.len() - 1].number)
            .ok_or_else(|| problem("its number is out of range".into()))?;
        let builders = builders.unwrap_or_else(|| self.start(Counts::default(), 0));
        let tables = self.finish(builders).map_err(|error| problem(error.to_string()))?;
        let source_bytes = blocks.iter().map(RawBlock::size_bytes).sum();
        Ok(BlockRows { range, blocks: links, tables, source_bytes, cursor: None })
    }

    fn parse<'a>(&self, raw: &'a RawBlock) -> Result<Answers<'a>, Problem> {
        Ok(Answers { block: parse(&raw.block, "the block")?, receipts: self.parse_receipts(raw)? })
    }

    /// Checks one block as far as the level says.
    fn check(
        &self,
        number: BlockNum,
        answers: &Answers<'_>,
        previous: Option<&BlockLink>,
        recompute: Option<&mut Recompute>,
    ) -> Result<BlockLink, Problem> {
        let Answers { block, receipts } = answers;
        let receipts = receipts.as_deref();
        let link = verify::block(block, number, self.verify)?;
        check_link(previous, &link)?;
        let transactions = self.transactions_of(block)?;
        verify::transactions(link.hash, transactions, receipts, self.verify)?;
        self.check_withdrawals(&link, block)?;
        if let Some(recompute) = recompute {
            let unknown = recompute.check(&Body { block, transactions, receipts })?;
            if let Some(tx_type) = unknown.filter(|_| is_first(&self.said.unknown_type)) {
                let (provider, block) = (&self.provider, link.number);
                tracing::info!(
                    provider,
                    block,
                    tx_type,
                    "a type of transaction that is not Ethereum's: the roots of transactions and receipts \
                     cannot be checked in blocks that have such"
                );
            }
        }
        Ok(link)
    }

    /// Some nodes leave out the withdrawals, whose root is in the header: rows would be missing.
    fn check_withdrawals(&self, link: &BlockLink, block: &Block<'_>) -> Result<(), Problem> {
        if self.withdrawals.is_none() || !full::leaves_out_withdrawals(block) {
            return Ok(());
        }
        if self.verify >= Verify::Full {
            return Err(Problem::Malformed(
                "the node leaves out its withdrawals; use another node, or leave the table `withdrawals` out of \
                 the manifest's schema"
                    .into(),
            ));
        }
        if is_first(&self.said.no_withdrawals) {
            let (provider, block) = (&self.provider, link.number);
            tracing::warn!(
                provider,
                block,
                "the node leaves out the withdrawals of this block and perhaps of others: the table \
                 `withdrawals` will lack them. Use another node, or leave the table out of the manifest's schema"
            );
        }
        Ok(())
    }

    /// Appends one block's rows; `left` is how many blocks are left with it.
    fn append(
        &self,
        link: &BlockLink,
        answers: &Answers<'_>,
        left: usize,
        builders: &mut Option<Builders>,
    ) -> Result<(), Problem> {
        let Answers { block, receipts } = answers;
        let timestamp = timestamp_micros(block);
        let row = BlockRow { number: link.number, hash: link.hash.0, timestamp, block };
        let transactions = self.transactions_of(block)?;
        let parts = Parts { row: &row, transactions, receipts: receipts.as_deref() };
        let builders = builders.get_or_insert_with(|| self.start(parts.counts(), left));
        builders.push(&parts).map_err(Problem::Malformed)
    }

    fn parse_receipts<'a>(&self, raw: &'a RawBlock) -> Result<Option<Vec<Receipt<'a>>>, Problem> {
        if !self.needs_receipts() {
            return Ok(None);
        }
        let answer = raw.receipts.as_ref().ok_or(Problem::Missing("the receipts"))?;
        parse(answer, "the receipts").map(Some)
    }

    fn transactions_of<'r, 'a>(&self, block: &'r Block<'a>) -> Result<&'r [TxSlot<'a>], Problem> {
        match &block.transactions {
            Some(transactions) => Ok(transactions),
            None if self.verify < Verify::Links && self.transactions.is_none() && self.logs.is_none() => {
                Ok(&[])
            }
            None => Err(Problem::Malformed("`transactions` is missing".into())),
        }
    }

    fn start(&self, first: Counts, blocks: usize) -> Builders {
        let rows = |count: usize| count.saturating_mul(blocks).min(MAX_ROWS_RESERVED);
        Builders {
            blocks: self.blocks.as_ref().map(|table| table.start(rows(1))),
            transactions: self.transactions.as_ref().map(|table| table.start(rows(first.transactions))),
            logs: self.logs.as_ref().map(|table| table.start(rows(first.logs))),
            withdrawals: self.withdrawals.as_ref().map(|table| table.start(rows(first.withdrawals))),
        }
    }

    fn finish(&self, builders: Builders) -> Result<Vec<TableRows>, arrow::error::ArrowError> {
        let mut finished = Vec::with_capacity(self.tables.len());
        let Builders { mut blocks, mut transactions, mut logs, mut withdrawals } = builders;
        for table in &self.tables {
            let rows = match table.name.as_str() {
                Blocks::NAME => blocks.take().map(Builder::finish),
                Transactions::NAME => transactions.take().map(Builder::finish),
                Logs::NAME => logs.take().map(Builder::finish),
                _ => withdrawals.take().map(Builder::finish),
            };
            finished.extend(rows.transpose()?);
        }
        Ok(finished)
    }
}

/// The hash in an answer to `eth_getBlockByNumber`, without reading further than it.
pub(crate) fn hash_of_answer(answer: &[u8]) -> Result<BlockHash, Problem> {
    use sonic_rs::JsonValueTrait;
    let malformed = |bad: Bad| Problem::Malformed(format!("`hash` {bad}"));
    match sonic_rs::get(answer, ["result", "hash"]) {
        Ok(hash) => required(hash.as_str()).and_then(hex::fixed::<32>).map(Into::into).map_err(malformed),
        // It has no hash, or is not JSON: reading all of it says which.
        Err(_) => id_of_answer(answer, Verify::None).map(|id| id.hash),
    }
}

/// The number and hash in an answer to `eth_getBlockByNumber`; from the level `header` on its header must
/// hash to that.
pub(crate) fn id_of_answer(answer: &[u8], level: Verify) -> Result<BlockId, Problem> {
    let block: Block<'_> = parse(answer, "the block")?;
    let field = |name: &str, bad: Bad| Problem::Malformed(format!("`{name}` {bad}"));
    let number = required(block.number).and_then(hex::quantity_u64).map_err(|bad| field("number", bad))?;
    let hash = required(block.hash).and_then(hex::fixed::<32>).map_err(|bad| field("hash", bad))?.into();
    verify::hash(&block, hash, level)?;
    Ok(BlockId { number, hash })
}

/// The hashes of the transactions in an answer to `eth_getBlockByNumber`.
pub(crate) fn transactions_of_answer(answer: &[u8]) -> Result<Vec<B256>, Problem> {
    let block: Block<'_> = parse(answer, "the block")?;
    let malformed = |bad: Bad| Problem::Malformed(format!("the hash of a transaction {bad}"));
    let transactions = block.transactions.into_iter().flatten();
    let hash = |slot: TxSlot<'_>| {
        required(slot.0.hash).and_then(hex::fixed::<32>).map(B256::from).map_err(malformed)
    };
    transactions.map(hash).collect()
}

/// The number that is an answer; the error goes on a sentence about the answer.
pub(crate) fn number_of_answer(answer: &[u8]) -> Result<u64, String> {
    let text: &str = parse(answer, "the number").map_err(|_| "is not a number".to_owned())?;
    hex::quantity_u64(text).map_err(|bad| bad.to_string())
}

/// The bytes that are an answer; the error goes on a sentence about the answer.
pub(crate) fn bytes_of_answer(answer: &[u8]) -> Result<Vec<u8>, String> {
    let text: &str = parse(answer, "the bytes").map_err(|_| "is not a text of bytes".to_owned())?;
    const_hex::decode(text).map_err(|bad| format!("is not hexadecimal: {bad}"))
}

/// Reads an answer; what is not JSON to its end may be so next time.
fn parse<'a, T: Deserialize<'a>>(answer: &'a [u8], what: &'static str) -> Result<T, Problem> {
    let answer: Answer<'a, T> = sonic_rs::from_slice(answer).map_err(|error| {
        if error.is_unmatched_type() {
            Problem::Malformed(format!("{what} cannot be read: {}", first_line(&error)))
        } else {
            Problem::Unavailable(format!("the answer is not JSON to its end: {}", first_line(&error)))
        }
    })?;
    match (answer.result, answer.error) {
        (Some(result), None) => Ok(result),
        (_, Some(error)) => Err(Problem::Unavailable(format!("{} ({})", error.message, error.code))),
        (None, None) => Err(Problem::Missing(what)),
    }
}

/// The library shows a piece of the input on the lines below.
fn first_line(error: &sonic_rs::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().trim_end().to_owned()
}

/// Checks that a block names the one before it as its parent.
fn check_link(previous: Option<&BlockLink>, block: &BlockLink) -> Result<(), Problem> {
    match previous {
        Some(previous) if previous.hash != block.parent_hash => {
            Err(Problem::NotLinked { block: block.number, expected: previous.hash, found: block.parent_hash })
        }
        _ => Ok(()),
    }
}

/// The answers about one block, read.
struct Answers<'a> {
    block: Block<'a>,
    receipts: Option<Vec<Receipt<'a>>>,
}

/// How many rows a block has.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    transactions: usize,
    logs: usize,
    withdrawals: usize,
}

/// One block, read and checked.
struct Parts<'a> {
    row: &'a BlockRow<'a>,
    transactions: &'a [TxSlot<'a>],
    receipts: Option<&'a [Receipt<'a>]>,
}

impl<'a> Parts<'a> {
    fn counts(&self) -> Counts {
        let logs = |receipt: &Receipt<'_>| receipt.logs.as_ref().map_or(0, Vec::len);
        Counts {
            transactions: self.transactions.len(),
            logs: self.receipts.unwrap_or_default().iter().map(logs).sum(),
            withdrawals: self.row.block.withdrawals.as_ref().map_or(0, Vec::len),
        }
    }

    fn transactions(&self) -> Vec<TxRow<'a>> {
        let row = |(index, TxSlot(tx)): (usize, &'a TxSlot<'a>)| TxRow {
            block: self.row,
            index: index as u32,
            tx,
            receipt: self.receipts.and_then(|receipts| receipts.get(index)),
        };
        self.transactions.iter().enumerate().map(row).collect()
    }

    fn logs(&self) -> Result<Vec<LogRow<'a>>, String> {
        let mut rows = Vec::with_capacity(self.counts().logs);
        for (index, receipt) in self.receipts.unwrap_or_default().iter().enumerate() {
            let logs =
                receipt.logs.as_deref().ok_or_else(|| format!("`logs` of receipt {index} is missing"))?;
            let tx_hash = receipt.transaction_hash;
            let block = self.row;
            rows.extend(logs.iter().map(|log| LogRow { block, tx_index: index as u32, tx_hash, log }));
        }
        Ok(rows)
    }

    fn withdrawals(&self) -> Vec<WithdrawalRow<'a>> {
        let row = |withdrawal| WithdrawalRow { block: self.row, withdrawal };
        self.row.block.withdrawals.iter().flatten().map(row).collect()
    }
}

/// The rows of the selected tables while they are collected.
struct Builders {
    blocks: Option<Builder<Blocks>>,
    transactions: Option<Builder<Transactions>>,
    logs: Option<Builder<Logs>>,
    withdrawals: Option<Builder<Withdrawals>>,
}

impl Builders {
    fn push(&mut self, block: &Parts<'_>) -> Result<(), String> {
        if let Some(blocks) = &mut self.blocks {
            blocks.push_block(std::slice::from_ref(block.row))?;
        }
        if let Some(transactions) = &mut self.transactions {
            transactions.push_block(&block.transactions())?;
        }
        if let Some(logs) = &mut self.logs {
            logs.push_block(&block.logs()?)?;
        }
        if let Some(withdrawals) = &mut self.withdrawals {
            withdrawals.push_block(&block.withdrawals())?;
        }
        Ok(())
    }
}

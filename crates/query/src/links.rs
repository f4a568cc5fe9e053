//! What blocks are told by, as a session sees them: numbers and hashes.
//!
//! | what is stored | a block's hash |
//! |---|---|
//! | the table `blocks`, with the hashes of blocks and of their parents | in its row |
//! | rows with the hashes of their blocks, in all tables | that of the last row up to it; zero before the first row |
//!
//! In the second case blocks without rows are not told apart. What is made of the rows need not care: a reorg that
//! changes any of them changes the hash of the last row up to there too, and does so for good, wherever segments are
//! cut and however they are merged. Where a segment ends, its block's own hash is known beside.

use std::collections::BTreeMap;

use arrow::{
    array::{AsArray, FixedSizeBinaryArray, RecordBatch},
    datatypes::UInt64Type,
};
use futures::TryStreamExt;
use nozzle_core::{
    BlockHash, BlockId, BlockNum, BlockRange, DatasetRef, Span, TableName, block::BlockLink, dataset::BLOCKS,
    schema::BLOCK_NUM,
};
use nozzle_metadata::Scan;

use crate::{chain::Chain, error::QueryError, session::Session};

/// How far below a block the last row is looked for first.
const ROW_WITHIN: u64 = 64;

/// What tells the blocks of a chain.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// The table of all blocks, by its columns of the hash and of the parent's.
    Blocks([&'static str; 2]),
    /// The rows of these tables.
    Rows(Vec<HashColumn>),
}

/// The column of a table that has the hash of each row's block.
#[derive(Debug, Clone)]
pub(crate) struct HashColumn {
    pub dataset: DatasetRef,
    pub table: TableName,
    pub column: &'static str,
}

/// The condition for the last block of a range.
fn last_of(first: BlockNum, last: BlockNum) -> String {
    format!("BETWEEN {first} AND {last} ORDER BY {BLOCK_NUM} DESC LIMIT 1")
}

impl Session {
    /// The blocks of a range that are told, each behind the one before it. Where the last number has none, the last
    /// block before stands for it, as its own parent.
    pub async fn links(&self, chain: &Chain, range: BlockRange) -> Result<Vec<BlockLink>, QueryError> {
        let which = format!("BETWEEN {} AND {} ORDER BY {BLOCK_NUM}", range.start(), range.end());
        let columns = match &chain.told {
            Told::Blocks(columns) => return self.links_where(chain, *columns, &which).await,
            Told::Rows(columns) => columns,
        };
        let mut found = BTreeMap::new();
        for column in columns {
            found.extend(self.hashes(column, &which).await?);
        }
        let mut parent_hash = match range.start().checked_sub(1) {
            Some(number) => self.last_hash(columns, number).await?,
            None => BlockHash::ZERO,
        };
        if !found.contains_key(&range.end()) {
            let last = found.last_key_value().map_or(parent_hash, |(_, hash)| *hash);
            found.insert(range.end(), last);
        }
        let link = |(number, hash)| BlockLink {
            number,
            hash,
            parent_hash: std::mem::replace(&mut parent_hash, hash),
        };
        Ok(found.into_iter().map(link).collect())
    }

    /// The hash of a block that is stored, or of the last one before that is told. Where a segment ends, no file is
    /// read for it.
    pub async fn hash_at(&self, chain: &Chain, number: BlockNum) -> Result<Option<BlockHash>, QueryError> {
        let span = self.span_at(chain, number).await?;
        match (span.filter(|span| span.range.end() == number), &chain.told) {
            (Some(span), _) => Ok(Some(span.hash)),
            (None, Told::Blocks(columns)) => {
                if let Some(span) = span {
                    let within = last_of(span.range.start(), number);
                    if let Some(link) = self.links_where(chain, *columns, &within).await?.pop() {
                        return Ok(Some(link.hash));
                    }
                }
                // Nothing is stored there, or the numbers up to it were skipped.
                let last = self.links_where(chain, *columns, &last_of(0, number)).await?.pop();
                Ok(last.map(|link| link.hash))
            }
            (None, Told::Rows(columns)) if number >= chain.start => {
                Ok(Some(self.last_hash(columns, number).await?))
            }
            (None, Told::Rows(_)) => Ok(None),
        }
    }

    /// The block at a number as those know it whose rows are made of the chain's: with the hash of the last one up
    /// to it that is told, wherever segments end. `None` where nothing is stored there.
    pub async fn told_block(&self, chain: &Chain, number: BlockNum) -> Result<Option<BlockId>, QueryError> {
        if self.span_at(chain, number).await?.is_none() {
            return Ok(None);
        }
        let hash = match &chain.told {
            Told::Blocks(_) => self.hash_at(chain, number).await?,
            Told::Rows(columns) => Some(self.last_hash(columns, number).await?),
        };
        Ok(hash.map(|hash| BlockId { number, hash }))
    }

    /// Whether a block is one of the stored chain, told in either way.
    pub async fn is_canonical(&self, chain: &Chain, block: BlockId) -> Result<bool, QueryError> {
        let Told::Rows(columns) = &chain.told else {
            return Ok(self.hash_at(chain, block.number).await? == Some(block.hash));
        };
        if self.end_at(chain, block.number).await? == Some(block.hash) {
            return Ok(true);
        }
        Ok(self.last_hash(columns, block.number).await? == block.hash)
    }

    /// The hash that the block at a number has itself, as far as the chain's own dataset knows it.
    pub(crate) async fn own_hash(
        &self,
        chain: &Chain,
        number: BlockNum,
    ) -> Result<Option<BlockHash>, QueryError> {
        let Told::Rows(columns) = &chain.told else { return self.hash_at(chain, number).await };
        if let Some(hash) = self.end_at(chain, number).await? {
            return Ok(Some(hash));
        }
        for column in columns.iter().filter(|column| column.dataset == chain.dataset) {
            if let Some((_, hash)) = self.hashes(column, &format!("= {number} LIMIT 1")).await?.pop() {
                return Ok(Some(hash));
            }
        }
        Ok(None)
    }

    /// The segments of the chain's dataset that share a block with a range: all of its tables are cut alike.
    pub(crate) async fn spans_of(&self, chain: &Chain, range: BlockRange) -> Result<Vec<Span>, QueryError> {
        let tables = self.tables_of(&chain.dataset);
        let table = tables.iter().find(|location| location.table.as_str() == BLOCKS).or(tables.first());
        let Some(table) = table else { return Ok(vec![]) };
        let scan = Scan { location: table.id, sequence: self.snapshot().sequence, range };
        Ok(self.metadata().spans(&scan).await?)
    }

    async fn span_at(&self, chain: &Chain, number: BlockNum) -> Result<Option<Span>, QueryError> {
        Ok(self.spans_of(chain, BlockRange::single(number)).await?.pop())
    }

    /// The hash of a block at which a segment ends.
    async fn end_at(&self, chain: &Chain, number: BlockNum) -> Result<Option<BlockHash>, QueryError> {
        let span = self.span_at(chain, number).await?;
        Ok(span.filter(|span| span.range.end() == number).map(|span| span.hash))
    }

    /// The hash of the last block up to a number that has a row in one of the tables; zero where none has.
    async fn last_hash(&self, columns: &[HashColumn], up_to: BlockNum) -> Result<BlockHash, QueryError> {
        let mut last: Option<BlockId> = None;
        for column in columns {
            // What lies below what was found already does not matter.
            let lowest = last.map_or(0, |block| block.number);
            let (mut end, mut reach) = (up_to, ROW_WITHIN);
            loop {
                let first = end.saturating_sub(reach - 1).max(lowest);
                if let Some((number, hash)) = self.hashes(column, &last_of(first, end)).await?.pop() {
                    last = Some(BlockId { number, hash });
                    break;
                }
                if first <= lowest {
                    break;
                }
                (end, reach) = (first - 1, reach.saturating_mul(16));
            }
        }
        Ok(last.map_or(BlockHash::ZERO, |block| block.hash))
    }

    /// The blocks of a table's rows with their hashes, each once where the rows are sorted by them.
    async fn hashes(&self, of: &HashColumn, which: &str) -> Result<Vec<(BlockNum, BlockHash)>, QueryError> {
        let HashColumn { dataset, table, column } = of;
        let from = format!("\"{dataset}\".\"{table}\"");
        let sql = format!("SELECT {BLOCK_NUM}, {column} FROM {from} WHERE {BLOCK_NUM} {which}");
        let mut batches = self.execute(self.plan(&sql).await?).await?;
        let mut found: Vec<(BlockNum, BlockHash)> = vec![];
        while let Some(batch) = batches.try_next().await? {
            let (numbers, hashes) = numbered(&batch);
            for (number, hash) in numbers.iter().zip(hashes.iter()) {
                let Some(hash) = hash.filter(|_| found.last().is_none_or(|(last, _)| last != number)) else {
                    continue;
                };
                found.push((*number, BlockHash::from_slice(hash)));
            }
        }
        Ok(found)
    }

    async fn links_where(
        &self,
        chain: &Chain,
        [hash, parent]: [&str; 2],
        which: &str,
    ) -> Result<Vec<BlockLink>, QueryError> {
        let columns = format!("{BLOCK_NUM}, {hash}, {parent}");
        let sql = format!("SELECT {columns} FROM \"{}\".{BLOCKS} WHERE {BLOCK_NUM} {which}", chain.dataset);
        let batches: Vec<RecordBatch> = self.execute(self.plan(&sql).await?).await?.try_collect().await?;
        let mut links = vec![];
        for batch in batches {
            let ((numbers, hashes), parents) = (numbered(&batch), batch.column(2).as_fixed_size_binary());
            links.extend((0..batch.num_rows()).map(|row| BlockLink {
                number: numbers[row],
                hash: BlockHash::from_slice(hashes.value(row)),
                parent_hash: BlockHash::from_slice(parents.value(row)),
            }));
        }
        Ok(links)
    }
}

/// The columns of the block's number and of its hash, which are the first ones.
fn numbered(batch: &RecordBatch) -> (&[BlockNum], &FixedSizeBinaryArray) {
    (&batch.column(0).as_primitive::<UInt64Type>().values()[..], batch.column(1).as_fixed_size_binary())
}

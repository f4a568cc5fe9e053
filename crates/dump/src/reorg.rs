//! Finding what of the stored chain is no longer the source's chain.
//!
//! The stored spans form *islands*: runs in which each span links to the next, apart from one
//! another by holes or by broken links. Within an island the blocks that the source still has are
//! a prefix, so a few questions find the fork. Comparing happens by hash, also at equal height.

use arrow::datatypes::{DataType, Field};
use futures::TryStreamExt;
use nozzle_core::{
    BlockHash, BlockId, BlockNum, BlockRange, Span, TableDef,
    chain::{ForkSearch, linked_run, orphaned},
};
use nozzle_metadata::{Scan, Segment};
use nozzle_sources::{BlockSource, SourceError};

use crate::{error::DumpError, files, writer::Target};

/// The orphaned end of an island.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The last block that the source still has; `None` where it has none of the island.
    pub fork: Option<BlockId>,
    /// From the first orphaned block to the island's end.
    pub blocks: BlockRange,
    /// The lowest block whose hash was compared and differs. Above the first of `blocks` where no
    /// stored column tells the hashes between.
    pub differs: BlockNum,
    /// The spans to be replaced: from the one with the first orphaned block to the island's end.
    pub replaced: BlockRange,
    /// The blocks of the first of those spans whose rows are kept.
    pub kept: Option<BlockRange>,
}

/// The islands of live spans, as index ranges.
pub fn islands(spans: &[Span]) -> Vec<std::ops::Range<usize>> {
    let mut islands = vec![];
    let mut start = 0;
    while let Some(first) = spans.get(start) {
        let end = start + linked_run(first.range.start(), &spans[start..]);
        islands.push(start..end);
        start = end;
    }
    islands
}

/// The first orphan in the stored spans, by comparing hashes with the source. Blocks above `head`
/// are not compared: the source may only be behind.
pub async fn find_orphan(
    source: &dyn BlockSource,
    target: &Target,
    spans: &[Span],
    head: BlockNum,
) -> Result<Option<Orphan>, DumpError> {
    for island in islands(spans) {
        let island = &spans[island];
        // The block below the island is known by the parent hash of its first block.
        let below = island[0]
            .range
            .start()
            .checked_sub(1)
            .map(|number| BlockId { number, hash: island[0].prev_hash });
        let tips = below.into_iter().chain(island.iter().map(Span::tip));
        let tips: Vec<BlockId> = tips.take_while(|tip| tip.number <= head).collect();
        let fork = search(source, &tips).await?;
        if let (Some(below), None) = (below.filter(|below| below.number <= head), fork) {
            return Ok(orphan_of(island, None, below.number));
        }
        let is_shared = |span: &&Span| fork.is_some_and(|fork| span.range.end() <= fork.number);
        let Some(span) = island.get(island.iter().take_while(is_shared).count()) else { continue };
        // The next span is orphaned, or reaches above the head: its own blocks decide.
        let mut own = block_ids(source, target, span).await?;
        own.retain(|block| block.number <= head);
        let within = search(source, &own).await?;
        let Some(differs) = own.iter().find(|block| within.is_none_or(|within| block.number > within.number))
        else {
            continue;
        };
        return Ok(orphan_of(island, within.or(fork), differs.number));
    }
    Ok(None)
}

fn orphan_of(island: &[Span], fork: Option<BlockId>, differs: BlockNum) -> Option<Orphan> {
    // A fork below the island shares no block with it.
    let fork = fork.filter(|fork| fork.number >= island[0].range.start());
    let orphaned = orphaned(island, fork.map(|fork| fork.number))?;
    let first = island.get(orphaned.first)?.range.start();
    let end = island.last()?.range.end();
    let blocks = BlockRange::new(fork.map_or(first, |fork| (fork.number + 1).max(first)), end)?;
    Some(Orphan { fork, blocks, differs, replaced: BlockRange::new(first, end)?, kept: orphaned.kept })
}

async fn search(source: &dyn BlockSource, ours: &[BlockId]) -> Result<Option<BlockId>, DumpError> {
    let mut search = ForkSearch::new(ours);
    while let Some(block) = search.probe() {
        // A block that is not there though the head is above it is no evidence: one of several nodes
        // behind the same name may be late.
        let theirs = source.block_id(block.number).await?.ok_or_else(|| SourceError::Missing {
            provider: source.provider().to_owned(),
            block: block.number,
            what: "the block",
        })?;
        search.answer(Some(theirs.hash));
    }
    Ok(search.fork())
}

/// The blocks of a span with their hashes, as its rows tell, ascending. Other tables than `blocks`
/// know only the blocks in which they have rows. Without any, only the last one is known; so it is of
/// rows that a query gives, whose columns may have any meaning.
async fn block_ids(
    source: &dyn BlockSource,
    target: &Target,
    span: &Span,
) -> Result<Vec<BlockId>, DumpError> {
    if !source.is_of_chain() {
        return Ok(vec![span.tip()]);
    }
    let hash_column = |table: &TableDef| {
        // A package may have a column of that name for something else.
        let is_hash = |field: &Field| *field.data_type() == DataType::FixedSizeBinary(32);
        let is_stored = |name: &&str| table.schema.field_with_name(name).is_ok_and(is_hash);
        // Only of the table of blocks itself are these the block's own.
        let own: &[&str] = if table.name.as_str() == "blocks" { &["hash", "root"] } else { &[] };
        ["block_hash", "block_root"].into_iter().chain(own.iter().copied()).find(is_stored)
    };
    // The table with the most blocks comes first in the sources' order.
    let witness = target.tables.iter().find_map(|(table, location)| Some((location, hash_column(table)?)));
    let Some((location, hash)) = witness else { return Ok(vec![span.tip()]) };
    let sequence = target.metadata.sequence().await?;
    let scan = Scan { location: location.id, sequence, range: span.range };
    let mut ids: Vec<BlockId> = vec![];
    for Segment { file, .. } in target.metadata.segments(&scan).await? {
        let Some(file) = file else { continue };
        let object = files::object(&target.stores, location, &file.name)?;
        let mut batches = files::read_rows(object, &file, Some(&["_block_num", hash])).await?;
        while let Some(batch) = batches.try_next().await? {
            ids.extend(ids_of(&batch, hash)?);
            ids.dedup();
        }
    }
    if ids.last().is_none_or(|last| last.number < span.range.end()) {
        ids.push(span.tip());
    }
    Ok(ids)
}

fn ids_of(batch: &arrow::array::RecordBatch, hash: &str) -> Result<Vec<BlockId>, DumpError> {
    use arrow::array::{Array, AsArray};
    let damaged = || {
        DumpError::Refused(format!("a file's columns `_block_num` and `{hash}` are not what they must be"))
    };
    let numbers =
        batch.column_by_name("_block_num").and_then(|c| c.as_primitive_opt::<arrow::datatypes::UInt64Type>());
    let hashes = batch.column_by_name(hash).and_then(|c| c.as_fixed_size_binary_opt());
    let (numbers, hashes) = numbers.zip(hashes).ok_or_else(damaged)?;
    if hashes.value_length() != 32 || hashes.null_count() > 0 {
        return Err(damaged());
    }
    let id = |(number, hash): (&u64, Option<&[u8]>)| {
        hash.map(|hash| BlockId { number: *number, hash: BlockHash::from_slice(hash) })
    };
    Ok(numbers.values().iter().zip(hashes.iter()).filter_map(id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(chain: u8, number: u64) -> BlockHash {
        let mut bytes = [chain; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes.into()
    }

    fn span(chain: u8, start: u64, end: u64) -> Span {
        let range = BlockRange::new(start, end).expect("a range");
        Span { range, prev_hash: hash(chain, start.wrapping_sub(1)), hash: hash(chain, end) }
    }

    #[test]
    fn islands_end_at_holes_and_at_broken_links() {
        assert!(islands(&[]).is_empty());
        let spans = [span(1, 0, 9), span(1, 10, 19), span(2, 20, 29), span(2, 40, 49)];
        assert_eq!(islands(&spans), vec![0..2, 2..3, 3..4]);
    }

    #[test]
    fn the_orphan_is_the_island_above_the_fork() {
        let island = [span(1, 0, 9), span(1, 10, 19), span(1, 20, 29)];
        let range = |start, end| BlockRange::new(start, end).expect("a range");
        let fork = |number| Some(BlockId { number, hash: hash(1, number) });
        let within = orphan_of(&island, fork(14), 14 + 1).expect("an orphan");
        assert_eq!(
            (within.blocks, within.replaced, within.kept),
            (range(15, 29), range(10, 29), Some(range(10, 14)))
        );
        let between = orphan_of(&island, fork(19), 19 + 1).expect("an orphan");
        assert_eq!((between.blocks, between.replaced, between.kept), (range(20, 29), range(20, 29), None));
        let all = orphan_of(&island, None, 0).expect("an orphan");
        assert_eq!((all.blocks, all.replaced, all.kept), (range(0, 29), range(0, 29), None));
        assert_eq!(orphan_of(&island, fork(29), 29 + 1), None);
    }
}

//! The blocks that stored rows are of, as a session sees them: up to where they are linked, and their hashes.

use std::collections::BTreeSet;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::UInt64Type,
};
use futures::TryStreamExt;
use nozzle_core::{
    BlockHash, BlockNum, BlockRange, DatasetKind, DatasetRef,
    block::BlockLink,
    chain,
    manifest::{Columns, Manifest},
    range::MAX_BLOCK,
    schema::BLOCK_NUM,
};
use nozzle_metadata::{Coverage, Dataset, LocationId, Revision, Scan};

use crate::{error::QueryError, session::Session};

/// How far below the watermark it is looked at first whether hashes agree.
const AGREES_WITHIN: u64 = 64;

/// The table of a raw dataset that has a row for each block.
const BLOCKS: &str = "blocks";

/// The condition for the last block of a range.
fn last_of(first: BlockNum, last: BlockNum) -> String {
    format!("BETWEEN {first} AND {last} ORDER BY {BLOCK_NUM} DESC LIMIT 1")
}

impl Session {
    /// A dataset and its active revision.
    pub fn active(&self, reference: &DatasetRef) -> Option<(&Dataset, Option<&Revision>)> {
        let dataset = self.dataset(reference)?;
        let mut known = self.snapshot().datasets.iter();
        known.find(|(known, _)| known.id == dataset.id).map(|(_, revision)| (dataset, revision.as_ref()))
    }

    /// The last block up to which all tables of datasets are stored from their first blocks on, linked, and of the
    /// chain as this session sees it: one that follows another may still have blocks that this has replaced.
    pub async fn watermark(
        &self,
        datasets: &BTreeSet<DatasetRef>,
        chain: &DatasetRef,
    ) -> Result<Option<BlockNum>, QueryError> {
        let mut revisions = vec![];
        for reference in datasets {
            let Some((_, Some(revision))) = self.active(reference) else { return Ok(None) };
            revisions.push((reference, revision, self.start_of(reference)?));
        }
        let ids: Vec<_> = revisions.iter().map(|(_, revision, _)| revision.id).collect();
        let stored = self.metadata().coverage(&ids).await?;
        let mut watermark = BlockNum::MAX;
        for (_, revision, start) in &revisions {
            for table in stored.iter().filter(|table| table.revision == revision.id) {
                let Some(end) = self.linked_from(*start, table, revision).await? else { return Ok(None) };
                watermark = watermark.min(end);
            }
        }
        for (_, revision, _) in revisions.iter().filter(|(dataset, ..)| *dataset != chain) {
            let Some(location) = revision.locations.first() else { return Ok(None) };
            match self.agrees_until(location.id, chain, watermark).await? {
                Some(agreed) => watermark = watermark.min(agreed),
                None => return Ok(None),
            }
        }
        Ok(Some(watermark).filter(|_| !stored.is_empty()))
    }

    /// The end of a table's linked run from `start`, as this session sees it; `stored` is of a later moment.
    async fn linked_from(
        &self,
        start: BlockNum,
        stored: &Coverage,
        revision: &Revision,
    ) -> Result<Option<BlockNum>, QueryError> {
        if stored.changed == revision.changed {
            return Ok(stored.linked_from(start));
        }
        let Some(range) = BlockRange::new(start, MAX_BLOCK) else { return Ok(None) };
        let scan = Scan { location: stored.location, sequence: self.snapshot().sequence, range };
        let spans = self.metadata().spans(&scan).await?;
        let Some(first) = spans.first().map(|span| span.range.start()).filter(|first| *first <= start) else {
            return Ok(None);
        };
        Ok(chain::watermark(first, &spans).map(|tip| tip.number))
    }

    /// What a dataset is, as it was registered.
    fn manifest(&self, reference: &DatasetRef) -> Result<Manifest, QueryError> {
        let Some(dataset) = self.dataset(reference) else {
            return Err(QueryError::TableNotFound(format!("there is no dataset `{reference}` any more")));
        };
        let manifest = match dataset.kind {
            DatasetKind::Manifest | DatasetKind::Sql => {
                serde_json::from_str(&dataset.manifest).map(Manifest::Derived)
            }
            _ => serde_json::from_str(&dataset.manifest).map(Manifest::Raw),
        };
        manifest.map_err(|error| {
            QueryError::Execution(format!("the stored manifest of `{reference}` is damaged: {error}"))
        })
    }

    /// The first block that a dataset is to have.
    pub fn start_of(&self, reference: &DatasetRef) -> Result<BlockNum, QueryError> {
        Ok(self.manifest(reference)?.start_block())
    }

    /// The last block up to another one that a table has and the chain too, told by the hashes at the ends of
    /// its segments.
    async fn agrees_until(
        &self,
        location: LocationId,
        chain: &DatasetRef,
        up_to: BlockNum,
    ) -> Result<Option<BlockNum>, QueryError> {
        let mut reach = AGREES_WITHIN;
        loop {
            let first = up_to.saturating_sub(reach);
            let Some(range) = BlockRange::new(first, up_to) else { return Ok(None) };
            let scan = Scan { location, sequence: self.snapshot().sequence, range };
            for span in self.metadata().spans(&scan).await?.iter().rev() {
                if self.hash_at(chain, span.range.end()).await? == Some(span.hash) {
                    return Ok(Some(span.range.end().min(up_to)));
                }
            }
            if first == 0 {
                return Ok(None);
            }
            reach = reach.saturating_mul(16);
        }
    }

    /// The raw dataset whose blocks those of some datasets are, and the first block: of several, the one that
    /// begins first.
    pub fn chain_of(
        &self,
        datasets: &BTreeSet<DatasetRef>,
    ) -> Result<Option<(DatasetRef, BlockNum)>, QueryError> {
        let mut chains = vec![];
        for reference in datasets {
            if let Some(chain) = self.manifest(reference)?.chain() {
                chains.push((self.start_of(&chain)?, chain));
            }
        }
        Ok(chains.into_iter().min().map(|(start, chain)| (chain, start)))
    }

    /// The blocks of a range, with their hashes.
    pub async fn links(&self, chain: &DatasetRef, range: BlockRange) -> Result<Vec<BlockLink>, QueryError> {
        let which = format!("BETWEEN {} AND {} ORDER BY {BLOCK_NUM}", range.start(), range.end());
        self.links_where(chain, &which).await
    }

    /// The hash of the last block up to a number. Where a segment ends there, no file is read for it.
    pub async fn hash_at(
        &self,
        chain: &DatasetRef,
        up_to: BlockNum,
    ) -> Result<Option<BlockHash>, QueryError> {
        let blocks = self.active(chain).and_then(|(_, revision)| {
            revision?.locations.iter().find(|location| location.table.as_str() == BLOCKS)
        });
        let Some(blocks) = blocks else { return Ok(None) };
        let scan = Scan {
            location: blocks.id,
            sequence: self.snapshot().sequence,
            range: BlockRange::single(up_to),
        };
        if let Some(span) = self.metadata().spans(&scan).await?.pop() {
            if span.range.end() == up_to {
                return Ok(Some(span.hash));
            }
            let within = last_of(span.range.start(), up_to);
            if let Some(link) = self.links_where(chain, &within).await?.pop() {
                return Ok(Some(link.hash));
            }
        }
        // Nothing is stored there, or the numbers up to it were skipped.
        Ok(self.last_block(chain, up_to).await?.map(|link| link.hash))
    }

    /// The last block up to a number.
    pub async fn last_block(
        &self,
        chain: &DatasetRef,
        up_to: BlockNum,
    ) -> Result<Option<BlockLink>, QueryError> {
        Ok(self.links_where(chain, &last_of(0, up_to)).await?.pop())
    }

    /// Refuses a dataset that does not store what its blocks are told by.
    pub(crate) fn check_links(&self, chain: &DatasetRef) -> Result<(), QueryError> {
        let Manifest::Raw(manifest) = self.manifest(chain)? else { return Ok(()) };
        let Some([hash, parent]) = manifest.kind.link_columns() else {
            let kind = manifest.kind;
            return Err(QueryError::Plan(format!(
                "the dataset `{chain}` is of the kind `{kind}`, which has no table of all blocks, by which reorgs are told: it cannot be streamed yet"
            )));
        };
        let Some(schema) = &manifest.schema else { return Ok(()) };
        let is_stored = schema.iter().any(|(table, columns)| match columns {
            _ if table.as_str() != BLOCKS => false,
            Columns::All(_) => true,
            Columns::Named(names) => [hash, parent].iter().all(|name| names.iter().any(|own| own == name)),
        });
        if is_stored {
            return Ok(());
        }
        Err(QueryError::Plan(format!(
            "the dataset `{chain}` does not store the table `{BLOCKS}` with `{hash}` and `{parent}`, by which reorgs are told: it cannot be streamed"
        )))
    }

    async fn links_where(&self, chain: &DatasetRef, which: &str) -> Result<Vec<BlockLink>, QueryError> {
        let kind = self.manifest(chain)?.kind();
        let Some([hash, parent]) = kind.link_columns() else { return Ok(vec![]) };
        let columns = format!("{BLOCK_NUM}, {hash}, {parent}");
        let sql = format!("SELECT {columns} FROM \"{chain}\".{BLOCKS} WHERE {BLOCK_NUM} {which}");
        let batches: Vec<RecordBatch> = self.execute(self.plan(&sql).await?).await?.try_collect().await?;
        let mut links = vec![];
        for batch in batches {
            let numbers = batch.column(0).as_primitive::<UInt64Type>();
            let [hashes, parents] = [1, 2].map(|column| batch.column(column).as_fixed_size_binary());
            links.extend((0..batch.num_rows()).map(|row| BlockLink {
                number: numbers.value(row),
                hash: BlockHash::from_slice(hashes.value(row)),
                parent_hash: BlockHash::from_slice(parents.value(row)),
            }));
        }
        Ok(links)
    }
}

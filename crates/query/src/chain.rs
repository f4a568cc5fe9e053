//! The blocks that stored rows are of, as a session sees them: up to where they are linked, and their hashes.

use std::collections::{BTreeMap, BTreeSet};

use nozzle_core::{
    BlockNum, BlockRange, DatasetKind, DatasetRef, TableDef, TableName, chain,
    dataset::{BLOCKS, ToldBy},
    manifest::{Manifest, RawManifest},
    range::MAX_BLOCK,
};
use nozzle_metadata::{Coverage, Dataset, Location, LocationId, Revision, Scan};

use crate::{
    catalog::location_schema,
    error::QueryError,
    links::{HashColumn, Told},
    session::Session,
};

/// How far below the watermark it is looked at first whether hashes agree.
const AGREES_WITHIN: u64 = 64;

/// The chain that the blocks of some datasets are of.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The raw dataset whose segments they are compared with: of several the one that begins first, and of those
    /// one that stores all blocks.
    pub dataset: DatasetRef,
    /// Its first block, which is the first of all.
    pub start: BlockNum,
    /// What tells the blocks.
    pub(crate) told: Told,
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
    ///
    /// What is derived is compared with what it is made of, and that with the chain.
    pub async fn watermark(
        &self,
        datasets: &BTreeSet<DatasetRef>,
        chain: &Chain,
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
        let mut compared = BTreeSet::from([chain.dataset.clone()]);
        for (dataset, revision, _) in &revisions {
            let Some(own) = self.chain_of(&BTreeSet::from([(*dataset).clone()]))? else { return Ok(None) };
            if self.manifest(dataset)?.reference() != own.dataset {
                let Some(location) = revision.locations.first() else { return Ok(None) };
                match self.agrees_until(location.id, &own, watermark).await? {
                    Some(agreed) => watermark = watermark.min(agreed),
                    None => return Ok(None),
                }
            }
            if compared.insert(own.dataset.clone()) {
                match self.chains_agree_until(&own, chain, watermark).await? {
                    Some(agreed) => watermark = watermark.min(agreed),
                    None => return Ok(None),
                }
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

    /// The last block up to another one that a derived table has and its chain too, told by the hashes at the ends
    /// of its segments.
    async fn agrees_until(
        &self,
        location: LocationId,
        chain: &Chain,
        up_to: BlockNum,
    ) -> Result<Option<BlockNum>, QueryError> {
        let mut reach = AGREES_WITHIN;
        loop {
            let first = up_to.saturating_sub(reach);
            let Some(range) = BlockRange::new(first, up_to) else { return Ok(None) };
            let scan = Scan { location, sequence: self.snapshot().sequence, range };
            for span in self.metadata().spans(&scan).await?.iter().rev() {
                if self.is_canonical(chain, span.tip()).await? {
                    return Ok(Some(span.range.end().min(up_to)));
                }
            }
            if first == 0 {
                return Ok(None);
            }
            reach = reach.saturating_mul(16);
        }
    }

    /// The last block up to another one that two raw datasets have, told by the ends of their segments.
    async fn chains_agree_until(
        &self,
        one: &Chain,
        other: &Chain,
        up_to: BlockNum,
    ) -> Result<Option<BlockNum>, QueryError> {
        let mut reach = AGREES_WITHIN;
        loop {
            let first = up_to.saturating_sub(reach);
            let Some(range) = BlockRange::new(first, up_to) else { return Ok(None) };
            for (of, with) in [(one, other), (other, one)] {
                for span in self.spans_of(of, range).await?.iter().rev() {
                    if self.own_hash(with, span.range.end()).await? == Some(span.hash) {
                        return Ok(Some(span.range.end().min(up_to)));
                    }
                }
            }
            if first == 0 {
                return Ok(None);
            }
            reach = reach.saturating_mul(16);
        }
    }

    /// The chain that the blocks of some datasets are of; `None` of no datasets. Refused where they do not store
    /// what blocks are told by.
    pub fn chain_of(&self, datasets: &BTreeSet<DatasetRef>) -> Result<Option<Chain>, QueryError> {
        let mut raw = BTreeMap::new();
        let mut waiting: Vec<DatasetRef> = datasets.iter().cloned().collect();
        let mut seen = BTreeSet::new();
        while let Some(reference) = waiting.pop() {
            if !seen.insert(reference.clone()) {
                continue;
            }
            match self.manifest(&reference)? {
                Manifest::Raw(manifest) => {
                    let told_by = self.told_by(&reference, &manifest)?;
                    raw.insert(manifest.reference(), (manifest, told_by));
                }
                derived => waiting.extend(derived.dependencies().into_iter().cloned()),
            }
        }
        let rank = |(reference, (manifest, told_by)): &(&DatasetRef, &(RawManifest, ToldBy))| {
            (manifest.start_block, *told_by == ToldBy::Rows, (*reference).clone())
        };
        let Some((dataset, (manifest, told_by))) = raw.iter().min_by_key(rank) else { return Ok(None) };
        let told = match told_by {
            ToldBy::Blocks(columns) => Told::Blocks(*columns),
            // The rows of all that is read: a block without rows in one may have some in another.
            ToldBy::Rows => {
                let of_dataset = |(reference, (manifest, told_by)): (&DatasetRef, &(RawManifest, ToldBy))| {
                    let tables = self.tables_of(reference).iter().map(|location| &location.table);
                    let tables = tables.filter(|table| *told_by == ToldBy::Rows || table.as_str() == BLOCKS);
                    let column = |table: &TableName| HashColumn {
                        dataset: reference.clone(),
                        table: table.clone(),
                        column: manifest.kind.hash_column(table),
                    };
                    tables.map(column).collect::<Vec<_>>()
                };
                Told::Rows(raw.iter().flat_map(of_dataset).collect())
            }
        };
        Ok(Some(Chain { dataset: dataset.clone(), start: manifest.start_block, told }))
    }

    /// The tables of a dataset's active revision.
    pub(crate) fn tables_of(&self, dataset: &DatasetRef) -> &[Location] {
        self.active(dataset)
            .and_then(|(_, revision)| Some(revision?.locations.as_slice()))
            .unwrap_or_default()
    }

    /// What tells the blocks of a raw dataset; refused where it stores too little for that.
    fn told_by(&self, dataset: &DatasetRef, manifest: &RawManifest) -> Result<ToldBy, QueryError> {
        let kind = manifest.kind;
        let table = |location: &Location| -> Result<TableDef, QueryError> {
            let (schema, _) = location_schema(location).map_err(QueryError::Execution)?;
            Ok(TableDef { name: location.table.clone(), schema })
        };
        let stored = self.tables_of(dataset);
        let blocks =
            stored.iter().find(|location| location.table.as_str() == BLOCKS).map(table).transpose()?;
        if let Some(Ok(told_by @ ToldBy::Blocks(_))) = blocks.map(|blocks| kind.told_by(&[blocks])) {
            return Ok(told_by);
        }
        let tables = stored.iter().map(table).collect::<Result<Vec<_>, QueryError>>()?;
        kind.told_by(&tables).map_err(|(table, column)| {
            QueryError::Plan(format!(
                "the dataset `{dataset}` does not store the column `{column}` of its table `{table}`, by which reorgs are told: it cannot be streamed or derived from"
            ))
        })
    }
}

//! The way back: stored rows as the answers they came from, so that what is checked of a block before
//! its rows are written can be checked again later, from the files alone.
//!
//! ```text
//!  stored rows ──► render (JSON text) ──► Decoder (checks, rows) ──► compared with the stored rows
//! ```
//!
//! The checks see what a hash holds. The comparison sees the rest: what a table says twice, and what
//! follows from other columns, such as the hash of the block in the table `logs`.

use std::ops::Range;

use arrow::array::RecordBatch;
use nozzle_core::{BlockNum, BlockRange, TableDef, manifest::Verify};

use super::{
    needs::{self, TooFewColumns},
    render::{Parts, Renderer},
    rows::{Decoder, RawBlock},
    verify::ADVICE,
};
use crate::{
    error::SourceError,
    source::{BlockRows, TableRows},
    stored::{BadBlock, Checked, StoredCheck, rows_of},
};

/// Who has sent what is checked, for the log.
const ORIGIN: &str = "the stored files";

/// Checks stored blocks of an EVM chain at one level.
#[derive(Debug)]
pub struct BlockCheck {
    tables: Vec<TableDef>,
    level: Verify,
    /// The places of the tables that the decoder has, in its order.
    decoded: Vec<usize>,
    decoder: Decoder,
    renderer: Renderer,
}

impl BlockCheck {
    /// A check of these tables; refused where they have fewer columns than the level needs. Below
    /// `full`, tables that do not say which of their rows belong together are not looked at.
    pub fn new(tables: Vec<TableDef>, level: Verify) -> Result<Self, TooFewColumns> {
        needs::check(&tables, level)?;
        let shared: Vec<Option<TableDef>> = tables.iter().map(shared).collect();
        let is_decoded =
            |index: &usize| shared[*index].is_some() && needs::takes_part(&tables, &tables[*index]);
        let decoded: Vec<usize> = (0..tables.len()).filter(is_decoded).collect();
        let selected: Vec<TableDef> = decoded.iter().filter_map(|index| shared[*index].clone()).collect();
        let renderer = Renderer::new(&selected);
        let unknown = |error: SourceError| TooFewColumns { level, missing: error.to_string(), highest: None };
        let decoder = Decoder::new(ORIGIN, selected, level).map_err(unknown)?;
        Ok(Self { tables, level, decoded, decoder, renderer })
    }

    fn render(&self, number: BlockNum, rows: &[&RecordBatch]) -> Result<Stored, String> {
        let places: Vec<Range<usize>> = rows.iter().map(|batch| rows_of(batch, number)).collect();
        let parts = Parts { batches: rows, places: &places };
        let (block, receipts) = self.renderer.render(number, &parts, self.decoder.needs_receipts())?;
        Ok(Stored { raw: RawBlock { number, block, receipts }, places })
    }

    /// Checks blocks that follow one another.
    fn check_run(&self, run: &[Stored], range: BlockRange, rows: &[&RecordBatch], checked: &mut Checked) {
        let raw: Vec<RawBlock> = run.iter().map(|stored| stored.raw.clone()).collect();
        let mut from = 0;
        while from < run.len() {
            let decoded = self.decoder.decode(&raw[from..]);
            let good = decoded.rows.as_ref().map_or(0, |rows| rows.blocks.len());
            if let Some(decoded) = &decoded.rows {
                self.compare(&run[from..from + good], decoded, rows, checked);
                let link = |number| decoded.blocks.iter().find(|link| link.number == number);
                checked.first_parent = checked.first_parent.or(link(range.start()).map(|b| b.parent_hash));
                checked.last_hash = link(range.end()).map(|link| link.hash).or(checked.last_hash);
            }
            if let Some(error) = decoded.error {
                let block = run[from + good].raw.number;
                checked.bad.push(BadBlock { block, table: None, why: why(error) });
            }
            from += good + 1;
        }
    }

    /// Compares the rows that the checks have passed with those that are stored.
    fn compare(&self, run: &[Stored], decoded: &BlockRows, rows: &[&RecordBatch], checked: &mut Checked) {
        let first_bad = checked.bad.len();
        for (index, TableRows { batch, ends }) in decoded.tables.iter().enumerate() {
            let table = self.decoded[index];
            let (Some(first), Some(last)) = (run.first(), run.last()) else { return };
            let stored = &rows[index];
            let start = first.places[index].start;
            let stored = stored.slice(start, last.places[index].end - start);
            for (column, (ours, theirs)) in stored.columns().iter().zip(batch.columns()).enumerate() {
                if ours == theirs {
                    continue;
                }
                let name = stored.schema_ref().field(column).name().clone();
                let mut from = 0;
                for (stored, end) in run.iter().zip(ends) {
                    let count = end - from;
                    if ours.slice(from, count) != theirs.slice(from, count) {
                        let why = format!("`{name}` is not what follows from the other columns");
                        checked.bad.push(BadBlock { block: stored.raw.number, table: Some(table), why });
                    }
                    from = *end;
                }
            }
        }
        checked.bad[first_bad..].sort_by_key(|bad| bad.block);
    }
}

impl StoredCheck for BlockCheck {
    fn tables(&self) -> &[TableDef] {
        &self.tables
    }

    fn level(&self) -> Option<Verify> {
        Some(self.level)
    }

    fn check(&self, range: BlockRange, rows: &[RecordBatch]) -> Checked {
        let mut checked = Checked::of_order(range, rows);
        if !checked.bad.is_empty() {
            return checked;
        }
        let rows: Vec<&RecordBatch> = self.decoded.iter().map(|index| &rows[*index]).collect();
        let mut run: Vec<Stored> = vec![];
        for number in range.start()..=range.end() {
            match self.render(number, &rows) {
                Ok(block) => run.push(block),
                Err(why) => {
                    self.check_run(&std::mem::take(&mut run), range, &rows, &mut checked);
                    checked.bad.push(BadBlock { block: number, table: None, why });
                }
            }
        }
        self.check_run(&run, range, &rows, &mut checked);
        checked
    }
}

/// What a table shares with that of JSON-RPC of the same name, if there is one. Firehose has more columns, all
/// behind those, and the table `calls`, of which no root holds anything: of these only the order is checked.
fn shared(table: &TableDef) -> Option<TableDef> {
    let known = super::tables().into_iter().find(|known| known.name == table.name)?;
    let names = table.schema.fields().iter().skip(1).map(|field| field.name());
    let names: Vec<String> = names.filter(|name| known.schema.index_of(name).is_ok()).cloned().collect();
    table.select(&names).ok()
}

/// A stored block as a node would send it.
struct Stored {
    raw: RawBlock,
    /// Its rows in each table.
    places: Vec<Range<usize>>,
}

/// What is wrong, without naming a provider, and without the advice for a chain that has not been
/// extracted yet: this one was.
fn why(error: SourceError) -> String {
    match error {
        SourceError::Malformed { why, .. } => why.split(ADVICE).next().unwrap_or_default().to_owned(),
        SourceError::Unavailable { source, .. } => source.to_string(),
        SourceError::Missing { what, .. } => format!("it does not have {what}"),
        error => error.to_string(),
    }
}

//! Reading a file by block: the rows up to one block, then those up to a later one.

use std::collections::VecDeque;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::concat_batches,
    datatypes::UInt64Type,
};
use futures::{TryStreamExt, stream::BoxStream};
use nozzle_core::{BlockNum, TableDef};
use nozzle_metadata::{Location, SegmentFile};
use nozzle_query::Stores;

use crate::{error::DumpError, files};

/// A file that is read from its first row to its last.
pub(crate) struct Cursor {
    table: TableDef,
    url: String,
    /// `None` where the file has ended, or there is none.
    rows: Option<BoxStream<'static, Result<RecordBatch, DumpError>>>,
    /// What was read and not yet given, in order; no batch is empty.
    pending: VecDeque<RecordBatch>,
    last_read: BlockNum,
}

impl Cursor {
    /// Opens a table's file at the first row of `first` or a later block.
    pub async fn open(
        stores: &Stores,
        table: &TableDef,
        location: &Location,
        file: Option<&SegmentFile>,
        first: BlockNum,
    ) -> Result<Self, DumpError> {
        let mut cursor = Self {
            table: table.clone(),
            url: location.url.clone(),
            rows: None,
            pending: VecDeque::new(),
            last_read: 0,
        };
        let Some(file) = file else { return Ok(cursor) };
        let object = files::object(stores, location, &file.name)?;
        cursor.url.clone_from(&object.url);
        cursor.rows = Some(files::read_table(object, file, table).await?);
        cursor.skip_below(first).await?;
        Ok(cursor)
    }

    async fn skip_below(&mut self, first: BlockNum) -> Result<(), DumpError> {
        while self.read_more().await? {
            let Some(batch) = self.pending.pop_back() else { continue };
            let below = numbers(&batch).partition_point(|number| *number < first);
            if below < batch.num_rows() {
                self.pending.push_back(batch.slice(below, batch.num_rows() - below));
                break;
            }
        }
        Ok(())
    }

    /// The rows up to the end of block `last` that were not given before.
    pub async fn rows_up_to(&mut self, last: BlockNum) -> Result<RecordBatch, DumpError> {
        while self.pending.back().is_none_or(|batch| numbers(batch).last().is_none_or(|n| *n <= last)) {
            if !self.read_more().await? {
                break;
            }
        }
        let mut taken = vec![];
        while let Some(batch) = self.pending.pop_front() {
            let count = numbers(&batch).partition_point(|number| *number <= last);
            taken.push(batch.slice(0, count));
            if count < batch.num_rows() {
                self.pending.push_front(batch.slice(count, batch.num_rows() - count));
                break;
            }
        }
        concat_batches(&self.table.schema, &taken)
            .map_err(|error| DumpError::store(format!("reading {}", self.url), error))
    }

    /// Whether every row was given.
    pub async fn is_at_end(&mut self) -> Result<bool, DumpError> {
        while self.pending.is_empty() && self.read_more().await? {}
        Ok(self.pending.is_empty())
    }

    /// Reads a batch; `false` at the end of the file.
    async fn read_more(&mut self) -> Result<bool, DumpError> {
        let Some(rows) = &mut self.rows else { return Ok(false) };
        let Some(batch) = rows.try_next().await? else {
            self.rows = None;
            return Ok(false);
        };
        let damaged = |why: &str| Err(DumpError::Refused(format!("the file {why}")));
        let found = numbers(&batch);
        if batch.column(0).null_count() > 0
            || !found.is_sorted()
            || found.first().is_some_and(|first| *first < self.last_read)
        {
            return damaged("is not sorted by block");
        }
        if let Some(last) = found.last() {
            self.last_read = *last;
            self.pending.push_back(batch);
        }
        Ok(true)
    }
}

fn numbers(batch: &RecordBatch) -> &[u64] {
    batch.column(0).as_primitive::<UInt64Type>().values()
}

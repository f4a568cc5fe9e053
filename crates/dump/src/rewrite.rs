//! Keeping the canonical part of a segment whose upper part a reorg has orphaned: its rows are
//! copied from the old file, not asked for again.

use std::sync::Arc;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::UInt64Type,
};
use futures::TryStreamExt;
use nozzle_core::{BlockNum, Span};
use nozzle_metadata::{NewSegment, Segment};

use crate::{
    error::DumpError,
    files,
    lease::Terms,
    writer::{SegmentWriter, Target},
};

/// Writes what `span` covers of the old segments as new ones. `segments` has the old segment of
/// each of the target's tables, in their order.
pub async fn keep(
    target: &Arc<Target>,
    terms: Terms,
    segments: &[Segment],
    span: Span,
) -> Result<Vec<NewSegment>, DumpError> {
    // The old segment's cursor is that of its last block, which is gone.
    let mut writer = SegmentWriter::of_span(Arc::clone(target), terms, span, None);
    for (index, segment) in segments.iter().enumerate() {
        let Some(file) = &segment.file else { continue };
        let (table, location) = &target.tables[index];
        let object = files::object(&target.stores, location, &file.name)?;
        let mut batches = files::read_table(object, file, table).await?;
        while let Some(batch) = batches.try_next().await? {
            let rows = rows_up_to(&batch, span.range.end());
            writer.write(only(target, index, batch.slice(0, rows))).await?;
            if rows < batch.num_rows() {
                break;
            }
        }
    }
    writer.close().await
}

/// A batch for the table `index`, and empty ones for the others.
pub(crate) fn only(target: &Target, index: usize, batch: RecordBatch) -> Vec<RecordBatch> {
    let empty = |table: &nozzle_core::TableDef| RecordBatch::new_empty(Arc::clone(&table.schema));
    let mut batches: Vec<RecordBatch> = target.tables.iter().map(|(table, _)| empty(table)).collect();
    batches[index] = batch;
    batches
}

/// How many rows of a batch, which is sorted by block, are at or below `last`.
fn rows_up_to(batch: &RecordBatch, last: BlockNum) -> usize {
    batch.column(0).as_primitive::<UInt64Type>().values().partition_point(|number| *number <= last)
}

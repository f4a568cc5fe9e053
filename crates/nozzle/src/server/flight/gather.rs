//! Small batches gathered into larger ones: a message of a few kilobytes costs a reader more than its rows do.

use std::time::Duration;

use arrow::{array::RecordBatch, compute::concat_batches, datatypes::SchemaRef};
use arrow_flight::error::FlightError;
use futures::{Stream, StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use crate::server::stream::bytes_of;

/// Rows of a batch: readers of columns are at their best with so many.
const ROWS: usize = 32 * 1024;

/// Bytes from which on rows wait for no others. A message has at most twice as many.
const BYTES: usize = 1 << 20;

/// How long rows wait for others at most.
const PATIENCE: Duration = Duration::from_millis(20);

/// The same rows in fewer batches; those that are large enough go on as they are.
pub fn gathered(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + Unpin,
) -> impl Stream<Item = Result<RecordBatch, FlightError>> + Send {
    // It is asked again after its end, where rows are waiting then.
    let batches = batches.fuse();
    let gathering = Gathering { schema, batches, waiting: vec![], rows: 0, bytes: 0, error: None };
    stream::unfold(gathering, |mut gathering| async { Some((gathering.next().await?, gathering)) })
}

struct Gathering<S> {
    schema: SchemaRef,
    batches: S,
    waiting: Vec<RecordBatch>,
    /// Of what is waiting.
    rows: usize,
    bytes: usize,
    /// What comes behind it.
    error: Option<FlightError>,
}

impl<S: Stream<Item = Result<RecordBatch, FlightError>> + Unpin> Gathering<S> {
    async fn next(&mut self) -> Option<Result<RecordBatch, FlightError>> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        let mut until = None;
        while self.rows < ROWS && self.bytes < BYTES {
            let next = match until {
                None => self.batches.next().await,
                Some(until) => match timeout_at(until, self.batches.next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            match next {
                Some(Ok(batch)) => self.take(batch),
                Some(Err(error)) => {
                    self.error = Some(error);
                    break;
                }
                None => break,
            }
            until = until.or_else(|| Instant::now().checked_add(PATIENCE));
        }
        if self.waiting.is_empty() {
            return self.error.take().map(Err);
        }
        (self.rows, self.bytes) = (0, 0);
        let waiting = std::mem::take(&mut self.waiting);
        Some(match <[RecordBatch; 1]>::try_from(waiting) {
            Ok([alone]) => Ok(alone),
            Err(several) => concat_batches(&self.schema, &several).map_err(FlightError::Arrow),
        })
    }

    fn take(&mut self, batch: RecordBatch) {
        self.rows += batch.num_rows();
        self.bytes += bytes_of(&batch);
        self.waiting.push(batch);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{StringArray, UInt64Array},
        datatypes::{DataType, Field, Schema},
    };

    use super::*;

    fn batch(start: u64, rows: u64, text: &str) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("n", DataType::UInt64, false),
            Field::new("t", DataType::Utf8, false),
        ]);
        let numbers = UInt64Array::from_iter_values(start..start + rows);
        let texts = StringArray::from_iter_values((0..rows).map(|_| text));
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(numbers), Arc::new(texts)])
            .expect("columns of one length")
    }

    async fn sizes(batches: Vec<Result<RecordBatch, FlightError>>) -> Vec<Result<usize, String>> {
        let schema = batch(0, 0, "").schema();
        let mut next = 0;
        let each = gathered(schema, stream::iter(batches)).map(|batch| {
            let batch = batch.map_err(|error| error.to_string())?;
            let numbers: Vec<_> = batch["n"].as_any().downcast_ref::<UInt64Array>().into_iter().collect();
            for number in numbers[0].values() {
                assert_eq!(*number, next);
                next += 1;
            }
            Ok(batch.num_rows())
        });
        each.collect().await
    }

    #[tokio::test]
    async fn rows_keep_their_order_and_large_batches_their_size() {
        let small = (0..9).map(|index| Ok(batch(index * 8192, 8192, "")));
        assert_eq!(sizes(small.collect()).await, [Ok(32768), Ok(32768), Ok(8192)]);
        let wide = (0..4).map(|index| Ok(batch(index * 100, 100, &"x".repeat(6 << 10))));
        assert_eq!(sizes(wide.collect()).await, [Ok(200), Ok(200)]);
        let error = || Err(FlightError::DecodeError("broken".into()));
        let failing = vec![Ok(batch(0, 5, "")), Ok(batch(5, 5, "")), error()];
        let told = sizes(failing).await;
        assert_eq!((told.len(), &told[0]), (2, &Ok(10)));
        assert!(told[1].as_ref().is_err_and(|error| error.contains("broken")));
        assert_eq!(sizes(vec![]).await, []);
    }

    #[tokio::test]
    async fn rows_do_not_wait_for_others_that_do_not_come() {
        let batches = stream::iter([Ok(batch(0, 10, ""))]).chain(stream::pending());
        let mut gathered = Box::pin(gathered(batch(0, 0, "").schema(), batches));
        let first = tokio::time::timeout(Duration::from_secs(30), gathered.next()).await;
        assert_eq!(first.expect("they do not wait").expect("a batch").expect("rows").num_rows(), 10);
    }
}

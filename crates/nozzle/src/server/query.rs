//! One query on its way: planned, started, its batches coming.

use std::{pin::Pin, sync::Arc, time::Duration};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::{Stream, StreamExt, stream};
use nozzle_query::{Engine, LogicalPlan, QueryError, QueryStream, Rows, Session, StreamItem, StreamOptions};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinError,
    time::{Instant, timeout_at},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker, task_tracker::TaskTrackerToken};

use super::{
    ahead::{Ahead, Planned},
    error::{ApiError, ErrorCode},
    planning::Planning,
    stream::Resume,
};
use crate::threads;

/// Batches that wait between the scan and the encoder: enough that neither waits for the other,
/// few enough that a client that does not read costs little.
const BATCHES_AHEAD: usize = 4;

/// Rows as they are made. Dropping it ends the query.
pub type Batches = Pin<Box<dyn Stream<Item = Result<RecordBatch, ApiError>> + Send>>;

/// A query whose first batch is there, or that has none.
pub struct Running {
    /// The columns, and the blocks that what was read lacks: [`nozzle_query::gaps::GAPS`].
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Batches,
}

/// A statement, and the values of its parameters where it has some.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// The text.
    pub sql: String,
    /// One row.
    pub parameters: Option<RecordBatch>,
}

impl From<String> for Statement {
    fn from(sql: String) -> Self {
        Self { sql, parameters: None }
    }
}

impl Statement {
    pub(super) async fn plan(&self, session: &Session) -> Result<LogicalPlan, QueryError> {
        let plan = session.plan(&self.sql).await?;
        match &self.parameters {
            Some(row) => Session::bind(plan, row),
            None => Ok(plan),
        }
    }
}

/// What one query, and all of them, may take.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// How many run at a time; others wait for their turn.
    pub at_a_time: Option<usize>,
    /// How long one may take, from when it came to its last row.
    pub time: Option<Duration>,
}

/// How streams go on.
#[derive(Debug, Clone, Copy)]
pub struct StreamLimits {
    /// How many blocks a range has at most.
    pub most_blocks: u64,
    /// How often an item comes where there is nothing to tell.
    pub keep_alive: Duration,
}

/// A stream that was found to be one.
pub struct Following {
    /// The columns.
    pub schema: SchemaRef,
    /// What comes, without end.
    pub items: Pin<Box<dyn Stream<Item = Result<StreamItem, ApiError>> + Send>>,
}

/// What answers queries, for all servers of the process.
#[derive(Debug)]
pub struct Queries {
    engine: Arc<Engine>,
    threads: &'static Handle,
    limits: Limits,
    streams: StreamLimits,
    /// Of what is not run.
    planning: Planning,
    ahead: Arc<Ahead>,
    /// The turns of queries at a time, in the order in which they came; absent without a limit.
    turns: Option<Arc<Semaphore>>,
    /// The answers that were begun and are not at their end.
    begun: TaskTracker,
}

impl Queries {
    /// Over an engine, on threads of their own.
    pub fn new(engine: Engine, limits: Limits, streams: StreamLimits) -> std::io::Result<Self> {
        let threads = threads::shared()?;
        Ok(Self {
            engine: Arc::new(engine),
            threads,
            limits,
            streams,
            planning: Planning::new(threads, limits.time),
            ahead: Arc::default(),
            turns: limits.at_a_time.map(|most| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))),
            begun: TaskTracker::new(),
        })
    }

    /// Waits until every answer that was begun is at its end, and none was begun for a while since.
    pub async fn all_answered(&self, since: Duration) {
        self.begun.close();
        loop {
            self.begun.wait().await;
            tokio::time::sleep(since).await;
            if self.begun.is_empty() {
                return;
            }
        }
    }

    /// Looks at what there is, beside the queries.
    pub async fn looked<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Session) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let engine = Arc::clone(&self.engine);
        self.planning.run(async move { look(&engine.session().await?) }).await
    }

    /// Looks at a plan, of a stream too, without running it.
    pub async fn planned<T: Send + 'static>(
        &self,
        statement: Statement,
        look: impl FnOnce(&Session, &LogicalPlan) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let engine = Arc::clone(&self.engine);
        let planning = async move {
            let session = engine.session().await?;
            let plan = match nozzle_query::asks_for_stream(&statement.sql) {
                true => session.incremental(&statement.sql).await?.0,
                false => statement.plan(&session).await?,
            };
            look(&session, &plan)
        };
        self.planning.run(planning).await
    }

    /// The columns of a query, without running it.
    pub async fn schema(&self, statement: Statement) -> Result<SchemaRef, ApiError> {
        let (engine, ahead) = (Arc::clone(&self.engine), Arc::clone(&self.ahead));
        let planning = async move {
            let planned = Planned::of(&engine, &statement).await?;
            let schema = Arc::clone(&planned.schema);
            ahead.keep(statement, planned);
            Ok(schema)
        };
        self.planning.run(planning).await
    }

    /// Starts a query and waits for its first batch: most errors show by then, and can still be told
    /// as what they are.
    pub async fn start(&self, statement: Statement) -> Result<Running, ApiError> {
        let (engine, ahead) = (Arc::clone(&self.engine), Arc::clone(&self.ahead));
        let turns = self.turns.clone();
        let deadline = Deadline::of(self.limits.time);
        let (begun, columns) = oneshot::channel();
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        // A task of its own: the scan goes on while what it gave is encoded and sent.
        let scan = threads::spawn(self.threads, async move {
            let _turn = match turns {
                Some(turns) => turns.acquire_owned().await.ok(),
                None => None,
            };
            let (schema, mut rows) = begin(&engine, &ahead, &statement).await?;
            if begun.send(schema).is_err() {
                return Ok(());
            }
            while let Some(batch) = rows.next().await {
                // Who does not read keeps no turn for longer than a query may take.
                let sent = deadline.keep(sender.send(batch.map_err(QueryError::of_rows)));
                if sent.await?.is_err() {
                    return Ok(());
                }
            }
            Ok(())
        });
        let mut coming = Coming { receiver, scan: Some(scan), deadline, _begun: self.begun.token() };
        let schema = match deadline.keep(columns).await? {
            Ok(schema) => schema,
            Err(_) => return Err(coming.end().await.err().unwrap_or_else(lost)),
        };
        let first = coming.next().await.transpose()?;
        let rest =
            stream::unfold(coming, |mut coming| async { coming.next().await.map(|item| (item, coming)) });
        Ok(Running { schema, batches: Box::pin(stream::iter(first.map(Ok)).chain(rest)) })
    }
}

impl Queries {
    /// Whether a statement itself asks for a stream.
    pub async fn asks_for_stream(&self, sql: &str) -> Result<bool, ApiError> {
        let sql = sql.to_owned();
        threads::spawn(self.threads, async move { nozzle_query::asks_for_stream(&sql) }).await.map_err(defect)
    }

    /// The columns of a stream, without starting it.
    pub async fn stream_schema(&self, sql: String, resume: Resume) -> Result<SchemaRef, ApiError> {
        Ok(self.open(sql, resume).await?.schema())
    }

    async fn open(&self, sql: String, resume: Resume) -> Result<QueryStream, ApiError> {
        let StreamLimits { most_blocks, keep_alive } = self.streams;
        let options = StreamOptions { most_blocks, keep_alive, resume };
        self.planning.run(QueryStream::open(Arc::clone(&self.engine), sql, options)).await
    }

    /// Starts a stream. Once it is planned it takes no turn, as it never ends, and keeps no server from ending: its
    /// client goes on elsewhere. A client that does not read holds it up, and nothing else.
    pub async fn follow(&self, sql: String, resume: Resume) -> Result<Following, ApiError> {
        let mut stream = self.open(sql, resume).await?;
        let schema = stream.schema();
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let following = threads::spawn(self.threads, async move {
            loop {
                let item = tokio::select! {
                    item = stream.next() => item,
                    () = sender.closed() => return,
                };
                let is_over = item.is_err();
                if sender.send(item.map_err(ApiError::from)).await.is_err() || is_over {
                    return;
                }
            }
        });
        let items = stream::unfold((receiver, Some(following)), |(mut receiver, following)| async {
            match receiver.recv().await {
                Some(item) => Some((item, (receiver, following))),
                // It ends by an error, or because whoever made it is gone.
                None => {
                    let error = following?.await.err()?;
                    Some((Err(defect(error)), (receiver, None)))
                }
            }
        });
        Ok(Following { schema, items: Box::pin(items) })
    }
}

async fn begin(
    engine: &Engine,
    ahead: &Ahead,
    statement: &Statement,
) -> Result<(SchemaRef, Rows), QueryError> {
    let Planned { session, plan, schema } = match ahead.take(statement).await? {
        Some(planned) => planned,
        None => Planned::of(engine, statement).await?,
    };
    Ok((schema, session.execute(plan).await?))
}

/// The batches of a query, and what makes them.
struct Coming {
    receiver: mpsc::Receiver<Result<RecordBatch, QueryError>>,
    /// Gone once it has ended.
    scan: Option<AbortOnDropHandle<Result<(), ApiError>>>,
    deadline: Deadline,
    _begun: TaskTrackerToken,
}

impl Coming {
    async fn next(&mut self) -> Option<Result<RecordBatch, ApiError>> {
        match self.deadline.keep(self.receiver.recv()).await {
            Ok(Some(batch)) => Some(batch.map_err(ApiError::from)),
            // No more come: because that is all, or because whoever made them is gone.
            Ok(None) => self.end().await.err().map(Err),
            Err(late) => {
                self.scan = None;
                Some(Err(late))
            }
        }
    }

    /// How the scan has ended.
    async fn end(&mut self) -> Result<(), ApiError> {
        match self.scan.take() {
            Some(scan) => scan.await.map_err(defect)?,
            None => Ok(()),
        }
    }
}

/// When a query must be at its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Option<(Instant, Duration)>);

impl Deadline {
    pub(super) fn of(time: Option<Duration>) -> Self {
        Self(time.and_then(|time| Some((Instant::now().checked_add(time)?, time))))
    }

    /// What comes before the deadline.
    pub(super) async fn keep<T>(self, coming: impl Future<Output = T>) -> Result<T, ApiError> {
        let Some((end, time)) = self.0 else { return Ok(coming.await) };
        let late = |_| {
            let seconds = time.as_secs_f64();
            let message = format!(
                "the query took longer than the {seconds} s that this server gives one (query_timeout_secs)"
            );
            ApiError::new(ErrorCode::QueryTimeout, message)
        };
        timeout_at(end, coming).await.map_err(late)
    }
}

fn lost() -> ApiError {
    ApiError::new(ErrorCode::ExecutionError, "the query ended without an answer")
}

/// What a panic is for whoever asked: an error, and no end of the rows.
pub(super) fn defect(error: JoinError) -> ApiError {
    let why = error.try_into_panic().ok().and_then(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned())
    });
    let why = why.unwrap_or_else(|| "it was broken off".to_owned());
    if let Some(error) = QueryError::of_panic(&why) {
        return error.into();
    }
    tracing::error!(why, "a query ended by a defect");
    ApiError::new(ErrorCode::ExecutionError, format!("the query ended by a defect of the engine: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows are not at their end because whoever made them is gone.
    #[tokio::test]
    async fn a_panic_is_an_error_and_no_end_of_the_rows() {
        let (sender, receiver) = mpsc::channel(1);
        let tracker = TaskTracker::new();
        let scan = tokio::spawn(async move {
            let empty = RecordBatch::new_empty(SchemaRef::new(arrow::datatypes::Schema::empty()));
            sender.send(Ok(empty)).await.ok();
            panic!("an overflow");
        });
        let scan = Some(AbortOnDropHandle::new(scan));
        let mut coming = Coming { receiver, scan, deadline: Deadline::of(None), _begun: tracker.token() };
        assert!(coming.next().await.is_some_and(|batch| batch.is_ok()));
        let error = coming.next().await.expect("an item").expect_err("a panic");
        assert!(error.message.contains("an overflow"), "{error:?}");
        assert!(coming.next().await.is_none());
    }
}

//! One connection for all requests: each waits for the answer with its id, in whatever order answers
//! come. When the connection breaks, all that wait fail, and the next request dials again.

use std::{
    collections::BTreeMap,
    ops::Range,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Sink, SinkExt, StreamExt, stream::BoxStream};
use reqwest::StatusCode;
use sonic_rs::JsonValueTrait;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use super::Request;
use crate::http::{self, Failure, Response};

/// Requests that wait to be written.
const WRITE_QUEUE: usize = 64;

/// Before whoever only waits for heads dials again; whoever asks for something does so at once.
const REDIAL_PAUSE: Duration = Duration::from_secs(1);

/// Opens connections to a node.
#[async_trait]
pub(super) trait Dial: Send + Sync {
    /// A new connection.
    async fn dial(&self) -> Result<Wire, DialError>;
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum DialError {
    Failure(Failure),
    /// The node has answered, but not with a connection.
    Response(Response),
}

/// A connection that carries whole messages; its errors are words for a person.
pub(super) struct Wire {
    pub(super) outgoing: Pin<Box<dyn Sink<String, Error = String> + Send>>,
    pub(super) incoming: BoxStream<'static, Result<Bytes, String>>,
}

/// A node over connections that carry many requests.
pub(crate) struct Socket {
    node: Box<dyn Dial>,
    address: String,
    timeout: Duration,
    /// The connection in use. Whoever dials holds the lock, so that only one does.
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
}

impl Socket {
    pub(super) fn new(node: Box<dyn Dial>, address: String, timeout: Duration) -> Self {
        Self { node, address, timeout, connection: tokio::sync::Mutex::default() }
    }

    /// Sends a request and waits for its answer.
    pub async fn send(&self, request: Request) -> Result<Response, Failure> {
        let deadline = Instant::now() + self.timeout;
        let no_answer = || http::no_answer(&self.address, self.timeout);
        let dialled = tokio::time::timeout_at(deadline, self.connection()).await;
        let connection = match dialled.map_err(|_| no_answer())? {
            Ok(connection) => connection,
            Err(DialError::Failure(failure)) => return Err(failure),
            Err(DialError::Response(response)) => return Ok(response),
        };
        let asked = Instant::now();
        match tokio::time::timeout_at(deadline, connection.ask(request)).await {
            Ok(Ok(body)) => Ok(Response { status: StatusCode::OK, body, retry_after: None }),
            Ok(Err(why)) => {
                Err(Failure::Unavailable(format!("the connection to {} broke: {why}", self.address)))
            }
            Err(_) => {
                // Where nothing at all has come since, the other side may be gone; unless there was hardly time
                // for it, behind a connection that took long to be made.
                if asked.elapsed() >= self.timeout / 2 {
                    connection.waiting.fail_if_silent(asked);
                }
                Err(no_answer())
            }
        }
    }

    async fn connection(&self) -> Result<Arc<Connection>, DialError> {
        let mut connection = self.connection.lock().await;
        match &*connection {
            Some(open) if open.is_open() => Ok(open.clone()),
            _ => {
                let new = Arc::new(Connection::new(self.node.dial().await?));
                *connection = Some(new.clone());
                Ok(new)
            }
        }
    }

    /// Waits until the node tells of a new head. It is asked to once for each connection; one that
    /// does not do so only leaves the caller to poll.
    pub async fn head_moved(&self, subscribe: impl Fn() -> String) {
        loop {
            if let Ok(connection) = self.connection().await {
                connection.subscribe(&subscribe).await;
                tokio::select! {
                    () = connection.waiting.head.notified() => return,
                    () = connection.waiting.broken() => {}
                }
            }
            tokio::time::sleep(REDIAL_PAUSE).await;
        }
    }

    /// Gives the connection up.
    pub async fn redial(&self) {
        if let Some(open) = self.connection.lock().await.take() {
            open.waiting.fail("it is dialled anew");
        }
    }
}

/// A connection and those who wait for answers on it.
struct Connection {
    waiting: Arc<Waiting>,
    requests: mpsc::Sender<String>,
    /// Whether the node was asked to tell of new heads.
    is_subscribed: AtomicBool,
    /// Reads and writes, until the connection is dropped.
    _tasks: JoinSet<()>,
}

impl Connection {
    fn new(wire: Wire) -> Self {
        let waiting = Arc::new(Waiting::default());
        let (requests, to_write) = mpsc::channel(WRITE_QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(read(wire.incoming, waiting.clone()));
        tasks.spawn(write(to_write, wire.outgoing, waiting.clone()));
        Self { waiting, requests, is_subscribed: AtomicBool::new(false), _tasks: tasks }
    }

    fn is_open(&self) -> bool {
        self.waiting.state().broken.is_none()
    }

    /// Asks the node to tell of new heads, if that was not done. Nobody waits for the answer.
    async fn subscribe(&self, call: impl Fn() -> String) {
        if let Ok(place) = self.requests.reserve().await
            && !self.is_subscribed.swap(true, Ordering::Relaxed)
        {
            place.send(call());
        }
    }

    /// The answer to a request, or why the connection broke.
    async fn ask(&self, request: Request) -> Result<Bytes, String> {
        let Request { body, ids } = request;
        let (answer_in, answer) = oneshot::channel();
        // Also where this is dropped half-way, nobody waits any more.
        let _place = self.waiting.join(ids, answer_in)?;
        // Where nobody writes any more, whoever found out has told those who wait.
        self.requests.send(body).await.ok();
        answer.await.unwrap_or_else(|_| Err("it was given up".into()))
    }
}

async fn read(mut incoming: BoxStream<'static, Result<Bytes, String>>, waiting: Arc<Waiting>) {
    let why = loop {
        match incoming.next().await {
            Some(Ok(message)) => waiting.deliver(message),
            Some(Err(why)) => break why,
            None => break "the node has closed it".to_owned(),
        }
    };
    waiting.fail(&why);
}

async fn write(
    mut requests: mpsc::Receiver<String>,
    mut outgoing: Pin<Box<dyn Sink<String, Error = String> + Send>>,
    waiting: Arc<Waiting>,
) {
    while let Some(body) = requests.recv().await {
        if let Err(why) = outgoing.send(body).await {
            waiting.fail(&why);
            return;
        }
    }
}

type AnswerSender = oneshot::Sender<Result<Bytes, String>>;

/// Those who wait for answers, or for news.
#[derive(Default)]
struct Waiting {
    state: Mutex<State>,
    /// A new head was told of.
    head: Notify,
    /// Nothing comes any more.
    end: Notify,
}

#[derive(Default)]
struct State {
    /// By the first id of each request: the end of its ids, and who waits.
    requests: BTreeMap<u64, (u64, AnswerSender)>,
    /// Why nothing comes any more.
    broken: Option<String>,
    last_message: Option<Instant>,
}

/// A request's place among those that wait; it is given up when this is dropped.
struct WaitingPlace {
    waiting: Arc<Waiting>,
    first: u64,
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.waiting.state().requests.remove(&self.first);
    }
}

impl Waiting {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under this lock can leave half of it behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Self>, ids: Range<u64>, answer: AnswerSender) -> Result<WaitingPlace, String> {
        let mut state = self.state();
        if let Some(why) = &state.broken {
            return Err(why.clone());
        }
        state.requests.insert(ids.start, (ids.end, answer));
        Ok(WaitingPlace { waiting: self.clone(), first: ids.start })
    }

    /// Hands a message to the request that it answers. One that answers none is dropped: whoever
    /// asked has gone, or the node tells of something.
    fn deliver(&self, message: Bytes) {
        let addressee = addressee(&message);
        let mut state = self.state();
        state.last_message = Some(Instant::now());
        let first = match addressee {
            Addressee::Request(id) => {
                let below = state.requests.range(..=id).next_back();
                below.filter(|(_, (end, _))| id < *end).map(|(first, _)| *first)
            }
            // An error without an id is that of a request whose calls the node has not read: rather
            // a batch than a single call, and rather the oldest. A wrong guess costs a question more.
            Addressee::ErrorToSomebody => {
                let batch = state.requests.iter().find(|(first, (end, _))| end - *first > 1);
                batch.or_else(|| state.requests.iter().next()).map(|(first, _)| *first)
            }
            Addressee::Head => {
                self.head.notify_one();
                None
            }
            Addressee::Nobody => None,
        };
        if let Some((_, answer)) = first.and_then(|first| state.requests.remove(&first)) {
            // Whoever waited may be gone.
            answer.send(Ok(message)).ok();
        }
    }

    /// Nothing comes any more.
    fn fail(&self, why: &str) {
        let mut state = self.state();
        state.broken.get_or_insert_with(|| why.to_owned());
        for (_, (_, answer)) in std::mem::take(&mut state.requests) {
            answer.send(Err(why.to_owned())).ok();
        }
        self.end.notify_waiters();
    }

    /// Waits until nothing comes any more.
    async fn broken(&self) {
        let end = self.end.notified();
        tokio::pin!(end);
        // From here on an end is noticed.
        end.as_mut().enable();
        if self.state().broken.is_none() {
            end.await;
        }
    }

    fn fail_if_silent(&self, since: Instant) {
        if self.state().last_message.is_none_or(|last| last < since) {
            self.fail("nothing came on it any more");
        }
    }
}

/// Whom a message is for.
#[derive(Debug, PartialEq, Eq)]
enum Addressee {
    /// The request with this id.
    Request(u64),
    /// A request that cannot be told, which has failed.
    ErrorToSomebody,
    /// Whoever waits for a new head.
    Head,
    /// No request.
    Nobody,
}

/// Finds the id of an answer, or one of those of a batch, and reads no further.
fn addressee(message: &[u8]) -> Addressee {
    if message.trim_ascii_start().first() != Some(&b'[') {
        return addressee_of_one(message);
    }
    let answers = sonic_rs::to_array_iter(message).map_while(Result::ok);
    let mut found = Addressee::Nobody;
    for answer in answers {
        match addressee_of_one(answer.as_raw_str().as_bytes()) {
            Addressee::Nobody | Addressee::Head => {}
            Addressee::ErrorToSomebody => found = Addressee::ErrorToSomebody,
            request => return request,
        }
    }
    found
}

fn addressee_of_one(answer: &[u8]) -> Addressee {
    let mut is_error = false;
    for (key, value) in sonic_rs::to_object_iter(answer).map_while(Result::ok) {
        match &*key {
            "id" => {
                if let Some(id) = value.as_u64() {
                    return Addressee::Request(id);
                }
            }
            "error" => is_error = !value.is_null(),
            // New heads are all that is subscribed to.
            "method" if value.as_str() == Some("eth_subscription") => return Addressee::Head,
            "method" => return Addressee::Nobody,
            _ => {}
        }
    }
    if is_error { Addressee::ErrorToSomebody } else { Addressee::Nobody }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_wherever_it_stands() {
        let big = "x".repeat(100_000);
        let cases = [
            (r#"{"jsonrpc":"2.0","id":7,"result":null}"#.to_owned(), Addressee::Request(7)),
            (format!(r#"{{"result":{{"id":1,"data":"{big}"}},"id":7}}"#), Addressee::Request(7)),
            // What comes behind the id is not looked at.
            (r#"{"id":7,"result":{"cut"#.to_owned(), Addressee::Request(7)),
            (r#" [{"id":8,"result":1},{"id":7}]"#.to_owned(), Addressee::Request(8)),
            (r#"[{"id":null,"error":{}},{"id":7}]"#.to_owned(), Addressee::Request(7)),
            (r#"{"id":null,"error":{"code":-32600}}"#.to_owned(), Addressee::ErrorToSomebody),
            (r#"[{"id":null,"error":{"code":-32600}}]"#.to_owned(), Addressee::ErrorToSomebody),
            // A result is never guessed to be somebody's.
            (r#"{"id":null,"result":{}}"#.to_owned(), Addressee::Nobody),
            (r#"{"method":"eth_subscription","params":{"id":7}}"#.to_owned(), Addressee::Head),
            (r#"{"method":"other","params":{"id":7}}"#.to_owned(), Addressee::Nobody),
            ("odd".to_owned(), Addressee::Nobody),
            (String::new(), Addressee::Nobody),
        ];
        for (message, expected) in cases {
            assert_eq!(addressee(message.as_bytes()), expected, "{:.60}", message);
        }
    }

    #[tokio::test]
    async fn answers_find_whoever_waits_for_one_of_their_ids() {
        let waiting = Arc::new(Waiting::default());
        let join = |ids: Range<u64>| {
            let (sender, answer) = oneshot::channel();
            (waiting.join(ids, sender).expect("it is open"), answer)
        };
        let (_a, mut one) = join(1..2);
        let (_b, mut batch) = join(2..5);
        let (c, _gone) = join(5..6);
        drop(c);
        for foreign in [r#"{"id":5}"#, r#"{"id":0}"#, r#"{"id":9}"#] {
            waiting.deliver(Bytes::from_static(foreign.as_bytes()));
        }
        assert!(one.try_recv().is_err() && batch.try_recv().is_err());
        waiting.deliver(Bytes::from_static(br#"[{"id":4},{"id":2}]"#));
        waiting.deliver(Bytes::from_static(br#"{"id":1}"#));
        assert_eq!(one.await.expect("an answer").expect("bytes"), r#"{"id":1}"#);
        assert_eq!(batch.await.expect("an answer").expect("bytes"), r#"[{"id":4},{"id":2}]"#);
        let (_d, late) = join(6..7);
        waiting.fail("the cable is cut");
        assert_eq!(late.await.expect("an answer"), Err("the cable is cut".to_owned()));
        let (sender, _) = oneshot::channel();
        assert!(waiting.join(7..8, sender).is_err());
    }
}

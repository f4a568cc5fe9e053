//! A proxy before an object store: it counts what passes, makes it late, and breaks it.
//!
//! Requests and answers pass byte for byte, the `Host` header too, which S3's signatures cover.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
    runtime::Runtime,
};

use crate::rng::Rng;

/// A way in which a request goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreFault {
    /// 503 with S3's code `SlowDown`; the store never sees it.
    SlowDown,
    /// 500; the store never sees it.
    ServerError,
    /// The connection is reset; the store never sees it.
    Reset,
    /// The store does it, and its answer is lost.
    LostAnswer,
    /// The answer ends in the middle.
    CutAnswer,
    /// The answer is late.
    Late,
}

impl StoreFault {
    /// Every way.
    pub const ALL: [Self; 6] =
        [Self::SlowDown, Self::ServerError, Self::Reset, Self::LostAnswer, Self::CutAnswer, Self::Late];
}

/// How a proxy behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreProxyOptions {
    /// What each request takes longer.
    pub latency: Duration,
    /// How many of 1,000 requests go wrong.
    pub faults_per_1000: u64,
    /// What decides which, and how.
    pub seed: u64,
}

/// What has passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passed {
    /// Requests, by method.
    pub requests: BTreeMap<String, u64>,
    /// Bytes of the answers' bodies.
    pub bytes: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<StoreFault, u64>,
}

/// A running proxy with threads of its own; ends when dropped.
#[derive(Debug)]
pub struct StoreProxy {
    shared: Arc<Shared>,
    url: String,
    /// Only absent while it is being dropped.
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    store: SocketAddr,
    options: StoreProxyOptions,
    is_healed: AtomicBool,
    asked: AtomicU64,
    passed: Mutex<Passed>,
}

impl StoreProxy {
    /// A proxy before the store at an address.
    pub fn start(store: SocketAddr, options: StoreProxyOptions) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on a free port")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store-proxy")
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared {
            store,
            options,
            is_healed: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            passed: Mutex::default(),
        });
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let serving = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, Arc::clone(&serving)));
            }
        });
        Ok(Self { shared, url, runtime: Some(runtime) })
    }

    /// The proxy's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.shared.is_healed.store(true, Relaxed);
    }

    /// What has passed since the last time, and begins to count anew.
    pub fn take_passed(&self) -> Passed {
        std::mem::take(&mut self.shared.passed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for StoreProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The owner may itself be asynchronous, where waiting for threads is not allowed.
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn count(&self, count: impl FnOnce(&mut Passed)) {
        count(&mut self.passed.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What goes wrong with the next request.
    fn fault(&self) -> Option<StoreFault> {
        let asked = self.asked.fetch_add(1, Relaxed);
        let mut rng = Rng::nth(self.options.seed, asked);
        let is_due = rng.below(1000) < self.options.faults_per_1000 && !self.is_healed.load(Relaxed);
        let fault = is_due.then(|| *rng.pick(&StoreFault::ALL))?;
        self.count(|passed| *passed.faults.entry(fault).or_default() += 1);
        Some(fault)
    }
}

/// One message, as it came.
struct Message {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Message {
    /// Its first line.
    fn start(&self) -> String {
        String::from_utf8_lossy(self.head.split(|byte| *byte == b'\r').next().unwrap_or_default())
            .into_owned()
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufStream::new(client);
    let mut store: Option<BufStream<TcpStream>> = None;
    while let Some(request) = receive(&mut client, None).await? {
        let method = request.start().split(' ').next().unwrap_or_default().to_owned();
        shared.count(|passed| *passed.requests.entry(method.clone()).or_default() += 1);
        tokio::time::sleep(shared.options.latency).await;
        let fault = shared.fault();
        match fault {
            Some(StoreFault::SlowDown) => {
                refuse(&mut client, 503, "SlowDown").await?;
                continue;
            }
            Some(StoreFault::ServerError) => {
                refuse(&mut client, 500, "InternalError").await?;
                continue;
            }
            Some(StoreFault::Reset) => return client.get_ref().set_zero_linger(),
            Some(StoreFault::Late) => tokio::time::sleep(Duration::from_millis(400)).await,
            Some(StoreFault::LostAnswer | StoreFault::CutAnswer) | None => {}
        }
        let answer = ask(&mut store, shared.store, &request, &method).await?;
        shared.count(|passed| passed.bytes += answer.body.len() as u64);
        match fault {
            Some(StoreFault::LostAnswer) => return client.get_ref().set_zero_linger(),
            Some(StoreFault::CutAnswer) => {
                client.write_all(&answer.head).await?;
                client.write_all(&answer.body[..answer.body.len() / 2]).await?;
                return client.flush().await;
            }
            _ => {
                client.write_all(&answer.head).await?;
                client.write_all(&answer.body).await?;
                client.flush().await?;
            }
        }
    }
    Ok(())
}

/// Asks the store, on the connection of before where that is still good.
async fn ask(
    connection: &mut Option<BufStream<TcpStream>>,
    store: SocketAddr,
    request: &Message,
    method: &str,
) -> io::Result<Message> {
    loop {
        let (mut stream, is_fresh) = match connection.take() {
            Some(stream) => (stream, false),
            None => (BufStream::new(TcpStream::connect(store).await?), true),
        };
        let asked = async {
            stream.write_all(&request.head).await?;
            stream.write_all(&request.body).await?;
            stream.flush().await?;
            receive(&mut stream, Some(method)).await
        };
        match asked.await {
            Ok(Some(answer)) => {
                *connection = Some(stream);
                return Ok(answer);
            }
            Ok(None) | Err(_) if !is_fresh => {}
            Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return Err(error),
        }
    }
}

async fn refuse(client: &mut BufStream<TcpStream>, status: u16, code: &str) -> io::Result<()> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>a fault</Message></Error>");
    let head = format!(
        "HTTP/1.1 {status} -\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(body.as_bytes()).await?;
    client.flush().await
}

/// The next message; `None` where the other side has closed the connection. `answers` is the method of
/// the request that it answers.
async fn receive(stream: &mut BufStream<TcpStream>, answers: Option<&str>) -> io::Result<Option<Message>> {
    let (mut head, mut length, mut is_chunked) = (vec![], 0, false);
    loop {
        let start = head.len();
        if stream.read_until(b'\n', &mut head).await? == 0 {
            return if head.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let line = String::from_utf8_lossy(&head[start..]);
        let Some((name, value)) = line.split_once(':') else { if line == "\r\n" { break } else { continue } };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        }
        is_chunked |= name.eq_ignore_ascii_case("transfer-encoding") && value.trim() == "chunked";
    }
    let mut message = Message { head, body: vec![] };
    let start = message.start();
    let has_no_body =
        answers == Some("HEAD") || answers.is_some() && (start.contains(" 204 ") || start.contains(" 304 "));
    if has_no_body {
        return Ok(Some(message));
    }
    if is_chunked {
        read_chunks(stream, &mut message.body).await?;
    } else {
        message.body.resize(length, 0);
        stream.read_exact(&mut message.body).await?;
    }
    Ok(Some(message))
}

/// The chunks as they come, with their lengths.
async fn read_chunks(stream: &mut BufStream<TcpStream>, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let start = body.len();
        stream.read_until(b'\n', body).await?;
        let line = String::from_utf8_lossy(&body[start..]).trim().to_owned();
        let digits = line.split(';').next().unwrap_or_default();
        let length = usize::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let start = body.len();
        body.resize(start + length + 2, 0);
        stream.read_exact(&mut body[start..]).await?;
        if length == 0 {
            return Ok(());
        }
    }
}

//! A TCP proxy: a server that is far away, or that nobody reaches.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::{mpsc, watch},
    time::Instant,
};

/// Enough: it only copies.
const THREADS: usize = 2;

/// How much is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// What may be on the way, in chunks: the delay holds nobody up who sends much.
const CHUNKS_ON_THE_WAY: usize = 1024;

/// Passes on what comes over TCP, later where it is to be, with threads of its own; ends when dropped.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
    /// Each change breaks the connections that there are.
    shut: watch::Sender<()>,
    runtime: Option<Runtime>,
}

impl TcpProxy {
    /// A proxy on 127.0.0.1 before `server`: each byte arrives `delay` later, both ways.
    pub fn start(server: SocketAddr, delay: Duration) -> anyhow::Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), server, delay)
    }

    /// As [`TcpProxy::start`], on another address of this machine.
    pub fn start_on(ip: IpAddr, server: SocketAddr, delay: Duration) -> anyhow::Result<Self> {
        let listener = StdListener::bind((ip, 0)).with_context(|| format!("a free port of {ip}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("tcp-proxy")
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let is_open = Arc::new(AtomicBool::new(true));
        let shut = watch::Sender::new(());
        runtime.spawn(accept(listener, server, delay, Arc::clone(&is_open), shut.clone()));
        Ok(Self { address, is_open, shut, runtime: Some(runtime) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks every connection, and each new one at once.
    pub fn shut(&self) {
        self.is_open.store(false, Ordering::SeqCst);
        self.shut.send_replace(());
    }

    /// Takes new connections again.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        // Also where it is dropped within another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    delay: Duration,
    is_open: Arc<AtomicBool>,
    shut: watch::Sender<()>,
) {
    while let Ok((client, _)) = listener.accept().await {
        // Before the look at `is_open`: whoever shuts it after that is heard.
        let mut shut = shut.subscribe();
        if is_open.load(Ordering::SeqCst) {
            tokio::spawn(async move {
                tokio::select! {
                    () = connect(client, server, delay) => {}
                    _ = shut.changed() => {}
                }
            });
        }
    }
}

async fn connect(client: TcpStream, server: SocketAddr, delay: Duration) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    for end in [&client, &server] {
        // Small messages are not to wait for an acknowledgement.
        end.set_nodelay(true).ok();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(carry(from_client, to_server, delay), carry(from_server, to_client, delay));
}

/// Writes each chunk `delay` after it was read, however many are on the way.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_ON_THE_WAY);
    let read = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + delay, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = on_the_way.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        to.shutdown().await.ok();
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    use super::*;

    /// Answers each connection with what it sends.
    fn echo() -> SocketAddr {
        let listener = StdListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    fn said_back(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text)?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn bytes_arrive_later_both_ways_and_much_takes_no_longer_than_little() {
        // So long that a busy machine does not take the time of 64 of it.
        let delay = Duration::from_millis(200);
        let proxy = TcpProxy::start(echo(), delay).expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address()).expect("a connection");
        let much = vec![7; 4 << 20];
        let reader = stream.try_clone().expect("the other half");
        let started = std::time::Instant::now();
        let writer = std::thread::spawn({
            let much = much.clone();
            move || stream.write_all(&much)
        });
        let mut answer = vec![];
        reader.take(much.len() as u64).read_to_end(&mut answer).expect("an answer");
        writer.join().expect("a thread").expect("it is sent");
        assert_eq!(answer.len(), much.len());
        assert!(answer == much && started.elapsed() >= delay * 2);
        // One chunk after the other would take 64 delays each way.
        assert!(started.elapsed() < delay * 64, "{:?}", started.elapsed());
    }

    #[test]
    fn a_shut_proxy_breaks_connections_and_keeps_its_port() {
        let proxy = TcpProxy::start(echo(), Duration::ZERO).expect("a proxy");
        let connect = || TcpStream::connect(proxy.address()).expect("a connection");
        let mut stream = connect();
        assert_eq!(said_back(&mut stream, b"one").expect("an answer"), b"one");
        proxy.shut();
        assert!(said_back(&mut stream, b"two").is_err());
        assert!(said_back(&mut connect(), b"three").is_err());
        proxy.open();
        assert_eq!(said_back(&mut connect(), b"four").expect("an answer"), b"four");
    }
}

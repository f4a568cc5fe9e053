//! The connections of a server: plain, or with TLS where the configuration has a certificate.

use std::{
    io::{Error, ErrorKind, IoSlice},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use anyhow::Context as _;
use futures::{Stream, StreamExt, stream};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, sync::CancellationToken};
use tonic::transport::server::{Connected, TcpIncoming};

use crate::config::Config;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes that are under way at a time; others wait in the listener's queue.
const HANDSHAKES: usize = 1024;

/// How often there is a look at whether the certificate was renewed.
const RENEWED: Duration = Duration::from_secs(2);

/// After how long a quiet connection is asked whether its client is still there, and how often it may stay without
/// an answer. A machine that is gone says nothing of it.
const ALIVE_AFTER: Duration = Duration::from_secs(60);
const ALIVE_EVERY: Duration = Duration::from_secs(15);
const ALIVE_TIMES: u32 = 4;

/// How often a client of HTTP/2 is asked that, and how long its answer may take: before it stand the rows that are
/// on their way on a slow line, and many a client reads nothing while it works on what it has.
pub const PING_EVERY: Duration = Duration::from_secs(60);
pub const PING_TIME: Duration = Duration::from_secs(15 * 60);

/// The least that any client begins with: the preface of HTTP/2 has so many bytes, and no request of HTTP/1.1 fewer.
const FIRST_BYTES: usize = 24;

/// How long nothing is accepted after that has failed: mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// The certificate of the servers, as it is at present.
#[derive(Debug, Clone)]
pub struct Tls {
    files: Files,
    at_present: watch::Sender<Arc<ServerConfig>>,
}

/// Where certificates lie, as PEM.
#[derive(Debug, Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl Tls {
    /// What `[tls]` says; `None` where it names no certificate.
    pub fn of(config: &Config) -> anyhow::Result<Option<Self>> {
        let tls = &config.tls;
        if tls.cert.as_os_str().is_empty() {
            return Ok(None);
        }
        let from_base = |path: &PathBuf| config.base.join(path);
        let client_ca = (!tls.client_ca.as_os_str().is_empty()).then(|| from_base(&tls.client_ca));
        let files = Files { cert: from_base(&tls.cert), key: from_base(&tls.key), client_ca };
        let at_present = watch::Sender::new(Arc::new(files.read()?));
        Ok(Some(Self { files, at_present }))
    }

    /// Whether only clients are let in that have a certificate of the configured authority.
    pub fn asks_for_certificates(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// Takes up renewed certificates until `stop`. Those that cannot be used are told of, and the last good ones
    /// stay.
    pub async fn renew(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut seen = self.files.contents().await;
        while stop.run_until_cancelled(sleep(RENEWED)).await.is_some() {
            let now = self.files.contents().await;
            if now == seen {
                continue;
            }
            seen = now;
            match self.files.read() {
                Ok(renewed) => {
                    self.at_present.send_replace(Arc::new(renewed));
                    tracing::info!("the servers use the renewed certificate {}", self.files.cert.display());
                }
                Err(error) => {
                    tracing::error!(
                        "the certificate has changed and cannot be used, so the last one stays: {error:#}"
                    );
                }
            }
        }
        Ok(())
    }

    async fn shake_hands(acceptor: TlsAcceptor, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        timeout(HANDSHAKE, acceptor.accept(stream)).await.map_err(Error::other)?
    }
}

impl Files {
    fn read(&self) -> anyhow::Result<ServerConfig> {
        let chain = certificates(&self.cert, "tls.cert")?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .with_context(|| format!("tls.key: {} has no private key in PEM form", self.key.display()))?;
        let builder = match &self.client_ca {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(file, "tls.client_ca")? {
                    roots.add(root).with_context(|| format!("tls.client_ca: {}", file.display()))?;
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
                ServerConfig::builder().with_client_cert_verifier(verifier.context("tls.client_ca")?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).with_context(|| {
            format!("tls.cert and tls.key: {} and {}", self.cert.display(), self.key.display())
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// What lies there, whatever it is.
    async fn contents(&self) -> Vec<Option<Vec<u8>>> {
        let mut contents = vec![];
        for file in [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            contents.push(tokio::fs::read(file).await.ok());
        }
        contents
    }
}

fn certificates(file: &PathBuf, key: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let context = || format!("{key}: {} has no certificate in PEM form", file.display());
    let certificates = CertificateDer::pem_file_iter(file).with_context(context)?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().with_context(context)?;
    anyhow::ensure!(!certificates.is_empty(), context());
    Ok(certificates)
}

/// What a server accepts.
pub struct Incoming {
    listener: TcpIncoming,
    tls: Option<Tls>,
    /// How long a client may say nothing at first.
    silence: Duration,
    /// A client that is slow to shake hands keeps nobody else waiting.
    shaking_hands: JoinSet<Result<Connection, Error>>,
}

impl Incoming {
    /// Of a listener, plain where there is no certificate. A client that says nothing for so long is let go.
    pub fn new(listener: TcpListener, tls: Option<Tls>, silence: Duration) -> Self {
        // Answers are sent as they are made: nothing is gained by waiting for more.
        let listener = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(ALIVE_AFTER))
            .with_keepalive_interval(Some(ALIVE_EVERY))
            .with_keepalive_retries(Some(ALIVE_TIMES));
        Self { listener, tls, silence, shaking_hands: JoinSet::new() }
    }

    /// The connections, one after the other, without end.
    pub fn connections(self) -> impl Stream<Item = Result<Connection, Error>> {
        stream::unfold(self, |mut incoming| async {
            let connection = incoming.accept().await;
            Some((Ok(connection), incoming))
        })
    }

    /// Takes the next connection, and gives it where it needs no handshake.
    async fn take(&mut self, accepted: Result<TcpStream, Error>) -> Option<Connection> {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                sleep(PAUSE).await;
                return None;
            }
        };
        let silence = self.silence;
        let Some(tls) = &self.tls else { return Some(Connection::new(Either::Left(stream), silence)) };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.at_present.borrow()));
        self.shaking_hands.spawn(async move {
            let stream = Tls::shake_hands(acceptor, stream).await?;
            Ok(Connection::new(Either::Right(Box::new(stream)), silence))
        });
        None
    }

    /// The next connection.
    pub async fn accept(&mut self) -> Connection {
        loop {
            let has_room = self.shaking_hands.len() < HANDSHAKES;
            tokio::select! {
                Some(accepted) = self.listener.next(), if has_room => {
                    if let Some(connection) = self.take(accepted).await {
                        return connection;
                    }
                }
                Some(shaken) = self.shaking_hands.join_next() => match shaken {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(error)) => tracing::debug!("a client could not shake hands: {error}"),
                    Err(error) => tracing::error!("a handshake ended by a defect: {error}"),
                },
            }
        }
    }
}

/// A connection of a client.
pub struct Connection {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    /// For how long it may still be too little that has come; none once it is enough.
    silence: Option<Pin<Box<Sleep>>>,
    /// The bytes that have come.
    heard: usize,
}

impl Connection {
    fn new(stream: Either<TcpStream, Box<TlsStream<TcpStream>>>, silence: Duration) -> Self {
        Self { stream, silence: Some(Box::pin(sleep(silence))), heard: 0 }
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.heard = self.heard.saturating_add(buffer.filled().len() - before);
        if self.heard >= FIRST_BYTES {
            self.silence = None;
        }
        match &mut self.silence {
            Some(silence) if read.is_pending() => {
                silence.as_mut().poll(context).map(|()| Err(Error::from(ErrorKind::TimedOut)))
            }
            _ => read,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux tells which timer of a connection runs: 2 is the one that asks whether the other side is there.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_quiet_client_is_asked_whether_it_is_still_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("a connection");
        let mut incoming = Incoming::new(listener, None, HANDSHAKE);
        let _connection = incoming.accept().await;
        let port = |address: std::net::SocketAddr| format!("0100007F:{:04X}", address.port());
        let (own, other) = (port(address), port(client.local_addr().expect("an address")));
        let connections = std::fs::read_to_string("/proc/self/net/tcp").expect("Linux's list");
        let fields = connections.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let timers: Vec<&str> =
            fields.filter(|fields| fields[1] == own && fields[2] == other).map(|fields| fields[5]).collect();
        assert!(matches!(timers[..], [timer] if timer.starts_with("02:")), "{timers:?}");
    }
}

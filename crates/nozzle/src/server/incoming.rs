//! The connections of a server: plain, or with TLS where the configuration has a certificate.

use std::{
    io::{Error, IoSlice},
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use anyhow::Context as _;
use axum::serve::Listener;
use futures::{Stream, stream};
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
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, sync::CancellationToken};
use tonic::transport::server::Connected;

use crate::config::Config;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes that are under way at a time; others wait in the listener's queue.
const HANDSHAKES: usize = 1024;

/// How often there is a look at whether the certificate was renewed.
const RENEWED: Duration = Duration::from_secs(2);

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
    listener: TcpListener,
    tls: Option<Tls>,
    /// A client that is slow to shake hands keeps nobody else waiting.
    shaking_hands: JoinSet<Result<(Connection, SocketAddr), Error>>,
}

impl Incoming {
    /// Of a listener, plain where there is no certificate.
    pub fn new(listener: TcpListener, tls: Option<Tls>) -> Self {
        Self { listener, tls, shaking_hands: JoinSet::new() }
    }

    /// The connections, one after the other, without end.
    pub fn connections(self) -> impl Stream<Item = Result<Connection, Error>> {
        stream::unfold(self, |mut incoming| async {
            let (connection, _) = incoming.accept().await;
            Some((Ok(connection), incoming))
        })
    }

    /// Takes the next connection, and gives it where it needs no handshake.
    async fn take(
        &mut self,
        accepted: Result<(TcpStream, SocketAddr), Error>,
    ) -> Option<(Connection, SocketAddr)> {
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                sleep(PAUSE).await;
                return None;
            }
        };
        // Answers are sent as they are made: nothing is gained by waiting for more.
        stream.set_nodelay(true).ok();
        let Some(tls) = &self.tls else { return Some((Connection(Either::Left(stream)), address)) };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.at_present.borrow()));
        self.shaking_hands.spawn(async move {
            let stream = Tls::shake_hands(acceptor, stream).await?;
            Ok((Connection(Either::Right(Box::new(stream))), address))
        });
        None
    }
}

impl Listener for Incoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let has_room = self.shaking_hands.len() < HANDSHAKES;
            tokio::select! {
                accepted = self.listener.accept(), if has_room => {
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

    fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.listener.local_addr()
    }
}

/// A connection of a client.
pub struct Connection(Either<TcpStream, Box<TlsStream<TcpStream>>>);

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
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

//! As much HTTP/1.1 as a JSON-RPC client speaks, and the ways to break it.

use std::io;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
};

/// More than any request of a test has.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// A connection of a client.
pub(super) struct Connection(BufStream<TcpStream>);

/// A response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// Seconds, for the header of that name.
    pub(super) retry_after: Option<u32>,
    pub(super) body: String,
}

/// What a client gets.
#[derive(Debug)]
pub(super) enum Outcome {
    Response(Response),
    /// The response up to somewhere in its body, then the end of the connection.
    Cut(Response),
    /// A reset of the connection.
    Reset,
    /// Nothing at all.
    Silence,
}

impl Response {
    /// A good response.
    pub(super) fn json(body: String) -> Self {
        Self { status: 200, content_type: "application/json", retry_after: None, body }
    }

    fn head(&self) -> String {
        // Clients go by the number.
        let (status, content_type, length) = (self.status, self.content_type, self.body.len());
        let retry_after =
            self.retry_after.map_or(String::new(), |seconds| format!("retry-after: {seconds}\r\n"));
        format!(
            "HTTP/1.1 {status} -\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n{retry_after}\r\n"
        )
    }
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Without it small answers may wait for the client's acknowledgement; they only come later.
        stream.set_nodelay(true).ok();
        Self(BufStream::new(stream))
    }

    /// The body of the next request; `None` where the client has closed the connection.
    pub(super) async fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        let (mut line, mut length, mut is_first) = (String::new(), 0, true);
        loop {
            line.clear();
            if self.0.read_line(&mut line).await? == 0 {
                return if is_first { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            is_first = false;
            let Some((name, value)) = line.split_once(':') else {
                if line == "\r\n" { break } else { continue }
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
            }
        }
        if length > MAX_REQUEST_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok(Some(body))
    }

    /// Answers; `false` where the connection is over.
    pub(super) async fn send(&mut self, outcome: Outcome) -> io::Result<bool> {
        match outcome {
            Outcome::Response(response) => {
                self.0.write_all(response.head().as_bytes()).await?;
                self.0.write_all(response.body.as_bytes()).await?;
                self.0.flush().await?;
                return Ok(true);
            }
            Outcome::Cut(response) => {
                self.0.write_all(response.head().as_bytes()).await?;
                self.0.write_all(&response.body.as_bytes()[..response.body.len() / 2]).await?;
                self.0.flush().await?;
            }
            Outcome::Reset => self.0.get_ref().set_zero_linger()?,
            // Until the client has had enough.
            Outcome::Silence => drop(self.0.read_u8().await),
        }
        Ok(false)
    }
}

//! JSON-RPC over a Unix socket: JSON after JSON, with or without anything between.

use std::{io, path::PathBuf, pin::Pin};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, sink, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::OwnedReadHalf},
};
use url::Url;

use super::socket::{Dial, DialError, Wire};
use crate::{
    evm_rpc::EvmRpcConfig,
    http::{self, Failure, MAX_ANSWER_BYTES},
};

/// The least room that is made for a read.
const READ_BYTES: usize = 64 << 10;

/// The socket of a node.
#[derive(Debug)]
pub(super) struct Node {
    path: PathBuf,
}

impl Node {
    /// Nothing is opened yet.
    pub(super) fn new(config: &EvmRpcConfig) -> Result<Self, String> {
        if config.auth_token.is_some() || config.auth_header.is_some() {
            return Err(
                "IPC carries no `auth_token` and no `auth_header`: remove them, the socket's file says who may use it"
                    .into(),
            );
        }
        let path =
            path_of(&config.url).ok_or("`url` is not a path that IPC can use; write /path/to/geth.ipc")?;
        Ok(Self { path })
    }
}

fn path_of(url: &Url) -> Option<PathBuf> {
    if url.host_str().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    // Only of this scheme are paths unpacked.
    Url::parse(&format!("file://{}", url.path())).ok()?.to_file_path().ok()
}

#[async_trait]
impl Dial for Node {
    async fn dial(&self) -> Result<Wire, DialError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| {
            let path = self.path.display();
            DialError::Failure(Failure::Unavailable(match error.kind() {
                io::ErrorKind::NotFound => {
                    format!(
                        "there is no socket {path}; check that the node runs, and where it has its IPC path"
                    )
                }
                io::ErrorKind::PermissionDenied => {
                    format!("the socket {path} may not be opened; run as the user who runs the node")
                }
                _ => http::not_connected(&path.to_string(), &error),
            }))
        })?;
        let (reader, writer) = stream.into_split();
        let outgoing = sink::unfold(writer, |mut writer, body: String| async move {
            writer.write_all(body.as_bytes()).await.map_err(|error| error.to_string())?;
            Ok(writer)
        });
        let messages =
            Messages { reader, buffer: BytesMut::new(), scanned: 0, splitter: Splitter::default() };
        let incoming = stream::unfold(messages, |mut messages| async {
            messages.next().await.transpose().map(|message| (message, messages))
        });
        Ok(Wire { outgoing: Box::pin(outgoing) as Pin<Box<_>>, incoming: incoming.boxed() })
    }
}

/// Cuts what a socket sends into messages.
struct Messages {
    reader: OwnedReadHalf,
    buffer: BytesMut,
    /// How much of the buffer the splitter has seen.
    scanned: usize,
    splitter: Splitter,
}

impl Messages {
    /// The next message; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(end) = self.splitter.find_end(&self.buffer[self.scanned..])? {
                let message = self.buffer.split_to(self.scanned + end).freeze();
                self.scanned = 0;
                return Ok(Some(message));
            }
            self.scanned = self.buffer.len();
            if self.scanned > MAX_ANSWER_BYTES {
                return Err(http::too_large());
            }
            self.buffer.reserve(READ_BYTES);
            let read = self.reader.read_buf(&mut self.buffer).await.map_err(|error| error.to_string())?;
            if read == 0 {
                return Ok(None);
            }
        }
    }
}

/// Finds where a JSON object or array ends, in pieces as they come.
#[derive(Debug, Default)]
struct Splitter {
    depth: usize,
    is_in_string: bool,
    is_escaped: bool,
}

impl Splitter {
    /// Looks through the next piece; gives the place behind the end, and is ready for the next
    /// message there.
    fn find_end(&mut self, piece: &[u8]) -> Result<Option<usize>, String> {
        for (at, byte) in piece.iter().enumerate() {
            if self.is_in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.is_in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Ok(Some(at + 1));
                    }
                }
                b'"' if self.depth > 0 => self.is_in_string = true,
                _ if self.depth > 0 || byte.is_ascii_whitespace() => {}
                _ => return Err("what it sends is not JSON".into()),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of a text that comes in pieces of a size.
    fn split(text: &str, size: usize) -> Result<Vec<String>, String> {
        let (mut splitter, mut messages, mut message) = (Splitter::default(), vec![], vec![]);
        for piece in text.as_bytes().chunks(size) {
            let mut rest = piece;
            while let Some(end) = splitter.find_end(rest)? {
                message.extend_from_slice(&rest[..end]);
                messages.push(String::from_utf8(std::mem::take(&mut message)).expect("text"));
                rest = &rest[end..];
            }
            message.extend_from_slice(rest);
        }
        Ok(messages)
    }

    #[test]
    fn messages_are_split_by_their_structure_wherever_they_are_cut() {
        let cases = [
            (r#"{"a":1}{"b":[2,{}]}"#, vec![r#"{"a":1}"#, r#"{"b":[2,{}]}"#]),
            ("{}\n[1]\n", vec!["{}", "\n[1]"]),
            (r#"{"a":"}{\"}"}[]"#, vec![r#"{"a":"}{\"}"}"#, "[]"]),
            (r#"{"a\\":"\\"}{"#, vec![r#"{"a\\":"\\"}"#]),
        ];
        for (text, expected) in cases {
            for size in 1..=text.len() {
                assert_eq!(split(text, size).expect("JSON"), expected, "{text} in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_cannot_begin_a_message_is_refused() {
        for text in ["HTTP/1.1 400", "}", "\"text\"", "{}x"] {
            assert!(split(text, 3).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_name_a_path() {
        let path = |url: &str| path_of(&url.parse().expect("a URL"));
        assert_eq!(path("ipc:///run/geth.ipc"), Some("/run/geth.ipc".into()));
        assert_eq!(path("file:///a%20b/geth.ipc"), Some("/a b/geth.ipc".into()));
        assert_eq!(path("ipc://run/geth.ipc"), None);
    }
}

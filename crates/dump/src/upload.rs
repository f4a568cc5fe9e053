//! The way of a file to its store: piece by piece, as large parts where the store takes those.
//!
//! A store keeps the parts of an upload that is never completed, and nobody sees them. So the id of such
//! an upload is written down before its first part: whoever cleans up after a crash ends it by that.

use std::sync::Arc;

use bytes::Bytes;
use nozzle_metadata::{LocationId, MetadataStore};
use nozzle_query::stores::persistently;
use object_store::{
    ObjectStoreExt, PutPayload,
    buffered::BufWriter,
    multipart::{MultipartStore, PartId},
};
use tokio::{io::AsyncWriteExt, task::JoinSet};

use crate::{error::DumpError, files::ObjectRef};

/// Bytes that are gathered before they are sent to the store as one part. Stores want parts of at least
/// 5 MiB, all of one size but the last.
const PART_BYTES: usize = 8 << 20;

/// Parts of one file that are under way at once.
const PARTS_UNDER_WAY: usize = 2;

/// An object that is being written. It exists only once it is closed.
pub(crate) struct Upload {
    object: ObjectRef,
    size_bytes: u64,
    way: Way,
}

enum Way {
    /// The local disk, which needs no parts.
    Stream(Box<BufWriter>),
    /// The local disk, after the file's last byte: whether it appeared or not.
    Ended,
    /// Nothing is sent yet, or parts are.
    Parts(Parts),
}

struct Parts {
    store: Arc<dyn MultipartStore>,
    recorder: Recorder,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    begun: Option<Begun>,
}

/// An upload in parts that the store knows of.
struct Begun {
    id: String,
    sent: usize,
    under_way: JoinSet<object_store::Result<(usize, PartId)>>,
    done: Vec<Option<PartId>>,
}

/// Writes the id of an upload down beside the object that is already recorded.
pub(crate) struct Recorder {
    /// Where.
    pub metadata: Arc<dyn MetadataStore>,
    /// The table of the object.
    pub location: LocationId,
    /// Its name.
    pub name: String,
}

impl Upload {
    /// An upload of which nothing is sent yet.
    pub fn new(object: ObjectRef, recorder: Recorder) -> Self {
        let way = match &object.parts {
            Some(store) => Way::Parts(Parts {
                store: Arc::clone(store),
                recorder,
                gathered: vec![],
                gathered_bytes: 0,
                begun: None,
            }),
            None => {
                let (store, path) = (Arc::clone(&object.store), object.path.clone());
                Way::Stream(Box::new(BufWriter::with_capacity(store, path, PART_BYTES)))
            }
        };
        Self { object, size_bytes: 0, way }
    }

    /// The URL of the object, for messages.
    pub fn url(&self) -> &str {
        &self.object.url
    }

    /// Bytes sent so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Adds bytes.
    pub async fn send(&mut self, pieces: Vec<Bytes>) -> Result<(), DumpError> {
        for piece in pieces {
            self.size_bytes += piece.len() as u64;
            match &mut self.way {
                Way::Stream(writer) => {
                    let put = writer.put(piece).await;
                    put.map_err(|error| failed(&self.object.url, error))?;
                }
                Way::Ended => {}
                Way::Parts(parts) => parts.add(piece, &self.object).await?,
            }
        }
        Ok(())
    }

    /// Makes the object appear, whole.
    pub async fn close(&mut self) -> Result<(), DumpError> {
        match &mut self.way {
            Way::Stream(writer) => {
                let closed = writer.shutdown().await;
                self.way = Way::Ended;
                closed.map_err(|error| failed(&self.object.url, error))
            }
            Way::Ended => Ok(()),
            Way::Parts(parts) => parts.complete(&self.object, self.size_bytes).await,
        }
    }

    /// Gives up: nothing of it stays in the store. Where that fails, the recorded name tells whoever
    /// cleans up.
    pub async fn abort(self) {
        let aborted = match self.way {
            Way::Stream(mut writer) => writer.abort().await,
            Way::Parts(Parts { begun: Some(begun), store, .. }) => {
                let Begun { id, mut under_way, .. } = begun;
                // A part that arrives later than the end of its upload may stay.
                under_way.shutdown().await;
                persistently(|_| store.abort_multipart(&self.object.path, &id)).await
            }
            Way::Parts(_) | Way::Ended => Ok(()),
        };
        if let Err(error) = aborted {
            tracing::debug!(%error, url = self.object.url, "an unfinished upload could not be ended");
        }
    }
}

impl Parts {
    async fn add(&mut self, mut piece: Bytes, object: &ObjectRef) -> Result<(), DumpError> {
        while self.gathered_bytes + piece.len() >= PART_BYTES {
            let fitting = piece.split_to(PART_BYTES - self.gathered_bytes);
            self.gathered.push(fitting);
            self.gathered_bytes = PART_BYTES;
            self.send_part(object).await?;
        }
        if !piece.is_empty() {
            self.gathered_bytes += piece.len();
            self.gathered.push(piece);
        }
        Ok(())
    }

    fn take(&mut self) -> PutPayload {
        self.gathered_bytes = 0;
        std::mem::take(&mut self.gathered).into_iter().collect()
    }

    async fn send_part(&mut self, object: &ObjectRef) -> Result<(), DumpError> {
        if self.begun.is_none() {
            // One that was begun without an answer has no parts, and costs nothing.
            let id = persistently(|_| self.store.create_multipart(&object.path)).await;
            let id = id.map_err(|error| failed(&object.url, error))?;
            // Known first, so that it is ended where writing it down fails.
            let (under_way, done) = (JoinSet::new(), vec![]);
            self.begun = Some(Begun { id: id.clone(), sent: 0, under_way, done });
            let Recorder { metadata, location, name } = &self.recorder;
            metadata.record_upload(*location, name, &id).await?;
        }
        let payload = self.take();
        let Some(begun) = &mut self.begun else { return Ok(()) };
        while begun.under_way.len() >= PARTS_UNDER_WAY {
            begun.wait_for_one(&object.url).await?;
        }
        let (store, path, id) = (Arc::clone(&self.store), object.path.clone(), begun.id.clone());
        let index = begun.sent;
        begun.sent += 1;
        begun.under_way.spawn(async move { Ok((index, store.put_part(&path, &id, index, payload).await?)) });
        Ok(())
    }

    async fn complete(&mut self, object: &ObjectRef, size_bytes: u64) -> Result<(), DumpError> {
        let failed = |error| failed(&object.url, error);
        if self.begun.is_none() {
            let payload = self.take();
            return object.store.put(&object.path, payload).await.map(|_| ()).map_err(failed);
        }
        if self.gathered_bytes > 0 {
            self.send_part(object).await?;
        }
        let Some(begun) = &mut self.begun else { return Ok(()) };
        while !begun.under_way.is_empty() {
            begun.wait_for_one(&object.url).await?;
        }
        let parts = begun.done.drain(..).flatten().collect();
        let Err(error) = self.store.complete_multipart(&object.path, &begun.id, parts).await else {
            return Ok(());
        };
        // The answer may have been lost, and the upload is unknown when it is asked for again.
        match object.store.head(&object.path).await {
            Ok(meta) if meta.size == size_bytes => Ok(()),
            _ => Err(failed(error)),
        }
    }
}

impl Begun {
    async fn wait_for_one(&mut self, url: &str) -> Result<(), DumpError> {
        let Some(part) = self.under_way.join_next().await else { return Ok(()) };
        let part = part.map_err(|error| failed(url, error))?;
        let (index, id) = part.map_err(|error| failed(url, error))?;
        self.done.resize_with(self.done.len().max(index + 1), || None);
        self.done[index] = Some(id);
        Ok(())
    }
}

fn failed(url: &str, error: impl std::error::Error + Send + Sync + 'static) -> DumpError {
    DumpError::store(format!("writing {url}"), error)
}

//! Blocks on the local disk: which there are, and which make room for others.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use twox_hash::XxHash64;

/// The bytes of a block. Large enough that a request is worth its way, small enough that looking up one
/// row does not fetch megabytes.
pub(super) const BLOCK_BYTES: u64 = 256 << 10;

/// The length of the checksum behind the bytes.
const CHECKSUM_BYTES: usize = 8;

/// The file that says that a process uses the folder.
const LOCK: &str = "lock";

/// What names a block: also its file's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct BlockKey(String);

impl BlockKey {
    /// The `block`th block of an object of a store.
    pub fn new(store: &str, path: &str, block: u64) -> Self {
        // Both are URLs' parts, which have no line breaks.
        let object = format!("{store}\n{path}");
        let half = |seed| XxHash64::oneshot(seed, object.as_bytes());
        Self(format!("{:016x}{:016x}-{block:x}", half(0), half(1)))
    }

    fn parse(name: &str) -> Option<Self> {
        let (object, block) = name.split_once('-')?;
        let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        (object.len() == 32 && is_hex(object) && is_hex(block)).then(|| Self(name.to_owned()))
    }
}

/// A bounded cache on the local disk, used by one process at a time.
#[derive(Debug)]
pub struct ReadCache {
    folder: PathBuf,
    capacity_bytes: u64,
    index: Mutex<Index>,
    writes: AtomicU64,
    /// Held for as long as the cache is.
    _lock: File,
}

/// What lies in the folder, by when it was used.
#[derive(Debug, Default)]
struct Index {
    blocks: HashMap<BlockKey, Block>,
    by_use: BTreeMap<u64, BlockKey>,
    bytes: u64,
    uses: u64,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    bytes: u64,
    used: u64,
}

impl Index {
    fn touch(&mut self, key: &BlockKey) -> bool {
        let Some(block) = self.blocks.get_mut(key) else { return false };
        self.uses += 1;
        self.by_use.remove(&block.used);
        block.used = self.uses;
        self.by_use.insert(block.used, key.clone());
        true
    }

    fn insert(&mut self, key: BlockKey, bytes: u64) {
        self.remove(&key);
        self.uses += 1;
        self.bytes += bytes;
        self.by_use.insert(self.uses, key.clone());
        self.blocks.insert(key, Block { bytes, used: self.uses });
    }

    fn remove(&mut self, key: &BlockKey) {
        if let Some(block) = self.blocks.remove(key) {
            self.by_use.remove(&block.used);
            self.bytes -= block.bytes;
        }
    }

    /// Takes out what was not used for longest until `bytes` more fit.
    fn make_room(&mut self, bytes: u64, capacity_bytes: u64) -> Vec<BlockKey> {
        let mut evicted = vec![];
        while self.bytes + bytes > capacity_bytes
            && let Some((_, key)) = self.by_use.pop_first()
        {
            self.remove(&key);
            evicted.push(key);
        }
        evicted
    }
}

impl ReadCache {
    /// The cache in a folder, which is made where there is none, with what is in it already. An error of
    /// kind `WouldBlock` where another process uses it.
    pub fn open(folder: &Path, capacity_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join(LOCK))?;
        lock.try_lock().map_err(io::Error::from)?;
        let mut found = vec![];
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (name, metadata) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?);
            match BlockKey::parse(&name) {
                Some(key) => found.push((metadata.modified()?, key, metadata.len())),
                // What a crash left half-written.
                None if name.ends_with(".new") => fs::remove_file(entry.path())?,
                None => {}
            }
        }
        found.sort_by_key(|(modified, ..)| *modified);
        let mut index = Index::default();
        found.into_iter().for_each(|(_, key, bytes)| index.insert(key, bytes));
        let cache = Self {
            folder: folder.to_owned(),
            capacity_bytes,
            index: Mutex::new(index),
            writes: AtomicU64::new(0),
            _lock: lock,
        };
        // The bound may be lower than it was.
        let evicted = cache.index().make_room(0, capacity_bytes);
        evicted.iter().for_each(|key| cache.delete(key));
        Ok(cache)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blocks that are there, in the order of the keys.
    pub(super) async fn get(self: &std::sync::Arc<Self>, keys: Vec<BlockKey>) -> Vec<Option<Bytes>> {
        let (cache, count) = (std::sync::Arc::clone(self), keys.len());
        let reading = tokio::task::spawn_blocking(move || keys.iter().map(|key| cache.read(key)).collect());
        reading.await.unwrap_or_else(|_| vec![None; count])
    }

    fn read(&self, key: &BlockKey) -> Option<Bytes> {
        if !self.index().touch(key) {
            return None;
        }
        let whole = fs::read(self.folder.join(&key.0)).ok().and_then(checked);
        if whole.is_none() {
            self.index().remove(key);
            self.delete(key);
        }
        whole
    }

    /// Keeps a block. A disk that cannot take it is no reason to fail: it is asked for again.
    pub(super) fn put(&self, key: BlockKey, bytes: Bytes) {
        let size = (bytes.len() + CHECKSUM_BYTES) as u64;
        if bytes.is_empty() || size > self.capacity_bytes {
            return;
        }
        let evicted = self.index().make_room(size, self.capacity_bytes);
        evicted.iter().for_each(|key| self.delete(key));
        // Two queries may have read the same block: each writes a file of its own.
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let new = self.folder.join(format!("{}.{number}.new", key.0));
        let write = || -> io::Result<()> {
            let mut content = Vec::with_capacity(size as usize);
            content.extend_from_slice(&bytes);
            content.extend_from_slice(&checksum(&bytes));
            fs::write(&new, content)?;
            fs::rename(&new, self.folder.join(&key.0))
        };
        match write() {
            Ok(()) => self.index().insert(key, size),
            Err(error) => {
                fs::remove_file(&new).ok();
                tracing::debug!(%error, "the read cache could not keep a block");
            }
        }
    }

    fn delete(&self, key: &BlockKey) {
        if let Err(error) = fs::remove_file(self.folder.join(&key.0)) {
            tracing::debug!(%error, "a block of the read cache could not be removed");
        }
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    XxHash64::oneshot(0, bytes).to_le_bytes()
}

/// The bytes of a block's file without the checksum; `None` where that does not fit.
fn checked(mut content: Vec<u8>) -> Option<Bytes> {
    let length = content.len().checked_sub(CHECKSUM_BYTES)?;
    let is_whole = length > 0 && content[length..] == checksum(&content[..length]);
    content.truncate(length);
    is_whole.then(|| content.into())
}

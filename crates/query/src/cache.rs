//! A cache of what is read from far stores, on the local disk and bounded.
//!
//! Data files are never changed once they are written, so what was read of one stays right for ever. They
//! are kept in blocks of one size, each a file of its own with its checksum: a block that a crash has cut
//! short is read again. Blocks that are missing side by side are asked for in one request.

mod blocks;

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use url::Url;

use crate::stores::{OpenedStore, store_key};
pub use blocks::ReadCache;
use blocks::{BLOCK_BYTES, BlockKey};

/// What one request asks for at most.
const REQUEST_BLOCKS: u64 = 32;

/// Requests of one read that are under way at once.
const REQUESTS_UNDER_WAY: usize = 16;

impl ReadCache {
    /// The store behind the cache.
    pub fn over(self: &Arc<Self>, store: OpenedStore, url: &Url) -> OpenedStore {
        let cached = Cached { store: store.objects, cache: Arc::clone(self), name: store_key(url).into() };
        OpenedStore { objects: Arc::new(cached), ..store }
    }
}

/// A store whose data files are read through a cache.
#[derive(Debug)]
struct Cached {
    store: Arc<dyn ObjectStore>,
    cache: Arc<ReadCache>,
    /// What tells its objects from those of other stores.
    name: Arc<str>,
}

impl fmt::Display for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (cached)", self.store)
    }
}

/// Whether an object is one that is never changed: other files, such as definitions, are always asked
/// for anew.
fn is_data_file(path: &Path) -> bool {
    path.filename().is_some_and(|name| nozzle_core::layout::parse_file_name(name).is_some())
}

/// The blocks that share a byte with a range.
fn blocks_of(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)
}

/// Runs of neighbouring blocks, none longer than one request may be.
fn runs(blocks: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = vec![];
    for block in blocks {
        match runs.last_mut() {
            Some(run) if run.end == block && run.end - run.start < REQUEST_BLOCKS => run.end += 1,
            _ => runs.push(block..block + 1),
        }
    }
    runs
}

impl Cached {
    async fn read(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut blocks: BTreeMap<u64, Option<Bytes>> =
            ranges.iter().flat_map(blocks_of).map(|block| (block, None)).collect();
        let keys = blocks.keys().map(|block| self.key(path, *block)).collect();
        for (block, found) in blocks.values_mut().zip(self.cache.get(keys).await) {
            *block = found;
        }
        let missing = runs(blocks.iter().filter(|(_, found)| found.is_none()).map(|(block, _)| *block));
        let requests = missing.into_iter().map(|run| async move {
            let bytes = self.store.get_range(path, run.start * BLOCK_BYTES..run.end * BLOCK_BYTES).await?;
            Ok::<_, object_store::Error>((run, bytes))
        });
        let mut answers = stream::iter(requests).buffer_unordered(REQUESTS_UNDER_WAY);
        while let Some((run, bytes)) = answers.try_next().await? {
            for block in run.clone() {
                let start = (((block - run.start) * BLOCK_BYTES) as usize).min(bytes.len());
                let end = (start + BLOCK_BYTES as usize).min(bytes.len());
                let part = bytes.slice(start..end);
                self.cache.put(self.key(path, block), part.clone());
                blocks.insert(block, Some(part));
            }
        }
        ranges.iter().map(|range| assemble(path, range, &blocks)).collect()
    }

    fn key(&self, path: &Path, block: u64) -> BlockKey {
        BlockKey::new(&self.name, path.as_ref(), block)
    }
}

/// The bytes of a range out of its blocks.
fn assemble(path: &Path, range: &Range<u64>, blocks: &BTreeMap<u64, Option<Bytes>>) -> Result<Bytes> {
    let mut parts = vec![];
    for block in blocks_of(range) {
        let bytes = blocks.get(&block).cloned().flatten().unwrap_or_default();
        let start = range.start.saturating_sub(block * BLOCK_BYTES) as usize;
        let end = (range.end - block * BLOCK_BYTES).min(BLOCK_BYTES) as usize;
        parts.push(bytes.slice(start.min(bytes.len())..end.min(bytes.len())));
    }
    let length: usize = parts.iter().map(Bytes::len).sum();
    if length as u64 != range.end - range.start {
        return Err(object_store::Error::Generic {
            store: "cache",
            source: format!("{path} ends within the bytes {range:?}").into(),
        });
    }
    match parts.as_mut_slice() {
        [only] => Ok(std::mem::take(only)),
        parts => {
            let mut whole = BytesMut::with_capacity(length);
            parts.iter().for_each(|part| whole.extend_from_slice(part));
            Ok(whole.freeze())
        }
    }
}

#[async_trait]
impl ObjectStore for Cached {
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let is_plain = options.if_match.is_none()
            && options.if_none_match.is_none()
            && options.if_modified_since.is_none()
            && options.if_unmodified_since.is_none()
            && options.version.is_none()
            && !options.head;
        let Some(GetRange::Bounded(range)) = options.range.clone().filter(|_| is_plain && is_data_file(path))
        else {
            return self.store.get_opts(path, options).await;
        };
        let bytes = self.read(path, std::slice::from_ref(&range)).await?.pop().unwrap_or_default();
        // Of the object only its path and that it reaches so far is known.
        let meta = ObjectMeta {
            location: path.clone(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: range.end,
            e_tag: None,
            version: None,
        };
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default() })
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if is_data_file(path) {
            self.read(path, ranges).await
        } else {
            self.store.get_ranges(path, ranges).await
        }
    }

    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.store.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use object_store::memory::InMemory;

    use super::*;

    /// A store that counts what is read of it.
    #[derive(Debug)]
    struct Counted {
        store: InMemory,
        requests: AtomicU64,
        bytes: AtomicU64,
    }

    impl fmt::Display for Counted {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.store.fmt(f)
        }
    }

    #[async_trait]
    impl ObjectStore for Counted {
        async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
            let result = self.store.get_opts(path, options).await?;
            self.requests.fetch_add(1, Relaxed);
            self.bytes.fetch_add(result.range.end - result.range.start, Relaxed);
            Ok(result)
        }
        async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.store.put_opts(path, payload, options).await
        }
        async fn put_multipart_opts(
            &self,
            path: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.store.put_multipart_opts(path, options).await
        }
        fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.store.delete_stream(paths)
        }
        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.store.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.store.list_with_delimiter(prefix).await
        }
        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.store.copy_opts(from, to, options).await
        }
    }

    fn content(length: u64) -> Bytes {
        (0..length).map(|n| (n * 7 % 251) as u8).collect()
    }

    /// A store with one data file, and a cache in front of it.
    async fn world(
        folder: &std::path::Path,
        capacity: u64,
        length: u64,
    ) -> (Arc<Counted>, OpenedStore, Path) {
        let counted =
            Counted { store: InMemory::new(), requests: AtomicU64::new(0), bytes: AtomicU64::new(0) };
        let (counted, path) = (Arc::new(counted), Path::from("d/t/r/000000000-00000000000000aa.parquet"));
        counted.store.put(&path, content(length).into()).await.expect("it is put");
        let cache = Arc::new(ReadCache::open(folder, capacity).expect("a cache"));
        let url = Url::parse("s3://bucket/").expect("a URL");
        let store = cache.over(OpenedStore { objects: Arc::clone(&counted) as _, parts: None }, &url);
        (counted, store, path)
    }

    #[tokio::test]
    async fn what_was_read_is_not_asked_for_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let length = 10 * BLOCK_BYTES + 100;
        let (counted, store, path) = world(folder.path(), 1 << 30, length).await;
        let whole = content(length);
        let ranges = [5..9, BLOCK_BYTES - 1..BLOCK_BYTES + 1, 7 * BLOCK_BYTES..length];
        for _ in 0..3 {
            let read = store.objects.get_ranges(&path, &ranges).await.expect("it is read");
            for (read, range) in read.iter().zip(&ranges) {
                assert_eq!(*read, whole[range.start as usize..range.end as usize]);
            }
            let read = store.objects.get_range(&path, 3..length).await.expect("it is read");
            assert_eq!(read, whole[3..]);
        }
        // The first two blocks, those from the seventh on, and then the five between.
        assert_eq!(counted.requests.load(Relaxed), 3);
        assert_eq!(counted.bytes.load(Relaxed), length);
        assert!(store.objects.get_range(&path, length - 1..length + 1).await.is_err());
    }

    #[tokio::test]
    async fn it_stays_within_its_bound_and_outlives_the_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let length = 20 * BLOCK_BYTES;
        let (counted, store, path) = world(folder.path(), 8 * BLOCK_BYTES, length).await;
        let whole = content(length);
        assert_eq!(store.objects.get_range(&path, 0..length).await.expect("it is read"), whole);
        let used = || -> u64 {
            let files = std::fs::read_dir(folder.path()).expect("the folder").flatten();
            files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
        };
        assert!(used() <= 8 * BLOCK_BYTES && used() > 4 * BLOCK_BYTES, "{}", used());
        drop(store);

        let before = counted.bytes.load(Relaxed);
        let cache = Arc::new(ReadCache::open(folder.path(), 8 * BLOCK_BYTES).expect("a cache"));
        let url = Url::parse("s3://bucket/").expect("a URL");
        let store = cache.over(OpenedStore { objects: Arc::clone(&counted) as _, parts: None }, &url);
        let last = 19 * BLOCK_BYTES..length;
        store.objects.get_range(&path, last.clone()).await.expect("it is read");
        assert_eq!(counted.bytes.load(Relaxed), before);

        // Damaged on the disk: read again, never handed out.
        for file in std::fs::read_dir(folder.path()).expect("the folder").flatten() {
            let mut bytes = std::fs::read(file.path()).expect("a block");
            if let Some(first) = bytes.first_mut() {
                *first ^= 1;
            }
            std::fs::write(file.path(), bytes).expect("it is written");
        }
        let read = store.objects.get_range(&path, last.clone()).await.expect("it is read");
        assert_eq!(read, whole[last.start as usize..]);
        assert_eq!(counted.bytes.load(Relaxed), before + BLOCK_BYTES);
    }

    #[tokio::test]
    async fn two_processes_do_not_share_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = ReadCache::open(folder.path(), 1 << 20).expect("a cache");
        let error = ReadCache::open(folder.path(), 1 << 20).expect_err("it is in use");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        drop(first);
        ReadCache::open(folder.path(), 1 << 20).expect("it is free again");
    }
}

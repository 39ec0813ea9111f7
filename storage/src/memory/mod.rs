//! Blobs in memory, for tests and demonstrations.
//!
//! Keeps the contract of the ports to the letter: nothing is durable before its checkpoint resolves, and what is not
//! durable is gone when the blob is opened again. [`MemoryStore::crash`] stands for a power loss.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};

use crate::{
    BlobKey, BlobStore, BlobWriter, ByteStream, Capacity, Checkpoint, Error, Holding, KeyStream, Part, Result, Resume,
    durable_end,
};

const CHUNK_BYTES: usize = 256 << 10;

/// Blobs that last as long as the store, whose clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Blobs>>);

#[derive(Debug, Default)]
struct Blobs {
    open: HashMap<BlobKey, Open>,
    finished: HashMap<BlobKey, Bytes>,
    /// Given to every opening of a blob, and never twice.
    last_turn: u64,
}

/// An open blob: only what is durable of it.
#[derive(Debug, Default)]
struct Open {
    bytes: Vec<u8>,
    /// The opening that may write to it.
    turn: u64,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// The keys of all blobs, open or finished, in order.
    pub fn keys(&self) -> Vec<BlobKey> {
        let blobs = self.blobs();
        let mut keys: Vec<BlobKey> = blobs.open.keys().chain(blobs.finished.keys()).cloned().collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Whether a blob is finished, and its durable bytes. `None` when it is not there.
    pub fn durable(&self, key: &BlobKey) -> Option<(bool, Bytes)> {
        let blobs = self.blobs();
        let finished = blobs.finished.get(key).map(|bytes| (true, bytes.clone()));
        finished.or_else(|| blobs.open.get(key).map(|blob| (false, Bytes::copy_from_slice(&blob.bytes))))
    }

    /// Ends every writer and every pending promise. What was durable stays.
    pub fn crash(&self) {
        for blob in self.blobs().open.values_mut() {
            blob.turn = 0;
        }
    }

    fn blobs(&self) -> MutexGuard<'_, Blobs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blobs {
    /// What is durable of a blob, open or finished.
    fn bytes(&self, key: &BlobKey) -> Option<&[u8]> {
        self.finished.get(key).map(AsRef::as_ref).or_else(|| self.open.get(key).map(|blob| blob.bytes.as_slice()))
    }

    fn open(&mut self, key: &BlobKey, end: u64) -> io::Result<u64> {
        if self.finished.contains_key(key) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is finished already"));
        }
        let end = index(end)?;
        let length = self.open.get(key).map(|blob| blob.bytes.len());
        if length.unwrap_or(0) < end {
            let kind = if length.is_none() { io::ErrorKind::NotFound } else { io::ErrorKind::UnexpectedEof };
            let short = format!("{} bytes are there, but {end} were durable", length.unwrap_or(0));
            return Err(io::Error::new(kind, short));
        }
        self.last_turn += 1;
        let blob = self.open.entry(key.clone()).or_default();
        blob.bytes.truncate(end);
        blob.turn = self.last_turn;
        Ok(self.last_turn)
    }

    fn concatenate(&mut self, parts: &[Part], into: &BlobKey) -> io::Result<u64> {
        if parts.iter().any(|part| part.key == *into) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it cannot be a part of itself"));
        }
        self.open(into, 0)?;
        let joined = self.join(parts).inspect_err(|_| {
            self.open.remove(into);
        })?;
        let end = joined.len() as u64;
        self.open.entry(into.clone()).or_default().bytes = joined;
        Ok(end)
    }

    fn join(&self, parts: &[Part]) -> io::Result<Vec<u8>> {
        let mut joined = Vec::new();
        for part in parts.iter().filter(|part| part.size_bytes > 0) {
            let Some(bytes) = self.bytes(&part.key) else {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("part {} is not there", part.key)));
            };
            let Some(whole) = bytes.get(..index(part.size_bytes)?) else {
                let short = format!("part {} has {} bytes, not {}", part.key, bytes.len(), part.size_bytes);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short));
            };
            joined.extend_from_slice(whole);
        }
        Ok(joined)
    }

    fn finish(&mut self, key: &BlobKey, end: u64, size_bytes: u64) -> io::Result<()> {
        if let Some(bytes) = self.finished.get(key) {
            return match bytes.len() as u64 {
                length if length == size_bytes => Ok(()),
                length => Err(io::Error::other(format!("it is finished with {length} bytes, not with {size_bytes}"))),
            };
        }
        durable_end::check_size(end, size_bytes)?;
        let size = index(size_bytes)?;
        match self.open.get(key) {
            None if size > 0 => return Err(io::ErrorKind::NotFound.into()),
            Some(blob) if blob.bytes.len() < size => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
        let mut bytes = self.open.remove(key).unwrap_or_default().bytes;
        bytes.truncate(size);
        self.finished.insert(key.clone(), bytes.into());
        Ok(())
    }

    fn read(&self, key: &BlobKey, range: Range<u64>) -> io::Result<Option<Bytes>> {
        let blob = self.finished.get(key).cloned();
        let Some(bytes) = self.bytes(key) else { return Err(io::ErrorKind::NotFound.into()) };
        let range = index(range.start)?..index(range.end)?;
        if range.is_empty() {
            return Ok(Some(Bytes::new()));
        }
        let found = bytes.get(range.clone());
        Ok(found.map(|found| blob.map_or_else(|| Bytes::copy_from_slice(found), |blob| blob.slice(range))))
    }
}

#[async_trait]
impl BlobStore for MemoryStore {
    async fn open(
        &self,
        key: &BlobKey,
        from: Option<&Resume>,
        _size_bytes: Option<u64>,
    ) -> Result<Box<dyn BlobWriter>> {
        let error = |source| Error::new("open", key, source);
        let end = durable_end::decode(from).map_err(error)?;
        let turn = self.blobs().open(key, end).map_err(error)?;
        let written = Arc::new(Mutex::new(Written { end, chunks: Vec::new() }));
        Ok(Box::new(MemoryWriter { store: self.clone(), key: key.clone(), turn, written }))
    }

    async fn concatenate(&self, parts: &[Part], into: &BlobKey) -> Result<Resume> {
        let end = self.blobs().concatenate(parts, into).map_err(|source| Error::new("concatenate", into, source))?;
        Ok(durable_end::encode(end))
    }

    async fn finish(&self, key: &BlobKey, from: Option<&Resume>, size_bytes: u64) -> Result<()> {
        let end = durable_end::decode(from);
        end.and_then(|end| self.blobs().finish(key, end, size_bytes))
            .map_err(|source| Error::new("finish", key, source))
    }

    async fn discard(&self, key: &BlobKey, _from: Option<&Resume>) -> Result<()> {
        let mut blobs = self.blobs();
        blobs.open.remove(key);
        blobs.finished.remove(key);
        Ok(())
    }

    async fn read(&self, key: &BlobKey, range: Range<u64>) -> Result<ByteStream> {
        let found = self.blobs().read(key, range).map_err(|source| Error::new("read", key, source))?;
        let Some(mut left) = found else {
            let short = Error::new("read", key, io::ErrorKind::UnexpectedEof.into());
            return Ok(stream::iter([Err(short)]).boxed());
        };
        let next = move || (!left.is_empty()).then(|| Ok(left.split_to(left.len().min(CHUNK_BYTES))));
        Ok(stream::iter(std::iter::from_fn(next)).boxed())
    }

    async fn available(&self, _to: Option<Holding<'_>>) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn keys(&self) -> Result<KeyStream> {
        let blobs = self.blobs();
        let keys: Vec<_> = blobs.open.keys().chain(blobs.finished.keys()).cloned().map(Ok).collect();
        Ok(stream::iter(keys).boxed())
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>> {
        Ok(self.blobs().bytes(key).map(|bytes| bytes.len() as u64))
    }

    fn capacity(&self) -> Result<Option<Capacity>> {
        Ok(None)
    }

    fn path(&self, _key: &BlobKey) -> Option<PathBuf> {
        None
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryWriter {
    store: MemoryStore,
    key: BlobKey,
    turn: u64,
    written: Arc<Mutex<Written>>,
}

/// What a writer took and no promise has made durable yet.
#[derive(Debug)]
struct Written {
    /// The highest place that holds a byte.
    end: u64,
    /// In the order they came. A chunk that has become durable leaves an empty one, so that places stay.
    chunks: Vec<(u64, Bytes)>,
}

impl MemoryWriter {
    /// Makes the first `count` chunks durable, unless somebody else has opened the blob since.
    fn make_durable(&self, count: usize) -> io::Result<()> {
        let mut blobs = self.store.blobs();
        let blob = self.blob(&mut blobs)?;
        for (offset, chunk) in written(&self.written).chunks.iter_mut().take(count) {
            let chunk = std::mem::take(chunk);
            if chunk.is_empty() {
                continue;
            }
            let start = index(*offset)?;
            let end = start.checked_add(chunk.len()).ok_or(io::ErrorKind::InvalidInput)?;
            if blob.bytes.len() < end {
                blob.bytes.resize(end, 0);
            }
            blob.bytes[start..end].copy_from_slice(&chunk);
        }
        Ok(())
    }

    fn blob<'a>(&self, blobs: &'a mut Blobs) -> io::Result<&'a mut Open> {
        let blob = blobs.open.get_mut(&self.key).filter(|blob| blob.turn == self.turn);
        blob.ok_or_else(|| io::Error::other("the blob was opened again, finished or removed in the meantime"))
    }

    fn error(&self, operation: &'static str, source: io::Error) -> Error {
        Error::new(operation, &self.key, source)
    }
}

#[async_trait]
impl BlobWriter for MemoryWriter {
    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<()> {
        self.blob(&mut self.store.blobs()).map_err(|source| self.error("write", source))?;
        let end = offset.checked_add(chunk.len() as u64);
        let end = end.ok_or_else(|| self.error("write", io::ErrorKind::InvalidInput.into()))?;
        if !chunk.is_empty() {
            let mut written = written(&self.written);
            written.end = written.end.max(end);
            written.chunks.push((offset, chunk));
        }
        Ok(())
    }

    async fn checkpoint(&mut self, end: u64) -> Result<Checkpoint> {
        self.blob(&mut self.store.blobs()).map_err(|source| self.error("sync", source))?;
        let (count, highest) = {
            let written = written(&self.written);
            (written.chunks.len(), written.end)
        };
        durable_end::check_reach(end, highest).map_err(|source| self.error("sync", source))?;
        let same = Self {
            store: self.store.clone(),
            key: self.key.clone(),
            turn: self.turn,
            written: Arc::clone(&self.written),
        };
        let promise = async move {
            same.make_durable(count).map_err(|source| same.error("sync", source))?;
            Ok(durable_end::encode(end))
        };
        Ok(promise.boxed())
    }

    async fn close(self: Box<Self>) {}
}

fn written(written: &Mutex<Written>) -> MutexGuard<'_, Written> {
    written.lock().unwrap_or_else(PoisonError::into_inner)
}

fn index(place: u64) -> io::Result<usize> {
    usize::try_from(place).map_err(|_| io::ErrorKind::InvalidInput.into())
}

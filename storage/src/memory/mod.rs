//! Blobs in memory, for tests and demonstrations.
//!
//! Keeps the contract of the ports exactly: nothing is durable before its checkpoint resolves, and bytes that
//! are not durable are gone when the blob is opened again. [`MemoryStore::crash`] simulates a power loss. A
//! store can be created with fewer [`Abilities`]; it then rejects the operations that it lacks, as the store
//! that it simulates would.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};

mod blobs;
mod stretches;
mod writer;

use blobs::Blobs;
use writer::MemoryWriter;

use crate::epoch::Epochs;
use crate::lock::lock;
use crate::{
    Abilities, BlobKey, BlobPart, BlobStore, BlobWriter, ByteStream, Capacity, Epoch, Error, KeyStream, OpenBlob,
    Result, Resume, durable_end,
};

const CHUNK_BYTES: usize = 256 << 10;

/// The abilities of blobs in memory.
pub const ABILITIES: Abilities = Abilities {
    any_order: true,
    overwrites: true,
    reads_open: true,
    takes_over: true,
    part_bytes: 1,
    checkpoint_bytes: 1,
    joins_without_copying: false,
    knows_free_space: false,
    max_resume_bytes: durable_end::TOKEN_BYTES,
};

/// Blobs that exist as long as the store. Its clones share them.
#[derive(Debug, Clone)]
pub struct MemoryStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    abilities: Abilities,
    epochs: Epochs,
    blobs: Mutex<Blobs>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_abilities(ABILITIES)
    }
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a store with only those of its abilities that `abilities` also has.
    pub fn with_abilities(abilities: Abilities) -> Self {
        let Abilities { joins_without_copying, knows_free_space, max_resume_bytes, .. } = ABILITIES;
        let abilities = Abilities { joins_without_copying, knows_free_space, max_resume_bytes, ..abilities };
        Self(Arc::new(Inner { abilities, epochs: Epochs::default(), blobs: Mutex::default() }))
    }

    /// Creates a store that behaves like multipart uploads to an object store: parts of this size in order,
    /// which cannot be read before they are completed. Another epoch resumes one only after its writer was
    /// closed; this store checks that, which a real one cannot.
    pub fn like_an_object_store(part_bytes: u64) -> Self {
        Self::with_abilities(Abilities {
            any_order: false,
            overwrites: false,
            reads_open: false,
            takes_over: false,
            part_bytes,
            checkpoint_bytes: part_bytes,
            ..ABILITIES
        })
    }

    /// Returns the keys of all blobs, open or finished, in order.
    pub fn keys(&self) -> Vec<BlobKey> {
        let blobs = self.blobs();
        let mut keys: Vec<BlobKey> = blobs.open.keys().chain(blobs.finished.keys()).cloned().collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Reports whether a blob is finished, and returns its durable bytes. `None` if it does not exist.
    pub fn durable(&self, key: &BlobKey) -> Option<(bool, Bytes)> {
        let blobs = self.blobs();
        let finished = blobs.finished.get(key).map(|bytes| (true, bytes.clone()));
        finished.or_else(|| blobs.open.get(key).map(|blob| (false, Bytes::copy_from_slice(blob.bytes()))))
    }

    /// Returns the number of checkpoints of an open blob that have cost an additional small object, by
    /// [`checkpoint_bytes`](Abilities::checkpoint_bytes).
    pub fn small_pieces(&self, key: &BlobKey) -> u64 {
        self.blobs().open.get(key).map_or(0, blobs::Open::small_pieces)
    }

    /// Ends every writer and every pending promise. Durable bytes stay.
    pub fn crash(&self) {
        self.blobs().open.values_mut().for_each(blobs::Open::end_writer);
    }

    fn blobs(&self) -> MutexGuard<'_, Blobs> {
        lock(&self.0.blobs)
    }

    /// Changes a blob, unless a newer epoch has done so.
    fn change<T>(
        &self,
        operation: &'static str,
        (key, epoch): (&BlobKey, Epoch),
        work: impl FnOnce(&mut Blobs) -> io::Result<T>,
    ) -> Result<T> {
        let mut blobs = self.blobs();
        let admitted = self.0.epochs.admit(key, epoch);
        admitted.and_then(|()| work(&mut blobs)).map_err(|source| Error::new(operation, key, source))
    }
}

#[async_trait]
impl BlobStore for MemoryStore {
    fn abilities(&self) -> Abilities {
        self.0.abilities
    }

    async fn open(
        &self,
        key: &BlobKey,
        epoch: Epoch,
        from: Option<&Resume>,
        _size_bytes: Option<u64>,
    ) -> Result<Box<dyn BlobWriter>> {
        let takes_over = self.0.abilities.takes_over;
        let (end, turn) = self.change("open", (key, epoch), |blobs| {
            let end = durable_end::decode(from)?;
            let turn = blobs.open(key, epoch, end, takes_over)?;
            self.0.epochs.begin(key);
            Ok((end, turn))
        })?;
        Ok(Box::new(MemoryWriter::new(self.clone(), key.clone(), turn, end)))
    }

    async fn concatenate(&self, parts: &[BlobPart], into: &BlobKey, epoch: Epoch) -> Result<Resume> {
        let reads_open = self.0.abilities.reads_open;
        let join = |blobs: &mut Blobs| {
            let end = blobs.concatenate(parts, into, epoch, reads_open)?;
            self.0.epochs.begin(into);
            Ok(end)
        };
        Ok(durable_end::encode(self.change("concatenate", (into, epoch), join)?))
    }

    async fn seal(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()> {
        self.change("seal", (key, epoch), |blobs| blobs.seal(key, durable_end::decode(from)?, size_bytes))
    }

    async fn finish(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()> {
        self.change("finish", (key, epoch), |blobs| {
            blobs.finish(key, durable_end::decode(from)?, size_bytes)?;
            self.0.epochs.end(key);
            Ok(())
        })
    }

    async fn discard(&self, key: &BlobKey, epoch: Epoch, _from: Option<&Resume>) -> Result<()> {
        self.change("discard", (key, epoch), |blobs| {
            blobs.open.remove(key);
            blobs.finished.remove(key);
            self.0.epochs.end(key);
            Ok(())
        })
    }

    async fn read(&self, key: &BlobKey, range: Range<u64>) -> Result<ByteStream> {
        let found = self.blobs().read(key, range, self.0.abilities.reads_open);
        let Some(mut left) = found.map_err(|source| Error::new("read", key, source))? else {
            let short = Error::new("read", key, io::ErrorKind::UnexpectedEof.into());
            return Ok(stream::iter([Err(short)]).boxed());
        };
        let next = move || (!left.is_empty()).then(|| Ok(left.split_to(left.len().min(CHUNK_BYTES))));
        Ok(stream::iter(std::iter::from_fn(next)).boxed())
    }

    async fn available(&self, _to: Option<OpenBlob<'_>>) -> Result<Option<u64>> {
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

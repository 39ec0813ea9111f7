//! Writes one blob in memory. Written bytes are not part of it before a checkpoint is kept.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;

use super::MemoryStore;
use super::stretches::Stretches;
use crate::lock::lock;
use crate::{Abilities, BlobKey, BlobWriter, Checkpoint, Error, Result, durable_end};

#[derive(Debug)]
pub(super) struct MemoryWriter {
    store: MemoryStore,
    key: BlobKey,
    turn: u64,
    written: Arc<Mutex<Written>>,
}

/// The bytes that a writer took and no promise has made durable yet.
#[derive(Debug)]
struct Written {
    /// The end of the highest byte written.
    end: u64,
    /// In the order of the calls. A chunk that has become durable is replaced by an empty one, so that
    /// indexes stay.
    chunks: Vec<(u64, Bytes)>,
    stretches: Stretches,
}

impl MemoryWriter {
    /// Creates a writer. `end` is the current end of the blob.
    pub(super) fn new(store: MemoryStore, key: BlobKey, turn: u64, end: u64) -> Self {
        let written = Written { end, chunks: Vec::new(), stretches: Stretches::default() };
        Self { store, key, turn, written: Arc::new(Mutex::new(written)) }
    }

    /// Makes the first `count` chunks durable, unless the blob was opened again since.
    fn make_durable(&self, count: usize, end: u64) -> io::Result<()> {
        let mut blobs = self.store.blobs();
        let blob = blobs.of_turn(&self.key, self.turn)?;
        for (offset, chunk) in written(&self.written).chunks.iter_mut().take(count) {
            let chunk = std::mem::take(chunk);
            if !chunk.is_empty() {
                blob.put(*offset, &chunk)?;
            }
        }
        blob.cover(end, &self.store.0.abilities);
        Ok(())
    }

    /// Takes a chunk, if the abilities of the store permit it there.
    fn take(&self, offset: u64, chunk: Bytes) -> io::Result<()> {
        let mut blobs = self.store.blobs();
        let blob = blobs.of_turn(&self.key, self.turn)?;
        let end = offset.checked_add(chunk.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        if chunk.is_empty() {
            return Ok(());
        }
        let mut written = written(&self.written);
        written.check(&(offset..end), blob.covered(), &self.store.0.abilities)?;
        written.end = written.end.max(end);
        written.stretches.insert(offset..end);
        written.chunks.push((offset, chunk));
        Ok(())
    }

    fn error(&self, operation: &'static str, source: io::Error) -> Error {
        Error::new(operation, &self.key, source)
    }
}

impl Written {
    /// Checks that a store with these abilities takes a chunk there.
    fn check(&self, chunk: &Range<u64>, covered: &Stretches, abilities: &Abilities) -> io::Result<()> {
        let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let start = chunk.start;
        if !abilities.any_order && start != self.end {
            return refuse(format!("the write begins at byte {start}, but byte {} is next", self.end));
        }
        if !abilities.overwrites && covered.meet(chunk) {
            return refuse(format!(
                "bytes between {start} and {} are already written and cannot be overwritten",
                chunk.end
            ));
        }
        let follows = self.stretches.reach(start) || covered.reach(start);
        if !start.is_multiple_of(abilities.part_bytes) && !follows {
            return refuse(format!("byte {start} neither begins a part nor follows another"));
        }
        Ok(())
    }
}

#[async_trait]
impl BlobWriter for MemoryWriter {
    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<()> {
        self.take(offset, chunk).map_err(|source| self.error("write", source))
    }

    async fn checkpoint(&mut self, end: u64) -> Result<Checkpoint> {
        self.store.blobs().of_turn(&self.key, self.turn).map_err(|source| self.error("sync", source))?;
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
            same.make_durable(count, end).map_err(|source| same.error("sync", source))?;
            Ok(durable_end::encode(end))
        };
        Ok(promise.boxed())
    }

    async fn close(self: Box<Self>) {
        self.store.blobs().close(&self.key, self.turn);
    }
}

fn written(written: &Mutex<Written>) -> MutexGuard<'_, Written> {
    lock(written)
}

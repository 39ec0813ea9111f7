//! The storage as the engine of a node sees it: in memory, with faults. Work that was started continues
//! without its caller, as it does on the threads of real stores.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use storage::memory::MemoryStore;
use storage::{
    Abilities, BlobKey, BlobPart, BlobStore, BlobWriter, ByteStream, Capacity, Checkpoint, Epoch, ErrorKind, KeyStream,
    OpenBlob, Resume,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::faults::{Call, Cause, Faults};
use crate::process::OpenWriter;

/// The capacity of the storage.
const CAPACITY_BYTES: u64 = 512 << 10;

const BROKEN_DISK: i32 = 5;
const NO_SPACE: i32 = 28;

/// The storage with faults.
#[derive(Debug)]
pub struct Blobs {
    pub inner: MemoryStore,
    pub faults: Faults,
}

impl Blobs {
    /// Returns the free space. There is enough for all uploads of a run, but not for space that is never
    /// given back.
    fn free_bytes(&self) -> u64 {
        let sizes = self.inner.keys().into_iter().filter_map(|key| self.inner.durable(&key));
        let used: u64 = sizes.map(|(_, bytes)| bytes.len() as u64).sum();
        CAPACITY_BYTES.saturating_sub(used)
    }
}

fn storage_error(operation: &'static str, what: &dyn fmt::Display) -> impl FnOnce(Cause) -> storage::Error + use<> {
    let what = what.to_string();
    move |cause| {
        let code = match cause {
            Cause::Broken | Cause::Unanswered => BROKEN_DISK,
            Cause::Full => NO_SPACE,
        };
        storage::Error::about(operation, what, std::io::Error::from_raw_os_error(code))
    }
}

/// Does work that its caller cannot cancel.
async fn set_in_motion<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.expect("the stores do not panic and are not aborted")
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlobStore for Blobs {
    fn abilities(&self) -> Abilities {
        Abilities { knows_free_space: true, ..BlobStore::abilities(&self.inner) }
    }

    async fn open(
        &self,
        key: &BlobKey,
        epoch: Epoch,
        from: Option<&Resume>,
        size_bytes: Option<u64>,
    ) -> storage::Result<Box<dyn BlobWriter>> {
        let opening = self.inner.open(key, epoch, from, size_bytes);
        let inner = self.faults.around(Call::Open, storage_error("open", key), opening).await?;
        let faults = self.faults.clone();
        Ok(Box::new(Writer {
            inner,
            key: key.clone(),
            _open: faults.process().count_writer(key),
            faults,
            broken: Arc::default(),
            syncs: Vec::new(),
        }))
    }

    async fn concatenate(&self, parts: &[BlobPart], into: &BlobKey, epoch: Epoch) -> storage::Result<Resume> {
        // This work is not detached: if it is dropped it is canceled, and none of it happens after the next
        // operation on the blob.
        let error = storage_error("concatenate", into);
        self.faults.around(Call::Concatenate, error, self.inner.concatenate(parts, into, epoch)).await
    }

    async fn seal(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> storage::Result<()> {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        let (key, from) = (key.clone(), from.cloned());
        set_in_motion(async move {
            let error = storage_error("seal", &key);
            faults.around(Call::Seal, error, inner.seal(&key, epoch, from.as_ref(), size_bytes)).await
        })
        .await
    }

    async fn finish(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> storage::Result<()> {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        let (key, from) = (key.clone(), from.cloned());
        set_in_motion(async move {
            let error = storage_error("finish", &key);
            faults.around(Call::Finish, error, inner.finish(&key, epoch, from.as_ref(), size_bytes)).await
        })
        .await
    }

    async fn discard(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>) -> storage::Result<()> {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        let (key, from) = (key.clone(), from.cloned());
        set_in_motion(async move {
            let error = storage_error("discard", &key);
            faults.around(Call::Discard, error, inner.discard(&key, epoch, from.as_ref())).await
        })
        .await
    }

    async fn read(&self, key: &BlobKey, range: Range<u64>) -> storage::Result<ByteStream> {
        let stream = self.inner.read(key, range).await?;
        let gathered =
            self.faults.around(Call::Read, storage_error("read", key), async { Ok(stream.collect::<Vec<_>>().await) });
        Ok(match gathered.await {
            Ok(chunks) => futures::stream::iter(chunks).boxed(),
            // One error occurs at once and the other later, so that both are tested.
            Err(error) if error.kind == ErrorKind::NoSpace => return Err(error),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        })
    }

    async fn available(&self, _to: Option<OpenBlob<'_>>) -> storage::Result<Option<u64>> {
        let error = storage_error("measure", &"the store");
        self.faults.around(Call::Available, error, async { Ok(Some(self.free_bytes())) }).await
    }

    async fn keys(&self) -> storage::Result<KeyStream> {
        BlobStore::keys(&self.inner).await
    }

    async fn size(&self, key: &BlobKey) -> storage::Result<Option<u64>> {
        self.inner.size(key).await
    }

    fn capacity(&self) -> storage::Result<Option<Capacity>> {
        self.inner.capacity()
    }

    fn path(&self, key: &BlobKey) -> Option<PathBuf> {
        self.inner.path(key)
    }

    async fn check(&self) -> storage::Result<()> {
        self.inner.check().await
    }
}

#[derive(Debug)]
struct Writer {
    inner: Box<dyn BlobWriter>,
    key: BlobKey,
    faults: Faults,
    _open: OpenWriter,
    /// After its first error a writer can no longer be used.
    broken: Arc<AtomicBool>,
    /// Promises that are not resolved yet.
    syncs: Vec<JoinHandle<()>>,
}

impl Writer {
    fn check(&self) -> storage::Result<()> {
        let broken = self.broken.load(Ordering::Relaxed);
        if broken { Err(storage_error("use", &self.key)(Cause::Broken)) } else { Ok(()) }
    }
}

fn note<T>(broken: &AtomicBool, done: storage::Result<T>) -> storage::Result<T> {
    broken.fetch_or(done.is_err(), Ordering::Relaxed);
    done
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, offset: u64, chunk: Bytes) -> storage::Result<()> {
        self.check()?;
        let writing = self.inner.write(offset, chunk);
        note(&self.broken, self.faults.around(Call::Write, storage_error("write", &self.key), writing).await)
    }

    async fn checkpoint(&mut self, end: u64) -> storage::Result<Checkpoint> {
        self.check()?;
        let asking = self.inner.checkpoint(end);
        let asked = self.faults.around(Call::Checkpoint, storage_error("sync", &self.key), asking).await;
        let promise = note(&self.broken, asked)?;
        let (faults, error, broken) = (self.faults.clone(), storage_error("sync", &self.key), Arc::clone(&self.broken));
        let (told, telling) = oneshot::channel();
        self.syncs.push(tokio::spawn(async move {
            // The caller may be gone.
            let _ = told.send(note(&broken, faults.around(Call::Sync, error, promise).await));
        }));
        Ok(async move { telling.await.expect("a sync is never aborted") }.boxed())
    }

    async fn close(self: Box<Self>) {
        let Self { inner, faults, syncs, _open, .. } = *self;
        for sync in syncs {
            sync.await.expect("the stores do not panic and are not aborted");
        }
        let closing = async {
            inner.close().await;
            Ok::<_, Cause>(())
        };
        let closed = faults.around(Call::Close, |cause| cause, closing).await;
        closed.expect("no error is planned for closing");
    }
}

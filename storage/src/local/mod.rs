//! Blobs as files in a folder on a local disk.
//!
//! Owns two folders in the data folder, which its owner lets one process at a time use (see
//! [`OpenError`] for what else can be wrong with it). Promises what the ports say, also across a power
//! loss: a checkpoint syncs the file and, the first time, the folder that holds its name; finishing
//! syncs the folder that the file moves to. Large chunks are written directly, past the page cache,
//! into blocks allocated a step ahead of them.
//!
//! Reading order: `folder` (where things lie), `files` (what is done to whole files), `locks` (by whom),
//! `writer`, `preallocation` (which blocks are allocated before they are needed), `blob_file` (why a
//! checkpoint is true), `reader`, `copying` and `copiers` (joining files, and on which threads), `keys` (what
//! is there).

use std::any::Any;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    Abilities, BlobKey, BlobPart, BlobStore, BlobWriter, ByteStream, Capacity, Epoch, Error, KeyStream, OpenBlob,
    Result, Resume, durable_end,
};
use pool::Pool;

mod blob_file;
mod blob_locks;
mod blocking;
mod copiers;
mod copying;
mod files;
mod folder;
mod keys;
mod preallocation;
mod reader;
mod writer;

pub use folder::{OpenError, make_folder};

use blob_locks::{BlobLock, BlobLocks};
use copiers::Copiers;
use files::OpenPlan;
use folder::BlobFolder;
use preallocation::Preallocation;
use writer::{LocalWriter, WriterLimits};

/// How the disk is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalStoreSettings {
    pub durability: BlobDurability,
    /// Large writes go to the disk past the page cache, where the file system takes them.
    pub direct_io: bool,
    /// Disk blocks for a blob of known size are allocated ahead of its bytes, in steps.
    pub preallocate: bool,
    /// How many writes of one blob are under way at once, at least 1, before `write` waits.
    pub writes_in_flight: usize,
}

/// What a store may take of its process and its disk.
#[derive(Debug, Clone)]
pub struct LocalStoreResources {
    /// How many blobs at most have a second descriptor for direct writes.
    /// Others are written through the page cache.
    pub direct_files: usize,
    /// What blocks that are allocated ahead leave free on the disk.
    pub keep_free_bytes: u64,
    /// What is read for readers before they take it comes out of this.
    pub read_pool: Pool,
    /// Kept until nothing can touch the folder any more, also what goes on behind a caller that has given up.
    pub guard: Option<Guard>,
}

/// Tells the owner of a folder, while it lives, that the folder is in use.
pub type Guard = Arc<dyn Any + Send + Sync>;

/// What a checkpoint outlives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobDurability {
    /// The end of the process and a power loss: everything is on stable storage.
    Strict,
    /// The end of the process, however it comes. The kernel writes to the disk when it sees fit.
    Relaxed,
}

impl Default for LocalStoreSettings {
    fn default() -> Self {
        Self { durability: BlobDurability::Strict, direct_io: true, preallocate: true, writes_in_flight: 3 }
    }
}

impl Default for LocalStoreResources {
    fn default() -> Self {
        Self { direct_files: 1024, keep_free_bytes: 0, read_pool: Pool::new(64 << 20), guard: None }
    }
}

/// Smaller blobs are not worth laying out.
const LAID_OUT_MIN_BYTES: u64 = 1 << 20;

/// What files can do. Whether they know their room depends on the file system.
const ABILITIES: Abilities = Abilities {
    any_order: true,
    overwrites: true,
    reads_open: true,
    takes_over: true,
    part_bytes: 1,
    checkpoint_bytes: 1,
    // Some file systems share blocks, but none of them promises to.
    joins_without_copying: false,
    knows_free_space: true,
    max_resume_bytes: durable_end::TOKEN_BYTES,
};

/// Blobs in a data folder, whose `incoming` and `files` belong to this store for as long as it lives.
#[derive(Debug)]
pub struct LocalStore {
    locks: Arc<BlobLocks>,
    copiers: Copiers,
    abilities: Abilities,
    settings: LocalStoreSettings,
    resources: LocalStoreResources,
}

impl LocalStore {
    /// Uses the data folder `root`, making it if it is not there. Blocks; meant for the start.
    pub fn open(
        root: PathBuf,
        settings: LocalStoreSettings,
        resources: LocalStoreResources,
    ) -> std::result::Result<Self, OpenError> {
        let settings = LocalStoreSettings { writes_in_flight: settings.writes_in_flight.max(1), ..settings };
        let direct_files = if settings.direct_io { resources.direct_files } else { 0 };
        let data = BlobFolder::open(root, settings.durability, direct_files, resources.guard.clone())?;
        // Where measuring fails now, it fails whoever asks later too.
        let knows_free_space = data.capacity().map_or(true, |capacity| capacity.is_some());
        let abilities = Abilities { knows_free_space, ..ABILITIES };
        Ok(Self { locks: Arc::new(BlobLocks::new(data)), copiers: Copiers::default(), abilities, settings, resources })
    }

    /// Changes the files of a blob, when it is this call's turn.
    async fn change<T: Send + 'static>(
        &self,
        operation: &'static str,
        (key, epoch): (&BlobKey, Epoch),
        work: impl FnOnce(&mut BlobLock) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let error = |source| Error::new(operation, key, source);
        let mut lock = self.locks.take(key, epoch).await.map_err(error)?;
        blocking::run(move || work(&mut lock)).await.map_err(error)
    }
}

#[async_trait]
impl BlobStore for LocalStore {
    fn abilities(&self) -> Abilities {
        self.abilities
    }

    async fn open(
        &self,
        key: &BlobKey,
        epoch: Epoch,
        from: Option<&Resume>,
        size_bytes: Option<u64>,
    ) -> Result<Box<dyn BlobWriter>> {
        let end = durable_end::decode(from).map_err(|source| Error::new("open", key, source))?;
        let laid_out_bytes = size_bytes.filter(|size| self.settings.preallocate && *size >= LAID_OUT_MIN_BYTES);
        let plan = OpenPlan { end, has_token: from.is_some(), laid_out_bytes };
        let open = move |lock: &mut BlobLock| {
            let opened = files::open_for_writing(lock.data(), lock.key(), plan)?;
            Ok(lock.write_to(opened))
        };
        let blob_file = self.change("open", (key, epoch), open).await?;
        let preallocation = laid_out_bytes.map(Preallocation::new);
        let limits = WriterLimits {
            writes_in_flight: self.settings.writes_in_flight,
            keep_free_bytes: self.resources.keep_free_bytes,
        };
        Ok(Box::new(LocalWriter::new(key.clone(), blob_file, limits, end, preallocation)))
    }

    async fn concatenate(&self, parts: &[BlobPart], into: &BlobKey, epoch: Epoch) -> Result<Resume> {
        let parts = parts.to_vec();
        let error = |source| Error::new("concatenate", into, source);
        // It travels with the work: whoever comes next for this blob waits
        // until a cancelled copy has been undone.
        let lock = self.locks.take(into, epoch).await.map_err(error)?;
        let copied = self.copiers.run(move |cancelled| {
            let end = copying::concatenate(lock.data(), &parts, lock.key(), cancelled)?;
            lock.begin_blob();
            Ok(end)
        });
        copied.await.map(durable_end::encode).map_err(error)
    }

    async fn seal(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()> {
        let end = durable_end::decode(from).map_err(|source| Error::new("seal", key, source))?;
        let seal = move |lock: &mut BlobLock| files::check_whole(lock.data(), lock.key(), end, size_bytes);
        self.change("seal", (key, epoch), seal).await
    }

    async fn finish(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()> {
        let end = durable_end::decode(from).map_err(|source| Error::new("finish", key, source))?;
        let finish = move |lock: &mut BlobLock| {
            files::finish(lock.data(), lock.key(), end, size_bytes)?;
            lock.end_blob();
            Ok(())
        };
        self.change("finish", (key, epoch), finish).await
    }

    async fn discard(&self, key: &BlobKey, epoch: Epoch, _from: Option<&Resume>) -> Result<()> {
        let discard = |lock: &mut BlobLock| {
            files::remove(lock.data(), lock.key())?;
            lock.end_blob();
            Ok(())
        };
        self.change("discard", (key, epoch), discard).await
    }

    async fn read(&self, key: &BlobKey, range: Range<u64>) -> Result<ByteStream> {
        let (data, owned_key, end) = (Arc::clone(self.locks.data()), key.clone(), range.end);
        let file = blocking::run(move || files::open_for_reading(&data, &owned_key, end)).await;
        let file = file.map_err(|source| Error::new("read", key, source))?;
        Ok(reader::stream(key.clone(), file, range, self.resources.read_pool.clone()))
    }

    async fn available(&self, to: Option<OpenBlob<'_>>) -> Result<Option<u64>> {
        // Calls that read what the kernel has at hand: not worth another thread.
        let data = self.locks.data();
        let room = data.available_bytes().map_err(|source| Error::about("measure", "the data folder", source))?;
        let (Some(room), Some(OpenBlob { key, received_bytes })) = (room, to) else { return Ok(room) };
        let occupied = files::occupied_bytes(data, key).map_err(|source| Error::new("measure", key, source))?;
        Ok(Some(room.saturating_add(occupied.saturating_sub(received_bytes))))
    }

    async fn keys(&self) -> Result<KeyStream> {
        Ok(keys::stream(Arc::clone(self.locks.data())))
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>> {
        let (data, owned_key) = (Arc::clone(self.locks.data()), key.clone());
        let found = blocking::run(move || files::size(&data, &owned_key)).await;
        found.map_err(|source| Error::new("look for", key, source))
    }

    fn capacity(&self) -> Result<Option<Capacity>> {
        let found = self.locks.data().capacity();
        found.map_err(|source| Error::about("measure", "the data folder", source))
    }

    fn path(&self, key: &BlobKey) -> Option<PathBuf> {
        Some(self.locks.data().finished(key))
    }

    async fn check(&self) -> Result<()> {
        let data = Arc::clone(self.locks.data());
        let tried = blocking::run(move || data.probe()).await;
        tried.map_err(|source| Error::about("write to", "the data folder", source))
    }
}

//! Blobs as files in a folder on a local disk.
//!
//! Owns two folders in the data folder (see [`OpenError`] for the reasons why it cannot be used). Keeps the
//! contracts of the ports, also across a power loss: a checkpoint syncs the file and, the first time, the
//! folder that contains its name; finishing syncs the folder that the file moves to. Large chunks are
//! written directly, past the page cache, into blocks allocated a step ahead of them.
//!
//! Its owner lets one process at a time use the folder, or several that [share](FolderAccess::Shared) it.
//! Nothing in a shared folder stops the writes of a process that has lost a blob and does not know it yet.
//! Such a process changes no byte that counts, for these reasons:
//!
//! - A writer writes only behind the bytes that its caller has committed, or into gaps between them, and no
//!   two processes write a blob at the same time unless the caller breaks the contract of
//!   [`takes_over`](Abilities::takes_over). So a lost writer changes only bytes behind those that its
//!   successor has sealed, and gaps, which the sealed bytes contain but nobody reads.
//! - A file that a lost writer may still have open is never moved to its final place: it could become longer
//!   there. The caller copies the sealed bytes into a blob that only it writes.
//! - A blob that was finished by one process is found finished by another, and a file is removed by its name:
//!   a lost writer keeps writing to a file without a name.
//!
//! Reading order: `folder` (the layout), `durable_folders` (names that survive a power loss), `files`
//! (operations on whole files), `blob_locks` (exclusive access to them), `writer`, `preallocation` (the
//! blocks to allocate before they are needed), `blob_file` (the rules of a checkpoint), `reader`, `copying`
//! and `copiers` (joining files, and the threads for it), `keys` (listing).

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
mod durable_folders;
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

/// Settings for the use of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalStoreSettings {
    pub access: FolderAccess,
    pub durability: BlobDurability,
    /// True if large writes go to the disk past the page cache, where the file system supports it.
    pub direct_io: bool,
    /// True if disk blocks for a blob of known size are allocated ahead of its bytes, in steps.
    pub preallocate: bool,
    /// Maximum number of writes of one blob in flight, at least 1; further calls of `write` wait.
    pub writes_in_flight: usize,
}

/// The share of process and disk that a store may use.
#[derive(Debug, Clone)]
pub struct LocalStoreResources {
    /// Maximum number of blobs with a second descriptor for direct writes. Others are written through the
    /// page cache.
    pub direct_files: usize,
    /// Bytes that blocks allocated ahead must leave free on the disk.
    pub keep_free_bytes: u64,
    /// The pool for bytes that are read ahead of readers.
    pub read_pool: Pool,
    /// Kept until no operation can change the folder any more, also operations whose caller has been dropped.
    pub guard: Option<Guard>,
}

/// Shows the owner of a folder, as long as it exists, that the folder is in use.
pub type Guard = Arc<dyn Any + Send + Sync>;

/// The processes that use a data folder at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FolderAccess {
    /// One. An older writer of a blob is ended when a newer one opens it.
    #[default]
    Exclusive,
    /// Several, on one machine or on a file system that shows each the writes of the others. An older writer
    /// in another process cannot be ended, so blobs are not [taken over](Abilities::takes_over).
    Shared,
}

/// The failures that a checkpoint survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobDurability {
    /// The end of the process and a power loss: all bytes are on stable storage.
    Strict,
    /// Any end of the process. The kernel decides when it writes to the disk.
    Relaxed,
}

impl Default for LocalStoreSettings {
    fn default() -> Self {
        Self {
            access: FolderAccess::Exclusive,
            durability: BlobDurability::Strict,
            direct_io: true,
            preallocate: true,
            writes_in_flight: 3,
        }
    }
}

impl Default for LocalStoreResources {
    fn default() -> Self {
        Self { direct_files: 1024, keep_free_bytes: 0, read_pool: Pool::new(64 << 20), guard: None }
    }
}

/// Smaller blobs are not laid out.
const LAID_OUT_MIN_BYTES: u64 = 1 << 20;

/// The abilities of files. Whether they know their free space depends on the file system, and whether they
/// are taken over on the access to the folder.
const ABILITIES: Abilities = Abilities {
    any_order: true,
    overwrites: true,
    reads_open: true,
    takes_over: true,
    part_bytes: 1,
    checkpoint_bytes: 1,
    // Some file systems share blocks, but none of them guarantees it.
    joins_without_copying: false,
    knows_free_space: true,
    max_resume_bytes: durable_end::TOKEN_BYTES,
};

/// Blobs in a data folder. Its `incoming` and `files` belong to this store and to those that share it, for as
/// long as they exist.
#[derive(Debug)]
pub struct LocalStore {
    locks: Arc<BlobLocks>,
    copiers: Copiers,
    abilities: Abilities,
    settings: LocalStoreSettings,
    resources: LocalStoreResources,
}

impl LocalStore {
    /// Opens the data folder `root`, creating it if it does not exist. Blocks; intended for the start.
    pub fn open(
        root: PathBuf,
        settings: LocalStoreSettings,
        resources: LocalStoreResources,
    ) -> std::result::Result<Self, OpenError> {
        let settings = LocalStoreSettings { writes_in_flight: settings.writes_in_flight.max(1), ..settings };
        let direct_files = if settings.direct_io { resources.direct_files } else { 0 };
        let access = (settings.access, settings.durability);
        let data = BlobFolder::open(root, access, direct_files, resources.guard.clone())?;
        // If measuring fails now, later calls report the error too.
        let knows_free_space = data.capacity().map_or(true, |capacity| capacity.is_some());
        let takes_over = settings.access == FolderAccess::Exclusive;
        let abilities = Abilities { knows_free_space, takes_over, ..ABILITIES };
        Ok(Self { locks: Arc::new(BlobLocks::new(data)), copiers: Copiers::default(), abilities, settings, resources })
    }

    /// Changes the files of a blob, under its lock.
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
        // The lock moves with the work: the next call for this blob waits until a cancelled copy has been
        // undone.
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
        // These calls read values that the kernel has in memory; another thread is not worthwhile.
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

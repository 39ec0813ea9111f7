//! Exclusive access to the files of a blob.
//!
//! Work on files runs to its end even when its caller has been dropped. The work itself holds the lock, so
//! that an abandoned call can neither truncate nor move what its successor wrote. Taking a lock also ends an
//! abandoned writer, and waits for its writes in flight.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::OwnedMutexGuard;

use super::blob_file::BlobFile;
use super::files::OpenedFile;
use super::folder::BlobFolder;
use crate::epoch::Epochs;
use crate::lock::lock;
use crate::{BlobKey, Epoch};

/// The locks of blobs that are in use. Others are removed.
#[derive(Debug)]
pub(super) struct BlobLocks {
    /// Here, so that the folder's guard stays while any work or writer is left.
    data: Arc<BlobFolder>,
    epochs: Epochs,
    blobs: Mutex<HashMap<BlobKey, Weak<tokio::sync::Mutex<LockedBlob>>>>,
}

#[derive(Debug)]
pub(super) struct LockedBlob {
    key: BlobKey,
    locks: Arc<BlobLocks>,
    /// The file that its writer uses, if there is one.
    file: Weak<BlobFile>,
}

/// The right to change the files of one blob.
#[derive(Debug)]
pub(super) struct BlobLock(OwnedMutexGuard<LockedBlob>);

/// Keeps the lock of a blob from being removed.
pub(super) type KnownBlob = Arc<tokio::sync::Mutex<LockedBlob>>;

impl BlobLocks {
    pub(super) fn new(data: BlobFolder) -> Self {
        Self { data: Arc::new(data), epochs: Epochs::default(), blobs: Mutex::default() }
    }

    pub(super) fn data(&self) -> &Arc<BlobFolder> {
        &self.data
    }

    /// Waits for the lock. A caller with an older epoch gets none, and does not affect the newer one.
    pub(super) async fn take(self: &Arc<Self>, key: &BlobKey, epoch: Epoch) -> io::Result<BlobLock> {
        let blob = self.blob(key).lock_owned().await;
        self.epochs.admit(key, epoch)?;
        if let Some(file) = blob.file.upgrade() {
            file.end(io::Error::other("the blob was reopened, finished or removed concurrently")).await;
        }
        Ok(BlobLock(blob))
    }

    fn blob(self: &Arc<Self>, key: &BlobKey) -> KnownBlob {
        let mut blobs = self.blobs();
        if let Some(known) = blobs.get(key).and_then(Weak::upgrade) {
            return known;
        }
        let blob = LockedBlob { key: key.clone(), locks: Arc::clone(self), file: Weak::new() };
        let blob = Arc::new(tokio::sync::Mutex::new(blob));
        blobs.insert(key.clone(), Arc::downgrade(&blob));
        blob
    }

    fn blobs(&self) -> MutexGuard<'_, HashMap<BlobKey, Weak<tokio::sync::Mutex<LockedBlob>>>> {
        lock(&self.blobs)
    }
}

impl BlobLock {
    pub(super) fn key(&self) -> &BlobKey {
        &self.0.key
    }

    pub(super) fn data(&self) -> &Arc<BlobFolder> {
        &self.0.locks.data
    }

    /// Records that the blob is open.
    pub(super) fn begin_blob(&self) {
        self.0.locks.epochs.begin(self.key());
    }

    /// Records that the blob has ended.
    pub(super) fn end_blob(&self) {
        self.0.locks.epochs.end(self.key());
    }

    /// Opens the blob for writes through `opened`.
    pub(super) fn write_to(&mut self, opened: OpenedFile) -> Arc<BlobFile> {
        self.begin_blob();
        let known = Arc::clone(OwnedMutexGuard::mutex(&self.0));
        let file = Arc::new(BlobFile::new(self.key().clone(), opened, Arc::clone(self.data()), known));
        self.0.file = Arc::downgrade(&file);
        file
    }
}

impl Drop for LockedBlob {
    fn drop(&mut self) {
        let mut blobs = self.locks.blobs();
        if blobs.get(&self.key).is_some_and(|blob| blob.strong_count() == 0) {
            blobs.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{BlobDurability, FolderAccess};

    #[tokio::test]
    async fn a_blob_nobody_works_on_is_forgotten() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let access = (FolderAccess::Exclusive, BlobDurability::Strict);
        let data = BlobFolder::open(folder.path().to_owned(), access, 0, None).map_err(io::Error::other)?;
        let locks = Arc::new(BlobLocks::new(data));
        let key = BlobKey::new("a").map_err(io::Error::other)?;
        let mut lock = locks.take(&key, Epoch::FIRST).await?;
        let opened = OpenedFile { file: tempfile::tempfile()?, named: true };
        let file = lock.write_to(opened);
        drop(lock);
        assert_eq!(locks.blobs().len(), 1);
        drop(file);
        assert!(locks.blobs().is_empty());
        Ok(())
    }
}

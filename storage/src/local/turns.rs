//! Whose turn it is with a blob.
//!
//! Work on files runs to its end even when its caller has given up. So that a call that was given up can
//! neither cut nor move what its successor wrote, the work itself holds the turn. Taking a turn also ends a
//! writer that was left behind, and waits for the writes it has begun.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::OwnedMutexGuard;

use super::files::Opened;
use super::folder::DataFolder;
use super::target::Target;
use crate::epoch::Epochs;
use crate::lock::lock;
use crate::{BlobKey, Epoch};

/// Blobs that somebody works on or writes to. The others are forgotten.
#[derive(Debug)]
pub(super) struct Turns {
    /// Here, so that the folder's guard stays while any work or writer is left.
    data: Arc<DataFolder>,
    epochs: Epochs,
    blobs: Mutex<HashMap<BlobKey, Weak<tokio::sync::Mutex<Blob>>>>,
}

#[derive(Debug)]
pub(super) struct Blob {
    key: BlobKey,
    turns: Arc<Turns>,
    /// Where it is being written to.
    target: Weak<Target>,
}

/// The right to change the files of one blob.
#[derive(Debug)]
pub(super) struct Turn(OwnedMutexGuard<Blob>);

/// Keeps a blob from being forgotten.
pub(super) type KnownBlob = Arc<tokio::sync::Mutex<Blob>>;

impl Turns {
    pub(super) fn new(data: DataFolder) -> Self {
        Self { data: Arc::new(data), epochs: Epochs::default(), blobs: Mutex::default() }
    }

    pub(super) fn data(&self) -> &Arc<DataFolder> {
        &self.data
    }

    /// Waits for the turn. A caller whose epoch is over gets none, and disturbs nobody.
    pub(super) async fn take(self: &Arc<Self>, key: &BlobKey, epoch: Epoch) -> io::Result<Turn> {
        let blob = self.blob(key).lock_owned().await;
        self.epochs.admit(key, epoch)?;
        if let Some(target) = blob.target.upgrade() {
            target.end(io::Error::other("the blob was opened again, finished or removed in the meantime")).await;
        }
        Ok(Turn(blob))
    }

    fn blob(self: &Arc<Self>, key: &BlobKey) -> KnownBlob {
        let mut blobs = self.blobs();
        if let Some(known) = blobs.get(key).and_then(Weak::upgrade) {
            return known;
        }
        let blob = Blob { key: key.clone(), turns: Arc::clone(self), target: Weak::new() };
        let blob = Arc::new(tokio::sync::Mutex::new(blob));
        blobs.insert(key.clone(), Arc::downgrade(&blob));
        blob
    }

    fn blobs(&self) -> MutexGuard<'_, HashMap<BlobKey, Weak<tokio::sync::Mutex<Blob>>>> {
        lock(&self.blobs)
    }
}

impl Turn {
    pub(super) fn key(&self) -> &BlobKey {
        &self.0.key
    }

    pub(super) fn data(&self) -> &Arc<DataFolder> {
        &self.0.turns.data
    }

    /// Takes note that the blob is open.
    pub(super) fn begin_blob(&self) {
        self.0.turns.epochs.begin(self.key());
    }

    /// Takes note that nobody writes to the blob any more.
    pub(super) fn end_blob(&self) {
        self.0.turns.epochs.end(self.key());
    }

    /// Lets the blob be written through `opened` from now on.
    pub(super) fn write_to(&mut self, opened: Opened) -> Arc<Target> {
        self.begin_blob();
        let known = Arc::clone(OwnedMutexGuard::mutex(&self.0));
        let target = Arc::new(Target::new(self.key().clone(), opened, Arc::clone(self.data()), known));
        self.0.target = Arc::downgrade(&target);
        target
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        let mut blobs = self.turns.blobs();
        if blobs.get(&self.key).is_some_and(|blob| blob.strong_count() == 0) {
            blobs.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Durability;

    #[tokio::test]
    async fn a_blob_nobody_works_on_is_forgotten() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let data = DataFolder::open(folder.path().to_owned(), Durability::Strict, 0, None).map_err(io::Error::other)?;
        let turns = Arc::new(Turns::new(data));
        let key = BlobKey::new("a").map_err(io::Error::other)?;
        let mut turn = turns.take(&key, Epoch::FIRST).await?;
        let opened = Opened { file: tempfile::tempfile()?, named: true };
        let target = turn.write_to(opened);
        drop(turn);
        assert_eq!(turns.blobs().len(), 1);
        drop(target);
        assert!(turns.blobs().is_empty());
        Ok(())
    }
}

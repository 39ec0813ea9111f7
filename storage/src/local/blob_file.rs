//! The open file of a blob, and the writes in flight to it.
//!
//! Owns the two rules that a checkpoint relies on. It waits for exactly the writes begun before it was
//! requested. And a failure is permanent: after a failed `fdatasync` the kernel may have dropped the bytes
//! and may report success for the next one, so a sync is never retried, and every pending promise that
//! depends on those bytes fails too.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::blob_locks::KnownBlob;
use super::files::OpenedFile;
use super::folder::{BlobFolder, DirectFile};
use super::{BlobDurability, blocking, files};
use crate::{BlobKey, Error, Result};
use pool::{BLOCK_BYTES, DIRECT_MIN_BYTES, MAX_BUFFER_BYTES};

/// Writes are numbered from 1 as they begin.
type WriteNumber = u64;

/// The range of an operation that changes no bytes but must end before another caller gets the file.
pub(super) const NO_BYTES: Range<u64> = 0..0;

#[derive(Debug)]
pub(super) struct BlobFile {
    file: File,
    /// The same file, for direct writes: opened with the first of them.
    direct: OnceLock<DirectFile>,
    key: BlobKey,
    data: Arc<BlobFolder>,
    writes: Arc<watch::Sender<WritesInFlight>>,
    /// Held by the one sync at a time. The kernel reports an error to only one of several syncs of a file, so
    /// no other sync may overtake it.
    synced: Arc<tokio::sync::Mutex<SyncProgress>>,
    _known: KnownBlob,
}

/// The writes that have begun and not ended, and the failure that ends all.
#[derive(Debug)]
struct WritesInFlight {
    next: WriteNumber,
    pending: Vec<(WriteNumber, Range<u64>)>,
    failure: Option<WriteFailure>,
}

#[derive(Debug, Clone)]
struct WriteFailure {
    operation: &'static str,
    /// The first write that is lost. Requests before it began are not affected; 0 affects everything.
    since: WriteNumber,
    source: Arc<io::Error>,
}

/// The part of the file that is known to be durable.
#[derive(Debug)]
struct SyncProgress {
    /// All writes below this number are durable.
    next: WriteNumber,
    /// True if the file's name is durable.
    name: bool,
}

impl WritesInFlight {
    fn have_completed(&self, before: WriteNumber) -> bool {
        self.pending.iter().all(|(number, _)| *number >= before)
    }

    /// Reports whether a write may begin. Overlapping writes keep their order: the later one waits.
    fn has_slot_for(&self, range: &Range<u64>, most: usize) -> bool {
        let apart = |(_, other): &(WriteNumber, Range<u64>)| other.end <= range.start || range.end <= other.start;
        let writes = self.pending.iter().filter(|(_, other)| *other != NO_BYTES);
        writes.count() < most && self.pending.iter().all(apart)
    }

    fn failure_before(&self, number: WriteNumber) -> Option<&WriteFailure> {
        self.failure.as_ref().filter(|failure| failure.since < number)
    }

    fn fail(&mut self, failure: WriteFailure) {
        match &self.failure {
            Some(known) if known.since <= failure.since => {}
            _ => self.failure = Some(failure),
        }
    }
}

impl BlobFile {
    pub(super) fn new(key: BlobKey, opened: OpenedFile, data: Arc<BlobFolder>, known: KnownBlob) -> Self {
        let OpenedFile { file, named } = opened;
        let writes = WritesInFlight { next: 1, pending: Vec::new(), failure: None };
        let synced = SyncProgress { next: 1, name: named };
        Self {
            file,
            direct: OnceLock::new(),
            key,
            data,
            writes: Arc::new(watch::Sender::new(writes)),
            synced: Arc::new(tokio::sync::Mutex::new(synced)),
            _known: known,
        }
    }

    /// Returns the number of the next write: all writes below it have begun.
    pub(super) fn next(&self) -> WriteNumber {
        self.writes.borrow().next
    }

    /// Returns the failure, if there was one.
    pub(super) fn intact(&self) -> Result<()> {
        self.intact_before(WriteNumber::MAX)
    }

    /// Waits until one more write may begin, or for a failure.
    pub(super) async fn wait_for_slot(&self, range: &Range<u64>, most: usize) -> Result<()> {
        self.until(|writes| writes.failure.is_some() || writes.has_slot_for(range, most)).await;
        self.intact()
    }

    /// Waits until no operation is in flight.
    pub(super) async fn all_completed(&self) {
        self.until(|writes| writes.pending.is_empty()).await;
    }

    /// Returns the minimum size of a direct write.
    ///
    /// With relaxed durability, no request waits for the disk, and a direct write would be the only reason to
    /// wait: a small write, such as a request of 1 MiB, is done once it is in the page cache. A large upload
    /// comes in full buffers and does not wait for each.
    pub(super) fn direct_min_bytes(&self) -> usize {
        match self.data.durability() {
            BlobDurability::Strict => DIRECT_MIN_BYTES,
            BlobDurability::Relaxed => MAX_BUFFER_BYTES - 2 * BLOCK_BYTES,
        }
    }

    /// Records that a write begins. It is in flight until the returned value is given its outcome, or is
    /// dropped.
    pub(super) fn begin(self: &Arc<Self>, range: Range<u64>) -> PendingWrite {
        let mut number = 0;
        self.writes.send_modify(|writes| {
            number = writes.next;
            writes.next += 1;
            writes.pending.push((number, range));
        });
        let outcome = Err(io::Error::other("the write was abandoned"));
        PendingWrite {
            blob_file: Arc::clone(self),
            completion: WriteCompletion { writes: Arc::clone(&self.writes), number, outcome },
        }
    }

    /// Fails all further requests, and waits for the operations in flight.
    pub(super) async fn end(&self, why: io::Error) {
        self.fail("write", 0, Arc::new(why));
        self.all_completed().await;
    }

    /// Makes the writes below `before` durable, and the file's name with them.
    pub(super) async fn sync(self: Arc<Self>, before: WriteNumber) -> Result<()> {
        self.until(|writes| writes.have_completed(before) || writes.failure_before(before).is_some()).await;
        if self.data.durability() == BlobDurability::Relaxed {
            return self.intact_before(before);
        }
        let mut synced = Arc::clone(&self.synced).lock_owned().await;
        self.intact_before(before)?;
        if synced.name && synced.next >= before {
            return Ok(());
        }
        let blob_file = Arc::clone(&self);
        // The lock moves with the work: if the promise is dropped, the sync continues and must stay the only
        // one.
        let work = move || blob_file.sync_now(&mut synced, before);
        blocking::run(work).await.map_err(|source| Error::new("sync", &self.key, source))
    }

    fn sync_now(&self, synced: &mut SyncProgress, before: WriteNumber) -> io::Result<()> {
        let done = self.data.sync_data(&self.file).and_then(|()| match synced.name {
            true => Ok(()),
            false => self.data.sync_incoming(&self.key),
        });
        match done {
            Ok(()) => {
                *synced = SyncProgress { next: before.max(synced.next), name: true };
                Ok(())
            }
            Err(error) => {
                let error = Arc::new(error);
                self.fail("sync", 0, Arc::clone(&error));
                Err(repeat(&error))
            }
        }
    }

    fn intact_before(&self, before: WriteNumber) -> Result<()> {
        match self.writes.borrow().failure_before(before) {
            Some(failure) => Err(Error::new(failure.operation, &self.key, repeat(&failure.source))),
            None => Ok(()),
        }
    }

    fn fail(&self, operation: &'static str, since: WriteNumber, source: Arc<io::Error>) {
        let failure = WriteFailure { operation, since, source };
        self.writes.send_modify(|writes| writes.fail(failure));
    }

    async fn until(&self, reached: impl Fn(&WritesInFlight) -> bool) {
        // The only error is that the sender is gone, and it is in `self`.
        let _ = self.writes.subscribe().wait_for(reached).await;
    }
}

/// A write in flight. It releases its reference to the file before it reports its end, so that a task that
/// waits for it finds the file unused.
#[derive(Debug)]
pub(super) struct PendingWrite {
    blob_file: Arc<BlobFile>,
    completion: WriteCompletion,
}

#[derive(Debug)]
struct WriteCompletion {
    writes: Arc<watch::Sender<WritesInFlight>>,
    number: WriteNumber,
    outcome: io::Result<()>,
}

impl PendingWrite {
    pub(super) fn file(&self) -> &File {
        &self.blob_file.file
    }

    /// Returns the file for direct writes, if the file system supports them and a descriptor is free. The
    /// file's name stays while the write is in flight. Blocks.
    pub(super) fn direct(&self) -> Option<&File> {
        let BlobFile { direct, data, key, .. } = &*self.blob_file;
        if direct.get().is_none() {
            match data.open_direct(key) {
                // Another write may have been first.
                Ok(Some(file)) => drop(direct.set(file)),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(blob = %key, %error, "could not open a file for direct I/O; using the page cache")
                }
            }
        }
        direct.get().map(|direct| &direct.file)
    }

    /// Allocates disk blocks for later writes. Blocks.
    pub(super) fn allocate(&self, part: Range<u64>, keep_free_bytes: u64) -> io::Result<()> {
        files::allocate(&self.blob_file.data, &self.blob_file.file, part, keep_free_bytes)
    }

    pub(super) fn end(mut self, outcome: io::Result<()>) {
        self.completion.outcome = outcome;
    }
}

impl Drop for WriteCompletion {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        let failure =
            outcome.err().map(|error| WriteFailure { operation: "write", since: self.number, source: error.into() });
        self.writes.send_modify(|writes| {
            writes.pending.retain(|(number, _)| *number != self.number);
            if let Some(failure) = failure {
                writes.fail(failure);
            }
        });
    }
}

/// Copies an error for another caller: with the same error number if there is one, or with the same kind and
/// cause.
fn repeat(error: &Arc<io::Error>) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), Arc::clone(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use futures::FutureExt;

    use super::*;
    use crate::local::FolderAccess;
    use crate::local::blob_locks::BlobLocks;
    use crate::{Epoch, ErrorKind};

    /// Opens a pipe, which supports neither positioned writes nor syncs.
    async fn broken_target(folder: &tempfile::TempDir) -> io::Result<Arc<BlobFile>> {
        let access = (FolderAccess::Exclusive, BlobDurability::Strict);
        let data = BlobFolder::open(folder.path().to_owned(), access, 0, None).map_err(io::Error::other)?;
        let key = BlobKey::new("broken").map_err(io::Error::other)?;
        let (_, pipe) = io::pipe()?;
        let opened = OpenedFile { file: File::from(OwnedFd::from(pipe)), named: true };
        Ok(Arc::new(BlobLocks::new(data)).take(&key, Epoch::FIRST).await?.write_to(opened))
    }

    #[tokio::test]
    async fn a_checkpoint_waits_for_the_writes_before_it_and_no_others() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let blob_file = broken_target(&folder).await?;
        // Nothing is left to sync, so that only the writes are waited for.
        blob_file.synced.lock().await.next = WriteNumber::MAX;
        let (first, second) = (blob_file.begin(0..10), blob_file.begin(10..20));
        let mut promise = Arc::clone(&blob_file).sync(blob_file.next()).boxed();
        let _later = blob_file.begin(20..30);
        assert!((&mut promise).now_or_never().is_none());
        second.end(Ok(()));
        assert!((&mut promise).now_or_never().is_none());
        first.end(Ok(()));
        assert!((&mut promise).now_or_never().is_some_and(|kept| kept.is_ok()));
        Ok(())
    }

    #[tokio::test]
    async fn a_failed_sync_is_never_tried_again() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let blob_file = broken_target(&folder).await?;
        let first = blob_file.begin(0..10);
        first.end(Ok(()));
        let (earlier, later) =
            (Arc::clone(&blob_file).sync(blob_file.next()), Arc::clone(&blob_file).sync(blob_file.next()));
        let error = later.await.expect_err("a pipe cannot be synced");
        assert_eq!((error.operation, error.source.raw_os_error()), ("sync", Some(22)));
        // A kernel may report success for the next sync.
        blob_file.synced.lock().await.next = WriteNumber::MAX;
        let error = earlier.await.expect_err("it rests on the bytes that the failed one was for");
        assert_eq!((error.operation, error.source.raw_os_error()), ("sync", Some(22)));
        assert!(Arc::clone(&blob_file).sync(blob_file.next()).await.is_err());
        assert!(blob_file.intact().is_err());
        assert!(blob_file.wait_for_slot(&(10..20), 2).await.is_err());
        Ok(())
    }

    #[tokio::test]
    async fn a_failed_write_fails_what_came_after_it_and_nothing_before() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let blob_file = broken_target(&folder).await?;
        blob_file.synced.lock().await.next = WriteNumber::MAX;
        let before = blob_file.next();
        let (first, second) = (blob_file.begin(0..10), blob_file.begin(10..20));
        second.end(Err(io::Error::from_raw_os_error(28)));
        assert!(Arc::clone(&blob_file).sync(before).await.is_ok());
        let error = Arc::clone(&blob_file).sync(blob_file.next()).await;
        drop(first);
        assert_eq!(error.expect_err("the second is lost").kind, ErrorKind::NoSpace);
        let error = blob_file.intact().expect_err("the first was abandoned");
        assert_eq!(error.kind, ErrorKind::Other);
        blob_file.all_completed().await;
        Ok(())
    }

    #[tokio::test]
    async fn overlapping_writes_wait_for_each_other_and_others_do_not() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let blob_file = broken_target(&folder).await?;
        let _under_way = blob_file.begin(10..20);
        let writes = blob_file.writes.borrow();
        for (range, free) in [(0..10, true), (20..30, true), (0..11, false), (19..30, false), (12..13, false)] {
            assert_eq!(writes.has_slot_for(&range, 2), free, "{range:?}");
        }
        assert!(!writes.has_slot_for(&(20..30), 1));
        drop(writes);
        let _allocating = blob_file.begin(NO_BYTES);
        assert!(blob_file.writes.borrow().has_slot_for(&(0..10), 2), "an allocation takes the place of no write");
        Ok(())
    }
}

//! The file a blob is being written to, and what is under way to it.
//!
//! Owns the two rules that make a checkpoint true. It waits for exactly the writes begun before
//! it was asked for. And a failure stays: after a failed `fdatasync` the kernel may have dropped
//! the bytes and call the next one a success, so none is tried again, and every promise still
//! pending that rests on those bytes fails too.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::files::Opened;
use super::folder::{DataFolder, DirectFile};
use super::turns::KnownBlob;
use super::{Durability, blocking, files};
use crate::{BlobKey, Error, Result};
use pool::{BLOCK_BYTES, DIRECT_MIN_BYTES, MAX_BUFFER_BYTES};

/// Writes are numbered from 1 as they begin.
type Number = u64;

/// The range of what changes no bytes but must have ended before somebody else may have the file.
pub(super) const NO_BYTES: Range<u64> = 0..0;

#[derive(Debug)]
pub(super) struct Target {
    file: File,
    /// The same file, for writes past the page cache: opened with the first of them.
    direct: OnceLock<DirectFile>,
    key: BlobKey,
    data: Arc<DataFolder>,
    flight: Arc<watch::Sender<Flight>>,
    /// Held by the one sync at a time. An error is told to one of several syncs of a
    /// file, so the others must not overtake it.
    synced: Arc<tokio::sync::Mutex<Synced>>,
    _known: KnownBlob,
}

/// The writes that have begun and not ended, and the failure that ends all.
#[derive(Debug)]
struct Flight {
    next: Number,
    under_way: Vec<(Number, Range<u64>)>,
    failure: Option<Failure>,
}

#[derive(Debug, Clone)]
struct Failure {
    operation: &'static str,
    /// The first write that is lost. What was asked for before it
    /// began is not affected; 0 affects everything.
    since: Number,
    source: Arc<io::Error>,
}

/// How far the file is known to be durable.
#[derive(Debug)]
struct Synced {
    /// All writes below this number are.
    next: Number,
    /// The file's name is.
    name: bool,
}

impl Flight {
    fn has_landed(&self, before: Number) -> bool {
        self.under_way.iter().all(|(number, _)| *number >= before)
    }

    /// Writes that overlap keep their order: the later one waits.
    fn has_room_for(&self, range: &Range<u64>, most: usize) -> bool {
        let apart = |(_, other): &(Number, Range<u64>)| other.end <= range.start || range.end <= other.start;
        let writes = self.under_way.iter().filter(|(_, other)| *other != NO_BYTES);
        writes.count() < most && self.under_way.iter().all(apart)
    }

    fn failure_before(&self, number: Number) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| failure.since < number)
    }

    fn fail(&mut self, failure: Failure) {
        match &self.failure {
            Some(known) if known.since <= failure.since => {}
            _ => self.failure = Some(failure),
        }
    }
}

impl Target {
    pub(super) fn new(key: BlobKey, opened: Opened, data: Arc<DataFolder>, known: KnownBlob) -> Self {
        let Opened { file, named } = opened;
        let flight = Flight { next: 1, under_way: Vec::new(), failure: None };
        let synced = Synced { next: 1, name: named };
        Self {
            file,
            direct: OnceLock::new(),
            key,
            data,
            flight: Arc::new(watch::Sender::new(flight)),
            synced: Arc::new(tokio::sync::Mutex::new(synced)),
            _known: known,
        }
    }

    /// The number the next write will have: it bounds those before it.
    pub(super) fn next(&self) -> Number {
        self.flight.borrow().next
    }

    /// Whether anything has failed so far.
    pub(super) fn intact(&self) -> Result<()> {
        self.intact_before(Number::MAX)
    }

    /// Waits for room for one more write, or for a failure.
    pub(super) async fn room(&self, range: &Range<u64>, most: usize) -> Result<()> {
        self.until(|flight| flight.failure.is_some() || flight.has_room_for(range, most)).await;
        self.intact()
    }

    /// Waits until nothing is under way.
    pub(super) async fn landed(&self) {
        self.until(|flight| flight.under_way.is_empty()).await;
    }

    /// The fewest bytes that are worth a direct write.
    ///
    /// Where nobody waits for the disk, a direct write would be the only reason to: what is small,
    /// such as a request of 1 MiB, is done once it is in the page cache. A large upload comes in
    /// full buffers and does not wait for each.
    pub(super) fn direct_min_bytes(&self) -> usize {
        match self.data.durability() {
            Durability::Strict => DIRECT_MIN_BYTES,
            Durability::Relaxed => MAX_BUFFER_BYTES - 2 * BLOCK_BYTES,
        }
    }

    /// Notes that a write begins. It is under way until what is given
    /// back is told how it ended, or is dropped.
    pub(super) fn begin(self: &Arc<Self>, range: Range<u64>) -> UnderWay {
        let mut number = 0;
        self.flight.send_modify(|flight| {
            number = flight.next;
            flight.next += 1;
            flight.under_way.push((number, range));
        });
        let outcome = Err(io::Error::other("the write was abandoned"));
        UnderWay { target: Arc::clone(self), landing: Landing { flight: Arc::clone(&self.flight), number, outcome } }
    }

    /// Fails everything that is still asked for, and waits for what has begun.
    pub(super) async fn end(&self, why: io::Error) {
        self.fail("write", 0, Arc::new(why));
        self.landed().await;
    }

    /// Makes the writes below `before` durable, and the file's name with them.
    pub(super) async fn sync(self: Arc<Self>, before: Number) -> Result<()> {
        self.until(|flight| flight.has_landed(before) || flight.failure_before(before).is_some()).await;
        if self.data.durability() == Durability::Relaxed {
            return self.intact_before(before);
        }
        let mut synced = Arc::clone(&self.synced).lock_owned().await;
        self.intact_before(before)?;
        if synced.name && synced.next >= before {
            return Ok(());
        }
        let target = Arc::clone(&self);
        // The lock travels with the work: if the promise is dropped, the
        // sync goes on and must stay the only one.
        let work = move || target.sync_now(&mut synced, before);
        blocking::run(work).await.map_err(|source| Error::new("sync", &self.key, source))
    }

    fn sync_now(&self, synced: &mut Synced, before: Number) -> io::Result<()> {
        let done = self.data.sync_data(&self.file).and_then(|()| match synced.name {
            true => Ok(()),
            false => self.data.sync_incoming(&self.key),
        });
        match done {
            Ok(()) => {
                *synced = Synced { next: before.max(synced.next), name: true };
                Ok(())
            }
            Err(error) => {
                let error = Arc::new(error);
                self.fail("sync", 0, Arc::clone(&error));
                Err(repeat(&error))
            }
        }
    }

    fn intact_before(&self, before: Number) -> Result<()> {
        match self.flight.borrow().failure_before(before) {
            Some(failure) => Err(Error::new(failure.operation, &self.key, repeat(&failure.source))),
            None => Ok(()),
        }
    }

    fn fail(&self, operation: &'static str, since: Number, source: Arc<io::Error>) {
        let failure = Failure { operation, since, source };
        self.flight.send_modify(|flight| flight.fail(failure));
    }

    async fn until(&self, reached: impl Fn(&Flight) -> bool) {
        // The only error is that the sender is gone, and it is in `self`.
        let _ = self.flight.subscribe().wait_for(reached).await;
    }
}

/// A write that has begun. Whoever waits for it to land finds that nothing of
/// it is left: the target is let go first.
#[derive(Debug)]
pub(super) struct UnderWay {
    target: Arc<Target>,
    landing: Landing,
}

#[derive(Debug)]
struct Landing {
    flight: Arc<watch::Sender<Flight>>,
    number: Number,
    outcome: io::Result<()>,
}

impl UnderWay {
    pub(super) fn file(&self) -> &File {
        &self.target.file
    }

    /// The file for writes past the page cache, where the file system takes them and there is a descriptor to
    /// spare. Its name stays while this is under way. Blocks.
    pub(super) fn direct(&self) -> Option<&File> {
        let Target { direct, data, key, .. } = &*self.target;
        if direct.get().is_none() {
            match data.open_direct(key) {
                // Another write may have been first.
                Ok(Some(file)) => drop(direct.set(file)),
                Ok(None) => {}
                Err(error) => tracing::debug!(%key, %error, "written through the page cache"),
            }
        }
        direct.get().map(|direct| &direct.file)
    }

    /// Allocates disk blocks for writes to come. Blocks.
    pub(super) fn allocate(&self, part: Range<u64>, keep_free_bytes: u64) -> io::Result<()> {
        files::allocate(&self.target.data, &self.target.file, part, keep_free_bytes)
    }

    pub(super) fn end(mut self, outcome: io::Result<()>) {
        self.landing.outcome = outcome;
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        let failure =
            outcome.err().map(|error| Failure { operation: "write", since: self.number, source: error.into() });
        self.flight.send_modify(|flight| {
            flight.under_way.retain(|(number, _)| *number != self.number);
            if let Some(failure) = failure {
                flight.fail(failure);
            }
        });
    }
}

/// An error again for another caller: the same number where there is one, or the same kind and cause.
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
    use crate::local::turns::Turns;
    use crate::{Epoch, ErrorKind};

    /// A pipe can neither be written at a place nor synced.
    async fn broken_target(folder: &tempfile::TempDir) -> io::Result<Arc<Target>> {
        let data = DataFolder::open(folder.path().to_owned(), Durability::Strict, 0, None).map_err(io::Error::other)?;
        let key = BlobKey::new("broken").map_err(io::Error::other)?;
        let (_, pipe) = io::pipe()?;
        let opened = Opened { file: File::from(OwnedFd::from(pipe)), named: true };
        Ok(Arc::new(Turns::new(data)).take(&key, Epoch::FIRST).await?.write_to(opened))
    }

    #[tokio::test]
    async fn a_checkpoint_waits_for_the_writes_before_it_and_no_others() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let target = broken_target(&folder).await?;
        // Nothing is left to sync, so that waiting is all there is.
        target.synced.lock().await.next = Number::MAX;
        let (first, second) = (target.begin(0..10), target.begin(10..20));
        let mut promise = Arc::clone(&target).sync(target.next()).boxed();
        let _later = target.begin(20..30);
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
        let target = broken_target(&folder).await?;
        let first = target.begin(0..10);
        first.end(Ok(()));
        let (earlier, later) = (Arc::clone(&target).sync(target.next()), Arc::clone(&target).sync(target.next()));
        let error = later.await.expect_err("a pipe cannot be synced");
        assert_eq!((error.operation, error.source.raw_os_error()), ("sync", Some(22)));
        // What a kernel may do: call the next one a success.
        target.synced.lock().await.next = Number::MAX;
        let error = earlier.await.expect_err("it rests on the bytes that the failed one was for");
        assert_eq!((error.operation, error.source.raw_os_error()), ("sync", Some(22)));
        assert!(Arc::clone(&target).sync(target.next()).await.is_err());
        assert!(target.intact().is_err());
        assert!(target.room(&(10..20), 2).await.is_err());
        Ok(())
    }

    #[tokio::test]
    async fn a_failed_write_fails_what_came_after_it_and_nothing_before() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let target = broken_target(&folder).await?;
        target.synced.lock().await.next = Number::MAX;
        let before = target.next();
        let (first, second) = (target.begin(0..10), target.begin(10..20));
        second.end(Err(io::Error::from_raw_os_error(28)));
        assert!(Arc::clone(&target).sync(before).await.is_ok());
        let error = Arc::clone(&target).sync(target.next()).await;
        drop(first);
        assert_eq!(error.expect_err("the second is lost").kind, ErrorKind::NoSpace);
        let error = target.intact().expect_err("the first was abandoned");
        assert_eq!(error.kind, ErrorKind::Other);
        target.landed().await;
        Ok(())
    }

    #[tokio::test]
    async fn overlapping_writes_wait_for_each_other_and_others_do_not() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let target = broken_target(&folder).await?;
        let _under_way = target.begin(10..20);
        let flight = target.flight.borrow();
        for (range, free) in [(0..10, true), (20..30, true), (0..11, false), (19..30, false), (12..13, false)] {
            assert_eq!(flight.has_room_for(&range, 2), free, "{range:?}");
        }
        assert!(!flight.has_room_for(&(20..30), 1));
        drop(flight);
        let _allocating = target.begin(NO_BYTES);
        assert!(target.flight.borrow().has_room_for(&(0..10), 2), "an allocation takes the place of no write");
        Ok(())
    }
}

//! The file a blob is being written to, and what is under way to it.
//!
//! Owns the two rules that make a checkpoint true. It waits for exactly the writes begun before it was asked for. And
//! a failure stays: after a failed `fdatasync` the kernel may have dropped the bytes and call the next one a success,
//! so none is tried again, and every promise still pending that rests on those bytes fails too.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;

use tokio::sync::watch;

use super::blocking;
use super::folder;
use crate::BlobKey;
use crate::Error;
use crate::Result;

/// Writes are numbered from 1 as they begin.
type Number = u64;

#[derive(Debug)]
pub(super) struct Target {
    pub(super) file: File,
    key: BlobKey,
    /// Where the file's name is.
    folder: PathBuf,
    flight: watch::Sender<Flight>,
    /// Held by the one sync at a time. An error is told to one of several syncs of a file, so the others must not
    /// overtake it.
    synced: Arc<tokio::sync::Mutex<Synced>>,
    targets: Arc<Targets>,
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
    /// The first write that is lost. What was asked for before it began is not affected; 0 affects everything.
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
        self.under_way.len() < most && self.under_way.iter().all(apart)
    }

    fn fail(&mut self, failure: Failure) {
        match &self.failure {
            Some(known) if known.since <= failure.since => {}
            _ => self.failure = Some(failure),
        }
    }
}

impl Target {
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

    /// Notes that a write begins. It is under way until what is given back is told how it ended, or is dropped.
    pub(super) fn begin(self: &Arc<Self>, range: Range<u64>) -> UnderWay {
        let mut number = 0;
        self.flight.send_modify(|flight| {
            number = flight.next;
            flight.next += 1;
            flight.under_way.push((number, range));
        });
        let abandoned = Err(io::Error::other("the write was abandoned"));
        UnderWay { target: Arc::clone(self), number, outcome: abandoned }
    }

    /// Makes the writes below `before` durable, and the file's name with them.
    pub(super) async fn sync(self: Arc<Self>, before: Number) -> Result<()> {
        self.until(|flight| flight.has_landed(before)).await;
        let mut synced = Arc::clone(&self.synced).lock_owned().await;
        self.intact_before(before)?;
        if synced.name && synced.next >= before {
            return Ok(());
        }
        let target = Arc::clone(&self);
        // The lock travels with the work: if the promise is dropped, the sync goes on and must stay the only one.
        let work = move || target.sync_now(&mut synced, before);
        blocking::run(work).await.map_err(|source| Error::new("sync", &self.key, source))
    }

    fn sync_now(&self, synced: &mut Synced, before: Number) -> io::Result<()> {
        let done = self.file.sync_data().and_then(|()| match synced.name {
            true => Ok(()),
            false => folder::sync_folder(&self.folder),
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
        match &self.flight.borrow().failure {
            Some(failure) if failure.since < before => {
                Err(Error::new(failure.operation, &self.key, repeat(&failure.source)))
            }
            _ => Ok(()),
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

impl Drop for Target {
    fn drop(&mut self) {
        self.targets.forget(&self.key);
    }
}

/// A write that has begun.
#[derive(Debug)]
pub(super) struct UnderWay {
    target: Arc<Target>,
    number: Number,
    outcome: io::Result<()>,
}

impl UnderWay {
    pub(super) fn file(&self) -> &File {
        &self.target.file
    }

    pub(super) fn end(mut self, outcome: io::Result<()>) {
        self.outcome = outcome;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        let failure =
            outcome.err().map(|error| Failure { operation: "write", since: self.number, source: Arc::new(error) });
        self.target.flight.send_modify(|flight| {
            flight.under_way.retain(|(number, _)| *number != self.number);
            if let Some(failure) = failure {
                flight.fail(failure);
            }
        });
    }
}

/// The targets of all blobs being written, so that a blob changes hands cleanly: a writer that was dropped may have
/// left writes under way, and they must not land in what its successor wrote.
#[derive(Debug, Default)]
pub(super) struct Targets(Mutex<HashMap<BlobKey, Weak<Target>>>);

impl Targets {
    /// A new target for a blob. `named` says that the file's name is known to be durable.
    pub(super) fn add(self: &Arc<Self>, key: &BlobKey, file: File, folder: PathBuf, named: bool) -> Arc<Target> {
        let target = Arc::new(Target {
            file,
            key: key.clone(),
            folder,
            flight: watch::Sender::new(Flight { next: 1, under_way: Vec::new(), failure: None }),
            synced: Arc::new(tokio::sync::Mutex::new(Synced { next: 1, name: named })),
            targets: Arc::clone(self),
        });
        self.map().insert(key.clone(), Arc::downgrade(&target));
        target
    }

    /// Fails everything that a former writer of the blob still wants to do, and waits for what it has begun.
    pub(super) async fn retire(&self, key: &BlobKey) {
        let former = self.map().get(key).and_then(Weak::upgrade);
        if let Some(former) = former {
            let taken = io::Error::other("the blob was opened again, finished or removed in the meantime");
            former.fail("write", 0, Arc::new(taken));
            former.landed().await;
        }
    }

    fn forget(&self, key: &BlobKey) {
        let mut map = self.map();
        if map.get(key).is_some_and(|target| target.strong_count() == 0) {
            map.remove(key);
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<BlobKey, Weak<Target>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error again for another caller: the same number where there is one, or the same kind and cause.
fn repeat(error: &Arc<io::Error>) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), Arc::clone(error)),
    }
}

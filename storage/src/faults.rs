//! A store that fails on request: at the nth call of an operation, once or from then on, before or after
//! doing it. It can also hold an operation until a test releases it, so that the test decides the order.
//!
//! Counts begin at 1 with the store and never restart.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::{fmt, io};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::watch;

use crate::lock::lock;
use crate::{
    Abilities, BlobKey, BlobPart, BlobStore, BlobWriter, ByteStream, Capacity, Checkpoint, Epoch, Error, KeyStream,
    OpenBlob, Result, Resume,
};

/// Operations that can be counted, failed and held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Open,
    Write,
    /// The request for a promise.
    Checkpoint,
    /// The resolution of the promise. It counts when it is first polled.
    Sync,
    /// Can be held, but returns no error.
    Close,
    Concatenate,
    Seal,
    Finish,
    Discard,
    Read,
    Available,
    Keys,
    Size,
    Check,
}

/// The calls of an operation that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    Nth(u64),
    /// This one and all after it, until [`Faults::mend`].
    From(u64),
}

impl Calls {
    fn include(self, number: u64) -> bool {
        match self {
            Self::Nth(nth) => number == nth,
            Self::From(first) => number >= first,
        }
    }
}

/// The effect of a failing call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    /// The work is done, but the call fails: as if the process had died right after.
    Done,
}

/// The error that a failing call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Kind(io::ErrorKind),
    /// The error number of the system: 28 is a full disk, 5 a broken one.
    Errno(i32),
}

impl Cause {
    pub const NO_SPACE: Self = Self::Errno(28);
    pub const BROKEN_DISK: Self = Self::Errno(5);

    fn error(self) -> io::Error {
        match self {
            Self::Kind(kind) => kind.into(),
            Self::Errno(code) => io::Error::from_raw_os_error(code),
        }
    }
}

/// The plan of a [`Faulty`] store. Clones share it.
#[derive(Clone)]
pub struct Faults(Arc<watch::Sender<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    calls: Vec<(Operation, u64)>,
    faults: Vec<Fault>,
    holds: Vec<HeldCalls>,
}

/// Calls that are held, and the number of them that wait.
#[derive(Debug, Clone, Copy)]
struct HeldCalls {
    operation: Operation,
    calls: Calls,
    waiting: usize,
}

impl HeldCalls {
    fn holds(&self, operation: Operation, number: u64) -> bool {
        self.operation == operation && self.calls.include(number)
    }
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    operation: Operation,
    calls: Calls,
    effect: Effect,
    cause: Cause,
}

impl Faults {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Plan::default())))
    }

    /// Fails these calls of `operation` before they do anything.
    pub fn fail(&self, operation: Operation, calls: Calls, cause: Cause) {
        self.add(Fault { operation, calls, effect: Effect::Nothing, cause });
    }

    /// Lets these calls do their work, then fails them.
    pub fn fail_when_done(&self, operation: Operation, calls: Calls, cause: Cause) {
        self.add(Fault { operation, calls, effect: Effect::Done, cause });
    }

    /// Removes all faults planned for `operation`.
    pub fn mend(&self, operation: Operation) {
        self.0.send_modify(|plan| plan.faults.retain(|fault| fault.operation != operation));
    }

    /// Returns the number of calls of `operation`, held and failed ones included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.0.borrow().count(operation)
    }

    /// Holds every call of `operation` from now on, until the returned value is dropped.
    #[must_use = "dropping the hold lets go"]
    pub fn hold(&self, operation: Operation) -> Hold {
        self.hold_calls(operation, Calls::From(1))
    }

    /// Holds only these calls of `operation`.
    #[must_use = "dropping the hold lets go"]
    pub fn hold_calls(&self, operation: Operation, calls: Calls) -> Hold {
        self.0.send_modify(|plan| plan.holds.push(HeldCalls { operation, calls, waiting: 0 }));
        Hold { faults: self.clone(), operation }
    }

    fn add(&self, fault: Fault) {
        self.0.send_modify(|plan| plan.faults.push(fault));
    }

    /// Counts a call, waits while the operation is held, and returns the fault planned for the call.
    async fn enter(&self, operation: Operation) -> Option<Fault> {
        let mut number = 0;
        self.0.send_modify(|plan| {
            number = plan.add_call(operation);
            plan.holds.iter_mut().filter(|held| held.holds(operation, number)).for_each(|held| held.waiting += 1);
        });
        self.until(|plan| !plan.holds.iter().any(|held| held.holds(operation, number))).await;
        self.0.borrow().fault(operation, number)
    }

    /// Does `work` as the next call of `operation`, unless a fault is planned.
    async fn around<T>(
        &self,
        operation: Operation,
        what: impl fmt::Display,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(fault) = self.enter(operation).await else { return work.await };
        if fault.effect == Effect::Done {
            work.await?;
        }
        Err(Error::about(operation.verb(), what.to_string(), fault.cause.error()))
    }

    async fn until(&self, reached: impl Fn(&Plan) -> bool) {
        // The only error is that the sender is gone, and it is in `self`.
        let _ = self.0.subscribe().wait_for(reached).await;
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.borrow().fmt(f)
    }
}

impl Plan {
    fn count(&self, operation: Operation) -> u64 {
        self.calls.iter().find(|(counted, _)| *counted == operation).map_or(0, |(_, count)| *count)
    }

    fn add_call(&mut self, operation: Operation) -> u64 {
        match self.calls.iter_mut().find(|(counted, _)| *counted == operation) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                self.calls.push((operation, 1));
                1
            }
        }
    }

    fn fault(&self, operation: Operation, number: u64) -> Option<Fault> {
        self.faults.iter().find(|fault| fault.operation == operation && fault.calls.include(number)).copied()
    }
}

impl Operation {
    fn verb(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Write => "write",
            Self::Checkpoint | Self::Sync => "sync",
            Self::Close => "close",
            Self::Concatenate => "concatenate",
            Self::Seal => "seal",
            Self::Finish => "finish",
            Self::Discard => "discard",
            Self::Read => "read",
            Self::Available => "measure",
            Self::Keys => "list",
            Self::Size => "look for",
            Self::Check => "check",
        }
    }
}

/// Keeps calls of an operation waiting for as long as it exists.
#[derive(Debug)]
pub struct Hold {
    faults: Faults,
    operation: Operation,
}

impl Hold {
    /// Waits until a call is held.
    pub async fn reached(&self) {
        let waiting = |plan: &Plan| plan.holds.iter().any(|held| held.operation == self.operation && held.waiting > 0);
        self.faults.until(waiting).await;
    }

    /// Releases the held calls.
    pub fn release(self) {}
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.faults.0.send_modify(|plan| {
            let mine = plan.holds.iter().position(|held| held.operation == self.operation);
            mine.map(|position| plan.holds.remove(position));
        });
    }
}

/// A store that forwards to another, except where its [`Faults`] say otherwise.
#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    faults: Faults,
}

impl<S: BlobStore> Faulty<S> {
    pub fn new(inner: S, faults: Faults) -> Self {
        Self { inner, faults }
    }

    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    pub fn inner(&self) -> &S {
        &self.inner
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: BlobStore> BlobStore for Faulty<S> {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    async fn open(
        &self,
        key: &BlobKey,
        epoch: Epoch,
        from: Option<&Resume>,
        size_bytes: Option<u64>,
    ) -> Result<Box<dyn BlobWriter>> {
        let inner = self.faults.around(Operation::Open, key, self.inner.open(key, epoch, from, size_bytes)).await?;
        let broken = Arc::new(FirstFailure::default());
        Ok(Box::new(FaultyWriter { inner, key: key.clone(), faults: self.faults.clone(), broken }))
    }

    async fn concatenate(&self, parts: &[BlobPart], into: &BlobKey, epoch: Epoch) -> Result<Resume> {
        self.faults.around(Operation::Concatenate, into, self.inner.concatenate(parts, into, epoch)).await
    }

    async fn seal(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()> {
        self.faults.around(Operation::Seal, key, self.inner.seal(key, epoch, from, size_bytes)).await
    }

    async fn finish(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()> {
        self.faults.around(Operation::Finish, key, self.inner.finish(key, epoch, from, size_bytes)).await
    }

    async fn discard(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>) -> Result<()> {
        self.faults.around(Operation::Discard, key, self.inner.discard(key, epoch, from)).await
    }

    async fn read(&self, key: &BlobKey, range: Range<u64>) -> Result<ByteStream> {
        self.faults.around(Operation::Read, key, self.inner.read(key, range)).await
    }

    async fn available(&self, to: Option<OpenBlob<'_>>) -> Result<Option<u64>> {
        self.faults.around(Operation::Available, "the store", self.inner.available(to)).await
    }

    async fn keys(&self) -> Result<KeyStream> {
        self.faults.around(Operation::Keys, "the store", self.inner.keys()).await
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>> {
        self.faults.around(Operation::Size, key, self.inner.size(key)).await
    }

    fn capacity(&self) -> Result<Option<Capacity>> {
        self.inner.capacity()
    }

    fn path(&self, key: &BlobKey) -> Option<PathBuf> {
        self.inner.path(key)
    }

    async fn check(&self) -> Result<()> {
        self.faults.around(Operation::Check, "the store", self.inner.check()).await
    }
}

#[derive(Debug)]
struct FaultyWriter {
    inner: Box<dyn BlobWriter>,
    key: BlobKey,
    faults: Faults,
    broken: Arc<FirstFailure>,
}

/// The first failure of a writer, which all its later calls repeat, as the port requires.
#[derive(Debug, Default)]
struct FirstFailure(OnceLock<(&'static str, Mutex<io::Error>)>);

impl FirstFailure {
    fn check(&self, key: &BlobKey) -> Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some((operation, error)) => Err(Error::new(operation, key, again(&lock(error)))),
        }
    }

    fn note<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.inspect_err(|error| {
            // Only the first failure counts.
            let _ = self.0.set((error.operation, Mutex::new(again(&error.source))));
        })
    }
}

fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlobWriter for FaultyWriter {
    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<()> {
        self.broken.check(&self.key)?;
        let work = self.inner.write(offset, chunk);
        self.broken.note(self.faults.around(Operation::Write, &self.key, work).await)
    }

    async fn checkpoint(&mut self, end: u64) -> Result<Checkpoint> {
        self.broken.check(&self.key)?;
        let work = self.inner.checkpoint(end);
        let promise = self.broken.note(self.faults.around(Operation::Checkpoint, &self.key, work).await)?;
        let (key, faults, broken) = (self.key.clone(), self.faults.clone(), Arc::clone(&self.broken));
        let promise = async move { broken.note(faults.around(Operation::Sync, &key, promise).await) };
        Ok(promise.boxed())
    }

    async fn close(self: Box<Self>) {
        self.faults.enter(Operation::Close).await;
        self.inner.close().await;
    }
}

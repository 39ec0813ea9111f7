//! Storage of the bytes of uploads: the ports, their contracts, and two backends.
//!
//! The ports exchange values. The data needed to resume writing after a restart is a [`Resume`] token that
//! the caller keeps with its own facts, not a live handle. The crate knows keys, bytes and offsets; it knows
//! nothing of uploads, users, SQL or HTTP.
//!
//! Reading order: [`BlobStore`] and [`BlobWriter`] (the contracts), [`Abilities`] (what a store can do beyond
//! them), [`Epoch`] (which of two writers is the newer), [`local`] (files), [`memory`] (tests and demos), and
//! with the feature `testing` the suite that every backend passes, a wrapper that fails at the nth call, and
//! disks for tests.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

mod abilities;
pub mod adapter;
#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(feature = "testing")]
pub mod disks;
mod durable_end;
mod epoch;
mod error;
#[cfg(feature = "testing")]
pub mod faults;
mod key;
pub mod local;
mod lock;
pub mod memory;

pub use abilities::Abilities;
pub use epoch::Epoch;
pub use error::{Error, ErrorKind, Result};
pub use key::BlobKey;

/// The data that a store needs to resume writing a blob: opaque to the caller, small, and suitable for a
/// database.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Resume(Vec<u8>);

impl Resume {
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resume({} bytes)", self.0.len())
    }
}

/// A promise that resolves once all bytes written before the request are on stable storage.
///
/// Dropping it is harmless: the bytes may or may not become durable.
pub type Checkpoint = BoxFuture<'static, Result<Resume>>;

/// The keys of blobs, in no particular order. A blob that is finished meanwhile may be listed twice, or not
/// at all.
pub type KeyStream = BoxStream<'static, Result<BlobKey>>;

/// The bytes of a finished or unfinished blob, in order.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// A whole blob used as a part of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobPart {
    pub key: BlobKey,
    pub size_bytes: u64,
}

/// An open blob, and the number of its bytes that count. Any other space it occupies is available to it.
#[derive(Debug, Clone, Copy)]
pub struct OpenBlob<'a> {
    pub key: &'a BlobKey,
    pub received_bytes: u64,
}

/// The size of the medium, and the part of it that is free for blobs, both in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub size_bytes: u64,
    pub free_bytes: u64,
}

/// Blobs by key. A blob is *open* until it is *finished*, and then never changes again. In between it may be
/// *sealed*: it takes no more bytes and can be read, but has not yet been accepted.
///
/// Every call that changes a blob names the [`Epoch`] of its caller's lease. Once a newer epoch has changed
/// the blob, an older one cannot change it any more: its calls fail with [`ErrorKind::Fenced`], and so do its
/// open writers. This holds among the callers of one store, also after the blob is finished or removed, until
/// thousands of other blobs that changed hands have ended; it does not outlive the store. Where several
/// processes use one medium, a store that [takes over](Abilities::takes_over) keeps this promise among them;
/// with any other, only the caller's record says which bytes count.
#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// Returns what this store can do beyond this contract.
    fn abilities(&self) -> Abilities;

    /// Opens a blob for writing: a new one, or at the position at which `from` says that writing stopped.
    ///
    /// Bytes past `from` that a crash may have left are dropped. A writer that is still open on the blob is
    /// ended, even one of the same epoch. `size_bytes` is the size of the whole blob, if known: a hint for
    /// its layout.
    ///
    /// A sealed or finished blob cannot be opened. In a store that does not [take
    /// over](Abilities::takes_over), the writers of older epochs must have been closed. Missing bytes below
    /// `from` are an error, never a hole.
    async fn open(
        &self,
        key: &BlobKey,
        epoch: Epoch,
        from: Option<&Resume>,
        size_bytes: Option<u64>,
    ) -> Result<Box<dyn BlobWriter>>;

    /// Creates the open blob `into` out of whole blobs that can be read, durably, and without copying where
    /// the medium can share its bytes. A part without bytes need not exist. The parts are not changed. A
    /// repeated call starts over. After an error nothing of `into` is left, nor if the future is dropped
    /// before it is done; the next call for the blob waits for that.
    async fn concatenate(&self, parts: &[BlobPart], into: &BlobKey, epoch: Epoch) -> Result<Resume>;

    /// Ends the writing of a blob, so that it can be read whatever the store's
    /// [abilities](Abilities::reads_open), and ends its writer. `size_bytes` is the size that `from` covers,
    /// as with [`finish`](Self::finish); the caller writes no more to it. A repeated call, also for a
    /// finished blob, has the same result. An empty blob need not exist.
    async fn seal(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()>;

    /// Moves a blob to its final place, durably, and seals it if that was not done. `size_bytes` is exactly
    /// the size that `from` covers; any other size, or fewer stored bytes, is an error, and the blob stays
    /// unchanged. A repeated call, also after a crash half-way, has the same result. An empty blob needs
    /// neither a token nor a writer.
    async fn finish(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()>;

    /// Removes a blob, open or finished. Removing a blob that does not exist is not an error.
    async fn discard(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>) -> Result<()>;

    /// Reads a range of a blob that is finished, sealed, or open in a store that [reads open
    /// blobs](Abilities::reads_open). `range` lies within the durable bytes; if fewer bytes are stored, that
    /// is an error, at once or as the last item. A stream that has begun is not affected when the blob is
    /// finished or discarded.
    async fn read(&self, key: &BlobKey, range: Range<u64>) -> Result<ByteStream>;

    /// Returns how many more bytes fit on the medium, if that [is known](Abilities::knows_free_space): in a
    /// new blob, or in an open one, including the space that it already occupies. Cheap: called before every
    /// append.
    async fn available(&self, to: Option<OpenBlob<'_>>) -> Result<Option<u64>>;

    /// Lists the stored blobs, open and finished.
    async fn keys(&self) -> Result<KeyStream>;

    /// Returns how many bytes of a blob are stored, open or finished; `None` if there is no such blob. An
    /// open one may seem longer than the bytes written to it, but never shorter than the durable ones.
    async fn size(&self, key: &BlobKey) -> Result<Option<u64>>;

    /// Returns the size of the medium, if that is known. Cheap, and independent of any blob.
    fn capacity(&self) -> Result<Option<Capacity>>;

    /// Returns the absolute path of the file of a finished blob, if blobs are files.
    fn path(&self, key: &BlobKey) -> Option<PathBuf>;

    /// Checks that the store accepts bytes, by storing some.
    async fn check(&self) -> Result<()>;
}

/// Writes one blob. Dropping a writer leaves the bytes it wrote; only those that a checkpoint covers are
/// safe.
#[async_trait]
pub trait BlobWriter: fmt::Debug + Send {
    /// Takes bytes for the position `offset`. They may be written later: an error may belong to an earlier
    /// call, and after an error the writer cannot be used any more. A call that is dropped before it is done
    /// has taken nothing. Chunks from [`pool::Buffer`]s that were taken for this position are written without
    /// a copy.
    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<()>;

    /// Requests that all bytes written so far become durable. Writing may continue while the promise is
    /// pending; the promise covers only the bytes written before, and a failure of later writes does not
    /// break it.
    ///
    /// The token covers the bytes below `end`, which is at most the end of the highest byte written. Bytes
    /// written at or above `end` do not count, unless a later checkpoint reaches further. Where bytes are
    /// written in order, `end` is the end of the last one.
    async fn checkpoint(&mut self, end: u64) -> Result<Checkpoint>;

    /// Waits until no operation of this writer can change the blob any more. Bytes that no checkpoint covers
    /// may be lost.
    async fn close(self: Box<Self>);
}

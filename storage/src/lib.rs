//! Where the bytes of uploads live, and how writing them resumes.
//!
//! The ports speak in values. What is needed to go on writing after a restart is a [`Resume`] token, data
//! that the caller keeps beside its own facts, not a live handle. The crate knows keys, bytes and offsets; it
//! knows nothing of uploads, users, SQL or HTTP.
//!
//! Reading order: [`BlobStore`] and [`BlobWriter`] (the contracts), [`Abilities`] (what a store can
//! do beyond them), [`Epoch`] (which of two writers is the newer), [`local`] (files), [`memory`]
//! (tests and demos), and with the feature `testing` the suite every backend passes, a wrapper that
//! breaks at the nth call, and disks to break.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

mod abilities;
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

/// What a store needs to go on writing a blob: opaque to everyone else, small, safe to keep in a database.
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

/// A promise that resolves once everything written before it was asked for is on stable storage.
///
/// Dropping it is harmless: the bytes may or may not become durable.
pub type Checkpoint = BoxFuture<'static, Result<Resume>>;

/// The keys of blobs, in no particular order. One that is finished meanwhile may come twice, or not at all.
pub type KeyStream = BoxStream<'static, Result<BlobKey>>;

/// The bytes of a finished or unfinished blob, in order.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// A whole blob used as a part of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobPart {
    pub key: BlobKey,
    pub size_bytes: u64,
}

/// An open blob, and how many of its bytes count. Whatever else it occupies is its own to fill.
#[derive(Debug, Clone, Copy)]
pub struct OpenBlob<'a> {
    pub key: &'a BlobKey,
    pub received_bytes: u64,
}

/// How much the medium holds, and how much of that is free for blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub size_bytes: u64,
    pub free_bytes: u64,
}

/// Blobs by key. A blob is *open* until it is *finished*, and then never changes again. In between it may be
/// *sealed*: it takes no more bytes and can be read, but has not yet been accepted.
///
/// Every call that changes a blob names the [`Epoch`] of its caller's lease. Once a newer epoch has
/// changed the blob, an older one changes nothing any more: its calls fail with [`ErrorKind::Fenced`],
/// and so do the writers it has open. That holds among the callers of one store, and also once the blob is
/// finished or removed, until thousands of others that changed hands were; it does not outlive the store.
/// Whether it holds among several processes that use the same medium is for each backend to say; without it,
/// only the caller's record tells which bytes count.
#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// Returns what this store can do beyond this contract.
    fn abilities(&self) -> Abilities;

    /// Opens a blob for writing: a new one, or where `from` says its writing stopped.
    ///
    /// Bytes past `from` that a crash may have left are dropped. A writer that is still open on the blob is
    /// ended, be it of the same epoch. `size_bytes` is the size the whole blob will have, if known: a hint
    /// for laying it out.
    ///
    /// A sealed or finished blob cannot be opened, nor that of an older epoch in a store that does not
    /// [take over](Abilities::takes_over). Where bytes below `from` are missing it is an error, never a hole.
    async fn open(
        &self,
        key: &BlobKey,
        epoch: Epoch,
        from: Option<&Resume>,
        size_bytes: Option<u64>,
    ) -> Result<Box<dyn BlobWriter>>;

    /// Makes the open blob `into` out of whole blobs that can be read, durably, and without copying where the
    /// medium can share its bytes. A part of no bytes need not be there. The parts stay as they are. Doing it
    /// again starts over. After an error nothing of it is left, and neither when this is dropped before it is
    /// done; whatever is done to the blob next waits for that.
    async fn concatenate(&self, parts: &[BlobPart], into: &BlobKey, epoch: Epoch) -> Result<Resume>;

    /// Ends the writing of a blob, so that it can be read whatever the store's
    /// [abilities](Abilities::reads_open), and ends its writer. `size_bytes` is what `from` covers, as with
    /// [`finish`](Self::finish); the caller writes no more to it. Doing it again, also to a finished blob,
    /// ends the same. An empty blob need not be there.
    async fn seal(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()>;

    /// Moves a blob to its final place, durably, and seals it if that was not done. `size_bytes` is what
    /// `from` covers, neither more nor less; with any other size, and where fewer bytes are stored, it is an
    /// error and the blob stays as it was. Doing it again, also after a crash half-way, ends the same. An
    /// empty blob needs neither a token nor a writer.
    async fn finish(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()>;

    /// Removes a blob, open or finished. Removing what is not there is not an error.
    async fn discard(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>) -> Result<()>;

    /// Reads part of a blob that is finished, sealed, or open in a store that [reads open
    /// ones](Abilities::reads_open). `range` lies within what is durable; where there is less,
    /// it is an error, at once or as the last item. A stream that has begun is not disturbed
    /// when the blob is finished or discarded.
    async fn read(&self, key: &BlobKey, range: Range<u64>) -> Result<ByteStream>;

    /// Returns how many more bytes fit on the medium, where that [is known](Abilities::knows_room): in a new
    /// blob, or in an open one, with the space that it occupies already. Cheap: called before every append.
    async fn available(&self, to: Option<OpenBlob<'_>>) -> Result<Option<u64>>;

    /// Lists what is stored, open blobs and finished ones.
    async fn keys(&self) -> Result<KeyStream>;

    /// Returns how many bytes of a blob are stored, open or finished; `None` when there is no such blob. An
    /// open one may seem longer than what was written of it, never shorter than what is durable.
    async fn size(&self, key: &BlobKey) -> Result<Option<u64>>;

    /// Returns how much the medium holds, where that is known. Cheap, and not about any blob.
    fn capacity(&self) -> Result<Option<Capacity>>;

    /// Returns the absolute path of the file that a finished blob is in, where blobs are files.
    fn path(&self, key: &BlobKey) -> Option<PathBuf>;

    /// Tries whether the store takes bytes now, by storing some.
    async fn check(&self) -> Result<()>;
}

/// Writes one blob. Dropping a writer leaves what it wrote; only a checkpoint says what is safe.
#[async_trait]
pub trait BlobWriter: fmt::Debug + Send {
    /// Takes bytes for the place `offset`. They may be written later: an error may belong to an earlier call,
    /// and after one the writer is of no further use. A call that is dropped before it is done has taken
    /// nothing. Chunks from [`pool::Buffer`]s that were taken for this place are written without a copy.
    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<()>;

    /// Asks for everything written so far to be made durable. Writing may go on while the promise is pending;
    /// the answer covers only what was written before, and a failure of later writes does not break it.
    ///
    /// The token covers the bytes below `end`, which lies no higher than the highest byte written. What was
    /// written behind it does not count, unless a later checkpoint reaches further. Where bytes come in
    /// order, `end` is the end of the last one.
    async fn checkpoint(&mut self, end: u64) -> Result<Checkpoint>;

    /// Waits until nothing this writer has begun can touch the blob any more. What was
    /// not covered by a checkpoint may be lost.
    async fn close(self: Box<Self>);
}

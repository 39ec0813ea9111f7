//! Errors of the storage, with the operation and the blob that they concern.

use std::io;

use rustix::io::Errno;

use crate::BlobKey;
use crate::epoch::Fenced;

pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation on a blob.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} {key}")]
pub struct Error {
    pub kind: ErrorKind,
    /// The operation, as a verb: `write`, `sync`, `open`.
    pub operation: &'static str,
    /// The blob, or a word for the store as a whole.
    pub key: String,
    #[source]
    pub source: io::Error,
}

/// A read of an open blob in a store that reads only sealed ones.
#[derive(Debug, thiserror::Error)]
#[error("it is open; it can be read after it is sealed")]
pub struct Unsealed;

/// Kinds of errors that callers handle differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No space is left; it may become free later.
    NoSpace,
    /// The blob does not exist.
    NotFound,
    /// Fewer bytes of the blob are stored than were durable.
    Incomplete,
    /// The blob is sealed or finished, and takes no more bytes.
    Finished,
    /// The blob has to be sealed before it can be read.
    Unsealed,
    /// A newer epoch has the blob. The caller has lost it, and no further call can succeed.
    Fenced,
    /// Too many files are open; the call may succeed later.
    Busy,
    Other,
}

impl Error {
    pub fn new(operation: &'static str, key: &BlobKey, source: io::Error) -> Self {
        Self::about(operation, key.to_string(), source)
    }

    /// Creates an error that concerns the store rather than one blob.
    pub fn about(operation: &'static str, what: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            _ if is_caused_by::<Fenced>(&source) => ErrorKind::Fenced,
            _ if is_caused_by::<Unsealed>(&source) => ErrorKind::Unsealed,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                ErrorKind::NoSpace
            }
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::UnexpectedEof => ErrorKind::Incomplete,
            io::ErrorKind::AlreadyExists => ErrorKind::Finished,
            _ if matches!(Errno::from_io_error(&source), Some(Errno::MFILE | Errno::NFILE)) => ErrorKind::Busy,
            _ => ErrorKind::Other,
        };
        Self { kind, operation, key: what.into(), source }
    }

    /// Reports whether durable bytes no longer exist: a retry would not bring them back.
    pub fn is_loss(&self) -> bool {
        matches!(self.kind, ErrorKind::NotFound | ErrorKind::Incomplete)
    }
}

fn is_caused_by<E: std::error::Error + 'static>(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<E>())
}

//! Requests to the engine and their results, as neutral values that every dialect can translate.

use std::error::Error;
use std::sync::Arc;

use domain::checksum::{Algorithm, Digest};
use domain::dialect::Dialect;
use domain::hook::Caller;
use domain::id::UploadId;
use domain::metadata::Metadata;
use domain::principal::Principal;
use domain::rejection::Rejection;
use domain::size::{Length, Offset};
use domain::upload::{InconsistentChange, Role, Upload};
use domain::write_rules::WriteRules;

/// A request to create an upload.
#[derive(Debug, Clone)]
pub struct Create {
    /// The principal that creates it.
    pub principal: Principal,
    pub dialect: Dialect,
    pub write_rules: WriteRules,
    pub role: Role,
    /// `None` to declare it later.
    pub length: Option<Length>,
    pub metadata: Metadata,
    /// The metadata exactly as written by the client.
    pub metadata_as_sent: Option<String>,
    /// Digests that the client wants to read later.
    pub wanted_digests: Vec<Algorithm>,
    /// Digests that the complete upload must have.
    pub promised_digests: Vec<Digest>,
    /// The part of the request that the application may see.
    pub caller: Option<Arc<Caller>>,
}

/// A request to end an upload that its client no longer wants.
#[derive(Debug, Clone)]
pub struct Cancel {
    /// The principal that requests it.
    pub principal: Principal,
    pub id: UploadId,
    /// The part of the request that the application may see.
    pub caller: Option<Arc<Caller>>,
}

/// A request with bytes for an upload.
#[derive(Debug, Clone)]
pub struct Append {
    /// The principal that sends them.
    pub principal: Principal,
    pub id: UploadId,
    /// The dialect of the request.
    pub dialect: Dialect,
    pub position: WritePosition,
    /// The number of bytes that the request announces, if it announces one.
    pub count: Option<u64>,
    /// The length of the upload, when declared with this request.
    pub length: Option<Length>,
    pub ends: CompletesUpload,
    /// The digest of this request's bytes. They count only if it matches, all or none.
    pub checksum: Option<Digest>,
    /// Digests that the complete upload must have, when declared with this request.
    pub promised_digests: Vec<Digest>,
    pub overflow: Overflow,
    /// The part of the request that the application may see.
    pub caller: Option<Arc<Caller>>,
}

impl Append {
    /// Creates a request with bytes at the offset of an upload that completes when its length is reached.
    pub fn at(principal: Principal, id: UploadId, at: Offset, count: Option<u64>) -> Self {
        Self {
            principal,
            id,
            dialect: Dialect::named("tus"),
            position: WritePosition::At(at),
            count,
            length: None,
            ends: CompletesUpload::WhenFull,
            checksum: None,
            promised_digests: Vec::new(),
            overflow: Overflow::Refused,
            caller: None,
        }
    }
}

impl Append {
    /// Rejects an upload of another tenant as if it did not exist.
    pub(crate) fn check_reach(&self, upload: &Upload) -> Result<(), Rejection> {
        let covers = self.principal.scope().covers(upload.tenant());
        covers.then_some(()).ok_or(Rejection::NotFound)
    }

    /// Reports whether the request can only repeat stored bytes or carry none: the upload has all its bytes,
    /// and the request does not announce any to add at the end.
    pub(crate) fn repeats(&self, upload: &Upload) -> bool {
        let may_repeat = match (self.position, self.count) {
            (_, Some(0)) => false,
            // A body of unknown size may turn out to be empty: some clients open it before they know whether
            // data is left.
            (WritePosition::At(_), count) => count.is_none(),
            (WritePosition::From(_) | WritePosition::Anywhere(_), _) => true,
        };
        may_repeat && !upload.stage().takes_bytes()
    }
}

/// The position of the first byte of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WritePosition {
    /// Exactly at the offset of the upload.
    At(Offset),
    /// At the offset or before it; bytes that the upload already has are skipped.
    From(Offset),
    /// Anywhere, in an upload that takes bytes in any order. Bytes that it already has must be equal.
    Anywhere(Offset),
}

impl WritePosition {
    /// Returns the same position for an upload that turns out to take bytes in order only.
    pub(crate) const fn in_order(self) -> Self {
        match self {
            Self::Anywhere(offset) => Self::From(offset),
            Self::At(_) | Self::From(_) => self,
        }
    }

    pub const fn offset(self) -> Offset {
        match self {
            Self::At(offset) | Self::From(offset) | Self::Anywhere(offset) => offset,
        }
    }
}

/// The condition under which a request completes its upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletesUpload {
    /// Once all bytes of the declared length have arrived.
    WhenFull,
    /// With its last byte, which also determines the length if none was declared.
    Here,
    /// Never: another request follows, which may only declare the end. An upload that [completes when
    /// full](domain::write_rules::Completion::WhenFull) still completes with its last byte.
    Later,
}

/// The consequence of bytes beyond the length of an upload that were not announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The request is rejected, and the upload can be resumed.
    Refused,
    /// The upload fails.
    Fatal,
}

/// The current state of an upload.
#[derive(Debug, Clone)]
pub struct Inspection {
    pub upload: Upload,
    /// The reason why the upload cannot be resumed, if it has ended or expired.
    pub gone: Option<Rejection>,
}

/// The way in which the body of a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// At its announced end.
    Complete,
    /// The connection was cut or became silent.
    Cut,
}

/// The reason why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// A rule forbids the request. The reason is for the client, which can act on it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The request cannot be processed now; the same request may succeed later.
    #[error(transparent)]
    Unavailable(Unavailable),
    #[error("there is not enough space on the storage")]
    NoSpace,
    /// A failure of the storage, the database or a task. It is logged once and its cause is not shown to
    /// clients.
    #[error("could not {operation}")]
    Failed {
        operation: &'static str,
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
}

/// The reason why a request cannot be processed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("the server is shutting down")]
    ShuttingDown,
    #[error("too many uploads are receiving data at the moment")]
    Busy,
    #[error("too many complete uploads are being read at the moment (limits.max_downloads)")]
    TooManyReaders,
    #[error("the memory for bytes that replace others is used up at the moment")]
    Full,
    #[error("a newer request has taken over this upload")]
    Superseded,
    #[error("another request for this upload is still being processed")]
    Held,
    #[error("all data is received and is being stored")]
    Settling,
    #[error("this node hands over its uploads because it is about to stop; another node serves the request")]
    Draining,
    #[error("the clock of this node is wrong; another node serves the request")]
    WrongClock,
    #[error("this node has lost contact with the database; another node may serve the request")]
    Fenced,
    #[error("the application has not decided about this request; retry later")]
    Undecided,
    #[error("the body of the request ended early, or stopped arriving")]
    IncompleteBody,
    #[error(
        "the database files were removed or replaced; requests that need them fail until the operator has restored \
         them"
    )]
    DatabaseGone,
    #[error("the database cannot be reached at the moment")]
    DatabaseUnreachable,
}

impl EngineError {
    pub(crate) fn storage(source: storage::Error) -> Self {
        match source.kind {
            storage::ErrorKind::NoSpace => {
                tracing::warn!(blob = source.key, operation = source.operation, "no space left on the storage");
                Self::NoSpace
            }
            storage::ErrorKind::Busy => {
                tracing::warn!(blob = source.key, operation = source.operation, "no file descriptor left");
                Self::Unavailable(Unavailable::Busy)
            }
            storage::ErrorKind::Fenced => {
                tracing::warn!(blob = source.key, error = %source.source, "another node has taken over an upload");
                Self::Unavailable(Unavailable::Superseded)
            }
            storage::ErrorKind::NotFound
            | storage::ErrorKind::Incomplete
            | storage::ErrorKind::Finished
            | storage::ErrorKind::Unsealed
            | storage::ErrorKind::Other => Self::Failed { operation: "access the storage", source: Arc::new(source) },
        }
    }

    /// Creates the error for a change that was rejected because the record would contradict itself.
    pub(crate) fn inconsistent(source: InconsistentChange) -> Self {
        Self::Failed { operation: "keep the record of an upload consistent", source: Arc::new(source) }
    }

    /// Creates the error for values set by the application that an upload cannot have.
    pub(crate) fn chosen_badly(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Failed { operation: "create an upload with the values set by the application", source: Arc::new(source) }
    }

    pub(crate) fn task_died(source: tokio::task::JoinError) -> Self {
        Self::Failed { operation: "finish the request", source: Arc::new(source) }
    }
}

impl From<state::Error> for EngineError {
    fn from(source: state::Error) -> Self {
        match source {
            // Another writer committed first, which the lease makes rare. The client retries and gets the
            // current state.
            state::Error::Conflict(_) => Self::Unavailable(Unavailable::Superseded),
            state::Error::NoSpace { .. } => Self::NoSpace,
            state::Error::Gone { .. } => Self::Unavailable(Unavailable::DatabaseGone),
            state::Error::Unreachable { .. } => {
                // The tasks that depend on the database log the outage once; there may be many requests.
                let error = &source as &dyn Error;
                tracing::debug!(error, "the database cannot be reached");
                Self::Unavailable(Unavailable::DatabaseUnreachable)
            }
            state::Error::EndpointConflict(_)
            | state::Error::TooNew { .. }
            | state::Error::Unanswered { .. }
            | state::Error::Failed { .. } => {
                Self::Failed { operation: "access the database", source: Arc::new(source) }
            }
        }
    }
}

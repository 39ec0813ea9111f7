//! What may be asked of the engine, and what comes of it: neutral values that
//! every dialect can say in its own words.

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

/// A new upload.
#[derive(Debug, Clone)]
pub struct Create {
    /// Who wants it.
    pub principal: Principal,
    pub dialect: Dialect,
    pub write_rules: WriteRules,
    pub role: Role,
    /// `None` to declare it later.
    pub length: Option<Length>,
    pub metadata: Metadata,
    /// The metadata exactly as written by the client.
    pub metadata_as_sent: Option<String>,
    /// Digests the client would like to read later.
    pub wanted_digests: Vec<Algorithm>,
    /// Digests the whole upload must turn out to have.
    pub promised_digests: Vec<Digest>,
    /// What the application may see of the request.
    pub caller: Option<Arc<Caller>>,
}

/// The end of an upload that its client does not want any more.
#[derive(Debug, Clone)]
pub struct Cancel {
    /// Who wants it.
    pub principal: Principal,
    pub id: UploadId,
    /// What the application may see of the request.
    pub caller: Option<Arc<Caller>>,
}

/// Bytes for an upload.
#[derive(Debug, Clone)]
pub struct Append {
    /// Who sends them.
    pub principal: Principal,
    pub id: UploadId,
    /// What the request is said in.
    pub dialect: Dialect,
    pub position: WritePosition,
    /// How many bytes the request says it carries, if it says so.
    pub count: Option<u64>,
    /// The length of the upload, when declared with this request.
    pub length: Option<Length>,
    pub ends: CompletesUpload,
    /// The digest of this request's bytes: they count only if it matches, and only all together.
    pub checksum: Option<Digest>,
    /// Digests the whole upload must turn out to have, when promised with this request.
    pub promised_digests: Vec<Digest>,
    pub overflow: Overflow,
    /// What the application may see of the request.
    pub caller: Option<Arc<Caller>>,
}

impl Append {
    /// Bytes at the offset of an upload that completes when its length is reached.
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
    /// Rejects an upload of another tenant as one that is not there.
    pub(crate) fn check_reach(&self, upload: &Upload) -> Result<(), Rejection> {
        let covers = self.principal.scope().covers(upload.tenant());
        covers.then_some(()).ok_or(Rejection::NotFound)
    }

    /// Returns whether the request can only repeat stored bytes or carry none: the upload has all its bytes,
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

/// Where the first byte of a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WritePosition {
    /// At the offset of the upload and nowhere else.
    At(Offset),
    /// At the offset or before it; what is there already is passed over.
    From(Offset),
    /// Wherever it says, in an upload that takes bytes in any order. Bytes that are there must be the same.
    Anywhere(Offset),
}

impl WritePosition {
    /// The same place, of an upload that turns out to take bytes in order only.
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

/// When a request completes its upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletesUpload {
    /// Once all of the declared length is there.
    WhenFull,
    /// With its last byte, which tells the length too if nothing has before.
    Here,
    /// Not at all: more is to come, if only the word that nothing more comes. An upload that
    /// [completes when full](domain::write_rules::Completion::WhenFull) does so nevertheless.
    Later,
}

/// What becomes of an upload when bytes beyond its length arrive that were not announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The request is refused, and the upload goes on.
    Refused,
    /// The upload fails.
    Fatal,
}

/// An upload as it is now.
#[derive(Debug, Clone)]
pub struct Inspection {
    pub upload: Upload,
    /// Why there is nothing to go on with, if it has ended or its time has passed.
    pub gone: Option<Rejection>,
}

/// How the bytes of a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// As it said it would.
    Complete,
    /// The connection was cut or fell silent.
    Cut,
}

/// Why a request came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The client may not; it can act on why.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Not now; the same request may work later.
    #[error(transparent)]
    Unavailable(Unavailable),
    #[error("there is not enough space on the storage")]
    NoSpace,
    /// Trouble below, to be logged once and not shown.
    #[error("could not {operation}")]
    Failed {
        operation: &'static str,
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
}

/// Why not now.
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
    #[error("the application has not decided about this request; retry later")]
    Undecided,
    #[error("the client sent no data for too long")]
    Idle,
    #[error(
        "the database files were removed or replaced; requests that need them fail until the operator has restored \
         them"
    )]
    DatabaseGone,
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

    /// A change was refused that would have left a record which contradicts itself.
    pub(crate) fn inconsistent(source: InconsistentChange) -> Self {
        Self::Failed { operation: "keep the record of an upload consistent", source: Arc::new(source) }
    }

    /// What the application has chosen for an upload cannot be.
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
            // Another writer committed first, which the lease makes rare:
            // the client asks again and finds the truth.
            state::Error::Conflict(_) => Self::Unavailable(Unavailable::Superseded),
            state::Error::NoSpace { .. } => Self::NoSpace,
            state::Error::Gone { .. } => Self::Unavailable(Unavailable::DatabaseGone),
            state::Error::EndpointConflict(_)
            | state::Error::TooNew { .. }
            | state::Error::Unanswered { .. }
            | state::Error::Failed { .. } => {
                Self::Failed { operation: "access the database", source: Arc::new(source) }
            }
        }
    }
}

//! Requests with bytes that are passed on: `POST /peer/v1/forward`, whose body is the length of a JSON text
//! in four bytes, the text, and the bytes. A body that breaks off means that the client's did.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::rejections::{InvalidRejection, WireRejection};
use super::{NotAnOffset, TextId, length, offset};
use domain::checksum::{Algorithm, Digest};
use domain::dialect::Dialect;
use domain::hook::Caller;
use domain::id::{InstanceId, UploadId};
use domain::principal::{Principal, Rights, Subject, TenantId};
use engine::command::{Append, CompletesUpload, EngineError, Overflow, Unavailable, WritePosition};
use engine::peers::{ForwardOutcome, NoAnswer};

/// Size of the length before the JSON of a forwarded request.
pub(in crate::link) const PREFIX_BYTES: usize = 4;

/// A request with bytes anywhere in an upload. The node that it is passed on by has checked the rights of its
/// client.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::link) struct ForwardRequest {
    pub(in crate::link) to: TextId<InstanceId>,
    tenant: u32,
    upload: TextId<UploadId>,
    dialect: String,
    at: u64,
    #[serde(default)]
    count: Option<u64>,
    #[serde(default)]
    length: Option<u64>,
    ends: WireEnds,
    #[serde(default)]
    checksum: Option<WireDigest>,
    #[serde(default)]
    promised_digests: Vec<WireDigest>,
    overflow: WireOverflow,
    #[serde(default)]
    caller: Option<WireCaller>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireEnds {
    WhenFull,
    Here,
    Later,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireOverflow {
    Refused,
    Fatal,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct WireDigest {
    algorithm: String,
    value: Vec<u8>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct WireCaller {
    method: String,
    path: String,
    remote: Option<String>,
    headers: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::link) enum ForwardAnswer {
    Committed,
    NotHolder,
    Rejected(WireRejection),
    Unavailable {
        why: WireUnavailable,
    },
    NoSpace,
    /// A failure that the holder has logged.
    Failed,
}

/// The conditions that a client hears of in different words, or that another node can act on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::link) enum WireUnavailable {
    Busy,
    Superseded,
    Full,
    Settling,
    Undecided,
    IncompleteBody,
    #[serde(other)]
    Held,
}

/// A forwarded request has values that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::link) enum InvalidRequest {
    #[error(transparent)]
    Offset(#[from] NotAnOffset),
    #[error("it names an unknown algorithm or protocol")]
    Name,
}

impl ForwardRequest {
    pub(in crate::link) fn new(to: InstanceId, command: Append) -> Self {
        let Append {
            principal,
            id,
            dialect,
            position,
            count,
            length,
            ends,
            checksum,
            promised_digests,
            overflow,
            caller,
        } = command;
        Self {
            to: TextId(to),
            tenant: principal.tenant.number(),
            upload: TextId(id),
            dialect: dialect.name().to_owned(),
            at: position.offset().get(),
            count,
            length: length.map(|length| length.get()),
            ends: match ends {
                CompletesUpload::WhenFull => WireEnds::WhenFull,
                CompletesUpload::Here => WireEnds::Here,
                CompletesUpload::Later => WireEnds::Later,
            },
            checksum: checksum.map(WireDigest::from),
            promised_digests: promised_digests.into_iter().map(WireDigest::from).collect(),
            overflow: match overflow {
                Overflow::Refused => WireOverflow::Refused,
                Overflow::Fatal => WireOverflow::Fatal,
            },
            caller: caller.map(|caller| {
                let Caller { method, path, remote, headers } = Arc::unwrap_or_clone(caller);
                WireCaller { method, path, remote, headers }
            }),
        }
    }

    /// Returns the request as it precedes the bytes.
    pub(in crate::link) fn print(&self) -> serde_json::Result<Bytes> {
        let json = serde_json::to_vec(self)?;
        let mut head = BytesMut::with_capacity(PREFIX_BYTES + json.len());
        // A JSON of 4 GiB does not exist: the receiver has a limit.
        head.put_u32(u32::try_from(json.len()).unwrap_or(u32::MAX));
        head.put_slice(&json);
        Ok(head.freeze())
    }

    pub(in crate::link) fn command(self) -> Result<Append, InvalidRequest> {
        Ok(Append {
            principal: Principal::new(TenantId::from_number(self.tenant), Subject::Server, Rights::all()),
            id: self.upload.0,
            dialect: Dialect::by_name(&self.dialect).ok_or(InvalidRequest::Name)?,
            position: WritePosition::Anywhere(offset(self.at)?),
            count: self.count,
            length: self.length.map(length).transpose()?,
            ends: match self.ends {
                WireEnds::WhenFull => CompletesUpload::WhenFull,
                WireEnds::Here => CompletesUpload::Here,
                WireEnds::Later => CompletesUpload::Later,
            },
            checksum: self.checksum.map(Digest::try_from).transpose()?,
            promised_digests: self.promised_digests.into_iter().map(Digest::try_from).collect::<Result<_, _>>()?,
            overflow: match self.overflow {
                WireOverflow::Refused => Overflow::Refused,
                WireOverflow::Fatal => Overflow::Fatal,
            },
            caller: self.caller.map(|caller| {
                let WireCaller { method, path, remote, headers } = caller;
                Arc::new(Caller { method, path, remote, headers })
            }),
        })
    }
}

impl From<Digest> for WireDigest {
    fn from(digest: Digest) -> Self {
        Self { algorithm: digest.algorithm().name().to_owned(), value: digest.value().to_vec() }
    }
}

impl TryFrom<WireDigest> for Digest {
    type Error = InvalidRequest;

    fn try_from(digest: WireDigest) -> Result<Self, InvalidRequest> {
        let algorithm = Algorithm::by_name(&digest.algorithm).ok_or(InvalidRequest::Name)?;
        Self::new(algorithm, digest.value).ok_or(InvalidRequest::Name)
    }
}

impl From<ForwardOutcome> for ForwardAnswer {
    fn from(outcome: ForwardOutcome) -> Self {
        match outcome {
            ForwardOutcome::Committed => Self::Committed,
            ForwardOutcome::NotHolder => Self::NotHolder,
            ForwardOutcome::Failed(EngineError::Rejected(rejection)) => {
                WireRejection::of(rejection).map_or(Self::Failed, Self::Rejected)
            }
            ForwardOutcome::Failed(EngineError::Unavailable(why)) => Self::Unavailable { why: why.into() },
            ForwardOutcome::Failed(EngineError::NoSpace) => Self::NoSpace,
            ForwardOutcome::Failed(EngineError::Failed { .. }) => Self::Failed,
        }
    }
}

impl TryFrom<ForwardAnswer> for ForwardOutcome {
    type Error = InvalidRejection;

    fn try_from(answer: ForwardAnswer) -> Result<Self, InvalidRejection> {
        Ok(match answer {
            ForwardAnswer::Committed => Self::Committed,
            ForwardAnswer::NotHolder => Self::NotHolder,
            ForwardAnswer::Rejected(rejection) => Self::Failed(EngineError::Rejected(rejection.try_into()?)),
            ForwardAnswer::Unavailable { why } => Self::Failed(EngineError::Unavailable(why.into())),
            ForwardAnswer::NoSpace => Self::Failed(EngineError::NoSpace),
            ForwardAnswer::Failed => Self::Failed(EngineError::Failed {
                operation: "finish a request on the node that writes the upload",
                source: Arc::new(NoAnswer::because("it has logged the reason")),
            }),
        })
    }
}

impl From<Unavailable> for WireUnavailable {
    fn from(why: Unavailable) -> Self {
        match why {
            Unavailable::Busy => Self::Busy,
            Unavailable::Superseded => Self::Superseded,
            Unavailable::Full => Self::Full,
            Unavailable::Settling => Self::Settling,
            Unavailable::Undecided => Self::Undecided,
            Unavailable::IncompleteBody => Self::IncompleteBody,
            // The condition of the holder, not of the node that the client has called. A retry may find
            // another holder.
            Unavailable::Held
            | Unavailable::ShuttingDown
            | Unavailable::TooManyReaders
            | Unavailable::Fenced
            | Unavailable::Draining
            | Unavailable::WrongClock
            | Unavailable::DatabaseGone
            | Unavailable::DatabaseUnreachable => Self::Held,
        }
    }
}

impl From<WireUnavailable> for Unavailable {
    fn from(why: WireUnavailable) -> Self {
        match why {
            WireUnavailable::Busy => Self::Busy,
            WireUnavailable::Superseded => Self::Superseded,
            WireUnavailable::Full => Self::Full,
            WireUnavailable::Settling => Self::Settling,
            WireUnavailable::Undecided => Self::Undecided,
            WireUnavailable::IncompleteBody => Self::IncompleteBody,
            WireUnavailable::Held => Self::Held,
        }
    }
}

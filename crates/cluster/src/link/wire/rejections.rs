//! Rejections of forwarded requests, which the client receives as if the node that it called had made them.

use serde::{Deserialize, Serialize};

use super::{NotAnOffset, length, offset};
use domain::checksum::Algorithm;
use domain::dialect::Dialect;
use domain::failure::{Failure, RejectionKind};
use domain::rejection::Rejection;
use domain::stage::Ended;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub(in crate::link) enum WireRejection {
    NotFound,
    Gone { how: WireEnd },
    Removed,
    BytesMissing,
    WrongOffset { ours: u64, theirs: u64 },
    AlreadyComplete { length: u64 },
    BeyondLength { length: u64 },
    OverLimit { limit: u64 },
    LengthChanged { ours: u64, theirs: u64 },
    LengthBelowOffset { offset: u64, length: u64 },
    EndsElsewhere { length: u64, end: u64 },
    OtherDialect { dialect: String },
    InOrderOnly,
    DifferentBytes { at: u64 },
    BeyondRange { end: u64 },
    Misaligned { alignment: u64 },
    TooManyRanges { limit: u32 },
    TooMuchToReplace { limit: u64 },
    ChecksumMismatch { algorithm: String },
    BrokenPromise { algorithm: String },
    Refused { code: String, message: String, kind: Option<String> },
    IsFinal,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::link) enum WireEnd {
    Failed,
    Expired,
    Terminated,
}

/// A rejection on the wire has values that do not exist.
#[derive(Debug, thiserror::Error)]
pub(in crate::link) enum InvalidRejection {
    #[error(transparent)]
    Offset(#[from] NotAnOffset),
    #[error("it names an unknown algorithm or protocol")]
    Name,
}

impl WireRejection {
    /// Returns `None` for rejections that no request with bytes has.
    pub(in crate::link) fn of(rejection: Rejection) -> Option<Self> {
        Some(match rejection {
            Rejection::NotFound => Self::NotFound,
            Rejection::Gone(Ended::Failed) => Self::Gone { how: WireEnd::Failed },
            Rejection::Gone(Ended::Expired) => Self::Gone { how: WireEnd::Expired },
            Rejection::Gone(Ended::Terminated) => Self::Gone { how: WireEnd::Terminated },
            Rejection::Removed => Self::Removed,
            Rejection::BytesMissing => Self::BytesMissing,
            Rejection::WrongOffset { ours, theirs } => Self::WrongOffset { ours: ours.get(), theirs: theirs.get() },
            Rejection::AlreadyComplete(length) => Self::AlreadyComplete { length: length.get() },
            Rejection::BeyondLength(length) => Self::BeyondLength { length: length.get() },
            Rejection::OverLimit(limit) => Self::OverLimit { limit },
            Rejection::LengthChanged { ours, theirs } => Self::LengthChanged { ours: ours.get(), theirs: theirs.get() },
            Rejection::LengthBelowOffset { offset, length } => {
                Self::LengthBelowOffset { offset: offset.get(), length: length.get() }
            }
            Rejection::EndsElsewhere { length, end } => Self::EndsElsewhere { length: length.get(), end: end.get() },
            Rejection::OtherDialect(dialect) => Self::OtherDialect { dialect: dialect.name().to_owned() },
            Rejection::InOrderOnly => Self::InOrderOnly,
            Rejection::DifferentBytes { at } => Self::DifferentBytes { at },
            Rejection::BeyondRange { end } => Self::BeyondRange { end },
            Rejection::Misaligned { alignment } => Self::Misaligned { alignment },
            Rejection::TooManyRanges(limit) => Self::TooManyRanges { limit },
            Rejection::TooMuchToReplace(limit) => Self::TooMuchToReplace { limit },
            Rejection::ChecksumMismatch(algorithm) => Self::ChecksumMismatch { algorithm: algorithm.name().to_owned() },
            Rejection::BrokenPromise(algorithm) => Self::BrokenPromise { algorithm: algorithm.name().to_owned() },
            Rejection::Refused(Failure { code, message, rejection }) => {
                Self::Refused { code, message, kind: rejection.map(|kind| kind.name().to_owned()) }
            }
            Rejection::IsFinal => Self::IsFinal,
            Rejection::PartMissing(_)
            | Rejection::PartTwice { .. }
            | Rejection::NotPartial(_)
            | Rejection::PartUnfinished(_) => return None,
        })
    }
}

impl TryFrom<WireRejection> for Rejection {
    type Error = InvalidRejection;

    fn try_from(rejection: WireRejection) -> Result<Self, InvalidRejection> {
        let algorithm = |name: String| Algorithm::by_name(&name).ok_or(InvalidRejection::Name);
        Ok(match rejection {
            WireRejection::NotFound => Self::NotFound,
            WireRejection::Gone { how: WireEnd::Failed } => Self::Gone(Ended::Failed),
            WireRejection::Gone { how: WireEnd::Expired } => Self::Gone(Ended::Expired),
            WireRejection::Gone { how: WireEnd::Terminated } => Self::Gone(Ended::Terminated),
            WireRejection::Removed => Self::Removed,
            WireRejection::BytesMissing => Self::BytesMissing,
            WireRejection::WrongOffset { ours, theirs } => {
                Self::WrongOffset { ours: offset(ours)?, theirs: offset(theirs)? }
            }
            WireRejection::AlreadyComplete { length: bytes } => Self::AlreadyComplete(length(bytes)?),
            WireRejection::BeyondLength { length: bytes } => Self::BeyondLength(length(bytes)?),
            WireRejection::OverLimit { limit } => Self::OverLimit(limit),
            WireRejection::LengthChanged { ours, theirs } => {
                Self::LengthChanged { ours: length(ours)?, theirs: length(theirs)? }
            }
            WireRejection::LengthBelowOffset { offset: at, length: bytes } => {
                Self::LengthBelowOffset { offset: offset(at)?, length: length(bytes)? }
            }
            WireRejection::EndsElsewhere { length: bytes, end } => {
                Self::EndsElsewhere { length: length(bytes)?, end: offset(end)? }
            }
            WireRejection::OtherDialect { dialect } => {
                Self::OtherDialect(Dialect::by_name(&dialect).ok_or(InvalidRejection::Name)?)
            }
            WireRejection::InOrderOnly => Self::InOrderOnly,
            WireRejection::DifferentBytes { at } => Self::DifferentBytes { at },
            WireRejection::BeyondRange { end } => Self::BeyondRange { end },
            WireRejection::Misaligned { alignment } => Self::Misaligned { alignment },
            WireRejection::TooManyRanges { limit } => Self::TooManyRanges(limit),
            WireRejection::TooMuchToReplace { limit } => Self::TooMuchToReplace(limit),
            WireRejection::ChecksumMismatch { algorithm: name } => Self::ChecksumMismatch(algorithm(name)?),
            WireRejection::BrokenPromise { algorithm: name } => Self::BrokenPromise(algorithm(name)?),
            WireRejection::Refused { code, message, kind } => {
                let by_name = |name: String| RejectionKind::by_name(&name).ok_or(InvalidRejection::Name);
                Self::Refused(Failure { code, message, rejection: kind.map(by_name).transpose()? })
            }
            WireRejection::IsFinal => Self::IsFinal,
        })
    }
}

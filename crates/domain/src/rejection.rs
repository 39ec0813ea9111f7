//! Rejections of requests. A client can act on each of them; none contains text from lower layers.

use std::borrow::Cow;

use crate::checksum::Algorithm;
use crate::dialect::Dialect;
use crate::failure::Failure;
use crate::size::{Length, Offset};
use crate::stage::Ended;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("there is no such upload")]
    NotFound,
    #[error("this upload has {}", .0.past())]
    Gone(Ended),
    /// Retention or an operator removed the file.
    #[error("the file of this upload was removed")]
    Removed,
    #[error("the bytes of this upload are missing on the server")]
    BytesMissing,
    #[error("the upload is at offset {ours}, not {theirs}")]
    WrongOffset { ours: Offset, theirs: Offset },
    #[error("the upload is complete with {0} bytes and accepts no more")]
    AlreadyComplete(Length),
    #[error("the data exceeds the declared length of {0} bytes")]
    BeyondLength(Length),
    #[error("an upload may have at most {0} bytes on this server")]
    OverLimit(u64),
    #[error("the length was declared as {ours} bytes and cannot be changed to {theirs}")]
    LengthChanged { ours: Length, theirs: Length },
    #[error("the upload already has {offset} bytes, more than the declared length of {length}")]
    LengthBelowOffset { offset: Offset, length: Length },
    #[error("the upload has a length of {length} bytes, but this request would end it at {end}")]
    EndsElsewhere { length: Length, end: Offset },
    #[error("the upload was created with the protocol {}; continue it with the same protocol", .0.name())]
    OtherDialect(Dialect),
    #[error(
        "the storage of this server accepts the bytes of an upload only in order; create the upload with the protocol \
         tus or ietf"
    )]
    InOrderOnly,
    #[error("the bytes at {at} differ from those received before; the earlier bytes are kept")]
    DifferentBytes { at: u64 },
    #[error("the request has more data than its range, which ends at {end}")]
    BeyondRange { end: u64 },
    #[error(
        "a range must begin and end at a multiple of {alignment} bytes, at the end of the upload, or at the edge of \
         received bytes"
    )]
    Misaligned { alignment: u64 },
    #[error("the upload would have more than {0} separate ranges (limits.max_ranges); fill gaps first")]
    TooManyRanges(u32),
    #[error("the data would replace more than {0} differing bytes (limits.max_replaced_size); send smaller ranges")]
    TooMuchToReplace(u64),
    #[error("the data does not match the {} digest that was sent with it", .0.name())]
    ChecksumMismatch(Algorithm),
    #[error("the upload has failed: it does not match the {} digest that was declared at its creation", .0.name())]
    BrokenPromise(Algorithm),
    /// A policy or the application rejected the upload, with its reason.
    #[error("{}", .0.message)]
    Refused(Failure),
    #[error("a final upload is assembled from its parts and accepts no data")]
    IsFinal,
    #[error("upload {0} in the list does not exist")]
    PartMissing(usize),
    #[error("upload {again} in the list is the same as upload {first}; list each upload once")]
    PartTwice { first: usize, again: usize },
    #[error("upload {0} in the list was not created as a partial upload")]
    NotPartial(usize),
    #[error("upload {0} in the list is not complete")]
    PartUnfinished(usize),
}

impl Rejection {
    /// Returns the stable code for programs. A protocol that defines its own codes for some rejections uses
    /// those.
    pub fn code(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Refused(failure) => return failure.code.clone().into(),
            Self::NotFound => "no-such-upload",
            Self::Gone(_) => "upload-gone",
            Self::Removed => "upload-removed",
            Self::BytesMissing => "bytes-missing",
            Self::WrongOffset { .. } => "wrong-offset",
            Self::AlreadyComplete(_) => "upload-complete",
            Self::BeyondLength(_) => "beyond-length",
            Self::OverLimit(_) => "over-limit",
            Self::LengthChanged { .. } => "length-changed",
            Self::LengthBelowOffset { .. } => "length-below-offset",
            Self::EndsElsewhere { .. } => "inconsistent-length",
            Self::InOrderOnly => "in-order-only",
            Self::OtherDialect(_) => "other-dialect",
            Self::DifferentBytes { .. } => "different-bytes",
            Self::BeyondRange { .. } => "beyond-range",
            Self::Misaligned { .. } => "misaligned-range",
            Self::TooManyRanges(_) => "too-many-ranges",
            Self::TooMuchToReplace(_) => "too-much-to-replace",
            Self::ChecksumMismatch(_) => "checksum-mismatch",
            Self::BrokenPromise(_) => "digest-mismatch",
            Self::IsFinal => "final-upload",
            Self::PartMissing(_) => "no-such-part",
            Self::PartTwice { .. } => "part-twice",
            Self::NotPartial(_) => "not-partial",
            Self::PartUnfinished(_) => "part-unfinished",
        })
    }
}

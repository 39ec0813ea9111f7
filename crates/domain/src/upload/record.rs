//! The recorded facts of an upload, and the values for creating and continuing one.

use std::time::Duration;

use crate::checksum::{Algorithm, Digest};
use crate::dialect::Dialect;
use crate::facts::Facts;
use crate::failure::Failure;
use crate::generation::Generations;
use crate::id::{CommitId, UploadId};
use crate::metadata::Metadata;
use crate::node::Lease;
use crate::principal::TenantId;
use crate::ranges::ReceivedRanges;
use crate::removal::Removal;
use crate::report::Report;
use crate::size::{Length, Offset};
use crate::stage::Stage;
use crate::time::Timestamp;
use crate::upload::Upload;
use crate::write_rules::WriteRules;

/// The role of an upload in a concatenation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    Single,
    /// A source for final uploads.
    Partial,
    /// The concatenation of these partial uploads, in this order.
    Final {
        parts: Vec<UploadId>,
        /// The list as sent by the client, echoed in responses.
        as_sent: String,
    },
}

impl Role {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Partial => "partial",
            Self::Final { .. } => "final",
        }
    }
}

/// The possible existence of stored bytes for an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredBytes {
    Kept,
    Removed,
}

/// Limits that the application has set for one upload in its pre-create hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadTerms {
    /// The maximum size in bytes, if it is below the server-wide maximum.
    pub max_bytes: Option<u64>,
    /// The time at which the upload expires if it has not completed, regardless of its client's activity.
    pub expires_by: Option<Timestamp>,
}

/// The stored record of an upload. Only [`Upload`] changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: UploadId,
    pub tenant: TenantId,
    /// The number of commits. A commit names the version it read and fails if the version has moved.
    pub version: u64,
    /// The commit that made this version, or `None` if the record is older than commit identifiers. Before a
    /// commit it is the identifier of that commit.
    pub commit_id: Option<CommitId>,
    /// The node that writes the upload, and its epoch. A commit in an earlier epoch fails, whatever its
    /// version.
    pub lease: Lease,
    pub dialect: Dialect,
    pub write_rules: WriteRules,
    pub role: Role,
    pub stage: Stage,
    /// The durable bytes.
    pub received: ReceivedRanges,
    /// `None` while the client defers the length.
    pub length: Option<Length>,
    pub metadata: Metadata,
    /// The metadata as the client encoded it, echoed unchanged.
    pub metadata_as_sent: Option<String>,
    pub terms: UploadTerms,
    /// Digests to compute in addition to CRC-32C, which is always computed.
    pub wanted_digests: Vec<Algorithm>,
    /// Digests of the whole upload that the client promised.
    pub promised_digests: Vec<Digest>,
    /// The state of the running digests after the contiguous bytes, written and read by the engine.
    pub running_digests: Vec<u8>,
    /// Digests of the whole upload, from `received` on.
    pub digests: Vec<Digest>,
    /// Facts about the content, from `verified` on.
    pub facts: Option<Facts>,
    /// The time at which the application accepted the upload before its completion. It decides once; the
    /// decision is final.
    pub accepted_at: Option<Timestamp>,
    /// Processing stages that backends have reported, in the order of their first report.
    pub reports: Vec<Report>,
    /// The storage's data for continuing to write, written and read by the storage; `None` before the first
    /// byte.
    pub resume: Option<Vec<u8>>,
    /// The blobs that hold the bytes. `resume` belongs to the current one.
    pub generations: Generations,
    pub bytes: StoredBytes,
    /// The time at which the file of a completed upload was marked for removal, and the originator.
    pub removed: Option<Removal>,
    /// The time since which stored bytes are known to be missing.
    pub missing_since: Option<Timestamp>,
    /// The times at which stages were entered, oldest first.
    pub timeline: Vec<(Stage, Timestamp)>,
    pub failure: Option<Failure>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// `None` if the upload does not expire.
    pub expires_at: Option<Timestamp>,
    /// The sequence number of the next event.
    pub next_sequence: u64,
    /// The number of received bytes and the time at the last event.
    pub last_progress: (Offset, Timestamp),
}

/// The parameters of an upload to be created.
#[derive(Debug, Clone)]
pub struct NewUpload {
    pub id: UploadId,
    /// The owner. It never changes.
    pub tenant: TenantId,
    pub dialect: Dialect,
    pub write_rules: WriteRules,
    pub role: Role,
    pub length: Option<Length>,
    pub metadata: Metadata,
    pub metadata_as_sent: Option<String>,
    pub terms: UploadTerms,
    pub wanted_digests: Vec<Algorithm>,
    pub promised_digests: Vec<Digest>,
    pub expires_at: Timestamp,
}

/// Bytes made durable, with the state that belongs to them.
#[derive(Debug, Clone)]
pub struct DurableBytes {
    /// Their ranges as `(start, end)`, end exclusive.
    pub ranges: Vec<(u64, u64)>,
    pub running_digests: Vec<u8>,
    pub resume: Vec<u8>,
    pub expires_at: Timestamp,
}

/// The conditions for a progress event within a stage (webhooks C2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressPolicy {
    /// The minimum time between two events.
    pub every: Duration,
    /// The number of new bytes that makes an event due. A hundredth of the length suffices if that is less.
    pub min_bytes: u64,
}

/// Declarations about a whole upload that no commit has written yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PendingDeclarations {
    pub length: Option<Length>,
    pub promised_digests: Vec<Digest>,
}

impl PendingDeclarations {
    pub fn is_empty(&self) -> bool {
        self.length.is_none() && self.promised_digests.is_empty()
    }

    /// Drops declarations that `upload` already contains.
    pub fn drop_recorded(&mut self, upload: &Upload) {
        self.length = self.length.filter(|_| upload.record.length.is_none());
        self.promised_digests.retain(|digest| !upload.record.promised_digests.contains(digest));
    }
}

/// A change that would make a record inconsistent. It indicates a bug in the caller, never an error of a
/// client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InconsistentChange {
    #[error("an upload that is {} accepts no bytes", .0.name())]
    Closed(Stage),
    #[error("bytes up to {end} exceed the length of {length}")]
    BeyondLength { end: u64, length: Length },
    #[error("only {offset} bytes are contiguous, which is not the whole upload")]
    NotWhole { offset: Offset, length: Option<Length> },
    #[error("the bytes from {start} to {end} are not all received and cannot be acknowledged")]
    NotReceived { start: u64, end: u64 },
    #[error("all bytes of the upload would be received without a seal, so nothing would complete it")]
    Unsealed,
}

/// The outcome of a backend's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportOutcome {
    Changed,
    /// The report was known already.
    Unchanged,
}

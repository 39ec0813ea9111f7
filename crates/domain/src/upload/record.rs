//! What is known of an upload, and what is given to one when it is created or continued.

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

/// What part an upload plays in a concatenation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    Single,
    /// Material for final uploads.
    Partial,
    /// Made of these partial uploads, in this order.
    Final {
        parts: Vec<UploadId>,
        /// The list as its client sent it, to be echoed.
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

/// Whether stored bytes may exist for an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredBytes {
    Kept,
    Removed,
}

/// What the application has set for one upload when it was asked before its creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadTerms {
    /// The most bytes it may have, where that is less than everyone may.
    pub max_bytes: Option<u64>,
    /// It expires then if it is not complete, whatever its client does.
    pub expires_by: Option<Timestamp>,
}

/// Everything known of an upload, as stored. Only [`Upload`] changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: UploadId,
    pub tenant: TenantId,
    /// Counts commits; a commit names the version it read and loses if that has moved.
    pub version: u64,
    /// The commit that made this version; `None` in records of before commits
    /// had names. Before a commit, its own name.
    pub commit_id: Option<CommitId>,
    /// Which node writes it, and in which epoch. A commit in an earlier epoch loses, whatever the version.
    pub lease: Lease,
    pub dialect: Dialect,
    pub write_rules: WriteRules,
    pub role: Role,
    pub stage: Stage,
    /// Durable bytes.
    pub received: ReceivedRanges,
    /// `None` while the client has deferred it.
    pub length: Option<Length>,
    pub metadata: Metadata,
    /// The metadata as the client wrote it, to be echoed unchanged.
    pub metadata_as_sent: Option<String>,
    pub terms: UploadTerms,
    /// Digests to compute besides CRC-32C, which is always computed.
    pub wanted_digests: Vec<Algorithm>,
    /// Digests of the whole upload that the client has promised.
    pub promised_digests: Vec<Digest>,
    /// The state of the running digests after the contiguous bytes; made and read by the engine.
    pub running_digests: Vec<u8>,
    /// Digests of the whole upload, from `received` on.
    pub digests: Vec<Digest>,
    /// What the bytes are, from `verified` on.
    pub facts: Option<Facts>,
    /// When the application, asked before completion, said yes. Asked once; the answer stays.
    pub accepted_at: Option<Timestamp>,
    /// Stages of their own that backends have reported, in the order they first did.
    pub reports: Vec<Report>,
    /// What the storage needs to go on writing; `None` before the first byte. Made and read by the storage.
    pub resume: Option<Vec<u8>>,
    /// The blobs that hold its bytes; `resume` belongs to the current one.
    pub generations: Generations,
    pub bytes: StoredBytes,
    /// When the file of a completed upload was given up for removal, and by whom.
    pub removed: Option<Removal>,
    /// Since when it is known that stored bytes are not where they should be.
    pub missing_since: Option<Timestamp>,
    /// When each stage was entered, oldest first.
    pub timeline: Vec<(Stage, Timestamp)>,
    pub failure: Option<Failure>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// `None` when it does not expire.
    pub expires_at: Option<Timestamp>,
    /// The number the next event gets.
    pub next_sequence: u64,
    /// How many bytes there were, and when, at the last event.
    pub last_progress: (Offset, Timestamp),
}

/// What a client asks for when it creates an upload.
#[derive(Debug, Clone)]
pub struct NewUpload {
    pub id: UploadId,
    /// Whose it is, for as long as there is a record of it.
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

/// Bytes made durable, and the state that goes with them.
#[derive(Debug, Clone)]
pub struct DurableBytes {
    /// Where they are, as `(start, end)`, end excluded.
    pub ranges: Vec<(u64, u64)>,
    pub running_digests: Vec<u8>,
    pub resume: Vec<u8>,
    pub expires_at: Timestamp,
}

/// When progress within a stage is worth an event (webhooks C2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressPolicy {
    /// At most one event in this time.
    pub every: Duration,
    /// Unless a hundredth of the length has come in, at least this many bytes have.
    pub min_bytes: u64,
}

/// What requests have said of a whole upload and no commit has written yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PendingDeclarations {
    pub length: Option<Length>,
    pub promised_digests: Vec<Digest>,
}

impl PendingDeclarations {
    pub fn is_empty(&self) -> bool {
        self.length.is_none() && self.promised_digests.is_empty()
    }

    /// Drops what `upload` says already.
    pub fn drop_recorded(&mut self, upload: &Upload) {
        self.length = self.length.filter(|_| upload.record.length.is_none());
        self.promised_digests.retain(|digest| !upload.record.promised_digests.contains(digest));
    }
}

/// A change that would leave a record which contradicts itself. Its caller is at fault, never a client.
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

/// What came of a backend's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportOutcome {
    Changed,
    /// It was known already.
    Unchanged,
}

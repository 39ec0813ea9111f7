//! Uploads, in two tables: values that change while bytes arrive, and values set at creation.

use domain::checksum::{Algorithm, Digest};
use domain::dialect::Dialect;
use domain::facts::Facts;
use domain::failure::{Failure, RejectionKind};
use domain::generation::Generations;
use domain::id::{CommitId, InstanceId, UploadId};
use domain::metadata::Metadata;
use domain::node::{Epoch, Lease};
use domain::principal::TenantId;
use domain::ranges::ReceivedRanges;
use domain::removal::{DeletedBy, Removal};
use domain::report::Report;
use domain::size::{Length, Offset};
use domain::stage::Stage;
use domain::time::Timestamp;
use domain::upload::{Record, Role, StoredBytes, Upload, UploadTerms};
use domain::write_rules::{Completion, WriteOrder, WriteRules};

use crate::fields::TypeName;
use crate::table::{Row, Source, table};

table! {
    /// The values that change while bytes arrive, and no others, because a checkpoint rewrites this row.
    pub struct UploadRow in "uploads", key (id), of (record: &Record) {
        id: UploadId = record.id;
        tenant: TenantId = record.tenant;
        /// The version that the commit creates.
        version: u64 = record.version + 1;
        stage: Stage = record.stage;
        role: String = TypeName(record.role.name());
        length: Option<Length> = record.length;
        received: ReceivedRanges = record.received;
        wanted_digests: Vec<Algorithm> = record.wanted_digests;
        promised_digests: Vec<Digest> = record.promised_digests;
        running_digests: Vec<u8> = record.running_digests;
        digests: Vec<Digest> = record.digests;
        resume: Option<Vec<u8>> = record.resume;
        bytes_kept: bool = record.bytes == StoredBytes::Kept;
        timeline: Vec<(Stage, Timestamp)> = record.timeline;
        failure_code: Option<String> = record.failure.as_ref().map(|failure| &failure.code);
        failure_message: Option<String> = record.failure.as_ref().map(|failure| &failure.message);
        created_at_ms: Timestamp = record.created_at;
        updated_at_ms: Timestamp = record.updated_at;
        expires_at_ms: Option<Timestamp> = record.expires_at;
        next_sequence: u64 = record.next_sequence;
        last_progress_offset: Offset = record.last_progress.0;
        last_progress_at_ms: Timestamp = record.last_progress.1;
        failure_status: Option<RejectionKind> = record.failure.as_ref().and_then(|failure| failure.rejection);
        facts: Option<Facts> = record.facts;
        accepted_at_ms: Option<Timestamp> = record.accepted_at;
        reports: Vec<Report> = record.reports[..];
        removed_at_ms: Option<Timestamp> = record.removed.map(|removed| removed.at);
        removed_by: Option<DeletedBy> = record.removed.map(|removed| removed.by);
        missing_since_ms: Option<Timestamp> = record.missing_since;
        /// The node that writes the upload. A commit writes the value it read; only acquiring the lease
        /// changes it.
        holder: Option<InstanceId> = record.lease.holder;
        epoch: u64 = record.lease.epoch.get();
        lease_generation: u64 = record.lease.generation.get();
        generations: Generations = record.generations;
        commit_id: Option<CommitId> = record.commit_id;
    }
}

table! {
    /// Values that are set at creation. They never change, except that removing the free text of an upload
    /// empties its metadata.
    pub struct OriginRow in "upload_origins", key (id), of (record: &Record) {
        id: UploadId = record.id;
        dialect: Dialect = record.dialect;
        write_order: WriteOrder = record.write_rules.order;
        completion: Completion = record.write_rules.completion;
        /// The parts of a final upload, and the list as its client sent it.
        parts: Option<Vec<UploadId>> = parts(record).map(|(parts, _)| parts);
        parts_as_sent: Option<String> = parts(record).map(|(_, as_sent)| as_sent);
        metadata: Metadata = record.metadata;
        metadata_as_sent: Option<String> = record.metadata_as_sent;
        max_bytes: Option<u64> = record.terms.max_bytes;
        expires_by_ms: Option<Timestamp> = record.terms.expires_by;
    }
}

fn parts(record: &Record) -> Option<(&Vec<UploadId>, &String)> {
    match &record.role {
        Role::Final { parts, as_sent } => Some((parts, as_sent)),
        Role::Single | Role::Partial => None,
    }
}

/// Reads an upload from both of its tables: the columns of [`UploadRow`], then those of [`OriginRow`].
impl UploadRow {
    /// Reads an upload.
    pub fn read_upload<S: Source>(source: &mut S) -> Result<Result<Upload, Incoherent>, S::Error> {
        let (moving, origin) = (Self::read(source)?, OriginRow::read(source)?);
        Ok(moving.with(origin).map(Upload::from_record))
    }

    /// Combines both parts of an upload.
    fn with(self, origin: OriginRow) -> Result<Record, Incoherent> {
        let Self {
            id,
            tenant,
            version,
            stage,
            role,
            length,
            received,
            wanted_digests,
            promised_digests,
            running_digests,
            digests,
            resume,
            bytes_kept,
            timeline,
            failure_code,
            failure_message,
            created_at_ms,
            updated_at_ms,
            expires_at_ms,
            next_sequence,
            last_progress_offset,
            last_progress_at_ms,
            failure_status,
            facts,
            accepted_at_ms,
            reports,
            removed_at_ms,
            removed_by,
            missing_since_ms,
            holder,
            epoch,
            lease_generation,
            generations,
            commit_id,
        } = self;
        let OriginRow {
            id: _,
            dialect,
            write_order: order,
            completion,
            parts,
            parts_as_sent,
            metadata,
            metadata_as_sent,
            max_bytes,
            expires_by_ms,
        } = origin;
        let role = match (role.as_str(), parts, parts_as_sent) {
            ("single", None, None) => Role::Single,
            ("partial", None, None) => Role::Partial,
            ("final", Some(parts), Some(as_sent)) => Role::Final { parts, as_sent },
            _ => return Err(Incoherent("role")),
        };
        let removed = match (removed_at_ms, removed_by) {
            (None, None) => None,
            (Some(at), Some(by)) => Some(Removal { at, by }),
            (None, Some(_)) | (Some(_), None) => return Err(Incoherent("removed_by")),
        };
        let failure = failure_code.zip(failure_message);
        Ok(Record {
            id,
            tenant,
            version,
            commit_id,
            lease: Lease { holder, epoch: Epoch::new(epoch), generation: Epoch::new(lease_generation) },
            dialect,
            write_rules: WriteRules { order, completion },
            role,
            stage,
            received,
            length,
            metadata,
            metadata_as_sent,
            terms: UploadTerms { max_bytes, expires_by: expires_by_ms },
            wanted_digests,
            promised_digests,
            running_digests,
            digests,
            facts,
            accepted_at: accepted_at_ms,
            reports,
            resume,
            generations,
            bytes: if bytes_kept { StoredBytes::Kept } else { StoredBytes::Removed },
            removed,
            missing_since: missing_since_ms,
            timeline,
            failure: failure.map(|(code, message)| Failure { code, message, rejection: failure_status }),
            created_at: created_at_ms,
            updated_at: updated_at_ms,
            expires_at: expires_at_ms,
            next_sequence,
            last_progress: (last_progress_offset, last_progress_at_ms),
        })
    }
}

/// The error for columns that are readable individually but contradict each other; names one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoherent(pub &'static str);

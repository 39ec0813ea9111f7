//! Deletion of an upload, and of bytes that are no longer needed.

use crate::event::{Details, EventKind};
use crate::rejection::Rejection;
use crate::removal::{DeletedBy, Removal};
use crate::stage::{Ended, Stage};
use crate::time::Timestamp;
use crate::upload::{StoredBytes, Upload};

impl Upload {
    /// Terminates an upload on behalf of its client or of an operator. A completed upload may be terminated
    /// too.
    pub fn terminate(&mut self, by: DeletedBy, now: Timestamp) -> Result<(), Rejection> {
        if let Stage::Ended(how) = self.record.stage {
            return Err(Rejection::Gone(how));
        }
        if self.record.removed.is_some() {
            return Err(Rejection::Removed);
        }
        if self.is_expired(now) {
            return Err(Rejection::Gone(Ended::Expired));
        }
        self.end(Ended::Terminated, EventKind::Terminated, Details::by(by), now);
        Ok(())
    }

    /// Marks the file of a completed upload for removal, once. The upload stays completed, and backends may
    /// still report about it.
    pub fn remove(&mut self, by: DeletedBy, now: Timestamp) -> Result<(), Rejection> {
        debug_assert!(self.record.stage == Stage::Completed, "only a completed upload has a file");
        debug_assert!(by != DeletedBy::Client, "a client's deletion terminates");
        if self.record.removed.is_some() {
            return Err(Rejection::Removed);
        }
        self.record.removed = Some(Removal { at: now, by });
        self.record.missing_since = None;
        self.record.updated_at = now;
        self.publish_with(EventKind::Removed, Details::by(by), now);
        Ok(())
    }

    /// Deletes an upload for an operator, in any stage: the file of a completed upload is removed, an upload
    /// past its expiry expires, and any other is terminated.
    pub fn delete_for_operator(&mut self, now: Timestamp) -> Result<(), Rejection> {
        if self.record.stage == Stage::Completed {
            return self.remove(DeletedBy::Operator, now);
        }
        if self.is_expired(now) {
            self.expire(now);
            return Ok(());
        }
        self.terminate(DeletedBy::Operator, now)
    }

    /// Records that the bytes of an upload that no longer needs them were deleted.
    pub fn bytes_removed(&mut self, now: Timestamp) {
        debug_assert!(!self.owns_bytes(), "bytes are removed only after the record says so");
        self.record.bytes = StoredBytes::Removed;
        self.record.resume = None;
        self.record.updated_at = now;
    }
}

//! Deletion of an upload, and of the bytes of one that needs them no more.

use crate::event::{Details, EventKind};
use crate::rejection::Rejection;
use crate::removal::{DeletedBy, Removal};
use crate::stage::{Ended, Stage};
use crate::time::Timestamp;
use crate::upload::{StoredBytes, Upload};

impl Upload {
    /// Ends an upload because its client, or an operator, said so. A completed one may be terminated too.
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

    /// Gives up the file of a completed upload, once. The upload stays
    /// completed, and backends may still report on it.
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

    /// Deletes an upload for an operator, whatever its stage: one that has completed loses its file, one
    /// whose time has passed expires, any other is terminated.
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

    /// Takes note that the bytes of an upload that needs them no more are gone.
    pub fn bytes_removed(&mut self, now: Timestamp) {
        debug_assert!(!self.owns_bytes(), "bytes are removed only after the record says so");
        self.record.bytes = StoredBytes::Removed;
        self.record.resume = None;
        self.record.updated_at = now;
    }
}

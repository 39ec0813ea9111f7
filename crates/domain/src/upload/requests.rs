//! Checks of client requests against an upload, and declarations in such requests.

use crate::checksum::Digest;
use crate::rejection::Rejection;
use crate::size::{Length, Offset};
use crate::time::Timestamp;
use crate::upload::{PendingDeclarations, Upload};

impl Upload {
    /// Checks an append at `at`. `count` is the announced number of bytes, if any; `max_bytes` is the maximum
    /// size of uploads whose length is unknown.
    pub fn check_append(
        &self,
        at: Offset,
        count: Option<u64>,
        max_bytes: u64,
        now: Timestamp,
    ) -> Result<(), Rejection> {
        self.check_open(now)?;
        if at != self.offset() {
            return Err(Rejection::WrongOffset { ours: self.offset(), theirs: at });
        }
        self.check_fits(at, count, max_bytes)
    }

    /// Checks a write at `at`, which may be any position.
    pub fn check_range(&self, at: Offset, count: Option<u64>, max_bytes: u64, now: Timestamp) -> Result<(), Rejection> {
        self.check_open(now)?;
        self.check_fits(at, count, max_bytes)
    }

    fn check_open(&self, now: Timestamp) -> Result<(), Rejection> {
        if let Some(why) = self.gone(now) {
            return Err(why);
        }
        if self.is_final() { Err(Rejection::IsFinal) } else { Ok(()) }
    }

    fn check_fits(&self, at: Offset, count: Option<u64>, max_bytes: u64) -> Result<(), Rejection> {
        let end = at.plus(count.unwrap_or(0));
        let max_bytes = self.most_bytes(max_bytes);
        match self.record.length {
            // tus 1.0, PATCH: repeating an empty append after a lost response is not an error.
            Some(length) if !self.record.stage.takes_bytes() && count != Some(0) => {
                Err(Rejection::AlreadyComplete(length))
            }
            Some(length) if end.is_none_or(|end| !length.admits(end)) => Err(Rejection::BeyondLength(length)),
            None if end.is_none_or(|end| end.get() > max_bytes) => Err(Rejection::OverLimit(max_bytes)),
            Some(_) | None => Ok(()),
        }
    }

    /// Sets a deferred length. Repeating the known length is permitted. `taken` is the end of the last byte
    /// accepted from a client, committed or not.
    pub fn declare_length(&mut self, length: Length, max_bytes: u64, taken: Offset) -> Result<(), Rejection> {
        let max_bytes = self.most_bytes(max_bytes);
        let reach = self.reach().max(taken);
        match self.record.length {
            Some(ours) if ours == length => Ok(()),
            Some(ours) => Err(Rejection::LengthChanged { ours, theirs: length }),
            None if length.get() > max_bytes => Err(Rejection::OverLimit(max_bytes)),
            None if !length.admits(reach) => Err(Rejection::LengthBelowOffset { offset: reach, length }),
            None => {
                self.record.length = Some(length);
                Ok(())
            }
        }
    }

    /// Adds digests that the whole upload must match, in addition to those promised before.
    pub fn declare_digests(&mut self, digests: &[Digest]) {
        for digest in digests {
            if !self.record.promised_digests.contains(digest) {
                self.record.promised_digests.push(digest.clone());
            }
        }
    }

    /// Returns the declarations of this copy that `earlier` lacks.
    pub fn declared_since(&self, earlier: &Self) -> PendingDeclarations {
        let mut declared =
            PendingDeclarations { length: self.record.length, promised_digests: self.record.promised_digests.clone() };
        declared.drop_recorded(earlier);
        declared
    }

    /// Applies declarations from another copy.
    pub fn apply_declarations(&mut self, declared: &PendingDeclarations) {
        self.record.length = self.record.length.or(declared.length);
        self.declare_digests(&declared.promised_digests);
    }
}

//! Lifetimes of uploads.

use std::time::Duration;

use crate::Inner;
use domain::time::Timestamp;
use domain::upload::Upload;

/// Lifetimes of uploads, and the interval of the sweeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifetimeSettings {
    /// A receiving upload becomes `stalled` after this time without bytes.
    pub stall_after: Duration,
    /// An unfinished upload expires after this time without activity.
    pub unfinished_expiry: Duration,
    /// An unfinished upload expires this long after its creation, regardless of activity.
    pub unfinished_age: Duration,
    /// The file of an upload is removed this long after its completion. `None` keeps it.
    pub completed_expiry: Option<Duration>,
    /// The first file is removed this long after the start, or after `completed_expiry` if that is shorter.
    /// By then a clock that was wrong when the machine started has been corrected.
    pub first_removal_after: Duration,
    /// Interval of the sweeper. Not zero.
    pub sweep_every: Duration,
}

impl Inner {
    /// Returns the upload with its expiry extended by the time that the clock has jumped over since the
    /// expiry was set. Decisions by the time of day alone are then consistent, and the next commit stores the
    /// extension.
    pub(super) fn extended(&self, mut upload: Upload) -> Upload {
        let now = self.now();
        upload.extend_term(|since, at| self.clock.extended(since, at), now);
        upload
    }

    /// Returns when an upload expires if no more bytes arrive. Activity extends its lifetime, up to its
    /// maximum age.
    pub(super) fn expires_at(&self, created_at: Timestamp, now: Timestamp) -> Timestamp {
        now.plus(self.settings.lifetimes.unfinished_expiry).min(self.too_old_at(created_at))
    }

    /// Reports whether the lifetime of an upload is over although its client is sending.
    pub(super) fn is_past_lifetime(&self, upload: &Upload) -> bool {
        let now = self.now();
        upload.is_past_set_expiry(now) || self.too_old_at(upload.record().created_at) <= now
    }

    /// Returns when an upload reaches its maximum age, extended by the time that the clock has jumped over.
    fn too_old_at(&self, created_at: Timestamp) -> Timestamp {
        self.clock.extended(created_at, created_at.plus(self.settings.lifetimes.unfinished_age))
    }
}

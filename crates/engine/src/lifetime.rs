//! How long an unfinished upload lives.

use std::time::Duration;

use crate::Inner;
use domain::time::Timestamp;
use domain::upload::Upload;

/// How long uploads live, and how often that is looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifetimeSettings {
    /// A receiving upload that is silent for this long is stalled.
    pub stall_after: Duration,
    /// An unfinished upload without activity for this long expires.
    pub unfinished_expiry: Duration,
    /// An unfinished upload expires this long after its creation, whatever its client does.
    pub unfinished_age: Duration,
    /// The file of an upload is removed this long after it completed. `None`: never.
    pub completed_expiry: Option<Duration>,
    /// The first such file is removed this long after the start, or after `completed_expiry` if that is
    /// shorter: a clock that was wrong when the machine started is corrected by then.
    pub first_removal_after: Duration,
    /// How often the sweeper looks for uploads whose time is over. Not zero.
    pub sweep_every: Duration,
}

impl Inner {
    /// The upload with the time that the clock has passed over since its expiry was set. Whatever is done
    /// with it then, by the time of day alone, comes to the same answer, and its next commit stores the
    /// extension.
    pub(super) fn extended(&self, mut upload: Upload) -> Upload {
        let now = self.now();
        upload.extend_term(|since, at| self.clock.extended(since, at), now);
        upload
    }

    /// When an upload expires if nothing more comes: activity puts it off, but never beyond its age.
    pub(super) fn expires_at(&self, created_at: Timestamp, now: Timestamp) -> Timestamp {
        now.plus(self.settings.lifetimes.unfinished_expiry).min(self.too_old_at(created_at))
    }

    /// Whether the time of an upload is over although its client sends.
    pub(super) fn is_past_lifetime(&self, upload: &Upload) -> bool {
        let now = self.now();
        upload.is_past_set_expiry(now) || self.too_old_at(upload.record().created_at) <= now
    }

    /// When an upload is too old, without the time that the clock has passed over.
    fn too_old_at(&self, created_at: Timestamp) -> Timestamp {
        self.clock.extended(created_at, created_at.plus(self.settings.lifetimes.unfinished_age))
    }
}

//! How long an unfinished upload lives.

use crate::Inner;
use domain::time::Timestamp;
use domain::upload::Upload;

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
        now.plus(self.settings.unfinished_expiry).min(self.too_old_at(created_at))
    }

    /// Whether the time of an upload is over although its client sends.
    pub(super) fn has_outlived(&self, upload: &Upload) -> bool {
        let now = self.now();
        upload.has_outlived_its_terms(now) || self.too_old_at(upload.record().created_at) <= now
    }

    /// When an upload is too old, without the time that the clock has passed over.
    fn too_old_at(&self, created_at: Timestamp) -> Timestamp {
        self.clock.extended(created_at, created_at.plus(self.settings.unfinished_age))
    }
}

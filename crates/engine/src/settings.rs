//! Limits and intervals of the engine.
//!
//! Each group of settings is defined beside the code that uses it. The bounds named here are those that the
//! code relies on; the configuration may be stricter.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::Inner;
use crate::lifetime::LifetimeSettings;
use crate::ranges::RangeSettings;
use crate::space::SpaceSettings;
use crate::verify::MediaSettings;
use crate::writer::WriterSettings;
use domain::upload::ProgressPolicy;

/// Limits and intervals of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// Maximum size of an upload, also of one without a declared length. At least 1, and below 10^15:
    /// dialects send it as a structured field integer.
    pub max_upload_bytes: u64,
    /// Maximum number of uploads that receive at once, at least 1. Further requests are shed.
    pub max_active_uploads: usize,
    /// Maximum number of complete uploads that are read at once, at least 1: for downloads, and for
    /// comparisons with bytes sent again. Further requests are shed.
    pub max_downloads: usize,
    /// Maximum time that a new request waits for the writer that it ends.
    pub takeover_timeout: Duration,
    /// True if an upload created in one dialect may be resumed in another.
    pub cross_dialects: bool,
    /// True if the event of a completed upload contains the path of its file.
    pub tells_path: bool,
    /// Base URL of the status of uploads in events; the id follows it.
    pub status_root: String,
    /// Blobs and records to compare per second after the start. 0 disables the comparison.
    pub scan_rate: u32,
    /// Conditions for publishing progress as an event, while somebody
    /// [subscribes](crate::Engine::reporting_progress_while) to it.
    pub progress: ProgressPolicy,
    pub writer: WriterSettings,
    pub space: SpaceSettings,
    pub lifetimes: LifetimeSettings,
    pub ranges: RangeSettings,
    /// `None` disables the examination of the content.
    pub media: Option<MediaSettings>,
}

impl Inner {
    /// Returns when to publish progress as events, or `None` while nobody subscribes to them.
    pub(super) fn progress_policy(&self) -> Option<ProgressPolicy> {
        self.progress_wanted.load(Ordering::Relaxed).then_some(self.settings.progress)
    }
}

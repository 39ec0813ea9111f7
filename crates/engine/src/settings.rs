//! What the engine may do, and when.
//!
//! Each group of settings stands beside the code that obeys it. The bounds named here are those that the code
//! relies on; an operator may be held to narrower ones.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::Inner;
use crate::lifetime::LifetimeSettings;
use crate::ranges::RangeSettings;
use crate::space::SpaceSettings;
use crate::verify::MediaSettings;
use crate::writer::WriterSettings;
use domain::upload::ProgressPolicy;

/// What the engine may do, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// The largest upload, and the most a yet undeclared one may grow to. At least 1, and below 10^15:
    /// dialects announce it as a structured field integer.
    pub max_upload_bytes: u64,
    /// How many uploads may be receiving at once, at least 1; one more is asked to come back.
    pub max_active_uploads: usize,
    /// How many complete uploads may be read at once, at least 1: downloads, and comparisons with what is
    /// sent again. One more is asked to come back.
    pub max_downloads: usize,
    /// How long a new request waits for the writer it ends.
    pub takeover_timeout: Duration,
    /// Whether an upload created in one dialect may go on in another.
    pub cross_dialects: bool,
    /// Whether the event of a completed upload says where its file is.
    pub tells_path: bool,
    /// Events say that the status of their upload is there, with its id behind it.
    pub status_root: String,
    /// How many blobs and records are compared in a second after the start. 0: none.
    pub scan_rate: u32,
    /// When progress is worth an event, while somebody
    /// [listens](crate::Engine::reporting_progress_while) to it.
    pub progress: ProgressPolicy,
    pub writer: WriterSettings,
    pub space: SpaceSettings,
    pub lifetimes: LifetimeSettings,
    pub ranges: RangeSettings,
    /// `None` when nobody wants to know what the bytes are.
    pub media: Option<MediaSettings>,
}

impl Inner {
    /// When progress is worth an event at this moment, if it ever is.
    pub(super) fn progress_policy(&self) -> Option<ProgressPolicy> {
        self.progress_wanted.load(Ordering::Relaxed).then_some(self.settings.progress)
    }
}

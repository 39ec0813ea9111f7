//! What the engine may do, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::checksum::Algorithm;
use domain::policy::Policy;
use domain::upload::ProgressPolicy;

/// What the engine may do, and when.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The largest upload, and the most a yet undeclared one may grow to.
    pub max_upload_bytes: u64,
    /// How many uploads may be receiving at once; one more is asked to come back.
    pub max_active_uploads: usize,
    /// How many complete uploads may be read at once: downloads, and comparisons with what is sent again. One
    /// more is asked to come back.
    pub max_downloads: usize,
    /// How long a new request waits for the writer it ends.
    pub takeover_timeout: Duration,
    /// The most memory for bytes on their way to the storage, of all uploads together.
    pub buffer_bytes: u64,
    /// A long append commits at least this often.
    pub checkpoint_every: Duration,
    /// So many appends may commit in a second; where more are live, each does so less often.
    pub checkpoint_rate: u32,
    /// A long append commits at least after so many bytes.
    pub checkpoint_bytes: u64,
    /// How long an upload is kept open for its next request.
    pub keep_open: Duration,
    /// Room the storage must keep for everything else.
    pub min_free_bytes: u64,
    /// Disk space is low when less than this is free beside that.
    pub low_free_bytes: u64,
    /// How much of the free space unfinished uploads may keep from others, in percent.
    pub max_booked_percent: u64,
    /// How many blobs and records are compared in a second after the start. 0: none.
    pub scan_rate: u32,
    /// Digests to compute of every upload, besides CRC-32C.
    pub digests: Vec<Algorithm>,
    /// A receiving upload that is silent for so long is stalled.
    pub stall_after: Duration,
    /// An unfinished upload without activity for so long expires.
    pub unfinished_expiry: Duration,
    /// So long after its creation an unfinished upload expires, whatever its client does.
    pub unfinished_age: Duration,
    /// The file of an upload is removed so long after it completed. `None`: never.
    pub completed_expiry: Option<Duration>,
    /// The first of them is removed no sooner after the start: a clock that was wrong when the machine
    /// started is corrected by then.
    pub first_removal_after: Duration,
    pub sweep_every: Duration,
    /// `None` when nobody will ever listen to progress.
    pub progress: Option<Progress>,
    /// Whether an upload created in one dialect may go on in another.
    pub cross_dialects: bool,
    /// Whether the event of a completed upload says where its file is.
    pub tells_path: bool,
    /// Events say that the status of their upload is there, with its id behind it.
    pub status_root: String,
    pub ranges: RangeSettings,
    /// `None` when nobody wants to know what the bytes are.
    pub media: Option<MediaSettings>,
}

/// When progress is told.
#[derive(Debug, Clone)]
pub struct Progress {
    pub policy: ProgressPolicy,
    /// Whether somebody listens at this moment; it changes while the engine runs.
    pub is_wanted: Arc<AtomicBool>,
}

impl Settings {
    pub(super) fn progress(&self) -> Option<ProgressPolicy> {
        let wanted = self.progress.as_ref().filter(|progress| progress.is_wanted.load(Ordering::Relaxed));
        wanted.map(|progress| progress.policy)
    }
}

/// What is asked of bytes that come in any order.
#[derive(Debug, Clone, Copy)]
pub struct RangeSettings {
    /// Ranges begin and end at multiples of this, beside bytes that are there, or at the end of the upload.
    pub alignment_bytes: u64,
    /// How many separate ranges an upload may consist of.
    pub max_ranges: u32,
    /// How many may be received for one upload at once.
    pub max_parallel: usize,
    /// The most a range with a checksum may replace of what came before without one and differs.
    pub max_replaced_bytes: u64,
}

/// How uploads that have all their bytes are looked into, and which of them are not wanted.
#[derive(Debug, Clone)]
pub struct MediaSettings {
    /// The most that is read of one upload for that.
    pub read_limit_bytes: u64,
    /// How long it may take; what takes longer has no facts but its type.
    pub timeout: Duration,
    /// How many media files may be read at once.
    pub max_at_once: usize,
    pub policy: Policy,
}

//! The settings of the engine, and of the media below it.

use std::time::Duration;

use domain::policy::ContentPolicy;
use domain::upload::ProgressPolicy;
use engine::{EngineSettings, MediaSettings};
use longshore::config::Config;
use storage::memory::MemoryStore;

use crate::content::MOST_BYTES;
use crate::script::Tuning;

pub const SWEEP_EVERY: Duration = Duration::from_secs(10);
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(5);
const STALL_AFTER: Duration = Duration::from_secs(3);
const EXPIRY: Duration = Duration::from_secs(60);
const AGE: Duration = Duration::from_secs(3_600);
const MOST_UPLOAD_BYTES: u64 = MOST_BYTES as u64;

/// The size of parts in a storage like an object store.
const PART_BYTES: u64 = 1_024;

pub fn keeps_files(tuning: &Tuning) -> Option<Duration> {
    tuning.keeps_files_ms.map(Duration::from_millis)
}

pub fn medium(tuning: &Tuning) -> MemoryStore {
    if tuning.seals { MemoryStore::like_an_object_store(PART_BYTES) } else { MemoryStore::new() }
}

pub fn settings(tuning: &Tuning) -> EngineSettings {
    let mut settings = Config::default().engine;
    settings.max_upload_bytes = MOST_UPLOAD_BYTES;
    settings.max_active_uploads = 16;
    settings.max_downloads = 16;
    settings.takeover_timeout = TAKEOVER_TIMEOUT;
    settings.cross_dialects = true;
    settings.tells_path = false;
    settings.status_root = "/api/v1/uploads/".to_owned();
    settings.scan_rate = 0;
    // Every received byte counts as progress.
    settings.progress = ProgressPolicy { every: Duration::ZERO, min_bytes: u64::MAX };
    settings.writer.buffer_bytes = 8 << 20;
    settings.writer.checkpoint_every = Duration::from_millis(tuning.checkpoint_every_ms);
    settings.writer.checkpoint_rate = 1_000;
    settings.writer.checkpoint_bytes = tuning.checkpoint_bytes;
    settings.writer.keep_open = Duration::from_millis(tuning.keep_open_ms);
    settings.space.min_free_bytes = 0;
    settings.space.low_free_bytes = 0;
    settings.space.max_booked_percent = 90;
    settings.lifetimes.stall_after = STALL_AFTER;
    settings.lifetimes.unfinished_expiry = EXPIRY;
    settings.lifetimes.unfinished_age = AGE;
    settings.lifetimes.completed_expiry = keeps_files(tuning);
    settings.lifetimes.first_removal_after = Duration::ZERO;
    settings.lifetimes.sweep_every = SWEEP_EVERY;
    settings.ranges.alignment_bytes = 1;
    settings.ranges.max_ranges = tuning.max_ranges;
    settings.ranges.max_parallel = tuning.max_parallel;
    settings.ranges.max_replaced_bytes = tuning.max_replaced_bytes;
    // Files of the matrix are not media: their beginning is read, and no work runs on another thread.
    settings.media = Some(MediaSettings {
        read_limit_bytes: 64 << 10,
        timeout: Duration::from_secs(10),
        max_at_once: 2,
        policy: ContentPolicy::default(),
    });
    settings
}

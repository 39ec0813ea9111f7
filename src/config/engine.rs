//! Settings of the engine, from several sections.

use std::time::Duration;

use crate::config::media;
use crate::config::reader::{Parsed, Reader};
use crate::config::units::{GIB, KIB, MIB, TIB, days, hours, minutes, ms, secs};
use domain::checksum::Algorithm;
use domain::upload::ProgressPolicy;
use engine::{EngineSettings, LifetimeSettings, RangeSettings, SpaceSettings, WriterSettings};

/// Minimum time before a file is removed after a start. Files with a shorter retention may be removed sooner.
const FIRST_REMOVAL_AFTER: Duration = minutes(10);

/// Reads the settings of the engine. The status URL depends on several keys and is added later.
pub(super) fn read(from: &mut Reader) -> EngineSettings {
    EngineSettings {
        // Structured field integers, which announce the limit to clients, are below 10^15.
        max_upload_bytes: from.size("limits.max_upload_size", 1..=900 * TIB),
        max_active_uploads: from.count("limits.max_active_uploads", 1..=1_000_000),
        max_downloads: from.count("limits.max_downloads", 1..=1_000_000),
        takeover_timeout: from.duration("limits.takeover_timeout", ms(100)..=minutes(1)),
        cross_dialects: from.boolean("protocols.cross_dialects"),
        tells_path: from.boolean("webhooks.include_path"),
        status_root: String::new(),
        scan_rate: from.count("storage.scan_rate", 0..=1_000_000),
        progress: ProgressPolicy {
            every: from.duration("webhooks.progress_every", secs(1)..=hours(1)),
            min_bytes: from.size("webhooks.progress_min_size", 1..=TIB),
        },
        writer: WriterSettings {
            buffer_bytes: from.size("storage.buffer_memory", 16 * MIB..=TIB),
            checkpoint_every: from.duration("storage.checkpoint_every", ms(50)..=minutes(1)),
            checkpoint_rate: from.count("storage.checkpoint_rate", 1..=1_000_000),
            checkpoint_bytes: from.size("storage.checkpoint_size", 64 * KIB..=16 * GIB),
            keep_open: from.duration("storage.keep_open", Duration::ZERO..=minutes(1)),
            digests: from.list("storage.digests", digests),
        },
        space: SpaceSettings {
            min_free_bytes: from.size("storage.min_free_space", 0..=900 * TIB),
            low_free_bytes: from.size("storage.low_space", 0..=900 * TIB),
            max_booked_percent: from.count("storage.max_booked_percent", 0..=100),
        },
        lifetimes: LifetimeSettings {
            stall_after: from.duration("limits.stall_after", secs(1)..=hours(24)),
            unfinished_expiry: from.duration("limits.unfinished_expiry", secs(1)..=days(365)),
            unfinished_age: from.duration("limits.unfinished_age", secs(1)..=days(3650)),
            completed_expiry: Some(from.duration("limits.completed_expiry", Duration::ZERO..=days(3650)))
                .filter(|kept| !kept.is_zero()),
            first_removal_after: FIRST_REMOVAL_AFTER,
            sweep_every: from.duration("limits.sweep_every", ms(100)..=hours(1)),
        },
        ranges: RangeSettings {
            alignment_bytes: from.size("protocols.range_alignment", 1..=GIB),
            max_ranges: from.count("limits.max_ranges", 1..=100_000),
            max_parallel: from.count("limits.max_parallel_ranges", 1..=1_000),
            max_replaced_bytes: from.size("limits.max_replaced_size", 0..=GIB),
        },
        media: media::read(from),
    }
}

fn digests(names: Vec<&str>) -> Parsed<Vec<Algorithm>> {
    let mut digests = Vec::new();
    for name in names {
        let Some(algorithm) = Algorithm::by_name(name) else {
            return Err(format!("{name:?} is not a digest; write any of crc32, md5, sha1, sha256 and sha512"));
        };
        if digests.contains(&algorithm) {
            return Err(format!("{name:?} is listed twice; list each digest once"));
        }
        digests.push(algorithm);
    }
    // CRC-32C is always computed and never listed.
    digests.retain(|algorithm| *algorithm != Algorithm::Crc32c);
    Ok(digests)
}

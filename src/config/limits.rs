//! How much of everything is allowed, and for how long.

use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::units::{GIB, KIB, MIB, TIB, days, hours, minutes, ms, secs};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub max_upload_bytes: u64,
    pub max_metadata_bytes: u64,
    pub max_active_uploads: usize,
    /// `None`: an address has no share of its own.
    pub max_active_uploads_per_address: Option<usize>,
    pub max_downloads: usize,
    pub max_ranges: u32,
    pub max_parallel_ranges: usize,
    pub max_replaced_bytes: u64,
    pub max_connections: usize,
    /// `None`: an address has no share of its own.
    pub max_connections_per_address: Option<usize>,
    pub max_read_connections: usize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    /// Bytes a second; 0 asks for none.
    pub min_rate_bytes: u64,
    pub keep_alive: Duration,
    pub reader_timeout: Duration,
    pub answer_timeout: Duration,
    pub answer_memory_bytes: u64,
    /// Memory for what the HTTP layer reads ahead of large bodies.
    pub read_ahead_memory_bytes: u64,
    pub takeover_timeout: Duration,
    pub drain_timeout: Duration,
    pub stall_after: Duration,
    pub unfinished_expiry: Duration,
    pub unfinished_age: Duration,
    /// `None`: files of completed uploads are kept.
    pub completed_expiry: Option<Duration>,
    pub sweep_every: Duration,
}

impl Limits {
    pub(super) fn read(from: &mut Reader) -> Self {
        Self {
            // Structured field integers, which announce the limit to clients, end below 10^15.
            max_upload_bytes: from.size("limits.max_upload_size", 1..=900 * TIB),
            max_metadata_bytes: from.size("limits.max_metadata_size", 256..=64 * KIB),
            max_active_uploads: from.count("limits.max_active_uploads", 1..=1_000_000),
            max_downloads: from.count("limits.max_downloads", 1..=1_000_000),
            max_ranges: from.count("limits.max_ranges", 1..=100_000),
            max_parallel_ranges: from.count("limits.max_parallel_ranges", 1..=1_000),
            max_replaced_bytes: from.size("limits.max_replaced_size", 0..=GIB),
            max_connections_per_address: share(from.count("limits.max_connections_per_address", 0..=1_000_000)),
            max_active_uploads_per_address: share(from.count("limits.max_active_uploads_per_address", 0..=1_000_000)),
            max_connections: from.count("limits.max_connections", 1..=1_000_000),
            max_read_connections: from.count("limits.max_read_connections", 1..=1_000_000),
            header_timeout: from.duration("limits.header_timeout", secs(1)..=minutes(5)),
            idle_timeout: from.duration("limits.idle_timeout", secs(1)..=hours(1)),
            min_rate_bytes: from.size("limits.min_rate", 0..=MIB),
            keep_alive: from.duration("limits.keep_alive", secs(1)..=hours(1)),
            reader_timeout: from.duration("limits.reader_timeout", secs(1)..=hours(24)),
            answer_timeout: from.duration("limits.answer_timeout", secs(1)..=hours(1)),
            answer_memory_bytes: from.size("limits.answer_memory", 4 * MIB..=TIB),
            read_ahead_memory_bytes: from.size("limits.read_ahead_memory", MIB..=TIB),
            takeover_timeout: from.duration("limits.takeover_timeout", ms(100)..=minutes(1)),
            drain_timeout: from.duration("limits.drain_timeout", Duration::ZERO..=minutes(1)),
            stall_after: from.duration("limits.stall_after", secs(1)..=hours(24)),
            unfinished_expiry: from.duration("limits.unfinished_expiry", secs(1)..=days(365)),
            unfinished_age: from.duration("limits.unfinished_age", secs(1)..=days(3650)),
            completed_expiry: Some(from.duration("limits.completed_expiry", Duration::ZERO..=days(3650)))
                .filter(|kept| !kept.is_zero()),
            sweep_every: from.duration("limits.sweep_every", ms(100)..=hours(1)),
        }
    }
}

/// A limit for each address; 0 is none.
pub(super) fn share(count: usize) -> Option<usize> {
    Some(count).filter(|count| *count > 0)
}

//! Limits of sizes, counts and times.

use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::units::{KIB, MIB, TIB, hours, minutes, secs};
use edge::body::BodyLimits;
use edge::listen::Timeouts;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    pub max_metadata_bytes: u64,
    /// `None`: no limit per address.
    pub max_active_uploads_per_address: Option<usize>,
    pub max_connections: usize,
    /// `None`: no limit per address.
    pub max_connections_per_address: Option<usize>,
    pub max_read_connections: usize,
    pub timeouts: Timeouts,
    pub bodies: BodyLimits,
    pub answer_memory_bytes: u64,
    /// Memory for bytes that the HTTP layer reads ahead of large bodies.
    pub read_ahead_memory_bytes: u64,
}

impl LimitsConfig {
    pub(super) fn read(from: &mut Reader) -> Self {
        Self {
            max_metadata_bytes: from.size("limits.max_metadata_size", 256..=64 * KIB),
            max_connections_per_address: share(from.count("limits.max_connections_per_address", 0..=1_000_000)),
            max_active_uploads_per_address: share(from.count("limits.max_active_uploads_per_address", 0..=1_000_000)),
            max_connections: from.count("limits.max_connections", 1..=1_000_000),
            max_read_connections: from.count("limits.max_read_connections", 1..=1_000_000),
            timeouts: Timeouts {
                header: from.duration("limits.header_timeout", secs(1)..=minutes(5)),
                keep_alive: from.duration("limits.keep_alive", secs(1)..=hours(1)),
                reader: from.duration("limits.reader_timeout", secs(1)..=hours(24)),
                answer: from.duration("limits.answer_timeout", secs(1)..=hours(1)),
            },
            bodies: BodyLimits {
                idle_timeout: from.duration("limits.idle_timeout", secs(1)..=hours(1)),
                min_rate_bytes: from.size("limits.min_rate", 0..=MIB),
                drain_timeout: from.duration("limits.drain_timeout", Duration::ZERO..=minutes(1)),
            },
            answer_memory_bytes: from.size("limits.answer_memory", 4 * MIB..=TIB),
            read_ahead_memory_bytes: from.size("limits.read_ahead_memory", MIB..=TIB),
        }
    }
}

/// Returns a limit per address; 0 means none.
pub(super) fn share(count: usize) -> Option<usize> {
    Some(count).filter(|count| *count > 0)
}

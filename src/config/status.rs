//! Limits for status queries and event streams.

use std::time::Duration;

use crate::config::limits::share;
use crate::config::reader::Reader;
use crate::config::units::{minutes, secs};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusConfig {
    pub long_poll_max: Duration,
    pub heartbeat: Duration,
    pub max_streams: usize,
    /// `None`: no limit per address.
    pub max_streams_per_address: Option<usize>,
    pub max_page: u32,
}

impl StatusConfig {
    pub(super) fn read(from: &mut Reader) -> Self {
        Self {
            long_poll_max: from.duration("status.long_poll_max", Duration::ZERO..=minutes(10)),
            heartbeat: from.duration("status.heartbeat", secs(1)..=minutes(5)),
            max_streams: from.count("status.max_streams", 0..=100_000),
            max_streams_per_address: share(from.count("status.max_streams_per_address", 0..=100_000)),
            max_page: from.count("status.max_page", 1..=10_000),
        }
    }
}

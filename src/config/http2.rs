//! Limits of HTTP/2: connections, streams and memory.

use crate::config::reader::Reader;
use crate::config::units::{GIB, TIB};
use edge::listen::window;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2Config {
    /// With 0, HTTP/2 is off and every connection uses HTTP/1.1.
    pub max_connections: usize,
    pub max_streams: u32,
    pub max_window_bytes: u32,
    /// Maximum memory that all connections in total can make the server buffer.
    pub memory_bytes: u64,
}

/// Size of the window that each connection gets at the start.
pub const FIRST_WINDOW_BYTES: u64 = window::FIRST_WINDOW_BYTES as u64;

impl Http2Config {
    pub(super) fn read(from: &mut Reader) -> Self {
        let http2 = Self {
            max_connections: from.count("http2.max_connections", 0..=100_000),
            max_streams: from.count("http2.max_streams", 1..=10_000),
            // RFC 9113, 6.9.1: a window is smaller than 2 GiB.
            max_window_bytes: u32::try_from(from.size("http2.max_window", FIRST_WINDOW_BYTES..=GIB))
                .expect("the range ends at 1 GiB"),
            memory_bytes: from.size("http2.memory", 0..=TIB),
        };
        from.require(
            http2.memory_bytes >= http2.first_windows_bytes(),
            &["http2.memory", "http2.max_connections"],
            |others| format!("too small; it must hold 1MiB for each connection of {}", others.join(", ")),
        );
        http2
    }

    /// Returns the memory that connections may be granted beyond their first windows.
    pub(crate) fn budget_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.first_windows_bytes())
    }

    fn first_windows_bytes(&self) -> u64 {
        u64::try_from(self.max_connections).unwrap_or(u64::MAX).saturating_mul(FIRST_WINDOW_BYTES)
    }
}

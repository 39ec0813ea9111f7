//! How much HTTP/2 may hold, and for how many.

use crate::config::reader::Reader;
use crate::config::units::GIB;
use crate::config::units::KIB;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2 {
    /// 0: none, every connection speaks HTTP/1.1.
    pub max_connections: usize,
    pub max_streams: u32,
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
}

impl Http2 {
    pub(super) fn read(from: &mut Reader) -> Self {
        // RFC 9113, 6.9.1: a window ends below 2 GiB. Below 64 KiB less 1 it could not begin as the protocol wants.
        let mut window = |key| u32::try_from(from.size(key, 64 * KIB..=GIB)).expect("the range ends at 1 GiB");
        let (stream_window_bytes, connection_window_bytes) =
            (window("http2.stream_window"), window("http2.connection_window"));
        from.require(
            stream_window_bytes <= connection_window_bytes,
            &["http2.stream_window", "http2.connection_window"],
            |others| format!("too much; it cannot be more than {}", others.join(", ")),
        );
        Self {
            max_connections: from.count("http2.max_connections", 0..=100_000),
            max_streams: from.count("http2.max_streams", 1..=10_000),
            stream_window_bytes,
            connection_window_bytes,
        }
    }

    /// The most that HTTP/2 connections can make the server hold: what peers may send before it was taken.
    pub fn most_held_bytes(&self) -> u64 {
        let connections = u64::try_from(self.max_connections).unwrap_or(u64::MAX);
        connections.saturating_mul(u64::from(self.connection_window_bytes))
    }
}

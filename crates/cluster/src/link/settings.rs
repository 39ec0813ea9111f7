//! Limits of the link.

use std::time::Duration;

/// Limits of the calls between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// A node that has not accepted a connection after this time does not answer.
    pub connect_timeout: Duration,
    /// Maximum time for the TLS handshake of an incoming connection, and for the body of a call.
    pub handshake_timeout: Duration,
    /// An incoming connection without a call for this time is closed. Also the maximum time for the head of a
    /// request.
    pub idle_timeout: Duration,
    /// Calls in progress have this time to finish when the listener stops.
    pub stop_timeout: Duration,
    /// Maximum number of incoming connections whose peer is not yet known to be a node.
    pub max_handshakes: usize,
    /// Maximum number of incoming connections from nodes.
    pub max_connections: usize,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_millis(300),
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_mins(1),
            stop_timeout: Duration::from_secs(2),
            max_handshakes: 64,
            max_connections: 1024,
        }
    }
}

impl LinkSettings {
    /// Returns the time after which the calling side closes an idle connection: before the other side does,
    /// so that no call is sent on a connection that is being closed.
    pub(super) fn reuse_within(&self) -> Duration {
        self.idle_timeout / 2
    }
}

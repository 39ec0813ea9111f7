//! The log of events: everything that was committed about uploads, in the order of the commits.

use crate::event::EventKind;
use crate::id::{EventId, UploadId};
use crate::principal::TenantId;

/// A place in the log of all events, in the order of their commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventPosition(pub i64);

impl EventPosition {
    /// The position as bytes, for readers who keep it without knowing what it counts.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(i64::from_be_bytes(bytes)))
    }
}

/// An event as it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    pub position: EventPosition,
    pub id: EventId,
    pub tenant: TenantId,
    pub upload: UploadId,
    pub sequence: u64,
    pub kind: EventKind,
    /// The JSON every receiver gets, byte for byte (webhooks P7).
    pub body: Vec<u8>,
}

/// Events of uploads, in the order of their commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    pub found: Vec<LoggedEvent>,
    /// Where the next page begins.
    pub seen: EventPosition,
    /// Whether there may be more behind it. A page that is not full may have it too: between the events of
    /// uploads others lie in the log.
    pub has_more: bool,
}

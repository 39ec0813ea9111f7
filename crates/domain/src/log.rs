//! The log of events: all committed events of uploads, in the order of their commits.

use crate::event::EventKind;
use crate::id::{EventId, UploadId};
use crate::principal::TenantId;

/// A position in the log of all events, which is ordered by commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventPosition(pub i64);

impl EventPosition {
    /// Returns the position as opaque bytes, for readers that store it.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(i64::from_be_bytes(bytes)))
    }
}

/// A committed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    pub position: EventPosition,
    pub id: EventId,
    pub tenant: TenantId,
    pub upload: UploadId,
    pub sequence: u64,
    pub kind: EventKind,
    /// The JSON body that every receiver gets, byte for byte (webhooks P7).
    pub body: Vec<u8>,
}

/// A page of events of uploads, in the order of their commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    pub found: Vec<LoggedEvent>,
    /// The start of the next page.
    pub seen: EventPosition,
    /// True if there may be more events after this page. A page that is not full may have this set too,
    /// because the log also contains events that the page does not return.
    pub has_more: bool,
}

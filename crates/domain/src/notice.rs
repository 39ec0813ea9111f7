//! Events about the delivery of events.

use crate::endpoint::{DisabledBecause, EndpointId};
use crate::event::EventKind;
use crate::id::{DeliveryId, EventId, UploadId};
use crate::time::Timestamp;

/// An event about delivery itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A delivery failed for good (webhooks R14).
    Exhausted {
        delivery: DeliveryId,
        endpoint: EndpointId,
        event: EventId,
        upload: Option<UploadId>,
        attempts: u32,
    },
    /// An endpoint keeps failing (webhooks E8).
    EndpointFailing {
        endpoint: EndpointId,
        since: Timestamp,
        percent: u8,
    },
    EndpointDisabled {
        endpoint: EndpointId,
        because: DisabledBecause,
    },
}

impl Notice {
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Exhausted { .. } => EventKind::Exhausted,
            Self::EndpointFailing { .. } => EventKind::EndpointFailing,
            Self::EndpointDisabled { .. } => EventKind::EndpointDisabled,
        }
    }

    /// Reports whether the notice is sent to this endpoint. An endpoint does not receive notices about its
    /// own failures.
    pub fn is_for(&self, endpoint: &EndpointId) -> bool {
        match self {
            Self::Exhausted { .. } => true,
            Self::EndpointFailing { endpoint: subject, .. } | Self::EndpointDisabled { endpoint: subject, .. } => {
                subject != endpoint
            }
        }
    }
}

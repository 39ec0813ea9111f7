//! What the sending of events has to report of itself.

use crate::endpoint::{DisabledBecause, EndpointId};
use crate::event::EventKind;
use crate::id::{DeliveryId, EventId, UploadId};
use crate::time::Timestamp;

/// News of the sending itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// webhooks R14.
    Exhausted {
        delivery: DeliveryId,
        endpoint: EndpointId,
        event: EventId,
        upload: Option<UploadId>,
        attempts: u32,
    },
    /// webhooks E8.
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

    /// Whether an endpoint can make use of it: one that is in trouble is not told so.
    pub fn is_for(&self, endpoint: &EndpointId) -> bool {
        match self {
            Self::Exhausted { .. } => true,
            Self::EndpointFailing { endpoint: subject, .. } | Self::EndpointDisabled { endpoint: subject, .. } => {
                subject != endpoint
            }
        }
    }
}

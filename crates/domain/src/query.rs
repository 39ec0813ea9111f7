//! What may be asked of recorded facts, and the pages that answer it.

use std::ops::RangeInclusive;

use crate::delivery::{AttemptOutcome, DeliveryRecord, DeliveryState};
use crate::endpoint::EndpointId;
use crate::event::EventKind;
use crate::id::{DeliveryId, EventId, HookCallId, UploadId};
use crate::policy::TypePattern;
use crate::stage::Stage;
use crate::time::Timestamp;
use crate::upload::Upload;

/// Which uploads to list. Every condition given must hold.
#[derive(Debug, Clone, Default)]
pub struct UploadQuery {
    /// Any of these; empty for all.
    pub stages: Vec<Stage>,
    pub created_from: Option<Timestamp>,
    /// Excluded.
    pub created_before: Option<Timestamp>,
    /// Pairs of metadata that must be there, compared as bytes. A value of more than 1 KiB is never found.
    pub metadata: Vec<(String, Vec<u8>)>,
    /// Types by content, any of these; empty for all. What was not looked into has none.
    pub types: Vec<TypePattern>,
    /// What the facts say. Where they say nothing, no bound holds.
    pub width: NumberBounds,
    pub height: NumberBounds,
    pub duration_ms: NumberBounds,
    /// Only uploads older than this one: the cursor of the page before.
    pub before: Option<UploadId>,
    pub limit: u32,
}

/// The least and the most that a number may be, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NumberBounds {
    pub least: Option<u64>,
    pub most: Option<u64>,
}

impl NumberBounds {
    pub const OPEN: Self = Self { least: None, most: None };

    /// Returns whether the number is within them. An unknown number is only within open ones.
    pub fn contain(self, number: Option<u64>) -> bool {
        match number {
            Some(number) => {
                self.least.is_none_or(|least| number >= least) && self.most.is_none_or(|most| number <= most)
            }
            None => self == Self::OPEN,
        }
    }
}

/// Uploads that match, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadPage {
    pub found: Vec<Upload>,
    /// The cursor of the next page. A page that is not full may have one too: no query
    /// examines more than a bounded number of uploads.
    pub next: Option<UploadId>,
}

/// Which calls of hooks to list. Every condition given must hold.
#[derive(Debug, Clone, Default)]
pub struct HookCallQuery {
    pub upload: Option<UploadId>,
    /// Only calls older than this one: the cursor of the page before.
    pub before: Option<HookCallId>,
    pub limit: u32,
}

/// Which deliveries to list. Every condition given must hold.
#[derive(Debug, Clone, Default)]
pub struct DeliveryQuery {
    pub endpoint: Option<EndpointId>,
    pub upload: Option<UploadId>,
    /// Deliveries that were made with this event. Those that a replay has made later are not found by it.
    pub event: Option<EventId>,
    pub kind: Option<EventKind>,
    pub state: Option<DeliveryState>,
    pub created_from: Option<Timestamp>,
    /// Excluded.
    pub created_before: Option<Timestamp>,
    /// The latest attempt was answered with one of these statuses.
    pub last_status: Option<RangeInclusive<u16>>,
    /// The latest attempt ended with this error, one of [`AttemptOutcome::ERRORS`].
    pub last_error: Option<AttemptOutcome>,
    /// Only deliveries older than this one: the cursor of the page before.
    pub before: Option<DeliveryId>,
    pub limit: u32,
}

/// Deliveries as they were asked for, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPage {
    pub found: Vec<DeliveryRecord>,
    /// Ask for those before this one for more. A page that is not full may have it too: no question looks at
    /// more than a bounded number of deliveries.
    pub next: Option<DeliveryId>,
}

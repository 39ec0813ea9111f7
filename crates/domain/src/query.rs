//! Queries of recorded facts, and the pages they return.

use std::ops::RangeInclusive;

use crate::delivery::{AttemptOutcome, DeliveryRecord, DeliveryState};
use crate::endpoint::EndpointId;
use crate::event::EventKind;
use crate::id::{DeliveryId, EventId, HookCallId, UploadId};
use crate::policy::TypePattern;
use crate::stage::Stage;
use crate::time::Timestamp;
use crate::upload::Upload;

/// A query for uploads. All given conditions must hold.
#[derive(Debug, Clone, Default)]
pub struct UploadQuery {
    /// The upload is in one of these stages; empty for all.
    pub stages: Vec<Stage>,
    pub created_from: Option<Timestamp>,
    /// Exclusive.
    pub created_before: Option<Timestamp>,
    /// Metadata pairs that the upload must have, compared as bytes. Values over 1 KiB are never found.
    pub metadata: Vec<(String, Vec<u8>)>,
    /// The detected type matches one of these patterns; empty for all. An upload whose content was not
    /// examined has no detected type.
    pub types: Vec<TypePattern>,
    /// Bounds on the facts. An unknown value satisfies no bound.
    pub width: NumberBounds,
    pub height: NumberBounds,
    pub duration_ms: NumberBounds,
    /// Only uploads older than this one: the cursor from the previous page.
    pub before: Option<UploadId>,
    pub limit: u32,
}

/// The minimum and maximum of a number, both inclusive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NumberBounds {
    pub least: Option<u64>,
    pub most: Option<u64>,
}

impl NumberBounds {
    pub const OPEN: Self = Self { least: None, most: None };

    /// Reports whether the number is within the bounds. An unknown number is only within open ones.
    pub fn contain(self, number: Option<u64>) -> bool {
        match number {
            Some(number) => {
                self.least.is_none_or(|least| number >= least) && self.most.is_none_or(|most| number <= most)
            }
            None => self == Self::OPEN,
        }
    }
}

/// A page of matching uploads, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadPage {
    pub found: Vec<Upload>,
    /// The cursor of the next page. A page that is not full may have one too, because no query examines more
    /// than a bounded number of uploads.
    pub next: Option<UploadId>,
}

/// A query for recorded hook calls. All given conditions must hold.
#[derive(Debug, Clone, Default)]
pub struct HookCallQuery {
    pub upload: Option<UploadId>,
    /// Only calls older than this one: the cursor from the previous page.
    pub before: Option<HookCallId>,
    pub limit: u32,
}

/// A query for deliveries. All given conditions must hold.
#[derive(Debug, Clone, Default)]
pub struct DeliveryQuery {
    pub endpoint: Option<EndpointId>,
    pub upload: Option<UploadId>,
    /// Deliveries created together with this event. Deliveries that a replay created later are not found by
    /// it.
    pub event: Option<EventId>,
    pub kind: Option<EventKind>,
    pub state: Option<DeliveryState>,
    pub created_from: Option<Timestamp>,
    /// Exclusive.
    pub created_before: Option<Timestamp>,
    /// The response to the latest attempt had one of these statuses.
    pub last_status: Option<RangeInclusive<u16>>,
    /// The latest attempt ended with this error, one of [`AttemptOutcome::ERRORS`].
    pub last_error: Option<AttemptOutcome>,
    /// Only deliveries older than this one: the cursor from the previous page.
    pub before: Option<DeliveryId>,
    pub limit: u32,
}

/// A page of matching deliveries, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPage {
    pub found: Vec<DeliveryRecord>,
    /// The cursor of the next page. A page that is not full may have one too, because no query examines more
    /// than a bounded number of deliveries.
    pub next: Option<DeliveryId>,
}

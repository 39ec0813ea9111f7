//! Jobs that send many deliveries again.

use std::time::Duration;

use crate::delivery::ReplaySelection;
use crate::endpoint::EndpointId;
use crate::id::ReplayId;
use crate::log::EventPosition;
use crate::principal::TenantId;
use crate::time::Timestamp;

/// A job that sends many deliveries again, oldest first, in batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayJob {
    pub id: ReplayId,
    /// The owner of the job, whose events it sends.
    pub tenant: TenantId,
    pub endpoint: EndpointId,
    pub what: ReplaySelection,
    /// Only events at or after this time.
    pub from: Timestamp,
    /// Only events before this time.
    pub before: Timestamp,
    pub state: ReplayState,
    /// The position after the last event examined.
    pub cursor: EventPosition,
    /// The number of deliveries made due so far.
    pub queued: u64,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

impl ReplayJob {
    /// The maximum deviation between the times of events and the order of the log. Commits can overtake each
    /// other, and clocks can be corrected by an hour or two, or by a time zone.
    pub const DISORDER: Duration = Duration::from_hours(25);

    /// The number of events that a batch examines, regardless of the number it queues.
    pub const MOST_LOOKED_AT: u32 = 500;
}

crate::named! {
    pub enum ReplayState {
        Running = "running",
        Done = "done",
        Cancelled = "cancelled",
    }
}

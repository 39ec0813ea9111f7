//! Deliveries that are sent again, many at a time.

use std::time::Duration;

use crate::delivery::ReplaySelection;
use crate::endpoint::EndpointId;
use crate::id::ReplayId;
use crate::log::EventPosition;
use crate::principal::TenantId;
use crate::time::Timestamp;

/// Many deliveries sent again, oldest first, a piece at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayJob {
    pub id: ReplayId,
    /// Whose it is, and whose events it sends.
    pub tenant: TenantId,
    pub endpoint: EndpointId,
    pub what: ReplaySelection,
    /// Only events from then on.
    pub from: Timestamp,
    /// Only events before then.
    pub before: Timestamp,
    pub state: ReplayState,
    /// Events looked at so far end here.
    pub cursor: EventPosition,
    /// Deliveries made due so far.
    pub queued: u64,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

impl ReplayJob {
    /// How far the times of events may be out of the order of the log. Commits overtake each other, and
    /// clocks are put right: by an hour or two, or by a time zone.
    pub const DISORDER: Duration = Duration::from_hours(25);

    /// How many events a piece of a job looks at, whatever it queues of them.
    pub const MOST_LOOKED_AT: u32 = 500;
}

crate::named! {
    pub enum ReplayState {
        Running = "running",
        Done = "done",
        Cancelled = "cancelled",
    }
}

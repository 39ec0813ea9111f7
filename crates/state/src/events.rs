//! The log of events, in the order of their commits.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::id::UploadId;
use domain::log::{EventPage, EventPosition, LoggedEvent};
use domain::principal::TenantScope;

/// Events as they were committed.
#[async_trait]
pub trait EventLog: fmt::Debug + Send + Sync + 'static {
    /// Events of one upload with a sequence above `after`, in sequence.
    async fn events_of(&self, scope: TenantScope, id: UploadId, after: u64, limit: u32) -> Result<Vec<LoggedEvent>>;

    /// Returns events of all uploads behind `after`, in the order of their commits. Looks at a bounded number
    /// of events.
    async fn events_since(&self, scope: TenantScope, after: EventPosition, limit: u32) -> Result<EventPage>;

    /// The position of the newest event.
    async fn newest_event(&self) -> Result<EventPosition>;

    /// Counts the events behind `after`, no further than `most`. It says `most` as well if any event behind
    /// there was removed, of whichever tenant, or if more lie there than it looks at. `None`: there is no
    /// such place in the log, as after a database was put back from a copy.
    async fn count_events_behind(&self, scope: TenantScope, after: EventPosition, most: u32) -> Result<Option<u32>>;
}

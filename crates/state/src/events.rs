//! The log of events, in the order of their commits.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::id::UploadId;
use domain::log::{EventPage, EventPosition, LoggedEvent};
use domain::principal::TenantScope;

/// The committed events.
#[async_trait]
pub trait EventLog: fmt::Debug + Send + Sync + 'static {
    /// Returns events of one upload with a sequence above `after`, in sequence.
    async fn events_of(&self, scope: TenantScope, id: UploadId, after: u64, limit: u32) -> Result<Vec<LoggedEvent>>;

    /// Returns events of all uploads after a position, in the order of their commits. Examines a bounded
    /// number of events.
    async fn events_since(&self, scope: TenantScope, after: EventPosition, limit: u32) -> Result<EventPage>;

    /// Returns the position of the newest event.
    async fn newest_event(&self) -> Result<EventPosition>;

    /// Counts the events after a position, up to `most`. Returns `most` as well if any event after it was
    /// removed, of any tenant, or if there are more events than the query examines. Returns `None` if the
    /// position is not in the log, as after the database was restored from a backup.
    async fn count_events_behind(&self, scope: TenantScope, after: EventPosition, most: u32) -> Result<Option<u32>>;
}

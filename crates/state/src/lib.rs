//! Durable facts: uploads, the events they caused, and the deliveries of those events.
//!
//! Two ports over one store. A commit writes an upload, its events and their deliveries together or not at all. The
//! version in a commit is the law: a commit that read an older version fails with [`Error::Conflict`] and changes
//! nothing. The store knows nothing of HTTP, of the engine or of where bytes are; it keeps the storage's resume
//! token as bytes it cannot read.

use domain::log::EventPage;
use domain::log::EventPosition;
use domain::log::LoggedEvent;
use domain::query::HookCallQuery;
use domain::query::UploadPage;
use domain::query::UploadQuery;
use std::fmt;

use async_trait::async_trait;

use domain::endpoint::EndpointId;
use domain::hook::HookCall;
use domain::id::{InstanceId, UploadId};
use domain::principal::TenantScope;
use domain::time::Timestamp;
use domain::upload::Upload;

mod change;
pub mod clock;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod deliveries;
mod dispatch;
mod endpoints;
mod leases;
pub mod memory;
mod news;
mod notices;
mod replays;
mod retention;

pub use change::{Bodies, Change, NewEvent, StoredEvent};
pub use deliveries::Deliveries;
pub use dispatch::{Claim, Dispatch, Settled, Settlement};
pub use endpoints::Endpoints;
pub use leases::{Company, Leases};
pub use news::{Bell, News, Rings};
pub use notices::Notices;
pub use replays::Replays;
pub use retention::{BacklogLimits, Horizon, Retention};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The upload was changed by someone else since it was read, or another node has taken it over. Nothing was written.
    #[error("upload {0} was changed in the meantime")]
    Conflict(UploadId),
    /// The database is of another, newer version of this program.
    #[error("the database was written by a newer version: it has migration {found}, this program knows up to {known}")]
    TooNew { found: i64, known: i64 },
    /// The endpoint was changed by someone else since it was read, or one of this name is there. Nothing was written.
    #[error("endpoint {0} was changed in the meantime")]
    EndpointConflict(EndpointId),
    /// The database was removed or replaced while it was open. Nothing can be relied on until a restart.
    #[error("the database is gone: could not {operation}")]
    Gone { operation: &'static str },
    /// No room for the commit; it may come back.
    #[error("no room left to {operation}")]
    NoSpace { operation: &'static str },
    #[error("could not {operation}")]
    Failed {
        /// What was being done, as a verb phrase: `commit an upload`.
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What an answered commit outlives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The process and the power: the commit is on stable storage.
    Strict,
    /// The process, however it ends. A power failure may take the last commits, whole ones, latest first.
    Relaxed,
}

/// Uploads and the log of their events.
#[async_trait]
pub trait UploadStore: fmt::Debug + Send + Sync + 'static {
    /// Writes a new upload, its events and their deliveries. Gives it back as committed.
    async fn insert(&self, new: Change) -> Result<Upload>;

    /// Writes the upload as it is now, its new events and their deliveries, if nobody has committed since it was
    /// read and it is still in the epoch it was read in. Gives it back as committed; on [`Error::Conflict`] nothing has
    /// changed.
    async fn commit(&self, change: Change) -> Result<Upload>;

    async fn find(&self, scope: TenantScope, id: UploadId) -> Result<Option<Upload>>;

    /// Uploads that match, newest first, a page at a time.
    async fn list(&self, scope: TenantScope, query: &UploadQuery) -> Result<UploadPage>;

    /// Uploads that want something done by the sweeper of a node, oldest first, after passing over the first `skip` of
    /// them. What another node holds that counts as alive is left to that one.
    async fn due(&self, question: Due, node: InstanceId, skip: u32, limit: u32) -> Result<Vec<Upload>>;

    /// Events of one upload with a sequence above `after`, in sequence.
    async fn events_of(&self, scope: TenantScope, id: UploadId, after: u64, limit: u32) -> Result<Vec<LoggedEvent>>;

    /// Returns events of all uploads behind `after`, in the order of their commits. Looks at a bounded number of events.
    async fn events_since(&self, scope: TenantScope, after: EventPosition, limit: u32) -> Result<EventPage>;

    /// The position of the newest event.
    async fn newest_event(&self) -> Result<EventPosition>;

    /// Counts the events behind `after`, no further than `most`. `None`: there is no such place in the log, as after a
    /// database was put back from a copy.
    async fn count_events_behind(&self, scope: TenantScope, after: EventPosition, most: u32) -> Result<Option<u32>>;

    /// Writes down what came of asking the application. Writing the same call again changes nothing.
    async fn record_hook_call(&self, call: HookCall) -> Result<()>;

    /// Calls that match, newest first.
    async fn hook_calls(&self, scope: TenantScope, query: &HookCallQuery) -> Result<Vec<HookCall>>;

    /// Tries whether the store reads and writes now.
    async fn check(&self) -> Result<()>;

    /// Writes what is queued and closes the database; later calls fail.
    async fn close(&self);
}

/// What the sweeper may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Stopped between two stages: received (and not partial), verified or stored; or a final upload still created.
    Unsettled,
    /// Open although every byte is there and nobody is to say another word: a commit was to seal it and did not.
    Unsealed,
    /// Open, or a partial at rest, and past its time at this instant.
    Expired { now: Timestamp },
    /// Receiving, and last changed before this instant.
    Silent { since: Timestamp },
    /// Open, or a partial at rest, last changed after `now` and to expire after `latest`.
    Overlong { now: Timestamp, latest: Timestamp },
    /// Receiving, and last changed after this instant.
    ChangedAfter { now: Timestamp },
    /// Ended, or completed and its file given up, with bytes not yet removed.
    Removable,
    /// Completed before this instant, and its file is kept.
    Outdated { completed_before: Timestamp },
    /// Its bytes are known to be missing.
    Missing,
}

/// Everything that has to do with deliveries, for whoever hands the ports out.
pub trait Outbox: Endpoints + Dispatch + Deliveries + Notices + Replays + Retention {}

impl<T: Endpoints + Dispatch + Deliveries + Notices + Replays + Retention> Outbox for T {}

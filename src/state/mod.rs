//! Durable facts: uploads, the events they caused, and the deliveries of those events.
//!
//! Two ports over one store. A commit writes an upload, its events and their deliveries together or not at all. The
//! version in a commit is the law: a commit that read an older version fails with [`Error::Conflict`] and changes
//! nothing. The store knows nothing of HTTP, of the engine or of where bytes are; it keeps the storage's resume
//! token as bytes it cannot read.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::domain::delivery::Attempt;
use crate::domain::delivery::DeliveryClass;
use crate::domain::delivery::DeliveryRecord;
use crate::domain::delivery::DeliveryState;
use crate::domain::delivery::EndpointId;
use crate::domain::delivery::Subscription;
use crate::domain::event::EventKind;
use crate::domain::id::DeliveryId;
use crate::domain::id::EventId;
use crate::domain::id::UploadId;
use crate::domain::time::Timestamp;
use crate::domain::upload::Stage;
use crate::domain::upload::Upload;

#[cfg(test)]
mod conformance;
mod event_body;
mod sqlite;

pub use event_body::value_json;
pub use sqlite::SqliteSettings;
pub use sqlite::SqliteStore;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The upload was changed by someone else since it was read. Nothing was written.
    #[error("upload {0} was changed in the meantime")]
    Conflict(UploadId),
    /// The database is of another, newer version of this program.
    #[error("the database was written by a newer version: it has migration {found}, this program knows up to {known}")]
    TooNew { found: i64, known: i64 },
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
    async fn insert(&self, upload: Upload) -> Result<Upload>;

    /// Writes the upload as it is now, its new events and their deliveries, if nobody has committed since it was
    /// read. Gives it back as committed; on [`Error::Conflict`] nothing has changed.
    async fn commit(&self, upload: Upload) -> Result<Upload>;

    async fn find(&self, id: UploadId) -> Result<Option<Upload>>;

    /// Uploads that match, newest first, a page at a time.
    async fn list(&self, query: &UploadQuery) -> Result<Vec<Upload>>;

    /// Uploads that want something done by the sweeper, oldest first, after passing over the first `skip` of them.
    async fn due(&self, question: Due, skip: u32, limit: u32) -> Result<Vec<Upload>>;

    /// Events of one upload with a sequence above `after`, in sequence.
    async fn events_of(&self, id: UploadId, after: u64, limit: u32) -> Result<Vec<LoggedEvent>>;

    /// Events of all uploads behind `after`, in the order of their commits.
    async fn events_since(&self, after: EventPosition, limit: u32) -> Result<Vec<LoggedEvent>>;

    /// The position of the newest event.
    async fn newest_event(&self) -> Result<EventPosition>;

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
    /// Open, or a partial at rest, and past its time at this instant.
    Expired { now: Timestamp },
    /// Receiving, and last changed before this instant.
    Silent { since: Timestamp },
    /// Ended, with bytes not yet removed.
    Removable,
}

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
    /// Only uploads older than this one: the cursor of the page before.
    pub before: Option<UploadId>,
    pub limit: u32,
}

/// A place in the log of all events, in the order of their commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventPosition(pub i64);

/// An event as it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    pub position: EventPosition,
    pub id: EventId,
    pub upload: UploadId,
    pub sequence: u64,
    pub kind: EventKind,
    /// The JSON every receiver gets, byte for byte (webhooks.md P7).
    pub body: Bytes,
}

/// Deliveries and their attempts.
#[async_trait]
pub trait Outbox: fmt::Debug + Send + Sync + 'static {
    /// Called once at start. Notes these endpoints as the ones that get deliveries from now on, makes paused
    /// deliveries of theirs ready again, and takes back every lease: no other process can hold one.
    async fn open_for(&self, subscriptions: Vec<Subscription>, now: Timestamp) -> Result<()>;

    /// Leases due deliveries, for each endpoint at most as many as it has slots, oldest due first.
    async fn claim_due(&self, slots: &[(EndpointId, u32)], now: Timestamp, lease: Duration) -> Result<Vec<Claim>>;

    /// Writes attempts and what becomes of their deliveries; lets the next waiting delivery of the same endpoint and
    /// upload go. A settlement whose lease is no longer held records its attempt and moves nothing.
    async fn settle(&self, settlements: Vec<Settlement>, now: Timestamp) -> Result<()>;

    /// When the next delivery to one of these endpoints becomes due, be it ready or leased by a worker that died.
    async fn next_due(&self, endpoints: &[EndpointId]) -> Result<Option<Timestamp>>;

    /// Stops an endpoint: its unfinished deliveries are paused, and new ones are born paused.
    async fn pause_endpoint(&self, endpoint: &EndpointId, now: Timestamp) -> Result<()>;

    /// Deliveries that match, newest first, with their attempts.
    async fn deliveries(&self, query: &DeliveryQuery) -> Result<Vec<DeliveryRecord>>;

    /// How many deliveries are in each unfinished state.
    async fn backlog(&self) -> Result<Vec<(DeliveryState, u64)>>;

    /// Rings after every commit that made a delivery ready. May ring for nothing.
    fn bell(&self) -> Arc<Notify>;
}

/// A delivery leased to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub delivery: DeliveryId,
    /// Proves the lease when settling; another claim of the same delivery has another.
    pub lease: [u8; 16],
    pub endpoint: EndpointId,
    pub event: EventId,
    pub kind: EventKind,
    pub class: DeliveryClass,
    pub upload: UploadId,
    /// When the event occurred.
    pub occurred_at: Timestamp,
    /// Attempts made and counted so far.
    pub attempts: u32,
    pub body: Bytes,
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    pub delivery: DeliveryId,
    pub lease: [u8; 16],
    /// Recorded as it is; an aborted one does not count as an attempt made.
    pub attempt: Attempt,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Succeeded,
    RetryAt(Timestamp),
    Dead,
    /// The endpoint was stopped; the delivery waits with it.
    Paused,
}

/// Which deliveries to list. Every condition given must hold.
#[derive(Debug, Clone, Default)]
pub struct DeliveryQuery {
    pub endpoint: Option<EndpointId>,
    pub upload: Option<UploadId>,
    pub kind: Option<EventKind>,
    pub state: Option<DeliveryState>,
    /// Only deliveries older than this one: the cursor of the page before.
    pub before: Option<DeliveryId>,
    pub limit: u32,
}

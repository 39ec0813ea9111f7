//! Durable facts: uploads, the events they caused, and the deliveries of those events.
//!
//! Two ports over one store. A commit writes an upload, its events and their deliveries together or not at all. The
//! version in a commit is the law: a commit that read an older version fails with [`Error::Conflict`] and changes
//! nothing. The store knows nothing of HTTP, of the engine or of where bytes are; it keeps the storage's resume
//! token as bytes it cannot read.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use domain::delivery::{Attempt, AttemptOutcome, DeliveryClass, DeliveryRecord, DeliveryState, Trigger};
use domain::endpoint::{Endpoint, EndpointId, Health};
use domain::event::EventKind;
use domain::hook::HookCall;
use domain::id::{DeliveryId, EventId, HookCallId, UploadId};
use domain::notice::Notice;
use domain::policy::TypePattern;
use domain::principal::{TenantId, TenantScope};
use domain::stage::Stage;
use domain::time::Timestamp;
use domain::upload::Upload;

mod change;
pub mod clock;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod memory;

pub use change::{Bodies, Change, NewEvent, StoredEvent};
pub use domain::delivery::{ReplayWhat, Replayed, Verdict};
pub use domain::id::ReplayId;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The upload was changed by someone else since it was read. Nothing was written.
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
    /// read. Gives it back as committed; on [`Error::Conflict`] nothing has changed.
    async fn commit(&self, change: Change) -> Result<Upload>;

    async fn find(&self, scope: TenantScope, id: UploadId) -> Result<Option<Upload>>;

    /// Uploads that match, newest first, a page at a time.
    async fn list(&self, scope: TenantScope, query: &UploadQuery) -> Result<UploadPage>;

    /// Uploads that want something done by the sweeper, oldest first, after passing over the first `skip` of them.
    async fn due(&self, question: Due, skip: u32, limit: u32) -> Result<Vec<Upload>>;

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
    pub width: Bounds,
    pub height: Bounds,
    pub duration_ms: Bounds,
    /// Only uploads older than this one: the cursor of the page before.
    pub before: Option<UploadId>,
    pub limit: u32,
}

/// The least and the most that a number may be, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    pub least: Option<u64>,
    pub most: Option<u64>,
}

impl Bounds {
    pub const OPEN: Self = Self { least: None, most: None };

    /// Returns whether the number is within them. An unknown number is only within open ones.
    pub fn hold(self, number: Option<u64>) -> bool {
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
    /// The cursor of the next page. A page that is not full may have one too: no query examines more than a bounded
    /// number of uploads.
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

/// A place in the log of all events, in the order of their commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventPosition(pub i64);

impl EventPosition {
    /// The position as bytes, for readers who keep it without knowing what it counts.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(i64::from_be_bytes(bytes)))
    }
}

/// An event as it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    pub position: EventPosition,
    pub id: EventId,
    pub tenant: TenantId,
    pub upload: UploadId,
    pub sequence: u64,
    pub kind: EventKind,
    /// The JSON every receiver gets, byte for byte (webhooks.md P7).
    pub body: Bytes,
}

/// Events of uploads, in the order of their commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    pub found: Vec<LoggedEvent>,
    /// Where the next page begins.
    pub seen: EventPosition,
    /// Whether there may be more behind it. A page that is not full may have it too: between the events of uploads others
    /// lie in the log.
    pub has_more: bool,
}

/// Endpoints, deliveries to them, and attempts.
#[async_trait]
pub trait Outbox: fmt::Debug + Send + Sync + 'static {
    /// Called once at start, with the endpoints of the configuration. They take the place of those it had before; one
    /// that the server had stopped gets another chance, one that an operator paused stays paused. What is not delivered
    /// to an endpoint that is no longer named waits for it to come back. Takes back every lease: no other process can
    /// hold one.
    async fn open_for(&self, configured: Vec<Endpoint>, now: Timestamp) -> Result<()>;

    /// All endpoints there are, by name.
    async fn endpoints(&self) -> Result<Vec<Endpoint>>;

    /// Writes an endpoint: a new one has version 0, any other the version it was read at. From then on its unfinished
    /// deliveries go on or stop with its state; how many those are does not matter. Gives it back as written; on
    /// [`Error::EndpointConflict`] nothing has changed.
    async fn put_endpoint(&self, endpoint: Endpoint, now: Timestamp) -> Result<Endpoint>;

    /// Removes an endpoint and cancels its unfinished deliveries, also one that the configuration no longer names. Says
    /// whether there was one.
    async fn remove_endpoint(&self, id: &EndpointId, now: Timestamp) -> Result<bool>;

    /// Cancels every delivery to an endpoint that is unfinished now: none of them is sent any more. Of a long backlog most
    /// are marked later, by [`Self::advance_backlog`]; until then nothing is claimed for the endpoint.
    async fn cancel_backlog(&self, id: &EndpointId, now: Timestamp) -> Result<()>;

    /// Brings up to `limit` deliveries in line with what was decided about their endpoint: that its backlog is cancelled,
    /// that it was resumed, or that its order was relaxed. Says whether anything was left to do, also from before a crash.
    async fn advance_backlog(&self, limit: u32, now: Timestamp) -> Result<bool>;

    /// Leases due deliveries, for each endpoint at most as many as it has slots, oldest due first.
    async fn claim_due(&self, slots: &[(EndpointId, u32)], now: Timestamp, lease: Duration) -> Result<Vec<Claim>>;

    /// Writes attempts, what becomes of their deliveries, and how their endpoints are doing; lets the next waiting
    /// delivery of the same endpoint and upload go. A settlement whose lease is no longer held records its attempt and
    /// moves nothing.
    async fn settle(&self, settled: Settled, now: Timestamp) -> Result<()>;

    /// Has every lease end at `until`: the clock was set, and says nothing of how long they were held.
    async fn renew_leases(&self, until: Timestamp) -> Result<()>;

    /// Makes ready deliveries due `now` that wait since a later time, which only a clock that was ahead can have written.
    /// Works in pieces. Says how many deliveries those were.
    async fn begin_waits(&self, now: Timestamp) -> Result<u64>;

    /// When the next delivery to one of these endpoints becomes due, be it ready or leased by a worker that died.
    async fn next_due(&self, endpoints: &[EndpointId]) -> Result<Option<Timestamp>>;

    /// Writes news of the sending itself, with a delivery for everyone who wants it.
    async fn announce(&self, notice: Notice, now: Timestamp) -> Result<()>;

    /// Writes a test event for one endpoint, whatever its state, and leases its delivery to the caller. `None` when there
    /// is no such endpoint.
    async fn test_endpoint(&self, id: &EndpointId, now: Timestamp, lease: Duration) -> Result<Option<Claim>>;

    /// Deliveries that match, newest first, with their attempts.
    async fn deliveries(&self, scope: TenantScope, query: &DeliveryQuery) -> Result<DeliveryPage>;

    async fn delivery(&self, scope: TenantScope, id: DeliveryId) -> Result<Option<DeliveryRecord>>;

    /// Makes a delivery due now, with its attempts before it again. `force` sends again what has succeeded.
    async fn replay(&self, id: DeliveryId, force: bool, now: Timestamp) -> Result<Replayed>;

    /// Writes a job that sends many deliveries again, and gives it as it was written. It begins shortly before the first
    /// event of its range. One of [`ReplayWhat::Pending`] is done with that: what waits is due by then, or as soon as
    /// [`Self::advance_backlog`] has come to it, in the order of its lane.
    async fn begin_replay(&self, job: ReplayJob) -> Result<ReplayJob>;

    /// All jobs that are kept, newest first.
    async fn replay_jobs(&self) -> Result<Vec<ReplayJob>>;

    /// Does the next piece of a running job, in one transaction with its place: looks at a number of events and queues at
    /// most `limit` deliveries, at least 1. Gives the job as it is then; `None` when there is no such job.
    async fn advance_replay(&self, id: ReplayId, limit: u32, now: Timestamp) -> Result<Option<ReplayJob>>;

    /// Stops a job where it is. Says whether it was running.
    async fn cancel_replay(&self, id: ReplayId, now: Timestamp) -> Result<bool>;

    /// How many deliveries are in each unfinished state, of one endpoint or of all; no further than [`Backlog::MOST`].
    async fn backlog(&self, endpoint: Option<&EndpointId>) -> Result<Backlog>;

    /// Takes what was said about an upload out of every event of it: what is left says what happened and when. Once it has
    /// completed or ended, its record loses it, too. Says how many events that were.
    async fn expunge(&self, upload: UploadId) -> Result<u64>;

    /// Gives up a piece of the deliveries that began before then and have waited ever since, ready or for their turn: dead,
    /// or superseded if they tell of progress. What waits with a stopped endpoint is kept. Says how many those were; zero
    /// when nothing is left to give up.
    async fn expire(&self, begun_before: Timestamp, limit: u32, now: Timestamp) -> Result<u64>;

    /// Drops a piece of what waits beyond the limits of a backlog, oldest first: cancelled, so that it can be replayed while
    /// its events are kept. Says of which endpoints how many; nothing when every backlog keeps to its limits.
    async fn shed(&self, limits: BacklogLimits, limit: u32, now: Timestamp) -> Result<Vec<(EndpointId, u64)>>;

    /// Removes a piece of what is older than it must be kept: finished deliveries with their attempts, dead ones, events
    /// that no delivery needs, uploads without bytes with their events and deliveries once nothing of them is to be delivered any
    /// more, and calls of hooks. Says how many rows went; zero when nothing is left to remove.
    async fn prune(&self, horizon: Horizon, limit: u32) -> Result<u64>;

    /// How many deliveries of progress were dropped since the store was opened: for later news, or because their attempts or
    /// their time were used up.
    fn superseded(&self) -> u64;

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
    pub trigger: Trigger,
    /// `None` for news that is not of an upload.
    pub upload: Option<UploadId>,
    /// When the event occurred.
    pub occurred_at: Timestamp,
    /// When this delivery began: with its event, when it was last asked for again, or when its stopped endpoint went on.
    pub begun_at: Timestamp,
    /// Attempts made and counted so far.
    pub attempts: u32,
    /// How many of them were before it was last asked for again.
    pub attempts_before: u32,
    /// Whether somebody had claimed it before and let the lease run out.
    pub is_taken_over: bool,
    /// As this endpoint gets it: whole, or what a thin one is told.
    pub body: Bytes,
}

/// What came of some claims, and what is known of their endpoints since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    pub settlements: Vec<Settlement>,
    pub health: Vec<(EndpointId, Health)>,
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

/// Many deliveries sent again, oldest first, a piece at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayJob {
    pub id: ReplayId,
    pub endpoint: EndpointId,
    pub what: ReplayWhat,
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
    /// How far the times of events may be out of the order of the log. Commits overtake each other, and clocks are put
    /// right: by an hour or two, or by a time zone.
    pub const DISORDER: Duration = Duration::from_hours(25);

    /// How many events a piece of a job looks at, whatever it queues of them.
    pub const MOST_LOOKED_AT: u32 = 500;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayState {
    Running,
    Done,
    Cancelled,
}

impl ReplayState {
    pub const ALL: [Self; 3] = [Self::Running, Self::Done, Self::Cancelled];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// Unfinished deliveries. Counting walks over them, so it ends somewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Whether there are more in some state than its number says, which is [`Self::MOST`] then.
    pub has_more: bool,
    pub waiting: u64,
    pub ready: u64,
    pub leased: u64,
    pub paused: u64,
    /// When the oldest of those that are ready became due.
    pub oldest_due: Option<Timestamp>,
}

impl Backlog {
    /// In each state it is counted so far.
    pub const MOST: u32 = 100_000;
}

/// How much may wait for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BacklogLimits {
    /// What waits for an endpoint that is stopped, or not there any more, and began before then is dropped.
    pub begun_before: Timestamp,
    /// The most deliveries that wait for any one endpoint.
    pub most: u64,
}

/// What is old enough to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// Deliveries that ended before then, and events and calls of hooks from before then. The deliveries of an event go
    /// together.
    pub finished: Timestamp,
    /// Deliveries given up before then.
    pub dead: Timestamp,
    /// Uploads that were last changed before then and have no bytes any more.
    pub ended_uploads: Timestamp,
    /// Deliveries made before then, to endpoints that the configuration no longer names, are cancelled.
    pub abandoned: Timestamp,
    /// Of calls of hooks, the latest so many are kept. At least 1.
    pub most_hook_calls: u64,
    pub now: Timestamp,
}

/// Deliveries as they were asked for, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPage {
    pub found: Vec<DeliveryRecord>,
    /// Ask for those before this one for more. A page that is not full may have it too: no question looks at more than a
    /// bounded number of deliveries.
    pub next: Option<DeliveryId>,
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

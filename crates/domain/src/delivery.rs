//! Deliveries: one event on its way to one endpoint, with every attempt made.

use std::net::IpAddr;
use std::time::Duration;

use crate::endpoint::EndpointId;
use crate::event::EventKind;
use crate::id::{DeliveryId, EventId, UploadId};
use crate::time::Timestamp;

/// How much longer than an attempt may take its lease must last: until the attempt is recorded, nobody else
/// may claim the delivery, or it could be sent twice at the same time.
pub const LEASE_MARGIN: Duration = Duration::from_secs(5);

crate::named! {
    /// Where a delivery stands.
    ///
    /// ```text
    /// waiting ──► ready ──► leased ──► succeeded
    ///    │         ▲  │        │ └───► dead        attempts or time used up
    ///    │         └──┼────────┘ backing off
    ///    ├────────────┴──► superseded              progress overtaken by later news
    ///    ├────────────┴──► paused                  its endpoint was stopped
    ///    └────────────┴──► cancelled               its endpoint was removed, or a test that failed
    /// ```
    ///
    /// One that is over becomes ready again when it is replayed.
    pub enum DeliveryState {
        /// An earlier event of the same upload has not had its first attempt at this endpoint yet.
        Waiting = "waiting",
        /// Due at its next-attempt time.
        Ready = "ready",
        /// Being sent by a worker that holds it until the lease ends.
        Leased = "leased",
        Succeeded = "succeeded",
        /// Attempts or time are used up.
        Dead = "dead",
        /// A progress report that later news made pointless.
        Superseded = "superseded",
        /// Kept while its endpoint is stopped.
        Paused = "paused",
        /// Nobody is waiting for it any more.
        Cancelled = "cancelled",
    }
}

impl DeliveryState {
    /// Returns whether nothing is left to be done, unless somebody asks for it again.
    pub const fn is_finished(self) -> bool {
        match self {
            Self::Waiting | Self::Ready | Self::Leased | Self::Paused => false,
            Self::Succeeded | Self::Dead | Self::Superseded | Self::Cancelled => true,
        }
    }
}

/// What may become of a delivery that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryClass {
    /// It is tried by the schedule, and then a dead letter.
    Normal,
    /// It is dropped soon, and as soon as there is later news (webhooks C4, C5).
    Progress,
    /// It is tried once: somebody waits for the result.
    Test,
    /// News of the sending itself; giving it up is no news.
    Notice,
}

impl DeliveryClass {
    /// Returns the class of the deliveries of such an event.
    pub const fn of(kind: EventKind) -> Self {
        match kind {
            EventKind::Progress => Self::Progress,
            EventKind::Ping => Self::Test,
            EventKind::Exhausted | EventKind::EndpointFailing | EventKind::EndpointDisabled => Self::Notice,
            EventKind::Created
            | EventKind::Receiving
            | EventKind::Stalled
            | EventKind::Resumed
            | EventKind::Received
            | EventKind::Verified
            | EventKind::Stored
            | EventKind::Completed
            | EventKind::Failed
            | EventKind::Expired
            | EventKind::Terminated
            | EventKind::Removed
            | EventKind::Processing => Self::Normal,
        }
    }
}

/// What the sender has decided about a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    Succeeded,
    RetryAt(Timestamp),
    Dead,
    /// A test that failed.
    Cancelled,
}

/// What came of asking for a delivery to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// It is due now, or waits with its stopped endpoint.
    Queued,
    /// It is being sent at this moment.
    UnderWay,
    /// It has succeeded, and nobody forced it.
    HasSucceeded,
    /// Its endpoint was removed.
    NoEndpoint,
    NoDelivery,
}

crate::named! {
    /// Which deliveries are sent again. But for [`Self::Pending`] it goes by the events of a time range, and
    /// never touches what is unfinished.
    pub enum ReplaySelection {
        /// What is unfinished: it becomes due now instead of when its next attempt was planned.
        Pending = "pending",
        /// Deliveries that were given up.
        Dead = "dead",
        /// Whatever the endpoint wants and has never got: given up, dropped, or from before it was there.
        Missed = "missed",
        /// The same, and what has succeeded.
        Everything = "everything",
    }
}

crate::named! {
    /// Why an attempt was made.
    pub enum AttemptTrigger {
        /// The schedule.
        Auto = "auto",
        /// Somebody asked for the delivery to be sent again.
        Manual = "manual",
        Test = "test",
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// The receiver answered with this status.
    Status(u16),
    Timeout,
    Refused,
    Reset,
    /// The name did not resolve.
    Dns,
    Tls,
    /// Every address of the receiver is one that must not be called (webhooks S5).
    Blocked,
    /// Anything else that kept the exchange from finishing.
    Transport,
    /// Given up by us while shutting down; does not count.
    Aborted,
}

impl AttemptOutcome {
    /// Every way to end without an answer.
    pub const ERRORS: [Self; 8] = [
        Self::Timeout,
        Self::Refused,
        Self::Reset,
        Self::Dns,
        Self::Tls,
        Self::Blocked,
        Self::Transport,
        Self::Aborted,
    ];

    /// webhooks R1: 200 to 299 and nothing else is a success.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Status(200..=299))
    }

    /// `None` for an answer, else the class of the error.
    pub const fn error_class(self) -> Option<&'static str> {
        match self {
            Self::Status(_) => None,
            Self::Timeout => Some("timeout"),
            Self::Refused => Some("refused"),
            Self::Reset => Some("reset"),
            Self::Dns => Some("dns"),
            Self::Tls => Some("tls"),
            Self::Blocked => Some("blocked_ip"),
            Self::Transport => Some("transport"),
            Self::Aborted => Some("aborted"),
        }
    }

    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status),
            Self::Timeout
            | Self::Refused
            | Self::Reset
            | Self::Dns
            | Self::Tls
            | Self::Blocked
            | Self::Transport
            | Self::Aborted => None,
        }
    }

    /// The inverse of [`Self::status`] and [`Self::error_class`].
    pub fn from_parts(status: Option<u16>, error_class: Option<&str>) -> Self {
        let error = || Self::ERRORS.into_iter().find(|error| error.error_class() == error_class);
        status.map(Self::Status).or_else(error).unwrap_or(Self::Transport)
    }
}

/// Where the time of an attempt went. What did not happen, or cannot be told, is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Looking up the name.
    pub dns: Option<Duration>,
    /// Opening a connection, TLS included; a connection kept from before takes none.
    pub connect: Option<Duration>,
    /// From the beginning to the first byte of the answer.
    pub first_byte: Option<Duration>,
}

/// One try at sending, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Counts from 1 within the delivery.
    pub number: u32,
    pub trigger: AttemptTrigger,
    pub started_at: Timestamp,
    pub took: Duration,
    pub timings: Timings,
    /// The address it went to.
    pub remote: Option<IpAddr>,
    pub outcome: AttemptOutcome,
    /// Those of the answer that help to find out why; a fixed few.
    pub response_headers: Vec<(String, String)>,
    /// The first bytes of the answer's body, at most 4 KiB.
    pub response_body: Vec<u8>,
    /// A short reason when there is more to say than the outcome: where a redirect pointed, say.
    pub note: Option<String>,
    /// When the next attempt was planned for, if there was to be one.
    pub next_attempt_at: Option<Timestamp>,
}

/// A delivery with its attempts, for people and programs to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRecord {
    pub id: DeliveryId,
    pub event: EventId,
    pub event_name: String,
    /// `None` for news that is not of an upload.
    pub upload: Option<UploadId>,
    pub sequence: u64,
    pub endpoint: EndpointId,
    pub state: DeliveryState,
    pub created_at: Timestamp,
    /// When the next attempt is due; only for one that is waiting for it.
    pub next_attempt_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub attempts: Vec<Attempt>,
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

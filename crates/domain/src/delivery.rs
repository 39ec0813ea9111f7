//! Deliveries: one event to be sent to one endpoint, with the record of every attempt.

use std::net::IpAddr;
use std::time::Duration;

use crate::endpoint::EndpointId;
use crate::event::EventKind;
use crate::id::{DeliveryId, EventId, UploadId};
use crate::time::Timestamp;

/// The time by which the lease of a delivery outlasts the timeout of an attempt. Until the attempt is
/// recorded, no other worker may claim the delivery; otherwise it could be sent twice at the same time.
pub const LEASE_MARGIN: Duration = Duration::from_secs(5);

crate::named! {
    /// The state of a delivery.
    ///
    /// ```text
    /// waiting ──► ready ──► leased ──► succeeded
    ///    │         ▲  │        │ └───► dead        attempts or time used up
    ///    │         └──┼────────┘ backing off
    ///    ├────────────┴──► superseded              progress overtaken by a later event
    ///    ├────────────┴──► paused                  its endpoint was stopped
    ///    └────────────┴──► cancelled               its endpoint was removed, or a test that failed
    /// ```
    ///
    /// A finished delivery becomes ready again when it is replayed.
    pub enum DeliveryState {
        /// An earlier event of the same upload has not had its first attempt at this endpoint yet.
        Waiting = "waiting",
        /// Due at its next-attempt time.
        Ready = "ready",
        /// Being sent by a worker that holds the delivery until its lease ends.
        Leased = "leased",
        Succeeded = "succeeded",
        /// Failed for good: its attempts or its time are used up.
        Dead = "dead",
        /// A progress event that a later event made obsolete.
        Superseded = "superseded",
        /// Kept while its endpoint is stopped.
        Paused = "paused",
        /// Ended without success, because nothing needs it any more: an operator or a backlog limit cancelled
        /// it, its endpoint was removed, or it was a test that failed.
        Cancelled = "cancelled",
    }
}

impl DeliveryState {
    /// Reports whether the delivery needs no further work unless it is replayed.
    pub const fn is_finished(self) -> bool {
        match self {
            Self::Waiting | Self::Ready | Self::Leased | Self::Paused => false,
            Self::Succeeded | Self::Dead | Self::Superseded | Self::Cancelled => true,
        }
    }
}

/// The treatment of a delivery that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryClass {
    /// Retried by the schedule, then kept as a dead letter.
    Normal,
    /// Dropped after a short time, or as soon as a later event exists (webhooks C4, C5).
    Progress,
    /// Tried once, because a caller waits for the result.
    Test,
    /// An event about delivery itself. When such a delivery fails for good, no further event reports it.
    Notice,
}

impl DeliveryClass {
    /// Returns the class of the deliveries of an event of this kind.
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

/// The sender's decision about a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    Succeeded,
    RetryAt(Timestamp),
    Dead,
    /// A test that failed.
    Cancelled,
}

/// The outcome of a request to send a delivery again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// The delivery is due now, or is kept until its stopped endpoint is resumed.
    Queued,
    /// The delivery is being sent at this moment.
    UnderWay,
    /// The delivery has succeeded, and the request did not force it.
    HasSucceeded,
    /// Its endpoint was removed.
    NoEndpoint,
    NoDelivery,
}

crate::named! {
    /// The deliveries that a replay sends again. Except for [`Self::Pending`], a replay selects by the events
    /// of a time range and never touches unfinished deliveries.
    pub enum ReplaySelection {
        /// Unfinished deliveries, which become due now instead of at their planned next attempt.
        Pending = "pending",
        /// Deliveries that failed for good.
        Dead = "dead",
        /// Every event that the endpoint subscribes to and has never received: its delivery failed or was
        /// cancelled, or the event is older than the endpoint.
        Missed = "missed",
        /// The same, and the deliveries that succeeded.
        Everything = "everything",
    }
}

crate::named! {
    /// The reason for an attempt.
    pub enum AttemptTrigger {
        /// The schedule.
        Auto = "auto",
        /// An operator or a replay requested that the delivery be sent again.
        Manual = "manual",
        Test = "test",
    }
}

/// The result of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// The receiver responded with this status.
    Status(u16),
    Timeout,
    Refused,
    Reset,
    /// The host name did not resolve.
    Dns,
    Tls,
    /// Every address of the receiver is one that must not be called (webhooks S5).
    Blocked,
    /// Any other error that kept the exchange from finishing.
    Transport,
    /// Interrupted by the shutdown of the server; does not count as an attempt.
    Aborted,
}

impl AttemptOutcome {
    /// Every result without a response.
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

    /// Reports success: a status from 200 to 299 and nothing else (webhooks R1).
    pub fn is_success(self) -> bool {
        matches!(self, Self::Status(200..=299))
    }

    /// Returns the class of the error, or `None` if the receiver responded.
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

    /// Reconstructs an outcome from [`Self::status`] and [`Self::error_class`].
    pub fn from_parts(status: Option<u16>, error_class: Option<&str>) -> Self {
        let error = || Self::ERRORS.into_iter().find(|error| error.error_class() == error_class);
        status.map(Self::Status).or_else(error).unwrap_or(Self::Transport)
    }
}

/// The phases of an attempt. A phase that did not happen or cannot be measured is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Time for the DNS lookup.
    pub dns: Option<Duration>,
    /// Time to open a connection, including TLS. `None` for a reused connection.
    pub connect: Option<Duration>,
    /// Time from the beginning of the attempt to the first byte of the response.
    pub first_byte: Option<Duration>,
}

/// One recorded HTTP request of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The number of the attempt within its delivery, from 1.
    pub number: u32,
    pub trigger: AttemptTrigger,
    pub started_at: Timestamp,
    pub took: Duration,
    pub timings: Timings,
    /// The address that the request was sent to.
    pub remote: Option<IpAddr>,
    pub outcome: AttemptOutcome,
    /// A fixed selection of response header fields that help with diagnosis.
    pub response_headers: Vec<(String, String)>,
    /// The first bytes of the response body, at most 4 KiB.
    pub response_body: Vec<u8>,
    /// A short explanation beyond the outcome, such as the target of a redirect.
    pub note: Option<String>,
    /// The time planned for the next attempt, if there was to be one.
    pub next_attempt_at: Option<Timestamp>,
}

/// A delivery with its attempts, as shown by the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRecord {
    pub id: DeliveryId,
    pub event: EventId,
    pub event_name: String,
    /// `None` for events that are not about an upload.
    pub upload: Option<UploadId>,
    pub sequence: u64,
    pub endpoint: EndpointId,
    pub state: DeliveryState,
    pub created_at: Timestamp,
    /// The time at which the next attempt is due; only for a delivery that waits for it.
    pub next_attempt_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub attempts: Vec<Attempt>,
}

/// Counts of unfinished deliveries. Counting reads the rows, so it stops at [`Self::MOST`] for each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// True if some state has more deliveries than its number says; that number is then [`Self::MOST`].
    pub has_more: bool,
    pub waiting: u64,
    pub ready: u64,
    pub leased: u64,
    pub paused: u64,
    /// The time at which the oldest ready delivery became due.
    pub oldest_due: Option<Timestamp>,
}

impl Backlog {
    /// The highest count for each state.
    pub const MOST: u32 = 100_000;
}

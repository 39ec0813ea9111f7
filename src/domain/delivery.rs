//! Deliveries: one event on its way to one endpoint, with every attempt made.

use std::fmt;
use std::time::Duration;

use crate::domain::event::EventFilter;
use crate::domain::id::{DeliveryId, EventId, UploadId};
use crate::domain::time::Timestamp;

/// The stable name of an endpoint, from the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(String);

impl EndpointId {
    /// Accepts 1 to 64 of `a-z A-Z 0-9 _ -`.
    pub fn new(name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        let fits = (1..=64).contains(&name.len());
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        (fits && plain).then_some(Self(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is told about which events. The state store writes a delivery for each in the commit that made the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub endpoint: EndpointId,
    pub filter: EventFilter,
}

/// Where a delivery stands.
///
/// ```text
/// waiting ──► ready ──► leased ──► succeeded
///    │         ▲  │        │ └───► dead        attempts or time used up
///    │         └──┼────────┘ backing off
///    ├────────────┴──► superseded              progress overtaken by later news
///    └────────────┴──► paused                  its endpoint was disabled
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// An earlier event of the same upload has not had its first attempt at this endpoint yet.
    Waiting,
    /// Due at its next-attempt time.
    Ready,
    /// Being sent by a worker that holds it until the lease ends.
    Leased,
    Succeeded,
    /// Attempts or time are used up.
    Dead,
    /// A progress report that later news made pointless.
    Superseded,
    /// Kept while its endpoint is disabled.
    Paused,
}

impl DeliveryState {
    pub const ALL: [Self; 7] =
        [Self::Waiting, Self::Ready, Self::Leased, Self::Succeeded, Self::Dead, Self::Superseded, Self::Paused];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Leased => "leased",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Superseded => "superseded",
            Self::Paused => "paused",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// What a progress report may be dropped for, and other events may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryClass {
    Normal,
    Progress,
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
    /// Anything else that kept the exchange from finishing.
    Transport,
    /// Given up by us while shutting down; does not count.
    Aborted,
}

impl AttemptOutcome {
    /// webhooks.md R1: 200 to 299 and nothing else is a success.
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
            Self::Transport => Some("transport"),
            Self::Aborted => Some("aborted"),
        }
    }

    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status),
            Self::Timeout | Self::Refused | Self::Reset | Self::Dns | Self::Tls | Self::Transport | Self::Aborted => {
                None
            }
        }
    }

    /// The inverse of [`Self::status`] and [`Self::error_class`].
    pub fn from_parts(status: Option<u16>, error_class: Option<&str>) -> Self {
        match (status, error_class) {
            (Some(status), _) => Self::Status(status),
            (None, Some("timeout")) => Self::Timeout,
            (None, Some("refused")) => Self::Refused,
            (None, Some("reset")) => Self::Reset,
            (None, Some("dns")) => Self::Dns,
            (None, Some("tls")) => Self::Tls,
            (None, Some("aborted")) => Self::Aborted,
            (None, _) => Self::Transport,
        }
    }
}

/// One try at sending, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Counts from 1 within the delivery.
    pub number: u32,
    pub started_at: Timestamp,
    pub took: Duration,
    pub outcome: AttemptOutcome,
    /// The first bytes of the answer's body, at most 4 KiB.
    pub response_body: Vec<u8>,
    /// A short reason when there is more to say than the outcome: where a redirect pointed, say.
    pub note: Option<String>,
}

/// A delivery with its attempts, for people and programs to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRecord {
    pub id: DeliveryId,
    pub event: EventId,
    pub event_name: String,
    pub upload: UploadId,
    pub sequence: u64,
    pub endpoint: EndpointId,
    pub state: DeliveryState,
    pub created_at: Timestamp,
    /// When the next attempt is due; only for one that is waiting for it.
    pub next_attempt_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub attempts: Vec<Attempt>,
}

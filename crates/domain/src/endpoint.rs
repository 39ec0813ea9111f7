//! Who is told of events, and on which terms.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::event::EventFilter;
use crate::metadata::Metadata;
use crate::principal::TenantId;
use crate::time::Timestamp;

/// How long one attempt may be allowed to take.
pub const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);

/// How long one wait of a retry schedule may be.
pub const RETRY_WAITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(7 * 24);

/// The most waits of a retry schedule, which has at least one.
pub const MAX_RETRY_WAITS: usize = 100;

/// How many deliveries a second an endpoint may be limited to.
pub const RATES: RangeInclusive<u32> = 1..=10_000;

/// The stable name of an endpoint. No two endpoints share a name, whatever their tenants.
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

/// A receiver of events, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub id: EndpointId,
    /// Whose it is. It receives the events of this tenant and no others.
    pub tenant: TenantId,
    pub origin: Origin,
    pub terms: EndpointTerms,
    /// Its secrets and headers, encrypted. Made and read by the sender;
    /// empty where the configuration has them.
    pub sealed: Vec<u8>,
    pub state: EndpointState,
    pub health: Health,
    /// Counts changes; a change names the version it read and loses if that has moved. Health is not counted.
    pub version: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Endpoint {
    /// One that nobody has written yet, and that nothing is held against.
    pub fn new(tenant: TenantId, id: EndpointId, origin: Origin, terms: EndpointTerms, now: Timestamp) -> Self {
        Self {
            id,
            tenant,
            origin,
            terms,
            sealed: Vec::new(),
            state: EndpointState::Enabled,
            health: Health::default(),
            version: 0,
            created_at: now,
            updated_at: now,
        }
    }
}

crate::named! {
    /// Where an endpoint was made.
    pub enum Origin {
        /// It stands in the configuration and is changed only there.
        Config = "config",
        Api = "api",
    }
}

/// What an operator has said of an endpoint. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointTerms {
    /// Without user-info.
    pub url: String,
    /// For people.
    pub description: String,
    pub filter: EventFilter,
    /// Only uploads whose metadata has all of these, compared as bytes.
    pub metadata: Vec<(String, String)>,
    pub ordering: Ordering,
    pub payload: Payload,
    pub signing: Signing,
    /// `None`, here and below: as for all endpoints.
    pub max_in_flight: Option<u32>,
    /// At most this many attempts begin in a second.
    pub max_per_second: Option<u32>,
    pub timeout: Option<Duration>,
    /// The wait after each failure.
    pub retry_schedule: Option<Vec<Duration>>,
    /// Whether it is disabled when everything has failed for days.
    pub auto_disable: bool,
    /// Who vouches for its certificate, as PEM, in place of those whom the machine trusts (webhooks S9).
    pub ca_certificates: Option<String>,
}

impl EndpointTerms {
    /// With everything but the address as it is when nothing is said.
    pub fn of(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            description: String::new(),
            filter: EventFilter::all_but_progress(),
            metadata: Vec::new(),
            ordering: Ordering::PerUpload,
            payload: Payload::Full,
            signing: Signing::Hmac,
            max_in_flight: None,
            max_per_second: None,
            timeout: None,
            retry_schedule: None,
            auto_disable: true,
            ca_certificates: None,
        }
    }

    /// Whether an upload with this metadata is one it wants to hear of.
    pub fn wants_upload(&self, metadata: &Metadata) -> bool {
        let has = |(name, value): &(String, String)| {
            metadata.pairs().iter().any(|(key, bytes)| key == name && bytes == value.as_bytes())
        };
        self.metadata.iter().all(has)
    }
}

/// Returns whether a header can carry this value: visible ASCII characters and spaces.
pub fn is_header_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// Whether a header is the sender's own, so that no operator may set it
/// (webhooks H12). Takes any letter case.
pub fn is_reserved_header(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "host",
        "connection",
        "keep-alive",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "user-agent",
        "accept-encoding",
        "http2-settings",
    ];
    const PREFIXES: [&str; 4] = ["content-", "webhook-", "longshore-", "proxy-"];
    let name = name.to_ascii_lowercase();
    NAMES.contains(&name.as_str()) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

crate::named! {
    /// What waits for what among the events of one upload (webhooks G6, G7). Other uploads never matter.
    pub enum Ordering {
        /// First attempts go out in order, one at a time; what backs off holds nobody back.
        PerUpload = "per_upload",
        /// An event waits until every earlier one was delivered or given up.
        Strict = "strict",
        /// Nothing waits.
        None = "none",
    }
}

crate::named! {
    /// How much of an event is sent (webhooks P6).
    pub enum Payload {
        Full = "full",
        /// What happened, when and to which upload; the receiver asks for the rest.
        Thin = "thin",
    }
}

crate::named! {
    /// Which signatures a message carries (webhooks H5, H6).
    pub enum Signing {
        /// `v1`, under a secret both sides know.
        Hmac = "hmac",
        /// `v1a`, under a key whose public half the receiver has.
        Ed25519 = "ed25519",
        Both = "both",
    }
}

crate::named! {
    /// Why the server stopped an endpoint.
    pub enum DisabledBecause {
        /// It answered 410.
        Gone = "gone",
        /// It asked for it in its answer.
        Asked = "asked",
        /// Everything has failed for days.
        Failing = "failing",
    }
}

/// Whether deliveries are sent. Those that are not sent wait; nothing is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    Enabled,
    /// Stopped by an operator.
    Paused {
        since: Timestamp,
    },
    /// Stopped by the server.
    Disabled {
        since: Timestamp,
        because: DisabledBecause,
    },
}

impl EndpointState {
    pub const fn is_enabled(self) -> bool {
        matches!(self, Self::Enabled)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Paused { .. } => "paused",
            Self::Disabled { .. } => "disabled",
        }
    }
}

/// How an endpoint has been doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Attempts that failed since the last success.
    pub consecutive_failures: u32,
    /// When the first of them failed.
    pub failing_since: Option<Timestamp>,
    /// Deliveries given up since then.
    pub exhausted: u32,
    /// The circuit breaker is open: until then nothing is sent, and then one delivery as a probe.
    pub open_until: Option<Timestamp>,
    /// How far towards being disabled it was when operators were last warned, in percent.
    pub warned_percent: u8,
}

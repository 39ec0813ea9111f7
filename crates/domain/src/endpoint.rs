//! Receivers of webhooks: endpoints, their terms and their health.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::event::EventFilter;
use crate::metadata::Metadata;
use crate::principal::TenantId;
use crate::time::Timestamp;

/// The permitted timeouts of an attempt.
pub const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);

/// The permitted waits of a retry schedule.
pub const RETRY_WAITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(7 * 24);

/// The maximum number of waits in a retry schedule, which has at least one.
pub const MAX_RETRY_WAITS: usize = 100;

/// The permitted rate limits of an endpoint, in deliveries per second.
pub const RATES: RangeInclusive<u32> = 1..=10_000;

/// The stable name of an endpoint. No two endpoints share a name, even if their tenants differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(String);

impl EndpointId {
    /// Accepts 1 to 64 of the characters `a-z A-Z 0-9 _ -`.
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

/// A stored receiver of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub id: EndpointId,
    /// The owner. The endpoint receives only events of this tenant.
    pub tenant: TenantId,
    pub origin: Origin,
    pub terms: EndpointTerms,
    /// The encrypted secrets and headers, written and read by the sender. Empty if the configuration file has
    /// them.
    pub sealed: Vec<u8>,
    pub state: EndpointState,
    pub health: Health,
    /// The number of changes. A change names the version it read and fails if the version has moved. Changes
    /// of health are not counted.
    pub version: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Endpoint {
    /// Makes an endpoint that is not stored yet: enabled, with version 0 and no recorded failures.
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

    /// Returns an endpoint of a configuration as it is stored over the one `found` under its name. An
    /// endpoint that an operator paused stays paused; one that is enabled again starts without failures. It
    /// counts as created when a configuration first named it. From another tenant's endpoint it takes only
    /// the number of changes.
    #[must_use]
    pub fn configured_over(self, found: Option<&Self>) -> Self {
        let before = found.filter(|found| found.tenant == self.tenant);
        let state = match before.map(|before| before.state) {
            Some(paused @ EndpointState::Paused { .. }) => paused,
            Some(EndpointState::Enabled | EndpointState::Disabled { .. }) | None => EndpointState::Enabled,
        };
        let health = before.filter(|before| before.state.is_enabled()).map_or(self.health, |before| before.health);
        let version = found.map_or(self.version, |found| found.version);
        let first = before.filter(|before| before.origin == Origin::Config);
        let created_at = first.map_or(self.created_at, |first| first.created_at);
        Self { state, health, version, created_at, ..self }
    }

    /// Returns the health to store with this change of an endpoint that was `before`. Attempts change the
    /// stored health while a change is prepared, so a change keeps it. An endpoint that is enabled after a
    /// stop starts without failures.
    pub fn health_over(&self, before: Option<&Self>) -> Health {
        match before {
            None => self.health,
            Some(before) if self.state.is_enabled() && !before.state.is_enabled() => Health::default(),
            Some(before) => before.health,
        }
    }
}

crate::named! {
    /// The source of an endpoint.
    pub enum Origin {
        /// The configuration file, where alone the endpoint can be changed.
        Config = "config",
        Api = "api",
    }
}

/// An operator's settings for an endpoint. They contain no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointTerms {
    /// The URL without user information.
    pub url: String,
    /// A text for operators.
    pub description: String,
    pub filter: EventFilter,
    /// Name and value pairs that the metadata of an upload must all contain, compared as bytes.
    pub metadata: Vec<(String, String)>,
    pub ordering: Ordering,
    pub payload: Payload,
    pub signing: Signing,
    /// `None`, here and in the fields below, selects the server-wide default.
    pub max_in_flight: Option<u32>,
    /// The maximum number of attempts that begin within a second.
    pub max_per_second: Option<u32>,
    pub timeout: Option<Duration>,
    /// The waits after each failure, in order.
    pub retry_schedule: Option<Vec<Duration>>,
    /// True if the endpoint is disabled after all attempts have failed for days.
    pub auto_disable: bool,
    /// CA certificates (PEM) for checking the receiver's certificate, instead of the system's trust store
    /// (webhooks S9).
    pub ca_certificates: Option<String>,
}

impl EndpointTerms {
    /// Returns terms with this URL and the default of every other setting.
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

    /// Reports whether the endpoint subscribes to uploads with this metadata.
    pub fn wants_upload(&self, metadata: &Metadata) -> bool {
        let has = |(name, value): &(String, String)| {
            metadata.pairs().iter().any(|(key, bytes)| key == name && bytes == value.as_bytes())
        };
        self.metadata.iter().all(has)
    }
}

/// Reports whether a configuration names other endpoints than those that `others` name, or names them with
/// other terms. No difference is known if there are no others.
pub fn differs_from(configured: &[Endpoint], others: &[Endpoint]) -> bool {
    let is_in = |endpoint: &Endpoint, list: &[Endpoint]| {
        list.iter().any(|it| (&it.id, it.tenant, &it.terms) == (&endpoint.id, endpoint.tenant, &endpoint.terms))
    };
    let is_same = configured.iter().all(|endpoint| is_in(endpoint, others))
        && others.iter().all(|endpoint| is_in(endpoint, configured));
    !(others.is_empty() || is_same)
}

/// Reports whether a header field can carry this value: visible ASCII characters and spaces.
pub fn is_header_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// Reports whether only the sender may set this header field (webhooks H12). The name is compared without
/// regard to case.
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
    /// The order of the deliveries of one upload (webhooks G6, G7). Deliveries of other uploads are never
    /// affected.
    pub enum Ordering {
        /// First attempts are made in order, one at a time. Deliveries that back off block no others.
        PerUpload = "per_upload",
        /// A delivery waits until every earlier one has succeeded or failed for good.
        Strict = "strict",
        /// No delivery waits for another.
        None = "none",
    }
}

crate::named! {
    /// The amount of data sent for an event (webhooks P6).
    pub enum Payload {
        Full = "full",
        /// Kind, time and upload of the event only; the receiver queries the rest.
        Thin = "thin",
    }
}

crate::named! {
    /// The signatures that a message carries (webhooks H5, H6).
    pub enum Signing {
        /// `v1`, with a secret shared by both sides.
        Hmac = "hmac",
        /// `v1a`, with a private key whose public half the receiver has.
        Ed25519 = "ed25519",
        Both = "both",
    }
}

crate::named! {
    /// The server's reason to stop an endpoint.
    pub enum DisabledBecause {
        /// The receiver responded with 410.
        Gone = "gone",
        /// The receiver requested it in a response.
        Asked = "asked",
        /// All attempts have failed for days.
        Failing = "failing",
    }
}

/// The operating state of an endpoint. While it is stopped, its deliveries are kept; none is dropped.
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

/// The recent failures of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// The number of failed attempts since the last success.
    pub consecutive_failures: u32,
    /// The time of the first of these failures.
    pub failing_since: Option<Timestamp>,
    /// The number of deliveries that failed for good since then.
    pub exhausted: u32,
    /// The time until which the circuit breaker is open. No delivery is sent before that time, and then one
    /// as a probe.
    pub open_until: Option<Timestamp>,
    /// The progress toward being disabled at the last warning to operators, in percent.
    pub warned_percent: u8,
}

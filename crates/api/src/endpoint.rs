//! Endpoints of webhooks: the form in which they are returned, and the requests that create, change, resume
//! and rotate them.

use std::collections::BTreeMap;

use domain::endpoint::{EndpointTerms, Health as KnownHealth};
use domain::time::{Timestamp, milliseconds};
use serde::{Deserialize, Serialize};

use crate::pairs::Pairs;
use crate::{Keyword, given};

/// An endpoint with its keys, health and backlog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    pub id: String,
    /// Origin of the endpoint: `config` or `api`.
    pub origin: Keyword,
    pub state: Keyword,
    /// Time since which the endpoint is in its state. `state_reason` is set when the server stopped it.
    pub state_since: Option<String>,
    pub state_reason: Option<Keyword>,
    #[serde(flatten)]
    pub terms: EndpointSettings,
    /// Names of the custom headers. Their values are secret.
    pub headers: Vec<String>,
    /// Keys that sign at present, newest first.
    pub keys: Vec<EndpointKey>,
    pub health: Health,
    pub backlog: Backlog,
    /// Number of the endpoint's version; each change increments it.
    pub version: u64,
    pub created_at: String,
    pub updated_at: String,
    /// Secret that the receiver needs. Present only in the response to the request that generated it.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub secret: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub public_key: Option<Option<String>>,
}

/// Settings of an endpoint. `null` selects the server-wide default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSettings {
    pub url: String,
    pub description: String,
    pub events: Vec<String>,
    pub metadata: Pairs<'static, String>,
    pub ordering: Keyword,
    pub payload: Keyword,
    pub signing: Keyword,
    pub max_in_flight: Option<u32>,
    pub max_per_second: Option<u32>,
    pub timeout_ms: Option<u64>,
    pub retry_schedule_ms: Option<Vec<u64>>,
    pub auto_disable: bool,
    pub ca_certificates: Option<String>,
}

/// A key of an endpoint, without any secret: a symmetric key shows only its kind, an ed25519 key its public
/// half.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointKey {
    pub kind: Keyword,
    pub public_key: Option<String>,
    pub created_at: String,
    pub expires_at: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    pub consecutive_failures: u32,
    pub failing_since: Option<String>,
    /// Deliveries that have been abandoned since `failing_since`.
    pub exhausted: u32,
    pub breaker_open_until: Option<String>,
}

/// Unfinished deliveries to an endpoint, counted up to a bound; `has_more` is set when there are more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backlog {
    pub total: u64,
    pub waiting: u64,
    pub ready: u64,
    pub leased: u64,
    pub paused: u64,
    pub has_more: bool,
    pub oldest_due: Option<String>,
}

/// All endpoints, ordered by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointList {
    pub endpoints: Vec<Endpoint>,
}

/// A partial change of an endpoint's settings. Absent fields keep their values; `null`, where it is allowed,
/// restores the server-wide default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointChange {
    /// Accepted only at creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `whsec_…` or `whsk_…`; accepted only at creation. If absent, the server generates one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub max_in_flight: Option<Option<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub max_per_second: Option<Option<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub timeout_ms: Option<Option<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub retry_schedule_ms: Option<Option<Vec<u64>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_disable: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub ca_certificates: Option<Option<String>>,
}

/// Request to add a new key to an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRotation {
    /// `hmac` or `ed25519`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Time for which the old key continues to sign, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap_ms: Option<u64>,
}

/// Request to resume a stopped endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resumption {
    /// Fate of the waiting deliveries: `send` or `cancel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed_since: Option<String>,
}

/// Number of endpoints that one request paused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PausedCount {
    pub paused: usize,
}

/// Number of endpoints that one request resumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResumedCount {
    pub resumed: usize,
}

impl From<&EndpointTerms> for EndpointSettings {
    fn from(terms: &EndpointTerms) -> Self {
        let metadata = terms.metadata.iter();
        let schedule = terms.retry_schedule.as_ref();
        Self {
            url: terms.url.clone(),
            description: terms.description.clone(),
            events: terms.filter.patterns().to_vec(),
            metadata: metadata.map(|(name, value)| (name.clone(), value.clone())).collect(),
            ordering: terms.ordering.name().into(),
            payload: terms.payload.name().into(),
            signing: terms.signing.name().into(),
            max_in_flight: terms.max_in_flight,
            max_per_second: terms.max_per_second,
            timeout_ms: terms.timeout.map(milliseconds),
            retry_schedule_ms: schedule.map(|waits| waits.iter().copied().map(milliseconds).collect()),
            auto_disable: terms.auto_disable,
            ca_certificates: terms.ca_certificates.clone(),
        }
    }
}

impl From<KnownHealth> for Health {
    fn from(health: KnownHealth) -> Self {
        let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            consecutive_failures: health.consecutive_failures,
            failing_since: text(health.failing_since),
            exhausted: health.exhausted,
            breaker_open_until: text(health.open_until),
        }
    }
}

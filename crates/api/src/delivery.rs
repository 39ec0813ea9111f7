//! Deliveries and their attempts.

use domain::delivery::{Attempt as KnownAttempt, DeliveryRecord};
use domain::time::milliseconds;
use serde::{Deserialize, Serialize};

use crate::Keyword;
use crate::pairs::Pairs;
use crate::text::Text;

/// The delivery of one event to one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delivery<'a> {
    pub id: String,
    /// The `webhook-id` of its messages.
    pub event_id: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// `null` for an event that concerns no upload.
    pub upload_id: Option<String>,
    pub sequence: u64,
    pub endpoint: String,
    pub state: Keyword,
    pub created_at: String,
    pub next_attempt_at: Option<String>,
    pub finished_at: Option<String>,
    pub attempts: Vec<Attempt<'a>>,
}

/// One attempt to send a delivery.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt<'a> {
    /// Number of the attempt within its delivery, from 1.
    pub number: u32,
    pub trigger: Keyword,
    pub started_at: String,
    pub duration_ms: u64,
    pub dns_ms: Option<u64>,
    pub connect_ms: Option<u64>,
    pub first_byte_ms: Option<u64>,
    pub remote_address: Option<String>,
    /// HTTP status of the response; `null` if there was none.
    pub status: Option<u16>,
    /// Class of the error, if the attempt got no usable response.
    pub error: Option<Keyword>,
    pub note: Option<String>,
    pub next_attempt_at: Option<String>,
    pub response_headers: Pairs<'a, String>,
    pub response_body: Text<'a>,
}

/// A page of deliveries, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeliveryList<'a> {
    pub deliveries: Vec<Delivery<'a>>,
    /// Cursor of the next page; `null` on the last one.
    pub next: Option<String>,
}

/// Options for replaying one delivery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayOptions {
    /// Set to replay the delivery even if it has succeeded.
    #[serde(default)]
    pub force: bool,
}

impl<'a> From<&'a DeliveryRecord> for Delivery<'a> {
    fn from(delivery: &'a DeliveryRecord) -> Self {
        Self {
            id: delivery.id.to_string(),
            event_id: format!("evt_{}", delivery.event),
            kind: delivery.event_name.clone(),
            upload_id: delivery.upload.map(|upload| upload.to_string()),
            sequence: delivery.sequence,
            endpoint: delivery.endpoint.to_string(),
            state: delivery.state.name().into(),
            created_at: delivery.created_at.to_string(),
            next_attempt_at: delivery.next_attempt_at.map(|at| at.to_string()),
            finished_at: delivery.finished_at.map(|at| at.to_string()),
            attempts: delivery.attempts.iter().map(Attempt::from).collect(),
        }
    }
}

impl<'a> From<&'a KnownAttempt> for Attempt<'a> {
    fn from(attempt: &'a KnownAttempt) -> Self {
        let headers = attempt.response_headers.iter();
        Self {
            number: attempt.number,
            trigger: attempt.trigger.name().into(),
            started_at: attempt.started_at.to_string(),
            duration_ms: milliseconds(attempt.took),
            dns_ms: attempt.timings.dns.map(milliseconds),
            connect_ms: attempt.timings.connect.map(milliseconds),
            first_byte_ms: attempt.timings.first_byte.map(milliseconds),
            remote_address: attempt.remote.map(|address| address.to_string()),
            status: attempt.outcome.status(),
            error: attempt.outcome.error_class().map(Keyword::from),
            note: attempt.note.clone(),
            next_attempt_at: attempt.next_attempt_at.map(|at| at.to_string()),
            response_headers: headers.map(|(name, value)| (name, value.clone())).collect(),
            response_body: Text::from(&attempt.response_body[..]),
        }
    }
}

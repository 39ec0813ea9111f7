//! Bodies of events, as every receiver gets them.
//!
//! A body is written once, in the commit that creates the event, and is sent byte for byte from then on.
//! Reduced bodies are derived from the stored full body, so they are identical in every attempt, whatever has
//! changed in the upload or the configuration since.

use std::borrow::Cow;

use domain::endpoint::EndpointId;
use domain::event::{Event, EventKind};
use domain::failure::Failure;
use domain::id::UploadId;
use domain::notice::Notice;
use domain::removal::DeletedBy;
use domain::report::Report;
use domain::stage::{Ended, Stage};
use domain::time::Timestamp;
use domain::upload::Record;
use serde::{Deserialize, Serialize};

use crate::facts::Facts;
use crate::pairs::Pairs;
use crate::text::Text;
use crate::{Keyword, given};

/// Size above which a body omits the metadata. Everything else in a body is bounded and far smaller.
const TARGET_BYTES: usize = 20_000;

/// Maximum length of a failure's message in an event, in characters.
const MAX_MESSAGE_CHARS: usize = 1_000;

/// The envelope of an event; `D` is the data of its kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventMessage<D> {
    #[serde(rename = "type")]
    pub kind: Keyword,
    pub timestamp: String,
    pub data: D,
}

/// State of an upload right after one of its events.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventUpload<'a> {
    pub upload_id: String,
    /// Number of the event within its upload, from 1.
    pub sequence: u64,
    pub stage: Keyword,
    /// Number of leading bytes that are durable and committed.
    pub offset: u64,
    pub length: Option<u64>,
    pub role: Keyword,
    pub filename: Option<String>,
    pub content_type: Option<String>,
    pub metadata: Pairs<'a, Text<'a>>,
    /// Set if the metadata was omitted because of its size.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Digests by algorithm, in hexadecimal.
    pub digests: Pairs<'a, String>,
    pub facts: Option<Facts>,
    /// Report of a backend, if the event is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<EventReport<'a>>,
    /// The party that deleted the upload or removed its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Keyword>,
    /// Path of a completed upload's file, for programs on the same machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Cow<'a, str>>,
    pub error: Option<EventError<'a>>,
    /// URL of the upload's status.
    pub url: Cow<'a, str>,
}

/// A backend's report in an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventReport<'a> {
    pub name: Cow<'a, str>,
    pub percent: Option<u8>,
    pub message: Option<Cow<'a, str>>,
}

/// Reason why an upload failed, in an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventError<'a> {
    pub code: Cow<'a, str>,
    pub message: String,
}

/// The part of a full body that reduced bodies keep, with the values of the full one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventSummary {
    pub upload_id: String,
    pub sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Keyword>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// `null` while the client has not declared the length.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub length: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Set if the client's data has been expunged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expunged: Option<bool>,
}

/// Data of a test event: the endpoint under test.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ping {
    pub endpoint: String,
}

/// Data of the event that a delivery was abandoned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exhausted {
    pub endpoint: String,
    pub delivery_id: String,
    pub event_id: String,
    pub upload_id: Option<String>,
    pub attempts: u32,
}

/// Data of the event that an endpoint has been failing for a long time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failing {
    pub endpoint: String,
    pub failing_since: String,
    /// Progress of the endpoint towards being disabled, in percent.
    pub percent: u8,
}

/// Data of the event that the server has disabled an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disabled {
    pub endpoint: String,
    pub reason: Keyword,
}

/// Writes the full body of an event of this upload. The status URL is `status_root` followed by the upload's
/// id.
pub fn upload(upload: &Record, event: &Event, status_root: &str) -> String {
    let url = format!("{status_root}{}", upload.id);
    let full = message(event.kind, event.at, described(upload, event, &url));
    if full.len() <= TARGET_BYTES {
        return full;
    }
    let data = EventUpload { metadata: Pairs::default(), truncated: true, ..described(upload, event, &url) };
    message(event.kind, event.at, data)
}

/// Derives the body for an endpoint with thin payloads, which queries the details itself, from the full body.
pub fn thin(kind: EventKind, at: Timestamp, upload: UploadId, sequence: u64, full: &[u8]) -> String {
    message(kind, at, summary(upload, sequence, full))
}

/// Derives the body that remains after the client's data has been expunged from the full body.
pub fn expunged(kind: EventKind, at: Timestamp, upload: UploadId, sequence: u64, full: &[u8]) -> String {
    message(kind, at, EventSummary { expunged: Some(true), ..summary(upload, sequence, full) })
}

/// Writes the body of a test event.
pub fn ping(endpoint: &EndpointId, at: Timestamp) -> String {
    message(EventKind::Ping, at, Ping { endpoint: endpoint.to_string() })
}

/// Writes the body of an event about the delivery of events.
pub fn notice(notice: &Notice, at: Timestamp) -> String {
    let kind = notice.kind();
    match notice {
        Notice::Exhausted { delivery, endpoint, event, upload, attempts } => {
            let data = Exhausted {
                endpoint: endpoint.to_string(),
                delivery_id: delivery.to_string(),
                event_id: format!("evt_{event}"),
                upload_id: upload.map(|upload| upload.to_string()),
                attempts: *attempts,
            };
            message(kind, at, data)
        }
        Notice::EndpointFailing { endpoint, since, percent } => {
            let data = Failing { endpoint: endpoint.to_string(), failing_since: since.to_string(), percent: *percent };
            message(kind, at, data)
        }
        Notice::EndpointDisabled { endpoint, because } => {
            message(kind, at, Disabled { endpoint: endpoint.to_string(), reason: because.name().into() })
        }
    }
}

fn message(kind: EventKind, at: Timestamp, data: impl Serialize) -> String {
    let message = EventMessage { kind: kind.name().into(), timestamp: at.to_string(), data };
    serde_json::to_string(&message).expect("strings and numbers are always JSON")
}

fn summary(upload: UploadId, sequence: u64, full: &[u8]) -> EventSummary {
    let full: EventMessage<EventSummary> = serde_json::from_slice(full).unwrap_or_default();
    EventSummary { upload_id: upload.to_string(), sequence, ..full.data }
}

fn described<'a>(upload: &'a Record, event: &'a Event, url: &'a str) -> EventUpload<'a> {
    let failure = upload.failure.as_ref().filter(|_| event.stage == Stage::Ended(Ended::Failed));
    let metadata = upload.metadata.pairs().iter();
    EventUpload {
        upload_id: upload.id.to_string(),
        sequence: event.sequence,
        stage: event.stage.name().into(),
        offset: event.offset.get(),
        length: event.length.map(|length| length.get()),
        role: upload.role.name().into(),
        filename: upload.metadata.file_name(),
        content_type: upload.metadata.content_type(),
        metadata: metadata.map(|(name, value)| (name, Text::from(&value[..]))).collect(),
        truncated: false,
        digests: event.digests.iter().map(|digest| (digest.algorithm().name(), digest.hex())).collect(),
        facts: upload.facts.as_ref().filter(|_| knows_facts(event.stage)).map(Facts::from),
        report: event.details.report.as_ref().map(EventReport::from),
        by: event.details.by.map(DeletedBy::name).map(Keyword::from),
        file: event.details.file.as_deref().map(Cow::from),
        error: failure.map(EventError::from),
        url: url.into(),
    }
}

/// Reports whether the content had been inspected at this stage. Events of one commit are written together,
/// after the facts are known.
fn knows_facts(stage: Stage) -> bool {
    match stage {
        Stage::Created | Stage::Receiving | Stage::Stalled | Stage::Received => false,
        Stage::Verified | Stage::Stored | Stage::Completed | Stage::Ended(_) => true,
    }
}

impl<'a> From<&'a Report> for EventReport<'a> {
    fn from(report: &'a Report) -> Self {
        let message = report.message.as_deref().map(Cow::from);
        Self { name: report.name.as_str().into(), percent: report.percent, message }
    }
}

impl<'a> From<&'a Failure> for EventError<'a> {
    fn from(failure: &'a Failure) -> Self {
        let message = failure.message.chars().take(MAX_MESSAGE_CHARS).collect();
        Self { code: failure.code.as_str().into(), message }
    }
}

#[cfg(test)]
mod tests;

//! The body of an event, as every receiver gets it.
//!
//! It is written once, with the commit that made the event, and sent byte for byte from then on. Less than a
//! full body is cut out of the full one as it was written, so it is the same on every attempt, whatever has
//! become of the upload or the configuration since.

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

/// Above this size the metadata is left out. Everything else in a body is bounded, and far smaller.
const TARGET_BYTES: usize = 20_000;

/// The most characters of a failure's message in an event.
const MAX_MESSAGE_CHARS: usize = 1_000;

/// An event, with what its kind says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventMessage<D> {
    #[serde(rename = "type")]
    pub kind: Keyword,
    pub timestamp: String,
    pub data: D,
}

/// An upload right after an event of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventUpload<'a> {
    pub upload_id: String,
    /// Counts the events of the upload from 1.
    pub sequence: u64,
    pub stage: Keyword,
    /// Durable bytes without a gap.
    pub offset: u64,
    pub length: Option<u64>,
    pub role: Keyword,
    pub filename: Option<String>,
    pub content_type: Option<String>,
    pub metadata: Pairs<'a, Text<'a>>,
    /// Whether the metadata was left out as too large.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// By algorithm, in hexadecimal digits.
    pub digests: Pairs<'a, String>,
    pub facts: Option<Facts>,
    /// What a backend has reported, if that is the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<EventReport<'a>>,
    /// Who deleted the upload, or removed its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Keyword>,
    /// Where the file of a completed upload is, for programs on the same machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Cow<'a, str>>,
    pub error: Option<EventError<'a>>,
    /// Where its status is.
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

/// Why an upload failed, in an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventError<'a> {
    pub code: Cow<'a, str>,
    pub message: String,
}

/// What less than a full body still says of an event, as the full one has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventSummary {
    pub upload_id: String,
    pub sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Keyword>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// `null` while its client has not said it.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub length: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether what the client said was taken out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expunged: Option<bool>,
}

/// The subject of a test of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ping {
    pub endpoint: String,
}

/// A delivery that was given up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exhausted {
    pub endpoint: String,
    pub delivery_id: String,
    pub event_id: String,
    pub upload_id: Option<String>,
    pub attempts: u32,
}

/// An endpoint that has been failing for long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failing {
    pub endpoint: String,
    pub failing_since: String,
    /// How far towards being disabled it is.
    pub percent: u8,
}

/// An endpoint that the server has stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disabled {
    pub endpoint: String,
    pub reason: Keyword,
}

/// Writes the body of an event of this upload, whose status is at `status_root` with its id behind it.
pub fn upload(upload: &Record, event: &Event, status_root: &str) -> String {
    let url = format!("{status_root}{}", upload.id);
    let full = message(event.kind, event.at, described(upload, event, &url));
    if full.len() <= TARGET_BYTES {
        return full;
    }
    let data = EventUpload { metadata: Pairs::default(), truncated: true, ..described(upload, event, &url) };
    message(event.kind, event.at, data)
}

/// Writes the body for an endpoint that wants little and asks for the rest, from the full one.
pub fn thin(kind: EventKind, at: Timestamp, upload: UploadId, sequence: u64, full: &[u8]) -> String {
    message(kind, at, summary(upload, sequence, full))
}

/// Writes what is left of an event once what its client said was taken out of the full body.
pub fn expunged(kind: EventKind, at: Timestamp, upload: UploadId, sequence: u64, full: &[u8]) -> String {
    message(kind, at, EventSummary { expunged: Some(true), ..summary(upload, sequence, full) })
}

/// Writes the body of a test event.
pub fn ping(endpoint: &EndpointId, at: Timestamp) -> String {
    message(EventKind::Ping, at, Ping { endpoint: endpoint.to_string() })
}

/// Writes the body of news of the sending itself.
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

/// Whether the bytes had been looked into by then: events of one commit are written together.
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

//! The JSON every receiver of an event gets.
//!
//! It is written once, in the commit that made the event, and sent byte for byte from then on. The fields and their
//! order are a promise to receivers; only additions are compatible.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::facts_json::facts_json;
use domain::checksum::Digest;
use domain::endpoint::EndpointId;
use domain::event::{Event, EventKind};
use domain::failure::Failure;
use domain::id::UploadId;
use domain::metadata::Metadata;
use domain::notice::Notice;
use domain::removal::DeletedBy;
use domain::report::Report;
use domain::stage::{Ended, Stage};
use domain::time::Timestamp;
use domain::upload::Record;

/// Above this size the metadata is left out. Everything else in a body is bounded, and far smaller.
const TARGET_BYTES: usize = 20_000;

/// The most characters of a failure's message that are told.
const MAX_MESSAGE_CHARS: usize = 1_000;

/// What less than a full body still tells of an event, as the full one has it.
const ESSENCE: [&str; 5] = ["stage", "offset", "length", "url", "expunged"];

/// The body of an event of this upload. Its status is told at `status_root` with its id behind it.
pub fn event_body(upload: &Record, event: &Event, status_root: &str) -> String {
    let url = format!("{status_root}{}", upload.id);
    let full = render(upload, event, &url, Some(&upload.metadata));
    if full.len() <= TARGET_BYTES { full } else { render(upload, event, &url, None) }
}

/// A metadata value as JSON: a string if it is UTF-8, else `{"base64": "..."}`.
pub fn value_json(bytes: &[u8]) -> serde_json::Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::Value::from(text),
        Err(_) => serde_json::json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// What an endpoint is told that wants little: it asks for the rest. Made of nothing but the full body as it was
/// written, so it is the same on every attempt, whatever has become of the upload or the configuration since.
pub fn thin_body(kind: EventKind, at: Timestamp, upload: UploadId, sequence: i64, full: &[u8]) -> String {
    plain_body(kind, at, essence(upload, sequence, full).into())
}

/// What is left of an event when what its client said was taken out.
pub fn expunged_body(kind: EventKind, at: Timestamp, upload: UploadId, sequence: i64, full: &[u8]) -> String {
    let mut data = essence(upload, sequence, full);
    data.insert("expunged".to_owned(), Value::Bool(true));
    plain_body(kind, at, data.into())
}

fn essence(upload: UploadId, sequence: i64, full: &[u8]) -> Map<String, Value> {
    let full: Value = serde_json::from_slice(full).unwrap_or_default();
    let told = ESSENCE.into_iter().filter_map(|name| Some((name.to_owned(), full["data"].get(name)?.clone())));
    let which = [("upload_id", Value::from(upload.to_string())), ("sequence", Value::from(sequence))];
    which.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(told).collect()
}

pub fn ping_body(endpoint: &EndpointId, at: Timestamp) -> String {
    plain_body(EventKind::Ping, at, json!({ "endpoint": endpoint.as_str() }))
}

pub fn notice_body(notice: &Notice, at: Timestamp) -> String {
    let data = match notice {
        Notice::Exhausted { delivery, endpoint, event, upload, attempts } => json!({
            "endpoint": endpoint.as_str(),
            "delivery_id": delivery.to_string(),
            "event_id": format!("evt_{event}"),
            "upload_id": upload.map(|upload| upload.to_string()),
            "attempts": attempts,
        }),
        Notice::EndpointFailing { endpoint, since, percent } => json!({
            "endpoint": endpoint.as_str(),
            "failing_since": since.to_string(),
            "percent": percent,
        }),
        Notice::EndpointDisabled { endpoint, because } => json!({
            "endpoint": endpoint.as_str(),
            "reason": because.name(),
        }),
    };
    plain_body(notice.kind(), at, data)
}

fn plain_body(kind: EventKind, at: Timestamp, data: Value) -> String {
    json!({ "type": kind.name(), "timestamp": at.to_string(), "data": data }).to_string()
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    upload_id: String,
    sequence: u64,
    stage: &'static str,
    offset: u64,
    length: Option<u64>,
    role: &'static str,
    filename: Option<String>,
    content_type: Option<String>,
    #[serde(serialize_with = "metadata_object")]
    metadata: Option<&'a Metadata>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(serialize_with = "digests_object")]
    digests: &'a [Digest],
    facts: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Reported<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    error: Option<Problem<'a>>,
    url: &'a str,
}

#[derive(Serialize)]
struct Reported<'a> {
    name: &'a str,
    percent: Option<u8>,
    message: Option<&'a str>,
}

#[derive(Serialize)]
struct Problem<'a> {
    code: &'a str,
    message: String,
}

fn render(upload: &Record, event: &Event, url: &str, metadata: Option<&Metadata>) -> String {
    let failure = upload.failure.as_ref().filter(|_| event.stage == Stage::Ended(Ended::Failed));
    let data = Data {
        upload_id: upload.id.to_string(),
        sequence: event.sequence,
        stage: event.stage.name(),
        offset: event.offset.get(),
        length: event.length.map(|length| length.get()),
        role: upload.role.name(),
        filename: upload.metadata.file_name(),
        content_type: upload.metadata.content_type(),
        metadata,
        truncated: metadata.is_none(),
        digests: &event.digests,
        facts: upload.facts.as_ref().filter(|_| knows_facts(event.stage)).map(facts_json),
        report: event.details.report.as_ref().map(reported),
        by: event.details.by.map(DeletedBy::name),
        file: event.details.file.as_deref(),
        error: failure.map(problem),
        url,
    };
    let body = Body { kind: event.kind.name(), timestamp: event.at.to_string(), data };
    serde_json::to_string(&body).expect("strings and numbers are always JSON")
}

fn reported(report: &Report) -> Reported<'_> {
    Reported { name: &report.name, percent: report.percent, message: report.message.as_deref() }
}

/// Whether the bytes had been looked into by then: events of one commit are written together.
fn knows_facts(stage: Stage) -> bool {
    match stage {
        Stage::Created | Stage::Receiving | Stage::Stalled | Stage::Received => false,
        Stage::Verified | Stage::Stored | Stage::Completed | Stage::Ended(_) => true,
    }
}

fn problem(failure: &Failure) -> Problem<'_> {
    Problem { code: &failure.code, message: failure.message.chars().take(MAX_MESSAGE_CHARS).collect() }
}

fn metadata_object<S: Serializer>(metadata: &Option<&Metadata>, serializer: S) -> Result<S::Ok, S::Error> {
    let pairs = metadata.map(Metadata::pairs).unwrap_or_default();
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value_json(value))))
}

fn digests_object<S: Serializer>(digests: &&[Digest], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(digests.iter().map(|digest| (digest.algorithm().name(), digest.hex())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::checksum::Algorithm;
    use domain::dialect::Dialect;
    use domain::event::{Details, EventKind};
    use domain::facts::{Content, Facts, Media, Track, TrackKind};
    use domain::id::UploadId;
    use domain::principal::TenantId;
    use domain::size::{Length, Offset};
    use domain::time::Timestamp;
    use domain::upload::{NewUpload, Role, Terms, Upload};

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_290_123);

    const ROOT: &str = "https://uploads.example/api/v1/uploads/";

    fn event_body(upload: &Record, event: &Event) -> String {
        super::event_body(upload, event, ROOT)
    }

    fn record(metadata: Vec<(&str, Vec<u8>)>) -> Record {
        let metadata = metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let new = NewUpload {
            id: UploadId::new(NOW, [7; 10]),
            tenant: TenantId::DEFAULT,
            dialect: Dialect::Tus,
            role: Role::Single,
            length: Length::new(11),
            metadata: Metadata::new(metadata).unwrap(),
            metadata_as_sent: None,
            terms: Terms::default(),
            wanted_digests: vec![],
            promised_digests: vec![],
            expires_at: NOW,
        };
        Upload::create(new, NOW).record().clone()
    }

    fn event(kind: EventKind, stage: Stage) -> Event {
        Event {
            sequence: 6,
            kind,
            at: NOW,
            stage,
            offset: Offset::new(11).unwrap(),
            length: Length::new(11),
            digests: vec![
                Digest::new(Algorithm::Crc32c, vec![0xc9, 0x94, 0x65, 0xaa]).unwrap(),
                Digest::new(Algorithm::Md5, (0..16).collect()).unwrap(),
            ],
            details: Details::default(),
        }
    }

    /// webhooks P1, P3, P5: type, timestamp and data, as receivers have come to know them.
    #[test]
    fn a_body_is_written_exactly_so() {
        let record = record(vec![
            ("filename", b"one \"two\".mp4".to_vec()),
            ("filetype", b"video/mp4".to_vec()),
            ("a", "grün".into()),
            ("raw", vec![0xff, 0]),
        ]);
        let body = event_body(&record, &event(EventKind::Completed, Stage::Completed));
        let expected = concat!(
            r#"{"type":"upload.completed","timestamp":"2026-11-21T22:31:30.123Z","data":{"#,
            r#""upload_id":"01a2003c-6e4b-7707-8707-070707070707","sequence":6,"stage":"completed","#,
            r#""offset":11,"length":11,"role":"single","filename":"one \"two\".mp4","content_type":"video/mp4","#,
            r#""metadata":{"filename":"one \"two\".mp4","filetype":"video/mp4","a":"grün","raw":{"base64":"/wA="}},"#,
            r#""digests":{"crc32c":"c99465aa","md5":"000102030405060708090a0b0c0d0e0f"},"facts":null,"error":null,"#,
            r#""url":"https://uploads.example/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707"}}"#,
        );
        assert_eq!(body, expected);
    }

    /// webhooks P5, P7: which upload, how far it is and where to ask; of the frozen body and nothing else.
    #[test]
    fn less_than_a_full_body_is_cut_out_of_it() {
        let record = record(vec![("filename", b"v.mp4".to_vec())]);
        let event = event(EventKind::Completed, Stage::Completed);
        let full = event_body(&record, &event);
        let thin = |full: &str| thin_body(event.kind, NOW, record.id, 6, full.as_bytes());
        let expected = concat!(
            r#"{"type":"upload.completed","timestamp":"2026-11-21T22:31:30.123Z","data":{"#,
            r#""upload_id":"01a2003c-6e4b-7707-8707-070707070707","sequence":6,"stage":"completed","offset":11,"#,
            r#""length":11,"url":"https://uploads.example/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707"}}"#,
        );
        assert_eq!(thin(&full), expected);
        let expunged = expunged_body(event.kind, NOW, record.id, 6, full.as_bytes());
        assert_eq!(expunged, expected.replace(r#""}}"#, r#"","expunged":true}}"#));
        assert_eq!(thin(&expunged), expunged, "there is nothing left to take out");
        assert_eq!(expunged_body(event.kind, NOW, record.id, 6, expunged.as_bytes()), expunged);
        // What a version without these fields has written says less, and is no reason to send nothing.
        let old = r#"{"type":"upload.completed","data":{"upload_id":"x","sequence":1,"stage":"completed"}}"#;
        assert!(thin(old).ends_with(r#""sequence":6,"stage":"completed"}}"#), "{}", thin(old));
        assert!(thin("broken").ends_with(r#""sequence":6}}"#), "{}", thin("broken"));
    }

    #[test]
    fn a_report_is_in_the_event_that_tells_of_it() {
        let mut event = event(EventKind::Processing, Stage::Completed);
        let message = Some("half \"done\"".to_owned());
        event.details.report =
            Some(Report { name: "hls".to_owned(), percent: Some(50), message, at: NOW, told_at: NOW });
        let body = event_body(&record(vec![]), &event);
        assert!(
            body.contains(r#""report":{"name":"hls","percent":50,"message":"half \"done\""},"error":null"#),
            "{body}"
        );
    }

    #[test]
    fn a_deletion_says_by_whom_and_a_completion_where_the_file_is() {
        let (record, mut event) = (record(vec![]), event(EventKind::Removed, Stage::Completed));
        event.details.by = Some(DeletedBy::Retention);
        let body = event_body(&record, &event);
        assert!(body.contains(r#""facts":null,"by":"retention","error":null"#), "{body}");
        event.details = Details { file: Some("/srv/a \"b\"".to_owned()), ..Details::default() };
        let body = event_body(&record, &event);
        assert!(body.contains(r#""facts":null,"file":"/srv/a \"b\"","error":null"#), "{body}");
        let thin = thin_body(event.kind, NOW, record.id, 6, body.as_bytes());
        assert!(!thin.contains("/srv"), "{thin}");
    }

    /// webhooks P6: over 20 kB the metadata goes, and the body says so.
    #[test]
    fn a_body_stays_within_its_bounds() {
        let mut record = record(vec![("filename", b"v.mp4".to_vec()), ("much", vec![1; 19_000])]);
        record.failure = Some(Failure { code: "broken".to_owned(), message: "\u{1}".repeat(1_000_000), status: None });
        let most = Track {
            kind: TrackKind::Video,
            codec: "x".repeat(40),
            width: Some(u32::MAX),
            height: Some(u32::MAX),
            frames_per_1000_s: Some(u32::MAX),
            channels: Some(u32::MAX),
            sample_rate_hz: Some(u32::MAX),
        };
        let media = Media { duration_ms: Some(u64::MAX), tracks: vec![most; 32] };
        let content = Some(Content::Media(media));
        record.facts = Some(Facts { content_type: "application/octet-stream".to_owned(), content });
        let body = event_body(&record, &event(EventKind::Failed, Stage::Ended(Ended::Failed)));
        assert!(body.len() <= TARGET_BYTES, "{} bytes", body.len());
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["data"]["truncated"], true);
        assert_eq!(json["data"]["metadata"], serde_json::json!({}));
        assert_eq!(json["data"]["filename"], "v.mp4");
        assert_eq!(json["data"]["error"]["code"], "broken");
    }

    /// Events of one commit are written together, but each tells what was true right after it.
    #[test]
    fn facts_are_told_from_verified_on() {
        let mut record = record(vec![]);
        let facts = |record: &Record, kind, stage| {
            let json: serde_json::Value = serde_json::from_str(&event_body(record, &event(kind, stage))).unwrap();
            json["data"]["facts"].clone()
        };
        assert!(facts(&record, EventKind::Verified, Stage::Verified).is_null());
        record.facts = Some(Facts { content_type: "text/plain".to_owned(), content: None });
        assert!(facts(&record, EventKind::Received, Stage::Received).is_null());
        for (kind, stage) in [
            (EventKind::Verified, Stage::Verified),
            (EventKind::Completed, Stage::Completed),
            (EventKind::Failed, Stage::Ended(Ended::Failed)),
        ] {
            assert_eq!(facts(&record, kind, stage), serde_json::json!({ "content_type": "text/plain" }));
        }
    }

    #[test]
    fn only_the_failure_itself_tells_the_error() {
        let mut record = record(vec![]);
        record.failure = Some(Failure { code: "broken".to_owned(), message: "it broke".to_owned(), status: None });
        let error = |kind, stage| {
            let json: serde_json::Value = serde_json::from_str(&event_body(&record, &event(kind, stage))).unwrap();
            json["data"]["error"].clone()
        };
        assert!(error(EventKind::Received, Stage::Received).is_null());
        let told = error(EventKind::Failed, Stage::Ended(Ended::Failed));
        assert_eq!(told, serde_json::json!({ "code": "broken", "message": "it broke" }));
    }
}

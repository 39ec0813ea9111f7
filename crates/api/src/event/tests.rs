use super::*;
use domain::checksum::{Algorithm, Digest};
use domain::dialect::Dialect;
use domain::event::{Details, EventKind};
use domain::facts::{Content, Facts, Media, Track, TrackKind};
use domain::id::UploadId;
use domain::metadata::Metadata;
use domain::principal::TenantId;
use domain::size::{Length, Offset};
use domain::time::Timestamp;
use domain::upload::{NewUpload, Role, Upload, UploadTerms};
use domain::write_rules::{Completion, WriteOrder, WriteRules};

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_290_123);

const ROOT: &str = "https://uploads.example/api/v1/uploads/";

fn event_body(upload: &Record, event: &Event) -> String {
    super::upload(upload, event, ROOT)
}

fn record(metadata: Vec<(&str, Vec<u8>)>) -> Record {
    let metadata = metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let new = NewUpload {
        id: UploadId::new(NOW, [7; 10]),
        tenant: TenantId::DEFAULT,
        dialect: Dialect::named("tus"),
        write_rules: WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
        role: Role::Single,
        length: Length::new(11),
        metadata: Metadata::new(metadata).unwrap(),
        metadata_as_sent: None,
        terms: UploadTerms::default(),
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

/// webhooks P1, P3, P5: the type, timestamp and data have exactly the form that receivers rely on.
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

/// webhooks P5, P7: a reduced body names the upload, its progress and its status URL, and takes all of that
/// from the frozen full body.
#[test]
fn less_than_a_full_body_is_cut_out_of_it() {
    let record = record(vec![("filename", b"v.mp4".to_vec())]);
    let event = event(EventKind::Completed, Stage::Completed);
    let full = event_body(&record, &event);
    let thin = |full: &str| thin(event.kind, NOW, record.id, 6, full.as_bytes());
    let expected = concat!(
        r#"{"type":"upload.completed","timestamp":"2026-11-21T22:31:30.123Z","data":{"#,
        r#""upload_id":"01a2003c-6e4b-7707-8707-070707070707","sequence":6,"stage":"completed","offset":11,"#,
        r#""length":11,"url":"https://uploads.example/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707"}}"#,
    );
    assert_eq!(thin(&full), expected);
    let left = expunged(event.kind, NOW, record.id, 6, full.as_bytes());
    assert_eq!(left, expected.replace(r#""}}"#, r#"","expunged":true}}"#));
    assert_eq!(thin(&left), left, "there is nothing left to take out");
    assert_eq!(expunged(event.kind, NOW, record.id, 6, left.as_bytes()), left);
    // Bodies of an older version may lack these fields. The reduced body then has fewer fields and is still
    // sent.
    let old = r#"{"type":"upload.completed","data":{"upload_id":"x","sequence":1,"stage":"completed"}}"#;
    assert!(thin(old).ends_with(r#""sequence":6,"stage":"completed"}}"#), "{}", thin(old));
    assert!(thin("broken").ends_with(r#""sequence":6}}"#), "{}", thin("broken"));
}

#[test]
fn a_report_is_in_the_event_that_tells_of_it() {
    let mut event = event(EventKind::Processing, Stage::Completed);
    let message = Some("half \"done\"".to_owned());
    event.details.report =
        Some(Report { name: "hls".to_owned(), percent: Some(50), message, at: NOW, published_at: NOW });
    let body = event_body(&record(vec![]), &event);
    assert!(body.contains(r#""report":{"name":"hls","percent":50,"message":"half \"done\""},"error":null"#), "{body}");
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
    let thin = thin(event.kind, NOW, record.id, 6, body.as_bytes());
    assert!(!thin.contains("/srv"), "{thin}");
}

/// webhooks P6: above 20 kB the metadata is omitted, and the body says so.
#[test]
fn a_body_stays_within_its_bounds() {
    let mut record = record(vec![("filename", b"v.mp4".to_vec()), ("much", vec![1; 19_000])]);
    record.failure = Some(Failure { code: "broken".to_owned(), message: "\u{1}".repeat(1_000_000), rejection: None });
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

/// Events of one commit are written together, but each describes the state right after itself.
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
    record.failure = Some(Failure { code: "broken".to_owned(), message: "it broke".to_owned(), rejection: None });
    let error = |kind, stage| {
        let json: serde_json::Value = serde_json::from_str(&event_body(&record, &event(kind, stage))).unwrap();
        json["data"]["error"].clone()
    };
    assert!(error(EventKind::Received, Stage::Received).is_null());
    let told = error(EventKind::Failed, Stage::Ended(Ended::Failed));
    assert_eq!(told, serde_json::json!({ "code": "broken", "message": "it broke" }));
}

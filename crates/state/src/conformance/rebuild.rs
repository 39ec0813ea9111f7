//! The log is complete: the contents of an upload's row follow from all its events (webhooks G3).
//!
//! The exceptions are facts that cause no event. Bytes between two events within a stage are reported only as
//! progress, if an endpoint subscribes to it and at a limited rate; for an upload in flight the offset may
//! therefore be newer than the log, and so may the percentage of a report that followed another quickly.
//! Internal facts are not reported at all: the received ranges and the states of digests and storage behind
//! them, expiry and terms, whether the bytes are deleted or missing, the application's decision (which is in
//! the record of hook calls), and the time of the last change.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::*;
use api::text::Text;
use domain::checksum::{Algorithm, Digest};
use domain::facts::Facts;
use domain::failure::{Failure, RejectionKind};
use domain::principal::TenantScope;
use domain::report::NewReport;
use domain::stage::Stage;
use domain::upload::Record;

const LIVES: u32 = 100;

/// The changes within a stage that cause events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventDetail {
    /// Every byte causes a progress event, and reports are far enough apart.
    All,
    /// No byte causes an event, as when no endpoint subscribes to progress; and reports follow quickly.
    Stages,
}

impl EventDetail {
    fn policy(self) -> Option<ProgressPolicy> {
        (self == Self::All).then_some(ProgressPolicy { every: Duration::ZERO, min_bytes: u64::MAX })
    }

    /// Returns the instant of a step in a life.
    fn at(self, step: i64) -> Timestamp {
        match self {
            Self::All => at(2 * step),
            Self::Stages => Timestamp::from_unix_ms(NOW.unix_ms() + 100 * step),
        }
    }

    /// Removes facts that the log need not contain.
    fn trim(self, mut facts: Value) -> Value {
        if self == Self::Stages {
            if facts["stage"] == "receiving" {
                facts["offset"] = Value::Null;
            }
            for report in facts["reports"].as_array_mut().unwrap() {
                report["percent"] = Value::Null;
            }
        }
        facts
    }
}

/// Returns the contents of a row in the form of events.
fn facts_in_row(record: &Record) -> Value {
    let failed = record.failure.as_ref().map(|failure| json!({ "code": failure.code, "message": failure.message }));
    json!({
        "stage": record.stage.name(),
        "offset": record.received.contiguous().get(),
        "length": record.length.map(|length| length.get()),
        "role": record.role.name(),
        "metadata": record.metadata.pairs().iter().map(|(name, value)| (name.clone(), value_of(value))).collect::<serde_json::Map<_, _>>(),
        "digests": record.digests.iter().map(|it| (it.algorithm().name().to_owned(), it.hex().into())).collect::<serde_json::Map<_, _>>(),
        "facts": record.facts.as_ref().map(api::facts::Facts::from),
        "error": failed,
        "timeline": record.timeline.iter().map(|(stage, at)| json!([stage.name(), at.to_string()])).collect::<Vec<_>>(),
        "removed": record.removed.map(|removed| json!([removed.by.name(), removed.at.to_string()])),
        "reports": record.reports.iter().map(|it| json!({ "name": it.name, "percent": it.percent, "message": it.message })).collect::<Vec<_>>(),
        "next_sequence": record.next_sequence,
    })
}

fn value_of(bytes: &[u8]) -> Value {
    serde_json::to_value(Text::from(bytes)).unwrap()
}

/// Returns the same facts, derived only from the bodies of events.
fn facts_in_log(bodies: &[Value]) -> Value {
    let (mut timeline, mut reports): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    let (mut stage, mut removed) = (Value::Null, Value::Null);
    for body in bodies {
        let data = &body["data"];
        // Events within a stage add no entry to the timeline.
        match body["type"].as_str() {
            Some("upload.progress" | "upload.processing") => {}
            Some("upload.removed") => removed = json!([data["by"], body["timestamp"]]),
            _ => timeline.push(json!([data["stage"], body["timestamp"]])),
        }
        stage = data["stage"].clone();
        if let Some(report) = data.get("report") {
            match reports.iter_mut().find(|known| known["name"] == report["name"]) {
                Some(known) => *known = report.clone(),
                None => reports.push(report.clone()),
            }
        }
    }
    let last = &bodies.last().expect("an upload begins with an event")["data"];
    json!({
        "stage": stage,
        "offset": last["offset"],
        "length": last["length"],
        "role": last["role"],
        "metadata": last["metadata"],
        "digests": last["digests"],
        "facts": last["facts"],
        "error": last["error"],
        "timeline": timeline,
        "removed": removed,
        "reports": reports,
        "next_sequence": bodies.len() + 1,
    })
}

/// Makes one step in the life of an upload that its stage permits.
fn live(upload: &mut Upload, choice: u8, detail: EventDetail, now: Timestamp) {
    let failure = || Failure {
        code: "broken".to_owned(),
        message: "it broke".to_owned(),
        rejection: Some(RejectionKind::Unprocessable),
    };
    match (upload.stage(), choice) {
        (Stage::Created | Stage::Receiving | Stage::Stalled, 0..=3) => {
            let bytes = (u64::from(choice) + 1) * 2_500;
            receive_with(upload, bytes.min(10_000 - upload.offset().get()), detail.policy(), now);
            if upload.is_full() {
                let digest = Digest::new(Algorithm::Crc32c, vec![choice; 4]).unwrap();
                upload.seal(vec![digest], now).unwrap();
            }
        }
        (Stage::Receiving, 4) => upload.stall(now),
        (Stage::Created | Stage::Receiving | Stage::Stalled, 5) => upload.expire(now),
        (Stage::Created | Stage::Receiving | Stage::Stalled, 6) => upload.terminate(DeletedBy::Client, now).unwrap(),
        (Stage::Completed, 5) => drop(upload.remove(DeletedBy::Retention, now)),
        (Stage::Completed, 6) => drop(upload.terminate(DeletedBy::Client, now)),
        (Stage::Received, 0..=5) => {
            upload.set_facts(Facts { content_type: "video/mp4".to_owned(), content: None });
            upload.verify(now);
        }
        (Stage::Received | Stage::Verified | Stage::Stored, 6) => upload.fail(failure(), now),
        (Stage::Verified, _) => upload.store(now),
        (Stage::Stored, _) => upload.complete(now),
        (Stage::Completed, _) => {
            let message = (choice < 2).then(|| format!("it is {choice}"));
            let report = NewReport::new(format!("stage{}", choice % 3), Some(u64::from(choice)), message).unwrap();
            upload.report(report, now).unwrap();
        }
        _ => {}
    }
}

pub async fn replaying_the_log_rebuilds_the_rows<P: StateFixture>(place: P) {
    rebuild(place, EventDetail::All).await;
}

pub async fn the_log_rebuilds_all_but_what_is_in_flight<P: StateFixture>(place: P) {
    rebuild(place, EventDetail::Stages).await;
}

async fn rebuild<P: StateFixture>(place: P, detail: EventDetail) {
    let store = place.open().await;
    store.open_for(own(), vec![], NOW).await.unwrap();
    let mut runner = TestRunner::default();
    let steps = proptest::collection::vec(0_u8..8, 0..12);
    let mut stages = std::collections::BTreeSet::new();
    let mut unlogged = 0;
    for life in 0..LIVES {
        // The first life ends with bytes in flight; the others are random.
        let steps = if life == 0 { vec![0, 0] } else { steps.new_tree(&mut runner).unwrap().current() };
        let metadata = vec![("name".to_owned(), vec![0xff, b'x']), ("user".to_owned(), b"7".to_vec())];
        let id = UploadId::new(at(i64::from(life)), rand::random());
        let asked = NewUpload { id, metadata: Metadata::new(metadata).unwrap(), ..asked(0) };
        let mut upload = store.insert(change_of(Upload::create(asked, NOW))).await.unwrap();
        for (number, step) in (1..).zip(&steps) {
            live(&mut upload, *step, detail, detail.at(number));
            upload = store.commit(change_of(upload)).await.unwrap();
        }
        let row = store.find(TenantScope::All, id).await.unwrap().unwrap();
        let log = store.events_of(TenantScope::All, id, 0, 1_000).await.unwrap();
        let bodies: Vec<Value> = log.iter().map(|event| serde_json::from_slice(&event.body).unwrap()).collect();
        assert!(log.iter().map(|event| event.sequence).eq(1..=log.len() as u64), "webhooks P5: without a gap");
        let (by_log, by_row) = (facts_in_log(&bodies), facts_in_row(row.record()));
        unlogged += u32::from(by_log != by_row);
        assert_eq!(detail.trim(by_log), detail.trim(by_row), "after {steps:?}");
        stages.insert(row.stage());
    }
    assert!(stages.len() >= 5, "the lives were too much alike: {stages:?}");
    assert_eq!(unlogged > 0, detail == EventDetail::Stages, "{unlogged} lives had something to leave out");
}

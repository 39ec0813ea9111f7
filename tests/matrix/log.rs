//! The log is complete (webhooks G3): every event of an upload together gives the content of its row. The
//! rule, and the fields that no event carries, are those of the conformance suite of the state.

use api::facts::Facts;
use api::text::Text;
use domain::log::LoggedEvent;
use domain::upload::Record;
use serde_json::{Value, json};

/// Returns the difference between the log of an upload and its row, if there is one.
pub fn difference(record: &Record, log: &[LoggedEvent]) -> Option<String> {
    if !log.iter().map(|event| event.sequence).eq(1..=log.len() as u64) {
        let sequences: Vec<u64> = log.iter().map(|event| event.sequence).collect();
        return Some(format!("the sequence of its events has gaps: {sequences:?}"));
    }
    let bodies: Result<Vec<Value>, _> = log.iter().map(|event| serde_json::from_slice(&event.body)).collect();
    let Ok(bodies) = bodies else { return Some("an event is not JSON".to_owned()) };
    let (Some(by_log), by_row) = (told_by_log(&bodies), told_by_row(record)) else {
        return Some("it has no event".to_owned());
    };
    let (by_log, by_row) = (trim(by_log), trim(by_row));
    (by_log != by_row).then(|| format!("the log says {by_log}, the row {by_row}"))
}

fn told_by_row(record: &Record) -> Value {
    let failed = record.failure.as_ref().map(|failure| json!({ "code": failure.code, "message": failure.message }));
    let pairs = record.metadata.pairs().iter().map(|(name, value)| (name.clone(), json!(Text::from(&value[..]))));
    let digests = record.digests.iter().map(|it| (it.algorithm().name().to_owned(), Value::from(it.hex())));
    json!({
        "stage": record.stage.name(),
        "offset": record.received.contiguous().get(),
        "length": record.length.map(|length| length.get()),
        "role": record.role.name(),
        "metadata": pairs.collect::<serde_json::Map<_, _>>(),
        "digests": digests.collect::<serde_json::Map<_, _>>(),
        "facts": record.facts.as_ref().map(Facts::from),
        "error": failed,
        "timeline": record.timeline.iter().map(|(stage, at)| json!([stage.name(), at.to_string()])).collect::<Vec<_>>(),
        "removed": record.removed.map(|removed| json!([removed.by.name(), removed.at.to_string()])),
        "next_sequence": record.next_sequence,
    })
}

fn told_by_log(bodies: &[Value]) -> Option<Value> {
    let last = &bodies.last()?["data"];
    let within = ["upload.progress", "upload.processing", "upload.removed"];
    let entered = |body: &&Value| within.iter().all(|kind| body["type"] != *kind);
    let removed = bodies.iter().find(|body| body["type"] == "upload.removed");
    let entries = bodies.iter().filter(entered).map(|body| json!([body["data"]["stage"], body["timestamp"]]));
    Some(json!({
        "stage": last["stage"],
        "offset": last["offset"],
        "length": last["length"],
        "role": last["role"],
        "metadata": last["metadata"],
        "digests": last["digests"],
        "facts": last["facts"],
        "error": last["error"],
        "timeline": entries.collect::<Vec<_>>(),
        "removed": removed.map(|body| json!([body["data"]["by"], body["timestamp"]])),
        "next_sequence": bodies.len() + 1,
    }))
}

/// Removes the parts that the log may omit: bytes that arrived within a stage, and a length that was declared
/// without an event.
fn trim(mut told: Value) -> Value {
    if ["created", "receiving", "stalled"].iter().any(|stage| told["stage"] == *stage) {
        told["offset"] = Value::Null;
        told["length"] = Value::Null;
    }
    // A long timeline drops its oldest stalls.
    if told["timeline"].as_array().is_some_and(|timeline| timeline.len() >= 60) {
        told["timeline"] = Value::Null;
    }
    told
}

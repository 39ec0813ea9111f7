//! What an operator has said of an endpoint, as JSON: in the database and in the API.

use std::time::Duration;

use serde_json::{Value, json};

use domain::endpoint::{EndpointTerms, Ordering, Payload, Signing};
use domain::event::EventFilter;

/// All of it; what is as for all endpoints is `null`.
pub fn terms_json(terms: &EndpointTerms) -> Value {
    let metadata: serde_json::Map<_, _> =
        terms.metadata.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    json!({
        "url": terms.url,
        "description": terms.description,
        "events": terms.filter.patterns(),
        "metadata": metadata,
        "ordering": terms.ordering.name(),
        "payload": terms.payload.name(),
        "signing": terms.signing.name(),
        "max_in_flight": terms.max_in_flight,
        "max_per_second": terms.max_per_second,
        "timeout_ms": terms.timeout.map(milliseconds),
        "retry_schedule_ms": terms.retry_schedule.as_ref().map(|waits| waits.iter().copied().map(milliseconds).collect::<Vec<_>>()),
        "auto_disable": terms.auto_disable,
        "ca_certificates": terms.ca_certificates,
    })
}

/// The inverse of [`terms_json`]; `None` for anything it does not write.
pub fn terms_from_json(value: &Value) -> Option<EndpointTerms> {
    let text = |name| value.get(name).and_then(Value::as_str);
    let count = |name| value.get(name).and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok());
    let patterns = value.get("events")?.as_array()?.iter().map(|pattern| pattern.as_str().map(str::to_owned));
    let metadata = value.get("metadata")?.as_object()?.iter();
    let waits = value.get("retry_schedule_ms").and_then(Value::as_array);
    Some(EndpointTerms {
        url: text("url")?.to_owned(),
        description: text("description")?.to_owned(),
        filter: EventFilter::new(patterns.collect::<Option<_>>()?).ok()?,
        metadata: metadata
            .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect::<Option<_>>()?,
        ordering: Ordering::by_name(text("ordering")?)?,
        payload: Payload::by_name(text("payload")?)?,
        signing: Signing::by_name(text("signing")?)?,
        max_in_flight: count("max_in_flight"),
        max_per_second: count("max_per_second"),
        timeout: value.get("timeout_ms").and_then(Value::as_u64).map(Duration::from_millis),
        retry_schedule: match waits {
            Some(waits) => Some(waits.iter().map(span).collect::<Option<_>>()?),
            None => None,
        },
        auto_disable: value.get("auto_disable")?.as_bool()?,
        ca_certificates: text("ca_certificates").map(str::to_owned),
    })
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn span(value: &Value) -> Option<Duration> {
    value.as_u64().map(Duration::from_millis)
}

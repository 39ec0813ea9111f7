//! The stored form of endpoint terms, for the column `terms`.
//!
//! This is the first and so far the only form: JSON in which `null` selects the server-wide default. It is
//! independent of the JSON of the API, which may change separately.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use domain::endpoint::{EndpointTerms, Ordering, Payload, Signing};
use domain::event::EventFilter;
use domain::time::milliseconds;

#[derive(Serialize, Deserialize)]
struct StoredTerms {
    url: String,
    description: String,
    events: Vec<String>,
    /// Names and values, in the order given.
    metadata: Map<String, Value>,
    ordering: String,
    payload: String,
    signing: String,
    max_in_flight: Option<u32>,
    max_per_second: Option<u32>,
    timeout_ms: Option<u64>,
    retry_schedule_ms: Option<Vec<u64>>,
    auto_disable: bool,
    ca_certificates: Option<String>,
}

pub(super) fn write(terms: &EndpointTerms) -> String {
    let metadata = terms.metadata.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    let schedule = terms.retry_schedule.as_ref();
    let stored = StoredTerms {
        url: terms.url.clone(),
        description: terms.description.clone(),
        events: terms.filter.patterns().to_vec(),
        metadata: metadata.collect(),
        ordering: terms.ordering.name().to_owned(),
        payload: terms.payload.name().to_owned(),
        signing: terms.signing.name().to_owned(),
        max_in_flight: terms.max_in_flight,
        max_per_second: terms.max_per_second,
        timeout_ms: terms.timeout.map(milliseconds),
        retry_schedule_ms: schedule.map(|waits| waits.iter().copied().map(milliseconds).collect()),
        auto_disable: terms.auto_disable,
        ca_certificates: terms.ca_certificates.clone(),
    };
    serde_json::to_string(&stored).expect("strings and numbers are always JSON")
}

/// Reads terms written by [`write()`]; `None` for any other text.
pub(super) fn read(text: &str) -> Option<EndpointTerms> {
    let stored: StoredTerms = serde_json::from_str(text).ok()?;
    let metadata = stored.metadata.into_iter();
    Some(EndpointTerms {
        url: stored.url,
        description: stored.description,
        filter: EventFilter::new(stored.events).ok()?,
        metadata: metadata.map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect::<Option<_>>()?,
        ordering: Ordering::by_name(&stored.ordering)?,
        payload: Payload::by_name(&stored.payload)?,
        signing: Signing::by_name(&stored.signing)?,
        max_in_flight: stored.max_in_flight,
        max_per_second: stored.max_per_second,
        timeout: stored.timeout_ms.map(Duration::from_millis),
        retry_schedule: stored.retry_schedule_ms.map(|waits| waits.into_iter().map(Duration::from_millis).collect()),
        auto_disable: stored.auto_disable,
        ca_certificates: stored.ca_certificates,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Existing databases contain rows in exactly this form.
    #[test]
    fn terms_are_written_as_they_always_were() {
        let terms = EndpointTerms {
            metadata: vec![("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())],
            timeout: Some(Duration::from_secs(3)),
            retry_schedule: Some(vec![Duration::from_millis(5)]),
            filter: EventFilter::new(vec!["upload.*".to_owned()]).unwrap(),
            ..EndpointTerms::of("https://a/b")
        };
        let text = concat!(
            r#"{"url":"https://a/b","description":"","events":["upload.*"],"metadata":{"b":"2","a":"1"},"#,
            r#""ordering":"per_upload","payload":"full","signing":"hmac","max_in_flight":null,"max_per_second":null,"#,
            r#""timeout_ms":3000,"retry_schedule_ms":[5],"auto_disable":true,"ca_certificates":null}"#
        );
        assert_eq!(write(&terms), text);
        assert_eq!(read(text), Some(terms));
        let older = text.replace(r#","ca_certificates":null"#, "");
        assert!(read(&older).is_some(), "a row from before there were certificates");
        assert_eq!(read(&text.replace("per_upload", "by_size")), None);
    }
}

//! Reads the settings of an endpoint from a request, strictly: an error names the field and its valid values.

use std::time::Duration;

use crate::front::webhooks::bad;
use api::endpoint::EndpointChange;
use domain::endpoint::{EndpointTerms, Ordering, Payload, Signing};
use domain::event::{EventFilter, EventKind};
use edge::problem::Problem;

/// Example of a body, for error messages.
pub(super) const FORM: &str = r#"{"url": "https://app.example.com/hooks", "events": ["upload.completed"]}"#;

/// Returns the settings with the changes of a request. The sender checks whether they are valid for an
/// endpoint.
pub(super) fn changed(before: EndpointTerms, said: &EndpointChange) -> Result<EndpointTerms, Problem> {
    let mut terms = before;
    if let Some(url) = &said.url {
        terms.url.clone_from(url);
    }
    if let Some(description) = &said.description {
        terms.description.clone_from(description);
    }
    if let Some(events) = &said.events {
        terms.filter = filter(events)?;
    }
    if let Some(metadata) = &said.metadata {
        terms.metadata = metadata.clone().into_iter().collect();
    }
    if let Some(name) = &said.ordering {
        terms.ordering = named("ordering", name, Ordering::by_name, Ordering::ALL.iter().map(|it| it.name()))?;
    }
    if let Some(name) = &said.payload {
        terms.payload = named("payload", name, Payload::by_name, Payload::ALL.iter().map(|it| it.name()))?;
    }
    if let Some(name) = &said.signing {
        terms.signing = named("signing", name, Signing::by_name, Signing::ALL.iter().map(|it| it.name()))?;
    }
    terms.max_in_flight = said.max_in_flight.unwrap_or(terms.max_in_flight);
    terms.max_per_second = said.max_per_second.unwrap_or(terms.max_per_second);
    if let Some(timeout) = said.timeout_ms {
        terms.timeout = timeout.map(Duration::from_millis);
    }
    if let Some(waits) = &said.retry_schedule_ms {
        terms.retry_schedule = waits.as_ref().map(|waits| waits.iter().copied().map(Duration::from_millis).collect());
    }
    terms.auto_disable = said.auto_disable.unwrap_or(terms.auto_disable);
    if let Some(certificates) = &said.ca_certificates {
        terms.ca_certificates.clone_from(certificates);
    }
    Ok(terms)
}

pub(super) fn header_pairs(said: &EndpointChange) -> Option<Vec<(String, String)>> {
    said.headers.clone().map(|headers| headers.into_iter().collect())
}

fn filter(events: &[String]) -> Result<EventFilter, Problem> {
    if events.is_empty() {
        return Err(bad("events", "nothing would be sent; leave it out for all upload events except upload.progress"));
    }
    EventFilter::new(events.to_vec()).map_err(|why| {
        let known = EventKind::ALL.map(EventKind::name).join(", ");
        bad("events", &format!("{why}; supported are {known}, prefixes such as upload.*, and * for all"))
    })
}

fn named<T>(
    field: &str,
    name: &str,
    by_name: fn(&str) -> Option<T>,
    known: impl Iterator<Item = &'static str>,
) -> Result<T, Problem> {
    by_name(name).ok_or_else(|| bad(field, &format!("it must be one of {}", known.collect::<Vec<_>>().join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> EndpointChange {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_not_said_stays() {
        let before = EndpointTerms {
            timeout: Some(Duration::from_secs(3)),
            max_in_flight: Some(4),
            ordering: Ordering::Strict,
            ..EndpointTerms::of("https://a/b")
        };
        assert_eq!(changed(before.clone(), &read("{}")).unwrap(), before);
        let changed = read(r#"{"timeout_ms": null, "max_per_second": 7, "metadata": {"b": "2", "a": "1"}}"#);
        let expected = EndpointTerms {
            timeout: None,
            max_per_second: Some(7),
            metadata: vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())],
            ..before.clone()
        };
        assert_eq!(super::changed(before, &changed).unwrap(), expected);
    }

    #[test]
    fn each_wrong_field_is_refused() {
        let terms = EndpointTerms::of("https://a/b");
        for wrong in [
            r#"{"events": []}"#,
            r#"{"events": ["upload.finished"]}"#,
            r#"{"ordering": "fifo"}"#,
            r#"{"payload": "small"}"#,
            r#"{"signing": "rsa"}"#,
        ] {
            assert!(changed(terms.clone(), &read(wrong)).is_err(), "{wrong}");
        }
        for unreadable in
            [r#"{"ulr": "x"}"#, r#"{"timeout_ms": -1}"#, r#"{"timeout_ms": "5s"}"#, r#"{"url": null, "x": 1}"#]
        {
            assert!(serde_json::from_str::<EndpointChange>(unreadable).is_err(), "{unreadable}");
        }
    }
}

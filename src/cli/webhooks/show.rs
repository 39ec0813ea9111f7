//! Formats responses of the API for people.

use serde_json::{Value, json};

use crate::cli::webhooks::client::Answer;
use crate::terminal::escaped;
use api::delivery::{Attempt, Delivery, DeliveryList};
use api::endpoint::{Backlog, Endpoint};
use api::replay::Replay;
use api::text::Text;

/// A response to be printed.
#[derive(Debug)]
pub(in crate::cli) struct Printed {
    /// The JSON of the server, for programs.
    pub(in crate::cli) raw: Value,
    /// The text for people.
    pub(in crate::cli) text: String,
}

impl Printed {
    /// Formats a single object with all its fields.
    pub(in crate::cli) fn one<T>(answer: Answer<T>) -> Self {
        Self { text: one(&answer.raw, None), raw: answer.raw }
    }

    /// Returns the output of a successful action without a result.
    pub(in crate::cli) fn done() -> Self {
        Self { raw: Value::Null, text: "done\n".to_owned() }
    }

    pub(in crate::cli) fn shown(&self, as_json: bool) -> String {
        if as_json { format!("{:#}\n", self.raw) } else { self.text.clone() }
    }
}

pub(super) fn endpoints(all: &[Endpoint]) -> String {
    let header = &["NAME", "STATE", "URL", "EVENTS", "WAITING", "FAILING SINCE"];
    table("no endpoints", all, header, |it| {
        vec![
            word(&it.id),
            state(it),
            word(&it.terms.url),
            few_words(&it.terms.events),
            backlog(&it.backlog),
            maybe(it.health.failing_since.as_deref()),
        ]
    })
}

/// Formats a page of deliveries, with an optional hint by the command line.
pub(super) fn deliveries(page: &DeliveryList<'_>, hint: Option<&str>) -> String {
    let header = &["TIME", "DELIVERY", "EVENT", "UPLOAD", "ENDPOINT", "STATE", "ATTEMPTS", "LAST RESULT"];
    let text = table("no deliveries", &page.deliveries, header, |it| {
        vec![
            word(&it.created_at),
            word(&it.id),
            word(&it.kind),
            maybe(it.upload_id.as_deref()),
            word(&it.endpoint),
            word(&it.state),
            it.attempts.len().to_string(),
            it.attempts.last().map(result).unwrap_or_default(),
        ]
    });
    text + &more(page.next.as_deref()) + &note(hint)
}

pub(super) fn replays(jobs: &[Replay]) -> String {
    table("no replays", jobs, &["JOB", "ENDPOINT", "WHAT", "STATE", "QUEUED", "CREATED"], |it| {
        vec![
            word(&it.id),
            word(&it.endpoint),
            word(&it.what),
            word(&it.state),
            it.queued.to_string(),
            word(&it.created_at),
        ]
    })
}

/// Returns the arguments for the next page.
pub(in crate::cli) fn more(next: Option<&str>) -> String {
    next.map(|cursor| format!("next page: --cursor {}\n", escaped(cursor))).unwrap_or_default()
}

/// Formats an object as lines of names and values, with an optional hint by the command line.
pub(in crate::cli) fn one(thing: &Value, hint: Option<&str>) -> String {
    let mut lines = String::new();
    // The id of an endpoint is called its name in the configuration file and on the command line.
    match thing.as_object().filter(|fields| fields.contains_key("origin")) {
        Some(endpoint) => {
            let named = endpoint.iter().map(|(field, value)| match field.as_str() {
                "id" => ("name".to_owned(), value.clone()),
                _ => (field.clone(), value.clone()),
            });
            push_value(&mut lines, &Value::Object(named.collect()), 0);
        }
        None => push_value(&mut lines, thing, 0),
    }
    lines + &note(hint)
}

fn note(hint: Option<&str>) -> String {
    hint.map(|hint| format!("{}\n", escaped(hint))).unwrap_or_default()
}

/// Formats the result of a test.
pub(super) fn tested(delivery: &Delivery<'_>, attempt: &Attempt<'_>) -> String {
    let mut lines = String::new();
    for (name, value) in [
        ("endpoint", word(&delivery.endpoint)),
        ("event", word(&delivery.event_id)),
        ("sent", word(&attempt.started_at)),
        ("result", result(attempt)),
    ] {
        lines.push_str(&format!("{name}: {value}\n"));
    }
    let said = match &attempt.response_body {
        Text::Plain(text) => word(text),
        Text::Encoded { base64 } => word(&json!({ "base64": base64 }).to_string()),
    };
    if !said.is_empty() {
        lines.push_str(&format!("response: {said}\n"));
    }
    lines
}

/// Returns the reason why an attempt failed.
pub(super) fn failure(attempt: &Attempt<'_>) -> String {
    let why = match (attempt.status, &attempt.error) {
        (Some(status), _) => format!("the receiver returned {status}"),
        (None, Some(error)) => format!("there was no response ({})", escaped(error)),
        (None, None) => "it was not sent".to_owned(),
    };
    match &attempt.note {
        Some(note) => format!("{why}: {}", escaped(note)),
        None => why,
    }
}

/// Returns the number of waiting deliveries, with `+` if there are more than were counted.
fn backlog(backlog: &Backlog) -> String {
    let more = if backlog.has_more { "+" } else { "" };
    format!("{}{more}", backlog.total)
}

fn state(endpoint: &Endpoint) -> String {
    match &endpoint.state_reason {
        Some(reason) => format!("{} ({})", word(&endpoint.state), word(reason)),
        None => word(&endpoint.state),
    }
}

fn result(attempt: &Attempt<'_>) -> String {
    match (attempt.status, &attempt.error) {
        (Some(status), _) => format!("{status} in {} ms", attempt.duration_ms),
        (None, Some(error)) => format!("failed ({}) after {} ms", escaped(error), attempt.duration_ms),
        (None, None) => "-".to_owned(),
    }
}

/// Escapes a text for terminals.
pub(in crate::cli) fn word(text: &str) -> String {
    escaped(text).into_owned()
}

pub(in crate::cli) fn maybe(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), word)
}

/// Returns the first items of a list, and the number of further ones.
fn few_words(items: &[String]) -> String {
    const MOST: usize = 2;
    let joined = |items: &[String]| items.iter().map(|item| word(item)).collect::<Vec<_>>().join(",");
    match items.len().checked_sub(MOST) {
        None | Some(0) => joined(items),
        Some(more) => format!("{} +{more}", joined(&items[..MOST])),
    }
}

pub(in crate::cli) fn table<T>(
    nothing: &str,
    rows: &[T],
    header: &[&str],
    cells: impl Fn(&T) -> Vec<String>,
) -> String {
    if rows.is_empty() {
        return format!("{nothing}\n");
    }
    let header = header.iter().map(|title| (*title).to_owned()).collect();
    let lines: Vec<Vec<String>> = [header].into_iter().chain(rows.iter().map(cells)).collect();
    let columns = lines[0].len();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Formats a value that is not an object in one line.
fn inline(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => word(text),
        Value::Array(items) => items.iter().map(item).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Formats an item of a list. A list of two numbers is a range of bytes, from the first to the last.
fn item(value: &Value) -> String {
    match value.as_array().map(Vec::as_slice) {
        Some([first, last]) if first.is_number() && last.is_number() => format!("{first}-{last}"),
        _ => inline(value),
    }
}

/// Appends lines of names and values, with nested objects indented.
fn push_value(lines: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        lines.push_str(&format!("{indent}{}:\n", escaped(name)));
                        push_value(lines, value, depth + 1);
                    }
                    Value::Array(items) if items.iter().any(Value::is_object) => {
                        lines.push_str(&format!("{indent}{}:\n", escaped(name)));
                        for (number, item) in items.iter().enumerate() {
                            lines.push_str(&format!("{indent}  {}.\n", number + 1));
                            push_value(lines, item, depth + 2);
                        }
                    }
                    other => lines.push_str(&format!("{indent}{}: {}\n", escaped(name), inline(other))),
                }
            }
        }
        other => lines.push_str(&format!("{indent}{}\n", inline(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde::de::DeserializeOwned;

    fn read<T: DeserializeOwned>(answer: Value) -> T {
        serde_json::from_value(answer).unwrap()
    }

    #[test]
    fn lists_line_up() {
        let found: Vec<Endpoint> = read(json!([
            { "id": "backend", "state": "enabled", "url": "https://a/b", "events": ["upload.*"], "backlog": { "total": 3 },
              "health": { "failing_since": null } },
            { "id": "x", "state": "disabled", "state_reason": "gone", "url": "u", "events": ["a", "b", "c", "d"],
              "backlog": { "total": 100_000, "has_more": true }, "health": { "failing_since": "2026-11-21T22:31:30Z" } },
        ]));
        let expected = "\
NAME     STATE            URL          EVENTS    WAITING  FAILING SINCE
backend  enabled          https://a/b  upload.*  3        -
x        disabled (gone)  u            a,b +2    100000+  2026-11-21T22:31:30Z
";
        assert_eq!(endpoints(&found), expected);
        let page = |answer: Value| deliveries(&read(answer), None);
        assert_eq!(page(json!({ "deliveries": [] })), "no deliveries\n");
        let text = page(json!({ "deliveries": [{ "id": "d" }], "next": "deliveries_d" }));
        assert_eq!(text.lines().last(), Some("next page: --cursor deliveries_d"));
        let text = page(json!({ "deliveries": [{ "id": "d", "created_at": "2026-11-21T22:31:30.123Z" }] }));
        assert!(text.lines().nth(1).unwrap().starts_with("2026-11-21T22:31:30.123Z  d "), "{text}");
    }

    #[test]
    fn an_endpoint_has_a_name_and_a_hint_comes_last() {
        let endpoint = json!({ "id": "app", "origin": "api", "state": "enabled" });
        assert_eq!(one(&endpoint, None), "name: app\norigin: api\nstate: enabled\n");
        let job = json!({ "id": "j", "queued": 0 });
        assert_eq!(one(&job, Some("12 deliveries are waiting")), "id: j\nqueued: 0\n12 deliveries are waiting\n");
    }

    #[test]
    fn ranges_show_their_first_and_last_bytes() {
        let status = json!({ "missing": [[0, 49], [60, 69]], "other": [] });
        assert_eq!(one(&status, None), "missing: 0-49,60-69\nother: \n");
    }

    #[test]
    fn a_test_says_what_came_of_it() {
        let tested_with = |attempt: Value| {
            let delivery: Delivery<'_> = read(json!({ "endpoint": "app", "event_id": "evt_1", "attempts": [attempt] }));
            tested(&delivery, &delivery.attempts[0])
        };
        let good = json!({ "started_at": "t", "status": 204, "duration_ms": 3, "response_body": "" });
        assert_eq!(tested_with(good), "endpoint: app\nevent: evt_1\nsent: t\nresult: 204 in 3 ms\n");
        let bad = json!({ "started_at": "t", "status": 500, "duration_ms": 3, "response_body": "away\n" });
        assert!(tested_with(bad.clone()).ends_with("response: away\\u000a\n"));
        assert_eq!(failure(&read(bad)), "the receiver returned 500");
        let none = json!({ "status": null, "error": "refused", "note": "connection refused", "duration_ms": 3 });
        assert!(tested_with(none.clone()).contains("result: failed (refused) after 3 ms\n"));
        assert_eq!(failure(&read(none)), "there was no response (refused): connection refused");
    }

    /// Responses of receivers must not control the terminal.
    #[test]
    fn nothing_printed_controls_the_terminal() {
        let answer =
            json!({ "id": "d", "attempts": [{ "status": 200, "response_body": "a\u{1b}[2Jb\nid: e", "\u{202e}": 1 }] });
        assert_eq!(
            one(&answer, None),
            "id: d\nattempts:\n  1.\n    status: 200\n    response_body: a\\u001b[2Jb\\u000aid: e\n    \\u202e: 1\n"
        );
    }
}

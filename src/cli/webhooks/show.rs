//! Answers of the API as people read them.

use serde_json::Value;

use crate::terminal::escaped;

pub(in crate::cli) fn pretty(answer: &Value) -> String {
    format!("{answer:#}\n")
}

/// Lists as tables, single things as lines of names and values.
pub(in crate::cli) fn readable(answer: &Value) -> String {
    if answer.is_null() {
        return "done\n".to_owned();
    }
    if let Some(endpoints) = answer["endpoints"].as_array() {
        return table(
            "no endpoints",
            endpoints,
            &["NAME", "STATE", "URL", "EVENTS", "WAITING", "FAILING SINCE"],
            |it| {
                vec![
                    word(&it["id"]),
                    state(it),
                    word(&it["url"]),
                    few_words(&it["events"]),
                    backlog(&it["backlog"]),
                    word(&it["health"]["failing_since"]),
                ]
            },
        );
    }
    if let Some(deliveries) = answer["deliveries"].as_array() {
        let header = &["TIME", "DELIVERY", "EVENT", "UPLOAD", "ENDPOINT", "STATE", "ATTEMPTS", "LAST RESULT"];
        let page = table("no deliveries", deliveries, header, |it| {
            let attempts = it["attempts"].as_array().map_or(&[][..], Vec::as_slice);
            vec![
                word(&it["created_at"]),
                word(&it["id"]),
                word(&it["type"]),
                word(&it["upload_id"]),
                word(&it["endpoint"]),
                word(&it["state"]),
                attempts.len().to_string(),
                attempts.last().map(result).unwrap_or_default(),
            ]
        });
        let more = answer["next"].as_str().map(|_| format!("older ones: --cursor {}\n", word(&answer["next"])));
        return page + &more.unwrap_or_default() + &note(answer);
    }
    if let Some(jobs) = answer["replays"].as_array() {
        return table("no replays", jobs, &["JOB", "ENDPOINT", "WHAT", "STATE", "QUEUED", "CREATED"], |it| {
            ["id", "endpoint", "what", "state", "queued", "created_at"].map(|name| word(&it[name])).to_vec()
        });
    }
    let mut lines = String::new();
    match answer.as_object() {
        Some(fields) => {
            let shown = fields.iter().filter(|(name, _)| *name != "note");
            // The id of an endpoint is what the file and the command line call its name.
            let is_endpoint = fields.contains_key("origin");
            let renamed = shown.map(|(name, value)| match name.as_str() {
                "id" if is_endpoint => ("name".to_owned(), value.clone()),
                _ => (name.clone(), value.clone()),
            });
            tell(&mut lines, &Value::Object(renamed.collect()), 0);
        }
        None => tell(&mut lines, answer, 0),
    }
    lines + &note(answer)
}

/// A hint of the command line's own.
fn note(answer: &Value) -> String {
    answer["note"].as_str().map(|note| format!("{}\n", escaped(note))).unwrap_or_default()
}

/// What came of a test.
pub(super) fn tested(answer: &Value) -> String {
    let attempt = &answer["attempts"][0];
    let mut lines = String::new();
    for (name, value) in [
        ("endpoint", word(&answer["endpoint"])),
        ("event", word(&answer["event_id"])),
        ("sent", word(&attempt["started_at"])),
        ("result", result(attempt)),
    ] {
        lines.push_str(&format!("{name}: {value}\n"));
    }
    let said = word(&attempt["response_body"]);
    if !matches!(said.as_str(), "" | "-") {
        lines.push_str(&format!("answer: {said}\n"));
    }
    lines
}

/// Why an attempt failed.
pub(super) fn failure(attempt: &Value) -> String {
    let why = match (attempt["status"].as_u64(), attempt["error"].as_str()) {
        (Some(status), _) => format!("the receiver answered {status}"),
        (None, Some(error)) => format!("there was no answer ({})", escaped(error)),
        (None, None) => "it was not sent".to_owned(),
    };
    match attempt["note"].as_str() {
        Some(note) => format!("{why}: {}", escaped(note)),
        None => why,
    }
}

/// What waits; it is not counted to its end.
fn backlog(backlog: &Value) -> String {
    let more = if backlog["has_more"] == true { "+" } else { "" };
    format!("{}{more}", word(&backlog["total"]))
}

fn state(endpoint: &Value) -> String {
    match endpoint["state_reason"].as_str() {
        Some(reason) => format!("{} ({reason})", word(&endpoint["state"])),
        None => word(&endpoint["state"]),
    }
}

fn result(attempt: &Value) -> String {
    let result = if attempt["status"].is_null() { &attempt["error"] } else { &attempt["status"] };
    let duration = word(&attempt["duration_ms"]);
    format!("{} in {duration} ms", word(result))
}

pub(in crate::cli) fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => escaped(text).into_owned(),
        other => other.to_string(),
    }
}

fn words(list: &Value) -> String {
    list.as_array().map(|items| items.iter().map(word).collect::<Vec<_>>().join(",")).unwrap_or_default()
}

/// The first of a list, and how many more there are.
fn few_words(list: &Value) -> String {
    const MOST: usize = 2;
    let items = list.as_array().map_or(&[][..], Vec::as_slice);
    match items.len().checked_sub(MOST) {
        None | Some(0) => words(list),
        Some(more) => format!("{} +{more}", items[..MOST].iter().map(word).collect::<Vec<_>>().join(",")),
    }
}

pub(in crate::cli) fn table(
    nothing: &str,
    rows: &[Value],
    header: &[&str],
    cells: impl Fn(&Value) -> Vec<String>,
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

/// Names and values, what lies deeper indented.
fn tell(lines: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        lines.push_str(&format!("{indent}{}:\n", escaped(name)));
                        tell(lines, value, depth + 1);
                    }
                    Value::Array(items) if items.iter().any(Value::is_object) => {
                        lines.push_str(&format!("{indent}{}:\n", escaped(name)));
                        for (number, item) in items.iter().enumerate() {
                            lines.push_str(&format!("{indent}  {}.\n", number + 1));
                            tell(lines, item, depth + 2);
                        }
                    }
                    Value::Array(_) => lines.push_str(&format!("{indent}{}: {}\n", escaped(name), words(value))),
                    other => lines.push_str(&format!("{indent}{}: {}\n", escaped(name), word(other))),
                }
            }
        }
        other => lines.push_str(&format!("{indent}{}\n", word(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    #[test]
    fn lists_line_up() {
        let answer = json!({ "endpoints": [
            { "id": "backend", "state": "enabled", "url": "https://a/b", "events": ["upload.*"], "backlog": { "total": 3 },
              "health": { "failing_since": null } },
            { "id": "x", "state": "disabled", "state_reason": "gone", "url": "u", "events": ["a", "b", "c", "d"],
              "backlog": { "total": 100_000, "has_more": true }, "health": { "failing_since": "2026-11-21T22:31:30Z" } },
        ] });
        let expected = "\
NAME     STATE            URL          EVENTS    WAITING  FAILING SINCE
backend  enabled          https://a/b  upload.*  3        -
x        disabled (gone)  u            a,b +2    100000+  2026-11-21T22:31:30Z
";
        assert_eq!(readable(&answer), expected);
        assert_eq!(readable(&json!({ "deliveries": [] })), "no deliveries\n");
        let page = readable(&json!({ "deliveries": [{ "id": "d" }], "next": "deliveries_d" }));
        assert_eq!(page.lines().last(), Some("older ones: --cursor deliveries_d"));
        let page = readable(&json!({ "deliveries": [{ "id": "d", "created_at": "2026-11-21T22:31:30.123Z" }] }));
        assert!(page.lines().nth(1).unwrap().starts_with("2026-11-21T22:31:30.123Z  d "), "{page}");
    }

    #[test]
    fn an_endpoint_has_a_name_and_a_hint_comes_last() {
        let endpoint = json!({ "id": "app", "origin": "api", "state": "enabled" });
        assert_eq!(readable(&endpoint), "name: app\norigin: api\nstate: enabled\n");
        let job = json!({ "id": "j", "queued": 0, "note": "12 deliveries are waiting" });
        assert_eq!(readable(&job), "id: j\nqueued: 0\n12 deliveries are waiting\n");
    }

    #[test]
    fn a_test_says_what_came_of_it() {
        let tested_with = |attempt: Value| json!({ "endpoint": "app", "event_id": "evt_1", "attempts": [attempt] });
        let good = tested_with(json!({ "started_at": "t", "status": 204, "duration_ms": 3, "response_body": "" }));
        assert_eq!(tested(&good), "endpoint: app\nevent: evt_1\nsent: t\nresult: 204 in 3 ms\n");
        let bad = json!({ "started_at": "t", "status": 500, "duration_ms": 3, "response_body": "away\n" });
        assert!(tested(&tested_with(bad.clone())).ends_with("answer: away\\u000a\n"));
        assert_eq!(failure(&bad), "the receiver answered 500");
        let none = json!({ "status": null, "error": "refused", "note": "nobody listens" });
        assert_eq!(failure(&none), "there was no answer (refused): nobody listens");
    }

    /// What a receiver answered must not move the cursor of a terminal.
    #[test]
    fn nothing_printed_controls_the_terminal() {
        let answer =
            json!({ "id": "d", "attempts": [{ "status": 200, "response_body": "a\u{1b}[2Jb\nid: e", "\u{202e}": 1 }] });
        assert_eq!(
            readable(&answer),
            "id: d\nattempts:\n  1.\n    status: 200\n    response_body: a\\u001b[2Jb\\u000aid: e\n    \\u202e: 1\n"
        );
    }
}
